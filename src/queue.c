/* SPDX-License-Identifier: MIT */
/*
 * The queue's writer. Owns the writing connection and its statements.
 *
 * Invariants:
 * - An id is handed out once in the life of a database. Blocks of ids are reserved by raising
 *   sqlite_sequence ahead of use; ids of a transaction that failed are not used again.
 * - After a failed COMMIT the connection is kept: SQLite then overwrites the frames of the refused
 *   transaction. Opening again could recover them from the page cache and lose what follows.
 * - `synchronous` changes only between transactions.
 *
 * Must not know: clients, brokers, the mailbox.
 */
#include <errno.h>

#include "log.h"
#include "queue_internal.h"

#define ID_BLOCK	1000
#define BEGIN_BUSY_MSEC 50

static const char *const queue_statement_sql[N_QUEUE_STATEMENTS] = {
	[QUEUE_STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
	[QUEUE_STATEMENT_COMMIT] = "COMMIT",
	[QUEUE_STATEMENT_ROLLBACK] = "ROLLBACK",
	[QUEUE_STATEMENT_REMOVE] = "DELETE FROM queue WHERE id BETWEEN ?1 AND ?2",
	[QUEUE_STATEMENT_CONDEMN] = "INSERT INTO dead_letters (id, topic, payload, qos, retained, "
				    "timestamp, reason, died_at) SELECT id, topic, payload, qos, "
				    "retained, timestamp, ?2, ?3 FROM queue WHERE id = ?1",
	[QUEUE_STATEMENT_RESERVE] = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'queue'",
	[QUEUE_STATEMENT_SAVEPOINT] = "SAVEPOINT part",
	[QUEUE_STATEMENT_RELEASE] = "RELEASE part",
	[QUEUE_STATEMENT_BACK] = "ROLLBACK TO part",
	[QUEUE_STATEMENT_META] = "INSERT INTO meta (key, value) VALUES (?1, ?2) "
				 "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
	[QUEUE_STATEMENT_PAGE_COUNT] = "PRAGMA page_count",
	[QUEUE_STATEMENT_FREE_PAGES] = "PRAGMA freelist_count",
	[QUEUE_STATEMENT_ABOVE] = "SELECT id FROM queue WHERE id > ?1 ORDER BY id LIMIT 1",
	/* Neither length() reads the payload's own pages. */
	[QUEUE_STATEMENT_OLDEST] = "SELECT id, length(CAST(topic AS BLOB)), length(payload) "
				   "FROM queue WHERE id > ?1 ORDER BY id LIMIT ?2",
	[QUEUE_STATEMENT_OLDEST_DEAD] = "DELETE FROM dead_letters WHERE id IN (SELECT id "
					"FROM dead_letters ORDER BY died_at, id LIMIT ?1)",
	[QUEUE_STATEMENT_LOOK] = "SELECT id, topic, length(payload) FROM queue "
				 "WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
	[QUEUE_STATEMENT_LOOK_DEAD] = "SELECT id, topic, length(payload) FROM dead_letters "
				      "WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
	[QUEUE_STATEMENT_DEAD] = "SELECT id, topic, payload, qos, retained, timestamp "
				 "FROM dead_letters WHERE id = ?1",
	[QUEUE_STATEMENT_REMOVE_DEAD] = "DELETE FROM dead_letters WHERE id = ?1",
	[QUEUE_STATEMENT_FIRST_TIMESTAMP] = "SELECT timestamp FROM queue ORDER BY id LIMIT 1",
};

/* Steps a statement that returns no row, and resets it. */
int queue_run(struct queue *q, enum queue_statement s)
{
	sqlite3_stmt *stmt = q->statements[s];
	int rc;

	rc = sqlite3_step(stmt);
	if (rc != SQLITE_DONE) {
		int r = queue_sql_fail(q->db, rc, queue_statement_sql[s]);

		sqlite3_reset(stmt);
		return r;
	}
	sqlite3_reset(stmt);
	return 0;
}

int queue_integer(struct queue *q, enum queue_statement s, int64_t *ret)
{
	sqlite3_stmt *stmt = q->statements[s];
	int rc, r = 0;

	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(stmt, 0);
	else if (rc == SQLITE_DONE)
		r = -ENODATA;
	else
		r = queue_sql_fail(q->db, rc, queue_statement_sql[s]);
	sqlite3_reset(stmt);
	return r;
}

int queue_bind_failed(struct queue *q, enum queue_statement s, int rc)
{
	sqlite3_clear_bindings(q->statements[s]);
	return queue_sql_fail(q->db, rc, queue_statement_sql[s]);
}

int queue_prepare(struct queue *q)
{
	for (size_t i = 0; i < N_QUEUE_STATEMENTS; i++) {
		int r = queue_sql_prepare(q->db, queue_statement_sql[i], &q->statements[i]);

		if (r < 0)
			return r;
	}
	return queue_batch_open(q);
}

void queue_finalize(struct queue *q)
{
	queue_batch_close(q);
	for (size_t i = 0; i < N_QUEUE_STATEMENTS; i++) {
		sqlite3_finalize(q->statements[i]);
		q->statements[i] = NULL;
	}
}

int queue_new(struct queue **ret, const struct queue_params *params)
{
	struct queue *q;
	int r;

	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->lock_fd = -1;
	q->params = *params;
	q->params.path = strdup(params->path);
	if (!q->params.path) {
		free(q);
		return -ENOMEM;
	}
	r = queue_vfs_new(&q->vfs);
	if (r == 0)
		r = queue_open(q);
	if (r == 0)
		r = queue_space_start(q);
	if (r < 0) {
		queue_free(q, false);
		return r;
	}
	r = queue_age_open(q);
	if (r < 0) {
		queue_free(q, false);
		return r;
	}
	/* Without it the queue works as well, until the disk is full. */
	r = queue_refill_reserve(q);
	if (r < 0)
		log_warning("%s.reserve: cannot set space aside for a full disk: %s",
			q->params.path, strerrordesc_np(-r));
	*ret = q;
	return 0;
}

static int close_orderly(struct queue *q)
{
	int r, rc;

	r = queue_begin(q, true);
	if (r == 0)
		r = queue_age_end(q);
	if (r < 0)
		return r;
	/* Also upwards: ids of a failed transaction may lie beyond the block that is committed. */
	if (q->reserved != q->next_id - 1) {
		rc = sqlite3_bind_int64(
			q->statements[QUEUE_STATEMENT_RESERVE], 1, (sqlite3_int64)(q->next_id - 1));
		if (rc != SQLITE_OK)
			return queue_bind_failed(q, QUEUE_STATEMENT_RESERVE, rc);
		r = queue_run(q, QUEUE_STATEMENT_RESERVE);
		if (r < 0)
			return r;
	}
	r = queue_sql_exec(q->db, "UPDATE meta SET value = 0 WHERE key = 'unclean_start'",
		"cannot note the stop");
	if (r < 0)
		return r;
	return queue_commit(q);
}

struct queue *queue_free(struct queue *q, bool orderly)
{
	if (!q)
		return NULL;
	queue_rollback(q);
	if (orderly && q->db && close_orderly(q) < 0)
		queue_rollback(q);
	queue_age_close(q);
	queue_finalize(q);
	if (q->db && sqlite3_close(q->db) != SQLITE_OK) {
		log_error("queue: connection still in use at the close");
		sqlite3_close_v2(q->db);
		q->vfs = NULL; /* which it goes on using */
	}
	queue_vfs_free(q->vfs);
	/* The lock goes last. Its file stays: removing it would race with a successor. */
	if (q->lock_fd >= 0)
		close(q->lock_fd);
	free((char *)q->params.path);
	free(q);
	return NULL;
}

static int set_synchronous(struct queue *q, bool full)
{
	int r;

	if (q->synchronous_full == full)
		return 0;
	r = queue_sql_exec(q->db,
		full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL",
		"cannot set synchronous");
	if (r < 0)
		return r;
	q->synchronous_full = full;
	return 0;
}

/*
 * The reader may have the lock: where SQLite reads the header of the log's index while it is
 * written, it takes that lock to look again (walIndexReadHdr() in wal.c), and lets go at once,
 * unless it is not given the processor. Whoever has it for longer is no reader.
 */
static int wait_for_reader(void *userdata, int n)
{
	(void)userdata;
	usleep(1000);
	return n < BEGIN_BUSY_MSEC;
}

int queue_begin(struct queue *q, bool durable)
{
	int r;

	q->durable = durable;
	r = set_synchronous(q, durable && q->params.sync_full);
	if (r < 0)
		return r;
	sqlite3_busy_handler(q->db, wait_for_reader, NULL);
	r = queue_run(q, QUEUE_STATEMENT_BEGIN);
	sqlite3_busy_handler(q->db, NULL, NULL);
	if (r < 0)
		return r;
	q->in_transaction = true;
	queue_age_begin(q);
	q->messages_delta = q->dead_letters_delta = 0;
	return 0;
}

bool queue_in_transaction(const struct queue *q)
{
	return q->in_transaction;
}

static int reserve_ids(struct queue *q, uint64_t upto)
{
	int rc, r;

	rc = sqlite3_bind_int64(q->statements[QUEUE_STATEMENT_RESERVE], 1, (sqlite3_int64)upto);
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_RESERVE, rc);
	r = queue_run(q, QUEUE_STATEMENT_RESERVE);
	if (r < 0)
		return r;
	q->reserved = upto;
	return 0;
}

int queue_append(struct queue *q, const struct message *m, uint64_t claimed, uint64_t *ret_id)
{
	int r;

	r = queue_batch_judge(q, m);
	if (r < 0)
		return r;
	r = queue_admit(q, m, claimed);
	if (r < 0)
		return r;

	if (q->next_id > q->reserved) {
		r = reserve_ids(q, q->next_id + ID_BLOCK - 1);
		if (r < 0)
			return r;
	}
	r = queue_batch_add(q, m, q->next_id);
	if (r < 0)
		return r;
	q->messages_delta++;
	queue_admitted(q, m);
	*ret_id = q->next_id++;
	return queue_age_append(q, m, *ret_id);
}

static int compare_ids(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int queue_remove_range(struct queue *q, uint64_t first, uint64_t last)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_REMOVE];
	int rc, r;

	r = queue_batch_flush(q);
	if (r < 0)
		return r;
	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)first);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)last);
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_REMOVE, rc);
	r = queue_run(q, QUEUE_STATEMENT_REMOVE);
	if (r < 0)
		return r;
	q->messages_delta -= sqlite3_changes64(q->db);
	return 0;
}

/* Brokers mostly answer in the order in which they are asked. */
static bool is_ascending(const uint64_t *ids, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (ids[i] < ids[i - 1])
			return false;
	return true;
}

int queue_remove(struct queue *q, uint64_t *ids, size_t n)
{
	if (!is_ascending(ids, n))
		qsort(ids, n, sizeof(*ids), compare_ids);
	for (size_t i = 0; i < n;) {
		size_t j = i + 1;
		int r;

		while (j < n && ids[j] - ids[j - 1] <= 1)
			j++;
		r = queue_remove_range(q, ids[i], ids[j - 1]);
		if (r < 0)
			return r;
		i = j;
	}
	return 0;
}

int queue_condemn(struct queue *q, uint64_t id, const char *reason)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_CONDEMN];
	int rc, r;

	r = queue_batch_flush(q);
	if (r < 0)
		return r;
	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)id);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 2, reason, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 3, now_epoch_msec());
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_CONDEMN, rc);
	r = queue_run(q, QUEUE_STATEMENT_CONDEMN);
	sqlite3_clear_bindings(stmt);
	if (r < 0)
		return r;
	q->dead_letters_delta += sqlite3_changes64(q->db);
	return queue_remove_range(q, id, id);
}

static int set_meta_bound(struct queue *q)
{
	int r = queue_run(q, QUEUE_STATEMENT_META);

	sqlite3_clear_bindings(q->statements[QUEUE_STATEMENT_META]);
	return r;
}

int queue_set_meta(struct queue *q, const char *key, const char *value)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_META];
	int rc;

	rc = sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_META, rc);
	return set_meta_bound(q);
}

static int set_count(struct queue *q, const char *key, int64_t value)
{
	sqlite3_stmt *stmt = q->statements[QUEUE_STATEMENT_META];
	int rc;

	rc = sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 2, value);
	if (rc != SQLITE_OK)
		return queue_bind_failed(q, QUEUE_STATEMENT_META, rc);
	return set_meta_bound(q);
}

int queue_savepoint(struct queue *q)
{
	int r = queue_batch_flush(q);

	if (r < 0)
		return r;
	q->saved_messages_delta = q->messages_delta;
	q->saved_dead_letters_delta = q->dead_letters_delta;
	q->space.saved_written = q->space.written;
	return queue_run(q, QUEUE_STATEMENT_SAVEPOINT);
}

int queue_savepoint_release(struct queue *q)
{
	return queue_run(q, QUEUE_STATEMENT_RELEASE);
}

int queue_savepoint_rollback(struct queue *q)
{
	int r;

	/* SQLite gives up the whole transaction on some errors. */
	if (sqlite3_get_autocommit(q->db))
		return -EIO;
	r = queue_run(q, QUEUE_STATEMENT_BACK);
	if (r < 0)
		return r;
	/* What was added since the savepoint. */
	queue_batch_forget(q);
	q->messages_delta = q->saved_messages_delta;
	q->dead_letters_delta = q->saved_dead_letters_delta;
	/* Not less than they are: what is estimated is looked at again before it refuses. */
	q->space.written = q->space.saved_written;
	return queue_run(q, QUEUE_STATEMENT_RELEASE);
}

/* Changes a page, whatever it is worth: SQLite writes nothing for a value that stays the same. */
static int touch(struct queue *q)
{
	return reserve_ids(q, u64_max(q->reserved, q->next_id - 1) + 1);
}

/*
 * A COMMIT whose sync failed has left all of its frames in the log: a process that is killed now
 * would find the refused rows there and deliver them. A small transaction that asks for no sync
 * writes over the first of these frames, and what follows it counts no more. Best effort: the
 * failure is reported already, and queue_probe() does the same again.
 */
static void overwrite_refused(struct queue *q)
{
	if (queue_begin(q, false) < 0)
		return;
	if (touch(q) == 0 && queue_run(q, QUEUE_STATEMENT_COMMIT) == 0) {
		q->in_transaction = false;
		q->reserved_committed = q->reserved;
	}
	queue_rollback(q);
}

/* What belongs to every transaction, before it is committed. */
static int complete(struct queue *q, uint64_t *ret_pages, uint64_t *ret_free)
{
	int r;

	r = queue_batch_flush(q);
	if (r == 0)
		r = queue_trim_dead_letters(q);
	if (r == 0 && q->messages_delta != 0)
		r = set_count(q, "queue_messages", q->messages + q->messages_delta);
	if (r == 0 && q->dead_letters_delta != 0)
		r = set_count(q, "dead_letters", q->dead_letters + q->dead_letters_delta);
	if (r == 0)
		r = queue_age_commit(q);
	if (r == 0)
		r = queue_space_look(q, ret_pages, ret_free);
	return r;
}

int queue_commit(struct queue *q)
{
	uint64_t pages, free_pages;
	int r;

	r = complete(q, &pages, &free_pages);
	if (r < 0) {
		queue_rollback(q);
		return r;
	}
	r = queue_run(q, QUEUE_STATEMENT_COMMIT);
	if (r < 0) {
		queue_rollback(q);
		overwrite_refused(q);
		/* Then the next one finds room in the log. */
		if (r == -ENOSPC || r == -EDQUOT)
			queue_log_move(q);
		return r;
	}
	q->in_transaction = false;
	q->messages += q->messages_delta;
	q->dead_letters += q->dead_letters_delta;
	q->messages_delta = q->dead_letters_delta = 0;
	q->stats.dropped_dead_letters += q->dropped_dead_letters;
	q->dropped_dead_letters = 0;
	q->reserved_committed = q->reserved;
	q->last_id = q->next_id - 1;
	q->stats.commits++;
	queue_space_committed(q, pages, free_pages);
	queue_log_committed(q);
	queue_age_committed(q);
	return 0;
}

void queue_rollback(struct queue *q)
{
	if (!q->in_transaction)
		return;
	/* SQLite rolls back by itself on some errors; then there is nothing left to do. */
	if (!sqlite3_get_autocommit(q->db))
		(void)queue_run(q, QUEUE_STATEMENT_ROLLBACK);
	q->in_transaction = false;
	q->messages_delta = q->dead_letters_delta = 0;
	q->dropped_dead_letters = 0;
	queue_batch_forget(q);
	queue_space_rolled_back(q);
	queue_log_rolled_back(q);
	/* The block reserved in this transaction is gone; next_id stays: no id is given twice. */
	q->reserved = q->reserved_committed;
	queue_age_rolled_back(q);
}

uint64_t queue_messages(const struct queue *q)
{
	return (uint64_t)q->messages;
}

uint64_t queue_dead_letters(const struct queue *q)
{
	return (uint64_t)q->dead_letters;
}

uint64_t queue_last_id(const struct queue *q)
{
	return q->last_id;
}

int queue_oldest(struct queue *q, int64_t *ret_timestamp)
{
	return queue_integer(q, QUEUE_STATEMENT_FIRST_TIMESTAMP, ret_timestamp);
}

int queue_probe(struct queue *q)
{
	int r;

	r = queue_begin(q, true);
	if (r < 0)
		return r;
	r = touch(q);
	if (r < 0) {
		queue_rollback(q);
		return r;
	}
	r = queue_commit(q);
	if (r == 0 && queue_is_stuck(q))
		queue_log_move(q);
	return r == 0 && queue_is_stuck(q) ? -ENOSPC : r;
}

void queue_get_stats(const struct queue *q, struct queue_stats *ret)
{
	*ret = q->stats;
	ret->bytes = (q->space.pages - q->space.free_pages) * q->space.page_size + q->log.bytes;
	ret->syncs = queue_vfs_syncs(q->vfs);
	ret->written_bytes = queue_vfs_written_bytes(q->vfs);
	ret->messages = (uint64_t)q->messages;
	ret->dead_letters = (uint64_t)q->dead_letters;
}
