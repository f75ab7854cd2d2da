/* SPDX-License-Identifier: MIT */
/*
 * How long to wait before the next attempt: exponential, capped, jittered. Pure: the random source
 * is passed in.
 */
#pragma once

#include "util.h"

enum backoff_jitter {
	BACKOFF_JITTER_FULL, /* uniform in [0, d] */
	BACKOFF_JITTER_PROPORTIONAL, /* d +- 10 % */
	BACKOFF_JITTER_ADDITIVE, /* d + uniform [0, 1 s] */
	BACKOFF_JITTER_NONE, /* d */
};

/* "full", "proportional", "additive", "none"; -EINVAL for another word. */
int backoff_jitter_from_string(const char *s) _must_check_;
const char *backoff_jitter_to_string(enum backoff_jitter jitter);

struct backoff_params {
	uint64_t base_usec;
	uint64_t max_usec;
	double multiplier; /* >= 1 */
	enum backoff_jitter jitter;
};

/* Uniform in [0, 1). */
typedef double (*backoff_random_fn)(void *userdata);

struct backoff {
	struct backoff_params params;
	backoff_random_fn random;
	void *userdata;
	unsigned waits; /* since a connection last stayed up */
};

void backoff_init(struct backoff *b, const struct backoff_params *params, backoff_random_fn random,
	void *userdata);
/* d = min(max, base * multiplier^n) for the n-th wait, without jitter. */
uint64_t backoff_delay_usec(const struct backoff_params *params, unsigned n);
/* Draws the next wait and counts it. */
uint64_t backoff_next_usec(struct backoff *b);
/* The same with d = max: for a broker that refuses us. */
uint64_t backoff_longest_usec(struct backoff *b);
/* Uniform in [from, to]; counts for nothing. */
uint64_t backoff_uniform_usec(struct backoff *b, uint64_t from, uint64_t to);
/* The connection stayed up: the next wait starts from base again. */
void backoff_reset(struct backoff *b);
