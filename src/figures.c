/* SPDX-License-Identifier: MIT */
/*
 * See figures.h. The line that says why nothing moves is in figures_why.c.
 */
#include "figures.h"

#include <math.h>
#include <stdio.h>

#define RATE_USEC (10 * USEC_PER_SEC)

#define MSEC  USEC_PER_MSEC
#define SEC   USEC_PER_SEC
#define HOURS (3600 * SEC)

#define OTHER "other"

/* --- histograms ------------------------------------------------------------------------------ */

const struct histogram_bounds histogram_commit = { {
	500,
	1 * MSEC,
	2 * MSEC,
	5 * MSEC,
	10 * MSEC,
	20 * MSEC,
	50 * MSEC,
	100 * MSEC,
	200 * MSEC,
	500 * MSEC,
	1 * SEC,
	2 * SEC,
	5 * SEC,
	10 * SEC,
	30 * SEC,
	60 * SEC,
} };

const struct histogram_bounds histogram_delivery = { {
	1 * MSEC,
	5 * MSEC,
	20 * MSEC,
	50 * MSEC,
	100 * MSEC,
	250 * MSEC,
	500 * MSEC,
	1 * SEC,
	5 * SEC,
	30 * SEC,
	120 * SEC,
	600 * SEC,
	1 * HOURS,
	6 * HOURS,
	24 * HOURS,
	168 * HOURS,
} };

const struct histogram_bounds histogram_reconnect = { {
	100 * MSEC,
	250 * MSEC,
	500 * MSEC,
	1 * SEC,
	2 * SEC,
	4 * SEC,
	8 * SEC,
	15 * SEC,
	30 * SEC,
	60 * SEC,
	120 * SEC,
	300 * SEC,
	600 * SEC,
	1200 * SEC,
	1800 * SEC,
	3600 * SEC,
} };

void histogram_add(
	struct histogram *h, const struct histogram_bounds *bounds, uint64_t usec, uint64_t n)
{
	size_t i = 0;

	while (i < HISTOGRAM_BOUNDS && usec > bounds->usec[i])
		i++;
	h->counts[i] += n;
	h->sum_usec += usec * n;
}

uint64_t histogram_count(const struct histogram *h)
{
	uint64_t n = 0;

	for (size_t i = 0; i <= HISTOGRAM_BOUNDS; i++)
		n += h->counts[i];
	return n;
}

/* --- rates ----------------------------------------------------------------------------------- */

/* Each event weighs less the longer it is ago: exp(-age / RATE_USEC). */
static double decayed(const struct rate *r, uint64_t now_usec)
{
	uint64_t age = now_usec > r->usec ? now_usec - r->usec : 0;

	return r->weight * exp(-(double)age / (double)RATE_USEC);
}

void rate_add(struct rate *r, uint64_t n, uint64_t now_usec)
{
	r->weight = decayed(r, now_usec) + (double)n;
	r->usec = now_usec;
}

double rate_get(const struct rate *r, uint64_t now_usec)
{
	return decayed(r, now_usec) / ((double)RATE_USEC / (double)USEC_PER_SEC);
}

/* --- brokers --------------------------------------------------------------------------------- */

static struct figures_broker *find(struct figures_uplink *u, const char *name)
{
	for (size_t i = 0; i < u->n_brokers; i++)
		if (streq(u->brokers[i].name, name))
			return &u->brokers[i];
	return NULL;
}

static struct figures_broker *append(struct figures_uplink *u, const char *name)
{
	struct figures_broker *b = &u->brokers[u->n_brokers++];

	*b = (struct figures_broker){ 0 };
	snprintf(b->name, sizeof(b->name), "%s", name);
	return b;
}

static void add_up(struct figures_broker *to, const struct figures_broker *from)
{
	for (size_t i = 0; i < N_FAILURE_CLASSES; i++)
		to->attempts[i] += from->attempts[i];
}

/* The last place is kept for "other". */
static struct figures_broker *find_or_append(struct figures_uplink *u, const char *name)
{
	struct figures_broker *b = find(u, name), other;
	bool has_other;

	if (b)
		return b;
	has_other = u->n_brokers > 0 && streq(u->brokers[u->n_brokers - 1].name, OTHER);
	if (!has_other)
		return append(u, u->n_brokers < BROKERS_MAX ? name : OTHER);
	if (u->n_brokers == ARRAY_SIZE(u->brokers))
		return &u->brokers[u->n_brokers - 1];
	/* It stays the last one. */
	other = u->brokers[--u->n_brokers];
	append(u, name);
	u->brokers[u->n_brokers++] = other;
	return &u->brokers[u->n_brokers - 2];
}

static bool was_tried(const struct figures_broker *b)
{
	for (size_t i = 0; i < N_FAILURE_CLASSES; i++)
		if (b->attempts[i] > 0)
			return true;
	return false;
}

void figures_set_brokers(struct figures_uplink *u, const struct brokers_item *items, size_t n)
{
	struct figures_uplink old = *u;

	u->n_brokers = 0;
	for (size_t i = 0; i < size_min(n, BROKERS_MAX); i++) {
		struct figures_broker *b = append(u, items[i].name);
		const struct figures_broker *before = find(&old, items[i].name);

		if (before)
			add_up(b, before);
		b->listed = true;
	}
	/* Those that went last come first, and find room before the others. */
	for (size_t i = 0; i < old.n_brokers; i++) {
		const struct figures_broker *b = find(u, old.brokers[i].name);

		if (was_tried(&old.brokers[i]) && !(b && b->listed))
			add_up(find_or_append(u, old.brokers[i].name), &old.brokers[i]);
	}
}

void figures_attempt(struct figures_uplink *u, const char *broker, enum failure_class class)
{
	find_or_append(u, broker)->attempts[class]++;
}

/* --- the connection -------------------------------------------------------------------------- */

void figures_lost(struct figures_uplink *u, uint64_t now_usec)
{
	if (u->lost_usec == 0)
		u->lost_usec = now_usec;
}

void figures_connected(struct figures_uplink *u, uint64_t now_usec)
{
	if (u->lost_usec != 0)
		histogram_add(&u->reconnect, &histogram_reconnect, now_usec - u->lost_usec, 1);
	u->lost_usec = 0;
}

void figures_uplink_ended(struct figures_uplink *u, uint64_t now_usec)
{
	for (size_t i = 0; i < u->n_brokers; i++)
		u->brokers[i].up = false;
	u->state = SUPERVISOR_DISCONNECTED;
	u->state_usec = now_usec;
	u->cause[0] = '\0';
	u->next_usec = UINT64_MAX;
	u->held = false;
	u->inflight = u->window = 0;
	u->brake = FIGURES_BRAKE_NONE;
	u->suspect = 0;
	u->read_error = 0;
}

/* --- all of it ------------------------------------------------------------------------------- */

const char *figures_dropped_to_string(enum figures_dropped reason)
{
	static const char *const names[] = {
		[FIGURES_DROPPED_OVERFLOW] = "overflow",
		[FIGURES_DROPPED_EXPIRED] = "expired",
		[FIGURES_DROPPED_PURGED] = "purged",
		[FIGURES_DROPPED_DEAD_LETTER_BOUND] = "dead-letter-bound",
	};

	return names[reason];
}

double figures_oldest_seconds(const struct figures *f)
{
	int64_t age;

	if (f->oldest_msec == INT64_MIN || f->oldest_msec > f->now_msec)
		return 0;
	/* Timestamps are clients' own: of any size. */
	if (__builtin_sub_overflow(f->now_msec, f->oldest_msec, &age))
		age = INT64_MAX;
	return (double)age / 1000.0;
}
