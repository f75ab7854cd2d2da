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
/* The reason code of a PUBACK, PUBREC or PUBCOMP; FAILURE_NONE when the broker has the message. */
enum failure_class failure_of_publish(unsigned reason);

/* Fills *f; `format` is printf's. */
void failure_set(struct failure *f, enum failure_class class, const char *format, ...)
	_printf_(3, 4);
