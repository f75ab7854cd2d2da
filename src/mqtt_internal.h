/* SPDX-License-Identifier: MIT */
/*
 * The client object as the files of room `mqtt` share it. Nobody else includes this but its tests.
 *
 *   mqtt.c          the object, its descriptor on the loop, the library's callbacks
 *   mqtt_end.c      why a connection ended
 *   mqtt_message.c  one message -> the library
 *   mqtt_traffic.c  bytes carried, and whether they arrive
 *   mqtt_ping.c     when PINGREQ is due, and whether an unanswered one is a fault
 *   mqtt_intake.c   what comes, looked at before the library reads it
 *   mqtt_tls.c      OpenSSL; knows nothing of this struct
 */
#pragma once

#include <mosquitto.h>

#include "mqtt.h"
#include "mqtt_guard.h"
#include "mqtt_tls.h"

#define MQTT_RECEIVE_MAXIMUM_NONE 65535
#define MQTT_MIDS		  65536

struct mqtt {
	sd_event *event;
	struct mqtt_callbacks callbacks;
	void *userdata;
	struct mosquitto *mosq;
	struct mqtt_tls_state *tls; /* NULL = plain TCP */
	SSL_CTX *ssl_ctx; /* the library's; borrowed */
	bool v5;
	bool clean_session;
	uint16_t keepalive; /* seconds, of this connection */
	uint64_t ping_timeout_usec;
	bool listening; /* to the library's log */
	size_t log_prefix; /* bytes in front of what a line of the library's log says of us */

	struct mqtt_traffic *traffic; /* borrowed, or NULL */
	struct mqtt_traffic counted; /* of it, of this connection */

	sd_event_source *io;
	sd_event_source *tick; /* keepalive */
	sd_event_source *outcome; /* reports what happened outside the loop's own calls */
	int fd; /* the one `io` watches, or -1 */
	int socket_error; /* what SO_ERROR said last */
	bool tcp_up;
	bool up;
	bool closing; /* DISCONNECT was asked for */

	/* Recorded by the library's callbacks, taken by dispatch(). */
	bool connack_seen;
	int connack_code;
	int broker_keepalive; /* seconds, -1 = as configured */
	bool pingresp_seen;
	/* CLOCK_MONOTONIC; not later than the library has it, a little earlier does no harm. */
	uint64_t sent_usec; /* when the library last began to send a packet */
	uint64_t received_usec; /* ... or had read one */
	bool answered; /* a message was, in this call of the library */
	bool ping_pending; /* PINGREQ was sent and not answered yet */
	uint64_t ping_usec; /* since when nothing has moved it on */
	uint64_t ping_acked; /* bytes, as mqtt_progress has them */
	bool over;
	int over_code;
	bool puback_for_qos2; /* the last acknowledgement read */
	char said[200]; /* what the broker gave as a reason, for the end of a sentence */

	/* See mqtt_intake.c. */
	struct mqtt_guard guard;
	char fault[MQTT_GUARD_TEXT_MAX + 10]; /* what it found, "" = nothing */
	bool fault_in_delivery; /* it was a PUBLISH */
	bool blind; /* nothing is looked at */
	bool stepping; /* the library is to read one packet */
	size_t lost; /* bytes of acknowledgements that the library does not give back */
	unsigned packets; /* that it has read since it was told so */
	int lowat; /* of the socket: bytes before it can be read */
	size_t kept; /* TLS: bytes of a packet that is not whole, at the beginning of `in` */
	uint8_t in[2 * MQTT_GUARD_PACKET_MAX];

	struct mqtt_limits limits; /* those in force; see take_limits() */
	uint64_t unanswered[MQTT_MIDS /
		64]; /* identifiers of messages that the broker is to answer */
	uint64_t qos2[MQTT_MIDS / 64]; /* those among them of QoS 2 */
	unsigned n_qos2;
};

/* The library refused, or the connection ended: fills *f from what was recorded. */
void mqtt_describe_end(const struct mqtt *m, struct mqtt_failure *f);
void mqtt_describe_refusal(const struct mqtt *m, struct mqtt_failure *f);

/* Records what a CONNACK or DISCONNECT gives as a reason (MQTT 5, 3.2.2.3 and 3.14.2.2). */
void mqtt_note_reason(struct mqtt *m, const mosquitto_property *properties);

/* The library's log told so. */
void mqtt_ping_sent(struct mqtt *m);
void mqtt_ping_answered(struct mqtt *m);
/* Has the library send PINGREQ when it is time; MOSQ_ERR_KEEPALIVE when one stays unanswered. */
int mqtt_ping_check(struct mqtt *m);
/* When to check next, after `now`. UINT64_MAX: never, there is no keepalive. CLOCK_MONOTONIC. */
uint64_t mqtt_ping_wake_usec(const struct mqtt *m, uint64_t now);

/* For a new connection. */
void mqtt_intake_begin(struct mqtt *m);
/* The library can be read from, or the connection has ended: `events` of EPOLL*. What the broker
 * may not send ends the connection (mqtt_record_end()); else what the library returned. */
int mqtt_intake(struct mqtt *m, uint32_t events);
/* At the end of each callback of the library. */
void mqtt_intake_callback(struct mqtt *m);

bool mqtt_mid_is_unanswered(const struct mqtt *m, unsigned mid);
bool mqtt_mid_has_qos2(const struct mqtt *m, unsigned mid);
/* The exchange with this identifier is over. */
void mqtt_mid_answered(struct mqtt *m, unsigned mid);

/* To the library's log; what it costs is told in mqtt.c. Not in a callback of the library. */
void mqtt_listen(struct mqtt *m, bool wanted);

/* Call after every call into the library that may write, read, open or close. */
void mqtt_watch_descriptor(struct mqtt *m);
/* Have the connection reported as failed, unless something else was recorded already. */
void mqtt_record_end(struct mqtt *m, int code, int error);
