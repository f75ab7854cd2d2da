/* SPDX-License-Identifier: MIT */
/*
 * The connection's state machine: see supervisor.h.
 *
 * Invariants: set_state() is the only writer of `state`, and refuses what `legal` does not list; at
 * most one attempt is under way; in `connecting` and `disconnecting` a deadline is always armed, in
 * `offline`, `error` and a `disconnected` that is not the end a wait is.
 */
#include "supervisor.h"

#include <assert.h>
#include <errno.h>

static const bool legal[N_SUPERVISOR_STATES][N_SUPERVISOR_STATES] = {
	[SUPERVISOR_DISCONNECTED] = { [SUPERVISOR_CONNECTING] = true },
	[SUPERVISOR_CONNECTING] = { [SUPERVISOR_CONNECTED] = true,
		[SUPERVISOR_OFFLINE] = true,
		[SUPERVISOR_ERROR] = true,
		[SUPERVISOR_DISCONNECTED] = true },
	[SUPERVISOR_CONNECTED] = { [SUPERVISOR_DISCONNECTED] = true,
		[SUPERVISOR_ERROR] = true,
		[SUPERVISOR_DISCONNECTING] = true },
	[SUPERVISOR_DISCONNECTING] = { [SUPERVISOR_DISCONNECTED] = true },
	[SUPERVISOR_ERROR] = { [SUPERVISOR_CONNECTING] = true, [SUPERVISOR_DISCONNECTED] = true },
	[SUPERVISOR_OFFLINE] = { [SUPERVISOR_CONNECTING] = true, [SUPERVISOR_DISCONNECTED] = true },
};

void supervisor_init(struct supervisor *s, const struct supervisor_params *params,
	backoff_random_fn random, void *userdata)
{
	*s = (struct supervisor){
		.params = *params,
		.state = SUPERVISOR_DISCONNECTED,
		.timer_usec = SUPERVISOR_NO_TIMER,
	};
	backoff_init(&s->backoff, &params->backoff, random, userdata);
}

/* The one writer of state, action and timer. */
static void set_state(struct supervisor *s, enum supervisor_state to, enum supervisor_action action,
	uint64_t timer_usec, struct supervisor_step *step)
{
	assert(to == s->state || legal[s->state][to]);
	s->state = to;
	s->timer_usec = timer_usec;
	step->to = to;
	step->action = action;
	step->timer_usec = timer_usec;
}

/* Trying again soon is useless or harmful then. */
static bool is_refusal(enum failure_class class)
{
	return class == FAILURE_AUTH || class == FAILURE_PROTOCOL || class == FAILURE_TAKEN_OVER;
}

static void connect_now(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	set_state(s, SUPERVISOR_CONNECTING, SUPERVISOR_CONNECT,
		now + s->params.connect_timeout_usec, step);
}

static void fail(struct supervisor *s, enum failure_class class, enum supervisor_action action,
	uint64_t now, struct supervisor_step *step)
{
	enum supervisor_state to;

	if (is_refusal(class)) {
		to = SUPERVISOR_ERROR;
		step->wait_usec = backoff_longest_usec(&s->backoff);
	} else {
		to = s->state == SUPERVISOR_CONNECTED ? SUPERVISOR_DISCONNECTED
						      : SUPERVISOR_OFFLINE;
		step->wait_usec = backoff_next_usec(&s->backoff);
	}
	set_state(s, to, action, now + step->wait_usec, step);
}

static void in_wait(struct supervisor *s, enum supervisor_event event, uint64_t now,
	struct supervisor_step *step)
{
	if (event == SUPERVISOR_START || event == SUPERVISOR_TIMER)
		connect_now(s, now, step);
	else
		set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, SUPERVISOR_NO_TIMER, step);
}

static void in_connecting(struct supervisor *s, enum supervisor_event event,
	enum failure_class class, uint64_t now, struct supervisor_step *step)
{
	switch (event) {
	case SUPERVISOR_PROGRESS:
		set_state(s, SUPERVISOR_CONNECTING, SUPERVISOR_NOTHING,
			now + s->params.connect_timeout_usec, step);
		break;
	case SUPERVISOR_CONNACK:
		set_state(s, SUPERVISOR_CONNECTED, SUPERVISOR_NOTHING, now + s->params.stable_usec,
			step);
		break;
	case SUPERVISOR_FAILURE: fail(s, class, SUPERVISOR_ABORT, now, step); break;
	case SUPERVISOR_TIMER:
		step->deadline = true;
		fail(s, FAILURE_TIMEOUT, SUPERVISOR_ABORT, now, step);
		break;
	default:
		set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, SUPERVISOR_NO_TIMER, step);
		break;
	}
}

static void in_connected(struct supervisor *s, enum supervisor_event event,
	enum failure_class class, uint64_t now, struct supervisor_step *step)
{
	switch (event) {
	case SUPERVISOR_TIMER:
		backoff_reset(&s->backoff);
		set_state(s, SUPERVISOR_CONNECTED, SUPERVISOR_NOTHING, SUPERVISOR_NO_TIMER, step);
		break;
	case SUPERVISOR_FAILURE: fail(s, class, SUPERVISOR_ABORT, now, step); break;
	default:
		set_state(s, SUPERVISOR_DISCONNECTING, SUPERVISOR_DISCONNECT,
			now + s->params.disconnect_timeout_usec, step);
		break;
	}
}

/* Which events mean something in which state. */
static const bool expected[N_SUPERVISOR_STATES][N_SUPERVISOR_EVENTS] = {
	[SUPERVISOR_DISCONNECTED] = { [SUPERVISOR_START] = true,
		[SUPERVISOR_TIMER] = true,
		[SUPERVISOR_STOP] = true },
	[SUPERVISOR_CONNECTING] = { [SUPERVISOR_PROGRESS] = true,
		[SUPERVISOR_CONNACK] = true,
		[SUPERVISOR_FAILURE] = true,
		[SUPERVISOR_TIMER] = true,
		[SUPERVISOR_STOP] = true },
	[SUPERVISOR_CONNECTED] = { [SUPERVISOR_FAILURE] = true,
		[SUPERVISOR_TIMER] = true,
		[SUPERVISOR_STOP] = true },
	[SUPERVISOR_DISCONNECTING] = { [SUPERVISOR_FAILURE] = true,
		[SUPERVISOR_TIMER] = true,
		[SUPERVISOR_CLOSED] = true,
		[SUPERVISOR_STOP] = true },
	[SUPERVISOR_ERROR] = { [SUPERVISOR_START] = true,
		[SUPERVISOR_TIMER] = true,
		[SUPERVISOR_STOP] = true },
	[SUPERVISOR_OFFLINE] = { [SUPERVISOR_START] = true,
		[SUPERVISOR_TIMER] = true,
		[SUPERVISOR_STOP] = true },
};

int supervisor_handle(struct supervisor *s, enum supervisor_event event, enum failure_class class,
	uint64_t now, struct supervisor_step *ret)
{
	*ret = (struct supervisor_step){
		.from = s->state,
		.to = s->state,
		.action = SUPERVISOR_NOTHING,
		.timer_usec = s->timer_usec,
	};
	if (!expected[s->state][event])
		return -EPROTO;

	switch (s->state) {
	case SUPERVISOR_CONNECTING: in_connecting(s, event, class, now, ret); break;
	case SUPERVISOR_CONNECTED: in_connected(s, event, class, now, ret); break;
	case SUPERVISOR_DISCONNECTING:
		set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, SUPERVISOR_NO_TIMER, ret);
		break;
	default: in_wait(s, event, now, ret); break;
	}
	return 0;
}

const char *supervisor_state_to_string(enum supervisor_state state)
{
	static const char *const names[N_SUPERVISOR_STATES] = {
		[SUPERVISOR_DISCONNECTED] = "disconnected",
		[SUPERVISOR_CONNECTING] = "connecting",
		[SUPERVISOR_CONNECTED] = "connected",
		[SUPERVISOR_DISCONNECTING] = "disconnecting",
		[SUPERVISOR_ERROR] = "error",
		[SUPERVISOR_OFFLINE] = "offline",
	};

	return names[state];
}
