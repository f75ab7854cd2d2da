/* SPDX-License-Identifier: MIT */
/*
 * Owns the arithmetic of waiting between attempts. Invariants: a wait without jitter is never above
 * params.max_usec; nothing overflows, however often it is called. Must not know what is attempted,
 * any clock, or where the randomness comes from. Needs no libm.
 */
#include "backoff.h"

#include <errno.h>
#include <limits.h>

static const char *const jitter_names[] = {
	[BACKOFF_JITTER_FULL] = "full",
	[BACKOFF_JITTER_PROPORTIONAL] = "proportional",
	[BACKOFF_JITTER_ADDITIVE] = "additive",
	[BACKOFF_JITTER_NONE] = "none",
};

int backoff_jitter_from_string(const char *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(jitter_names); i++)
		if (streq(s, jitter_names[i]))
			return (int)i;
	return -EINVAL;
}

const char *backoff_jitter_to_string(enum backoff_jitter jitter)
{
	if ((size_t)jitter >= ARRAY_SIZE(jitter_names))
		return "unknown";
	return jitter_names[jitter];
}

void backoff_init(struct backoff *b, const struct backoff_params *params, backoff_random_fn random,
	void *userdata)
{
	*b = (struct backoff){
		.params = *params,
		.random = random,
		.userdata = userdata,
	};
}

/* factor^n by squaring: 32 steps at most for any n. May become infinite, never NaN. */
static double power(double factor, unsigned n)
{
	double result = 1;

	for (; n > 0; n >>= 1) {
		if (n & 1)
			result *= factor;
		factor *= factor;
	}
	return result;
}

uint64_t backoff_delay_usec(const struct backoff_params *params, unsigned n)
{
	double d;

	if (params->base_usec == 0)
		return 0;
	d = (double)params->base_usec;
	if (params->multiplier > 1)
		d *= power(params->multiplier, n);
	/* Written so that infinity takes the cap too. */
	if (!(d < (double)params->max_usec))
		return params->max_usec;
	return (uint64_t)d;
}

/* Uniform in [0, span], both ends within reach. */
static uint64_t draw(struct backoff *b, uint64_t span)
{
	double r = b->random(b->userdata) * ((double)span + 1);

	/* The last step of a double may reach beyond the span. */
	return r < (double)span ? (uint64_t)r : span;
}

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Counts the wait `d` and lets its jitter work. */
static uint64_t take(struct backoff *b, uint64_t d)
{
	if (b->waits < UINT_MAX)
		b->waits++;

	switch (b->params.jitter) {
	case BACKOFF_JITTER_FULL: return draw(b, d);
	case BACKOFF_JITTER_PROPORTIONAL: return add_saturated(d - d / 10, draw(b, d / 10 * 2));
	case BACKOFF_JITTER_ADDITIVE: return add_saturated(d, draw(b, USEC_PER_SEC));
	case BACKOFF_JITTER_NONE: break;
	}
	return d;
}

uint64_t backoff_next_usec(struct backoff *b)
{
	return take(b, backoff_delay_usec(&b->params, b->waits));
}

uint64_t backoff_longest_usec(struct backoff *b)
{
	return take(b, b->params.max_usec);
}

uint64_t backoff_uniform_usec(struct backoff *b, uint64_t from, uint64_t to)
{
	return from + draw(b, to - from);
}

void backoff_reset(struct backoff *b)
{
	b->waits = 0;
}
