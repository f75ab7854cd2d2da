/* SPDX-License-Identifier: MIT */
/*
 * Tests of the clock: lives of a device's clock, reading by reading, and whether the kernel is read
 * at all.
 */
#include <stdio.h>

#include "clock.h"
#include "scratch.h"
#include "suites.h"

#define DAY   INT64_C(86400000)
#define Y2K   INT64_C(946684800000)
#define TODAY INT64_C(1700000000000)

/* One reading, and what is made of it. */
struct step {
	int64_t boot, real;
	bool synchronised, was;
	bool changed, trusted;
	int64_t time;
};

#define MAX_STEPS 8

static const struct {
	const char *what;
	struct step steps[MAX_STEPS];
} lives[] = {
	{ "never synchronised",
		{
			{ 5000, TODAY, false, false, true, false, TODAY },
			{ 6000, TODAY + 1000, false, false, false, false, TODAY + 1000 },
			{ 7000, TODAY + 2999, false, false, false, false, TODAY + 2999 },
			{ 8000, TODAY + DAY, false, false, true, false, TODAY + DAY },
			{ 9000, 0, false, false, true, false, 0 },
		} },
	{ "starts in 1970, set later",
		{
			{ 5000, 5000, false, false, false, false, 5000 },
			{ 60000, 60000, false, false, false, false, 60000 },
			{ 61000, TODAY, true, true, true, true, TODAY },
			{ 62000, TODAY + 1000, true, true, false, true, TODAY + 1000 },
		} },
	{ "set by hand while trusted, forward and back",
		{
			{ 1000, TODAY, true, true, true, true, TODAY },
			{ 2000, TODAY + DAY, false, true, false, true, TODAY + 1000 },
			{ 3000, TODAY - DAY, false, true, false, true, TODAY + 2000 },
			{ 4000, 0, false, true, false, true, TODAY + 3000 },
			/* Synchronised again: it had run too slow meanwhile. */
			{ 5000, TODAY + 4400, true, true, false, true, TODAY + 4400 },
		} },
	{ "jumps while the kernel says that it is synchronised",
		{
			{ 1000, TODAY, true, true, true, true, TODAY },
			{ 2000, TODAY + 2000, true, true, true, true, TODAY + 2000 },
			{ 3000, TODAY, true, true, true, true, TODAY },
			{ 4000, TODAY + 1999, true, true, false, true, TODAY + 1999 },
			{ 5000, TODAY + 2001, true, true, false, true, TODAY + 2001 },
		} },
	{ "suspended for a day, and the hardware clock stood still",
		{
			{ 1000, TODAY, true, true, true, true, TODAY },
			{ DAY + 1000, TODAY + 50, false, true, false, true, TODAY + DAY },
			{ DAY + 2000, TODAY + DAY + 1000, true, true, false, true,
				TODAY + DAY + 1000 },
		} },
	{ "the kernel is not asked: a file tells",
		{
			{ 1000, 1000, false, false, false, false, 1000 },
			{ 2000, TODAY, false, true, true, true, TODAY },
			/* It tells of the first time only. */
			{ 3000, Y2K, false, true, false, true, TODAY + 1000 },
			{ 4000, Y2K, false, false, false, true, TODAY + 2000 },
		} },
	{ "the kernel says yes, and no file is there",
		{
			{ 1000, TODAY, true, false, true, true, TODAY },
		} },
	{ "set before the epoch",
		{
			{ 1000, -5, false, false, true, false, -5 },
			{ 2000, TODAY, true, true, true, true, TODAY },
		} },
};

START_TEST(test_lives)
{
	struct clock c = { 0 };

	for (unsigned i = 0; i < MAX_STEPS && lives[_i].steps[i].boot; i++) {
		const struct step *s = &lives[_i].steps[i];
		const struct clock_reading r = {
			.real_msec = s->real,
			.boot_msec = s->boot,
			.synchronised = s->synchronised,
			.was_synchronised = s->was,
		};

		ck_assert_msg(clock_update(&c, &r) == s->changed, "%s: %u", lives[_i].what, i);
		ck_assert_msg(c.trusted == s->trusted, "%s: %u", lives[_i].what, i);
		ck_assert_int_eq(clock_time_msec(&c, &r), s->time);
	}
}
END_TEST

/* As another process of this boot has left it. */
START_TEST(test_trust_inherited)
{
	struct clock c = { .trusted = true, .offset_msec = TODAY };
	struct clock_reading r = { .real_msec = 7, .boot_msec = 1000, .was_synchronised = true };

	ck_assert(!clock_update(&c, &r));
	ck_assert_int_eq(clock_time_msec(&c, &r), TODAY + 1000);
	r = (struct clock_reading){
		.real_msec = TODAY + DAY, .boot_msec = 2000, .synchronised = true
	};
	ck_assert(clock_update(&c, &r));
	ck_assert_int_eq(clock_time_msec(&c, &r), TODAY + DAY);
}
END_TEST

START_TEST(test_read)
{
	int64_t real = now_epoch_msec(), boot = (int64_t)(now_boot_usec() / USEC_PER_MSEC);
	struct clock_reading a, b;

	clock_read(&a);
	clock_read(&b);
	ck_assert_int_ge(a.boot_msec, boot);
	ck_assert_int_le(a.boot_msec, boot + TEST_SECONDS * 1000);
	ck_assert_int_ge(b.boot_msec, a.boot_msec);
	/* Somebody may set this machine's clock, but hardly now. */
	ck_assert_int_ge(a.real_msec, real);
	ck_assert_int_le(a.real_msec, real + TEST_SECONDS * 1000);
	ck_assert(a.was_synchronised || !a.synchronised);
}
END_TEST

static const struct {
	int64_t age; /* milliseconds */
	uint64_t max_age; /* microseconds */
	uint32_t left;
} ages[] = {
	{ 0, 0, 0 },
	{ 5000, 0, 0 },
	{ 0, 60000000, 60 },
	{ 1, 60000000, 60 },
	{ 999, 60000000, 60 },
	{ 1000, 60000000, 59 },
	{ 58999, 60000000, 2 },
	{ 59000, 60000000, 1 },
	{ 60000, 60000000, 1 },
	{ 3 * DAY, 60000000, 1 },
	{ 0, 500000, 1 },
	{ 0, 1, 1 },
	{ -1500, 60000000, 62 },
	{ 0, UINT64_C(4294967295000000), UINT32_MAX },
	{ -1, UINT64_C(4294967295000000), UINT32_MAX },
	{ -100000000 * DAY, 1000000, UINT32_MAX },
};

START_TEST(test_seconds_left)
{
	struct clock c = { .trusted = true, .offset_msec = TODAY };
	int64_t stamp = TODAY + 1000 - ages[_i].age;

	ck_assert_uint_eq(clock_seconds_left(&c, 1000, stamp, ages[_i].max_age), ages[_i].left);
	c.trusted = false;
	ck_assert_uint_eq(clock_seconds_left(&c, 1000, stamp, ages[_i].max_age), 0);
}
END_TEST

START_TEST(test_seconds_left_of_any_timestamp)
{
	const struct clock c = { .trusted = true, .offset_msec = TODAY };
	const struct clock early = { .trusted = true, .offset_msec = -TODAY };

	ck_assert_uint_eq(clock_seconds_left(&c, 1000, INT64_MAX, 1000000), UINT32_MAX);
	ck_assert_uint_eq(clock_seconds_left(&c, 1000, INT64_MIN, 1000000), 1);
	ck_assert_uint_eq(clock_seconds_left(&c, 1000, 0, 1000000), 1);
	ck_assert_uint_eq(clock_seconds_left(&early, 1000, INT64_MAX, 1000000), UINT32_MAX);
	ck_assert_uint_eq(clock_seconds_left(&early, 1000, INT64_MIN, 1000000), 1);
}
END_TEST

Suite *check_clock(void)
{
	Suite *s = suite_create("clock");
	TCase *t = tcase_create("clock");

	tcase_add_loop_test(t, test_lives, 0, ARRAY_SIZE(lives));
	tcase_add_test(t, test_trust_inherited);
	tcase_add_loop_test(t, test_seconds_left, 0, ARRAY_SIZE(ages));
	tcase_add_test(t, test_seconds_left_of_any_timestamp);
	tcase_add_test(t, test_read);
	suite_add_tcase(s, t);
	return s;
}
