/* SPDX-License-Identifier: MIT */
/*
 * Tests of the uplink's figures: what is counted of the supervisor's steps, and what is shown of
 * its state. The thread itself is for the integration tests.
 */
#include "suites.h"
#include "uplink_internal.h"

static struct config config;
static struct mailbox *mailbox;
static struct uplink *u;

static double no_jitter(void *userdata)
{
	(void)userdata;
	return 0;
}

static void setup(void)
{
	static const struct supervisor_params params = {
		.backoff = { .base_usec = USEC_PER_SEC,
			.max_usec = 60 * USEC_PER_SEC,
			.multiplier = 2,
			.jitter = BACKOFF_JITTER_NONE },
		.connect_timeout_usec = 10 * USEC_PER_SEC,
		.timeout_attempts = 1,
		.set_aside_usec = 300 * USEC_PER_SEC,
	};
	static const struct brokers_item items[] = { { "a:1883", 0 }, { "b:1883", 0 } };
	struct supervisor_step step;

	u = calloc(1, sizeof(*u));
	ck_assert_ptr_nonnull(u);
	ck_assert_int_eq(mailbox_new(&mailbox), 0);
	config = (struct config){ .mqtt = { .max_rate = 1000 } };
	u->config = &config;
	u->mailbox = mailbox;
	supervisor_init(&u->supervisor, &params, no_jitter, NULL);
	supervisor_set_brokers(&u->supervisor, items, 2, now_boot_usec(), &step);
	figures_set_brokers(mailbox_figures_begin(mailbox), items, 2);
	mailbox_figures_end(mailbox);
}

static void teardown(void)
{
	mailbox = mailbox_free(mailbox);
	free(u);
}

static struct figures_uplink figures(void)
{
	struct figures_uplink f;

	mailbox_get_figures(mailbox, &f);
	return f;
}

/* As uplink_handle() does it. */
static void handle(enum supervisor_event event, enum failure_class class)
{
	struct supervisor_step step;

	ck_assert_int_eq(
		supervisor_handle(&u->supervisor, event, class, now_boot_usec(), &step), 0);
	uplink_count_step(u, &step, event == SUPERVISOR_FAILURE, class);
	if (step.action == SUPERVISOR_CONNECT)
		strcpy(u->broker_name, brokers_name(&u->supervisor.brokers, u->supervisor.current));
	if (step.to != step.from)
		uplink_post_status(u);
	else
		uplink_update_figures(u);
}

static void fail_with(enum failure_class class, const char *text)
{
	uplink_set_cause(u, "%s", text);
	handle(SUPERVISOR_FAILURE, class);
}

START_TEST(test_an_attempt_that_fails)
{
	struct figures_uplink f = figures();

	ck_assert_uint_eq(f.state_usec, 0);
	ck_assert_uint_eq(f.next_usec, UINT64_MAX);
	handle(SUPERVISOR_START, FAILURE_NONE);
	f = figures();
	ck_assert_int_eq(f.state, SUPERVISOR_CONNECTING);
	ck_assert_str_eq(f.broker, "a:1883");
	ck_assert_uint_gt(f.state_usec, 0);
	ck_assert_uint_eq(f.next_usec, UINT64_MAX);
	ck_assert_uint_eq(f.max_rate, 1000);
	ck_assert(mailbox_take_news(mailbox));
	fail_with(FAILURE_AUTH, "not you");
	f = figures();
	ck_assert_uint_eq(f.brokers[0].attempts[FAILURE_AUTH], 1);
	ck_assert_uint_eq(f.brokers[0].attempts[FAILURE_NONE], 0);
	ck_assert_uint_gt(f.brokers[0].aside_usec, now_boot_usec());
	ck_assert_uint_eq(f.brokers[1].aside_usec, 0);
	ck_assert_str_eq(f.last_failure.broker, "a:1883");
	ck_assert_str_eq(f.last_failure.text, "not you");
	ck_assert_int_eq(f.last_failure.class, FAILURE_AUTH);
	ck_assert_int_le(f.last_failure.time_msec, now_epoch_msec());
	ck_assert_str_eq(f.cause, "not you");
	ck_assert_uint_ne(f.next_usec, UINT64_MAX);
	ck_assert_uint_eq(f.lost_usec, 0); /* none stood */
}
END_TEST

/* The time without a connection, also when another uplink ends it; a loss is no attempt. */
START_TEST(test_lost_and_back)
{
	struct figures_uplink f;

	handle(SUPERVISOR_START, FAILURE_NONE);
	handle(SUPERVISOR_CONNACK, FAILURE_NONE);
	f = figures();
	ck_assert_int_eq(f.state, SUPERVISOR_CONNECTED);
	ck_assert(f.brokers[0].up && !f.brokers[1].up);
	ck_assert_uint_eq(f.brokers[0].attempts[FAILURE_NONE], 1);
	ck_assert_uint_eq(histogram_count(&f.reconnect), 0);
	fail_with(FAILURE_HEARTBEAT, "gone");
	f = figures();
	ck_assert(!f.brokers[0].up);
	ck_assert_uint_gt(f.lost_usec, 0);
	ck_assert_uint_eq(f.brokers[0].attempts[FAILURE_HEARTBEAT], 0);
	usleep(20000);
	mailbox_reset(mailbox);
	ck_assert_uint_gt(figures().lost_usec, 0);
	handle(SUPERVISOR_TIMER, FAILURE_NONE);
	handle(SUPERVISOR_CONNACK, FAILURE_NONE);
	f = figures();
	ck_assert_uint_eq(f.lost_usec, 0);
	ck_assert_uint_eq(histogram_count(&f.reconnect), 1);
	ck_assert_uint_ge(f.reconnect.sum_usec, 20000);
}
END_TEST

/* Who leaves in order has lost nothing. */
START_TEST(test_left_in_order)
{
	struct figures_uplink f;

	handle(SUPERVISOR_START, FAILURE_NONE);
	handle(SUPERVISOR_CONNACK, FAILURE_NONE);
	handle(SUPERVISOR_STOP, FAILURE_NONE);
	handle(SUPERVISOR_CLOSED, FAILURE_NONE);
	f = figures();
	ck_assert_int_eq(f.state, SUPERVISOR_DISCONNECTED);
	ck_assert_uint_eq(f.lost_usec, 0);
	ck_assert_str_eq(f.last_failure.broker, "");
}
END_TEST

/* News of the state rings, and nothing else does. */
START_TEST(test_who_is_woken)
{
	handle(SUPERVISOR_START, FAILURE_NONE);
	ck_assert(mailbox_take_news(mailbox));
	handle(SUPERVISOR_PROGRESS, FAILURE_NONE);
	u->traffic = (struct mqtt_traffic){ 100, 7 };
	uplink_count_traffic(u);
	ck_assert(!mailbox_take_news(mailbox));
	ck_assert_uint_eq(figures().bytes_out, 100);
	u->traffic.out = 150;
	uplink_update_figures(u);
	ck_assert_uint_eq(figures().bytes_out, 150);
	ck_assert_uint_eq(figures().bytes_in, 7);
	ck_assert(!mailbox_take_news(mailbox));
}
END_TEST

START_TEST(test_held)
{
	u->held = true;
	u->held_usec = 77;
	u->read_error = -5;
	uplink_update_figures(u);
	ck_assert(figures().held);
	ck_assert_uint_eq(figures().held_usec, 77);
	ck_assert_int_eq(figures().read_error, -5);
	u->held = false;
	uplink_update_figures(u);
	ck_assert(!figures().held);
	ck_assert_uint_eq(figures().held_usec, 0);
}
END_TEST

Suite *check_uplink(void)
{
	Suite *s = suite_create("uplink");
	TCase *t = tcase_create("figures");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_an_attempt_that_fails);
	tcase_add_test(t, test_lost_and_back);
	tcase_add_test(t, test_left_in_order);
	tcase_add_test(t, test_who_is_woken);
	tcase_add_test(t, test_held);
	suite_add_tcase(s, t);
	return s;
}
