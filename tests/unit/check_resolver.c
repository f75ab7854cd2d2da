/* SPDX-License-Identifier: MIT */
/*
 * Tests of the resolver thread. getaddrinfo() is replaced by one that knows a few names of its own,
 * among them one that blocks until it is told to go on; look-ups of SRV records go to a scripted
 * name server, or to a real dnsmasq, both on the loopback interface. Everything else is the C
 * library's.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>

#include "nameserver.h"
#include "resolver.h"
#include "resolver_srv.h"
#include "scratch.h"
#include "suites.h"

#define DEADLINE (60 * USEC_PER_SEC)

static sem_t slow_entered; /* a look-up of "slow" has begun */
static sem_t slow_may_end;
static sem_t slow_ended;
static atomic_int lookups;

typedef int (*getaddrinfo_fn)(
	const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int real_getaddrinfo(const char *host, const struct addrinfo *hints, struct addrinfo **ret)
{
	static _Atomic getaddrinfo_fn real;
	getaddrinfo_fn fn = real;

	if (!fn) {
		fn = (getaddrinfo_fn)(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
		real = fn;
	}
	return fn(host, NULL, hints, ret);
}

/* A list of twelve, in a known order. */
static int twelve(const struct addrinfo *hints, struct addrinfo **ret)
{
	struct addrinfo **end = ret;

	for (int i = 1; i <= 12; i++) {
		char host[40];

		snprintf(host, sizeof(host), "192.0.2.%d", i);
		if (real_getaddrinfo(host, hints, end) != 0)
			return EAI_FAIL;
		end = &(*end)->ai_next;
	}
	return 0;
}

int getaddrinfo(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
	(void)service;
	atomic_fetch_add(&lookups, 1);
	if (streq(host, "twelve"))
		return twelve(hints, ret);
	if (streq(host, "system")) {
		errno = ENETDOWN;
		return EAI_SYSTEM;
	}
	if (streq(host, "slow")) {
		int r;

		sem_post(&slow_entered);
		while (sem_wait(&slow_may_end) < 0)
			;
		r = real_getaddrinfo("192.0.2.99", hints, ret);
		sem_post(&slow_ended);
		return r;
	}
	return real_getaddrinfo(host, hints, ret);
}

/* --- helpers --------------------------------------------------------------------------------- */

static sd_event *event;
static struct resolver *resolver;
static unsigned answers;
static struct resolver_result answer;

static void on_answer(void *userdata, const struct resolver_result *result)
{
	ck_assert_ptr_eq(userdata, &answers);
	answers++;
	answer = *result;
}

static void setup(void)
{
	/* A name server that does not answer must not hold up the tests. */
	setenv("RES_OPTIONS", "timeout:1 attempts:1", 1);
	setenv("LOCALDOMAIN", "", 1);
	sem_init(&slow_entered, 0, 0);
	sem_init(&slow_may_end, 0, 0);
	sem_init(&slow_ended, 0, 0);
	atomic_store(&lookups, 0);
	answers = 0;
	ck_assert_int_ge(sd_event_new(&event), 0);
	ck_assert_int_eq(resolver_new(&resolver, event, on_answer, &answers), 0);
}

static void teardown(void)
{
	resolver = resolver_free(resolver);
	ck_assert_ptr_null(resolver);
	event = sd_event_unref(event);
}

/* Runs the loop until `n` answers came. */
static void run_until(unsigned n)
{
	uint64_t deadline = now_usec() + DEADLINE;

	while (answers < n && now_usec() < deadline)
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(answers, n);
}

static void look_up(const char *host)
{
	unsigned n = answers;

	ck_assert_int_eq(resolver_lookup(resolver, host), 0);
	run_until(n + 1);
}

static void wait_sem(sem_t *s)
{
	while (sem_wait(s) < 0)
		;
}

/* What is dispatched now, and nothing that would have to be waited for. */
static void run_what_is_ready(void)
{
	int r;

	do {
		r = sd_event_run(event, 0);
		ck_assert_int_ge(r, 0);
	} while (r > 0);
}

/* Waits until something is ready to be dispatched, and dispatches nothing. */
static void wait_until_ready(void)
{
	struct pollfd p = { .fd = sd_event_get_fd(event), .events = POLLIN };

	ck_assert_int_eq(sd_event_prepare(event), 0);
	ck_assert_int_eq(poll(&p, 1, (int)(DEADLINE / USEC_PER_MSEC)), 1);
}

static void dispatch(void)
{
	ck_assert_int_gt(sd_event_wait(event, 0), 0);
	ck_assert_int_ge(sd_event_dispatch(event), 0);
	run_what_is_ready();
}

/* --- answers --------------------------------------------------------------------------------- */

static const struct {
	const char *host, *address;
} numeric[] = {
	{ "127.0.0.1", "127.0.0.1" }, { "192.0.2.17", "192.0.2.17" }, { "::1", "::1" },
	{ "2001:db8:0:0::1", "2001:db8::1" }, { "::ffff:192.0.2.1", "::ffff:192.0.2.1" },
	{ "fe80::1%lo", "fe80::1%lo" }, /* the scope stays, or it could not be reached */
};

START_TEST(test_numeric)
{
	look_up(numeric[_i].host);
	ck_assert_int_eq(answer.error, 0);
	ck_assert_str_eq(answer.text, "");
	ck_assert_uint_eq(answer.n, 1);
	ck_assert_str_eq(answer.addresses[0], numeric[_i].address);
}
END_TEST

START_TEST(test_localhost)
{
	look_up("localhost");
	ck_assert_int_eq(answer.error, 0);
	ck_assert_uint_ge(answer.n, 1);
	for (size_t i = 0; i < answer.n; i++)
		ck_assert(streq(answer.addresses[i], "127.0.0.1") ||
			streq(answer.addresses[i], "::1"));
}
END_TEST

START_TEST(test_more_addresses_than_fit)
{
	look_up("twelve");
	ck_assert_int_eq(answer.error, 0);
	ck_assert_uint_eq(answer.n, RESOLVER_MAX_ADDRESSES);
	for (unsigned i = 0; i < RESOLVER_MAX_ADDRESSES; i++) {
		char expected[40];

		snprintf(expected, sizeof(expected), "192.0.2.%u", i + 1);
		ck_assert_str_eq(answer.addresses[i], expected);
	}
}
END_TEST

START_TEST(test_no_such_name)
{
	look_up("no-such-broker.invalid");
	ck_assert_int_ne(answer.error, 0);
	ck_assert_uint_eq(answer.n, 0);
	ck_assert_str_eq(answer.text, gai_strerror(answer.error));
}
END_TEST

/* The system's own word says more than "System error". */
START_TEST(test_system_error)
{
	look_up("system");
	ck_assert_int_eq(answer.error, EAI_SYSTEM);
	ck_assert_str_eq(answer.text, strerrordesc_np(ENETDOWN));
}
END_TEST

START_TEST(test_one_after_the_other)
{
	for (int i = 0; i < 20; i++) {
		look_up("twelve");
		ck_assert_uint_eq(answer.n, RESOLVER_MAX_ADDRESSES);
		look_up("system");
		ck_assert_uint_eq(answer.n, 0);
		look_up("::1");
		ck_assert_uint_eq(answer.n, 1);
		ck_assert_int_eq(answer.error, 0);
	}
}
END_TEST

/* --- questions that are overtaken ------------------------------------------------------------ */

START_TEST(test_later_question_replaces)
{
	ck_assert_int_eq(resolver_lookup(resolver, "slow"), 0);
	wait_sem(&slow_entered);
	ck_assert_int_eq(resolver_lookup(resolver, "192.0.2.1"), 0);
	ck_assert_int_eq(resolver_lookup(resolver, "192.0.2.2"), 0);
	sem_post(&slow_may_end);
	run_until(1);
	ck_assert_str_eq(answer.addresses[0], "192.0.2.2");
	/* The one in the middle was never looked up. */
	ck_assert_int_eq(atomic_load(&lookups), 2);
	run_what_is_ready();
	ck_assert_uint_eq(answers, 1);
}
END_TEST

/* The same, with the first answer there already and not yet taken. */
START_TEST(test_answer_that_comes_too_late)
{
	ck_assert_int_eq(resolver_lookup(resolver, "192.0.2.4"), 0);
	wait_until_ready();
	ck_assert_int_eq(resolver_lookup(resolver, "slow"), 0);
	dispatch();
	ck_assert_uint_eq(answers, 0);
	sem_post(&slow_may_end);
	run_until(1);
	ck_assert_str_eq(answer.addresses[0], "192.0.2.99");
}
END_TEST

START_TEST(test_cancel)
{
	ck_assert_int_eq(resolver_lookup(resolver, "slow"), 0);
	wait_sem(&slow_entered);
	resolver_cancel(resolver);
	sem_post(&slow_may_end);
	wait_until_ready();
	dispatch();
	ck_assert_uint_eq(answers, 0);
	look_up("192.0.2.5");
	ck_assert_str_eq(answer.addresses[0], "192.0.2.5");
	ck_assert_uint_eq(answers, 1);
}
END_TEST

START_TEST(test_cancel_of_an_answer_that_is_there)
{
	ck_assert_int_eq(resolver_lookup(resolver, "192.0.2.4"), 0);
	wait_until_ready();
	resolver_cancel(resolver);
	dispatch();
	ck_assert_uint_eq(answers, 0);
	look_up("::1");
	ck_assert_uint_eq(answers, 1);
}
END_TEST

START_TEST(test_cancel_of_nothing)
{
	resolver_cancel(resolver);
	resolver_cancel(resolver);
	look_up("127.0.0.1");
	resolver_cancel(resolver);
	look_up("::1");
	ck_assert_str_eq(answer.addresses[0], "::1");
}
END_TEST

START_TEST(test_free_during_a_look_up)
{
	uint64_t begin = now_usec();

	ck_assert_int_eq(resolver_lookup(resolver, "slow"), 0);
	wait_sem(&slow_entered);
	ck_assert_int_eq(resolver_lookup(resolver, "192.0.2.1"), 0);
	resolver = resolver_free(resolver);
	ck_assert_uint_lt(now_usec() - begin, DEADLINE); /* it did not wait for us */
	sem_post(&slow_may_end);
	wait_sem(&slow_ended);
	run_what_is_ready();
	ck_assert_uint_eq(answers, 0);
}
END_TEST

static void free_on_answer(void *userdata, const struct resolver_result *result)
{
	(void)userdata;
	answers++;
	answer = *result;
	resolver = resolver_free(resolver);
}

START_TEST(test_free_in_the_callback)
{
	resolver_free(resolver);
	ck_assert_int_eq(resolver_new(&resolver, event, free_on_answer, NULL), 0);
	ck_assert_int_eq(resolver_lookup(resolver, "127.0.0.1"), 0);
	run_until(1);
	ck_assert_ptr_null(resolver);
}
END_TEST

static void ask_on_answer(void *userdata, const struct resolver_result *result)
{
	(void)userdata;
	answer = *result;
	if (++answers < 5)
		ck_assert_int_eq(resolver_lookup(resolver, "127.0.0.1"), 0);
}

START_TEST(test_ask_in_the_callback)
{
	resolver_free(resolver);
	ck_assert_int_eq(resolver_new(&resolver, event, ask_on_answer, NULL), 0);
	ck_assert_int_eq(resolver_lookup(resolver, "::1"), 0);
	run_until(5);
	ck_assert_str_eq(answer.addresses[0], "127.0.0.1");
}
END_TEST

START_TEST(test_free_unused)
{
	ck_assert_ptr_null(resolver_free(NULL));
	for (int i = 0; i < 50; i++) {
		struct resolver *r;

		ck_assert_int_eq(resolver_new(&r, event, on_answer, &answers), 0);
		if (i % 2)
			ck_assert_int_eq(resolver_lookup(r, "127.0.0.1"), 0);
		resolver_free(r);
	}
	run_what_is_ready();
	ck_assert_uint_eq(answers, 0);
}
END_TEST

/* --- order (RFC 2782) ------------------------------------------------------------------------ */

/* Chances in the order in which they are drawn. */
struct script {
	const double *chances;
	size_t n, used;
};

static double draw_script(void *userdata)
{
	struct script *script = userdata;

	ck_assert_uint_lt(script->used, script->n);
	return script->chances[script->used++];
}

static double draw_chance(void *userdata)
{
	return (double)(scratch_random(userdata) >> 11) * 0x1p-53;
}

/* A service is "PRIORITY WEIGHT HOST"; the answer is the hosts. */
static const struct {
	const char *services;
	double chances[8];
	size_t n_chances;
	const char *order;
} orders[] = {
	{ "", { 0 }, 0, "" },
	{ "5 0 a", { 0 }, 0, "a" },
	/* Priorities alone need no chance. */
	{ "30 0 c, 10 0 a, 20 9 b", { 0 }, 0, "abc" },
	{ "65535 0 b, 0 0 a", { 0 }, 0, "ab" },
	/* Of 10 and 30, numbers 0 to 40: 0 to 10 are a's. */
	{ "1 10 a, 1 30 b", { 0.0 }, 1, "ab" },
	{ "1 10 a, 1 30 b", { 10.9 / 41 }, 1, "ab" },
	{ "1 10 a, 1 30 b", { 11.1 / 41 }, 1, "ba" },
	{ "1 10 a, 1 30 b", { 0.9999999 }, 1, "ba" },
	/* Three: the second choice is among the rest, in the order they have. */
	{ "1 10 a, 1 10 b, 1 10 c", { 0.99, 0.0 }, 2, "cab" },
	{ "1 10 a, 1 10 b, 1 10 c", { 0.5, 0.99 }, 2, "bca" },
	{ "1 10 a, 1 10 b, 1 10 c", { 0.0, 0.0 }, 2, "abc" },
	/* Weight 0 stands in front, and has one number: 0. */
	{ "1 10 a, 1 0 z", { 0.0 }, 1, "za" },
	{ "1 10 a, 1 0 z", { 0.9 / 11 }, 1, "za" },
	{ "1 10 a, 1 0 z", { 1.1 / 11 }, 1, "az" },
	{ "1 5 a, 1 0 y, 1 5 b, 1 0 z", { 0.0, 0.0, 0.0 }, 3, "yzab" },
	{ "1 5 a, 1 0 y, 1 5 b, 1 0 z", { 0.99, 0.99, 0.0 }, 3, "bayz" },
	{ "1 0 a, 1 0 b", { 0.7 }, 1, "ab" },
	/* A chance is drawn for each priority by itself. */
	{ "2 1 c, 1 1 a, 2 1 d, 1 1 b", { 0.9, 0.0 }, 2, "bacd" },
	{ "1 65535 a, 1 65535 b", { 0.6 }, 1, "ba" },
};

static size_t read_services(const char *text, struct resolver_service *services)
{
	size_t n = 0;
	int used = 0;

	for (; *text; text += used + strspn(text + used, ", ")) {
		unsigned priority, weight;
		char host;

		ck_assert_int_eq(sscanf(text, "%u %u %c%n", &priority, &weight, &host, &used), 3);
		services[n++] = (struct resolver_service){
			.priority = (uint16_t)priority,
			.weight = (uint16_t)weight,
			.port = 1883,
			.host = { host },
		};
	}
	return n;
}

START_TEST(test_order)
{
	struct resolver_service services[RESOLVER_MAX_SERVICES];
	struct script script = { orders[_i].chances, orders[_i].n_chances, 0 };
	size_t n = read_services(orders[_i].services, services);
	char order[RESOLVER_MAX_SERVICES + 1] = "";

	resolver_order(services, n, draw_script, &script);
	for (size_t i = 0; i < n; i++)
		order[i] = services[i].host[0];
	ck_assert_str_eq(order, orders[_i].order);
	ck_assert_uint_eq(script.used, script.n);
}
END_TEST

/* How often each comes first is as its weight, and the weights of the rest decide what is next. */
START_TEST(test_order_is_by_weight)
{
	enum { ROUNDS = 20000 };
	static const char *const text = "1 10 a, 1 20 b, 1 0 z, 1 70 c";
	unsigned first[256] = { 0 }, second_after_c[256] = { 0 };
	uint64_t state = 1;

	for (int i = 0; i < ROUNDS; i++) {
		struct resolver_service services[4];

		resolver_order(services, read_services(text, services), draw_chance, &state);
		first[(uint8_t)services[0].host[0]]++;
		if (services[0].host[0] == 'c')
			second_after_c[(uint8_t)services[1].host[0]]++;
	}
	/* Numbers 0 to 100: one is z's, the rest is by weight. Within a tenth of what is due. */
	ck_assert_uint_ge(first['z'], 100);
	ck_assert_uint_le(first['z'], 300);
	ck_assert_uint_ge(first['a'], ROUNDS * 9 / 101);
	ck_assert_uint_le(first['a'], ROUNDS * 11 / 101);
	ck_assert_uint_ge(first['b'], ROUNDS * 18 / 101);
	ck_assert_uint_le(first['b'], ROUNDS * 22 / 101);
	ck_assert_uint_ge(first['c'], ROUNDS * 63 / 101);
	ck_assert_uint_le(first['c'], ROUNDS * 77 / 101);
	/* 0 to 30 then, of 10 and 20. */
	ck_assert_uint_ge(second_after_c['b'], first['c'] * 18 / 31);
	ck_assert_uint_le(second_after_c['b'], first['c'] * 22 / 31);
}
END_TEST

/* --- what an answer says --------------------------------------------------------------------- */

static const uint8_t question[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
				  "\x05_mqtt\x04_tcp\x04test\x00\x00\x21\x00\x01";
/* Without the 0 that ends the string. */
#define QUESTION_SIZE (sizeof(question) - 1)

static void parse(const uint8_t *message, size_t n, struct resolver_services *ret)
{
	/* At the end of a block of its own, so that a byte too far is found out. */
	uint8_t *copy = malloc(n ? n : 1);
	uint64_t state = 1;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, message, n);
	memset(ret, 0xff, sizeof(*ret));
	resolver_srv_parse(copy, n, draw_chance, &state, ret);
	free(copy);
}

static size_t build(uint8_t *message, const struct nameserver_record *records, size_t n)
{
	struct nameserver_answer a = { .records = records, .n = n };

	return nameserver_build(message, question, QUESTION_SIZE, &a);
}

static const struct nameserver_record three[] = {
	{ 300, 20, 0, 8883, "backup.example.net" },
	{ 60, 10, 5, 1883, "b1.example.net" },
	{ 900, 10, 0, 1884, "b2.example.net" },
};

START_TEST(test_parse)
{
	struct resolver_services got;
	uint8_t message[2000];

	parse(message, build(message, three, ARRAY_SIZE(three)), &got);
	ck_assert_int_eq(got.error, 0);
	ck_assert_str_eq(got.text, "");
	ck_assert_uint_eq(got.ttl, 60);
	ck_assert_uint_eq(got.n, 3);
	ck_assert_uint_eq(got.services[0].priority, 10);
	ck_assert_uint_eq(got.services[2].priority, 20);
	ck_assert_uint_eq(got.services[2].port, 8883);
	ck_assert_str_eq(got.services[2].host, "backup.example.net");
}
END_TEST

/* What cannot be connected to is passed over; the reason is told when nothing is left. */
static const struct {
	struct nameserver_record records[3];
	size_t n, n_expected;
	int error;
	const char *text;
} fits[] = {
	{ { { 1, 1, 1, 1883, "." } }, 1, 0, EAI_NONAME, "decidedly not available" },
	{ { { 1, 1, 1, 0, "." } }, 1, 0, EAI_NONAME, "decidedly not available" },
	{ { { 1, 1, 1, 0, "a" } }, 1, 0, EAI_FAIL, "no SRV record names a host and a port" },
	{ { { 1, 1, 1, 1883, "a b" } }, 1, 0, EAI_FAIL, "no SRV record names" },
	{ { { 1, 1, 1, 1883, "-a" } }, 1, 0, EAI_FAIL, "no SRV record names" },
	{ { { 1, 1, 1, 1883, "a\n" } }, 1, 0, EAI_FAIL, "no SRV record names" },
	{ { { 1, 1, 1, 1883, "." }, { 1, 1, 1, 1883, "a" } }, 2, 1, 0, "" },
	{ { { 1, 1, 1, 0, "b" }, { 1, 1, 1, 1883, "a" } }, 2, 1, 0, "" },
	{ { { 1, 1, 1, 1883, "broker_1.docker" } }, 1, 1, 0, "" },
	{ { { 0 } }, 0, 0, EAI_NONAME, "the name has no SRV records" },
};

START_TEST(test_parse_what_fits)
{
	struct resolver_services got;
	uint8_t message[2000];

	parse(message, build(message, fits[_i].records, fits[_i].n), &got);
	ck_assert_int_eq(got.error, fits[_i].error);
	ck_assert_uint_eq(got.n, fits[_i].n_expected);
	ck_assert_msg(strstr(got.text, fits[_i].text), "%s", got.text);
}
END_TEST

/* RFC 2181, section 8. */
START_TEST(test_parse_ttl_with_the_first_bit_set)
{
	static const struct nameserver_record r = { 0x80000001, 1, 1, 1883, "a" };
	struct resolver_services got;
	uint8_t message[2000];

	parse(message, build(message, &r, 1), &got);
	ck_assert_int_eq(got.error, 0);
	ck_assert_uint_eq(got.ttl, 0);
}
END_TEST

/* The best ones stay. */
START_TEST(test_parse_more_than_fit)
{
	struct nameserver_record many[40];
	struct resolver_services got;
	uint8_t message[4000];

	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct nameserver_record){ 1, (uint16_t)(100 - i), 1,
			(uint16_t)(1000 + i), "a" };
	parse(message, build(message, many, ARRAY_SIZE(many)), &got);
	ck_assert_uint_eq(got.n, RESOLVER_MAX_SERVICES);
	for (unsigned i = 0; i < RESOLVER_MAX_SERVICES; i++)
		ck_assert_uint_eq(got.services[i].port, 1000 + ARRAY_SIZE(many) - 1 - i);
}
END_TEST

START_TEST(test_parse_cut_short)
{
	struct resolver_services got;
	uint8_t message[2000];
	size_t n = build(message, three, ARRAY_SIZE(three));

	for (size_t i = 0; i < n; i++) {
		parse(message, i, &got);
		ck_assert_int_eq(got.error, EAI_FAIL);
		ck_assert_ptr_nonnull(strstr(got.text, "malformed"));
		ck_assert_uint_eq(got.n, 0);
	}
}
END_TEST

/* Whatever comes, the answer is in order: nothing is read beyond the end (a sanitizer and valgrind
 * see that), and what is told can be used. */
START_TEST(test_parse_damaged)
{
	uint8_t whole[2000];
	size_t n = build(whole, three, ARRAY_SIZE(three));
	uint64_t state = 7;

	for (int i = 0; i < 20000; i++) {
		struct resolver_services got;
		uint8_t message[2000];

		memcpy(message, whole, n);
		for (int k = 0; k < 1 + i % 4; k++)
			message[scratch_random(&state) % n] = (uint8_t)scratch_random(&state);
		parse(message, n, &got);
		ck_assert_uint_le(got.n, RESOLVER_MAX_SERVICES);
		ck_assert((got.error == 0) == (got.n > 0));
		ck_assert((got.error == 0) == (got.text[0] == '\0'));
		for (size_t s = 0; s < got.n; s++) {
			ck_assert_uint_ne(got.services[s].port, 0);
			ck_assert_uint_gt(strnlen(got.services[s].host, 256), 0);
			ck_assert_uint_lt(strnlen(got.services[s].host, 256), 256);
		}
	}
}
END_TEST

/* Bytes at the last record's data: lengths that lie, a name that runs out, a pointer in a circle.
 */
static const struct {
	int at; /* from the end, from 1 */
	uint8_t bytes[2];
	int n;
} lies[] = {
	{ 16, { 0x3f }, 1 }, /* the first label goes on beyond the end */
	{ 1, { 0x05 }, 1 }, /* the name has no end */
	{ 16, { 0xff, 0xff }, 2 }, /* a pointer beyond the end */
	{ 24, { 0x00, 0x06 }, 2 }, /* the data's length: no name */
	{ 24, { 0x00, 0x00 }, 2 },
	{ 24, { 0x00, 0x05 }, 2 },
	{ 24, { 0xff, 0xff }, 2 },
};

START_TEST(test_parse_lies)
{
	struct resolver_services got;
	uint8_t message[2000];
	size_t n = build(message, three, ARRAY_SIZE(three));

	memcpy(message + n - lies[_i].at, lies[_i].bytes, (size_t)lies[_i].n);
	parse(message, n, &got);
	ck_assert_int_eq(got.error, EAI_FAIL);
	ck_assert_msg(strstr(got.text, "malformed"), "%s", got.text);
}
END_TEST

START_TEST(test_parse_pointer_in_a_circle)
{
	struct resolver_services got;
	uint8_t message[2000];
	size_t n = build(message, three, ARRAY_SIZE(three));
	size_t at = n - 16;

	message[at] = (uint8_t)(0xc0 | at >> 8);
	message[at + 1] = (uint8_t)at;
	parse(message, n, &got);
	ck_assert_int_eq(got.error, EAI_FAIL);
}
END_TEST

/* --- SRV records of a name server ------------------------------------------------------------ */

static unsigned services_answers;
static struct resolver_services services;

static void on_services(void *userdata, const struct resolver_services *result)
{
	ck_assert_ptr_eq(userdata, &answers);
	services_answers++;
	services = *result;
}

static void setup_services(void)
{
	setup();
	services_answers = 0;
	nameserver_start();
}

static void teardown_services(void)
{
	nameserver_stop();
	teardown();
}

static void run_until_services(unsigned n)
{
	uint64_t deadline = now_usec() + DEADLINE;

	while (services_answers < n && now_usec() < deadline)
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(services_answers, n);
}

static void look_up_services(const char *name)
{
	unsigned n = services_answers;

	ck_assert_int_eq(resolver_lookup_services(resolver, name, on_services), 0);
	run_until_services(n + 1);
}

START_TEST(test_services)
{
	nameserver_set(&(struct nameserver_answer){ .records = three, .n = 3 });
	look_up_services("_mqtt._tcp.example.net");
	ck_assert_str_eq(services.text, "");
	ck_assert_int_eq(services.error, 0);
	ck_assert_uint_eq(services.n, 3);
	ck_assert_uint_eq(services.ttl, 60);
	ck_assert_str_eq(services.services[2].host, "backup.example.net");
	ck_assert_uint_eq(nameserver_questions_tcp(), 0);
}
END_TEST

START_TEST(test_services_by_tcp)
{
	nameserver_set(
		&(struct nameserver_answer){ .records = three, .n = 3, .udp_truncated = true });
	look_up_services("_mqtt._tcp.example.net");
	ck_assert_int_eq(services.error, 0);
	ck_assert_uint_eq(services.n, 3);
	ck_assert_uint_eq(nameserver_questions_tcp(), 1);
}
END_TEST

static const struct {
	struct nameserver_answer answer;
	int error;
	const char *text;
} failures[] = {
	{ { .rcode = 3 }, EAI_NONAME, "there is no such name" },
	{ { .rcode = 0 }, EAI_NONAME, "the name has no SRV records" },
	{ { .rcode = 2 }, EAI_AGAIN, "SERVFAIL" },
	{ { .rcode = 5 }, EAI_FAIL, "REFUSED" },
	{ { .silent = true }, EAI_AGAIN, "no answer from a name server" },
};

START_TEST(test_services_failures)
{
	nameserver_set(&failures[_i].answer);
	look_up_services("_mqtt._tcp.example.net");
	ck_assert_int_eq(services.error, failures[_i].error);
	ck_assert_msg(strstr(services.text, failures[_i].text), "%s", services.text);
	ck_assert_uint_eq(services.n, 0);
}
END_TEST

START_TEST(test_services_nobody_listens)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t n = sizeof(a);
	_cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* Bound for TCP: nothing else of this program takes the UDP port of the same number. */
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, n), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	nameserver_use(ntohs(a.sin_port));
	look_up_services("_mqtt._tcp.example.net");
	ck_assert_int_eq(services.error, EAI_AGAIN);
	ck_assert_msg(strstr(services.text, "no answer from a name server"), "%s", services.text);
}
END_TEST

START_TEST(test_services_of_no_name)
{
	char name[400];

	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	look_up_services(name);
	ck_assert_int_eq(services.error, EAI_FAIL);
	ck_assert_uint_eq(nameserver_questions(), 0);
}
END_TEST

/* Either kind of look-up forgets the one before, of whichever kind. */
START_TEST(test_services_and_addresses)
{
	nameserver_set(&(struct nameserver_answer){ .records = three, .n = 3 });
	ck_assert_int_eq(resolver_lookup(resolver, "slow"), 0);
	wait_sem(&slow_entered);
	ck_assert_int_eq(
		resolver_lookup_services(resolver, "_mqtt._tcp.example.net", on_services), 0);
	sem_post(&slow_may_end);
	run_until_services(1);
	ck_assert_uint_eq(answers, 0);
	ck_assert_int_eq(
		resolver_lookup_services(resolver, "_mqtt._tcp.example.net", on_services), 0);
	look_up("192.0.2.8");
	ck_assert_str_eq(answer.addresses[0], "192.0.2.8");
	run_what_is_ready();
	ck_assert_uint_eq(services_answers, 1);
	resolver_cancel(resolver);
	look_up_services("_mqtt._tcp.example.net");
	ck_assert_uint_eq(services.n, 3);
}
END_TEST

/* --- a thread only where there is a question ------------------------------------------------- */

static unsigned n_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

START_TEST(test_thread_starts_with_the_first_question)
{
	/* Threads of earlier tests may still be about to end. */
	unsigned before = n_threads();
	struct resolver *other;

	ck_assert_int_eq(resolver_new(&other, event, on_answer, &answers), 0);
	run_what_is_ready();
	ck_assert_uint_le(n_threads(), before);
	ck_assert_int_eq(resolver_lookup(resolver, "slow"), 0);
	wait_sem(&slow_entered);
	sem_post(&slow_may_end);
	run_until(1);
	resolver_free(other);
}
END_TEST

/* --- a real name server ---------------------------------------------------------------------- */

static pid_t dnsmasq;

static uint16_t free_port(void)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t n = sizeof(a);
	_cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, n), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	return ntohs(a.sin_port);
}

static const char *dnsmasq_path(void)
{
	static const char *const paths[] = { "/usr/sbin/dnsmasq", "/usr/bin/dnsmasq" };

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		if (access(paths[i], X_OK) == 0)
			return paths[i];
	return NULL;
}

static void start_dnsmasq(const char *path, uint16_t port)
{
	extern char **environ;
	char port_option[32];
	char *argv[] = { (char *)path, "--keep-in-foreground", "--conf-file=/dev/null",
		"--pid-file=", "--user=", "--group=", "--listen-address=127.0.0.1",
		"--bind-interfaces", "--no-resolv", "--no-hosts", "--local=/test/",
		"--local-ttl=77", port_option,
		"--srv-host=_mqtt._tcp.one.test,b1.one.test,1883,10,5",
		"--srv-host=_mqtt._tcp.one.test,b2.one.test,1884,20,0",
		"--srv-host=_mqtt._tcp.none.test", "--txt-record=text.test,hello", NULL };

	snprintf(port_option, sizeof(port_option), "--port=%u", port);
	ck_assert_int_eq(posix_spawn(&dnsmasq, path, NULL, NULL, argv, environ), 0);
}

static void end_dnsmasq(void)
{
	nameserver_use(0);
	if (dnsmasq > 0) {
		kill(dnsmasq, SIGTERM);
		ck_assert_int_eq(waitpid(dnsmasq, NULL, 0), dnsmasq);
	}
	dnsmasq = 0;
}

START_TEST(test_dnsmasq)
{
	const char *path = dnsmasq_path();
	uint64_t deadline = now_usec() + DEADLINE;
	uint16_t port = free_port();

	if (!path) {
		fprintf(stderr,
			"NOT TESTED: SRV records of a real name server; there is no "
			"dnsmasq\n");
		return;
	}
	services_answers = 0;
	start_dnsmasq(path, port);
	nameserver_use(port);
	do
		look_up_services("_mqtt._tcp.one.test");
	while (services.error == EAI_AGAIN && now_usec() < deadline);
	ck_assert_str_eq(services.text, "");
	ck_assert_uint_eq(services.n, 2);
	ck_assert_str_eq(services.services[0].host, "b1.one.test");
	ck_assert_uint_eq(services.services[0].port, 1883);
	ck_assert_uint_eq(services.services[0].weight, 5);
	ck_assert_str_eq(services.services[1].host, "b2.one.test");
	ck_assert_uint_eq(services.services[1].priority, 20);
	ck_assert_uint_eq(services.ttl, 77);
	look_up_services("_mqtt._tcp.none.test");
	ck_assert_int_ne(services.error, 0);
	ck_assert_msg(strstr(services.text, "decidedly not available"), "%s", services.text);
	look_up_services("text.test");
	ck_assert_int_eq(services.error, EAI_NONAME);
	ck_assert_str_eq(services.text, "the name has no SRV records");
	look_up_services("_mqtt._tcp.nobody.test");
	ck_assert_int_eq(services.error, EAI_NONAME);
	ck_assert_str_eq(services.text, "there is no such name");
}
END_TEST

Suite *check_resolver(void)
{
	Suite *s = suite_create("resolver");
	TCase *t = tcase_create("answers");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_numeric, 0, ARRAY_SIZE(numeric));
	tcase_add_test(t, test_localhost);
	tcase_add_test(t, test_more_addresses_than_fit);
	tcase_add_test(t, test_no_such_name);
	tcase_add_test(t, test_system_error);
	tcase_add_test(t, test_one_after_the_other);
	suite_add_tcase(s, t);

	t = tcase_create("overtaken");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_later_question_replaces);
	tcase_add_test(t, test_answer_that_comes_too_late);
	tcase_add_test(t, test_cancel);
	tcase_add_test(t, test_cancel_of_an_answer_that_is_there);
	tcase_add_test(t, test_cancel_of_nothing);
	tcase_add_test(t, test_free_during_a_look_up);
	tcase_add_test(t, test_free_in_the_callback);
	tcase_add_test(t, test_ask_in_the_callback);
	tcase_add_test(t, test_free_unused);
	tcase_add_test(t, test_thread_starts_with_the_first_question);
	suite_add_tcase(s, t);

	t = tcase_create("order");
	tcase_add_loop_test(t, test_order, 0, ARRAY_SIZE(orders));
	tcase_add_test(t, test_order_is_by_weight);
	suite_add_tcase(s, t);

	t = tcase_create("parse");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_parse);
	tcase_add_loop_test(t, test_parse_what_fits, 0, ARRAY_SIZE(fits));
	tcase_add_test(t, test_parse_ttl_with_the_first_bit_set);
	tcase_add_test(t, test_parse_more_than_fit);
	tcase_add_test(t, test_parse_cut_short);
	tcase_add_test(t, test_parse_damaged);
	tcase_add_loop_test(t, test_parse_lies, 0, ARRAY_SIZE(lies));
	tcase_add_test(t, test_parse_pointer_in_a_circle);
	suite_add_tcase(s, t);

	t = tcase_create("services");
	tcase_add_checked_fixture(t, setup_services, teardown_services);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_services);
	tcase_add_test(t, test_services_by_tcp);
	tcase_add_loop_test(t, test_services_failures, 0, ARRAY_SIZE(failures));
	tcase_add_test(t, test_services_nobody_listens);
	tcase_add_test(t, test_services_of_no_name);
	tcase_add_test(t, test_services_and_addresses);
	suite_add_tcase(s, t);

	t = tcase_create("dnsmasq");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_checked_fixture(t, NULL, end_dnsmasq);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_dnsmasq);
	suite_add_tcase(s, t);
	return s;
}
