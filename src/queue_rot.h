/* SPDX-License-Identifier: MIT */
/*
 * What is done about a rotten database: the look at the start, the copy of what can be read, and
 * setting it aside. Part of the room `queue`; only its files include this header.
 *
 * Setting aside can be cut short anywhere. PATH.new is complete when its `meta` names, under
 * QUEUE_SALVAGED_AS, what the rotten database is to be called; then the renames are carried
 * through, by this start or a later one. Before that nothing was renamed and PATH.new is thrown
 * away. The log goes before the database: one that stayed would be taken for the new database's.
 */
#pragma once

#include "queue.h"
#include "queue_sql.h"

#define QUEUE_SALVAGED_AS "salvaged_as"

/* Why a database cannot be used. */
struct queue_rot {
	bool foreign; /* another program's, not a damaged one of ours */
	char text[300];
};

/*
 * Looks at header, schema, end rows and meta; reads only. 0 and *ret_version (0: empty);
 * -EPROTONOSUPPORT for a newer program's, logged; -EUCLEAN and *ret_rot; else -errno, logged.
 */
int queue_look(sqlite3 *db, int64_t *ret_version, struct queue_rot *ret_rot) _must_check_;

/* What is wrong with the columns of our tables, against those of `version`; calls `finding` for
 * each. The number of findings or -errno. */
int queue_look_schema(sqlite3 *db, int64_t version,
	void (*finding)(void *userdata, const char *text), void *userdata) _must_check_;

/* Makes the names in the folder of `path` durable. 0 or -errno, logged. */
int queue_sync_directory(const char *path) _must_check_;

struct queue_salvaged {
	uint64_t messages, dead_letters; /* carried over */
	uint64_t bad_rows; /* seen and not readable */
	uint64_t bad_pages; /* not readable, rows on them unknown */
	uint64_t left_behind; /* readable, but there was no room for them */
	int64_t known_messages, known_dead_letters; /* what the old `meta` says; -1: not readable */
};

/*
 * Makes PATH.new, complete and on disk: with the rows of PATH that can be read, unless `rot` says
 * that it is not ours. `aside` is the name it will have. 0 or -errno, logged; PATH.new is removed
 * then. PATH and its log are left as they are; nobody may have them open.
 */
int queue_salvage(const char *path, const char *aside, const struct queue_rot *rot,
	const struct queue_params *params, struct queue_salvaged *ret) _must_check_;

/* Removes a PATH.new and what may lie beside it. */
void queue_salvage_clear(const char *new_path);

/* Salvages and sets aside; logs the alert. 0: PATH is sound, or -errno, logged. */
int queue_quarantine(const char *path, const struct queue_rot *rot,
	const struct queue_params *params) _must_check_;

/* At the start, before PATH is opened: carries through or clears away what a former process left
 * of setting aside. 0 or -errno, logged. */
int queue_quarantine_resume(const char *path, const struct queue_params *params) _must_check_;
