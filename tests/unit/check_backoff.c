/* SPDX-License-Identifier: MIT */
/*
 * Tests of the waits between attempts: growth, cap, each jitter's bounds and spread, no overflow.
 */
#include <errno.h>
#include <limits.h>

#include "backoff.h"
#include "suites.h"

#define DRAWS 20000

/* splitmix64: a real generator, the same numbers in every run. */
static double prng(void *userdata)
{
	uint64_t *state = userdata, z;

	z = (*state += UINT64_C(0x9E3779B97F4A7C15));
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	z ^= z >> 31;
	return (double)(z >> 11) / 9007199254740992.0;
}

/* Always the same draw. */
static double constant(void *userdata)
{
	return *(double *)userdata;
}

static const double lowest = 0.0, highest = 0x1.fffffffffffffp-1;

static struct backoff_params params(
	uint64_t base, uint64_t max, double multiplier, enum backoff_jitter jitter)
{
	return (struct backoff_params){ base, max, multiplier, jitter };
}

START_TEST(test_words)
{
	static const char *const words[] = { "full", "proportional", "additive", "none" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		ck_assert_int_eq(backoff_jitter_from_string(words[i]), (int)i);
		ck_assert_str_eq(backoff_jitter_to_string((enum backoff_jitter)i), words[i]);
	}
	ck_assert_int_eq(backoff_jitter_from_string("Full"), -EINVAL);
	ck_assert_int_eq(backoff_jitter_from_string(""), -EINVAL);
	ck_assert_str_eq(backoff_jitter_to_string((enum backoff_jitter)4), "unknown");
}
END_TEST

static const struct {
	uint64_t base, max;
	double multiplier;
	unsigned n;
	uint64_t expected;
} delays[] = {
	{ 1000000, 60000000, 2, 0, 1000000 },
	{ 1000000, 60000000, 2, 1, 2000000 },
	{ 1000000, 60000000, 2, 5, 32000000 },
	{ 1000000, 60000000, 2, 6, 60000000 },
	{ 1000000, 60000000, 2, UINT_MAX, 60000000 },
	{ 1000000, 60000000, 1.5, 2, 2250000 },
	{ 1000000, 60000000, 1, UINT_MAX, 1000000 },
	{ 1000000, 60000000, 1.0000000001, 1000, 1000000 },
	{ 1000000, 60000000, 100, 1, 60000000 },
	{ 1, UINT64_MAX, 2, 63, UINT64_C(1) << 63 },
	{ 1, UINT64_MAX, 2, 64, UINT64_MAX },
	{ 1, UINT64_MAX, 1e308, UINT_MAX, UINT64_MAX },
	{ UINT64_MAX, UINT64_MAX, 2, 3, UINT64_MAX },
	{ 5, 5, 2, 0, 5 },
	{ 9, 5, 2, 0, 5 },
	{ 0, 5, 2, UINT_MAX, 0 },
};

START_TEST(test_delay)
{
	struct backoff_params p =
		params(delays[_i].base, delays[_i].max, delays[_i].multiplier, BACKOFF_JITTER_FULL);

	ck_assert_uint_eq(backoff_delay_usec(&p, delays[_i].n), delays[_i].expected);
}
END_TEST

static const struct {
	enum backoff_jitter jitter;
	uint64_t d, least, most;
} bounds[] = {
	{ BACKOFF_JITTER_FULL, 8000000, 0, 8000000 },
	{ BACKOFF_JITTER_FULL, 1, 0, 1 },
	{ BACKOFF_JITTER_FULL, 0, 0, 0 },
	{ BACKOFF_JITTER_FULL, UINT64_C(1) << 52, 0, UINT64_C(1) << 52 },
	{ BACKOFF_JITTER_PROPORTIONAL, 8000000, 7200000, 8800000 },
	{ BACKOFF_JITTER_PROPORTIONAL, 9, 9, 9 },
	{ BACKOFF_JITTER_ADDITIVE, 8000000, 8000000, 9000000 },
	{ BACKOFF_JITTER_NONE, 8000000, 8000000, 8000000 },
};

/* The ends of the range are reached by the ends of the random source, and never passed. */
START_TEST(test_bounds)
{
	struct backoff_params p = params(bounds[_i].d, bounds[_i].d, 2, bounds[_i].jitter);
	double r = lowest;
	struct backoff b;

	backoff_init(&b, &p, constant, &r);
	ck_assert_uint_eq(backoff_next_usec(&b), bounds[_i].least);
	r = highest;
	ck_assert_uint_eq(backoff_next_usec(&b), bounds[_i].most);
	/* A source that keeps its promise badly does no harm. */
	r = 1.0;
	ck_assert_uint_eq(backoff_next_usec(&b), bounds[_i].most);
}
END_TEST

START_TEST(test_longest)
{
	struct backoff_params p = params(bounds[_i].d / 8, bounds[_i].d, 2, bounds[_i].jitter);
	double r = lowest;
	struct backoff b;

	backoff_init(&b, &p, constant, &r);
	ck_assert_uint_eq(backoff_longest_usec(&b), bounds[_i].least);
	r = highest;
	ck_assert_uint_eq(backoff_longest_usec(&b), bounds[_i].most);
	ck_assert_uint_eq(b.waits, 2);
}
END_TEST

static const struct {
	uint64_t from, to;
} ranges[] = {
	{ 0, 0 },
	{ 7, 7 },
	{ 0, 1 },
	{ 500000, 1500000 },
	{ 0, USEC_PER_SEC },
	{ UINT64_MAX - 1, UINT64_MAX },
};

/* Both ends within reach, whatever the jitter is, and not counted as a wait. */
START_TEST(test_uniform)
{
	struct backoff_params p = params(1000000, 60000000, 2, BACKOFF_JITTER_NONE);
	uint64_t from = ranges[_i].from, to = ranges[_i].to, state = 43;
	double r = lowest;
	struct backoff b;

	backoff_init(&b, &p, constant, &r);
	ck_assert_uint_eq(backoff_uniform_usec(&b, from, to), from);
	r = highest;
	ck_assert_uint_eq(backoff_uniform_usec(&b, from, to), to);
	r = 1.0;
	ck_assert_uint_eq(backoff_uniform_usec(&b, from, to), to);
	b.random = prng;
	b.userdata = &state;
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t drawn = backoff_uniform_usec(&b, from, to);

		ck_assert(drawn >= from && drawn <= to);
	}
	ck_assert_uint_eq(b.waits, 0);
}
END_TEST

START_TEST(test_spread)
{
	uint64_t least = bounds[_i].least, span = bounds[_i].most - least, state = 42;
	struct backoff_params p = params(bounds[_i].d, bounds[_i].d, 2, bounds[_i].jitter);
	unsigned tenths[10] = { 0 };
	struct backoff b;

	backoff_init(&b, &p, prng, &state);
	for (unsigned i = 0; i < DRAWS; i++) {
		uint64_t wait = backoff_next_usec(&b);

		ck_assert_uint_ge(wait, least);
		ck_assert_uint_le(wait, bounds[_i].most);
		if (span >= 10)
			tenths[size_min((size_t)((wait - least) / (span / 10)), 9)]++;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(tenths) && span >= 10; i++) {
		ck_assert_uint_gt(tenths[i], DRAWS / 10 * 9 / 10);
		ck_assert_uint_lt(tenths[i], DRAWS / 10 * 11 / 10);
	}
}
END_TEST

START_TEST(test_overflow)
{
	double r = highest;
	struct backoff_params p = params(UINT64_MAX, UINT64_MAX, 2, BACKOFF_JITTER_ADDITIVE);
	struct backoff b;

	backoff_init(&b, &p, constant, &r);
	ck_assert_uint_eq(backoff_next_usec(&b), UINT64_MAX);
	b.params.jitter = BACKOFF_JITTER_PROPORTIONAL;
	ck_assert_uint_eq(backoff_next_usec(&b), UINT64_MAX);
	b.params.jitter = BACKOFF_JITTER_FULL;
	ck_assert_uint_ge(backoff_next_usec(&b), UINT64_MAX - 4096);
	b.waits = UINT_MAX;
	backoff_next_usec(&b);
	ck_assert_uint_eq(b.waits, UINT_MAX);
}
END_TEST

START_TEST(test_sequence)
{
	static const uint64_t expected[] = { 1, 2, 4, 8, 16, 32, 60, 60, 60 };
	struct backoff_params p = params(USEC_PER_SEC, 60 * USEC_PER_SEC, 2, BACKOFF_JITTER_NONE);
	struct backoff b;

	backoff_init(&b, &p, NULL, NULL);
	for (unsigned round = 0; round < 2; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
			ck_assert_uint_eq(backoff_next_usec(&b), expected[i] * USEC_PER_SEC);
		ck_assert_uint_eq(b.waits, ARRAY_SIZE(expected));
		backoff_reset(&b);
		ck_assert_uint_eq(b.waits, 0);
	}
}
END_TEST

Suite *check_backoff(void)
{
	Suite *s = suite_create("backoff");
	TCase *tc = tcase_create("backoff");

	tcase_set_tags(tc, "long alone");
	tcase_add_test(tc, test_words);
	tcase_add_loop_test(tc, test_delay, 0, ARRAY_SIZE(delays));
	tcase_add_loop_test(tc, test_bounds, 0, ARRAY_SIZE(bounds));
	tcase_add_loop_test(tc, test_longest, 0, ARRAY_SIZE(bounds));
	tcase_add_loop_test(tc, test_uniform, 0, ARRAY_SIZE(ranges));
	tcase_add_loop_test(tc, test_spread, 0, ARRAY_SIZE(bounds));
	tcase_add_test(tc, test_overflow);
	tcase_add_test(tc, test_sequence);
	suite_add_tcase(s, tc);
	return s;
}
