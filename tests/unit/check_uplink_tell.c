/* SPDX-License-Identifier: MIT */
/*
 * Tests of what the uplink tells: which changes of state get a line at `info`, of which kind, with
 * which fields; that an alert has the text of its line; and what is told of a run that has come to
 * its end. Runs are made older by setting their times back.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "journal.h"
#include "suites.h"
#include "uplink_internal.h"

#define BROKER "h:1883"

static struct config config;
static struct uplink u;
static int saved_stderr;
static char path[32];

static void setup(void)
{
	int fd;

	strcpy(path, "/tmp/check_tell.XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	saved_stderr = dup(STDERR_FILENO);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	close(fd);
	journal_begin();

	memset(&u, 0, sizeof(u));
	config.retry.set_aside_usec = 300 * USEC_PER_SEC;
	u.config = &config;
	snprintf(u.broker_name, sizeof(u.broker_name), BROKER);
	snprintf(u.cause, sizeof(u.cause), "because");
	ck_assert_int_eq(mailbox_new(&u.mailbox), 0);
}

static void teardown(void)
{
	u.mailbox = mailbox_free(u.mailbox);
	dup2(saved_stderr, STDERR_FILENO);
	unlink(path);
	journal_end();
}

/* How many lines it made. */
static int failed(enum supervisor_state from, enum supervisor_state to, enum failure_class class)
{
	const struct supervisor_step step = { .from = from, .to = to };
	int before = journal_entries;

	uplink_tell_step(&u, &step, SUPERVISOR_FAILURE, class);
	return journal_entries - before;
}

static int attempt_failed(void)
{
	return failed(SUPERVISOR_CONNECTING, SUPERVISOR_OFFLINE, FAILURE_TIMEOUT);
}

static int changed(enum supervisor_state from, enum supervisor_state to)
{
	const struct supervisor_step step = { .from = from, .to = to };
	int before = journal_entries;

	uplink_tell_step(&u, &step, SUPERVISOR_TIMER, FAILURE_NONE);
	return journal_entries - before;
}

static int connected(void)
{
	return changed(SUPERVISOR_CONNECTING, SUPERVISOR_CONNECTED);
}

static int lost(void)
{
	return failed(SUPERVISOR_CONNECTED, SUPERVISOR_DISCONNECTED, FAILURE_HEARTBEAT);
}

/* The last line has this field, or begins with this text: "MESSAGE=...". */
static void expect(const char *field)
{
	size_t len = strlen(field);

	for (const char *p = journal; p; p = strchr(p, '|')) {
		p += *p == '|';
		if (strncmp(p, field, len) == 0)
			return;
	}
	ck_abort_msg("no %s in %s", field, journal);
}

static void expect_kind(enum event_kind kind)
{
	char field[60];

	snprintf(field, sizeof(field), "MESSAGE_ID=%s|", event_type(kind)->id);
	expect(field);
}

/* All that has happened did so that much earlier. */
static void pass(uint64_t usec)
{
	for (size_t i = 0; i < FLAP_ITEMS; i++) {
		struct flap *f = &u.flaps.items[i].flap;

		f->occurred_usec = f->occurred_usec ? f->occurred_usec - usec : 0;
		f->told_usec = f->told_usec ? f->told_usec - usec : 0;
	}
	u.settle_usec = u.settle_usec ? u.settle_usec - usec : 0;
	u.connected_usec = u.connected_usec ? u.connected_usec - usec : 0;
}

static const struct {
	enum supervisor_state from, to;
	enum failure_class class;
	enum event_kind kind;
	const char *priority;
} failures[] = {
	{ SUPERVISOR_CONNECTING, SUPERVISOR_DISCONNECTED, FAILURE_TIMEOUT, EVENT_CONNECT_FAILED,
		"PRIORITY=4|" },
	{ SUPERVISOR_CONNECTING, SUPERVISOR_OFFLINE, FAILURE_TIMEOUT, EVENT_OFFLINE,
		"PRIORITY=4|" },
	{ SUPERVISOR_CONNECTING, SUPERVISOR_ERROR, FAILURE_BUSY, EVENT_CONNECT_FAILED,
		"PRIORITY=3|" },
	{ SUPERVISOR_CONNECTED, SUPERVISOR_DISCONNECTED, FAILURE_HEARTBEAT, EVENT_CONNECTION_LOST,
		"PRIORITY=4|" },
	{ SUPERVISOR_CONNECTED, SUPERVISOR_OFFLINE, FAILURE_HEARTBEAT, EVENT_CONNECTION_LOST,
		"PRIORITY=4|" },
	{ SUPERVISOR_DISCONNECTING, SUPERVISOR_DISCONNECTED, FAILURE_HEARTBEAT,
		EVENT_CONNECTION_LOST, "PRIORITY=4|" },
	{ SUPERVISOR_CONNECTING, SUPERVISOR_DISCONNECTED, FAILURE_AUTH, EVENT_AUTH_REFUSED,
		"PRIORITY=3|" },
	{ SUPERVISOR_CONNECTED, SUPERVISOR_DISCONNECTED, FAILURE_PROTOCOL, EVENT_BROKER_SET_ASIDE,
		"PRIORITY=3|" },
	{ SUPERVISOR_CONNECTED, SUPERVISOR_ERROR, FAILURE_TAKEN_OVER, EVENT_TAKEN_OVER,
		"PRIORITY=3|" },
};

START_TEST(test_failures)
{
	struct mailbox_alert alerts[MAILBOX_ALERTS];
	char field[300];
	unsigned missed;
	size_t n;

	mailbox_post_queued(u.mailbox, 42);
	ck_assert_int_eq(failed(failures[_i].from, failures[_i].to, failures[_i].class), 1);
	expect_kind(failures[_i].kind);
	expect(failures[_i].priority);
	expect("MQTTGW_BROKER=" BROKER "|");
	expect("MQTTGW_QUEUE=42|");
	snprintf(field, sizeof(field), "MQTTGW_CLASS=%s|",
		failure_class_to_string(failures[_i].class));
	expect(field);
	snprintf(field, sizeof(field), "MQTTGW_STATE=%s|",
		supervisor_state_to_string(failures[_i].to));
	expect(field);
	/* A person hears what the journal says, if at all. */
	n = mailbox_take_alerts(u.mailbox, alerts, ARRAY_SIZE(alerts), &missed);
	ck_assert_uint_eq(n, event_is_alert(failures[_i].kind));
	if (n == 0)
		return;
	ck_assert_int_eq(alerts[0].kind, event_type(failures[_i].kind)->alert);
	ck_assert_str_eq(alerts[0].broker, BROKER);
	snprintf(field, sizeof(field), "MESSAGE=%.250s|", alerts[0].text);
	expect(field);
	expect("MQTTGW_ALERT=1|");
}
END_TEST

START_TEST(test_outage)
{
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(
			attempt_failed() + changed(SUPERVISOR_OFFLINE, SUPERVISOR_CONNECTING), 2);
	for (int i = 0; i < 7; i++)
		ck_assert_int_eq(
			attempt_failed() + changed(SUPERVISOR_OFFLINE, SUPERVISOR_CONNECTING), 0);
	pass(61 * USEC_PER_SEC);
	ck_assert_int_eq(attempt_failed(), 1);
	expect_kind(EVENT_FLAPPING);
	expect("MQTTGW_COUNT=8|");
	expect("MESSAGE=h:1883: connecting -> offline: because (timeout); 8 times in 61 s|");
	/* News. */
	ck_assert_int_eq(failed(SUPERVISOR_CONNECTING, SUPERVISOR_DISCONNECTED, FAILURE_AUTH), 1);
	snprintf(u.broker_name, sizeof(u.broker_name), "other:1883");
	ck_assert_int_eq(attempt_failed(), 1);
	snprintf(u.broker_name, sizeof(u.broker_name), BROKER);
	ck_assert_int_eq(attempt_failed(), 0);
	ck_assert_int_eq(connected(), 1);
	expect_kind(EVENT_CONNECTED);
	expect("MESSAGE=h:1883: connecting -> connected; 1 more attempts had failed before|");
	/* The next outage begins anew. */
	ck_assert_int_eq(lost(), 1);
	ck_assert_int_eq(attempt_failed(), 1);
}
END_TEST

START_TEST(test_flapping)
{
	ck_assert(!uplink_is_quiet(&u));
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(connected() + lost(), 2);
	ck_assert(!uplink_is_quiet(&u));
	ck_assert_int_eq(connected(), 1);
	for (int i = 0; i < 9; i++)
		ck_assert_int_eq(lost() + connected(), 0);
	ck_assert(uplink_is_quiet(&u));
	u.connected_usec -= 7 * USEC_PER_SEC;
	ck_assert_int_eq(lost() + connected(), 0);
	pass(61 * USEC_PER_SEC);
	u.connected_usec = now_boot_usec();
	ck_assert_int_eq(lost(), 1);
	expect_kind(EVENT_FLAPPING);
	expect("MESSAGE=h:1883: connected -> disconnected: because (heartbeat); 11 times in 61 s, "
	       "well for 7 s at the longest|");
}
END_TEST

START_TEST(test_steady)
{
	int before;

	for (int i = 0; i < 6; i++)
		(void)attempt_failed();
	for (int i = 0; i < 9; i++)
		ck_assert_int_ge(connected() + lost(), 0);
	(void)connected();
	u.supervisor.state = SUPERVISOR_CONNECTED;
	before = journal_entries;
	uplink_tell_steady(&u);
	pass(FLAP_RUN_USEC - USEC_PER_SEC);
	uplink_tell_steady(&u);
	ck_assert_int_eq(journal_entries, before);
	pass(2 * USEC_PER_SEC);
	uplink_tell_steady(&u);
	ck_assert_int_eq(journal_entries, before + 1);
	expect_kind(EVENT_STEADY);
	expect("MQTTGW_COUNT=4|");
	expect("MQTTGW_STATE=connected|");
	expect("MESSAGE=h:1883: no lost connections (heartbeat) for 10 minutes; now connected. "
	       "Since the last line: 4 times in 10 min, well for less than 1 s at the longest|");
	uplink_tell_steady(&u);
	ck_assert_int_eq(journal_entries, before + 1);
	ck_assert_uint_eq(u.settle_usec, 0);
	ck_assert(!uplink_is_quiet(&u));
}
END_TEST

/* Each occurrence is an alert, whether it has a line or not: the ring counts for itself. */
START_TEST(test_alerts_are_all_counted)
{
	struct mailbox_alert alerts[MAILBOX_ALERTS];
	unsigned missed;

	for (int i = 0; i < 20; i++)
		(void)failed(SUPERVISOR_CONNECTING, SUPERVISOR_DISCONNECTED, FAILURE_AUTH);
	ck_assert_int_eq(journal_entries, 5);
	ck_assert_uint_eq(mailbox_take_alerts(u.mailbox, alerts, ARRAY_SIZE(alerts), &missed), 1);
	ck_assert_uint_eq(alerts[0].count, 20);
	ck_assert_uint_eq(missed, 0);
	/* In one line it is still what it is. */
	pass(61 * USEC_PER_SEC);
	ck_assert_int_eq(failed(SUPERVISOR_CONNECTING, SUPERVISOR_DISCONNECTED, FAILURE_AUTH), 1);
	expect_kind(EVENT_AUTH_REFUSED);
	expect("MQTTGW_COUNT=16|");
}
END_TEST

START_TEST(test_every_broker_set_aside)
{
	const struct supervisor_step step = { .from = SUPERVISOR_CONNECTING,
		.to = SUPERVISOR_ERROR,
		.plan = SUPERVISOR_PLAN_ASIDE,
		.wait_usec = 300 * USEC_PER_SEC };

	uplink_tell_step(&u, &step, SUPERVISOR_FAILURE, FAILURE_AUTH);
	ck_assert_int_eq(journal_entries, 2);
	expect_kind(EVENT_BROKERS_EXHAUSTED);
	expect("MQTTGW_STATE=error|");
}
END_TEST

START_TEST(test_messages)
{
	struct mailbox_alert alerts[MAILBOX_ALERTS];
	unsigned missed;

	uplink_tell_condemned(&u, 7, "not liked");
	expect_kind(EVENT_DEAD_LETTER);
	expect("MQTTGW_SEQ=7|");
	uplink_tell_held(&u, 10, "not liked either");
	expect_kind(EVENT_QUEUE_HELD);
	expect("MQTTGW_SEQ=10|");
	ck_assert_uint_eq(mailbox_take_alerts(u.mailbox, alerts, ARRAY_SIZE(alerts), &missed), 2);
	ck_assert_int_eq(alerts[0].kind, ALERT_DEAD_LETTER);
	ck_assert_str_eq(alerts[0].text,
		"h:1883: message 7 cannot be delivered and goes to dead_letters: not liked");
	ck_assert_int_eq(alerts[1].kind, ALERT_HELD);
	ck_assert_ptr_nonnull(strstr(alerts[1].text, "message 10, too, was refused: not liked"));
	uplink_tell_released(&u);
	expect_kind(EVENT_QUEUE_RELEASED);
	/* For days. */
	for (int i = 0; i < 20; i++)
		uplink_tell_held(&u, 10, "x");
	ck_assert_int_eq(journal_entries, 3 + 5);
}
END_TEST

START_TEST(test_probes)
{
	struct failure f;

	failure_set(&f, FAILURE_TIMEOUT, "nobody there");
	uplink_tell_probe_failed(&u, "better:1", &f);
	ck_assert_int_eq(journal_entries, 0);
	failure_set(&f, FAILURE_AUTH, "not you");
	for (int i = 0; i < 8; i++)
		uplink_tell_probe_failed(&u, "better:1", &f);
	ck_assert_int_eq(journal_entries, 5);
	expect_kind(EVENT_AUTH_REFUSED);
	expect("MQTTGW_BROKER=better:1|");
	uplink_tell_probe_up(&u, "better:1");
	expect_kind(EVENT_FAILED_BACK);
	expect("MESSAGE=better:1: answers again; leaving h:1883 for it|");
}
END_TEST

/* While a connection stands it is the better witness; a cable with a loose contact is no news. */
START_TEST(test_network)
{
	const struct supervisor_step step = { .from = SUPERVISOR_OFFLINE,
		.to = SUPERVISOR_OFFLINE,
		.plan = SUPERVISOR_PLAN_NETWORK };

	u.supervisor.state = SUPERVISOR_CONNECTED;
	uplink_tell_network(&u, true, "carrier");
	ck_assert_int_eq(journal_entries, 0);
	u.supervisor.state = SUPERVISOR_OFFLINE;
	for (int i = 0; i < 8; i++)
		uplink_tell_network(&u, i % 2, "carrier");
	ck_assert_int_eq(journal_entries, 5);
	expect_kind(EVENT_NETWORK);
	uplink_tell_step(&u, &step, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE);
	ck_assert_int_eq(journal_entries, 5);
}
END_TEST

Suite *check_uplink_tell(void)
{
	Suite *s = suite_create("uplink_tell");
	TCase *tc = tcase_create("uplink_tell");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, test_failures, 0, ARRAY_SIZE(failures));
	tcase_add_test(tc, test_outage);
	tcase_add_test(tc, test_flapping);
	tcase_add_test(tc, test_steady);
	tcase_add_test(tc, test_alerts_are_all_counted);
	tcase_add_test(tc, test_every_broker_set_aside);
	tcase_add_test(tc, test_messages);
	tcase_add_test(tc, test_probes);
	tcase_add_test(tc, test_network);
	suite_add_tcase(s, tc);
	return s;
}
