/* SPDX-License-Identifier: MIT */
/*
 * See alerts.h. Invariant: the ring holds the alerts numbered last - kept + 1 ... last.
 */
#include "alerts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "utf8.h"

#define QUIET_USEC (60 * USEC_PER_SEC)
/* Pairs of kind and broker that are watched at a time; the longest silent one makes room. */
#define WATCHED 64

struct watched {
	struct alert pending; /* count 0: nothing was held back */
	uint64_t quiet_usec; /* until when they are counted only; 0 = not in use */
};

struct alerts {
	struct alert ring[ALERTS_KEPT];
	uint64_t last;
	struct watched watched[WATCHED];
};

const char *alert_kind_to_string(enum alert_kind kind)
{
	static const char *const names[] = {
		[ALERT_AUTH] = "auth",
		[ALERT_SET_ASIDE] = "set-aside",
		[ALERT_TAKEN_OVER] = "taken-over",
		[ALERT_QUEUE_HIGH] = "queue-high",
		[ALERT_STORE] = "store",
		[ALERT_DEAD_LETTER] = "dead-letter",
		[ALERT_HELD] = "held",
	};

	return names[kind];
}

int alerts_new(struct alerts **ret)
{
	struct alerts *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	*ret = a;
	return 0;
}

struct alerts *alerts_free(struct alerts *a)
{
	free(a);
	return NULL;
}

static void put(struct alerts *a, const struct alert *alert)
{
	struct alert *slot = &a->ring[++a->last % ALERTS_KEPT];

	*slot = *alert;
	slot->seq = a->last;
}

static bool is_of(const struct watched *w, enum alert_kind kind, const char *broker)
{
	return w->quiet_usec != 0 && w->pending.kind == kind && streq(w->pending.broker, broker);
}

/* The one for this kind and broker, or a free one, or the one that is quiet the longest: what it
 * held back goes out first. */
static struct watched *find(struct alerts *a, enum alert_kind kind, const char *broker)
{
	struct watched *best = &a->watched[0];

	for (size_t i = 0; i < WATCHED; i++) {
		struct watched *w = &a->watched[i];

		if (is_of(w, kind, broker))
			return w;
		if (w->quiet_usec < best->quiet_usec)
			best = w;
	}
	if (best->quiet_usec != 0 && best->pending.count > 0)
		put(a, &best->pending);
	*best = (struct watched){ .pending.kind = kind };
	snprintf(best->pending.broker, sizeof(best->pending.broker), "%s", broker);
	return best;
}

bool alerts_raise(struct alerts *a, enum alert_kind kind, const char *broker, unsigned count,
	const char *text, uint64_t now_usec, int64_t time_msec)
{
	struct watched *w = find(a, kind, broker);

	w->pending.count += count;
	w->pending.time_msec = time_msec;
	utf8_copy(w->pending.text, sizeof(w->pending.text), text);
	if (now_usec < w->quiet_usec)
		return false;
	put(a, &w->pending);
	w->pending.count = 0;
	w->quiet_usec = now_usec + QUIET_USEC;
	return true;
}

uint64_t alerts_due(const struct alerts *a)
{
	uint64_t due = UINT64_MAX;

	for (size_t i = 0; i < WATCHED; i++)
		if (a->watched[i].pending.count > 0)
			due = u64_min(due, a->watched[i].quiet_usec);
	return due;
}

bool alerts_release(struct alerts *a, uint64_t now_usec)
{
	bool released = false;

	for (size_t i = 0; i < WATCHED; i++) {
		struct watched *w = &a->watched[i];

		if (w->pending.count == 0 || now_usec < w->quiet_usec)
			continue;
		put(a, &w->pending);
		w->pending.count = 0;
		w->quiet_usec = now_usec + QUIET_USEC;
		released = true;
	}
	return released;
}

const struct alert *alerts_next(const struct alerts *a, uint64_t seq, uint64_t *ret_lost)
{
	uint64_t oldest = a->last > ALERTS_KEPT ? a->last - ALERTS_KEPT + 1 : 1;
	uint64_t next;

	*ret_lost = 0;
	if (seq >= a->last)
		return NULL;
	next = u64_max(seq + 1, oldest);
	*ret_lost = next - (seq + 1);
	return &a->ring[next % ALERTS_KEPT];
}

uint64_t alerts_last(const struct alerts *a)
{
	return a->last;
}
