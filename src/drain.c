/* SPDX-License-Identifier: MIT */
/*
 * The drain: see drain.h.
 *
 * Owns `span`: a ring with one entry for each row between the oldest one whose removal is not
 * confirmed and the newest one sent, ascending by id. An entry is SENT (in flight), LOST (to be
 * sent again), ACKED (the gateway is asked to remove it) or GONE (removed; leaves the ring when all
 * before it have).
 *
 * Invariants:
 * - The ring never holds more than MAILBOX_SPAN rows. As ids of packets are given in the order of
 *   entries, none comes round to 65,535 while an old one is in use.
 * - While anything is in flight that an earlier connection sent (`replaying`), nothing new goes
 * out.
 * - A row is condemned only by the verdict of `trial`, and counts as acknowledged from then on.
 * - `walk` is the ring position the cursor stands at. Before `tail`, the cursor is going over rows
 *   it has seen before.
 *
 * Must not know: connections, sessions, libmosquitto.
 */
#include "drain.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "trial.h"

/* Ids claimed ahead of the cursor: rows beyond stay free for bounds and purges to drop. */
#define CLAIM_AHEAD 1024
/* Rows one call of drain_pump() handles, so that the loop gets to acknowledgements and pings. */
#define PUMP_ROWS 512
/* After the broker asked for less: waits before the next message, doubled each time. */
#define THROTTLE_LEAST_USEC (250 * USEC_PER_MSEC)
#define THROTTLE_MOST_USEC  (30 * USEC_PER_SEC)

enum entry_state {
	ENTRY_SENT,
	ENTRY_LOST,
	ENTRY_ACKED,
	ENTRY_GONE,
};

struct entry {
	uint64_t id;
	size_t size;
	uint16_t mid;
	uint8_t qos;
	uint8_t state;
};

struct drain {
	struct queue_reader *reader;
	struct mailbox *mailbox;
	struct drain_callbacks callbacks;
	void *userdata;
	struct window window;
	struct trial trial;
	char refusal[160]; /* what was said of the row on trial */

	struct entry span[MAILBOX_SPAN];
	uint32_t head; /* positions count up for ever; the slot is position % MAILBOX_SPAN */
	uint32_t tail;
	uint32_t walk;
	uint32_t by_mid[UINT16_MAX + 1]; /* position of the entry last sent with that identifier */

	/* Acknowledged, by position, in the order told to the gateway: it confirms in that order.
	 */
	uint32_t acked[MAILBOX_SPAN];
	uint32_t acked_first;
	uint32_t acked_posted; /* up to here the gateway knows */
	uint32_t acked_last;

	uint64_t cursor; /* rows up to this id were handled */
	uint64_t committed;
	unsigned session_inflight; /* SENT entries of QoS 1 and 2 */
	bool replaying;
	bool rewind; /* something was lost since the cursor last went back */
	bool answered; /* the broker took a message on this connection */
	uint8_t max_qos;
	uint64_t taken;

	bool timing; /* the entry at `timed` is the one whose round trip the window measures */
	uint32_t timed;
	uint64_t throttle_usec; /* the last wait the broker's throttling led to */
	uint64_t throttled_until_usec;

	/* The entry being published, for an acknowledgement that comes inside the call. */
	struct entry *publishing;
	int publishing_mid;
	bool publishing_answered;
	enum failure_verdict publishing_verdict;

	uint64_t pump_usec; /* when drain_pump() was last called */
	unsigned pumped; /* rows looked at by this call of drain_pump() */
	bool stopped; /* no further row may go now */
};

_Static_assert((MAILBOX_SPAN & (MAILBOX_SPAN - 1)) == 0, "positions wrap at a power of two");

static struct entry *at(struct drain *d, uint32_t position)
{
	return &d->span[position % MAILBOX_SPAN];
}

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

/* --- what becomes of an entry ---------------------------------------------------------------- */

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
}

static void note_acked(struct drain *d, uint32_t position)
{
	assert(d->acked_last - d->acked_first < MAILBOX_SPAN);
	d->acked[d->acked_last++ % MAILBOX_SPAN] = position;
}

static void take(struct drain *d, uint32_t position)
{
	struct entry *e = at(d, position);

	e->state = ENTRY_ACKED;
	note_acked(d, position);
	d->taken++;
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
	at(d, position)->state = ENTRY_LOST;
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

/*
 * Carries out a verdict on the row at `position`, whose state is LOST or new. True: it is
 * condemned.
 */
static bool judge(struct drain *d, uint32_t position, enum trial_verdict verdict)
{
	struct entry *e = at(d, position);

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
	struct entry *e = at(d, position);

	lose(d, position);
	d->answered = true;
	snprintf(d->refusal, sizeof(d->refusal), "%s", text);
	if (!is_on_trial(d, e->id) || mailbox_may_condemn(d->mailbox))
		judge(d, position, trial_refused(&d->trial, e->id, false));
}

static void answer(
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
	struct entry *e = at(d, position);

	if (d->publishing && d->publishing_mid == mid) {
		/* QoS 0, written inside the call that publishes it. */
		d->publishing_answered = true;
		d->publishing_verdict = verdict;
		return d->publishing->id;
	}
	if (position - d->head >= d->tail - d->head || e->state != ENTRY_SENT || e->mid != mid)
		return 0;
	leave_flight(d, e, true);
	answer(d, position, verdict, text);
	return e->id;
}

/* What is in flight is lost: all of it with the session, else only QoS 0. */
static void lose_flight(struct drain *d, bool session)
{
	for (uint32_t p = d->head; p != d->tail; p++) {
		struct entry *e = at(d, p);

		if (e->state == ENTRY_SENT && (session || e->qos == 0)) {
			leave_flight(d, e, false);
			lose(d, p);
		}
	}
}

static uint64_t oldest_in_flight(struct drain *d)
{
	for (uint32_t p = d->head; p != d->tail; p++)
		if (at(d, p)->state == ENTRY_SENT)
			return at(d, p)->id;
	return 0;
}

bool drain_connection_lost(struct drain *d, bool closed)
{
	uint64_t oldest = oldest_in_flight(d);
	bool give_up;

	give_up = trial_connection_ended(
		&d->trial, oldest, d->window.messages == 1, closed, d->answered);
	if (give_up)
		snprintf(d->refusal, sizeof(d->refusal), "broker closes the connection over it");
	lose_flight(d, false);
	d->replaying = d->window.messages > 0;
	d->answered = false;
	return give_up;
}

void drain_session_lost(struct drain *d)
{
	lose_flight(d, true);
	d->replaying = false;
}

void drain_connected(struct drain *d, unsigned receive_maximum, uint8_t max_qos)
{
	d->timing = false;
	window_connected(&d->window, receive_maximum, now_usec());
	d->max_qos = max_qos;
	d->replaying = d->window.messages > 0;
}

void drain_alive(struct drain *d)
{
	uint64_t suspect = d->trial.suspect;

	if (d->trial.state != TRIAL_WITHOUT || !mailbox_may_condemn(d->mailbox))
		return;
	for (uint32_t p = d->head; p != d->tail; p++) {
		if (at(d, p)->id == suspect && at(d, p)->state == ENTRY_LOST) {
			judge(d, p, trial_alive(&d->trial));
			return;
		}
	}
	/* It is not there any more: drain_pump() will find out. */
	(void)trial_alive(&d->trial);
}

/* --- flush ----------------------------------------------------------------------------------- */

static void forget_removed(struct drain *d)
{
	size_t n = mailbox_take_removed(d->mailbox);

	assert(n <= d->acked_posted - d->acked_first);
	for (; n > 0; n--)
		at(d, d->acked[d->acked_first++ % MAILBOX_SPAN])->state = ENTRY_GONE;
	while (d->head != d->tail && at(d, d->head)->state == ENTRY_GONE) {
		if (d->walk == d->head)
			d->walk++;
		d->head++;
	}
}

void drain_flush(struct drain *d)
{
	uint64_t ids[256];

	while (d->acked_posted != d->acked_last) {
		size_t n = 0;

		while (d->acked_posted != d->acked_last && n < ARRAY_SIZE(ids))
			ids[n++] = at(d, d->acked[d->acked_posted++ % MAILBOX_SPAN])->id;
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
		if (at(d, p)->state != ENTRY_LOST)
			continue;
		if (at(d, p)->id <= d->cursor) {
			d->cursor = at(d, p)->id - 1;
			d->walk = p;
		}
		return;
	}
}

/* The cursor passes everything below `id`; a lost row that is no longer in the queue is gone. */
static void walk_to(struct drain *d, uint64_t id)
{
	while (d->walk != d->tail && at(d, d->walk)->id < id) {
		if (at(d, d->walk)->state == ENTRY_LOST)
			at(d, d->walk)->state = ENTRY_GONE;
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
		answer(d, position, d->publishing_verdict, "");
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
}

static int publish(struct drain *d, const struct message *m, struct entry *e, const char **ret_text)
{
	struct message lowered = *m;
	int r;

	if (lowered.qos > d->max_qos)
		lowered.qos = d->max_qos;
	*e = (struct entry){
		.id = m->id, .size = message_size(m), .qos = lowered.qos, .state = ENTRY_SENT
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
		judge(d, position, trial_refused(&d->trial, e->id, true)))
		return 0;
	d->rewind = true;
	return stop_before(d);
}

/* Puts the row into the ring at `walk`, or over the lost one that is there, and sends it. */
static int send_row(struct drain *d, const struct message *m)
{
	struct entry *e = at(d, d->walk), saved = *e;
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
	sent(d, e, position);
	/* A breaking connection: this row is with the library, the next one waits. */
	return r > 0 ? stop_before(d) : 0;
}

/* One row from the reader: 0 go on, 1 stop. */
static int on_row(void *userdata, const struct message *m)
{
	struct drain *d = userdata;
	struct entry *e;

	d->pumped++;
	walk_to(d, m->id);
	e = at(d, d->walk);
	if (d->walk != d->tail && e->id == m->id) {
		if (e->state != ENTRY_LOST) {
			d->cursor = m->id;
			d->walk++;
			return 0;
		}
	} else if (d->tail - d->head == MAILBOX_SPAN) {
		return stop_before(d);
	}
	if (d->window.messages == 0)
		trial_next(&d->trial, m->id);
	if (!window_admits(&d->window, message_size(m), now_usec()) ||
		!trial_admits(&d->trial, m->id, d->window.messages))
		return stop_before(d);
	return send_row(d, m);
}

/* Moves the cursor over ids that no row has, to the next row there is. */
static int skip_gap(struct drain *d, uint64_t upto)
{
	uint64_t next;
	int r;

	walk_to(d, upto + 1);
	d->cursor = upto;
	if (upto >= d->committed)
		return 0;
	r = queue_reader_next_id(d->reader, upto, &next);
	if (r == -ENODATA) {
		d->cursor = d->committed;
		walk_to(d, d->cursor + 1);
		return 0;
	}
	if (r < 0)
		return r;
	d->cursor = next - 1;
	return 0;
}

/* The id up to which nobody else may touch a row: ahead of the cursor, and all that was sent. */
static uint64_t claim_mark(struct drain *d)
{
	uint64_t ahead = d->cursor + CLAIM_AHEAD;
	uint64_t sent = d->tail != d->head ? at(d, d->tail - 1)->id : 0;

	return sent > ahead ? sent : ahead;
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
	if (now_usec() < d->throttled_until_usec)
		return false;
	/* Size is judged with the row at hand; here only whether one more may go at all. */
	return window_admits(&d->window, 0, now_usec());
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
	int r = 0;

	d->pump_usec = now_usec();
	if (d->replaying && d->window.messages == 0)
		d->replaying = false;
	drain_flush(d);
	if (!may_send(d))
		return 0;
	rewind_cursor(d);
	d->pumped = 0;
	d->stopped = false;
	while (!d->stopped && d->pumped < PUMP_ROWS && may_send(d)) {
		uint64_t upto = d->cursor + CLAIM_AHEAD;

		d->committed = mailbox_claim(d->mailbox, claim_mark(d));
		if (d->cursor >= d->committed)
			break;
		upto = u64_min(upto, d->committed);
		r = queue_reader_rows(d->reader, d->cursor, upto, PUMP_ROWS - d->pumped, on_row, d);
		if (r == 0)
			r = skip_gap(d, upto);
		if (r < 0)
			break;
	}
	drain_flush(d);
	if (r < 0)
		return r;
	return d->pumped >= PUMP_ROWS;
}
