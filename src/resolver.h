/* SPDX-License-Identifier: MIT */
/*
 * Name look-ups in a thread of their own: getaddrinfo and the like may take half a minute, and the
 * thread that asks must not.
 *
 * One look-up at a time, of either kind; a new one forgets the one before. Called from the thread
 * that runs the event loop; so is the callback.
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

#define RESOLVER_MAX_SERVICES 16

/* One target of an SRV record (RFC 2782). */
struct resolver_service {
	uint16_t priority;
	uint16_t weight;
	uint16_t port;
	char host[256]; /* without the last dot */
};

struct resolver_services {
	/* 0, or one of EAI_. NONAME: there are no such records, or the service is decidedly not
	 * there; AGAIN: no answer, or SERVFAIL; others: see `text`. */
	int error;
	char text[120]; /* what `error` means */
	uint32_t ttl; /* seconds: the shortest of the records */
	size_t n; /* in the order in which to try them; beyond the bound the last are cut off */
	struct resolver_service services[RESOLVER_MAX_SERVICES];
};

typedef void (*resolver_fn)(void *userdata, const struct resolver_result *result);
typedef void (*resolver_services_fn)(void *userdata, const struct resolver_services *result);

/*
 * The order of RFC 2782: ascending priority; within one, by chance, in proportion to weight.
 * `random` is uniform in [0, 1), and asked once for each place that more than one could take. Pure.
 */
/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
void resolver_order(struct resolver_service *services, size_t n, double (*random)(void *userdata),
	void *userdata);

struct resolver;

/* Starts nothing yet: an object that is not asked costs no thread. `fn` gets the answers of
 * resolver_lookup(). 0 or -errno. */
int resolver_new(
	struct resolver **ret, sd_event *event, resolver_fn fn, void *userdata) _must_check_;
/* Does not wait for a look-up under way: its thread ends by itself. Takes NULL, returns NULL. */
struct resolver *resolver_free(struct resolver *r);

/* Asks for `host` (a name or a numeric address). A look-up under way is forgotten. 0 or -errno:
 * the first one starts the thread. */
int resolver_lookup(struct resolver *r, const char *host) _must_check_;
/* The same for the SRV records of `name`, as "_mqtt._tcp.example.net", by DNS alone. */
int resolver_lookup_services(
	struct resolver *r, const char *name, resolver_services_fn fn) _must_check_;
/* No callback comes for what was asked before. */
void resolver_cancel(struct resolver *r);
