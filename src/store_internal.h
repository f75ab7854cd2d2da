/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `store` share. Only store.c and store_*.c include this header.
 */
#pragma once

#include "clock.h"
#include "store.h"

/* Something that happens often and is logged at most once a minute, with its number. */
struct store_tally {
	uint64_t count; /* since the last line */
	uint64_t logged_usec; /* 0 = never */
};

struct store {
	sd_event *event;
	const struct config *config;
	struct mailbox *mailbox;
	struct store_callbacks callbacks;
	void *userdata;
	struct queue *queue; /* NULL: not open */

	int error; /* as in struct store_state */
	int append_error; /* of the transaction under way */
	bool parking; /* the uplink is ending, because the database is to be set aside */
	bool rotten; /* the database is to be set aside when it is opened next */
	sd_event_source *retry;
	uint64_t retry_usec; /* the last wait */
	uint64_t failing_logged_usec; /* 0 = not since it last worked */

	uint64_t removals[MAILBOX_SPAN]; /* acknowledged, not yet removed for good */
	size_t n_removals;
	size_t n_removed_early; /* of them, in the transaction under way already */
	struct mailbox_condemned condemned[MAILBOX_CONDEMNED]; /* not yet moved for good */
	size_t n_condemned;
	struct mailbox_meta meta; /* to be written for the uplink */
	bool meta_wanted;
	sd_event_source *removal; /* when removals have waited long enough */

	sd_event_source *chores;
	bool chores_due; /* they came while a transaction was open */
	sd_event_source *tell; /* tallies, a minute after the last line */
	struct store_tally refused, overflown, expired;
	bool closing; /* tallies are told whenever it was last */

	struct clock clock;
	bool clock_posted; /* to the uplink */
	uint64_t looked_usec; /* at the clock; CLOCK_BOOTTIME, as the next */
	uint64_t expired_usec; /* when rows that are too old were last looked for */
	int64_t age_hint; /* of the queue, when `age` was set */
	bool expiring; /* queue_expire() is not through */
	sd_event_source *age; /* CLOCK_BOOTTIME: when there may be something to do about it */
};

/* store.c */
/* `error` of a transaction that was rolled back, -errno: lines are refused from now on. */
void store_failed(struct store *s, int error);

/* A write has gone well: lines are taken again, if they were not. */
void store_works(struct store *s);
/* Says why lines are refused, once a minute. */
void store_log_failing(struct store *s);
/* Sets the time of the next attempt, later than the last one. */
void store_arm_retry(struct store *s);
/* Whether an error means that there is no room: space, quota. */
bool store_is_full(int error);
/* Takes over what the uplink wants written. False: nothing. */
bool store_take_uplink_work(struct store *s);
/* Writes it, in one transaction. 0 or -errno. */
int store_try_uplink_work(struct store *s) _must_check_;

/* store_open.c */
/* 0; or -errno: then the queue is not open, and will be tried again. */
int store_open(struct store *s);
/* Whether an attempt to open it that failed so may succeed later without anybody's help. */
bool store_is_passing(int error);

/* store_chores.c */
int store_setup_chores(struct store *s) _must_check_;
/* While the queue is still open, if it is. */
void store_close_chores(struct store *s);
/* The queue was opened. */
void store_begin_chores(struct store *s);
/* Something may be left to do in a quiet moment. */
void store_arm_chores(struct store *s);
/* Lines were committed: what is beyond a bound goes now. */
void store_after_commit(struct store *s);
/* A line was refused at a bound. */
void store_note_refused(struct store *s);
/* Rows were dropped because of their age. */
void store_note_expired(struct store *s, uint64_t n);

/* store_age.c */
/* The queue was opened. */
void store_begin_age(struct store *s);
/* A transaction with lines begins. */
void store_begin_lines(struct store *s);
/* Gives a message without a timestamp of its own one. */
void store_stamp(const struct store *s, struct message *m);
/* A step of correcting and expiring; not inside a transaction. 1 more to do, 0 done, -errno. */
int store_do_age(struct store *s) _must_check_;
/* Whether the time of the next step is to be set anew. */
bool store_age_is_due(const struct store *s);
/* Sets the time at which that is to be looked at again. */
void store_arm_age(struct store *s);
