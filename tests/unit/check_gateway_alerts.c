/* SPDX-License-Identifier: MIT */
/*
 * Tests of the way of an alert into the ring: from the store and from the uplink's mailbox, with
 * the time of day; and that nothing wakes the daemon unless one is held back.
 */
#include <stdio.h>

#include "gateway_internal.h"
#include "suites.h"

static struct gateway g;

static void setup(void)
{
	memset(&g, 0, sizeof(g));
	ck_assert_int_ge(sd_event_new(&g.event), 0);
	ck_assert_int_eq(mailbox_new(&g.mailbox), 0);
	ck_assert_int_eq(gateway_open_alerts(&g), 0);
}

static void teardown(void)
{
	gateway_close_alerts(&g);
	gateway_close_alerts(&g); /* half-built ones, too */
	g.mailbox = mailbox_free(g.mailbox);
	g.event = sd_event_unref(g.event);
}

static bool timer_is_armed(void)
{
	int enabled = SD_EVENT_OFF;

	ck_assert_int_ge(sd_event_source_get_enabled(g.alerts_timer, &enabled), 0);
	return enabled != SD_EVENT_OFF;
}

static const struct alert *get(uint64_t seq)
{
	uint64_t lost;
	const struct alert *a = alerts_next(g.alerts, seq - 1, &lost);

	ck_assert_ptr_nonnull(a);
	ck_assert_uint_eq(a->seq, seq);
	return a;
}

START_TEST(test_from_the_store)
{
	int64_t before = now_epoch_msec();
	const struct alert *a;

	gateway_alert(&g, ALERT_STORE, "", "cannot be written");
	a = get(1);
	ck_assert_int_eq(a->kind, ALERT_STORE);
	ck_assert_str_eq(a->text, "cannot be written");
	ck_assert_int_ge(a->time_msec, before);
	ck_assert_int_le(a->time_msec, now_epoch_msec());
	ck_assert(!timer_is_armed());
}
END_TEST

START_TEST(test_from_the_uplink)
{
	mailbox_post_alert(g.mailbox, ALERT_AUTH, "h:1", "first");
	mailbox_post_alert(g.mailbox, ALERT_AUTH, "h:1", "second");
	mailbox_post_alert(g.mailbox, ALERT_DEAD_LETTER, "h:1", "message 7");
	gateway_take_alerts(&g);
	ck_assert_uint_eq(alerts_last(g.alerts), 2);
	ck_assert_uint_eq(get(1)->count, 2);
	ck_assert_str_eq(get(1)->text, "second");
	ck_assert_str_eq(get(2)->broker, "h:1");
	ck_assert(!timer_is_armed());
	gateway_take_alerts(&g);
	ck_assert_uint_eq(alerts_last(g.alerts), 2);
}
END_TEST

START_TEST(test_too_many_at_once)
{
	uint64_t total = 0, lost;
	char broker[20];

	for (unsigned i = 0; i < MAILBOX_ALERTS + 5; i++) {
		snprintf(broker, sizeof(broker), "h:%u", i);
		mailbox_post_alert(g.mailbox, ALERT_AUTH, broker, "x");
	}
	gateway_take_alerts(&g);
	for (const struct alert *a = alerts_next(g.alerts, 0, &lost); a;
		a = alerts_next(g.alerts, a->seq, &lost))
		total += a->count;
	ck_assert_uint_eq(total, MAILBOX_ALERTS + 5);
}
END_TEST

START_TEST(test_held_back)
{
	uint64_t due = 0;

	gateway_alert(&g, ALERT_STORE, "", "a");
	gateway_alert(&g, ALERT_STORE, "", "b");
	ck_assert_uint_eq(alerts_last(g.alerts), 1);
	ck_assert(timer_is_armed());
	ck_assert_int_ge(sd_event_source_get_time(g.alerts_timer, &due), 0);
	ck_assert_uint_eq(due, alerts_due(g.alerts));
	/* Too early: it goes on waiting. */
	ck_assert_int_ge(sd_event_source_set_time(g.alerts_timer, 0), 0);
	ck_assert_int_ge(sd_event_run(g.event, 0), 1);
	ck_assert_uint_eq(alerts_last(g.alerts), 1);
	ck_assert(timer_is_armed());
	/* Somebody released it meanwhile: there is nothing to wait for. */
	ck_assert(alerts_release(g.alerts, due));
	ck_assert_int_ge(sd_event_source_set_time(g.alerts_timer, 0), 0);
	ck_assert_int_ge(sd_event_run(g.event, 0), 1);
	ck_assert(!timer_is_armed());
	ck_assert_str_eq(get(2)->text, "b");
}
END_TEST

Suite *check_gateway_alerts(void)
{
	Suite *s = suite_create("gateway_alerts");
	TCase *tc = tcase_create("gateway_alerts");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_from_the_store);
	tcase_add_test(tc, test_from_the_uplink);
	tcase_add_test(tc, test_too_many_at_once);
	tcase_add_test(tc, test_held_back);
	suite_add_tcase(s, tc);
	return s;
}
