/* SPDX-License-Identifier: MIT */
/*
 * The queue on disk: an SQLite database in WAL mode, and the one connection that writes to it.
 *
 * All functions are for the gateway thread. Work happens in transactions: queue_begin(), then
 * appends, removals and meta changes, then queue_commit(). Nothing counts before queue_commit()
 * returned 0. After any error inside a transaction: queue_rollback().
 */
#pragma once

#include "message.h"
#include "util.h"

struct queue;

struct queue_params {
	const char *path;
	bool sync_full; /* false: a power cut may take the last commits */
};

/*
 * Opens or creates the database: takes the lock file PATH.lock, brings the schema up to date, and
 * checkpoints what a former process left in the log. Errors are logged with what to do: -EBUSY
 * (another process has the queue), -EUCLEAN (not a database of ours), -EPROTONOSUPPORT (of a newer
 * program), -errno. A database that cannot be opened is left as it is.
 */
int queue_new(struct queue **ret, const struct queue_params *params) _must_check_;
/*
 * Closes. With `orderly`, the ids reserved but not used are given back, so that the next process
 * goes on without a gap; what fails then is logged and costs only that gap. Takes NULL, returns
 * NULL.
 */
struct queue *queue_free(struct queue *q, bool orderly);

/*
 * Starts a transaction. `durable`: queue_commit() returns only when all is on disk; without it the
 * commit asks for no sync, which is right for removals alone.
 */
int queue_begin(struct queue *q, bool durable) _must_check_;
bool queue_in_transaction(const struct queue *q);
/* Adds a row at the end. 0 and its id; -EMSGSIZE or -EINVAL: this row cannot be stored, the
 * transaction goes on; another -errno: roll back. */
int queue_append(struct queue *q, const struct message *m, uint64_t *ret_id) _must_check_;
/* Removes rows; ids that are not there are passed over. Sorts `ids`. */
int queue_remove(struct queue *q, uint64_t *ids, size_t n) _must_check_;
/* Moves a row to dead_letters; one that is not there is passed over. */
int queue_condemn(struct queue *q, uint64_t id, const char *reason) _must_check_;
/* Sets a key of `meta` to a text. */
int queue_set_meta(struct queue *q, const char *key, const char *value) _must_check_;
/* Commits. On failure the transaction is rolled back already, and none of it counts. */
int queue_commit(struct queue *q) _must_check_;
/* Never fails; safe without a transaction. */
void queue_rollback(struct queue *q);

/* Committed rows. */
uint64_t queue_messages(const struct queue *q);
uint64_t queue_dead_letters(const struct queue *q);
/* The highest id that a committed row may have. */
uint64_t queue_last_id(const struct queue *q);
