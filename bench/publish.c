/* SPDX-License-Identifier: MIT */
/*
 * A bare libmosquitto publisher, without a queue on disk and without anything else to do: what the
 * library and the broker can do at their best.
 *
 *   bench/publish [--qos N] [--window N] [--messages N] [--bytes N] [--rate N] [--timeout S]
 *                 [--provenance] [--skip N] HOST PORT
 *
 * --window is messages in flight, --rate messages a second: a message's time then counts from when
 * it was due. --provenance: MQTT 5, and user properties as the gateway's messages have them.
 * --skip: the rate is that of the messages behind the first N acknowledged ones. The payload opens
 * with a number and a time, for bench/subscribe. Prints JSON; exit status 1 when the connection was
 * lost or nothing was acknowledged for --timeout seconds.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <poll.h>

#define MIDS 65536

struct options {
	const char *host;
	uint64_t port, qos, window, messages, bytes, rate, timeout, skip;
	bool provenance;
};

struct publisher {
	struct options o;
	struct mosquitto *mosq;
	struct bench_times times;
	uint64_t sent_usec[MIDS]; /* by message identifier */
	uint64_t sent, done;
	uint64_t start_usec, moved_usec, counted_usec;
	char *payload;
	bool connected;
};

static void check(int rc)
{
	if (rc != MOSQ_ERR_SUCCESS)
		bench_die(mosquitto_strerror(rc), 0);
}

static void on_connect(struct mosquitto *mosq, void *userdata, int rc)
{
	struct publisher *p = userdata;

	(void)mosq;
	if (rc != 0)
		bench_die(mosquitto_connack_string(rc), 0);
	p->connected = true;
}

static void on_publish(struct mosquitto *mosq, void *userdata, int mid)
{
	struct publisher *p = userdata;
	uint64_t now = now_usec();

	(void)mosq;
	bench_times_add(&p->times, now - u64_min(now, p->sent_usec[mid]));
	p->moved_usec = now;
	if (p->done++ == p->o.skip)
		p->counted_usec = now;
}

static void on_disconnect(struct mosquitto *mosq, void *userdata, int rc)
{
	(void)mosq;
	(void)userdata;
	if (rc != 0)
		bench_die("the connection is lost", 0);
}

static uint64_t due_usec(const struct publisher *p)
{
	return p->o.rate > 0 ? p->start_usec + p->sent * USEC_PER_SEC / p->o.rate : 0;
}

static bool may_publish(const struct publisher *p)
{
	return p->sent < p->o.messages && p->sent - p->done < p->o.window &&
		(p->o.rate == 0 || due_usec(p) <= now_usec());
}

static mosquitto_property *provenance(const struct publisher *p)
{
	mosquitto_property *list = NULL;
	char number[24], msec[24];
	const char *const pairs[][2] = { { "gw-id", "0123456789abcdef0123456789abcdef" },
		{ "gw-queue", "01234567-89ab-cdef-0123-456789abcdef" }, { "gw-seq", number },
		{ "gw-time", msec } };

	snprintf(number, sizeof(number), "%" PRIu64, p->sent);
	snprintf(msec, sizeof(msec), "%" PRIu64, now_usec() / 1000);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		check(mosquitto_property_add_string_pair(
			&list, MQTT_PROP_USER_PROPERTY, pairs[i][0], pairs[i][1]));
	return list;
}

static void publish(struct publisher *p)
{
	mosquitto_property *properties = p->o.provenance ? provenance(p) : NULL;
	uint64_t usec = p->o.rate > 0 ? due_usec(p) : now_usec();
	char topic[40];
	int mid;

	snprintf(topic, sizeof(topic), "sensors/%02u/temperature", (unsigned)(p->sent % 100));
	bench_stamp(p->payload, (uint32_t)p->sent, usec);
	/* With QoS 0 on_publish() comes from inside the call, before the identifier is known. */
	p->sent++;
	check(mosquitto_publish_v5(p->mosq, &mid, topic, (int)p->o.bytes, p->payload, (int)p->o.qos,
		false, properties));
	mosquitto_property_free_all(&properties);
	p->sent_usec[mid] = usec;
}

/* Waits for the socket or the next message's time, and lets the library read and write. */
static void turn(struct publisher *p)
{
	struct pollfd fd = { .fd = mosquitto_socket(p->mosq), .events = POLLIN };
	uint64_t now = now_usec(), until = now + USEC_PER_SEC;
	struct timespec ts;

	if (mosquitto_want_write(p->mosq))
		fd.events |= POLLOUT;
	if (p->connected && p->o.rate > 0 && p->sent < p->o.messages &&
		p->sent - p->done < p->o.window)
		until = u64_max(due_usec(p), now);
	ts = (struct timespec){ .tv_sec = (time_t)((until - now) / USEC_PER_SEC),
		.tv_nsec = (long)((until - now) % USEC_PER_SEC) * 1000 };
	if (ppoll(&fd, 1, &ts, NULL) < 0)
		bench_die("poll", -errno);
	if (fd.revents & (POLLIN | POLLERR | POLLHUP))
		check(mosquitto_loop_read(p->mosq, 1000));
	if (fd.revents & POLLOUT)
		check(mosquitto_loop_write(p->mosq, 1000));
	check(mosquitto_loop_misc(p->mosq));
	if (now_usec() > p->moved_usec + p->o.timeout * USEC_PER_SEC)
		bench_die("nothing moves", -ETIMEDOUT);
}

static void run(struct publisher *p)
{
	p->moved_usec = now_usec();
	check(mosquitto_connect(p->mosq, p->o.host, (int)p->o.port, 600));
	while (!p->connected)
		turn(p);
	p->start_usec = p->moved_usec = p->counted_usec = now_usec();
	while (p->done < p->o.messages) {
		while (may_publish(p))
			publish(p);
		if (p->done < p->o.messages)
			turn(p);
	}
}

static void read_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "qos", required_argument, NULL, 'q' },
		{ "window", required_argument, NULL, 'w' },
		{ "messages", required_argument, NULL, 'm' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "rate", required_argument, NULL, 'r' },
		{ "timeout", required_argument, NULL, 't' },
		{ "provenance", no_argument, NULL, 'p' },
		{ "skip", required_argument, NULL, 's' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'q': o->qos = strcmp(optarg, "0") == 0 ? 0 : bench_number(optarg, 2); break;
		case 'w': o->window = bench_number(optarg, MIDS - 1); break;
		case 'm': o->messages = bench_number(optarg, 1000000000); break;
		case 'b': o->bytes = bench_number(optarg, 100 << 20); break;
		case 'r': o->rate = bench_number(optarg, 10000000); break;
		case 't': o->timeout = bench_number(optarg, 3600); break;
		case 'p': o->provenance = true; break;
		case 's': o->skip = bench_number(optarg, 1000000000); break;
		default: exit(2);
		}
	}
	if (optind + 2 != argc || o->bytes < BENCH_STAMP || o->skip >= o->messages) {
		fprintf(stderr,
			"usage: publish [--qos N] [--window N] [--messages N] [--bytes N]"
			" [--rate N] [--timeout S] [--provenance] [--skip N] HOST PORT\n"
			"at least %d bytes\n",
			BENCH_STAMP);
		exit(2);
	}
	o->host = argv[optind];
	o->port = bench_number(argv[optind + 1], 65535);
}

int main(int argc, char **argv)
{
	static struct publisher p = {
		.o = { .qos = 1, .window = 20, .messages = 100000, .bytes = 200, .timeout = 30 }
	};
	double seconds;

	read_options(&p.o, argc, argv);
	bench_prepare();
	bench_times_init(&p.times, p.o.messages);
	p.payload = malloc(p.o.bytes);
	mosquitto_lib_init();
	p.mosq = mosquitto_new(NULL, true, &p);
	if (!p.payload || !p.mosq)
		bench_die("set up", -ENOMEM);
	memset(p.payload, 'x', p.o.bytes);
	if (p.o.provenance)
		check(mosquitto_int_option(p.mosq, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5));
	check(mosquitto_int_option(p.mosq, MOSQ_OPT_TCP_NODELAY, 1));
	check(mosquitto_max_inflight_messages_set(p.mosq, 0)); /* the window is ours */
	mosquitto_connect_callback_set(p.mosq, on_connect);
	mosquitto_publish_callback_set(p.mosq, on_publish);
	mosquitto_disconnect_callback_set(p.mosq, on_disconnect);
	run(&p);
	seconds = (double)(now_usec() - p.counted_usec) / (double)USEC_PER_SEC;
	printf("{\"messages\": %" PRIu64 ", \"window\": %" PRIu64
	       ", \"seconds\": %.6f, \"rate\": %.1f, ",
		p.done, p.o.window, seconds, (double)(p.done - p.o.skip) / seconds);
	bench_times_print(&p.times, "latency_usec");
	printf("}\n");
	check(mosquitto_disconnect(p.mosq));
	mosquitto_destroy(p.mosq);
	mosquitto_lib_cleanup();
	bench_times_free(&p.times);
	free(p.payload);
	return 0;
}
