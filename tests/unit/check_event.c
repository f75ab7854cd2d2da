/* SPDX-License-Identifier: MIT */
/*
 * Tests of the table of events, and of the fields that a line has in the journal, as check_log.c's
 * stand-in for sd_journal_sendv() gets them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "event.h"
#include "journal.h"
#include "suites.h"

static int saved_stderr;
static char path[32];

/* Standard error is a file that log_open() takes for the journal. */
static void setup(void)
{
	int fd;

	strcpy(path, "/tmp/check_event.XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	saved_stderr = dup(STDERR_FILENO);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	close(fd);
	journal_begin();
}

static void teardown(void)
{
	dup2(saved_stderr, STDERR_FILENO);
	unlink(path);
	journal_end();
}

START_TEST(test_table)
{
	for (unsigned i = 0; i < N_EVENT_KINDS; i++) {
		const struct event_type *t = event_type(i);

		ck_assert_ptr_nonnull(t->id);
		ck_assert_uint_eq(strlen(t->id), 32);
		ck_assert_uint_eq(strspn(t->id, "0123456789abcdef"), 32);
		ck_assert_uint_gt(strlen(t->name), 0);
		ck_assert_int_ge(t->priority, LOG_ERR);
		ck_assert_int_le(t->priority, LOG_INFO);
		ck_assert_int_le(t->alert, N_ALERT_KINDS);
		ck_assert_int_eq(event_is_alert(i), t->alert != N_ALERT_KINDS);
		for (unsigned k = 0; k < i; k++) {
			ck_assert_str_ne(t->id, event_type(k)->id);
			ck_assert_str_ne(t->name, event_type(k)->name);
		}
	}
}
END_TEST

/* Each kind of alert has an event that raises it. */
START_TEST(test_alerts)
{
	bool seen[N_ALERT_KINDS + 1] = { false };

	for (unsigned i = 0; i < N_EVENT_KINDS; i++)
		seen[event_type(i)->alert] = true;
	for (unsigned i = 0; i < N_ALERT_KINDS; i++)
		ck_assert_msg(seen[i], "no event for the alert %s", alert_kind_to_string(i));
}
END_TEST

START_TEST(test_all_fields)
{
	const struct event_fields fields = {
		.broker = "h:1883",
		.class = "auth",
		.state = "error",
		.old_state = "connecting",
		.path = "/var/lib/q",
		.aside = "/var/lib/q.corrupt",
		.seq = UINT64_MAX,
		.count = 17,
		.queue_known = true,
		.queue = 0,
		.error = -ENOSPC,
	};
	char expected[1000];

	snprintf(expected, sizeof(expected),
		"MESSAGE=it is 7|PRIORITY=3|SYSLOG_IDENTIFIER=mqtt-gatewayd|MESSAGE_ID=%s|"
		"MQTTGW_EVENT=auth-refused|MQTTGW_ALERT=1|MQTTGW_BROKER=h:1883|MQTTGW_CLASS=auth|"
		"MQTTGW_STATE=error|MQTTGW_OLD_STATE=connecting|MQTTGW_PATH=/var/lib/q|"
		"MQTTGW_PATH_ASIDE=/var/lib/q.corrupt|MQTTGW_SEQ=18446744073709551615|"
		"MQTTGW_COUNT=17|MQTTGW_QUEUE=0|ERRNO=28|",
		event_type(EVENT_AUTH_REFUSED)->id);
	log_event(EVENT_AUTH_REFUSED, &fields, "it is %d", 7);
	ck_assert_str_eq(journal, expected);
}
END_TEST

START_TEST(test_no_fields)
{
	const struct event_fields errors = { .error = ENOENT, .broker = "" };
	char expected[1000];

	snprintf(expected, sizeof(expected),
		"MESSAGE=stopped|PRIORITY=5|SYSLOG_IDENTIFIER=mqtt-gatewayd|MESSAGE_ID=%s|"
		"MQTTGW_EVENT=stopped|",
		event_type(EVENT_STOPPED)->id);
	log_event(EVENT_STOPPED, NULL, "stopped");
	ck_assert_str_eq(journal, expected);
	log_event(EVENT_STOPPED, &errors, "stopped");
	ck_assert(strstr(journal, "|ERRNO=2|") && !strstr(journal, "BROKER"));
}
END_TEST

START_TEST(test_priority)
{
	const struct event_fields quiet = { .priority = LOG_DEBUG };
	const struct event_fields loud = { .priority = LOG_ERR };

	log_event(EVENT_CONNECTED, &quiet, "not at info");
	ck_assert_int_eq(journal_entries, 0);
	log_set_level(LOG_DEBUG);
	log_event(EVENT_CONNECTED, &quiet, "but at debug");
	ck_assert_ptr_nonnull(strstr(journal, "|PRIORITY=7|"));
	log_event(EVENT_CONNECTED, &loud, "x");
	ck_assert_ptr_nonnull(strstr(journal, "|PRIORITY=3|"));
	log_set_level(LOG_INFO);
}
END_TEST

START_TEST(test_text_is_kept)
{
	char text[3000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	errno = ENOSPC;
	log_event(EVENT_STOPPED, NULL, "%m|%%|%s", "%s%n");
	ck_assert_ptr_nonnull(strstr(journal, "MESSAGE=No space left on device|%|%s%n|"));
	ck_assert_int_eq(errno, ENOSPC);
	log_event(EVENT_STOPPED, NULL, "%s", text);
	ck_assert_ptr_nonnull(strstr(journal, "xxx"));
}
END_TEST

Suite *check_event(void)
{
	Suite *s = suite_create("event");
	TCase *tc = tcase_create("event");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_table);
	tcase_add_test(tc, test_alerts);
	tcase_add_test(tc, test_all_fields);
	tcase_add_test(tc, test_no_fields);
	tcase_add_test(tc, test_priority);
	tcase_add_test(tc, test_text_is_kept);
	suite_add_tcase(s, tc);
	return s;
}
