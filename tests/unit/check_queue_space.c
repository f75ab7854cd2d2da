/* SPDX-License-Identifier: MIT */
/*
 * Tests of the queue's bounds and of its space on disk: what is refused and dropped, the log's
 * size, what goes back to the file system, the reserve file, and full disks.
 *
 * Below SQLite there is a disk of ours: disk.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mount.h>

#include "ask.h"
#include "disk.h"
#include "log.h"
#include "queue.h"
#include "scratch.h"
#include "suites.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)

/* --- helpers --------------------------------------------------------------------------------- */

static struct scratch scratch;
static struct queue *q;
static char payload[1 << 20];

static void setup(void)
{
	scratch_make(&scratch);
	log_set_level(LOG_EMERG); /* many of these faults are on purpose */
	disk_add();
}

static void teardown(void)
{
	q = queue_free(q, false);
	disk_remove();
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static const char *path_of(const char *name)
{
	return scratch_path(&scratch, name);
}

static void open_queue(struct queue_params params)
{
	params.path = path_of("queue.db");
	params.sync_full = true;
	ck_assert_ptr_null(q);
	ck_assert_int_eq(queue_new(&q, &params), 0);
}

static void open_bounded(uint64_t messages, uint64_t bytes, bool drop_oldest)
{
	open_queue((struct queue_params){
		.max_messages = messages, .max_bytes = bytes, .drop_oldest = drop_oldest });
}

static int append(size_t size, uint64_t claimed)
{
	const struct message m = { .topic = "a/b",
		.topic_len = 3,
		.payload = payload,
		.payload_len = size,
		.qos = 1,
		.timestamp = 1700000000000 };
	uint64_t id;

	return queue_append(q, &m, claimed, &id);
}

static void begin(bool durable)
{
	ck_assert_int_eq(queue_begin(q, durable), 0);
}

static void commit(void)
{
	ck_assert_int_eq(queue_commit(q), 0);
}

/* Transactions of `batch` rows until `n` are in. */
static void fill(unsigned n, unsigned batch, size_t size)
{
	for (unsigned done = 0; done < n;) {
		begin(true);
		for (unsigned i = 0; i < batch && done < n; i++, done++)
			ck_assert_int_eq(append(size, 0), 0);
		commit();
	}
}

/* Removes a range of ids, as deliveries do: some at a time. */
static void drain(uint64_t first, uint64_t last)
{
	uint64_t ids[500];

	while (first <= last) {
		size_t n = 0;

		while (n < ARRAY_SIZE(ids) && first <= last)
			ids[n++] = first++;
		begin(false);
		ck_assert_int_eq(queue_remove(q, ids, n), 0);
		commit();
	}
}

static struct queue_stats stats(void)
{
	struct queue_stats s;

	queue_get_stats(q, &s);
	return s;
}

static uint64_t size_of(const char *name)
{
	struct stat st;

	return stat(path_of(name), &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* A second connection, as any tool would have it. */
static sqlite3 *connect_to(const char *name)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path_of(name), &db), SQLITE_OK);
	return db;
}

static void execute(const char *sql)
{
	sqlite3 *db = connect_to("queue.db");

	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static int64_t ask(const char *name, const char *sql)
{
	sqlite3 *db = connect_to(name);
	int64_t answer = ask_database(db, sql);

	sqlite3_close(db);
	return answer;
}

/* The numbers kept are the numbers there are. */
static void expect_exact(void)
{
	struct queue_stats s = stats();
	int64_t pages = ask("queue.db", "PRAGMA page_count");
	int64_t free_pages = ask("queue.db", "PRAGMA freelist_count");

	ck_assert_int_eq(ask("queue.db", "SELECT count(*) FROM queue"), (int64_t)s.messages);
	ck_assert_int_eq(ask("queue.db", "SELECT value FROM meta WHERE key = 'queue_messages'"),
		(int64_t)s.messages);
	ck_assert_int_eq(
		ask("queue.db", "SELECT count(*) FROM dead_letters"), (int64_t)s.dead_letters);
	ck_assert_int_eq(ask("queue.db", "SELECT value FROM meta WHERE key = 'dead_letters'"),
		(int64_t)s.dead_letters);
	ck_assert_uint_eq(s.bytes, (uint64_t)(pages - free_pages) * 4096 + size_of("queue.db-wal"));
}

/* A cursor that holds the log as it is now. */
static sqlite3_stmt *hold_log(sqlite3 *db)
{
	sqlite3_stmt *stmt;

	ck_assert_int_eq(
		sqlite3_prepare_v2(db, "SELECT id FROM queue", -1, &stmt, NULL), SQLITE_OK);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	return stmt;
}

/* --- counters -------------------------------------------------------------------------------- */

START_TEST(test_counters)
{
	uint64_t written, syncs;

	open_bounded(0, 0, false);
	fill(3000, 300, 200);
	ck_assert_uint_eq(stats().commits, 10);
	ck_assert_uint_eq(stats().written_bytes, disk.written);
	ck_assert_uint_eq(stats().syncs, disk.syncs);
	ck_assert_uint_gt(disk.syncs, 9);
	/* Two times the rows: log and database, or only the log. */
	ck_assert_uint_gt(disk.written, 3000 * 200);
	expect_exact();
	written = stats().written_bytes;
	syncs = stats().syncs;
	drain(1, 1000);
	ck_assert_uint_eq(stats().syncs, syncs);
	ck_assert_uint_gt(stats().written_bytes, written);
	expect_exact();
	/* Idle, and what only reads: no write. */
	written = stats().written_bytes;
	ck_assert_int_eq(queue_tidy(q), 0);
	ck_assert(!queue_is_over(q));
	ck_assert_uint_eq(stats().written_bytes, written);
}
END_TEST

/* The file's next write would come with a new time, and the next sync write that, too. */
START_TEST(test_commits_do_not_ask_for_times)
{
	unsigned looks;

	open_bounded(0, 0, false);
	fill(3, 1, 100);
	looks = disk.looks;
	fill(50, 1, 100);
	drain(1, 53);
	ck_assert_uint_eq(disk.looks, looks);
	expect_exact();
	ck_assert_uint_gt(disk.looks, looks);
}
END_TEST

START_TEST(test_counters_of_two_queues)
{
	const struct queue_params params = { .path = path_of("other.db"), .sync_full = true };
	struct queue *other = NULL;
	struct queue_stats before, after;

	ck_assert_int_eq(queue_new(&other, &params), 0);
	open_bounded(0, 0, false);
	queue_get_stats(other, &before);
	fill(100, 10, 100);
	queue_get_stats(other, &after);
	ck_assert_mem_eq(&before, &after, sizeof(before));
	ck_assert_uint_gt(stats().written_bytes, 100 * 100);
	q = queue_free(q, true);
	/* The other one's layer is its own. */
	ck_assert_int_eq(queue_probe(other), 0);
	queue_get_stats(other, &after);
	ck_assert_uint_gt(after.written_bytes, before.written_bytes);
	ck_assert_uint_gt(after.syncs, before.syncs);
	ck_assert_ptr_null(queue_free(other, true));
}
END_TEST

/* --- bounds ---------------------------------------------------------------------------------- */

START_TEST(test_max_messages)
{
	uint64_t gone = 3;

	open_bounded(10, 0, false);
	fill(8, 8, 10);
	begin(true);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), -ENOBUFS);
	ck_assert_str_eq(queue_full_text(q), "queue.max_messages, 10, is reached");
	/* What the transaction removes counts, too. */
	ck_assert_int_eq(queue_remove(q, &gone, 1), 0);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), -ENOBUFS);
	commit();
	ck_assert_uint_eq(queue_messages(q), 10);
	ck_assert(!queue_is_over(q));
	drain(1, 2);
	begin(true);
	ck_assert_int_eq(append(10, 0), 0);
	queue_rollback(q);
	begin(true);
	ck_assert_int_eq(queue_savepoint(q), 0);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), -ENOBUFS);
	ck_assert_int_eq(queue_savepoint_rollback(q), 0);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), 0);
	ck_assert_int_eq(append(10, 0), -ENOBUFS);
	commit();
	expect_exact();
}
END_TEST

static const struct {
	uint64_t max_bytes;
	size_t size; /* of a payload */
	unsigned batch;
	unsigned least; /* so many rows must fit */
	const char *text;
} byte_bounds[] = {
	{ 256 * KIB, 20, 1, 2500, "queue.max_bytes, 256K, is reached: " },
	{ 256 * KIB, 20, 100, 2500, "queue.max_bytes, 256K, is reached: " },
	{ 256 * KIB, 200, 1, 500, "queue.max_bytes, 256K, is reached: " },
	{ 4 * MIB, 200, 500, 13000, "queue.max_bytes, 4M, is reached: " },
	{ 4 * MIB, 2000, 10, 1500, "queue.max_bytes, 4M, is reached: " },
	{ 4 * MIB, 2500, 10, 750, "queue.max_bytes, 4M, is reached: " },
	{ 4 * MIB, 50000, 3, 60, "queue.max_bytes, 4M, is reached: " },
	{ 4 * MIB + 1, 900000, 1, 3, "queue.max_bytes, 4194305, is reached: " },
};

/* Appends until a row is refused in the first place of a transaction; returns how many went in. */
static unsigned append_until_full(int i)
{
	unsigned n = 0, refused = 0;

	while (refused < 3) {
		unsigned k = 0;

		begin(true);
		while (k < byte_bounds[i].batch && append(byte_bounds[i].size, 0) == 0)
			k++;
		commit();
		n += k;
		/* A refused transaction may have met a long log, which is empty for the next. */
		refused = k == 0 ? refused + 1 : 0;
		ck_assert_uint_le(stats().bytes, byte_bounds[i].max_bytes);
		ck_assert_uint_lt(n, 1000000);
	}
	return n;
}

START_TEST(test_max_bytes)
{
	size_t prefix = strlen(byte_bounds[_i].text);
	unsigned n, again;

	open_bounded(0, byte_bounds[_i].max_bytes, false);
	n = append_until_full(_i);
	ck_assert_uint_ge(n, byte_bounds[_i].least);
	ck_assert_int_eq(strncmp(queue_full_text(q), byte_bounds[_i].text, prefix), 0);
	ck_assert_uint_gt(strlen(queue_full_text(q)), prefix);
	ck_assert(!queue_is_over(q));
	expect_exact();
	/* Pages that became free are as good as new ones. */
	drain(1, n);
	ck_assert_uint_eq(queue_messages(q), 0);
	again = append_until_full(_i);
	ck_assert_uint_ge(again + again / 10, n);
	expect_exact();
}
END_TEST

/* A row that no trimming could make room for. */
START_TEST(test_row_above_max_bytes)
{
	open_bounded(0, 512 * KIB, _i);
	begin(true);
	ck_assert_int_eq(append(600 * KIB, 0), -ENOBUFS);
	ck_assert_str_eq(queue_full_text(q),
		"queue.max_bytes, 512K, is reached: this message alone is too large for it");
	ck_assert_int_eq(append(200 * KIB, 0), 0);
	commit();
	ck_assert(!queue_is_over(q));
	ck_assert_uint_eq(queue_messages(q), 1);
	ck_assert_uint_le(stats().bytes, 512 * KIB);
}
END_TEST

static uint64_t trim(uint64_t claimed)
{
	uint64_t dropped = 0, n;
	int r, calls = 0;

	do {
		r = queue_trim(q, claimed, &n);
		dropped += n;
		ck_assert_uint_le(n, 1000);
		ck_assert_int_lt(calls++, 1000);
	} while (r == 1);
	ck_assert_int_eq(r, 0);
	return dropped;
}

START_TEST(test_drop_oldest_by_messages)
{
	open_bounded(2000, 0, true);
	fill(2000, 500, 10);
	ck_assert(!queue_is_over(q));
	ck_assert_uint_eq(trim(0), 0);
	begin(true);
	for (int i = 0; i < 1500; i++)
		ck_assert_int_eq(append(10, 100), 0);
	commit();
	ck_assert(queue_is_over(q));
	ck_assert_uint_eq(trim(100), 1500);
	ck_assert(!queue_is_over(q));
	ck_assert_uint_eq(stats().dropped_overflow, 1500);
	expect_exact();
	/* The claimed ones, and the newest. */
	ck_assert_int_eq(ask("queue.db", "SELECT count(*) FROM queue WHERE id <= 100"), 100);
	ck_assert_int_eq(ask("queue.db", "SELECT min(id) FROM queue WHERE id > 100"), 1601);
	ck_assert_int_eq(ask("queue.db", "SELECT max(id) FROM queue"), 3500);
	ck_assert_uint_eq(stats().commits, 4 + 1 + 2);
}
END_TEST

/* Bounds that change: beyond the new ones rows are refused, or go, as at the start. */
START_TEST(test_set_bounds)
{
	struct queue_bounds bounds = { .max_messages = 100 };

	open_bounded(0, 0, false);
	fill(1000, 100, 1000);
	queue_set_bounds(q, &bounds);
	ck_assert(!queue_is_over(q)); /* nothing is dropped where lines are refused */
	begin(true);
	ck_assert_int_eq(append(10, 0), -ENOBUFS);
	ck_assert_str_eq(queue_full_text(q), "queue.max_messages, 100, is reached");
	queue_rollback(q);
	bounds = (struct queue_bounds){ .max_bytes = 512 * KIB };
	queue_set_bounds(q, &bounds);
	begin(true);
	ck_assert_int_eq(append(10, 0), -ENOBUFS);
	queue_rollback(q);
	bounds.drop_oldest = true;
	queue_set_bounds(q, &bounds);
	ck_assert(queue_is_over(q));
	ck_assert_uint_gt(trim(0), 500);
	ck_assert(!queue_is_over(q));
	fill(2000, 50, 100);
	trim(0);
	ck_assert_uint_le(stats().bytes, 1024 * KIB);
	bounds = (struct queue_bounds){ 0 };
	queue_set_bounds(q, &bounds);
	fill(3000, 500, 1000);
	ck_assert(!queue_is_over(q));
	bounds = (struct queue_bounds){ .max_messages = 7, .drop_oldest = true };
	queue_set_bounds(q, &bounds);
	trim(0);
	ck_assert_uint_eq(stats().messages, 7);
	expect_exact();
}
END_TEST

START_TEST(test_drop_oldest_when_all_are_claimed)
{
	uint64_t ids[] = { 6, 7 };

	open_bounded(5, 0, true);
	fill(5, 5, 10);
	begin(true);
	ck_assert_int_eq(append(10, 5), -ENOBUFS);
	ck_assert_str_eq(queue_full_text(q), "queue.max_messages, 5, is reached");
	/* Row 5 may go; with it, so may what comes now. */
	ck_assert_int_eq(append(10, 4), 0);
	ck_assert_int_eq(append(10, 5), 0);
	ck_assert_int_eq(append(10, 7), -ENOBUFS);
	commit();
	ck_assert(queue_is_over(q));
	/* Meanwhile the uplink has claimed them: nothing may go. */
	ck_assert_uint_eq(trim(7), 0);
	ck_assert(queue_is_over(q));
	ck_assert_uint_eq(queue_messages(q), 7);
	begin(false);
	ck_assert_int_eq(queue_remove(q, ids, 2), 0);
	commit();
	ck_assert(!queue_is_over(q));
	expect_exact();
}
END_TEST

START_TEST(test_drop_oldest_by_bytes)
{
	const uint64_t bound = 2 * MIB;
	uint64_t least = bound, dropped = 0;

	open_bounded(0, bound, true);
	fill(10, 10, 300);
	for (int i = 0; i < 200; i++) {
		begin(true);
		for (int k = 0; k < 100; k++)
			ck_assert_int_eq(append(i % 7 == 0 ? 3000 : 300, 10), 0);
		commit();
		dropped += trim(10);
		ck_assert(!queue_is_over(q));
		ck_assert_uint_le(stats().bytes, bound);
		if (dropped > 0)
			least = u64_min(least, stats().bytes - size_of("queue.db-wal"));
	}
	ck_assert_uint_gt(dropped, 1000);
	ck_assert_uint_eq(stats().dropped_overflow, dropped);
	/* Never more than needed: what stays fills the bound but for the log's part. */
	ck_assert_uint_gt(least, bound - bound / 16 - 64 * KIB);
	ck_assert_int_eq(ask("queue.db", "SELECT count(*) FROM queue WHERE id <= 10"), 10);
	ck_assert_int_eq(ask("queue.db", "SELECT max(id) FROM queue"), 20010);
	expect_exact();
	/* The rest is in one piece. */
	ck_assert_int_eq(ask("queue.db",
				 "SELECT max(id) - min(id) + 1 - count(*) FROM queue "
				 "WHERE id > 10"),
		0);
}
END_TEST

/* A log that a reader holds costs no message, and is emptied once it may be. */
START_TEST(test_drop_oldest_and_a_long_log)
{
	const uint64_t bound = 2 * MIB;
	sqlite3_stmt *cursor;
	sqlite3 *db;

	open_bounded(0, bound, true);
	fill(500, 100, 900);
	db = connect_to("queue.db");
	cursor = hold_log(db);
	fill(1000, 5, 900);
	ck_assert_uint_gt(size_of("queue.db-wal"), bound);
	ck_assert_uint_gt(stats().bytes, bound);
	ck_assert(!queue_is_over(q));
	ck_assert_uint_eq(trim(0), 0);
	ck_assert_uint_eq(queue_messages(q), 1500);
	sqlite3_finalize(cursor);
	sqlite3_close(db);
	/* Also without another commit, when there is time for it. */
	for (int i = 0; i < 100 && size_of("queue.db-wal") > 0; i++) {
		usleep(50000);
		ck_assert_int_eq(queue_tidy(q), 0);
	}
	ck_assert_uint_eq(size_of("queue.db-wal"), 0);
	expect_exact();
	ck_assert_uint_eq(queue_messages(q), 1500);
}
END_TEST

static void condemn(uint64_t first, uint64_t last)
{
	begin(false);
	for (uint64_t id = first; id <= last; id++)
		ck_assert_int_eq(queue_condemn(q, id, "no broker takes it"), 0);
	commit();
}

START_TEST(test_max_dead_letters)
{
	open_queue((struct queue_params){ .max_dead_letters = 5 });
	fill(30, 30, 10);
	condemn(1, 5);
	ck_assert_uint_eq(stats().dead_letters, 5);
	ck_assert_uint_eq(stats().dropped_dead_letters, 0);
	/* By age, then by id. */
	execute("UPDATE dead_letters SET died_at = 1000 WHERE id IN (3, 4)");
	condemn(10, 10);
	expect_exact();
	ck_assert_uint_eq(stats().dropped_dead_letters, 1);
	ck_assert_int_eq(ask("queue.db", "SELECT count(*) FROM dead_letters WHERE id = 3"), 0);
	condemn(11, 11);
	ck_assert_int_eq(ask("queue.db", "SELECT count(*) FROM dead_letters WHERE id = 4"), 0);
	ck_assert_int_eq(ask("queue.db", "SELECT min(id) FROM dead_letters"), 1);
	/* More at once than the bound. */
	condemn(12, 20);
	expect_exact();
	ck_assert_uint_eq(stats().dead_letters, 5);
	ck_assert_uint_eq(stats().dropped_dead_letters, 11);
	ck_assert_int_eq(ask("queue.db", "SELECT min(id) FROM dead_letters"), 16);
	/* A transaction that is given up dropped nothing. */
	begin(false);
	ck_assert_int_eq(queue_condemn(q, 21, "no broker takes it"), 0);
	queue_rollback(q);
	ck_assert_uint_eq(stats().dropped_dead_letters, 11);
	expect_exact();
}
END_TEST

/* --- the log --------------------------------------------------------------------------------- */

struct reading {
	pthread_t thread;
	sqlite3 *db;
	sqlite3_stmt *cursor;
	atomic_bool *stop;
	unsigned cursors;
};

/* Reads all the time, a cursor after the other, each for some milliseconds. */
static void *read_on(void *userdata)
{
	struct reading *r = userdata;

	while (!atomic_load(r->stop)) {
		r->cursors += sqlite3_step(r->cursor) == SQLITE_ROW;
		usleep(3000);
		sqlite3_reset(r->cursor);
	}
	return NULL;
}

/* Among three readers one always has a cursor open. */
START_TEST(test_log_is_bounded_with_readers)
{
	struct reading readers[3];
	atomic_bool stop = false;
	uint64_t size = 0, last;
	unsigned cut = 0;

	open_bounded(0, 0, false);
	fill(1, 1, 10);
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		sqlite3 *db = connect_to("queue.db");

		readers[i] = (struct reading){ .db = db, .cursor = hold_log(db), .stop = &stop };
		sqlite3_reset(readers[i].cursor);
		ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]), 0);
	}
	/* How long it takes until readers let go is the scheduler's business; that it is cut again
	 * and again is ours. */
	for (int i = 0; i < 8000 && cut < 3; i++) {
		last = size;
		fill(10, 10, 3000);
		size = size_of("queue.db-wal");
		cut += size + 12 * MIB < last;
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		pthread_join(readers[i].thread, NULL);
		ck_assert_uint_gt(readers[i].cursors, 0);
		sqlite3_finalize(readers[i].cursor);
		sqlite3_close(readers[i].db);
	}
	ck_assert_uint_eq(cut, 3);
	expect_exact();
}
END_TEST

START_TEST(test_log_after_a_long_reader)
{
	uint64_t syncs;
	sqlite3_stmt *cursor;
	sqlite3 *db;

	open_bounded(0, 0, false);
	fill(1, 1, 10);
	db = connect_to("queue.db");
	cursor = hold_log(db);
	fill(1000, 1, 30000);
	ck_assert_uint_gt(size_of("queue.db-wal"), 25 * MIB);
	/* It is not tried again with every commit. */
	syncs = disk.syncs;
	fill(100, 1, 10);
	ck_assert_uint_le(disk.syncs - syncs, 105);
	sqlite3_finalize(cursor);
	fill(300, 1, 30000);
	ck_assert_uint_lt(size_of("queue.db-wal"), 9 * MIB);
	sqlite3_close(db);
	expect_exact();
}
END_TEST

/* The small bound's log is small as well. */
START_TEST(test_log_fits_the_bound)
{
	uint64_t most = 0;

	open_bounded(0, 8 * MIB, false);
	for (int i = 0; i < 1000; i++) {
		fill(1, 1, 3000);
		most = u64_max(most, size_of("queue.db-wal"));
	}
	ck_assert_uint_lt(most, 8 * MIB / 16 + 64 * KIB);
}
END_TEST

/* --- free pages ------------------------------------------------------------------------------ */

/* Rows are removed by pages, each of which is logged once more; the database takes none of them. */
START_TEST(test_freed_pages_are_not_written)
{
	static const char sound[] =
		"SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
	const unsigned n = 30000, kept = 5000;
	struct queue_stats before;
	uint64_t used;

	open_bounded(0, 0, false);
	fill(n, 1000, 200);
	q = queue_free(q, true);
	open_bounded(0, 0, false);
	used = stats().bytes;
	ck_assert_uint_gt(used, n * 200);
	before = stats();
	drain(1, n - kept);
	ck_assert_uint_lt(stats().written_bytes - before.written_bytes, used * 5 / 4);
	expect_exact();
	/* What was left out is missed by nobody: not where the log is gone, nor when it is used. */
	execute("PRAGMA wal_checkpoint(TRUNCATE)");
	ck_assert_uint_eq(size_of("queue.db-wal"), 0);
	ck_assert_int_eq(ask("queue.db", sound), 1);
	ck_assert_int_eq(ask("queue.db", "SELECT sum(id) FROM queue"),
		(int64_t)kept * (2 * n - kept + 1) / 2);
	fill(kept, 1000, 300);
	expect_exact();
	drain(n - kept + 1, n + kept - 10);
	while (queue_tidy(q) == 1)
		;
	expect_exact();
	ck_assert_int_eq(ask("queue.db", sound), 1);
	ck_assert_uint_eq(stats().messages, 10);
}
END_TEST

START_TEST(test_tidy_after_a_backlog)
{
	unsigned steps = 0;
	uint64_t size, syncs;

	open_bounded(0, 0, false);
	fill(20000, 1000, 1000);
	size = size_of("queue.db");
	ck_assert_uint_gt(size, 20 * MIB);
	/* A full queue, and one that is nearly full, are left alone. */
	ck_assert_int_eq(queue_tidy(q), 0);
	drain(1, 15000);
	ck_assert_int_eq(queue_tidy(q), 0);
	drain(15001, 19900);
	ck_assert_uint_ge(size_of("queue.db"), size);
	syncs = disk.syncs;
	while (queue_tidy(q) == 1) {
		ck_assert_uint_lt(steps++, 1000);
		expect_exact();
	}
	ck_assert_uint_gt(steps, 5);
	/* Those of checkpoints. */
	ck_assert_uint_le(disk.syncs - syncs, 30);
	ck_assert_uint_eq(size_of("queue.db-wal"), 0);
	ck_assert_uint_lt(size_of("queue.db"), 2 * MIB);
	ck_assert_uint_ge(size_of("queue.db"), MIB);
	ck_assert_int_eq(ask("queue.db", "SELECT sum(id) FROM queue"), (19901 + 20000) * 50);
	/* And that was it. */
	size = stats().written_bytes;
	ck_assert_int_eq(queue_tidy(q), 0);
	ck_assert_uint_eq(stats().written_bytes, size);
	fill(1000, 100, 1000);
	expect_exact();
}
END_TEST

START_TEST(test_tidy_gives_way)
{
	open_bounded(0, 0, false);
	fill(20000, 1000, 900);
	drain(1, 20000);
	ck_assert_int_eq(queue_tidy(q), 1);
	ck_assert_int_eq(queue_tidy(q), 1);
	fill(15000, 1000, 900);
	for (int i = 0; i < 3; i++)
		ck_assert_int_ge(queue_tidy(q), 0);
	ck_assert_int_eq(queue_tidy(q), 0);
	expect_exact();
	/* Most of the free pages were used again. */
	ck_assert_uint_lt(size_of("queue.db"), 22 * MIB);
	ck_assert_uint_gt(size_of("queue.db"), 15 * MIB);
}
END_TEST

/* A reader keeps the file from shrinking: the end is tried for a while, not forever. */
START_TEST(test_tidy_and_a_reader)
{
	sqlite3_stmt *cursor;
	sqlite3 *db;
	int calls = 0;

	open_bounded(0, 0, false);
	fill(10000, 1000, 1000);
	db = connect_to("queue.db");
	drain(1, 9990);
	cursor = hold_log(db);
	while (queue_tidy(q) == 1)
		ck_assert_int_lt(calls++, 1000);
	ck_assert_uint_gt(size_of("queue.db-wal"), 0);
	sqlite3_finalize(cursor);
	sqlite3_close(db);
	ck_assert_uint_eq(queue_messages(q), 10);
	expect_exact();
	q = queue_free(q, true);
	ck_assert_uint_lt(size_of("queue.db"), 2 * MIB);
}
END_TEST

/* One that an operator has put together anew: its free pages cannot be given back. */
START_TEST(test_tidy_without_auto_vacuum)
{
	sqlite3 *db;

	open_bounded(0, 0, false);
	q = queue_free(q, true);
	db = connect_to("queue.db");
	ck_assert_int_eq(
		sqlite3_exec(db, "PRAGMA auto_vacuum = NONE; VACUUM", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	open_bounded(0, 0, false);
	ck_assert_int_eq(ask("queue.db", "PRAGMA auto_vacuum"), 0);
	fill(5000, 1000, 1000);
	drain(1, 5000);
	for (int calls = 0; queue_tidy(q) == 1;)
		ck_assert_int_lt(calls++, 1000);
	expect_exact();
}
END_TEST

/* --- the reserve file ------------------------------------------------------------------------ */

static const struct {
	uint64_t max_bytes, size;
} reserves[] = {
	{ 0, 8 * MIB },
	{ 1024 * MIB, 8 * MIB },
	{ 16 * MIB, MIB },
	{ 256 * KIB, 256 * KIB },
};

START_TEST(test_reserve)
{
	struct stat st;

	open_bounded(0, reserves[_i].max_bytes, false);
	ck_assert(queue_has_reserve(q));
	ck_assert_int_eq(stat(path_of("queue.db.reserve"), &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, reserves[_i].size);
	ck_assert_uint_ge((uint64_t)st.st_blocks * 512, reserves[_i].size);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	ck_assert_int_eq(queue_refill_reserve(q), 0);
	ck_assert(queue_give_up_reserve(q));
	ck_assert(!queue_has_reserve(q));
	ck_assert_int_ne(access(path_of("queue.db.reserve"), F_OK), 0);
	ck_assert(!queue_give_up_reserve(q));
	ck_assert_int_eq(queue_refill_reserve(q), 0);
	ck_assert(queue_has_reserve(q));
	ck_assert_uint_eq(size_of("queue.db.reserve"), reserves[_i].size);
	/* It stays, for the next process; one of another size is made anew. */
	q = queue_free(q, true);
	ck_assert_uint_eq(size_of("queue.db.reserve"), reserves[_i].size);
	ck_assert_int_eq(truncate(path_of("queue.db.reserve"), 100), 0);
	open_bounded(0, reserves[_i].max_bytes, false);
	ck_assert_uint_eq(size_of("queue.db.reserve"), reserves[_i].size);
}
END_TEST

/* What is in its place is left alone, and the queue works without it. */
START_TEST(test_reserve_is_no_symlink)
{
	static const char text[] = "precious";
	FILE *f = fopen(path_of("precious"), "we");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	ck_assert_int_eq(symlink(path_of("precious"), path_of("queue.db.reserve")), 0);
	open_bounded(0, 0, false);
	ck_assert(!queue_has_reserve(q));
	ck_assert_int_lt(queue_refill_reserve(q), 0);
	ck_assert(!queue_give_up_reserve(q));
	ck_assert_uint_eq(size_of("precious"), strlen(text));
	fill(10, 10, 10);
	expect_exact();
}
END_TEST

/* --- a full disk ----------------------------------------------------------------------------- */

/* Covers the folder with a small file system of our own. False: not allowed to. */
static bool mount_small(const char *size)
{
	char options[40];

	snprintf(options, sizeof(options), "size=%s,mode=0700", size);
	if (unshare(CLONE_NEWNS) < 0)
		return false;
	return mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0 &&
		mount("tmpfs", scratch.dir, "tmpfs", 0, options) == 0;
}

/* Takes what room there is but for `left` bytes. */
static void fill_disk(uint64_t left)
{
	_cleanup_(closep) int fd =
		open(path_of("ballast"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	off_t size;

	ck_assert_int_ge(fd, 0);
	while (write(fd, payload, 4096) > 0)
		;
	ck_assert_int_eq(errno, ENOSPC);
	size = lseek(fd, 0, SEEK_END);
	ck_assert_int_ge(size, (off_t)left);
	ck_assert_int_eq(ftruncate(fd, size - (off_t)left), 0);
}

static int try_append(unsigned n)
{
	int r;

	r = queue_begin(q, true);
	for (unsigned i = 0; i < n && r == 0; i++)
		r = append(1000, 0);
	if (r == 0)
		r = queue_commit(q);
	queue_rollback(q);
	return r;
}

static int try_remove(uint64_t first, unsigned n)
{
	uint64_t ids[1000];
	int r;

	for (unsigned i = 0; i < n; i++)
		ids[i] = first + i;
	r = queue_begin(q, false);
	if (r == 0)
		r = queue_remove(q, ids, n);
	if (r == 0)
		r = queue_commit(q);
	queue_rollback(q);
	return r;
}

/* Not a byte is left: nothing works until the reserve is given up; then all removals do. */
static void live_on_a_full_disk(void)
{
	uint64_t rows = 4000, id = 1;

	open_bounded(0, 0, false);
	fill((unsigned)rows, 500, 1000);
	q = queue_free(q, true);
	open_bounded(0, 0, false); /* its log is empty now */
	ck_assert(queue_has_reserve(q));
	fill_disk(0);
	ck_assert_int_eq(try_append(200), -ENOSPC);
	ck_assert_int_eq(try_remove(id, 100), -ENOSPC);
	ck_assert_uint_eq(queue_messages(q), rows);
	ck_assert(queue_give_up_reserve(q));
	/* The same one. */
	ck_assert_int_eq(try_remove(id, 100), 0);
	id += 100;
	ck_assert_int_eq(queue_refill_reserve(q), -ENOSPC);
	/* Somebody else takes the rest; the log's own space goes round. */
	fill_disk(0);
	for (; id <= rows; id += 20) {
		/* One that fails has made room for the next. */
		if (try_remove(id, 20) < 0)
			ck_assert_int_eq(try_remove(id, 20), 0);
	}
	ck_assert_uint_eq(queue_messages(q), 0);
	/* Room inside the database, though the disk is full. */
	ck_assert_int_eq(try_append(1), 0);
	ck_assert_int_eq(queue_refill_reserve(q), -ENOSPC);
	ck_assert_int_eq(unlink(path_of("ballast")), 0);
	ck_assert_int_eq(queue_refill_reserve(q), 0);
	ck_assert_int_eq(try_append(500), 0);
	expect_exact();
	ck_assert_int_eq(ask("queue.db",
				 "SELECT count(*) FROM pragma_integrity_check WHERE "
				 "integrity_check <> 'ok'"),
		0);
}

/* Its own backlog fills the disk: free pages become the reserve. */
static void refill_from_free_pages(void)
{
	int calls = 0, r;
	uint64_t size;

	open_bounded(0, 0, false);
	fill(12000, 500, 1000);
	size = size_of("queue.db");
	ck_assert(queue_give_up_reserve(q));
	drain(1, 9000); /* not so empty that it were tidied anyway */
	ck_assert_int_eq(queue_tidy(q), 0);
	fill_disk(0);
	do {
		r = queue_refill_reserve(q);
		ck_assert(r == 0 || r == -ENOSPC);
		ck_assert_int_lt(calls++, 100);
	} while (r < 0);
	ck_assert_uint_lt(size_of("queue.db"), size);
	ck_assert_uint_eq(queue_messages(q), 3000);
	expect_exact();
	ck_assert_int_eq(try_append(500), 0);
}

/* Empty, but for not quite one and a half times the reserve. */
static void refuse_the_last_bytes(void)
{
	uint64_t reserve;

	open_bounded(0, 0, false);
	reserve = size_of("queue.db.reserve");
	ck_assert_uint_gt(reserve, 0);
	ck_assert(queue_give_up_reserve(q));
	fill_disk(reserve + reserve / 2 - 4096);
	ck_assert_int_eq(queue_refill_reserve(q), -ENOSPC);
	ck_assert(!queue_has_reserve(q));
	ck_assert_int_ne(access(path_of("queue.db.reserve"), F_OK), 0);
	fill_disk(reserve + reserve / 2);
	ck_assert_int_eq(queue_refill_reserve(q), 0);
}

static void (*const full_disks[])(
	void) = { live_on_a_full_disk, refill_from_free_pages, refuse_the_last_bytes };

START_TEST(test_full_disk)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		/* A process of its own: the mount is seen by it alone, and ends with it. */
		if (!mount_small("40m"))
			scratch_exit(77);
		full_disks[_i]();
		scratch_exit(0);
	}
	status = scratch_wait(child);
	if (status == 77) {
		fprintf(stderr,
			"SKIPPED: test_full_disk needs to mount a tmpfs, which is not "
			"allowed here\n");
		return;
	}
	ck_assert_int_eq(status, 0);
}
END_TEST

/* --- power cuts ------------------------------------------------------------------------------ */

static void write_image(const char *name, const struct disk_image *image)
{
	FILE *f = fopen(path_of(name), "we");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(image->data, 1, image->size, f), image->size);
	ck_assert_int_eq(fclose(f), 0);
}

/*
 * Removals wait in the log for the next sync. That one fails, and the system forgets them; then a
 * row is accepted above them. A power cut must not take it, nor bring back what was refused.
 */
START_TEST(test_power_cut_after_a_failed_sync)
{
	disk.keep_images = true;
	open_bounded(0, 0, false);
	fill(20, 5, 100);
	drain(1, 3);
	disk.fail_syncs = (unsigned)_i + 1;
	for (int i = 0; i <= _i; i++)
		ck_assert_int_eq(try_append(3), -EIO);
	ck_assert_uint_eq(disk.fail_syncs, 0);
	drain(4, 5);
	ck_assert_int_eq(try_append(2), 0);
	write_image("copy.db", &disk.database);
	write_image("copy.db-wal", &disk.log);
	ck_assert_int_eq(ask("copy.db", "SELECT count(*) FROM queue"), 17);
	ck_assert_int_eq(ask("copy.db", "SELECT max(id) FROM queue"), (int64_t)queue_last_id(q));
	ck_assert_int_eq(ask("copy.db", "SELECT count(*) FROM queue WHERE id > 20"), 2);
	ck_assert_int_eq(ask("copy.db", "SELECT value FROM meta WHERE key = 'queue_messages'"), 17);
}
END_TEST

/* It is worth nothing unless it writes and syncs. */
START_TEST(test_probe)
{
	uint64_t written, syncs;

	open_bounded(0, 0, false);
	fill(10, 10, 10);
	for (int i = 0; i < 3; i++) {
		written = disk.written;
		syncs = disk.syncs;
		ck_assert_int_eq(queue_probe(q), 0);
		ck_assert_uint_ge(disk.written - written, 4096);
		ck_assert_uint_eq(disk.syncs - syncs, 1);
	}
	disk.fail_syncs = 1;
	ck_assert_int_eq(queue_probe(q), -EIO);
	ck_assert_uint_eq(disk.fail_syncs, 0);
	ck_assert_int_eq(queue_probe(q), 0);
	fill(10, 10, 10);
	expect_exact();
	ck_assert_int_eq(ask("queue.db", "SELECT max(id) FROM queue"), 20);
}
END_TEST

Suite *check_queue_space(void)
{
	Suite *s = suite_create("queue_space");
	TCase *t = tcase_create("bounds");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_counters);
	tcase_add_test(t, test_commits_do_not_ask_for_times);
	tcase_add_test(t, test_counters_of_two_queues);
	tcase_add_test(t, test_max_messages);
	tcase_add_loop_test(t, test_max_bytes, 0, ARRAY_SIZE(byte_bounds));
	tcase_add_loop_test(t, test_row_above_max_bytes, 0, 2);
	tcase_add_test(t, test_drop_oldest_by_messages);
	tcase_add_test(t, test_set_bounds);
	tcase_add_test(t, test_drop_oldest_when_all_are_claimed);
	tcase_add_test(t, test_drop_oldest_by_bytes);
	tcase_add_test(t, test_drop_oldest_and_a_long_log);
	tcase_add_test(t, test_max_dead_letters);
	suite_add_tcase(s, t);

	t = tcase_create("space");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_log_is_bounded_with_readers);
	tcase_add_test(t, test_log_after_a_long_reader);
	tcase_add_test(t, test_log_fits_the_bound);
	tcase_add_test(t, test_freed_pages_are_not_written);
	tcase_add_test(t, test_tidy_after_a_backlog);
	tcase_add_test(t, test_tidy_gives_way);
	tcase_add_test(t, test_tidy_and_a_reader);
	tcase_add_test(t, test_tidy_without_auto_vacuum);
	tcase_add_loop_test(t, test_reserve, 0, ARRAY_SIZE(reserves));
	tcase_add_test(t, test_reserve_is_no_symlink);
	tcase_add_loop_test(t, test_full_disk, 0, ARRAY_SIZE(full_disks));
	tcase_add_loop_test(t, test_power_cut_after_a_failed_sync, 0, 3);
	tcase_add_test(t, test_probe);
	suite_add_tcase(s, t);
	return s;
}
