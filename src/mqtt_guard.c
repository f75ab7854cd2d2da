/* SPDX-License-Identifier: MIT */
/*
 * A broker's packets, one by one: see mqtt_guard.h. Sections are those of MQTT 5 where no other
 * version is named.
 *
 * Must not know: the library, sockets, what becomes of a connection.
 */
#include "mqtt_guard.h"

#include <stdarg.h>
#include <stdio.h>

/* Table 2-1. */
enum type {
	CONNACK = 2,
	PUBLISH = 3,
	PUBACK = 4,
	PUBREC = 5,
	PUBREL = 6,
	PUBCOMP = 7,
	SUBACK = 9,
	UNSUBACK = 11,
	PINGRESP = 13,
	DISCONNECT = 14,
	AUTH = 15,
};

/* What the library holds and answers for a broker, beyond what an honest one asks for. */
#define UNRELEASED_MAX 1024
#define UNASKED_MAX    100
#define ANSWERS_MAX    65535 /* as many as there are packet identifiers */

#define QUOTED_MAX 24 /* bytes of a stranger's */

/* What a property's value is (2.2.2.2). */
enum value { NO_PROPERTY, BYTE, TWO, FOUR, VARINT, BINARY, TEXT, PAIR };

#define IN(type) (1U << (type))
#define ACKS	 (IN(PUBACK) | IN(PUBREC) | IN(PUBREL) | IN(PUBCOMP))

/* Table 2-4, without what only a client sends. */
static const struct {
	uint8_t value;
	uint16_t types;
} properties[] = {
	[0x01] = { BYTE, IN(PUBLISH) },
	[0x02] = { FOUR, IN(PUBLISH) },
	[0x03] = { TEXT, IN(PUBLISH) },
	[0x08] = { TEXT, IN(PUBLISH) },
	[0x09] = { BINARY, IN(PUBLISH) },
	[0x0b] = { VARINT, IN(PUBLISH) },
	[0x11] = { FOUR, IN(CONNACK) | IN(DISCONNECT) },
	[0x12] = { TEXT, IN(CONNACK) },
	[0x13] = { TWO, IN(CONNACK) },
	[0x15] = { TEXT, IN(CONNACK) },
	[0x16] = { BINARY, IN(CONNACK) },
	[0x1a] = { TEXT, IN(CONNACK) },
	[0x1c] = { TEXT, IN(CONNACK) | IN(DISCONNECT) },
	[0x1f] = { TEXT, IN(CONNACK) | IN(DISCONNECT) | ACKS },
	[0x21] = { TWO, IN(CONNACK) },
	[0x22] = { TWO, IN(CONNACK) },
	[0x23] = { TWO, IN(PUBLISH) },
	[0x24] = { BYTE, IN(CONNACK) },
	[0x25] = { BYTE, IN(CONNACK) },
	[0x26] = { PAIR, IN(CONNACK) | IN(PUBLISH) | IN(DISCONNECT) | ACKS },
	[0x27] = { FOUR, IN(CONNACK) },
	[0x28] = { BYTE, IN(CONNACK) },
	[0x29] = { BYTE, IN(CONNACK) },
	[0x2a] = { BYTE, IN(CONNACK) },
};

#define NO_SUBSCRIBERS	0x10 /* a success, too */
#define USER_PROPERTY	0x26
#define SUBSCRIPTION_ID 0x0b

struct packet {
	unsigned type;
	unsigned flags;
	const uint8_t *at; /* what is not read yet of it ... */
	size_t left; /* ... and how much that is */
	char *text; /* for a fault */
};

static const char *name_of(unsigned type)
{
	static const char *const names[16] = { "packet of type 0", "CONNECT", "CONNACK", "PUBLISH",
		"PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE",
		"UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH" };

	return names[type & 15];
}

static _printf_(2, 3) bool fault(char *text, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, MQTT_GUARD_TEXT_MAX, format, ap);
	va_end(ap);
	return false;
}

/* --- the parts of a packet ---------------------------------------------------------------------
 */

static bool skip(struct packet *p, size_t n)
{
	if (n > p->left)
		return fault(p->text, "sent a %s that ends inside a field", name_of(p->type));
	p->at += n;
	p->left -= n;
	return true;
}

static bool take_byte(struct packet *p, unsigned *ret)
{
	const uint8_t *at = p->at;

	if (!skip(p, 1))
		return false;
	*ret = *at;
	return true;
}

static bool take_two(struct packet *p, unsigned *ret)
{
	const uint8_t *at = p->at;

	if (!skip(p, 2))
		return false;
	*ret = (unsigned)at[0] << 8 | at[1];
	return true;
}

/* 1.5.5 */
static bool take_varint(struct packet *p, size_t *ret)
{
	size_t value = 0;
	unsigned byte;

	for (unsigned shift = 0; shift < 28; shift += 7) {
		if (!take_byte(p, &byte))
			return false;
		value |= (size_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret = value;
			return true;
		}
	}
	return fault(p->text, "sent a %s with a number of more than four bytes", name_of(p->type));
}

/* Text or bytes behind their length (1.5.4, 1.5.6). */
static bool skip_counted(struct packet *p)
{
	unsigned len;

	return take_two(p, &len) && skip(p, len);
}

static bool skip_value(struct packet *p, enum value value)
{
	size_t number;

	switch (value) {
	case BYTE: return skip(p, 1);
	case TWO: return skip(p, 2);
	case FOUR: return skip(p, 4);
	case VARINT: return take_varint(p, &number);
	case PAIR: return skip_counted(p) && skip_counted(p);
	default: return skip_counted(p);
	}
}

/* One property. The identifier is a number of variable length, though none needs a second byte. */
static bool check_property(struct packet *p, uint64_t *seen)
{
	size_t id;

	if (!take_varint(p, &id))
		return false;
	if (id >= ARRAY_SIZE(properties) || properties[id].value == NO_PROPERTY)
		return fault(p->text,
			"sent a %s with the property 0x%02zx, which MQTT 5 does not "
			"let a broker send",
			name_of(p->type), id);
	if (!(properties[id].types & IN(p->type)))
		return fault(p->text, "sent a %s with the property 0x%02zx, which is none of its",
			name_of(p->type), id);
	if (*seen & UINT64_C(1) << id && id != USER_PROPERTY && id != SUBSCRIPTION_ID)
		return fault(
			p->text, "sent a %s with the property 0x%02zx twice", name_of(p->type), id);
	*seen |= UINT64_C(1) << id;
	return skip_value(p, (enum value)properties[id].value);
}

/* Properties and their length in front (2.2.2); leaves what follows them. */
static bool check_properties(struct packet *p)
{
	struct packet block = *p;
	uint64_t seen = 0;
	size_t len;

	if (!take_varint(p, &len))
		return false;
	block.at = p->at;
	block.left = len;
	if (!skip(p, len))
		return false;
	while (block.left > 0)
		if (!check_property(&block, &seen))
			return false;
	return true;
}

static bool check_end(const struct packet *p)
{
	if (p->left > 0)
		return fault(
			p->text, "sent a %s that is %zu bytes too long", name_of(p->type), p->left);
	return true;
}

/* --- packets -----------------------------------------------------------------------------------
 */

static bool check_connack(const struct mqtt_guard *g, struct packet *p)
{
	if (g->connack)
		return fault(p->text, "sent a second CONNACK");
	if (!skip(p, 2))
		return false;
	/* A broker that does not know MQTT 5 may say so with a CONNACK of 3.1.1. */
	if (g->v5 && p->left > 0 && !check_properties(p))
		return false;
	return check_end(p);
}

/*
 * 3.4, 3.5, 3.6 and 3.7: what is left out stands for success, and for no properties. A reason code
 * below 0x80 would have the message counted as delivered (2.4), so it must be one there is; those
 * above refuse it, whichever they are.
 */
static bool check_acknowledgement(const struct mqtt_guard *g, struct packet *p)
{
	bool to_publish = p->type == PUBACK || p->type == PUBREC;
	unsigned reason = 0;

	if (!skip(p, 2))
		return false;
	if (g->v5 && p->left > 0 && !take_byte(p, &reason))
		return false;
	if (reason < 0x80 && reason != 0 && !(to_publish && reason == NO_SUBSCRIBERS))
		return fault(p->text, "sent a %s with the reason code 0x%02x, which there is not",
			name_of(p->type), reason);
	if (g->v5 && p->left > 0 && !check_properties(p))
		return false;
	return check_end(p);
}

/*
 * Nothing was subscribed to; but whoever used this client id before may have left a subscription in
 * its session. Such a message is passed over.
 */
static bool check_publish(const struct mqtt_guard *g, struct packet *p)
{
	unsigned qos = p->flags >> 1 & 3;

	if (qos == 3)
		return fault(p->text, "sent a PUBLISH of QoS 3");
	if (!skip_counted(p) || (qos > 0 && !skip(p, 2)))
		return false;
	return !g->v5 || check_properties(p);
}

static bool check_disconnect(const struct mqtt_guard *g, struct packet *p)
{
	if (!g->v5)
		return fault(p->text, "sent a DISCONNECT, which MQTT 3.1.1 leaves to clients");
	if (p->left > 0 && !skip(p, 1))
		return false;
	if (p->left > 0 && !check_properties(p))
		return false;
	return check_end(p);
}

/* 2.1.3 */
static bool check_flags(const struct packet *p)
{
	if (p->type != PUBLISH && p->flags != (p->type == PUBREL ? 2 : 0))
		return fault(p->text, "sent a %s with the flags 0x%x", name_of(p->type), p->flags);
	return true;
}

/* What is known as soon as the first byte is there. */
static bool check_type(const struct packet *p)
{
	switch (p->type) {
	case CONNACK:
	case PUBLISH:
	case PUBACK:
	case PUBREC:
	case PUBREL:
	case PUBCOMP:
	case PINGRESP:
	case DISCONNECT: return check_flags(p);
	case SUBACK:
	case UNSUBACK:
		return fault(
			p->text, "sent a %s, though nothing was subscribed to", name_of(p->type));
	case AUTH: return fault(p->text, "sent an AUTH, though no such exchange was asked for");
	default: return fault(p->text, "sent a %s", name_of(p->type));
	}
}

/* The first packet is CONNACK (3.2, 3.2.1 of 3.1.1); what else there may be is told by its bytes.
 */
static bool check_first(const uint8_t *data, size_t len, char *text)
{
	size_t n = size_min(len, QUOTED_MAX), legible = 0, used;

	if (data[0] == CONNACK << 4)
		return true;
	while (legible < n && data[legible] >= ' ' && data[legible] <= '~')
		legible++;
	if (legible > 0 && (legible == n || data[legible] == '\r' || data[legible] == '\n'))
		return fault(text, "does not speak MQTT: it begins with \"%.*s\"", (int)legible,
			(const char *)data);
	n = size_min(n, 8);
	used = (size_t)snprintf(
		text, MQTT_GUARD_TEXT_MAX, "does not begin with CONNACK, but with the bytes");
	for (size_t i = 0; i < n; i++)
		used += (size_t)snprintf(text + used, MQTT_GUARD_TEXT_MAX - used, " %02x", data[i]);
	return false;
}

static bool check_body(const struct mqtt_guard *g, struct packet *p)
{
	switch (p->type) {
	case CONNACK: return check_connack(g, p);
	case PUBLISH: return check_publish(g, p);
	case PINGRESP: return check_end(p);
	case DISCONNECT: return check_disconnect(g, p);
	default: return check_acknowledgement(g, p);
	}
}

/* Whether the library can bear one more of its kind. */
static bool check_count(const struct mqtt_guard *g, const struct packet *p)
{
	if (p->type == PINGRESP && g->unasked >= UNASKED_MAX)
		return fault(p->text, "answers PINGREQs that were never sent");
	if (p->type == PUBLISH && (p->flags >> 1 & 3) == 2 && g->unreleased >= UNRELEASED_MAX)
		return fault(p->text, "sends messages of QoS 2 without releasing any");
	if (g->answers >= ANSWERS_MAX)
		return fault(p->text, "asks for more answers than it reads");
	return true;
}

static void count(struct mqtt_guard *g, const struct packet *p)
{
	unsigned qos = p->flags >> 1 & 3;

	switch (p->type) {
	case CONNACK: g->connack = true; break;
	case PINGRESP: g->unasked++; break;
	case PUBLISH:
		g->answers += qos > 0;
		g->unreleased += qos == 2;
		break;
	case PUBREL:
		g->answers++;
		g->unreleased -= g->unreleased > 0;
		break;
	case PUBREC: g->answers++; break;
	default: break;
	}
}

/*
 * The fixed header (2.1). True: *ret_left bytes of the packet follow *ret_header ones, or neither
 * is known yet and *ret_header is 0.
 */
static bool take_header(
	const uint8_t *data, size_t len, size_t *ret_header, size_t *ret_left, char *text)
{
	size_t left = 0;

	*ret_header = 0;
	for (size_t i = 1; i < len; i++) {
		left |= (size_t)(data[i] & 0x7f) << 7 * (i - 1);
		if (!(data[i] & 0x80)) {
			*ret_header = i + 1;
			*ret_left = left;
			break;
		}
		if (i == 4)
			return fault(text, "sent a %s whose length has more than four bytes",
				name_of(data[0] >> 4));
	}
	if (*ret_header + left > MQTT_GUARD_PACKET_MAX && *ret_header > 0)
		return fault(text, "sent a %s of %zu bytes; %d are the most it may have",
			name_of(data[0] >> 4), *ret_header + left, MQTT_GUARD_PACKET_MAX);
	return true;
}

enum mqtt_guard_verdict mqtt_guard_look(struct mqtt_guard *g, const uint8_t *data, size_t len,
	size_t *ret_size, char text[MQTT_GUARD_TEXT_MAX])
{
	struct packet p = { .type = data[0] >> 4, .flags = data[0] & 15, .text = text };
	size_t header;

	if (!g->connack && !check_first(data, len, text))
		return MQTT_GUARD_FAULT;
	if (!check_type(&p) || !take_header(data, len, &header, &p.left, text))
		return MQTT_GUARD_FAULT;
	if (header == 0 || header + p.left > len) {
		*ret_size = header ? header + p.left : len + 1;
		return MQTT_GUARD_PART;
	}
	*ret_size = header + p.left;
	p.at = data + header;
	if (!check_count(g, &p) || !check_body(g, &p))
		return MQTT_GUARD_FAULT;
	count(g, &p);
	return MQTT_GUARD_WHOLE;
}

bool mqtt_guard_is_lengthy(const uint8_t *data, size_t size, uint16_t *ret_mid)
{
	unsigned type = data[0] >> 4;
	size_t header = 2;

	if (type != PUBACK && type != PUBREL && type != PUBCOMP)
		return false;
	while (data[header - 1] & 0x80)
		header++;
	if (size < header + 2 + 1 + 2) /* identifier, reason, an empty list is one byte */
		return false;
	*ret_mid = 0;
	if (type != PUBREL)
		*ret_mid = (uint16_t)(data[header] << 8 | data[header + 1]);
	return true;
}

void mqtt_guard_ping(struct mqtt_guard *g)
{
	if (g->unasked > 0)
		g->unasked--;
}
