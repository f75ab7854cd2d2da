/* SPDX-License-Identifier: MIT */
/*
 * What the store does besides lines and removals: rows beyond a bound go, old ones expire, space
 * comes back; and what happens often is logged with its number, now and then.
 *
 * Chores are done in bounded steps, each in a transaction of its own that asks for no sync, with
 * turns for clients in between.
 */
#include <errno.h>

#include "store_internal.h"
#include "timer.h"

#define CHORES_SOON_USEC (1 * USEC_PER_MSEC) /* while there is more to do */
#define CHORES_WAIT_USEC (20 * USEC_PER_MSEC) /* after something happened */
/* Messages that are in the way of giving space back; and for how long to see whether they go. */
#define TIDY_FEW       1000
#define TIDY_LOOK_USEC (250 * USEC_PER_MSEC)
#define TELL_USEC      (60 * USEC_PER_SEC)
/* Calls of queue_trim() right after a commit: what one turn may add, and a little more. */
#define TRIM_CALLS 4

/* --- tallies --------------------------------------------------------------------------------- */

/* How long after the last line the next one may come. */
static uint64_t distance(const struct store_tally *t)
{
	static const uint64_t distances[] = { TELL_USEC, TELL_USEC, 10 * TELL_USEC,
		60 * TELL_USEC };

	return distances[size_min(t->lines, ARRAY_SIZE(distances) - 1)];
}

/* Microseconds until a line is due; UINT64_MAX: there is nothing to tell. */
static uint64_t wait_of(const struct store *s, const struct store_tally *t, uint64_t now)
{
	uint64_t since = now - t->logged_usec;

	if (t->count == 0)
		return UINT64_MAX;
	if (s->closing || t->logged_usec == 0 || since >= distance(t))
		return 0;
	return distance(t) - since;
}

static void told(struct store_tally *t, uint64_t now)
{
	/* Quiet for longer than it would have been told: it begins anew. */
	if (t->logged_usec != 0 && now - t->logged_usec > distance(t) + 10 * TELL_USEC)
		t->lines = 0;
	t->lines++;
	t->count = 0;
	t->logged_usec = now;
}

static struct event_fields fields_of(const struct store *s, const struct store_tally *t)
{
	return (struct event_fields){
		.path = s->config->queue.path,
		.count = t->count,
		.queue_known = true,
		.queue = queue_messages(s->queue),
	};
}

static void tell(struct store *s)
{
	const char *path = s->config->queue.path;
	struct event_fields fields;
	uint64_t now = now_usec(), wait;

	if (wait_of(s, &s->refused, now) == 0) {
		fields = fields_of(s, &s->refused);
		log_event(EVENT_LINES_REFUSED, &fields,
			"%s: %llu lines refused with \"queue-full\": %s", path,
			(unsigned long long)s->refused.count, queue_full_text(s->queue));
		told(&s->refused, now);
	}
	if (wait_of(s, &s->overflown, now) == 0) {
		fields = fields_of(s, &s->overflown);
		log_event(EVENT_MESSAGES_DROPPED, &fields,
			"%s: the %llu oldest messages dropped at a bound, as queue.overflow = "
			"\"drop-oldest\" says",
			path, (unsigned long long)s->overflown.count);
		told(&s->overflown, now);
	}
	if (wait_of(s, &s->expired, now) == 0) {
		fields = fields_of(s, &s->expired);
		log_event(EVENT_MESSAGES_EXPIRED, &fields,
			"%s: %llu messages dropped that were older than queue.max_age", path,
			(unsigned long long)s->expired.count);
		told(&s->expired, now);
	}
	if (s->closing)
		return;
	wait = u64_min(wait_of(s, &s->refused, now),
		u64_min(wait_of(s, &s->overflown, now), wait_of(s, &s->expired, now)));
	if (wait != UINT64_MAX)
		timer_set(s->tell, wait);
}

static int on_tell(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct store *s = userdata;

	(void)source;
	(void)usec;
	if (s->queue)
		tell(s);
	return 0;
}

void store_note_refused(struct store *s)
{
	if (s->refused.count++ == 0)
		tell(s);
}

void store_note_expired(struct store *s, uint64_t n)
{
	s->expired.count += n;
	tell(s);
	s->callbacks.changed(s->userdata);
}

/* --- rows that go by a rule ------------------------------------------------------------------ */

/* One call of queue_trim(). 1 more to do, 0 done, -errno. */
static int trim(struct store *s)
{
	uint64_t dropped = 0;
	int r;

	if (!queue_is_over(s->queue))
		return 0;
	r = queue_trim(s->queue, mailbox_freeze(s->mailbox), &dropped);
	mailbox_thaw(s->mailbox);
	if (dropped > 0) {
		s->overflown.count += dropped;
		store_count_full(s, "a bound of the queue is reached");
		tell(s);
		s->callbacks.changed(s->userdata);
	}
	return r;
}

/* --- chores ---------------------------------------------------------------------------------- */

void store_arm_chores(struct store *s)
{
	if (!timer_is_set(s->chores))
		timer_set(s->chores, CHORES_WAIT_USEC);
}

/*
 * Giving space back moves what is still in the queue to the beginning of the file: too early while
 * a backlog drains, all that is moved will be gone in a moment.
 */
static bool drains(struct store *s)
{
	uint64_t messages = queue_messages(s->queue), before = s->tidy_messages;

	s->tidy_messages = messages;
	return messages > TIDY_FEW && messages < before;
}

/* 1 more to do, 0 done, -EAGAIN later, or another -errno. */
static int do_chores(struct store *s)
{
	int r;

	r = trim(s);
	if (r == 0)
		r = store_do_age(s);
	if (r != 0)
		return r;
	return drains(s) ? -EAGAIN : queue_tidy(s->queue);
}

static void run_chores(struct store *s)
{
	int r = do_chores(s);

	if (r == -EAGAIN) {
		timer_set(s->chores, TIDY_LOOK_USEC);
		store_arm_age(s);
		return;
	}
	if (r < 0)
		store_failed(s, r);
	else if (r > 0)
		timer_set(s->chores, CHORES_SOON_USEC);
	else
		store_arm_age(s);
}

static int on_chores(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct store *s = userdata;

	(void)source;
	(void)usec;
	if (!s->queue || s->parking || s->error < 0)
		return 0;
	if (queue_in_transaction(s->queue))
		s->chores_due = true;
	else
		run_chores(s);
	return 0;
}

void store_after_commit(struct store *s)
{
	/* With more lines the log would take the room that it needs in the database. */
	int r = queue_is_stuck(s->queue) ? -ENOSPC : 1;

	for (unsigned n = 0; n < TRIM_CALLS && r > 0; n++)
		r = trim(s);
	if (r < 0) {
		store_failed(s, r);
		return;
	}
	if (r > 0)
		store_arm_chores(s);
	if (s->chores_due && s->error == 0) {
		/* Not later: with a commit delay the next line opens the next transaction at once,
		 * and there would be no moment without one. */
		s->chores_due = false;
		run_chores(s);
	}
	if (store_age_is_due(s))
		store_arm_age(s);
}

void store_begin_chores(struct store *s)
{
	store_begin_age(s);
	store_arm_chores(s);
}

int store_setup_chores(struct store *s)
{
	const struct {
		sd_event_source **source;
		clockid_t clock;
		sd_event_time_handler_t handler;
	} timers[] = {
		{ &s->chores, CLOCK_MONOTONIC, on_chores },
		{ &s->tell, CLOCK_MONOTONIC, on_tell },
		{ &s->age, CLOCK_BOOTTIME, on_chores },
	};

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		int r;

		r = timer_new(timers[i].source, s->event, timers[i].clock, USEC_PER_MSEC,
			timers[i].handler, s);
		if (r < 0)
			return r;
	}
	return 0;
}

void store_close_chores(struct store *s)
{
	s->closing = true;
	if (s->queue)
		tell(s);
	s->chores = sd_event_source_disable_unref(s->chores);
	s->tell = sd_event_source_disable_unref(s->tell);
	s->age = sd_event_source_disable_unref(s->age);
}
