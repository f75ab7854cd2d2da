/* SPDX-License-Identifier: MIT */
/*
 * What the gateway knows of itself, put together when somebody asks.
 */
#include "gateway_internal.h"

void gateway_get_figures(struct gateway *g, struct figures *ret)
{
	*ret = (struct figures){
		.now_usec = now_boot_usec(),
		.started_usec = g->started_usec,
		.stopping = g->phase != PHASE_RUNNING,
		.max_clients = g->config->socket.max_clients,
		.oldest_msec = INT64_MIN,
	};
	mailbox_get_figures(g->mailbox, &ret->uplink);
	ret->delivered_rate = rate_get(&ret->uplink.delivered_rate, ret->now_usec);
	if (g->ingest)
		ret->clients = ingest_clients(g->ingest);
	memcpy(ret->refused, g->refused, sizeof(ret->refused));
	store_get_figures(g->store, ret);
}
