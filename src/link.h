/* SPDX-License-Identifier: MIT */
/*
 * The link to one broker: the steps of an attempt to connect, and the session that comes of it. For
 * the uplink thread. It lives as long as the uplink stays with that broker.
 *
 * An attempt goes through these steps; who asked for it keeps the deadline:
 *   1. resolve the broker's name;
 *   2. have the broker noted as unclean in `meta`, on disk, before anything is sent to it;
 *   3. if its session may hold remains of an earlier process or client object, end that session
 *      with one clean-session connect;
 *   4. connect with the session.
 * With mqtt.clean_session there is nothing to note or to end.
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
#include "mqtt.h"
#include "util.h"

struct link;

/* What was learnt about a broker, for as long as the process lives. */
struct link_memory {
	bool settled; /* a connection has stood with the version in `v311` */
	bool v311; /* MQTT 3.1.1, not 5 */
	bool no_qos2; /* answers QoS 2 with less */
	unsigned address; /* with which of its addresses to begin, modulo their number */
};

struct link_params {
	const struct config *config; /* borrowed */
	const struct config_broker *broker; /* copied */
	const char *name; /* HOST:PORT; copied */
	const char *queue_uuid; /* copied */
	const char *note; /* what `meta` says of its session: NULL for nothing */
	struct link_memory *memory; /* borrowed */
	struct mqtt_traffic *traffic; /* borrowed; NULL = nobody asks */
	/* Only see whether the broker takes us, with a client id of its own that takes nobody over;
	 * `connected` comes, then `closed`. */
	bool probe;
};

struct link_callbacks {
	/* Have the broker noted as unclean, durably, then call link_noted(). NULL for a probe, as
	 * all below up to `published`. */
	void (*note)(void *userdata);
	/* A step is done that may have taken long for good reasons: the deadline starts over. */
	void (*step_done)(void *userdata);
	/* QoS 1 and 2 messages that the session may hold. Comes from inside the library. */
	unsigned (*inflight)(void *userdata);
	/* The client object and its session are given up, and with them all that was in flight. */
	void (*session_lost)(void *userdata);
	/* As in mqtt.h; `published` comes from inside the library. */
	void (*published)(void *userdata, uint16_t mid, unsigned reason);
	void (*progress)(void *userdata);
	void (*alive)(void *userdata);

	/* The session stands. `max_qos`: the broker's. */
	void (*connected)(void *userdata, unsigned receive_maximum, uint8_t max_qos);
	/* The attempt or the connection is over. `closed`: by the peer's will. */
	void (*failed)(void *userdata, const struct failure *failure, bool closed);
	/* Closed after link_disconnect(). */
	void (*closed)(void *userdata);
	/* Whether what a connection brings with it is not worth a line above `debug`, since there
	 * were too many of them lately. */
	bool (*is_quiet)(void *userdata);
};

/* 0 or -errno. */
int link_new(struct link **ret, sd_event *event, const struct link_params *params,
	const struct link_callbacks *callbacks, void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct link *link_free(struct link *l);

/* The values of the note in `meta`. */
#define LINK_NOTE_CLEAN	  "clean"
#define LINK_NOTE_UNCLEAN "unclean"

/* `sign_of_life`: the broker shall be asked for one as soon as it is idle, see
 * mqtt_callbacks.alive.
 */
void link_begin(struct link *l, bool sign_of_life);
/* The note asked for is on disk. */
void link_noted(struct link *l);
/* Drops the attempt or the connection, without a callback. */
void link_abort(struct link *l);
/* The next connection begins without what is in flight now. */
void link_give_up_session(struct link *l);
/* With a will and MQTT 3.1.1: publishes its payload, as the last message of all. */
void link_farewell(struct link *l);
/* Sends DISCONNECT and closes; with a will and MQTT 5, the broker publishes it. */
void link_disconnect(struct link *l);

/* False for NULL. */
bool link_is_up(const struct link *l);
/* Whether messages of the link's own, birth and will, are still to be acknowledged. */
bool link_is_busy(const struct link *l);
/* Whether the broker's session holds nothing of ours, so that it may be noted as clean. Given that
 * it was noted as unclean before; false if it was not. */
bool link_is_clean(const struct link *l);
/* Whether the broker is on this machine, as far as its name or the last look-up tells. */
bool link_is_local(const struct link *l);
/* The same, by what the configuration calls it. */
bool link_is_local_host(const char *host);
/*
 * How many rows of QoS 2 the broker is sure to take at a time, unless it is known to take more;
 * 0 = as many as it says. MQTT 3.1.1 has no way to say, nor to refuse: mosquitto answers those
 * beyond its max_inflight_messages, 20 if not configured, as if it had taken them, and drops them.
 */
unsigned link_max_qos2(const struct link *l);
/* What the attempt under way waits for. Static text. */
const char *link_waits_for(const struct link *l);
void link_get_progress(const struct link *l, struct mqtt_progress *ret);
/* As mqtt_count_traffic(). Takes NULL. */
void link_count_traffic(struct link *l);

/* As mqtt_publish(), with topic_prefix and provenance. `expiry_sec`: for how long the broker may
 * keep it for others (MQTT 5), 0 = as long as it likes. */
int link_publish(struct link *l, const struct message *m, uint32_t expiry_sec, int *ret_mid,
	const char **ret_text) _must_check_;
