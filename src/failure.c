/* SPDX-License-Identifier: MIT */
/*
 * The table of failures: see failure.h. Codes are written as in the MQTT specifications.
 */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

const char *failure_class_to_string(enum failure_class class)
{
	static const char *const names[] = {
		[FAILURE_NONE] = "none",
		[FAILURE_TIMEOUT] = "timeout",
		[FAILURE_HEARTBEAT] = "heartbeat",
		[FAILURE_BUSY] = "busy",
		[FAILURE_MOVED] = "moved",
		[FAILURE_TAKEN_OVER] = "taken-over",
		[FAILURE_AUTH] = "auth",
		[FAILURE_PROTOCOL] = "protocol",
	};

	return names[class];
}

/* What the reason codes of MQTT 5 mean in whichever packet they come. */
static enum failure_class of_reason(unsigned reason, enum failure_class otherwise)
{
	switch (reason) {
	case 0x86: /* bad user name or password */
	case 0x87: /* not authorized */
	case 0x8a: /* banned */
	case 0x8c: /* bad authentication method */ return FAILURE_AUTH;
	case 0x88: /* server unavailable */
	case 0x89: /* server busy */
	case 0x8b: /* server shutting down */
	case 0x93: /* receive maximum exceeded */
	case 0x96: /* message rate too high */
	case 0x97: /* quota exceeded */
	case 0x9f: /* connection rate exceeded */ return FAILURE_BUSY;
	case 0x9c: /* use another server */
	case 0x9d: /* server moved */ return FAILURE_MOVED;
	case 0x8e: /* session taken over */ return FAILURE_TAKEN_OVER;
	case 0x81: /* malformed packet */
	case 0x82: /* protocol error */
	case 0x84: /* unsupported protocol version */
	case 0x85: /* client identifier not valid */
	case 0x95: /* packet too large */ return FAILURE_PROTOCOL;
	default: return otherwise;
	}
}

enum failure_class failure_of_connack(bool v5, unsigned code)
{
	if (code == 0)
		return FAILURE_NONE;
	if (v5 && code >= 0x80)
		return of_reason(code, FAILURE_PROTOCOL);
	switch (code) {
	case 3: return FAILURE_BUSY;
	case 4:
	case 5: return FAILURE_AUTH;
	default: return FAILURE_PROTOCOL;
	}
}

enum failure_class failure_of_disconnect(unsigned reason)
{
	return of_reason(reason, FAILURE_HEARTBEAT);
}

enum failure_class failure_of_publish(unsigned reason)
{
	/* A PUBCOMP may say "packet identifier not found" when the one before it was lost on the
	 * way: the exchange had ended (MQTT 5, table 3-12: no error during recovery). */
	if (reason < 0x80 || reason == 0x92)
		return FAILURE_NONE;
	return of_reason(reason, FAILURE_PROTOCOL);
}

void failure_set(struct failure *f, enum failure_class class, const char *format, ...)
{
	va_list ap;

	f->class = class;
	va_start(ap, format);
	vsnprintf(f->text, sizeof(f->text), format, ap);
	va_end(ap);
}
