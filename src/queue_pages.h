/* SPDX-License-Identifier: MIT */
/*
 * The pages of a rotten database and its log, read without SQLite: which of them hold rows that
 * count, and the records on them. Follows the description of SQLite's file format; trusts no byte.
 *
 * SQLite reaches a row from the first page down and gives up at the first bad page in between. Here
 * each leaf is found by itself. Whether it counts, or is a free page with rows that were removed
 * long ago, is told by the pointer map that an auto_vacuum database has; where that is damaged, by
 * whether any page above points to it.
 *
 * Part of the room `queue`. No connection of this process may have the files open: closing them
 * would take away its locks.
 */
#pragma once

#include "util.h"

struct queue_pages;

/* One column of a record; `bytes` for texts and blobs. */
struct queue_value {
	enum queue_value_type {
		QUEUE_NULL,
		QUEUE_INTEGER,
		QUEUE_REAL, /* its value is not read */
		QUEUE_TEXT,
		QUEUE_BLOB,
	} type;
	int64_t integer;
	const uint8_t *bytes;
	size_t len;
};

#define QUEUE_MAX_COLUMNS 8

/* Valid during the callback only. */
struct queue_record {
	int64_t id; /* rowid; 0 in a table without */
	unsigned n_columns;
	struct queue_value columns[QUEUE_MAX_COLUMNS];
};

/* Called for each record. 0 go on, anything else ends it all and is returned. */
typedef int (*queue_record_fn)(void *userdata, const struct queue_record *record);

/* Opens PATH and PATH-wal. 0 or -errno, not logged. Bytes that make no sense are no error. */
int queue_pages_new(struct queue_pages **ret, const char *path) _must_check_;
/* Takes NULL, returns NULL. */
struct queue_pages *queue_pages_free(struct queue_pages *p);

/*
 * Hands out the records of all leaves that count, tables' in ascending order of the first id on
 * each leaf. `alive` as in queue_params. 0, what `fn` returned, or -errno: -EIO when much of the
 * file cannot be read at all.
 */
int queue_pages_records(struct queue_pages *p, queue_record_fn fn, void *userdata,
	void (*alive)(void *userdata), void *alive_userdata) _must_check_;

/* After that: cells seen on leaves that count and passed over because they are damaged. */
uint64_t queue_pages_bad_cells(const struct queue_pages *p);
/* Pages that could not be read or make no sense, rows on which are unknown. */
uint64_t queue_pages_bad_pages(const struct queue_pages *p);
