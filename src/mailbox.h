/* SPDX-License-Identifier: MIT */
/*
 * What passes between the gateway thread and the uplink thread: the only state they share, behind
 * one lock that neither holds for longer than a copy. Each side has an eventfd that becomes
 * readable when there is news for it. Neither side ever waits here.
 */
#pragma once

#include "alerts.h"
#include "clock.h"
#include "figures.h"
#include "util.h"

/* Rows the uplink may have sent or had acknowledged without their removal being confirmed. Far
 * below 65,535, so that a packet identifier never comes round while an old one is in use. */
#define MAILBOX_SPAN 16384

/* Rows condemned and not yet moved to dead_letters. */
#define MAILBOX_CONDEMNED 8

struct mailbox;

/* A row that no broker takes. */
struct mailbox_condemned {
	uint64_t id;
	char reason[200];
};

/* Alerts that the gateway has not taken yet: as many as may come in one turn. */
#define MAILBOX_ALERTS 16

struct mailbox_alert {
	enum alert_kind kind;
	unsigned count; /* how often it came since it was taken last; the text is the last one's */
	char broker[272];
	char text[400];
};

/* A key of `meta` that the uplink wants written. */
struct mailbox_meta {
	char key[512];
	char value[288];
};

int mailbox_new(struct mailbox **ret) _must_check_;
/* Both threads must be done with it. Takes NULL, returns NULL. */
struct mailbox *mailbox_free(struct mailbox *m);

/* --- gateway thread --- */

/* Readable when the uplink posted something; owned by the mailbox. */
int mailbox_gateway_fd(const struct mailbox *m);
/* Call when that descriptor is readable, before taking anything. */
void mailbox_gateway_clear(struct mailbox *m);
/* Rows up to `last_id` are committed. Rings if the uplink has looked for rows, mailbox_claim(),
 * since it was rung for some. */
void mailbox_post_committed(struct mailbox *m, uint64_t last_id);
/* Moves acknowledged ids to `ids` (room for MAILBOX_SPAN - n_have); returns how many. */
size_t mailbox_take_acked(struct mailbox *m, uint64_t *ids, size_t n_have);
/* `n` of the ids taken, in the order taken, are removed for good. */
void mailbox_post_removed(struct mailbox *m, size_t n);
/* Moves condemned rows to `rows` (room for MAILBOX_CONDEMNED - n_have); returns how many. Their ids
 * are among the acknowledged ones, too: take those first, and condemn before removing. */
size_t mailbox_take_condemned(struct mailbox *m, struct mailbox_condemned *rows, size_t n_have);
/* `n` of those taken are moved for good. */
void mailbox_post_buried(struct mailbox *m, size_t n);
/* Rows up to this id may be under the uplink's eyes: nobody else may touch them. */
uint64_t mailbox_claimed(struct mailbox *m);
/* The same, and until mailbox_thaw() the uplink claims nothing above it. For no longer than a
 * transaction without a sync takes. */
uint64_t mailbox_freeze(struct mailbox *m);
void mailbox_thaw(struct mailbox *m);
/* How the clock stands, for the age of messages, and the most that is good, 0 = any: as trusted
 * only when no committed row has a timestamp that is yet to be corrected. */
void mailbox_post_clock(struct mailbox *m, const struct clock *clock, uint64_t max_age_usec);
/* How many messages wait: for what the uplink logs. Rings nobody. */
void mailbox_post_queued(struct mailbox *m, uint64_t messages);
/* Whether the uplink has met a database that is malformed. */
bool mailbox_rotten(struct mailbox *m);
/* A meta key to write durably: true and *ret when one waits. Confirm with mailbox_post_noted(). */
bool mailbox_take_meta(struct mailbox *m, struct mailbox_meta *ret);
void mailbox_post_noted(struct mailbox *m);
/* What the uplink counts and tells of itself, as of now: a copy. */
void mailbox_get_figures(struct mailbox *m, struct figures_uplink *ret);
/* True once for each call or calls of mailbox_figures_post(). */
bool mailbox_take_news(struct mailbox *m);
/* Moves up to `room` alerts to `alerts`, one a kind and broker; returns how many. *ret_lost: more
 * were posted than fitted. */
size_t mailbox_take_alerts(
	struct mailbox *m, struct mailbox_alert *alerts, size_t room, unsigned *ret_lost);
/* Asks the uplink for a sign of life; mailbox_pinged() tells whether it answered. */
void mailbox_post_ping(struct mailbox *m);
bool mailbox_pinged(struct mailbox *m);
/* The uplink shall try to connect now instead of waiting; a held queue is released. */
void mailbox_post_reconnect(struct mailbox *m);
/* The uplink shall end: finish what is in flight, or with `hurry` drop it. */
void mailbox_post_stop(struct mailbox *m, bool hurry);
/* As new, for another uplink; the last one's thread is joined. What it counted stays. */
void mailbox_reset(struct mailbox *m);
/* The uplink has ended; its thread may be joined without waiting. */
bool mailbox_uplink_done(struct mailbox *m);

/* --- uplink thread --- */

int mailbox_uplink_fd(const struct mailbox *m);
void mailbox_uplink_clear(struct mailbox *m);
/*
 * Announces that rows up to `upto` may be read from now on. Returns up to which id they may indeed:
 * never beyond the last committed one, nor, while the gateway drops rows, beyond what was claimed
 * before; then it rings when that is over. Call it before looking for rows, also in vain: what is
 * committed from then on rings once.
 */
uint64_t mailbox_claim(struct mailbox *m, uint64_t upto);
/* Of the rows claimed, those above `upto` are of no interest any more. */
void mailbox_release(struct mailbox *m, uint64_t upto);
void mailbox_clock(struct mailbox *m, struct clock *ret, uint64_t *ret_max_age_usec);
/* What mailbox_post_queued() said last; false: it has not yet. */
bool mailbox_get_queued(struct mailbox *m, uint64_t *ret);
/* The reader says that the database is malformed: the gateway will set it aside, and end this
 * thread for it. */
void mailbox_post_rotten(struct mailbox *m);
/* `n` more rows were taken by the broker. Never more than MAILBOX_SPAN unconfirmed at a time. */
void mailbox_post_acked(struct mailbox *m, const uint64_t *ids, size_t n);
/* Whether there is room for mailbox_post_condemned(); else again when the gateway has rung. */
bool mailbox_may_condemn(struct mailbox *m);
/* Row `id` goes to dead_letters; post its id as acknowledged afterwards. */
void mailbox_post_condemned(struct mailbox *m, uint64_t id, const char *reason);
/* How many removals were confirmed since the last call. */
size_t mailbox_take_removed(struct mailbox *m);
/* The uplink will ask for them by itself soon enough: it is not rung for removals until there are
 * many. Not so to begin with. */
void mailbox_set_patient(struct mailbox *m, bool patient);
/* One at a time: the next only after the last one was noted. */
void mailbox_post_meta(struct mailbox *m, const char *key, const char *value);
bool mailbox_noted(struct mailbox *m);
/*
 * What the uplink counts and tells of itself, to be changed between `begin`, which takes the lock,
 * and one of the other two, which give it: `end` rings nobody, what is counted is read when
 * somebody asks; `post` is for news that the gateway passes on by itself, and rings.
 */
struct figures_uplink *mailbox_figures_begin(struct mailbox *m);
void mailbox_figures_end(struct mailbox *m);
void mailbox_figures_post(struct mailbox *m);
void mailbox_post_alert(
	struct mailbox *m, enum alert_kind kind, const char *broker, const char *text);
void mailbox_answer_ping(struct mailbox *m);
/* Once for each call or calls of mailbox_post_reconnect(). */
bool mailbox_take_reconnect(struct mailbox *m);
bool mailbox_stopping(struct mailbox *m, bool *ret_hurry);
void mailbox_post_done(struct mailbox *m);
