/* SPDX-License-Identifier: MIT */
/*
 * The in-flight window: see window.h.
 *
 * What fills the path is rate x round trip; whatever is in flight beyond it stands in queues, costs
 * an outage to send again, and in the client library, which walks the list of what is in flight at
 * each publish and each acknowledgement, it costs time. So one message at a time is timed, a
 * *round*. If the window held sending back in a round and the round trip was about the shortest
 * known, the window grows; if the round trip was much longer, it shrinks to what passed in that
 * time, scaled down to the shortest round trip. In between it stays: about one path full waits in
 * queues, which keeps the path busy when acknowledgements come in bursts.
 *
 * The shortest round trip has to be learnt again and again, as paths change, and a queue of our own
 * making would soon pass for the path. So every now and then the window *dips* for one round: half
 * of what the path holds, which empties the queue; that round trip is the new shortest one, longer
 * or not. A dip also follows when shrinking does not bring the round trip down: then the path has
 * become longer, and no queue was there.
 *
 * Invariants: `max` is at least 1 and within the broker's Receive Maximum; no more than one round
 * runs; a round never spans two connections. Must not know what is sent, nor any clock.
 */
#include "window.h"

#include <assert.h>
#include <limits.h>

#define NSEC_PER_SEC UINT64_C(1000000000)

#define START_MESSAGES 32
#define LEAST_MESSAGES 4
#define MOST_MESSAGES  10000 /* the library's walks cost more than a longer window gains */
#define START_BYTES    ((size_t)64 << 10)
#define LEAST_BYTES    ((size_t)16 << 10)
#define GUESS_MESSAGES 128 /* the most a new connection begins with */

/* Growth in a round, as long as nothing was too much. Many small messages are soon sent again; it
 * is bytes that flood a slow line. */
#define STARTING_MESSAGES 4
#define STARTING_BYTES	  2

#define SLACK_USEC	 (1 * USEC_PER_MSEC) /* a broker's and a scheduler's own time */
#define DIP_USEC	 (10 * USEC_PER_SEC) /* at the soonest, after the shortest round trip */
#define DIP_ROUNDS	 16 /* nor sooner than so many round trips */
#define CEILING_USEC	 USEC_PER_SEC /* a step back up after the broker asked for less */
#define RATE_BURST_NSEC	 NSEC_PER_SEC
#define RECEIVE_MAXIMUM	 65535 /* MQTT 5, 3.2.2.3.3: where the broker names none */
#define ROUND_TRIP_LEAST (100 * USEC_PER_MSEC) /* for "once a round trip", where none is known */

static unsigned unsigned_min(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static double clamp(double value, double least, double most)
{
	if (value > most)
		value = most;
	return value < least ? least : value;
}

static bool is_adaptive(const struct window *w)
{
	return w->params.max_messages == 0;
}

/* The one place that sets what may be in flight now. */
static void set_max(struct window *w)
{
	unsigned messages = w->params.max_messages;
	size_t bytes = w->params.max_bytes;

	if (is_adaptive(w)) {
		messages = w->learnt.messages;
		bytes = w->learnt.bytes;
	}
	if (w->dipping) {
		messages = unsigned_min(messages, w->dip.messages);
		bytes = size_min(bytes, w->dip.bytes);
	}
	w->max = unsigned_min(messages, unsigned_min(w->receive_maximum, w->ceiling));
	w->max_bytes = size_min(bytes, w->params.max_bytes);
}

void window_init(struct window *w, const struct window_params *params)
{
	*w = (struct window){
		.params = *params,
		.receive_maximum = RECEIVE_MAXIMUM,
		.learnt = { START_MESSAGES, START_BYTES },
		.starting = true,
		.ceiling = UINT_MAX,
	};
	set_max(w);
}

void window_connected(struct window *w, unsigned receive_maximum, uint64_t now)
{
	(void)now;
	w->receive_maximum = receive_maximum ? receive_maximum : RECEIVE_MAXIMUM;
	w->learnt.messages = unsigned_min(w->learnt.messages, GUESS_MESSAGES);
	w->learnt.bytes = size_min(w->learnt.bytes, START_BYTES);
	w->starting = true;
	w->min_rtt_usec = 0;
	w->last_rtt_usec = 0;
	w->too_long = 0;
	w->dipping = false;
	w->round.running = false;
	set_max(w);
}

/* --- bytes a second -------------------------------------------------------------------------- */

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

uint64_t window_rate_usec(const struct window *w, uint64_t now)
{
	uint64_t usec = w->paid_nsec / 1000 + (w->paid_nsec % 1000 != 0);

	return w->params.max_rate == 0 ? now : usec;
}

/* A message may go as soon as all before it are paid for; what it costs itself is paid afterwards,
 * so that one larger than a second's worth can pass at all. Time not used is kept for a second. */
static void pay(struct window *w, size_t bytes, uint64_t now)
{
	uint64_t now_nsec = now > UINT64_MAX / 1000 ? UINT64_MAX : now * 1000;
	uint64_t oldest = now_nsec > RATE_BURST_NSEC ? now_nsec - RATE_BURST_NSEC : 0;
	double cost;

	if (w->params.max_rate == 0)
		return;
	cost = clamp((double)bytes * (double)NSEC_PER_SEC / (double)w->params.max_rate, 0, 9e18);
	w->paid_nsec = add_saturated(u64_max(w->paid_nsec, oldest), (uint64_t)cost);
}

/* --- what goes out and comes back ------------------------------------------------------------ */

bool window_admits(const struct window *w, size_t bytes, uint64_t now)
{
	if (window_rate_usec(w, now) > now)
		return false;
	if (w->messages == 0)
		return true;
	if (w->messages >= w->max)
		return false;
	return w->bytes <= w->max_bytes && bytes <= w->max_bytes - w->bytes;
}

/* Back up by an eighth each second. */
static void raise_ceiling(struct window *w, uint64_t now)
{
	if (w->ceiling == UINT_MAX || now < w->ceiling_usec + CEILING_USEC)
		return;
	w->ceiling_usec = now;
	w->ceiling += w->ceiling / 8 + 1;
	if (w->ceiling >= RECEIVE_MAXIMUM)
		w->ceiling = UINT_MAX;
	set_max(w);
}

/* Whether another message of this size would have to wait. */
static void note_full(struct window *w, size_t bytes)
{
	if (w->messages >= w->max || w->bytes >= w->max_bytes || bytes > w->max_bytes - w->bytes)
		w->round.full = true;
	if (w->messages > w->round.peak_messages)
		w->round.peak_messages = w->messages;
	if (w->bytes > w->round.peak_bytes)
		w->round.peak_bytes = w->bytes;
}

bool window_add(struct window *w, size_t bytes, uint64_t now)
{
	bool timed = is_adaptive(w) && !w->round.running;

	raise_ceiling(w, now);
	pay(w, bytes, now);
	w->messages++;
	w->bytes += bytes;
	if (timed) {
		memset(&w->round, 0, sizeof(w->round));
		w->round.running = true;
		w->round.dipped = w->dipping;
		w->round.sent_usec = now;
		w->round.size = bytes;
	}
	note_full(w, bytes);
	return timed;
}

void window_remove(struct window *w, size_t bytes)
{
	assert(w->messages > 0 && w->bytes >= bytes);
	w->messages--;
	w->bytes -= bytes;
	w->round.messages++;
	w->round.bytes += bytes;
}

/* --- what a round tells ---------------------------------------------------------------------- */

static double most_bytes(const struct window *w)
{
	return w->params.max_bytes > LEAST_BYTES ? (double)w->params.max_bytes : LEAST_BYTES;
}

/* By how much, for something that is `value` now and was `peak` at most in this round. A bound that
 * was far away says nothing about the path. */
static double grown(const struct window *w, double value, double peak, double factor)
{
	if (peak < value / 2)
		return value;
	return w->starting ? factor * value : value + value / 8 + 1;
}

static void grow(struct window *w)
{
	w->learnt.messages =
		(unsigned)clamp(grown(w, (double)w->learnt.messages, (double)w->round.peak_messages,
					STARTING_MESSAGES),
			LEAST_MESSAGES, MOST_MESSAGES);
	w->learnt.bytes = (size_t)clamp(
		grown(w, (double)w->learnt.bytes, (double)w->round.peak_bytes, STARTING_BYTES),
		LEAST_BYTES, most_bytes(w));
}

/* To what passed in this round, by `part`; not by more than half at once, as one round may err. */
static void shrink(struct window *w, double part)
{
	double messages = (double)w->learnt.messages, bytes = (double)w->learnt.bytes;

	w->starting = false;
	messages = clamp(part * (w->round.messages + 1.0), messages / 2, messages);
	bytes = clamp(part * (double)(w->round.bytes + w->round.size), bytes / 2, bytes);
	w->learnt.messages = (unsigned)clamp(messages, LEAST_MESSAGES, MOST_MESSAGES);
	w->learnt.bytes = (size_t)clamp(bytes, LEAST_BYTES, bytes);
}

/* The longest round trip at which the window still grows. */
static uint64_t target_usec(const struct window *w)
{
	return 2 * w->min_rtt_usec + SLACK_USEC;
}

static void set_dip(struct window *w, double messages, double bytes)
{
	w->dipping = true;
	w->dip.messages = (unsigned)clamp(messages, LEAST_MESSAGES, MOST_MESSAGES);
	w->dip.bytes = (size_t)clamp(bytes, LEAST_BYTES, most_bytes(w));
}

/* Half of what the path holds, as far as known. */
static void begin_dip(struct window *w, uint64_t rtt)
{
	double part = 0.5 * (double)w->min_rtt_usec / (double)u64_max(rtt, w->min_rtt_usec);

	set_dip(w, part * w->learnt.messages, part * (double)w->learnt.bytes);
}

static void end_dip(struct window *w, uint64_t rtt, uint64_t now)
{
	bool shorter = rtt + SLACK_USEC < w->min_rtt_usec - w->min_rtt_usec / 4;

	/* Much longer: another path, about which nothing is known yet. */
	if (rtt > target_usec(w))
		w->starting = true;
	w->min_rtt_usec = rtt;
	w->min_seen_usec = now;
	w->too_long = 0;
	/* Shorter: a queue had passed for the path, and may not be empty yet. */
	if (shorter)
		set_dip(w, w->dip.messages / 2.0, (double)w->dip.bytes / 2);
	else
		w->dipping = false;
}

static void judge(struct window *w, uint64_t rtt, uint64_t now)
{
	uint64_t target = target_usec(w);
	uint64_t dip_usec = u64_max(DIP_USEC, DIP_ROUNDS * rtt);

	if (rtt <= target) {
		w->too_long = 0;
		grow(w);
	} else {
		w->starting = false;
		if (rtt > target + target / 4) {
			w->too_long++;
			shrink(w, (double)target / (double)rtt);
		} else {
			w->too_long = 0;
		}
	}
	if (w->too_long >= 2 || now - w->min_seen_usec >= dip_usec)
		begin_dip(w, rtt);
}

void window_sample(struct window *w, uint64_t now)
{
	uint64_t rtt;

	if (!w->round.running)
		return;
	w->round.running = false;
	rtt = u64_max(now - w->round.sent_usec, 1);
	if (w->min_rtt_usec == 0)
		w->min_rtt_usec = rtt;
	if (!w->round.dipped && rtt <= w->min_rtt_usec + w->min_rtt_usec / 8) {
		w->min_rtt_usec = u64_min(rtt, w->min_rtt_usec);
		w->min_seen_usec = now;
	}
	w->last_rtt_usec = rtt;
	if (w->round.dipped)
		end_dip(w, rtt, now);
	else if (!w->dipping && w->round.full)
		judge(w, rtt, now);
	set_max(w);
}

void window_sample_lost(struct window *w)
{
	w->round.running = false;
}

void window_throttled(struct window *w, uint64_t now)
{
	uint64_t round_trip = u64_max(w->last_rtt_usec, ROUND_TRIP_LEAST);
	unsigned used;

	if (w->ceiling != UINT_MAX && now < w->ceiling_usec + round_trip)
		return;
	/* Half of what was in flight: half of a window that is not in use would change nothing. */
	used = w->messages > 0 ? unsigned_min(w->max, w->messages) : w->max;
	w->ceiling = used > 1 ? used / 2 : 1;
	w->ceiling_usec = now;
	set_max(w);
}
