/* SPDX-License-Identifier: MIT */
/*
 * Errors, statements and schema: see queue_sql.h.
 */
#include "queue_sql.h"

#include <errno.h>

#include "log.h"

/* Each migration brings user_version from its index to its index + 1. */
static const char *const migrations[] = {
#include "sql-001.inc"
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

	log_error("%s: %s: %s (SQLite code %d%s%s)", file ? file : "queue", what,
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

int queue_sql_check(sqlite3 *db, int64_t *ret_version)
{
	const char *file = sqlite3_db_filename(db, "main");
	int64_t version, tables, ours;
	int r;

	/* The first read; it finds a file that is no database. */
	r = queue_sql_integer(db, "PRAGMA user_version", &version);
	if (r < 0)
		return r;
	if (version > QUEUE_SCHEMA_VERSION) {
		log_error("%s: schema version %lld is newer than this program's %d; run the newer "
			  "program, or name another queue.path. Nothing was changed.",
			file, (long long)version, QUEUE_SCHEMA_VERSION);
		return -EPROTONOSUPPORT;
	}
	r = queue_sql_integer(db, "SELECT count(*) FROM sqlite_schema", &tables);
	if (r < 0)
		return r;
	r = queue_sql_integer(db,
		"SELECT count(*) FROM sqlite_schema "
		"WHERE type = 'table' AND name IN ('queue', 'dead_letters', 'meta')",
		&ours);
	if (r < 0)
		return r;
	if (version < 0 || (version == 0 && tables > 0) || (version > 0 && ours != 3)) {
		log_error("%s: is an SQLite database of another program (user_version %lld); name "
			  "another queue.path. Nothing was changed.",
			file, (long long)version);
		return -EUCLEAN;
	}
	*ret_version = version;
	return 0;
}

int queue_sql_migrate(sqlite3 *db, int64_t version)
{
	for (; version < QUEUE_SCHEMA_VERSION; version++) {
		int r = migrate_step(db, version);

		if (r < 0)
			return r;
	}
	return 0;
}
