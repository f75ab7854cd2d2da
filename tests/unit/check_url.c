/* SPDX-License-Identifier: MIT */
/*
 * Tests of URLs: what is taken for one, what is left of one that is shown, where figures go.
 */
#include "suites.h"
#include "url.h"

/* --- what is good ---------------------------------------------------------------------------- */

static const struct {
	const char *url;
	bool is_good;
} urls[] = {
	{ "http://h", true },
	{ "https://h", true },
	{ "HTTPS://h", true },
	{ "http://h/", true },
	{ "http://h?q", true },
	{ "http://h#f", true },
	{ "http://h:1", true },
	{ "http://h:65535/x", true },
	{ "http://1.2.3.4:80", true },
	{ "http://a-b.c_d.example", true },
	{ "http://[::1]", true },
	{ "http://[::1]:80/", true },
	{ "http://[fe80::1%25eth0]/", true },
	{ "http://u@h", true },
	{ "http://u:p@h:80", true },
	{ "http://u:p@ss@h", true },
	{ "http://h/a@b:c", true },
	{ "http://h/?a@b:c", true },
	{ "", false },
	{ "h", false },
	{ "http", false },
	{ "http://", false },
	{ "http:///", false },
	{ "http://@", false },
	{ "http://u@", false },
	{ "http://u@:80", false },
	{ "http://:80", false },
	{ "http://h:", false },
	{ "http://h:x", false },
	{ "http://h:0", false },
	{ "http://h:65536", false },
	{ "http://h:000080", false },
	{ "http://::1", false },
	{ "http://[::1]x", false },
	{ "http://[::1]:", false },
	{ "http://[g h]", false },
	{ "http://h h", false },
	{ "http://h\n", false },
	{ "http://h/\x7f", false },
	{ "http://h/\xc3\xbc", false },
	{ "ftp://h", false },
	{ "httpx://h", false },
};

START_TEST(test_good)
{
	ck_assert_msg(url_is_good(urls[_i].url) == urls[_i].is_good, "%s", urls[_i].url);
}
END_TEST

/* --- what is shown --------------------------------------------------------------------------- */

static const struct {
	const char *url;
	const char *masked;
	const char *origin;
} shown[] = {
	{ "http://h", "http://h", "http://h" },
	{ "http://h:80/p/q", "http://h:80/p/q", "http://h:80" },
	{ "http://u@h/p", "http://***@h/p", "http://h" },
	{ "http://u:p@h:8080", "http://***@h:8080", "http://h:8080" },
	{ "https://u:p@ss@h/p", "https://***@h/p", "https://h" },
	{ "https://u:p@[::1]:1/p", "https://***@[::1]:1/p", "https://[::1]:1" },
	{ "http://h?q=s", "http://h?***", "http://h" },
	{ "http://h/p?q=s#f", "http://h/p?***", "http://h" },
	{ "http://h/p#f", "http://h/p?***", "http://h" },
	{ "http://u:p@h/p@q?r@s", "http://***@h/p@q?***", "http://h" },
	{ "http://h/?q=http://u:p@i/", "http://h/?***", "http://h" },
	/* not good, and not shown either */
	{ "", "", "" },
	{ "u:p@h", "", "" },
};

START_TEST(test_shown)
{
	char *masked, *origin;

	ck_assert_int_eq(url_mask(&masked, shown[_i].url), 0);
	ck_assert_int_eq(url_origin(&origin, shown[_i].url), 0);
	ck_assert_str_eq(masked, shown[_i].masked);
	ck_assert_str_eq(origin, shown[_i].origin);
	if (url_is_good(shown[_i].url)) {
		ck_assert(url_is_good(masked));
		ck_assert(url_is_good(origin));
	}
	free(masked);
	free(origin);
}
END_TEST

/* --- where figures go ------------------------------------------------------------------------ */

static const struct {
	const char *url;
	const char *instance;
	const char *pushed_to;
} pushed[] = {
	{ "http://h", "g", "http://h/metrics/job/mqttgw/instance/g" },
	{ "http://h/", "g", "http://h/metrics/job/mqttgw/instance/g" },
	{ "http://h:9091//", "g-1._", "http://h:9091/metrics/job/mqttgw/instance/g-1._" },
	{ "http://u:p@h/pre/fix", "g", "http://u:p@h/pre/fix/metrics/job/mqttgw/instance/g" },
	{ "http://h/?k=/metrics/job/x", "g",
		"http://h/metrics/job/mqttgw/instance/g?k=/metrics/job/x" },
	{ "http://h?k", "g", "http://h/metrics/job/mqttgw/instance/g?k" },
	{ "http://h/metrics/job/x", "g", "http://h/metrics/job/x" },
	{ "http://h/p/metrics/job/x/rack/7?k", "g", "http://h/p/metrics/job/x/rack/7?k" },
	{ "http://h/metrics/job@base64/eA", "g", "http://h/metrics/job@base64/eA" },
	{ "http://h/metrics", "g", "http://h/metrics/metrics/job/mqttgw/instance/g" },
	/* a path may not have these as they are */
	{ "http://h", ".", "http://h/metrics/job/mqttgw/instance@base64/Lg" },
	{ "http://h", "..", "http://h/metrics/job/mqttgw/instance@base64/Li4" },
	{ "http://h", "...", "http://h/metrics/job/mqttgw/instance/..." },
};

START_TEST(test_pushgateway)
{
	char *url;

	ck_assert_int_eq(url_pushgateway(&url, pushed[_i].url, pushed[_i].instance), 0);
	ck_assert_str_eq(url, pushed[_i].pushed_to);
	free(url);
}
END_TEST

Suite *check_url(void)
{
	Suite *s = suite_create("url");
	TCase *tc = tcase_create("url");

	tcase_add_loop_test(tc, test_good, 0, ARRAY_SIZE(urls));
	tcase_add_loop_test(tc, test_shown, 0, ARRAY_SIZE(shown));
	tcase_add_loop_test(tc, test_pushgateway, 0, ARRAY_SIZE(pushed));
	suite_add_tcase(s, tc);
	return s;
}
