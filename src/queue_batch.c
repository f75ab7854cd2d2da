/* SPDX-License-Identifier: MIT */
/*
 * Rows on their way into the table. One INSERT takes in many of them, read from a virtual table of
 * this connection: run once a row, it costs twice as much (opening the table and its sequence,
 * finding the end, closing both).
 *
 * Invariants:
 * - A row is judged before it is taken in here, by the same rules as the schema's, which this
 *   connection does not look at again: what fails later fails for the whole transaction.
 * - Nothing is left here when a transaction is committed.
 *
 * Must not know what is counted of a row.
 */
#include <errno.h>

#include "queue_internal.h"

#define NAME "mqttgw_batch"

/* A record's header and its small values. */
#define ROW_EXTRA 64

static const char insert_sql[] =
	"INSERT OR ROLLBACK INTO queue (id, topic, payload, qos, retained, timestamp) "
	"SELECT id, topic, payload, qos, retained, timestamp FROM " NAME;

enum column {
	COLUMN_ID,
	COLUMN_TOPIC,
	COLUMN_PAYLOAD,
	COLUMN_QOS,
	COLUMN_RETAINED,
	COLUMN_TIMESTAMP,
};

/* --- the virtual table ----------------------------------------------------------------------- */

/* A list with one reader, the statement above: table and cursor are members of the batch. */

static int table_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
	sqlite3_vtab **ret, char **ret_error)
{
	struct queue_batch *b = aux;
	int rc;

	(void)argc;
	(void)argv;
	(void)ret_error;
	rc = sqlite3_declare_vtab(
		db, "CREATE TABLE x (id, topic, payload, qos, retained, timestamp)");
	if (rc == SQLITE_OK)
		*ret = &b->table;
	return rc;
}

static int table_disconnect(sqlite3_vtab *table)
{
	(void)table;
	return SQLITE_OK;
}

static int table_best_index(sqlite3_vtab *table, sqlite3_index_info *info)
{
	(void)table;
	info->estimatedCost = QUEUE_BATCH_ROWS;
	info->estimatedRows = QUEUE_BATCH_ROWS;
	return SQLITE_OK;
}

static struct queue_batch *batch_of(sqlite3_vtab_cursor *cursor)
{
	return (struct queue_batch *)((char *)cursor - offsetof(struct queue_batch, cursor));
}

static int table_open(sqlite3_vtab *table, sqlite3_vtab_cursor **ret)
{
	struct queue_batch *b =
		(struct queue_batch *)((char *)table - offsetof(struct queue_batch, table));

	*ret = &b->cursor;
	return SQLITE_OK;
}

static int table_close(sqlite3_vtab_cursor *cursor)
{
	(void)cursor;
	return SQLITE_OK;
}

static int table_filter(
	sqlite3_vtab_cursor *cursor, int plan, const char *text, int argc, sqlite3_value **argv)
{
	(void)plan;
	(void)text;
	(void)argc;
	(void)argv;
	batch_of(cursor)->at = 0;
	return SQLITE_OK;
}

static int table_next(sqlite3_vtab_cursor *cursor)
{
	batch_of(cursor)->at++;
	return SQLITE_OK;
}

static int table_eof(sqlite3_vtab_cursor *cursor)
{
	const struct queue_batch *b = batch_of(cursor);

	return b->at >= b->n;
}

/* The bytes stay where they are until the row is in the table. */
static int table_column(sqlite3_vtab_cursor *cursor, sqlite3_context *context, int column)
{
	const struct queue_batch *b = batch_of(cursor);
	const struct message *m = &b->rows[b->at];

	switch ((enum column)column) {
	case COLUMN_ID: sqlite3_result_int64(context, (sqlite3_int64)m->id); break;
	case COLUMN_TOPIC:
		sqlite3_result_text(context, m->topic, (int)m->topic_len, SQLITE_STATIC);
		break;
	case COLUMN_PAYLOAD:
		/* A NULL pointer would be SQL NULL. */
		sqlite3_result_blob(context, m->payload_len ? m->payload : "", (int)m->payload_len,
			SQLITE_STATIC);
		break;
	case COLUMN_QOS: sqlite3_result_int(context, m->qos); break;
	case COLUMN_RETAINED: sqlite3_result_int(context, m->retain); break;
	case COLUMN_TIMESTAMP: sqlite3_result_int64(context, m->timestamp); break;
	}
	return SQLITE_OK;
}

static int table_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *ret)
{
	*ret = (sqlite3_int64)batch_of(cursor)->at;
	return SQLITE_OK;
}

/* Without xCreate it is there for every statement that names it, and in no schema. */
static const sqlite3_module module = {
	.xConnect = table_connect,
	.xBestIndex = table_best_index,
	.xDisconnect = table_disconnect,
	.xOpen = table_open,
	.xClose = table_close,
	.xFilter = table_filter,
	.xNext = table_next,
	.xEof = table_eof,
	.xColumn = table_column,
	.xRowid = table_rowid,
};

/* --- the batch ------------------------------------------------------------------------------- */

int queue_batch_open(struct queue *q)
{
	struct queue_batch *b = &q->batch;
	int rc;

	rc = sqlite3_create_module(q->db, NAME, &module, b);
	if (rc != SQLITE_OK)
		return queue_sql_fail(q->db, rc, "cannot set up the connection");
	b->row_most = (size_t)sqlite3_limit(q->db, SQLITE_LIMIT_LENGTH, -1) - ROW_EXTRA;
	return queue_sql_prepare(q->db, insert_sql, &b->insert);
}

void queue_batch_close(struct queue *q)
{
	sqlite3_finalize(q->batch.insert);
	q->batch.insert = NULL;
	queue_batch_forget(q);
}

int queue_batch_judge(const struct queue *q, const struct message *m)
{
	if (m->topic_len == 0 || m->qos > 2)
		return -EINVAL;
	if (m->payload_len > q->batch.row_most || m->topic_len > q->batch.row_most - m->payload_len)
		return -EMSGSIZE;
	return 0;
}

int queue_batch_flush(struct queue *q)
{
	struct queue_batch *b = &q->batch;
	int rc;

	if (b->n == 0)
		return 0;
	/* SQLite gives up the whole transaction on some errors; rows must not go on alone. */
	if (sqlite3_get_autocommit(q->db))
		return -EIO;
	rc = sqlite3_step(b->insert);
	if (rc != SQLITE_DONE) {
		int r = queue_sql_fail(q->db, rc, insert_sql);

		sqlite3_reset(b->insert);
		/* This is not about one row. */
		return r == -EINVAL || r == -EMSGSIZE ? -EIO : r;
	}
	sqlite3_reset(b->insert);
	queue_batch_forget(q);
	return 0;
}

void queue_batch_forget(struct queue *q)
{
	q->batch.n = 0;
	q->batch.used = 0;
}

int queue_batch_add(struct queue *q, const struct message *m, uint64_t id)
{
	struct queue_batch *b = &q->batch;
	struct message *row;
	char *to;
	int r;

	if (b->n == QUEUE_BATCH_ROWS || message_size(m) > sizeof(b->bytes) - b->used) {
		r = queue_batch_flush(q);
		if (r < 0)
			return r;
	}
	row = &b->rows[b->n++];
	*row = *m;
	row->id = id;
	/* A large one is not worth a copy: it goes where it belongs while it is at hand. */
	if (message_size(m) > sizeof(b->bytes))
		return queue_batch_flush(q);
	to = b->bytes + b->used;
	memcpy(to, m->topic, m->topic_len);
	row->topic = to;
	to += m->topic_len;
	if (m->payload_len > 0)
		memcpy(to, m->payload, m->payload_len);
	row->payload = to;
	b->used += message_size(m);
	return 0;
}
