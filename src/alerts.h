/* SPDX-License-Identifier: MIT */
/*
 * What a person has to know of at once: the last alerts, numbered, for whoever reads them over the
 * control socket. Pure; times are passed in.
 *
 * Rate-limited: of one kind about one broker, one alert a minute goes out; those in between are
 * counted, and told with the next one, or by themselves when the minute is over. Nothing is lost
 * silently: a reader that comes too late for what fell out of the ring is told how many.
 */
#pragma once

#include "util.h"

enum alert_kind {
	ALERT_AUTH, /* "auth": a broker refuses our credentials */
	ALERT_SET_ASIDE, /* "set-aside": a broker is left alone for a while, for another reason */
	ALERT_TAKEN_OVER, /* "taken-over": another client has our id */
	ALERT_QUEUE_HIGH, /* "queue-high": past 80 % of a bound */
	ALERT_STORE, /* "store": the queue cannot be written, or was set aside */
	ALERT_DEAD_LETTER, /* "dead-letter": a message nobody takes */
	ALERT_HELD, /* "held": several in a row, nothing goes out */
	N_ALERT_KINDS,
};

const char *alert_kind_to_string(enum alert_kind kind);

#define ALERTS_KEPT 256

struct alert {
	uint64_t seq; /* from 1 */
	enum alert_kind kind;
	int64_t time_msec; /* CLOCK_REALTIME of the (last) occurrence */
	unsigned count; /* occurrences this one stands for, 1 or more */
	char broker[272]; /* "" = not about one */
	char text[400];
};

struct alerts;

int alerts_new(struct alerts **ret) _must_check_;
/* Takes NULL, returns NULL. */
struct alerts *alerts_free(struct alerts *a);

/*
 * `count` occurrences, 1 or more; `text` is of the last one, and cut or mended where it is too long
 * or no UTF-8. True: there is a new alert in the ring. False: it was counted only, see
 * alerts_due().
 */
bool alerts_raise(struct alerts *a, enum alert_kind kind, const char *broker, unsigned count,
	const char *text, uint64_t now_usec, int64_t time_msec);
/* When alerts_release() has something to do; UINT64_MAX = never. Same clock as `now_usec`. */
uint64_t alerts_due(const struct alerts *a);
/* Puts into the ring what was only counted and whose minute is over. True: something was. */
bool alerts_release(struct alerts *a, uint64_t now_usec);

/* The first one after `seq`; NULL = there is none. *ret_lost: how many between fell out. Valid
 * until the next call of alerts_raise() or alerts_release(). */
const struct alert *alerts_next(const struct alerts *a, uint64_t seq, uint64_t *ret_lost);
/* The number of the last one; 0 = there was none. */
uint64_t alerts_last(const struct alerts *a);
