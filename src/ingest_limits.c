/* SPDX-License-Identifier: MIT */
/*
 * What one client may take from the others: lines a second, lines without an answer, and room that
 * others wait for. Who wants more is not read from for a while, as one that does not read its
 * replies; only who takes the last of the room and does not go on is disconnected. See
 * ingest_internal.h.
 *
 * Without limits, and while there is room for all, nothing of this costs a line more than a
 * comparison.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "event.h"
#include "ingest_internal.h"
#include "timer.h"

/* Not shorter: what has gathered in the socket meanwhile is taken at once. */
#define HOLD_USEC	   (10 * USEC_PER_MSEC)
#define HOLD_ACCURACY_USEC (1 * USEC_PER_MSEC)

/* Answers that one client may have to come when there is no room for more of them. */
#define TIGHT_LINES 16

/* Looks at those who have room, while others wait for it: so many in the time that they have. */
#define STALLED_LOOKS 10

/* --- lines a second -------------------------------------------------------------------------- */

/* A bucket that holds a second's lines: whoever was silent for a second may send that many at
 * once. It is only looked at when it seems to be empty. */
static bool has_token(struct client *c, double rate, uint64_t now)
{
	double filled;

	if (c->tokens >= 1)
		return true;
	filled = c->tokens + (double)(now - c->filled_usec) * rate / (double)USEC_PER_SEC;
	c->tokens = filled < rate ? filled : rate;
	c->filled_usec = now;
	return c->tokens >= 1;
}

static void hold_for_token(struct ingest *i, struct client *c, double rate, uint64_t now)
{
	double wait = (1 - c->tokens) * (double)USEC_PER_SEC / rate;

	c->held |= CLIENT_HELD_RATE;
	c->release_usec = now + u64_max((uint64_t)wait + 1, HOLD_USEC);
	if (timer_is_set(i->release) && i->release_usec <= c->release_usec)
		return;
	i->release_usec = c->release_usec;
	timer_set(i->release, c->release_usec - now);
}

static bool is_too_fast(struct ingest *i, struct client *c)
{
	double rate = (double)i->params.max_rate;
	uint64_t now;

	if (i->params.max_rate == 0 || c->tokens >= 1)
		return false;
	now = now_usec();
	if (has_token(c, rate, now))
		return false;
	hold_for_token(i, c, rate, now);
	return true;
}

static int on_release(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct ingest *i = userdata;
	uint64_t now = now_usec(), next = UINT64_MAX;

	(void)usec;
	for (struct client *c = i->clients; c; c = c->next) {
		if (!(c->held & CLIENT_HELD_RATE))
			continue;
		if (c->release_usec > now) {
			next = u64_min(next, c->release_usec);
			continue;
		}
		c->held &= ~CLIENT_HELD_RATE;
		ingest_touch(i, c);
	}
	if (next != UINT64_MAX) {
		i->release_usec = next;
		timer_set(s, next - now);
	}
	ingest_finish(i);
	return 0;
}

/* --- lines without an answer ----------------------------------------------------------------- */

/* A line alone is taken, however long: it could never be taken otherwise. */
static bool is_too_much(const struct ingest *i, const struct client *c, size_t len)
{
	size_t max = i->params.max_inflight_bytes;

	if (c->pending == 0)
		return false;
	if (i->pool.used > i->pool.max && c->pending >= TIGHT_LINES)
		return true;
	return max > 0 && (c->unanswered >= max || len > max - c->unanswered);
}

bool ingest_limits_hold(struct ingest *i, struct client *c, size_t len)
{
	if (i->hurry)
		return false;
	if (is_too_much(i, c, len)) {
		c->held |= CLIENT_HELD_ANSWERS;
		return true;
	}
	if (is_too_fast(i, c))
		return true;
	c->unanswered += len;
	if (i->params.max_rate > 0)
		c->tokens--;
	return false;
}

void ingest_limits_answered(struct client *c)
{
	c->unanswered = 0;
	c->held &= ~CLIENT_HELD_ANSWERS;
}

void ingest_limits_changed(struct ingest *i)
{
	for (struct client *c = i->clients; c; c = c->next) {
		if (c->tokens > (double)i->params.max_rate)
			c->tokens = (double)i->params.max_rate;
		c->held &= ~CLIENT_HELD_RATE;
		ingest_touch(i, c);
	}
	timer_off(i->release);
}

/* --- room that others wait for --------------------------------------------------------------- */

/* For so long neither a line came to its end nor a reply was read. Only looked at while somebody
 * waits; a client that was not looked at before has all the time. */
static bool is_overdue(struct client *c, uint64_t now, uint64_t usec)
{
	if (c->progress) {
		c->progress = false;
		c->stalled_usec = now;
	}
	return now - c->stalled_usec >= usec;
}

/* What it has sent and we have not read is no fault of its. */
static bool has_sent_more(const struct client *c)
{
	int waiting = 0;

	return ioctl(c->fd, FIONREAD, &waiting) == 0 && waiting > 0;
}

/* It takes room and does not go on: it reads no replies; or has begun a line; or waits for room
 * itself to finish its line, which is to happen only if all of them do. */
static bool is_stalled(const struct ingest *i, struct client *c, uint64_t now)
{
	uint64_t usec = i->params.stall_usec;

	if (c->reserved == 0 || c->held)
		return false;
	if (buffer_len(&c->out) > 0)
		return is_overdue(c, now, usec);
	if (c->more || c->eof)
		return false;
	return is_overdue(c, now, c->granted ? usec : 2 * usec) &&
		!(c->granted && has_sent_more(c));
}

static void cut_off(struct ingest *i, struct client *c)
{
	bool deaf = buffer_len(&c->out) > 0;
	char text[160], line[240];

	snprintf(text, sizeof(text),
		"%s after %u seconds, and others wait for the room, see "
		"socket.max_buffered_bytes",
		deaf ? "replies are not read" : "line is not complete",
		(unsigned)(i->params.stall_usec / USEC_PER_SEC));
	snprintf(line, sizeof(line), "a client's connection is closed: its %s", text);
	ingest_tell(&i->cut_off, EVENT_CLIENT_CUT_OFF, 0, line);
	if (deaf) {
		ingest_give_up_replies(c);
		buffer_clear(&c->out);
		ingest_touch(i, c);
	} else {
		ingest_dismiss(i, c, FRAME_TOO_LARGE, text);
	}
}

/* Time in which nobody looked: nobody waited, or a commit has kept this thread. It is not held
 * against those who may have gone on meanwhile. */
static uint64_t unseen(struct ingest *i, uint64_t now)
{
	uint64_t since = now - i->looked_usec, most = 2 * i->params.stall_usec / STALLED_LOOKS;

	i->looked_usec = now;
	return since > most ? since - most : 0;
}

static int on_stalled(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct ingest *i = userdata;
	uint64_t now = now_usec(), not_counted;

	(void)s;
	(void)usec;
	if (i->pool.waiting == 0)
		return 0;
	not_counted = unseen(i, now);
	for (struct client *c = i->clients; c; c = c->next) {
		c->stalled_usec += not_counted;
		if (is_stalled(i, c, now))
			cut_off(i, c);
	}
	/* The rest of their lines may have come meanwhile. */
	ingest_wake_waiting(i);
	ingest_finish(i);
	return 0;
}

void ingest_limits_watch(struct ingest *i)
{
	if (i->pool.waiting > 0 && !timer_is_set(i->stalled))
		timer_set(i->stalled, i->params.stall_usec / STALLED_LOOKS);
}

/* --- the room -------------------------------------------------------------------------------- */

int ingest_limits_open(struct ingest *i)
{
	int r;

	r = timer_new(&i->release, i->event, CLOCK_MONOTONIC, HOLD_ACCURACY_USEC, on_release, i);
	if (r < 0)
		return r;
	return timer_new(&i->stalled, i->event, CLOCK_MONOTONIC, HOLD_ACCURACY_USEC, on_stalled, i);
}

void ingest_limits_close(struct ingest *i)
{
	i->release = sd_event_source_disable_unref(i->release);
	i->stalled = sd_event_source_disable_unref(i->stalled);
}
