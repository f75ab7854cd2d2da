/* SPDX-License-Identifier: MIT */
/*
 * Tests of the layer below a connection: pages that a checkpoint leaves out, the log as others find
 * it, memory for pages.
 */
#include <stdio.h>

#include "ask.h"
#include "disk.h"
#include "queue_vfs.h"
#include "queue_vfs_backfill.h"
#include "scratch.h"
#include "suites.h"

/* --- what a checkpoint leaves out ------------------------------------------------------------ */

static uint8_t backfill_page[4096];

static const uint8_t *page_of(uint8_t first)
{
	memset(backfill_page, 0, sizeof(backfill_page));
	backfill_page[0] = first;
	return backfill_page;
}

/* A checkpoint of page 1, the first page of the map, in which page 10 is free, and others. */
static const struct {
	const char *what;
	uint32_t page;
	uint8_t first; /* byte of it */
	uint8_t auto_vacuum, free_pages, page_size, entry, parent;
	bool skipped;
} backfills[] = {
	{ "a free leaf", 10, 0x0d, 1, 1, 16, 2, 0, true },
	{ "a leaf in use", 10, 0x0d, 1, 1, 16, 5, 7, false },
	{ "an odd entry", 10, 0x0d, 1, 1, 16, 2, 7, false },
	{ "a trunk", 10, 0x00, 1, 1, 16, 2, 0, false },
	{ "another page", 11, 0x0d, 1, 1, 16, 2, 0, false },
	{ "no map", 10, 0x0d, 0, 1, 16, 2, 0, false },
	{ "nothing free", 10, 0x0d, 1, 0, 16, 2, 0, false },
	{ "another size", 10, 0x0d, 1, 1, 32, 2, 0, false },
	/* Its own page of the map is 821. */
	{ "a page of another map", 821 + 8, 0x0d, 1, 1, 16, 2, 0, false },
	{ "the map itself", 821, 0x0d, 1, 1, 16, 2, 0, false },
};

START_TEST(test_backfill)
{
	struct queue_vfs_backfill b = { 0 };
	uint8_t page[4096] = { 0 };
	bool skips;

	page[16] = backfills[_i].page_size;
	page[31] = 200;
	page[39] = backfills[_i].free_pages;
	page[55] = backfills[_i].auto_vacuum;
	queue_vfs_backfill_begin(&b);
	ck_assert(!queue_vfs_backfill_skips(&b, page, sizeof(page), 0));
	memset(page, 0, sizeof(page));
	page[5 * (10 - 3)] = backfills[_i].entry;
	page[5 * (10 - 3) + 4] = backfills[_i].parent;
	ck_assert(!queue_vfs_backfill_skips(&b, page, sizeof(page), 4096));
	skips = queue_vfs_backfill_skips(
		&b, page_of(backfills[_i].first), 4096, (uint64_t)(backfills[_i].page - 1) * 4096);
	ck_assert_msg(skips == backfills[_i].skipped, "%s", backfills[_i].what);
	/* Out of order, and outside of a checkpoint: all is written. */
	ck_assert(!queue_vfs_backfill_skips(&b, page_of(0x0d), 4096, 9 * 4096));
	ck_assert(!queue_vfs_backfill_skips(&b, page_of(0x0d), 4096, 9 * 4096));
	queue_vfs_backfill_end(&b);
	ck_assert(!queue_vfs_backfill_skips(&b, page_of(0x0d), 4096, 9 * 4096));
}
END_TEST

/* --- the log --------------------------------------------------------------------------------- */

static struct scratch scratch;
static struct queue_vfs *vfs;
static sqlite3 *db;

static void execute(const char *sql)
{
	char *error = NULL;

	ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &error) == SQLITE_OK, "%s: %s", sql, error);
}

static void open_database(void)
{
	ck_assert_int_eq(queue_vfs_new(&vfs), 0);
	ck_assert_int_eq(sqlite3_open_v2(scratch_path(&scratch, "v.db"), &db,
				 SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, queue_vfs_name(vfs)),
		SQLITE_OK);
	execute("PRAGMA journal_mode = WAL");
	execute("PRAGMA synchronous = FULL");
	execute("PRAGMA cache_size = -256");
	execute("CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB)");
}

static void close_database(void)
{
	sqlite3_close(db);
	db = NULL;
	vfs = queue_vfs_free(vfs);
}

static void setup(void)
{
	scratch_make(&scratch);
	disk_add();
	open_database();
}

static void teardown(void)
{
	close_database();
	disk_remove();
	scratch_remove(&scratch);
}

/* Rows of a page each. */
static void insert(unsigned rows)
{
	char sql[200];

	snprintf(sql, sizeof(sql),
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %u)"
		"INSERT INTO t (b) SELECT zeroblob(4000) FROM n",
		rows);
	execute(sql);
}

/* Another connection has a layer and a file of its own. */
START_TEST(test_others_read_what_was_committed)
{
	sqlite3 *other;
	int64_t rows;

	execute("PRAGMA synchronous = NORMAL");
	ck_assert_int_eq(sqlite3_open(scratch_path(&scratch, "v.db"), &other), SQLITE_OK);
	for (unsigned i = 1; i <= 30; i++) {
		rows = ask_database(other, "SELECT count(*) FROM t");
		insert(i);
		ck_assert_int_eq(ask_database(other, "SELECT count(*) FROM t"), rows + i);
		ck_assert_int_eq(
			ask_database(other, "SELECT sum(length(b)) FROM t"), (rows + i) * 4000);
	}
	ck_assert_int_eq(sqlite3_close(other), SQLITE_OK);
}
END_TEST

/* With a small cache pages go to the log before the end of the transaction, and are read back. */
START_TEST(test_a_transaction_larger_than_the_cache)
{
	execute("PRAGMA cache_size = 10");
	execute("BEGIN");
	for (int i = 0; i < 20; i++) {
		insert(13);
		ck_assert_int_eq(
			ask_database(db, "SELECT sum(length(b)) FROM t"), (i + 1) * 13 * 4000);
		execute("UPDATE t SET b = zeroblob(3999) WHERE id % 7 = 0");
		execute("UPDATE t SET b = zeroblob(4000)");
	}
	execute("ROLLBACK");
	ck_assert_int_eq(ask_database(db, "SELECT count(*) FROM t"), 0);
	execute("BEGIN");
	insert(200);
	execute("COMMIT");
	ck_assert_int_eq(ask_database(db, "SELECT count(*) FROM t"), 200);
	ck_assert_int_eq(
		ask_database(db, "SELECT integrity_check = 'ok' FROM pragma_integrity_check"), 1);
}
END_TEST

static void copy(const char *from, const char *to)
{
	FILE *in = fopen(scratch_path(&scratch, from), "re"), *out;
	char buffer[65536];
	size_t n;

	ck_assert_ptr_nonnull(in);
	out = fopen(scratch_path(&scratch, to), "we");
	ck_assert_ptr_nonnull(out);
	while ((n = fread(buffer, 1, sizeof(buffer), in)) > 0)
		ck_assert_uint_eq(fwrite(buffer, 1, n, out), n);
	ck_assert_int_eq(fclose(out), 0);
	ck_assert_int_eq(fclose(in), 0);
}

/*
 * Without a sync, too, what was committed is in the files, as after a kill: also the sums of frames
 * that SQLite computes anew, one header after the other, when a transaction larger than the cache
 * has changed pages again that it had written.
 */
START_TEST(test_what_was_committed_outlives_a_kill)
{
	sqlite3 *other;

	execute("PRAGMA synchronous = NORMAL");
	execute("PRAGMA cache_size = 10");
	execute("PRAGMA cache_spill = 10");
	execute("BEGIN");
	insert(200);
	execute("UPDATE t SET b = zeroblob(3999)");
	execute("COMMIT");
	copy("v.db", "copy.db");
	copy("v.db-wal", "copy.db-wal");
	ck_assert_int_eq(sqlite3_open(scratch_path(&scratch, "copy.db"), &other), SQLITE_OK);
	ck_assert_int_eq(ask_database(other, "SELECT sum(length(b)) FROM t"), 200 * 3999);
	ck_assert_int_eq(sqlite3_close(other), SQLITE_OK);
}
END_TEST

/* Whichever of its writes fails, the transaction does, and nothing of it is left. */
START_TEST(test_a_failed_write_fails_the_commit)
{
	unsigned failed = 0;

	insert(30);
	for (;;) {
		execute("BEGIN");
		insert(30);
		disk.fail_log_write = failed + 1;
		if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
			break;
		failed++;
		ck_assert_int_eq(sqlite3_extended_errcode(db), SQLITE_FULL);
		ck_assert_uint_eq(disk.fail_log_write, 0);
		if (sqlite3_get_autocommit(db) == 0)
			execute("ROLLBACK");
		ck_assert_int_eq(ask_database(db, "SELECT count(*) FROM t"), 30);
	}
	/* It was one more than there are. */
	ck_assert_uint_eq(disk.fail_log_write, 1);
	disk.fail_log_write = 0;
	ck_assert_uint_gt(failed, 30);
	ck_assert_int_eq(ask_database(db, "SELECT count(*) FROM t"), 60);
	ck_assert_int_eq(
		ask_database(db, "SELECT integrity_check = 'ok' FROM pragma_integrity_check"), 1);
}
END_TEST

/* Else each page that a cache takes from the heap would stir the uplink's part of it. */
START_TEST(test_pages_are_not_from_the_heap)
{
	int used = 0, highest = 0, overflow = 0;

	scratch_make(&scratch);
	open_database();
	insert(100);
	ck_assert_int_eq(ask_database(db, "SELECT sum(length(b)) FROM t"), 400000);
	ck_assert_int_eq(
		sqlite3_status(SQLITE_STATUS_PAGECACHE_USED, &used, &highest, 0), SQLITE_OK);
	ck_assert_int_gt(used, 10);
	ck_assert_int_eq(sqlite3_status(SQLITE_STATUS_PAGECACHE_OVERFLOW, &overflow, &highest, 0),
		SQLITE_OK);
	/* But for a few smaller and larger pieces than a page. */
	ck_assert_int_lt(overflow, 4096);
	close_database();
	scratch_remove(&scratch);
}
END_TEST

Suite *check_queue_vfs(void)
{
	Suite *s = suite_create("queue_vfs");
	TCase *t = tcase_create("pure");

	tcase_add_loop_test(t, test_backfill, 0, ARRAY_SIZE(backfills));
	suite_add_tcase(s, t);

	t = tcase_create("log");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_others_read_what_was_committed);
	tcase_add_test(t, test_a_transaction_larger_than_the_cache);
	tcase_add_test(t, test_what_was_committed_outlives_a_kill);
	tcase_add_test(t, test_a_failed_write_fails_the_commit);
	suite_add_tcase(s, t);

	/* Nobody may have used SQLite before in the process. */
	t = tcase_create("memory");
	tcase_set_tags(t, "alone native");
	tcase_add_test(t, test_pages_are_not_from_the_heap);
	suite_add_tcase(s, t);
	return s;
}
