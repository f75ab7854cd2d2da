/* SPDX-License-Identifier: MIT */
/*
 * Tests of the watch on the network: the table by itself, and the whole in a network namespace of
 * the test's own, with pairs of virtual links and the real ip(8). The latter needs root and says so
 * where it cannot run.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include "config-build.h"
#include "netwatch.h"
#include "netwatch_table.h"
#include "scratch.h"
#include "suites.h"

#define DEADLINE (60 * USEC_PER_SEC)

/* --- the table ------------------------------------------------------------------------------- */

static struct netwatch_table *table;

static void setup_table(void)
{
	table = netwatch_table_new();
	ck_assert_ptr_nonnull(table);
}

static void teardown_table(void)
{
	table = netwatch_table_free(table);
	ck_assert_ptr_null(table);
}

static void tell_link(int index, bool carrier)
{
	struct netwatch_link link = { .index = index, .up = true, .carrier = carrier };

	snprintf(link.name, sizeof(link.name), "eth%d", index);
	netwatch_table_link(table, &link);
}

static struct netwatch_address make_address(int index, const char *text)
{
	struct netwatch_address a = { .index = index, .family = AF_INET };

	if (strchr(text, ':'))
		a.family = AF_INET6;
	ck_assert_int_eq(inet_pton(a.family, text, a.bytes), 1);
	return a;
}

static void tell_address(int index, const char *text)
{
	struct netwatch_address a = make_address(index, text);

	netwatch_table_address(table, &a);
}

static struct netwatch_route make_route(int index, uint8_t gateway)
{
	return (struct netwatch_route){
		.family = AF_INET,
		.index = index,
		.table = 254,
		.gateway = { 10, 0, 0, gateway },
	};
}

static void tell_route(int index, uint8_t gateway, bool replaces)
{
	struct netwatch_route r = make_route(index, gateway);

	netwatch_table_route(table, &r, replaces);
}

/* NULL: no news. */
static void expect_news(const char *expected)
{
	char text[NETWATCH_TEXT_SIZE];
	bool news = netwatch_table_news(table, text);

	if (!expected)
		ck_assert_msg(!news, "%s", text);
	else
		ck_assert_str_eq(news ? text : "", expected);
}

START_TEST(test_carrier_needs_an_address)
{
	tell_link(2, true);
	expect_news(NULL);
	ck_assert(!netwatch_table_usable(table));
	tell_address(2, "10.0.0.2");
	expect_news("eth2: address 10.0.0.2 added");
	ck_assert(netwatch_table_usable(table));
	tell_link(2, false);
	expect_news(NULL);
	ck_assert(!netwatch_table_usable(table));
	tell_link(2, true);
	expect_news("eth2: carrier");
	expect_news(NULL);
}
END_TEST

START_TEST(test_address_needs_carrier)
{
	struct netwatch_address a = make_address(3, "2001:db8::7");

	tell_link(2, true);
	tell_link(3, false);
	tell_address(3, "2001:db8::7");
	expect_news(NULL);
	tell_link(3, true);
	expect_news("eth3: carrier");
	tell_address(3, "10.0.0.3");
	expect_news("eth3: address 10.0.0.3 added");
	netwatch_table_address_gone(table, &a);
	ck_assert(netwatch_table_usable(table));
	a = make_address(3, "10.0.0.3");
	netwatch_table_address_gone(table, &a);
	ck_assert(!netwatch_table_usable(table));
	expect_news(NULL);
}
END_TEST

START_TEST(test_the_same_again_is_no_news)
{
	tell_link(2, true);
	tell_address(2, "10.0.0.2");
	tell_route(2, 1, false);
	expect_news("eth2: address 10.0.0.2 added");
	tell_link(2, true);
	tell_address(2, "10.0.0.2");
	tell_route(2, 1, false);
	tell_route(2, 1, true);
	expect_news(NULL);
}
END_TEST

START_TEST(test_loopback_counts_for_nothing)
{
	struct netwatch_link lo = {
		.index = 1, .name = "lo", .loopback = true, .up = true, .carrier = true
	};

	netwatch_table_link(table, &lo);
	tell_address(1, "192.0.2.1");
	tell_route(1, 1, false);
	expect_news(NULL);
	ck_assert(!netwatch_table_usable(table));
}
END_TEST

START_TEST(test_routes)
{
	struct netwatch_route r = make_route(2, 1);

	tell_route(2, 1, false);
	expect_news(NULL); /* there is no carrier */
	netwatch_table_route_gone(table, &r);
	tell_link(2, true);
	tell_address(2, "10.0.0.2");
	expect_news("eth2: address 10.0.0.2 added");
	tell_route(2, 1, false);
	expect_news("eth2: default route added (IPv4)");
	/* Another gateway in its place; then the first again. */
	tell_route(2, 3, true);
	expect_news("eth2: default route added (IPv4)");
	tell_route(2, 1, true);
	expect_news("eth2: default route added (IPv4)");
	tell_route(0, 9, false);
	expect_news("default route added (IPv4)");
}
END_TEST

/* The kernel says nothing of routes that go with a link that is set down. */
START_TEST(test_routes_go_with_their_link)
{
	struct netwatch_link down = { .index = 2, .name = "eth2" };

	tell_link(2, true);
	tell_address(2, "10.0.0.2");
	tell_route(2, 1, false);
	expect_news("eth2: address 10.0.0.2 added");
	netwatch_table_link(table, &down);
	tell_link(2, true);
	expect_news("eth2: carrier");
	tell_route(2, 1, false);
	expect_news("eth2: default route added (IPv4)");
	netwatch_table_link_gone(table, 2);
	ck_assert(!netwatch_table_usable(table));
	tell_link(2, true);
	expect_news(NULL); /* its addresses went as well */
}
END_TEST

START_TEST(test_a_round_finds_what_is_gone_and_what_is_new)
{
	tell_link(2, true);
	tell_link(3, true);
	tell_address(2, "10.0.0.2");
	tell_address(3, "10.0.0.3");
	expect_news("eth2: address 10.0.0.2 added");
	netwatch_table_begin(table);
	tell_link(3, true);
	tell_address(3, "10.0.0.4");
	netwatch_table_end(table);
	expect_news("eth3: address 10.0.0.4 added");
	ck_assert(netwatch_table_usable(table));
	netwatch_table_begin(table);
	tell_link(3, true);
	netwatch_table_end(table);
	ck_assert(!netwatch_table_usable(table));
	tell_address(3, "10.0.0.3");
	expect_news("eth3: address 10.0.0.3 added");
}
END_TEST

START_TEST(test_memory_is_bounded)
{
	for (int i = 1; i <= 5000; i++) {
		char text[40];

		tell_link(i, true);
		snprintf(text, sizeof(text), "10.0.%d.%d", i / 256, i % 256);
		tell_address(1, text);
		tell_route(i, (uint8_t)i, false);
	}
	ck_assert(netwatch_table_usable(table));
	netwatch_table_begin(table);
	netwatch_table_end(table);
	ck_assert(!netwatch_table_usable(table));
}
END_TEST

/* --- the real thing -------------------------------------------------------------------------- */

static struct netwatch *watch;

static void skip(const char *why)
{
	fprintf(stderr, "NOT TESTED: netwatch with a real network: %s\n", why);
}

#ifdef HAVE_NETLINK

static sd_event *event;
static int home_ns = -1; /* the namespace to go back to; -1 = the tests cannot run */
static unsigned n_events, n_ups, n_downs;
static char last_text[200];

static void on_event(void *userdata, enum netwatch_event what, const char *text)
{
	ck_assert_ptr_eq(userdata, &n_events);
	n_events++;
	*(what == NETWATCH_UP ? &n_ups : &n_downs) += 1;
	snprintf(last_text, sizeof(last_text), "%s", text);
}

static void ip(const char *arguments)
{
	char command[300];

	snprintf(command, sizeof(command), "PATH=$PATH:/usr/sbin:/sbin exec ip %s", arguments);
	ck_assert_msg(system(command) == 0, "ip %s", arguments);
}

static bool enter_namespace(void)
{
	if (system("PATH=$PATH:/usr/sbin:/sbin ip -V >/dev/null 2>&1") != 0) {
		skip("there is no ip(8)");
		return false;
	}
	home_ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (home_ns < 0 || unshare(CLONE_NEWNET) < 0) {
		skip("no network namespace can be made (root can)");
		closep(&home_ns);
		home_ns = -1;
		return false;
	}
	return true;
}

static void setup_network(void)
{
	n_events = n_ups = n_downs = 0;
	*last_text = '\0';
	if (!enter_namespace())
		return;
	ip("link set dev lo up");
	ip("link add name gw0 type veth peer name peer0");
	ip("link set dev peer0 up");
	ck_assert_int_ge(sd_event_new(&event), 0);
}

static void teardown_network(void)
{
	if (home_ns < 0)
		return;
	watch = netwatch_free(watch);
	event = sd_event_unref(event);
	ck_assert_int_eq(setns(home_ns, CLONE_NEWNET), 0);
	close(home_ns);
	home_ns = -1;
}

static void start_watch(void)
{
	ck_assert_int_eq(netwatch_new(&watch, event, on_event, &n_events), 0);
}

/* The kernel answers at once: what is not ready to be read is not there. */
static void run_what_is_ready(void)
{
	int r;

	do {
		r = sd_event_run(event, 0);
		ck_assert_int_ge(r, 0);
	} while (r > 0);
}

/* gw0 has carrier and an address before the watch begins, and that is all known. */
static void start_watch_of_usable(void)
{
	uint64_t deadline = now_usec() + DEADLINE;

	ip("addr add 10.9.0.1/24 dev gw0");
	ip("link set dev gw0 up");
	/* It takes the kernel a moment. */
	while (system("PATH=$PATH:/usr/sbin:/sbin ip link show dev gw0 | grep -q 'state UP'") != 0)
		ck_assert_uint_lt(now_usec(), deadline);
	start_watch();
	run_what_is_ready();
	ck_assert_uint_eq(n_events, 0);
}

/* Runs the loop until an event whose text begins so; returns how many came before it. */
static unsigned run_until(const char *text)
{
	uint64_t deadline = now_usec() + DEADLINE;
	unsigned before = n_events, seen = n_events;

	while (now_usec() < deadline) {
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
		/* One turn tells one thing at most. */
		ck_assert_uint_le(n_events, seen + 1);
		if (n_events > seen && strncmp(last_text, text, strlen(text)) == 0)
			return n_events - 1 - before;
		seen = n_events;
	}
	ck_abort_msg("\"%s\" did not come, but \"%s\"", text, last_text);
	return 0;
}

#define DOWN_TEXT "no interface has both carrier and an address"

START_TEST(test_nothing_there)
{
	if (home_ns < 0)
		return;
	start_watch();
	ck_assert_uint_eq(n_events, 0); /* from the loop only */
	ck_assert_uint_eq(run_until(DOWN_TEXT), 0);
	ip("link set dev gw0 up");
	ip("addr add 10.9.0.1/24 dev gw0");
	ck_assert_uint_eq(run_until("gw0: address 10.9.0.1 added"), 0);
	ck_assert_uint_eq(n_ups, 1);
	ck_assert_uint_eq(n_downs, 1);
}
END_TEST

START_TEST(test_link_goes_and_comes)
{
	if (home_ns < 0)
		return;
	start_watch_of_usable();
	for (unsigned i = 0; i < 3; i++) {
		/* The cable, seen from this end. */
		ip("link set dev peer0 down");
		ck_assert_uint_eq(run_until(DOWN_TEXT), 0);
		ip("link set dev peer0 up");
		ck_assert_uint_eq(run_until("gw0: carrier"), 0);
	}
	ck_assert_uint_eq(n_events, 6);
	ip("link set dev gw0 down");
	ck_assert_uint_eq(run_until(DOWN_TEXT), 0);
	ip("link set dev gw0 up");
	ck_assert_uint_eq(run_until("gw0: carrier"), 0);
	ip("link del dev gw0");
	ck_assert_uint_eq(run_until(DOWN_TEXT), 0);
	ck_assert_uint_eq(n_downs, 5);
}
END_TEST

START_TEST(test_addresses_and_routes)
{
	if (home_ns < 0)
		return;
	start_watch_of_usable();
	ip("route add default via 10.9.0.2");
	ck_assert_uint_eq(run_until("gw0: default route added (IPv4)"), 0);
	ip("route replace default via 10.9.0.3");
	ck_assert_uint_eq(run_until("gw0: default route added (IPv4)"), 0);
	ip("route del default");
	ip("route add default via 10.9.0.3");
	ck_assert_uint_eq(run_until("gw0: default route added (IPv4)"), 0);
	ip("addr add 10.8.0.1/24 dev gw0");
	ck_assert_uint_eq(run_until("gw0: address 10.8.0.1 added"), 0);
	ip("addr del 10.8.0.1/24 dev gw0");
	ip("addr del 10.9.0.1/24 dev gw0");
	ck_assert_uint_eq(run_until(DOWN_TEXT), 0);
	ck_assert_uint_eq(n_downs, 1);
}
END_TEST

/* None of these is news; the marker that follows is the first thing told. */
static const char *const no_news[] = {
	"addr change 10.9.0.1/24 dev gw0 valid_lft 1000 preferred_lft 500", /* as by an RA */
	"link set dev gw0 mtu 1400",
	"link set dev gw0 alias name",
	"link set dev gw0 promisc on",
	"link set dev gw0 txqueuelen 77",
	"addr add 169.254.1.1/16 dev gw0 scope link",
	"addr add 192.0.2.1/32 dev lo",
	"route add 10.50.0.0/16 via 10.9.0.2",
	"route add unreachable default metric 5000",
	"link add name gw1 type veth peer name peer1",
	"addr add 10.7.0.1/24 dev peer0 scope host",
};

START_TEST(test_no_news)
{
	if (home_ns < 0)
		return;
	start_watch_of_usable();
	ip("addr add 10.8.0.1/24 dev gw0");
	ck_assert_uint_eq(run_until("gw0: address 10.8.0.1 added"), 0);
	ip(no_news[_i]);
	/* A turn may bring both at once, and then tells the first alone. */
	run_what_is_ready();
	ck_assert_uint_eq(n_events, 1);
	ip("addr add 10.8.0.2/24 dev gw0");
	ck_assert_uint_eq(run_until("gw0: address 10.8.0.2 added"), 0);
	ck_assert_uint_eq(n_events, 2);
}
END_TEST

/* Duplicate address detection takes a second or two; until its end nothing can be sent. */
START_TEST(test_tentative_address)
{
	if (home_ns < 0)
		return;
	ip("link set dev gw0 up");
	start_watch();
	ck_assert_uint_eq(run_until(DOWN_TEXT), 0);
	ip("-6 addr add fd00::9/64 dev gw0");
	ck_assert_uint_eq(run_until("gw0: address fd00::9 added"), 0);
	/* The refresh of its lifetime. */
	ip("-6 addr change fd00::9/64 dev gw0 valid_lft 1000 preferred_lft 500");
	ip("-6 route add default via fe80::99 dev gw0");
	ck_assert_uint_eq(run_until("gw0: default route added (IPv6)"), 0);
	ck_assert_uint_eq(n_events, 3);
}
END_TEST

/* More changes than the socket holds: what they come to is found out all the same. */
START_TEST(test_overflow)
{
	FILE *batch;

	if (home_ns < 0)
		return;
	start_watch_of_usable();
	ip("addr add 10.8.0.1/24 dev gw0");
	ck_assert_uint_eq(run_until("gw0: address 10.8.0.1 added"), 0);
	batch = popen("PATH=$PATH:/usr/sbin:/sbin exec ip -batch -", "w");
	ck_assert_ptr_nonnull(batch);
	for (int i = 0; i < 2000; i++)
		fprintf(batch,
			"addr add 10.7.%d.%d/32 dev peer0\naddr del 10.7.%d.%d/32 dev peer0\n",
			i / 200, i % 200 + 1, i / 200, i % 200 + 1);
	fprintf(batch, "addr add 10.6.0.1/32 dev gw0\n");
	ck_assert_int_eq(pclose(batch), 0);
	ip("link set dev peer0 down");
	run_until(DOWN_TEXT);
	ck_assert_uint_eq(n_downs, 1);
	ip("link set dev peer0 up");
	run_until("gw0: carrier");
}
END_TEST

static void free_on_event(void *userdata, enum netwatch_event what, const char *text)
{
	(void)userdata;
	(void)what;
	(void)text;
	n_events++;
	watch = netwatch_free(watch);
}

START_TEST(test_free_in_the_callback)
{
	uint64_t deadline = now_usec() + DEADLINE;

	if (home_ns < 0)
		return;
	ck_assert_int_eq(netwatch_new(&watch, event, free_on_event, NULL), 0);
	while (n_events == 0 && now_usec() < deadline)
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(n_events, 1);
	ck_assert_ptr_null(watch);
	ck_assert_ptr_null(netwatch_free(NULL));
}
END_TEST

#else

START_TEST(test_built_without)
{
	ck_assert_int_eq(netwatch_new(&watch, NULL, NULL, NULL), -EOPNOTSUPP);
	ck_assert_ptr_null(netwatch_free(watch));
}
END_TEST

#endif

Suite *check_netwatch(void)
{
	Suite *s = suite_create("netwatch");
	TCase *t = tcase_create("table");

	tcase_add_checked_fixture(t, setup_table, teardown_table);
	tcase_add_test(t, test_carrier_needs_an_address);
	tcase_add_test(t, test_address_needs_carrier);
	tcase_add_test(t, test_the_same_again_is_no_news);
	tcase_add_test(t, test_loopback_counts_for_nothing);
	tcase_add_test(t, test_routes);
	tcase_add_test(t, test_routes_go_with_their_link);
	tcase_add_test(t, test_a_round_finds_what_is_gone_and_what_is_new);
	tcase_add_test(t, test_memory_is_bounded);
	suite_add_tcase(s, t);

#ifdef HAVE_NETLINK
	t = tcase_create("network");
	tcase_add_checked_fixture(t, setup_network, teardown_network);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_nothing_there);
	tcase_add_test(t, test_link_goes_and_comes);
	tcase_add_test(t, test_addresses_and_routes);
	tcase_add_loop_test(t, test_no_news, 0, ARRAY_SIZE(no_news));
	tcase_add_test(t, test_tentative_address);
	tcase_add_test(t, test_overflow);
	tcase_add_test(t, test_free_in_the_callback);
	suite_add_tcase(s, t);
#else
	t = tcase_create("without");
	tcase_add_test(t, test_built_without);
	suite_add_tcase(s, t);
	skip("built without netlink");
#endif
	return s;
}
