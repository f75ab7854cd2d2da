/* SPDX-License-Identifier: MIT */
/*
 * Every way in which a connection can fail -> a class; what a class means for the next attempt is
 * the supervisor's business. Pure.
 */
#pragma once

#include "util.h"

enum failure_class {
	FAILURE_NONE = 0,
	FAILURE_TIMEOUT, /* refused, unreachable, no answer, no such name */
	FAILURE_HEARTBEAT, /* the connection was lost after its CONNACK */
	FAILURE_BUSY, /* the broker asks to come back later */
	FAILURE_MOVED, /* the broker names another one */
	FAILURE_TAKEN_OVER, /* another client connected with our client id */
	FAILURE_AUTH, /* credentials refused */
	FAILURE_PROTOCOL, /* the two do not speak the same language */
	N_FAILURE_CLASSES,
};

/* What a class asks for (design: the table of classes in doc/architecture.md). */
enum failure_retry {
	FAILURE_RETRY_ATTEMPTS, /* some attempts with growing waits, then the next broker */
	FAILURE_RETRY_QUICKLY, /* a few attempts at short waits first, then as above */
	FAILURE_RETRY_WAIT, /* a wait, then the next broker */
	FAILURE_RETRY_NEXT, /* the next broker at once */
	FAILURE_RETRY_LONGEST, /* the longest wait, then the same broker */
};

struct failure_policy {
	enum failure_retry retry;
	bool set_aside; /* this broker is left alone for a while */
	bool alert; /* a person has to act */
};

struct failure {
	enum failure_class class;
	char text[200]; /* for the log: what the library or the system said */
};

const char *failure_class_to_string(enum failure_class class);

/* A CONNACK's return code (3.1.1, table 3.1) or, with `v5`, reason code (MQTT 5, table 3-1). */
enum failure_class failure_of_connack(bool v5, unsigned code);
/* The reason code of a broker's DISCONNECT (MQTT 5, table 3-10). */
enum failure_class failure_of_disconnect(unsigned reason);
const struct failure_policy *failure_policy(enum failure_class class);
/* What a person can do about it, for the log; NULL = nothing but wait. */
const char *failure_advice(enum failure_class class);

/* What the broker's answer to one message means for that message. */
enum failure_verdict {
	FAILURE_MESSAGE_TAKEN, /* the broker has it */
	FAILURE_MESSAGE_THROTTLED, /* it wants less at a time: again, later */
	FAILURE_MESSAGE_REFUSED, /* something is wrong with this message, perhaps */
	FAILURE_MESSAGE_CONFUSED, /* the two disagree about what is in flight: a new session */
};

/* The reason code of a PUBACK, PUBREC or PUBCOMP (MQTT 5, tables 3-4, 3-5, 3-7). */
enum failure_verdict failure_of_publish(unsigned reason);
/*
 * A fatal TLS alert that the broker sent (RFC 8446, section 6). `with_certificate`: the client
 * showed one; only then a bare "handshake failure" is taken for its refusal. `*ret_name` (static)
 * is the alert's name in words.
 */
enum failure_class failure_of_tls_alert(
	unsigned alert, bool with_certificate, const char **ret_name);

/* Fills *f; `format` is printf's. */
void failure_set(struct failure *f, enum failure_class class, const char *format, ...)
	_printf_(3, 4);
