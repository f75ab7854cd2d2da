/* SPDX-License-Identifier: MIT */
/*
 * The uplink thread: connects to the broker, drains the queue to it, and reports to the gateway
 * through the mailbox. All functions are for the gateway thread.
 */
#pragma once

#include "config.h"
#include "mailbox.h"
#include "util.h"

struct uplink;

/*
 * Opens its reader on the queue (which the gateway has open) and starts the thread. Borrows both
 * arguments until uplink_free(). 0 or -errno, logged.
 */
int uplink_new(
	struct uplink **ret, const struct config *config, struct mailbox *mailbox) _must_check_;
/* Joins the thread, which must have been told to stop: see mailbox_post_stop() and
 * mailbox_uplink_done(). Takes NULL, returns NULL. */
struct uplink *uplink_free(struct uplink *u);
