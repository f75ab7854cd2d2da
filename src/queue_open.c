/* SPDX-License-Identifier: MIT */
/*
 * Opening the queue: the lock file, whether the database is ours and sound, its schema, what a
 * former process left in the log, and the counts. A rotten database is set aside and makes no start
 * fail.
 *
 * Invariant: before the first row is accepted the log was checkpointed and truncated.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "event.h"
#include "log.h"
#include "queue_internal.h"
#include "queue_wal.h"
#include "queue_rot.h"

#define OPEN_BUSY_TIMEOUT_MSEC 5000

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

/* 0 when there is none. */
static int64_t log_size(const char *path)
{
	_cleanup_(freep) char *name = NULL;
	struct stat st;

	if (asprintf(&name, "%s-wal", path) < 0) {
		name = NULL;
		return 0;
	}
	return stat(name, &st) == 0 ? st.st_size : 0;
}

static void close_database(struct queue *q)
{
	sqlite3_close(q->db);
	q->db = NULL;
}

static int open_connection(struct queue *q, const char *path)
{
	int rc, r;

	rc = sqlite3_open_v2(path, &q->db,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
		queue_vfs_name(q->vfs));
	if (rc != SQLITE_OK) {
		log_error("%s: cannot open: %s", path,
			q->db ? sqlite3_errmsg(q->db) : sqlite3_errstr(rc));
		r = q->db && sqlite3_system_errno(q->db) ? -sqlite3_system_errno(q->db) : -EIO;
		close_database(q);
		return r;
	}
	sqlite3_extended_result_codes(q->db, 1);
	sqlite3_busy_timeout(q->db, OPEN_BUSY_TIMEOUT_MSEC);
	sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	return queue_sql_exec(q->db,
		"PRAGMA trusted_schema = OFF;"
		"PRAGMA cell_size_check = ON;"
		"PRAGMA temp_store = MEMORY;",
		"cannot set up the connection");
}

/*
 * Opens the file and sees whether it is ours and sound, before anything can change a byte of it.
 * What looks like rot may come of an I/O error that left its traces in SQLite's memory, so that
 * verdict must be found twice.
 */
static int open_and_look(
	struct queue *q, const char *path, int64_t *ret_version, struct queue_rot *ret_rot)
{
	bool had_log = log_size(path) > 0;
	int r = 0;

	for (unsigned i = 0; i < 2; i++) {
		r = open_connection(q, path);
		if (r == 0)
			r = queue_look(q->db, ret_version, ret_rot);
		if (r == 0 || !q->db)
			return r;
		/* SQLite made a log for a look at a database in WAL mode; it goes again. */
		if (!had_log)
			sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
		close_database(q);
		if (r != -EUCLEAN)
			break;
	}
	return r;
}

static int look_at_log(const char *path, struct queue_rot *rot)
{
	int r = queue_wal_is_lost(path);

	if (r < 0) {
		log_error("%s: cannot read its log: %s", path, strerrordesc_np(-r));
		return r;
	}
	if (r == 0)
		return 0;
	snprintf(rot->text, sizeof(rot->text), "its log is damaged from the beginning");
	return -EUCLEAN;
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
	if ((unclean != 0) == !q->params.sync_full)
		return 0;
	return queue_sql_exec(q->db,
		q->params.sync_full ? "UPDATE meta SET value = 0 WHERE key = 'unclean_start'"
				    : "UPDATE meta SET value = 1 WHERE key = 'unclean_start'",
		"cannot note the start");
}

/* Everything from a database that looks sound to one that rows can be appended to. */
static int make_ready(struct queue *q, const char *path, int64_t version)
{
	int r;

	sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	/* auto_vacuum takes effect only before the first table. Between transactions only the few
	 * pages are kept that every one of them needs; what one has changed, up to one megabyte,
	 * is not written before it ends. */
	r = queue_sql_exec(q->db,
		"PRAGMA auto_vacuum = INCREMENTAL;"
		"PRAGMA cache_size = -256;"
		"PRAGMA cache_spill = 256;"
		"PRAGMA synchronous = FULL;",
		"cannot set up the connection");
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
	r = queue_sync_directory(path);
	if (r < 0)
		return r;
	/* CHECKs are for other programs' statements: what is appended here was judged, and what is
	 * moved was appended. They would be a sixth of what a row costs. */
	r = queue_sql_exec(
		q->db, "PRAGMA ignore_check_constraints = ON", "cannot set up the connection");
	if (r < 0)
		return r;
	r = queue_prepare(q);
	if (r < 0)
		return r;
	r = read_counts(q);
	if (r < 0)
		return r;
	/* From here on a wait for somebody else's lock would stall every client. */
	sqlite3_busy_timeout(q->db, 0);
	return 0;
}

/* -EUCLEAN and *ret_rot: it is to be set aside; nothing is open then. */
static int try_open(struct queue *q, const char *path, bool rotten, struct queue_rot *ret_rot)
{
	int64_t version = 0;
	int r;

	r = open_and_look(q, path, &version, ret_rot);
	if (r < 0)
		return r;
	r = look_at_log(path, ret_rot);
	if (r == 0 && rotten) {
		snprintf(ret_rot->text, sizeof(ret_rot->text), "damage was met in use");
		r = -EUCLEAN;
	} else if (r == 0) {
		r = make_ready(q, path, version);
		if (r != -EUCLEAN)
			return r;
		snprintf(ret_rot->text, sizeof(ret_rot->text), "damage was met at the start");
	}
	/* Its log is set aside as it is. */
	sqlite3_db_config(q->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	queue_finalize(q);
	close_database(q);
	return r;
}

static int open_locked(struct queue *q)
{
	_cleanup_(freep) char *path = NULL;
	struct queue_rot rot = { 0 };
	int r;

	/* The files beside the database are beside the file itself, not beside a link to it. */
	path = realpath(q->params.path, NULL);
	if (!path)
		path = strdup(q->params.path);
	if (!path)
		return -ENOMEM;
	r = queue_quarantine_resume(path, &q->params);
	if (r < 0)
		return r;
	r = try_open(q, path, q->params.rotten, &rot);
	if (r != -EUCLEAN)
		return r;
	r = queue_quarantine(path, &rot, &q->params);
	if (r < 0)
		return r;
	q->params.rotten = false;
	if (q->params.ret_set_aside)
		*q->params.ret_set_aside = true;
	r = try_open(q, path, false, &rot);
	if (r == -EUCLEAN)
		log_event(EVENT_DATABASE_DAMAGED, &(struct event_fields){ .path = path },
			"%s: the new database is damaged, too: %s; check the disk and the memory "
			"of this machine",
			path, rot.text);
	return r;
}

int queue_open(struct queue *q)
{
	int r;

	r = lock_take(q, q->params.path);
	if (r < 0)
		return r;
	r = open_locked(q);
	/* A start has to write, too, if only the index of the log. */
	if ((r == -ENOSPC || r == -EDQUOT) && queue_drop_reserve(q)) {
		log_event(EVENT_RESERVE_GIVEN_UP,
			&(struct event_fields){ .path = q->params.path, .error = r },
			"%s: no space left: the reserve is given up for the start", q->params.path);
		queue_finalize(q);
		close_database(q);
		r = open_locked(q);
	}
	q->params.ret_set_aside = NULL;
	return r;
}
