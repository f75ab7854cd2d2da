/* SPDX-License-Identifier: MIT */
/*
 * Name look-ups in a thread of their own: getaddrinfo may take half a minute, and the thread that
 * asks must not.
 *
 * One look-up at a time. Called from the thread that runs the event loop; so is the callback.
 */
#pragma once

#include <netinet/in.h>
#include <systemd/sd-event.h>

#include "util.h"

#define RESOLVER_MAX_ADDRESSES 8

struct resolver_result {
	int error; /* 0, or getaddrinfo's EAI_ code */
	char text[120]; /* what `error` means */
	size_t n;
	/* Numeric, in the order of RFC 6724 as the C library sorts it, with a scope if one is
	 * needed. */
	char addresses[RESOLVER_MAX_ADDRESSES][INET6_ADDRSTRLEN + 16];
};

typedef void (*resolver_fn)(void *userdata, const struct resolver_result *result);

struct resolver;

/* Starts the thread. 0 or -errno. */
int resolver_new(
	struct resolver **ret, sd_event *event, resolver_fn fn, void *userdata) _must_check_;
/* Does not wait for a look-up under way: its thread ends by itself. Takes NULL, returns NULL. */
struct resolver *resolver_free(struct resolver *r);

/* Asks for `host` (a name or a numeric address). A look-up under way is forgotten. 0 or -ENOMEM. */
int resolver_lookup(struct resolver *r, const char *host) _must_check_;
/* No callback comes for what was asked before. */
void resolver_cancel(struct resolver *r);
