/* SPDX-License-Identifier: MIT */
/*
 * Tests of the base64 decoder: the vectors of RFC 4648, section 10, every byte value, and each way
 * in which a text can fail to be the one encoding of its bytes.
 */
#include <errno.h>

#include "base64.h"
#include "suites.h"

static const struct {
	const char *text;
	const char *bytes;
} good[] = {
	{ "", "" },
	{ "Zg==", "f" },
	{ "Zm8=", "fo" },
	{ "Zm9v", "foo" },
	{ "Zm9vYg==", "foob" },
	{ "Zm9vYmE=", "fooba" },
	{ "Zm9vYmFy", "foobar" },
	{ "+/+/", "\xfb\xff\xbf" },
	{ "/w==", "\xff" },
	{ "//8=", "\xff\xff" },
	{ "////", "\xff\xff\xff" },
};

START_TEST(test_good)
{
	const char *text = good[_i].text, *bytes = good[_i].bytes;
	char out[32];
	size_t len = 99;

	ck_assert_uint_ge(base64_decoded_max(strlen(text)), strlen(bytes));
	ck_assert_int_eq(base64_decode(text, strlen(text), out, &len), 0);
	ck_assert_uint_eq(len, strlen(bytes));
	if (len > 0)
		ck_assert_mem_eq(out, bytes, len);
}
END_TEST

static const char *const bad[] = {
	/* padding: missing, too much, misplaced, alone */
	"Zg",
	"Zg=",
	"Zg===",
	"Zm8",
	"Zm9vYg",
	"Zm9vYg=",
	"=",
	"==",
	"===",
	"====",
	"Z===",
	"=Zg=",
	"Zg=v",
	"Z=g=",
	"Zm==Zm9v",
	"Zg==Zg==",
	"Zm9v====",
	"Zm9v=",
	/* length */
	"Z",
	"Zm9vY",
	/* unused bits set */
	"Zh==",
	"Zi==",
	"Z/==",
	"Zm9=",
	"Zm+=",
	"Zm//Zm9=",
	/* not of the alphabet: its neighbours, white space, the URL alphabet, others */
	"Zm9*",
	"Zm9,",
	"Zm9-",
	"Zm9.",
	"Zm9:",
	"Zm9@",
	"Zm9[",
	"Zm9_",
	"Zm9`",
	"Zm9{",
	"Zm9 ",
	" Zm9",
	"Zm9v\n",
	"Zm\n9v",
	"Zm9v\r\n\r\n",
	"Z!==",
	"!g==",
	"Zm!=",
	"Z\xc3\xa9=",
	"\xff\xff\xff\xff",
	"\x80\x80==",
};

START_TEST(test_bad)
{
	char out[32];
	size_t len = 99;

	ck_assert_int_eq(base64_decode(bad[_i], strlen(bad[_i]), out, &len), -EINVAL);
	ck_assert_uint_eq(len, 99);
}
END_TEST

START_TEST(test_nul_is_not_the_end)
{
	char out[32];
	size_t len;

	ck_assert_int_eq(base64_decode("Zm9v\0\0\0\0", 8, out, &len), -EINVAL);
	ck_assert_int_eq(base64_decode("\0m9v", 4, out, &len), -EINVAL);
}
END_TEST

START_TEST(test_empty_needs_no_room)
{
	size_t len = 99;

	ck_assert_int_eq(base64_decode(NULL, 0, NULL, &len), 0);
	ck_assert_uint_eq(len, 0);
}
END_TEST

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Every pair of characters, against arithmetic: one byte, and none other than the right pairs. */
START_TEST(test_all_pairs)
{
	for (unsigned c = 0; c < 256 * 256; c++) {
		char text[4] = { (char)(c >> 8), (char)c, '=', '=' };
		const char *hi = memchr(alphabet, text[0], 64), *lo = memchr(alphabet, text[1], 64);
		bool ok = hi && lo && (lo - alphabet) % 16 == 0;
		unsigned char out[3];
		size_t len = 0;

		if (base64_decode(text, 4, out, &len) != (ok ? 0 : -EINVAL))
			ck_abort_msg("wrong verdict on pair %04x", c);
		if (ok)
			ck_assert(len == 1 && out[0] == (hi - alphabet) * 4 + (lo - alphabet) / 16);
	}
}
END_TEST

/* All byte values at each position of a group, through an encoder of the test's own. */
START_TEST(test_round_trip)
{
	for (size_t size = 0; size < 300; size++) {
		unsigned char in[300], out[300];
		char text[404];
		size_t n = 0, len = 0;

		for (size_t i = 0; i < size; i++)
			in[i] = (unsigned char)(i * 7 + size);
		for (size_t bit = 0; bit < size * 8; bit += 6) {
			unsigned pair = in[bit / 8] * 256U;

			if (bit / 8 + 1 < size)
				pair += in[bit / 8 + 1];
			text[n++] = alphabet[pair >> (10 - bit % 8) & 63];
		}
		while (n % 4)
			text[n++] = '=';
		ck_assert_int_eq(base64_decode(text, n, out, &len), 0);
		ck_assert_uint_eq(len, size);
		if (size > 0)
			ck_assert_mem_eq(out, in, size);
	}
}
END_TEST

Suite *check_base64(void)
{
	Suite *s = suite_create("base64");
	TCase *t = tcase_create("base64");

	tcase_add_loop_test(t, test_good, 0, ARRAY_SIZE(good));
	tcase_add_loop_test(t, test_bad, 0, ARRAY_SIZE(bad));
	tcase_add_test(t, test_nul_is_not_the_end);
	tcase_add_test(t, test_empty_needs_no_room);
	tcase_add_test(t, test_all_pairs);
	tcase_add_test(t, test_round_trip);
	suite_add_tcase(s, t);
	return s;
}
