/* SPDX-License-Identifier: MIT */
/*
 * The client object as the files of room `mqtt` share it. Nobody else includes this but its tests.
 *
 *   mqtt.c          the object, its descriptor on the loop, the library's callbacks
 *   mqtt_end.c      why a connection ended
 *   mqtt_message.c  one message -> the library
 *   mqtt_traffic.c  bytes carried, and whether they arrive
 *   mqtt_ping.c     when PINGREQ is due, and whether an unanswered one is a fault
 *   mqtt_tls.c      OpenSSL; knows nothing of this struct
 */
#pragma once

#include <mosquitto.h>

#include "mqtt.h"
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
	uint64_t sent_usec; /* when the library last began to send a packet; CLOCK_MONOTONIC */
	uint64_t received_usec; /* ... or had read one */
	bool ping_pending; /* PINGREQ was sent and not answered yet */
	uint64_t ping_usec; /* since when nothing has moved it on */
	uint64_t ping_acked; /* bytes, as mqtt_progress has them */
	bool over;
	int over_code;
	bool puback_for_qos2; /* the last acknowledgement read */
	char said[200]; /* what the broker gave as a reason, for the end of a sentence */

	struct mqtt_limits limits; /* those in force; see take_limits() */
	uint64_t qos2[MQTT_MIDS / 64]; /* identifiers whose last message had QoS 2 */
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

bool mqtt_mid_has_qos2(const struct mqtt *m, unsigned mid);

/* Call after every call into the library that may write, read, open or close. */
void mqtt_watch_descriptor(struct mqtt *m);
/* Have the connection reported as failed, unless something else was recorded already. */
void mqtt_record_end(struct mqtt *m, int code, int error);
