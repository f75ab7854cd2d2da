/* SPDX-License-Identifier: MIT */
/*
 * Tests of the growable byte array: what is appended comes out, in order, whatever is consumed in
 * between, and the memory stays in proportion to what is held.
 */
#include <errno.h>

#include "buffer.h"
#include "suites.h"

static void assert_holds(const struct buffer *b, const char *s)
{
	ck_assert_uint_eq(buffer_len(b), strlen(s));
	if (*s)
		ck_assert_mem_eq(buffer_head(b), s, strlen(s));
}

START_TEST(test_starts_empty)
{
	struct buffer b = { 0 };

	assert_holds(&b, "");
	ck_assert_ptr_null(buffer_head(&b));
	ck_assert_int_eq(buffer_append(&b, NULL, 0), 0);
	ck_assert_int_eq(buffer_reserve(&b, 0), 0);
	buffer_consume(&b, 10);
	buffer_clear(&b);
	assert_holds(&b, "");
}
END_TEST

START_TEST(test_append_and_consume)
{
	struct buffer b = { 0 };

	ck_assert_int_eq(buffer_append(&b, "hello ", 6), 0);
	ck_assert_int_eq(buffer_append(&b, "world", 5), 0);
	assert_holds(&b, "hello world");
	buffer_consume(&b, 0);
	assert_holds(&b, "hello world");
	buffer_consume(&b, 6);
	assert_holds(&b, "world");
	ck_assert_int_eq(buffer_append(&b, "!", 1), 0);
	assert_holds(&b, "world!");
	buffer_consume(&b, SIZE_MAX);
	assert_holds(&b, "");
	ck_assert_uint_eq(b.begin, 0);
	ck_assert_int_eq(buffer_append(&b, "again", 5), 0);
	assert_holds(&b, "again");
	buffer_clear(&b);
	assert_holds(&b, "");
	ck_assert_int_eq(buffer_append(&b, "usable", 6), 0);
	assert_holds(&b, "usable");
	buffer_clear(&b);
}
END_TEST

START_TEST(test_reserve)
{
	struct buffer b = { 0 };
	char *data;

	ck_assert_int_eq(buffer_append(&b, "abc", 3), 0);
	ck_assert_int_eq(buffer_reserve(&b, 5000), 0);
	ck_assert_uint_ge(b.allocated - b.end, 5000);
	assert_holds(&b, "abc");

	/* Room that is there is not asked for again. */
	data = b.data;
	ck_assert_int_eq(buffer_reserve(&b, 5000), 0);
	ck_assert_ptr_eq(b.data, data);
	buffer_clear(&b);
}
END_TEST

START_TEST(test_reserve_moves_to_the_front)
{
	struct buffer b = { 0 };
	size_t allocated, len;

	ck_assert_int_eq(buffer_reserve(&b, 1000), 0);
	allocated = b.allocated;
	memset(b.data, 'x', allocated);
	b.end = allocated;
	buffer_consume(&b, allocated - 10);
	len = buffer_len(&b);
	ck_assert_uint_eq(len, 10);

	ck_assert_int_eq(buffer_reserve(&b, allocated - 10), 0);
	ck_assert_uint_eq(b.allocated, allocated);
	ck_assert_uint_eq(b.begin, 0);
	assert_holds(&b, "xxxxxxxxxx");
	buffer_clear(&b);
}
END_TEST

START_TEST(test_too_much)
{
	struct buffer b = { 0 };
	struct buffer before;

	ck_assert_int_eq(buffer_append(&b, "abc", 3), 0);
	before = b;
	ck_assert_int_eq(buffer_reserve(&b, SIZE_MAX), -ENOMEM);
	ck_assert_int_eq(buffer_reserve(&b, SIZE_MAX - 3), -ENOMEM);
	ck_assert_int_eq(buffer_append(&b, "x", SIZE_MAX / 2), -ENOMEM);
	ck_assert_mem_eq(&b, &before, sizeof(b));
	assert_holds(&b, "abc");
	buffer_clear(&b);
}
END_TEST

START_TEST(test_printf)
{
	struct buffer b = { 0 };
	char expected[2001];

	ck_assert_int_eq(buffer_printf(&b, "%s", ""), 0);
	assert_holds(&b, "");
	ck_assert_int_eq(buffer_printf(&b, "%d-%s", 42, "x"), 0);
	assert_holds(&b, "42-x");
	ck_assert_int_eq(buffer_printf(&b, "%c", '!'), 0);
	assert_holds(&b, "42-x!");
	buffer_consume(&b, SIZE_MAX);

	memset(expected, '7', 2000);
	expected[2000] = '\0';
	ck_assert_int_eq(buffer_printf(&b, "%s", expected), 0);
	assert_holds(&b, expected);
	buffer_clear(&b);
}
END_TEST

/* Every length of text against every amount of room left: the NUL must not be lost or overrun. */
START_TEST(test_printf_at_the_brim)
{
	for (size_t left = 0; left < 8; left++) {
		struct buffer b = { 0 };

		ck_assert_int_eq(buffer_reserve(&b, 1), 0);
		b.end = b.allocated - left;
		memset(b.data, 'x', b.end);
		ck_assert_int_eq(buffer_printf(&b, "%d", _i), 0);
		buffer_consume(&b, buffer_len(&b) - 1);
		ck_assert_int_eq(*buffer_head(&b), '0' + _i % 10);
		buffer_clear(&b);
	}
}
END_TEST

/* A queue that is never quite empty: bytes stay in order and memory does not creep up. */
START_TEST(test_long_run)
{
	struct buffer b = { 0 };
	unsigned char in = 0, out = 0;

	for (unsigned step = 0; step < 200000; step++) {
		unsigned char bytes[7];
		size_t n = 1 + step % 7, take = 1 + step * 5 % 7;

		for (size_t i = 0; i < n; i++)
			bytes[i] = in++;
		ck_assert_int_eq(buffer_append(&b, bytes, n), 0);
		take = size_min(take, buffer_len(&b) > 100 ? SIZE_MAX : buffer_len(&b) - 1);
		for (size_t i = 0; i < take; i++) {
			if ((unsigned char)buffer_head(&b)[i] != out++)
				ck_abort_msg("byte out of order at step %u", step);
		}
		buffer_consume(&b, take);
	}
	ck_assert_uint_le(b.allocated, 1024);
	buffer_clear(&b);
}
END_TEST

Suite *check_buffer(void)
{
	Suite *s = suite_create("buffer");
	TCase *t = tcase_create("buffer");

	tcase_add_test(t, test_starts_empty);
	tcase_add_test(t, test_append_and_consume);
	tcase_add_test(t, test_reserve);
	tcase_add_test(t, test_reserve_moves_to_the_front);
	tcase_add_test(t, test_too_much);
	tcase_add_test(t, test_printf);
	tcase_add_loop_test(t, test_printf_at_the_brim, 1, 20);
	tcase_add_test(t, test_long_run);
	suite_add_tcase(s, t);
	return s;
}
