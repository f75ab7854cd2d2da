/* SPDX-License-Identifier: MIT */
/*
 * Tests of the topic check: each fault by name, and every code point and every short byte sequence
 * against what libmosquitto itself says.
 */
#include <mosquitto.h>

#include "suites.h"
#include "topic.h"

#define T(s) s, sizeof(s) - 1

static const struct {
	const char *topic;
	size_t len;
	enum topic_fault fault;
} cases[] = {
	{ T("a"), TOPIC_OK },
	{ T("/"), TOPIC_OK },
	{ T("//"), TOPIC_OK },
	{ T("plant/line 3/temperature"), TOPIC_OK },
	{ T("$SYS/x"), TOPIC_OK },
	{ T(" "), TOPIC_OK },
	{ T("~"), TOPIC_OK },
	{ T("*"), TOPIC_OK },
	{ T("gr\xc3\xb6\xc3\x9f"
	    "e/\xe2\x82\xac/\xf0\x9f\x8c\xa1"),
		TOPIC_OK },
	{ T("\xc2\xa0"), TOPIC_OK },
	{ T("\xef\xbb\xbf"), TOPIC_OK }, /* a byte order mark is a character */
	{ T("\xef\xbf\xbd"), TOPIC_OK }, /* U+FFFD */
	{ T("\xf4\x8f\xbf\xbd"), TOPIC_OK }, /* U+10FFFD */
	{ T("\xed\x9f\xbf"), TOPIC_OK }, /* U+D7FF, before the surrogates */
	{ T("\xee\x80\x80"), TOPIC_OK }, /* U+E000, after them */
	{ "", 0, TOPIC_EMPTY },
	{ NULL, 0, TOPIC_EMPTY },
	{ T("#"), TOPIC_WILDCARD },
	{ T("a/+/b"), TOPIC_WILDCARD },
	{ T("a+b"), TOPIC_WILDCARD },
	{ T("a/b#"), TOPIC_WILDCARD },
	{ T("\0"), TOPIC_NUL },
	{ T("a\0b"), TOPIC_NUL },
	{ T("a/b\0"), TOPIC_NUL },
	{ T("a\nb"), TOPIC_CONTROL },
	{ T("\x01"), TOPIC_CONTROL },
	{ T("\x1f"), TOPIC_CONTROL },
	{ T("\x7f"), TOPIC_CONTROL },
	{ T("\xc2\x80"), TOPIC_CONTROL },
	{ T("\xc2\x9f"), TOPIC_CONTROL },
	{ T("\xef\xb7\x90"), TOPIC_NONCHARACTER }, /* U+FDD0 */
	{ T("\xef\xb7\xaf"), TOPIC_NONCHARACTER }, /* U+FDEF */
	{ T("\xef\xbf\xbe"), TOPIC_NONCHARACTER }, /* U+FFFE */
	{ T("\xef\xbf\xbf"), TOPIC_NONCHARACTER },
	{ T("\xf0\x9f\xbf\xbe"), TOPIC_NONCHARACTER }, /* U+1FFFE */
	{ T("\xf4\x8f\xbf\xbf"), TOPIC_NONCHARACTER }, /* U+10FFFF */
	{ T("\x80"), TOPIC_BAD_UTF8 },
	{ T("a\xc3"), TOPIC_BAD_UTF8 },
	{ T("\xc3("), TOPIC_BAD_UTF8 },
	{ T("\xe2\x82"), TOPIC_BAD_UTF8 },
	{ T("\xf0\x9f\x8c"), TOPIC_BAD_UTF8 },
	{ T("\xc0\xaf"), TOPIC_BAD_UTF8 }, /* overlong '/' */
	{ T("\xc0\x80"), TOPIC_BAD_UTF8 }, /* overlong U+0000 */
	{ T("\xc1\xbf"), TOPIC_BAD_UTF8 },
	{ T("\xe0\x80\xaf"), TOPIC_BAD_UTF8 },
	{ T("\xe0\x9f\xbf"), TOPIC_BAD_UTF8 },
	{ T("\xf0\x80\x80\xaf"), TOPIC_BAD_UTF8 },
	{ T("\xf0\x8f\xbf\xbf"), TOPIC_BAD_UTF8 },
	{ T("\xed\xa0\x80"), TOPIC_BAD_UTF8 }, /* U+D800 */
	{ T("\xed\xbf\xbf"), TOPIC_BAD_UTF8 }, /* U+DFFF */
	{ T("\xf4\x90\x80\x80"), TOPIC_BAD_UTF8 }, /* U+110000 */
	{ T("\xf5\x80\x80\x80"), TOPIC_BAD_UTF8 },
	{ T("\xfe"), TOPIC_BAD_UTF8 },
	{ T("\xff"), TOPIC_BAD_UTF8 },
	/* the first fault counts */
	{ T("+\n"), TOPIC_WILDCARD },
	{ T("\n+"), TOPIC_CONTROL },
};

START_TEST(test_cases)
{
	enum topic_fault fault = topic_check(cases[_i].topic, cases[_i].len);

	ck_assert_msg(fault == cases[_i].fault, "'%s': %s", cases[_i].topic,
		topic_fault_to_string(fault));
}
END_TEST

START_TEST(test_length)
{
	static char topic[65536];

	memset(topic, 'x', sizeof(topic));
	ck_assert_int_eq(topic_check(topic, 65535), TOPIC_OK);
	ck_assert_int_eq(topic_check(topic, 65536), TOPIC_TOO_LONG);
	topic[0] = '+';
	ck_assert_int_eq(topic_check(topic, 65536), TOPIC_TOO_LONG);
	topic[65534] = '\xc3';
	topic[0] = 'x';
	ck_assert_int_eq(topic_check(topic, 65535), TOPIC_BAD_UTF8);
}
END_TEST

START_TEST(test_texts)
{
	ck_assert_str_eq(topic_fault_to_string(TOPIC_WILDCARD), "topic holds a wildcard");
	for (int a = TOPIC_OK; a <= TOPIC_BAD_UTF8; a++) {
		for (int b = TOPIC_OK; b < a; b++)
			ck_assert_str_ne(topic_fault_to_string((enum topic_fault)a),
				topic_fault_to_string((enum topic_fault)b));
	}
}
END_TEST

static void compare(const char *s, size_t len)
{
	bool expected = mosquitto_pub_topic_check2(s, len) == MOSQ_ERR_SUCCESS &&
		mosquitto_validate_utf8(s, (int)len) == MOSQ_ERR_SUCCESS;
	enum topic_fault fault = topic_check(s, len);

	if ((fault == TOPIC_OK) != expected)
		ck_abort_msg("%zu bytes, %02x %02x %02x %02x: %s, libmosquitto says %s", len,
			s[0] & 0xff, s[1] & 0xff, s[2] & 0xff, s[3] & 0xff,
			topic_fault_to_string(fault), expected ? "good" : "bad");
}

START_TEST(test_short_sequences_as_libmosquitto)
{
	for (unsigned bytes = 0; bytes < 1 << 16; bytes++) {
		char s[4] = { (char)(bytes >> 8), (char)bytes, 0, 0 };

		compare(s, 1);
		compare(s, 2);
	}
}
END_TEST

/* Every lead byte with continuation bytes from the edges of each range, right and wrong. (A NUL
 * ends the array: libmosquitto may read past a length that cuts a character in two.) */
START_TEST(test_long_sequences_as_libmosquitto)
{
	for (unsigned lead = 0xc0; lead <= 0xff; lead++) {
		for (unsigned second = 0x70; second <= 0xd0; second++) {
			for (unsigned third = 0x7e; third <= 0xc1; third++) {
				char s[5] = { (char)lead, (char)second, (char)third };

				compare(s, 3);
				for (unsigned fourth = 0x7e; fourth <= 0xc1; fourth++) {
					s[3] = (char)fourth;
					compare(s, 4);
				}
			}
		}
	}
}
END_TEST

/* Made of the bytes that matter, all of them up to a length. */
static void make_text(unsigned number, char *out)
{
	static const char bytes[] = "a/+#$";

	for (; number > 0; number /= 6) {
		if (number % 6 == 0)
			break;
		*out++ = bytes[number % 6 - 1];
	}
	*out = '\0';
}

/* Every filter of up to five bytes with every name of up to four, against libmosquitto. */
START_TEST(test_filters_as_libmosquitto)
{
	unsigned good = 0, matched = 0;

	for (unsigned f = 1; f < 6 * 6 * 6 * 6 * 6; f++) {
		char filter[8];
		bool fine;

		make_text(f, filter);
		if (!filter[0])
			continue;
		fine = mosquitto_sub_topic_check(filter) == MOSQ_ERR_SUCCESS;
		ck_assert_msg((topic_filter_check(filter, strlen(filter)) == TOPIC_OK) == fine,
			"filter %s", filter);
		good += fine;
		for (unsigned n = 1; fine && n < 6 * 6 * 6 * 6; n++) {
			bool expected = false;
			char name[8];

			make_text(n, name);
			if (topic_check(name, strlen(name)) != TOPIC_OK)
				continue;
			ck_assert_int_eq(mosquitto_topic_matches_sub(filter, name, &expected),
				MOSQ_ERR_SUCCESS);
			ck_assert_msg(topic_matches(filter, name, strlen(name)) == expected,
				"filter %s, name %s: expected %d", filter, name, expected);
			matched += expected;
		}
	}
	ck_assert_uint_gt(good, 100);
	ck_assert_uint_gt(matched, 100);
}
END_TEST

Suite *check_topic(void)
{
	Suite *s = suite_create("topic");
	TCase *t = tcase_create("topic");

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_cases, 0, ARRAY_SIZE(cases));
	tcase_add_test(t, test_length);
	tcase_add_test(t, test_texts);
	tcase_add_test(t, test_short_sequences_as_libmosquitto);
	tcase_add_test(t, test_long_sequences_as_libmosquitto);
	tcase_add_test(t, test_filters_as_libmosquitto);
	suite_add_tcase(s, t);
	return s;
}
