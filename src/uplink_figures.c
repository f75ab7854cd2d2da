/* SPDX-License-Identifier: MIT */
/*
 * The uplink's figures: what is counted and told behind the mailbox's lock. What belongs to single
 * messages is told by the drain, once a batch.
 */
#include <stdio.h>

#include "uplink_internal.h"

static uint64_t next_attempt_usec(const struct supervisor *s)
{
	switch (s->state) {
	case SUPERVISOR_DISCONNECTED:
	case SUPERVISOR_ERROR:
	case SUPERVISOR_OFFLINE: return s->timer_usec;
	default: return UINT64_MAX;
	}
}

/* The present list stands first, in its order. */
static void fill_brokers(const struct uplink *u, struct figures_uplink *f)
{
	const struct supervisor *s = &u->supervisor;
	bool connected = s->state == SUPERVISOR_CONNECTED;

	for (size_t i = 0; i < f->n_brokers && f->brokers[i].listed; i++) {
		f->brokers[i].up = connected && streq(f->brokers[i].name, u->broker_name);
		f->brokers[i].aside_usec =
			i < s->brokers.n ? s->brokers.entries[i].aside_until_usec : 0;
	}
}

static void fill(const struct uplink *u, struct figures_uplink *f)
{
	const struct supervisor *s = &u->supervisor;

	if (f->state != s->state || f->state_usec == 0) {
		f->state = s->state;
		f->state_usec = now_boot_usec();
	}
	snprintf(f->broker, sizeof(f->broker), "%s", u->broker_name);
	snprintf(f->cause, sizeof(f->cause), "%s", u->cause);
	f->next_usec = next_attempt_usec(s);
	f->network_down = s->network_down;
	f->held = u->held;
	f->held_usec = u->held ? u->held_usec : 0;
	f->read_error = u->read_error;
	f->max_rate = u->config->mqtt.max_rate;
	fill_brokers(u, f);
}

void uplink_update_figures(struct uplink *u)
{
	uplink_count_traffic(u);
	fill(u, mailbox_figures_begin(u->mailbox));
	mailbox_figures_end(u->mailbox);
}

void uplink_post_status(struct uplink *u)
{
	uplink_count_traffic(u);
	fill(u, mailbox_figures_begin(u->mailbox));
	mailbox_figures_post(u->mailbox);
}

void uplink_forget_brokers(struct uplink *u)
{
	figures_set_brokers(mailbox_figures_begin(u->mailbox), NULL, 0);
	mailbox_figures_end(u->mailbox);
}

/* --- counting -------------------------------------------------------------------------------- */

static void note_failure(const struct uplink *u, struct figures_uplink *f, enum failure_class class)
{
	struct figures_failure *last = &f->last_failure;

	snprintf(last->broker, sizeof(last->broker), "%s", u->broker_name);
	snprintf(last->text, sizeof(last->text), "%s", u->cause);
	last->class = class;
	last->time_msec = now_epoch_msec();
}

static bool was_lost(const struct supervisor_step *step)
{
	return step->from == SUPERVISOR_CONNECTED && step->to != SUPERVISOR_CONNECTED &&
		step->to != SUPERVISOR_DISCONNECTING;
}

void uplink_count_step(
	struct uplink *u, const struct supervisor_step *step, bool failed, enum failure_class class)
{
	bool attempt = step->from == SUPERVISOR_CONNECTING;
	struct figures_uplink *f = mailbox_figures_begin(u->mailbox);

	if (attempt && step->to == SUPERVISOR_CONNECTED) {
		figures_attempt(f, u->broker_name, FAILURE_NONE);
		figures_connected(f, now_boot_usec());
	} else if (attempt && failed) {
		figures_attempt(f, u->broker_name, class);
	}
	if (was_lost(step))
		figures_lost(f, now_boot_usec());
	if (failed)
		note_failure(u, f, class);
	mailbox_figures_end(u->mailbox);
}

void uplink_count_traffic(struct uplink *u)
{
	const struct mqtt_traffic now = u->traffic, *told = &u->traffic_told;
	struct figures_uplink *f;

	if (now.out == told->out && now.in == told->in)
		return;
	f = mailbox_figures_begin(u->mailbox);
	f->bytes_out += now.out - told->out;
	f->bytes_in += now.in - told->in;
	mailbox_figures_end(u->mailbox);
	u->traffic_told = now;
}
