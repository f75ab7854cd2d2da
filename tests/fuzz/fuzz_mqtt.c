/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a broker that says anything at all, over a TCP connection of this machine, to the
 * client object and the library in it. The first byte chooses the version, whether an honest
 * CONNACK goes first, what is in flight, and how the bytes are cut. Whatever comes, the object
 * reports no more than one end of a connection, with a text, and can connect again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "fuzz.h"
#include "log.h"
#include "mqtt.h"

#define HOST	      "127.0.0.1"
#define WINDOW	      4
#define PIECE	      7
#define PATIENCE_USEC (4 * USEC_PER_SEC)
#define PIECES	      64 /* that the bytes are cut into, at most */

enum {
	WITH_V5 = 1 << 0,
	WITH_CONNACK = 1 << 1,
	WITH_FLIGHT = 1 << 2,
	IN_PIECES = 1 << 3,
	ENDS = 1 << 4, /* the broker closes behind its last byte */
	AGAIN = 1 << 5, /* a second connection of the same object hears the same */
	CLEAN = 1 << 6,
};

static sd_event *event;
static int listener = -1;
static uint16_t port;

struct side {
	struct mqtt *m;
	int peer;
	unsigned connected, failed, closed;
	unsigned answered;
};

/* libmosquitto loses properties of acknowledgements that it does not know. */
FUZZ_PASS_LEAKS("libmosquitto.so")

/* --- what is told ----------------------------------------------------------------------------- */

static void on_connected(void *userdata, const struct mqtt_limits *limits)
{
	struct side *s = userdata;

	REQUIRE(limits);
	s->connected++;
}

static void on_failed(void *userdata, const struct mqtt_failure *f)
{
	struct side *s = userdata;

	REQUIRE(f->failure.class > FAILURE_NONE && f->failure.class < N_FAILURE_CLASSES);
	REQUIRE(f->failure.text[0]);
	s->failed++;
}

static void on_closed(void *userdata)
{
	struct side *s = userdata;

	s->closed++;
}

static void on_published(void *userdata, uint16_t mid, unsigned reason)
{
	struct side *s = userdata;

	REQUIRE(mid > 0 && reason <= 0xff);
	s->answered++;
}

static const struct mqtt_callbacks callbacks = {
	.connected = on_connected,
	.failed = on_failed,
	.closed = on_closed,
	.published = on_published,
};

/* --- the two ends ------------------------------------------------------------------------------
 */

static void listen_once(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);

	if (listener >= 0)
		return;
	log_set_level(LOG_EMERG);
	mqtt_library_init();
	REQUIRE(sd_event_new(&event) >= 0);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(listener >= 0);
	REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
	REQUIRE(listen(listener, 8) == 0);
	REQUIRE(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
	port = ntohs(address.sin_port);
}

static void complain_of_unrest(void)
{
	fprintf(stderr, "there is no end to what is to be done\n");
	abort();
}

/* Until nothing is left to be done. */
static void settle(struct side *s)
{
	uint8_t heard[4096];
	int r;

	for (unsigned i = 0; i < 1000; i++) {
		r = sd_event_run(event, 0);
		REQUIRE(r >= 0);
		while (recv(s->peer, heard, sizeof(heard), MSG_DONTWAIT) > 0)
			r = 1;
		if (r == 0)
			return;
	}
	complain_of_unrest();
}

static void say(struct side *s, const uint8_t *data, size_t len)
{
	/* Who speaks to one that has gone away is told so. */
	if (len > 0 && send(s->peer, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		REQUIRE(errno == EPIPE || errno == ECONNRESET || errno == EAGAIN);
	settle(s);
}

static void say_all(struct side *s, uint8_t how, const uint8_t *data, size_t size)
{
	size_t piece = how & IN_PIECES ? PIECE : size;

	if (how & IN_PIECES && size > PIECE * PIECES)
		piece = size / PIECES;
	while (size > 0) {
		size_t n = size_min(size, piece);

		say(s, data, n);
		data += n;
		size -= n;
	}
}

static void fly(struct side *s)
{
	const char *text;
	int mid;

	for (unsigned i = 0; i < WINDOW && mqtt_is_up(s->m); i++) {
		const struct message m = { .id = i + 1,
			.topic = "t",
			.topic_len = 1,
			.payload = "x",
			.payload_len = 1,
			.qos = (uint8_t)(i % 3) };

		if (mqtt_publish(s->m, &m, NULL, &mid, &text) < 0)
			REQUIRE(text);
	}
}

static void run_connection(struct side *s, uint8_t how, const uint8_t *data, size_t size)
{
	static const uint8_t connacks[2][5] = { { 0x20, 2, 0, 0 }, { 0x20, 3, 0, 0, 0 } };
	static const struct linger reset = { .l_onoff = 1 };
	unsigned ends = s->failed;

	mqtt_connect(s->m, HOST, HOST, port, 60);
	s->peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	REQUIRE(s->peer >= 0);
	settle(s);
	if (how & WITH_CONNACK)
		say(s, connacks[how & WITH_V5], how & WITH_V5 ? 5 : 4);
	if (how & WITH_FLIGHT)
		fly(s);
	say_all(s, how, data, size);
	if (how & ENDS) {
		shutdown(s->peer, SHUT_WR);
		while (s->failed == ends)
			REQUIRE(sd_event_run(event, PATIENCE_USEC) > 0);
		REQUIRE(s->failed == ends + 1);
	}
	REQUIRE(s->failed <= ends + 1);
	REQUIRE(!mqtt_is_up(s->m) || s->failed == ends);
	/* Without it the port would be lost for a minute. */
	setsockopt(s->peer, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(s->peer);
	mqtt_abort(s->m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mqtt_params params = {
		.client_id = "fuzz", .username = "", .password = "", .keepalive = 60
	};
	struct side s = { .peer = -1 };

	if (size == 0)
		return 0;
	listen_once();
	params.v5 = data[0] & WITH_V5;
	params.clean_session = data[0] & CLEAN;
	REQUIRE(mqtt_new(&s.m, event, &params, &callbacks, &s) == 0);
	run_connection(&s, data[0], data + 1, size - 1);
	if (data[0] & AGAIN)
		run_connection(&s, data[0], data + 1, size - 1);
	mqtt_free(s.m);
	REQUIRE(s.connected <= 2 && s.closed == 0);
	return 0;
}
