/* SPDX-License-Identifier: MIT */
/*
 * Whether what a broker sends is MQTT, and something a broker may send to a client that only
 * publishes: looked at before libmosquitto reads it. Pure.
 *
 * The library takes a broker's word for much. It allocates what the length of a packet announces,
 * up to 256 MB, and of 2.0.11 (Debian 12) it ends the process by an assertion when it meets an
 * unknown property (property__read() logs that without a client object). Others of its answers are
 * queued without bound for a broker that does not read them.
 *
 * What the library answers well by itself (ill-formed text, values out of range) is left to it.
 */
#pragma once

#include "util.h"

/*
 * Bytes of a packet with its header; announced as Maximum Packet Size (MQTT 5, 3.1.2.11.4). Nothing
 * but acknowledgements is due to a publisher.
 */
#define MQTT_GUARD_PACKET_MAX 16384
/* Bytes, at most, of a fault's text. */
#define MQTT_GUARD_TEXT_MAX 160

/* Begins zeroed for each connection, but for `v5`. */
struct mqtt_guard {
	bool v5;
	bool connack; /* it has come */
	unsigned unreleased; /* QoS 2 messages to us that wait for their PUBREL */
	unsigned unasked; /* PINGRESPs more than PINGREQs */
	/* Packets that the library answers, since the last time when all it had written was gone.
	 * For the caller to put back to 0, and to take off it those whose answer was read. */
	unsigned answers;
};

enum mqtt_guard_verdict {
	MQTT_GUARD_WHOLE, /* a whole packet */
	MQTT_GUARD_PART, /* the beginning of one */
	MQTT_GUARD_FAULT,
};

/*
 * Looks at the packet that begins at `data`; `len` is above 0. *ret_size: WHOLE, its bytes; PART,
 * how many bytes are needed at least to go on, more than `len` and at most MQTT_GUARD_PACKET_MAX;
 * FAULT, unset, and `text` says what is wrong, of the broker ("sent ..."). Only WHOLE changes *g.
 */
enum mqtt_guard_verdict mqtt_guard_look(struct mqtt_guard *g, const uint8_t *data, size_t len,
	size_t *ret_size, char text[MQTT_GUARD_TEXT_MAX]) _must_check_;

/*
 * Whether a whole packet is PUBACK, PUBREL or PUBCOMP with properties. True: *ret_mid is the
 * message of ours that it is about; 0: none of ours.
 */
bool mqtt_guard_is_lengthy(const uint8_t *data, size_t size, uint16_t *ret_mid);

/* A PINGREQ is on its way. */
void mqtt_guard_ping(struct mqtt_guard *g);
