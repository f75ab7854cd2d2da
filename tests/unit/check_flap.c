/* SPDX-License-Identifier: MIT */
/*
 * Tests of what is told of things that happen again and again: which occurrences get a line, and
 * that the lines account for every one of them.
 */
#include <stdio.h>

#include "flap.h"
#include "suites.h"

#define SEC    USEC_PER_SEC
#define MINUTE (60 * SEC)
#define HOUR   (60 * MINUTE)
#define START  (1000 * SEC) /* of the clock: not 0 */

START_TEST(test_first_in_full)
{
	struct flap f = { 0 };
	struct flap_told told;

	for (unsigned i = 0; i < 5; i++) {
		ck_assert(flap_is_told(&f, 5, START + i * SEC));
		ck_assert_int_eq(flap_occurred(&f, 5, 0, START + i * SEC, &told), FLAP_TELL);
		ck_assert_uint_eq(told.count, 1);
	}
	ck_assert(flap_is_told(&f, 5, START + 5 * SEC));
	ck_assert_int_eq(flap_occurred(&f, 5, 0, START + 5 * SEC, &told), FLAP_QUIET);
	ck_assert(!flap_is_told(&f, 5, START + 5 * SEC));
}
END_TEST

/* One a minute for three days: lines at 1, 11 and 71 minutes behind the first ones, then hourly. */
START_TEST(test_long_outage)
{
	uint64_t lines = 0, accounted = 0, n = 3 * 24 * 60, last = 0, now = 0;
	struct flap f = { 0 };
	struct flap_told told;

	for (uint64_t i = 0; i < n; i++) {
		now = START + i * MINUTE;
		if (flap_occurred(&f, 5, 0, now, &told) == FLAP_QUIET)
			continue;
		if (lines >= 8)
			ck_assert_uint_eq(now - last, HOUR);
		if (lines > 0)
			ck_assert_uint_eq(told.span_usec, now - last);
		last = now;
		lines++;
		accounted += told.count;
	}
	ck_assert_uint_ge(lines, 5 + 2 + 70);
	ck_assert_uint_le(lines, 5 + 2 + 72);
	ck_assert_uint_eq(accounted + f.untold, n);
	ck_assert(!flap_over(&f, now + FLAP_RUN_USEC - 1, &told));
	ck_assert(flap_over(&f, now + FLAP_RUN_USEC, &told));
	ck_assert_uint_eq(accounted + told.count, n);
	ck_assert(!flap_over(&f, now + 2 * FLAP_RUN_USEC, &told));
}
END_TEST

START_TEST(test_longest)
{
	struct flap f = { 0 };
	struct flap_told told;

	for (unsigned i = 0; i <= 60; i++) {
		enum flap_verdict v =
			flap_occurred(&f, 1, i == 30 ? 7 * SEC : SEC, START + i * SEC, &told);

		ck_assert_int_eq(v, i == 0 ? FLAP_TELL : i == 60 ? FLAP_SUMMARY : FLAP_QUIET);
	}
	ck_assert_uint_eq(told.count, 60);
	ck_assert_uint_eq(told.span_usec, 60 * SEC);
	ck_assert_uint_eq(told.longest_usec, 7 * SEC);
	/* It counts anew from the line on. */
	ck_assert_int_eq(flap_occurred(&f, 1, 2 * SEC, START + 20 * MINUTE, &told), FLAP_TELL);
	ck_assert_uint_eq(told.longest_usec, 2 * SEC);
}
END_TEST

/* A new run begins in full, and says what the last one left untold. */
START_TEST(test_new_run)
{
	struct flap f = { 0 };
	struct flap_told told;

	for (unsigned i = 0; i < 9; i++)
		(void)flap_occurred(&f, 5, 0, START + i * SEC, &told);
	ck_assert_uint_eq(f.untold, 4);
	ck_assert(flap_is_told(&f, 5, START + 8 * SEC + FLAP_RUN_USEC));
	ck_assert_int_eq(
		flap_occurred(&f, 5, 0, START + 8 * SEC + FLAP_RUN_USEC, &told), FLAP_TELL);
	ck_assert_uint_eq(told.count, 5);
	ck_assert_uint_eq(told.span_usec, FLAP_RUN_USEC + 4 * SEC);
	ck_assert_int_eq(
		flap_occurred(&f, 5, 0, START + 9 * SEC + FLAP_RUN_USEC, &told), FLAP_TELL);
	ck_assert_uint_eq(told.count, 1);
}
END_TEST

static const struct {
	struct flap_told told;
	const char *expected;
} texts[] = {
	{ { 1, 0, 0 }, "1 times in less than 1 s" },
	{ { 17, 119 * SEC, 0 }, "17 times in 119 s" },
	{ { 859, 60 * SEC, 9 * USEC_PER_MSEC },
		"859 times in 60 s, well for less than 1 s at the longest" },
	{ { 17, 2 * MINUTE, 3 * SEC }, "17 times in 2 min, well for 3 s at the longest" },
	{ { 37, 119 * MINUTE, 0 }, "37 times in 119 min" },
	{ { 9000, 50 * HOUR, 3 * HOUR }, "9000 times in 50 h, well for 3 h at the longest" },
	{ { UINT64_MAX, UINT64_MAX, UINT64_MAX },
		"18446744073709551615 times in 5124095576 h, well for 5124095576 h at the "
		"longest" },
};

START_TEST(test_text)
{
	char out[100];

	ck_assert_str_eq(flap_text(&texts[_i].told, out, sizeof(out)), texts[_i].expected);
}
END_TEST

/* --- by name --------------------------------------------------------------------------------- */

static struct flap_table table;

static void clear_table(void)
{
	memset(&table, 0, sizeof(table));
}

START_TEST(test_names)
{
	struct flap_told told;

	for (unsigned i = 0; i < 6; i++)
		(void)flap_occurred(flap_find(&table, "a", 1), 5, 0, START, &told);
	ck_assert_uint_eq(flap_find(&table, "a", 1)->untold, 1);
	ck_assert_uint_eq(flap_find(&table, "a", 2)->untold, 0);
	ck_assert_uint_eq(flap_find(&table, "b", 1)->untold, 0);
	ck_assert(!flap_all_told(&table, "a", 0, 2, 5, START));
	ck_assert(flap_all_told(&table, "a", 2, 9, 5, START));
	ck_assert(flap_all_told(&table, "a", 0, 1, 5, START));
	ck_assert(flap_all_told(&table, "b", 0, 2, 5, START));
	ck_assert(flap_any_untold(&table));
	ck_assert_uint_eq(flap_forget(&table, "a", 0, 1), 0);
	ck_assert_uint_eq(flap_forget(&table, "b", 0, 9), 0);
	ck_assert_uint_eq(flap_forget(&table, "a", 0, 9), 1);
	ck_assert(flap_all_told(&table, "a", 0, 2, 5, START));
	ck_assert(!flap_any_untold(&table));
}
END_TEST

START_TEST(test_any_over)
{
	struct flap_told told;
	const char *name;
	unsigned what;

	for (unsigned i = 0; i < 8; i++) {
		(void)flap_occurred(flap_find(&table, "a", 3), 5, 0, START, &told);
		(void)flap_occurred(flap_find(&table, "b", 4), 5, 0, START + MINUTE, &told);
	}
	ck_assert(!flap_any_over(&table, START + FLAP_RUN_USEC - 1, &name, &what, &told));
	ck_assert(flap_any_over(&table, START + FLAP_RUN_USEC, &name, &what, &told));
	ck_assert_str_eq(name, "a");
	ck_assert_uint_eq(what, 3);
	ck_assert_uint_eq(told.count, 3);
	ck_assert(!flap_any_over(&table, START + FLAP_RUN_USEC, &name, &what, &told));
	ck_assert(flap_any_over(&table, START + FLAP_RUN_USEC + MINUTE, &name, &what, &told));
	ck_assert_str_eq(name, "b");
}
END_TEST

/* More names than places: the longest silent one goes, the others keep what they had. */
START_TEST(test_table_is_full)
{
	struct flap_told told;
	char name[20];

	for (unsigned i = 0; i <= FLAP_ITEMS; i++) {
		snprintf(name, sizeof(name), "broker %u", i);
		(void)flap_occurred(flap_find(&table, name, 0), 0, 0, START + i, &told);
		(void)flap_occurred(flap_find(&table, name, 0), 0, 0, START + i, &told);
	}
	ck_assert_uint_eq(flap_find(&table, "broker 1", 0)->in_run, 1);
	snprintf(name, sizeof(name), "broker %u", FLAP_ITEMS);
	ck_assert_uint_eq(flap_find(&table, name, 0)->in_run, 1);
	ck_assert_uint_eq(flap_find(&table, "broker 0", 0)->in_run, 0);
}
END_TEST

Suite *check_flap(void)
{
	Suite *s = suite_create("flap");
	TCase *tc = tcase_create("flap");

	tcase_add_checked_fixture(tc, clear_table, NULL);
	tcase_add_test(tc, test_first_in_full);
	tcase_add_test(tc, test_long_outage);
	tcase_add_test(tc, test_longest);
	tcase_add_test(tc, test_new_run);
	tcase_add_loop_test(tc, test_text, 0, ARRAY_SIZE(texts));
	tcase_add_test(tc, test_names);
	tcase_add_test(tc, test_any_over);
	tcase_add_test(tc, test_table_is_full);
	suite_add_tcase(s, tc);
	return s;
}
