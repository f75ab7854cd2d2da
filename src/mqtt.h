/* SPDX-License-Identifier: MIT */
/*
 * One MQTT client object of libmosquitto on an sd-event loop. The only user of mosquitto.h.
 *
 * Everything happens on the thread that runs the loop. Outcomes are always reported from the loop,
 * never from inside a call of this interface, and after the library has returned; those callbacks
 * may free the object. `session` and `published` come from inside the library and may call nothing
 * of this interface.
 */
#pragma once

#include <systemd/sd-event.h>

#include "failure.h"
#include "message.h"
#include "util.h"

struct mqtt;

struct mqtt_tls {
	const char *ca_file; /* "" both: the system's certificates */
	const char *ca_path;
	const char *cert_file; /* "" = no client certificate */
	const char *key_file;
	const char *alpn; /* "" = none */
	bool insecure; /* neither the certificate nor its name is checked */
};

struct mqtt_will {
	const char *topic;
	const char *payload;
	uint8_t qos;
	bool retain;
};

/*
 * Bytes of MQTT that TCP has carried over, as the kernel counts them: what was sent once, without
 * what TCP sent again, and without its headers; with TLS its records, which are what a metered link
 * carries. Left out is what the library writes in the very call that closes a connection:
 * DISCONNECT, mostly.
 */
struct mqtt_traffic {
	uint64_t out, in;
};

struct mqtt_params {
	const char *client_id;
	const char *username; /* "" = none */
	const char *password; /* "" = none */
	const struct mqtt_tls *tls; /* NULL = plain TCP */
	const struct mqtt_will *will; /* NULL = none */
	uint16_t keepalive; /* seconds; 0 = off */
	uint64_t ping_timeout_usec; /* for an answer to PINGREQ; 0 = the keepalive */
	bool v5; /* MQTT 5, else 3.1.1 */
	/* Begin without a session and leave none behind; else go on with the one the broker has,
	 * and have it kept for ever (MQTT 5: session expiry 0xFFFFFFFF). */
	bool clean_session;
	struct mqtt_traffic *traffic; /* borrowed; added to, also in mqtt_free(). NULL = nobody asks
				       */
};

/* How far the connection had come when it failed. */
enum mqtt_phase {
	MQTT_PHASE_TCP, /* no TCP connection yet */
	MQTT_PHASE_CONNACK, /* waiting for CONNACK */
	MQTT_PHASE_UP,
};

struct mqtt_failure {
	struct failure failure;
	enum mqtt_phase phase;
	/* The broker refused the protocol version, or hung up before its CONNACK. */
	bool try_other_version;
	/* The broker answered a QoS 2 PUBLISH with PUBACK: it knows no QoS 2, and the library will
	 * go on sending that message until the object is freed. */
	bool no_qos2;
	/* The broker delivered a message larger than we take, over MQTT 3.1.1, where it cannot be
	 * told not to. Nothing was subscribed to: a subscription of somebody else's is in the
	 * session. */
	bool strange_session;
	/* The peer ended it (FIN, RST, or a DISCONNECT that blames us), it was not just silent. */
	bool by_peer;
};

/*
 * What the broker's CONNACK says of the connection (MQTT 5, 3.2.2.3). A Maximum QoS or Maximum
 * Packet Size that an earlier connection of the object was told stands until another one is named:
 * the library keeps to it. A new object is free of it.
 */
struct mqtt_limits {
	unsigned receive_maximum; /* 65,535 when the broker names none */
	uint32_t max_packet; /* bytes; 0 = no bound */
	uint8_t max_qos;
	bool retain_available;
};

/* How far what was sent has come. */
struct mqtt_progress {
	uint64_t acked_bytes; /* of this connection, acknowledged by the peer's TCP */
	bool unsent; /* bytes wait here: in the library, or unacknowledged in the kernel */
};

struct mqtt_callbacks {
	/* A CONNACK accepts the connection. The library sends again what was in flight right after
	 * this call, and acknowledgements of that may come before `connected`; false keeps it from
	 * sending anything more on this connection. May be NULL. */
	bool (*session)(void *userdata, bool present);
	/* The connection stands. */
	void (*connected)(void *userdata, const struct mqtt_limits *limits);
	/* The attempt or the connection is over; the object may connect again. */
	void (*failed)(void *userdata, const struct mqtt_failure *failure);
	/* The connection is closed after mqtt_disconnect(). */
	void (*closed)(void *userdata);
	/* The broker answered for this packet identifier (QoS 0: it was written). Reason codes of
	 * 0x80 and above refuse it. May be NULL. */
	void (*published)(void *userdata, uint16_t mid, unsigned reason);
	/* Something arrived or left, and what `published` told may be acted on. May be NULL. */
	void (*progress)(void *userdata);
	/* PINGRESP came: the broker lives, and takes what it got so far. May be NULL. */
	void (*alive)(void *userdata);
};

/* Around all use, while no other thread is inside the library. */
void mqtt_library_init(void);
void mqtt_library_cleanup(void);

/* Strings are copied. 0 or -errno. */
int mqtt_new(struct mqtt **ret, sd_event *event, const struct mqtt_params *params,
	const struct mqtt_callbacks *callbacks, void *userdata) _must_check_;
/* Drops the connection without DISCONNECT. Takes NULL, returns NULL. */
struct mqtt *mqtt_free(struct mqtt *m);

/*
 * Starts to connect to a numeric address of `host`; nothing is looked up. With TLS the certificate
 * has to be for `host`, and the files of mqtt_tls are read anew. `keepalive`: seconds, for this
 * connection; see mqtt_params. What was in flight on this object is sent again by the library
 * inside the read that brings the CONNACK. There is no deadline but the caller's.
 */
void mqtt_connect(
	struct mqtt *m, const char *host, const char *address, uint16_t port, uint16_t keepalive);
/* Drops the connection or the attempt without DISCONNECT and without a callback. What is in flight
 * stays with the object. */
void mqtt_abort(struct mqtt *m);
/* Sends DISCONNECT and closes. `with_will` (MQTT 5 only): reason 0x04, the broker publishes the
 * will. */
void mqtt_disconnect(struct mqtt *m, bool with_will);
bool mqtt_is_up(const struct mqtt *m);
/* Never fails; zeros without a connection. */
void mqtt_get_progress(const struct mqtt *m, struct mqtt_progress *ret);

/* Counts what was carried so far into mqtt_params.traffic; for what was sent since the last event
 * of the connection, each of which does so by itself. Takes NULL. */
void mqtt_count_traffic(struct mqtt *m);

/* What a reason code of MQTT 5 says. Static text. */
const char *mqtt_reason_to_string(unsigned reason);

/* What goes along with a message; MQTT 5 only, ignored with 3.1.1. */
struct mqtt_extras {
	const char *gateway_id; /* gw-id; NULL = no provenance */
	const char
		*queue_uuid; /* gw-queue; gw-seq and gw-time are the message's id and timestamp */
	uint32_t expiry_sec; /* message expiry interval; 0 = none */
};

/*
 * Hands a message to the library, which copies it. `extras` may be NULL. `*ret_mid` is set before
 * `published` can come, which for QoS 0 may be inside this call. 0: on its way. 1: taken, but the
 * connection is breaking; the library sends it on the next one, except QoS 0. -EINVAL, -EMSGSIZE,
 * -EOPNOTSUPP, -ENOMEM: not taken, *ret_text (static) says why.
 */
int mqtt_publish(struct mqtt *m, const struct message *message, const struct mqtt_extras *extras,
	int *ret_mid, const char **ret_text) _must_check_;
