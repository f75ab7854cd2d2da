/* SPDX-License-Identifier: MIT */
/*
 * One connection to the gateway's control socket: one request goes out, replies come in, one JSON
 * object a line.
 */
#pragma once

#include <jansson.h>
#include <systemd/sd-event.h>

#include "util.h"

struct ask;

/* Either may free the ask. */
struct ask_callbacks {
	/* One reply; borrowed. */
	void (*reply)(void *userdata, json_t *reply);
	/*
	 * Called once, nothing comes after it. -ETIMEDOUT: connected, but the first reply did not
	 * come in time; -EBADMSG: what came was none; -ECONNRESET: the other side closed. -errno.
	 */
	void (*end)(void *userdata, int error);
};

/*
 * Connects and sends. `request` is taken over, also on failure. `patience_usec` is for the first
 * reply. -errno of connect(): -ENOENT, -ECONNREFUSED: nobody is there; -EACCES; -EAGAIN: somebody
 * is, and takes no connections.
 */
int ask_new(struct ask **ret, sd_event *event, const char *path, json_t *request,
	uint64_t patience_usec, const struct ask_callbacks *callbacks, void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct ask *ask_free(struct ask *a);
