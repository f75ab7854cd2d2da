/* SPDX-License-Identifier: MIT */
/*
 * One message on its way into the library: properties, the broker's limits. See mqtt_internal.h.
 */
#include <errno.h>
#include <limits.h>
#include <mqtt_protocol.h>
#include <poll.h>

#include "mqtt_internal.h"

#define NUMBER_SIZE 21 /* decimal of 64 bits, sign or NUL */

/* A PUBLISH is bound by four bytes of length (MQTT 5, 1.5.5). */
#define PACKET_MAX 268435455

struct properties {
	mosquitto_property *list;
	size_t size; /* bytes in the packet, without their length in front */
	bool failed;
};

static uint64_t magnitude(int64_t value)
{
	return value < 0 ? -(uint64_t)value : (uint64_t)value;
}

/* Twice a message: what printf() does besides costs more than the message's whole packet. */
static const char *decimal(char (*buf)[NUMBER_SIZE], uint64_t value, bool negative)
{
	size_t at = sizeof(*buf) - 1;

	(*buf)[at] = '\0';
	do {
		(*buf)[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	if (negative)
		(*buf)[--at] = '-';
	return *buf + at;
}

static void add_pair(struct properties *p, const char *name, const char *value)
{
	if (mosquitto_property_add_string_pair(&p->list, MQTT_PROP_USER_PROPERTY, name, value) !=
		MOSQ_ERR_SUCCESS)
		p->failed = true;
	p->size += 1 + 2 + strlen(name) + 2 + strlen(value);
}

static void make_properties(
	struct properties *p, const struct message *message, const struct mqtt_extras *extras)
{
	char number[NUMBER_SIZE];

	if (extras->expiry_sec) {
		if (mosquitto_property_add_int32(&p->list, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
			    extras->expiry_sec) != MOSQ_ERR_SUCCESS)
			p->failed = true;
		p->size += 1 + 4;
	}
	if (!extras->gateway_id)
		return;
	add_pair(p, "gw-id", extras->gateway_id);
	add_pair(p, "gw-queue", extras->queue_uuid);
	add_pair(p, "gw-seq", decimal(&number, message->id, false));
	add_pair(p, "gw-time",
		decimal(&number, magnitude(message->timestamp), message->timestamp < 0));
}

static size_t varint_size(size_t value)
{
	return value < 128 ? 1 : value < 16384 ? 2 : value < 2097152 ? 3 : 4;
}

/* MQTT 5, 2.1 and 3.3. */
static size_t packet_size(const struct mqtt *m, const struct message *message, size_t properties)
{
	size_t rest = 2 + message->topic_len + message->payload_len;

	if (message->qos)
		rest += 2;
	if (m->v5)
		rest += varint_size(properties) + properties;
	return 1 + varint_size(rest) + rest;
}

static int refuse(int rc, const char **ret_text)
{
	*ret_text = mosquitto_strerror(rc);
	switch (rc) {
	case MOSQ_ERR_NOMEM: return -ENOMEM;
	case MOSQ_ERR_OVERSIZE_PACKET:
	case MOSQ_ERR_PAYLOAD_SIZE: return -EMSGSIZE;
	case MOSQ_ERR_QOS_NOT_SUPPORTED: return -EOPNOTSUPP;
	default: return -EINVAL;
	}
}

/*
 * The library measures otherwise: a byte too few, and once more after it has taken the message, so
 * that one at the very limit would stay with it for ever, never sent. Of retained messages it drops
 * the flag without a word.
 */
static int check_limits(const struct mqtt *m, const struct message *message, size_t properties,
	const char **ret_text)
{
	size_t size = packet_size(m, message, properties);

	if (message->payload_len > INT_MAX || size > PACKET_MAX) {
		*ret_text = "larger than MQTT allows";
		return -EMSGSIZE;
	}
	if (m->limits.max_packet && size > m->limits.max_packet) {
		*ret_text = "larger than the broker's Maximum Packet Size";
		return -EMSGSIZE;
	}
	if (message->qos > m->limits.max_qos) {
		*ret_text = m->limits.max_qos ? "broker does not take QoS 2"
					      : "broker takes QoS 0 only";
		return -EOPNOTSUPP;
	}
	if (message->retain && !m->limits.retain_available) {
		*ret_text = "broker does not take retained messages";
		return -EOPNOTSUPP;
	}
	return 0;
}

/* --- what is in flight ----------------------------------------------------------------------- */

static bool has_bit(const uint64_t *bits, unsigned mid)
{
	return mid < MQTT_MIDS && bits[mid / 64] >> mid % 64 & 1;
}

bool mqtt_mid_is_unanswered(const struct mqtt *m, unsigned mid)
{
	return has_bit(m->unanswered, mid);
}

bool mqtt_mid_has_qos2(const struct mqtt *m, unsigned mid)
{
	return has_bit(m->qos2, mid);
}

void mqtt_mid_answered(struct mqtt *m, unsigned mid)
{
	uint64_t bit = UINT64_C(1) << mid % 64;

	if (mid >= MQTT_MIDS)
		return;
	m->n_qos2 -= mqtt_mid_has_qos2(m, mid);
	m->unanswered[mid / 64] &= ~bit;
	m->qos2[mid / 64] &= ~bit;
}

static void note_mid(struct mqtt *m, unsigned mid, unsigned qos)
{
	uint64_t bit = UINT64_C(1) << mid % 64;

	mqtt_mid_answered(m, mid);
	if (qos == 0 || mid >= MQTT_MIDS)
		return;
	m->unanswered[mid / 64] |= bit;
	if (qos == 2) {
		m->qos2[mid / 64] |= bit;
		m->n_qos2++;
	}
}

/* Nothing of the socket will reach the loop. */
static bool is_quiet(const struct mqtt *m)
{
	struct pollfd p = { .fd = m->fd, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

static int hand_over(struct mqtt *m, const struct message *message,
	const mosquitto_property *properties, int *ret_mid, const char **ret_text)
{
	int rc;

	/* The time the loop has is near enough, and costs nothing. */
	sd_event_now(m->event, CLOCK_MONOTONIC, &m->sent_usec);
	rc = mosquitto_publish_v5(m->mosq, ret_mid, message->topic, (int)message->payload_len,
		message->payload, message->qos, message->retain, properties);
	switch (rc) {
	case MOSQ_ERR_SUCCESS:
	/* Queued by then; the library has it whatever becomes of this connection. */
	case MOSQ_ERR_NO_CONN:
	case MOSQ_ERR_CONN_LOST:
	case MOSQ_ERR_ERRNO:
		note_mid(m, (unsigned)*ret_mid, message->qos);
		/* A broken socket shows by itself, broken TLS on a good one does not. */
		if (rc == MOSQ_ERR_ERRNO && m->tls && (m->tls->error || is_quiet(m)))
			mqtt_record_end(m, rc, 0);
		mqtt_watch_descriptor(m);
		return rc == MOSQ_ERR_SUCCESS ? 0 : 1;
	default: mqtt_watch_descriptor(m); return refuse(rc, ret_text);
	}
}

int mqtt_publish(struct mqtt *m, const struct message *message, const struct mqtt_extras *extras,
	int *ret_mid, const char **ret_text)
{
	struct properties p = { 0 };
	int r;

	if (extras && m->v5)
		make_properties(&p, message, extras);
	r = p.failed ? -ENOMEM : check_limits(m, message, p.size, ret_text);
	if (p.failed)
		*ret_text = "no memory for its properties";
	if (r == 0)
		r = hand_over(m, message, p.list, ret_mid, ret_text);
	mosquitto_property_free_all(&p.list);
	return r;
}

const char *mqtt_reason_to_string(unsigned reason)
{
	return mosquitto_reason_string((int)reason);
}
