/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `queue` share: the writer's state, and how its statements are run.
 * Only queue.c and queue_*.c include this header.
 */
#pragma once

#include "queue.h"
#include "queue_sql.h"
#include "queue_vfs.h"

enum queue_statement {
	QUEUE_STATEMENT_BEGIN,
	QUEUE_STATEMENT_COMMIT,
	QUEUE_STATEMENT_ROLLBACK,
	QUEUE_STATEMENT_REMOVE,
	QUEUE_STATEMENT_CONDEMN,
	QUEUE_STATEMENT_RESERVE,
	QUEUE_STATEMENT_META,
	QUEUE_STATEMENT_SAVEPOINT,
	QUEUE_STATEMENT_RELEASE,
	QUEUE_STATEMENT_BACK,
	QUEUE_STATEMENT_PAGE_COUNT,
	QUEUE_STATEMENT_FREE_PAGES,
	QUEUE_STATEMENT_ABOVE,
	QUEUE_STATEMENT_OLDEST,
	QUEUE_STATEMENT_OLDEST_DEAD,
	QUEUE_STATEMENT_LOOK,
	QUEUE_STATEMENT_LOOK_DEAD,
	QUEUE_STATEMENT_DEAD,
	QUEUE_STATEMENT_REMOVE_DEAD,
	QUEUE_STATEMENT_FIRST_TIMESTAMP,
	N_QUEUE_STATEMENTS,
};

/* The write-ahead log: queue_log.c. */
struct queue_log {
	const char *path; /* SQLite's */
	uint64_t bytes; /* of the file; without what a savepoint undid since it was measured */
	uint64_t frames; /* after the last commit */
	uint64_t starts; /* of the log, so far */
	uint64_t threshold; /* frames after which they go to the database */
	uint64_t due; /* frames at which that is tried next */
	uint64_t restart_due; /* frames at which readers are waited for, next */
	bool in_database; /* all frames are: the next commit may write over them */
	bool no_room; /* the last attempt to move them found none in the database */
	uint64_t restart_usec; /* readers are not waited for before */
	uint64_t told_usec; /* of the last failure that was logged */
};

/* Pages, and what a transaction under way makes of them: queue_space.c, queue_bounds.c. */
struct queue_space {
	uint64_t page_size;
	uint64_t pages, free_pages; /* of the database, as committed */
	uint64_t live; /* bytes of live pages, when last looked at, also in a transaction */
	uint64_t appended; /* bytes that rows appended since then may cost */
	uint64_t written; /* the same, for all rows of the transaction */
	uint64_t saved_written; /* at the savepoint */
	bool shrinks; /* free pages can be given back */
	unsigned tidy_step; /* pages; 0: not at it */
	uint64_t tidy_freed; /* pages since the file was cut */
	uint64_t tidy_upto; /* live pages with which it is given up */
	unsigned tidy_ends; /* times the log may still refuse to be emptied after it */
};

enum queue_age_statement {
	QUEUE_AGE_SET_RUN,
	QUEUE_AGE_PRUNE_RUNS,
	QUEUE_AGE_OLDEST_RUN,
	QUEUE_AGE_RUN_BEFORE,
	QUEUE_AGE_REMOVE_RUN,
	QUEUE_AGE_MOVE_RUN,
	QUEUE_AGE_YOUNGEST,
	QUEUE_AGE_SIZES,
	QUEUE_AGE_CORRECT,
	QUEUE_AGE_TIMESTAMPS,
	N_QUEUE_AGE_STATEMENTS,
};

/* Rows with ids first to last, one after the other, stamped by a clock that is not trusted. */
struct queue_run {
	uint64_t first, last;
	int64_t offset_msec;
	uint64_t stored; /* the last id that the table names; 0: it is not there yet */
	bool open; /* the next row may belong to it */
};

/* Rows with ids after the last one of the chunk before, up to `last`. */
struct queue_chunk {
	uint64_t last;
	int64_t oldest; /* none has an older timestamp; INT64_MIN = not known */
};

#define QUEUE_CHUNKS 256

/* Of queue_age.c and queue_expire.c. */
struct queue_age {
	sqlite3_stmt *statements[N_QUEUE_AGE_STATEMENTS];
	char boot_id[40];
	bool boot_known; /* else it is this process's */
	int64_t boot_msec; /* time since the boot, as a transaction began or a row was stamped */
	bool has_clock;
	struct clock clock;
	struct clock noted; /* what `meta` says, if it is of this boot */
	bool note_wanted;
	bool note_written; /* in the transaction under way */
	struct queue_run run;
	struct queue_run run_committed;

	struct queue_chunk chunks[QUEUE_CHUNKS];
	size_t n_chunks;
	size_t chunk_rows; /* appended to the last one */
	size_t chunk_bound; /* rows a chunk is to have */
	uint64_t claimed; /* of the last pass */
};

#define QUEUE_BATCH_ROWS  64
#define QUEUE_BATCH_BYTES 16384

/* Rows of the transaction under way that are not in the table yet: queue_batch.c. */
struct queue_batch {
	sqlite3_vtab table;
	sqlite3_vtab_cursor cursor;
	sqlite3_stmt *insert;
	size_t row_most; /* bytes of topic and payload that SQLite takes */
	size_t n, at; /* rows; the one that is read */
	struct message rows[QUEUE_BATCH_ROWS];
	size_t used;
	char bytes[QUEUE_BATCH_BYTES]; /* their topics and payloads */
};

struct queue {
	sqlite3 *db;
	struct queue_vfs *vfs;
	sqlite3_stmt *statements[N_QUEUE_STATEMENTS];
	int lock_fd;
	struct queue_params params; /* `path` is a copy of its own */
	bool synchronous_full; /* what the connection is set to now */
	bool in_transaction;
	bool durable; /* the transaction under way, or the last one: it has lines */

	uint64_t next_id;
	uint64_t reserved; /* ids up to this one are reserved, in this transaction's eyes */
	uint64_t reserved_committed; /* the same, as committed */
	uint64_t last_id; /* highest id of a committed transaction */

	int64_t messages; /* committed */
	int64_t messages_delta; /* of the transaction under way */
	int64_t dead_letters; /* committed */
	int64_t dead_letters_delta;
	uint64_t dropped_dead_letters; /* in the transaction under way */
	/* The deltas as they were at the savepoint. */
	int64_t saved_messages_delta;
	int64_t saved_dead_letters_delta;

	struct queue_log log;
	struct queue_space space;
	bool has_reserve;
	char full_text[160]; /* see queue_full_text() */
	struct queue_age age;
	struct queue_batch batch;

	struct queue_stats stats; /* what is counted; the rest is filled in when asked for */
};

/* Steps a statement that returns no row, and resets it. 0 or -errno, logged. */
int queue_run(struct queue *q, enum queue_statement s);
/* Steps one that returns an integer, and resets it. 0, -ENODATA without a row, or -errno, logged.
 */
int queue_integer(struct queue *q, enum queue_statement s, int64_t *ret);
/* Says that a value could not be bound; returns -errno. */
int queue_bind_failed(struct queue *q, enum queue_statement s, int rc);
/* Prepares all statements; tables must be there. 0 or -errno. */
int queue_prepare(struct queue *q) _must_check_;
void queue_finalize(struct queue *q);
/* Removes the rows of a range of ids. 0 or -errno. */
int queue_remove_range(struct queue *q, uint64_t first, uint64_t last) _must_check_;

/* queue_batch.c: with the other statements. 0 or -errno. */
int queue_batch_open(struct queue *q) _must_check_;
void queue_batch_close(struct queue *q);
/* Whether it is a row that the table takes: 0, -EINVAL, -EMSGSIZE. */
int queue_batch_judge(const struct queue *q, const struct message *m) _must_check_;
/* Takes in a copy of a row that was judged. 0 or -errno: roll back. */
int queue_batch_add(struct queue *q, const struct message *m, uint64_t id) _must_check_;
/* Before anything looks at the table or its pages, or marks a place in the transaction. 0 or
 * -errno: roll back. */
int queue_batch_flush(struct queue *q) _must_check_;
/* The transaction was rolled back. */
void queue_batch_forget(struct queue *q);

/* queue_open.c: see queue_new(). On failure queue_free() cleans up. */
int queue_open(struct queue *q) _must_check_;

/* queue_age.c: at the start, after queue_open(), and at the end. */
int queue_age_open(struct queue *q) _must_check_;
void queue_age_close(struct queue *q);
void queue_age_begin(struct queue *q);
/* In the last transaction before ids that are reserved are given back. 0 or -errno. */
int queue_age_end(struct queue *q) _must_check_;
/* A row was appended. 0 or -errno: roll back. */
int queue_age_append(struct queue *q, const struct message *m, uint64_t id) _must_check_;
/* What is to be written with the transaction; then what became of it. */
int queue_age_commit(struct queue *q) _must_check_;
void queue_age_committed(struct queue *q);
void queue_age_rolled_back(struct queue *q);
/* Binds up to three integers; what is bound is not cleared. 0 or -errno, logged. */
int queue_age_bind(
	struct queue *q, enum queue_age_statement s, int64_t a, int64_t b, int64_t c) _must_check_;
/* Says that a statement failed, and resets it; returns -errno. */
int queue_age_failed(struct queue *q, enum queue_age_statement s, int rc);
/* Whether a row's timestamp is yet to be corrected: 1 or 0, -errno. */
int queue_age_is_unset(struct queue *q, uint64_t id) _must_check_;

/* queue_expire.c: the same for its part. */
void queue_expire_open(struct queue *q);
void queue_expire_append(struct queue *q, uint64_t id, int64_t timestamp);
/* Timestamps of rows up to `last` have changed. */
void queue_expire_forget(struct queue *q, uint64_t last);

/* queue_bounds.c: whether a message may be appended. 0 or -ENOBUFS; another -errno: roll back. */
int queue_admit(struct queue *q, const struct message *m, uint64_t claimed) _must_check_;
/* Counts a message that was appended. */
void queue_admitted(struct queue *q, const struct message *m);
/* Drops the oldest dead letters beyond their bound; in a transaction. */
int queue_trim_dead_letters(struct queue *q) _must_check_;

/* queue_space.c: sets the connection up for what follows; once it is open. */
int queue_space_start(struct queue *q) _must_check_;
/* Looks how many pages there are, in the eyes of the transaction under way, if any. */
int queue_space_look(struct queue *q, uint64_t *ret_pages, uint64_t *ret_free) _must_check_;
/* What was looked at just before a commit that went well. */
void queue_space_committed(struct queue *q, uint64_t pages, uint64_t free_pages);
/* What was appended is not there. */
void queue_space_rolled_back(struct queue *q);
/* Gives up to `pages` free pages back, in a transaction of its own. 0 or -errno. */
int queue_space_vacuum(struct queue *q, unsigned pages) _must_check_;

/* queue_log.c: takes checkpoints over from SQLite. */
void queue_log_start(struct queue *q);
/* queue_set_bounds() was called. */
void queue_log_bounded(struct queue *q);
/* After each commit: moves the log's frames to the database when it is time. */
void queue_log_committed(struct queue *q);
/* After each rollback: the file may have a part of what was undone. */
void queue_log_rolled_back(struct queue *q);
/* Moves what frames it can to the database, without waiting: the next commit may write over them,
 * and a database that lost pages shrinks. */
void queue_log_move(struct queue *q);
/* The same, waiting shortly for readers: the next commit does write over them. */
void queue_log_restart(struct queue *q);
/* Empties the log file, waiting up to `busy_msec` for readers. 0, -EBUSY, or another -errno, which
 * is logged once a minute. */
int queue_log_truncate(struct queue *q, unsigned busy_msec);
/* Empties a log file that is in the way of messages, when nothing else does. 0. */
int queue_log_tidy(struct queue *q);
/* What the log may take of max_bytes. */
uint64_t queue_log_allowance(const struct queue *q);
/* The file's size after `bytes` more of pages were written in one transaction. */
uint64_t queue_log_estimate(const struct queue *q, uint64_t bytes);

/* queue_reserve.c: its size. */
uint64_t queue_reserve_bytes(const struct queue *q);
/* Gives the file up, also one of an earlier process. False: there is none. */
bool queue_drop_reserve(struct queue *q);
