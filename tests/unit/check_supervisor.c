/* SPDX-License-Identifier: MIT */
/*
 * Tests of the connection's state machine: each event in each state, the deadline, waits and when
 * they start over, and a week of outages in a moment of simulated time.
 */
#include <errno.h>

#include "scratch.h"
#include "suites.h"
#include "supervisor.h"

#define SEC	   USEC_PER_SEC
#define NOW	   (1000 * SEC)
#define BASE	   (1 * SEC)
#define MAX	   (60 * SEC)
#define TIMEOUT	   (10 * SEC)
#define STABLE	   (30 * SEC)
#define DISCONNECT (2 * SEC)

static double no_random(void *userdata)
{
	(void)userdata;
	ck_abort_msg("no jitter was asked for");
	return 0;
}

static const struct supervisor_params defaults = {
	.backoff = { BASE, MAX, 2.0, BACKOFF_JITTER_NONE },
	.connect_timeout_usec = TIMEOUT,
	.stable_usec = STABLE,
	.disconnect_timeout_usec = DISCONNECT,
};

static struct supervisor_step handle(
	struct supervisor *s, enum supervisor_event event, enum failure_class class, uint64_t now)
{
	enum supervisor_state from = s->state;
	struct supervisor_step step;

	ck_assert_int_eq(supervisor_handle(s, event, class, now, &step), 0);
	ck_assert_int_eq(step.from, from);
	ck_assert_int_eq(step.to, s->state);
	ck_assert_uint_eq(step.timer_usec, s->timer_usec);
	return step;
}

/* Brings a new supervisor into a state by the shortest way, at times before NOW. */
static void bring_to(struct supervisor *s, enum supervisor_state state)
{
	supervisor_init(s, &defaults, no_random, NULL);
	if (state != SUPERVISOR_DISCONNECTED)
		handle(s, SUPERVISOR_START, FAILURE_NONE, NOW - 5);
	switch (state) {
	case SUPERVISOR_CONNECTED:
	case SUPERVISOR_DISCONNECTING:
		handle(s, SUPERVISOR_CONNACK, FAILURE_NONE, NOW - 4);
		if (state == SUPERVISOR_DISCONNECTING)
			handle(s, SUPERVISOR_STOP, FAILURE_NONE, NOW - 3);
		break;
	case SUPERVISOR_ERROR: handle(s, SUPERVISOR_FAILURE, FAILURE_AUTH, NOW - 4); break;
	case SUPERVISOR_OFFLINE: handle(s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, NOW - 4); break;
	default: break;
	}
	ck_assert_int_eq(s->state, state);
}

/* --- the table ------------------------------------------------------------------------------- */

#define D SUPERVISOR_DISCONNECTED
#define C SUPERVISOR_CONNECTING
#define U SUPERVISOR_CONNECTED
#define X SUPERVISOR_DISCONNECTING
#define E SUPERVISOR_ERROR
#define O SUPERVISOR_OFFLINE

#define NEVER	  SUPERVISOR_NO_TIMER
#define ANY_CLASS FAILURE_NONE

static const struct {
	enum supervisor_state from;
	enum supervisor_event event;
	enum failure_class class;
	int r;
	enum supervisor_state to;
	enum supervisor_action action;
	uint64_t timer; /* after NOW, or NEVER */
	uint64_t wait;
	bool deadline;
} table[] = {
	{ D, SUPERVISOR_START, ANY_CLASS, 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ D, SUPERVISOR_PROGRESS, ANY_CLASS, -EPROTO },
	{ D, SUPERVISOR_CONNACK, ANY_CLASS, -EPROTO },
	{ D, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, -EPROTO },
	{ D, SUPERVISOR_FAILURE, FAILURE_AUTH, -EPROTO },
	{ D, SUPERVISOR_TIMER, ANY_CLASS, 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ D, SUPERVISOR_STOP, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },
	{ D, SUPERVISOR_CLOSED, ANY_CLASS, -EPROTO },

	{ C, SUPERVISOR_START, ANY_CLASS, -EPROTO },
	{ C, SUPERVISOR_PROGRESS, ANY_CLASS, 0, C, SUPERVISOR_NOTHING, TIMEOUT },
	{ C, SUPERVISOR_CONNACK, ANY_CLASS, 0, U, SUPERVISOR_NOTHING, STABLE },
	{ C, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, 0, O, SUPERVISOR_ABORT, BASE, BASE },
	{ C, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, 0, O, SUPERVISOR_ABORT, BASE, BASE },
	{ C, SUPERVISOR_FAILURE, FAILURE_BUSY, 0, O, SUPERVISOR_ABORT, BASE, BASE },
	{ C, SUPERVISOR_FAILURE, FAILURE_MOVED, 0, O, SUPERVISOR_ABORT, BASE, BASE },
	{ C, SUPERVISOR_FAILURE, FAILURE_TAKEN_OVER, 0, E, SUPERVISOR_ABORT, MAX, MAX },
	{ C, SUPERVISOR_FAILURE, FAILURE_AUTH, 0, E, SUPERVISOR_ABORT, MAX, MAX },
	{ C, SUPERVISOR_FAILURE, FAILURE_PROTOCOL, 0, E, SUPERVISOR_ABORT, MAX, MAX },
	{ C, SUPERVISOR_TIMER, ANY_CLASS, 0, O, SUPERVISOR_ABORT, BASE, BASE, true },
	{ C, SUPERVISOR_TIMER, FAILURE_AUTH, 0, O, SUPERVISOR_ABORT, BASE, BASE, true },
	{ C, SUPERVISOR_STOP, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },
	{ C, SUPERVISOR_CLOSED, ANY_CLASS, -EPROTO },

	{ U, SUPERVISOR_START, ANY_CLASS, -EPROTO },
	{ U, SUPERVISOR_PROGRESS, ANY_CLASS, -EPROTO },
	{ U, SUPERVISOR_CONNACK, ANY_CLASS, -EPROTO },
	{ U, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, 0, D, SUPERVISOR_ABORT, BASE, BASE },
	{ U, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, 0, D, SUPERVISOR_ABORT, BASE, BASE },
	{ U, SUPERVISOR_FAILURE, FAILURE_BUSY, 0, D, SUPERVISOR_ABORT, BASE, BASE },
	{ U, SUPERVISOR_FAILURE, FAILURE_MOVED, 0, D, SUPERVISOR_ABORT, BASE, BASE },
	{ U, SUPERVISOR_FAILURE, FAILURE_TAKEN_OVER, 0, E, SUPERVISOR_ABORT, MAX, MAX },
	{ U, SUPERVISOR_FAILURE, FAILURE_AUTH, 0, E, SUPERVISOR_ABORT, MAX, MAX },
	{ U, SUPERVISOR_FAILURE, FAILURE_PROTOCOL, 0, E, SUPERVISOR_ABORT, MAX, MAX },
	{ U, SUPERVISOR_TIMER, ANY_CLASS, 0, U, SUPERVISOR_NOTHING, NEVER },
	{ U, SUPERVISOR_STOP, ANY_CLASS, 0, X, SUPERVISOR_DISCONNECT, DISCONNECT },
	{ U, SUPERVISOR_CLOSED, ANY_CLASS, -EPROTO },

	{ X, SUPERVISOR_START, ANY_CLASS, -EPROTO },
	{ X, SUPERVISOR_PROGRESS, ANY_CLASS, -EPROTO },
	{ X, SUPERVISOR_CONNACK, ANY_CLASS, -EPROTO },
	{ X, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, SUPERVISOR_FAILURE, FAILURE_AUTH, 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, SUPERVISOR_TIMER, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, SUPERVISOR_STOP, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, SUPERVISOR_CLOSED, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },

	{ E, SUPERVISOR_START, ANY_CLASS, 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ E, SUPERVISOR_PROGRESS, ANY_CLASS, -EPROTO },
	{ E, SUPERVISOR_CONNACK, ANY_CLASS, -EPROTO },
	{ E, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, -EPROTO },
	{ E, SUPERVISOR_TIMER, ANY_CLASS, 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ E, SUPERVISOR_STOP, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },
	{ E, SUPERVISOR_CLOSED, ANY_CLASS, -EPROTO },

	{ O, SUPERVISOR_START, ANY_CLASS, 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ O, SUPERVISOR_PROGRESS, ANY_CLASS, -EPROTO },
	{ O, SUPERVISOR_CONNACK, ANY_CLASS, -EPROTO },
	{ O, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, -EPROTO },
	{ O, SUPERVISOR_TIMER, ANY_CLASS, 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ O, SUPERVISOR_STOP, ANY_CLASS, 0, D, SUPERVISOR_ABORT, NEVER },
	{ O, SUPERVISOR_CLOSED, ANY_CLASS, -EPROTO },
};

START_TEST(test_table)
{
	struct supervisor s, before;
	struct supervisor_step step;
	int r;

	bring_to(&s, table[_i].from);
	before = s;
	r = supervisor_handle(&s, table[_i].event, table[_i].class, NOW, &step);
	ck_assert_int_eq(r, table[_i].r);
	ck_assert_int_eq(step.from, table[_i].from);
	if (r < 0) {
		ck_assert_int_eq(step.to, table[_i].from);
		ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
		ck_assert_uint_eq(step.timer_usec, before.timer_usec);
		ck_assert_uint_eq(step.wait_usec, 0);
		ck_assert(!step.deadline);
		ck_assert_int_eq(s.state, before.state);
		ck_assert_uint_eq(s.timer_usec, before.timer_usec);
		ck_assert_uint_eq(s.backoff.waits, before.backoff.waits);
		return;
	}
	ck_assert_int_eq(step.to, table[_i].to);
	ck_assert_int_eq(s.state, table[_i].to);
	ck_assert_int_eq(step.action, table[_i].action);
	ck_assert_uint_eq(
		step.timer_usec, table[_i].timer == NEVER ? NEVER : NOW + table[_i].timer);
	ck_assert_uint_eq(s.timer_usec, step.timer_usec);
	ck_assert_uint_eq(step.wait_usec, table[_i].wait);
	ck_assert_int_eq(step.deadline, table[_i].deadline);
}
END_TEST

START_TEST(test_table_is_complete)
{
	bool seen[N_SUPERVISOR_STATES][N_SUPERVISOR_EVENTS] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		seen[table[i].from][table[i].event] = true;
	for (int state = 0; state < N_SUPERVISOR_STATES; state++) {
		for (int event = 0; event < N_SUPERVISOR_EVENTS; event++)
			ck_assert_msg(seen[state][event], "state %d, event %d", state, event);
	}
}
END_TEST

START_TEST(test_names)
{
	static const char *const names[] = { "disconnected", "connecting", "connected",
		"disconnecting", "error", "offline" };

	ck_assert_uint_eq(ARRAY_SIZE(names), N_SUPERVISOR_STATES);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		ck_assert_str_eq(supervisor_state_to_string((enum supervisor_state)i), names[i]);
}
END_TEST

START_TEST(test_begins_disconnected)
{
	struct supervisor s;

	supervisor_init(&s, &defaults, no_random, NULL);
	ck_assert_int_eq(s.state, SUPERVISOR_DISCONNECTED);
	ck_assert_uint_eq(s.timer_usec, SUPERVISOR_NO_TIMER);
}
END_TEST

/* --- waits ----------------------------------------------------------------------------------- */

static const uint64_t growing[] = { 1, 2, 4, 8, 16, 32, 60, 60, 60, 60 };

static uint64_t connect_and_fail(struct supervisor *s, enum failure_class class, uint64_t *now)
{
	struct supervisor_step step;

	step = handle(s, SUPERVISOR_FAILURE, class, *now);
	*now = step.timer_usec;
	handle(s, SUPERVISOR_TIMER, FAILURE_NONE, *now);
	return step.wait_usec / SEC;
}

START_TEST(test_waits_grow)
{
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, SUPERVISOR_CONNECTING);
	for (size_t i = 0; i < ARRAY_SIZE(growing); i++)
		ck_assert_uint_eq(connect_and_fail(&s, FAILURE_TIMEOUT, &now), growing[i]);
}
END_TEST

/* Silence is as good a failure as any. */
START_TEST(test_waits_grow_over_deadlines)
{
	struct supervisor_step step;
	struct supervisor s;

	supervisor_init(&s, &defaults, no_random, NULL);
	step = handle(&s, SUPERVISOR_START, FAILURE_NONE, NOW);
	for (size_t i = 0; i < ARRAY_SIZE(growing); i++) {
		uint64_t at = step.timer_usec;

		step = handle(&s, SUPERVISOR_TIMER, FAILURE_NONE, at);
		ck_assert(step.deadline);
		ck_assert_uint_eq(step.timer_usec, at + growing[i] * SEC);
		at = step.timer_usec;
		step = handle(&s, SUPERVISOR_TIMER, FAILURE_NONE, at);
		ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
		ck_assert_uint_eq(step.timer_usec, at + TIMEOUT);
	}
}
END_TEST

START_TEST(test_flapping_does_not_reset)
{
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, SUPERVISOR_CONNECTING);
	for (size_t i = 0; i < ARRAY_SIZE(growing); i++) {
		handle(&s, SUPERVISOR_CONNACK, FAILURE_NONE, now);
		now += STABLE - 1; /* the timer was not due */
		ck_assert_uint_eq(connect_and_fail(&s, FAILURE_HEARTBEAT, &now), growing[i]);
	}
}
END_TEST

START_TEST(test_stable_resets)
{
	struct supervisor_step step;
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, SUPERVISOR_CONNECTING);
	for (int i = 0; i < 5; i++)
		connect_and_fail(&s, FAILURE_TIMEOUT, &now);
	step = handle(&s, SUPERVISOR_CONNACK, FAILURE_NONE, now);
	ck_assert_uint_eq(step.timer_usec, now + STABLE);
	step = handle(&s, SUPERVISOR_TIMER, FAILURE_NONE, step.timer_usec);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	now = step.timer_usec == SUPERVISOR_NO_TIMER ? now + 10 * STABLE : 0;
	ck_assert_uint_ne(now, 0);
	ck_assert_uint_eq(connect_and_fail(&s, FAILURE_HEARTBEAT, &now), 1);
	ck_assert_uint_eq(connect_and_fail(&s, FAILURE_TIMEOUT, &now), 2);
}
END_TEST

START_TEST(test_progress_moves_the_deadline)
{
	struct supervisor_step step;
	struct supervisor s;

	supervisor_init(&s, &defaults, no_random, NULL);
	step = handle(&s, SUPERVISOR_START, FAILURE_NONE, NOW);
	ck_assert_uint_eq(step.timer_usec, NOW + TIMEOUT);
	step = handle(&s, SUPERVISOR_PROGRESS, FAILURE_NONE, NOW + TIMEOUT - 1);
	ck_assert_uint_eq(step.timer_usec, NOW + 2 * TIMEOUT - 1);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
}
END_TEST

/* "Try now" shortens one wait; it does not forgive the failures before it. */
START_TEST(test_start_cuts_the_wait_only)
{
	struct supervisor_step step;
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, SUPERVISOR_CONNECTING);
	for (size_t i = 0; i < ARRAY_SIZE(growing); i++) {
		step = handle(&s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, now);
		ck_assert_uint_eq(step.wait_usec, growing[i] * SEC);
		step = handle(&s, SUPERVISOR_START, FAILURE_NONE, ++now);
		ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
		ck_assert_uint_eq(step.timer_usec, now + TIMEOUT);
	}
}
END_TEST

static const enum failure_class refusals[] = { FAILURE_AUTH, FAILURE_PROTOCOL, FAILURE_TAKEN_OVER };
static const double multipliers[] = { 1.0, 1.02, 1.5, 2.0, 10.0 };

START_TEST(test_refusals_wait_longest)
{
	struct supervisor_params params = defaults;
	struct supervisor_step step;
	struct supervisor s;

	params.backoff.multiplier = multipliers[_i / (int)ARRAY_SIZE(refusals)];
	supervisor_init(&s, &params, no_random, NULL);
	handle(&s, SUPERVISOR_START, FAILURE_NONE, NOW);
	for (int i = 0; i < 3; i++) {
		step = handle(
			&s, SUPERVISOR_FAILURE, refusals[_i % (int)ARRAY_SIZE(refusals)], NOW);
		ck_assert_int_eq(step.to, SUPERVISOR_ERROR);
		ck_assert_uint_eq(step.wait_usec, MAX);
		handle(&s, SUPERVISOR_TIMER, FAILURE_NONE, step.timer_usec);
	}
}
END_TEST

/* A refusal is forgiven by a connection that stays up, like anything else. */
START_TEST(test_stable_forgives_a_refusal)
{
	struct supervisor_step step;
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, SUPERVISOR_CONNECTING);
	connect_and_fail(&s, FAILURE_AUTH, &now);
	step = handle(&s, SUPERVISOR_CONNACK, FAILURE_NONE, now);
	now = step.timer_usec;
	handle(&s, SUPERVISOR_TIMER, FAILURE_NONE, now);
	ck_assert_uint_eq(connect_and_fail(&s, FAILURE_HEARTBEAT, &now), 1);
}
END_TEST

START_TEST(test_stop_everywhere)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, (enum supervisor_state)_i);
	step = handle(&s, SUPERVISOR_STOP, FAILURE_NONE, NOW);
	if (_i == SUPERVISOR_CONNECTED) {
		ck_assert_int_eq(step.action, SUPERVISOR_DISCONNECT);
		step = handle(&s, SUPERVISOR_CLOSED, FAILURE_NONE, NOW + 1);
	}
	ck_assert_int_eq(s.state, SUPERVISOR_DISCONNECTED);
	ck_assert_uint_eq(s.timer_usec, SUPERVISOR_NO_TIMER);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	/* Once more does no harm, and one can begin again. */
	step = handle(&s, SUPERVISOR_STOP, FAILURE_NONE, NOW + 2);
	ck_assert_int_eq(s.state, SUPERVISOR_DISCONNECTED);
	step = handle(&s, SUPERVISOR_START, FAILURE_NONE, NOW + 3);
	ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
}
END_TEST

/* --- a week of outages ----------------------------------------------------------------------- */

#define WEEK (7 * 24 * 3600 * SEC)

struct simulation {
	uint64_t random;
	struct supervisor s;
	uint64_t now;
	bool attempt; /* one is under way */
	bool up;
	uint64_t not_before; /* no attempt until then, unless asked for */
	unsigned waits; /* since a connection was stable */
	bool refused; /* since then */
	unsigned attempts, connections, deadlines, stables;
};

static uint64_t below(struct simulation *m, uint64_t n)
{
	return scratch_random(&m->random) % n;
}

static double unit(void *userdata)
{
	return (double)(scratch_random(userdata) >> 11) * 0x1.0p-53;
}

static uint64_t longest_wait(const struct simulation *m)
{
	const struct backoff_params *p = &m->s.params.backoff;
	uint64_t d = m->refused ? p->max_usec : backoff_delay_usec(p, m->waits);

	switch (p->jitter) {
	case BACKOFF_JITTER_PROPORTIONAL: return d + d / 10;
	case BACKOFF_JITTER_ADDITIVE: return d + SEC;
	default: return d;
	}
}

static uint64_t shortest_wait(const struct simulation *m)
{
	const struct backoff_params *p = &m->s.params.backoff;
	uint64_t d = backoff_delay_usec(p, m->waits);

	switch (p->jitter) {
	case BACKOFF_JITTER_FULL: return 0;
	case BACKOFF_JITTER_PROPORTIONAL: return d - d / 10;
	default: return d;
	}
}

static void send_event(struct simulation *m, enum supervisor_event event, enum failure_class class)
{
	struct supervisor_step step = handle(&m->s, event, class, m->now);

	switch (step.action) {
	case SUPERVISOR_CONNECT:
		ck_assert(!m->attempt && !m->up);
		ck_assert(m->now >= m->not_before || event == SUPERVISOR_START);
		m->attempt = true;
		m->attempts++;
		break;
	case SUPERVISOR_ABORT: m->attempt = m->up = false; break;
	case SUPERVISOR_DISCONNECT: ck_abort_msg("nobody asked for a stop"); break;
	case SUPERVISOR_NOTHING: break;
	}
	if (event == SUPERVISOR_CONNACK) {
		ck_assert(m->attempt);
		m->attempt = false;
		m->up = true;
		m->connections++;
	}
	if (event == SUPERVISOR_TIMER && step.from == SUPERVISOR_CONNECTED) {
		m->waits = 0;
		m->refused = false;
		m->stables++;
	}
	if (step.deadline)
		m->deadlines++;
	if (event == SUPERVISOR_FAILURE || step.deadline) {
		m->refused = m->refused || class == FAILURE_AUTH || class == FAILURE_PROTOCOL ||
			class == FAILURE_TAKEN_OVER;
		ck_assert_uint_le(step.wait_usec, longest_wait(m));
		ck_assert_uint_ge(step.wait_usec, shortest_wait(m));
		ck_assert_uint_eq(step.timer_usec, m->now + step.wait_usec);
		m->not_before = step.timer_usec;
		m->waits++;
	}
	/* Nothing but a long connection waits for nothing. */
	ck_assert(step.timer_usec != SUPERVISOR_NO_TIMER || m->up);
	ck_assert_int_eq(m->attempt, m->s.state == SUPERVISOR_CONNECTING);
	ck_assert_int_eq(m->up, m->s.state == SUPERVISOR_CONNECTED);
}

/* Whatever is due first happens: the machine's timer, or what fate has in store. */
static void live_until(
	struct simulation *m, uint64_t at, enum supervisor_event event, enum failure_class class)
{
	if (m->s.timer_usec <= at) {
		m->now = m->s.timer_usec;
		send_event(m, SUPERVISOR_TIMER, FAILURE_NONE);
		return;
	}
	m->now = at;
	send_event(m, event, class);
}

static enum failure_class any_class(struct simulation *m)
{
	/* Mostly the network. */
	if (below(m, 10) > 0)
		return FAILURE_TIMEOUT;
	return (enum failure_class)(FAILURE_TIMEOUT + below(m, FAILURE_PROTOCOL));
}

static void next_event(struct simulation *m)
{
	static const uint64_t lives[] = { 100, SEC, STABLE, 600 * SEC, 6 * 3600 * SEC };

	switch (m->s.state) {
	case SUPERVISOR_CONNECTING: {
		static const enum supervisor_event outcomes[] = { SUPERVISOR_FAILURE,
			SUPERVISOR_FAILURE, SUPERVISOR_PROGRESS, SUPERVISOR_CONNACK };

		/* Some answers come after the deadline, and so do not come. */
		live_until(
			m, m->now + below(m, TIMEOUT * 3 / 2), outcomes[below(m, 4)], any_class(m));
		break;
	}
	case SUPERVISOR_CONNECTED:
		live_until(m, m->now + below(m, lives[below(m, ARRAY_SIZE(lives))]) + 1,
			SUPERVISOR_FAILURE, below(m, 20) ? FAILURE_HEARTBEAT : any_class(m));
		break;
	default:
		/* Now and then the network comes back, or an operator asks. */
		live_until(m, m->now + (below(m, 20) ? WEEK : below(m, MAX)), SUPERVISOR_START,
			FAILURE_NONE);
		break;
	}
}

START_TEST(test_a_week_of_outages)
{
	struct supervisor_params params = defaults;
	struct simulation m = { .random = 1000 + (uint64_t)_i, .now = NOW };
	uint64_t jitter = 77 + (uint64_t)_i;

	params.backoff.jitter = (enum backoff_jitter)_i;
	supervisor_init(&m.s, &params, unit, &jitter);
	send_event(&m, SUPERVISOR_START, FAILURE_NONE);
	while (m.now < NOW + WEEK)
		next_event(&m);
	/* All that a week can bring did happen, and nobody was hammered. */
	ck_assert_uint_gt(m.connections, 50);
	ck_assert_uint_gt(m.deadlines, 50);
	ck_assert_uint_gt(m.stables, 10);
	ck_assert_uint_gt(m.attempts, 500);
	ck_assert_uint_lt(m.attempts, WEEK / SEC / 5);
}
END_TEST

Suite *check_supervisor(void)
{
	Suite *s = suite_create("supervisor");
	TCase *t = tcase_create("table");

	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_table, 0, ARRAY_SIZE(table));
	tcase_add_test(t, test_table_is_complete);
	tcase_add_test(t, test_names);
	tcase_add_test(t, test_begins_disconnected);
	suite_add_tcase(s, t);

	t = tcase_create("waits");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_waits_grow);
	tcase_add_test(t, test_waits_grow_over_deadlines);
	tcase_add_test(t, test_flapping_does_not_reset);
	tcase_add_test(t, test_stable_resets);
	tcase_add_test(t, test_progress_moves_the_deadline);
	tcase_add_test(t, test_start_cuts_the_wait_only);
	tcase_add_loop_test(
		t, test_refusals_wait_longest, 0, ARRAY_SIZE(refusals) * ARRAY_SIZE(multipliers));
	tcase_add_test(t, test_stable_forgives_a_refusal);
	tcase_add_loop_test(t, test_stop_everywhere, 0, N_SUPERVISOR_STATES);
	suite_add_tcase(s, t);

	t = tcase_create("week");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_a_week_of_outages, 0, 4);
	suite_add_tcase(s, t);
	return s;
}
