/* SPDX-License-Identifier: MIT */
/*
 * Tests of acceptance: what it knows of which row, how far its times may be off, and that it never
 * forgets.
 */
#include "acceptance.h"
#include "scratch.h"
#include "suites.h"

static struct acceptance a;

static void setup(void)
{
	memset(&a, 0, sizeof(a));
}

/* UINT64_MAX: not known. */
static uint64_t when(uint64_t id)
{
	uint64_t usec = 0, last = 0;
	bool known = acceptance_find(&a, id, &usec, &last);

	ck_assert_uint_ge(last, id);
	return known ? usec : UINT64_MAX;
}

START_TEST(test_exact_while_there_is_room)
{
	acceptance_begin(&a, 10);
	acceptance_add(&a, 11, 1000);
	acceptance_add(&a, 14, 2000);
	acceptance_add(&a, 15, 3000);
	ck_assert_uint_eq(when(1), UINT64_MAX);
	ck_assert_uint_eq(when(10), UINT64_MAX);
	ck_assert_uint_eq(when(11), 1000);
	ck_assert_uint_eq(when(12), 2000);
	ck_assert_uint_eq(when(14), 2000);
	ck_assert_uint_eq(when(15), 3000);
	ck_assert_uint_eq(when(16), UINT64_MAX);
}
END_TEST

/* One look-up does for a run of rows. */
START_TEST(test_runs)
{
	static const struct {
		uint64_t id, last;
		bool known;
	} rows[] = {
		{ 1, 10, false },
		{ 10, 10, false },
		{ 11, 11, true },
		{ 12, 14, true },
		{ 13, 14, true },
		{ 15, UINT64_MAX, false },
	};

	acceptance_begin(&a, 10);
	acceptance_add(&a, 11, 1000);
	acceptance_add(&a, 14, 2000);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t usec, last = 0;

		ck_assert_int_eq(acceptance_find(&a, rows[i].id, &usec, &last), rows[i].known);
		ck_assert_uint_eq(last, rows[i].last);
	}
}
END_TEST

START_TEST(test_nothing_yet)
{
	ck_assert_uint_eq(when(1), UINT64_MAX);
	acceptance_begin(&a, 0);
	ck_assert_uint_eq(when(1), UINT64_MAX);
	acceptance_add(&a, 1, 7);
	ck_assert_uint_eq(when(1), 7);
}
END_TEST

/* A commit without rows. */
START_TEST(test_same_id_again)
{
	acceptance_begin(&a, 3);
	acceptance_add(&a, 3, 100);
	ck_assert_uint_eq(when(3), UINT64_MAX);
	acceptance_add(&a, 4, 200);
	acceptance_add(&a, 4, 300);
	ck_assert_uint_eq(when(4), 200);
	ck_assert_uint_eq(a.n, 1);
}
END_TEST

/* Another database, whose ids may begin anew. */
START_TEST(test_begins_again)
{
	acceptance_begin(&a, 0);
	acceptance_add(&a, 5, 100);
	acceptance_add(&a, 9, 200);
	acceptance_begin(&a, 9);
	ck_assert_uint_eq(when(9), 200);
	acceptance_begin(&a, 7);
	ck_assert_uint_eq(when(7), 200);
	ck_assert_uint_eq(when(8), UINT64_MAX);
	acceptance_add(&a, 8, 300);
	ck_assert_uint_eq(when(7), 200);
	ck_assert_uint_eq(when(8), 300);
	acceptance_begin(&a, 5);
	ck_assert_uint_eq(when(5), 100);
	ck_assert_uint_eq(when(6), UINT64_MAX);
	acceptance_begin(&a, 0);
	ck_assert_uint_eq(when(1), UINT64_MAX);
	acceptance_add(&a, 1, 400);
	ck_assert_uint_eq(when(1), 400);
	ck_assert_uint_eq(a.n, 1);
}
END_TEST

/* What was promised, of each row ever accepted. */
static void check_all(const uint64_t *times, size_t n, uint64_t now)
{
	uint64_t before = 0;

	for (size_t id = 1; id <= n; id++) {
		uint64_t told = when(id), age = now - times[id];
		uint64_t off = told > times[id] ? told - times[id] : times[id] - told;

		ck_assert_msg(off <= age / 16 + 50, "row %zu, %llu us old: off by %llu us", id,
			(unsigned long long)age, (unsigned long long)off);
		ck_assert_uint_ge(told, before);
		before = told;
	}
	ck_assert_uint_le(a.n, ACCEPTANCE_ENTRIES);
}

/* Microseconds between commits: as fast as it can, a flash card, a sensor a minute, anything. */
static const uint64_t paces[] = { 1, 40, 3000, 60 * USEC_PER_SEC, 0 };

START_TEST(test_never_too_wrong)
{
	enum { ROWS = 100000 };
	static uint64_t times[ROWS + 1];
	uint64_t now = 1000000, random = 5;

	acceptance_begin(&a, 0);
	for (size_t id = 1; id <= ROWS; id++) {
		uint64_t pace = paces[_i];

		if (pace == 0)
			pace = UINT64_C(1) << scratch_random(&random) % 34;
		now += 1 + scratch_random(&random) % (2 * pace);
		times[id] = now;
		acceptance_add(&a, id, now);
		if (id % 9973 == 0)
			check_all(times, id, now);
	}
	check_all(times, ROWS, now);
}
END_TEST

/* A merge makes room for many: else each commit of a long outage would pay for one. */
START_TEST(test_merges_are_rare)
{
	uint64_t now = 1000000, merges = 0;
	size_t before = 0;

	acceptance_begin(&a, 0);
	for (uint64_t id = 1; id <= 1000000; id++) {
		acceptance_add(&a, id, now += 200);
		merges += a.n <= before;
		before = a.n;
	}
	ck_assert_uint_lt(merges, 1000000 / 400);
}
END_TEST

Suite *check_acceptance(void)
{
	Suite *s = suite_create("acceptance");
	TCase *t = tcase_create("rows");

	tcase_add_checked_fixture(t, setup, NULL);
	tcase_add_test(t, test_exact_while_there_is_room);
	tcase_add_test(t, test_runs);
	tcase_add_test(t, test_nothing_yet);
	tcase_add_test(t, test_same_id_again);
	tcase_add_test(t, test_begins_again);
	suite_add_tcase(s, t);

	t = tcase_create("for a long time");
	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, NULL);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_never_too_wrong, 0, ARRAY_SIZE(paces));
	tcase_add_test(t, test_merges_are_rare);
	suite_add_tcase(s, t);
	return s;
}
