/* SPDX-License-Identifier: MIT */
/*
 * Why an attempt or a connection ended, from what the library, TLS and the socket told. See
 * mqtt_internal.h.
 */
#include <errno.h>
#include <mqtt_protocol.h>
#include <stdio.h>

#include "mqtt_internal.h"

/* Bytes of a stranger's text that are quoted. */
#define SAID_MAX 80

/* How many bytes of `text`, valid UTF-8, are whole characters within `most`. */
static size_t whole(const char *text, size_t most)
{
	size_t n = strnlen(text, most + 1);

	if (n <= most)
		return n;
	for (n = most; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;)
		n--;
	return n;
}

/* Appends a string property; it is a stranger's text and goes to the log. */
static void note_property(
	struct mqtt *m, const mosquitto_property *properties, int id, const char *before)
{
	size_t used = strlen(m->said);
	char *text = NULL;

	if (!mosquitto_property_read_string(properties, id, &text, false) || !text)
		return;
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	snprintf(m->said + used, sizeof(m->said) - used, "%s \"%.*s\"", before,
		(int)whole(text, SAID_MAX), text);
	free(text);
}

void mqtt_note_reason(struct mqtt *m, const mosquitto_property *properties)
{
	m->said[0] = '\0';
	note_property(m, properties, MQTT_PROP_REASON_STRING, "; it says");
	note_property(m, properties, MQTT_PROP_SERVER_REFERENCE, "; it names the server");
}

static enum failure_class class_of_library_code(int code, bool up)
{
	switch (code) {
	case MOSQ_ERR_PROTOCOL:
	case MOSQ_ERR_MALFORMED_PACKET:
	case MOSQ_ERR_MALFORMED_UTF8:
	case MOSQ_ERR_OVERSIZE_PACKET: return FAILURE_PROTOCOL;
	default: return up ? FAILURE_HEARTBEAT : FAILURE_TIMEOUT;
	}
}

/* As well as the library lets us know. */
static void describe_mqtt(const struct mqtt *m, struct failure *f)
{
	if (m->up && m->over_code >= 0x80)
		failure_set(f, failure_of_disconnect((unsigned)m->over_code),
			"broker sent DISCONNECT 0x%02x: %s%s", (unsigned)m->over_code,
			mosquitto_reason_string(m->over_code), m->said);
	else if (m->up && m->over_code == MOSQ_ERR_SUCCESS)
		failure_set(f, FAILURE_HEARTBEAT, "broker ended the connection");
	else if (m->over_code == MOSQ_ERR_KEEPALIVE)
		failure_set(
			f, FAILURE_HEARTBEAT, "PINGREQ is not answered within mqtt.ack_timeout");
	else if (!m->up && (m->socket_error == ECONNRESET || m->socket_error == EPIPE))
		failure_set(f, FAILURE_TIMEOUT, "broker hung up before its CONNACK: %s",
			strerrordesc_np(m->socket_error));
	else if (m->socket_error)
		failure_set(f, m->up ? FAILURE_HEARTBEAT : FAILURE_TIMEOUT, "%s",
			strerrordesc_np(m->socket_error));
	else if (m->over_code == MOSQ_ERR_CONN_LOST ||
		/* What a TLS connection without a proper end gives. */
		(m->tls && m->over_code == MOSQ_ERR_ERRNO))
		failure_set(f, m->up ? FAILURE_HEARTBEAT : FAILURE_TIMEOUT, "%s",
			m->up ? "connection closed by the broker"
			      : "broker hung up before its CONNACK");
	else
		failure_set(f, class_of_library_code(m->over_code, m->up), "%s",
			mosquitto_strerror(m->over_code));
}

/* Whether the broker may have ended it over something we sent. */
static bool is_by_peer(const struct mqtt *m)
{
	if (!m->up)
		return false;
	if (m->over_code >= 0x80) {
		enum failure_class class = failure_of_disconnect((unsigned)m->over_code);

		return class == FAILURE_HEARTBEAT || class == FAILURE_PROTOCOL ||
			class == FAILURE_AUTH;
	}
	if (m->socket_error)
		return m->socket_error == ECONNRESET || m->socket_error == EPIPE;
	return m->over_code == MOSQ_ERR_CONN_LOST || m->over_code == MOSQ_ERR_SUCCESS ||
		(m->tls && m->over_code == MOSQ_ERR_ERRNO);
}

void mqtt_describe_end(const struct mqtt *m, struct mqtt_failure *f)
{
	f->phase = m->up ? MQTT_PHASE_UP : m->tcp_up ? MQTT_PHASE_CONNACK : MQTT_PHASE_TCP;
	f->by_peer = is_by_peer(m);
	if (m->fault[0]) {
		f->try_other_version = f->phase == MQTT_PHASE_CONNACK;
		f->strange_session = m->fault_in_delivery && !m->v5;
		failure_set(&f->failure, FAILURE_PROTOCOL, "%s", m->fault);
		return;
	}
	if (m->over_code == MOSQ_ERR_PROTOCOL && m->puback_for_qos2) {
		f->no_qos2 = true;
		failure_set(&f->failure, FAILURE_PROTOCOL,
			"broker does not know QoS 2: it answered a message of QoS 2 with PUBACK");
		return;
	}
	/* Before TCP stands, TLS can only have found fault with what is on this side. */
	if (m->tls && (m->tcp_up || m->tls->local[0]) &&
		mqtt_tls_describe(m->tls, m->up, m->socket_error, &f->failure))
		return;
	describe_mqtt(m, &f->failure);
	f->try_other_version = f->phase == MQTT_PHASE_CONNACK;
}

void mqtt_describe_refusal(const struct mqtt *m, struct mqtt_failure *f)
{
	bool v5_code = m->v5 && m->connack_code >= 0x80;

	f->phase = MQTT_PHASE_CONNACK;
	if (m->connack_code == 0) {
		failure_set(&f->failure, FAILURE_PROTOCOL, "broker sent a second CONNACK");
		return;
	}
	failure_set(&f->failure, failure_of_connack(m->v5, (unsigned)m->connack_code),
		"broker refused the connection with CONNACK 0x%02x: %s%s",
		(unsigned)m->connack_code,
		v5_code ? mosquitto_reason_string(m->connack_code)
			: mosquitto_connack_string(m->connack_code),
		m->said);
	f->try_other_version = m->v5 ? m->connack_code == MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION ||
			m->connack_code == CONNACK_REFUSED_PROTOCOL_VERSION
				     : m->connack_code == CONNACK_REFUSED_PROTOCOL_VERSION;
}
