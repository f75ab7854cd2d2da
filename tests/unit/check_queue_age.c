/* SPDX-License-Identifier: MIT */
/*
 * Tests of the queue's time: rows stamped by a clock that was not set, in this boot and in earlier
 * ones, their correction, trust that outlives a process, and rows that grow too old.
 */
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>

#include "ask.h"
#include "log.h"
#include "queue.h"
#include "scratch.h"
#include "suites.h"

#define BOOT_A "0123456789abcdef0123456789abcdef"
#define BOOT_B "fedcba98-7654-3210-fedc-ba9876543210"

#define TODAY INT64_C(1700000000000)
#define HOUR  INT64_C(3600000)
#define DAY   (24 * HOUR)

static struct scratch scratch;
static struct queue *q;
static char payload[16384];

static int64_t boot_msec(void)
{
	return (int64_t)(now_boot_usec() / USEC_PER_MSEC);
}

static void open_queue(const char *boot_id)
{
	const struct queue_params params = { .path = scratch_path(&scratch, "queue.db") };

	if (boot_id)
		setenv("MQTTGW_BOOT_ID", boot_id, 1);
	else
		unsetenv("MQTTGW_BOOT_ID");
	ck_assert_int_eq(queue_new(&q, &params), 0);
}

static void reopen(const char *boot_id)
{
	q = queue_free(q, true);
	open_queue(boot_id);
}

static void setup(void)
{
	log_set_level(LOG_EMERG);
	scratch_make(&scratch);
	open_queue(BOOT_A);
}

static void teardown(void)
{
	q = queue_free(q, true);
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static struct clock set_clock(bool trusted, int64_t offset)
{
	const struct clock c = { .trusted = trusted, .offset_msec = offset };

	queue_set_clock(q, &c);
	return c;
}

static void kill_and_reopen(const char *boot)
{
	q = queue_free(q, false);
	open_queue(boot);
}

static uint64_t written_bytes(void)
{
	struct queue_stats stats;

	queue_get_stats(q, &stats);
	return stats.written_bytes;
}

static void begin(void)
{
	ck_assert_int_eq(queue_begin(q, false), 0);
}

static void commit(void)
{
	ck_assert_int_eq(queue_commit(q), 0);
}

static uint64_t append_one(int64_t timestamp, bool own, size_t size)
{
	const struct message m = {
		.topic = "t",
		.topic_len = 1,
		.payload = payload,
		.payload_len = size,
		.timestamp = timestamp,
		.own_timestamp = own,
	};
	uint64_t id = 0;

	ck_assert_int_eq(queue_append(q, &m, 0, &id), 0);
	return id;
}

/* `n` rows in a transaction, stamped by the clock, `step` milliseconds apart, the last one now.
 * Returns the first one's timestamp. */
static int64_t append(unsigned n, const struct clock *c, int64_t step)
{
	int64_t first = boot_msec() + c->offset_msec - (n - 1) * step;

	begin();
	for (unsigned i = 0; i < n; i++)
		append_one(first + (int64_t)i * step, false, 10);
	commit();
	return first;
}

static void append_own(int64_t timestamp)
{
	begin();
	append_one(timestamp, true, 10);
	commit();
}

static void remove_from(uint64_t first, uint64_t last)
{
	begin();
	for (uint64_t id = first; id <= last; id++)
		ck_assert_int_eq(queue_remove(q, &(uint64_t){ id }, 1), 0);
	commit();
}

/* Asks by a connection of its own: what is committed. */
static int64_t ask(const char *sql)
{
	sqlite3 *db = NULL;
	int64_t value;

	ck_assert_int_eq(sqlite3_open(scratch_path(&scratch, "queue.db"), &db), SQLITE_OK);
	value = ask_database(db, sql);
	sqlite3_close(db);
	return value;
}

static int64_t timestamp_of(uint64_t id)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "SELECT timestamp FROM queue WHERE id = %llu",
		(unsigned long long)id);
	return ask(sql);
}

static int64_t runs(void)
{
	return ask("SELECT count(*) FROM unset_clock");
}

/* Returns how many calls it took. */
static unsigned correct_all(void)
{
	unsigned calls = 1;
	int r;

	while ((r = queue_correct(q)) > 0)
		ck_assert_uint_lt(++calls, 1000);
	ck_assert_int_eq(r, 0);
	return calls;
}

static uint64_t expire_all(uint64_t claimed, int64_t before)
{
	uint64_t total = 0, dropped;
	int calls = 0, r;

	do {
		r = queue_expire(q, claimed, before, &dropped);
		ck_assert_int_ge(r, 0);
		total += dropped;
		ck_assert_int_lt(++calls, 10000);
	} while (r > 0);
	return total;
}

/* --- schema ---------------------------------------------------------------------------------- */

static const char *const first_schema[] = {
#include "sql-001.inc"
};

/* A queue of the first version, with rows in it, goes on. */
START_TEST(test_migration)
{
	sqlite3 *db = NULL;

	q = queue_free(q, true);
	ck_assert_int_eq(unlink(scratch_path(&scratch, "queue.db")), 0);
	ck_assert_int_eq(sqlite3_open(scratch_path(&scratch, "queue.db"), &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, first_schema[0], NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db,
				 "PRAGMA journal_mode = WAL; PRAGMA user_version = 1;"
				 "INSERT INTO queue VALUES (7, 't', x'00', 1, 0, 17);"
				 "UPDATE meta SET value = 1 WHERE key = 'queue_messages'",
				 NULL, NULL, NULL),
		SQLITE_OK);
	ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
	open_queue(BOOT_A);
	ck_assert_int_eq(ask("PRAGMA user_version"), 2);
	ck_assert_uint_eq(queue_messages(q), 1);
	ck_assert_int_eq(timestamp_of(7), 17);
	ck_assert_int_eq(runs(), 0);
	/* Nobody knows by which clock it was stamped: it is taken as it is. */
	set_clock(true, TODAY);
	ck_assert_uint_eq(correct_all(), 1);
	ck_assert_int_eq(timestamp_of(7), 17);
	append_own(18);
	ck_assert_uint_eq(expire_all(0, 18), 1);
	ck_assert_uint_eq(queue_messages(q), 1);
}
END_TEST

/* --- runs ------------------------------------------------------------------------------------ */

START_TEST(test_nothing_when_trusted)
{
	const struct clock c = set_clock(true, TODAY - boot_msec());

	append(3, &c, 1);
	append_own(5);
	append(3, &c, 1);
	ck_assert_int_eq(runs(), 0);
	ck_assert_uint_eq(correct_all(), 1);
}
END_TEST

/* One row for many, whatever the number of transactions, and a new one when the clock jumps. */
START_TEST(test_runs)
{
	struct clock c = set_clock(false, 0);

	append(5, &c, 0);
	append(5, &c, 0);
	ck_assert_int_eq(runs(), 1);
	c = set_clock(false, 999);
	append(1, &c, 0);
	ck_assert_int_eq(runs(), 1);
	c = set_clock(false, 1000);
	append(1, &c, 0);
	ck_assert_int_eq(runs(), 2);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock WHERE first_id = 1"), 11);
	append_own(5);
	append(2, &c, 0);
	ck_assert_int_eq(runs(), 3);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock WHERE first_id = 14"), 15);
	ck_assert_int_eq(ask("SELECT offset_msec FROM unset_clock WHERE first_id = 14"), 1000);
	ck_assert_int_eq(ask("SELECT count(*) FROM unset_clock WHERE boot_id = '" BOOT_A "'"), 3);
	/* All in one transaction. */
	begin();
	append_one(boot_msec() + 1000, false, 1);
	append_one(7, true, 1);
	append_one(boot_msec() + 1000, false, 1);
	append_one(8, true, 1);
	append_one(9, true, 1);
	commit();
	ck_assert_int_eq(runs(), 4);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock WHERE first_id = 14"), 16);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock WHERE first_id = 18"), 18);
}
END_TEST

/* What is rolled back was never in a run, in memory neither. */
START_TEST(test_runs_and_rollback)
{
	struct clock c = set_clock(false, 0);

	append(2, &c, 0);
	begin();
	append_one(boot_msec(), false, 1);
	append_one(5, true, 1);
	append_one(boot_msec(), false, 1);
	queue_rollback(q);
	ck_assert_int_eq(runs(), 1);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock"), 2);
	append(2, &c, 0);
	ck_assert_int_eq(runs(), 1);
	ck_assert_int_ge(ask("SELECT last_id FROM unset_clock"), 7);
	/* The very first one. */
	reopen(BOOT_A);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock"), 7);
	c = set_clock(false, 50000);
	begin();
	append_one(boot_msec() + c.offset_msec, false, 1);
	queue_rollback(q);
	append(1, &c, 0);
	ck_assert_int_eq(runs(), 2);
	ck_assert_int_eq(ask("SELECT max(last_id) - max(first_id) FROM unset_clock"), 0);
}
END_TEST

/* One by one rows cost what they cost with a clock that is set: the run is written ahead. */
START_TEST(test_runs_are_written_ahead)
{
	struct clock c = set_clock(false, 0);
	uint64_t written;

	append(1, &c, 0);
	append(1, &c, 0);
	written = written_bytes();
	append(1, &c, 0);
	/* The row, and the number of rows. */
	ck_assert_uint_eq(written_bytes() - written, 2 * (24 + 4096));
	for (unsigned i = 0; i < 200; i++)
		append(1, &c, 0);
	ck_assert_int_eq(runs(), 1);
	reopen(BOOT_A);
	ck_assert_int_eq(ask("SELECT last_id FROM unset_clock"), 203);
}
END_TEST

static const struct {
	bool killed, own, corrected_first;
} written_ahead[] = {
	{ false, false, false },
	{ false, true, false },
	{ true, false, false },
	{ true, true, false },
	{ false, false, true },
	{ true, false, true },
};

/* What is written ahead is true of no row that comes later and is another's. */
START_TEST(test_runs_written_ahead_are_cut)
{
	struct clock c = set_clock(false, 0), now;
	int64_t before, after;
	uint64_t id;

	append(1, &c, 0);
	before = append(1, &c, 0);
	append(1, &c, 0);
	ck_assert_int_gt(ask("SELECT last_id FROM unset_clock"), 3);
	if (written_ahead[_i].killed)
		kill_and_reopen(BOOT_A);
	now = set_clock(true, TODAY);
	if (written_ahead[_i].corrected_first)
		ck_assert_uint_eq(correct_all(), 1);
	begin();
	after = written_ahead[_i].own ? 17 : boot_msec() + now.offset_msec;
	id = append_one(after, written_ahead[_i].own, 10);
	commit();
	ck_assert_uint_eq(correct_all(), 1);
	ck_assert_int_eq(timestamp_of(2), before + TODAY);
	ck_assert_int_eq(timestamp_of(id), after);
	ck_assert_int_eq(runs(), 0);
}
END_TEST

/* A device whose clock is never set, and whose rows come and go, keeps no list of all of them. */
START_TEST(test_runs_stay_few)
{
	struct clock c = set_clock(false, 0);

	for (unsigned i = 0; i < 200; i++) {
		append(1, &c, 0);
		append_own(5);
		if (i % 10 == 9)
			remove_from(i * 2 - 17, i * 2 + 2);
	}
	ck_assert_int_lt(runs(), 25);
	ck_assert_uint_eq(queue_messages(q), 0);
}
END_TEST

/* --- correction ------------------------------------------------------------------------------ */

START_TEST(test_not_before_it_is_trusted)
{
	struct clock c = set_clock(false, 0);
	int64_t first = append(3, &c, 0);

	ck_assert_uint_eq(correct_all(), 1);
	ck_assert_int_eq(timestamp_of(1), first);
}
END_TEST

START_TEST(test_this_boot)
{
	struct clock c = set_clock(false, 0);
	int64_t first = append(3, &c, 20), second, third, right = TODAY - boot_msec();

	append_own(12345);
	second = append(2, &c, 0);
	c = set_clock(false, -DAY);
	third = append(1, &c, 0);
	set_clock(true, right);
	append_own(54321);
	/* Nothing that is uncorrected expires, however old it looks. */
	ck_assert_uint_eq(expire_all(0, TODAY - HOUR), 2);
	ck_assert_uint_eq(correct_all(), 1);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(timestamp_of(1 + (uint64_t)i), first + 20 * i + right);
	ck_assert_int_eq(timestamp_of(5), second + right);
	ck_assert_int_eq(timestamp_of(7), third + DAY + right);
	ck_assert_int_eq(runs(), 0);
	/* And once corrected it does. */
	ck_assert_uint_eq(expire_all(0, TODAY + DAY), 6);
}
END_TEST

/* Their own timestamps are nobody's to correct. */
START_TEST(test_own_timestamps_stay)
{
	struct clock c = set_clock(false, 0);

	append_own(111);
	append(1, &c, 0);
	append_own(222);
	append_own(333);
	append(1, &c, 0);
	append_own(444);
	set_clock(true, TODAY);
	correct_all();
	ck_assert_int_eq(timestamp_of(1), 111);
	ck_assert_int_eq(timestamp_of(3), 222);
	ck_assert_int_eq(timestamp_of(4), 333);
	ck_assert_int_eq(timestamp_of(6), 444);
	ck_assert_int_gt(timestamp_of(2), TODAY);
	ck_assert_int_gt(timestamp_of(5), TODAY);
}
END_TEST

/* A clock that showed next year is corrected as well. */
START_TEST(test_ahead)
{
	struct clock c = set_clock(false, TODAY + 365 * DAY);
	int64_t first = append(2, &c, 5);

	set_clock(true, TODAY);
	correct_all();
	ck_assert_int_eq(timestamp_of(1), first - 365 * DAY);
	ck_assert_int_eq(timestamp_of(2), first - 365 * DAY + 5);
}
END_TEST

/* Two processes of a boot. */
START_TEST(test_this_boot_before_a_restart)
{
	struct clock c = set_clock(false, 0);
	int64_t first = append(1, &c, 0), second;

	reopen(BOOT_A);
	c = set_clock(false, 0);
	second = append(1, &c, 0);
	ck_assert_int_eq(runs(), 2);
	set_clock(true, TODAY);
	correct_all();
	ck_assert_int_eq(timestamp_of(1), first + TODAY);
	ck_assert_int_eq(timestamp_of(2), second + TODAY);
}
END_TEST

/* The youngest is as old as this boot. */
START_TEST(test_earlier_boot)
{
	struct clock c = set_clock(false, 0);

	append(3, &c, 1000);
	append_own(77);
	append(2, &c, 3000);
	reopen(BOOT_B);
	set_clock(true, TODAY);
	ck_assert_uint_eq(correct_all(), 1);
	ck_assert_int_eq(timestamp_of(1), TODAY - 2000);
	ck_assert_int_eq(timestamp_of(2), TODAY - 1000);
	ck_assert_int_eq(timestamp_of(3), TODAY);
	ck_assert_int_eq(timestamp_of(4), 77);
	ck_assert_int_eq(timestamp_of(5), TODAY - 3000);
	ck_assert_int_eq(timestamp_of(6), TODAY);
}
END_TEST

/* In steps, and a process that ends in between corrects nothing twice. */
START_TEST(test_steps)
{
	struct clock c = set_clock(false, 0);
	int64_t first = append(2500, &c, 1);
	bool other_boot = _i > 0;
	unsigned calls = 0;
	int r;

	do {
		reopen(other_boot ? BOOT_B : BOOT_A);
		set_clock(true, TODAY);
		r = queue_correct(q);
		ck_assert_int_ge(r, 0);
		calls++;
		/* Rows leave meanwhile, at both ends. */
		if (calls == 1)
			remove_from(1, 10);
		if (calls == 2)
			remove_from(2400, 2499);
	} while (r > 0);
	ck_assert_uint_gt(calls, 2);
	ck_assert_int_eq(runs(), 0);
	if (other_boot)
		first = -2499;
	for (uint64_t id = 11; id < 2400; id += 7)
		ck_assert_int_eq(timestamp_of(id), TODAY + first + (int64_t)id - 1);
	ck_assert_int_eq(timestamp_of(2500), TODAY + first + 2499);
}
END_TEST

/* A step writes no more than it may, also where rows are large. */
START_TEST(test_steps_of_large_rows)
{
	set_clock(false, 0);
	begin();
	for (unsigned i = 0; i < 300; i++)
		append_one(boot_msec(), false, sizeof(payload));
	commit();
	set_clock(true, TODAY);
	ck_assert_uint_gt(correct_all(), 4);
	ck_assert_int_eq(ask("SELECT count(*) FROM queue WHERE timestamp >= 1700000000000"), 300);
}
END_TEST

START_TEST(test_rows_that_left)
{
	struct clock c = set_clock(false, 0);

	append(5, &c, 0);
	append_own(1);
	append(5, &c, 0);
	remove_from(1, 5);
	set_clock(true, TODAY);
	correct_all();
	ck_assert_int_eq(runs(), 0);
	remove_from(6, 11);
	ck_assert_uint_eq(correct_all(), 1);
}
END_TEST

/* Rows may come between trust and correction, and the next unset clock begins another run. */
START_TEST(test_runs_after_a_correction)
{
	struct clock c = set_clock(false, 0);
	int64_t first;

	append(1, &c, 0);
	c = set_clock(true, TODAY);
	first = append(1, &c, 0);
	correct_all();
	ck_assert_int_eq(timestamp_of(2), first);
	/* Stamped by the clock as it was before, and only now appended. */
	begin();
	append_one(boot_msec(), false, 1);
	commit();
	ck_assert_int_eq(runs(), 1);
	correct_all();
	ck_assert_int_ge(timestamp_of(3), first);
	ck_assert_int_le(timestamp_of(3), first + TEST_SECONDS * 1000);
}
END_TEST

START_TEST(test_without_a_boot_id)
{
	struct clock c;
	int64_t first;

	/* Not one that could be meant. */
	reopen("no such boot");
	c = set_clock(false, 0);
	first = append(1, &c, 0);
	set_clock(true, TODAY);
	correct_all();
	ck_assert_int_eq(timestamp_of(1), first + TODAY);
}
END_TEST

/* --- trust ----------------------------------------------------------------------------------- */

START_TEST(test_trust_outlives_the_process)
{
	struct clock c = { .offset_msec = 1 };

	ck_assert(!queue_get_clock(q, &c));
	ck_assert_int_eq(c.offset_msec, 1);
	set_clock(true, TODAY);
	append_own(1);
	reopen(BOOT_A);
	ck_assert(queue_get_clock(q, &c));
	ck_assert(c.trusted);
	ck_assert_int_eq(c.offset_msec, TODAY);
	/* Not the boot. */
	reopen(BOOT_B);
	ck_assert(!queue_get_clock(q, &c));
	set_clock(true, -TODAY);
	append_own(2);
	reopen(BOOT_B);
	ck_assert(queue_get_clock(q, &c));
	ck_assert_int_eq(c.offset_msec, -TODAY);
	reopen(BOOT_A);
	ck_assert(!queue_get_clock(q, &c));
}
END_TEST

START_TEST(test_trust_is_noted_once)
{
	struct clock c;

	set_clock(true, TODAY);
	begin();
	append_one(1, true, 1);
	queue_rollback(q);
	ck_assert_int_eq(ask("SELECT count(*) FROM meta WHERE key = 'clock'"), 0);
	append_own(1);
	ck_assert_int_eq(ask("SELECT count(*) FROM meta WHERE key = 'clock'"), 1);
	/* Small changes cost no write. */
	set_clock(true, TODAY + 999);
	append_own(1);
	reopen(BOOT_A);
	ck_assert(queue_get_clock(q, &c));
	ck_assert_int_eq(c.offset_msec, TODAY);
	set_clock(true, TODAY + 1000);
	append_own(1);
	reopen(BOOT_A);
	ck_assert(queue_get_clock(q, &c));
	ck_assert_int_eq(c.offset_msec, TODAY + 1000);
	/* An unset clock is no news. */
	set_clock(false, 0);
	append_own(1);
	reopen(BOOT_A);
	ck_assert(queue_get_clock(q, &c));
	ck_assert_int_eq(c.offset_msec, TODAY + 1000);
}
END_TEST

/* --- too old --------------------------------------------------------------------------------- */

START_TEST(test_expire)
{
	struct queue_stats stats;
	uint64_t dropped = 99;

	set_clock(true, TODAY);
	ck_assert_int_eq(queue_next_expiry(q), INT64_MAX);
	ck_assert_int_eq(queue_expire(q, 0, INT64_MAX, &dropped), 0);
	ck_assert_uint_eq(dropped, 0);
	/* One from the future in front, and one from the past behind. */
	append_own(TODAY * 2);
	append_own(TODAY);
	append_own(TODAY + 1);
	append_own(TODAY + 2);
	append_own(5);
	ck_assert_int_eq(queue_next_expiry(q), 5);
	ck_assert_uint_eq(expire_all(0, TODAY + 1), 2);
	ck_assert_int_eq(queue_next_expiry(q), TODAY + 1);
	ck_assert_int_eq(ask("SELECT sum(id) FROM queue"), 1 + 3 + 4);
	ck_assert_uint_eq(queue_messages(q), 3);
	ck_assert_int_eq(ask("SELECT value FROM meta WHERE key = 'queue_messages'"), 3);
	queue_get_stats(q, &stats);
	ck_assert_uint_eq(stats.dropped_expired, 2);
	/* Nothing there: nothing is read. */
	ck_assert_uint_eq(expire_all(0, TODAY + 1), 0);
	ck_assert_uint_eq(expire_all(0, INT64_MAX), 3);
	ck_assert_int_eq(queue_next_expiry(q), INT64_MAX);
	queue_get_stats(q, &stats);
	ck_assert_uint_eq(stats.dropped_expired, 5);
}
END_TEST

START_TEST(test_expire_above_the_claimed)
{
	set_clock(true, TODAY);
	for (int i = 1; i <= 6; i++)
		append_own(i);
	ck_assert_uint_eq(expire_all(4, 6), 1);
	ck_assert_int_eq(ask("SELECT count(*) FROM queue WHERE id = 5"), 0);
	/* It is not asked for again and again on their account. */
	ck_assert_int_eq(queue_next_expiry(q), 6);
	/* Given back. */
	ck_assert_uint_eq(expire_all(2, 6), 2);
	ck_assert_uint_eq(expire_all(9, 100), 0);
	ck_assert_uint_eq(expire_all(0, 6), 2);
	ck_assert_uint_eq(expire_all(0, 7), 1);
	ck_assert_uint_eq(queue_messages(q), 0);
}
END_TEST

START_TEST(test_expire_after_a_restart)
{
	set_clock(true, TODAY);
	append_own(3);
	append_own(1);
	append_own(2);
	reopen(BOOT_A);
	ck_assert_int_eq(queue_next_expiry(q), INT64_MIN); /* nothing was read */
	ck_assert_uint_eq(expire_all(0, 2), 1);
	ck_assert_int_eq(queue_next_expiry(q), 2);
}
END_TEST

START_TEST(test_expire_in_steps)
{
	unsigned calls = 0;
	uint64_t dropped, total = 0, most = 0;
	int r;

	set_clock(true, TODAY);
	begin();
	for (int i = 0; i < 10000; i++)
		append_one(i % 2, true, 10);
	commit();
	if (_i)
		reopen(BOOT_A);
	do {
		r = queue_expire(q, 0, 1, &dropped);
		ck_assert_int_ge(r, 0);
		total += dropped;
		most = dropped > most ? dropped : most;
		calls++;
	} while (r > 0);
	ck_assert_uint_eq(total, 5000);
	ck_assert_uint_ge(calls, 10);
	ck_assert_uint_le(most, 1000);
	ck_assert_int_eq(ask("SELECT count(*) FROM queue"), 5000);
}
END_TEST

/* The last row goes, and it was not in the first chunk. */
START_TEST(test_expire_everything)
{
	set_clock(true, TODAY);
	begin();
	for (int i = 0; i < 2500; i++)
		append_one(i, true, 10);
	commit();
	ck_assert_uint_eq(expire_all(0, 2500), 2500);
	ck_assert_uint_eq(queue_messages(q), 0);
	ck_assert_int_eq(queue_next_expiry(q), INT64_MAX);
	append_own(7);
	ck_assert_int_eq(queue_next_expiry(q), 7);
	ck_assert_uint_eq(expire_all(0, 8), 1);
}
END_TEST

/* Nor does one drop more than some payload, so that nobody waits long for it. */
START_TEST(test_expire_large_rows_in_steps)
{
	uint64_t dropped, total = 0, most = 0;
	int r;

	set_clock(true, TODAY);
	begin();
	for (int i = 0; i < 500; i++)
		append_one(i, true, sizeof(payload));
	commit();
	do {
		r = queue_expire(q, 0, 400, &dropped);
		ck_assert_int_ge(r, 0);
		total += dropped;
		most = dropped > most ? dropped : most;
	} while (r > 0);
	ck_assert_uint_eq(total, 400);
	ck_assert_uint_le(most, 64);
	ck_assert_int_eq(queue_next_expiry(q), 400);
}
END_TEST

#define MODEL_ROWS 600000

static struct {
	uint64_t random;
	int64_t timestamp[MODEL_ROWS]; /* by id; -1: not there */
	uint64_t last;
	int64_t now;
	uint64_t claimed;
} model;

static uint64_t below(uint64_t n)
{
	return scratch_random(&model.random) % n;
}

static void model_append(unsigned n)
{
	begin();
	for (unsigned i = 0; i < n; i++) {
		int64_t t = model.now;
		uint64_t id;

		if (below(50) == 0)
			t += (int64_t)below(20000) - 10000;
		id = append_one(t, true, 1);
		ck_assert_uint_lt(id, MODEL_ROWS);
		while (model.last < id)
			model.timestamp[++model.last] = -1;
		model.timestamp[id] = t;
		model.now += (int64_t)below(3);
	}
	commit();
}

static void model_deliver(void)
{
	uint64_t id = 1, n = below(300);

	begin();
	for (; id <= model.last && n > 0; id++) {
		if (model.timestamp[id] < 0)
			continue;
		ck_assert_int_eq(queue_remove(q, &(uint64_t){ id }, 1), 0);
		model.timestamp[id] = -1;
		n--;
	}
	commit();
	model.claimed = below(2) ? 0 : id + below(50);
}

static void model_expire(int64_t age)
{
	int64_t before = model.now - age;
	uint64_t expected = 0;

	for (uint64_t id = model.claimed + 1; id <= model.last; id++) {
		if (model.timestamp[id] < 0 || model.timestamp[id] >= before)
			continue;
		model.timestamp[id] = -1;
		expected++;
	}
	ck_assert_uint_eq(expire_all(model.claimed, before), expected);
	for (uint64_t id = model.claimed + 1; id <= model.last; id++)
		ck_assert(model.timestamp[id] < 0 || model.timestamp[id] >= queue_next_expiry(q));
	ck_assert_int_ge(queue_next_expiry(q), before);
}

/* Against a plain list: what is dropped is what is too old, each time. */
START_TEST(test_expire_model)
{
	uint64_t n = 0;

	model.random = 7 + (uint64_t)_i;
	model.now = TODAY;
	model.last = model.claimed = 0;
	set_clock(true, TODAY);
	for (int round = 0; round < 150; round++) {
		model_append((unsigned)below(_i ? 6000 : 400));
		if (below(3) == 0)
			model_deliver();
		if (below(2))
			model_expire(2000 + (int64_t)below(4000));
		if (below(20) == 0)
			reopen(BOOT_A);
	}
	for (uint64_t id = 1; id <= model.last; id++)
		n += model.timestamp[id] >= 0;
	ck_assert_uint_eq(queue_messages(q), n);
	ck_assert_int_eq(ask("SELECT count(*) FROM queue"), (int64_t)n);
}
END_TEST

Suite *check_queue_age(void)
{
	Suite *s = suite_create("queue_age");
	TCase *t = tcase_create("clock");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_migration);
	tcase_add_test(t, test_nothing_when_trusted);
	tcase_add_test(t, test_runs);
	tcase_add_test(t, test_runs_and_rollback);
	tcase_add_test(t, test_runs_are_written_ahead);
	tcase_add_loop_test(t, test_runs_written_ahead_are_cut, 0, ARRAY_SIZE(written_ahead));
	tcase_add_test(t, test_runs_stay_few);
	tcase_add_test(t, test_not_before_it_is_trusted);
	tcase_add_test(t, test_this_boot);
	tcase_add_test(t, test_own_timestamps_stay);
	tcase_add_test(t, test_ahead);
	tcase_add_test(t, test_this_boot_before_a_restart);
	tcase_add_test(t, test_earlier_boot);
	tcase_add_loop_test(t, test_steps, 0, 2);
	tcase_add_test(t, test_steps_of_large_rows);
	tcase_add_test(t, test_rows_that_left);
	tcase_add_test(t, test_runs_after_a_correction);
	tcase_add_test(t, test_without_a_boot_id);
	tcase_add_test(t, test_trust_outlives_the_process);
	tcase_add_test(t, test_trust_is_noted_once);
	suite_add_tcase(s, t);

	t = tcase_create("too old");
	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_expire);
	tcase_add_test(t, test_expire_above_the_claimed);
	tcase_add_test(t, test_expire_after_a_restart);
	tcase_add_loop_test(t, test_expire_in_steps, 0, 2);
	tcase_add_test(t, test_expire_everything);
	tcase_add_test(t, test_expire_large_rows_in_steps);
	tcase_add_loop_test(t, test_expire_model, 0, 2);
	suite_add_tcase(s, t);
	return s;
}
