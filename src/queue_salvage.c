/* SPDX-License-Identifier: MIT */
/*
 * What can be read of a rotten database, copied into a new one: see queue_rot.h.
 *
 * Ids stay. The notes on brokers' sessions are left out on purpose: no note means that a broker's
 * session is ended before it is used, which is right whatever it holds, while an old "clean" that
 * came back with the rot would not be. queue_uuid is a new one, since the ids of rows that could
 * not be read may come again. What was noted of the clock is left out for the same reason: then it
 * is not trusted until it is known to be right.
 *
 * The copy is on disk as a whole before it is marked complete; until then no commit waits for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "log.h"
#include "queue_pages.h"
#include "queue_rot.h"

#define BATCH_ROWS  10000
#define BATCH_BYTES (1U << 20)
/* Left free, or a sixteenth of a small file system: the gateway needs a log to go on with. */
#define MARGIN_BYTES (2U << 20)
/* One sync of everything at the end would keep the watchdog waiting. */
#define SYNC_BYTES (16U << 20)
/* Ids of rows that nobody knows of any more; at least a block of those that are reserved ahead. */
#define ID_MARGIN 10000
#define MAX_ID	  (INT64_MAX / 2)

struct salvage {
	sqlite3 *db;
	sqlite3_stmt *message, *dead_letter, *run, *meta;
	const char *path, *new_path;
	const struct queue_params *params;
	struct queue_salvaged *result;
	int64_t sequence, highest_id;
	uint64_t batch_rows, batch_bytes, unsynced_bytes;
	uint64_t alive_usec;
	bool full;
};

void queue_salvage_clear(const char *new_path)
{
	static const char *const suffixes[] = { "", "-journal", "-wal", "-shm" };

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		_cleanup_(freep) char *name = NULL;

		if (asprintf(&name, "%s%s", new_path, suffixes[i]) < 0)
			name = NULL;
		else
			(void)unlink(name);
	}
}

static void tell_alive(struct salvage *s)
{
	uint64_t now = now_usec();

	if (!s->params->alive || now - s->alive_usec < 100 * USEC_PER_MSEC)
		return;
	s->alive_usec = now;
	s->params->alive(s->params->userdata);
}

/* --- the new database ------------------------------------------------------------------------- */

static int open_new(struct salvage *s)
{
	int rc;

	rc = sqlite3_open_v2(s->new_path, &s->db,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc != SQLITE_OK)
		return queue_sql_fail(s->db, rc, "cannot make the new database");
	sqlite3_extended_result_codes(s->db, 1);
	return 0;
}

static int make_new(struct salvage *s)
{
	int r;

	r = open_new(s);
	if (r < 0)
		return r;
	r = queue_sql_exec(s->db,
		"PRAGMA auto_vacuum = INCREMENTAL;"
		"PRAGMA journal_mode = MEMORY;"
		"PRAGMA synchronous = OFF;"
		"PRAGMA temp_store = MEMORY;"
		"PRAGMA cache_size = -4000;"
		/* Also when the memory that queue_vfs.c gives for pages is used up before. */
		"PRAGMA cache_spill = 900;",
		"cannot set up the new database");
	if (r < 0)
		return r;
	r = queue_sql_migrate(s->db, 0);
	if (r < 0)
		return r;
	r = queue_sql_prepare(s->db,
		"INSERT INTO queue (id, topic, payload, qos, retained, timestamp) "
		"VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
		&s->message);
	if (r < 0)
		return r;
	r = queue_sql_prepare(s->db,
		"INSERT INTO dead_letters (id, topic, payload, qos, retained, timestamp, reason, "
		"died_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
		&s->dead_letter);
	if (r < 0)
		return r;
#if QUEUE_SCHEMA_VERSION >= 2
	r = queue_sql_prepare(s->db,
		"INSERT INTO unset_clock (first_id, last_id, boot_id, offset_msec) "
		"VALUES (?1, ?2, ?3, ?4)",
		&s->run);
	if (r < 0)
		return r;
#endif
	return queue_sql_prepare(s->db,
		"INSERT INTO meta (key, value) VALUES (?1, ?2) "
		"ON CONFLICT (key) DO UPDATE SET value = excluded.value",
		&s->meta);
}

static int close_new(struct salvage *s)
{
	int rc;

	sqlite3_finalize(s->message);
	sqlite3_finalize(s->dead_letter);
	sqlite3_finalize(s->run);
	sqlite3_finalize(s->meta);
	s->message = s->dead_letter = s->run = s->meta = NULL;
	rc = sqlite3_close(s->db);
	if (rc != SQLITE_OK)
		return queue_sql_fail(s->db, rc, "cannot close the new database");
	s->db = NULL;
	return 0;
}

static bool has_room(const struct salvage *s)
{
	struct statvfs st;

	if (statvfs(s->new_path, &st) < 0)
		return true; /* a write will tell */
	return (uint64_t)st.f_bavail * st.f_frsize >=
		u64_min(MARGIN_BYTES, (uint64_t)st.f_blocks * st.f_frsize / 16);
}

static int begin_batch(struct salvage *s)
{
	s->batch_rows = s->batch_bytes = 0;
	return queue_sql_exec(s->db, "BEGIN", "cannot carry rows over");
}

/*
 * No room for more. What was carried over last, a quarter of a mebibyte, makes room for the log
 * that the gateway needs to go on, since a quota does not tell beforehand how much there is.
 */
static int give_way(struct salvage *s)
{
	int64_t n;
	int r;

	s->full = true;
	if (!sqlite3_get_autocommit(s->db))
		(void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	r = queue_sql_exec(s->db,
		"DELETE FROM queue WHERE id >= (SELECT min(id) FROM (SELECT id, length(payload) "
		"AS own, sum(length(payload) + 100) OVER (ORDER BY id DESC) AS bytes FROM "
		"(SELECT id, payload FROM queue ORDER BY id DESC LIMIT 3000)) "
		"WHERE bytes - own <= 262144);"
		"PRAGMA incremental_vacuum",
		"cannot make room");
	if (r < 0)
		return r;
	r = queue_sql_integer(s->db, "SELECT count(*) FROM queue", &n);
	if (r < 0)
		return r;
	s->result->left_behind += s->result->messages - (uint64_t)n;
	s->result->messages = (uint64_t)n;
	r = queue_sql_integer(s->db, "SELECT count(*) FROM dead_letters", &n);
	if (r < 0)
		return r;
	s->result->left_behind += s->result->dead_letters - (uint64_t)n;
	s->result->dead_letters = (uint64_t)n;
	return begin_batch(s);
}

static int sync_file(struct salvage *s)
{
	sqlite3_file *file = NULL;

	sqlite3_file_control(s->db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
	return file && file->pMethods ? file->pMethods->xSync(file, SQLITE_SYNC_NORMAL) : SQLITE_OK;
}

static int end_batch(struct salvage *s)
{
	int rc = sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);

	if (queue_sql_errno(rc) == -ENOSPC && !s->full)
		return give_way(s);
	if (rc != SQLITE_OK)
		return queue_sql_fail(s->db, rc, "cannot carry rows over");
	s->full = s->full || !has_room(s);
	s->unsynced_bytes += s->batch_bytes + 20 * s->batch_rows;
	if (s->unsynced_bytes >= SYNC_BYTES) {
		s->unsynced_bytes = 0;
		rc = sync_file(s);
		if (rc != SQLITE_OK)
			return queue_sql_fail(s->db, rc, "cannot sync the new database");
	}
	return begin_batch(s);
}

/* --- rows ------------------------------------------------------------------------------------- */

static bool is_message(const struct queue_record *r)
{
	const struct queue_value *c = r->columns;

	return r->id > 0 && r->id <= MAX_ID && c[0].type == QUEUE_NULL && c[1].type == QUEUE_TEXT &&
		c[1].len > 0 && c[1].len <= UINT16_MAX && !memchr(c[1].bytes, 0, c[1].len) &&
		c[2].type == QUEUE_BLOB && c[3].type == QUEUE_INTEGER && c[3].integer >= 0 &&
		c[3].integer <= 2 && c[4].type == QUEUE_INTEGER &&
		(c[4].integer & ~INT64_C(1)) == 0 && c[5].type == QUEUE_INTEGER;
}

static bool is_dead_letter(const struct queue_record *r)
{
	return is_message(r) && r->columns[6].type == QUEUE_TEXT &&
		r->columns[7].type == QUEUE_INTEGER;
}

static int bind_value(sqlite3_stmt *stmt, int i, const struct queue_value *v)
{
	switch (v->type) {
	case QUEUE_INTEGER: return sqlite3_bind_int64(stmt, i, v->integer);
	case QUEUE_TEXT:
		return sqlite3_bind_text64(
			stmt, i, (const char *)v->bytes, v->len, SQLITE_STATIC, SQLITE_UTF8);
	case QUEUE_BLOB:
		/* A NULL pointer would bind SQL NULL. */
		return sqlite3_bind_blob64(
			stmt, i, v->len ? (const void *)v->bytes : "", v->len, SQLITE_STATIC);
	default: return sqlite3_bind_null(stmt, i);
	}
}

/* 0, -EINVAL: this row cannot be taken, or -errno. */
static int insert(struct salvage *s, sqlite3_stmt *stmt, const struct queue_record *record)
{
	int rc, r = 0;

	rc = sqlite3_bind_int64(stmt, 1, record->id);
	for (unsigned i = 1; i < record->n_columns && rc == SQLITE_OK; i++)
		rc = bind_value(stmt, (int)i + 1, &record->columns[i]);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc != SQLITE_DONE) {
		r = queue_sql_errno(rc);
		if (r == -EMSGSIZE)
			r = -EINVAL;
		if (r != -EINVAL && r != -ENOSPC)
			r = queue_sql_fail(s->db, rc, "cannot carry a row over");
	}
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return r;
}

static int carry(
	struct salvage *s, sqlite3_stmt *stmt, const struct queue_record *record, uint64_t *counter)
{
	int r;

	if (record->id > s->highest_id)
		s->highest_id = record->id;
	if (s->full) {
		s->result->left_behind++;
		return 0;
	}
	r = insert(s, stmt, record);
	if (r == -EINVAL) {
		s->result->bad_rows++;
		return 0;
	}
	if (r == -ENOSPC) {
		s->result->left_behind++;
		return give_way(s);
	}
	if (r < 0)
		return r;
	++*counter;
	for (unsigned i = 1; i < record->n_columns; i++)
		s->batch_bytes += record->columns[i].len;
	if (++s->batch_rows < BATCH_ROWS && s->batch_bytes < BATCH_BYTES)
		return 0;
	return end_batch(s);
}

static bool is_text(const struct queue_value *v, const char *text)
{
	return v->type == QUEUE_TEXT && v->len == strlen(text) &&
		memcmp(v->bytes, text, v->len) == 0;
}

/* Of sqlite_sequence, which has rowids, and of `meta`, which has none. */
static void take_pair(struct salvage *s, const struct queue_record *record)
{
	const struct queue_value *key = &record->columns[0], *value = &record->columns[1];

	if (value->type != QUEUE_INTEGER || value->integer < 0 || value->integer > MAX_ID)
		return;
	if (record->id > 0 && is_text(key, "queue") && value->integer > s->sequence)
		s->sequence = value->integer;
	else if (record->id == 0 && is_text(key, "queue_messages"))
		s->result->known_messages = value->integer;
	else if (record->id == 0 && is_text(key, "dead_letters"))
		s->result->known_dead_letters = value->integer;
}

/* Which rows a clock stamped that nobody had set: as exact as the rows. */
static int take_run(struct salvage *s, const struct queue_record *record)
{
	const struct queue_value *c = record->columns;
	int r;

	if (!s->run || record->id <= 0 || c[0].type != QUEUE_NULL || c[1].type != QUEUE_INTEGER ||
		c[1].integer < record->id || c[2].type != QUEUE_TEXT ||
		c[3].type != QUEUE_INTEGER || s->full)
		return 0;
	r = insert(s, s->run, record);
	if (r == -ENOSPC)
		return give_way(s);
	return r == -EINVAL ? 0 : r;
}

/* Each table of ours has its own number of columns. */
static int take_record(void *userdata, const struct queue_record *record)
{
	struct salvage *s = userdata;

	tell_alive(s);
	switch (record->n_columns) {
	case 2: take_pair(s, record); return 0;
	case 4: return take_run(s, record);
	case 6:
		if (is_message(record))
			return carry(s, s->message, record, &s->result->messages);
		break;
	case 8:
		if (is_dead_letter(record))
			return carry(s, s->dead_letter, record, &s->result->dead_letters);
		break;
	default: return 0;
	}
	s->result->bad_rows++;
	return 0;
}

static int take_rows(struct salvage *s)
{
	struct queue_pages *pages = NULL;
	int r;

	r = queue_pages_new(&pages, s->path);
	if (r < 0) {
		log_error("%s: cannot read what is left of it: %s", s->path, strerrordesc_np(-r));
		return r;
	}
	r = begin_batch(s);
	if (r == 0) {
		s->full = !has_room(s);
		r = queue_pages_records(
			pages, take_record, s, s->params->alive, s->params->userdata);
		if (r == -EIO && sqlite3_errcode(s->db) == SQLITE_OK)
			log_error("%s: the device does not give its pages", s->path);
	}
	s->result->bad_rows += queue_pages_bad_cells(pages);
	s->result->bad_pages = queue_pages_bad_pages(pages);
	queue_pages_free(pages);
	if (r < 0)
		return r;
	r = end_batch(s);
	return r < 0 ? r : queue_sql_exec(s->db, "COMMIT", "cannot carry rows over");
}

/* --- the end ---------------------------------------------------------------------------------- */

static int set_meta(struct salvage *s, const char *key, int64_t value)
{
	int rc;

	rc = sqlite3_bind_text(s->meta, 1, key, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_int64(s->meta, 2, value);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(s->meta);
	sqlite3_reset(s->meta);
	return rc == SQLITE_DONE ? 0 : queue_sql_fail(s->db, rc, "cannot write meta");
}

static int finish_rows(struct salvage *s)
{
	int64_t last = s->highest_id > s->sequence ? s->highest_id : s->sequence;
	char sql[100];
	int r;

	r = set_meta(s, "queue_messages", (int64_t)s->result->messages);
	if (r < 0)
		return r;
	r = set_meta(s, "dead_letters", (int64_t)s->result->dead_letters);
	if (r < 0)
		return r;
	snprintf(sql, sizeof(sql), "UPDATE sqlite_sequence SET seq = %lld WHERE name = 'queue'",
		(long long)(last + ID_MARGIN));
	return queue_sql_exec(s->db, sql, "cannot reserve ids");
}

/* Modes as before, so that whoever could read the queue still can. */
static int sync_new(struct salvage *s)
{
	_cleanup_(closep) int fd = open(s->new_path, O_RDWR | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && stat(s->path, &st) == 0)
		(void)fchmod(fd, st.st_mode & 0777);
	if (fd < 0 || fsync(fd) < 0) {
		int r = -errno;

		log_error("%s: cannot sync: %s", s->new_path, strerrordesc_np(-r));
		return r;
	}
	return 0;
}

/* Everything else is on disk before the mark can be. */
static int mark_complete(struct salvage *s, const char *aside)
{
	char *sql;
	int r;

	r = close_new(s);
	if (r < 0)
		return r;
	r = sync_new(s);
	if (r < 0)
		return r;
	r = open_new(s);
	if (r < 0)
		return r;
	sql = sqlite3_mprintf(
		"INSERT INTO meta (key, value) VALUES (%Q, %Q)", QUEUE_SALVAGED_AS, aside);
	if (!sql)
		return -ENOMEM;
	r = queue_sql_exec(s->db, "PRAGMA synchronous = FULL; PRAGMA journal_mode = MEMORY",
		"cannot set up the new database");
	if (r == 0)
		r = queue_sql_exec(s->db, sql, "cannot mark the new database complete");
	sqlite3_free(sql);
	if (r < 0)
		return r;
	r = close_new(s);
	if (r < 0)
		return r;
	r = sync_new(s);
	return r < 0 ? r : queue_sync_directory(s->new_path);
}

static int copy(struct salvage *s, const char *aside, const struct queue_rot *rot)
{
	int r;

	r = make_new(s);
	if (r < 0)
		return r;
	if (!rot->foreign) {
		r = take_rows(s);
		if (r < 0)
			return r;
	}
	r = finish_rows(s);
	return r < 0 ? r : mark_complete(s, aside);
}

int queue_salvage(const char *path, const char *aside, const struct queue_rot *rot,
	const struct queue_params *params, struct queue_salvaged *ret)
{
	_cleanup_(freep) char *new_path = NULL;
	struct salvage s = { .path = path, .params = params, .result = ret };
	int r;

	*ret = (struct queue_salvaged){ .known_messages = -1, .known_dead_letters = -1 };
	if (asprintf(&new_path, "%s.new", path) < 0) {
		new_path = NULL;
		return -ENOMEM;
	}
	s.new_path = new_path;
	queue_salvage_clear(new_path);
	r = copy(&s, aside, rot);
	if (r < 0) {
		(void)close_new(&s);
		queue_salvage_clear(new_path);
	}
	return r;
}
