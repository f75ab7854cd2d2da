/* SPDX-License-Identifier: MIT */
/*
 * The queue on disk: an SQLite database in WAL mode, and the one connection that writes to it.
 *
 * All functions are for the gateway thread. Work happens in transactions: queue_begin(), then
 * appends, removals and meta changes, then queue_commit(). Nothing counts before queue_commit()
 * returned 0. After any error inside a transaction: queue_rollback().
 */
#pragma once

#include "clock.h"
#include "message.h"
#include "selection.h"
#include "util.h"

struct queue;

struct queue_params {
	const char *path;
	bool sync_full; /* false: a power cut may take the last commits */
	bool drop_oldest; /* at a bound the oldest rows go; false: new ones are refused */
	/* Bounds; 0 for none. */
	uint64_t max_messages;
	uint64_t max_bytes; /* live pages and write-ahead log */
	uint64_t max_dead_letters;
	/* Rot was met while the queue was in use: its database is set aside and what can be read of
	 * it carried over, whatever the look at its ends says. */
	bool rotten;
	/* Set to true, also when opening fails later, once a database was set aside: the new one is
	 * not to be. Borrowed for queue_new(). May be NULL. */
	bool *ret_set_aside;
	/* Called every now and then while opening takes long. May be NULL. */
	void (*alive)(void *userdata);
	/* Damage was dealt with, and a person has to know: the text was logged. May be NULL. */
	void (*alert)(void *userdata, const char *text);
	void *userdata;
};

/* Counters are since queue_new(). */
struct queue_stats {
	uint64_t messages, dead_letters; /* committed rows */
	uint64_t bytes; /* live pages and write-ahead log */
	uint64_t commits;
	uint64_t syncs;
	uint64_t written_bytes; /* to all files of the database */
	/* Rows. */
	uint64_t dropped_overflow, dropped_expired, dropped_purged, dropped_dead_letters;
};

/*
 * Opens or creates the database: takes the lock file PATH.lock, brings the schema up to date, and
 * checkpoints what a former process left in the log. A database that is rotten, or another
 * program's, is set aside as PATH.corrupt-TIME, what can be read of it goes into a new one, and
 * that is no error; until this returns nobody else in this process may have PATH open. Errors are
 * logged with what to do: -EBUSY (another process has the queue), -EPROTONOSUPPORT (a newer
 * program's), -EUCLEAN (the new database is rotten as well), -errno. What cannot be opened is left
 * as it is then.
 *
 * -EUCLEAN of any other function: rot. Close, and open again with `rotten`.
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
/*
 * Adds a row at the end. 0 and its id; -EMSGSIZE or -EINVAL: this row cannot be stored, -ENOBUFS: a
 * bound is reached (see queue_full_text()), in each case the transaction goes on; another -errno:
 * roll back. `claimed`: rows up to that id are the uplink's, and none of them will make room.
 */
int queue_append(
	struct queue *q, const struct message *m, uint64_t claimed, uint64_t *ret_id) _must_check_;
/* Which bound the last -ENOBUFS was about, for the client; valid until the next one. */
const char *queue_full_text(const struct queue *q);
/* Removes rows; ids that are not there are passed over. Sorts `ids`. */
int queue_remove(struct queue *q, uint64_t *ids, size_t n) _must_check_;
/* Moves a row to dead_letters; one that is not there is passed over. */
int queue_condemn(struct queue *q, uint64_t id, const char *reason) _must_check_;
/* Sets a key of `meta` to a text. */
int queue_set_meta(struct queue *q, const char *key, const char *value) _must_check_;
/*
 * A part of the transaction that may fail without taking the rest along: after queue_savepoint()
 * returned 0, exactly one of the other two. If that one fails, too: roll back all.
 */
int queue_savepoint(struct queue *q) _must_check_;
int queue_savepoint_release(struct queue *q) _must_check_;
int queue_savepoint_rollback(struct queue *q) _must_check_;
/* Commits. On failure the transaction is rolled back already, and none of it counts. */
int queue_commit(struct queue *q) _must_check_;
/* Never fails; safe without a transaction. */
void queue_rollback(struct queue *q);

/*
 * A small durable transaction of its own, which writes over what a failed commit has left in the
 * log: 0 when the store works, -errno when it does not. Not inside a transaction.
 */
int queue_probe(struct queue *q) _must_check_;

/* As in struct queue_params. */
struct queue_bounds {
	bool drop_oldest;
	uint64_t max_messages;
	uint64_t max_bytes;
	uint64_t max_dead_letters;
};

/*
 * Other bounds from now on. What is beyond them is refused or dropped as before; dead letters wait
 * for the next one. Not inside a transaction.
 */
void queue_set_bounds(struct queue *q, const struct queue_bounds *bounds);

/* --- bounds: transactions of their own that ask for no sync; not inside one --- */

/* With drop_oldest: whether rows have to go. */
bool queue_is_over(const struct queue *q);
/* Drops the oldest rows above `claimed` until the queue is within its bounds. *ret_dropped rows are
 * gone, whatever is returned: 0 all that may go are, 1 call again, -errno. */
int queue_trim(struct queue *q, uint64_t claimed, uint64_t *ret_dropped) _must_check_;
/*
 * Drops rows above `claimed` whose timestamp is before `before` (milliseconds since the epoch), but
 * for those that queue_correct() has yet to correct. Goes over what may hold such rows, oldest ids
 * first, in bounded steps: 1 call again, 0 there is none left, -errno. *ret_dropped as above.
 */
int queue_expire(
	struct queue *q, uint64_t claimed, int64_t before, uint64_t *ret_dropped) _must_check_;
/*
 * No row has an older timestamp than this, those apart that were claimed when queue_expire() passed
 * them: a hint when to call it next. INT64_MIN = not known, call it; INT64_MAX = no row.
 */
int64_t queue_next_expiry(const struct queue *q);

/*
 * --- what an operator asks for: steps over a selection, each in transactions of its own; not
 * inside one. 1: call again; 0: all is done, and on disk; -errno. What the selection counts is
 * committed in any case.
 */

/* Removes rows above `claimed`; those that are not count as kept. Rows appended after the first
 * step are not meant. */
int queue_purge(struct queue *q, uint64_t claimed, struct selection *sel) _must_check_;
/* Removes dead letters. */
int queue_purge_dead(struct queue *q, struct selection *sel) _must_check_;
/* Moves dead letters to the end of the queue, with new ids. -ENOBUFS: a bound is reached, see
 * queue_full_text(); nothing is dropped to make room. */
int queue_requeue(struct queue *q, struct selection *sel) _must_check_;

/* --- the clock --- */

/*
 * From now on rows without a timestamp of their own are stamped by this clock, as
 * clock_time_msec() tells it, trusted or not. While it is not trusted the queue keeps in mind which
 * rows those are. Trust is noted in the next transaction. To be called when clock_update() returned
 * true, with every row stamped by the former clock appended, or refused; and at the start: before,
 * nothing is kept in mind.
 */
void queue_set_clock(struct queue *q, const struct clock *clock);
/* Trust of an earlier process in this boot: true and *ret. */
bool queue_get_clock(const struct queue *q, struct clock *ret);
/*
 * Once the clock is trusted: corrects timestamps that a clock gave which was not. Rows of this boot
 * get the time they were stamped at. What the clock of an earlier boot was wrong by is not known:
 * its rows keep their distances, and the youngest of a run is taken to be as old as this boot.
 * Bounded steps, each a transaction without a sync; not inside one. 1 call again, 0 nothing to do,
 * -errno.
 */
int queue_correct(struct queue *q) _must_check_;

/* --- space: not inside a transaction --- */

/* Work for quiet moments: pages of a drained backlog go back to the file system. Bounded steps: 1
 * call again soon, 0 nothing to do, -errno. */
int queue_tidy(struct queue *q) _must_check_;
/* The reserve file is given up, so that removals can be committed on a full disk. False: there is
 * none any more. */
bool queue_give_up_reserve(struct queue *q);
/* Has the reserve file again. 0, also when it is there; -errno, not logged. */
int queue_refill_reserve(struct queue *q) _must_check_;
bool queue_has_reserve(const struct queue *q);
/* True while the write-ahead log cannot be moved into the database for want of space: what was
 * committed is safe, but nothing should be added to it. */
bool queue_is_stuck(const struct queue *q);

/* Committed rows. */
uint64_t queue_messages(const struct queue *q);
uint64_t queue_dead_letters(const struct queue *q);
/* The highest id that a committed row may have. */
uint64_t queue_last_id(const struct queue *q);
void queue_get_stats(const struct queue *q, struct queue_stats *ret);
/* The timestamp of the row with the lowest id. 0, -ENODATA: there is no row, or -errno, logged. */
int queue_oldest(struct queue *q, int64_t *ret_timestamp) _must_check_;
