/* SPDX-License-Identifier: MIT */
/*
 * Which message is to blame. A broker may refuse a message, or close the connection over it each
 * time it comes; then nothing behind it would ever move. Pure: decides what may be sent and whom to
 * condemn.
 *
 * A message is condemned only when it was sent alone and was refused, or had the connection closed
 * on it TRIAL_DEATHS times, and each time a connection without it lived. Connections that are lost
 * in any other way say nothing about a message. When several were condemned and none was delivered
 * in between, the fault is taken to be the broker's: the queue is held instead.
 */
#pragma once

#include "util.h"

/* Closed on so often in a row with the same row as the oldest in flight: it is put on trial. That
 * costs the session, so that a message of QoS 2 may arrive twice; a bad link alone should not. */
#define TRIAL_BARREN 5
/*
 * Closed on so often while alone, with a proof of life of the connection without it after each. A
 * link that loses connections by chance does the same to an innocent row now and then: if a row
 * meets its end with chance p and the proof with chance 1 - p, p^n (1 - p)^n of the trials condemn
 * it. That is 6 % for two, and 0.1 % for five, where p is the worst there is.
 */
#define TRIAL_DEATHS 5
/* Condemned in a row before the queue is held. */
#define TRIAL_IN_A_ROW 3

enum trial_state {
	TRIAL_NONE,
	TRIAL_ALONE, /* rows go one by one, up to the suspect */
	TRIAL_WITHOUT, /* nothing goes until the broker has shown that it lives */
	TRIAL_HELD, /* nothing goes until trial_release() */
};

enum trial_verdict {
	TRIAL_GO_ON,
	TRIAL_CONDEMN, /* the row at hand, or trial.suspect */
	TRIAL_HOLD, /* not condemned: the queue is held from now on */
};

struct trial {
	enum trial_state state;
	uint64_t suspect; /* row id; after TRIAL_NONE: the last one */
	unsigned deaths; /* connections closed on the suspect while it was alone */
	uint64_t barren_id; /* the oldest row in flight when a connection closed, and ... */
	unsigned barren; /* ... how often in a row without any answer */
	unsigned in_a_row; /* condemned, with no row delivered since or from between them */
	uint64_t condemned; /* the last one */
	uint64_t delivered; /* the highest row id the broker has taken */
};

/* Row `id` is gone with QoS 0: that says nothing about the broker. */
void trial_written(struct trial *t, uint64_t id);
/* The broker has taken row `id`. */
void trial_delivered(struct trial *t, uint64_t id);
/* The broker answered for row `id` with a refusal, or it cannot be sent at all (`final`). */
enum trial_verdict trial_refused(struct trial *t, uint64_t id, bool final);
/*
 * A connection ended. `oldest`: the lowest row id in flight, 0 = none; `alone`: it was the only
 * one; `closed`: by the peer's will (FIN, RST, DISCONNECT), after it could have read that row;
 * `answered`: it had answered for some row. True: what is in flight must not be sent again as it
 * is: give the session up.
 */
bool trial_connection_ended(
	struct trial *t, uint64_t oldest, bool alone, bool closed, bool answered);
/* The broker lives, and has had nothing of ours to answer: what became of the suspect. */
enum trial_verdict trial_alive(struct trial *t);
/*
 * The next row to be sent is `id`, and nothing is in flight: a suspect before it is gone (expired,
 * dropped, purged). To be asked before trial_admits().
 */
void trial_next(struct trial *t, uint64_t id);
/* The suspect is no longer in the queue, and nobody is told why. */
void trial_gone(struct trial *t);
/* Whether row `id` may go while `inflight` others are in flight. */
bool trial_admits(const struct trial *t, uint64_t id, unsigned inflight);
/* Somebody asks to try again: a held queue goes on with the suspect alone. */
void trial_release(struct trial *t);
