/* SPDX-License-Identifier: MIT */
/*
 * Rows that grow too old. Owns the chunks: the ids of the queue in up to QUEUE_CHUNKS ranges, each
 * with a bound for the timestamps in it, so that what is too old is found without going over the
 * whole queue each time, although senders may give timestamps in any order.
 *
 * Invariant: no row in a chunk has an older timestamp than the chunk says, but for rows that were
 * claimed when it was gone over, and those whose timestamp is yet to be corrected. All chunks
 * together reach from the first row to the last one appended.
 *
 * Must not know what time it is.
 */
#include <errno.h>

#include "queue_internal.h"

/* Rows one step looks at, and payload it drops. */
#define STEP_ROWS	 1000
#define STEP_BYTES	 (1024 * 1024)
#define CHUNK_ROWS_LEAST 1000

/* --- chunks ---------------------------------------------------------------------------------- */

static int64_t older(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Two become one, all along the list. */
static void halve(struct queue *q)
{
	struct queue_age *a = &q->age;
	size_t n = 0, rows = (size_t)q->messages / (QUEUE_CHUNKS / 4);

	for (size_t i = 0; i < a->n_chunks; i += 2) {
		size_t last = i + 1 < a->n_chunks ? i + 1 : i;

		a->chunks[n++] = (struct queue_chunk){
			.last = a->chunks[last].last,
			.oldest = older(a->chunks[i].oldest, a->chunks[last].oldest),
		};
	}
	a->n_chunks = n;
	a->chunk_bound = rows > CHUNK_ROWS_LEAST ? rows : CHUNK_ROWS_LEAST;
}

static void add_chunk(struct queue_age *a, size_t at, struct queue_chunk c)
{
	memmove(&a->chunks[at + 1], &a->chunks[at], (a->n_chunks - at) * sizeof(c));
	a->chunks[at] = c;
	a->n_chunks++;
}

static void remove_chunk(struct queue_age *a, size_t at)
{
	a->n_chunks--;
	memmove(&a->chunks[at], &a->chunks[at + 1], (a->n_chunks - at) * sizeof(a->chunks[0]));
}

static uint64_t begin_of(const struct queue_age *a, size_t i)
{
	return i == 0 ? 0 : a->chunks[i - 1].last;
}

void queue_expire_open(struct queue *q)
{
	struct queue_age *a = &q->age;

	a->n_chunks = 0;
	a->chunk_bound = CHUNK_ROWS_LEAST;
	/* Nothing is read at the start. */
	if (q->messages > 0)
		add_chunk(a, 0, (struct queue_chunk){ .last = q->last_id, .oldest = INT64_MIN });
	a->chunk_rows = a->chunk_bound;
}

void queue_expire_append(struct queue *q, uint64_t id, int64_t timestamp)
{
	struct queue_age *a = &q->age;

	if (a->n_chunks == 0 || a->chunk_rows >= a->chunk_bound) {
		if (a->n_chunks == QUEUE_CHUNKS)
			halve(q);
		add_chunk(a, a->n_chunks, (struct queue_chunk){ .oldest = INT64_MAX });
		a->chunk_rows = 0;
	}
	a->chunks[a->n_chunks - 1].last = id;
	a->chunks[a->n_chunks - 1].oldest = older(a->chunks[a->n_chunks - 1].oldest, timestamp);
	a->chunk_rows++;
}

void queue_expire_forget(struct queue *q, uint64_t last)
{
	struct queue_age *a = &q->age;

	for (size_t i = 0; i < a->n_chunks && begin_of(a, i) < last; i++)
		a->chunks[i].oldest = INT64_MIN;
}

int64_t queue_next_expiry(const struct queue *q)
{
	int64_t oldest = INT64_MAX;

	for (size_t i = 0; i < q->age.n_chunks; i++)
		oldest = older(oldest, q->age.chunks[i].oldest);
	return oldest;
}

/* The chunk was looked at up to row `upto`, and what is left there is no older than `oldest`. */
static void note_looked_at(struct queue *q, size_t i, uint64_t upto, int64_t oldest)
{
	struct queue_age *a = &q->age;

	if (upto < a->chunks[i].last) {
		if (a->n_chunks == QUEUE_CHUNKS) {
			/* The place is found again by its id; the rest is looked at again. */
			halve(q);
			return;
		}
		add_chunk(a, i, (struct queue_chunk){ .last = upto, .oldest = oldest });
	} else {
		a->chunks[i].oldest = oldest;
		if (i + 1 == a->n_chunks)
			a->chunk_rows = a->chunk_bound; /* rows to come begin another */
	}
	/* What is drained needs no place. */
	if (i > 0 && a->chunks[i - 1].oldest == INT64_MAX && oldest == INT64_MAX)
		remove_chunk(a, i - 1);
}

/* --- expiry ---------------------------------------------------------------------------------- */

struct look {
	uint64_t ids[STEP_ROWS]; /* too old */
	size_t n;
	int64_t bytes; /* of those */
	uint64_t upto; /* looked at */
	int64_t oldest; /* of the others */
};

/* Looks at up to STEP_ROWS rows after `from`, up to `last`. */
static int look(struct queue *q, uint64_t from, uint64_t last, int64_t before, struct look *ret)
{
	sqlite3_stmt *stmt = q->age.statements[QUEUE_AGE_TIMESTAMPS];
	unsigned rows = 0;
	int rc = SQLITE_DONE, r;

	ret->n = 0;
	ret->bytes = 0;
	ret->upto = from;
	ret->oldest = INT64_MAX;
	r = queue_age_bind(
		q, QUEUE_AGE_TIMESTAMPS, (int64_t)from, (int64_t)last, (int64_t)STEP_ROWS);
	if (r < 0)
		return r;
	while (ret->bytes < STEP_BYTES && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		uint64_t id = (uint64_t)sqlite3_column_int64(stmt, 0);
		int64_t timestamp = sqlite3_column_int64(stmt, 1);

		rows++;
		ret->upto = id;
		if (timestamp >= before) {
			ret->oldest = older(ret->oldest, timestamp);
			continue;
		}
		r = queue_age_is_unset(q, id);
		if (r < 0)
			break;
		if (r > 0)
			continue;
		ret->ids[ret->n++] = id;
		ret->bytes += sqlite3_column_int64(stmt, 2);
	}
	if (r >= 0 && rc != SQLITE_DONE && rc != SQLITE_ROW)
		return queue_age_failed(q, QUEUE_AGE_TIMESTAMPS, rc);
	sqlite3_reset(stmt);
	if (rc == SQLITE_DONE && rows < STEP_ROWS)
		ret->upto = last;
	return r < 0 ? r : 0;
}

static int drop(struct queue *q, struct look *l, uint64_t *ret_dropped)
{
	int64_t before = q->messages;
	int r;

	if (l->n == 0)
		return 0;
	r = queue_begin(q, false);
	if (r < 0)
		return r;
	r = queue_remove(q, l->ids, l->n);
	if (r < 0) {
		queue_rollback(q);
		return r;
	}
	r = queue_commit(q);
	if (r < 0)
		return r;
	*ret_dropped = (uint64_t)(before - q->messages);
	q->stats.dropped_expired += *ret_dropped;
	return 0;
}

static bool find_due(const struct queue_age *a, int64_t before, size_t *ret)
{
	for (size_t i = 0; i < a->n_chunks; i++) {
		if (a->chunks[i].oldest < before) {
			*ret = i;
			return true;
		}
	}
	return false;
}

int queue_expire(struct queue *q, uint64_t claimed, int64_t before, uint64_t *ret_dropped)
{
	struct queue_age *a = &q->age;
	struct look l;
	uint64_t from;
	size_t i;
	int r;

	*ret_dropped = 0;
	/* What the uplink has given back has to be looked at again. */
	if (claimed < a->claimed)
		queue_expire_forget(q, a->claimed);
	a->claimed = claimed;
	if (!find_due(a, before, &i))
		return 0;
	from = begin_of(a, i) > claimed ? begin_of(a, i) : claimed;
	if (from >= a->chunks[i].last) {
		note_looked_at(q, i, a->chunks[i].last, INT64_MAX);
		return find_due(a, before, &i);
	}
	r = look(q, from, a->chunks[i].last, before, &l);
	if (r < 0)
		return r;
	r = drop(q, &l, ret_dropped);
	if (r < 0)
		return r;
	/* The last row went, and with it all chunks. */
	if (a->n_chunks == 0)
		return 0;
	note_looked_at(q, i, l.upto, l.oldest);
	return find_due(a, before, &i);
}
