/* SPDX-License-Identifier: MIT */
/*
 * Tests of the queue: files and schema, ids, counts, what is left after failures of the disk and
 * after a process that was killed, and the reader beside the writer.
 *
 * A layer below SQLite counts writes and syncs and makes chosen ones fail. Files that a process in
 * the middle of its work leaves behind are had by copying them while the queue is open.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/mman.h>

#include "log.h"
#include "queue.h"
#include "queue_reader.h"
#include "queue_sql.h"
#include "scratch.h"
#include "suites.h"

/* --- a layer below SQLite -------------------------------------------------------------------- */

enum fault_at {
	AT_NOTHING,
	AT_READ,
	AT_WRITE,
	AT_SYNC,
};

static struct {
	sqlite3_vfs vfs, *real;
	unsigned writes, syncs; /* of databases and their logs */
	enum fault_at at;
	int files; /* flags of SQLITE_OPEN_ that a file must have one of to fail */
	unsigned after; /* so many go well before */
	unsigned times; /* so many fail then */
	int rc;
	unsigned failed;
} layer;

struct layer_file {
	sqlite3_file base;
	int flags;
	sqlite3_file *real;
};

static sqlite3_file *real_of(sqlite3_file *f)
{
	return ((struct layer_file *)f)->real;
}

static int fault(sqlite3_file *f, enum fault_at at)
{
	if (layer.at != at || !(((struct layer_file *)f)->flags & layer.files) || layer.times == 0)
		return SQLITE_OK;
	if (layer.after > 0) {
		layer.after--;
		return SQLITE_OK;
	}
	layer.times--;
	layer.failed++;
	return layer.rc;
}

static int layer_close(sqlite3_file *f)
{
	return real_of(f)->pMethods->xClose(real_of(f));
}

static int layer_read(sqlite3_file *f, void *p, int n, sqlite3_int64 offset)
{
	int rc = fault(f, AT_READ);

	return rc ? rc : real_of(f)->pMethods->xRead(real_of(f), p, n, offset);
}

static int layer_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 offset)
{
	int rc = fault(f, AT_WRITE);

	layer.writes++;
	return rc ? rc : real_of(f)->pMethods->xWrite(real_of(f), p, n, offset);
}

static int layer_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	return real_of(f)->pMethods->xTruncate(real_of(f), size);
}

static int layer_sync(sqlite3_file *f, int flags)
{
	/* Counting is enough: no power is cut here, and a real sync would only take its time. */
	(void)flags;
	layer.syncs++;
	return fault(f, AT_SYNC);
}

static int layer_size(sqlite3_file *f, sqlite3_int64 *ret)
{
	return real_of(f)->pMethods->xFileSize(real_of(f), ret);
}

static int layer_lock(sqlite3_file *f, int level)
{
	return real_of(f)->pMethods->xLock(real_of(f), level);
}

static int layer_unlock(sqlite3_file *f, int level)
{
	return real_of(f)->pMethods->xUnlock(real_of(f), level);
}

static int layer_check_lock(sqlite3_file *f, int *ret)
{
	return real_of(f)->pMethods->xCheckReservedLock(real_of(f), ret);
}

static int layer_control(sqlite3_file *f, int op, void *arg)
{
	return real_of(f)->pMethods->xFileControl(real_of(f), op, arg);
}

static int layer_sector_size(sqlite3_file *f)
{
	return real_of(f)->pMethods->xSectorSize(real_of(f));
}

static int layer_characteristics(sqlite3_file *f)
{
	return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}

static int layer_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **ret)
{
	return real_of(f)->pMethods->xShmMap(real_of(f), region, size, extend, ret);
}

static int layer_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
	return real_of(f)->pMethods->xShmLock(real_of(f), offset, n, flags);
}

static void layer_shm_barrier(sqlite3_file *f)
{
	real_of(f)->pMethods->xShmBarrier(real_of(f));
}

static int layer_shm_unmap(sqlite3_file *f, int delete)
{
	return real_of(f)->pMethods->xShmUnmap(real_of(f), delete);
}

static const sqlite3_io_methods layer_methods = {
	.iVersion = 2,
	.xClose = layer_close,
	.xRead = layer_read,
	.xWrite = layer_write,
	.xTruncate = layer_truncate,
	.xSync = layer_sync,
	.xFileSize = layer_size,
	.xLock = layer_lock,
	.xUnlock = layer_unlock,
	.xCheckReservedLock = layer_check_lock,
	.xFileControl = layer_control,
	.xSectorSize = layer_sector_size,
	.xDeviceCharacteristics = layer_characteristics,
	.xShmMap = layer_shm_map,
	.xShmLock = layer_shm_lock,
	.xShmBarrier = layer_shm_barrier,
	.xShmUnmap = layer_shm_unmap,
};

static int layer_open(
	sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *ret_flags)
{
	struct layer_file *file = (struct layer_file *)f;
	int rc;

	(void)vfs;
	file->base.pMethods = NULL;
	file->flags = flags;
	file->real = (sqlite3_file *)(file + 1);
	rc = layer.real->xOpen(layer.real, name, file->real, flags, ret_flags);
	if (file->real->pMethods)
		file->base.pMethods = &layer_methods;
	return rc;
}

static void layer_add(void)
{
	memset(&layer, 0, sizeof(layer));
	layer.real = sqlite3_vfs_find(NULL);
	layer.vfs = *layer.real;
	layer.vfs.zName = "layer";
	layer.vfs.szOsFile = (int)sizeof(struct layer_file) + layer.real->szOsFile;
	layer.vfs.xOpen = layer_open;
	ck_assert_int_eq(sqlite3_vfs_register(&layer.vfs, 1), SQLITE_OK);
}

static void layer_remove(void)
{
	sqlite3_vfs_unregister(&layer.vfs);
	sqlite3_vfs_register(layer.real, 1);
}

#define DATABASE SQLITE_OPEN_MAIN_DB
#define LOG	 SQLITE_OPEN_WAL
#define FOREVER	 UINT_MAX

static void fail_at(enum fault_at at, int files, unsigned after, unsigned times, int rc)
{
	layer.at = at;
	layer.files = files;
	layer.after = after;
	layer.times = times;
	layer.rc = rc;
	layer.failed = 0;
}

static void fail_no_more(void)
{
	layer.at = AT_NOTHING;
}

/* --- helpers --------------------------------------------------------------------------------- */

static struct scratch scratch;
static struct queue *q;

static void setup(void)
{
	scratch_make(&scratch);
	log_set_level(LOG_EMERG); /* many of these faults are on purpose */
	layer_add();
}

static void teardown(void)
{
	fail_no_more();
	q = queue_free(q, false);
	layer_remove();
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static const char *path_of(const char *name)
{
	return scratch_path(&scratch, name);
}

static int try_open(struct queue **ret, const char *name, bool full)
{
	const struct queue_params params = { .path = path_of(name), .sync_full = full };

	return queue_new(ret, &params);
}

static void open_named(const char *name, bool full)
{
	ck_assert_ptr_null(q);
	ck_assert_int_eq(try_open(&q, name, full), 0);
}

static void open_queue(void)
{
	open_named("queue.db", true);
}

static void close_queue(bool orderly)
{
	q = queue_free(q, orderly);
	ck_assert_ptr_null(q);
}

static void reopen(void)
{
	close_queue(true);
	open_queue();
}

static struct message make(const char *topic, const void *payload, size_t n)
{
	return (struct message){ .topic = topic,
		.topic_len = strlen(topic),
		.payload = payload,
		.payload_len = n,
		.qos = 1,
		.timestamp = 1700000000000 };
}

static uint64_t append_one(void)
{
	const struct message m = make("a/b", "payload", 7);
	uint64_t id = 0;

	ck_assert_int_eq(queue_append(q, &m, 0, &id), 0);
	return id;
}

static void begin(bool durable)
{
	ck_assert(!queue_in_transaction(q));
	ck_assert_int_eq(queue_begin(q, durable), 0);
	ck_assert(queue_in_transaction(q));
}

static void commit(void)
{
	ck_assert_int_eq(queue_commit(q), 0);
	ck_assert(!queue_in_transaction(q));
}

/* A transaction of `n` rows; returns the first id and checks that the others follow. */
static uint64_t append_rows(unsigned n)
{
	uint64_t first;

	begin(true);
	first = append_one();
	for (unsigned i = 1; i < n; i++)
		ck_assert_uint_eq(append_one(), first + i);
	commit();
	ck_assert_uint_eq(queue_last_id(q), first + n - 1);
	return first;
}

static void remove_ids(const uint64_t *ids, size_t n)
{
	uint64_t copy[64];

	ck_assert_uint_le(n, ARRAY_SIZE(copy));
	memcpy(copy, ids, n * sizeof(*ids));
	begin(false);
	ck_assert_int_eq(queue_remove(q, copy, n), 0);
	commit();
	for (size_t i = 1; i < n; i++)
		ck_assert_uint_le(copy[i - 1], copy[i]);
}

static void remove_all(void)
{
	uint64_t n = queue_last_id(q);
	uint64_t *ids = calloc(n, sizeof(*ids));

	for (uint64_t i = 0; i < n; i++)
		ids[i] = i + 1;
	begin(false);
	ck_assert_int_eq(queue_remove(q, ids, n), 0);
	commit();
	free(ids);
	ck_assert_uint_eq(queue_messages(q), 0);
}

/* A second connection, as any tool would have it. */
static sqlite3 *connect_to(const char *name)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path_of(name), &db), SQLITE_OK);
	return db;
}

static int execute(const char *name, const char *sql)
{
	sqlite3 *db = connect_to(name);
	int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);

	sqlite3_close(db);
	return rc;
}

/* The text of the first column of all rows, a blank after each; static memory. */
static const char *ask(const char *name, const char *sql)
{
	static char answer[8192];
	sqlite3 *db = connect_to(name);
	sqlite3_stmt *stmt;
	size_t len = 0;

	answer[0] = '\0';
	ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", sql,
		sqlite3_errmsg(db));
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		const unsigned char *text = sqlite3_column_text(stmt, 0);

		len += (size_t)snprintf(answer + len, sizeof(answer) - len, "%s ",
			text ? (const char *)text : "NULL");
		ck_assert_uint_lt(len, sizeof(answer));
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	if (len > 0)
		answer[len - 1] = '\0';
	return answer;
}

static void expect_ids(const char *name, const char *expected)
{
	ck_assert_str_eq(ask(name, "SELECT id FROM queue ORDER BY id"), expected);
}

/* The numbers kept are the numbers there are. */
static void expect_counts(uint64_t n)
{
	char text[32];

	ck_assert_uint_eq(queue_messages(q), n);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	ck_assert_str_eq(ask("queue.db", "SELECT count(*) FROM queue"), text);
	ck_assert_str_eq(
		ask("queue.db", "SELECT value FROM meta WHERE key = 'queue_messages'"), text);
	ck_assert_str_eq(ask("queue.db", "SELECT value FROM meta WHERE key = 'dead_letters'"), "0");
}

static bool copy_one(const char *from, const char *to)
{
	_cleanup_(closep) int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_(closep) int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char buffer[65536];
	ssize_t n;

	if (in < 0)
		return errno == ENOENT && unlink(to) == 0;
	while ((n = read(in, buffer, sizeof(buffer))) > 0) {
		if (write(out, buffer, (size_t)n) != n)
			return false;
	}
	return n == 0;
}

/* The files as a killed process would leave them. In a process of its own, because a close would
 * take away SQLite's locks. */
static void copy_files(const char *from, const char *to)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	pid_t child = fork();

	if (child == 0) {
		for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
			char a[350], b[350];

			snprintf(a, sizeof(a), "%s%s", path_of(from), suffixes[i]);
			snprintf(b, sizeof(b), "%s%s", path_of(to), suffixes[i]);
			if (!copy_one(a, b))
				scratch_exit(1);
		}
		scratch_exit(0);
	}
	ck_assert_int_eq(scratch_wait(child), 0);
}

/* --- files and schema ------------------------------------------------------------------------ */

START_TEST(test_free_takes_null)
{
	ck_assert_ptr_null(queue_free(NULL, true));
	ck_assert_ptr_null(queue_free(NULL, false));
	ck_assert_ptr_null(queue_reader_free(NULL));
}
END_TEST

START_TEST(test_create_and_reopen)
{
	open_queue();
	ck_assert_int_eq(access(path_of("queue.db"), F_OK), 0);
	ck_assert_int_eq(access(path_of("queue.db.lock"), F_OK), 0);
	ck_assert(!queue_in_transaction(q));
	ck_assert_uint_eq(queue_last_id(q), 0);
	expect_counts(0);
	ck_assert_uint_eq(append_rows(3), 1);
	reopen();
	expect_counts(3);
	ck_assert_uint_eq(queue_last_id(q), 3);
	expect_ids("queue.db", "1 2 3");
}
END_TEST

START_TEST(test_pragmas)
{
	open_queue();
	ck_assert_str_eq(ask("queue.db", "PRAGMA user_version"), "2");
	ck_assert_str_eq(ask("queue.db", "PRAGMA auto_vacuum"), "2"); /* incremental */
	ck_assert_str_eq(ask("queue.db", "PRAGMA journal_mode"), "wal");
	ck_assert_str_eq(ask("queue.db", "PRAGMA integrity_check"), "ok");
}
END_TEST

static const struct {
	const char *sql, *expected;
} schema[] = {
	{ "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
	  "ORDER BY name",
		"dead_letters meta queue unset_clock" },
	{ "SELECT name || ':' || type || ':' || \"notnull\" || ':' || pk "
	  "FROM pragma_table_info('queue') ORDER BY cid",
		"id:INTEGER:0:1 topic:TEXT:1:0 payload:BLOB:1:0 qos:INTEGER:1:0 "
		"retained:BOOLEAN:1:0 timestamp:DATETIME:1:0" },
	{ "SELECT name || ':' || type || ':' || \"notnull\" || ':' || pk "
	  "FROM pragma_table_info('dead_letters') ORDER BY cid",
		"id:INTEGER:0:1 topic:TEXT:1:0 payload:BLOB:1:0 qos:INTEGER:1:0 "
		"retained:BOOLEAN:1:0 timestamp:DATETIME:1:0 reason:TEXT:1:0 "
		"died_at:DATETIME:1:0" },
	{ "SELECT name FROM pragma_table_info('meta') ORDER BY cid", "key value" },
	{ "SELECT count(*) FROM sqlite_schema WHERE name = 'queue' AND "
	  "sql LIKE '%AUTOINCREMENT%'",
		"1" },
	{ "SELECT count(*) FROM sqlite_sequence WHERE name = 'queue'", "1" },
	{ "SELECT key FROM meta ORDER BY key",
		"dead_letters queue_messages queue_uuid unclean_start" },
};

/* The schema as it was once, with another wording of the same CHECK: it is ours as well. */
START_TEST(test_schema_in_other_words)
{
	sqlite3 *db = NULL;

	open_queue();
	append_rows(2);
	q = queue_free(q, true);
	ck_assert_int_eq(sqlite3_open(path_of("queue.db"), &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db,
				 "PRAGMA writable_schema = ON;"
				 "UPDATE sqlite_schema SET sql = replace(sql, "
				 "'qos = 0 OR qos = 1 OR qos = 2', 'qos IN (0, 1, 2)')",
				 NULL, NULL, NULL),
		SQLITE_OK);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	ck_assert_str_eq(ask("queue.db",
				 "SELECT count(*) FROM sqlite_schema WHERE sql LIKE "
				 "'%CHECK (qos IN (0, 1, 2))%'"),
		"2");
	open_queue();
	expect_counts(2);
	append_rows(3);
	expect_counts(5);
	ck_assert_str_eq(ask("queue.db", "PRAGMA integrity_check"), "ok");
}
END_TEST

START_TEST(test_schema)
{
	open_queue();
	ck_assert_str_eq(ask("queue.db", schema[_i].sql), schema[_i].expected);
}
END_TEST

static const struct {
	const char *values; /* topic, payload, qos, retained, timestamp */
	bool good;
} rows_by_hand[] = {
	{ "'t', x'00', 1, 0, 17", true },
	{ "'t', x'', 0, 1, -17", true },
	{ "'1e3', x'', 2, 1, 0", true },
	{ "NULL, x'', 1, 0, 17", false },
	{ "'', x'', 1, 0, 17", false },
	{ "x'61', x'', 1, 0, 17", false },
	{ "'t', NULL, 1, 0, 17", false },
	{ "'t', '', 1, 0, 17", false },
	{ "'t', 'text', 1, 0, 17", false },
	{ "'t', 5, 1, 0, 17", false },
	{ "'t', x'', NULL, 0, 17", false },
	{ "'t', x'', 3, 0, 17", false },
	{ "'t', x'', -1, 0, 17", false },
	{ "'t', x'', 'one', 0, 17", false },
	{ "'t', x'', 0.5, 0, 17", false },
	{ "'t', x'', 1, NULL, 17", false },
	{ "'t', x'', 1, 2, 17", false },
	{ "'t', x'', 1, 'yes', 17", false },
	{ "'t', x'', 1, 0, NULL", false },
	{ "'t', x'', 1, 0, 'now'", false },
	{ "'t', x'', 1, 0, 17.5", false },
	{ "'t', x'', 1, 0, x'17'", false },
};

START_TEST(test_rows_by_hand)
{
	int expected = rows_by_hand[_i].good ? SQLITE_OK : SQLITE_CONSTRAINT;
	char sql[300];

	open_queue();
	snprintf(sql, sizeof(sql),
		"INSERT INTO queue (topic, payload, qos, retained, timestamp) VALUES (%s)",
		rows_by_hand[_i].values);
	ck_assert_int_eq(execute("queue.db", sql), expected);
	snprintf(sql, sizeof(sql),
		"INSERT INTO dead_letters (topic, payload, qos, retained, timestamp, reason, "
		"died_at) VALUES (%s, 'because', 18)",
		rows_by_hand[_i].values);
	ck_assert_int_eq(execute("queue.db", sql), expected);
}
END_TEST

START_TEST(test_dead_letters_by_hand)
{
	static const char *const bad[] = { "NULL, 18", "5, NULL", "'why', 'then'", "x'00', 18" };
	char sql[300];

	open_queue();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(sql, sizeof(sql),
			"INSERT INTO dead_letters VALUES (1, 't', x'', 1, 0, 17, %s)", bad[i]);
		ck_assert_msg(execute("queue.db", sql) == SQLITE_CONSTRAINT, "%s", bad[i]);
	}
}
END_TEST

/* --- databases of a newer program ------------------------------------------------------------ */

/* Two thousand bytes that are no database. */
static void write_garbage(const char *name, size_t n)
{
	FILE *f = fopen(path_of(name), "w");

	ck_assert_ptr_nonnull(f);
	for (size_t i = 0; i < n; i++)
		ck_assert_int_ne(fputc("garbage\n"[i % 8], f), EOF);
	ck_assert_int_eq(fclose(f), 0);
}

/* Leaves what is committed in the log. */
static void make_with_log(const char *name, const char *sql)
{
	sqlite3 *db = connect_to(name);

	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	ck_assert_int_eq(sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL), 0);
	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

/* Those that are not ours in another way are set aside: check_queue_rot.c. */
static const struct {
	const char *what;
	bool with_log;
	const char *sql;
} newer[] = {
	{ "no WAL", false,
		"PRAGMA journal_mode = DELETE; PRAGMA user_version = 1000; "
		"CREATE TABLE later (x)" },
	{ "WAL", false, "PRAGMA user_version = 1000" },
	{ "in the log", true, "PRAGMA user_version = 1099" },
	{ "of other tables", false, "DROP TABLE meta; PRAGMA user_version = 1000" },
};

static void make_newer(int i)
{
	open_queue();
	append_rows(3);
	close_queue(true);
	if (newer[i].with_log)
		make_with_log("queue.db", newer[i].sql);
	else
		ck_assert_int_eq(execute("queue.db", newer[i].sql), SQLITE_OK);
}

static char *read_whole(const char *path, size_t *ret_len)
{
	FILE *f = fopen(path, "r");
	char *bytes = malloc(1 << 20);

	ck_assert_ptr_nonnull(bytes);
	*ret_len = 0;
	if (!f)
		return bytes;
	*ret_len = fread(bytes, 1, 1 << 20, f);
	fclose(f);
	return bytes;
}

START_TEST(test_newer_is_left_alone)
{
	char *before, *log_before, *after, *log_after;
	size_t len, log_len, len_after, log_len_after;

	make_newer(_i);
	before = read_whole(path_of("queue.db"), &len);
	log_before = read_whole(path_of("queue.db-wal"), &log_len);
	ck_assert_uint_gt(len, 0);
	ck_assert_int_eq(log_len > 0, newer[_i].with_log);
	for (int round = 0; round < 4; round++) {
		const struct queue_params params = {
			.path = path_of("queue.db"), .sync_full = true, .rotten = round >= 2
		};
		int r = queue_new(&q, &params);

		ck_assert_msg(r == -EPROTONOSUPPORT, "%s: %d", newer[_i].what, r);
		ck_assert_ptr_null(q);
	}
	after = read_whole(path_of("queue.db"), &len_after);
	log_after = read_whole(path_of("queue.db-wal"), &log_len_after);
	ck_assert_uint_eq(len_after, len);
	ck_assert_msg(memcmp(before, after, len) == 0, "%s: bytes changed", newer[_i].what);
	ck_assert_uint_eq(log_len_after, log_len);
	ck_assert_int_eq(memcmp(log_before, log_after, log_len), 0);
	ck_assert_int_ne(access(path_of("queue.db-journal"), F_OK), 0);
	if (!newer[_i].with_log) {
		ck_assert_int_ne(access(path_of("queue.db-wal"), F_OK), 0);
		ck_assert_int_ne(access(path_of("queue.db-shm"), F_OK), 0);
	}
	free(before);
	free(log_before);
	free(after);
	free(log_after);
}
END_TEST

START_TEST(test_empty_file_is_a_new_one)
{
	write_garbage("queue.db", 0);
	open_queue();
	ck_assert_uint_eq(append_rows(1), 1);
}
END_TEST

START_TEST(test_no_directory)
{
	ck_assert_int_eq(try_open(&q, "no/where/queue.db", true), -ENOENT);
}
END_TEST

START_TEST(test_directory_in_its_place)
{
	ck_assert_int_eq(mkdir(path_of("queue.db"), 0700), 0);
	ck_assert_int_lt(try_open(&q, "queue.db", true), 0);
	ck_assert_ptr_null(q);
}
END_TEST

START_TEST(test_lock_file_is_no_symlink)
{
	ck_assert_int_eq(symlink("elsewhere", path_of("queue.db.lock")), 0);
	ck_assert_int_eq(try_open(&q, "queue.db", true), -ELOOP);
	ck_assert_int_ne(access(path_of("elsewhere"), F_OK), 0);
}
END_TEST

START_TEST(test_second_opener)
{
	struct queue *second = NULL;

	open_queue();
	begin(true);
	append_one();
	ck_assert_int_eq(try_open(&second, "queue.db", true), -EBUSY);
	ck_assert_ptr_null(second);
	append_one();
	commit();
	expect_counts(2);
	/* The attempt left the lock where it was. */
	ck_assert_int_eq(try_open(&second, "queue.db", true), -EBUSY);
	reopen();
	ck_assert_uint_eq(append_rows(1), 3);
}
END_TEST

START_TEST(test_second_process)
{
	pid_t child;

	open_queue();
	child = fork();
	if (child == 0) {
		struct queue *second = NULL;

		scratch_exit(try_open(&second, "queue.db", true) == -EBUSY ? 0 : 1);
	}
	ck_assert_int_eq(scratch_wait(child), 0);
}
END_TEST

/* --- ids ------------------------------------------------------------------------------------- */

START_TEST(test_ids_ascend)
{
	uint64_t next = 1;

	open_queue();
	/* Over the ends of several blocks, in transactions that end anywhere in them. */
	for (unsigned n = 1; next <= 4000; n = n * 3 % 701 + 1) {
		ck_assert_uint_eq(append_rows(n), next);
		next += n;
	}
	expect_counts(next - 1);
}
END_TEST

START_TEST(test_no_gap_after_an_orderly_close)
{
	uint64_t next = 1;

	open_queue();
	for (unsigned n = 1; n < 2000; n = n * 5 + 1) {
		ck_assert_uint_eq(append_rows(n), next);
		next += n;
		reopen();
		ck_assert_uint_eq(queue_last_id(q), next - 1);
	}
	ck_assert_uint_eq(
		append_rows((unsigned)(1000 - next % 1000)), next); /* to the end of a block */
	next += 1000 - next % 1000;
	reopen();
	ck_assert_uint_eq(append_rows(1), next);
}
END_TEST

START_TEST(test_no_id_twice_after_removals)
{
	open_queue();
	append_rows(5);
	remove_all();
	expect_counts(0);
	ck_assert_uint_eq(append_rows(1), 6);
	remove_all();
	reopen();
	ck_assert_uint_eq(queue_last_id(q), 6);
	ck_assert_uint_eq(append_rows(1), 7);
	expect_ids("queue.db", "7");
}
END_TEST

START_TEST(test_no_id_twice_after_rollback)
{
	uint64_t first, later;

	open_queue();
	for (int round = 0; round < 3; round++) {
		begin(true);
		first = append_one();
		append_one();
		later = append_one();
		queue_rollback(q);
		ck_assert(!queue_in_transaction(q));
		ck_assert_uint_eq(later, first + 2);
		ck_assert_uint_gt(append_rows(1), later);
	}
	expect_counts(3);
	begin(true);
	later = append_one();
	queue_rollback(q);
	reopen();
	ck_assert_uint_gt(append_rows(1), later);
	expect_counts(4);
}
END_TEST

/* The first block of a new database, rolled back: nothing of it is on disk. */
START_TEST(test_no_id_twice_after_rollback_of_a_block)
{
	uint64_t later;

	open_queue();
	begin(true);
	append_one();
	later = append_one();
	queue_rollback(q);
	reopen();
	ck_assert_uint_gt(append_rows(1), later);
	expect_counts(1);
}
END_TEST

START_TEST(test_no_id_twice_after_a_large_rollback)
{
	uint64_t later = 0;

	open_queue();
	append_rows(10);
	begin(true);
	for (int i = 0; i < 2500; i++)
		later = append_one();
	queue_rollback(q);
	ck_assert_uint_gt(append_rows(1500), later);
	reopen();
	expect_counts(1510);
}
END_TEST

/* A process that is killed with committed and uncommitted rows. */
static void live_and_be_killed(unsigned committed, unsigned more)
{
	uint64_t ids[1] = { 0 };
	pid_t child = fork();

	if (child == 0) {
		const struct message m = make("t", "x", 1);

		if (try_open(&q, "queue.db", true) < 0 || queue_begin(q, true) < 0)
			scratch_exit(1);
		for (unsigned i = 0; i < committed; i++) {
			if (queue_append(q, &m, 0, ids) < 0)
				scratch_exit(2);
		}
		if (queue_commit(q) < 0 || queue_begin(q, true) < 0)
			scratch_exit(3);
		for (unsigned i = 0; i < more; i++) {
			if (queue_append(q, &m, 0, ids) < 0)
				scratch_exit(4);
		}
		scratch_exit(0);
	}
	ck_assert_int_eq(scratch_wait(child), 0);
}

START_TEST(test_no_id_twice_after_a_kill)
{
	uint64_t last;

	live_and_be_killed(5, 2);
	open_queue();
	expect_counts(5);
	expect_ids("queue.db", "1 2 3 4 5");
	last = append_rows(1);
	ck_assert_uint_gt(last, 7);
	remove_all();
	close_queue(true);
	for (int round = 0; round < 3; round++) {
		live_and_be_killed(3, 1);
		open_queue();
		expect_counts(3);
		ck_assert_uint_gt(queue_last_id(q), last + 3);
		remove_all();
		last = append_rows(2) + 1;
		remove_all();
		close_queue(round % 2);
	}
}
END_TEST

/* The same by the files that an open queue leaves at any moment. */
START_TEST(test_no_id_twice_in_files_left_behind)
{
	uint64_t last;

	open_queue();
	append_rows(4);
	begin(true);
	last = append_one();
	copy_files("queue.db", "copy.db");
	queue_rollback(q);
	close_queue(true);
	open_named("copy.db", true);
	ck_assert_uint_eq(queue_messages(q), 4);
	expect_ids("copy.db", "1 2 3 4");
	ck_assert_uint_gt(append_rows(1), last);
	ck_assert_str_eq(ask("copy.db", "PRAGMA integrity_check"), "ok");
}
END_TEST

/* The same after a rollback that took a block of ids with it. */
START_TEST(test_no_id_twice_in_files_left_behind_after_rollback)
{
	uint64_t last;

	open_queue();
	begin(true);
	append_one();
	append_one();
	queue_rollback(q);
	append_rows(1);
	begin(true);
	last = append_one();
	copy_files("queue.db", "copy.db");
	queue_rollback(q);
	close_queue(true);
	open_named("copy.db", true);
	ck_assert_uint_eq(queue_messages(q), 1);
	ck_assert_uint_gt(append_rows(1), last);
}
END_TEST

/* A close that is not orderly is no worse than a kill. */
START_TEST(test_close_without_order)
{
	open_queue();
	append_rows(4);
	begin(true);
	append_one();
	close_queue(false);
	open_queue();
	expect_counts(4);
	ck_assert_uint_gt(append_rows(1), 5);
	begin(true);
	append_one();
	close_queue(true); /* in the middle of a transaction */
	open_queue();
	expect_counts(5);
}
END_TEST

/* --- rows ------------------------------------------------------------------------------------ */

static int keep_message(void *userdata, const struct message *m)
{
	struct message *kept = userdata;

	ck_assert_ptr_null(kept->topic);
	*kept = *m;
	kept->topic = strdup(m->topic);
	kept->payload = malloc(m->payload_len + 1);
	if (m->payload_len)
		memcpy((void *)kept->payload, m->payload, m->payload_len);
	return 0;
}

static char megabyte[1 << 20];

static const struct message messages[] = {
	{ 0, "a/b", "x", 3, 1, 1700000000000, 0, false },
	{ 0, "1e3", "1e3", 3, 3, 0, 1, true },
	{ 0, "0x10", "12", 4, 2, -1, 2, true },
	{ 0, "007", "\0", 3, 1, INT64_MAX, 2, false },
	{ 0, " 5 ", "a\0b\0\0", 3, 5, INT64_MIN, 0, true },
	{ 0, "NULL", NULL, 4, 0, 1, 0, false },
	{ 0, "empty", "", 5, 0, 1, 1, true },
	{ 0, "\xc3\xa4/\xf0\x9f\x8c\x8a", "\xff\xfe\x80", 7, 3, 1, 1, false },
	{ 0, "$SYS/'quoted\"; --", "'", 17, 1, 1, 1, false },
	{ 0, "large", megabyte, 5, sizeof(megabyte), 1, 1, false },
};

START_TEST(test_message_comes_back)
{
	const struct message *m = &messages[_i];
	struct queue_reader *reader = NULL;
	struct message kept = { 0 };
	uint64_t id = 0;

	memset(megabyte, 0xe5, sizeof(megabyte));
	open_queue();
	begin(true);
	ck_assert_int_eq(queue_append(q, m, 0, &id), 0);
	ck_assert_uint_eq(id, 1);
	commit();
	ck_assert_str_eq(ask("queue.db", "SELECT typeof(topic) FROM queue"), "text");
	ck_assert_str_eq(ask("queue.db", "SELECT typeof(payload) FROM queue"), "blob");
	ck_assert_str_eq(ask("queue.db", "SELECT typeof(timestamp) FROM queue"), "integer");
	ck_assert_str_eq(ask("queue.db", "SELECT topic FROM queue"), m->topic);
	reopen();

	ck_assert_int_eq(queue_reader_new(&reader, path_of("queue.db")), 0);
	ck_assert_int_eq(queue_reader_rows(reader, 0, 10, 10, keep_message, &kept), 0);
	ck_assert_uint_eq(kept.id, 1);
	ck_assert_uint_eq(kept.topic_len, m->topic_len);
	ck_assert_str_eq(kept.topic, m->topic);
	ck_assert_uint_eq(kept.payload_len, m->payload_len);
	if (m->payload_len)
		ck_assert_mem_eq(kept.payload, m->payload, m->payload_len);
	ck_assert_int_eq(kept.timestamp, m->timestamp);
	ck_assert_uint_eq(kept.qos, m->qos);
	ck_assert_int_eq(kept.retain, m->retain);
	free((char *)kept.topic);
	free((char *)kept.payload);
	queue_reader_free(reader);
}
END_TEST

/* A row that cannot be stored harms none of its neighbours. */
START_TEST(test_row_that_cannot_be_stored)
{
	const size_t two_gigabytes = (size_t)2 << 30;
	struct message no_topic = make("", "x", 1), bad_qos = make("t", "x", 1), large;
	uint64_t id = 4711;
	void *nothing;

	/* Never touched, so it costs no memory. */
	nothing = mmap(
		NULL, two_gigabytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(nothing, MAP_FAILED);
	large = make("t", nothing, two_gigabytes);
	bad_qos.qos = 3;
	open_queue();
	begin(true);
	append_one();
	ck_assert_int_eq(queue_append(q, &no_topic, 0, &id), -EINVAL);
	ck_assert_int_eq(queue_append(q, &bad_qos, 0, &id), -EINVAL);
	ck_assert_int_eq(queue_append(q, &large, 0, &id), -EMSGSIZE);
	ck_assert_uint_eq(id, 4711);
	ck_assert(queue_in_transaction(q));
	append_one();
	commit();
	expect_counts(2);
	/* Nor does one that is alone in its transaction. */
	begin(true);
	ck_assert_int_eq(queue_append(q, &no_topic, 0, &id), -EINVAL);
	commit();
	expect_counts(2);
	append_rows(1);
	expect_counts(3);
	munmap(nothing, two_gigabytes);
}
END_TEST

static const struct {
	uint64_t ids[12];
	size_t n;
	const char *left; /* of 1 ... 10 */
} removals[] = {
	{ { 0 }, 0, "1 2 3 4 5 6 7 8 9 10" },
	{ { 1 }, 1, "2 3 4 5 6 7 8 9 10" },
	{ { 10, 1 }, 2, "2 3 4 5 6 7 8 9" },
	{ { 7, 3, 5, 4 }, 4, "1 2 6 8 9 10" },
	{ { 5, 5, 5 }, 3, "1 2 3 4 6 7 8 9 10" },
	{ { 6, 4, 6, 5, 4 }, 5, "1 2 3 7 8 9 10" },
	{ { 11, 12, 99, 5000 }, 4, "1 2 3 4 5 6 7 8 9 10" },
	{ { 9, 11, 10, 12 }, 4, "1 2 3 4 5 6 7 8" },
	{ { 10, 9, 8, 7, 6, 5, 4, 3, 2, 1 }, 10, "" },
	{ { 1, 3, 5, 7, 9 }, 5, "2 4 6 8 10" },
	{ { 0, 2 }, 2, "1 3 4 5 6 7 8 9 10" },
};

static uint64_t number_of_words(const char *s)
{
	uint64_t n = *s != '\0';

	for (; *s; s++)
		n += *s == ' ';
	return n;
}

START_TEST(test_remove)
{
	open_queue();
	append_rows(10);
	remove_ids(removals[_i].ids, removals[_i].n);
	expect_ids("queue.db", removals[_i].left);
	expect_counts(number_of_words(removals[_i].left));
	/* Once more is nothing. */
	remove_ids(removals[_i].ids, removals[_i].n);
	expect_counts(number_of_words(removals[_i].left));
	ck_assert_uint_eq(queue_last_id(q), 10);
}
END_TEST

START_TEST(test_counts_through_everything)
{
	uint64_t gone[] = { 3, 1, 99 }, more[] = { 2 };

	open_queue();
	append_rows(5);
	begin(true);
	append_one();
	ck_assert_int_eq(queue_remove(q, gone, 3), 0);
	append_one();
	ck_assert_uint_eq(queue_messages(q), 5); /* committed ones */
	commit();
	expect_counts(5);
	begin(true);
	append_one();
	ck_assert_int_eq(queue_remove(q, more, 1), 0);
	queue_rollback(q);
	expect_counts(5);
	queue_rollback(q); /* without a transaction */
	expect_counts(5);
	begin(false);
	ck_assert_int_eq(queue_remove(q, more, 1), 0);
	commit();
	expect_counts(4);
	expect_ids("queue.db", "4 5 6 7");
	begin(true); /* nothing at all */
	commit();
	expect_counts(4);
	reopen();
	expect_counts(4);
	copy_files("queue.db", "copy.db");
	close_queue(true);
	open_named("copy.db", true);
	ck_assert_uint_eq(queue_messages(q), 4);
}
END_TEST

static void condemn(uint64_t id, const char *reason)
{
	begin(false);
	ck_assert_int_eq(queue_condemn(q, id, reason), 0);
	commit();
}

static void expect_dead_letters(const char *name, int64_t n, int64_t id, const char *reason)
{
	sqlite3_stmt *stmt;
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(scratch_path(&scratch, name), &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_prepare_v2(db,
				 "SELECT (SELECT count(*) FROM dead_letters), (SELECT value FROM "
				 "meta WHERE key = 'dead_letters'), d.topic, d.reason, d.died_at "
				 "FROM dead_letters AS d WHERE d.id = ?1",
				 -1, &stmt, NULL),
		SQLITE_OK);
	sqlite3_bind_int64(stmt, 1, id);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	ck_assert_int_eq(sqlite3_column_int64(stmt, 0), n);
	ck_assert_int_eq(sqlite3_column_int64(stmt, 1), n);
	ck_assert_str_ne((const char *)sqlite3_column_text(stmt, 2), "");
	ck_assert_str_eq((const char *)sqlite3_column_text(stmt, 3), reason);
	ck_assert_int_ge(sqlite3_column_int64(stmt, 4), now_epoch_msec() - 60000);
	sqlite3_finalize(stmt);
	sqlite3_close(db);
}

START_TEST(test_condemn)
{
	open_queue();
	append_rows(4);
	condemn(2, "it does not please");
	expect_ids("queue.db", "1 3 4");
	ck_assert_uint_eq(queue_messages(q), 3);
	ck_assert_uint_eq(queue_dead_letters(q), 1);
	expect_dead_letters("queue.db", 1, 2, "it does not please");
	/* One that is not there, once more or never, is nothing. */
	condemn(2, "again");
	condemn(99, "never");
	ck_assert_uint_eq(queue_dead_letters(q), 1);
	expect_dead_letters("queue.db", 1, 2, "it does not please");
	begin(true);
	ck_assert_int_eq(queue_condemn(q, 3, "undone"), 0);
	queue_rollback(q);
	ck_assert_uint_eq(queue_dead_letters(q), 1);
	ck_assert_uint_eq(queue_messages(q), 3);
	condemn(4, "x");
	reopen();
	ck_assert_uint_eq(queue_dead_letters(q), 2);
	expect_dead_letters("queue.db", 2, 4, "x");
	expect_ids("queue.db", "1 3");
}
END_TEST

START_TEST(test_counts_random)
{
	uint64_t random = 5, messages_now = 0, ids[40];
	bool there[2000] = { false };

	open_queue();
	for (int round = 0; round < 150; round++) {
		unsigned appends = (unsigned)(scratch_random(&random) % 10);
		size_t n = scratch_random(&random) % ARRAY_SIZE(ids);
		bool roll_back = scratch_random(&random) % 4 == 0;
		bool was[ARRAY_SIZE(there)];
		uint64_t was_messages = messages_now;

		memcpy(was, there, sizeof(there));
		begin(true);
		for (unsigned i = 0; i < appends; i++) {
			uint64_t id = append_one();

			ck_assert_uint_lt(id, ARRAY_SIZE(there));
			ck_assert(!there[id]);
			there[id] = true;
			messages_now++;
		}
		for (size_t i = 0; i < n; i++) {
			ids[i] = scratch_random(&random) % ARRAY_SIZE(there);
			messages_now -= there[ids[i]];
			there[ids[i]] = false;
		}
		ck_assert_int_eq(queue_remove(q, ids, n), 0);
		if (roll_back) {
			queue_rollback(q);
			memcpy(there, was, sizeof(there));
			messages_now = was_messages;
		} else {
			commit();
		}
		ck_assert_uint_eq(queue_messages(q), messages_now);
		if (round % 25 == 24) {
			reopen();
			expect_counts(messages_now);
		}
	}
}
END_TEST

START_TEST(test_meta)
{
	open_queue();
	begin(true);
	ck_assert_int_eq(queue_set_meta(q, "session h:1883 c", "unclean"), 0);
	ck_assert_int_eq(queue_set_meta(q, "other's", "x"), 0);
	commit();
	ck_assert_str_eq(
		ask("queue.db", "SELECT value FROM meta WHERE key LIKE 'session%'"), "unclean");
	begin(true);
	ck_assert_int_eq(queue_set_meta(q, "session h:1883 c", "clean"), 0);
	commit();
	begin(true);
	ck_assert_int_eq(queue_set_meta(q, "session h:1883 c", "rolled back"), 0);
	queue_rollback(q);
	reopen();
	ck_assert_str_eq(
		ask("queue.db", "SELECT value FROM meta WHERE key LIKE 'session%'"), "clean");
	ck_assert_str_eq(ask("queue.db", "SELECT value FROM meta WHERE key = 'other''s'"), "x");
	ck_assert_str_eq(ask("queue.db", "SELECT count(*) FROM meta"), "6");
}
END_TEST

static sem_t locked;

/* Has the writer's lock for a moment, as the reader may. */
static void *lock_shortly(void *db)
{
	ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	sem_post(&locked);
	usleep(10000);
	ck_assert_int_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	return NULL;
}

START_TEST(test_begin_waits_a_moment)
{
	pthread_t thread;
	int r = -EBUSY;
	sqlite3 *db;

	open_queue();
	db = connect_to("queue.db");
	ck_assert_int_eq(sem_init(&locked, 0, 0), 0);
	/* A machine may be too busy for a moment to be one. */
	for (unsigned i = 0; i < 5 && r == -EBUSY; i++) {
		ck_assert_int_eq(pthread_create(&thread, NULL, lock_shortly, db), 0);
		while (sem_wait(&locked) < 0)
			;
		r = queue_begin(q, true);
		pthread_join(thread, NULL);
	}
	ck_assert_int_eq(r, 0);
	commit();
	sem_destroy(&locked);
	sqlite3_close(db);
}
END_TEST

/* Somebody else's lock is an error: a wait would stall every client. */
START_TEST(test_begin_does_not_wait)
{
	uint64_t start;
	sqlite3 *db;

	open_queue();
	db = connect_to("queue.db");
	ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	start = now_usec();
	ck_assert_int_eq(queue_begin(q, true), -EBUSY);
	ck_assert_uint_lt(now_usec() - start, USEC_PER_SEC);
	ck_assert(!queue_in_transaction(q));
	sqlite3_close(db);
	ck_assert_uint_eq(append_rows(2), 1);
}
END_TEST

/* --- queue_uuid ------------------------------------------------------------------------------ */

/* How each of several processes in a row opened the queue and ended. */
static const struct {
	const char *lives; /* 'f' or 'n' (sync full or normal), then 'o' or 'k' (orderly, killed) */
	const char *uuids; /* the name each life saw */
} uuids[] = {
	{ "fo fo fo", "aaa" },
	{ "fk fk fo fk", "aaaa" },
	{ "no no no", "aaa" },
	{ "nk no no", "abb" },
	{ "nk nk nk", "abc" },
	{ "nk fk fo", "abb" }, /* what was lost was lost while it was normal */
	{ "fk no nk fo", "aaab" },
	{ "fk nk nk", "aab" },
	{ "no fo nk fo no", "aaabb" },
};

static void live(const char *life, char ret[64])
{
	char name[300];

	open_named("queue.db", life[0] == 'f');
	snprintf(ret, 64, "%s", ask("queue.db", "SELECT value FROM meta WHERE key = 'queue_uuid'"));
	append_rows(1);
	if (life[1] == 'o') {
		close_queue(true);
		return;
	}
	copy_files("queue.db", "copy.db");
	close_queue(true);
	snprintf(name, sizeof(name), "%s", path_of("queue.db"));
	ck_assert_int_eq(unlink(name), 0);
	copy_files("copy.db", "queue.db");
}

START_TEST(test_uuid)
{
	char seen[8][64];
	size_t n = strlen(uuids[_i].uuids);

	for (size_t i = 0; i < n; i++) {
		live(uuids[_i].lives + 3 * i, seen[i]);
		ck_assert_uint_eq(strlen(seen[i]), 32);
		ck_assert_uint_eq(strspn(seen[i], "0123456789abcdef"), 32);
		for (size_t k = 0; k < i; k++)
			ck_assert_int_eq(
				streq(seen[i], seen[k]), uuids[_i].uuids[i] == uuids[_i].uuids[k]);
	}
}
END_TEST

START_TEST(test_uuids_differ)
{
	char first[64];

	open_named("one.db", true);
	close_queue(true);
	open_named("two.db", true);
	snprintf(first, sizeof(first), "%s",
		ask("one.db", "SELECT value FROM meta WHERE key = 'queue_uuid'"));
	ck_assert_str_ne(first, ask("two.db", "SELECT value FROM meta WHERE key = 'queue_uuid'"));
}
END_TEST

/* --- the disk -------------------------------------------------------------------------------- */

/* Syncs of a transaction. */
static unsigned syncs_of(bool durable, bool append, uint64_t remove)
{
	unsigned before;

	begin(durable);
	if (append)
		append_one();
	if (remove)
		ck_assert_int_eq(queue_remove(q, &remove, 1), 0);
	before = layer.syncs;
	commit();
	return layer.syncs - before;
}

START_TEST(test_syncs_when_full)
{
	open_queue();
	append_rows(20);
	for (uint64_t i = 1; i < 5; i++) {
		ck_assert_uint_eq(syncs_of(true, true, 0), 1);
		ck_assert_uint_eq(syncs_of(false, false, i), 0);
		ck_assert_uint_eq(syncs_of(false, false, i + 10), 0);
		ck_assert_uint_eq(syncs_of(true, true, i + 5), 1);
	}
	expect_counts(20 + 8 - 12);
}
END_TEST

START_TEST(test_syncs_when_normal)
{
	open_named("queue.db", false);
	append_rows(20);
	for (uint64_t i = 1; i < 5; i++) {
		ck_assert_uint_eq(syncs_of(true, true, 0), 0);
		ck_assert_uint_eq(syncs_of(false, false, i), 0);
	}
}
END_TEST

/* Rows on disk, as far as a process knows that began with the files as they are now. */
static void expect_in_files(const uint64_t *ids, size_t n)
{
	static char expected[8192];
	size_t len = 0;

	expected[0] = '\0';
	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(expected + len, sizeof(expected) - len, "%s%llu",
			i ? " " : "", (unsigned long long)ids[i]);
	copy_files("queue.db", "copy.db");
	expect_ids("copy.db", expected);
	ck_assert_str_eq(ask("copy.db", "PRAGMA integrity_check"), "ok");
	snprintf(expected, sizeof(expected), "%zu", n);
	ck_assert_str_eq(
		ask("copy.db", "SELECT value FROM meta WHERE key = 'queue_messages'"), expected);
	ck_assert_uint_eq(queue_messages(q), n);
}

static const struct {
	enum fault_at at;
	int rc;
	int r;
} faults[] = {
	{ AT_WRITE, SQLITE_FULL, -ENOSPC },
	{ AT_WRITE, SQLITE_IOERR_WRITE, -EIO },
	{ AT_SYNC, SQLITE_IOERR_FSYNC, -EIO },
};

struct model {
	uint64_t ids[2000];
	size_t n;
	uint64_t last; /* the highest id given to anybody */
};

/* One transaction of `n` rows of `size` bytes. 0 or -errno. */
static int try_batch(struct model *model, unsigned n, size_t size)
{
	const struct message m = make("t", megabyte, size);
	size_t had = model->n;
	int r;

	r = queue_begin(q, true);
	for (unsigned i = 0; i < n && r == 0; i++) {
		uint64_t id;

		r = queue_append(q, &m, 0, &id);
		if (r < 0)
			break;
		ck_assert_uint_gt(id, model->last);
		model->last = id;
		model->ids[model->n++] = id;
	}
	if (r == 0) {
		r = queue_commit(q);
		ck_assert(!queue_in_transaction(q));
	}
	queue_rollback(q);
	if (r < 0)
		model->n = had;
	return r;
}

static struct model model;

/* What a refused batch wrote is overwritten at once: a kill does not bring it back. */
static void expect_no_refused_rows(const struct model *m)
{
	expect_in_files(m->ids, m->n);
}

START_TEST(test_each_fault)
{
	unsigned after = 0;

	model = (struct model){ 0 };
	open_queue();
	for (bool failed = true; failed; after++) {
		ck_assert_int_eq(try_batch(&model, 2, 10), 0);
		fail_at(faults[_i].at, LOG, after, 1, faults[_i].rc);
		/* From one page to several, so that the log grows by different steps. */
		failed = try_batch(&model, 3, 3000) != 0;
		ck_assert_int_eq(failed, layer.failed > 0);
		fail_no_more();
		expect_no_refused_rows(&model);
		ck_assert_int_eq(try_batch(&model, 1, 10), 0);
		expect_in_files(model.ids, model.n);
	}
	ck_assert_uint_gt(after, faults[_i].at == AT_WRITE ? 5 : 1);
	reopen();
	expect_counts(model.n);
	ck_assert_int_eq(try_batch(&model, 1, 10), 0); /* with an id above all others */
}
END_TEST

/* A batch larger than SQLite's cache fails before its commit, and may end the transaction. */
START_TEST(test_fault_in_a_large_batch)
{
	unsigned after = 0;

	model = (struct model){ 0 };
	open_queue();
	do {
		bool failed;

		ck_assert_int_eq(try_batch(&model, 1, 10), 0);
		fail_at(faults[_i].at, LOG, after, 1, faults[_i].rc);
		failed = try_batch(&model, 12, 400000) != 0;
		/* The last sync is a checkpoint's, which is not the commit's business. */
		ck_assert(failed == (layer.failed > 0) || (!failed && faults[_i].at == AT_SYNC));
		fail_no_more();
		ck_assert_int_eq(try_batch(&model, 1, 10), 0);
		expect_in_files(model.ids, model.n);
		after = after * 3 + 1;
	} while (layer.failed > 0);
	ck_assert_uint_gt(after, 4);
}
END_TEST

/* The disk is full for a while: every batch says so, and what comes later is kept. */
START_TEST(test_fault_that_lasts)
{
	uint64_t gone = 1;

	model = (struct model){ 0 };
	open_queue();
	ck_assert_int_eq(try_batch(&model, 5, 10), 0);
	fail_at(faults[_i].at, LOG | DATABASE, 0, FOREVER, faults[_i].rc);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(try_batch(&model, 3, 3000), faults[_i].r);
	expect_no_refused_rows(&model);
	begin(true);
	ck_assert_int_eq(queue_set_meta(q, "key", "value"), 0);
	ck_assert_int_eq(queue_remove(q, &gone, 1), 0);
	ck_assert_int_eq(queue_commit(q), faults[_i].r);
	ck_assert_uint_eq(queue_messages(q), model.n);
	fail_no_more();
	expect_no_refused_rows(&model);
	ck_assert_str_eq(ask("queue.db", "SELECT count(*) FROM meta WHERE key = 'key'"), "0");
	ck_assert_int_eq(try_batch(&model, 3, 3000), 0);
	expect_in_files(model.ids, model.n);
}
END_TEST

/* Moving rows from the log to the database is not the commit's business: they are safe. */
START_TEST(test_fault_in_a_checkpoint)
{
	model = (struct model){ 0 };
	open_queue();
	fail_at(faults[_i].at, DATABASE, 0, FOREVER, faults[_i].rc);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(try_batch(&model, 5, 400000), 0);
	ck_assert_uint_gt(layer.failed, 0);
	fail_no_more();
	expect_in_files(model.ids, model.n);
	ck_assert_int_eq(try_batch(&model, 5, 400000), 0);
	expect_in_files(model.ids, model.n);
}
END_TEST

/* An orderly close overwrites what a refused batch left in the log. */
START_TEST(test_close_after_a_fault)
{
	model = (struct model){ 0 };
	open_queue();
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(try_batch(&model, 2, 10), 0);
		fail_at(faults[_i].at, LOG, 0, 1, faults[_i].rc);
		ck_assert_int_eq(try_batch(&model, 3, 3000), faults[_i].r);
		fail_no_more();
		reopen();
		expect_in_files(model.ids, model.n);
	}
}
END_TEST

/* A close that cannot write leaves a gap, no more. */
START_TEST(test_fault_at_the_close)
{
	model = (struct model){ 0 };
	open_queue();
	ck_assert_int_eq(try_batch(&model, 5, 10), 0);
	fail_at(faults[_i].at, LOG | DATABASE, 0, FOREVER, faults[_i].rc);
	close_queue(true);
	fail_no_more();
	open_queue();
	expect_counts(5);
	ck_assert_int_eq(try_batch(&model, 1, 10), 0);
	expect_counts(6);
}
END_TEST

/* One that cannot be opened now can be opened later. */
START_TEST(test_fault_at_the_start)
{
	model = (struct model){ 0 };
	open_queue();
	ck_assert_int_eq(try_batch(&model, 5, 10), 0);
	copy_files("queue.db", "copy.db"); /* with a log that wants to be checkpointed */
	close_queue(true);
	fail_at(faults[_i].at, LOG | DATABASE, 0, FOREVER, faults[_i].rc);
	ck_assert_int_eq(try_open(&q, "copy.db", true), faults[_i].r);
	ck_assert_ptr_null(q);
	fail_no_more();
	open_named("copy.db", true);
	ck_assert_uint_eq(queue_messages(q), 5);
	expect_ids("copy.db", "1 2 3 4 5");
}
END_TEST

static const struct {
	int rc, r;
} codes[] = {
	{ SQLITE_OK, 0 },
	{ SQLITE_FULL, -ENOSPC },
	{ SQLITE_NOMEM, -ENOMEM },
	{ SQLITE_IOERR_NOMEM, -EIO },
	{ SQLITE_BUSY, -EBUSY },
	{ SQLITE_BUSY_SNAPSHOT, -EBUSY },
	{ SQLITE_LOCKED, -EBUSY },
	{ SQLITE_READONLY, -EROFS },
	{ SQLITE_READONLY_DBMOVED, -EROFS },
	{ SQLITE_PERM, -EACCES },
	{ SQLITE_CORRUPT, -EUCLEAN },
	{ SQLITE_NOTADB, -EUCLEAN },
	{ SQLITE_CONSTRAINT_CHECK, -EINVAL },
	{ SQLITE_CONSTRAINT_NOTNULL, -EINVAL },
	{ SQLITE_TOOBIG, -EMSGSIZE },
	{ SQLITE_IOERR_FSYNC, -EIO },
	{ SQLITE_IOERR_WRITE, -EIO },
	{ SQLITE_CANTOPEN, -EIO },
	{ SQLITE_ERROR, -EIO },
};

START_TEST(test_codes)
{
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		ck_assert_int_eq(queue_sql_errno(codes[i].rc), codes[i].r);
}
END_TEST

/* --- the reader ------------------------------------------------------------------------------ */

static struct queue_reader *reader;

static void setup_reader(void)
{
	const uint64_t gap[] = { 3, 4, 8 };

	setup();
	open_queue();
	append_rows(10);
	remove_ids(gap, 3);
	ck_assert_int_eq(queue_reader_new(&reader, path_of("queue.db")), 0);
}

static void teardown_reader(void)
{
	reader = queue_reader_free(reader);
	ck_assert_ptr_null(reader);
	teardown();
}

struct seen {
	char ids[200];
	unsigned stop_at; /* the n-th row, from 1 */
	int stop_with;
	unsigned n;
};

static int see(void *userdata, const struct message *m)
{
	struct seen *seen = userdata;

	if (++seen->n == seen->stop_at)
		return seen->stop_with;
	snprintf(seen->ids + strlen(seen->ids), sizeof(seen->ids) - strlen(seen->ids), "%s%llu",
		seen->ids[0] ? " " : "", (unsigned long long)m->id);
	return 0;
}

/* The ids there are: 1 2 5 6 7 9 10. */
static const struct {
	uint64_t after, upto;
	unsigned limit, stop_at;
	int stop_with;
	int r;
	const char *ids;
} reads[] = {
	{ 0, 10, 100, 0, 0, 0, "1 2 5 6 7 9 10" },
	{ 0, UINT64_MAX, 100, 0, 0, 0, "1 2 5 6 7 9 10" },
	{ 0, INT64_MAX, 100, 0, 0, 0, "1 2 5 6 7 9 10" },
	{ 0, 6, 100, 0, 0, 0, "1 2 5 6" },
	{ 2, 6, 100, 0, 0, 0, "5 6" },
	{ 2, 4, 100, 0, 0, 0, "" },
	{ 4, 5, 100, 0, 0, 0, "5" },
	{ 5, 5, 100, 0, 0, 0, "" },
	{ 6, 2, 100, 0, 0, 0, "" },
	{ 10, 10000, 100, 0, 0, 0, "" },
	{ 0, 10, 8, 0, 0, 0, "1 2 5 6 7 9 10" },
	{ 0, 10, 3, 0, 0, 1, "1 2 5" },
	{ 5, 10, 1, 0, 0, 1, "6" },
	{ 0, 0, 3, 0, 0, 0, "" },
	{ 0, 10, 100, 1, 1, 1, "" },
	{ 0, 10, 100, 4, 1, 1, "1 2 5" },
	{ 0, 10, 100, 7, 1, 1, "1 2 5 6 7 9" },
	{ 0, 10, 100, 8, 1, 0, "1 2 5 6 7 9 10" },
	{ 0, 10, 100, 3, -ENETDOWN, -ENETDOWN, "1 2" },
};

static void expect_read(int i)
{
	struct seen seen = { .stop_at = reads[i].stop_at, .stop_with = reads[i].stop_with };

	ck_assert_int_eq(queue_reader_rows(
				 reader, reads[i].after, reads[i].upto, reads[i].limit, see, &seen),
		reads[i].r);
	ck_assert_str_eq(seen.ids, reads[i].ids);
}

/* A checkpoint that truncates the log needs every reader gone. */
static void expect_no_open_statement(void)
{
	sqlite3 *db = connect_to("queue.db");

	ck_assert_int_eq(
		sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL),
		SQLITE_OK);
	sqlite3_close(db);
}

START_TEST(test_rows)
{
	expect_read(_i);
	expect_no_open_statement();
	expect_read(_i);
}
END_TEST

START_TEST(test_next_id)
{
	static const struct {
		uint64_t after, next;
	} steps[] = { { 0, 1 }, { 1, 2 }, { 2, 5 }, { 3, 5 }, { 4, 5 }, { 7, 9 }, { 9, 10 } };
	uint64_t id = 0;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		ck_assert_int_eq(queue_reader_next_id(reader, steps[i].after, &id), 0);
		ck_assert_uint_eq(id, steps[i].next);
		expect_no_open_statement();
	}
	ck_assert_int_eq(queue_reader_next_id(reader, 10, &id), -ENODATA);
	ck_assert_uint_eq(id, 10); /* untouched */
	expect_no_open_statement();
}
END_TEST

START_TEST(test_reader_meta)
{
	char *value = NULL;

	ck_assert_int_eq(queue_reader_meta(reader, "session x", &value), -ENODATA);
	ck_assert_ptr_null(value);
	begin(true);
	ck_assert_int_eq(queue_set_meta(q, "session x", "unclean"), 0);
	ck_assert_int_eq(queue_reader_meta(reader, "session x", &value), -ENODATA);
	commit();
	ck_assert_int_eq(queue_reader_meta(reader, "session x", &value), 0);
	ck_assert_str_eq(value, "unclean");
	free(value);
	expect_no_open_statement();
	ck_assert_int_eq(queue_reader_meta(reader, "queue_messages", &value), 0);
	ck_assert_str_eq(value, "7");
	free(value);
}
END_TEST

/* Only what is committed, and that at once. */
START_TEST(test_reader_sees_committed_rows)
{
	struct seen seen = { 0 };
	uint64_t id;

	begin(true);
	id = append_one();
	ck_assert_uint_eq(id, 11);
	ck_assert_int_eq(queue_reader_next_id(reader, 10, &id), -ENODATA);
	ck_assert_int_eq(queue_reader_rows(reader, 7, 100, 100, see, &seen), 0);
	ck_assert_str_eq(seen.ids, "9 10");
	commit();
	ck_assert_int_eq(queue_reader_next_id(reader, 10, &id), 0);
	ck_assert_uint_eq(id, 11);
	remove_all();
	ck_assert_int_eq(queue_reader_next_id(reader, 0, &id), -ENODATA);
}
END_TEST

START_TEST(test_reader_writes_nothing)
{
	unsigned writes = layer.writes;
	struct seen seen = { 0 };
	char *value;

	ck_assert_int_eq(queue_reader_rows(reader, 0, 100, 100, see, &seen), 0);
	ck_assert_int_eq(queue_reader_meta(reader, "queue_uuid", &value), 0);
	free(value);
	ck_assert_uint_eq(layer.writes, writes);
}
END_TEST

/* A disk that cannot be read now may be read later. */
START_TEST(test_reader_and_a_failing_disk)
{
	struct seen seen = { 0 };
	uint64_t id = 4711;

	fail_at(AT_READ, LOG | DATABASE, 0, FOREVER, SQLITE_IOERR_READ);
	ck_assert_int_eq(queue_reader_rows(reader, 0, 100, 100, see, &seen), -EIO);
	ck_assert_str_eq(seen.ids, "");
	ck_assert_int_eq(queue_reader_next_id(reader, 0, &id), -EIO);
	ck_assert_uint_eq(id, 4711);
	fail_no_more();
	expect_no_open_statement();
	ck_assert_int_eq(queue_reader_rows(reader, 0, 100, 100, see, &seen), 0);
	ck_assert_str_eq(seen.ids, "1 2 5 6 7 9 10");
}
END_TEST

START_TEST(test_reader_of_nothing)
{
	struct queue_reader *r = NULL;

	ck_assert_int_lt(queue_reader_new(&r, path_of("nothing.db")), 0);
	ck_assert_ptr_null(r);
	ck_assert_int_ne(access(path_of("nothing.db"), F_OK), 0);
	write_garbage("garbage.db", 3000);
	ck_assert_int_eq(queue_reader_new(&r, path_of("garbage.db")), -EUCLEAN);
	ck_assert_ptr_null(r);
}
END_TEST

Suite *check_queue(void)
{
	Suite *s = suite_create("queue");
	TCase *t = tcase_create("files");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_free_takes_null);
	tcase_add_test(t, test_create_and_reopen);
	tcase_add_test(t, test_pragmas);
	tcase_add_test(t, test_schema_in_other_words);
	tcase_add_loop_test(t, test_schema, 0, ARRAY_SIZE(schema));
	tcase_add_loop_test(t, test_rows_by_hand, 0, ARRAY_SIZE(rows_by_hand));
	tcase_add_test(t, test_dead_letters_by_hand);
	tcase_add_loop_test(t, test_newer_is_left_alone, 0, ARRAY_SIZE(newer));
	tcase_add_test(t, test_empty_file_is_a_new_one);
	tcase_add_test(t, test_no_directory);
	tcase_add_test(t, test_directory_in_its_place);
	tcase_add_test(t, test_lock_file_is_no_symlink);
	tcase_add_test(t, test_second_opener);
	tcase_add_test(t, test_second_process);
	suite_add_tcase(s, t);

	t = tcase_create("ids");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_ids_ascend);
	tcase_add_test(t, test_no_gap_after_an_orderly_close);
	tcase_add_test(t, test_no_id_twice_after_removals);
	tcase_add_test(t, test_no_id_twice_after_rollback);
	tcase_add_test(t, test_no_id_twice_after_rollback_of_a_block);
	tcase_add_test(t, test_no_id_twice_after_a_large_rollback);
	tcase_add_test(t, test_no_id_twice_after_a_kill);
	tcase_add_test(t, test_no_id_twice_in_files_left_behind);
	tcase_add_test(t, test_no_id_twice_in_files_left_behind_after_rollback);
	tcase_add_test(t, test_close_without_order);
	suite_add_tcase(s, t);

	t = tcase_create("rows");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_message_comes_back, 0, ARRAY_SIZE(messages));
	tcase_add_test(t, test_row_that_cannot_be_stored);
	tcase_add_loop_test(t, test_remove, 0, ARRAY_SIZE(removals));
	tcase_add_test(t, test_counts_through_everything);
	tcase_add_test(t, test_condemn);
	tcase_add_test(t, test_counts_random);
	tcase_add_test(t, test_meta);
	tcase_add_test(t, test_begin_waits_a_moment);
	tcase_add_test(t, test_begin_does_not_wait);
	tcase_add_loop_test(t, test_uuid, 0, ARRAY_SIZE(uuids));
	tcase_add_test(t, test_uuids_differ);
	suite_add_tcase(s, t);

	t = tcase_create("disk");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_syncs_when_full);
	tcase_add_test(t, test_syncs_when_normal);
	tcase_add_loop_test(t, test_each_fault, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(t, test_fault_in_a_large_batch, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(t, test_fault_that_lasts, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(t, test_fault_in_a_checkpoint, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(t, test_close_after_a_fault, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(t, test_fault_at_the_close, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(t, test_fault_at_the_start, 0, ARRAY_SIZE(faults));
	tcase_add_test(t, test_codes);
	suite_add_tcase(s, t);

	t = tcase_create("reader");
	tcase_add_checked_fixture(t, setup_reader, teardown_reader);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_rows, 0, ARRAY_SIZE(reads));
	tcase_add_test(t, test_next_id);
	tcase_add_test(t, test_reader_meta);
	tcase_add_test(t, test_reader_sees_committed_rows);
	tcase_add_test(t, test_reader_writes_nothing);
	tcase_add_test(t, test_reader_and_a_failing_disk);
	tcase_add_test(t, test_reader_of_nothing);
	suite_add_tcase(s, t);
	return s;
}
