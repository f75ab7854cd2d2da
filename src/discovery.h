/* SPDX-License-Identifier: MIT */
/*
 * Where the list of brokers comes from: the configuration, DNS SRV records, or a file that is
 * watched. For the uplink thread.
 *
 * The last good list of the latter two is kept beside the queue (QUEUE.brokers) for a start without
 * name servers or without the file.
 */
#pragma once

#include <systemd/sd-event.h>

#include "config.h"
#include "util.h"

struct discovery;

struct discovery_callbacks {
	/* A list, in order of preference, other than the one told last. The brokers are the
	 * discovery's and valid until the next call, or discovery_free(). */
	void (*brokers)(void *userdata, const struct config_broker *brokers, size_t n);
	/* No list can be had now; the last one told, if any, stays. `text` is for the operator and
	 * was not logged. Told once for each different text in a row. */
	void (*failed)(void *userdata, const char *text);
};

/* Borrows `config`. 0 or -errno. */
int discovery_new(struct discovery **ret, sd_event *event, const struct config *config,
	const struct discovery_callbacks *callbacks, void *userdata) _must_check_;
/* Not from its callbacks. Takes NULL, returns NULL. */
struct discovery *discovery_free(struct discovery *d);

/*
 * Begins. For a configured list `brokers` is called before this returns; for a file that can be
 * read, too; else later, from the loop.
 */
void discovery_start(struct discovery *d);
/* Looks again soon: no broker of the list can be reached. At most every few seconds; nothing to do
 * for a configured list. */
void discovery_refresh(struct discovery *d);
