/* SPDX-License-Identifier: MIT */
/*
 * What a person has to know of at once: from the store and the uplink, which have logged it, into
 * the ring, and on to whoever reads it over the control socket. The queue's bounds are watched
 * here.
 *
 * The timer is armed only while an alert is held back.
 */
#include <inttypes.h>
#include <stdio.h>

#include "event.h"
#include "gateway_internal.h"
#include "timer.h"

#define TIMER_ACCURACY (1 * USEC_PER_SEC)

/* Of a bound, in percent: an alert at the one, the next only after less than the other. */
#define HIGH_PERCENT 80
#define LOW_PERCENT  70
#define TOLD_IN_FULL 5

/* --- the ring -------------------------------------------------------------------------------- */

static void arm(struct gateway *g)
{
	uint64_t due = alerts_due(g->alerts);

	if (due == UINT64_MAX) {
		timer_off(g->alerts_timer);
		return;
	}
	sd_event_source_set_time(g->alerts_timer, due);
	sd_event_source_set_enabled(g->alerts_timer, SD_EVENT_ONESHOT);
}

/* There is something new in the ring. */
static void announce(struct gateway *g)
{
	control_alerted(g->control);
}

static int on_due(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)usec;
	if (alerts_release(g->alerts, now_boot_usec()))
		announce(g);
	arm(g);
	return 0;
}

static void raise_alert(struct gateway *g, enum alert_kind kind, const char *broker, unsigned count,
	const char *text)
{
	if (alerts_raise(g->alerts, kind, broker, count, text, now_boot_usec(), now_epoch_msec()))
		announce(g);
	arm(g);
}

void gateway_alert(struct gateway *g, enum alert_kind kind, const char *broker, const char *text)
{
	raise_alert(g, kind, broker, 1, text);
}

void gateway_take_alerts(struct gateway *g)
{
	struct mailbox_alert alerts[MAILBOX_ALERTS];
	unsigned lost;
	size_t n;

	n = mailbox_take_alerts(g->mailbox, alerts, ARRAY_SIZE(alerts), &lost);
	for (size_t i = 0; i < n; i++)
		raise_alert(g, alerts[i].kind, alerts[i].broker, alerts[i].count, alerts[i].text);
	/* Of more brokers at once than it holds: which they were stands in the journal. */
	if (lost > 0 && n > 0)
		raise_alert(g, alerts[n - 1].kind, "", lost, "more alerts; see the journal");
}

int gateway_open_alerts(struct gateway *g)
{
	int r;

	r = alerts_new(&g->alerts);
	if (r < 0)
		return r;
	return timer_new(&g->alerts_timer, g->event, CLOCK_BOOTTIME, TIMER_ACCURACY, on_due, g);
}

void gateway_close_alerts(struct gateway *g)
{
	g->alerts_timer = sd_event_source_disable_unref(g->alerts_timer);
	g->alerts = alerts_free(g->alerts);
}

/* --- the queue's bounds ---------------------------------------------------------------------- */

/* Whether `part` is at least so many percent of `whole`. */
static bool reaches(uint64_t part, uint64_t whole, unsigned percent)
{
	return (double)part * 100 >= (double)whole * percent;
}

static void tell_bound(struct gateway *g, struct gateway_bound *bound, const char *name,
	uint64_t used, uint64_t most, uint64_t messages)
{
	enum event_kind kind = bound->high ? EVENT_QUEUE_HIGH : EVENT_QUEUE_NORMAL;
	struct event_fields fields = { .queue_known = true, .queue = messages };
	struct flap_told told;
	char text[300];

	if (bound->high) {
		if (flap_occurred(&bound->flap, TOLD_IN_FULL, 0, now_boot_usec(), &told) ==
			FLAP_QUIET)
			fields.priority = LOG_DEBUG;
		snprintf(text, sizeof(text),
			"the queue is at %.0f %% of %s: %" PRIu64 " of %" PRIu64
			"; at the bound %s",
			(double)used * 100 / (double)most, name, used, most,
			g->config->queue.overflow == CONFIG_OVERFLOW_DROP_OLDEST
				? "the oldest messages are dropped"
				: "lines are refused");
	} else {
		if (!flap_is_told(&bound->flap, TOLD_IN_FULL, now_boot_usec()))
			fields.priority = LOG_DEBUG;
		snprintf(text, sizeof(text), "the queue is back at %.0f %% of %s",
			(double)used * 100 / (double)most, name);
	}
	log_event(kind, &fields, "%s", text);
	if (event_is_alert(kind))
		gateway_alert(g, event_type(kind)->alert, "", text);
}

static void watch_bound(struct gateway *g, struct gateway_bound *bound, const char *name,
	uint64_t used, uint64_t most, uint64_t messages)
{
	bool high = bound->high;

	if (most == 0)
		/* NOLINTNEXTLINE(bugprone-branch-clone): in the order of their weight. */
		high = false;
	else if (reaches(used, most, HIGH_PERCENT))
		high = true;
	else if (!reaches(used, most, LOW_PERCENT))
		high = false;
	if (high == bound->high)
		return;
	bound->high = high;
	if (most > 0)
		tell_bound(g, bound, name, used, most, messages);
}

void gateway_watch_queue(struct gateway *g)
{
	struct store_state store;

	store_get_state(g->store, &store);
	if (!store.open)
		return;
	mailbox_post_queued(g->mailbox, store.messages);
	watch_bound(g, &g->bounds[0], "queue.max_messages", store.messages,
		g->config->queue.max_messages, store.messages);
	watch_bound(g, &g->bounds[1], "queue.max_bytes", store.bytes, g->config->queue.max_bytes,
		store.messages);
}
