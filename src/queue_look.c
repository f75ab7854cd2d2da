/* SPDX-License-Identifier: MIT */
/*
 * The look at the start: is this database ours, and are its ends sound? Takes the same time
 * whatever the number of rows.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "log.h"
#include "queue_rot.h"

static int _printf_(2, 3) rotten(struct queue_rot *rot, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(rot->text, sizeof(rot->text), format, ap);
	va_end(ap);
	return -EUCLEAN;
}

/* What reading with statements known to be right can stumble over in a damaged database. */
static bool is_rot(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_FORMAT:
	case SQLITE_ERROR:
	case SQLITE_MISMATCH:
	case SQLITE_TOOBIG: return true;
	default: return false;
	}
}

static int failed(sqlite3 *db, int rc, const char *what, struct queue_rot *rot)
{
	return is_rot(rc) ? rotten(rot, "%s: %s", what, sqlite3_errmsg(db))
			  : queue_sql_fail(db, rc, what);
}

/* Rows of one statement, from which the integers or types are taken. */
static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret, struct queue_rot *rot)
{
	int rc = sqlite3_prepare_v2(db, sql, -1, ret, NULL);

	return rc == SQLITE_OK ? 0 : failed(db, rc, "cannot read its schema", rot);
}

/* 0; -ENODATA without a row or with something that is no integer. */
static int integer(sqlite3 *db, const char *sql, int64_t *ret, struct queue_rot *rot)
{
	sqlite3_stmt *stmt = NULL;
	int rc, r;

	r = prepare(db, sql, &stmt, rot);
	if (r < 0)
		return r;
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW && sqlite3_column_type(stmt, 0) == SQLITE_INTEGER)
		*ret = sqlite3_column_int64(stmt, 0);
	else if (rc == SQLITE_ROW || rc == SQLITE_DONE)
		r = -ENODATA;
	else
		r = failed(db, rc, "cannot be read", rot);
	sqlite3_finalize(stmt);
	return r;
}

/* --- header ----------------------------------------------------------------------------------- */

/*
 * SQLite takes a file whose header asks for a newer program's rules as read-only, and one that is
 * cut short as sound until it needs a page of the missing part.
 */
static int look_at_header(sqlite3 *db, struct queue_rot *rot)
{
	sqlite3_file *file = NULL, *log = NULL;
	int64_t pages, page_size, missing;
	sqlite3_int64 size = 0, log_size = 0;
	unsigned char header[100];
	int r;

	r = integer(db, "PRAGMA page_count", &pages, rot);
	if (r == 0)
		r = integer(db, "PRAGMA page_size", &page_size, rot);
	if (r < 0)
		return r == -ENODATA ? rotten(rot, "its header cannot be read") : r;
	sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
	sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
	if (!file || !file->pMethods || pages == 0 ||
		file->pMethods->xFileSize(file, &size) != SQLITE_OK)
		return 0;
	if (log && log->pMethods && log->pMethods->xFileSize(log, &log_size) != SQLITE_OK)
		return 0;
	missing = pages - size / page_size;
	if (missing > 0 && missing > log_size / page_size)
		return rotten(rot, "the file is shorter than its header says: %lld pages of %lld",
			(long long)(size / page_size), (long long)pages);
	if (file->pMethods->xRead(file, header, sizeof(header), 0) == SQLITE_OK &&
		(header[18] < 1 || header[18] > 2 || header[19] < 1 || header[19] > 2))
		return rotten(rot, "its header names an unknown file format");
	return 0;
}

/* --- schema ----------------------------------------------------------------------------------- */

/* The columns of all tables but SQLite's own, one text a table. */
static const char table_columns[] =
	"SELECT m.name, (SELECT group_concat(c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' "
	"' "
	"|| c.pk, ', ') FROM pragma_table_info(m.name) AS c) FROM sqlite_schema AS m "
	"WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY m.name";

static const char table_found[] =
	"SELECT (SELECT group_concat(c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' "
	"|| c.pk, ', ') FROM pragma_table_info(?1) AS c)";

/* One table: 0 as it should be, 1 it is not, or -errno. */
static int compare_table(sqlite3_stmt *should, sqlite3_stmt *is, struct queue_rot *rot)
{
	const char *name = (const char *)sqlite3_column_text(should, 0);
	const char *expected = (const char *)sqlite3_column_text(should, 1);
	const char *found;
	int rc;

	if (!name || !expected)
		return -ENOMEM;
	rc = sqlite3_bind_text(is, 1, name, -1, SQLITE_TRANSIENT);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(is);
	if (rc != SQLITE_ROW) {
		int r = failed(sqlite3_db_handle(is), rc, "cannot read its schema", rot);

		sqlite3_reset(is);
		return r == -EUCLEAN ? 1 : r;
	}
	found = (const char *)sqlite3_column_text(is, 0);
	rc = 0;
	if (!found)
		rc = rotten(rot, "table %s is missing", name);
	else if (!streq(found, expected))
		rc = rotten(rot, "table %s has not the columns it should have: %s", name, found);
	sqlite3_reset(is);
	return rc < 0;
}

int queue_look_schema(sqlite3 *db, int64_t version,
	void (*finding)(void *userdata, const char *text), void *userdata)
{
	sqlite3_stmt *should = NULL, *is = NULL;
	struct queue_rot rot = { 0 };
	sqlite3 *model = NULL;
	int rc, r, n = 0;

	rc = sqlite3_open(":memory:", &model);
	r = rc == SQLITE_OK ? 0 : -ENOMEM;
	if (r == 0)
		r = queue_sql_migrate_to(model, 0, version);
	if (r == 0)
		r = queue_sql_prepare(model, table_columns, &should);
	if (r == 0) {
		r = prepare(db, table_found, &is, &rot);
		if (r == -EUCLEAN) {
			finding(userdata, rot.text);
			n++;
			r = 0;
			sqlite3_finalize(should);
			should = NULL;
		}
	}
	while (r == 0 && should && (rc = sqlite3_step(should)) == SQLITE_ROW) {
		r = compare_table(should, is, &rot);
		if (r == 1) {
			finding(userdata, rot.text);
			n++;
			r = 0;
		}
	}
	if (r == 0 && should && rc != SQLITE_DONE)
		r = queue_sql_fail(model, rc, "cannot read the schema built in");
	sqlite3_finalize(should);
	sqlite3_finalize(is);
	sqlite3_close(model);
	return r < 0 ? r : n;
}

static void keep_first(void *userdata, const char *text)
{
	struct queue_rot *rot = userdata;

	if (!rot->text[0])
		snprintf(rot->text, sizeof(rot->text), "%s", text);
}

static int look_at_schema(sqlite3 *db, int64_t *ret_version, struct queue_rot *rot)
{
	int64_t version, tables, ours;
	int r;

	/* The first read; it finds a file that is no database. */
	r = integer(db, "PRAGMA user_version", &version, rot);
	if (r < 0)
		return r;
	if (version > QUEUE_SCHEMA_VERSION) {
		log_error("%s: schema version %lld is newer than this program's %d; run the newer "
			  "program, or name another queue.path. Nothing was changed.",
			sqlite3_db_filename(db, "main"), (long long)version, QUEUE_SCHEMA_VERSION);
		return -EPROTONOSUPPORT;
	}
	r = integer(db, "SELECT count(*) FROM sqlite_schema", &tables, rot);
	if (r < 0)
		return r;
	r = integer(db,
		"SELECT count(*) FROM sqlite_schema "
		"WHERE type = 'table' AND name IN ('queue', 'dead_letters', 'meta')",
		&ours, rot);
	if (r < 0)
		return r;
	if (ours != 3 && (tables > 0 || version != 0)) {
		rot->foreign = ours == 0 && tables > 0;
		return rotten(rot, "%s (user_version %lld)",
			rot->foreign ? "it is a database of another program" : "tables are missing",
			(long long)version);
	}
	if (version < 0 || (version == 0 && tables > 0))
		return rotten(rot, "it has no schema version of ours (user_version %lld)",
			(long long)version);
	*ret_version = version;
	if (version == 0)
		return 0;
	r = queue_look_schema(db, version, keep_first, rot);
	return r > 0 ? -EUCLEAN : r;
}

/* --- rows ------------------------------------------------------------------------------------- */

static int look_at_end(sqlite3 *db, const char *sql, int64_t sequence, struct queue_rot *rot)
{
	sqlite3_stmt *stmt = NULL;
	struct message m;
	const char *fault;
	int rc, r;

	r = prepare(db, sql, &stmt, rot);
	if (r < 0)
		return r;
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		fault = queue_sql_row(stmt, &m);
		if (fault)
			r = rotten(rot, "row %lld: %s", (long long)sqlite3_column_int64(stmt, 0),
				fault);
		else if (sqlite3_column_int64(stmt, 0) > sequence)
			r = rotten(rot, "row %lld is beyond the ids given out, up to %lld",
				(long long)sqlite3_column_int64(stmt, 0), (long long)sequence);
	} else if (rc != SQLITE_DONE) {
		r = failed(db, rc, "its rows cannot be read", rot);
	}
	sqlite3_finalize(stmt);
	return r;
}

static int look_at_meta(sqlite3 *db, struct queue_rot *rot)
{
	static const char *const numbers[] = {
		"SELECT value FROM meta WHERE key = 'queue_messages'",
		"SELECT value FROM meta WHERE key = 'dead_letters'",
		"SELECT value FROM meta WHERE key = 'unclean_start'",
	};
	int64_t value;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		r = integer(db, numbers[i], &value, rot);
		if (r == -ENODATA || (r == 0 && value < 0))
			return rotten(rot, "meta has not the numbers it should have");
		if (r < 0)
			return r;
	}
	r = integer(db,
		"SELECT 1 FROM meta WHERE key = 'queue_uuid' AND typeof(value) = 'text' "
		"AND length(value) BETWEEN 1 AND 100",
		&value, rot);
	return r == -ENODATA ? rotten(rot, "meta has no queue_uuid") : r;
}

/* A new one has its first page at most: tables come all at once, with the version. */
static int look_at_emptiness(sqlite3 *db, struct queue_rot *rot)
{
	int64_t pages;
	int r;

	r = integer(db, "PRAGMA page_count", &pages, rot);
	if (r < 0)
		return r;
	return pages > 1 ? rotten(rot, "it has %lld pages and no tables", (long long)pages) : 0;
}

int queue_look(sqlite3 *db, int64_t *ret_version, struct queue_rot *ret_rot)
{
	int64_t version = 0, sequence;
	int r;

	*ret_rot = (struct queue_rot){ 0 };
	r = look_at_schema(db, &version, ret_rot);
	if (r < 0)
		return r;
	r = look_at_header(db, ret_rot);
	if (r < 0)
		return r;
	*ret_version = version;
	if (version == 0)
		return look_at_emptiness(db, ret_rot);
	r = look_at_meta(db, ret_rot);
	if (r < 0)
		return r;
	r = integer(db, "SELECT seq FROM sqlite_sequence WHERE name = 'queue'", &sequence, ret_rot);
	if (r == -ENODATA || (r == 0 && sequence < 0))
		return rotten(ret_rot, "the ids given out are not known");
	if (r < 0)
		return r;
	r = look_at_end(db,
		"SELECT id, topic, payload, qos, retained, timestamp FROM queue "
		"ORDER BY id LIMIT 1",
		sequence, ret_rot);
	if (r < 0)
		return r;
	return look_at_end(db,
		"SELECT id, topic, payload, qos, retained, timestamp FROM queue "
		"ORDER BY id DESC LIMIT 1",
		sequence, ret_rot);
}
