/* SPDX-License-Identifier: MIT */
/*
 * The queue's pages: how many there are, and how free ones go back to the file system.
 *
 * Free pages are used again before the file grows, so giving them back is worth its writes only
 * once a backlog has drained. Then it is done in steps that take some milliseconds each.
 */
#include <errno.h>

#include "log.h"
#include "queue_internal.h"

#define TIDY_KEEP_BYTES (UINT64_C(1) << 20) /* free pages that stay, for the next messages */
#define TIDY_PART	8 /* live pages are less than that part of all */
#define TIDY_STEP_FIRST 64 /* pages */
#define TIDY_STEP_LEAST 16
/* More would not fit the cache: SQLite then writes even pages that are about to go. */
#define TIDY_STEP_MOST 256
/* So much is cut off the file at once: that takes the file system a while. */
#define TIDY_CUT_BYTES (UINT64_C(32) << 20)
#define TIDY_USEC      (10 * USEC_PER_MSEC) /* what a step may take, about */
#define TIDY_ENDS      20

int queue_space_look(struct queue *q, uint64_t *ret_pages, uint64_t *ret_free)
{
	int64_t pages, free_pages;
	int r;

	r = queue_integer(q, QUEUE_STATEMENT_PAGE_COUNT, &pages);
	if (r == 0)
		r = queue_integer(q, QUEUE_STATEMENT_FREE_PAGES, &free_pages);
	if (r < 0)
		return r;
	*ret_pages = (uint64_t)pages;
	*ret_free = (uint64_t)free_pages;
	return 0;
}

void queue_space_committed(struct queue *q, uint64_t pages, uint64_t free_pages)
{
	q->space.pages = pages;
	q->space.free_pages = free_pages;
	queue_space_rolled_back(q);
}

void queue_space_rolled_back(struct queue *q)
{
	q->space.live = (q->space.pages - q->space.free_pages) * q->space.page_size;
	q->space.appended = q->space.written = 0;
}

int queue_space_start(struct queue *q)
{
	uint64_t pages, free_pages;
	int64_t page_size, auto_vacuum;
	char pragma[64];
	int r;

	r = queue_sql_integer(q->db, "PRAGMA page_size", &page_size);
	if (r < 0)
		return r;
	/* An operator may have put the database together anew, without it. */
	r = queue_sql_integer(q->db, "PRAGMA auto_vacuum", &auto_vacuum);
	if (r < 0)
		return r;
	q->space.shrinks = auto_vacuum != 0;
	q->space.page_size = (uint64_t)page_size;
	queue_log_start(q);
	/* Not cut at each new start of the log, only after one that was longer than usual. */
	sqlite3_snprintf(sizeof(pragma), pragma, "PRAGMA journal_size_limit = %lld",
		(long long)(2 * queue_log_allowance(q)));
	r = queue_sql_exec(q->db, pragma, "cannot set up the write-ahead log");
	if (r < 0)
		return r;
	/* Some builds overwrite each page that becomes free, on disk and in the log: as many bytes
	 * again as the messages themselves. */
	r = queue_sql_exec(q->db, "PRAGMA secure_delete = FAST", "cannot set up the connection");
	if (r < 0)
		return r;
	r = queue_space_look(q, &pages, &free_pages);
	if (r < 0)
		return r;
	queue_space_committed(q, pages, free_pages);
	return 0;
}

/* --- giving pages back ----------------------------------------------------------------------- */

/* incremental_vacuum frees one page a step. */
static int vacuum_in_transaction(struct queue *q, unsigned pages)
{
	sqlite3_stmt *stmt = NULL;
	char pragma[64];
	int rc, r;

	sqlite3_snprintf(sizeof(pragma), pragma, "PRAGMA incremental_vacuum(%u)", pages);
	r = queue_sql_prepare(q->db, pragma, &stmt);
	if (r < 0)
		return r;
	do {
		rc = sqlite3_step(stmt);
	} while (rc == SQLITE_ROW);
	if (rc != SQLITE_DONE)
		r = queue_sql_fail(q->db, rc, "cannot give free pages back");
	sqlite3_finalize(stmt);
	return r;
}

int queue_space_vacuum(struct queue *q, unsigned pages)
{
	int r;

	r = queue_begin(q, false);
	if (r < 0)
		return r;
	r = vacuum_in_transaction(q, pages);
	if (r < 0) {
		queue_rollback(q);
		return r;
	}
	return queue_commit(q);
}

static uint64_t live_pages(const struct queue *q)
{
	return q->space.pages - q->space.free_pages;
}

static bool wants_tidying(const struct queue *q)
{
	return q->space.shrinks && q->space.free_pages * q->space.page_size > TIDY_KEEP_BYTES &&
		live_pages(q) < q->space.pages / TIDY_PART;
}

/* The pages of the next step: as many as the last one did in the time it may take. */
static unsigned next_step(unsigned step, uint64_t usec)
{
	if (usec > 2 * TIDY_USEC && step > TIDY_STEP_LEAST)
		return step / 2;
	if (usec < TIDY_USEC && step < TIDY_STEP_MOST)
		return step * 2;
	return step;
}

static void end_tidying(struct queue *q)
{
	q->space.tidy_step = 0;
	q->space.tidy_ends = TIDY_ENDS;
}

static int tidy_step(struct queue *q)
{
	uint64_t keep = TIDY_KEEP_BYTES / q->space.page_size, usec = now_usec();
	uint64_t surplus = q->space.free_pages > keep ? q->space.free_pages - keep : 0;
	unsigned step = (unsigned)u64_min(q->space.tidy_step, surplus);
	int r;

	/* A queue that fills again needs its free pages. */
	if (step == 0 || live_pages(q) > q->space.tidy_upto) {
		end_tidying(q);
		return 1;
	}
	r = queue_space_vacuum(q, step);
	if (r < 0) {
		q->space.tidy_step = 0;
		return r;
	}
	q->space.tidy_freed += step;
	if (q->space.tidy_freed * q->space.page_size >= TIDY_CUT_BYTES) {
		q->space.tidy_freed = 0;
		queue_log_move(q);
		return 1;
	}
	q->space.tidy_step = next_step(q->space.tidy_step, now_usec() - usec);
	return 1;
}

int queue_tidy(struct queue *q)
{
	if (q->space.tidy_step)
		return tidy_step(q);
	if (q->space.tidy_ends > 0) {
		/* The file shrinks only once the log is in it; readers may be in the way. */
		q->space.tidy_ends--;
		if (q->log.bytes > 0 && queue_log_truncate(q, 0) == -EBUSY &&
			q->space.tidy_ends > 0)
			return 1;
		q->space.tidy_ends = 0;
	}
	if (wants_tidying(q)) {
		q->space.tidy_step = TIDY_STEP_FIRST;
		q->space.tidy_freed = 0;
		q->space.tidy_upto =
			u64_max(2 * live_pages(q), TIDY_KEEP_BYTES / q->space.page_size);
		return 1;
	}
	return queue_log_tidy(q);
}
