/* SPDX-License-Identifier: MIT */
/*
 * The drain: see drain.h. What becomes of an entry once it was sent is in drain_entry.c.
 *
 * Owns `span`: a ring with one entry for each row between the oldest one whose removal is not
 * confirmed and the newest one sent, ascending by id. An entry is SENT (in flight), LOST (to be
 * sent again), ACKED (the gateway is asked to remove it) or GONE (removed; leaves the ring when all
 * before it have).
 *
 * Invariants:
 * - The ring never holds more than MAILBOX_SPAN rows. As ids of packets are given in the order of
 *   entries, none comes round to 65,535 while an old one is in use.
 * - While anything is in flight that an earlier connection sent (`replaying`), nothing new
 *   goes out, unless the broker is silent for long (drain_wait_no_more()).
 * - `walk` is the ring position the cursor stands at. Before `tail`, the cursor is going over rows
 *   it has seen before.
 *
 * Must not know: connections, sessions, libmosquitto.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "drain_internal.h"

/* Rows one call of drain_pump() handles, so that the loop gets to acknowledgements and pings. */
#define PUMP_ROWS 512

int drain_new(struct drain **ret, struct queue_reader *reader, struct mailbox *mailbox,
	const struct window_params *window, const struct drain_callbacks *callbacks, void *userdata)
{
	struct drain *d;

	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->reader = reader;
	d->mailbox = mailbox;
	d->callbacks = *callbacks;
	d->userdata = userdata;
	d->max_qos = 2;
	window_init(&d->window, window);
	*ret = d;
	return 0;
}

struct drain *drain_free(struct drain *d)
{
	free(d);
	return NULL;
}

unsigned drain_inflight(const struct drain *d)
{
	return d->window.messages;
}

unsigned drain_inflight_session(const struct drain *d)
{
	return d->session_inflight;
}

uint64_t drain_taken(const struct drain *d)
{
	return d->taken;
}

bool drain_wants_sign_of_life(const struct drain *d)
{
	return d->trial.state == TRIAL_WITHOUT;
}

bool drain_is_held(const struct drain *d)
{
	return d->trial.state == TRIAL_HELD;
}

void drain_release(struct drain *d)
{
	trial_release(&d->trial);
}

/* --- flush ----------------------------------------------------------------------------------- */

/* The ring is left from its old end. */
static void shorten(struct drain *d)
{
	while (d->head != d->tail && drain_at(d, d->head)->state == ENTRY_GONE) {
		if (d->walk == d->head)
			d->walk++;
		d->head++;
	}
}

/*
 * While messages come and go there is always another turn. It is not so when the ring is what holds
 * sending up, nor while rows are lost: those shall not be claimed for longer than needed.
 */
static void set_patience(struct drain *d)
{
	bool patient = d->up && !d->rewind && d->trial.state == TRIAL_NONE &&
		d->tail - d->head < MAILBOX_SPAN / 2;

	if (patient != d->patient)
		mailbox_set_patient(d->mailbox, patient);
	d->patient = patient;
}

static void forget_removed(struct drain *d)
{
	size_t n;

	set_patience(d);
	n = mailbox_take_removed(d->mailbox);
	assert(n <= d->acked_posted - d->acked_first);
	for (; n > 0; n--)
		drain_at(d, d->acked[d->acked_first++ % MAILBOX_SPAN])->state = ENTRY_GONE;
	shorten(d);
	drain_release_claims(d);
}

/* --- figures --------------------------------------------------------------------------------- */

static enum figures_brake brake(const struct drain *d)
{
	if (!d->up)
		return FIGURES_BRAKE_NONE;
	if (d->throttled_until_usec > d->pump_usec)
		return FIGURES_BRAKE_THROTTLED;
	return window_rate_usec(&d->window, d->pump_usec) > d->pump_usec ? FIGURES_BRAKE_RATE
									 : FIGURES_BRAKE_NONE;
}

static struct drain_told to_tell(const struct drain *d)
{
	bool on_trial = d->trial.state == TRIAL_ALONE || d->trial.state == TRIAL_WITHOUT;

	return (struct drain_told){
		.inflight = d->up ? d->window.messages : 0,
		.window = d->up ? d->window.max : 0,
		.brake = brake(d),
		.suspect = on_trial ? d->trial.suspect : 0,
	};
}

static bool is_told(const struct drain_told *a, const struct drain_told *b)
{
	return a->inflight == b->inflight && a->window == b->window && a->brake == b->brake &&
		a->suspect == b->suspect;
}

/* Once a batch, and only when there is something to tell. */
static void tell_figures(struct drain *d)
{
	uint64_t n = d->delivered[0] + d->delivered[1] + d->delivered[2], now;
	const struct drain_told tell = to_tell(d);
	struct figures_uplink *f;

	if (n == 0 && is_told(&tell, &d->told))
		return;
	now = now_boot_usec();
	f = mailbox_figures_begin(d->mailbox);
	for (size_t qos = 0; qos < ARRAY_SIZE(d->delivered); qos++)
		f->delivered[qos] += d->delivered[qos];
	if (n > 0)
		rate_add(&f->delivered_rate, n, now);
	if (n > 0 || (d->told.inflight == 0 && tell.inflight > 0))
		f->moved_usec = now;
	f->inflight = tell.inflight;
	f->window = tell.window;
	f->brake = tell.brake;
	f->suspect = tell.suspect;
	mailbox_figures_end(d->mailbox);
	memset(d->delivered, 0, sizeof(d->delivered));
	d->told = tell;
}

void drain_flush(struct drain *d)
{
	uint64_t ids[256];

	/* Before the gateway hears of it: what has left the queue was counted. */
	tell_figures(d);
	while (d->acked_posted != d->acked_last) {
		size_t n = 0;

		while (d->acked_posted != d->acked_last && n < ARRAY_SIZE(ids))
			ids[n++] = drain_at(d, d->acked[d->acked_posted++ % MAILBOX_SPAN])->id;
		mailbox_post_acked(d->mailbox, ids, n);
	}
	forget_removed(d);
}

/* --- pump ------------------------------------------------------------------------------------ */

/* Puts the cursor back before the oldest lost row, if there is one. */
static void rewind_cursor(struct drain *d)
{
	if (!d->rewind)
		return;
	d->rewind = false;
	for (uint32_t p = d->head; p != d->tail; p++) {
		if (drain_at(d, p)->state != ENTRY_LOST)
			continue;
		if (drain_at(d, p)->id <= d->cursor) {
			d->cursor = drain_at(d, p)->id - 1;
			d->walk = p;
		}
		return;
	}
}

/* The cursor passes everything below `id`; a lost row that is no longer in the queue is gone. */
static void walk_to(struct drain *d, uint64_t id)
{
	while (d->walk != d->tail && drain_at(d, d->walk)->id < id) {
		if (drain_at(d, d->walk)->state == ENTRY_LOST)
			drain_at(d, d->walk)->state = ENTRY_GONE;
		d->walk++;
	}
}

/* The row is on its way, at `position`. */
static void sent(struct drain *d, struct entry *e, uint32_t position)
{
	bool timed = window_add(&d->window, e->size, now_usec());

	e->mid = (uint16_t)d->publishing_mid;
	d->by_mid[e->mid] = position;
	if (d->publishing_answered) {
		/* In flight for no time at all, but it has cost its share of the rate. */
		if (timed)
			window_sample_lost(&d->window);
		window_remove(&d->window, e->size);
		drain_answer(d, position, d->publishing_verdict, "");
		return;
	}
	if (timed) {
		d->timed = position;
		/* QoS 0 ends at the socket: that time says nothing of the path. */
		d->timing = e->qos > 0;
		if (!d->timing)
			window_sample_lost(&d->window);
	}
	if (e->qos > 0)
		d->session_inflight++;
	if (e->qos == 2)
		d->qos2_inflight++;
}

/* What a message is sent with. */
static uint8_t qos_of(const struct drain *d, const struct message *m)
{
	return m->qos > d->max_qos ? d->max_qos : m->qos;
}

static int publish(struct drain *d, const struct message *m, struct entry *e, const char **ret_text)
{
	struct message lowered = *m;
	int r;

	lowered.qos = qos_of(d, m);
	*e = (struct entry){
		.id = m->id,
		.size = (uint32_t)message_size(m),
		.qos = lowered.qos & 3U,
		.accepted_qos = m->qos & 3U,
		.state = ENTRY_SENT,
	};
	d->publishing = e;
	d->publishing_mid = 0; /* never one: an answer to an older row may come first */
	d->publishing_answered = false;
	r = d->callbacks.publish(d->userdata, &lowered, &d->publishing_mid, ret_text);
	d->publishing = NULL;
	return r;
}

static int stop_before(struct drain *d)
{
	d->stopped = true;
	return 1;
}

/* The library takes no such message, and never will. 0 go on, 1 stop. */
static int refuse_unsent(struct drain *d, struct entry *e, uint32_t position, const char *text)
{
	e->state = ENTRY_LOST;
	snprintf(d->refusal, sizeof(d->refusal), "%s", text);
	if (mailbox_may_condemn(d->mailbox) &&
		drain_judge(d, position, trial_refused(&d->trial, e->id, true)))
		return 0;
	d->rewind = true;
	return stop_before(d);
}

/* Puts the row into the ring at `walk`, or over the lost one that is there, and sends it. */
static int send_row(struct drain *d, const struct message *m)
{
	struct entry *e = drain_at(d, d->walk), saved = *e;
	uint32_t position = d->walk;
	const char *text = "";
	int r;

	assert(d->walk == d->tail || e->id == m->id);
	r = publish(d, m, e, &text);
	if (r < 0 && r != -EMSGSIZE && r != -EINVAL && r != -EOPNOTSUPP) {
		*e = saved;
		return r;
	}
	if (d->walk == d->tail)
		d->tail++;
	d->walk++;
	d->cursor = m->id;
	if (r < 0)
		return refuse_unsent(d, e, position, text);
	drain_hold(d, position);
	sent(d, e, position);
	/* A breaking connection: this row is with the library, the next one waits. */
	return r > 0 ? stop_before(d) : 0;
}

/* The time matters to a bound on the rate alone. */
static uint64_t rate_now(const struct drain *d)
{
	return d->window.params.max_rate > 0 ? now_usec() : 0;
}

static bool is_full(struct drain *d)
{
	if (d->tail - d->head == MAILBOX_SPAN)
		shorten(d); /* by rows that were lost and have just been found to be gone */
	return d->tail - d->head == MAILBOX_SPAN;
}

/* One row from the reader: 0 go on, 1 stop. */
static int on_row(void *userdata, const struct message *m)
{
	struct drain *d = userdata;
	struct entry *e;

	d->pumped++;
	walk_to(d, m->id);
	e = drain_at(d, d->walk);
	if (d->walk != d->tail && e->id == m->id) {
		if (e->state != ENTRY_LOST) {
			d->cursor = m->id;
			d->walk++;
			return 0;
		}
	} else if (is_full(d)) {
		return stop_before(d);
	}
	if (d->window.messages == 0)
		trial_next(&d->trial, m->id);
	if (d->max_qos2 > 0 && d->qos2_inflight >= d->max_qos2 && qos_of(d, m) == 2)
		return stop_before(d);
	if (!window_admits(&d->window, message_size(m), rate_now(d)) ||
		!trial_admits(&d->trial, m->id, d->window.messages))
		return stop_before(d);
	return send_row(d, m);
}

static uint64_t higher(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The id of the last row in the ring, or 0. */
static uint64_t last_in_ring(struct drain *d)
{
	return d->tail == d->head ? 0 : drain_at(d, d->tail - 1)->id;
}

/* There is no row after the cursor up to `upto`: moves it to the next row there is. */
static int skip_gap(struct drain *d, uint64_t upto)
{
	uint64_t next;
	int r;

	r = queue_reader_next_id(d->reader, upto, &next);
	if (r == -ENODATA) {
		/* Nor is any of the rows that were lost there any more. */
		walk_to(d, UINT64_MAX);
		d->cursor = higher(upto, last_in_ring(d));
		return stop_before(d);
	}
	if (r < 0)
		return r;
	walk_to(d, next);
	d->cursor = next - 1;
	return 0;
}

/* Up to where to claim and read: not many more rows than may go, and what is claimed already. */
static uint64_t batch_end(struct drain *d)
{
	uint64_t room = d->window.max > d->window.messages ? d->window.max - d->window.messages : 1;

	return higher(drain_held_id(d), d->cursor + u64_min(room, PUMP_ROWS - d->pumped));
}

/* 1: go on. 0: there is nothing more to read now. -errno. */
static int pump_batch(struct drain *d)
{
	uint64_t upto = batch_end(d);
	unsigned before = d->pumped;
	int r;

	upto = u64_min(upto, mailbox_claim(d->mailbox, upto));
	if (upto <= d->cursor)
		return 0;
	r = queue_reader_rows(d->reader, d->cursor, upto, PUMP_ROWS - d->pumped, on_row, d);
	if (r == 0 && d->pumped == before)
		r = skip_gap(d, upto);
	return r < 0 ? r : 1;
}

static bool may_send(const struct drain *d)
{
	if (d->replaying && d->window.messages > 0)
		return false;
	if (!trial_admits(&d->trial, d->trial.suspect, d->window.messages))
		return false;
	/* To be refused once more would lead to nothing, and to the same again at once. */
	if (d->trial.state == TRIAL_ALONE && !mailbox_may_condemn(d->mailbox))
		return false;
	if (d->throttled_until_usec > 0 && now_usec() < d->throttled_until_usec)
		return false;
	/* Size is judged with the row at hand; here only whether one more may go at all. */
	return window_admits(&d->window, 0, rate_now(d));
}

uint64_t drain_wake_usec(const struct drain *d)
{
	uint64_t rate = window_rate_usec(&d->window, d->pump_usec);
	uint64_t wake = rate > d->throttled_until_usec ? rate : d->throttled_until_usec;

	/* Not compared with the time now: what held a row back a moment ago may be over by now, and
	 * nobody would send it. */
	return wake > d->pump_usec ? wake : UINT64_MAX;
}

int drain_pump(struct drain *d)
{
	int r;

	d->pump_usec = now_usec();
	if (d->replaying && d->window.messages == 0)
		d->replaying = false;
	drain_flush(d);
	drain_tell_alive(d);
	if (!may_send(d))
		return 0;
	rewind_cursor(d);
	d->pumped = 0;
	d->stopped = false;
	do {
		r = pump_batch(d);
	} while (r > 0 && !d->stopped && d->pumped < PUMP_ROWS && may_send(d));
	drain_flush(d);
	if (r < 0)
		return r;
	return d->pumped >= PUMP_ROWS;
}
