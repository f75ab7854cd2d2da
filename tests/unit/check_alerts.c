/* SPDX-License-Identifier: MIT */
/*
 * Tests of the ring of alerts: one a minute of a kind and broker, the others counted and told
 * later, and what fell out of the ring is known to whoever comes too late.
 */
#include <stdio.h>

#include "alerts.h"
#include "suites.h"

#define SEC   USEC_PER_SEC
#define START (100 * SEC)

static struct alerts *alerts;

static void setup(void)
{
	ck_assert_int_eq(alerts_new(&alerts), 0);
}

static void teardown(void)
{
	alerts = alerts_free(alerts);
	ck_assert_ptr_null(alerts);
}

static bool raise_at(enum alert_kind kind, const char *broker, const char *text, uint64_t usec)
{
	return alerts_raise(
		alerts, kind, broker, 1, text, START + usec, (int64_t)(usec / USEC_PER_MSEC));
}

/* The one numbered `seq`, which is still there. */
static const struct alert *get(uint64_t seq)
{
	uint64_t lost = 99;
	const struct alert *a = alerts_next(alerts, seq - 1, &lost);

	ck_assert_ptr_nonnull(a);
	ck_assert_uint_eq(lost, 0);
	ck_assert_uint_eq(a->seq, seq);
	return a;
}

START_TEST(test_empty)
{
	uint64_t lost = 99;

	ck_assert_ptr_null(alerts_next(alerts, 0, &lost));
	ck_assert_uint_eq(lost, 0);
	ck_assert_uint_eq(alerts_last(alerts), 0);
	ck_assert_uint_eq(alerts_due(alerts), UINT64_MAX);
	ck_assert(!alerts_release(alerts, UINT64_MAX));
}
END_TEST

START_TEST(test_first_at_once)
{
	const struct alert *a;
	uint64_t lost;

	ck_assert(raise_at(ALERT_AUTH, "h:1", "refused", 5 * SEC));
	a = get(1);
	ck_assert_int_eq(a->kind, ALERT_AUTH);
	ck_assert_int_eq(a->time_msec, 5000);
	ck_assert_uint_eq(a->count, 1);
	ck_assert_str_eq(a->broker, "h:1");
	ck_assert_str_eq(a->text, "refused");
	ck_assert_ptr_null(alerts_next(alerts, 1, &lost));
	ck_assert_uint_eq(alerts_due(alerts), UINT64_MAX);
}
END_TEST

START_TEST(test_others_are_counted)
{
	const struct alert *a;

	ck_assert(raise_at(ALERT_AUTH, "h:1", "first", 0));
	for (unsigned i = 1; i <= 10; i++)
		ck_assert(!raise_at(ALERT_AUTH, "h:1", i == 10 ? "last" : "between", i * SEC));
	ck_assert_uint_eq(alerts_last(alerts), 1);
	ck_assert_uint_eq(alerts_due(alerts), START + 60 * SEC);
	ck_assert(!alerts_release(alerts, START + 60 * SEC - 1));
	ck_assert(alerts_release(alerts, START + 60 * SEC));
	ck_assert(!alerts_release(alerts, START + 60 * SEC));
	a = get(2);
	ck_assert_uint_eq(a->count, 10);
	ck_assert_str_eq(a->text, "last");
	ck_assert_int_eq(a->time_msec, 10000);
	/* Another quiet minute begins with it. */
	ck_assert(!raise_at(ALERT_AUTH, "h:1", "again", 61 * SEC));
	ck_assert_uint_eq(alerts_due(alerts), START + 120 * SEC);
	/* Nobody released it: it goes along with the next one. */
	ck_assert(raise_at(ALERT_AUTH, "h:1", "later", 130 * SEC));
	ck_assert_uint_eq(get(3)->count, 2);
	ck_assert_uint_eq(alerts_due(alerts), UINT64_MAX);
}
END_TEST

START_TEST(test_kinds_and_brokers_apart)
{
	ck_assert(raise_at(ALERT_AUTH, "h:1", "a", 0));
	ck_assert(raise_at(ALERT_AUTH, "h:2", "b", 0));
	ck_assert(raise_at(ALERT_SET_ASIDE, "h:1", "c", 0));
	ck_assert(raise_at(ALERT_STORE, "", "d", 0));
	ck_assert(!raise_at(ALERT_STORE, "", "e", 1));
	ck_assert(!raise_at(ALERT_AUTH, "h:2", "f", 1));
	ck_assert_uint_eq(alerts_last(alerts), 4);
	ck_assert(alerts_release(alerts, START + 61 * SEC));
	ck_assert_uint_eq(alerts_last(alerts), 6);
}
END_TEST

START_TEST(test_several_at_once)
{
	ck_assert(alerts_raise(alerts, ALERT_DEAD_LETTER, "h:1", 7, "x", START, 1));
	ck_assert_uint_eq(get(1)->count, 7);
	ck_assert(!alerts_raise(alerts, ALERT_DEAD_LETTER, "h:1", 3, "x", START + 1, 1));
	ck_assert(alerts_release(alerts, START + 60 * SEC + 1));
	ck_assert_uint_eq(get(2)->count, 3);
}
END_TEST

START_TEST(test_ring)
{
	uint64_t lost = 0;

	for (unsigned i = 1; i <= ALERTS_KEPT + 10; i++)
		ck_assert(raise_at(ALERT_HELD, "h:1", "x", i * 61 * SEC));
	ck_assert_uint_eq(alerts_last(alerts), ALERTS_KEPT + 10);
	ck_assert_uint_eq(alerts_next(alerts, 0, &lost)->seq, 11);
	ck_assert_uint_eq(lost, 10);
	ck_assert_uint_eq(alerts_next(alerts, 9, &lost)->seq, 11);
	ck_assert_uint_eq(lost, 1);
	ck_assert_uint_eq(alerts_next(alerts, 10, &lost)->seq, 11);
	ck_assert_uint_eq(lost, 0);
	ck_assert_uint_eq(alerts_next(alerts, ALERTS_KEPT + 9, &lost)->seq, ALERTS_KEPT + 10);
	ck_assert_ptr_null(alerts_next(alerts, ALERTS_KEPT + 10, &lost));
	/* A number of another life of the daemon. */
	ck_assert_ptr_null(alerts_next(alerts, UINT64_MAX, &lost));
	ck_assert_uint_eq(lost, 0);
}
END_TEST

/* More pairs than are watched: none is lost, whatever was held back goes out. */
START_TEST(test_many_brokers)
{
	uint64_t total = 0, lost;
	char broker[20];

	for (unsigned i = 0; i < 100; i++) {
		snprintf(broker, sizeof(broker), "h:%u", i);
		ck_assert(raise_at(ALERT_AUTH, broker, "x", i));
		ck_assert(!raise_at(ALERT_AUTH, broker, "x", i));
	}
	ck_assert(alerts_release(alerts, START + 120 * SEC));
	ck_assert_uint_eq(alerts_due(alerts), UINT64_MAX);
	for (const struct alert *a = alerts_next(alerts, 0, &lost); a;
		a = alerts_next(alerts, a->seq, &lost))
		total += a->count;
	ck_assert_uint_eq(total, 200);
}
END_TEST

START_TEST(test_long_and_broken_text)
{
	char text[1000];

	/* 399 bytes fit: the two-byte characters do not, with an odd one before. */
	memset(text, 0, sizeof(text));
	for (unsigned i = 0; i < 300; i++)
		memcpy(text + 2 * i, "\xc3\xa4", 2);
	ck_assert(raise_at(ALERT_STORE, "", text, 0));
	ck_assert_uint_eq(strlen(get(1)->text), 398);
	ck_assert(raise_at(ALERT_HELD, "", "a\xff\xc3(\xc3\xa4\xc3", 0));
	ck_assert_str_eq(get(2)->text,
		"a??"
		"(\xc3\xa4?");
}
END_TEST

START_TEST(test_names)
{
	static const char *const names[] = { "auth", "set-aside", "taken-over", "queue-high",
		"store", "dead-letter", "held" };

	ck_assert_uint_eq(ARRAY_SIZE(names), N_ALERT_KINDS);
	for (unsigned i = 0; i < N_ALERT_KINDS; i++)
		ck_assert_str_eq(alert_kind_to_string(i), names[i]);
}
END_TEST

Suite *check_alerts(void)
{
	Suite *s = suite_create("alerts");
	TCase *tc = tcase_create("alerts");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_empty);
	tcase_add_test(tc, test_first_at_once);
	tcase_add_test(tc, test_others_are_counted);
	tcase_add_test(tc, test_kinds_and_brokers_apart);
	tcase_add_test(tc, test_several_at_once);
	tcase_add_test(tc, test_ring);
	tcase_add_test(tc, test_many_brokers);
	tcase_add_test(tc, test_long_and_broken_text);
	tcase_add_test(tc, test_names);
	suite_add_tcase(s, tc);
	return s;
}
