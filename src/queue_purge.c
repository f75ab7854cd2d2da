/* SPDX-License-Identifier: MIT */
/*
 * What an operator does to rows: purging, and putting dead letters back. Each step looks at a
 * bounded number of rows and is one transaction, so that a power cut leaves a row in one of the two
 * tables, never in both and never in none.
 */
#include <errno.h>

#include "queue_internal.h"

struct step {
	uint64_t ids[SELECTION_STEP_ROWS]; /* to be done something to */
	size_t n;
	uint64_t upto; /* looked at; those after it are for the next step */
	uint64_t kept;
	bool last; /* there are no further rows */
};

static int bind_look(struct queue *q, enum queue_statement s, const struct selection *sel)
{
	sqlite3_stmt *stmt = q->statements[s];
	int rc;

	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)u64_min(sel->after, INT64_MAX));
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)u64_min(sel->upto, INT64_MAX));
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 3, SELECTION_STEP_ROWS);
	return rc == SQLITE_OK ? 0 : queue_bind_failed(q, s, rc);
}

/* One row that the look came to. 0 or -ENOMEM. */
static int look_at(
	sqlite3_stmt *stmt, const struct selection *sel, uint64_t claimed, struct step *ret)
{
	const char *topic = (const char *)sqlite3_column_text(stmt, 1);

	if (!topic)
		return -ENOMEM;
	ret->upto = (uint64_t)sqlite3_column_int64(stmt, 0);
	if (!selection_has(sel, topic, (size_t)sqlite3_column_bytes(stmt, 1)))
		return 0;
	if (ret->upto <= claimed)
		ret->kept++;
	else
		ret->ids[ret->n++] = ret->upto;
	return 0;
}

/* Finds the rows of the next step. */
static int look(struct queue *q, enum queue_statement s, const struct selection *sel,
	uint64_t claimed, struct step *ret)
{
	sqlite3_stmt *stmt = q->statements[s];
	size_t bytes = 0, rows = 0;
	int rc = SQLITE_DONE, r;

	*ret = (struct step){ .upto = sel->after };
	r = bind_look(q, s, sel);
	while (r == 0 && bytes < SELECTION_STEP_BYTES && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		size_t before = ret->n;

		rows++;
		r = look_at(stmt, sel, claimed, ret);
		if (ret->n > before)
			bytes += (size_t)sqlite3_column_int64(stmt, 2);
	}
	if (r == 0 && rc != SQLITE_ROW && rc != SQLITE_DONE)
		r = queue_sql_fail(q->db, rc, "cannot look for rows");
	sqlite3_reset(stmt);
	ret->last = rc == SQLITE_DONE && rows < SELECTION_STEP_ROWS;
	return r;
}

static int run_on(struct queue *q, enum queue_statement s, uint64_t id)
{
	int rc = sqlite3_bind_int64(q->statements[s], 1, (sqlite3_int64)id);

	return rc == SQLITE_OK ? queue_run(q, s) : queue_bind_failed(q, s, rc);
}

/* --- purging --------------------------------------------------------------------------------- */

int queue_purge(struct queue *q, uint64_t claimed, struct selection *sel)
{
	struct step step;
	int r;

	sel->upto = u64_min(sel->upto, q->last_id);
	r = look(q, QUEUE_STATEMENT_LOOK, sel, claimed, &step);
	if (r < 0)
		return r;
	if (step.n > 0) {
		int64_t before = q->messages;

		r = queue_begin(q, false);
		if (r < 0)
			return r;
		r = queue_remove(q, step.ids, step.n);
		if (r == 0)
			r = queue_commit(q);
		if (r < 0) {
			queue_rollback(q);
			return r;
		}
		sel->count += (uint64_t)(before - q->messages);
		q->stats.dropped_purged += (uint64_t)(before - q->messages);
	}
	sel->after = step.upto;
	sel->kept += step.kept;
	if (!step.last)
		return 1;
	/* What was purged shall not come back with the power. */
	return sel->count > 0 ? queue_probe(q) : 0;
}

static int remove_dead(struct queue *q, uint64_t id)
{
	int r = run_on(q, QUEUE_STATEMENT_REMOVE_DEAD, id);

	if (r == 0)
		q->dead_letters_delta -= sqlite3_changes64(q->db);
	return r;
}

int queue_purge_dead(struct queue *q, struct selection *sel)
{
	struct step step;
	int r;

	r = look(q, QUEUE_STATEMENT_LOOK_DEAD, sel, 0, &step);
	if (r < 0)
		return r;
	if (step.n > 0) {
		r = queue_begin(q, true);
		for (size_t i = 0; r == 0 && i < step.n; i++)
			r = remove_dead(q, step.ids[i]);
		if (r == 0)
			r = queue_commit(q);
		if (r < 0) {
			queue_rollback(q);
			return r;
		}
	}
	sel->after = step.upto;
	sel->count += step.n;
	return !step.last;
}

/* --- putting back ---------------------------------------------------------------------------- */

/* In a transaction. -ENOBUFS, -EINVAL, -EMSGSIZE: the transaction goes on without this row. */
static int append_dead(struct queue *q, uint64_t id)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_DEAD];
	const char *fault;
	struct message m;
	uint64_t new_id;
	int rc, r;

	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)id);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc != SQLITE_ROW) {
		r = rc == SQLITE_DONE ? -EUCLEAN
				      : queue_sql_fail(q->db, rc, "cannot read a dead letter");
		sqlite3_reset(stmt);
		return r;
	}
	fault = queue_sql_row(stmt, &m);
	m.own_timestamp = true;
	/* As if every row were the uplink's: none is dropped for it. */
	if (fault)
		r = -EUCLEAN;
	else
		r = queue_sql_row_is_whole(&m) ? queue_append(q, &m, UINT64_MAX, &new_id) : -ENOMEM;
	sqlite3_reset(stmt);
	return r;
}

/* Moves them in the order of their numbers; *ret_n are. */
static int move(struct queue *q, const struct step *step, size_t *ret_n)
{
	int r = 0;

	for (*ret_n = 0; r == 0 && *ret_n < step->n; *ret_n += r == 0) {
		r = append_dead(q, step->ids[*ret_n]);
		if (r == 0)
			r = remove_dead(q, step->ids[*ret_n]);
	}
	return r;
}

int queue_requeue(struct queue *q, struct selection *sel)
{
	struct step step;
	size_t n = 0;
	int r, moved;

	r = look(q, QUEUE_STATEMENT_LOOK_DEAD, sel, 0, &step);
	if (r < 0)
		return r;
	if (step.n == 0) {
		sel->after = step.upto;
		return !step.last;
	}
	r = queue_begin(q, true);
	if (r < 0)
		return r;
	moved = move(q, &step, &n);
	r = moved == -ENOBUFS ? 0 : moved;
	if (r == 0 && n > 0)
		r = queue_commit(q);
	if (r < 0 || n == 0) {
		queue_rollback(q);
		return r < 0 ? r : moved;
	}
	sel->count += n;
	sel->after = moved < 0 ? step.ids[n - 1] : step.upto;
	return moved < 0 ? moved : !step.last;
}
