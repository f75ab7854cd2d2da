/* SPDX-License-Identifier: MIT */
/*
 * Weeks of outages in a moment: supervisor, brokers and backoff against three brokers that go and
 * come as they please, under a clock and a chance of the test's own; and messages on trial over
 * links that lose connections at any time.
 */
#include <errno.h>
#include <math.h>

#include "scratch.h"
#include "suites.h"
#include "supervisor.h"
#include "trial.h"

#define SEC	   USEC_PER_SEC
#define HOUR	   (3600 * SEC)
#define WEEK	   (7 * 24 * HOUR)
#define START	   (1000 * SEC)
#define NEVER	   UINT64_MAX
#define MAX	   (60 * SEC)
#define TIMEOUT	   (10 * SEC)
#define DISCONNECT (2 * SEC)
#define ASIDE	   (300 * SEC)
#define FAILBACK   (300 * SEC)
#define N	   3

/* Millions of times: libcheck notes each of its own in a file. */
#define must(condition)                           \
	do {                                      \
		if (!(condition))                 \
			ck_abort_msg(#condition); \
	} while (0)

/* The longest wait that backoff may draw: additive jitter adds a second, proportional a tenth. */
#define LONGEST (MAX + MAX / 10)

/*
 * How long it may take to a connection when a broker may be reached: it had just failed as the last
 * attempt found it, so the rest of a first round passes (at most five attempts at each broker, each
 * with a wait), one wait of a round, and a round of one attempt each.
 */
#define TO_CONNECT (N * 5 * (TIMEOUT + LONGEST) + LONGEST + N * (TIMEOUT + LONGEST))

/*
 * Attempts at one broker in a minute: the one that led to a stable connection; two quick ones; one
 * for each of the waits of 1, 2, 4, 8, 16, 32 s, less a tenth; and, where the preferred broker
 * answers a probe and then fails, six more (one, two quick ones, three with waits). Full jitter
 * may draw 0 again and again; by experience it stays within three times as many. What ends a wait,
 * such as a network that came, leads to a first round at most: five.
 */
#define A_MINUTE	   (1 + 2 + 6 + 6)
#define A_MINUTE_BY_CHANCE (3 * A_MINUTE)
#define FOR_NEWS	   5

enum mode {
	WELL,
	REFUSES,
	STALLS,
	BUSY,
	MOVED,
	BAD_PASSWORD,
	FLAPS,
	N_MODES,
};

struct place {
	enum mode mode;
	uint64_t change_usec;
	uint64_t well_since; /* reachable, and not set aside; NEVER = it is not */
	uint64_t attempts[128]; /* the last ones */
	unsigned n_attempts;
};

struct world {
	uint64_t random, jitter;
	uint64_t now;
	struct supervisor s;
	struct place places[N];
	bool network;
	uint64_t network_usec; /* it goes or comes */
	uint64_t news_usec; /* and netwatch tells so */
	uint64_t false_news_usec;
	uint64_t news[64]; /* the last times when a wait may have been cut short */
	unsigned n_news;

	bool attempt, up, probe; /* under way */
	uint64_t attempt_usec, loss_usec, probe_usec,
		closed_usec; /* what becomes of them, or NEVER */
	enum failure_class attempt_class, probe_class; /* NONE: CONNACK */
	uint64_t not_before;
	uint64_t up_since, down_since;
	unsigned total, connections, fail_backs, losses, deadlines;
};

static uint64_t below(struct world *w, uint64_t n)
{
	return scratch_random(&w->random) % n;
}

static double unit(void *userdata)
{
	return (double)(scratch_random(userdata) >> 11) * 0x1.0p-53;
}

/* --- what the brokers do --------------------------------------------------------------------- */

/* When and how an attempt ends that begins now; NEVER = it is silent. */
static uint64_t outcome(struct world *w, int broker, enum failure_class *ret_class)
{
	static const enum failure_class classes[N_MODES] = { [REFUSES] = FAILURE_TIMEOUT,
		[BUSY] = FAILURE_BUSY,
		[MOVED] = FAILURE_MOVED,
		[BAD_PASSWORD] = FAILURE_AUTH };
	enum mode mode = w->places[broker].mode;

	if (!w->network) {
		*ret_class = FAILURE_TIMEOUT;
		return below(w, 2) ? w->now : NEVER; /* unreachable, or silence */
	}
	*ret_class = classes[mode];
	return mode == STALLS ? NEVER : w->now + 1 + below(w, SEC / 2);
}

static void begin_attempt(struct world *w)
{
	struct place *p = &w->places[w->s.current];

	must(!w->attempt && !w->up);
	must(w->now >= w->not_before);
	p->attempts[p->n_attempts++ % ARRAY_SIZE(p->attempts)] = w->now;
	w->total++;
	w->attempt = true;
	w->attempt_usec = outcome(w, w->s.current, &w->attempt_class);
}

/* A connection that stands is lost at some time after its broker, or the network, went bad. */
static void plan_loss(struct world *w)
{
	enum mode mode;

	if (!w->up || w->loss_usec != NEVER)
		return;
	mode = w->places[w->s.current].mode;
	if (!w->network || mode == STALLS)
		w->loss_usec = w->now + 22 * SEC;
	else if (mode == FLAPS)
		w->loss_usec = w->now + below(w, 40 * SEC);
	else if (mode != WELL)
		w->loss_usec = w->now + below(w, SEC);
}

static void judge_places(struct world *w)
{
	for (int i = 0; i < N; i++) {
		bool well = w->places[i].mode == WELL && w->network &&
			!brokers_is_aside(&w->s.brokers, i, w->now);

		if (!well)
			w->places[i].well_since = NEVER;
		else if (w->places[i].well_since == NEVER)
			w->places[i].well_since = w->now;
	}
}

/* --- what must hold -------------------------------------------------------------------------- */

static unsigned since(const uint64_t *times, size_t size, unsigned n, uint64_t from)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n && i < size; i++)
		if (times[i] >= from)
			count++;
	return count;
}

static void check_rate(const struct world *w)
{
	unsigned most =
		w->s.params.backoff.jitter == BACKOFF_JITTER_FULL ? A_MINUTE_BY_CHANCE : A_MINUTE;

	/* The news count as long as they may have left attempts to be made. */
	most += FOR_NEWS * since(w->news, ARRAY_SIZE(w->news), w->n_news, w->now - 5 * MAX);
	for (int i = 0; i < N; i++) {
		const struct place *p = &w->places[i];
		unsigned n =
			since(p->attempts, ARRAY_SIZE(p->attempts), p->n_attempts, w->now - MAX);

		if (n > most)
			ck_abort_msg("broker %d: %u attempts a minute", i, n);
	}
}

static void check_reached(const struct world *w)
{
	uint64_t first = w->places[0].well_since;

	/* Connected to a lesser one all the time: the way back has begun. */
	if (w->s.state == SUPERVISOR_CONNECTED && w->s.current > 0 && first != NEVER) {
		uint64_t from = first > w->up_since ? first : w->up_since;

		must(w->now <= from + FAILBACK + N * TIMEOUT);
	}
	if (w->up || w->s.state == SUPERVISOR_DISCONNECTING)
		return;
	for (int i = 0; i < N; i++) {
		uint64_t from = w->places[i].well_since;

		if (from == NEVER)
			continue;
		if (from < w->down_since)
			from = w->down_since;
		must(w->now <= from + TO_CONNECT);
	}
}

static void check_wait(struct world *w, const struct supervisor_step *step)
{
	const uint64_t most[] = {
		[SUPERVISOR_PLAN_NONE] = 0,
		[SUPERVISOR_PLAN_SAME] = LONGEST,
		[SUPERVISOR_PLAN_NEXT] = LONGEST,
		[SUPERVISOR_PLAN_ROUND] = LONGEST,
		[SUPERVISOR_PLAN_ASIDE] = ASIDE,
		[SUPERVISOR_PLAN_NETWORK] = MAX,
	};
	enum backoff_jitter jitter = w->s.params.backoff.jitter;

	must(step->wait_usec <= most[step->plan]);
	if (jitter == BACKOFF_JITTER_FULL || jitter == BACKOFF_JITTER_NONE)
		must(step->plan == SUPERVISOR_PLAN_ASIDE || step->wait_usec <= MAX);
	if (step->plan != SUPERVISOR_PLAN_NONE) {
		must(step->timer_usec == w->now + step->wait_usec);
		w->not_before = step->timer_usec;
	}
}

static void check_state(const struct world *w, const struct supervisor_step *step)
{
	must(step->to == w->s.state);
	must(w->attempt == (w->s.state == SUPERVISOR_CONNECTING));
	must(w->up ==
		(w->s.state == SUPERVISOR_CONNECTED || w->s.state == SUPERVISOR_DISCONNECTING));
	must(w->probe == (w->s.probing != BROKERS_NONE));
	if (w->s.state != SUPERVISOR_CONNECTED)
		must(w->s.timer_usec != NEVER);
	else if (w->s.current > 0)
		must(w->s.timer_usec != NEVER);
}

/* --- the loop -------------------------------------------------------------------------------- */

static void drop(struct world *w)
{
	if (w->up)
		w->down_since = w->now;
	w->attempt = w->up = w->probe = false;
	w->attempt_usec = w->loss_usec = w->probe_usec = w->closed_usec = NEVER;
}

static void act(struct world *w, const struct supervisor_step *step)
{
	switch (step->action) {
	case SUPERVISOR_CONNECT: begin_attempt(w); break;
	case SUPERVISOR_ABORT: drop(w); break;
	case SUPERVISOR_LEAVE:
		w->probe = false;
		w->probe_usec = NEVER;
		w->closed_usec = below(w, 5) ? w->now + below(w, SEC) : NEVER;
		w->fail_backs++;
		break;
	case SUPERVISOR_PROBE:
		w->probe = true;
		w->probe_usec = outcome(w, w->s.probing, &w->probe_class);
		break;
	case SUPERVISOR_END_PROBE:
		w->probe = false;
		w->probe_usec = NEVER;
		break;
	case SUPERVISOR_NOTHING: break;
	}
}

/* Something that may end a wait. */
static void note_news(struct world *w)
{
	w->not_before = 0;
	w->news[w->n_news++ % ARRAY_SIZE(w->news)] = w->now;
}

static void tell(struct world *w, enum supervisor_event event, enum failure_class class)
{
	bool news = event == SUPERVISOR_NETWORK_UP || event == SUPERVISOR_NETWORK_DOWN ||
		event == SUPERVISOR_RECONNECT;
	struct supervisor_step step;
	int r;

	r = supervisor_handle(&w->s, event, class, w->now, &step);
	must(r == 0 || (news && r == -EPROTO));
	if (event == SUPERVISOR_CONNACK) {
		w->attempt = false;
		w->up = true;
		w->attempt_usec = NEVER;
		w->up_since = w->now;
		w->connections++;
	}
	if (news)
		note_news(w);
	if (step.deadline)
		w->deadlines++;
	check_wait(w, &step);
	act(w, &step);
	plan_loss(w);
	judge_places(w);
	check_state(w, &step);
	check_rate(w);
	check_reached(w);
}

static void change_place(struct world *w, struct place *p)
{
	static const uint64_t spans[] = { 30 * SEC, 600 * SEC, 2 * HOUR };

	p->mode = below(w, 3) ? WELL : (enum mode)below(w, N_MODES);
	p->change_usec = w->now + 1 + below(w, spans[below(w, ARRAY_SIZE(spans))]);
	plan_loss(w);
	judge_places(w);
}

static void change_network(struct world *w)
{
	w->network = !w->network;
	w->network_usec = w->now + 1 +
		below(w,
			w->network	      ? 6 * HOUR
				: below(w, 2) ? 20 * SEC
					      : HOUR);
	w->news_usec = w->now + below(w, 5 * SEC);
	plan_loss(w);
	judge_places(w);
}

/* A new list in another order, or somebody who asks, or news that are not true. */
static void surprise(struct world *w)
{
	static const struct brokers_item items[N] = { { "a:1", 0 }, { "b:1", 1 }, { "c:1", 2 } };
	struct supervisor_step step;

	w->false_news_usec = w->now + below(w, 8 * HOUR);
	switch (below(w, 3)) {
	case 0: tell(w, SUPERVISOR_RECONNECT, FAILURE_NONE); break;
	case 1: tell(w, SUPERVISOR_NETWORK_DOWN, FAILURE_NONE); break;
	default:
		supervisor_set_brokers(&w->s, items, N, w->now, &step);
		note_news(w);
		act(w, &step);
		judge_places(w);
		check_state(w, &step);
		break;
	}
}

/* Whatever is due first happens. */
static void next_event(struct world *w)
{
	uint64_t at = u64_min(u64_min(w->s.timer_usec, w->attempt_usec),
		u64_min(w->loss_usec, u64_min(w->probe_usec, w->closed_usec)));

	at = u64_min(at, u64_min(w->network_usec, u64_min(w->news_usec, w->false_news_usec)));
	for (int i = 0; i < N; i++)
		at = u64_min(at, w->places[i].change_usec);
	must(at >= w->now);
	w->now = at;
	judge_places(w);

	for (int i = 0; i < N; i++)
		if (at == w->places[i].change_usec) {
			change_place(w, &w->places[i]);
			return;
		}
	if (at == w->network_usec) {
		change_network(w);
	} else if (at == w->news_usec) {
		w->news_usec = NEVER;
		tell(w, w->network ? SUPERVISOR_NETWORK_UP : SUPERVISOR_NETWORK_DOWN, FAILURE_NONE);
	} else if (at == w->false_news_usec) {
		surprise(w);
	} else if (at == w->attempt_usec) {
		w->attempt_usec = NEVER;
		tell(w, w->attempt_class == FAILURE_NONE ? SUPERVISOR_CONNACK : SUPERVISOR_FAILURE,
			w->attempt_class);
	} else if (at == w->probe_usec) {
		w->probe_usec = NEVER;
		tell(w,
			w->probe_class == FAILURE_NONE ? SUPERVISOR_PROBE_UP
						       : SUPERVISOR_PROBE_FAILED,
			w->probe_class);
	} else if (at == w->loss_usec) {
		w->losses++;
		tell(w, SUPERVISOR_FAILURE, below(w, 50) ? FAILURE_HEARTBEAT : FAILURE_TAKEN_OVER);
	} else if (at == w->closed_usec) {
		tell(w, SUPERVISOR_CLOSED, FAILURE_NONE);
	} else {
		tell(w, SUPERVISOR_TIMER, FAILURE_NONE);
	}
}

static void begin(struct world *w, uint64_t seed, enum backoff_jitter jitter)
{
	static const struct brokers_item items[N] = { { "a:1", 0 }, { "b:1", 1 }, { "c:1", 2 } };
	const struct supervisor_params params = {
		.backoff = { SEC, MAX, 2.0, jitter },
		.connect_timeout_usec = TIMEOUT,
		.stable_usec = 30 * SEC,
		.disconnect_timeout_usec = DISCONNECT,
		.timeout_attempts = 3,
		.heartbeat_attempts = 2,
		.heartbeat_delay_usec = SEC,
		.set_aside_usec = ASIDE,
		.failback_usec = FAILBACK,
	};
	struct supervisor_step step;

	*w = (struct world){ .random = seed, .jitter = seed + 99, .now = START, .network = true };
	w->network_usec = START + HOUR;
	w->news_usec = NEVER;
	w->false_news_usec = START + HOUR;
	w->down_since = START;
	drop(w);
	supervisor_init(&w->s, &params, unit, &w->jitter);
	supervisor_set_brokers(&w->s, items, N, START, &step);
	for (int i = 0; i < N; i++) {
		w->places[i].change_usec = START + below(w, HOUR);
		w->places[i].well_since = NEVER;
	}
	tell(w, SUPERVISOR_START, FAILURE_NONE);
}

#define JITTERS 4
#define SEEDS	10

START_TEST(test_a_week)
{
	struct world w;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		begin(&w, seed * JITTERS + (uint64_t)_i, (enum backoff_jitter)_i);
		while (w.now < START + WEEK)
			next_event(&w);
		/* All that a week can bring did happen. */
		ck_assert_uint_gt(w.connections, 300);
		ck_assert_uint_gt(w.losses, 300);
		ck_assert_uint_gt(w.deadlines, 50);
		ck_assert_uint_gt(w.fail_backs, 20);
	}
}
END_TEST

/* --- messages on trial ----------------------------------------------------------------------- */

/*
 * A broker that minds no message, and takes `answer` seconds for those in flight; a link that lives
 * for `life` seconds on average, at no time more likely to be cut than at another. `timeouts`: that
 * part of the losses is silence; the others come as a RST or FIN. The broker shows that it lives
 * five seconds after it has nothing to answer (keepalive's least).
 */
static const struct {
	double answer, life, timeouts;
} links[] = {
	{ 0.05, 0.02, 0 }, /* 90 % are cut while they wait for the first answer */
	{ 0.05, 0.14, 0 }, /* 30 % */
	{ 0.05, 10, 0.3 },
	{ 0.3, 0.13, 0 }, /* 90 % */
	{ 0.3, 0.84, 0.3 }, /* 30 % */
	{ 0.3, 60, 0 },
	{ 1, 1.44, 0 }, /* 50 % */
	{ 1, 2.8, 0 }, /* 30 % */
	{ 1, 10, 0.3 },
	{ 3, 3, 0 }, /* 63 % */
	{ 3, 10, 0 }, /* 26 % */
	{ 3, 30, 0.3 },
};

#define PROOF  5.0
#define WINDOW 20

struct line {
	uint64_t random;
	struct trial t;
	uint64_t first; /* the oldest row of the queue */
	uint64_t poison; /* the broker closes on this row; 0 = on none */
	uint64_t delivered;
	unsigned condemned, connections, trials;
};

static double drawn(struct line *l, double mean)
{
	return -mean * log(1 - unit(&l->random));
}

/* The broker's answers; false when it closes the connection over one of the rows. */
static bool answers(struct line *l, unsigned inflight, bool *answered)
{
	for (unsigned i = 0; i < inflight; i++) {
		if (l->first == l->poison)
			return false;
		trial_delivered(&l->t, l->first++);
		l->delivered++;
		*answered = true;
	}
	return true;
}

static unsigned send_rows(struct line *l)
{
	unsigned n = 0;

	trial_next(&l->t, l->first);
	while (n < WINDOW && trial_admits(&l->t, l->first + n, n))
		n++;
	return n;
}

static void prove_life(struct line *l)
{
	if (trial_alive(&l->t) != TRIAL_CONDEMN)
		return;
	l->condemned++;
	if (l->t.suspect == l->first)
		l->first++;
}

/* One connection of `life` seconds; false when the broker closed it. */
static void connect_once(struct line *l, double life, bool silent, double answer)
{
	enum trial_state before;
	bool answered = false, closed = false;
	unsigned inflight = 0;
	double at = 0;

	l->connections++;
	for (;;) {
		if (l->t.state == TRIAL_WITHOUT) {
			inflight = 0;
			at += PROOF;
			if (at > life)
				break;
			prove_life(l);
			continue;
		}
		inflight = send_rows(l);
		must(inflight > 0);
		if (at + answer > life) {
			/* The rows were read when half of the way was over. */
			closed = !silent && life - at > answer / 2;
			break;
		}
		at += answer;
		if (!answers(l, inflight, &answered)) {
			closed = true;
			inflight = 1; /* the others behind it */
			break;
		}
		inflight = 0;
		at += drawn(l, 2); /* nothing to do */
		if (at > life)
			break;
	}
	before = l->t.state;
	trial_connection_ended(&l->t, inflight > 0 ? l->first : 0, inflight == 1, closed, answered);
	if (before == TRIAL_NONE && l->t.state != TRIAL_NONE)
		l->trials++;
}

/* The waits between connections, as the supervisor has them for a link that does not last. */
static double wait_between(struct line *l, double life, unsigned *fails)
{
	double d = *fails < 2 ? 1 : fmin(60, pow(2, *fails - 2.0)) * unit(&l->random);

	*fails = life > 30 ? 0 : *fails + 1;
	return d;
}

START_TEST(test_nobody_is_condemned_by_a_link)
{
	struct line l = { .random = 4711 + (uint64_t)_i, .first = 1 };
	unsigned fails = 0;

	for (double now = 0; now < 7 * 86400;) {
		double life = drawn(&l, links[_i].life);

		connect_once(&l, life, unit(&l.random) < links[_i].timeouts, links[_i].answer);
		must(l.condemned == 0);
		must(l.t.state != TRIAL_HELD);
		now += life + wait_between(&l, life, &fails);
	}
	ck_assert_uint_gt(l.connections, 5000);
	ck_assert_uint_gt(l.delivered, 100);
	if (links[_i].life <= links[_i].answer)
		ck_assert_uint_gt(l.trials, 10);
}
END_TEST

/*
 * On a good link: one connection that answers for the rows before it, TRIAL_BARREN more,
 * TRIAL_DEATHS with the row alone, and one on which the last proof of life comes. On a bad link
 * some more. All other rows are delivered.
 */
START_TEST(test_poison_is_condemned)
{
	static const double lives[] = { 1e9, 60, 20 };
	struct line l = { .random = 5, .first = 1, .poison = 30 };
	unsigned last = 0;

	while (l.connections < 500 && l.delivered < 100) {
		unsigned before = l.condemned;
		/* A connection that goes on for ever ends once there is nothing left to test. */
		double life = fmin(1000, drawn(&l, lives[_i]));

		connect_once(&l, life, false, 0.05);
		if (l.condemned > before)
			last = l.connections;
	}
	ck_assert_uint_eq(l.condemned, 1);
	ck_assert_uint_eq(l.first, l.delivered + 2);
	if (_i == 0)
		ck_assert_uint_eq(last, 1 + TRIAL_BARREN + TRIAL_DEATHS + 1);
	else
		ck_assert_uint_le(last, 100);
}
END_TEST

Suite *check_outages(void)
{
	Suite *s = suite_create("outages");
	TCase *t = tcase_create("weeks");

	tcase_set_tags(t, "long alone");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_a_week, 0, JITTERS);
	suite_add_tcase(s, t);

	t = tcase_create("trials");
	tcase_set_tags(t, "long alone");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_nobody_is_condemned_by_a_link, 0, ARRAY_SIZE(links));
	tcase_add_loop_test(t, test_poison_is_condemned, 0, 3);
	suite_add_tcase(s, t);
	return s;
}
