/* SPDX-License-Identifier: MIT */
/*
 * What becomes of a row that was sent: taken, lost, refused, condemned. See drain_internal.h.
 *
 * Owns the changes of an entry's state from SENT to LOST or ACKED, the list of acknowledged
 * entries up to the gateway's part of it, the trial, and the claims.
 *
 * Invariants:
 * - A row is condemned only by the verdict of `trial`, and counts as acknowledged from then on.
 * - Claimed are rows up to the highest one that is SENT or ACKED, and while drain_pump() runs those
 *   it is about to read. Whatever else is in the ring may be dropped by the gateway at any time: a
 *   LOST row is looked for in the queue again before anything is done with it.
 *
 * Must not know: where the cursor stands, when the next row goes out; connections, sessions,
 * libmosquitto.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "drain_internal.h"

/* After the broker asked for less: waits before the next message, doubled each time. */
#define THROTTLE_LEAST_USEC (250 * USEC_PER_MSEC)
#define THROTTLE_MOST_USEC  (30 * USEC_PER_SEC)

/* --- flight ---------------------------------------------------------------------------------- */

static bool is_timed(const struct drain *d, const struct entry *e)
{
	return d->timing && e == &d->span[d->timed % MAILBOX_SPAN];
}

/* `answered`: by the broker; else it was lost. */
static void leave_flight(struct drain *d, struct entry *e, bool answered)
{
	if (is_timed(d, e)) {
		d->timing = false;
		if (answered)
			window_sample(&d->window, now_usec());
		else
			window_sample_lost(&d->window);
	}
	window_remove(&d->window, e->size);
	if (e->qos > 0)
		d->session_inflight--;
	if (e->qos == 2)
		d->qos2_inflight--;
}

/* --- claims ---------------------------------------------------------------------------------- */

uint64_t drain_held_id(struct drain *d)
{
	return d->held == d->head ? 0 : drain_at(d, d->held - 1)->id;
}

void drain_hold(struct drain *d, uint32_t position)
{
	if ((int32_t)(position + 1 - d->held) > 0)
		d->held = position + 1;
}

void drain_release_claims(struct drain *d)
{
	if ((int32_t)(d->held - d->head) < 0)
		d->held = d->head;
	while (d->held != d->head) {
		const struct entry *e = drain_at(d, d->held - 1);

		if (e->state == ENTRY_SENT || e->state == ENTRY_ACKED)
			break;
		d->held--;
	}
	mailbox_release(d->mailbox, drain_held_id(d));
}

/* --- answers --------------------------------------------------------------------------------- */

static void note_acked(struct drain *d, uint32_t position)
{
	assert(d->acked_last - d->acked_first < MAILBOX_SPAN);
	drain_hold(d, position);
	d->acked[d->acked_last++ % MAILBOX_SPAN] = position;
}

static void take(struct drain *d, uint32_t position)
{
	struct entry *e = drain_at(d, position);

	e->state = ENTRY_ACKED;
	note_acked(d, position);
	d->taken++;
	d->delivered[e->accepted_qos]++;
	if (e->qos == 0) {
		trial_written(&d->trial, e->id);
		return;
	}
	d->answered = true;
	d->throttle_usec = 0;
	trial_delivered(&d->trial, e->id);
}

static void lose(struct drain *d, uint32_t position)
{
	drain_at(d, position)->state = ENTRY_LOST;
	d->rewind = true;
}

/* The broker wants less: all waits for a while. */
static void throttle(struct drain *d)
{
	uint64_t now = now_usec();

	window_throttled(&d->window, now);
	if (now < d->throttled_until_usec)
		return; /* one of many that were in flight together */
	d->throttle_usec = d->throttle_usec == 0 ? THROTTLE_LEAST_USEC : d->throttle_usec * 2;
	d->throttle_usec = u64_min(d->throttle_usec, THROTTLE_MOST_USEC);
	d->throttled_until_usec = now + d->throttle_usec;
}

bool drain_judge(struct drain *d, uint32_t position, enum trial_verdict verdict)
{
	struct entry *e = drain_at(d, position);

	switch (verdict) {
	case TRIAL_CONDEMN:
		e->state = ENTRY_ACKED;
		note_acked(d, position);
		mailbox_post_condemned(d->mailbox, e->id, d->refusal);
		d->callbacks.condemned(d->userdata, e->id, d->refusal);
		return true;
	case TRIAL_HOLD: d->callbacks.held(d->userdata, e->id, d->refusal); return false;
	case TRIAL_GO_ON: break;
	}
	return false;
}

/* Whether this row, refused once more, would be condemned. */
static bool is_on_trial(const struct drain *d, uint64_t id)
{
	return d->trial.state == TRIAL_ALONE && d->trial.suspect == id;
}

static void refuse(struct drain *d, uint32_t position, const char *text)
{
	struct entry *e = drain_at(d, position);

	lose(d, position);
	d->answered = true;
	snprintf(d->refusal, sizeof(d->refusal), "%s", text);
	if (!is_on_trial(d, e->id) || mailbox_may_condemn(d->mailbox))
		drain_judge(d, position, trial_refused(&d->trial, e->id, false));
}

void drain_answer(
	struct drain *d, uint32_t position, enum failure_verdict verdict, const char *text)
{
	switch (verdict) {
	case FAILURE_MESSAGE_TAKEN: take(d, position); break;
	case FAILURE_MESSAGE_THROTTLED:
		lose(d, position);
		throttle(d);
		break;
	case FAILURE_MESSAGE_CONFUSED: lose(d, position); break;
	case FAILURE_MESSAGE_REFUSED: refuse(d, position, text); break;
	}
}

uint64_t drain_published(
	struct drain *d, uint16_t mid, enum failure_verdict verdict, const char *text)
{
	uint32_t position = d->by_mid[mid];
	struct entry *e = drain_at(d, position);

	if (d->publishing && d->publishing_mid == mid) {
		/* QoS 0, written inside the call that publishes it. */
		d->publishing_answered = true;
		d->publishing_verdict = verdict;
		return d->publishing->id;
	}
	if (position - d->head >= d->tail - d->head || e->state != ENTRY_SENT || e->mid != mid)
		return 0;
	leave_flight(d, e, true);
	drain_answer(d, position, verdict, text);
	return e->id;
}

/* What is in flight is lost: all of it with the session, else only QoS 0. */
static void lose_flight(struct drain *d, bool session)
{
	for (uint32_t p = d->head; p != d->tail; p++) {
		struct entry *e = drain_at(d, p);

		if (e->state == ENTRY_SENT && (session || e->qos == 0)) {
			leave_flight(d, e, false);
			lose(d, p);
		}
	}
}

static uint64_t oldest_in_flight(struct drain *d)
{
	for (uint32_t p = d->head; p != d->tail; p++)
		if (drain_at(d, p)->state == ENTRY_SENT)
			return drain_at(d, p)->id;
	return 0;
}

bool drain_wait_no_more(struct drain *d)
{
	bool waited = d->replaying;

	d->replaying = false;
	return waited;
}

/* Whether a row behind `id` has been dealt with. */
static bool is_passed(struct drain *d, uint64_t id)
{
	for (uint32_t p = d->tail; p != d->head; p--) {
		const struct entry *e = drain_at(d, p - 1);

		if (e->id <= id)
			return false;
		if (e->state == ENTRY_ACKED || e->state == ENTRY_GONE)
			return true;
	}
	return false;
}

bool drain_passed_over(struct drain *d)
{
	uint64_t oldest = oldest_in_flight(d);

	if (oldest == 0)
		return false;
	if (d->answered && (d->window.messages == 1 || is_passed(d, oldest))) {
		d->passed_over = oldest;
		return true;
	}
	/* That it answers nothing says nothing, unless nothing else could be sent. */
	return d->passed_over == oldest &&
		(d->trial.state == TRIAL_ALONE || d->tail - d->head >= MAILBOX_SPAN);
}

bool drain_connection_lost(struct drain *d, bool closed)
{
	uint64_t oldest = oldest_in_flight(d);
	bool give_up;

	give_up = trial_connection_ended(
		&d->trial, oldest, d->window.messages == 1, closed, d->answered);
	if (give_up)
		snprintf(d->refusal, sizeof(d->refusal), "%s",
			d->passed_over == oldest ? "broker never answers it"
						 : "broker closes the connection over it");
	lose_flight(d, false);
	drain_release_claims(d);
	d->replaying = d->window.messages > 0;
	d->answered = false;
	d->alive = false;
	d->up = false;
	return give_up;
}

void drain_session_lost(struct drain *d)
{
	lose_flight(d, true);
	drain_release_claims(d);
	d->replaying = false;
}

void drain_bound_qos2(struct drain *d, unsigned max)
{
	d->max_qos2 = max;
}

void drain_connected(struct drain *d, unsigned receive_maximum, uint8_t max_qos)
{
	d->timing = false;
	d->up = true;
	window_connected(&d->window, receive_maximum, now_usec());
	d->max_qos = max_qos;
	d->replaying = d->window.messages > 0;
}

/* Whether the row is still in the queue; if so, it stays. -EAGAIN: not known now, the gateway rings
 * when it is. */
static int is_in_queue(struct drain *d, uint64_t id)
{
	uint64_t next;
	int r;

	if (mailbox_claim(d->mailbox, id) < id)
		return -EAGAIN;
	r = queue_reader_next_id(d->reader, id - 1, &next);
	if (r == -ENODATA)
		return false;
	return r < 0 ? r : next == id;
}

static void judge_suspect(struct drain *d)
{
	uint64_t suspect = d->trial.suspect;

	for (uint32_t p = d->head; p != d->tail; p++) {
		if (drain_at(d, p)->id == suspect && drain_at(d, p)->state == ENTRY_LOST) {
			drain_judge(d, p, trial_alive(&d->trial));
			return;
		}
	}
	trial_gone(&d->trial);
}

void drain_tell_alive(struct drain *d)
{
	int r;

	if (!d->alive || !mailbox_may_condemn(d->mailbox))
		return;
	r = is_in_queue(d, d->trial.suspect);
	if (r < 0)
		return;
	d->alive = false;
	if (r > 0)
		judge_suspect(d);
	else
		trial_gone(&d->trial);
	drain_release_claims(d);
}

void drain_alive(struct drain *d)
{
	if (d->trial.state != TRIAL_WITHOUT)
		return;
	d->alive = true;
	drain_tell_alive(d);
}
