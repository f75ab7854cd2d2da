/* SPDX-License-Identifier: MIT */
/*
 * Tests of the table of failures: every code that MQTT 3.1.1 and MQTT 5 list for the packets that
 * end an attempt, a connection or a message.
 */
#include <stdio.h>

#include "failure.h"
#include "suites.h"

struct code {
	unsigned code;
	enum failure_class class;
};

/* MQTT 3.1.1, table 3.1. */
static const struct code connack_v3[] = {
	{ 0, FAILURE_NONE },
	{ 1, FAILURE_PROTOCOL }, /* unacceptable protocol version */
	{ 2, FAILURE_PROTOCOL }, /* identifier rejected */
	{ 3, FAILURE_BUSY }, /* server unavailable */
	{ 4, FAILURE_AUTH }, /* bad user name or password */
	{ 5, FAILURE_AUTH }, /* not authorized */
	{ 6, FAILURE_PROTOCOL }, /* reserved for future use */
	{ 255, FAILURE_PROTOCOL },
};

START_TEST(test_connack_v3)
{
	ck_assert_int_eq(failure_of_connack(false, connack_v3[_i].code), connack_v3[_i].class);
}
END_TEST

/* MQTT 5, table 3-1. */
static const struct code connack_v5[] = {
	{ 0x00, FAILURE_NONE },
	{ 0x80, FAILURE_PROTOCOL }, /* unspecified error */
	{ 0x81, FAILURE_PROTOCOL }, /* malformed packet */
	{ 0x82, FAILURE_PROTOCOL }, /* protocol error */
	{ 0x83, FAILURE_PROTOCOL }, /* implementation specific error */
	{ 0x84, FAILURE_PROTOCOL }, /* unsupported protocol version */
	{ 0x85, FAILURE_PROTOCOL }, /* client identifier not valid */
	{ 0x86, FAILURE_AUTH }, /* bad user name or password */
	{ 0x87, FAILURE_AUTH }, /* not authorized */
	{ 0x88, FAILURE_BUSY }, /* server unavailable */
	{ 0x89, FAILURE_BUSY }, /* server busy */
	{ 0x8a, FAILURE_AUTH }, /* banned */
	{ 0x8c, FAILURE_AUTH }, /* bad authentication method */
	{ 0x90, FAILURE_PROTOCOL }, /* topic name invalid */
	{ 0x95, FAILURE_PROTOCOL }, /* packet too large */
	{ 0x97, FAILURE_BUSY }, /* quota exceeded */
	{ 0x99, FAILURE_PROTOCOL }, /* payload format invalid */
	{ 0x9a, FAILURE_PROTOCOL }, /* retain not supported */
	{ 0x9b, FAILURE_PROTOCOL }, /* QoS not supported */
	{ 0x9c, FAILURE_MOVED }, /* use another server */
	{ 0x9d, FAILURE_MOVED }, /* server moved */
	{ 0x9f, FAILURE_BUSY }, /* connection rate exceeded */
	/* A broker that knows 3.1.1 only answers in its own way. */
	{ 1, FAILURE_PROTOCOL },
	{ 3, FAILURE_BUSY },
	{ 5, FAILURE_AUTH },
	{ 0x7f, FAILURE_PROTOCOL },
	{ 0xff, FAILURE_PROTOCOL },
};

START_TEST(test_connack_v5)
{
	ck_assert_int_eq(failure_of_connack(true, connack_v5[_i].code), connack_v5[_i].class);
}
END_TEST

/* MQTT 5, table 3-10, as far as a server sends them, and some that it should not. What says nothing
 * about a cause is a connection lost after its CONNACK. */
static const struct code disconnect[] = {
	{ 0x00, FAILURE_HEARTBEAT }, /* normal disconnection */
	{ 0x80, FAILURE_HEARTBEAT }, /* unspecified error */
	{ 0x81, FAILURE_PROTOCOL }, /* malformed packet */
	{ 0x82, FAILURE_PROTOCOL }, /* protocol error */
	{ 0x83, FAILURE_HEARTBEAT }, /* implementation specific error */
	{ 0x87, FAILURE_HEARTBEAT }, /* not authorized: a message, after CONNACK */
	{ 0x89, FAILURE_BUSY }, /* server busy */
	{ 0x8b, FAILURE_BUSY }, /* server shutting down */
	{ 0x8d, FAILURE_HEARTBEAT }, /* keep alive timeout */
	{ 0x8e, FAILURE_TAKEN_OVER }, /* session taken over */
	{ 0x90, FAILURE_HEARTBEAT }, /* topic name invalid: one message displeased */
	{ 0x93, FAILURE_BUSY }, /* receive maximum exceeded */
	{ 0x94, FAILURE_HEARTBEAT }, /* topic alias invalid */
	{ 0x95, FAILURE_HEARTBEAT }, /* packet too large */
	{ 0x96, FAILURE_BUSY }, /* message rate too high */
	{ 0x97, FAILURE_BUSY }, /* quota exceeded */
	{ 0x98, FAILURE_HEARTBEAT }, /* administrative action */
	{ 0x99, FAILURE_HEARTBEAT }, /* payload format invalid */
	{ 0x9a, FAILURE_HEARTBEAT }, /* retain not supported */
	{ 0x9b, FAILURE_HEARTBEAT }, /* QoS not supported */
	{ 0x9c, FAILURE_MOVED }, /* use another server */
	{ 0x9d, FAILURE_MOVED }, /* server moved */
	{ 0x9f, FAILURE_BUSY }, /* connection rate exceeded */
	{ 0xa0, FAILURE_HEARTBEAT }, /* maximum connect time */
	{ 0xff, FAILURE_HEARTBEAT },
};

START_TEST(test_disconnect)
{
	ck_assert_int_eq(failure_of_disconnect(disconnect[_i].code), disconnect[_i].class);
}
END_TEST

/* No reason for a DISCONNECT passes for success, whatever its code. */
START_TEST(test_disconnect_is_a_failure)
{
	for (unsigned code = 0; code <= 0xff; code++)
		ck_assert_int_ne(failure_of_disconnect(code), FAILURE_NONE);
}
END_TEST

/* MQTT 5, tables 3-4, 3-5 and 3-7; and those of DISCONNECT that some brokers use here. */
static const struct {
	unsigned code;
	enum failure_verdict verdict;
} publish[] = {
	{ 0x00, FAILURE_MESSAGE_TAKEN },
	{ 0x10, FAILURE_MESSAGE_TAKEN }, /* no matching subscribers */
	{ 0x7f, FAILURE_MESSAGE_TAKEN },
	{ 0x80, FAILURE_MESSAGE_REFUSED }, /* unspecified error */
	{ 0x83, FAILURE_MESSAGE_REFUSED }, /* implementation specific error */
	{ 0x87, FAILURE_MESSAGE_REFUSED }, /* not authorized */
	{ 0x90, FAILURE_MESSAGE_REFUSED }, /* topic name invalid */
	{ 0x91, FAILURE_MESSAGE_CONFUSED }, /* packet identifier in use */
	{ 0x92, FAILURE_MESSAGE_TAKEN }, /* packet identifier not found: ended before */
	{ 0x93, FAILURE_MESSAGE_THROTTLED }, /* receive maximum exceeded */
	{ 0x95, FAILURE_MESSAGE_REFUSED }, /* packet too large */
	{ 0x96, FAILURE_MESSAGE_THROTTLED }, /* message rate too high */
	{ 0x97, FAILURE_MESSAGE_THROTTLED }, /* quota exceeded */
	{ 0x99, FAILURE_MESSAGE_REFUSED }, /* payload format invalid */
	{ 0xff, FAILURE_MESSAGE_REFUSED },
};

START_TEST(test_publish)
{
	ck_assert_int_eq(failure_of_publish(publish[_i].code), publish[_i].verdict);
}
END_TEST

/* What a class leads to: the table in the design, and in doc/architecture.md. */
static const struct {
	enum failure_class class;
	struct failure_policy policy;
} policies[] = {
	{ FAILURE_NONE, { FAILURE_RETRY_ATTEMPTS, false, false } },
	{ FAILURE_TIMEOUT, { FAILURE_RETRY_ATTEMPTS, false, false } },
	{ FAILURE_HEARTBEAT, { FAILURE_RETRY_QUICKLY, false, false } },
	{ FAILURE_BUSY, { FAILURE_RETRY_WAIT, false, false } },
	{ FAILURE_MOVED, { FAILURE_RETRY_NEXT, false, false } },
	{ FAILURE_TAKEN_OVER, { FAILURE_RETRY_LONGEST, false, true } },
	{ FAILURE_AUTH, { FAILURE_RETRY_NEXT, true, true } },
	{ FAILURE_PROTOCOL, { FAILURE_RETRY_NEXT, true, true } },
};

START_TEST(test_policies)
{
	const struct failure_policy *policy = failure_policy(policies[_i].class);

	ck_assert_int_eq(policies[_i].class, _i);
	ck_assert_int_eq(policy->retry, policies[_i].policy.retry);
	ck_assert_int_eq(policy->set_aside, policies[_i].policy.set_aside);
	ck_assert_int_eq(policy->alert, policies[_i].policy.alert);
}
END_TEST

/* RFC 8446, section 6.2. */
static const struct {
	unsigned alert;
	enum failure_class without; /* a client certificate */
	enum failure_class with;
	const char *name;
} alerts[] = {
	{ 40, FAILURE_PROTOCOL, FAILURE_AUTH, "handshake failure" },
	{ 42, FAILURE_AUTH, FAILURE_AUTH, "bad certificate" },
	{ 43, FAILURE_AUTH, FAILURE_AUTH, "unsupported certificate" },
	{ 44, FAILURE_AUTH, FAILURE_AUTH, "certificate revoked" },
	{ 45, FAILURE_AUTH, FAILURE_AUTH, "certificate expired" },
	{ 46, FAILURE_AUTH, FAILURE_AUTH, "certificate unknown" },
	{ 48, FAILURE_AUTH, FAILURE_AUTH, "unknown CA" },
	{ 49, FAILURE_AUTH, FAILURE_AUTH, "access denied" },
	{ 70, FAILURE_PROTOCOL, FAILURE_PROTOCOL, "protocol version" },
	{ 71, FAILURE_PROTOCOL, FAILURE_PROTOCOL, "insufficient security" },
	{ 80, FAILURE_TIMEOUT, FAILURE_TIMEOUT, "internal error" },
	{ 112, FAILURE_PROTOCOL, FAILURE_PROTOCOL, "unrecognized name" },
	{ 116, FAILURE_AUTH, FAILURE_AUTH, "certificate required" },
	{ 120, FAILURE_PROTOCOL, FAILURE_PROTOCOL, "no application protocol" },
	{ 200, FAILURE_PROTOCOL, FAILURE_PROTOCOL, "unknown alert" },
	{ 1000, FAILURE_PROTOCOL, FAILURE_PROTOCOL, "unknown alert" },
};

START_TEST(test_tls_alert)
{
	const char *name = NULL;

	ck_assert_int_eq(failure_of_tls_alert(alerts[_i].alert, false, &name), alerts[_i].without);
	ck_assert_str_eq(name, alerts[_i].name);
	ck_assert_int_eq(failure_of_tls_alert(alerts[_i].alert, true, &name), alerts[_i].with);
	ck_assert_str_eq(name, alerts[_i].name);
}
END_TEST

START_TEST(test_only_success_is_success)
{
	for (unsigned code = 0; code <= 0xff; code++) {
		ck_assert_int_eq(failure_of_connack(false, code) == FAILURE_NONE, code == 0);
		ck_assert_int_eq(failure_of_connack(true, code) == FAILURE_NONE, code == 0);
		ck_assert_int_eq(failure_of_publish(code) == FAILURE_MESSAGE_TAKEN,
			code < 0x80 || code == 0x92);
	}
}
END_TEST

START_TEST(test_names)
{
	static const char *const names[] = { "none", "timeout", "heartbeat", "busy", "moved",
		"taken-over", "auth", "protocol" };

	ck_assert_uint_eq(ARRAY_SIZE(names), FAILURE_PROTOCOL + 1);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		ck_assert_str_eq(failure_class_to_string((enum failure_class)i), names[i]);
}
END_TEST

START_TEST(test_set)
{
	struct failure f;
	char text[1000];

	failure_set(&f, FAILURE_BUSY, "code %d: %s", 3, "later");
	ck_assert_int_eq(f.class, FAILURE_BUSY);
	ck_assert_str_eq(f.text, "code 3: later");

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	failure_set(&f, FAILURE_TIMEOUT, "%s", text);
	ck_assert_int_eq(f.class, FAILURE_TIMEOUT);
	ck_assert_uint_eq(strlen(f.text), sizeof(f.text) - 1);

	failure_set(&f, FAILURE_NONE, "%s", "");
	ck_assert_str_eq(f.text, "");
}
END_TEST

Suite *check_failure(void)
{
	Suite *s = suite_create("failure");
	TCase *t = tcase_create("codes");

	tcase_add_loop_test(t, test_connack_v3, 0, ARRAY_SIZE(connack_v3));
	tcase_add_loop_test(t, test_connack_v5, 0, ARRAY_SIZE(connack_v5));
	tcase_add_loop_test(t, test_disconnect, 0, ARRAY_SIZE(disconnect));
	tcase_add_test(t, test_disconnect_is_a_failure);
	tcase_add_loop_test(t, test_publish, 0, ARRAY_SIZE(publish));
	tcase_add_loop_test(t, test_tls_alert, 0, ARRAY_SIZE(alerts));
	tcase_add_test(t, test_only_success_is_success);
	tcase_add_loop_test(t, test_policies, 0, ARRAY_SIZE(policies));
	suite_add_tcase(s, t);

	t = tcase_create("texts");
	tcase_add_test(t, test_names);
	tcase_add_test(t, test_set);
	suite_add_tcase(s, t);
	return s;
}
