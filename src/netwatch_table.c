/* SPDX-License-Identifier: MIT */
/*
 * The table of what the kernel said: see netwatch_table.h. Must not know netlink.
 */
#include "netwatch_table.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>

/* `told`: in the round of everything that is under way; what is not by its end is gone. */
struct link {
	struct netwatch_link is;
	bool told;
};

struct address {
	struct netwatch_address is;
	bool told;
};

struct route {
	struct netwatch_route is;
	bool told;
};

struct netwatch_table {
	struct link links[NETWATCH_MAX_LINKS];
	struct address addresses[NETWATCH_MAX_ADDRESSES];
	struct route routes[NETWATCH_MAX_ROUTES];
	size_t n_links, n_addresses, n_routes;
	char news[NETWATCH_TEXT_SIZE]; /* "" = none */
};

struct netwatch_table *netwatch_table_new(void)
{
	return calloc(1, sizeof(struct netwatch_table));
}

struct netwatch_table *netwatch_table_free(struct netwatch_table *t)
{
	free(t);
	return NULL;
}

/* --- finding --------------------------------------------------------------------------------- */

static struct link *find_link(struct netwatch_table *t, int index)
{
	for (size_t i = 0; i < t->n_links; i++)
		if (t->links[i].is.index == index)
			return &t->links[i];
	return NULL;
}

static struct address *find_address(struct netwatch_table *t, const struct netwatch_address *a)
{
	for (size_t i = 0; i < t->n_addresses; i++) {
		const struct netwatch_address *b = &t->addresses[i].is;

		if (a->index == b->index && a->family == b->family &&
			memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0)
			return &t->addresses[i];
	}
	return NULL;
}

static bool same_place(const struct netwatch_route *a, const struct netwatch_route *b)
{
	return a->family == b->family && a->table == b->table && a->metric == b->metric;
}

static struct route *find_route(struct netwatch_table *t, const struct netwatch_route *a)
{
	for (size_t i = 0; i < t->n_routes; i++) {
		const struct netwatch_route *b = &t->routes[i].is;

		if (same_place(a, b) && a->index == b->index &&
			memcmp(a->gateway, b->gateway, sizeof(a->gateway)) == 0)
			return &t->routes[i];
	}
	return NULL;
}

static const struct address *address_of(const struct netwatch_table *t, int index)
{
	for (size_t i = 0; i < t->n_addresses; i++)
		if (t->addresses[i].is.index == index)
			return &t->addresses[i];
	return NULL;
}

static bool link_usable(const struct netwatch_table *t, const struct link *link)
{
	return !link->is.loopback && link->is.carrier && address_of(t, link->is.index);
}

bool netwatch_table_usable(const struct netwatch_table *t)
{
	for (size_t i = 0; i < t->n_links; i++)
		if (link_usable(t, &t->links[i]))
			return true;
	return false;
}

/* --- news ------------------------------------------------------------------------------------ */

/* The first one is told: what follows in the same turn is mostly its consequence. */
static _printf_(2, 3) void news(struct netwatch_table *t, const char *format, ...)
{
	va_list ap;

	if (*t->news)
		return;
	va_start(ap, format);
	vsnprintf(t->news, sizeof(t->news), format, ap);
	va_end(ap);
}

bool netwatch_table_news(struct netwatch_table *t, char text[NETWATCH_TEXT_SIZE])
{
	if (!*t->news)
		return false;
	memcpy(text, t->news, NETWATCH_TEXT_SIZE);
	*t->news = '\0';
	return true;
}

/* --- what there is --------------------------------------------------------------------------- */

/* Takes out entry `at` of *n in `array`; the order does not matter. */
#define REMOVE(array, n, at) ((array)[at] = (array)[--(n)])

/* The kernel drops these without a word when a link goes down. */
static void drop_routes_by(struct netwatch_table *t, int index)
{
	for (size_t i = t->n_routes; i-- > 0;)
		if (t->routes[i].is.index == index)
			REMOVE(t->routes, t->n_routes, i);
}

static void drop_addresses_of(struct netwatch_table *t, int index)
{
	for (size_t i = t->n_addresses; i-- > 0;)
		if (t->addresses[i].is.index == index)
			REMOVE(t->addresses, t->n_addresses, i);
}

void netwatch_table_link(struct netwatch_table *t, const struct netwatch_link *link)
{
	struct link *known = find_link(t, link->index);
	bool was_usable;

	if (!known) {
		if (t->n_links == NETWATCH_MAX_LINKS)
			return;
		known = &t->links[t->n_links++];
		*known = (struct link){ 0 };
		known->is.index = link->index;
	}
	was_usable = link_usable(t, known);
	known->is = *link;
	known->told = true;
	if (!link->up)
		drop_routes_by(t, link->index);
	if (!was_usable && link_usable(t, known))
		news(t, "%s: carrier", link->name);
}

void netwatch_table_address(struct netwatch_table *t, const struct netwatch_address *address)
{
	struct address *known = find_address(t, address);
	const struct link *link = find_link(t, address->index);
	char text[INET6_ADDRSTRLEN] = "";

	if (known) {
		known->told = true;
		return;
	}
	if (t->n_addresses == NETWATCH_MAX_ADDRESSES)
		return;
	t->addresses[t->n_addresses++] = (struct address){ .is = *address, .told = true };
	if (!link || !link_usable(t, link))
		return;
	inet_ntop(address->family, address->bytes, text, sizeof(text));
	news(t, "%s: address %s added", link->is.name, text);
}

static void route_news(struct netwatch_table *t, const struct netwatch_route *route)
{
	const struct link *link = find_link(t, route->index);
	const char *family = route->family == AF_INET ? "IPv4" : "IPv6";

	if (link && link_usable(t, link))
		news(t, "%s: default route added (%s)", link->is.name, family);
	else if (route->index == 0 && netwatch_table_usable(t))
		news(t, "default route added (%s)", family);
}

void netwatch_table_route(
	struct netwatch_table *t, const struct netwatch_route *route, bool replaces)
{
	struct route *known = find_route(t, route);

	if (known) {
		known->told = true;
		return;
	}
	if (replaces)
		for (size_t i = t->n_routes; i-- > 0;)
			if (same_place(&t->routes[i].is, route))
				REMOVE(t->routes, t->n_routes, i);
	if (t->n_routes == NETWATCH_MAX_ROUTES)
		return;
	t->routes[t->n_routes++] = (struct route){ .is = *route, .told = true };
	route_news(t, route);
}

/* --- what there is no longer ----------------------------------------------------------------- */

void netwatch_table_link_gone(struct netwatch_table *t, int index)
{
	struct link *known = find_link(t, index);

	drop_routes_by(t, index);
	drop_addresses_of(t, index);
	if (known)
		REMOVE(t->links, t->n_links, (size_t)(known - t->links));
}

void netwatch_table_address_gone(struct netwatch_table *t, const struct netwatch_address *address)
{
	struct address *known = find_address(t, address);

	if (known)
		REMOVE(t->addresses, t->n_addresses, (size_t)(known - t->addresses));
}

void netwatch_table_route_gone(struct netwatch_table *t, const struct netwatch_route *route)
{
	struct route *known = find_route(t, route);

	if (known)
		REMOVE(t->routes, t->n_routes, (size_t)(known - t->routes));
}

void netwatch_table_begin(struct netwatch_table *t)
{
	for (size_t i = 0; i < t->n_links; i++)
		t->links[i].told = false;
	for (size_t i = 0; i < t->n_addresses; i++)
		t->addresses[i].told = false;
	for (size_t i = 0; i < t->n_routes; i++)
		t->routes[i].told = false;
}

void netwatch_table_end(struct netwatch_table *t)
{
	for (size_t i = t->n_routes; i-- > 0;)
		if (!t->routes[i].told)
			REMOVE(t->routes, t->n_routes, i);
	for (size_t i = t->n_addresses; i-- > 0;)
		if (!t->addresses[i].told)
			REMOVE(t->addresses, t->n_addresses, i);
	for (size_t i = t->n_links; i-- > 0;)
		if (!t->links[i].told)
			netwatch_table_link_gone(t, t->links[i].is.index);
}
