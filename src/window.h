/* SPDX-License-Identifier: MIT */
/*
 * How much may be in flight: messages and bytes, as much as rate x round trip asks for, and how
 * many bytes a second may leave. Pure: the time is passed in, in microseconds of one clock that
 * never goes back.
 */
#pragma once

#include "util.h"

struct window_params {
	unsigned max_messages; /* fixed size; 0 = adaptive */
	size_t max_bytes; /* with a fixed size, of bytes too; else what adapting stays below */
	uint64_t max_rate; /* bytes a second; 0 = no bound */
};

struct window {
	struct window_params params;
	unsigned receive_maximum; /* the broker's */
	unsigned max; /* messages that may be in flight now; at least 1 */
	unsigned messages; /* in flight */
	size_t bytes; /* in flight */

	/* The rest is for window.c alone. */
	size_t max_bytes; /* bytes that may be in flight now */
	struct {
		unsigned messages;
		size_t bytes;
	} learnt; /* what the path seems to ask for */
	bool starting; /* the size was not too large yet on this connection */
	uint64_t min_rtt_usec; /* round trip without queues; 0 = not known */
	uint64_t last_rtt_usec;
	uint64_t min_seen_usec; /* when a round trip was last about as short as that */
	unsigned too_long; /* rounds that took too long, one after the other */

	bool dipping; /* sends little for a round, to see the path without its queue */
	struct {
		unsigned messages;
		size_t bytes;
	} dip;

	struct {
		bool running;
		bool dipped; /* began while sending little */
		bool full; /* the window held sending back */
		uint64_t sent_usec;
		size_t size; /* of the message that is timed */
		unsigned messages; /* that left flight since */
		size_t bytes;
		unsigned peak_messages;
		size_t peak_bytes;
	} round;

	unsigned ceiling; /* since the broker asked for less; UINT_MAX = none */
	uint64_t ceiling_usec; /* when it last changed */

	uint64_t paid_nsec; /* up to here max_rate has let pass what was sent */
};

/* Borrows nothing. A window is a value: it may be copied, and needs no freeing. */
void window_init(struct window *w, const struct window_params *params);
/* A connection begins. The broker's Receive Maximum (MQTT 5, 3.2.2.3.3), 0 = it names none. What
 * was learnt about the path before counts as a first guess only. What is in flight stays in flight,
 * and is no longer timed. */
void window_connected(struct window *w, unsigned receive_maximum, uint64_t now);
/* Whether a message of `bytes` may go out now. One message always may as far as size goes, however
 * large; max_rate holds up that one, too. */
bool window_admits(const struct window *w, size_t bytes, uint64_t now);
/* When max_rate will let something go: at `now` or before = not held up by the rate. */
uint64_t window_rate_usec(const struct window *w, uint64_t now);
/* A message goes out. True: this is the one whose round trip is measured next, and no other is
 * until then; tell with window_sample() when it is acknowledged, window_sample_lost() when it is
 * lost, in both cases before its window_remove(). */
bool window_add(struct window *w, size_t bytes, uint64_t now);
void window_sample(struct window *w, uint64_t now);
void window_sample_lost(struct window *w);
/* It was acknowledged or lost. */
void window_remove(struct window *w, size_t bytes);
/* The broker asks for less (MQTT 5 reason codes 0x93, 0x97): half of it, no less than one. Once a
 * round trip at most, whatever the number of messages that came back; grows back within minutes. */
void window_throttled(struct window *w, uint64_t now);
