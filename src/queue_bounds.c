/* SPDX-License-Identifier: MIT */
/*
 * The queue's bounds: what is refused, and what is dropped.
 *
 * Where new messages are refused, the bytes that count are all there are: live pages and the log's
 * file, with an estimate of what the transaction under way adds to both. Where the oldest are
 * dropped, the log counts as its allowance, whatever its size is: that is queue_log.c's business,
 * and must not cost messages.
 *
 * Invariant: an estimate alone never refuses a message; pages are counted before.
 */
#include <errno.h>
#include <stdio.h>

#include "log.h"
#include "queue_internal.h"

/* Pages of an empty database, with some to spare. */
#define EMPTY_PAGES 12
#define TRIM_ROWS   1000

/*
 * Bytes of pages that a row takes; SQLite's file format tells how it is laid out: so much in the
 * table's leaf, the rest in pages of its own.
 */
static uint64_t row_bytes(const struct queue *q, uint64_t size)
{
	uint64_t usable = q->space.page_size, payload = size + 12; /* header, qos, times */
	uint64_t most = usable - 35, least = (usable - 12) * 32 / 255 - 23;
	uint64_t local = payload, own_pages = 0, cell;

	if (payload > most) {
		local = least + (payload - least) % (usable - 4);
		if (local > most)
			local = least;
		own_pages = (payload - local + usable - 5) / (usable - 4);
		local += 4;
	}
	cell = local + 8; /* lengths, id, pointer */
	/* Leaves are filled from the left and never touched again. */
	return usable / u64_max((usable - 8) / cell, 1) + own_pages * usable;
}

static const char *size_to_string(uint64_t bytes, char *buf, size_t size)
{
	static const char units[] = "GMK";

	for (unsigned i = 0; units[i]; i++) {
		unsigned shift = 30 - 10 * i;

		if (bytes >> shift && !(bytes & ((UINT64_C(1) << shift) - 1))) {
			snprintf(buf, size, "%llu%c", (unsigned long long)(bytes >> shift),
				units[i]);
			return buf;
		}
	}
	snprintf(buf, size, "%llu", (unsigned long long)bytes);
	return buf;
}

const char *queue_full_text(const struct queue *q)
{
	return q->full_text;
}

static int refuse_bytes(struct queue *q, const char *why)
{
	char bound[32];

	snprintf(q->full_text, sizeof(q->full_text), "queue.max_bytes, %s, is reached: %s",
		size_to_string(q->params.max_bytes, bound, sizeof(bound)), why);
	return -ENOBUFS;
}

static int refuse_messages(struct queue *q)
{
	snprintf(q->full_text, sizeof(q->full_text), "queue.max_messages, %llu, is reached",
		(unsigned long long)q->params.max_messages);
	return -ENOBUFS;
}

static bool messages_fit(const struct queue *q)
{
	return !q->params.max_messages ||
		q->messages + q->messages_delta < (int64_t)q->params.max_messages;
}

/* Whether there is room for `bytes` more, as far as is known. */
static bool bytes_fit(const struct queue *q, uint64_t bytes)
{
	uint64_t live = q->space.live + q->space.appended + bytes;

	if (q->params.drop_oldest)
		return live + queue_log_allowance(q) <= q->params.max_bytes;
	return live + queue_log_estimate(q, q->space.written + bytes) <= q->params.max_bytes;
}

/* Counts pages, so that what follows is no estimate. */
static int look(struct queue *q)
{
	uint64_t pages, free_pages;
	int r = queue_batch_flush(q);

	if (r == 0)
		r = queue_space_look(q, &pages, &free_pages);
	if (r < 0)
		return r;
	q->space.live = (pages - free_pages) * q->space.page_size;
	q->space.appended = 0;
	return 0;
}

/* Whether a row may go to make room: 1, 0, or -errno. */
static int may_drop(struct queue *q, uint64_t claimed)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_ABOVE];
	int64_t id;
	int rc, r;

	r = queue_batch_flush(q);
	if (r < 0)
		return r;
	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)u64_min(claimed, INT64_MAX));
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_ABOVE, rc);
	r = queue_integer(q, QUEUE_STATEMENT_ABOVE, &id);
	return r == -ENODATA ? 0 : r < 0 ? r : 1;
}

static int admit_bytes(struct queue *q, uint64_t bytes, uint64_t claimed)
{
	uint64_t empty = EMPTY_PAGES * q->space.page_size + queue_log_allowance(q);
	int r;

	if (bytes + empty > q->params.max_bytes)
		return refuse_bytes(q, "this message alone is too large for it");
	if (bytes_fit(q, bytes))
		return 0;
	r = look(q);
	if (r < 0)
		return r;
	if (bytes_fit(q, bytes))
		return 0;
	if (!q->params.drop_oldest || claimed == UINT64_MAX)
		return refuse_bytes(q, "live pages and write-ahead log leave no room");
	r = may_drop(q, claimed);
	if (r < 0)
		return r;
	return r ? 0 : refuse_bytes(q, "all messages are being delivered, none may be dropped");
}

int queue_admit(struct queue *q, const struct message *m, uint64_t claimed)
{
	int r;

	if (!messages_fit(q)) {
		r = q->params.drop_oldest ? may_drop(q, claimed) : 0;
		if (r < 0)
			return r;
		if (!r)
			return refuse_messages(q);
	}
	return q->params.max_bytes ? admit_bytes(q, row_bytes(q, message_size(m)), claimed) : 0;
}

void queue_admitted(struct queue *q, const struct message *m)
{
	uint64_t bytes = row_bytes(q, message_size(m));

	q->space.appended += bytes;
	q->space.written += bytes;
}

void queue_set_bounds(struct queue *q, const struct queue_bounds *bounds)
{
	q->params.drop_oldest = bounds->drop_oldest;
	q->params.max_messages = bounds->max_messages;
	q->params.max_bytes = bounds->max_bytes;
	q->params.max_dead_letters = bounds->max_dead_letters;
	queue_log_bounded(q);
}

/* --- dropping -------------------------------------------------------------------------------- */

static uint64_t messages_over(const struct queue *q)
{
	uint64_t n = (uint64_t)q->messages;

	return q->params.max_messages && n > q->params.max_messages ? n - q->params.max_messages
								    : 0;
}

static uint64_t bytes_over(const struct queue *q)
{
	uint64_t n = q->space.live + queue_log_allowance(q);

	return q->params.max_bytes && n > q->params.max_bytes ? n - q->params.max_bytes : 0;
}

bool queue_is_over(const struct queue *q)
{
	return q->params.drop_oldest && (messages_over(q) || bytes_over(q));
}

/* Finds the last of the rows above `claimed` that have to go. *ret_id is 0 when there is none. */
static int find_last_to_drop(struct queue *q, uint64_t claimed, uint64_t *ret_id)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_OLDEST];
	uint64_t messages = messages_over(q), bytes = bytes_over(q), n = 0, freed = 0, id = 0;
	int rc, r = 0;

	/* Less than a page is never freed. */
	bytes += bytes ? q->space.page_size : 0;
	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)u64_min(claimed, INT64_MAX));
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 2, TRIM_ROWS);
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_OLDEST, rc);
	while (n < messages || freed < bytes) {
		rc = sqlite3_step(stmt);
		if (rc != SQLITE_ROW)
			break;
		id = (uint64_t)sqlite3_column_int64(stmt, 0);
		n++;
		freed += row_bytes(q,
			(uint64_t)sqlite3_column_int64(stmt, 1) +
				(uint64_t)sqlite3_column_int64(stmt, 2));
	}
	if (rc != SQLITE_ROW && rc != SQLITE_DONE && rc != SQLITE_OK)
		r = queue_sql_fail(q->db, rc, "cannot look for the oldest messages");
	sqlite3_reset(stmt);
	if (r < 0)
		return r;
	*ret_id = id;
	return 0;
}

static int trim_in_transaction(struct queue *q, uint64_t claimed, uint64_t *ret_n)
{
	int64_t before = q->messages_delta;
	uint64_t last = 0;
	int r;

	r = find_last_to_drop(q, claimed, &last);
	if (r < 0)
		return r;
	if (last) {
		r = queue_remove_range(q, claimed + 1, last);
		if (r < 0)
			return r;
	}
	*ret_n = (uint64_t)(before - q->messages_delta);
	return 0;
}

int queue_trim(struct queue *q, uint64_t claimed, uint64_t *ret_dropped)
{
	uint64_t n = 0;
	int r;

	*ret_dropped = 0;
	if (!queue_is_over(q))
		return 0;
	r = queue_begin(q, false);
	if (r < 0)
		return r;
	r = trim_in_transaction(q, claimed, &n);
	if (r < 0 || n == 0) {
		queue_rollback(q);
		return r;
	}
	r = queue_commit(q);
	if (r < 0)
		return r;
	*ret_dropped = n;
	q->stats.dropped_overflow += n;
	return queue_is_over(q);
}

int queue_trim_dead_letters(struct queue *q)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_OLDEST_DEAD];
	int64_t over =
		q->dead_letters + q->dead_letters_delta - (int64_t)q->params.max_dead_letters;
	int rc, r;

	/* Only what adds to them; a bound that was lowered waits for that. */
	if (!q->params.max_dead_letters || q->dead_letters_delta <= 0 || over <= 0)
		return 0;
	rc = sqlite3_bind_int64(stmt, 1, over);
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_OLDEST_DEAD, rc);
	r = queue_run(q, QUEUE_STATEMENT_OLDEST_DEAD);
	if (r < 0)
		return r;
	over = sqlite3_changes64(q->db);
	q->dead_letters_delta -= over;
	q->dropped_dead_letters = (uint64_t)over;
	return 0;
}
