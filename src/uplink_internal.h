/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the uplink share. Internal to uplink*.c: uplink.c is the thread, its loop and
 * its mail; uplink_steps.c carries out what the supervisor decides; uplink_flow.c sends messages
 * and watches that they move; uplink_figures.c keeps the figures; uplink_tell.c is what the journal
 * hears of all that.
 */
#pragma once

#include <pthread.h>
#include <systemd/sd-event.h>

#include "clock.h"
#include "config.h"
#include "discovery.h"
#include "drain.h"
#include "event.h"
#include "flap.h"
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
	uint64_t max_age_usec; /* changes while the uplink runs, unlike the rest of `config` */
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
	uint64_t held_usec; /* CLOCK_BOOTTIME until when */
	int read_error; /* -errno: the queue could not be read; 0 */
	struct mqtt_traffic traffic; /* of this thread's connections */
	struct mqtt_traffic traffic_told;
	uint64_t held_taken; /* drain_taken() at that time */
	bool stopping;
	bool hurry;
	char cause[sizeof(((struct figures_uplink *)NULL)->cause)];
	struct failure trouble; /* found inside the library; class FAILURE_NONE = none */

	struct flap_table flaps; /* what has happened too often to be told each time */
	uint64_t settle_usec; /* when one of these may be over; 0 = nothing is untold */
	uint64_t connected_usec; /* since when the connection has stood, or did last */
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
void uplink_set_cause(struct uplink *u, const char *format, ...) _printf_(2, 3);
/* Microseconds of CLOCK_MONOTONIC; UINT64_MAX = never. */
void uplink_arm(sd_event_source *s, uint64_t usec);

/* --- uplink_figures.c --- */

/* Tells how things stand: to whoever asks, and the gateway, for systemd's status. */
void uplink_post_status(struct uplink *u);
/* The same, but nobody is woken. */
void uplink_update_figures(struct uplink *u);
/* The list that is shown is still the one of the uplink before this one: none is known yet. */
void uplink_forget_brokers(struct uplink *u);
/* What the supervisor made of an event; before the next broker's name is known. `class`: of a
 * failure. */
void uplink_count_step(struct uplink *u, const struct supervisor_step *step, bool failed,
	enum failure_class class);
/* Bytes that were carried since the last time. */
void uplink_count_traffic(struct uplink *u);

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

/* --- uplink_tell.c --- */

/* A change of state, or an attempt that ran into its deadline. `class`: of the failure, if any. */
void uplink_tell_step(struct uplink *u, const struct supervisor_step *step,
	enum supervisor_event event, enum failure_class class);
void uplink_tell_probe_up(struct uplink *u, const char *name);
void uplink_tell_probe_failed(struct uplink *u, const char *name, const struct failure *f);
/* A message goes to dead_letters. */
void uplink_tell_condemned(struct uplink *u, uint64_t id, const char *reason);
/* One more was refused, and the queue is held. */
void uplink_tell_held(struct uplink *u, uint64_t id, const char *reason);
void uplink_tell_released(struct uplink *u);
void uplink_tell_network(struct uplink *u, bool up, const char *text);
/* No list of brokers can be had. */
void uplink_tell_no_brokers(struct uplink *u, const char *text);
/* Whether the broker flaps, so that what belongs to a connection is for `debug` only. */
bool uplink_is_quiet(const struct uplink *u);
/* Tells what was left untold of something that has come to its end. Cheap; call it now and then. */
void uplink_tell_steady(struct uplink *u);
