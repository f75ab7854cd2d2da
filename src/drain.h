/* SPDX-License-Identifier: MIT */
/*
 * The queue's way out: a cursor over committed rows, what of them is in flight, and which ids the
 * broker has acknowledged. For the uplink thread.
 *
 * Rows go out in ascending id. After a loss, what the library sends again by itself is acknowledged
 * first; then the cursor goes back over whatever was lost, passing over rows that are acknowledged
 * but not yet removed from disk; then newer rows follow.
 */
#pragma once

#include "mailbox.h"
#include "message.h"
#include "queue_reader.h"
#include "util.h"

struct drain;

/* Sends one message: as mqtt_publish(). `*ret_mid` is set before the acknowledgement can come. */
typedef int (*drain_publish_fn)(void *userdata, const struct message *m, int *ret_mid);

/* Borrows all of them. 0 or -ENOMEM. */
int drain_new(struct drain **ret, struct queue_reader *reader, struct mailbox *mailbox,
	unsigned inflight_max, size_t inflight_bytes, drain_publish_fn publish,
	void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct drain *drain_free(struct drain *d);

/*
 * A connection stands, with the session (and the client object) of the last one: what was in flight
 * is being sent again by the library. `receive_maximum`: the broker's bound on it.
 */
void drain_connected(struct drain *d, unsigned receive_maximum);
/* The connection is gone. QoS 0 messages not yet written are lost with it and will be sent again.
 */
void drain_connection_lost(struct drain *d);
/* The client object or the broker's session is gone, and with it all that was in flight: it will be
 * sent again by drain_pump(). */
void drain_session_lost(struct drain *d);

/* The broker took (`taken`) or refused the message with this packet identifier. Safe inside
 * library callbacks. Returns the row's id, or 0 if nothing is known of it. */
uint64_t drain_published(struct drain *d, uint16_t mid, bool taken);

/*
 * Sends what may go out now, a bounded number of rows; then drain_flush(). 0: nothing more to do
 * until something happens. 1: call again soon. -errno: the queue cannot be read, or what `publish`
 * returned below 0.
 */
int drain_pump(struct drain *d) _must_check_;
/* Hands acknowledged ids to the gateway, and forgets those whose removal it has confirmed. */
void drain_flush(struct drain *d);

/* Messages sent and not acknowledged. */
unsigned drain_inflight(const struct drain *d);
/* The same, QoS 1 and 2 only: what a broker's session may still hold. */
unsigned drain_inflight_session(const struct drain *d);
