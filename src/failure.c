/* SPDX-License-Identifier: MIT */
/*
 * The table of failures: see failure.h. Codes are written as in the specifications of MQTT and TLS.
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

const struct failure_policy *failure_policy(enum failure_class class)
{
	static const struct failure_policy policies[] = {
		[FAILURE_NONE] = { FAILURE_RETRY_ATTEMPTS },
		[FAILURE_TIMEOUT] = { FAILURE_RETRY_ATTEMPTS },
		[FAILURE_HEARTBEAT] = { FAILURE_RETRY_QUICKLY },
		[FAILURE_BUSY] = { FAILURE_RETRY_WAIT },
		[FAILURE_MOVED] = { FAILURE_RETRY_NEXT },
		[FAILURE_TAKEN_OVER] = { FAILURE_RETRY_LONGEST, .alert = true },
		[FAILURE_AUTH] = { FAILURE_RETRY_NEXT, .set_aside = true, .alert = true },
		[FAILURE_PROTOCOL] = { FAILURE_RETRY_NEXT, .set_aside = true, .alert = true },
	};

	return &policies[class];
}

const char *failure_advice(enum failure_class class)
{
	switch (class) {
	case FAILURE_AUTH:
		return "check user name, password and client certificate, and the broker's access "
		       "rules";
	case FAILURE_PROTOCOL:
		return "check host, port, mqtt.version, tls and the broker's certificate";
	case FAILURE_TAKEN_OVER:
		return "another client uses our client id: was the image of this machine cloned?";
	case FAILURE_MOVED: return "the broker asks for a new address in the configuration";
	default: return NULL;
	}
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
	switch (reason) {
	case 0x87: /* not authorized: CONNACK has let us in, so it is about a message */
	case 0x90: /* topic name invalid */
	case 0x95: /* packet too large */
	case 0x99: /* payload format invalid */
	case 0x9a: /* retain not supported */
	case 0x9b: /* QoS not supported */
		/* One of the messages displeased; the broker is as good as before. */
		return FAILURE_HEARTBEAT;
	default: return of_reason(reason, FAILURE_HEARTBEAT);
	}
}

enum failure_verdict failure_of_publish(unsigned reason)
{
	/* A PUBCOMP may say "packet identifier not found" when the one before it was lost on the
	 * way: the exchange had ended (MQTT 5, table 3-12: no error during recovery). */
	if (reason < 0x80 || reason == 0x92)
		return FAILURE_MESSAGE_TAKEN;
	switch (reason) {
	case 0x93: /* receive maximum exceeded */
	case 0x96: /* message rate too high */
	case 0x97: /* quota exceeded */ return FAILURE_MESSAGE_THROTTLED;
	case 0x91: /* packet identifier in use */ return FAILURE_MESSAGE_CONFUSED;
	default: return FAILURE_MESSAGE_REFUSED;
	}
}

#define TLS_ALERT_HANDSHAKE_FAILURE 40

static const struct {
	uint8_t alert;
	enum failure_class class;
	const char *name;
} tls_alerts[] = {
	{ 10, FAILURE_PROTOCOL, "unexpected message" },
	{ 20, FAILURE_PROTOCOL, "bad record MAC" },
	{ 22, FAILURE_PROTOCOL, "record overflow" },
	{ TLS_ALERT_HANDSHAKE_FAILURE, FAILURE_PROTOCOL, "handshake failure" },
	{ 42, FAILURE_AUTH, "bad certificate" },
	{ 43, FAILURE_AUTH, "unsupported certificate" },
	{ 44, FAILURE_AUTH, "certificate revoked" },
	{ 45, FAILURE_AUTH, "certificate expired" },
	{ 46, FAILURE_AUTH, "certificate unknown" },
	{ 47, FAILURE_PROTOCOL, "illegal parameter" },
	{ 48, FAILURE_AUTH, "unknown CA" },
	{ 49, FAILURE_AUTH, "access denied" },
	{ 50, FAILURE_PROTOCOL, "decode error" },
	{ 51, FAILURE_PROTOCOL, "decrypt error" },
	{ 70, FAILURE_PROTOCOL, "protocol version" },
	{ 71, FAILURE_PROTOCOL, "insufficient security" },
	/* The broker has trouble of its own, which may pass. */
	{ 80, FAILURE_TIMEOUT, "internal error" },
	{ 86, FAILURE_PROTOCOL, "inappropriate fallback" },
	{ 90, FAILURE_TIMEOUT, "user canceled" },
	{ 109, FAILURE_PROTOCOL, "missing extension" },
	{ 110, FAILURE_PROTOCOL, "unsupported extension" },
	{ 112, FAILURE_PROTOCOL, "unrecognized name" },
	{ 113, FAILURE_AUTH, "bad certificate status response" },
	{ 115, FAILURE_AUTH, "unknown PSK identity" },
	{ 116, FAILURE_AUTH, "certificate required" },
	{ 120, FAILURE_PROTOCOL, "no application protocol" },
};

enum failure_class failure_of_tls_alert(
	unsigned alert, bool with_certificate, const char **ret_name)
{
	for (size_t i = 0; i < ARRAY_SIZE(tls_alerts); i++) {
		if (tls_alerts[i].alert != alert)
			continue;
		*ret_name = tls_alerts[i].name;
		if (alert == TLS_ALERT_HANDSHAKE_FAILURE && with_certificate)
			return FAILURE_AUTH;
		return tls_alerts[i].class;
	}
	*ret_name = "unknown alert";
	return FAILURE_PROTOCOL;
}

void failure_set(struct failure *f, enum failure_class class, const char *format, ...)
{
	va_list ap;

	f->class = class;
	va_start(ap, format);
	vsnprintf(f->text, sizeof(f->text), format, ap);
	va_end(ap);
}
