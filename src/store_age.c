/* SPDX-License-Identifier: MIT */
/*
 * The store and time: which clock stamps messages, and when old ones go. See clock.h for what is
 * trusted; nothing expires before.
 */
#include "log.h"
#include "store_internal.h"
#include "timer.h"

#define LOOK_USEC (1 * USEC_PER_SEC) /* between looks at the clock, while lines come */
/* Messages are waiting, and the clock was not set yet. */
#define UNSET_USEC (30 * USEC_PER_SEC)
/* Between looks at what may have expired. The most: rows may have been with the uplink. */
#define EXPIRY_LEAST_USEC (1 * USEC_PER_SEC)
#define EXPIRY_MOST_USEC  (60 * USEC_PER_SEC)

static void look_at_clock(struct store *s)
{
	bool was_trusted = s->clock.trusted;
	struct clock_reading now;

	s->looked_usec = now_boot_usec();
	clock_read(&now);
	if (!clock_update(&s->clock, &now))
		return;
	queue_set_clock(s->queue, &s->clock);
	s->clock_posted = false;
	if (s->clock.trusted && !was_trusted)
		log_event(EVENT_CLOCK_TRUSTED, NULL,
			"the clock is synchronised: timestamps and ages count from now on");
	store_arm_chores(s);
}

void store_begin_age(struct store *s)
{
	struct clock earlier;

	if (!s->clock.trusted && queue_get_clock(s->queue, &earlier))
		s->clock = earlier;
	look_at_clock(s);
	queue_set_clock(s->queue, &s->clock);
	s->clock_posted = false;
	if (!s->clock.trusted)
		log_event(EVENT_CLOCK_UNSET, NULL,
			"the clock is not synchronised yet: timestamps will be corrected once it "
			"is, and nothing expires before");
}

void store_begin_lines(struct store *s)
{
	if (now_boot_usec() - s->looked_usec >= LOOK_USEC)
		look_at_clock(s);
}

static int64_t time_msec(const struct store *s)
{
	const struct clock_reading now = {
		.boot_msec = (int64_t)(now_boot_usec() / USEC_PER_MSEC),
	};

	return clock_time_msec(&s->clock, &now);
}

void store_stamp(const struct store *s, struct message *m)
{
	if (!m->own_timestamp)
		m->timestamp = time_msec(s);
}

static int64_t max_age_msec(const struct store *s)
{
	return (int64_t)(s->config->queue.max_age_usec / USEC_PER_MSEC);
}

/* Microseconds until something may have expired; 0: now, UINT64_MAX: never. */
static uint64_t until_expiry(const struct store *s)
{
	int64_t oldest, wait;

	if (s->config->queue.max_age_usec == 0 || !s->clock.trusted)
		return UINT64_MAX;
	oldest = queue_next_expiry(s->queue);
	if (oldest == INT64_MAX)
		return queue_messages(s->queue) > 0 ? EXPIRY_MOST_USEC : UINT64_MAX;
	if (oldest == INT64_MIN)
		return 0;
	/* Timestamps are clients' own, too: of any size. */
	if (__builtin_sub_overflow(oldest, time_msec(s) - max_age_msec(s), &wait))
		wait = oldest < 0 ? 0 : INT64_MAX;
	if (wait <= 0)
		return 0;
	return u64_min((uint64_t)wait, EXPIRY_MOST_USEC / USEC_PER_MSEC) * USEC_PER_MSEC;
}

/* One call of queue_expire(). */
static int expire(struct store *s)
{
	uint64_t dropped = 0;
	int r;

	r = queue_expire(
		s->queue, mailbox_freeze(s->mailbox), time_msec(s) - max_age_msec(s), &dropped);
	mailbox_thaw(s->mailbox);
	if (dropped > 0)
		store_note_expired(s, dropped);
	return r;
}

void store_age_changed(struct store *s)
{
	s->clock_posted = false;
	s->expiring = false;
	s->expired_usec = 0;
}

int store_do_age(struct store *s)
{
	uint64_t now = now_boot_usec();
	int r;

	if (now - s->looked_usec >= LOOK_USEC)
		look_at_clock(s);
	if (!s->clock.trusted)
		return 0;
	r = queue_correct(s->queue);
	if (r != 0)
		return r;
	/* Not before: rows that are not corrected yet would seem to be decades old. */
	if (!s->clock_posted) {
		mailbox_post_clock(s->mailbox, &s->clock, s->config->queue.max_age_usec);
		s->clock_posted = true;
	}
	if (s->config->queue.max_age_usec == 0)
		return 0;
	if (!s->expiring) {
		uint64_t pause = until_expiry(s) > 0 ? EXPIRY_MOST_USEC : EXPIRY_LEAST_USEC;

		if (now - s->expired_usec < pause)
			return 0;
	}
	r = expire(s);
	s->expiring = r > 0;
	s->expired_usec = now;
	return r;
}

bool store_age_is_due(const struct store *s)
{
	return queue_next_expiry(s->queue) != s->age_hint;
}

void store_arm_age(struct store *s)
{
	uint64_t wait = UINT64_MAX;

	s->age_hint = queue_next_expiry(s->queue);
	if (!s->clock.trusted && queue_messages(s->queue) > 0)
		wait = UNSET_USEC;
	else if (s->clock.trusted)
		wait = until_expiry(s);
	if (wait == UINT64_MAX) {
		timer_off(s->age);
		return;
	}
	if (wait < EXPIRY_LEAST_USEC)
		wait = EXPIRY_LEAST_USEC;
	timer_set(s->age, wait);
}
