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

#include "failure.h"
#include "mailbox.h"
#include "message.h"
#include "queue_reader.h"
#include "util.h"
#include "window.h"

struct drain;

struct drain_callbacks {
	/* Sends one message, at most with the QoS that drain_connected() named: as mqtt_publish().
	 * `*ret_mid` is set before the acknowledgement can come. */
	int (*publish)(
		void *userdata, const struct message *m, int *ret_mid, const char **ret_text);
	/* Row `id` goes to dead_letters. May come from inside the library. */
	void (*condemned)(void *userdata, uint64_t id, const char *reason);
	/* Nothing goes out from now on until drain_release(): too many rows in a row were refused,
	 * the last one is `id`. May come from inside the library. */
	void (*held)(void *userdata, uint64_t id, const char *reason);
};

/* Borrows reader and mailbox. 0 or -ENOMEM. */
int drain_new(struct drain **ret, struct queue_reader *reader, struct mailbox *mailbox,
	const struct window_params *window, const struct drain_callbacks *callbacks,
	void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct drain *drain_free(struct drain *d);

/*
 * A connection stands, with the session (and the client object) of the last one: what was in flight
 * is being sent again by the library. `receive_maximum`: the broker's bound on it; `max_qos`: no
 * row is sent with more.
 */
void drain_connected(struct drain *d, unsigned receive_maximum, uint8_t max_qos);
/*
 * From now on no more than so many messages of QoS 2 are in flight; 0 = as many as may be. Before
 * drain_connected().
 */
void drain_bound_qos2(struct drain *d, unsigned max);
/*
 * The connection is gone; `closed`: by the peer's will. QoS 0 messages not yet written are lost
 * with it and will be sent again. True: what is in flight must not be sent again as it is, the
 * session is to be given up before the next connection.
 */
bool drain_connection_lost(struct drain *d, bool closed) _must_check_;
/*
 * Nothing has come from the broker for long. True: new messages had waited for those that were sent
 * again, and wait no more; drain_pump() may have something to do.
 */
bool drain_wait_no_more(struct drain *d);
/*
 * Nothing has come for so long that the connection is to be ended: whether that is because the
 * broker passes over the oldest message that is in flight. It answered others that came behind it,
 * or, if nothing else is in flight, did so before that message was sent alone.
 */
bool drain_passed_over(struct drain *d);
/* The client object or the broker's session is gone, and with it all that was in flight: it will be
 * sent again by drain_pump(). */
void drain_session_lost(struct drain *d);

/*
 * The broker answered for the message with this packet identifier; `text` is its reason, for
 * refusals. Safe inside library callbacks. Returns the row's id, or 0 if nothing is known of it.
 */
uint64_t drain_published(
	struct drain *d, uint16_t mid, enum failure_verdict verdict, const char *text);
/* The broker has shown that it lives: PINGRESP. */
void drain_alive(struct drain *d);
/* Whether the next connection shall show soon that it lives, before anything is sent on it. */
bool drain_wants_sign_of_life(const struct drain *d);
bool drain_is_held(const struct drain *d);
/* A held queue is tried again. */
void drain_release(struct drain *d);

/*
 * Sends what may go out now, a bounded number of rows; then drain_flush(). 0: nothing more to do
 * until something happens, or drain_wake_usec(). 1: call again soon. -errno: the queue cannot be
 * read, or no memory.
 */
int drain_pump(struct drain *d) _must_check_;
/* When drain_pump(), just called, may send what it held back for the rate's or the broker's sake;
 * that time may be over by now. UINT64_MAX = it holds nothing back. CLOCK_MONOTONIC. */
uint64_t drain_wake_usec(const struct drain *d);
/* Hands acknowledged ids to the gateway, and forgets those whose removal it has confirmed. */
void drain_flush(struct drain *d);

/* Messages sent and not acknowledged. */
unsigned drain_inflight(const struct drain *d);
/* The same, QoS 1 and 2 only: what a broker's session may still hold. */
unsigned drain_inflight_session(const struct drain *d);
/* Counts answers that said a message was taken: for seeing that something moves. */
uint64_t drain_taken(const struct drain *d);
