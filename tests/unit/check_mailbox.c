/* SPDX-License-Identifier: MIT */
/*
 * Tests of the mailbox: what one side posts the other takes, once and in order; who is woken by
 * what; and both sides at once, in two threads.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>

#include "mailbox.h"
#include "scratch.h"
#include "suites.h"

static struct mailbox *m;

static void setup(void)
{
	ck_assert_int_eq(mailbox_new(&m), 0);
}

static void teardown(void)
{
	m = mailbox_free(m);
	ck_assert_ptr_null(m);
}

static bool is_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* What is posted wakes the other side, and clearing takes that back. */
static void expect_woken(bool gateway, bool uplink)
{
	ck_assert_int_eq(is_readable(mailbox_gateway_fd(m)), gateway);
	ck_assert_int_eq(is_readable(mailbox_uplink_fd(m)), uplink);
	mailbox_gateway_clear(m);
	mailbox_uplink_clear(m);
	ck_assert(!is_readable(mailbox_gateway_fd(m)));
	ck_assert(!is_readable(mailbox_uplink_fd(m)));
}

START_TEST(test_free_takes_null)
{
	ck_assert_ptr_null(mailbox_free(NULL));
}
END_TEST

START_TEST(test_empty)
{
	uint64_t ids[MAILBOX_SPAN];
	struct mailbox_condemned rows[MAILBOX_CONDEMNED];
	struct mailbox_meta meta;
	bool hurry = true;

	expect_woken(false, false);
	ck_assert_uint_eq(mailbox_take_condemned(m, rows, 0), 0);
	ck_assert(mailbox_may_condemn(m));
	ck_assert(!mailbox_take_reconnect(m));
	ck_assert_uint_eq(mailbox_take_acked(m, ids, 0), 0);
	ck_assert_uint_eq(mailbox_take_removed(m), 0);
	ck_assert_uint_eq(mailbox_claimed(m), 0);
	ck_assert(!mailbox_take_meta(m, &meta));
	ck_assert(!mailbox_noted(m));
	ck_assert(!mailbox_take_news(m));
	ck_assert(mailbox_pinged(m));
	ck_assert(!mailbox_stopping(m, &hurry));
	ck_assert(!hurry);
	ck_assert(!mailbox_uplink_done(m));
}
END_TEST

START_TEST(test_committed_and_claimed)
{
	mailbox_post_committed(m, 17);
	expect_woken(false, true);
	ck_assert_uint_eq(mailbox_claim(m, 40), 17);
	ck_assert_uint_eq(mailbox_claimed(m), 17);
	mailbox_post_committed(m, 55);
	expect_woken(false, true);
	ck_assert_uint_eq(mailbox_claim(m, 20), 20);
	ck_assert_uint_eq(mailbox_claimed(m), 20);
	ck_assert_uint_eq(mailbox_claim(m, 80), 55);
	ck_assert_uint_eq(mailbox_claimed(m), 55);
	/* To claim less gives nothing back. */
	ck_assert_uint_eq(mailbox_claim(m, 3), 55);
	ck_assert_uint_eq(mailbox_claimed(m), 55);
}
END_TEST

/* One that is offline looks for no rows, and is not woken for each commit. */
START_TEST(test_committed_unasked)
{
	mailbox_post_committed(m, 10);
	expect_woken(false, true);
	mailbox_post_committed(m, 20);
	expect_woken(false, false);
	/* Whatever it finds, it hears of what comes after. */
	ck_assert_uint_eq(mailbox_claim(m, 1), 1);
	mailbox_post_committed(m, 30);
	expect_woken(false, true);
	mailbox_post_committed(m, 40);
	expect_woken(false, false);
	/* Another uplink. */
	mailbox_reset(m);
	mailbox_post_committed(m, 40);
	expect_woken(false, true);
}
END_TEST

START_TEST(test_release)
{
	mailbox_post_committed(m, 100);
	expect_woken(false, true);
	ck_assert_uint_eq(mailbox_claim(m, 60), 60);
	mailbox_release(m, 70);
	ck_assert_uint_eq(mailbox_claimed(m), 60);
	mailbox_release(m, 50);
	ck_assert_uint_eq(mailbox_claimed(m), 50);
	ck_assert_uint_eq(mailbox_claim(m, 55), 55);
	mailbox_release(m, 0);
	ck_assert_uint_eq(mailbox_claimed(m), 0);
	expect_woken(false, false);
}
END_TEST

/* While the gateway drops rows the uplink gets none that it did not have, and hears of the end. */
START_TEST(test_freeze)
{
	mailbox_post_committed(m, 100);
	expect_woken(false, true);
	ck_assert_uint_eq(mailbox_claim(m, 10), 10);
	ck_assert_uint_eq(mailbox_freeze(m), 10);
	ck_assert_uint_eq(mailbox_claim(m, 10), 10);
	ck_assert_uint_eq(mailbox_claim(m, 20), 10);
	ck_assert_uint_eq(mailbox_claimed(m), 10);
	/* What it gives back meanwhile it does not get again before the thaw. */
	mailbox_release(m, 5);
	ck_assert_uint_eq(mailbox_claim(m, 10), 5);
	expect_woken(false, false);
	mailbox_thaw(m);
	expect_woken(false, true);
	ck_assert_uint_eq(mailbox_claim(m, 20), 20);
	mailbox_thaw(m);
	expect_woken(false, false);
}
END_TEST

/* Nobody is woken who did not ask. */
START_TEST(test_freeze_unnoticed)
{
	mailbox_post_committed(m, 100);
	expect_woken(false, true);
	ck_assert_uint_eq(mailbox_claim(m, 10), 10);
	ck_assert_uint_eq(mailbox_freeze(m), 10);
	ck_assert_uint_eq(mailbox_claim(m, 7), 10);
	mailbox_thaw(m);
	expect_woken(false, false);
	/* Nor was it asked for more than there is. */
	ck_assert_uint_eq(mailbox_claim(m, 100), 100);
	ck_assert_uint_eq(mailbox_freeze(m), 100);
	ck_assert_uint_eq(mailbox_claim(m, 200), 100);
	mailbox_thaw(m);
	expect_woken(false, false);
}
END_TEST

START_TEST(test_clock)
{
	struct clock clock = { .trusted = true, .offset_msec = -5 };
	uint64_t max_age = 1;

	mailbox_clock(m, &clock, &max_age);
	ck_assert(!clock.trusted);
	ck_assert_int_eq(clock.offset_msec, 0);
	ck_assert_uint_eq(max_age, 0);
	clock = (struct clock){ .trusted = true, .offset_msec = 1700000000000 };
	mailbox_post_clock(m, &clock, 7);
	clock = (struct clock){ 0 };
	mailbox_clock(m, &clock, &max_age);
	ck_assert(clock.trusted);
	ck_assert_int_eq(clock.offset_msec, 1700000000000);
	ck_assert_uint_eq(max_age, 7);
	expect_woken(false, false); /* it is looked at with each message */
}
END_TEST

START_TEST(test_rotten)
{
	ck_assert(!mailbox_rotten(m));
	mailbox_post_rotten(m);
	expect_woken(true, false);
	ck_assert(mailbox_rotten(m));
	ck_assert(mailbox_rotten(m));
}
END_TEST

/* There is room again only once a row is moved for good, not when it is taken. */
START_TEST(test_condemned)
{
	struct mailbox_condemned rows[MAILBOX_CONDEMNED];
	char reason[40];

	for (uint64_t id = 1; id <= MAILBOX_CONDEMNED; id++) {
		ck_assert(mailbox_may_condemn(m));
		snprintf(reason, sizeof(reason), "because %llu", (unsigned long long)id);
		mailbox_post_condemned(m, id, reason);
		expect_woken(true, false);
		if (id == 2)
			ck_assert_uint_eq(mailbox_take_condemned(m, rows, 0), 2);
	}
	ck_assert(!mailbox_may_condemn(m));
	ck_assert_uint_eq(mailbox_take_condemned(m, rows, 2), MAILBOX_CONDEMNED - 2);
	ck_assert_uint_eq(rows[0].id, 3);
	ck_assert_str_eq(rows[0].reason, "because 3");
	ck_assert(!mailbox_may_condemn(m));
	mailbox_post_buried(m, 2);
	expect_woken(false, true);
	ck_assert(mailbox_may_condemn(m));
}
END_TEST

START_TEST(test_condemned_with_a_long_reason)
{
	struct mailbox_condemned rows[MAILBOX_CONDEMNED];
	char reason[1000];

	memset(reason, 'x', sizeof(reason) - 1);
	reason[sizeof(reason) - 1] = '\0';
	mailbox_post_condemned(m, 7, reason);
	ck_assert_uint_eq(mailbox_take_condemned(m, rows, 0), 1);
	ck_assert_uint_eq(strlen(rows[0].reason), sizeof(rows[0].reason) - 1);
}
END_TEST

START_TEST(test_reconnect_is_taken_once)
{
	mailbox_post_reconnect(m);
	mailbox_post_reconnect(m);
	expect_woken(false, true);
	ck_assert(mailbox_take_reconnect(m));
	ck_assert(!mailbox_take_reconnect(m));
}
END_TEST

START_TEST(test_acked_in_order)
{
	const uint64_t first[] = { 5, 3, 9 }, second[] = { 4 };
	uint64_t ids[MAILBOX_SPAN];

	mailbox_post_acked(m, first, 3);
	expect_woken(true, false);
	mailbox_post_acked(m, second, 1);
	ck_assert_uint_eq(mailbox_take_acked(m, ids, 0), 4);
	ck_assert_uint_eq(ids[0], 5);
	ck_assert_uint_eq(ids[1], 3);
	ck_assert_uint_eq(ids[2], 9);
	ck_assert_uint_eq(ids[3], 4);
	ck_assert_uint_eq(mailbox_take_acked(m, ids, 4), 0);
}
END_TEST

START_TEST(test_acked_up_to_the_span)
{
	static uint64_t posted[MAILBOX_SPAN], taken[MAILBOX_SPAN];

	for (size_t i = 0; i < MAILBOX_SPAN; i++)
		posted[i] = 2 * i + 1;
	for (int round = 0; round < 3; round++) {
		mailbox_post_acked(m, posted, MAILBOX_SPAN / 2);
		mailbox_post_acked(m, posted + MAILBOX_SPAN / 2, MAILBOX_SPAN / 2);
		ck_assert_uint_eq(mailbox_take_acked(m, taken, 0), MAILBOX_SPAN);
		ck_assert_mem_eq(taken, posted, sizeof(taken));
	}
	/* What the other side still has counts as well. */
	mailbox_post_acked(m, posted, 10);
	ck_assert_uint_eq(mailbox_take_acked(m, taken, MAILBOX_SPAN - 10), 10);
}
END_TEST

START_TEST(test_removed)
{
	mailbox_post_removed(m, 3);
	expect_woken(false, true);
	mailbox_post_removed(m, 4);
	ck_assert_uint_eq(mailbox_take_removed(m), 7);
	ck_assert_uint_eq(mailbox_take_removed(m), 0);
	/* A patient uplink is not rung for a few, nor do they get lost. */
	mailbox_uplink_clear(m);
	mailbox_set_patient(m, true);
	mailbox_post_removed(m, 5);
	ck_assert(!is_readable(mailbox_uplink_fd(m)));
	mailbox_post_removed(m, MAILBOX_SPAN / 4);
	ck_assert(is_readable(mailbox_uplink_fd(m)));
	ck_assert_uint_eq(mailbox_take_removed(m), 5 + MAILBOX_SPAN / 4);
	mailbox_uplink_clear(m);
	mailbox_set_patient(m, false);
	mailbox_post_removed(m, 1);
	ck_assert(is_readable(mailbox_uplink_fd(m)));
	ck_assert_uint_eq(mailbox_take_removed(m), 1);
}
END_TEST

START_TEST(test_meta)
{
	struct mailbox_meta meta;

	for (int round = 0; round < 2; round++) {
		mailbox_post_meta(m, "session h:1883 c", round ? "clean" : "unclean");
		expect_woken(true, false);
		ck_assert(!mailbox_noted(m));
		ck_assert(mailbox_take_meta(m, &meta));
		ck_assert_str_eq(meta.key, "session h:1883 c");
		ck_assert_str_eq(meta.value, round ? "clean" : "unclean");
		/* Taken is not noted; and it is taken once. */
		ck_assert(!mailbox_noted(m));
		ck_assert(!mailbox_take_meta(m, &meta));
		mailbox_post_noted(m);
		expect_woken(false, true);
		ck_assert(!mailbox_take_meta(m, &meta));
		ck_assert(mailbox_noted(m));
		ck_assert(!mailbox_noted(m));
	}
}
END_TEST

START_TEST(test_meta_longest)
{
	struct mailbox_meta meta;
	char key[sizeof(meta.key)], value[sizeof(meta.value)];

	memset(key, 'k', sizeof(key) - 1);
	key[sizeof(key) - 1] = '\0';
	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	mailbox_post_meta(m, key, value);
	ck_assert(mailbox_take_meta(m, &meta));
	ck_assert_str_eq(meta.key, key);
	ck_assert_str_eq(meta.value, value);
}
END_TEST

/* What is counted wakes nobody; news does, and is told once. */
START_TEST(test_figures)
{
	struct figures_uplink taken, *f;

	f = mailbox_figures_begin(m);
	f->state = SUPERVISOR_CONNECTING;
	strcpy(f->broker, "h:1883");
	f->inflight = 3;
	mailbox_figures_end(m);
	expect_woken(false, false);
	ck_assert(!mailbox_take_news(m));
	mailbox_get_figures(m, &taken);
	ck_assert_int_eq(taken.state, SUPERVISOR_CONNECTING);
	ck_assert_uint_eq(taken.inflight, 3);

	for (unsigned i = 0; i < 2; i++) {
		f = mailbox_figures_begin(m);
		f->state = SUPERVISOR_CONNECTED;
		f->inflight = 4 + i;
		mailbox_figures_post(m);
	}
	expect_woken(true, false);
	ck_assert(mailbox_take_news(m));
	ck_assert(!mailbox_take_news(m));
	mailbox_get_figures(m, &taken);
	ck_assert_int_eq(taken.state, SUPERVISOR_CONNECTED); /* the last one counts */
	ck_assert_str_eq(taken.broker, "h:1883");
	ck_assert_uint_eq(taken.inflight, 5);
}
END_TEST

/* Another uplink goes on counting; how things stand is its own affair. */
START_TEST(test_figures_and_reset)
{
	struct figures_uplink taken, *f;

	f = mailbox_figures_begin(m);
	f->state = SUPERVISOR_CONNECTED;
	f->delivered[2] = 7;
	f->bytes_out = 1000;
	f->inflight = f->window = 20;
	f->lost_usec = 5;
	f->n_brokers = 1;
	f->brokers[0] = (struct figures_broker){ .name = "h:1883", .up = true };
	f->brokers[0].attempts[FAILURE_NONE] = 3;
	mailbox_figures_end(m);
	mailbox_reset(m);
	mailbox_get_figures(m, &taken);
	ck_assert_int_eq(taken.state, SUPERVISOR_DISCONNECTED);
	ck_assert_uint_eq(taken.inflight, 0);
	ck_assert_uint_eq(taken.window, 0);
	ck_assert(!taken.brokers[0].up);
	ck_assert_uint_eq(taken.next_usec, UINT64_MAX);
	ck_assert_uint_eq(taken.delivered[2], 7);
	ck_assert_uint_eq(taken.bytes_out, 1000);
	ck_assert_uint_eq(taken.brokers[0].attempts[FAILURE_NONE], 3);
	ck_assert_uint_eq(taken.lost_usec, 5);
}
END_TEST

START_TEST(test_ping)
{
	mailbox_post_ping(m);
	expect_woken(false, true);
	ck_assert(!mailbox_pinged(m));
	ck_assert(!mailbox_pinged(m));
	mailbox_answer_ping(m);
	ck_assert(mailbox_pinged(m));
	/* An answer is for the pings before it. */
	mailbox_answer_ping(m);
	mailbox_post_ping(m);
	ck_assert(!mailbox_pinged(m));
	mailbox_post_ping(m);
	mailbox_answer_ping(m);
	ck_assert(mailbox_pinged(m));
}
END_TEST

START_TEST(test_stop)
{
	bool hurry = true;

	mailbox_post_stop(m, false);
	expect_woken(false, true);
	ck_assert(mailbox_stopping(m, &hurry));
	ck_assert(!hurry);
	mailbox_post_stop(m, true);
	expect_woken(false, true);
	ck_assert(mailbox_stopping(m, &hurry));
	ck_assert(hurry);
	/* Nobody takes a hurry back. */
	mailbox_post_stop(m, false);
	ck_assert(mailbox_stopping(m, &hurry));
	ck_assert(hurry);
}
END_TEST

START_TEST(test_done)
{
	mailbox_post_done(m);
	expect_woken(true, false);
	ck_assert(mailbox_uplink_done(m));
	ck_assert(mailbox_uplink_done(m));
}
END_TEST

/* --- two threads ----------------------------------------------------------------------------- */

#define ROWS	  200000
#define DEADLINE  (60 * USEC_PER_SEC)
#define WAIT_MSEC 1000

/* What the uplink's side saw. Check's assertions are for the main thread only. */
struct uplink_side {
	uint64_t random;
	uint64_t seen; /* committed */
	uint64_t acked;
	uint64_t removed;
	unsigned notes;
	const char *fault;
};

static void wait_for(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	(void)poll(&p, 1, WAIT_MSEC);
}

/* Acknowledges what is committed, in order, never more than the span ahead of the removals. */
static void acknowledge(struct uplink_side *u)
{
	uint64_t committed = mailbox_claim(m, u->acked + 1024), ids[256];
	size_t n = 0, bound = 1 + scratch_random(&u->random) % ARRAY_SIZE(ids);

	if (committed < u->seen)
		u->fault = "committed went back";
	u->seen = committed;
	while (n < bound && u->acked < committed && u->acked - u->removed < MAILBOX_SPAN)
		ids[n++] = ++u->acked;
	mailbox_post_acked(m, ids, n);
}

static void *uplink_thread(void *userdata)
{
	uint64_t deadline = now_usec() + DEADLINE;
	struct uplink_side *u = userdata;
	struct figures_uplink *f;
	bool asked = false, hurry = false;

	while (!mailbox_stopping(m, &hurry) && !u->fault) {
		if (now_usec() > deadline)
			u->fault = "took too long";
		if (u->acked == u->seen || u->acked - u->removed == MAILBOX_SPAN)
			wait_for(mailbox_uplink_fd(m));
		mailbox_uplink_clear(m);
		mailbox_answer_ping(m);
		if (!asked) {
			mailbox_post_meta(m, "key", "value");
			asked = true;
		} else if (mailbox_noted(m)) {
			u->notes++;
			asked = false;
		}
		acknowledge(u);
		u->removed += mailbox_take_removed(m);
		if (u->removed > u->acked)
			u->fault = "more removed than acknowledged";
		f = mailbox_figures_begin(m);
		f->inflight = (unsigned)(u->acked - u->removed);
		f->delivered[1] = u->acked;
		mailbox_figures_post(m);
	}
	if (!hurry)
		u->fault = "hurry was lost";
	mailbox_post_done(m);
	return NULL;
}

struct gateway_side {
	uint64_t random;
	uint64_t committed;
	uint64_t removed;
	uint64_t delivered;
	uint64_t ids[MAILBOX_SPAN];
	size_t n_ids;
	unsigned notes, statuses, pings;
};

static void gateway_turn(struct gateway_side *g)
{
	struct figures_uplink figures;
	struct mailbox_meta meta;
	size_t n;

	g->committed = u64_min(ROWS, g->committed + scratch_random(&g->random) % 512);
	mailbox_post_committed(m, g->committed);
	n = mailbox_take_acked(m, g->ids + g->n_ids, g->n_ids);
	for (size_t i = g->n_ids; i < g->n_ids + n; i++)
		ck_assert_uint_eq(g->ids[i], g->removed + i + 1);
	g->n_ids += n;
	/* Now and then a commit fails, and they are kept for the next one. */
	if (scratch_random(&g->random) % 4 > 0) {
		mailbox_post_removed(m, g->n_ids);
		g->removed += g->n_ids;
		g->n_ids = 0;
	}
	if (mailbox_take_meta(m, &meta)) {
		ck_assert_str_eq(meta.key, "key");
		ck_assert_str_eq(meta.value, "value");
		g->notes++;
		mailbox_post_noted(m);
	}
	if (mailbox_take_news(m)) {
		mailbox_get_figures(m, &figures);
		ck_assert_uint_le(figures.inflight, MAILBOX_SPAN);
		ck_assert_uint_ge(figures.delivered[1], g->delivered);
		g->delivered = figures.delivered[1];
		g->statuses++;
	}
	if (mailbox_pinged(m)) {
		g->pings++;
		mailbox_post_ping(m);
	}
	ck_assert_uint_le(g->removed, mailbox_claimed(m));
}

START_TEST(test_two_threads)
{
	uint64_t deadline = now_usec() + DEADLINE;
	static struct gateway_side g;
	struct uplink_side u = { .random = 1 };
	pthread_t thread;

	g = (struct gateway_side){ .random = 2 };
	ck_assert_int_eq(pthread_create(&thread, NULL, uplink_thread, &u), 0);
	while (g.removed < ROWS && !mailbox_uplink_done(m) && now_usec() < deadline) {
		if (g.committed == ROWS)
			wait_for(mailbox_gateway_fd(m));
		mailbox_gateway_clear(m);
		gateway_turn(&g);
	}
	mailbox_post_stop(m, true);
	while (!mailbox_uplink_done(m) && now_usec() < deadline) {
		wait_for(mailbox_gateway_fd(m));
		mailbox_gateway_clear(m);
	}
	ck_assert(mailbox_uplink_done(m));
	ck_assert_int_eq(pthread_join(thread, NULL), 0);

	ck_assert_msg(!u.fault, "%s", u.fault);
	ck_assert_uint_eq(g.removed, ROWS);
	ck_assert_uint_eq(u.acked, ROWS);
	ck_assert_uint_eq(u.removed + mailbox_take_removed(m), ROWS);
	ck_assert_uint_ge(g.notes, u.notes);
	ck_assert_uint_le(g.notes, u.notes + 1);
	ck_assert_uint_gt(g.notes, 0);
	ck_assert_uint_gt(g.statuses, 0);
	ck_assert_uint_gt(g.pings, 1);
}
END_TEST

/* One a kind and broker: the last text, and how often. What does not fit is counted. */
START_TEST(test_alerts)
{
	struct mailbox_alert alerts[MAILBOX_ALERTS];
	unsigned lost = 99;
	char broker[20];

	ck_assert_uint_eq(mailbox_take_alerts(m, alerts, MAILBOX_ALERTS, &lost), 0);
	ck_assert_uint_eq(lost, 0);
	mailbox_post_alert(m, ALERT_AUTH, "a", "first");
	expect_woken(true, false);
	mailbox_post_alert(m, ALERT_AUTH, "b", "another");
	mailbox_post_alert(m, ALERT_HELD, "a", "of another kind");
	mailbox_post_alert(m, ALERT_AUTH, "a", "last");
	ck_assert_uint_eq(mailbox_take_alerts(m, alerts, 2, &lost), 2);
	ck_assert_str_eq(alerts[0].text, "last");
	ck_assert_uint_eq(alerts[0].count, 2);
	ck_assert_str_eq(alerts[1].broker, "b");
	ck_assert_uint_eq(alerts[1].count, 1);
	ck_assert_uint_eq(mailbox_take_alerts(m, alerts, MAILBOX_ALERTS, &lost), 1);
	ck_assert_int_eq(alerts[0].kind, ALERT_HELD);

	for (unsigned i = 0; i < MAILBOX_ALERTS + 3; i++) {
		snprintf(broker, sizeof(broker), "%u", i);
		mailbox_post_alert(m, ALERT_AUTH, broker, "x");
	}
	ck_assert_uint_eq(mailbox_take_alerts(m, alerts, MAILBOX_ALERTS, &lost), MAILBOX_ALERTS);
	ck_assert_uint_eq(lost, 3);
	mailbox_post_alert(m, ALERT_AUTH, "0", "x");
	ck_assert_uint_eq(mailbox_take_alerts(m, alerts, MAILBOX_ALERTS, &lost), 1);
	ck_assert_uint_eq(alerts[0].count, 1);
	ck_assert_uint_eq(lost, 0);
}
END_TEST

START_TEST(test_queued)
{
	uint64_t n = 99;

	ck_assert(!mailbox_get_queued(m, &n));
	ck_assert_uint_eq(n, 99);
	mailbox_post_queued(m, 0);
	expect_woken(false, false);
	ck_assert(mailbox_get_queued(m, &n));
	ck_assert_uint_eq(n, 0);
}
END_TEST

Suite *check_mailbox(void)
{
	Suite *s = suite_create("mailbox");
	TCase *t = tcase_create("one side at a time");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_free_takes_null);
	tcase_add_test(t, test_empty);
	tcase_add_test(t, test_committed_and_claimed);
	tcase_add_test(t, test_committed_unasked);
	tcase_add_test(t, test_release);
	tcase_add_test(t, test_freeze);
	tcase_add_test(t, test_freeze_unnoticed);
	tcase_add_test(t, test_clock);
	tcase_add_test(t, test_rotten);
	tcase_add_test(t, test_condemned);
	tcase_add_test(t, test_condemned_with_a_long_reason);
	tcase_add_test(t, test_reconnect_is_taken_once);
	tcase_add_test(t, test_acked_in_order);
	tcase_add_test(t, test_acked_up_to_the_span);
	tcase_add_test(t, test_removed);
	tcase_add_test(t, test_meta);
	tcase_add_test(t, test_meta_longest);
	tcase_add_test(t, test_figures);
	tcase_add_test(t, test_figures_and_reset);
	tcase_add_test(t, test_ping);
	tcase_add_test(t, test_stop);
	tcase_add_test(t, test_done);
	tcase_add_test(t, test_alerts);
	tcase_add_test(t, test_queued);
	suite_add_tcase(s, t);

	t = tcase_create("two threads");
	tcase_set_tags(t, "long");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_two_threads);
	suite_add_tcase(s, t);
	return s;
}
