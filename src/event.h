/* SPDX-License-Identifier: MIT */
/*
 * The kinds of events that the journal tells: each has a message id that stays the same for ever,
 * a name and a priority. `journalctl MESSAGE_ID=...` finds them, and systemd/mqttgw.catalog tells
 * what each means and what to do. Callable from any thread.
 */
#pragma once

#include "alerts.h"
#include "log.h"
#include "util.h"

enum event_kind {
	EVENT_STARTED, /* messages are accepted */
	EVENT_START_FAILED, /* the daemon ends, having not begun */
	EVENT_STOPPING, /* an orderly stop begins */
	EVENT_STOPPED, /* and has ended */
	EVENT_STATE, /* a change of the connection's state that nothing below says more of */
	EVENT_CONNECTED, /* CONNACK came */
	EVENT_CONNECTION_LOST, /* it stood, and was lost */
	EVENT_CONNECT_FAILED, /* an attempt failed; another one follows */
	EVENT_OFFLINE, /* every broker was tried, or there is no network */
	EVENT_BROKERS_EXHAUSTED, /* every broker is set aside */
	EVENT_BROKER_SET_ASIDE, /* a broker and we do not speak the same language */
	EVENT_AUTH_REFUSED, /* a broker refuses our credentials */
	EVENT_TAKEN_OVER, /* another client has our id */
	EVENT_FAILED_BACK, /* a better broker answers, and is moved to */
	EVENT_FLAPPING, /* one line for many of the above */
	EVENT_STEADY, /* what was told so has come to its end */
	EVENT_SESSION_LOST, /* the broker has forgotten what was in flight */
	EVENT_NETWORK, /* it came or went */
	EVENT_BROKERS, /* a new list of brokers */
	EVENT_BROKERS_UNKNOWN, /* no list could be had */
	EVENT_STORE_FAILING, /* the queue cannot be written */
	EVENT_STORE_WORKS, /* it can again */
	EVENT_DATABASE_DAMAGED, /* damage was met; what can be read will be carried over */
	EVENT_DATABASE_SET_ASIDE, /* that is done, and this is what came of it */
	EVENT_RESERVE_GIVEN_UP, /* space is made on a full disk */
	EVENT_DEAD_LETTER, /* a message that no broker takes */
	EVENT_QUEUE_HELD, /* several in a row: nothing goes out */
	EVENT_QUEUE_RELEASED, /* it goes on */
	EVENT_QUEUE_HIGH, /* much of a bound is used */
	EVENT_QUEUE_NORMAL, /* no longer */
	EVENT_LINES_REFUSED, /* at a bound */
	EVENT_MESSAGES_DROPPED, /* at a bound, with drop-oldest */
	EVENT_MESSAGES_EXPIRED, /* older than queue.max_age */
	EVENT_CLIENT_REFUSED, /* a local program could not be let in */
	EVENT_CLIENT_CUT_OFF, /* one has kept others waiting for too long */
	EVENT_NOT_ALLOWED, /* one has no right to publish what it sent */
	EVENT_CLOCK_UNSET, /* the time of day is not to be trusted yet */
	EVENT_CLOCK_TRUSTED, /* now it is, and timestamps are corrected */
	EVENT_RELOADED, /* a new configuration is in effect */
	EVENT_RELOAD_REFUSED, /* a faulty one is not */
	N_EVENT_KINDS,
};

struct event_type {
	const char *id; /* MESSAGE_ID: 32 hexadecimal digits */
	const char *name; /* MQTTGW_EVENT */
	int priority; /* LOG_*, unless the line says otherwise */
	enum alert_kind alert; /* what it is to a person who has to act; N_ALERT_KINDS: nothing */
};

const struct event_type *event_type(enum event_kind kind);
/* Whether a person has to know of it at once. */
bool event_is_alert(enum event_kind kind);

/* What a line says besides its text. What is NULL or 0 is left out. Borrowed. */
struct event_fields {
	const char *broker; /* MQTTGW_BROKER: HOST:PORT */
	const char *class; /* MQTTGW_CLASS: of a failure */
	const char *state, *old_state; /* MQTTGW_STATE, MQTTGW_OLD_STATE: of the connection */
	const char *path; /* MQTTGW_PATH: of the database, the socket, the configuration */
	const char *aside; /* MQTTGW_PATH_ASIDE: where a database was moved to */
	uint64_t seq; /* MQTTGW_SEQ: of a message */
	uint64_t count; /* MQTTGW_COUNT: how many the line stands for */
	bool queue_known;
	uint64_t queue; /* MQTTGW_QUEUE: messages that wait */
	int error; /* ERRNO, of either sign */
	int priority; /* instead of the kind's; LOG_EMERG, which is 0: the kind's */
};

/* Writes one line, `fields` may be NULL. MQTTGW_ALERT=1 goes with the kinds that are alerts.
 * Otherwise as log_write(). */
void log_event(enum event_kind kind, const struct event_fields *fields, const char *format, ...)
	_printf_(3, 4);
