/* SPDX-License-Identifier: MIT */
/*
 * Alerts on their way to the receiver: in order, one after the other, again and again until they
 * are taken. At most OUTBOX_MAX wait; for what had to be dropped an alert of kind "lost" tells how
 * many it was.
 */
#pragma once

#include <jansson.h>
#include <systemd/sd-event.h>

#include "http.h"
#include "util.h"

#define OUTBOX_MAX 1000

struct outbox;

/* One alert of the gateway, as its control socket tells it. "" = not known. */
struct outbox_event {
	const char *kind;
	const char *message;
	const char *broker;
	const char *time; /* ISO 8601 */
	uint64_t count;
	uint64_t seq; /* 0: it has none, and gets one of ours */
};

/* `changed` is called when figures for the status line did. */
int outbox_new(struct outbox **ret, sd_event *event, struct http *http,
	void (*changed)(void *userdata), void *userdata) _must_check_;
/* Saves what is left. A request under way is given up. Takes NULL, returns NULL. */
struct outbox *outbox_free(struct outbox *o);

/* `url` "": nothing is sent. `gateway` is the id that alerts carry. -ENOMEM: nothing has changed.
 */
int outbox_configure(struct outbox *o, const char *url, const char *gateway) _must_check_;

/* How far the alerts of the gateway have been taken; "" and 0 at first. */
const char *outbox_instance(const struct outbox *o);
uint64_t outbox_seen(const struct outbox *o);
/* Another process of the gateway: its numbers begin anew. */
void outbox_set_instance(struct outbox *o, const char *instance);
/* The trouble with the gateway that was told and is not over, as a kind; "" = none. */
const char *outbox_told(const struct outbox *o);
void outbox_set_told(struct outbox *o, const char *kind);

/* Puts an alert at the end. One of a number that was seen is left out. */
void outbox_add(struct outbox *o, const struct outbox_event *e);

/* Nothing new is sent from now on: what waits is kept. */
void outbox_pause(struct outbox *o);
bool outbox_is_busy(const struct outbox *o); /* a request is under way */
size_t outbox_waiting(const struct outbox *o);
uint64_t outbox_delivered(const struct outbox *o);
