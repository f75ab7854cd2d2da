/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the uplink share. Internal to uplink*.c: uplink.c is the thread, its loop and
 * its mail; uplink_steps.c carries out what the supervisor decides; uplink_flow.c sends messages
 * and watches that they move.
 */
#pragma once

#include <pthread.h>
#include <systemd/sd-event.h>

#include "clock.h"
#include "config.h"
#include "discovery.h"
#include "drain.h"
#include "link.h"
#include "mailbox.h"
#include "netwatch.h"
#include "queue_reader.h"
#include "stall.h"
#include "supervisor.h"

/* How long an orderly leave waits for acknowledgements, and for DISCONNECT to be written. */
#define LEAVE_INFLIGHT_USEC   (5 * USEC_PER_SEC)
#define LEAVE_DISCONNECT_USEC (2 * USEC_PER_SEC)

struct uplink {
	const struct config *config;
	struct mailbox *mailbox;
	pthread_t thread;
	bool started;

	sd_event *event;
	sd_event_source *mail;
	sd_event_source *timer; /* the supervisor's */
	sd_event_source *leave_timer; /* bound on what is in flight when leaving */
	sd_event_source *pump; /* more to send */
	sd_event_source *wake; /* more to send, once the rate allows it */
	sd_event_source *read_retry; /* the queue could not be read */
	sd_event_source *stall_timer; /* watches that what is in flight moves */
	/* A held queue is tried again, or a connection without the suspect has lived. */
	sd_event_source *hold_timer;
	sd_event_source *conclude; /* handles `trouble` outside the library */

	struct queue_reader *reader;
	struct drain *drain;
	struct clock clock; /* for the age of messages */
	struct supervisor supervisor;
	struct discovery *discovery;
	struct netwatch *netwatch;

	struct config_broker *list; /* the brokers, in order of preference; as in the supervisor */
	size_t n_list;
	struct link_memory known[BROKERS_MAX]; /* what was learnt about them, by the same index */

	char broker_name[sizeof(((struct brokers_item *)NULL)->name)]; /* tried last */
	struct link *link; /* to the broker of this name; NULL before the first attempt */
	char link_name[sizeof(((struct brokers_item *)NULL)->name)];
	struct link_memory memory; /* what `link` learns; copied back to `known` */
	bool link_outdated; /* the broker's settings have changed since */
	struct link *probe;
	struct link_memory probe_memory;

	char *queue_uuid;
	char meta_key[512]; /* of `link` */
	char noting_key[512];
	bool note_pending; /* a note for noting_key is on its way to the disk */
	bool note_wanted; /* another one, for meta_key, has to wait for it */
	bool noting_last; /* the final note is on its way: the thread ends with its confirmation */

	struct stall stall;
	bool stall_watched;
	bool disconnect_sent; /* leaving: DISCONNECT is on its way */
	bool lost_by_peer; /* the connection that just ended was closed by the peer */
	bool held; /* too many messages in a row were refused */
	uint64_t held_taken; /* drain_taken() at that time */
	bool stopping;
	bool hurry;
	char cause[sizeof(((struct mailbox_status *)NULL)->cause)];
	struct failure trouble; /* found inside the library; class FAILURE_NONE = none */
};

/* --- uplink_steps.c --- */

void uplink_handle(struct uplink *u, enum supervisor_event event, enum failure_class class);
/* A new list of brokers. */
void uplink_set_brokers(struct uplink *u, const struct config_broker *brokers, size_t n);
/* A note the uplink asked for is on disk. */
void uplink_noted(struct uplink *u);
/* Leaves the broker for good: once, or again with `hurry`. */
void uplink_stop(struct uplink *u, bool hurry);
/* The time the leave may take, or DISCONNECT, is over. */
void uplink_leave_due(struct uplink *u);
/* What is in flight may all be acknowledged, so that a leave can go on. */
void uplink_leave_if_idle(struct uplink *u);
/* Whether a broker of the list is on this machine: then a network that is gone means nothing. */
bool uplink_is_local(const struct uplink *u);
void uplink_post_status(struct uplink *u);
void uplink_set_cause(struct uplink *u, const char *format, ...) _printf_(2, 3);
/* Microseconds of CLOCK_MONOTONIC; UINT64_MAX = never. */
void uplink_arm(sd_event_source *s, uint64_t usec);

/* --- uplink_flow.c --- */

extern const struct drain_callbacks uplink_drain_callbacks;

/* Sends what may go, and hands on what was acknowledged. */
void uplink_drain_turn(struct uplink *u);
/* The broker answered for a message. Safe inside library callbacks. */
void uplink_published(struct uplink *u, uint16_t mid, unsigned reason);
/* Takes the trouble that came up inside the library. */
void uplink_take_trouble(struct uplink *u);
void uplink_check_stall(struct uplink *u);
/* A held queue is tried again. */
void uplink_release(struct uplink *u);
