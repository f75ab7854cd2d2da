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
 * - `walk` is the ring position the cursor stands at. Before `tail`, the cursor is going over rows
 *   it has seen before.
 *
 * Must not know: connections, sessions, libmosquitto.
 */
#include "drain.h"

#include <assert.h>
#include <errno.h>

#include "window.h"

/* Ids claimed ahead of the cursor: rows beyond stay free for bounds and purges to drop. */
#define CLAIM_AHEAD 1024
/* Rows one call of drain_pump() handles, so that the loop gets to acknowledgements and pings. */
#define PUMP_ROWS 512

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
	drain_publish_fn publish;
	void *userdata;
	struct window window;

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

	/* The entry being published, for an acknowledgement that comes inside the call. */
	struct entry *publishing;
	int publishing_mid;
	enum { ANSWER_NONE, ANSWER_TAKEN, ANSWER_REFUSED } publishing_answer;

	unsigned pumped; /* rows looked at by this call of drain_pump() */
	bool stopped; /* no further row may go now */
};

_Static_assert((MAILBOX_SPAN & (MAILBOX_SPAN - 1)) == 0, "positions wrap at a power of two");

static struct entry *at(struct drain *d, uint32_t position)
{
	return &d->span[position % MAILBOX_SPAN];
}

int drain_new(struct drain **ret, struct queue_reader *reader, struct mailbox *mailbox,
	unsigned inflight_max, size_t inflight_bytes, drain_publish_fn publish, void *userdata)
{
	struct drain *d;

	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->reader = reader;
	d->mailbox = mailbox;
	d->publish = publish;
	d->userdata = userdata;
	window_init(&d->window, inflight_max, inflight_bytes);
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

/* --- what becomes of an entry ---------------------------------------------------------------- */

static void leave_flight(struct drain *d, struct entry *e)
{
	window_remove(&d->window, e->size);
	if (e->qos > 0)
		d->session_inflight--;
}

static void note_acked(struct drain *d, uint32_t position)
{
	assert(d->acked_last - d->acked_first < MAILBOX_SPAN);
	d->acked[d->acked_last++ % MAILBOX_SPAN] = position;
}

uint64_t drain_published(struct drain *d, uint16_t mid, bool taken)
{
	uint32_t position = d->by_mid[mid];
	struct entry *e = at(d, position);

	if (d->publishing && d->publishing_mid == mid) {
		/* QoS 0, written inside the call that publishes it. */
		d->publishing_answer = taken ? ANSWER_TAKEN : ANSWER_REFUSED;
		return d->publishing->id;
	}
	if (position - d->head >= d->tail - d->head || e->state != ENTRY_SENT || e->mid != mid)
		return 0;
	leave_flight(d, e);
	e->state = taken ? ENTRY_ACKED : ENTRY_LOST;
	if (taken)
		note_acked(d, position);
	else
		d->rewind = true;
	return e->id;
}

/* What is in flight is lost: all of it with the session, else only QoS 0. */
static void lose(struct drain *d, bool session)
{
	for (uint32_t p = d->head; p != d->tail; p++) {
		struct entry *e = at(d, p);

		if (e->state == ENTRY_SENT && (session || e->qos == 0)) {
			leave_flight(d, e);
			e->state = ENTRY_LOST;
			d->rewind = true;
		}
	}
}

void drain_connection_lost(struct drain *d)
{
	lose(d, false);
	d->replaying = d->window.messages > 0;
}

void drain_session_lost(struct drain *d)
{
	lose(d, true);
	d->replaying = false;
}

void drain_connected(struct drain *d, unsigned receive_maximum)
{
	window_limit(&d->window, receive_maximum);
	d->replaying = d->window.messages > 0;
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

static int send_row(struct drain *d, const struct message *m, struct entry *e, uint32_t position)
{
	int r;

	*e = (struct entry){
		.id = m->id, .size = message_size(m), .qos = m->qos, .state = ENTRY_SENT
	};
	d->publishing = e;
	d->publishing_mid = 0; /* never one: an answer to an older row may come first */
	d->publishing_answer = ANSWER_NONE;
	r = d->publish(d->userdata, m, &d->publishing_mid);
	d->publishing = NULL;
	if (r < 0)
		return r;
	e->mid = (uint16_t)d->publishing_mid;
	d->by_mid[e->mid] = position;
	if (d->publishing_answer == ANSWER_TAKEN) {
		e->state = ENTRY_ACKED;
		note_acked(d, position);
	} else if (d->publishing_answer == ANSWER_REFUSED) {
		e->state = ENTRY_LOST;
		d->rewind = true;
	} else {
		window_add(&d->window, e->size);
		if (e->qos > 0)
			d->session_inflight++;
	}
	return r;
}

static int stop_before(struct drain *d)
{
	d->stopped = true;
	return 1;
}

/* One row from the reader: 0 go on, 1 stop. */
static int on_row(void *userdata, const struct message *m)
{
	struct drain *d = userdata;
	struct entry saved, *e;
	int r;

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
	if (!window_admits(&d->window, message_size(m)))
		return stop_before(d);

	assert(d->walk == d->tail || e->id == m->id);
	saved = *e;
	r = send_row(d, m, e, d->walk);
	if (r < 0) {
		*e = saved;
		return r;
	}
	if (d->walk == d->tail)
		d->tail++;
	d->walk++;
	d->cursor = m->id;
	/* A breaking connection: this row is with the library, the next one waits. */
	return r > 0 ? stop_before(d) : 0;
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
	/* Size is judged with the row at hand; here only whether one more may go at all. */
	return window_admits(&d->window, 0);
}

int drain_pump(struct drain *d)
{
	int r = 0;

	if (d->replaying && d->window.messages == 0)
		d->replaying = false;
	if (!may_send(d)) {
		drain_flush(d);
		return 0;
	}
	drain_flush(d);
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
