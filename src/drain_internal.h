/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `drain` share: the ring and its entries. Only drain.c and
 * drain_entry.c include this header.
 *
 *   drain.c         the object; rows from the queue into the ring, and removed ones out of it
 *   drain_entry.c   what becomes of an entry once it was sent, and which rows are claimed
 */
#pragma once

#include "drain.h"
#include "trial.h"

enum entry_state {
	ENTRY_SENT,
	ENTRY_LOST,
	ENTRY_ACKED,
	ENTRY_GONE,
};

/* Small: there are thousands. */
struct entry {
	uint64_t id;
	uint32_t size; /* bytes; no packet is as large */
	uint16_t mid;
	uint8_t qos : 2; /* it was sent with */
	uint8_t accepted_qos : 2;
	uint8_t state : 2;
};

_Static_assert(sizeof(struct entry) == 16, "a line of cache holds four");

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
	uint32_t held; /* one past the last entry that is SENT or ACKED, or `head` */
	uint32_t by_mid[UINT16_MAX + 1]; /* position of the entry last sent with that identifier */

	/* Acknowledged, by position, in the order told to the gateway: it confirms in that order.
	 */
	uint32_t acked[MAILBOX_SPAN];
	uint32_t acked_first;
	uint32_t acked_posted; /* up to here the gateway knows */
	uint32_t acked_last;

	uint64_t cursor; /* rows up to this id were handled */
	unsigned session_inflight; /* SENT entries of QoS 1 and 2 */
	unsigned qos2_inflight; /* those of QoS 2 */
	unsigned max_qos2; /* of them; 0 = no bound */
	bool replaying;
	bool rewind; /* something was lost since the cursor last went back */
	bool answered; /* the broker took a message on this connection */
	uint64_t passed_over; /* row that the broker has not answered when it did others; 0 = none
			       */
	bool alive; /* this connection lives, and the trial has not been told yet */
	uint8_t max_qos;
	uint64_t taken;
	bool up; /* a connection stands */
	bool patient; /* the mailbox was told so */

	uint64_t delivered[3]; /* since told; by the QoS they were accepted with */
	struct drain_told {
		unsigned inflight, window;
		enum figures_brake brake;
		uint64_t suspect;
	} told; /* to the figures */

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

static inline struct entry *drain_at(struct drain *d, uint32_t position)
{
	return &d->span[position % MAILBOX_SPAN];
}

/* --- drain_entry.c --------------------------------------------------------------------------- */

/* The highest row that is SENT or ACKED, or 0. */
uint64_t drain_held_id(struct drain *d);
/* The entry at `position` is the drain's until it is lost or gone. */
void drain_hold(struct drain *d, uint32_t position);
/* Leaves to the gateway what is neither in flight nor waits for its removal. */
void drain_release_claims(struct drain *d);

/* The broker answered for the entry at `position`, which is in flight no more. */
void drain_answer(
	struct drain *d, uint32_t position, enum failure_verdict verdict, const char *text);
/*
 * Carries out a verdict on the row at `position`, whose state is LOST or new. True: it is
 * condemned.
 */
bool drain_judge(struct drain *d, uint32_t position, enum trial_verdict verdict);
/* Tells the trial that the connection without the suspect lives, as soon as its verdict can be
 * carried out. */
void drain_tell_alive(struct drain *d);
