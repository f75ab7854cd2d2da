/* SPDX-License-Identifier: MIT */
/*
 * The queue's writer. Owns the lock file, the writing connection and its statements.
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
#include "queue.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/file.h>

#include "log.h"
#include "queue_sql.h"

#define ID_BLOCK	       1000
#define OPEN_BUSY_TIMEOUT_MSEC 5000

enum statement {
	STATEMENT_BEGIN,
	STATEMENT_COMMIT,
	STATEMENT_ROLLBACK,
	STATEMENT_APPEND,
	STATEMENT_REMOVE,
	STATEMENT_CONDEMN,
	STATEMENT_RESERVE,
	STATEMENT_META,
	N_STATEMENTS,
};

static const char *const statement_sql[N_STATEMENTS] = {
	[STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
	[STATEMENT_COMMIT] = "COMMIT",
	[STATEMENT_ROLLBACK] = "ROLLBACK",
	[STATEMENT_APPEND] = "INSERT INTO queue (id, topic, payload, qos, retained, timestamp) "
			     "VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
	[STATEMENT_REMOVE] = "DELETE FROM queue WHERE id BETWEEN ?1 AND ?2",
	[STATEMENT_CONDEMN] = "INSERT INTO dead_letters (id, topic, payload, qos, retained, "
			      "timestamp, reason, died_at) SELECT id, topic, payload, qos, "
			      "retained, timestamp, ?2, ?3 FROM queue WHERE id = ?1",
	[STATEMENT_RESERVE] = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'queue'",
	[STATEMENT_META] = "INSERT INTO meta (key, value) VALUES (?1, ?2) "
			   "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
};

struct queue {
	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENTS];
	int lock_fd;
	bool sync_full;
	bool synchronous_full; /* what the connection is set to now */
	bool in_transaction;

	uint64_t next_id;
	uint64_t reserved; /* ids up to this one are reserved, in this transaction's eyes */
	uint64_t reserved_committed; /* the same, as committed */
	uint64_t last_id; /* highest id of a committed transaction */

	int64_t messages; /* committed */
	int64_t messages_delta; /* of the transaction under way */
	int64_t dead_letters; /* committed */
	int64_t dead_letters_delta;
};

/* Steps a statement that returns no row, and resets it. */
static int run(struct queue *q, enum statement s)
{
	sqlite3_stmt *stmt = q->statements[s];
	int rc;

	rc = sqlite3_step(stmt);
	if (rc != SQLITE_DONE) {
		int r = queue_sql_fail(q->db, rc, statement_sql[s]);

		sqlite3_reset(stmt);
		return r;
	}
	sqlite3_reset(stmt);
	return 0;
}

static int bind_failed(struct queue *q, enum statement s, int rc)
{
	sqlite3_clear_bindings(q->statements[s]);
	return queue_sql_fail(q->db, rc, statement_sql[s]);
}

static int lock_take(struct queue *q, const char *path)
{
	_cleanup_(freep) char *lock_path = NULL;

	if (asprintf(&lock_path, "%s.lock", path) < 0) {
		lock_path = NULL;
		return -ENOMEM;
	}
	q->lock_fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (q->lock_fd < 0) {
		int r = -errno;

		log_error("%s: cannot open the queue's lock file: %s; its directory must exist and "
			  "be writable for this user",
			lock_path, strerrordesc_np(-r));
		return r;
	}
	if (flock(q->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		int r = -errno;

		if (r != -EWOULDBLOCK) {
			log_error("%s: cannot lock: %s", lock_path, strerrordesc_np(-r));
			return r;
		}
		log_error("%s: another process has this queue open; stop it, or name another "
			  "queue.path",
			lock_path);
		return -EBUSY;
	}
	return 0;
}

/* Makes the names of the database's files durable, whatever order SQLite made them in. */
static int sync_directory(const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	_cleanup_(closep) int fd = -1;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0) {
		int r = -errno;

		log_error("%s: cannot sync its directory: %s", path, strerrordesc_np(-r));
		return r;
	}
	return 0;
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

/* Opens the file and sees whether it is ours, before anything can change a byte of it. */
static int open_database(struct queue *q, const char *path, int64_t *ret_version)
{
	int rc, r;

	rc = sqlite3_open_v2(path, &q->db,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc != SQLITE_OK) {
		log_error("%s: cannot open: %s", path,
			q->db ? sqlite3_errmsg(q->db) : sqlite3_errstr(rc));
		return q->db && sqlite3_system_errno(q->db) ? -sqlite3_system_errno(q->db) : -EIO;
	}
	sqlite3_extended_result_codes(q->db, 1);
	sqlite3_busy_timeout(q->db, OPEN_BUSY_TIMEOUT_MSEC);
	sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	r = queue_sql_check(q->db, ret_version);
	if (r < 0)
		return r;
	sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	/* auto_vacuum takes effect only before the first table. */
	return queue_sql_exec(q->db,
		"PRAGMA auto_vacuum = INCREMENTAL;"
		"PRAGMA trusted_schema = OFF;"
		"PRAGMA cell_size_check = ON;"
		"PRAGMA temp_store = MEMORY;"
		"PRAGMA cache_size = -2000;"
		"PRAGMA synchronous = FULL;",
		"cannot set up the connection");
}

static int set_wal(struct queue *q)
{
	sqlite3_stmt *stmt = NULL;
	const unsigned char *mode;
	int rc, r;

	r = queue_sql_prepare(q->db, "PRAGMA journal_mode = WAL", &stmt);
	if (r < 0)
		return r;
	rc = sqlite3_step(stmt);
	mode = rc == SQLITE_ROW ? sqlite3_column_text(stmt, 0) : NULL;
	if (rc != SQLITE_ROW)
		r = queue_sql_fail(q->db, rc, "cannot set journal_mode = WAL");
	else if (!mode || !streq((const char *)mode, "wal")) {
		log_error("%s: the file system does not take SQLite's write-ahead log",
			sqlite3_db_filename(q->db, "main"));
		r = -EOPNOTSUPP;
	}
	sqlite3_finalize(stmt);
	if (r < 0)
		return r;
	return queue_sql_exec(q->db,
		"PRAGMA wal_autocheckpoint = 1000;"
		"PRAGMA journal_size_limit = 8388608;",
		"cannot set up the write-ahead log");
}

/* What a former process left in the log goes into the database before anything is appended. */
static int checkpoint_truncate(struct queue *q)
{
	int rc = sqlite3_wal_checkpoint_v2(q->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);

	return rc == SQLITE_OK ? 0 : queue_sql_fail(q->db, rc, "cannot checkpoint at the start");
}

static int read_counts(struct queue *q)
{
	int64_t sequence, messages, dead_letters;
	int r;

	r = queue_sql_integer(
		q->db, "SELECT seq FROM sqlite_sequence WHERE name = 'queue'", &sequence);
	if (r < 0)
		return r;
	r = queue_sql_integer(
		q->db, "SELECT value FROM meta WHERE key = 'queue_messages'", &messages);
	if (r < 0)
		return r;
	r = queue_sql_integer(
		q->db, "SELECT value FROM meta WHERE key = 'dead_letters'", &dead_letters);
	if (r < 0)
		return r;
	q->dead_letters = dead_letters;
	q->last_id = (uint64_t)sequence;
	q->reserved = q->reserved_committed = q->last_id;
	q->next_id = q->last_id + 1;
	q->messages = messages;
	return 0;
}

/*
 * With synchronous = NORMAL a power cut takes rows whose ids a broker has seen; the ids would be
 * given again, so their sequence gets a new name. FULL never does.
 */
static int note_start(struct queue *q)
{
	int64_t unclean = 0;
	int r;

	r = queue_sql_integer(
		q->db, "SELECT value FROM meta WHERE key = 'unclean_start'", &unclean);
	if (r < 0)
		return r;
	if (unclean) {
		r = queue_sql_exec(q->db,
			"UPDATE meta SET value = lower(hex(randomblob(16))) "
			"WHERE key = 'queue_uuid'",
			"cannot renew queue_uuid");
		if (r < 0)
			return r;
	}
	if ((unclean != 0) == !q->sync_full)
		return 0;
	return queue_sql_exec(q->db,
		q->sync_full ? "UPDATE meta SET value = 0 WHERE key = 'unclean_start'"
			     : "UPDATE meta SET value = 1 WHERE key = 'unclean_start'",
		"cannot note the start");
}

static int prepare_all(struct queue *q)
{
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		int r = queue_sql_prepare(q->db, statement_sql[i], &q->statements[i]);

		if (r < 0)
			return r;
	}
	return 0;
}

static int open_all(struct queue *q, const struct queue_params *params)
{
	int64_t version;
	int r;

	r = lock_take(q, params->path);
	if (r < 0)
		return r;
	r = open_database(q, params->path, &version);
	if (r < 0)
		return r;
	r = set_wal(q);
	if (r < 0)
		return r;
	r = queue_sql_migrate(q->db, version);
	if (r < 0)
		return r;
	q->synchronous_full = true;
	r = note_start(q);
	if (r < 0)
		return r;
	r = checkpoint_truncate(q);
	if (r < 0)
		return r;
	r = sync_directory(params->path);
	if (r < 0)
		return r;
	r = prepare_all(q);
	if (r < 0)
		return r;
	r = read_counts(q);
	if (r < 0)
		return r;
	/* From here on a wait for somebody else's lock would stall every client. */
	sqlite3_busy_timeout(q->db, 0);
	return 0;
}

int queue_new(struct queue **ret, const struct queue_params *params)
{
	struct queue *q;
	int r;

	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->lock_fd = -1;
	q->sync_full = params->sync_full;
	r = open_all(q, params);
	if (r < 0) {
		queue_free(q, false);
		return r;
	}
	*ret = q;
	return 0;
}

static int close_orderly(struct queue *q)
{
	int r, rc;

	r = queue_begin(q, true);
	if (r < 0)
		return r;
	/* Also upwards: ids of a failed transaction may lie beyond the block that is committed. */
	if (q->reserved != q->next_id - 1) {
		rc = sqlite3_bind_int64(
			q->statements[STATEMENT_RESERVE], 1, (sqlite3_int64)(q->next_id - 1));
		if (rc != SQLITE_OK)
			return bind_failed(q, STATEMENT_RESERVE, rc);
		r = run(q, STATEMENT_RESERVE);
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
	for (size_t i = 0; i < N_STATEMENTS; i++)
		sqlite3_finalize(q->statements[i]);
	if (q->db && sqlite3_close(q->db) != SQLITE_OK) {
		log_error("queue: connection still in use at the close");
		sqlite3_close_v2(q->db);
	}
	/* The lock goes last. Its file stays: removing it would race with a successor. */
	if (q->lock_fd >= 0)
		close(q->lock_fd);
	free(q);
	return NULL;
}

int queue_begin(struct queue *q, bool durable)
{
	int r;

	r = set_synchronous(q, durable && q->sync_full);
	if (r < 0)
		return r;
	r = run(q, STATEMENT_BEGIN);
	if (r < 0)
		return r;
	q->in_transaction = true;
	q->messages_delta = q->dead_letters_delta = 0;
	return 0;
}

bool queue_in_transaction(const struct queue *q)
{
	return q->in_transaction;
}

static int reserve_ids(struct queue *q)
{
	uint64_t upto = q->next_id + ID_BLOCK - 1;
	int rc, r;

	rc = sqlite3_bind_int64(q->statements[STATEMENT_RESERVE], 1, (sqlite3_int64)upto);
	if (rc != SQLITE_OK)
		return bind_failed(q, STATEMENT_RESERVE, rc);
	r = run(q, STATEMENT_RESERVE);
	if (r < 0)
		return r;
	q->reserved = upto;
	return 0;
}

static int bind_message(sqlite3_stmt *stmt, const struct message *m, uint64_t id)
{
	int rc;

	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)id);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text64(
			stmt, 2, m->topic, m->topic_len, SQLITE_STATIC, SQLITE_UTF8);
	/* A NULL pointer would bind SQL NULL. */
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_blob64(
			stmt, 3, m->payload_len ? m->payload : "", m->payload_len, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int(stmt, 4, m->qos);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int(stmt, 5, m->retain);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 6, m->timestamp);
	return rc;
}

int queue_append(struct queue *q, const struct message *m, uint64_t *ret_id)
{
	int rc, r;

	if (q->next_id > q->reserved) {
		r = reserve_ids(q);
		if (r < 0)
			return r;
	}
	rc = bind_message(q->statements[STATEMENT_APPEND], m, q->next_id);
	if (rc != SQLITE_OK)
		return bind_failed(q, STATEMENT_APPEND, rc);
	r = run(q, STATEMENT_APPEND);
	if (r < 0)
		/* SQLite may have rolled the whole transaction back by itself. */
		return sqlite3_get_autocommit(q->db) && (r == -EINVAL || r == -EMSGSIZE) ? -EIO : r;
	q->messages_delta++;
	*ret_id = q->next_id++;
	return 0;
}

static int compare_ids(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int remove_range(struct queue *q, uint64_t first, uint64_t last)
{
	sqlite3_stmt *stmt = q->statements[STATEMENT_REMOVE];
	int rc, r;

	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)first);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)last);
	if (rc != SQLITE_OK)
		return bind_failed(q, STATEMENT_REMOVE, rc);
	r = run(q, STATEMENT_REMOVE);
	if (r < 0)
		return r;
	q->messages_delta -= sqlite3_changes64(q->db);
	return 0;
}

int queue_remove(struct queue *q, uint64_t *ids, size_t n)
{
	qsort(ids, n, sizeof(*ids), compare_ids);
	for (size_t i = 0; i < n;) {
		size_t j = i + 1;
		int r;

		while (j < n && ids[j] - ids[j - 1] <= 1)
			j++;
		r = remove_range(q, ids[i], ids[j - 1]);
		if (r < 0)
			return r;
		i = j;
	}
	return 0;
}

int queue_condemn(struct queue *q, uint64_t id, const char *reason)
{
	sqlite3_stmt *stmt = q->statements[STATEMENT_CONDEMN];
	int rc, r;

	rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)id);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 2, reason, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 3, now_epoch_msec());
	if (rc != SQLITE_OK)
		return bind_failed(q, STATEMENT_CONDEMN, rc);
	r = run(q, STATEMENT_CONDEMN);
	sqlite3_clear_bindings(stmt);
	if (r < 0)
		return r;
	q->dead_letters_delta += sqlite3_changes64(q->db);
	return remove_range(q, id, id);
}

static int set_meta_bound(struct queue *q)
{
	int r = run(q, STATEMENT_META);

	sqlite3_clear_bindings(q->statements[STATEMENT_META]);
	return r;
}

int queue_set_meta(struct queue *q, const char *key, const char *value)
{
	sqlite3_stmt *stmt = q->statements[STATEMENT_META];
	int rc;

	rc = sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
	if (rc != SQLITE_OK)
		return bind_failed(q, STATEMENT_META, rc);
	return set_meta_bound(q);
}

static int set_count(struct queue *q, const char *key, int64_t value)
{
	sqlite3_stmt *stmt = q->statements[STATEMENT_META];
	int rc;

	rc = sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(stmt, 2, value);
	if (rc != SQLITE_OK)
		return bind_failed(q, STATEMENT_META, rc);
	return set_meta_bound(q);
}

int queue_commit(struct queue *q)
{
	int r = 0;

	if (q->messages_delta != 0)
		r = set_count(q, "queue_messages", q->messages + q->messages_delta);
	if (r == 0 && q->dead_letters_delta != 0)
		r = set_count(q, "dead_letters", q->dead_letters + q->dead_letters_delta);
	if (r == 0)
		r = run(q, STATEMENT_COMMIT);
	if (r < 0) {
		queue_rollback(q);
		return r;
	}
	q->in_transaction = false;
	q->messages += q->messages_delta;
	q->dead_letters += q->dead_letters_delta;
	q->messages_delta = q->dead_letters_delta = 0;
	q->reserved_committed = q->reserved;
	q->last_id = q->next_id - 1;
	return 0;
}

void queue_rollback(struct queue *q)
{
	if (!q->in_transaction)
		return;
	/* SQLite rolls back by itself on some errors; then there is nothing left to do. */
	if (!sqlite3_get_autocommit(q->db))
		(void)run(q, STATEMENT_ROLLBACK);
	q->in_transaction = false;
	q->messages_delta = q->dead_letters_delta = 0;
	/* The block reserved in this transaction is gone; next_id stays: no id is given twice. */
	q->reserved = q->reserved_committed;
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
