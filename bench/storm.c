/* SPDX-License-Identifier: MIT */
/*
 * A reconnect storm on paper: many gateways lose one broker at the same instant and come back with
 * the waits that src/backoff.c draws. Prints how long it takes and what the broker has to bear, for
 * each jitter; with --svg, draws it.
 *
 * The model:
 * - At 0 s all connections are gone. The broker is back at 30 s, and then takes 1,000 connections
 * in each second; the first 1,000 that come in a second are served at once.
 * - Whatever comes earlier, or beyond that, fails, in one of two ways, and the whole is computed
 * for both. "refused": at once, as with a closed port, a full listen queue that answers with a
 * reset, or a broker that says it is busy. "timeout": after connect_timeout, 10 s, as with a host
 * that is down or packets that are dropped. Real overload is a mixture, somewhere between the two.
 * - An attempt that fails costs the broker nothing. That is too kind, most of all to the jitters
 *   with high peaks: TLS handshakes that come to nothing use up what could have served others.
 * - A gateway's waits: two heartbeat attempts, each after 1 s x uniform [0.5, 1.5]; then the
 * backoff with base 1 s, max 60 s, multiplier 2. Who is connected stays so.
 * - Nobody has a second broker, and nothing but the waits tells the gateways apart.
 *
 * The same seed gives the same numbers. Time is cut into milliseconds, the order within one is
 * arbitrary.
 */
#include "backoff.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#define BACK_MSEC	   30000
#define CAPACITY	   1000 /* connections a second */
#define CONNECT_MSEC	   10000 /* connect_timeout */
#define HEARTBEAT_ATTEMPTS 2
#define HEARTBEAT_USEC	   USEC_PER_SEC
#define LONGEST_SEC	   (7 * 24 * 3600) /* then we give up */

#define RING (1U << 17) /* milliseconds: more than any wait and a timeout */
#define NONE UINT32_MAX

enum overload {
	OVERLOAD_REFUSED,
	OVERLOAD_TIMEOUT,
	N_OVERLOADS,
};

static const char *const overload_names[] = { "refused", "timeout" };

/* In the order of the tables and pictures. */
static const enum backoff_jitter jitters[] = { BACKOFF_JITTER_NONE, BACKOFF_JITTER_ADDITIVE,
	BACKOFF_JITTER_PROPORTIONAL, BACKOFF_JITTER_FULL };

struct outcome {
	double half_sec, most_sec, all_sec; /* until 50 %, 99 %, 100 % are connected; < 0: never */
	uint32_t peak; /* attempts in a second, since the broker is back */
	uint32_t peak_ever;
	uint64_t attempts;
	uint64_t failed_back; /* since the broker is back */
	uint64_t failed;
};

#define HISTORY_SEC 300

struct storm {
	uint32_t gateways;
	enum overload overload;
	struct backoff backoff; /* one for all: a gateway's own part is `waits` */
	uint64_t random;

	uint32_t *next; /* of each gateway: who attempts in the same millisecond */
	uint16_t *waits; /* of each gateway: heartbeats too */
	uint32_t ring[RING]; /* of each millisecond: the first gateway that attempts then */

	uint32_t connected;
	uint32_t second_attempts, second_served;
	struct outcome outcome;
	uint32_t history[HISTORY_SEC]; /* attempts in each second */
};

/* splitmix64: small, and the same everywhere. */
static double uniform(void *userdata)
{
	uint64_t *state = userdata, z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static struct storm *storm_free(struct storm *s)
{
	if (!s)
		return NULL;
	free(s->next);
	free(s->waits);
	free(s);
	return NULL;
}

static struct storm *storm_new(
	uint32_t gateways, enum backoff_jitter jitter, enum overload overload, uint64_t seed)
{
	const struct backoff_params params = {
		.base_usec = USEC_PER_SEC,
		.max_usec = 60 * USEC_PER_SEC,
		.multiplier = 2,
		.jitter = jitter,
	};
	struct storm *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->gateways = gateways;
	s->overload = overload;
	s->random = seed;
	s->next = calloc(gateways, sizeof(*s->next));
	s->waits = calloc(gateways, sizeof(*s->waits));
	if (!s->next || !s->waits)
		return storm_free(s);
	memset(s->ring, 0xff, sizeof(s->ring));
	backoff_init(&s->backoff, &params, uniform, &s->random);
	return s;
}

static uint64_t draw_wait_usec(struct storm *s, uint32_t gateway)
{
	unsigned waits = s->waits[gateway];

	if (waits < UINT16_MAX)
		s->waits[gateway]++;
	if (waits < HEARTBEAT_ATTEMPTS)
		return (uint64_t)((0.5 + uniform(&s->random)) * (double)HEARTBEAT_USEC);
	s->backoff.waits = waits - HEARTBEAT_ATTEMPTS;
	return backoff_next_usec(&s->backoff);
}

/* Its last attempt failed at `msec`: the next one, a millisecond later at the soonest. */
static void schedule(struct storm *s, uint32_t gateway, uint64_t msec)
{
	uint64_t at = msec + 1 + draw_wait_usec(s, gateway) / 1000;
	uint32_t *slot = &s->ring[at % RING];

	s->next[gateway] = *slot;
	*slot = gateway;
}

static void connected(struct storm *s, uint64_t msec)
{
	double sec = (double)msec / 1000;

	s->connected++;
	if (s->connected == (s->gateways + 1) / 2)
		s->outcome.half_sec = sec;
	if (s->connected == s->gateways - s->gateways / 100)
		s->outcome.most_sec = sec;
	if (s->connected == s->gateways)
		s->outcome.all_sec = sec;
}

static void attempt(struct storm *s, uint32_t gateway, uint64_t msec)
{
	s->second_attempts++;
	s->outcome.attempts++;
	if (msec >= BACK_MSEC && s->second_served < CAPACITY) {
		s->second_served++;
		connected(s, msec);
		return;
	}
	s->outcome.failed++;
	if (msec >= BACK_MSEC)
		s->outcome.failed_back++;
	schedule(s, gateway, s->overload == OVERLOAD_TIMEOUT ? msec + CONNECT_MSEC : msec);
}

static void end_second(struct storm *s, uint64_t second)
{
	if (second < HISTORY_SEC)
		s->history[second] = s->second_attempts;
	if (s->second_attempts > s->outcome.peak_ever)
		s->outcome.peak_ever = s->second_attempts;
	if (second >= BACK_MSEC / 1000 && s->second_attempts > s->outcome.peak)
		s->outcome.peak = s->second_attempts;
	s->second_attempts = 0;
	s->second_served = 0;
}

static void storm_run(struct storm *s)
{
	s->outcome.half_sec = s->outcome.most_sec = s->outcome.all_sec = -1;
	for (uint32_t gateway = 0; gateway < s->gateways; gateway++)
		schedule(s, gateway, 0);
	for (uint64_t second = 0; second < LONGEST_SEC; second++) {
		for (uint64_t msec = second * 1000; msec < (second + 1) * 1000; msec++) {
			uint32_t gateway = s->ring[msec % RING];

			s->ring[msec % RING] = NONE;
			while (gateway != NONE) {
				uint32_t next = s->next[gateway];

				attempt(s, gateway, msec);
				gateway = next;
			}
		}
		end_second(s, second);
		if (s->connected == s->gateways)
			return;
	}
}

/* --- numbers --------------------------------------------------------------------------------- */

static void print_row(enum backoff_jitter jitter, enum overload overload, const struct outcome *o)
{
	printf("| %-12s | %-7s | %9.1f | %9.1f | %9.1f | %9" PRIu32 " | %9" PRIu32 " | %11" PRIu64
	       " | %11" PRIu64 " | %11" PRIu64 " |\n",
		backoff_jitter_to_string(jitter), overload_names[overload], o->half_sec,
		o->most_sec, o->all_sec, o->peak_ever, o->peak, o->attempts, o->failed,
		o->failed_back);
}

static int storm_of(uint32_t gateways, enum backoff_jitter jitter, enum overload overload,
	uint64_t seed, struct outcome *ret, uint32_t *ret_history)
{
	struct storm *s = storm_new(gateways, jitter, overload, seed);

	if (!s) {
		fprintf(stderr, "storm: no memory\n");
		return -1;
	}
	storm_run(s);
	*ret = s->outcome;
	if (ret_history)
		memcpy(ret_history, s->history, sizeof(s->history));
	storm_free(s);
	return 0;
}

static int print_table(uint32_t gateways, uint64_t seed)
{
	printf("%" PRIu32 " gateways, seed %" PRIu64 "; times in seconds since the loss\n\n"
	       "| jitter       | failing |      50 %% |      99 %% |     100 %% | peak      "
	       "| peak back |    attempts |      failed | failed back |\n"
	       "| ------------ | ------- | --------: | --------: | --------: | --------: "
	       "| --------: | ----------: | ----------: | ----------: |\n",
		gateways, seed);
	for (enum overload o = 0; o < N_OVERLOADS; o++)
		for (size_t i = 0; i < ARRAY_SIZE(jitters); i++) {
			struct outcome outcome;

			if (storm_of(gateways, jitters[i], o, seed, &outcome, NULL) < 0)
				return -1;
			print_row(jitters[i], o, &outcome);
			fflush(stdout);
		}
	return 0;
}

/* --- the picture ----------------------------------------------------------------------------- */

#define PICTURE_SEC 150
#define WIDE	    420 /* of the curves */
#define HIGH	    100
#define LEFT	    60
#define TOP	    70
#define PITCH_X	    (WIDE + 40) /* from curve to curve */
#define PITCH_Y	    150

/* One curve: a jitter and a way to fail. */
struct curve {
	struct outcome outcome;
	uint32_t history[HISTORY_SEC];
};

static void draw_axes(FILE *f, double left, double top, double scale)
{
	double bottom = top + HIGH;

	fprintf(f, "<rect x='%.1f' y='%.1f' width='%.1f' height='%d' fill='#e8e8e8'/>\n", left, top,
		BACK_MSEC / 1000.0 * WIDE / PICTURE_SEC, HIGH);
	for (int sec = 0; sec <= PICTURE_SEC; sec += 30) {
		double x = left + (double)sec * WIDE / PICTURE_SEC;

		fprintf(f, "<path d='M%.1f %.1fv4' stroke='#555555'/>", x, bottom);
		fprintf(f, "<text x='%.1f' y='%.1f' text-anchor='middle'>%d s</text>\n", x,
			bottom + 16, sec);
	}
	fprintf(f, "<path d='M%.1f %.1fh%d' stroke='#555555'/>\n", left, bottom, WIDE);
	fprintf(f, "<path d='M%.1f %.1fh%d' stroke='#bb3333' stroke-dasharray='5 4'/>\n", left,
		bottom - CAPACITY * scale, WIDE);
}

static void draw_curve(FILE *f, const struct curve *c, double left, double top, double scale)
{
	double bottom = top + HIGH;

	fprintf(f, "<path fill='#4477aa' d='M%.1f %.1f", left, bottom);
	for (int sec = 0; sec < PICTURE_SEC; sec++)
		fprintf(f, "L%.1f %.1fh%.1f", left + (double)sec * WIDE / PICTURE_SEC,
			bottom - c->history[sec] * scale, (double)WIDE / PICTURE_SEC);
	fprintf(f, "V%.1fZ'/>\n", bottom);
}

/* In one scale for all, so that they can be compared. */
static double find_scale(struct curve (*curves)[N_OVERLOADS])
{
	uint32_t most = CAPACITY;

	for (size_t i = 0; i < ARRAY_SIZE(jitters); i++)
		for (int o = 0; o < N_OVERLOADS; o++)
			if (curves[i][o].outcome.peak_ever > most)
				most = curves[i][o].outcome.peak_ever;
	return (double)HIGH / most;
}

static void draw_one(FILE *f, const struct curve *c, size_t row, int column, double scale)
{
	double left = LEFT + (double)column * PITCH_X, top = TOP + (double)row * PITCH_Y;

	draw_axes(f, left, top, scale);
	draw_curve(f, c, left, top, scale);
	fprintf(f,
		"<text x='%.1f' y='%.1f' text-anchor='end'>%s, %s: peak %" PRIu32
		", after the return %" PRIu32 ", all back at %.0f s</text>\n",
		left + WIDE, top - 5, backoff_jitter_to_string(jitters[row]),
		overload_names[column], c->outcome.peak_ever, c->outcome.peak, c->outcome.all_sec);
}

static void draw_all(FILE *f, uint32_t gateways, uint64_t seed, struct curve (*curves)[N_OVERLOADS])
{
	double scale = find_scale(curves);

	fprintf(f,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%zu' "
		"font-family='sans-serif' font-size='12'>\n"
		"<!-- SPDX-License-Identifier: MIT; made by bench/storm -->\n"
		"<rect width='100%%' height='100%%' fill='#ffffff'/>\n",
		LEFT + N_OVERLOADS * PITCH_X, TOP + ARRAY_SIZE(jitters) * PITCH_Y);
	fprintf(f,
		"<text x='%d' y='20' font-size='15'>Attempts to connect per second, %" PRIu32
		" gateways (seed %" PRIu64 ")</text>\n"
		"<text x='%d' y='38'>Gray: the broker is down. Dashed: what it takes, %d a "
		"second.</text>\n",
		LEFT, gateways, seed, LEFT, CAPACITY);
	for (size_t i = 0; i < ARRAY_SIZE(jitters); i++)
		for (int o = 0; o < N_OVERLOADS; o++)
			draw_one(f, &curves[i][o], i, o, scale);
	fprintf(f, "</svg>\n");
}

static int write_picture(const char *path, uint32_t gateways, uint64_t seed)
{
	static struct curve curves[ARRAY_SIZE(jitters)][N_OVERLOADS];
	bool bad;
	FILE *f;

	for (size_t i = 0; i < ARRAY_SIZE(jitters); i++)
		for (enum overload o = 0; o < N_OVERLOADS; o++)
			if (storm_of(gateways, jitters[i], o, seed, &curves[i][o].outcome,
				    curves[i][o].history) < 0)
				return -1;
	f = fopen(path, "we");
	if (!f) {
		perror(path);
		return -1;
	}
	draw_all(f, gateways, seed, curves);
	bad = ferror(f);
	if (fclose(f) != 0 || bad) {
		perror(path);
		return -1;
	}
	return 0;
}

/* --- a small one, for `make check` ----------------------------------------------------------- */

static int expect(bool what, const char *text)
{
	if (!what)
		fprintf(stderr, "storm: not true: %s\n", text);
	return what ? 0 : -1;
}

static int check_one(enum overload overload, uint64_t seed)
{
	const uint32_t gateways = 5000;
	struct outcome none, full, again;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(jitters); i++) {
		struct outcome o;

		if (storm_of(gateways, jitters[i], overload, seed, &o, NULL) < 0)
			return -1;
		r |= expect(o.half_sec >= 30 && o.most_sec >= o.half_sec, "in order");
		r |= expect(o.all_sec >= o.most_sec, "everybody is connected");
		r |= expect(o.all_sec >= 30 + gateways / CAPACITY - 1, "no faster than it may be");
		r |= expect(o.attempts == o.failed + gateways, "each attempt is counted once");
		r |= expect(o.peak <= o.peak_ever && o.failed_back <= o.failed, "parts");
	}
	if (storm_of(gateways, BACKOFF_JITTER_NONE, overload, seed, &none, NULL) < 0 ||
		storm_of(gateways, BACKOFF_JITTER_FULL, overload, seed, &full, NULL) < 0 ||
		storm_of(gateways, BACKOFF_JITTER_FULL, overload, seed, &again, NULL) < 0)
		return -1;
	r |= expect(full.peak < none.peak, "full jitter has a lower peak than none");
	r |= expect(full.all_sec <= none.all_sec, "and is not slower");
	r |= expect(full.attempts == again.attempts && full.all_sec == again.all_sec,
		"a seed gives the same numbers");
	return r;
}

static int check(void)
{
	int r = 0;

	for (uint64_t seed = 1; seed <= 3; seed++)
		for (enum overload o = 0; o < N_OVERLOADS; o++)
			r |= check_one(o, seed);
	return r;
}

/* --- command line ---------------------------------------------------------------------------- */

static int usage(void)
{
	fprintf(stderr,
		"usage: storm [--gateways N] [--seed N] [--svg FILE]   a table, or a picture\n"
		"       storm --check                                  a small one: is it sane?\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "gateways", required_argument, NULL, 'g' },
		{ "seed", required_argument, NULL, 's' },
		{ "svg", required_argument, NULL, 'v' },
		{ "check", no_argument, NULL, 'c' },
		{ 0 },
	};
	const char *svg = NULL;
	uint64_t seed = 1, gateways = 10000;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (c) {
		case 'g': gateways = strtoull(optarg, NULL, 10); break;
		case 's': seed = strtoull(optarg, NULL, 10); break;
		case 'v': svg = optarg; break;
		case 'c': return check() < 0;
		default: return usage();
		}
	if (optind != argc || gateways < 1 || gateways > 100000000)
		return usage();
	if (svg)
		return write_picture(svg, (uint32_t)gateways, seed) < 0;
	return print_table((uint32_t)gateways, seed) < 0;
}
