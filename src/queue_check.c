/* SPDX-License-Identifier: MIT */
/*
 * The whole check: see queue_check.h. All of it is of one moment, in one read transaction, so that
 * a gateway at work does not look wrong. A transaction that reads for long keeps the log from being
 * reset; that is the price of asking.
 */
#include "queue_check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "log.h"
#include "queue_rot.h"

#define BUSY_TIMEOUT_MSEC 5000

struct check {
	sqlite3 *db;
	void (*finding)(void *userdata, const char *text);
	void *userdata;
	unsigned n;
	struct queue_check_rows rows;
};

static void report(struct check *c, const char *text)
{
	if (c->n++ < QUEUE_CHECK_MAX_FINDINGS)
		c->finding(c->userdata, text);
}

static void report_one(void *userdata, const char *text)
{
	report(userdata, text);
}

static void _printf_(2, 3) found(struct check *c, const char *format, ...)
{
	char text[500];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	report(c, text);
}

/* What damage makes SQLite say is a finding; anything else keeps us from checking. */
static int failed(struct check *c, int rc, const char *what)
{
	switch (rc & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_ERROR:
	case SQLITE_TOOBIG: found(c, "%s: %s", what, sqlite3_errmsg(c->db)); return 0;
	default: return queue_sql_fail(c->db, rc, what);
	}
}

/* Calls `row` for each row. 0 or -errno. */
static int each(struct check *c, const char *sql, const char *what,
	void (*row)(struct check *c, sqlite3_stmt *stmt, void *data), void *data)
{
	sqlite3_stmt *stmt = NULL;
	int rc;

	rc = sqlite3_prepare_v2(c->db, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
			row(c, stmt, data);
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_DONE ? 0 : failed(c, rc, what);
}

static void on_integrity(struct check *c, sqlite3_stmt *stmt, void *data)
{
	const char *text = (const char *)sqlite3_column_text(stmt, 0);

	(void)data;
	if (text && !streq(text, "ok"))
		found(c, "integrity: %s", text);
}

struct rows {
	const char *table;
	int64_t n, last_id;
};

static void on_row(struct check *c, sqlite3_stmt *stmt, void *data)
{
	struct message m;
	const char *fault = queue_sql_row(stmt, &m);
	struct rows *rows = data;
	int64_t id = sqlite3_column_int64(stmt, 0);

	if (!fault && id <= rows->last_id)
		fault = "it is out of order";
	if (fault)
		found(c, "%s: row %lld: %s", rows->table, (long long)id, fault);
	rows->n++;
	rows->last_id = id;
}

static void on_dead_letter(struct check *c, sqlite3_stmt *stmt, void *data)
{
	on_row(c, stmt, data);
	if (sqlite3_column_type(stmt, 6) != SQLITE_TEXT ||
		sqlite3_column_type(stmt, 7) != SQLITE_INTEGER)
		found(c, "dead_letters: row %lld: its reason is no text or its died_at no integer",
			(long long)sqlite3_column_int64(stmt, 0));
}

static void on_integer(struct check *c, sqlite3_stmt *stmt, void *data)
{
	(void)c;
	if (sqlite3_column_type(stmt, 0) == SQLITE_INTEGER)
		*(int64_t *)data = sqlite3_column_int64(stmt, 0);
}

static int check_number(struct check *c, const char *sql, const char *name, int64_t rows)
{
	unsigned before = c->n;
	int64_t n = -1;
	int r;

	r = each(c, sql, "meta cannot be read", on_integer, &n);
	if (r == 0 && c->n == before && n != rows)
		found(c, "meta: %s is %lld, and there are %lld rows", name, (long long)n,
			(long long)rows);
	return r;
}

static int check_rows(struct check *c)
{
	struct rows messages = { .table = "queue" }, dead_letters = { .table = "dead_letters" };
	int64_t sequence = -1;
	unsigned before;
	int r;

	r = each(c, "SELECT id, topic, payload, qos, retained, timestamp FROM queue ORDER BY id",
		"queue cannot be read", on_row, &messages);
	if (r < 0)
		return r;
	r = each(c,
		"SELECT id, topic, payload, qos, retained, timestamp, reason, died_at "
		"FROM dead_letters ORDER BY id",
		"dead_letters cannot be read", on_dead_letter, &dead_letters);
	if (r < 0)
		return r;
	c->rows.messages = (uint64_t)messages.n;
	c->rows.dead_letters = (uint64_t)dead_letters.n;
	r = check_number(c, "SELECT value FROM meta WHERE key = 'queue_messages'", "queue_messages",
		messages.n);
	if (r < 0)
		return r;
	r = check_number(c, "SELECT value FROM meta WHERE key = 'dead_letters'", "dead_letters",
		dead_letters.n);
	if (r < 0)
		return r;
	before = c->n;
	r = each(c, "SELECT seq FROM sqlite_sequence WHERE name = 'queue'",
		"sqlite_sequence cannot be read", on_integer, &sequence);
	if (r == 0 && c->n == before && sequence < messages.last_id)
		found(c, "sqlite_sequence: ids are given out up to %lld, and there is row %lld",
			(long long)sequence, (long long)messages.last_id);
	return r;
}

static int check_schema(struct check *c)
{
	int64_t version = -1;
	int r;

	r = each(c, "PRAGMA user_version", "its header cannot be read", on_integer, &version);
	if (r < 0 || c->n > 0)
		return r;
	if (version < 1 || version > QUEUE_SCHEMA_VERSION) {
		found(c, "schema version %lld is not one of this program's, 1 to %d",
			(long long)version, QUEUE_SCHEMA_VERSION);
		return 0;
	}
	r = queue_look_schema(c->db, version, report_one, c);
	return r < 0 ? r : 0;
}

static int check_all(struct check *c)
{
	int r;

	sqlite3_extended_result_codes(c->db, 1);
	sqlite3_busy_timeout(c->db, BUSY_TIMEOUT_MSEC);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	r = queue_sql_exec(c->db,
		"PRAGMA query_only = ON;"
		"PRAGMA trusted_schema = OFF;"
		"PRAGMA cell_size_check = ON;"
		"BEGIN",
		"cannot set up the connection");
	if (r < 0)
		return r;
	r = check_schema(c);
	/* The rest would only say the same again, at length. */
	if (r < 0 || c->n > 0)
		return r;
	r = each(c, "PRAGMA integrity_check", "integrity", on_integrity, NULL);
	if (r < 0)
		return r;
	return check_rows(c);
}

int queue_check_whole(const char *path, void (*finding)(void *userdata, const char *text),
	void *userdata, struct queue_check_rows *ret_rows)
{
	struct check c = { .finding = finding, .userdata = userdata };
	int rc, r;

	rc = sqlite3_open_v2(path, &c.db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK)
		r = check_all(&c);
	else
		r = queue_sql_fail(c.db, rc, "cannot open for the check");
	sqlite3_close(c.db);
	if (r == 0 && c.n == 0 && ret_rows)
		*ret_rows = c.rows;
	return r < 0 ? r : c.n > 0;
}
