/* SPDX-License-Identifier: MIT */
/*
 * What systemd is told about the state of things: one line, at most once a second.
 */
#include <systemd/sd-daemon.h>

#include "gateway_internal.h"
#include "timer.h"
#include "utf8.h"

#define STATUS_USEC (1 * USEC_PER_SEC)

static void tell_status(struct gateway *g)
{
	struct figures_uplink uplink;
	struct store_state store;
	/* systemd takes a line of well-formed UTF-8 or none. */
	char cause[sizeof(uplink.cause)];
	const char *state;

	mailbox_get_figures(g->mailbox, &uplink);
	state = uplink.state_usec ? supervisor_state_to_string(uplink.state) : "starting";
	utf8_copy(cause, sizeof(cause), uplink.cause);
	store_get_state(g->store, &store);
	g->status_store = store;
	if (store.error < 0)
		sd_notifyf(0,
			"STATUS=queue cannot be written (%s), lines are refused; %s %s; %llu "
			"queued",
			strerrordesc_np(-store.error), state, uplink.broker,
			(unsigned long long)store.messages);
	else
		sd_notifyf(0, "STATUS=%s %s; %llu queued%s%s", state, uplink.broker,
			(unsigned long long)store.messages, cause[0] ? "; " : "", cause);
}

static bool store_has_changed(const struct gateway *g)
{
	struct store_state store;

	store_get_state(g->store, &store);
	return store.error != g->status_store.error || store.messages != g->status_store.messages;
}

/* At once when nothing was told lately, else a little later: one line a second is enough. */
void gateway_schedule_status(struct gateway *g)
{
	if (timer_is_set(g->status_timer)) {
		g->status_told = false;
		return;
	}
	if (g->status_told && !store_has_changed(g))
		return;
	tell_status(g);
	g->status_told = true;
	timer_set(g->status_timer, STATUS_USEC);
}

int gateway_on_status_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)usec;
	if (!g->status_told)
		gateway_schedule_status(g);
	return 0;
}
