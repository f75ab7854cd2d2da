/* SPDX-License-Identifier: MIT */
/*
 * Tells when the network came or went, by rtnetlink. For the uplink thread.
 */
#pragma once

#include <systemd/sd-event.h>

#include "util.h"

struct netwatch;

enum netwatch_event {
	/* Carrier, an address or a default route came that was not there before. Carrier alone is
	 * not enough, nor is an address without: with link-local and tentative addresses nobody can
	 * be reached. What is only refreshed or counted anew is no news. */
	NETWATCH_UP,
	/* No interface but the loopback has both carrier and an address of global scope any more.
	 */
	NETWATCH_DOWN,
};

/* `text` says what happened, for the log: "eth0: address 10.0.0.2 added". */
typedef void (*netwatch_fn)(void *userdata, enum netwatch_event event, const char *text);

/*
 * Reads what there is, then watches, all from the loop; calls nothing for what there is already,
 * unless there is no usable network at all: then NETWATCH_DOWN comes. `fn` may free the object.
 * -EOPNOTSUPP when the program was built without netlink; -errno (a sandbox may refuse the socket).
 * Both are harmless: the waits are then just waited out.
 */
int netwatch_new(
	struct netwatch **ret, sd_event *event, netwatch_fn fn, void *userdata) _must_check_;
/* Takes NULL, returns NULL. */
struct netwatch *netwatch_free(struct netwatch *w);
