/* SPDX-License-Identifier: MIT */
/*
 * Errors, statements and schema: see queue_sql.h.
 */
#include "queue_sql.h"

#include <errno.h>

#include "log.h"
#include "queue_vfs.h"

/* Each migration brings user_version from its index to its index + 1. */
static const char *const migrations[] = {
#include "sql-001.inc"
#include "sql-002.inc"
};

_Static_assert(ARRAY_SIZE(migrations) == QUEUE_SCHEMA_VERSION, "one migration a version");

int queue_sql_errno(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE: return 0;
	case SQLITE_FULL: return -ENOSPC;
	case SQLITE_NOMEM: return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED: return -EBUSY;
	case SQLITE_READONLY: return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH: return -EACCES;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB: return -EUCLEAN;
	case SQLITE_CONSTRAINT:
	case SQLITE_MISMATCH: return -EINVAL;
	case SQLITE_TOOBIG: return -EMSGSIZE;
	default: return -EIO;
	}
}

int queue_sql_fail(sqlite3 *db, int rc, const char *what)
{
	const char *file = db ? sqlite3_db_filename(db, "main") : NULL;
	int system_errno = db ? sqlite3_system_errno(db) : 0;
	int r = queue_sql_errno(rc);

	if ((rc & 0xff) == SQLITE_FULL)
		system_errno = queue_vfs_full_errno(db);
	if (system_errno == ENOSPC || system_errno == EDQUOT)
		r = -system_errno;
	log_write(queue_vfs_tells(db, rc) ? LOG_ERR : LOG_DEBUG, NULL,
		"%s: %s: %s (SQLite code %d%s%s)", file ? file : "queue", what,
		db ? sqlite3_errmsg(db) : sqlite3_errstr(rc), rc, system_errno ? ", " : "",
		system_errno ? strerrordesc_np(system_errno) : "");
	return r < 0 ? r : -EIO;
}

int queue_sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret)
{
	sqlite3_stmt *stmt = NULL;
	int rc;

	rc = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
	if (rc != SQLITE_OK)
		return queue_sql_fail(db, rc, sql);
	*ret = stmt;
	return 0;
}

int queue_sql_exec(sqlite3 *db, const char *sql, const char *what)
{
	int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? 0 : queue_sql_fail(db, rc, what);
}

int queue_sql_integer(sqlite3 *db, const char *sql, int64_t *ret)
{
	sqlite3_stmt *stmt = NULL;
	int rc, r;

	r = queue_sql_prepare(db, sql, &stmt);
	if (r < 0)
		return r;
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(stmt, 0);
	else if (rc == SQLITE_DONE)
		r = -ENODATA;
	else
		r = queue_sql_fail(db, rc, sql);
	sqlite3_finalize(stmt);
	return r;
}

static int migrate_step(sqlite3 *db, int64_t version)
{
	char pragma[64];
	int r;

	r = queue_sql_exec(db, "BEGIN IMMEDIATE", "cannot begin the migration");
	if (r < 0)
		return r;
	r = queue_sql_exec(db, migrations[version], "cannot apply the schema");
	if (r < 0)
		goto rollback;
	sqlite3_snprintf(sizeof(pragma), pragma, "PRAGMA user_version = %d", (int)version + 1);
	r = queue_sql_exec(db, pragma, "cannot set the schema version");
	if (r < 0)
		goto rollback;
	r = queue_sql_exec(db, "COMMIT", "cannot commit the schema");
	if (r < 0)
		goto rollback;
	return 0;

rollback:
	if (!sqlite3_get_autocommit(db))
		(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int queue_sql_migrate_to(sqlite3 *db, int64_t version, int64_t to)
{
	for (; version < to; version++) {
		int r = migrate_step(db, version);

		if (r < 0)
			return r;
	}
	return 0;
}

int queue_sql_migrate(sqlite3 *db, int64_t version)
{
	return queue_sql_migrate_to(db, version, QUEUE_SCHEMA_VERSION);
}

static bool is_integer(sqlite3_value *value, int64_t least, int64_t most)
{
	return sqlite3_value_type(value) == SQLITE_INTEGER && sqlite3_value_int64(value) >= least &&
		sqlite3_value_int64(value) <= most;
}

static const char *take_topic(sqlite3_value *value, struct message *m)
{
	if (sqlite3_value_type(value) != SQLITE_TEXT)
		return "its topic is no text";
	m->topic_len = (size_t)sqlite3_value_bytes(value);
	if (m->topic_len == 0 || m->topic_len > UINT16_MAX)
		return "its topic is empty or too long";
	m->topic = (const char *)sqlite3_value_text(value); /* may take memory */
	/* It would be taken to end there, for another topic. */
	return m->topic && strlen(m->topic) != m->topic_len ? "its topic holds a NUL" : NULL;
}

static const char *take_payload(sqlite3_value *value, struct message *m)
{
	if (sqlite3_value_type(value) != SQLITE_BLOB)
		return "its payload is no blob";
	m->payload = sqlite3_value_blob(value);
	m->payload_len = (size_t)sqlite3_value_bytes(value);
	return NULL;
}

const char *queue_sql_row(sqlite3_stmt *stmt, struct message *ret)
{
	/* Each column's value once: six calls that look after a statement instead of twenty. SQLite
	 * calls such values unprotected: against other threads, of which no statement here has two.
	 */
	sqlite3_value *id = sqlite3_column_value(stmt, 0);
	sqlite3_value *qos = sqlite3_column_value(stmt, 3);
	sqlite3_value *retained = sqlite3_column_value(stmt, 4);
	sqlite3_value *timestamp = sqlite3_column_value(stmt, 5);
	const char *fault;

	*ret = (struct message){ 0 };
	if (!is_integer(id, 1, INT64_MAX))
		return "its id is no positive number";
	ret->id = (uint64_t)sqlite3_value_int64(id);
	fault = take_topic(sqlite3_column_value(stmt, 1), ret);
	if (!fault)
		fault = take_payload(sqlite3_column_value(stmt, 2), ret);
	if (fault)
		return fault;
	if (!is_integer(qos, 0, 2))
		return "its qos is not 0, 1 or 2";
	ret->qos = (uint8_t)sqlite3_value_int64(qos);
	if (!is_integer(retained, 0, 1))
		return "its retained is not 0 or 1";
	ret->retain = sqlite3_value_int64(retained) != 0;
	if (!is_integer(timestamp, INT64_MIN, INT64_MAX))
		return "its timestamp is no integer";
	ret->timestamp = sqlite3_value_int64(timestamp);
	return NULL;
}

bool queue_sql_row_is_whole(const struct message *m)
{
	return m->topic && (m->payload || m->payload_len == 0);
}
