/* SPDX-License-Identifier: MIT */
/*
 * Tests of UTF-8: what is copied of a text whose bytes nobody vouches for. How characters are read
 * is tested with what reads them, topics above all.
 */
#include "suites.h"
#include "utf8.h"

static const struct {
	const char *text;
	size_t size;
	const char *expected;
} copies[] = {
	{ "", 1, "" },
	{ "plain", 6, "plain" },
	{ "plain", 5, "plai" },
	{ "gr\xc3\xbc\xc3\x9f"
	  "e",
		8,
		"gr\xc3\xbc\xc3\x9f"
		"e" },
	/* Never half a character. */
	{ "gr\xc3\xbc", 4, "gr" },
	{ "\xf0\x9f\x9a\x80", 4, "" },
	/* Cut short, a continuation alone, overlong, a surrogate. */
	{ "gr\xc3", 8, "gr?" },
	{ "\x80"
	  "a",
		8, "?a" },
	{ "\xc0\xaf", 8, "??" },
	{ "\xed\xa0\x80", 8, "???" },
};

START_TEST(copies_whole_characters)
{
	char out[16];

	memset(out, 'x', sizeof(out));
	utf8_copy(out, copies[_i].size, copies[_i].text);
	ck_assert_str_eq(out, copies[_i].expected);
	ck_assert_int_eq(out[copies[_i].size], 'x');
}
END_TEST

Suite *check_utf8(void)
{
	Suite *s = suite_create("utf8");
	TCase *tc = tcase_create("copy");

	tcase_add_loop_test(tc, copies_whole_characters, 0, ARRAY_SIZE(copies));
	suite_add_tcase(s, tc);
	return s;
}
