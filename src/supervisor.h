/* SPDX-License-Identifier: MIT */
/*
 * The connection's state machine. Pure: (state, event, now) -> (state, action, timer). Decides;
 * does nothing itself.
 */
#pragma once

#include "backoff.h"
#include "failure.h"
#include "util.h"

enum supervisor_state {
	SUPERVISOR_DISCONNECTED, /* not connected; after a loss: waiting for the first attempt */
	SUPERVISOR_CONNECTING, /* an attempt is under way */
	SUPERVISOR_CONNECTED, /* CONNACK came */
	SUPERVISOR_DISCONNECTING, /* DISCONNECT is on its way out */
	SUPERVISOR_ERROR, /* the broker refuses us; waiting as long as ever allowed */
	SUPERVISOR_OFFLINE, /* no broker can be reached; waiting */
	N_SUPERVISOR_STATES,
};

enum supervisor_event {
	SUPERVISOR_START, /* go on line; also: do not wait any longer */
	SUPERVISOR_PROGRESS, /* a part of the attempt is done: its deadline starts over */
	SUPERVISOR_CONNACK, /* the connection stands */
	SUPERVISOR_FAILURE, /* the attempt failed or the connection was lost */
	SUPERVISOR_TIMER, /* the timer of the last step is due */
	SUPERVISOR_STOP, /* leave in order */
	SUPERVISOR_CLOSED, /* the connection is closed after DISCONNECT */
	N_SUPERVISOR_EVENTS,
};

enum supervisor_action {
	SUPERVISOR_NOTHING,
	SUPERVISOR_CONNECT, /* begin an attempt */
	SUPERVISOR_ABORT, /* drop the attempt or the connection */
	SUPERVISOR_DISCONNECT, /* send DISCONNECT */
};

#define SUPERVISOR_NO_TIMER UINT64_MAX

struct supervisor_params {
	struct backoff_params backoff;
	uint64_t connect_timeout_usec;
	uint64_t stable_usec;
	uint64_t disconnect_timeout_usec;
};

struct supervisor {
	struct supervisor_params params;
	struct backoff backoff;
	enum supervisor_state state;
	uint64_t timer_usec; /* when SUPERVISOR_TIMER is due, or SUPERVISOR_NO_TIMER */
};

/* What one event did. `timer_usec` is absolute. */
struct supervisor_step {
	enum supervisor_state from;
	enum supervisor_state to;
	enum supervisor_action action;
	uint64_t timer_usec;
	uint64_t wait_usec; /* the wait that was drawn, or 0 */
	bool deadline; /* the attempt ran into its deadline */
};

void supervisor_init(struct supervisor *s, const struct supervisor_params *params,
	backoff_random_fn random, void *userdata);

/*
 * Takes one event. `class` counts for SUPERVISOR_FAILURE only. 0 and *ret, or -EPROTO for an event
 * that has no meaning in the present state: nothing changed, *ret says so.
 */
int supervisor_handle(struct supervisor *s, enum supervisor_event event, enum failure_class class,
	uint64_t now, struct supervisor_step *ret);

const char *supervisor_state_to_string(enum supervisor_state state);
