/* SPDX-License-Identifier: MIT */
/*
 * TLS of one client object: what OpenSSL is told before a connection and what it tells about its
 * end. A part of room `mqtt`; the only user of OpenSSL.
 *
 * Must not know: MQTT, the loop, libmosquitto.
 */
#pragma once

#include <openssl/ssl.h>

#include "failure.h"
#include "mqtt.h"
#include "util.h"

struct mqtt_tls_state {
	struct mqtt_tls settings; /* own copies */
	char *host; /* whom the certificate must name, and SNI */
	/* What this connection was told so far; zeroed by mqtt_tls_begin(). */
	bool secured; /* the handshake is done, as far as this side knows */
	bool held; /* nothing is read */
	unsigned alert; /* fatal one from the broker, 0 = none */
	long verify; /* why the broker's certificate was refused, or X509_V_OK */
	unsigned long error; /* OpenSSL's first error, 0 = none */
	char local[160]; /* what is wrong on this side, "" = nothing */
};

/* 0 or -ENOMEM. */
int mqtt_tls_new(struct mqtt_tls_state **ret, const struct mqtt_tls *settings) _must_check_;
/* Takes NULL, returns NULL. */
struct mqtt_tls_state *mqtt_tls_free(struct mqtt_tls_state *t);

/*
 * For a new connection to `host`, a name or a numeric address. The files are read anew each time,
 * so that renewed certificates are taken without a restart. Returns the context, to be freed by the
 * caller; it points to *t. NULL: `t->local` says why.
 */
SSL_CTX *mqtt_tls_begin(struct mqtt_tls_state *t, const char *host);
/*
 * Call when the library has returned from connecting. Before it nothing is read of what the broker
 * sends: else the library, on a fast network, may end the handshake and write its CONNECT in the
 * same call. When that write fails because the broker has refused our certificate, the library
 * throws the refusal away unread.
 */
void mqtt_tls_go_on(struct mqtt_tls_state *t);
/* Nothing more is read for `ssl`, beyond what OpenSSL holds already, until mqtt_tls_go_on(). */
void mqtt_tls_hold(struct mqtt_tls_state *t, const SSL *ssl);

/* A line of libmosquitto's log at level error, while the library still holds `ssl` (may be NULL).
 */
void mqtt_tls_note(struct mqtt_tls_state *t, const SSL *ssl, const char *text);
/* An error of OpenSSL's on `ssl`; the first one counts. */
void mqtt_tls_note_error(struct mqtt_tls_state *t, const SSL *ssl, unsigned long error);

/*
 * Why the connection ended, if TLS has to do with it: true and *f is filled. `up`: it had its
 * CONNACK. `error`: the socket's error or 0.
 */
bool mqtt_tls_describe(const struct mqtt_tls_state *t, bool up, int error, struct failure *f);
