/* SPDX-License-Identifier: MIT */
/*
 * What is known of links, addresses and default routes, and which change of it is news. For
 * netwatch.c and its tests only. Pure.
 *
 * Invariant: memory is bounded; what comes beyond the bounds is passed over.
 */
#pragma once

#include "util.h"

#define NETWATCH_MAX_LINKS     64
#define NETWATCH_MAX_ADDRESSES 256
#define NETWATCH_MAX_ROUTES    64
#define NETWATCH_TEXT_SIZE     120

struct netwatch_link {
	int index;
	char name[16];
	bool loopback;
	bool up; /* by its administrator */
	bool carrier; /* up, and frames go through */
};

struct netwatch_address {
	int index; /* of the link */
	int family;
	uint8_t bytes[16]; /* network order; the first four for IPv4, the rest 0 */
};

/* A default route; several with the same key may differ in their gateway. */
struct netwatch_route {
	int family;
	int index; /* of the link; 0 = by several */
	uint32_t table;
	uint32_t metric;
	uint8_t gateway[16]; /* 0 = none */
};

struct netwatch_table;

/* NULL when there is no memory. */
struct netwatch_table *netwatch_table_new(void);
/* Takes NULL, returns NULL. */
struct netwatch_table *netwatch_table_free(struct netwatch_table *t);

/* The kernel says that it is so, now. */
void netwatch_table_link(struct netwatch_table *t, const struct netwatch_link *link);
void netwatch_table_address(struct netwatch_table *t, const struct netwatch_address *address);
/* `replaces`: it takes the place of the one of its family, table and metric. */
void netwatch_table_route(
	struct netwatch_table *t, const struct netwatch_route *route, bool replaces);

/* The kernel says that it is gone. */
void netwatch_table_link_gone(struct netwatch_table *t, int index);
void netwatch_table_address_gone(struct netwatch_table *t, const struct netwatch_address *address);
void netwatch_table_route_gone(struct netwatch_table *t, const struct netwatch_route *route);

/* Everything is told again from here on; what is not told until ..._end() is gone. */
void netwatch_table_begin(struct netwatch_table *t);
void netwatch_table_end(struct netwatch_table *t);

/* An interface other than the loopback has both carrier and an address. */
bool netwatch_table_usable(const struct netwatch_table *t);
/*
 * The first news since the last call that there may be a way to the broker where there was none:
 * true, and `text` says what it is. An address counts only where there is carrier, and carrier only
 * where there is an address; a default route where both are.
 */
bool netwatch_table_news(struct netwatch_table *t, char text[NETWATCH_TEXT_SIZE]);
