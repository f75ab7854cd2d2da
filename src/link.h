/* SPDX-License-Identifier: MIT */
/*
 * The link to one broker: the steps of an attempt to connect, and the session that comes of it. For
 * the uplink thread.
 *
 * An attempt goes through these steps; who asked for it keeps the deadline:
 *   1. resolve the broker's name;
 *   2. have the broker noted as unclean in `meta`, on disk, before anything is sent to it;
 *   3. if its session may hold remains of an earlier process or client object, end that session
 *      with one clean-session connect;
 *   4. connect with the session.
 *
 * Why step 3: libmosquitto's packet identifiers start again at 1 with each client object. A new
 * message on an identifier that an old QoS 2 exchange still holds in the broker's session would be
 * acknowledged and never delivered.
 */
#pragma once

#include <systemd/sd-event.h>

#include "config.h"
#include "failure.h"
#include "message.h"
#include "util.h"

struct link;

struct link_callbacks {
	/* Have the broker noted as unclean, durably, then call link_noted(). */
	void (*note)(void *userdata);
	/* A step is done that may have taken long for good reasons: the deadline starts over. */
	void (*step_done)(void *userdata);
	/* The session stands. */
	void (*connected)(void *userdata, unsigned receive_maximum);
	/* The attempt or the connection is over. */
	void (*failed)(void *userdata, const struct failure *failure);
	/* Closed after link_disconnect(). */
	void (*closed)(void *userdata);
	/* QoS 1 and 2 messages that the session may hold. Comes from inside the library. */
	unsigned (*inflight)(void *userdata);
	/* The client object and its session are given up, and with them all that was in flight. */
	void (*session_lost)(void *userdata);
	/* As in mqtt.h; `published` comes from inside the library. */
	void (*published)(void *userdata, uint16_t mid, unsigned reason);
	void (*progress)(void *userdata);
};

/*
 * `name` is what logs call the broker. `note` is what `meta` says of its session: NULL for nothing.
 * Borrows `config` and `name`. 0 or -errno.
 */
int link_new(struct link **ret, sd_event *event, const struct config *config, const char *name,
	const char *note, const struct link_callbacks *callbacks, void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct link *link_free(struct link *l);

/* The values of the note in `meta`. */
#define LINK_NOTE_CLEAN	  "clean"
#define LINK_NOTE_UNCLEAN "unclean"

void link_begin(struct link *l);
/* The note asked for is on disk. */
void link_noted(struct link *l);
/* Drops the attempt or the connection, without a callback. */
void link_abort(struct link *l);
/* Sends DISCONNECT and closes. */
void link_disconnect(struct link *l);

bool link_is_up(const struct link *l);
/* Whether the broker's session holds nothing of ours, so that it may be noted as clean. Given that
 * it was noted as unclean before; false if it was not. */
bool link_is_clean(const struct link *l);
/* What the attempt under way waits for. Static text. */
const char *link_waits_for(const struct link *l);

/* As mqtt_publish(). */
int link_publish(
	struct link *l, const struct message *m, int *ret_mid, const char **ret_text) _must_check_;
