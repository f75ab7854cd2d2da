/* SPDX-License-Identifier: MIT */
/*
 * Tests of the client object against a peer in the same thread, which says what a test has it say
 * to the byte: what the library tells only by its log, what it keeps from one connection to the
 * next, and what goes into a packet.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

#include "mqtt.h"
#include "mqtt_internal.h"
#include "suites.h"

#define HOST	     "127.0.0.1"
#define KEEPALIVE    60
#define TEST_SECONDS 60
#define TURNS_MAX    3000 /* of the loop, ten milliseconds at most each */
#define TURN_USEC    (10 * USEC_PER_MSEC)

struct rig {
	sd_event *event;
	int listener;
	uint16_t port;
	int peer; /* -1 = no connection */
	struct mqtt *m;

	unsigned connected;
	unsigned failed;
	unsigned closed;
	unsigned alive;
	unsigned published;
	unsigned last_mid;
	bool inside; /* of a call of the interface: no outcome may come */
	struct mqtt_limits limits;
	struct mqtt_failure failure;
};

/* --- the rig ---------------------------------------------------------------------------------- */

static void on_connected(void *userdata, const struct mqtt_limits *limits)
{
	struct rig *r = userdata;

	ck_assert(!r->inside);
	r->connected++;
	r->limits = *limits;
}

static void on_failed(void *userdata, const struct mqtt_failure *failure)
{
	struct rig *r = userdata;

	ck_assert(!r->inside);
	r->failed++;
	r->failure = *failure;
}

static void on_closed(void *userdata)
{
	struct rig *r = userdata;

	ck_assert(!r->inside);
	r->closed++;
}

static void on_published(void *userdata, uint16_t mid, unsigned reason)
{
	struct rig *r = userdata;

	ck_assert_uint_lt(reason, 0x80);
	r->published++;
	r->last_mid = mid;
}

static void on_alive(void *userdata)
{
	struct rig *r = userdata;

	ck_assert(!r->inside);
	r->alive++;
}

static const struct mqtt_callbacks callbacks = {
	.connected = on_connected,
	.failed = on_failed,
	.closed = on_closed,
	.published = on_published,
	.alive = on_alive,
};

static void turn(struct rig *r)
{
	ck_assert_int_ge(sd_event_run(r->event, TURN_USEC), 0);
}

static void wait_for(struct rig *r, const unsigned *counter, unsigned value)
{
	for (unsigned i = 0; *counter < value && i < TURNS_MAX; i++)
		turn(r);
	ck_assert_uint_eq(*counter, value);
}

static void rig_init(struct rig *r, const struct mqtt_params *params)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);

	*r = (struct rig){ .peer = -1 };
	mqtt_library_init();
	ck_assert_int_ge(sd_event_new(&r->event), 0);
	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(r->listener, 0);
	ck_assert_int_eq(bind(r->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(r->listener, 8), 0);
	ck_assert_int_eq(getsockname(r->listener, (struct sockaddr *)&address, &len), 0);
	r->port = ntohs(address.sin_port);
	ck_assert_int_eq(mqtt_new(&r->m, r->event, params, &callbacks, r), 0);
}

static void rig_done(struct rig *r)
{
	mqtt_free(r->m);
	closep(&r->peer);
	close(r->listener);
	sd_event_unref(r->event);
	mqtt_library_cleanup();
}

/* One whole packet from the client; returns its length. */
static size_t read_packet(struct rig *r, uint8_t *buf, size_t size)
{
	size_t have = 0, need = 2, length = 0;

	for (unsigned i = 0; i < TURNS_MAX; i++) {
		ssize_t n = recv(r->peer, buf + have, need - have, MSG_DONTWAIT);

		if (n < 0) {
			ck_assert_int_eq(errno, EAGAIN);
			turn(r);
			continue;
		}
		ck_assert_int_gt(n, 0);
		have += (size_t)n;
		if (have < need)
			continue;
		if (length)
			return have;
		/* Another byte of the length, or all of it. */
		if (buf[have - 1] & 0x80) {
			need++;
			continue;
		}
		for (size_t at = have - 1; at > 0; at--)
			length = length << 7 | (buf[at] & 0x7f);
		if (length == 0)
			return have;
		need = have + length;
		ck_assert_uint_le(need, size);
	}
	ck_abort_msg("no packet");
	return 0;
}

static void say(struct rig *r, const void *data, size_t len)
{
	ck_assert_int_eq(send(r->peer, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void hang_up(struct rig *r)
{
	close(r->peer);
	r->peer = -1;
}

/* Connects up to the CONNECT, which goes to `buf`; returns its length. */
static size_t begin(struct rig *r, uint8_t *buf, size_t size)
{
	r->inside = true;
	mqtt_connect(r->m, HOST, HOST, r->port, KEEPALIVE);
	r->inside = false;
	r->peer = accept(r->listener, NULL, NULL);
	ck_assert_int_ge(r->peer, 0);
	return read_packet(r, buf, size);
}

static void connect_with(struct rig *r, const void *connack, size_t len)
{
	uint8_t buf[500];

	begin(r, buf, sizeof(buf));
	ck_assert_uint_eq(buf[0], 0x10);
	say(r, connack, len);
	wait_for(r, &r->connected, r->connected + 1);
}

/* Ends the connection as a broker that falls over. */
static void drop(struct rig *r)
{
	hang_up(r);
	wait_for(r, &r->failed, r->failed + 1);
	ck_assert_int_eq(r->failure.phase, MQTT_PHASE_UP);
	ck_assert_int_eq(r->failure.failure.class, FAILURE_HEARTBEAT);
}

static const struct mqtt_params v5_params = {
	.client_id = "client", .username = "", .password = "", .keepalive = KEEPALIVE, .v5 = true
};

static const struct mqtt_params v3_params = {
	.client_id = "client", .username = "", .password = "", .keepalive = KEEPALIVE
};

static const uint8_t v5_connack[] = { 0x20, 3, 0, 0, 0 };
static const uint8_t v3_connack[] = { 0x20, 2, 0, 0 };

static void rig_up(struct rig *r, bool v5)
{
	rig_init(r, v5 ? &v5_params : &v3_params);
	if (v5)
		connect_with(r, v5_connack, sizeof(v5_connack));
	else
		connect_with(r, v3_connack, sizeof(v3_connack));
}

static int publish(struct rig *r, const char *payload, uint8_t qos, bool retain,
	const struct mqtt_extras *extras, const char **ret_text)
{
	const struct message message = {
		.id = 18446744073709551615U,
		.topic = "a/b",
		.topic_len = 3,
		.payload = payload,
		.payload_len = strlen(payload),
		.timestamp = -1234567890123,
		.qos = qos,
		.retain = retain,
	};
	int mid = 0, rc;

	r->inside = true;
	rc = mqtt_publish(r->m, &message, extras, &mid, ret_text);
	r->inside = false;
	return rc < 0 ? rc : mid;
}

static const char *no_text;

/* --- limits ------------------------------------------------------------------------------------
 */

static void assert_limits(const struct rig *r, unsigned receive_maximum, uint32_t max_packet,
	unsigned max_qos, bool retain)
{
	ck_assert_uint_eq(r->limits.receive_maximum, receive_maximum);
	ck_assert_uint_eq(r->limits.max_packet, max_packet);
	ck_assert_uint_eq(r->limits.max_qos, max_qos);
	ck_assert_int_eq(r->limits.retain_available, retain);
}

START_TEST(test_limits_of_each_connection)
{
	/* Receive Maximum 7, Maximum QoS 1, Retain Available 0, Maximum Packet Size 100. */
	static const uint8_t narrow[] = { 0x20, 15, 0, 0, 12, 0x21, 0, 7, 0x24, 1, 0x25, 0, 0x27, 0,
		0, 0, 100 };
	static const uint8_t wider[] = { 0x20, 8, 0, 0, 5, 0x27, 0, 0, 1, 0 };
	const char *text;
	struct rig r;

	rig_up(&r, true);
	assert_limits(&r, 65535, 0, 2, true);
	drop(&r);
	connect_with(&r, narrow, sizeof(narrow));
	assert_limits(&r, 7, 100, 1, false);
	ck_assert_int_eq(publish(&r, "x", 2, false, NULL, &text), -EOPNOTSUPP);
	ck_assert_str_eq(text, "broker does not take QoS 2");
	ck_assert_int_eq(publish(&r, "x", 1, true, NULL, &text), -EOPNOTSUPP);
	ck_assert_str_eq(text, "broker does not take retained messages");
	drop(&r);
	/* What the library forgets, and what it does not. */
	connect_with(&r, v5_connack, sizeof(v5_connack));
	assert_limits(&r, 65535, 100, 1, true);
	drop(&r);
	connect_with(&r, wider, sizeof(wider));
	assert_limits(&r, 65535, 256, 1, true);
	rig_done(&r);
}
END_TEST

/* The library itself sends no more at a time than an earlier broker's Receive Maximum, if let. */
START_TEST(test_receive_maximum_does_not_stick)
{
	static const uint8_t one[] = { 0x20, 6, 0, 0, 3, 0x21, 0, 1 };
	uint8_t buf[100];
	struct rig r;

	rig_init(&r, &v5_params);
	connect_with(&r, one, sizeof(one));
	assert_limits(&r, 1, 0, 2, true);
	drop(&r);
	connect_with(&r, v5_connack, sizeof(v5_connack));
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_gt(publish(&r, "x", 1, false, NULL, &no_text), 0);
	for (unsigned i = 0; i < 3; i++) {
		read_packet(&r, buf, sizeof(buf));
		ck_assert_uint_eq(buf[0], 0x32);
	}
	rig_done(&r);
}
END_TEST

START_TEST(test_311_has_no_limits)
{
	struct rig r;

	rig_up(&r, false);
	assert_limits(&r, 65535, 0, 2, true);
	ck_assert_int_gt(publish(&r, "x", 2, true, NULL, &no_text), 0);
	rig_done(&r);
}
END_TEST

/* A message of exactly the broker's maximum goes, one byte more is not taken. */
START_TEST(test_packet_size_to_the_byte)
{
	static const uint8_t connack[] = { 0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 100 };
	char payload[101];
	uint8_t buf[200];
	const char *text;
	struct rig r;

	rig_init(&r, &v5_params);
	connect_with(&r, connack, sizeof(connack));
	for (uint8_t qos = 0; qos <= 2; qos++) {
		/* Two bytes in front; topic, identifier, no properties. */
		size_t room = 100 - 2 - 5 - (qos ? 2U : 0U) - 1;

		memset(payload, 'x', sizeof(payload));
		payload[room + 1] = '\0';
		ck_assert_int_eq(publish(&r, payload, qos, false, NULL, &text), -EMSGSIZE);
		ck_assert_str_eq(text, "larger than the broker's Maximum Packet Size");
		payload[room] = '\0';
		ck_assert_int_ge(publish(&r, payload, qos, false, NULL, &text), 0);
		ck_assert_uint_eq(read_packet(&r, buf, sizeof(buf)), 100);
	}
	rig_done(&r);
}
END_TEST

/* --- what only the library's log tells -----------------------------------------------------------
 */

/* As if PINGREQ had left: the library takes no keepalive that a test could wait for. */
static void ping(struct rig *r)
{
	mqtt_ping_sent(r->m);
	mqtt_watch_descriptor(r->m);
}

START_TEST(test_pingresp_is_a_sign_of_life)
{
	static const uint8_t pingresp[] = { 0xd0, 0 };
	struct rig r;

	rig_up(&r, _i != 0);
	ping(&r);
	say(&r, pingresp, sizeof(pingresp));
	wait_for(&r, &r.alive, 1);
	ping(&r);
	say(&r, pingresp, sizeof(pingresp));
	wait_for(&r, &r.alive, 2);
	drop(&r);
	ck_assert_uint_eq(r.alive, 2);
	rig_done(&r);
}
END_TEST

/* Whole seconds, of the direction that has been quiet for longer. */
START_TEST(test_ping_is_waited_for)
{
	const uint64_t now = 1000 * USEC_PER_SEC;
	struct mqtt m = {
		.keepalive = 60,
		.broker_keepalive = -1,
		.ping_timeout_usec = 20 * USEC_PER_SEC,
		.sent_usec = now - 1,
		.received_usec = now,
	};

	ck_assert_uint_eq(mqtt_ping_wake_usec(&m, now), 1059 * USEC_PER_SEC);
	m.sent_usec = now + 5 * USEC_PER_SEC;
	ck_assert_uint_eq(mqtt_ping_wake_usec(&m, m.sent_usec), 1060 * USEC_PER_SEC);
	m.broker_keepalive = 10;
	ck_assert_uint_eq(mqtt_ping_wake_usec(&m, m.sent_usec), 1010 * USEC_PER_SEC);
	/* Due, and not sent: something was in its way. */
	ck_assert_uint_eq(mqtt_ping_wake_usec(&m, 1010 * USEC_PER_SEC), 1011 * USEC_PER_SEC);
	m.broker_keepalive = 0;
	ck_assert_uint_eq(mqtt_ping_wake_usec(&m, now), UINT64_MAX);
}
END_TEST

/* A quarter of the shorter one of keepalive and patience, and ten seconds at most. */
START_TEST(test_unanswered_ping_is_sampled)
{
	static const struct {
		int keepalive;
		uint64_t patience_sec;
		uint64_t wait_usec;
	} cases[] = {
		{ 60, 20, 5 * USEC_PER_SEC },
		{ 8, 20, 2 * USEC_PER_SEC },
		{ 1, 20, 1 * USEC_PER_SEC },
		{ 600, 600, 10 * USEC_PER_SEC },
		{ 60, 2, USEC_PER_SEC / 2 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const uint64_t now = 1000 * USEC_PER_SEC;
		const struct mqtt m = {
			.broker_keepalive = cases[i].keepalive,
			.ping_timeout_usec = cases[i].patience_sec * USEC_PER_SEC,
			.ping_pending = true,
		};

		ck_assert_uint_eq(mqtt_ping_wake_usec(&m, now), now + cases[i].wait_usec);
	}
}
END_TEST

static void puback(struct rig *r, int mid)
{
	const uint8_t packet[] = { 0x40, 2, (uint8_t)(mid >> 8), (uint8_t)mid };

	say(r, packet, sizeof(packet));
}

/* What goes and what is answered sets the time. */
START_TEST(test_traffic_puts_the_ping_off)
{
	uint64_t before, turned;
	uint8_t buf[64];
	struct rig r;
	int mid;

	rig_up(&r, _i != 0);
	r.m->sent_usec = r.m->received_usec = 0;
	ck_assert_int_ge(sd_event_now(r.event, CLOCK_MONOTONIC, &turned), 0);
	before = now_usec();
	mid = publish(&r, "x", 1, false, NULL, &no_text);
	read_packet(&r, buf, sizeof(buf));
	ck_assert_uint_ge(r.m->sent_usec, turned);
	ck_assert_uint_le(r.m->sent_usec, now_usec());
	ck_assert_uint_eq(r.m->received_usec, 0);
	puback(&r, mid);
	wait_for(&r, &r.published, 1);
	ck_assert_uint_ge(r.m->received_usec, before);
	rig_done(&r);
}
END_TEST

/* What was only written, and be it later, is no word of the broker's: a link on which nothing comes
 * back is to be asked for a sign of life. */
START_TEST(test_writing_is_no_answer)
{
	static char large[8 << 20], sink[1 << 16];
	const char *text;
	size_t left = sizeof(large);
	struct rig r;

	memset(large, 'x', sizeof(large) - 1);
	rig_up(&r, _i != 0);
	publish(&r, large, 0, false, NULL, &text);
	ck_assert(mosquitto_want_write(r.m->mosq));
	r.m->received_usec = 0;
	for (unsigned i = 0; r.published == 0 && i < TURNS_MAX; i++) {
		ssize_t n = recv(r.peer, sink, size_min(sizeof(sink), left), MSG_DONTWAIT);

		left -= n > 0 ? (size_t)n : 0;
		turn(&r);
	}
	ck_assert_uint_eq(r.published, 1);
	ck_assert_uint_eq(r.m->received_usec, 0);
	rig_done(&r);
}
END_TEST

/* Nobody listens to the library's log, which costs more than a message's packet does, but while a
 * line of it may matter. */
START_TEST(test_log_is_listened_to)
{
	static const uint8_t pingresp[] = { 0xd0, 0 }, pubrec[] = { 0x50, 2, 0, 2 };
	static const uint8_t pubcomp[] = { 0x70, 2, 0, 2 };
	uint8_t buf[64];
	struct rig r;
	int mid;

	rig_up(&r, _i != 0);
	mid = publish(&r, "x", 1, false, NULL, &no_text);
	ck_assert_int_eq(mid, 1);
	ck_assert(!r.m->listening);
	ping(&r);
	ck_assert(r.m->listening);
	say(&r, pingresp, sizeof(pingresp));
	wait_for(&r, &r.alive, 1);
	ck_assert(!r.m->listening);
	ck_assert_int_eq(publish(&r, "x", 2, false, NULL, &no_text), 2);
	ck_assert(r.m->listening);
	puback(&r, 1);
	wait_for(&r, &r.published, 1);
	ck_assert(r.m->listening);
	read_packet(&r, buf, sizeof(buf));
	read_packet(&r, buf, sizeof(buf));
	say(&r, pubrec, sizeof(pubrec));
	read_packet(&r, buf, sizeof(buf));
	ck_assert_uint_eq(buf[0], 0x62);
	say(&r, pubcomp, sizeof(pubcomp));
	wait_for(&r, &r.published, 2);
	ck_assert_uint_eq(r.m->n_qos2, 0);
	turn(&r);
	ck_assert(!r.m->listening);
	drop(&r);
	ck_assert_uint_eq(r.failed, 1);
	rig_done(&r);
}
END_TEST

START_TEST(test_puback_for_qos2)
{
	uint8_t buf[100];
	struct rig r;
	int mid;

	rig_up(&r, _i != 0);
	mid = publish(&r, "x", 1, false, NULL, &no_text);
	read_packet(&r, buf, sizeof(buf));
	puback(&r, mid);
	wait_for(&r, &r.published, 1);
	ck_assert_uint_eq(r.last_mid, (unsigned)mid);

	mid = publish(&r, "x", 2, false, NULL, &no_text);
	read_packet(&r, buf, sizeof(buf));
	puback(&r, mid);
	wait_for(&r, &r.failed, 1);
	ck_assert(r.failure.no_qos2);
	ck_assert_int_eq(r.failure.failure.class, FAILURE_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(r.failure.failure.text, "does not know QoS 2"));
	ck_assert(!r.failure.try_other_version);

	/* And again on the next connection, where the library sends it once more. */
	closep(&r.peer);
	connect_with(
		&r, _i ? v5_connack : v3_connack, _i ? sizeof(v5_connack) : sizeof(v3_connack));
	read_packet(&r, buf, sizeof(buf));
	ck_assert_uint_eq(buf[0], 0x3c);
	puback(&r, mid);
	wait_for(&r, &r.failed, 2);
	ck_assert(r.failure.no_qos2);
	ck_assert_uint_eq(r.published, 1);
	rig_done(&r);
}
END_TEST

/* Another fault of the broker is none of QoS 2. */
START_TEST(test_other_protocol_error)
{
	static const uint8_t connect[] = { 0x10, 0 };
	uint8_t buf[100];
	struct rig r;

	rig_up(&r, true);
	publish(&r, "x", 2, false, NULL, &no_text);
	read_packet(&r, buf, sizeof(buf));
	say(&r, connect, sizeof(connect));
	wait_for(&r, &r.failed, 1);
	ck_assert(!r.failure.no_qos2);
	ck_assert_int_eq(r.failure.failure.class, FAILURE_PROTOCOL);
	rig_done(&r);
}
END_TEST

/* --- what comes is looked at first ---------------------------------------------------------------
 */

/* The library reads one packet a call, as mqtt_intake.c has it: what is good before what is not
 * counts, and it never sees the latter, which would end the process. */
START_TEST(test_fault_behind_good_packets)
{
	static const uint8_t burst[] = "\x40\2\0\1\x50\2\0\2\x40\2\0\3\x70\2\0\2"
				       "\x40\6\0\4\0\2\x7e\1\x40\2\0\4";
	uint8_t buf[100];
	struct rig r;

	rig_up(&r, true);
	for (uint8_t i = 1; i <= 4; i++) {
		ck_assert_int_eq(publish(&r, "x", i == 2 ? 2 : 1, false, NULL, &no_text), i);
		read_packet(&r, buf, sizeof(buf));
	}
	say(&r, burst, sizeof(burst) - 1);
	wait_for(&r, &r.failed, 1);
	ck_assert_uint_eq(r.published, 3);
	ck_assert(!r.m->blind);
	ck_assert_int_eq(r.failure.failure.class, FAILURE_PROTOCOL);
	ck_assert_str_eq(r.failure.failure.text,
		"broker sent a PUBACK with the property 0x7e, which MQTT 5 does not let a broker "
		"send");
	rig_done(&r);
}
END_TEST

/* A line that is never idle: each PUBREC is answered behind what waits, and that is no fault of a
 * broker that goes on from there. */
START_TEST(test_answers_on_a_busy_line)
{
	static char large[8 << 20];
	uint8_t buf[100];
	struct rig r;

	memset(large, 'x', sizeof(large) - 1);
	rig_up(&r, _i != 0);
	for (uint8_t i = 1; i <= 3; i++) {
		ck_assert_int_eq(publish(&r, "x", 2, false, NULL, &no_text), i);
		read_packet(&r, buf, sizeof(buf));
	}
	publish(&r, large, 0, false, NULL, &no_text);
	r.m->guard.answers = 65533;
	for (uint8_t i = 1; i <= 3; i++) {
		const uint8_t answers[] = { 0x50, 2, 0, i, 0x70, 2, 0, i };

		say(&r, answers, sizeof(answers));
		wait_for(&r, &r.published, i);
		ck_assert(mosquitto_want_write(r.m->mosq));
		ck_assert_uint_eq(r.m->guard.answers, 65533);
	}
	ck_assert_uint_eq(r.failed, 0);
	rig_done(&r);
}
END_TEST

/* What is not whole stays in the socket, and wakes nobody until it is. */
START_TEST(test_packet_in_pieces)
{
	static const uint8_t bytes[] = "\x40\x0c\0\1\0\x08\x26\0\1"
				       "a\0\2"
				       "bc\x40\2\0\2";
	/* As long as the length is not known; and when all is there. */
	static const bool wakes[] = {
		[0] = true, [1] = true, [13] = true, [14] = true, [15] = true, [17] = true
	};
	uint8_t buf[100];
	struct rig r;

	rig_up(&r, true);
	for (int i = 1; i <= 2; i++) {
		ck_assert_int_eq(publish(&r, "x", 1, false, NULL, &no_text), i);
		read_packet(&r, buf, sizeof(buf));
	}
	for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
		ck_assert_uint_eq(r.published, i >= 14);
		say(&r, bytes + i, 1);
		ck_assert_msg(
			(sd_event_run(r.event, wakes[i] ? 1000 * TURN_USEC : 0) > 0) == wakes[i],
			"byte %zu", i);
		ck_assert_int_eq(sd_event_run(r.event, 0), 0);
	}
	ck_assert_uint_eq(r.published, 2);
	ck_assert_uint_eq(r.failed, 0);
	rig_done(&r);
}
END_TEST

/* --- packets -----------------------------------------------------------------------------------
 */

START_TEST(test_provenance_and_expiry)
{
	static const struct mqtt_extras extras = {
		.gateway_id = "gw", .queue_uuid = "uuid", .expiry_sec = 0x01020304
	};
	static const uint8_t expected[] = "\x32\x66\0\x03"
					  "a/b\0\x01\x5d"
					  "\x02\x01\x02\x03\x04"
					  "\x26\0\x05gw-id\0\x02gw"
					  "\x26\0\x08gw-queue\0\x04uuid"
					  "\x26\0\x06gw-seq\0\x14"
					  "18446744073709551615"
					  "\x26\0\x07gw-time\0\x0e"
					  "-1234567890123";
	uint8_t buf[200];
	size_t len;
	struct rig r;

	rig_up(&r, true);
	ck_assert_int_eq(publish(&r, "", 1, false, &extras, &no_text), 1);
	len = read_packet(&r, buf, sizeof(buf));
	ck_assert_mem_eq(buf + 2, expected + 2, 7);
	ck_assert_mem_eq(buf + 10, expected + 10, sizeof(expected) - 1 - 10);
	ck_assert_uint_eq(len, sizeof(expected) - 1);
	ck_assert_uint_eq(buf[9], len - 10); /* properties fill the rest */
	rig_done(&r);

	/* 3.1.1 knows no properties. */
	rig_up(&r, false);
	ck_assert_int_eq(publish(&r, "", 1, false, &extras, &no_text), 1);
	len = read_packet(&r, buf, sizeof(buf));
	ck_assert_uint_eq(len, 9);
	rig_done(&r);
}
END_TEST

START_TEST(test_will_and_its_disconnect)
{
	static const struct mqtt_will will = {
		.topic = "w", .payload = "gone", .qos = 1, .retain = true
	};
	struct mqtt_params params = _i ? v5_params : v3_params;
	uint8_t buf[200];
	struct rig r;
	size_t len;

	params.will = &will;
	rig_init(&r, &params);
	len = begin(&r, buf, sizeof(buf));
	/* Will flag, QoS 1, retain; at the end topic and payload. */
	ck_assert_uint_eq(buf[9] & 0x3c, 0x2c);
	ck_assert_mem_eq(buf + len - 9, "\0\001w\0\004gone", 9);
	say(&r, _i ? v5_connack : v3_connack, _i ? sizeof(v5_connack) : sizeof(v3_connack));
	wait_for(&r, &r.connected, 1);
	r.inside = true;
	mqtt_disconnect(r.m, true);
	r.inside = false;
	len = read_packet(&r, buf, sizeof(buf));
	ck_assert_uint_eq(buf[0], 0xe0);
	if (_i)
		ck_assert_uint_eq(buf[2], 0x04);
	else
		ck_assert_uint_eq(len, 2);
	wait_for(&r, &r.closed, 1);
	rig_done(&r);
}
END_TEST

/* --- the socket --------------------------------------------------------------------------------
 */

START_TEST(test_progress)
{
	struct mqtt_progress before, after;
	char *payload = malloc(20000001);
	uint8_t buf[500];
	struct rig r;

	rig_init(&r, &v5_params);
	mqtt_get_progress(r.m, &before);
	ck_assert(!before.unsent && before.acked_bytes == 0);
	connect_with(&r, v5_connack, sizeof(v5_connack));
	mqtt_get_progress(r.m, &before);
	ck_assert_uint_gt(before.acked_bytes, 0);
	ck_assert_int_gt(publish(&r, "x", 1, false, NULL, &no_text), 0);
	read_packet(&r, buf, sizeof(buf));
	mqtt_get_progress(r.m, &after);
	for (unsigned i = 0; after.unsent && i < TURNS_MAX; i++) {
		turn(&r);
		mqtt_get_progress(r.m, &after);
	}
	ck_assert_uint_gt(after.acked_bytes, before.acked_bytes);
	ck_assert(!after.unsent);

	/* More than the buffers of both ends hold. */
	ck_assert_ptr_nonnull(payload);
	memset(payload, 'x', 20000000);
	payload[20000000] = '\0';
	ck_assert_int_gt(publish(&r, payload, 1, false, NULL, &no_text), 0);
	free(payload);
	mqtt_get_progress(r.m, &after);
	ck_assert(after.unsent);
	drop(&r);
	mqtt_get_progress(r.m, &after);
	ck_assert(!after.unsent && after.acked_bytes == 0);
	rig_done(&r);
}
END_TEST

/*
 * Each byte of each connection, once: also when one ends, and over all objects that share a
 * counter.
 */
START_TEST(test_traffic)
{
	static const uint8_t puback[] = { 0x40, 2, 0, 1 };
	struct mqtt_params params = _i ? v5_params : v3_params;
	struct mqtt_traffic traffic = { 0 };
	uint8_t buf[2000];
	char payload[1001];
	uint64_t out = 0, in = 0;
	struct rig r;

	memset(payload, 'x', sizeof(payload) - 1);
	payload[sizeof(payload) - 1] = '\0';
	params.traffic = &traffic;
	rig_init(&r, &params);
	for (unsigned round = 0; round < 3; round++) {
		out += begin(&r, buf, sizeof(buf));
		say(&r, _i ? v5_connack : v3_connack, _i ? 5 : 4);
		in += _i ? 5 : 4;
		wait_for(&r, &r.connected, round + 1);
		ck_assert_uint_eq(traffic.in, in);
		ck_assert_uint_eq(traffic.out, out);

		/* What is sent counts at once, or with what comes next. */
		ck_assert_int_gt(publish(&r, payload, 0, false, NULL, &no_text), 0);
		out += read_packet(&r, buf, sizeof(buf));
		mqtt_count_traffic(r.m);
		ck_assert_uint_eq(traffic.out, out);
		if (round == 0) {
			ck_assert_int_gt(publish(&r, payload, 1, false, NULL, &no_text), 0);
			out += read_packet(&r, buf, sizeof(buf));
			((uint8_t *)memcpy(buf, puback, sizeof(puback)))[3] = 2;
			say(&r, buf, sizeof(puback));
			in += sizeof(puback);
		}
		/* It ends with bytes that nobody looked at before; the end is none. */
		say(&r, "\xd0\0", 2);
		in += 2;
		drop(&r);
		ck_assert_uint_eq(traffic.in, in);
		ck_assert_uint_eq(traffic.out, out);
	}
	mqtt_count_traffic(r.m);
	mqtt_count_traffic(NULL);
	rig_done(&r);
	ck_assert_uint_eq(traffic.in, in);
	ck_assert_uint_eq(traffic.out, out);
}
END_TEST

START_TEST(test_refused_port)
{
	struct rig r;

	rig_init(&r, &v5_params);
	close(r.listener);
	r.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	r.inside = true;
	mqtt_connect(r.m, HOST, HOST, r.port, KEEPALIVE);
	r.inside = false;
	wait_for(&r, &r.failed, 1);
	ck_assert_int_eq(r.failure.phase, MQTT_PHASE_TCP);
	ck_assert_int_eq(r.failure.failure.class, FAILURE_TIMEOUT);
	ck_assert_str_eq(r.failure.failure.text, "Connection refused");
	ck_assert(!r.failure.try_other_version);
	rig_done(&r);
}
END_TEST

START_TEST(test_hang_up_before_the_connack)
{
	static const struct linger reset = { .l_onoff = 1 };
	uint8_t buf[200];
	struct rig r;

	rig_init(&r, &v5_params);
	begin(&r, buf, sizeof(buf));
	if (_i)
		ck_assert_int_eq(
			setsockopt(r.peer, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
	hang_up(&r);
	wait_for(&r, &r.failed, 1);
	ck_assert_int_eq(r.failure.phase, MQTT_PHASE_CONNACK);
	ck_assert_int_eq(r.failure.failure.class, FAILURE_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(r.failure.failure.text, "hung up before its CONNACK"));
	ck_assert(r.failure.try_other_version);
	rig_done(&r);
}
END_TEST

/* --- TLS, as far as it needs no certificates
 * ------------------------------------------------------ */

static const struct mqtt_tls plain_tls = {
	.ca_file = "", .ca_path = "", .cert_file = "", .key_file = "", .alpn = "", .insecure = true
};

START_TEST(test_tls_file_that_is_not_there)
{
	struct mqtt_tls tls = plain_tls;
	struct mqtt_params params = v5_params;
	struct rig r;

	tls.insecure = false;
	tls.ca_file = "/nonexistent/ca.pem";
	params.tls = &tls;
	rig_init(&r, &params);
	for (unsigned i = 1; i <= 2; i++) {
		r.inside = true;
		mqtt_connect(r.m, HOST, HOST, r.port, KEEPALIVE);
		r.inside = false;
		wait_for(&r, &r.failed, i);
		ck_assert_int_eq(r.failure.failure.class, FAILURE_PROTOCOL);
		ck_assert_str_eq(r.failure.failure.text,
			"cannot load CA certificates from /nonexistent/ca.pem: No such file or "
			"directory");
		ck_assert(!r.failure.try_other_version);
	}
	rig_done(&r);
}
END_TEST

/* What the peer says to a ClientHello. */
static const struct {
	const char *answer;
	size_t len;
	enum failure_class class;
	const char *text;
} answers[] = {
	{ "", 0, FAILURE_TIMEOUT, "hung up during the TLS handshake" },
	{ "HTTP/1.1 400 Bad Request\r\n", 26, FAILURE_PROTOCOL, "does not speak TLS" },
	{ "\x20\x02\0\x01\x20\x02\0\x01", 8, FAILURE_PROTOCOL, "does not speak TLS" },
	/* A warning about the name, which ends nothing by itself. */
	{ "\x15\x03\x03\0\x02\x01\x70", 7, FAILURE_TIMEOUT, "hung up during the TLS handshake" },
	/* Alerts: handshake failure, protocol version, access denied, internal error. */
	{ "\x15\x03\x03\0\x02\x02\x28", 7, FAILURE_PROTOCOL, "handshake failure" },
	{ "\x15\x03\x03\0\x02\x02\x46", 7, FAILURE_PROTOCOL, "protocol version" },
	{ "\x15\x03\x03\0\x02\x02\x31", 7, FAILURE_AUTH, "access denied" },
	{ "\x15\x03\x03\0\x02\x02\x50", 7, FAILURE_TIMEOUT, "internal error" },
};

START_TEST(test_tls_handshake)
{
	struct mqtt_params params = v5_params;
	uint8_t hello[5];
	struct rig r;

	params.tls = &plain_tls;
	rig_init(&r, &params);
	for (unsigned i = 1; i <= 2; i++) {
		mqtt_connect(r.m, "broker.test", HOST, r.port, KEEPALIVE);
		r.peer = accept(r.listener, NULL, NULL);
		ck_assert_int_ge(r.peer, 0);
		for (unsigned n = 0; n < TURNS_MAX; n++) {
			if (recv(r.peer, hello, 5, MSG_DONTWAIT) == 5)
				break;
			turn(&r);
		}
		ck_assert_uint_eq(hello[0], 0x16);
		say(&r, answers[_i].answer, answers[_i].len);
		shutdown(r.peer, SHUT_WR);
		wait_for(&r, &r.failed, i);
		hang_up(&r);
		ck_assert_int_eq(r.failure.phase, MQTT_PHASE_CONNACK);
		ck_assert_msg(strstr(r.failure.failure.text, answers[_i].text), "%s",
			r.failure.failure.text);
		ck_assert_int_eq(r.failure.failure.class, answers[_i].class);
		ck_assert(!r.failure.try_other_version);
	}
	rig_done(&r);
}
END_TEST

Suite *check_mqtt(void)
{
	Suite *s = suite_create("mqtt");
	TCase *t = tcase_create("limits");

	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_limits_of_each_connection);
	tcase_add_test(t, test_receive_maximum_does_not_stick);
	tcase_add_test(t, test_311_has_no_limits);
	tcase_add_test(t, test_packet_size_to_the_byte);
	suite_add_tcase(s, t);

	t = tcase_create("log");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_pingresp_is_a_sign_of_life, 0, 2);
	tcase_add_test(t, test_ping_is_waited_for);
	tcase_add_test(t, test_unanswered_ping_is_sampled);
	tcase_add_loop_test(t, test_traffic_puts_the_ping_off, 0, 2);
	tcase_add_loop_test(t, test_writing_is_no_answer, 0, 2);
	tcase_add_loop_test(t, test_log_is_listened_to, 0, 2);
	tcase_add_loop_test(t, test_puback_for_qos2, 0, 2);
	tcase_add_test(t, test_other_protocol_error);
	tcase_add_test(t, test_fault_behind_good_packets);
	tcase_add_loop_test(t, test_answers_on_a_busy_line, 0, 2);
	tcase_add_test(t, test_packet_in_pieces);
	suite_add_tcase(s, t);

	t = tcase_create("packets");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_provenance_and_expiry);
	tcase_add_loop_test(t, test_will_and_its_disconnect, 0, 2);
	suite_add_tcase(s, t);

	t = tcase_create("socket");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_progress);
	tcase_add_loop_test(t, test_traffic, 0, 2);
	tcase_add_test(t, test_refused_port);
	tcase_add_loop_test(t, test_hang_up_before_the_connack, 0, 2);
	suite_add_tcase(s, t);

	t = tcase_create("tls");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_tls_file_that_is_not_there);
	tcase_add_loop_test(t, test_tls_handshake, 0, ARRAY_SIZE(answers));
	suite_add_tcase(s, t);
	return s;
}
