/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `link` share: the link's state. Only link.c and link_message.c include
 * this header.
 *
 *   link.c          the object; the steps of an attempt, and what the client objects report
 *   link_message.c  messages on the session: rows with their prefix, birth and will
 */
#pragma once

#include "link.h"
#include "resolver.h"

enum step {
	STEP_NONE,
	STEP_RESOLVE,
	STEP_NOTE,
	STEP_PURGE,
	STEP_SESSION,
};

struct link {
	sd_event *event;
	const struct config *config;
	struct config_broker *broker;
	char *name;
	char *client_id;
	char *queue_uuid;
	struct link_memory *memory;
	struct mqtt_traffic *traffic;
	struct link_callbacks callbacks;
	void *userdata;
	bool probe;

	enum step step;
	uint16_t keepalive; /* of this attempt, seconds */
	struct resolver *resolver;
	struct resolver_result addresses;
	unsigned tried; /* of them in this attempt, before the present one */
	struct mqtt *purge;
	struct mqtt *session;
	struct mqtt_limits limits;
	bool noted; /* `meta` says unclean, durably */
	bool note_pending;
	bool must_purge; /* the broker's session may hold what is not ours any more */

	int birth_mid; /* packet identifiers of our own messages in flight, or 0 */
	int will_mid;
	char *topic; /* prefix and topic of the message being published */
	size_t topic_size;
	size_t prefix_len;
	bool retain_dropped; /* said once a connection */
};

/* --- link.c ---------------------------------------------------------------------------------- */

/* The priority of a line that comes with a connection: `priority`, unless there were too many. */
int link_priority(const struct link *l, int priority);

/* --- link_message.c -------------------------------------------------------------------------- */

/* Whether a will goes with the session's connections. */
bool link_has_will(const struct link *l);
/* The session stands: mqtt.birth, unless one is in flight, which the library sends again. */
void link_publish_birth(struct link *l);
/* Whether `mid` is that of our own message in flight, which it is no more. */
bool link_is_own(struct link *l, int mid);
/* With the connection goes what the library has not written of QoS 0, without a word. */
void link_forget_presence(struct link *l);
