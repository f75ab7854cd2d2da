/* SPDX-License-Identifier: MIT */
/*
 * The queue's reader: see queue_reader.h. Owns its connection and statements; writes nothing.
 */
#include "queue_reader.h"

#include <errno.h>

#include "log.h"
#include "queue_sql.h"
#include "queue_vfs.h"

/* Long enough for the writer to finish recovering a log; readers never wait for it otherwise. */
#define BUSY_TIMEOUT_MSEC 1000

struct queue_reader {
	struct queue_vfs *vfs;
	sqlite3 *db;
	sqlite3_stmt *rows;
	sqlite3_stmt *dead_rows; /* prepared when it is used */
	sqlite3_stmt *next_id;
	sqlite3_stmt *meta;
};

static int open_reader(struct queue_reader *r, const char *path)
{
	int rc, ret;

	ret = queue_vfs_new(&r->vfs);
	if (ret < 0)
		return ret;
	rc = sqlite3_open_v2(
		path, &r->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, queue_vfs_name(r->vfs));
	if (rc != SQLITE_OK)
		return queue_sql_fail(r->db, rc, "cannot open for reading");
	sqlite3_extended_result_codes(r->db, 1);
	sqlite3_busy_timeout(r->db, BUSY_TIMEOUT_MSEC);
	/* It goes forward: a page that was read is not read again. */
	ret = queue_sql_exec(r->db,
		"PRAGMA query_only = ON;"
		"PRAGMA trusted_schema = OFF;"
		"PRAGMA cell_size_check = ON;"
		"PRAGMA cache_size = -128;",
		"cannot set up the reading connection");
	if (ret < 0)
		return ret;
	ret = queue_sql_prepare(r->db,
		"SELECT id, topic, payload, qos, retained, timestamp FROM queue "
		"WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
		&r->rows);
	if (ret < 0)
		return ret;
	ret = queue_sql_prepare(
		r->db, "SELECT id FROM queue WHERE id > ?1 ORDER BY id LIMIT 1", &r->next_id);
	if (ret < 0)
		return ret;
	return queue_sql_prepare(r->db, "SELECT value FROM meta WHERE key = ?1", &r->meta);
}

int queue_reader_new(struct queue_reader **ret, const char *path)
{
	struct queue_reader *r;
	int k;

	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	k = open_reader(r, path);
	if (k < 0) {
		queue_reader_free(r);
		return k;
	}
	*ret = r;
	return 0;
}

struct queue_reader *queue_reader_free(struct queue_reader *r)
{
	if (!r)
		return NULL;
	sqlite3_finalize(r->rows);
	sqlite3_finalize(r->dead_rows);
	sqlite3_finalize(r->next_id);
	sqlite3_finalize(r->meta);
	sqlite3_close(r->db);
	queue_vfs_free(r->vfs);
	free(r);
	return NULL;
}

/* Rot, found in what was read. */
static int bad_row(struct queue_reader *r, sqlite3_stmt *stmt, const char *fault)
{
	const char *path = sqlite3_db_filename(r->db, "main");

	/* The alert is the store's, which sets the database aside. */
	log_error("%s: row %lld is damaged: %s", path, (long long)sqlite3_column_int64(stmt, 0),
		fault);
	return -EUCLEAN;
}

static int read_row(struct queue_reader *r, sqlite3_stmt *stmt, uint64_t after, struct message *m)
{
	const char *fault = queue_sql_row(stmt, m);

	if (!fault && m->id <= after)
		fault = "it is out of order";
	if (fault)
		return bad_row(r, stmt, fault);
	return queue_sql_row_is_whole(m) ? 0 : -ENOMEM;
}

/* Who is called with a row: one of the two. */
struct row_user {
	queue_reader_fn fn;
	queue_reader_dead_fn dead_fn;
	void *userdata;
};

static int use_row(struct queue_reader *r, sqlite3_stmt *stmt, const struct row_user *user,
	const struct message *m)
{
	const char *reason;

	if (user->fn)
		return user->fn(user->userdata, m);
	if (sqlite3_column_type(stmt, 6) != SQLITE_TEXT ||
		sqlite3_column_type(stmt, 7) != SQLITE_INTEGER)
		return bad_row(r, stmt, "its reason is no text, or its died_at no integer");
	reason = (const char *)sqlite3_column_text(stmt, 6);
	return reason ? user->dead_fn(user->userdata, m, reason, sqlite3_column_int64(stmt, 7))
		      : -ENOMEM;
}

static int walk(struct queue_reader *r, sqlite3_stmt *stmt, uint64_t after, uint64_t upto,
	unsigned limit, const struct row_user *user)
{
	unsigned n = 0;
	int rc, k = 0;

	sqlite3_bind_int64(stmt, 1, (sqlite3_int64)u64_min(after, INT64_MAX));
	sqlite3_bind_int64(stmt, 2, (sqlite3_int64)u64_min(upto, INT64_MAX));
	sqlite3_bind_int64(stmt, 3, limit);
	while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct message m;

		k = read_row(r, stmt, after, &m);
		if (k < 0)
			break;
		after = m.id;
		n++;
		k = use_row(r, stmt, user, &m);
		if (k != 0)
			break;
	}
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		k = queue_sql_fail(r->db, rc, "cannot read the queue");
	sqlite3_reset(stmt);
	if (k < 0)
		return k;
	return k > 0 || n >= limit;
}

int queue_reader_rows(struct queue_reader *r, uint64_t after, uint64_t upto, unsigned limit,
	queue_reader_fn fn, void *userdata)
{
	const struct row_user user = { .fn = fn, .userdata = userdata };

	return walk(r, r->rows, after, upto, limit, &user);
}

int queue_reader_dead_rows(struct queue_reader *r, uint64_t after, uint64_t upto, unsigned limit,
	queue_reader_dead_fn fn, void *userdata)
{
	const struct row_user user = { .dead_fn = fn, .userdata = userdata };
	int k = 0;

	if (!r->dead_rows)
		k = queue_sql_prepare(r->db,
			"SELECT id, topic, payload, qos, retained, timestamp, reason, died_at "
			"FROM dead_letters WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
			&r->dead_rows);
	return k < 0 ? k : walk(r, r->dead_rows, after, upto, limit, &user);
}

int queue_reader_next_id(struct queue_reader *r, uint64_t after, uint64_t *ret_id)
{
	int rc, k = 0;

	sqlite3_bind_int64(r->next_id, 1, (sqlite3_int64)after);
	rc = sqlite3_step(r->next_id);
	if (rc == SQLITE_ROW)
		*ret_id = (uint64_t)sqlite3_column_int64(r->next_id, 0);
	else if (rc == SQLITE_DONE)
		k = -ENODATA;
	else
		k = queue_sql_fail(r->db, rc, "cannot read the queue");
	sqlite3_reset(r->next_id);
	return k;
}

int queue_reader_meta(struct queue_reader *r, const char *key, char **ret)
{
	const char *text;
	char *copy;
	int rc, k = 0;

	rc = sqlite3_bind_text(r->meta, 1, key, -1, SQLITE_STATIC);
	if (rc != SQLITE_OK)
		return queue_sql_fail(r->db, rc, "cannot read meta");
	rc = sqlite3_step(r->meta);
	if (rc == SQLITE_ROW && sqlite3_column_type(r->meta, 0) != SQLITE_TEXT &&
		sqlite3_column_type(r->meta, 0) != SQLITE_INTEGER) {
		log_error("%s: meta has no text for %s", sqlite3_db_filename(r->db, "main"), key);
		k = -EUCLEAN;
	} else if (rc == SQLITE_ROW) {
		text = (const char *)sqlite3_column_text(r->meta, 0);
		copy = text ? strdup(text) : NULL;
		if (copy)
			*ret = copy;
		else
			k = -ENOMEM;
	} else if (rc == SQLITE_DONE) {
		k = -ENODATA;
	} else {
		k = queue_sql_fail(r->db, rc, "cannot read meta");
	}
	sqlite3_reset(r->meta);
	sqlite3_clear_bindings(r->meta);
	return k;
}
