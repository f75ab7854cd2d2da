/* SPDX-License-Identifier: MIT */
/*
 * Tests of the in-flight window: bounds by messages and by bytes, the broker's own bound, and that
 * one message always may go.
 */
#include "suites.h"
#include "window.h"

START_TEST(test_defaults)
{
	struct window w;

	window_init(&w, 0, 1000);
	ck_assert_uint_eq(w.max, WINDOW_DEFAULT_MESSAGES);
	ck_assert_uint_eq(w.messages, 0);
	ck_assert_uint_eq(w.bytes, 0);
	window_init(&w, 7, 1000);
	ck_assert_uint_eq(w.max, 7);
}
END_TEST

static const struct {
	unsigned configured, receive_maximum, expected;
} limits[] = {
	{ 10, 0, 10 }, /* the broker names none */
	{ 10, 1, 1 },
	{ 10, 9, 9 },
	{ 10, 10, 10 },
	{ 10, 65535, 10 },
	{ 0, 65535, WINDOW_DEFAULT_MESSAGES },
	{ 0, 3, 3 },
};

START_TEST(test_limit)
{
	struct window w;

	window_init(&w, limits[_i].configured, 1 << 20);
	window_limit(&w, limits[_i].receive_maximum);
	for (unsigned n = 0; n < limits[_i].expected; n++) {
		ck_assert(window_admits(&w, 1));
		window_add(&w, 1);
	}
	ck_assert(!window_admits(&w, 1));
	ck_assert(!window_admits(&w, 0));
	window_remove(&w, 1);
	ck_assert(window_admits(&w, 1));
}
END_TEST

START_TEST(test_limit_is_for_one_connection)
{
	struct window w;

	window_init(&w, 20, 1000);
	window_limit(&w, 5);
	ck_assert_uint_eq(w.max, 5);
	window_limit(&w, 12);
	ck_assert_uint_eq(w.max, 12);
	window_limit(&w, 0);
	ck_assert_uint_eq(w.max, 20);
}
END_TEST

/* The next connection's bound may be below what is in flight. */
START_TEST(test_limit_below_what_is_in_flight)
{
	struct window w;

	window_init(&w, 4, 1000);
	for (int n = 0; n < 4; n++)
		window_add(&w, 1);
	window_limit(&w, 2);
	for (int n = 4; n > 2; n--) {
		ck_assert(!window_admits(&w, 1));
		window_remove(&w, 1);
	}
	ck_assert(!window_admits(&w, 1));
	window_remove(&w, 1);
	ck_assert(window_admits(&w, 1));
}
END_TEST

static const struct {
	size_t max_bytes;
	size_t held; /* one message of so many bytes; SIZE_MAX = none */
	size_t bytes;
	bool expected;
} sizes[] = {
	{ 100, SIZE_MAX, 0, true },
	{ 100, SIZE_MAX, 100, true },
	{ 100, SIZE_MAX, 101, true }, /* alone, however large */
	{ 100, SIZE_MAX, SIZE_MAX, true },
	{ 0, SIZE_MAX, 5, true },
	{ 100, 0, 100, true },
	{ 100, 0, 101, false },
	{ 100, 60, 40, true },
	{ 100, 60, 41, false },
	{ 100, 100, 0, true },
	{ 100, 100, 1, false },
	{ 100, 500, 0, false }, /* nothing beside one that is too large */
	{ 100, 500, 1, false },
	{ 0, 1, 0, false },
	{ 100, 60, SIZE_MAX, false }, /* no overflow */
	{ SIZE_MAX, SIZE_MAX - 5, 5, true },
	{ SIZE_MAX, SIZE_MAX - 5, 6, false },
};

START_TEST(test_bytes)
{
	struct window w;

	window_init(&w, 10, sizes[_i].max_bytes);
	if (sizes[_i].held != SIZE_MAX)
		window_add(&w, sizes[_i].held);
	ck_assert_int_eq(window_admits(&w, sizes[_i].bytes), sizes[_i].expected);
}
END_TEST

START_TEST(test_add_and_remove)
{
	struct window w;

	window_init(&w, 10, 100);
	window_add(&w, 30);
	window_add(&w, 50);
	ck_assert_uint_eq(w.messages, 2);
	ck_assert_uint_eq(w.bytes, 80);
	ck_assert(!window_admits(&w, 21));
	window_remove(&w, 30);
	ck_assert_uint_eq(w.messages, 1);
	ck_assert_uint_eq(w.bytes, 50);
	ck_assert(window_admits(&w, 50));
	ck_assert(!window_admits(&w, 51));
	window_remove(&w, 50);
	ck_assert_uint_eq(w.messages, 0);
	ck_assert_uint_eq(w.bytes, 0);
}
END_TEST

Suite *check_window(void)
{
	Suite *s = suite_create("window");
	TCase *t = tcase_create("window");

	tcase_add_test(t, test_defaults);
	tcase_add_loop_test(t, test_limit, 0, ARRAY_SIZE(limits));
	tcase_add_test(t, test_limit_is_for_one_connection);
	tcase_add_test(t, test_limit_below_what_is_in_flight);
	tcase_add_loop_test(t, test_bytes, 0, ARRAY_SIZE(sizes));
	tcase_add_test(t, test_add_and_remove);
	suite_add_tcase(s, t);
	return s;
}
