/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: whatever the kernel tells of links, addresses and routes, in whatever order. Each
 * step takes eight bytes of the input. News has a text, and comes once; what was never told is
 * gone after a round.
 */
#include <sys/socket.h>

#include "fuzz.h"
#include "netwatch_table.h"

#define STEP 8

static void take_link(struct netwatch_table *t, const uint8_t *b)
{
	struct netwatch_link link = {
		.index = b[1], .loopback = b[2] & 1, .up = b[2] & 2, .carrier = (b[2] & 6) == 6
	};

	snprintf(link.name, sizeof(link.name), "l%u", b[3]);
	if (b[2] & 8)
		netwatch_table_link_gone(t, b[1]);
	else
		netwatch_table_link(t, &link);
}

static void take_address(struct netwatch_table *t, const uint8_t *b)
{
	struct netwatch_address a = { .index = b[1], .family = b[2] & 1 ? AF_INET6 : AF_INET };

	memcpy(a.bytes, b + 3, 4);
	if (b[2] & 8)
		netwatch_table_address_gone(t, &a);
	else
		netwatch_table_address(t, &a);
}

static void take_route(struct netwatch_table *t, const uint8_t *b)
{
	struct netwatch_route r = { .index = b[1],
		.family = b[2] & 1 ? AF_INET6 : AF_INET,
		.table = b[3],
		.metric = b[4] };

	r.gateway[0] = b[5];
	if (b[2] & 8)
		netwatch_table_route_gone(t, &r);
	else
		netwatch_table_route(t, &r, b[2] & 16);
}

static void take_news(struct netwatch_table *t)
{
	char text[NETWATCH_TEXT_SIZE] = "";

	if (netwatch_table_news(t, text))
		REQUIRE(text[0] && strnlen(text, sizeof(text)) < sizeof(text));
	REQUIRE(!netwatch_table_news(t, text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct netwatch_table *t = netwatch_table_new();

	REQUIRE(t);
	for (; size >= STEP; data += STEP, size -= STEP) {
		switch (data[0] % 6) {
		case 0: take_link(t, data); break;
		case 1: take_address(t, data); break;
		case 2: take_route(t, data); break;
		case 3: take_news(t); break;
		case 4: netwatch_table_begin(t); break;
		default: netwatch_table_end(t); break;
		}
		netwatch_table_usable(t);
	}
	take_news(t);
	netwatch_table_begin(t);
	netwatch_table_end(t);
	REQUIRE(!netwatch_table_usable(t));
	netwatch_table_free(t);
	return 0;
}
