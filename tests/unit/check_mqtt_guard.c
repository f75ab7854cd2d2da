/* SPDX-License-Identifier: MIT */
/*
 * Tests of what a broker may send: each rule with a packet that keeps it and one that does not.
 */
#include <stdio.h>

#include "mqtt_guard.h"
#include "suites.h"

#define PACKET(bytes) (const uint8_t *)(bytes), sizeof(bytes) - 1

static char text[MQTT_GUARD_TEXT_MAX];

static struct mqtt_guard guard_of(bool v5, bool connack)
{
	return (struct mqtt_guard){ .v5 = v5, .connack = connack };
}

static enum mqtt_guard_verdict look(
	struct mqtt_guard *g, const uint8_t *data, size_t len, size_t *ret_size)
{
	text[0] = '\0';
	return mqtt_guard_look(g, data, len, ret_size, text);
}

/* --- packets one by one ------------------------------------------------------------------------
 */

enum { V3 = 1, V5 = 2, BOTH = 3 };

/* Behind a CONNACK, or, where they are CONNACKs or the like, first. */
static const struct {
	unsigned versions;
	bool first;
	const char *bytes;
	size_t len;
	const char *fault; /* NULL: good */
} cases[] = {
#define GOOD(versions, first, bytes)                            \
	{                                                       \
		versions, first, bytes, sizeof(bytes) - 1, NULL \
	}
#define BAD(versions, first, bytes, text)                       \
	{                                                       \
		versions, first, bytes, sizeof(bytes) - 1, text \
	}
	/* CONNACK */
	GOOD(V3, true, "\x20\2\0\0"),
	GOOD(V5, true, "\x20\3\0\0\0"),
	GOOD(V5, true, "\x20\2\0\1"), /* of a broker that knows 3.1.1 only */
	GOOD(V5, true, "\x20\x0b\1\0\x08\x21\0\x14\x26\0\0\0\0"),
	BAD(V3, true, "\x20\3\0\0\0", "sent a CONNACK that is 1 bytes too long"),
	BAD(BOTH, true, "\x20\1\0", "sent a CONNACK that ends inside a field"),
	BAD(V5, true, "\x20\5\0\0\2\x7e\1", "the property 0x7e, which MQTT 5 does not let"),
	BAD(V5, true, "\x20\5\0\0\2\x17\1", "the property 0x17, which MQTT 5 does not let"),
	BAD(V5, true, "\x20\5\0\0\2\x01\1", "the property 0x01, which is none of its"),
	BAD(V5, true, "\x20\7\0\0\4\x24\1\x24\1", "the property 0x24 twice"),
	BAD(V5, true, "\x20\4\0\0\5\x24", "ends inside a field"),
	BAD(V5, true, "\x20\4\0\0\1\x24", "ends inside a field"),
	BAD(V5, true, "\x20\7\0\0\4\x1f\0\x05x", "ends inside a field"),
	BAD(V5, true, "\x20\7\0\0\xff\xff\xff\xff\1", "a number of more than four bytes"),
	BAD(BOTH, true, "\x21\2\0\0", "does not begin with CONNACK, but with the bytes 21 02"),
	BAD(BOTH, true, "\x40\2\0\1", "does not begin with CONNACK, but with the bytes 40 02 00"),
	BAD(BOTH, true, "\xf0", "does not begin with CONNACK, but with the bytes f0"),
	BAD(BOTH, true, "SSH-2.0-x\r\n", "does not speak MQTT: it begins with \"SSH-2.0-x\""),
	BAD(BOTH, false, "\x20\2\0\0", "sent a second CONNACK"),
	/* Acknowledgements */
	GOOD(BOTH, false, "\x40\2\0\1"),
	GOOD(BOTH, false, "\x50\2\0\1"),
	GOOD(BOTH, false, "\x62\2\0\1"),
	GOOD(BOTH, false, "\x70\2\0\1"),
	GOOD(V5, false, "\x40\3\0\1\x10"),
	GOOD(V5, false, "\x50\3\0\1\x97"),
	GOOD(V5, false, "\x40\3\0\1\xfe"),
	GOOD(V5, false, "\x70\4\0\1\0\0"),
	GOOD(V5, false, "\x40\x0e\0\1\0\x0a\x26\0\0\0\0\x26\0\0\0\0"),
	BAD(V3, false, "\x40\3\0\1\0", "sent a PUBACK that is 1 bytes too long"),
	BAD(BOTH, false, "\x40\1\0", "sent a PUBACK that ends inside a field"),
	BAD(BOTH, false, "\x42\2\0\1", "sent a PUBACK with the flags 0x2"),
	BAD(BOTH, false, "\x60\2\0\1", "sent a PUBREL with the flags 0x0"),
	BAD(V5, false, "\x40\3\0\1\x42", "sent a PUBACK with the reason code 0x42"),
	BAD(V5, false, "\x70\3\0\1\x10", "sent a PUBCOMP with the reason code 0x10"),
	BAD(V5, false, "\x40\6\0\1\0\2\x7e\1", "sent a PUBACK with the property 0x7e"),
	BAD(V5, false, "\x40\7\0\1\0\3\x21\0\1", "sent a PUBACK with the property 0x21, which is"),
	/* Messages */
	GOOD(V3, false, "\x30\3\0\1t"),
	GOOD(V3, false, "\x3d\5\0\1t\0\7"),
	GOOD(V5, false, "\x30\x08\0\1t\4\x0b\1\x0b\2"),
	BAD(BOTH, false, "\x36\5\0\1t\0\7", "sent a PUBLISH of QoS 3"),
	BAD(BOTH, false, "\x30\3\0\2t", "sent a PUBLISH that ends inside a field"),
	BAD(V5, false, "\x30\3\0\1t", "sent a PUBLISH that ends inside a field"),
	BAD(V5, false, "\x30\6\0\1t\2\x7f\0", "sent a PUBLISH with the property 0x7f"),
	/* Others */
	GOOD(BOTH, false, "\xd0\0"),
	BAD(BOTH, false, "\xd0\1x", "sent a PINGRESP that is 1 bytes too long"),
	GOOD(V5, false, "\xe0\0"),
	GOOD(V5, false, "\xe0\1\x8b"),
	GOOD(V5, false, "\xe0\6\x8b\4\x1f\0\1x"),
	BAD(V3, false, "\xe0\0", "sent a DISCONNECT, which MQTT 3.1.1 leaves to clients"),
	BAD(BOTH, false, "\0", "sent a packet of type 0"),
	BAD(BOTH, false, "\x10", "sent a CONNECT"),
	BAD(BOTH, false, "\x82", "sent a SUBSCRIBE"),
	BAD(BOTH, false, "\x90", "sent a SUBACK, though nothing was subscribed to"),
	BAD(BOTH, false, "\xa2", "sent a UNSUBSCRIBE"),
	BAD(BOTH, false, "\xb0", "sent a UNSUBACK, though nothing was subscribed to"),
	BAD(BOTH, false, "\xc0", "sent a PINGREQ"),
	BAD(BOTH, false, "\xf0", "sent an AUTH"),
	BAD(BOTH, false, "\x30\xff\xff\xff\x7f", "sent a PUBLISH of 268435460 bytes; 16384 are"),
	BAD(BOTH, false, "\x40\xff\xff\xff\xff", "whose length has more than four bytes"),
};

START_TEST(test_packet)
{
	for (unsigned v5 = 0; v5 < 2; v5++) {
		struct mqtt_guard g = guard_of(v5, !cases[_i].first);
		enum mqtt_guard_verdict verdict;
		size_t size = 0;

		if (!(cases[_i].versions & (v5 ? V5 : V3)))
			continue;
		verdict = look(&g, (const uint8_t *)cases[_i].bytes, cases[_i].len, &size);
		if (cases[_i].fault) {
			ck_assert_int_eq(verdict, MQTT_GUARD_FAULT);
			ck_assert_msg(strstr(text, cases[_i].fault), "%s", text);
		} else {
			ck_assert_msg(verdict == MQTT_GUARD_WHOLE, "%s", text);
			ck_assert_uint_eq(size, cases[_i].len);
			ck_assert(g.connack);
		}
	}
}
END_TEST

/* --- what is there of a packet ------------------------------------------------------------------
 */

/* As many bytes as are sure to be needed; a packet behind it does not matter. */
START_TEST(test_parts)
{
	static const uint8_t bytes[] = "\x20\3\0\0\0\x40\2\0\1";
	static const size_t wanted[] = { 2, 5, 5, 5 };
	struct mqtt_guard g = guard_of(true, false);
	size_t size;

	for (size_t len = 1; len < 5; len++) {
		ck_assert_int_eq(look(&g, bytes, len, &size), MQTT_GUARD_PART);
		ck_assert_uint_eq(size, wanted[len - 1]);
		ck_assert(!g.connack);
	}
	ck_assert_int_eq(look(&g, bytes, sizeof(bytes) - 1, &size), MQTT_GUARD_WHOLE);
	ck_assert_uint_eq(size, 5);
}
END_TEST

/* The largest there may be, and one byte more; told before the bytes are there. */
START_TEST(test_largest)
{
	struct mqtt_guard g = guard_of(true, true);
	size_t size;

	/* 3 bytes of header */
	ck_assert_int_eq(look(&g, PACKET("\xe0\xfd\x7f"), &size), MQTT_GUARD_PART);
	ck_assert_uint_eq(size, MQTT_GUARD_PACKET_MAX);
	ck_assert_int_eq(look(&g, PACKET("\xe0\xfe\x7f"), &size), MQTT_GUARD_FAULT);
}
END_TEST

/* Properties, and not just an empty list of them. */
START_TEST(test_lengthy)
{
	uint16_t mid = 7;

	ck_assert(!mqtt_guard_is_lengthy(PACKET("\x40\2\1\2"), &mid));
	ck_assert(!mqtt_guard_is_lengthy(PACKET("\x40\3\1\2\0"), &mid));
	ck_assert(!mqtt_guard_is_lengthy(PACKET("\x40\4\1\2\0\0"), &mid));
	ck_assert(!mqtt_guard_is_lengthy(PACKET("\x50\x09\1\2\0\5\x26\0\0\0\0"), &mid));
	ck_assert(!mqtt_guard_is_lengthy(PACKET("\xd0\0"), &mid));
	ck_assert_uint_eq(mid, 7);
	ck_assert(mqtt_guard_is_lengthy(PACKET("\x40\x09\1\2\0\5\x26\0\0\0\0"), &mid));
	ck_assert_uint_eq(mid, 0x102);
	/* A length of more bytes than it needs. */
	ck_assert(mqtt_guard_is_lengthy(PACKET("\x70\x89\0\1\3\0\5\x26\0\0\0\0"), &mid));
	ck_assert_uint_eq(mid, 0x103);
	ck_assert(mqtt_guard_is_lengthy(PACKET("\x62\x09\1\2\0\5\x26\0\0\0\0"), &mid));
	ck_assert_uint_eq(mid, 0);
}
END_TEST

/* --- what the library would hold -----------------------------------------------------------------
 */

static unsigned good_ones(struct mqtt_guard *g, const uint8_t *data, size_t len, unsigned most)
{
	unsigned n = 0;
	size_t size;

	while (n < most && look(g, data, len, &size) == MQTT_GUARD_WHOLE)
		n++;
	return n;
}

START_TEST(test_pings)
{
	struct mqtt_guard g = guard_of(true, true);

	for (unsigned i = 0; i < 1000; i++) {
		mqtt_guard_ping(&g);
		ck_assert_uint_eq(good_ones(&g, PACKET("\xd0\0"), 1), 1);
	}
	ck_assert_uint_eq(good_ones(&g, PACKET("\xd0\0"), 1000), 99);
	ck_assert_str_eq(text, "answers PINGREQs that were never sent");
}
END_TEST

START_TEST(test_answers)
{
	struct mqtt_guard g = guard_of(false, true);

	ck_assert_uint_eq(good_ones(&g, PACKET("\x50\2\0\1"), 100000), 65535);
	ck_assert_str_eq(text, "asks for more answers than it reads");
	g.answers = 0;
	ck_assert_uint_eq(good_ones(&g, PACKET("\x62\2\0\1"), 100000), 65535);
	g.answers = 0;
	ck_assert_uint_eq(good_ones(&g, PACKET("\x32\5\0\1t\0\7"), 100000), 65535);
	g.answers = 0;
	ck_assert_uint_eq(good_ones(&g, PACKET("\x40\2\0\1"), 100000), 100000);
}
END_TEST

START_TEST(test_unreleased)
{
	struct mqtt_guard g = guard_of(false, true);

	ck_assert_uint_eq(good_ones(&g, PACKET("\x34\5\0\1t\0\7"), 10000), 1024);
	ck_assert_str_eq(text, "sends messages of QoS 2 without releasing any");
	ck_assert_uint_eq(good_ones(&g, PACKET("\x62\2\0\7"), 5), 5);
	ck_assert_uint_eq(good_ones(&g, PACKET("\x34\5\0\1t\0\7"), 10000), 5);
}
END_TEST

Suite *check_mqtt_guard(void)
{
	Suite *s = suite_create("mqtt_guard");
	TCase *t = tcase_create("packets");

	tcase_add_loop_test(t, test_packet, 0, ARRAY_SIZE(cases));
	tcase_add_test(t, test_parts);
	tcase_add_test(t, test_largest);
	suite_add_tcase(s, t);

	t = tcase_create("bounds");
	tcase_add_test(t, test_lengthy);
	tcase_add_test(t, test_pings);
	tcase_add_test(t, test_answers);
	tcase_add_test(t, test_unreleased);
	suite_add_tcase(s, t);
	return s;
}
