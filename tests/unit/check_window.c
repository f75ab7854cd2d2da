/* SPDX-License-Identifier: MIT */
/*
 * Tests of the in-flight window: bounds by messages, bytes and rate, the broker's own bounds, and,
 * against a simulated link, that the adaptive window fills each kind of path without flooding it.
 *
 * The simulated link: one sender with a processor of its own, which needs `cpu_usec` for a message
 * and a little for each one in flight (the client library walks its list), a line of so many bytes
 * a second in front of which packets queue in order, and a fixed time there and back.
 */
#include "scratch.h"
#include "suites.h"
#include "window.h"

#include <assert.h>

#define SEC USEC_PER_SEC

static double larger(double a, double b)
{
	return a > b ? a : b;
}

static double smaller(double a, double b)
{
	return a < b ? a : b;
}

static void init(struct window *w, unsigned max_messages, size_t max_bytes)
{
	window_init(
		w, &(struct window_params){ .max_messages = max_messages, .max_bytes = max_bytes });
}

/* --- bounds ---------------------------------------------------------------------------------- */

static const struct {
	unsigned configured, receive_maximum, expected;
} limits[] = {
	{ 10, 0, 10 }, /* the broker names none */
	{ 10, 1, 1 },
	{ 10, 9, 9 },
	{ 10, 10, 10 },
	{ 10, 65535, 10 },
	{ 65000, 65535, 65000 },
	{ 65000, 0, 65000 },
	{ 0, 65535, 32 },
	{ 0, 10, 10 },
	{ 0, 3, 3 },
	{ 0, 1, 1 },
};

START_TEST(test_limit)
{
	struct window w;

	init(&w, limits[_i].configured, 1 << 20);
	window_connected(&w, limits[_i].receive_maximum, 5);
	ck_assert_uint_eq(w.max, limits[_i].expected);
	for (unsigned n = 0; n < limits[_i].expected; n++) {
		ck_assert(window_admits(&w, 1, 5));
		window_add(&w, 1, 5);
	}
	ck_assert(!window_admits(&w, 1, 5));
	ck_assert(!window_admits(&w, 0, 5));
	window_remove(&w, 1);
	ck_assert(window_admits(&w, 1, 5));
}
END_TEST

START_TEST(test_limit_is_for_one_connection)
{
	struct window w;

	init(&w, 20, 1000);
	window_connected(&w, 5, 0);
	ck_assert_uint_eq(w.max, 5);
	window_connected(&w, 12, 1);
	ck_assert_uint_eq(w.max, 12);
	window_connected(&w, 0, 2);
	ck_assert_uint_eq(w.max, 20);
}
END_TEST

/* The next connection's bound may be below what is in flight. */
START_TEST(test_limit_below_what_is_in_flight)
{
	struct window w;

	init(&w, 4, 1000);
	for (int n = 0; n < 4; n++)
		window_add(&w, 1, 0);
	window_connected(&w, 2, 1);
	for (int n = 4; n > 2; n--) {
		ck_assert(!window_admits(&w, 1, 1));
		window_remove(&w, 1);
	}
	ck_assert(!window_admits(&w, 1, 1));
	window_remove(&w, 1);
	ck_assert(window_admits(&w, 1, 1));
}
END_TEST

static const struct {
	size_t max_bytes;
	size_t held; /* one message of so many bytes; SIZE_MAX = none */
	size_t bytes;
	bool expected;
} sizes[] = {
	{ 100, SIZE_MAX, 0, true },
	{ 100, SIZE_MAX, 100, true },
	{ 100, SIZE_MAX, 101, true }, /* alone, however large */
	{ 100, SIZE_MAX, SIZE_MAX, true },
	{ 0, SIZE_MAX, 5, true },
	{ 100, 0, 100, true },
	{ 100, 0, 101, false },
	{ 100, 60, 40, true },
	{ 100, 60, 41, false },
	{ 100, 100, 0, true },
	{ 100, 100, 1, false },
	{ 100, 500, 0, false }, /* nothing beside one that is too large */
	{ 100, 500, 1, false },
	{ 0, 1, 0, false },
	{ 100, 60, SIZE_MAX, false }, /* no overflow */
	{ SIZE_MAX, SIZE_MAX - 5, 5, true },
	{ SIZE_MAX, SIZE_MAX - 5, 6, false },
};

START_TEST(test_bytes)
{
	struct window w;

	init(&w, 10, sizes[_i].max_bytes);
	if (sizes[_i].held != SIZE_MAX)
		window_add(&w, sizes[_i].held, 0);
	ck_assert_int_eq(window_admits(&w, sizes[_i].bytes, 0), sizes[_i].expected);
}
END_TEST

START_TEST(test_add_and_remove)
{
	struct window w;

	init(&w, 10, 100);
	window_add(&w, 30, 0);
	window_add(&w, 50, 0);
	ck_assert_uint_eq(w.messages, 2);
	ck_assert_uint_eq(w.bytes, 80);
	ck_assert(!window_admits(&w, 21, 0));
	window_remove(&w, 30);
	ck_assert_uint_eq(w.messages, 1);
	ck_assert_uint_eq(w.bytes, 50);
	ck_assert(window_admits(&w, 50, 0));
	ck_assert(!window_admits(&w, 51, 0));
	window_remove(&w, 50);
	ck_assert_uint_eq(w.messages, 0);
	ck_assert_uint_eq(w.bytes, 0);
}
END_TEST

/* --- the message that is timed --------------------------------------------------------------- */

START_TEST(test_one_is_timed)
{
	struct window w;

	init(&w, 0, 1000);
	ck_assert(window_add(&w, 1, 10));
	ck_assert(!window_add(&w, 1, 11));
	window_remove(&w, 1);
	ck_assert(!window_add(&w, 1, 12));
	window_sample(&w, 20);
	window_remove(&w, 1);
	ck_assert(window_add(&w, 1, 21));
	window_sample_lost(&w);
	window_remove(&w, 1);
	ck_assert(window_add(&w, 1, 22));
	/* What an earlier connection sent is not timed any more. */
	window_connected(&w, 0, 23);
	window_sample(&w, 24);
	ck_assert(window_add(&w, 1, 25));
	ck_assert_uint_eq(w.min_rtt_usec, 0);
}
END_TEST

START_TEST(test_fixed_size_times_nothing)
{
	struct window w;

	init(&w, 3, 1000);
	for (uint64_t now = 0; now < 100; now++) {
		ck_assert(!window_add(&w, 1, now));
		window_sample(&w, now); /* and does no harm */
		window_sample_lost(&w);
		window_remove(&w, 1);
		ck_assert_uint_eq(w.max, 3);
	}
}
END_TEST

/* A clock that stands still, or a round trip of no time at all. */
START_TEST(test_no_time_passes)
{
	struct window w;

	init(&w, 0, 1000);
	for (int n = 0; n < 1000; n++) {
		if (window_add(&w, 1, 0))
			window_sample(&w, 0);
		window_remove(&w, 1);
	}
	ck_assert_uint_ge(w.max, 4);
}
END_TEST

/* Somebody who sends now and then tells nothing about how much the path takes. */
START_TEST(test_idle_sender_learns_nothing)
{
	struct window w;

	init(&w, 0, 1 << 20);
	window_connected(&w, 0, 0);
	for (uint64_t now = SEC; now < 1000 * SEC; now += SEC) {
		ck_assert(window_add(&w, 100, now));
		window_sample(&w, now + (now % (7 * SEC) == 0 ? 900000 : 20000));
		window_remove(&w, 100);
		ck_assert_uint_eq(w.max, 32);
	}
}
END_TEST

START_TEST(test_connected_keeps_a_guess)
{
	struct window w;
	uint64_t now = 0;

	init(&w, 0, 1 << 20);
	for (int round = 0; round < 20; round++) {
		while (window_admits(&w, 10, now))
			window_add(&w, 10, now);
		now += 50000;
		window_sample(&w, now);
		while (w.messages > 0)
			window_remove(&w, 10);
	}
	ck_assert_uint_eq(w.max, 10000); /* its bound */
	window_connected(&w, 0, now);
	ck_assert_uint_le(w.max, 128);
	ck_assert_uint_ge(w.max, 32);
	ck_assert_uint_eq(w.min_rtt_usec, 0);
}
END_TEST

/* --- bytes a second -------------------------------------------------------------------------- */

START_TEST(test_rate_none)
{
	struct window w;

	init(&w, 10, 1000);
	window_add(&w, 500, 7);
	ck_assert_uint_le(window_rate_usec(&w, 7), 7);
	ck_assert(window_admits(&w, 500, 7));
}
END_TEST

/* A megabyte passes a bound of 10 KiB a second, and holds up the next one. */
START_TEST(test_rate_debt)
{
	struct window w;
	uint64_t now = 1000 * SEC, next;

	window_init(&w,
		&(struct window_params){
			.max_messages = 10, .max_bytes = 4 << 20, .max_rate = 10240 });
	ck_assert(window_admits(&w, 1 << 20, now));
	window_add(&w, 1 << 20, now);
	window_remove(&w, 1 << 20);
	next = window_rate_usec(&w, now);
	ck_assert_uint_ge(next, now + 100 * SEC);
	ck_assert_uint_le(next, now + 103 * SEC);
	ck_assert(!window_admits(&w, 1, next - 1));
	ck_assert(window_admits(&w, 1, next));
	ck_assert(window_admits(&w, 1 << 20, next));
}
END_TEST

static const struct {
	uint64_t rate;
	size_t size;
	uint64_t idle_usec; /* before the first one */
} rates[] = {
	{ 1, 1, 0 },
	{ 10240, 1, 0 },
	{ 10240, 200, 3600 * SEC },
	{ 10240, 65536, 5 },
	{ 64000, 200, 0 },
	{ 10000000, 200, 100 * SEC },
	{ 123456789, 1400, 0 },
	{ 10, 1 << 20, 0 },
};

/* Over any stretch of time: the rate, a second's worth of burst, and one message. */
START_TEST(test_rate)
{
	struct window w;
	uint64_t start = rates[_i].idle_usec, now = start;
	double sent = 0;

	window_init(&w,
		&(struct window_params){
			.max_messages = 10, .max_bytes = SIZE_MAX, .max_rate = rates[_i].rate });
	for (int n = 0; n < 5000; n++) {
		uint64_t next = window_rate_usec(&w, now);

		if (next > now) {
			ck_assert(!window_admits(&w, rates[_i].size, next - 1));
			now = next;
		}
		ck_assert(window_admits(&w, rates[_i].size, now));
		window_add(&w, rates[_i].size, now);
		window_remove(&w, rates[_i].size);
		sent += (double)rates[_i].size;
		ck_assert(sent <= (double)rates[_i].rate * ((double)(now - start) / 1e6 + 1) +
				(double)rates[_i].size);
	}
	/* And it is made use of. */
	ck_assert(sent >= 0.999 * (double)rates[_i].rate * (double)(now - start) / 1e6);
}
END_TEST

START_TEST(test_rate_does_not_overflow)
{
	struct window w;

	window_init(&w,
		&(struct window_params){
			.max_messages = 10, .max_bytes = SIZE_MAX, .max_rate = 1 });
	window_add(&w, SIZE_MAX / 4, UINT64_MAX / 2);
	window_add(&w, SIZE_MAX / 4, UINT64_MAX / 2);
	window_add(&w, SIZE_MAX / 4, UINT64_MAX / 2);
	ck_assert(!window_admits(&w, 1, SEC));
	ck_assert_uint_gt(window_rate_usec(&w, SEC), SEC);
}
END_TEST

/* --- the broker asks for less ---------------------------------------------------------------- */

static const struct {
	unsigned configured, expected[4];
} throttles[] = {
	{ 0, { 16, 8, 4, 2 } },
	{ 10, { 5, 2, 1, 1 } },
	{ 1, { 1, 1, 1, 1 } },
	{ 3, { 1, 1, 1, 1 } },
};

START_TEST(test_throttled)
{
	struct window w;
	uint64_t now = 100 * SEC;
	unsigned full;

	init(&w, throttles[_i].configured, 1 << 20);
	window_connected(&w, 0, now);
	full = w.max;
	for (int n = 0; n < 4; n++) {
		/* The whole window comes back at once: that is one wish for less. */
		for (int again = 0; again < 30; again++)
			window_throttled(&w, now);
		ck_assert_uint_eq(w.max, throttles[_i].expected[n]);
		now += SEC / 2;
	}
	/* Back up within a minute, in small steps. */
	for (int second = 0; second < 60; second++, now += SEC) {
		unsigned before = w.max;

		window_add(&w, 10, now);
		window_remove(&w, 10);
		ck_assert_uint_ge(w.max, before);
		ck_assert_uint_le(w.max, before + before / 8 + 1);
	}
	ck_assert_uint_eq(w.max, full);
}
END_TEST

/* --- a simulated link ------------------------------------------------------------------------ */

struct path {
	double bytes_per_sec;
	double rtt_usec; /* there and back, without queues */
	double cpu_usec; /* the sender's own time for a message */
	double cpu_inflight_usec; /* and for each one in flight then */
	double jitter_usec; /* of the way, uniform */
};

struct outcome {
	double rate; /* messages a second, acknowledged */
	double mean_bytes, most_bytes; /* in flight, after the start */
	double mean_messages;
	unsigned max; /* at the end */
};

#define QUEUE 16384 /* above the largest window */

struct link {
	struct path path;
	size_t size;
	struct window w;
	double now; /* of the sender's processor */
	double line_free;
	struct {
		double acked;
		bool timed;
	} flight[QUEUE];
	unsigned first, last;
	uint64_t random;

	/* Since the counters were last set to zero: */
	double since, acked, area_bytes, area_messages, most_bytes, area_until;
};

/* Microseconds begin well after zero, as a real clock's do. */
static uint64_t clock_of(const struct link *l)
{
	return (uint64_t)l->now + 1000 * SEC;
}

static void link_init(struct link *l, const struct path *path, size_t size,
	const struct window_params *params, unsigned receive_maximum)
{
	memset(l, 0, sizeof(*l));
	l->path = *path;
	l->size = size;
	window_init(&l->w, params);
	window_connected(&l->w, receive_maximum, clock_of(l));
}

static void count(struct link *l)
{
	double span = l->now - l->area_until;

	l->area_bytes += span * (double)l->w.bytes;
	l->area_messages += span * l->w.messages;
	l->area_until = l->now;
	if ((double)l->w.bytes > l->most_bytes)
		l->most_bytes = (double)l->w.bytes;
}

static void link_zero(struct link *l)
{
	l->since = l->now;
	l->area_until = l->now;
	l->acked = l->area_bytes = l->area_messages = l->most_bytes = 0;
}

static void work(struct link *l)
{
	l->now += (l->path.cpu_usec + l->path.cpu_inflight_usec * l->w.messages) / 2;
}

static void link_publish(struct link *l)
{
	double way = l->path.rtt_usec, acked;

	count(l);
	work(l);
	if (l->path.jitter_usec > 0)
		way += l->path.jitter_usec * (double)(scratch_random(&l->random) >> 11) * 0x1p-53;
	l->line_free = larger(l->line_free, l->now) + (double)l->size * 1e6 / l->path.bytes_per_sec;
	acked = l->line_free + way;
	if (l->first != l->last) /* in order */
		acked = larger(acked, l->flight[(l->last - 1) % QUEUE].acked);
	assert(l->last - l->first < QUEUE); /* ck_assert() writes to a file each time */
	l->flight[l->last % QUEUE].acked = acked;
	l->flight[l->last % QUEUE].timed = window_add(&l->w, l->size, clock_of(l));
	l->last++;
}

static void link_acknowledge(struct link *l)
{
	count(l);
	work(l);
	if (l->flight[l->first % QUEUE].timed)
		window_sample(&l->w, clock_of(l));
	window_remove(&l->w, l->size);
	l->first++;
	l->acked++;
}

/* A sender that never runs out of messages: sends what it may, then reads what came, and so on. */
static void link_run(struct link *l, double seconds)
{
	double end = l->now + seconds * 1e6;

	while (l->now < end) {
		for (int n = 0; n < 512 && window_admits(&l->w, l->size, clock_of(l)); n++)
			link_publish(l);
		if (l->first == l->last || !window_admits(&l->w, l->size, clock_of(l))) {
			double next = l->first != l->last
				? l->flight[l->first % QUEUE].acked
				: (double)(window_rate_usec(&l->w, clock_of(l)) - 1000 * SEC);

			if (next > l->now) {
				count(l);
				l->now = next;
			}
		}
		while (l->first != l->last && l->flight[l->first % QUEUE].acked <= l->now)
			link_acknowledge(l);
	}
}

static struct outcome link_outcome(const struct link *l)
{
	double span = l->now - l->since;

	return (struct outcome){
		.rate = l->acked * 1e6 / span,
		.mean_bytes = l->area_bytes / span,
		.most_bytes = l->most_bytes,
		.mean_messages = l->area_messages / span,
		.max = l->w.max,
	};
}

/* All of the time counts for the rate; for what is in flight, the second half. */
static struct outcome simulate(const struct path *path, size_t size, double seconds,
	const struct window_params *params, unsigned receive_maximum)
{
	static struct link l;
	struct outcome whole, half;
	double first;

	link_init(&l, path, size, params, receive_maximum);
	link_zero(&l);
	link_run(&l, seconds / 2);
	whole = link_outcome(&l);
	first = whole.rate * (l.now - l.since);
	link_zero(&l);
	link_run(&l, seconds / 2);
	half = link_outcome(&l);
	half.rate = (half.rate * (l.now - l.since) + first) / l.now;
	return half;
}

static const size_t MAX_BYTES = 1 << 20;

/* The fixed window that brings most through. */
static struct outcome best_fixed(
	const struct path *path, size_t size, double seconds, unsigned *ret_window)
{
	struct outcome best = { .rate = 0 };

	for (unsigned window = 1; window <= 16384; window *= 2) {
		struct outcome o = simulate(path, size, seconds,
			&(struct window_params){ .max_messages = window, .max_bytes = MAX_BYTES },
			0);

		if (o.rate > best.rate * 1.01) {
			best = o;
			*ret_window = window;
		}
	}
	return best;
}

/* The library's cost as measured: 48,000 messages a second at a window of 20, 24,000 at 2,000. */
#define CPU	.cpu_usec = 20.6, .cpu_inflight_usec = 0.0105
#define MBIT(n) ((n)*1e6 / 8)
#define MSEC(n) ((n)*1000.0)

static const struct {
	const char *name;
	struct path path;
	size_t size;
	double seconds;
} paths[] = {
	{ "loopback 0.05 ms", { MBIT(8000), MSEC(0.05), CPU }, 200, 2 },
	{ "loopback 0.3 ms", { MBIT(8000), MSEC(0.3), CPU }, 200, 2 },
	{ "loopback 0.3 ms", { MBIT(8000), MSEC(0.3), CPU }, 16384, 2 },
	{ "LAN 1 ms", { MBIT(1000), MSEC(1), CPU }, 200, 4 },
	{ "LAN 1 ms", { MBIT(100), MSEC(1), CPU }, 16384, 8 },
	{ "WLAN 2 to 12 ms", { MBIT(50), MSEC(2), CPU, MSEC(10) }, 200, 30 },
	/* A line that is no bound: what is in flight costs the sender more and more. */
	{ "100 ms, 8 Gbit/s", { MBIT(8000), MSEC(100), 8, 0.012 }, 100, 10 },
	{ "600 ms, 8 Gbit/s", { MBIT(8000), MSEC(600), 8, 0.012 }, 100, 40 },
	{ "4G 60 ms, 10 Mbit/s", { MBIT(10), MSEC(60), CPU }, 200, 40 },
	{ "4G 60 ms, 10 Mbit/s", { MBIT(10), MSEC(60), CPU }, 16384, 60 },
	{ "4G 40 to 80 ms", { MBIT(10), MSEC(40), CPU, MSEC(40) }, 200, 40 },
	{ "satellite 600 ms, 256 kbit/s", { MBIT(0.256), MSEC(600), CPU }, 200, 300 },
	{ "satellite 600 ms, 256 kbit/s", { MBIT(0.256), MSEC(600), CPU }, 16384, 300 },
	{ "64 kbit/s, 100 ms", { MBIT(0.064), MSEC(100), CPU }, 200, 300 },
	{ "64 kbit/s, 100 ms", { MBIT(0.064), MSEC(100), CPU }, 16384, 600 },
	{ "64 kbit/s, 600 ms", { MBIT(0.064), MSEC(600), CPU }, 200, 300 },
	{ "64 kbit/s, 600 ms", { MBIT(0.064), MSEC(600), CPU }, 16384, 600 },
};

/* Bytes that fill the path: what its slowest part passes in the round trip of one message. */
static double path_bytes(const struct path *path, size_t size)
{
	double line = (double)size * 1e6 / path->bytes_per_sec;
	double usec = path->rtt_usec + path->jitter_usec + line + path->cpu_usec;

	return (double)size * usec / larger(line, path->cpu_usec);
}

START_TEST(test_path)
{
	const struct path *path = &paths[_i].path;
	const struct window_params params = { .max_bytes = MAX_BYTES };
	unsigned window = 0;
	struct outcome best, o;
	double fill = path_bytes(path, paths[_i].size);
	double slack = 0.002 * smaller(path->bytes_per_sec, (double)paths[_i].size / 20e-6);

	best = best_fixed(path, paths[_i].size, paths[_i].seconds, &window);
	o = simulate(path, paths[_i].size, paths[_i].seconds, &params, 0);
	ck_assert_msg(o.rate >= 0.9 * best.rate, "%s, %zu bytes: %.1f/s, window %u: %.1f/s",
		paths[_i].name, paths[_i].size, o.rate, window, best.rate);
	ck_assert_msg(o.mean_bytes <= 3 * fill + slack + 16384, "%s, %zu bytes: %.0f, path %.0f",
		paths[_i].name, paths[_i].size, o.mean_bytes, fill);
}
END_TEST

/* A path that becomes longer, then short again. */
static const struct {
	double rtt_msec[3];
	double bytes_per_sec;
	size_t size;
} changes[] = {
	{ { 20, 600, 20 }, MBIT(10), 200 },
	{ { 20, 600, 20 }, MBIT(1), 1000 },
	{ { 600, 20, 600 }, MBIT(10), 200 },
	{ { 1, 60, 1 }, MBIT(10), 200 },
	{ { 60, 80, 60 }, MBIT(10), 200 },
};

START_TEST(test_path_changes)
{
	const struct window_params params = { .max_bytes = MAX_BYTES };
	static struct link l;
	struct path path = { .bytes_per_sec = changes[_i].bytes_per_sec, CPU };

	link_init(&l, &path, changes[_i].size, &params, 0);
	for (size_t n = 0; n < ARRAY_SIZE(changes[_i].rtt_msec); n++) {
		unsigned window = 0;
		struct outcome best, o;
		double fill;

		path.rtt_usec = l.path.rtt_usec = MSEC(changes[_i].rtt_msec[n]);
		fill = path_bytes(&path, changes[_i].size);
		best = best_fixed(&path, changes[_i].size, 20, &window);
		link_zero(&l);
		link_run(&l, 40); /* the time it may take to find out counts, too */
		o = link_outcome(&l);
		ck_assert_msg(o.rate >= 0.8 * best.rate, "%d, %.0f ms: %.1f/s, window %u: %.1f/s",
			_i, changes[_i].rtt_msec[n], o.rate, window, best.rate);
		link_zero(&l);
		link_run(&l, 20);
		o = link_outcome(&l);
		ck_assert_msg(o.rate >= 0.9 * best.rate, "%d, %.0f ms: %.1f/s, window %u: %.1f/s",
			_i, changes[_i].rtt_msec[n], o.rate, window, best.rate);
		ck_assert_msg(o.mean_bytes <= 3 * fill + 16384, "%d, %.0f ms: %.0f, path %.0f", _i,
			changes[_i].rtt_msec[n], o.mean_bytes, fill);
	}
}
END_TEST

/* For half an hour nothing drifts: no queue of our own passes for the path. */
START_TEST(test_nothing_drifts)
{
	const struct window_params params = { .max_bytes = MAX_BYTES };
	const struct path path = { MBIT(0.256), MSEC(200), CPU };
	static struct link l;
	double fill = path_bytes(&path, 200);

	link_init(&l, &path, 200, &params, 0);
	for (int minute = 0; minute < 30; minute++) {
		struct outcome o;

		link_zero(&l);
		link_run(&l, 60);
		o = link_outcome(&l);
		ck_assert(o.rate >= 0.9 * path.bytes_per_sec / 200);
		ck_assert(o.mean_bytes <= 3 * fill + 1000);
	}
}
END_TEST

/* Messages of two kinds: the large ones take long, and that is not a queue. */
START_TEST(test_mixed_sizes)
{
	const struct window_params params = { .max_bytes = MAX_BYTES };
	const struct path path = { MBIT(0.064), MSEC(300), CPU };
	static struct link l;
	double bytes = 0;

	link_init(&l, &path, 200, &params, 0);
	for (int n = 0; n < 60; n++) {
		struct outcome o;

		/* What is in flight goes first: the simulation has one size at a time. */
		while (l.first != l.last) {
			l.now = larger(l.now, l.flight[l.first % QUEUE].acked);
			link_acknowledge(&l);
		}
		l.size = n % 2 ? 16384 : 200;
		link_zero(&l);
		link_run(&l, 30);
		o = link_outcome(&l);
		bytes += o.rate * (double)l.size * 30;
		ck_assert(o.mean_bytes <= 80 * 1024);
		ck_assert(o.most_bytes <= 128 * 1024);
	}
	ck_assert(bytes >= 0.85 * 60 * 30 * path.bytes_per_sec);
}
END_TEST

static const unsigned receive_maxima[] = { 1, 2, 10, 100, 65535 };

START_TEST(test_receive_maximum)
{
	const struct window_params params = { .max_bytes = MAX_BYTES };
	const struct path path = { MBIT(10), MSEC(60), CPU };
	unsigned maximum = receive_maxima[_i];
	static struct link l;
	struct outcome o;

	link_init(&l, &path, 200, &params, maximum);
	for (int n = 0; n < 200; n++) {
		link_run(&l, 0.1);
		ck_assert_uint_le(l.w.max, maximum);
		ck_assert_uint_le(l.w.messages, maximum);
	}
	link_zero(&l);
	link_run(&l, 20);
	o = link_outcome(&l);
	/* The window, once a round trip, or what the line takes. */
	ck_assert(o.rate >= 0.9 * smaller(maximum / 0.0603, path.bytes_per_sec / 200));
}
END_TEST

/* Told off again and again, then left in peace: all comes back, in minutes, not at once. */
START_TEST(test_throttled_recovers)
{
	const struct window_params params = { .max_bytes = MAX_BYTES };
	const struct path path = { MBIT(10), MSEC(60), CPU };
	static struct link l;
	struct outcome o;
	double full;

	link_init(&l, &path, 200, &params, 0);
	link_run(&l, 20);
	link_zero(&l);
	link_run(&l, 20);
	full = link_outcome(&l).rate;
	for (int n = 0; n < 40; n++) {
		window_throttled(&l.w, clock_of(&l));
		link_run(&l, 0.5);
	}
	ck_assert_uint_le(l.w.max, 2);
	link_zero(&l);
	link_run(&l, 5);
	o = link_outcome(&l);
	ck_assert(o.rate < full / 4);
	link_run(&l, 60);
	link_zero(&l);
	link_run(&l, 20);
	o = link_outcome(&l);
	ck_assert(o.rate >= 0.95 * full);
}
END_TEST

/* The rate's bound holds whatever the window thinks, and does not make it shrink or grow. */
START_TEST(test_rate_on_a_link)
{
	const struct window_params params = { .max_bytes = MAX_BYTES, .max_rate = 5000 };
	const struct path path = { MBIT(10), MSEC(60), CPU };
	struct outcome o = simulate(&path, 200, 100, &params, 0);

	ck_assert(o.rate * 200 <= 5000 * 1.02);
	ck_assert(o.rate * 200 >= 5000 * 0.98);
	ck_assert_uint_ge(o.max, 32);
}
END_TEST

Suite *check_window(void)
{
	Suite *s = suite_create("window");
	TCase *t = tcase_create("window");

	tcase_add_loop_test(t, test_limit, 0, ARRAY_SIZE(limits));
	tcase_add_test(t, test_limit_is_for_one_connection);
	tcase_add_test(t, test_limit_below_what_is_in_flight);
	tcase_add_loop_test(t, test_bytes, 0, ARRAY_SIZE(sizes));
	tcase_add_test(t, test_add_and_remove);
	tcase_add_test(t, test_one_is_timed);
	tcase_add_test(t, test_fixed_size_times_nothing);
	tcase_add_test(t, test_no_time_passes);
	tcase_add_test(t, test_idle_sender_learns_nothing);
	tcase_add_test(t, test_connected_keeps_a_guess);
	tcase_add_test(t, test_rate_none);
	tcase_add_test(t, test_rate_debt);
	tcase_add_loop_test(t, test_rate, 0, ARRAY_SIZE(rates));
	tcase_add_test(t, test_rate_does_not_overflow);
	tcase_add_loop_test(t, test_throttled, 0, ARRAY_SIZE(throttles));
	suite_add_tcase(s, t);

	t = tcase_create("link");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_set_tags(t, "long alone");
	tcase_add_loop_test(t, test_path, 0, ARRAY_SIZE(paths));
	tcase_add_loop_test(t, test_path_changes, 0, ARRAY_SIZE(changes));
	tcase_add_test(t, test_nothing_drifts);
	tcase_add_test(t, test_mixed_sizes);
	tcase_add_loop_test(t, test_receive_maximum, 0, ARRAY_SIZE(receive_maxima));
	tcase_add_test(t, test_throttled_recovers);
	tcase_add_test(t, test_rate_on_a_link);
	suite_add_tcase(s, t);
	return s;
}
