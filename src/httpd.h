/* SPDX-License-Identifier: MIT */
/*
 * HTTP for Prometheus and for whoever looks whether the daemon lives: GET and HEAD of /metrics and
 * /healthz. The only user of libmicrohttpd, whose epoll descriptor is in the event loop. For the
 * gateway thread.
 *
 * Messages come first: nothing that happens here, from an address in use to a client that sends
 * half a request, ends or holds up the daemon.
 */
#pragma once

#include <systemd/sd-event.h>

#include "buffer.h"
#include "util.h"

struct httpd;

struct httpd_callbacks {
	/* Appends the body. 0 or -ENOMEM. */
	int (*metrics)(void *userdata, struct buffer *out);
	/* Appends a JSON body. 0: healthy, 1: not, -ENOMEM. */
	int (*health)(void *userdata, struct buffer *out);
};

/*
 * `listen` as in the configuration's metrics.listen, not "". 0, also when the address cannot be
 * listened on now: that is logged, and tried again later by itself. -EOPNOTSUPP, logged as a
 * warning: built without HTTP. -EINVAL: no such form of address; -ENOMEM and others: there is no
 * memory or no descriptor for so much as trying again; logged.
 */
int httpd_new(struct httpd **ret, sd_event *event, const char *listen,
	const struct httpd_callbacks *callbacks, void *userdata) _must_check_;
/* Closes all connections, answered or not. Not from a callback. Takes NULL, returns NULL. */
struct httpd *httpd_free(struct httpd *h);
