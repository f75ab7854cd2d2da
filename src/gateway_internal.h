/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `gateway` share. gateway.c is the loop and what it is made of;
 * gateway_status.c tells how things stand; gateway_stop.c ends it in order. Only these include this
 * header.
 */
#pragma once

#include <systemd/sd-event.h>

#include "alerts.h"
#include "control.h"
#include "figures.h"
#include "flap.h"
#include "gateway.h"
#include "httpd.h"
#include "ingest.h"
#include "listener.h"
#include "mailbox.h"
#include "store.h"
#include "uplink.h"

enum gateway_phase {
	PHASE_RUNNING,
	PHASE_REPLIES, /* stopping: replies are being written */
	PHASE_UPLINK, /* stopping: the uplink finishes */
};

struct gateway {
	struct config *config; /* owned */
	struct config
		*uplink_config; /* what the uplink was started with: owned, if it is another */
	const char *config_path;
	uint64_t started_usec; /* CLOCK_BOOTTIME */
	sd_event *event;
	sd_event_source *signals[3];
	sd_event_source *mail;
	sd_event_source *status_timer;
	sd_event_source *watchdog;
	sd_event_source *stop_timer;
	sd_event_source *stop_check;
	sd_event_source *leave_timer;
	struct listener listener;
	struct listener control_listener;
	struct alerts *alerts;
	sd_event_source *alerts_timer; /* when one that was held back is due */
	struct gateway_bound {
		bool high;
		struct flap flap;
	} bounds[2]; /* of the queue: messages, bytes */
	char instance[33]; /* random: names this process to who reads the alerts */
	struct control *control; /* NULL: its socket could not be made */
	struct httpd *httpd;
	struct store *store;
	struct mailbox *mailbox;
	struct ingest *ingest;
	struct uplink *uplink;
	enum gateway_phase phase;
	bool hurry;

	uint64_t stop_usec; /* when the stop began */
	uint64_t step_usec; /* when its present step did */

	bool parking; /* the uplink ends, and begins again when the store is open again */
	bool changing; /* the uplink ends, and begins again with another configuration */
	char restart_needed[512]; /* keys whose new value waits for a restart, with commas */

	struct figures_refused refused[FIGURES_ERRORS + 1]; /* counted by ingest, and outlives it */
	struct store_state status_store; /* as last told to systemd */
	bool status_told;

	uint64_t watchdog_usec; /* 0 = none */
};

/* --- gateway.c --- */

void gateway_ingest_params(struct gateway *g, struct ingest_params *ret);

/* --- gateway_figures.c --- */

/* Puts together all that is counted and shown, as of now. Costs a few look-ups, and wakes nobody.
 */
void gateway_get_figures(struct gateway *g, struct figures *ret);

/* --- gateway_alerts.c --- */

int gateway_open_alerts(struct gateway *g) _must_check_;
void gateway_close_alerts(struct gateway *g);
/* For what was logged already, with the same text. `broker`: "" when it is not about one. */
void gateway_alert(struct gateway *g, enum alert_kind kind, const char *broker, const char *text);
/* The uplink has posted something. */
void gateway_take_alerts(struct gateway *g);
/* The queue may have grown or shrunk: tells when it comes near a bound, and when it is far again.
 */
void gateway_watch_queue(struct gateway *g);

/* --- gateway_control.c --- */

/* 0 also when it cannot be opened: that is logged. */
int gateway_open_control(struct gateway *g) _must_check_;
/* The configuration names another path: makes that socket, then closes the old one. 0; or -errno,
 * logged, and the old one stays. */
int gateway_move_control(struct gateway *g) _must_check_;
void gateway_close_control(struct gateway *g);

/* --- gateway_httpd.c --- */

/* As the configuration says; nothing when it names no address. 0 or -errno, logged. */
int gateway_open_httpd(struct gateway *g) _must_check_;
void gateway_close_httpd(struct gateway *g);

/* --- gateway_reload.c --- */

void gateway_reload(struct gateway *g);
int gateway_on_leave_timer(sd_event_source *s, uint64_t usec, void *userdata);
/* The uplink that was to make way for another has ended. */
void gateway_uplink_changes(struct gateway *g);
/* Joins it, and frees what it borrowed. */
void gateway_free_uplink(struct gateway *g);

/* --- gateway_status.c --- */

/* Something that is told may have changed. */
void gateway_schedule_status(struct gateway *g);
int gateway_on_status_timer(sd_event_source *s, uint64_t usec, void *userdata);

/* --- gateway_stop.c --- */

/* A signal or an operator asks for it; the second time it hurries. */
void gateway_stop(struct gateway *g);
/* The uplink has ended. */
void gateway_uplink_stopped(struct gateway *g);
/* `what` of the stop is done: told at debug, with the time it took. */
void gateway_stop_step(struct gateway *g, const char *what);
int gateway_on_stop_check(sd_event_source *s, void *userdata);
int gateway_on_stop_timer(sd_event_source *s, uint64_t usec, void *userdata);
