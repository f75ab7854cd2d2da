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

const char *queue_sql_row_fault(sqlite3_stmt *stmt)
{
	const char *topic;
	int64_t qos, retained;

	if (sqlite3_column_type(stmt, 0) != SQLITE_INTEGER || sqlite3_column_int64(stmt, 0) <= 0)
		return "its id is no positive number";
	if (sqlite3_column_type(stmt, 1) != SQLITE_TEXT || sqlite3_column_bytes(stmt, 1) == 0 ||
		sqlite3_column_bytes(stmt, 1) > UINT16_MAX)
		return "its topic is no text, empty or too long";
	/* It would be taken to end there, for another topic. */
	topic = (const char *)sqlite3_column_text(stmt, 1);
	if (topic && strlen(topic) != (size_t)sqlite3_column_bytes(stmt, 1))
		return "its topic holds a NUL";
	if (sqlite3_column_type(stmt, 2) != SQLITE_BLOB)
		return "its payload is no blob";
	qos = sqlite3_column_int64(stmt, 3);
	if (sqlite3_column_type(stmt, 3) != SQLITE_INTEGER || qos < 0 || qos > 2)
		return "its qos is not 0, 1 or 2";
	retained = sqlite3_column_int64(stmt, 4);
	if (sqlite3_column_type(stmt, 4) != SQLITE_INTEGER || retained < 0 || retained > 1)
		return "its retained is not 0 or 1";
	if (sqlite3_column_type(stmt, 5) != SQLITE_INTEGER)
		return "its timestamp is no integer";
	return NULL;
}
