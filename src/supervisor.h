/* SPDX-License-Identifier: MIT */
/*
 * The connection's state machine: (state, event, now) -> (state, action, timer), over a list of
 * brokers. Pure: decides; does nothing itself.
 *
 * Times are microseconds of one clock that goes on through a suspend. What each class of failure
 * leads to stands in failure.c; the waits come from `backoff`.
 */
#pragma once

#include "backoff.h"
#include "brokers.h"
#include "failure.h"
#include "util.h"

enum supervisor_state {
	SUPERVISOR_DISCONNECTED, /* not connected; the next attempt is near */
	SUPERVISOR_CONNECTING, /* an attempt is under way */
	SUPERVISOR_CONNECTED, /* CONNACK came */
	SUPERVISOR_DISCONNECTING, /* what is in flight is finished, then comes DISCONNECT */
	SUPERVISOR_ERROR, /* no broker wants us: waiting until one may be asked again */
	SUPERVISOR_OFFLINE, /* every broker was tried, or there is no network: waiting */
	N_SUPERVISOR_STATES,
};

enum supervisor_event {
	SUPERVISOR_START, /* go on line */
	SUPERVISOR_PROGRESS, /* a part of the attempt is done: its deadline starts over */
	SUPERVISOR_CONNACK, /* the connection stands */
	SUPERVISOR_FAILURE, /* the attempt failed or the connection was lost */
	SUPERVISOR_TIMER, /* the timer of the last step is due */
	SUPERVISOR_STOP, /* leave in order and stay away; a second time: at once */
	SUPERVISOR_CLOSED, /* the connection is closed after DISCONNECT */
	SUPERVISOR_PROBE_UP, /* the probed broker sent its CONNACK */
	SUPERVISOR_PROBE_FAILED, /* it did not */
	SUPERVISOR_NETWORK_UP, /* a link, an address or a route came */
	SUPERVISOR_NETWORK_DOWN, /* there is no network at all any more */
	SUPERVISOR_RECONNECT, /* somebody asks not to wait any longer */
	N_SUPERVISOR_EVENTS,
};

enum supervisor_action {
	SUPERVISOR_NOTHING,
	SUPERVISOR_CONNECT, /* begin an attempt at supervisor.current */
	SUPERVISOR_ABORT, /* drop the attempt or the connection */
	SUPERVISOR_LEAVE, /* finish what is in flight, then DISCONNECT and close */
	SUPERVISOR_PROBE, /* begin a probe of supervisor.probing; it replaces one under way */
	SUPERVISOR_END_PROBE, /* drop the probe */
};

/* What a failure leads to, for the log. */
enum supervisor_plan {
	SUPERVISOR_PLAN_NONE,
	SUPERVISOR_PLAN_SAME, /* the same broker after wait_usec */
	SUPERVISOR_PLAN_NEXT, /* supervisor.next after wait_usec */
	SUPERVISOR_PLAN_ROUND, /* every broker was tried: from the first after wait_usec */
	SUPERVISOR_PLAN_ASIDE, /* every broker is set aside: again after wait_usec */
	SUPERVISOR_PLAN_NETWORK, /* when the network is back, or after wait_usec */
};

#define SUPERVISOR_NO_TIMER UINT64_MAX

struct supervisor_params {
	struct backoff_params backoff;
	uint64_t connect_timeout_usec;
	uint64_t stable_usec;
	uint64_t disconnect_timeout_usec; /* of SUPERVISOR_LEAVE as a whole */
	unsigned timeout_attempts; /* at one broker, 1 or more */
	unsigned heartbeat_attempts;
	uint64_t heartbeat_delay_usec;
	uint64_t set_aside_usec;
	uint64_t failback_usec;
};

struct supervisor {
	struct supervisor_params params;
	struct backoff backoff;
	struct brokers brokers;
	enum supervisor_state state;
	int current; /* broker of the attempt or the connection, or of the last one */
	int next; /* the broker to try after the wait; BROKERS_NONE: a new round begins */
	int probing; /* the broker being probed, or BROKERS_NONE: then no probe is under way */
	int home; /* the broker to begin with when the network is back, or BROKERS_NONE */
	uint64_t timer_usec; /* when SUPERVISOR_TIMER is due, or SUPERVISOR_NO_TIMER */

	uint64_t stable_usec; /* when the connection counts as stable */
	uint64_t probe_usec; /* when the next probe is due, or the one under way is late */
	uint64_t probe_cycle_usec; /* when this cycle of probes began, or SUPERVISOR_NO_TIMER */
	unsigned attempts; /* failed at this broker, from the last quick one on */
	unsigned quick_left; /* quick attempts left after a lost connection */
	bool recovering; /* a connection was lost since one was stable */
	bool later_round; /* all were tried since a connection was stable: one attempt each */
	bool network_down;
	bool stopping;
};

/* What one event did. `timer_usec` is absolute. */
struct supervisor_step {
	enum supervisor_state from;
	enum supervisor_state to;
	enum supervisor_action action;
	enum supervisor_plan plan;
	uint64_t timer_usec;
	uint64_t wait_usec; /* that `plan` speaks of */
	bool deadline; /* the attempt ran into its deadline */
	bool alert; /* a person has to act */
};

/* The list is empty until supervisor_set_brokers(). */
void supervisor_init(struct supervisor *s, const struct supervisor_params *params,
	backoff_random_fn random, void *userdata);

/*
 * Takes one event. `class` counts for SUPERVISOR_FAILURE and SUPERVISOR_PROBE_FAILED only. 0 and
 * *ret, or -EPROTO for an event that has no meaning in the present state: state, action and timer
 * are as before, *ret says so. News of the network may come at any time; when it changes nothing,
 * that is -EPROTO, too.
 */
int supervisor_handle(struct supervisor *s, enum supervisor_event event, enum failure_class class,
	uint64_t now, struct supervisor_step *ret);

/*
 * A new list of brokers. A connection or an attempt goes on if its broker is still there; a wait
 * ends.
 */
void supervisor_set_brokers(struct supervisor *s, const struct brokers_item *items, size_t n,
	uint64_t now, struct supervisor_step *ret);

const char *supervisor_state_to_string(enum supervisor_state state);
