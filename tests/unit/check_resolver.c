/* SPDX-License-Identifier: MIT */
/*
 * Tests of the resolver thread. getaddrinfo() is replaced by one that knows a few names of its own,
 * among them one that blocks until it is told to go on; everything else is the C library's.
 */
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>

#include "resolver.h"
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
	suite_add_tcase(s, t);
	return s;
}
