/* SPDX-License-Identifier: MIT */
/*
 * Watches a file by way of its directory, so that a rename over it, a symbolic link that is
 * exchanged (as Kubernetes does), a removal and a new beginning are all seen. For discovery.c only,
 * on its loop.
 */
#pragma once

#include <systemd/sd-event.h>

#include "util.h"

struct discovery_watch;

/* Something in the directory is not what it was, a moment ago, and has come to rest since; or the
 * watch has just come about. The file is to be read. May not free the watch. */
typedef void (*discovery_watch_fn)(void *userdata);

/* Watches nothing yet. 0 or -errno. */
int discovery_watch_new(struct discovery_watch **ret, sd_event *event, const char *path,
	discovery_watch_fn fn, void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct discovery_watch *discovery_watch_free(struct discovery_watch *w);

/*
 * Watches the directory that has the name now; to be called now and then, for there is no word of
 * it when another takes its place from further up. 0, or -errno: there is no such directory; when
 * there is one again is noticed by the next call only.
 */
int discovery_watch_renew(struct discovery_watch *w) _must_check_;
