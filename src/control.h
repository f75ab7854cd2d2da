/* SPDX-License-Identifier: MIT */
/*
 * The operator's socket: JSON Lines, one request a line, see mqttgw-control(7). For the gateway
 * thread; nothing here waits, and what is long is done in bounded steps.
 */
#pragma once

#include <systemd/sd-event.h>

#include "alerts.h"
#include "figures.h"
#include "selection.h"
#include "util.h"

#define CONTROL_CLIENTS_MAX 32
#define CONTROL_LINE_MAX    65536 /* bytes of a request, without its line end */

struct control;

/* What is no figure; borrowed for the moment. */
struct control_facts {
	const char *version;
	const char *gateway; /* its id */
	const char *instance; /* names this process; numbers of alerts are its */
	const char *socket_path; /* where local programs hand in messages */
	const char *queue_path;
	const char *restart_needed; /* keys of the configuration, comma-separated; "" = none */
};

struct control_callbacks {
	void (*figures)(void *userdata, struct figures *ret);
	void (*facts)(void *userdata, struct control_facts *ret);
	/* The uplink shall try to connect now. */
	void (*reconnect)(void *userdata);
	/* Whether the database may be opened for reading: 0; -EINPROGRESS: it is about to be set
	 * aside, try again soon; another -errno: it is not open. */
	int (*may_read)(void *userdata);
	/* Reading came across damage. */
	void (*rotten)(void *userdata);
	/*
	 * One bounded step of removing rows of the queue, of removing dead letters, of putting dead
	 * letters back into the queue. 1: there is more to do; 0: all is done; -EINPROGRESS as
	 * above; -ENOBUFS: a bound of the queue is reached, *ret_text says which; another -errno:
	 * the queue cannot be written. What the selection counts is done for good even then.
	 */
	int (*purge)(void *userdata, struct selection *sel);
	int (*purge_dead)(void *userdata, struct selection *sel);
	int (*requeue)(void *userdata, struct selection *sel, const char **ret_text);
};

/* `listen_fd`: a listening Unix stream socket, non-blocking; borrowed, as is `alerts`. 0 or -errno.
 */
int control_new(struct control **ret, sd_event *event, int listen_fd, const struct alerts *alerts,
	const struct control_callbacks *callbacks, void *userdata) _must_check_;
/* Closes all connections. Takes NULL, returns NULL. */
struct control *control_free(struct control *c);

/* There are new ones among the alerts. Takes NULL. */
void control_alerted(struct control *c);
/*
 * The database is about to be set aside, or closed: lets go of it before this returns. What was
 * reading or changing it ends with the error `busy`. Takes NULL.
 */
void control_release_queue(struct control *c);
/* The daemon is stopping: what is under way ends with the error `stopping`, and nothing is changed
 * any more; how things stand is still told. Takes NULL. */
void control_stop(struct control *c);
