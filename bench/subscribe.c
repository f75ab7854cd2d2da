/* SPDX-License-Identifier: MIT */
/*
 * The receiving end: one subscriber of QoS 1 that counts, checks the numbers that bench/feed and
 * bench/publish put into their payloads, and takes the time since they were sent.
 *
 *   bench/subscribe [--messages N] [--plain] [--topic FILTER] HOST PORT
 *
 * Prints {"subscribed": true} when messages can come, and what it saw, as JSON, when N have come or
 * on SIGTERM. --plain: payloads carry no numbers, and are only counted. Times are CLOCK_MONOTONIC
 * of this machine.
 */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <mosquitto.h>
#include <poll.h>
#include <signal.h>

#define MOST 20000000U /* numbers that are looked at */

struct options {
	const char *host, *topic;
	uint64_t port, messages;
	bool plain;
};

struct subscriber {
	struct options o;
	struct mosquitto *mosq;
	struct bench_times times;
	unsigned char *seen; /* a bit a number */
	uint64_t came, distinct, repeated, behind, strange;
	uint64_t next; /* the number behind the highest seen */
	uint64_t first_usec, last_usec;
};

static volatile sig_atomic_t stopped;

static void on_signal(int signo)
{
	(void)signo;
	stopped = 1;
}

static void check(int rc)
{
	if (rc != MOSQ_ERR_SUCCESS)
		bench_die(mosquitto_strerror(rc), 0);
}

static void on_connect(struct mosquitto *mosq, void *userdata, int rc)
{
	struct subscriber *s = userdata;

	if (rc != 0)
		bench_die(mosquitto_connack_string(rc), 0);
	check(mosquitto_subscribe(mosq, NULL, s->o.topic, 1));
}

static void on_subscribe(
	struct mosquitto *mosq, void *userdata, int mid, int qos_count, const int *granted_qos)
{
	(void)mosq;
	(void)userdata;
	(void)mid;
	if (qos_count != 1 || granted_qos[0] != 1)
		bench_die("the subscription was refused", 0);
	printf("{\"subscribed\": true}\n");
	fflush(stdout);
}

static void take_number(struct subscriber *s, uint32_t number)
{
	unsigned char bit = (unsigned char)(1U << number % 8);

	if (number >= MOST) {
		s->strange++;
		return;
	}
	if (s->seen[number / 8] & bit) {
		s->repeated++;
		return;
	}
	s->seen[number / 8] |= bit;
	s->distinct++;
	if (number < s->next)
		s->behind++;
	else
		s->next = number + 1;
}

static void on_message(struct mosquitto *mosq, void *userdata, const struct mosquitto_message *m)
{
	struct subscriber *s = userdata;
	uint64_t now = now_usec(), usec;
	uint32_t number;

	(void)mosq;
	if (s->came++ == 0)
		s->first_usec = now;
	s->last_usec = now;
	if (s->o.plain)
		return;
	if (!bench_read_stamp(m->payload, (size_t)m->payloadlen, &number, &usec)) {
		s->strange++;
		return;
	}
	take_number(s, number);
	bench_times_add(&s->times, now - u64_min(now, usec));
}

static bool is_done(const struct subscriber *s)
{
	return stopped ||
		(s->o.messages > 0 && (s->o.plain ? s->came : s->distinct) >= s->o.messages);
}

static void run(struct subscriber *s)
{
	sigset_t mask, old;

	/* SIGTERM comes only while we wait, so that none is missed. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, &old);
	check(mosquitto_connect(s->mosq, s->o.host, (int)s->o.port, 600));
	while (!is_done(s)) {
		struct pollfd fd = { .fd = mosquitto_socket(s->mosq), .events = POLLIN };

		if (mosquitto_want_write(s->mosq))
			fd.events |= POLLOUT;
		if (ppoll(&fd, 1, &(struct timespec){ .tv_sec = 1 }, &old) < 0 && errno != EINTR)
			bench_die("poll", -errno);
		if (stopped)
			return;
		if (fd.revents & (POLLIN | POLLERR | POLLHUP))
			check(mosquitto_loop_read(s->mosq, 1000));
		if (fd.revents & POLLOUT)
			check(mosquitto_loop_write(s->mosq, 1000));
		check(mosquitto_loop_misc(s->mosq));
	}
}

static void report(struct subscriber *s)
{
	double seconds = (double)(s->last_usec - s->first_usec) / (double)USEC_PER_SEC;

	printf("{\"messages\": %" PRIu64 ", \"distinct\": %" PRIu64 ", \"missing\": %" PRIu64
	       ", \"repeated\": %" PRIu64 ", \"out_of_order\": %" PRIu64 ", \"strange\": %" PRIu64
	       ", \"first_usec\": %" PRIu64 ", \"last_usec\": %" PRIu64
	       ", \"seconds\": %.6f, \"rate\": %.1f, ",
		s->came, s->distinct, s->next - s->distinct, s->repeated, s->behind, s->strange,
		s->first_usec, s->last_usec, seconds,
		seconds > 0 ? (double)(s->came - 1) / seconds : 0.0);
	bench_times_print(&s->times, "latency_usec");
	printf("}\n");
}

static void read_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "messages", required_argument, NULL, 'm' },
		{ "topic", required_argument, NULL, 't' },
		{ "plain", no_argument, NULL, 'p' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'm': o->messages = bench_number(optarg, MOST); break;
		case 't': o->topic = optarg; break;
		case 'p': o->plain = true; break;
		default: exit(2);
		}
	}
	if (optind + 2 != argc) {
		fprintf(stderr,
			"usage: subscribe [--messages N] [--plain] [--topic FILTER]"
			" HOST PORT\n");
		exit(2);
	}
	o->host = argv[optind];
	o->port = bench_number(argv[optind + 1], 65535);
}

int main(int argc, char **argv)
{
	static struct subscriber s = { .o = { .topic = "sensors/#" } };

	read_options(&s.o, argc, argv);
	bench_prepare();
	signal(SIGTERM, on_signal);
	bench_times_init(&s.times, s.o.messages > 0 ? s.o.messages : 1000000);
	s.seen = calloc(MOST / 8, 1);
	mosquitto_lib_init();
	s.mosq = mosquitto_new(NULL, true, &s);
	if (!s.seen || !s.mosq)
		bench_die("set up", -ENOMEM);
	check(mosquitto_int_option(s.mosq, MOSQ_OPT_TCP_NODELAY, 1));
	mosquitto_connect_callback_set(s.mosq, on_connect);
	mosquitto_subscribe_callback_set(s.mosq, on_subscribe);
	mosquitto_message_callback_set(s.mosq, on_message);
	run(&s);
	report(&s);
	mosquitto_disconnect(s.mosq);
	mosquitto_destroy(s.mosq);
	mosquitto_lib_cleanup();
	bench_times_free(&s.times);
	free(s.seen);
	return 0;
}
