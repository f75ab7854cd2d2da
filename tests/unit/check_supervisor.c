/* SPDX-License-Identifier: MIT */
/*
 * Tests of the connection's state machine: each event in each state, each class of failure for one
 * and several brokers, waits and rounds, failing back, the network, new lists, stopping.
 */
#include <errno.h>

#include "scratch.h"
#include "suites.h"
#include "supervisor.h"

#define SEC	   USEC_PER_SEC
#define NOW	   (100000 * SEC)
#define BASE	   (1 * SEC)
#define MAX	   (60 * SEC)
#define TIMEOUT	   (10 * SEC)
#define STABLE	   (30 * SEC)
#define DISCONNECT (2 * SEC)
#define ASIDE	   (250 * SEC)
#define FAILBACK   (300 * SEC)
#define NEVER	   SUPERVISOR_NO_TIMER

/* What the random source says; between the two halves of what is drawn. */
static double chance = 0.5;

static double draw(void *userdata)
{
	(void)userdata;
	return chance;
}

static const struct supervisor_params defaults = {
	.backoff = { BASE, MAX, 2.0, BACKOFF_JITTER_NONE },
	.connect_timeout_usec = TIMEOUT,
	.stable_usec = STABLE,
	.disconnect_timeout_usec = DISCONNECT,
	.timeout_attempts = 3,
	.heartbeat_attempts = 2,
	.heartbeat_delay_usec = SEC,
	.set_aside_usec = ASIDE,
	.failback_usec = FAILBACK,
};

static const struct brokers_item abc[] = { { "a:1", 0 }, { "b:1", 1 }, { "c:1", 2 } };

/* What the header promises of every step. */
static void check_step(
	const struct supervisor *s, enum supervisor_state from, const struct supervisor_step *step)
{
	ck_assert_int_eq(step->from, from);
	ck_assert_int_eq(step->to, s->state);
	ck_assert_uint_eq(step->timer_usec, s->timer_usec);
	if (s->state == SUPERVISOR_CONNECTING || s->state == SUPERVISOR_DISCONNECTING)
		ck_assert_uint_ne(s->timer_usec, NEVER);
	else if (s->state != SUPERVISOR_CONNECTED && !s->stopping && s->brokers.n > 0)
		ck_assert_uint_ne(s->timer_usec, NEVER);
	if (step->action == SUPERVISOR_CONNECT)
		ck_assert_int_ne(s->current, BROKERS_NONE);
	if (s->probing != BROKERS_NONE)
		ck_assert_int_eq(s->state, SUPERVISOR_CONNECTED);
}

static struct supervisor_step handle(
	struct supervisor *s, enum supervisor_event event, enum failure_class class, uint64_t now)
{
	enum supervisor_state from = s->state;
	struct supervisor_step step;

	ck_assert_int_eq(supervisor_handle(s, event, class, now, &step), 0);
	check_step(s, from, &step);
	return step;
}

static struct supervisor_step tell(struct supervisor *s, enum supervisor_event event, uint64_t now)
{
	return handle(s, event, FAILURE_NONE, now);
}

/* The event changes nothing that can be seen. */
static void ignores(
	struct supervisor *s, enum supervisor_event event, enum failure_class class, uint64_t now)
{
	struct supervisor before = *s;
	struct supervisor_step step;

	ck_assert_int_eq(supervisor_handle(s, event, class, now, &step), -EPROTO);
	ck_assert_int_eq(step.from, before.state);
	ck_assert_int_eq(step.to, before.state);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_NONE);
	ck_assert_uint_eq(step.timer_usec, before.timer_usec);
	ck_assert_uint_eq(step.wait_usec, 0);
	ck_assert(!step.deadline && !step.alert);
	ck_assert_int_eq(s->state, before.state);
	ck_assert_uint_eq(s->timer_usec, before.timer_usec);
	ck_assert_uint_eq(s->backoff.waits, before.backoff.waits);
	ck_assert_int_eq(s->current, before.current);
	ck_assert_int_eq(s->probing, before.probing);
}

static struct supervisor_step set_brokers(
	struct supervisor *s, const struct brokers_item *items, size_t n, uint64_t now)
{
	enum supervisor_state from = s->state;
	struct supervisor_step step;

	supervisor_set_brokers(s, items, n, now, &step);
	ck_assert_int_eq(step.from, from);
	ck_assert_int_eq(step.to, s->state);
	ck_assert_uint_eq(step.timer_usec, s->timer_usec);
	return step;
}

static void init(struct supervisor *s, size_t n)
{
	chance = 0.5;
	supervisor_init(s, &defaults, draw, NULL);
	set_brokers(s, abc, n, NOW - 10);
}

/* Brings a new supervisor into a state by the shortest way, at times just before NOW. */
static void bring_to(struct supervisor *s, enum supervisor_state state, size_t n)
{
	init(s, n);
	tell(s, SUPERVISOR_START, NOW - 5);
	switch (state) {
	case SUPERVISOR_CONNECTED:
	case SUPERVISOR_DISCONNECTING:
		tell(s, SUPERVISOR_CONNACK, NOW - 4);
		if (state == SUPERVISOR_DISCONNECTING)
			tell(s, SUPERVISOR_STOP, NOW - 3);
		break;
	case SUPERVISOR_ERROR:
		for (size_t i = 0; i < n; i++) {
			handle(s, SUPERVISOR_FAILURE, FAILURE_AUTH, NOW - 4);
			if (i + 1 < n)
				tell(s, SUPERVISOR_TIMER, NOW - 4);
		}
		break;
	case SUPERVISOR_OFFLINE:
		for (size_t i = 0; i < n; i++) {
			handle(s, SUPERVISOR_FAILURE, FAILURE_MOVED, NOW - 4);
			if (i + 1 < n)
				tell(s, SUPERVISOR_TIMER, NOW - 4);
		}
		break;
	case SUPERVISOR_DISCONNECTED:
		handle(s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, NOW - 4);
		break;
	default: break;
	}
	ck_assert_int_eq(s->state, state);
}

/* Connected to broker b, the preferred one having failed at NOW. */
static void bring_to_second(struct supervisor *s, size_t n)
{
	bring_to(s, SUPERVISOR_CONNECTING, n);
	handle(s, SUPERVISOR_FAILURE, FAILURE_MOVED, NOW);
	tell(s, SUPERVISOR_TIMER, NOW);
	ck_assert_int_eq(s->current, 1);
	tell(s, SUPERVISOR_CONNACK, NOW);
}

/* --- the tables ------------------------------------------------------------------------------ */

#define D SUPERVISOR_DISCONNECTED
#define C SUPERVISOR_CONNECTING
#define U SUPERVISOR_CONNECTED
#define X SUPERVISOR_DISCONNECTING
#define E SUPERVISOR_ERROR
#define O SUPERVISOR_OFFLINE

#define SOON	    (SEC / 2) /* half of the second that is drawn from */
#define SAME	    (UINT64_MAX - 1) /* the timer is not touched */
#define EVENT(name) SUPERVISOR_##name

/* One broker. */
static const struct {
	enum supervisor_state from;
	enum supervisor_event event;
	int r;
	enum supervisor_state to;
	enum supervisor_action action;
	uint64_t timer; /* after NOW, or NEVER, or SAME */
} table[] = {
	{ D, EVENT(START), 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ D, EVENT(PROGRESS), -EPROTO },
	{ D, EVENT(CONNACK), -EPROTO },
	{ D, EVENT(TIMER), 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ D, EVENT(STOP), 0, D, SUPERVISOR_ABORT, NEVER },
	{ D, EVENT(CLOSED), -EPROTO },
	{ D, EVENT(PROBE_UP), -EPROTO },
	{ D, EVENT(PROBE_FAILED), -EPROTO },
	{ D, EVENT(NETWORK_UP), 0, D, SUPERVISOR_NOTHING, SOON },
	{ D, EVENT(NETWORK_DOWN), 0, O, SUPERVISOR_NOTHING, MAX },
	{ D, EVENT(RECONNECT), 0, D, SUPERVISOR_NOTHING, SOON },

	{ C, EVENT(START), -EPROTO },
	{ C, EVENT(PROGRESS), 0, C, SUPERVISOR_NOTHING, TIMEOUT },
	{ C, EVENT(CONNACK), 0, U, SUPERVISOR_NOTHING, STABLE },
	{ C, EVENT(TIMER), 0, D, SUPERVISOR_ABORT, BASE },
	{ C, EVENT(STOP), 0, D, SUPERVISOR_ABORT, NEVER },
	{ C, EVENT(CLOSED), -EPROTO },
	{ C, EVENT(PROBE_UP), -EPROTO },
	{ C, EVENT(PROBE_FAILED), -EPROTO },
	{ C, EVENT(NETWORK_UP), -EPROTO },
	{ C, EVENT(NETWORK_DOWN), 0, O, SUPERVISOR_ABORT, MAX },
	{ C, EVENT(RECONNECT), -EPROTO },

	{ U, EVENT(START), -EPROTO },
	{ U, EVENT(PROGRESS), -EPROTO },
	{ U, EVENT(CONNACK), -EPROTO },
	{ U, EVENT(TIMER), 0, U, SUPERVISOR_NOTHING, SAME },
	{ U, EVENT(STOP), 0, X, SUPERVISOR_LEAVE, DISCONNECT },
	{ U, EVENT(CLOSED), -EPROTO },
	{ U, EVENT(PROBE_UP), -EPROTO },
	{ U, EVENT(PROBE_FAILED), -EPROTO },
	{ U, EVENT(NETWORK_UP), -EPROTO },
	{ U, EVENT(NETWORK_DOWN), -EPROTO },
	{ U, EVENT(RECONNECT), -EPROTO },

	{ X, EVENT(START), -EPROTO },
	{ X, EVENT(PROGRESS), -EPROTO },
	{ X, EVENT(CONNACK), -EPROTO },
	{ X, EVENT(TIMER), 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, EVENT(STOP), 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, EVENT(CLOSED), 0, D, SUPERVISOR_ABORT, NEVER },
	{ X, EVENT(PROBE_UP), -EPROTO },
	{ X, EVENT(PROBE_FAILED), -EPROTO },
	{ X, EVENT(NETWORK_UP), -EPROTO },
	{ X, EVENT(NETWORK_DOWN), -EPROTO },
	{ X, EVENT(RECONNECT), -EPROTO },

	/* The one broker is set aside: asked all the same, it is not there to be tried. */
	{ E, EVENT(START), 0, E, SUPERVISOR_NOTHING, ASIDE - 4 },
	{ E, EVENT(PROGRESS), -EPROTO },
	{ E, EVENT(CONNACK), -EPROTO },
	{ E, EVENT(TIMER), 0, E, SUPERVISOR_NOTHING, ASIDE - 4 },
	{ E, EVENT(STOP), 0, D, SUPERVISOR_ABORT, NEVER },
	{ E, EVENT(CLOSED), -EPROTO },
	{ E, EVENT(PROBE_UP), -EPROTO },
	{ E, EVENT(PROBE_FAILED), -EPROTO },
	{ E, EVENT(NETWORK_UP), -EPROTO },
	{ E, EVENT(NETWORK_DOWN), -EPROTO },
	{ E, EVENT(RECONNECT), 0, E, SUPERVISOR_NOTHING, SOON },

	{ O, EVENT(START), 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ O, EVENT(PROGRESS), -EPROTO },
	{ O, EVENT(CONNACK), -EPROTO },
	{ O, EVENT(TIMER), 0, C, SUPERVISOR_CONNECT, TIMEOUT },
	{ O, EVENT(STOP), 0, D, SUPERVISOR_ABORT, NEVER },
	{ O, EVENT(CLOSED), -EPROTO },
	{ O, EVENT(PROBE_UP), -EPROTO },
	{ O, EVENT(PROBE_FAILED), -EPROTO },
	{ O, EVENT(NETWORK_UP), 0, O, SUPERVISOR_NOTHING, SOON },
	{ O, EVENT(NETWORK_DOWN), 0, O, SUPERVISOR_NOTHING, MAX },
	{ O, EVENT(RECONNECT), 0, O, SUPERVISOR_NOTHING, SOON },
};

START_TEST(test_table)
{
	struct supervisor_step step;
	struct supervisor s;
	uint64_t timer, before;

	bring_to(&s, table[_i].from, 1);
	if (table[_i].r < 0) {
		ignores(&s, table[_i].event, FAILURE_NONE, NOW);
		return;
	}
	before = s.timer_usec;
	timer = table[_i].timer == NEVER ? NEVER : NOW + table[_i].timer;
	step = tell(&s, table[_i].event, NOW);
	ck_assert_int_eq(step.to, table[_i].to);
	ck_assert_int_eq(step.action, table[_i].action);
	ck_assert_uint_eq(step.timer_usec, table[_i].timer == SAME ? before : timer);
	ck_assert_int_eq(step.deadline, table[_i].from == C && table[_i].event == SUPERVISOR_TIMER);
	ck_assert(!step.alert);
}
END_TEST

START_TEST(test_table_is_complete)
{
	bool seen[N_SUPERVISOR_STATES][N_SUPERVISOR_EVENTS] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		seen[table[i].from][table[i].event] = true;
	for (int state = 0; state < N_SUPERVISOR_STATES; state++) {
		seen[state][SUPERVISOR_FAILURE] = true; /* the next table */
		for (int event = 0; event < N_SUPERVISOR_EVENTS; event++)
			ck_assert_msg(seen[state][event], "state %d, event %d", state, event);
	}
}
END_TEST

/* Who else there is. */
enum others {
	ALONE,
	SEVERAL, /* two more */
	ALL_ASIDE, /* two more, set aside for OTHERS_ASIDE */
	N_OTHERS,
};

#define OTHERS_ASIDE (100 * SEC)
#define QUICK	     (SEC / 2), (SEC + SEC / 2)
#define EXACTLY(t)   (t), (t)

/* The same for an attempt and for a connection that stands. */
static const struct {
	enum failure_class class;
	bool last; /* of the attempts at this broker */
	enum others others;
	enum supervisor_state to;
	enum supervisor_plan plan;
	uint64_t least, most; /* of the wait */
	bool alert;
} failures[] = {
	{ FAILURE_TIMEOUT, false, ALONE, D, SUPERVISOR_PLAN_SAME, EXACTLY(BASE) },
	{ FAILURE_TIMEOUT, false, SEVERAL, D, SUPERVISOR_PLAN_SAME, EXACTLY(BASE) },
	{ FAILURE_TIMEOUT, false, ALL_ASIDE, D, SUPERVISOR_PLAN_SAME, EXACTLY(BASE) },
	{ FAILURE_TIMEOUT, true, ALONE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_TIMEOUT, true, SEVERAL, D, SUPERVISOR_PLAN_NEXT, EXACTLY(0) },
	{ FAILURE_TIMEOUT, true, ALL_ASIDE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_HEARTBEAT, false, ALONE, D, SUPERVISOR_PLAN_SAME, QUICK },
	{ FAILURE_HEARTBEAT, false, SEVERAL, D, SUPERVISOR_PLAN_SAME, QUICK },
	{ FAILURE_HEARTBEAT, false, ALL_ASIDE, D, SUPERVISOR_PLAN_SAME, QUICK },
	{ FAILURE_HEARTBEAT, true, ALONE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_HEARTBEAT, true, SEVERAL, D, SUPERVISOR_PLAN_NEXT, EXACTLY(0) },
	{ FAILURE_HEARTBEAT, true, ALL_ASIDE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_BUSY, false, ALONE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_BUSY, false, SEVERAL, D, SUPERVISOR_PLAN_NEXT, EXACTLY(BASE) },
	{ FAILURE_BUSY, false, ALL_ASIDE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_MOVED, false, ALONE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_MOVED, false, SEVERAL, D, SUPERVISOR_PLAN_NEXT, EXACTLY(0) },
	{ FAILURE_MOVED, false, ALL_ASIDE, O, SUPERVISOR_PLAN_ROUND, EXACTLY(BASE) },
	{ FAILURE_TAKEN_OVER, false, ALONE, E, SUPERVISOR_PLAN_SAME, EXACTLY(MAX), true },
	{ FAILURE_TAKEN_OVER, true, SEVERAL, E, SUPERVISOR_PLAN_SAME, EXACTLY(MAX), true },
	{ FAILURE_TAKEN_OVER, false, ALL_ASIDE, E, SUPERVISOR_PLAN_SAME, EXACTLY(MAX), true },
	{ FAILURE_AUTH, false, ALONE, E, SUPERVISOR_PLAN_ASIDE, EXACTLY(ASIDE), true },
	{ FAILURE_AUTH, false, SEVERAL, D, SUPERVISOR_PLAN_NEXT, EXACTLY(0), true },
	{ FAILURE_AUTH, false, ALL_ASIDE, E, SUPERVISOR_PLAN_ASIDE, EXACTLY(OTHERS_ASIDE), true },
	{ FAILURE_PROTOCOL, false, ALONE, E, SUPERVISOR_PLAN_ASIDE, EXACTLY(ASIDE), true },
	{ FAILURE_PROTOCOL, false, SEVERAL, D, SUPERVISOR_PLAN_NEXT, EXACTLY(0), true },
	{ FAILURE_PROTOCOL, false, ALL_ASIDE, E, SUPERVISOR_PLAN_ASIDE, EXACTLY(OTHERS_ASIDE),
		true },
};

static const enum supervisor_state can_fail[] = { C, U };
static const double chances[] = { 0.0, 0.5, 0x1.fffffffffffffp-1 };

static void check_failure_step(size_t row, enum supervisor_state from, double drawn)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, from, failures[row].others == ALONE ? 1 : 3);
	if (failures[row].others == ALL_ASIDE) {
		brokers_set_aside(&s.brokers, 1, FAILURE_AUTH, NOW + OTHERS_ASIDE);
		brokers_set_aside(&s.brokers, 2, FAILURE_AUTH, NOW + 2 * OTHERS_ASIDE);
	}
	chance = drawn;
	if (failures[row].last) {
		s.attempts = defaults.timeout_attempts - 1;
		s.quick_left = 0;
	}
	step = handle(&s, SUPERVISOR_FAILURE, failures[row].class, NOW);
	ck_assert_int_eq(step.to, failures[row].to);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	ck_assert_int_eq(step.plan, failures[row].plan);
	ck_assert_uint_ge(step.wait_usec, failures[row].least);
	ck_assert_uint_le(step.wait_usec, failures[row].most);
	ck_assert_uint_eq(step.timer_usec, NOW + step.wait_usec);
	ck_assert_int_eq(step.alert, failures[row].alert);
	ck_assert(!step.deadline);
	if (step.plan == SUPERVISOR_PLAN_SAME)
		ck_assert_int_eq(s.next, 0);
	else
		ck_assert_int_eq(s.next, step.plan == SUPERVISOR_PLAN_NEXT ? 1 : BROKERS_NONE);
	/* And after the wait it does what was planned. */
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.state, C);
	ck_assert_int_eq(s.current,
		step.plan == SUPERVISOR_PLAN_NEXT || step.wait_usec == OTHERS_ASIDE ? 1 : 0);
}

START_TEST(test_failures)
{
	for (size_t i = 0; i < ARRAY_SIZE(can_fail); i++)
		for (size_t j = 0; j < ARRAY_SIZE(chances); j++) {
			check_failure_step((size_t)_i, can_fail[i], chances[j]);
		}
}
END_TEST

START_TEST(test_failures_are_complete)
{
	for (int class = FAILURE_TIMEOUT; class <= (int)FAILURE_PROTOCOL; class ++)
		for (int others = 0; others < N_OTHERS; others++) {
			bool seen = false;

			for (size_t i = 0; i < ARRAY_SIZE(failures); i++)
				seen = seen ||
					((int)failures[i].class == class &&
						(int)failures[i].others == others);
			ck_assert_msg(seen, "class %d, others %d", class, others);
		}
}
END_TEST

/* Where nothing is under way, nothing can fail; while we leave, it does not matter how. */
START_TEST(test_failures_elsewhere)
{
	static const enum supervisor_state idle[] = { D, E, O };
	enum failure_class class = (enum failure_class)_i;
	struct supervisor_step step;
	struct supervisor s;

	for (size_t n = 1; n <= 3; n++) {
		for (size_t i = 0; i < ARRAY_SIZE(idle); i++) {
			bring_to(&s, idle[i], n);
			ignores(&s, SUPERVISOR_FAILURE, class, NOW);
		}
		bring_to(&s, X, n);
		step = handle(&s, SUPERVISOR_FAILURE, class, NOW);
		ck_assert_int_eq(step.to, D);
		ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
		ck_assert_uint_eq(step.timer_usec, NEVER);
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

/* --- rounds and waits ------------------------------------------------------------------------ */

/* One attempt that fails, and what comes after it. */
struct attempt {
	enum failure_class class;
	int broker;
	enum supervisor_plan plan;
	uint64_t wait; /* milliseconds */
};

static uint64_t go_through(
	struct supervisor *s, const struct attempt *attempts, size_t n, uint64_t now)
{
	for (size_t i = 0; i < n; i++) {
		struct supervisor_step step;

		ck_assert_msg(s->current == attempts[i].broker, "%zu: broker %d", i, s->current);
		step = handle(s, SUPERVISOR_FAILURE, attempts[i].class, now);
		ck_assert_msg(step.plan == attempts[i].plan, "%zu: plan %d", i, step.plan);
		ck_assert_msg(step.wait_usec == attempts[i].wait * USEC_PER_MSEC, "%zu: %llu us", i,
			(unsigned long long)step.wait_usec);
		now = step.timer_usec;
		step = tell(s, SUPERVISOR_TIMER, now);
		ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	}
	return now;
}

#define T	FAILURE_TIMEOUT
#define H	FAILURE_HEARTBEAT
#define P(name) SUPERVISOR_PLAN_##name

static const struct attempt silent_two[] = {
	{ T, 0, P(SAME), 1000 },
	{ T, 0, P(SAME), 2000 },
	{ T, 0, P(NEXT), 0 },
	{ T, 1, P(SAME), 4000 },
	{ T, 1, P(SAME), 8000 },
	{ T, 1, P(ROUND), 16000 },
	{ T, 0, P(NEXT), 0 },
	{ T, 1, P(ROUND), 32000 },
	{ T, 0, P(NEXT), 0 },
	{ T, 1, P(ROUND), 60000 },
	{ T, 0, P(NEXT), 0 },
	{ T, 1, P(ROUND), 60000 },
};

START_TEST(test_rounds)
{
	struct supervisor s;

	bring_to(&s, C, 2);
	go_through(&s, silent_two, ARRAY_SIZE(silent_two), NOW);
}
END_TEST

static const struct attempt silent_one[] = {
	{ T, 0, P(SAME), 1000 },
	{ T, 0, P(SAME), 2000 },
	{ T, 0, P(ROUND), 4000 },
	{ T, 0, P(ROUND), 8000 },
	{ T, 0, P(ROUND), 16000 },
	{ T, 0, P(ROUND), 32000 },
	{ T, 0, P(ROUND), 60000 },
	{ T, 0, P(ROUND), 60000 },
};

START_TEST(test_rounds_of_one)
{
	struct supervisor s;

	bring_to(&s, C, 1);
	go_through(&s, silent_one, ARRAY_SIZE(silent_one), NOW);
}
END_TEST

/* The loss and the first attempt after it lead to a quick one each; the others count. */
static const struct attempt lost[] = {
	{ H, 0, P(SAME), 1000 },
	{ T, 0, P(SAME), 1000 },
	{ T, 0, P(SAME), 1000 },
	{ T, 0, P(SAME), 2000 },
	{ T, 0, P(NEXT), 0 },
	{ T, 1, P(SAME), 4000 },
};

START_TEST(test_lost_connection)
{
	struct supervisor s;

	bring_to(&s, U, 2);
	chance = 0.5;
	go_through(&s, lost, ARRAY_SIZE(lost), NOW);
}
END_TEST

/* Both brokers take the connection and drop it: quick attempts are not to be had for ever. */
static const struct attempt flapping[] = {
	{ H, 0, P(SAME), 1000 },
	{ H, 0, P(SAME), 1000 },
	{ H, 0, P(SAME), 1000 },
	{ H, 0, P(SAME), 2000 },
	{ H, 0, P(NEXT), 0 },
	{ H, 1, P(SAME), 1000 },
	{ H, 1, P(SAME), 1000 },
	{ H, 1, P(SAME), 4000 },
	{ H, 1, P(SAME), 8000 },
	{ H, 1, P(ROUND), 16000 },
	{ H, 0, P(NEXT), 0 },
	{ H, 1, P(ROUND), 32000 },
	{ H, 0, P(NEXT), 0 },
	{ H, 1, P(ROUND), 60000 },
};

START_TEST(test_flapping)
{
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, C, 2);
	for (size_t i = 0; i < ARRAY_SIZE(flapping); i++) {
		tell(&s, SUPERVISOR_CONNACK, now);
		now = go_through(&s, &flapping[i], 1, now + STABLE - 1);
	}
}
END_TEST

static const struct attempt mixed[] = {
	{ FAILURE_BUSY, 0, P(NEXT), 1000 },
	{ FAILURE_MOVED, 1, P(NEXT), 0 },
	{ FAILURE_BUSY, 2, P(ROUND), 2000 },
	{ FAILURE_AUTH, 0, P(NEXT), 0 },
	{ T, 1, P(NEXT), 0 },
	{ T, 2, P(ROUND), 4000 },
	{ FAILURE_PROTOCOL, 1, P(NEXT), 0 },
	{ T, 2, P(ROUND), 8000 },
	{ FAILURE_TAKEN_OVER, 2, P(SAME), 60000 },
};

START_TEST(test_mixed)
{
	struct supervisor_step step;
	struct supervisor s;
	uint64_t now;

	bring_to(&s, C, 3);
	now = go_through(&s, mixed, ARRAY_SIZE(mixed), NOW);
	ck_assert_int_eq(s.current, 2);
	/* Now all three are aside; the first of them was so 72 s ago. */
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_AUTH, now);
	ck_assert_int_eq(step.to, E);
	ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_ASIDE);
	ck_assert_uint_eq(step.timer_usec, NOW + 3 * SEC + ASIDE);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.current, 0);
}
END_TEST

START_TEST(test_stable)
{
	struct supervisor_step step;
	uint64_t now;
	struct supervisor s;

	bring_to(&s, C, 2);
	now = go_through(&s, silent_two, ARRAY_SIZE(silent_two), NOW);
	step = tell(&s, SUPERVISOR_CONNACK, now);
	ck_assert_uint_eq(step.timer_usec, now + STABLE);
	step = tell(&s, SUPERVISOR_TIMER, now + STABLE);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	ck_assert_uint_eq(step.timer_usec, NEVER);
	/* All is as at the beginning. */
	ck_assert_uint_eq(s.backoff.waits, 0);
	go_through(&s, lost, ARRAY_SIZE(lost), now + 10 * STABLE);
}
END_TEST

START_TEST(test_deadline)
{
	struct supervisor_step step;
	struct supervisor s;

	init(&s, 1);
	step = tell(&s, SUPERVISOR_START, NOW);
	ck_assert_uint_eq(step.timer_usec, NOW + TIMEOUT);
	step = tell(&s, SUPERVISOR_PROGRESS, NOW + TIMEOUT - 1);
	ck_assert_uint_eq(step.timer_usec, NOW + 2 * TIMEOUT - 1);
	step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert(step.deadline);
	ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_SAME);
	ck_assert_uint_eq(step.wait_usec, BASE);
}
END_TEST

/* "Try now" shortens one wait; it does not forgive the failures before it. */
START_TEST(test_start_cuts_the_wait_only)
{
	struct supervisor_step step;
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, C, 1);
	for (size_t i = 0; i < ARRAY_SIZE(silent_one); i++) {
		step = handle(&s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, now);
		ck_assert_uint_eq(step.wait_usec, silent_one[i].wait * USEC_PER_MSEC);
		step = tell(&s, SUPERVISOR_START, ++now);
		ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	}
}
END_TEST

/* --- failing back ---------------------------------------------------------------------------- */

static struct supervisor_step first_probe(struct supervisor *s, size_t n)
{
	struct supervisor_step step;

	bring_to_second(s, n);
	ck_assert_uint_eq(s->timer_usec, NOW + STABLE);
	step = tell(s, SUPERVISOR_TIMER, NOW + STABLE);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK);
	step = tell(s, SUPERVISOR_TIMER, NOW + FAILBACK);
	ck_assert_int_eq(step.action, SUPERVISOR_PROBE);
	ck_assert_int_eq(s->probing, 0);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + TIMEOUT);
	return step;
}

START_TEST(test_fail_back)
{
	struct supervisor_step step;
	struct supervisor s;

	first_probe(&s, 2);
	step = tell(&s, SUPERVISOR_PROBE_UP, NOW + FAILBACK + 1);
	ck_assert_int_eq(step.to, X);
	ck_assert_int_eq(step.action, SUPERVISOR_LEAVE);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + 1 + DISCONNECT);
	ck_assert_int_eq(s.current, 1);
	step = tell(&s, SUPERVISOR_CLOSED, NOW + FAILBACK + 2);
	ck_assert_int_eq(step.to, D);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + 2);
	step = tell(&s, SUPERVISOR_TIMER, NOW + FAILBACK + 2);
	ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	ck_assert_int_eq(s.current, 0);
	step = tell(&s, SUPERVISOR_CONNACK, NOW + FAILBACK + 3);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_uint_eq(s.timer_usec, NEVER); /* nobody is better */
}
END_TEST

/* However we leave, we arrive: when it takes too long, or the connection is lost meanwhile. */
START_TEST(test_fail_back_badly)
{
	struct supervisor_step step;
	struct supervisor s;

	first_probe(&s, 2);
	tell(&s, SUPERVISOR_PROBE_UP, NOW + FAILBACK + 1);
	if (_i == 0)
		step = tell(&s, SUPERVISOR_TIMER, s.timer_usec);
	else
		step = handle(&s, SUPERVISOR_FAILURE, (enum failure_class)_i, NOW + FAILBACK + 2);
	ck_assert_int_eq(step.to, D);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.current, 0);
	/* The preferred one thought better of it: the other one is still there. */
	for (unsigned i = 0; i < defaults.timeout_attempts; i++) {
		step = handle(&s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, step.timer_usec);
		tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	}
	ck_assert_int_eq(s.current, 1);
}
END_TEST

START_TEST(test_probe_deadline)
{
	struct supervisor_step step;
	struct supervisor s;

	step = first_probe(&s, 2);
	step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(step.to, U);
	ck_assert_int_eq(step.action, SUPERVISOR_END_PROBE);
	ck_assert_int_eq(s.probing, BROKERS_NONE);
	ck_assert_uint_eq(step.timer_usec, NOW + 2 * FAILBACK);
	ignores(&s, SUPERVISOR_PROBE_UP, FAILURE_NONE, NOW + FAILBACK + TIMEOUT + 1);
	ignores(&s, SUPERVISOR_PROBE_FAILED, FAILURE_AUTH, NOW + FAILBACK + TIMEOUT + 1);
	step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(step.action, SUPERVISOR_PROBE);
}
END_TEST

/* A cycle that took longer than it should is not followed by the next one at once. */
START_TEST(test_long_cycle)
{
	struct supervisor_step step;
	struct supervisor s;

	step = first_probe(&s, 2);
	s.params.failback_usec = TIMEOUT / 2;
	step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(step.action, SUPERVISOR_END_PROBE);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + TIMEOUT + TIMEOUT / 2);
}
END_TEST

/* On the third: the first one fails, the second one is asked. */
START_TEST(test_probes_in_order)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to_second(&s, 3);
	handle(&s, SUPERVISOR_FAILURE, FAILURE_MOVED, NOW);
	tell(&s, SUPERVISOR_TIMER, NOW);
	tell(&s, SUPERVISOR_CONNACK, NOW);
	ck_assert_int_eq(s.current, 2);
	tell(&s, SUPERVISOR_TIMER, NOW + STABLE);
	tell(&s, SUPERVISOR_TIMER, NOW + FAILBACK);
	ck_assert_int_eq(s.probing, 0);
	step = handle(&s, SUPERVISOR_PROBE_FAILED, FAILURE_TIMEOUT, NOW + FAILBACK + 1);
	ck_assert_int_eq(step.action, SUPERVISOR_PROBE);
	ck_assert_int_eq(s.probing, 1);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + 1 + TIMEOUT);
	ck_assert(!step.alert);
	step = handle(&s, SUPERVISOR_PROBE_FAILED, FAILURE_AUTH, NOW + FAILBACK + 2);
	ck_assert_int_eq(step.action, SUPERVISOR_END_PROBE);
	ck_assert(step.alert);
	ck_assert(brokers_is_aside(&s.brokers, 1, NOW + FAILBACK + 1 + ASIDE));
	ck_assert_uint_eq(step.timer_usec, NOW + 2 * FAILBACK);
	/* A refused probe is no failure of the connection that stands. */
	ck_assert_int_eq(step.to, U);
	ck_assert_uint_eq(s.backoff.waits, 0);
}
END_TEST

START_TEST(test_no_probe_of_who_is_aside)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to_second(&s, 2);
	brokers_set_aside(&s.brokers, 0, FAILURE_AUTH, NOW + FAILBACK + 1);
	tell(&s, SUPERVISOR_TIMER, NOW + STABLE);
	step = tell(&s, SUPERVISOR_TIMER, NOW + FAILBACK);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	ck_assert_uint_eq(step.timer_usec, NOW + 2 * FAILBACK);
	/* Somebody asks: then he is. */
	step = tell(&s, SUPERVISOR_RECONNECT, NOW + FAILBACK + 1);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + 1 + SOON);
	step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(step.action, SUPERVISOR_PROBE);
	ignores(&s, SUPERVISOR_RECONNECT, FAILURE_NONE, NOW + FAILBACK + SEC);
}
END_TEST

START_TEST(test_equals_are_not_probed)
{
	static const struct brokers_item equals[] = { { "a:1", 0 }, { "b:1", 0 } };
	struct supervisor s;

	bring_to_second(&s, 2);
	set_brokers(&s, equals, 2, NOW);
	tell(&s, SUPERVISOR_TIMER, NOW + STABLE);
	ck_assert_uint_eq(s.timer_usec, NEVER);
}
END_TEST

/* A second broker that drops us every minute does not put off the way back to the first. */
START_TEST(test_probe_is_not_put_off)
{
	uint64_t now = NOW;
	struct supervisor_step step;
	struct supervisor s;

	bring_to_second(&s, 2);
	for (int i = 0; i < 4; i++) {
		tell(&s, SUPERVISOR_TIMER, now + STABLE);
		now += MAX;
		if (_i == 0) {
			step = handle(&s, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, now);
			tell(&s, SUPERVISOR_TIMER, step.timer_usec);
			tell(&s, SUPERVISOR_CONNACK, now);
		} else {
			set_brokers(&s, abc, 2, now);
		}
		ck_assert_int_eq(s.current, 1);
	}
	tell(&s, SUPERVISOR_TIMER, now + STABLE);
	ck_assert_uint_eq(s.timer_usec, NOW + FAILBACK);
	step = tell(&s, SUPERVISOR_TIMER, NOW + FAILBACK);
	ck_assert_int_eq(step.action, SUPERVISOR_PROBE);
}
END_TEST

START_TEST(test_lost_while_probing)
{
	struct supervisor_step step;
	struct supervisor s;

	first_probe(&s, 2);
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, NOW + FAILBACK + 1);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	ck_assert_int_eq(s.probing, BROKERS_NONE);
	ignores(&s, SUPERVISOR_PROBE_UP, FAILURE_NONE, NOW + FAILBACK + 2);
}
END_TEST

/* --- the network ----------------------------------------------------------------------------- */

START_TEST(test_network_up_is_soon)
{
	static const enum supervisor_state waits[] = { D, O };
	struct supervisor_step step;
	struct supervisor s;

	for (size_t i = 0; i < ARRAY_SIZE(waits); i++) {
		bring_to(&s, waits[i], 2);
		s.timer_usec = NOW + MAX;
		chance = chances[_i];
		step = tell(&s, SUPERVISOR_NETWORK_UP, NOW);
		ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
		ck_assert_uint_ge(step.timer_usec, NOW);
		ck_assert_uint_le(step.timer_usec, NOW + SEC);
		/* More of the kind make it no later. */
		chance = 1;
		ck_assert_uint_le(tell(&s, SUPERVISOR_NETWORK_UP, NOW).timer_usec, step.timer_usec);
		step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
		ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	}
}
END_TEST

/* A captive portal shows a certificate of its own; a wrong password stays wrong. */
START_TEST(test_network_up_takes_back)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, C, 2);
	handle(&s, SUPERVISOR_FAILURE, FAILURE_AUTH, NOW);
	tell(&s, SUPERVISOR_TIMER, NOW);
	handle(&s, SUPERVISOR_FAILURE, FAILURE_PROTOCOL, NOW);
	ck_assert_int_eq(s.state, E);
	step = tell(&s, SUPERVISOR_NETWORK_UP, NOW + SEC);
	ck_assert_uint_eq(step.timer_usec, NOW + SEC + SOON);
	step = tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	ck_assert_int_eq(s.current, 1);

	/* In the other states, too. */
	bring_to_second(&s, 2);
	brokers_set_aside(&s.brokers, 0, FAILURE_PROTOCOL, NOW + ASIDE);
	ignores(&s, SUPERVISOR_NETWORK_UP, FAILURE_NONE, NOW);
	ck_assert(!brokers_is_aside(&s.brokers, 0, NOW));
}
END_TEST

START_TEST(test_network_down_trickles)
{
	struct supervisor_step step;
	uint64_t now = NOW;
	struct supervisor s;

	bring_to(&s, U, 3);
	ignores(&s, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE, now);
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, now);
	/* Each broker has its turn: what we were told of the network may be wrong. */
	for (int i = 0; i < 7; i++) {
		ck_assert_int_eq(step.to, O);
		ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_NETWORK);
		ck_assert_uint_eq(step.timer_usec, now + MAX);
		ck_assert_uint_eq(s.backoff.waits, 0);
		/* Told again, it waits no longer. */
		ignores(&s, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE, now + MAX / 2);
		now += MAX;
		tell(&s, SUPERVISOR_TIMER, now);
		ck_assert_int_eq(s.current, i % 3);
		ignores(&s, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE, now + 1);
		step = tell(&s, SUPERVISOR_TIMER, now += TIMEOUT);
	}
	/* The one that was ours is the first one now. */
	step = tell(&s, SUPERVISOR_NETWORK_UP, now + 1);
	ck_assert_uint_eq(step.timer_usec, now + 1 + SOON);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.current, 0);
	/* And all others are still to be tried. */
	handle(&s, SUPERVISOR_FAILURE, FAILURE_MOVED, now + SEC);
	ck_assert_int_eq(s.next, 1);
}
END_TEST

START_TEST(test_network_comes_during_the_trickle)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, C, 2);
	step = tell(&s, SUPERVISOR_NETWORK_DOWN, NOW);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	step = tell(&s, SUPERVISOR_TIMER, NOW + MAX);
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, NOW + MAX);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.current, 1);
	step = tell(&s, SUPERVISOR_NETWORK_UP, step.timer_usec + 1);
	ck_assert_int_eq(step.to, D);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.current, 0);
}
END_TEST

/* A broker on this very machine answers without any network. */
START_TEST(test_connack_proves_a_network)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, C, 1);
	tell(&s, SUPERVISOR_NETWORK_DOWN, NOW);
	tell(&s, SUPERVISOR_TIMER, NOW + MAX);
	tell(&s, SUPERVISOR_CONNACK, NOW + MAX);
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT, NOW + 2 * MAX);
	ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_SAME);
	ck_assert_uint_le(step.wait_usec, SEC + SEC / 2);
}
END_TEST

/* A refusal proves that the network is there; its own rule holds. */
START_TEST(test_refused_without_network)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, C, 2);
	tell(&s, SUPERVISOR_NETWORK_DOWN, NOW);
	tell(&s, SUPERVISOR_TIMER, NOW + MAX);
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_AUTH, NOW + MAX);
	ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_NEXT);
	/* Back, but not to the one that is set aside. */
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	step = tell(&s, SUPERVISOR_NETWORK_UP, step.timer_usec);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	ck_assert_int_eq(s.current, 1);
}
END_TEST

START_TEST(test_reconnect)
{
	static const enum supervisor_state waits[] = { D, E, O };
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, waits[_i], 3);
	s.timer_usec = NOW + MAX;
	step = tell(&s, SUPERVISOR_RECONNECT, NOW);
	ck_assert_uint_le(step.timer_usec, NOW + SEC);
	tell(&s, SUPERVISOR_TIMER, step.timer_usec);
	/* A first round, from the first broker, whoever was set aside. */
	ck_assert_int_eq(s.state, C);
	ck_assert_int_eq(s.current, 0);
	step = handle(&s, SUPERVISOR_FAILURE, FAILURE_TIMEOUT, NOW + SEC);
	ck_assert_int_eq(step.plan, SUPERVISOR_PLAN_SAME);
}
END_TEST

/* --- stopping -------------------------------------------------------------------------------- */

START_TEST(test_stop)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, (enum supervisor_state)_i, 2);
	step = tell(&s, SUPERVISOR_STOP, NOW);
	if (_i == SUPERVISOR_CONNECTED) {
		ck_assert_int_eq(step.action, SUPERVISOR_LEAVE);
		/* The second time: at once. */
		step = tell(&s, SUPERVISOR_STOP, NOW + 1);
	}
	ck_assert_int_eq(s.state, D);
	ck_assert_uint_eq(s.timer_usec, NEVER);
	ck_assert_int_eq(step.action, SUPERVISOR_ABORT);
	tell(&s, SUPERVISOR_STOP, NOW + 2);
	/* It stays away, whatever it is told ... */
	ignores(&s, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE, NOW + 3);
	ignores(&s, SUPERVISOR_NETWORK_UP, FAILURE_NONE, NOW + 3);
	ignores(&s, SUPERVISOR_RECONNECT, FAILURE_NONE, NOW + 3);
	ignores(&s, SUPERVISOR_TIMER, FAILURE_NONE, NOW + 3);
	step = set_brokers(&s, abc, 3, NOW + 3);
	ck_assert_uint_eq(step.timer_usec, NEVER);
	ck_assert_int_eq(step.to, D);
	/* ... until it is to begin again. */
	step = tell(&s, SUPERVISOR_START, NOW + 4);
	ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	ck_assert(!s.stopping);
}
END_TEST

START_TEST(test_stop_while_failing_back)
{
	struct supervisor_step step;
	struct supervisor s;

	first_probe(&s, 2);
	tell(&s, SUPERVISOR_PROBE_UP, NOW + FAILBACK + 1);
	step = tell(&s, SUPERVISOR_STOP, NOW + FAILBACK + 2);
	ck_assert_int_eq(step.to, X);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	ck_assert_uint_eq(step.timer_usec, NOW + FAILBACK + 1 + DISCONNECT);
	step = tell(&s, _i ? SUPERVISOR_STOP : SUPERVISOR_CLOSED, NOW + FAILBACK + 3);
	ck_assert_int_eq(step.to, D);
	ck_assert_uint_eq(step.timer_usec, NEVER);
}
END_TEST

/* --- new lists ------------------------------------------------------------------------------- */

START_TEST(test_begins_without_a_list)
{
	struct supervisor_step step;
	struct supervisor s;

	supervisor_init(&s, &defaults, draw, NULL);
	ck_assert_int_eq(s.state, D);
	ck_assert_uint_eq(s.timer_usec, NEVER);
	step = tell(&s, SUPERVISOR_START, NOW);
	ck_assert_int_eq(step.to, O);
	ck_assert_uint_eq(step.timer_usec, NEVER);
	ignores(&s, SUPERVISOR_RECONNECT, FAILURE_NONE, NOW);
	ignores(&s, SUPERVISOR_NETWORK_UP, FAILURE_NONE, NOW);
	ignores(&s, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE, NOW);
	step = set_brokers(&s, abc, 2, NOW + SEC);
	ck_assert_uint_eq(step.timer_usec, NOW + SEC);
	step = tell(&s, SUPERVISOR_TIMER, NOW + SEC);
	ck_assert_int_eq(step.action, SUPERVISOR_CONNECT);
	ck_assert_int_eq(s.current, 0);
}
END_TEST

static const struct brokers_item longer[] = { { "z:1", 0 }, { "a:1", 1 }, { "b:1", 2 } };
static const struct brokers_item strangers[] = { { "x:1", 0 }, { "y:1", 1 } };

/* The broker we are at is still there, elsewhere in the list. */
START_TEST(test_list_keeps_current)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, (enum supervisor_state)_i, 2);
	step = set_brokers(&s, longer, 3, NOW);
	ck_assert_int_eq(step.to, step.from);
	ck_assert_int_eq(step.action, SUPERVISOR_NOTHING);
	if (_i == SUPERVISOR_CONNECTED || _i == SUPERVISOR_CONNECTING ||
		_i == SUPERVISOR_DISCONNECTING) {
		ck_assert_int_eq(s.current, 1);
		return;
	}
	ck_assert_uint_eq(step.timer_usec, NOW);
	tell(&s, SUPERVISOR_TIMER, NOW);
	ck_assert_int_eq(s.state, C);
	ck_assert_int_eq(s.current, 0);
}
END_TEST

START_TEST(test_list_makes_a_better_one_known)
{
	struct supervisor s;

	bring_to(&s, U, 2);
	set_brokers(&s, longer, 3, NOW);
	tell(&s, SUPERVISOR_TIMER, s.timer_usec);
	ck_assert_uint_eq(s.timer_usec, NOW + FAILBACK);
	tell(&s, SUPERVISOR_TIMER, s.timer_usec);
	ck_assert_int_eq(s.probing, 0);
	/* The probe's number means another one now. */
	ck_assert_int_eq(
		set_brokers(&s, longer, 3, NOW + FAILBACK + 1).action, SUPERVISOR_END_PROBE);
	ck_assert_int_eq(s.probing, BROKERS_NONE);
}
END_TEST

static const struct {
	enum supervisor_state from;
	size_t n; /* of the new list */
	enum supervisor_state to;
	enum supervisor_action action;
	uint64_t timer;
} vanished[] = {
	{ D, 2, D, SUPERVISOR_NOTHING, 0 },
	{ C, 2, D, SUPERVISOR_ABORT, 0 },
	{ U, 2, X, SUPERVISOR_LEAVE, DISCONNECT },
	{ E, 2, E, SUPERVISOR_NOTHING, 0 },
	{ O, 2, O, SUPERVISOR_NOTHING, 0 },
	{ D, 0, O, SUPERVISOR_NOTHING, NEVER },
	{ C, 0, D, SUPERVISOR_ABORT, 0 },
	{ U, 0, X, SUPERVISOR_LEAVE, DISCONNECT },
	{ E, 0, O, SUPERVISOR_NOTHING, NEVER },
	{ O, 0, O, SUPERVISOR_NOTHING, NEVER },
};

START_TEST(test_list_without_current)
{
	struct supervisor_step step;
	struct supervisor s;

	bring_to(&s, vanished[_i].from, 2);
	step = set_brokers(&s, strangers, vanished[_i].n, NOW);
	ck_assert_int_eq(step.to, vanished[_i].to);
	ck_assert_int_eq(step.action, vanished[_i].action);
	ck_assert_uint_eq(
		step.timer_usec, vanished[_i].timer == NEVER ? NEVER : NOW + vanished[_i].timer);
	ck_assert_int_eq(s.current, BROKERS_NONE);
	if (s.state == X)
		tell(&s, SUPERVISOR_CLOSED, NOW + 1);
	if (s.timer_usec != NEVER)
		step = tell(&s, SUPERVISOR_TIMER, NOW + 1);
	ck_assert_int_eq(s.state, vanished[_i].n > 0 ? C : O);
	ck_assert_int_eq(s.current, vanished[_i].n > 0 ? 0 : BROKERS_NONE);
	/* An empty list is not the end. */
	step = set_brokers(&s, abc, 3, NOW + 2);
	if (vanished[_i].n == 0)
		ck_assert_uint_eq(step.timer_usec, NOW + 2);
}
END_TEST

START_TEST(test_list_while_leaving)
{
	struct supervisor s;

	first_probe(&s, 2);
	tell(&s, SUPERVISOR_PROBE_UP, NOW + FAILBACK + 1);
	set_brokers(&s, strangers, 2, NOW + FAILBACK + 1);
	ck_assert_int_eq(s.state, X);
	tell(&s, SUPERVISOR_CLOSED, NOW + FAILBACK + 2);
	tell(&s, SUPERVISOR_TIMER, NOW + FAILBACK + 2);
	ck_assert_str_eq(brokers_name(&s.brokers, s.current), "x:1");
}
END_TEST

static void add_tables(Suite *s)
{
	TCase *t = tcase_create("tables");

	tcase_add_loop_test(t, test_table, 0, ARRAY_SIZE(table));
	tcase_add_test(t, test_table_is_complete);
	tcase_add_loop_test(t, test_failures, 0, ARRAY_SIZE(failures));
	tcase_add_test(t, test_failures_are_complete);
	tcase_add_loop_test(t, test_failures_elsewhere, FAILURE_TIMEOUT, FAILURE_PROTOCOL + 1);
	tcase_add_test(t, test_names);
	suite_add_tcase(s, t);
}

static void add_waits(Suite *s)
{
	TCase *t = tcase_create("waits");

	tcase_add_test(t, test_rounds);
	tcase_add_test(t, test_rounds_of_one);
	tcase_add_test(t, test_lost_connection);
	tcase_add_test(t, test_flapping);
	tcase_add_test(t, test_mixed);
	tcase_add_test(t, test_stable);
	tcase_add_test(t, test_deadline);
	tcase_add_test(t, test_start_cuts_the_wait_only);
	suite_add_tcase(s, t);
}

static void add_fail_back(Suite *s)
{
	TCase *t = tcase_create("fail back");

	tcase_add_test(t, test_fail_back);
	tcase_add_loop_test(t, test_fail_back_badly, 0, FAILURE_PROTOCOL + 1);
	tcase_add_test(t, test_probe_deadline);
	tcase_add_test(t, test_long_cycle);
	tcase_add_test(t, test_probes_in_order);
	tcase_add_test(t, test_no_probe_of_who_is_aside);
	tcase_add_test(t, test_equals_are_not_probed);
	tcase_add_loop_test(t, test_probe_is_not_put_off, 0, 2);
	tcase_add_test(t, test_lost_while_probing);
	suite_add_tcase(s, t);
}

static void add_network(Suite *s)
{
	TCase *t = tcase_create("network");

	tcase_add_loop_test(t, test_network_up_is_soon, 0, ARRAY_SIZE(chances));
	tcase_add_test(t, test_network_up_takes_back);
	tcase_add_test(t, test_network_down_trickles);
	tcase_add_test(t, test_network_comes_during_the_trickle);
	tcase_add_test(t, test_connack_proves_a_network);
	tcase_add_test(t, test_refused_without_network);
	tcase_add_loop_test(t, test_reconnect, 0, 3);
	suite_add_tcase(s, t);
}

static void add_stops_and_lists(Suite *s)
{
	TCase *t = tcase_create("stops");

	tcase_add_loop_test(t, test_stop, 0, N_SUPERVISOR_STATES);
	tcase_add_loop_test(t, test_stop_while_failing_back, 0, 2);
	suite_add_tcase(s, t);

	t = tcase_create("lists");
	tcase_add_test(t, test_begins_without_a_list);
	tcase_add_loop_test(t, test_list_keeps_current, 0, N_SUPERVISOR_STATES);
	tcase_add_test(t, test_list_makes_a_better_one_known);
	tcase_add_loop_test(t, test_list_without_current, 0, ARRAY_SIZE(vanished));
	tcase_add_test(t, test_list_while_leaving);
	suite_add_tcase(s, t);
}

Suite *check_supervisor(void)
{
	Suite *s = suite_create("supervisor");

	add_tables(s);
	add_waits(s);
	add_fail_back(s);
	add_network(s);
	add_stops_and_lists(s);
	return s;
}
