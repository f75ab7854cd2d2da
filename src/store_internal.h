/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `store` share. Only store.c and store_*.c include this header.
 */
#pragma once

#include "acceptance.h"
#include "clock.h"
#include "event.h"
#include "flap.h"
#include "store.h"

/* Something that happens often and is logged with its number: at most once a minute, and once an
 * hour when it goes on. */
struct store_tally {
	uint64_t count; /* since the last line */
	uint64_t logged_usec; /* 0 = never */
	unsigned lines; /* since it last was quiet */
};

/* What is counted, over all queues that were open: see store_figures.c. */
struct store_counts {
	uint64_t accepted[3]; /* by QoS */
	uint64_t appended[3]; /* the same, in the transaction under way */
	struct rate accepted_rate; /* CLOCK_BOOTTIME */
	struct queue_stats closed; /* of queues that are closed: counters only */
	struct histogram commit, delivery;
	struct acceptance acceptance; /* CLOCK_BOOTTIME */
	uint64_t condemned[MAILBOX_CONDEMNED]; /* the last ones: not delivered */
	size_t n_condemned; /* so far */
	uint64_t
		full_usec; /* CLOCK_BOOTTIME when a bound was last met; 0: lines were taken since */
	char full[160]; /* which one */
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
	bool between; /* the uplink has ended, and the next one has not begun */
	bool rotten; /* the database is to be set aside when it is opened next */
	sd_event_source *retry;
	uint64_t retry_usec; /* the last wait */
	struct flap failing[2]; /* [1]: for lack of room */
	struct flap working; /* again */

	uint64_t removals[MAILBOX_SPAN]; /* acknowledged, not yet removed for good */
	size_t n_removals;
	size_t n_removed_early; /* of them, in the transaction under way already */
	struct mailbox_condemned condemned[MAILBOX_CONDEMNED]; /* not yet moved for good */
	size_t n_condemned;
	struct mailbox_meta meta; /* to be written for the uplink */
	bool meta_wanted;
	sd_event_source *removal; /* when removals have waited long enough */

	sd_event_source *chores;
	uint64_t tidy_messages; /* in the queue when tidying was considered last */
	bool chores_due; /* they came while a transaction was open */
	sd_event_source *tell; /* tallies, a minute after the last line */
	struct store_tally refused, overflown, expired;
	bool closing; /* tallies are told whenever it was last */

	struct store_counts counts;

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
/* Says why lines are refused, now and then. */
void store_log_failing(struct store *s);
/* Logs an event that is an alert, and hands it on. */
void store_alert(struct store *s, enum event_kind kind, int error, const char *format, ...)
	_printf_(4, 5);
/* Sets the time of the next attempt, later than the last one. */
void store_arm_retry(struct store *s);
/* Whether an error means that there is no room: space, quota. */
bool store_is_full(int error);
/* Takes over what the uplink wants written. False: nothing. */
bool store_take_uplink_work(struct store *s);
/* Writes it, in one transaction. 0 or -errno. */
int store_try_uplink_work(struct store *s) _must_check_;

/* Whether the store still holds something that the uplink wanted written. */
bool store_uplink_work_left(const struct store *s);
/* The same, whatever it takes on a full disk; nothing is fine, too. 0 or -errno. */
int store_commit_uplink_work(struct store *s);
/* store_figures.c: what is counted */
/* A queue was opened; one is about to be closed. */
void store_count_opened(struct store *s);
void store_count_closing(struct store *s);
/* A line was appended; the transaction with it was committed, in so much time, or not. */
void store_count_appended(struct store *s, const struct message *m);
void store_count_committed(struct store *s, uint64_t usec);
void store_count_rolled_back(struct store *s);
/* Rows were committed that are not the broker's yet: the uplink hears of them. */
void store_post_committed(struct store *s);
/* The uplink wants these rows condemned, and those removed: they are delivered but for the former.
 */
void store_count_condemned(struct store *s, const struct mailbox_condemned *rows, size_t n);
void store_count_delivered(struct store *s, const uint64_t *ids, size_t n);
/* A bound was met: lines are refused, or rows dropped. */
void store_count_full(struct store *s, const char *text);

/* store_open.c */
/* `between`: the next uplink begins, if nothing is left of the last one's. */
void store_begin_next_uplink(struct store *s);
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
/* queue.max_age is another one: the next step looks at it at once. */
void store_age_changed(struct store *s);
/* Whether the time of the next step is to be set anew. */
bool store_age_is_due(const struct store *s);
/* Sets the time at which that is to be looked at again. */
void store_arm_age(struct store *s);
