/* SPDX-License-Identifier: MIT */
/*
 * Tests of the figures: histograms, rates, what becomes of brokers' counters when the list changes,
 * and the line that says why nothing moves.
 */
#include <errno.h>
#include <stdio.h>

#include "figures.h"
#include "suites.h"

#define NOW (1000 * USEC_PER_SEC)

/* --- histograms and rates --------------------------------------------------------------------- */

START_TEST(test_histogram_bounds)
{
	static const struct histogram_bounds *const all[] = { &histogram_commit,
		&histogram_delivery, &histogram_reconnect };
	const struct histogram_bounds *b = all[_i];

	for (size_t i = 1; i < HISTOGRAM_BOUNDS; i++)
		ck_assert_uint_gt(b->usec[i], b->usec[i - 1]);
}
END_TEST

START_TEST(test_histogram)
{
	const struct histogram_bounds *b = &histogram_commit;
	struct histogram h = { 0 };

	ck_assert_uint_eq(histogram_count(&h), 0);
	histogram_add(&h, b, 0, 1);
	histogram_add(&h, b, b->usec[0], 1); /* a bound belongs to its bucket */
	histogram_add(&h, b, b->usec[0] + 1, 3);
	histogram_add(&h, b, b->usec[HISTOGRAM_BOUNDS - 1], 1);
	histogram_add(&h, b, b->usec[HISTOGRAM_BOUNDS - 1] + 1, 2);
	ck_assert_uint_eq(h.counts[0], 2);
	ck_assert_uint_eq(h.counts[1], 3);
	ck_assert_uint_eq(h.counts[HISTOGRAM_BOUNDS - 1], 1);
	ck_assert_uint_eq(h.counts[HISTOGRAM_BOUNDS], 2);
	ck_assert_uint_eq(histogram_count(&h), 8);
	ck_assert_uint_eq(h.sum_usec, b->usec[0] * 4 + 3 + b->usec[HISTOGRAM_BOUNDS - 1] * 3 + 2);
}
END_TEST

START_TEST(test_rate)
{
	struct rate r = { 0 };
	uint64_t now = NOW;

	ck_assert_double_eq(rate_get(&r, now), 0);
	for (unsigned i = 0; i < 1000; i++, now += USEC_PER_SEC / 10)
		rate_add(&r, 5, now);
	ck_assert_double_eq_tol(rate_get(&r, now), 50, 1);
	ck_assert_double_lt(rate_get(&r, now + 10 * USEC_PER_SEC), 20);
	ck_assert_double_lt(rate_get(&r, now + 100 * USEC_PER_SEC), 0.01);
	/* The time of another thread may be a moment older. */
	ck_assert_double_le(rate_get(&r, now - USEC_PER_SEC), 51);
}
END_TEST

/* --- brokers --------------------------------------------------------------------------------- */

static struct figures_uplink u;

static void setup(void)
{
	memset(&u, 0, sizeof(u));
}

/* `names`: one letter each. */
static void set_brokers(const char *names)
{
	struct brokers_item items[BROKERS_MAX] = { 0 };
	size_t n = strlen(names);

	for (size_t i = 0; i < n; i++)
		snprintf(items[i].name, sizeof(items[i].name), "%c:1883", names[i]);
	figures_set_brokers(&u, items, n);
}

/* As "a3 b0 (c1)": successes, those that are not listed in brackets. */
static void expect_brokers(const char *expected)
{
	char text[2000] = "";
	size_t len = 0;

	for (size_t i = 0; i < u.n_brokers; i++) {
		const struct figures_broker *b = &u.brokers[i];
		int name = streq(b->name, "other") ? 5 : (int)strcspn(b->name, ":");

		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s%.*s%llu%s",
			i ? " " : "", b->listed ? "" : "(", name, b->name,
			(unsigned long long)b->attempts[FAILURE_NONE], b->listed ? "" : ")");
	}
	ck_assert_str_eq(text, expected);
}

static void connect_to(const char *names)
{
	for (; *names; names++) {
		const char name[] = { *names, ':', '1', '8', '8', '3', '\0' };

		figures_attempt(&u, name, FAILURE_NONE);
	}
}

START_TEST(test_brokers)
{
	set_brokers("");
	expect_brokers("");
	set_brokers("ab");
	expect_brokers("a0 b0");
	connect_to("aab");
	figures_attempt(&u, "a:1883", FAILURE_AUTH);
	ck_assert_uint_eq(u.brokers[0].attempts[FAILURE_AUTH], 1);
	expect_brokers("a2 b1");
	/* Another order, one that is new, one that is gone. */
	set_brokers("cb");
	expect_brokers("c0 b1 (a2)");
	/* One that was never tried leaves nothing behind; one comes back with what it had. */
	set_brokers("a");
	expect_brokers("a2 (b1)");
	ck_assert_uint_eq(u.brokers[0].attempts[FAILURE_AUTH], 1);
	/* Of an attempt that ended after its broker had left the list. */
	connect_to("bd");
	expect_brokers("a2 (b2) (d1)");
}
END_TEST

static uint64_t total(void)
{
	uint64_t n = 0;

	for (size_t i = 0; i < u.n_brokers; i++)
		n += u.brokers[i].attempts[FAILURE_NONE];
	return n;
}

/* However often the list changes, nothing is lost, and the present ones are there. */
START_TEST(test_more_brokers_than_places)
{
	uint64_t attempts = 0;

	for (unsigned round = 0; round < 50; round++) {
		struct brokers_item items[BROKERS_MAX] = { 0 };
		size_t n = 1 + (round * 7) % BROKERS_MAX;

		for (size_t i = 0; i < n; i++)
			snprintf(items[i].name, sizeof(items[i].name), "h%u:1883",
				(unsigned)(round * 5 + i * 3) % 97);
		figures_set_brokers(&u, items, n);
		ck_assert_uint_eq(total(), attempts);
		for (size_t i = 0; i < n; i++) {
			ck_assert_str_eq(u.brokers[i].name, items[i].name);
			ck_assert(u.brokers[i].listed);
			figures_attempt(&u, items[i].name, FAILURE_NONE);
			attempts++;
		}
		for (size_t i = n; i < u.n_brokers; i++)
			ck_assert(!u.brokers[i].listed);
		ck_assert_uint_eq(total(), attempts);
		ck_assert_uint_le(u.n_brokers, BROKERS_MAX + 1);
	}
	ck_assert_str_eq(u.brokers[u.n_brokers - 1].name, "other");
	figures_attempt(&u, "nobody:1", FAILURE_NONE);
	ck_assert_uint_eq(total(), attempts + 1);
	ck_assert_str_eq(u.brokers[u.n_brokers - 1].name, "other");
}
END_TEST

START_TEST(test_reconnect)
{
	figures_connected(&u, NOW); /* the first one was not lost before */
	ck_assert_uint_eq(histogram_count(&u.reconnect), 0);
	figures_lost(&u, NOW);
	figures_lost(&u, NOW + 5); /* known already */
	figures_connected(&u, NOW + 3 * USEC_PER_SEC);
	ck_assert_uint_eq(histogram_count(&u.reconnect), 1);
	ck_assert_uint_eq(u.reconnect.sum_usec, 3 * USEC_PER_SEC);
	figures_connected(&u, NOW + 9 * USEC_PER_SEC);
	ck_assert_uint_eq(histogram_count(&u.reconnect), 1);
}
END_TEST

/* --- why -------------------------------------------------------------------------------------- */

static struct figures f;

static void setup_why(void)
{
	memset(&f, 0, sizeof(f));
	f.now_usec = NOW;
	f.messages = 12;
	f.oldest_msec = INT64_MIN;
	f.uplink.state = SUPERVISOR_CONNECTED;
	f.uplink.state_usec = NOW - 60 * USEC_PER_SEC;
	f.uplink.next_usec = UINT64_MAX;
	f.uplink.window = 20;
	f.uplink.inflight = 20;
	f.uplink.moved_usec = NOW - USEC_PER_SEC / 2;
	f.uplink.n_brokers = 2;
	f.uplink.brokers[0].listed = f.uplink.brokers[1].listed = true;
	strcpy(f.uplink.brokers[0].name, "a:1883");
	strcpy(f.uplink.brokers[1].name, "b:1883");
	strcpy(f.uplink.broker, "a:1883");
}

static void fail_with(enum failure_class class, const char *text)
{
	struct figures_failure *last = &f.uplink.last_failure;

	strcpy(last->broker, "a:1883");
	strcpy(last->text, text);
	strcpy(f.uplink.cause, text);
	last->class = class;
}

static void wait_in(enum supervisor_state state, uint64_t wait_usec)
{
	f.uplink.state = state;
	f.uplink.inflight = f.uplink.window = 0;
	f.uplink.next_usec = NOW + wait_usec;
}

static void draining(void)
{
}

static void empty(void)
{
	wait_in(SUPERVISOR_OFFLINE, USEC_PER_SEC);
	f.messages = 0;
}

static void store_fails(void)
{
	f.store_error = -ENOSPC;
	f.messages = 0;
}

static void store_fails_and_offline(void)
{
	wait_in(SUPERVISOR_OFFLINE, USEC_PER_SEC);
	f.store_error = -EIO;
}

static void stopping(void)
{
	f.stopping = true;
	f.uplink.state = SUPERVISOR_DISCONNECTING;
	f.uplink.inflight = 3;
}

static void held(void)
{
	f.uplink.held = true;
	f.uplink.held_usec = NOW + 290 * USEC_PER_SEC;
	strcpy(f.uplink.cause,
		"queue held: several messages in a row were refused, the last for: not allowed");
}

static void held_and_disconnected(void)
{
	held();
	wait_in(SUPERVISOR_DISCONNECTED, 1500 * USEC_PER_MSEC);
	fail_with(FAILURE_HEARTBEAT, "connection closed by the broker");
}

static void disconnected(void)
{
	wait_in(SUPERVISOR_DISCONNECTED, 1500 * USEC_PER_MSEC);
	fail_with(FAILURE_TIMEOUT, "Connection refused");
}

static void just_started(void)
{
	wait_in(SUPERVISOR_DISCONNECTED, 0);
	f.uplink.next_usec = UINT64_MAX;
}

static void offline(void)
{
	wait_in(SUPERVISOR_OFFLINE, 42 * USEC_PER_SEC);
	fail_with(FAILURE_TIMEOUT, "Connection refused");
}

static void offline_alone(void)
{
	offline();
	f.uplink.n_brokers = 1;
}

static void overdue(void)
{
	offline();
	f.uplink.next_usec = NOW - 1;
}

static void no_network(void)
{
	offline();
	f.uplink.network_down = true;
}

static void no_brokers(void)
{
	wait_in(SUPERVISOR_OFFLINE, 0);
	f.uplink.next_usec = UINT64_MAX;
	f.uplink.brokers[0].listed = false;
	strcpy(f.uplink.cause, "/etc/brokers.conf: No such file or directory");
}

static void no_brokers_yet(void)
{
	no_brokers();
	f.uplink.cause[0] = '\0';
}

static void all_aside(void)
{
	wait_in(SUPERVISOR_ERROR, 200 * USEC_PER_SEC);
	fail_with(FAILURE_AUTH, "broker refused the connection");
	f.uplink.brokers[0].aside_usec = f.uplink.brokers[1].aside_usec = NOW + 200 * USEC_PER_SEC;
}

static void only_one_aside(void)
{
	all_aside();
	f.uplink.n_brokers = 1;
}

static void some_aside(void)
{
	offline();
	f.uplink.brokers[0].aside_usec = NOW + 200 * USEC_PER_SEC;
}

static void taken_over(void)
{
	wait_in(SUPERVISOR_ERROR, 7300 * USEC_PER_SEC);
	fail_with(FAILURE_TAKEN_OVER, "broker sent DISCONNECT 0x8e");
}

static void connecting(void)
{
	wait_in(SUPERVISOR_CONNECTING, 0);
	f.uplink.state_usec = NOW - 4 * USEC_PER_SEC;
	f.uplink.next_usec = UINT64_MAX;
}

static void connecting_again(void)
{
	connecting();
	fail_with(FAILURE_TIMEOUT, "Connection refused");
}

static void leaving(void)
{
	f.uplink.state = SUPERVISOR_DISCONNECTING;
}

static void unreadable(void)
{
	f.uplink.read_error = -EIO;
}

static void no_acknowledgement(void)
{
	f.uplink.moved_usec = NOW - 130 * USEC_PER_SEC;
}

static void nothing_in_flight_for_long(void)
{
	no_acknowledgement();
	f.uplink.inflight = 0;
}

static void on_trial(void)
{
	f.uplink.suspect = 77;
	f.uplink.inflight = 1;
}

static void rate(void)
{
	f.uplink.brake = FIGURES_BRAKE_RATE;
	f.uplink.max_rate = 4096;
}

static void throttled(void)
{
	f.uplink.brake = FIGURES_BRAKE_THROTTLED;
}

static void full(void)
{
	strcpy(f.full, "queue.max_messages, 12, is reached");
}

static void full_and_offline(void)
{
	full();
	offline();
}

static void full_and_dropping(void)
{
	full();
	f.drop_oldest = true;
}

static void was_full(void)
{
	full();
	f.messages = 0;
}

static const struct {
	void (*make)(void);
	const char *why;
} whys[] = {
	{ draining, "" },
	{ empty, "" },
	{ store_fails, "the queue cannot be written: No space left on device; lines are refused" },
	{ store_fails_and_offline,
		"the queue cannot be written: Input/output error; lines are refused" },
	{ stopping, "stopping: 3 in flight are finished first" },
	{ held,
		"queue held: several messages in a row were refused, the last for: not allowed; "
		"tried again in 4 min" },
	{ held_and_disconnected,
		"disconnected: a:1883: connection closed by the broker (heartbeat); next attempt "
		"in 1.5 s" },
	{ disconnected,
		"disconnected: a:1883: Connection refused (timeout); next attempt in 1.5 s" },
	{ just_started, "disconnected" },
	{ offline,
		"offline, every broker was tried: a:1883: Connection refused (timeout); next "
		"attempt in 42 s" },
	{ offline_alone, "offline: a:1883: Connection refused (timeout); next attempt in 42 s" },
	{ overdue,
		"offline, every broker was tried: a:1883: Connection refused (timeout); next "
		"attempt now" },
	{ no_network, "there is no network; next attempt once there is, or in 42 s" },
	{ no_brokers, "no broker is known: /etc/brokers.conf: No such file or directory" },
	{ no_brokers_yet, "no broker is known: waiting for the list of brokers" },
	{ all_aside,
		"every broker is set aside: a:1883: broker refused the connection (auth); next "
		"attempt in 3 min" },
	{ only_one_aside,
		"the broker is set aside: a:1883: broker refused the connection (auth); next "
		"attempt in 3 min" },
	{ some_aside,
		"offline, every broker was tried: a:1883: Connection refused (timeout); next "
		"attempt in 42 s" },
	{ taken_over,
		"error: a:1883: broker sent DISCONNECT 0x8e (taken-over); next attempt in 2 h" },
	{ connecting, "connecting to a:1883 for 4.0 s" },
	{ connecting_again,
		"connecting to a:1883 for 4.0 s; before: a:1883: Connection refused (timeout)" },
	{ leaving, "leaving a:1883: 20 in flight are finished first" },
	{ unreadable, "the queue cannot be read: Input/output error; tried again every second" },
	{ no_acknowledgement, "20 in flight wait for a:1883 to acknowledge them, for 2 min" },
	{ nothing_in_flight_for_long, "" },
	{ on_trial,
		"message 77 is tried alone, the others wait: a:1883 refused it or closed the "
		"connection over it" },
	{ rate, "mqtt.max_rate, 4096 bytes a second, holds it back" },
	{ throttled, "a:1883 has asked for less: sending pauses" },
	{ full, "queue.max_messages, 12, is reached; lines are refused" },
	{ full_and_offline,
		"offline, every broker was tried: a:1883: Connection refused (timeout); next "
		"attempt in 42 s; queue.max_messages, 12, is reached; lines are refused" },
	{ full_and_dropping,
		"queue.max_messages, 12, is reached; the oldest messages are dropped" },
	{ was_full, "" },
};

START_TEST(test_why)
{
	char text[600], small[20];

	whys[_i].make();
	ck_assert_ptr_eq(figures_why(&f, text, sizeof(text)), text);
	ck_assert_str_eq(text, whys[_i].why);
	/* Cut short, not overrun. */
	memset(small, 'x', sizeof(small));
	figures_why(&f, small, sizeof(small) - 1);
	ck_assert_uint_eq(strlen(small), size_min(strlen(whys[_i].why), sizeof(small) - 2));
	ck_assert_int_eq(strncmp(small, whys[_i].why, strlen(small)), 0);
	ck_assert_int_eq(small[sizeof(small) - 1], 'x');
}
END_TEST

START_TEST(test_oldest)
{
	static const struct {
		int64_t oldest, now;
		double seconds;
	} cases[] = {
		{ INT64_MIN, 5000, 0 },
		{ 2500, 5000, 2.5 },
		{ 5000, 5000, 0 },
		{ 7000, 5000, 0 }, /* of the future */
		{ -3000, 5000, 8 },
		{ INT64_MIN + 1, 5000, 9223372036854775.807 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		f.oldest_msec = cases[i].oldest;
		f.now_msec = cases[i].now;
		ck_assert_double_eq_tol(figures_oldest_seconds(&f), cases[i].seconds, 1e-3);
	}
}
END_TEST

START_TEST(test_dropped_words)
{
	ck_assert_str_eq(figures_dropped_to_string(FIGURES_DROPPED_OVERFLOW), "overflow");
	ck_assert_str_eq(figures_dropped_to_string(FIGURES_DROPPED_EXPIRED), "expired");
	ck_assert_str_eq(figures_dropped_to_string(FIGURES_DROPPED_PURGED), "purged");
	ck_assert_str_eq(
		figures_dropped_to_string(FIGURES_DROPPED_DEAD_LETTER_BOUND), "dead-letter-bound");
}
END_TEST

Suite *check_figures(void)
{
	Suite *s = suite_create("figures");
	TCase *t = tcase_create("counting");

	tcase_add_loop_test(t, test_histogram_bounds, 0, 3);
	tcase_add_test(t, test_histogram);
	tcase_add_test(t, test_rate);
	tcase_add_test(t, test_dropped_words);
	suite_add_tcase(s, t);

	t = tcase_create("uplink");
	tcase_add_checked_fixture(t, setup, NULL);
	tcase_add_test(t, test_brokers);
	tcase_add_test(t, test_more_brokers_than_places);
	tcase_add_test(t, test_reconnect);
	suite_add_tcase(s, t);

	t = tcase_create("why");
	tcase_add_checked_fixture(t, setup_why, NULL);
	tcase_add_loop_test(t, test_why, 0, ARRAY_SIZE(whys));
	tcase_add_test(t, test_oldest);
	suite_add_tcase(s, t);
	return s;
}
