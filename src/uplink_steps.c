/* SPDX-License-Identifier: MIT */
/*
 * Carries out what the supervisor decides: attempts, probes, leaving; and tells it what the links
 * report. What the journal hears of it is uplink_tell.c's business.
 *
 * When the process stops in order with nothing in flight, the broker is noted as clean, so that the
 * next process may go on with its session.
 *
 * Invariant: apply() is the only place where a supervisor's decision is carried out.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "log.h"
#include "uplink_internal.h"

/* A broker may forbid PINGREQ (MQTT 5, 3.2.2.3.14: Server Keep Alive 0) or ask for few. A
 * connection that stood so long without the suspect lives, too. */
#define SIGN_OF_LIFE_USEC (60 * USEC_PER_SEC)

/* --- telling --------------------------------------------------------------------------------- */

void uplink_set_cause(struct uplink *u, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(u->cause, sizeof(u->cause), format, ap);
	va_end(ap);
}

/* --- notes in meta --------------------------------------------------------------------------- */

/*
 * One note a client id, "unclean", or "clean" with the only broker whose session is known to hold
 * nothing. Not one a broker: the nodes of a cluster share a session, so what was left clean at one
 * is no longer, once another has been used.
 */
static const char *note_for(const char *note, const char *broker)
{
	size_t n = strlen(LINK_NOTE_CLEAN);

	if (!note || streq(note, LINK_NOTE_UNCLEAN))
		return note;
	if (strncmp(note, LINK_NOTE_CLEAN, n) == 0 && note[n] == ' ' && streq(note + n + 1, broker))
		return LINK_NOTE_CLEAN;
	return NULL;
}

static void post_note(struct uplink *u, const char *value)
{
	char clean[sizeof(u->link_name) + sizeof(LINK_NOTE_CLEAN)];

	u->note_wanted = u->note_pending && !streq(u->noting_key, u->meta_key);
	if (u->note_pending)
		return;
	u->note_pending = true;
	snprintf(u->noting_key, sizeof(u->noting_key), "%s", u->meta_key);
	if (streq(value, LINK_NOTE_CLEAN)) {
		snprintf(clean, sizeof(clean), "%s %s", value, u->link_name);
		value = clean;
	}
	mailbox_post_meta(u->mailbox, u->meta_key, value);
}

static void end(struct uplink *u)
{
	/* Everything the broker's session could hold of ours is acknowledged: the next process may
	 * go on with that session. */
	if (u->link && link_is_clean(u->link) && !u->noting_last && !u->note_pending && !u->hurry) {
		u->noting_last = true;
		post_note(u, LINK_NOTE_CLEAN);
		return; /* uplink_noted() goes on */
	}
	uplink_post_status(u);
	sd_event_exit(u->event, 0);
}

void uplink_noted(struct uplink *u)
{
	u->note_pending = false;
	if (u->noting_last) {
		end(u);
	} else if (u->note_wanted) {
		post_note(u, LINK_NOTE_UNCLEAN);
	} else if (u->link && streq(u->noting_key, u->meta_key)) {
		link_noted(u->link);
	}
}

/* --- what the link reports -------------------------------------------------------------------- */

static void on_note(void *userdata)
{
	post_note(userdata, LINK_NOTE_UNCLEAN);
}

static void on_step_done(void *userdata)
{
	uplink_handle(userdata, SUPERVISOR_PROGRESS, FAILURE_NONE);
}

static void on_connected(void *userdata, unsigned receive_maximum, uint8_t max_qos)
{
	struct uplink *u = userdata;

	/* Who names a number knows the broker. */
	drain_bound_qos2(u->drain, u->config->mqtt.inflight_max > 0 ? 0 : link_max_qos2(u->link));
	drain_connected(u->drain, receive_maximum, max_qos);
	if (!u->held)
		uplink_set_cause(u, "%s", "");
	if (drain_wants_sign_of_life(u->drain))
		uplink_arm(u->hold_timer, now_usec() + SIGN_OF_LIFE_USEC);
	uplink_handle(u, SUPERVISOR_CONNACK, FAILURE_NONE);
	uplink_drain_turn(u);
}

static void on_failed(void *userdata, const struct failure *f, bool closed)
{
	struct uplink *u = userdata;

	u->lost_by_peer = closed;
	uplink_set_cause(u, "%s", f->text);
	uplink_handle(u, SUPERVISOR_FAILURE, f->class);
}

static void on_closed(void *userdata)
{
	uplink_handle(userdata, SUPERVISOR_CLOSED, FAILURE_NONE);
}

static unsigned on_inflight(void *userdata)
{
	struct uplink *u = userdata;

	return drain_inflight_session(u->drain);
}

static void on_session_lost(void *userdata)
{
	struct uplink *u = userdata;

	drain_session_lost(u->drain);
}

static void on_published(void *userdata, uint16_t mid, unsigned reason)
{
	uplink_published(userdata, mid, reason);
}

static void on_progress(void *userdata)
{
	uplink_drain_turn(userdata);
}

static void on_alive(void *userdata)
{
	struct uplink *u = userdata;

	drain_alive(u->drain);
	uplink_drain_turn(u);
	uplink_tell_steady(u);
}

static bool on_is_quiet(void *userdata)
{
	return uplink_is_quiet(userdata);
}

static const struct link_callbacks link_callbacks = {
	.note = on_note,
	.step_done = on_step_done,
	.connected = on_connected,
	.failed = on_failed,
	.closed = on_closed,
	.inflight = on_inflight,
	.session_lost = on_session_lost,
	.published = on_published,
	.progress = on_progress,
	.alive = on_alive,
	.is_quiet = on_is_quiet,
};

static const char *name_of(const struct uplink *u, int index)
{
	return brokers_name(&u->supervisor.brokers, index);
}

/* --- the probe ------------------------------------------------------------------------------- */

static void on_probe_connected(void *userdata, unsigned receive_maximum, uint8_t max_qos)
{
	struct uplink *u = userdata;

	(void)receive_maximum;
	(void)max_qos;
	if (u->supervisor.probing != BROKERS_NONE)
		u->known[u->supervisor.probing].address = u->probe_memory.address;
	uplink_tell_probe_up(u, name_of(u, u->supervisor.probing));
	uplink_handle(u, SUPERVISOR_PROBE_UP, FAILURE_NONE);
}

static void on_probe_failed(void *userdata, const struct failure *f, bool closed)
{
	struct uplink *u = userdata;

	(void)closed;
	uplink_tell_probe_failed(u, name_of(u, u->supervisor.probing), f);
	uplink_handle(u, SUPERVISOR_PROBE_FAILED, f->class);
}

static void on_probe_closed(void *userdata)
{
	(void)userdata; /* what matters was its CONNACK */
}

static const struct link_callbacks probe_callbacks = {
	.connected = on_probe_connected,
	.failed = on_probe_failed,
	.closed = on_probe_closed,
	.is_quiet = on_is_quiet,
};

static void begin_probe(struct uplink *u)
{
	int index = u->supervisor.probing, r;
	const struct link_params params = {
		.config = u->config,
		.broker = &u->list[index],
		.name = name_of(u, index),
		.queue_uuid = u->queue_uuid,
		.memory = &u->probe_memory,
		.traffic = &u->traffic,
		.probe = true,
	};

	u->probe = link_free(u->probe);
	/* One that never answers is not told from one address that does not: the next probe begins
	 * with the next one. */
	u->probe_memory = u->known[index];
	u->known[index].address++;
	r = link_new(&u->probe, u->event, &params, &probe_callbacks, u);
	if (r < 0) {
		log_error("%s: cannot probe: %s", params.name, strerrordesc_np(-r));
		return; /* its deadline comes */
	}
	link_begin(u->probe, false);
}

/* --- attempts -------------------------------------------------------------------------------- */

/* What the link has learnt outlives it. */
static void keep_memory(struct uplink *u)
{
	int index = brokers_find(&u->supervisor.brokers, u->link_name);

	if (u->link && index != BROKERS_NONE)
		u->known[index] = u->memory;
}

static void drop_link(struct uplink *u)
{
	keep_memory(u);
	drain_session_lost(u->drain);
	u->link = link_free(u->link);
	u->link_outdated = false;
}

static int make_link(struct uplink *u, int index)
{
	_cleanup_(freep) char *note = NULL;
	struct link_params params = {
		.config = u->config,
		.broker = &u->list[index],
		.name = name_of(u, index),
		.queue_uuid = u->queue_uuid,
		.memory = &u->memory,
		.traffic = &u->traffic,
	};
	int r;

	snprintf(u->link_name, sizeof(u->link_name), "%s", params.name);
	snprintf(u->meta_key, sizeof(u->meta_key), "session %s", u->config->mqtt.client_id);
	u->memory = u->known[index];
	r = queue_reader_meta(u->reader, u->meta_key, &note);
	if (r == -EUCLEAN)
		mailbox_post_rotten(u->mailbox);
	if (r < 0 && r != -ENODATA)
		return r;
	params.note = note_for(note, u->link_name);
	return link_new(&u->link, u->event, &params, &link_callbacks, u);
}

static void begin_attempt(struct uplink *u)
{
	int index = u->supervisor.current, r;

	if (u->link && (u->link_outdated || !streq(u->link_name, name_of(u, index))))
		drop_link(u);
	u->disconnect_sent = false;
	if (!u->link) {
		r = make_link(u, index);
		if (r < 0) {
			failure_set(&u->trouble, FAILURE_TIMEOUT, "cannot begin an attempt: %s",
				strerrordesc_np(-r));
			sd_event_source_set_enabled(u->conclude, SD_EVENT_ONESHOT);
			return;
		}
	}
	link_begin(u->link, drain_wants_sign_of_life(u->drain));
}

static void abort_connection(struct uplink *u, bool stood)
{
	uplink_arm(u->leave_timer, UINT64_MAX);
	/* What was seen of this connection says nothing about the next one. */
	uplink_arm(u->stall_timer, UINT64_MAX);
	u->stall_watched = false;
	u->trouble.class = FAILURE_NONE;
	if (!u->link)
		return;
	link_abort(u->link);
	if (stood && drain_connection_lost(u->drain, u->lost_by_peer)) {
		log_info("%s: connections end with the same message in front: to see whether it is "
			 "to blame, what is in flight is sent anew, in a new session",
			u->broker_name);
		link_give_up_session(u->link);
	}
	u->lost_by_peer = false;
	drain_flush(u->drain);
}

/* --- leaving --------------------------------------------------------------------------------- */

static void send_disconnect(struct uplink *u)
{
	log_debug("%s: leaving: DISCONNECT, with %u messages in flight", u->broker_name,
		drain_inflight(u->drain));
	u->disconnect_sent = true;
	uplink_arm(u->leave_timer, now_usec() + LEAVE_DISCONNECT_USEC);
	link_disconnect(u->link);
}

void uplink_leave_if_idle(struct uplink *u)
{
	if (u->supervisor.state == SUPERVISOR_DISCONNECTING && !u->disconnect_sent &&
		link_is_up(u->link) && drain_inflight(u->drain) == 0 && !link_is_busy(u->link))
		send_disconnect(u);
}

static void begin_leave(struct uplink *u)
{
	log_debug("%s: leaving: %u messages in flight are finished first", u->broker_name,
		drain_inflight(u->drain));
	link_farewell(u->link);
	if (u->hurry) {
		send_disconnect(u);
		return;
	}
	uplink_arm(u->leave_timer, now_usec() + LEAVE_INFLIGHT_USEC);
	uplink_leave_if_idle(u);
}

void uplink_leave_due(struct uplink *u)
{
	if (u->supervisor.state != SUPERVISOR_DISCONNECTING)
		return;
	if (u->disconnect_sent) {
		uplink_handle(u, SUPERVISOR_CLOSED, FAILURE_NONE);
		return;
	}
	if (drain_inflight(u->drain) > 0)
		log_notice("%s: %u messages still in flight at the stop; they stay in the queue",
			u->broker_name, drain_inflight(u->drain));
	send_disconnect(u);
}

void uplink_stop(struct uplink *u, bool hurry)
{
	bool news = !u->stopping || (hurry && !u->hurry);

	if (!news)
		return;
	u->hurry = hurry;
	if (u->stopping && u->supervisor.state == SUPERVISOR_DISCONNECTING) {
		if (!u->disconnect_sent)
			send_disconnect(u);
		return;
	}
	u->stopping = true;
	if (u->noting_last) {
		end(u);
		return;
	}
	uplink_handle(u, SUPERVISOR_STOP, FAILURE_NONE);
	/* On the way to another broker already. */
	if (hurry && u->supervisor.state == SUPERVISOR_DISCONNECTING && !u->disconnect_sent)
		send_disconnect(u);
}

/* --- carrying out what the supervisor decides ------------------------------------------------ */

void uplink_arm(sd_event_source *s, uint64_t usec)
{
	if (usec == UINT64_MAX) {
		sd_event_source_set_enabled(s, SD_EVENT_OFF);
		return;
	}
	sd_event_source_set_time(s, usec);
	sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static void apply(struct uplink *u, const struct supervisor_step *step)
{
	bool stood = step->from == SUPERVISOR_CONNECTED || step->from == SUPERVISOR_DISCONNECTING;

	uplink_arm(u->timer, step->timer_usec);
	if (step->to != SUPERVISOR_CONNECTED)
		u->probe = link_free(u->probe);
	switch (step->action) {
	case SUPERVISOR_CONNECT: begin_attempt(u); break;
	case SUPERVISOR_ABORT: abort_connection(u, stood); break;
	case SUPERVISOR_LEAVE: begin_leave(u); break;
	case SUPERVISOR_PROBE: begin_probe(u); break;
	case SUPERVISOR_END_PROBE: u->probe = link_free(u->probe); break;
	case SUPERVISOR_NOTHING: break;
	}
	if (step->plan == SUPERVISOR_PLAN_ROUND || step->plan == SUPERVISOR_PLAN_ASIDE)
		discovery_refresh(u->discovery);
	if (step->to != step->from)
		uplink_post_status(u);
	else
		uplink_update_figures(u);
	if (u->stopping && u->supervisor.state == SUPERVISOR_DISCONNECTED &&
		u->supervisor.timer_usec == SUPERVISOR_NO_TIMER && !u->noting_last)
		end(u);
}

void uplink_handle(struct uplink *u, enum supervisor_event event, enum failure_class class)
{
	struct supervisor_step step;

	if (supervisor_handle(&u->supervisor, event, class, now_boot_usec(), &step) < 0) {
		log_debug("%s: event %d ignored in state %s", u->broker_name, (int)event,
			supervisor_state_to_string(u->supervisor.state));
		return;
	}
	if (step.deadline) {
		class = FAILURE_TIMEOUT;
		uplink_set_cause(u, "no connection within mqtt.connect_timeout: waiting for %s",
			u->link ? link_waits_for(u->link) : "the queue's disk");
	}
	uplink_count_step(u, &step, event == SUPERVISOR_FAILURE || step.deadline, class);
	/* The broker's name in what is logged is the one just tried, or the one to be tried now. */
	if (step.action == SUPERVISOR_CONNECT)
		snprintf(u->broker_name, sizeof(u->broker_name), "%s",
			name_of(u, u->supervisor.current));
	if (step.from != step.to || step.deadline)
		uplink_tell_step(u, &step, event, class);
	apply(u, &step);
}

/* --- the list -------------------------------------------------------------------------------- */

/* What was learnt about a broker goes along to its new place. The supervisor has the old list. */
static void carry_memory(struct uplink *u, const struct brokers_item *items, size_t n)
{
	struct link_memory old[BROKERS_MAX];

	keep_memory(u);
	memcpy(old, u->known, sizeof(old));
	memset(u->known, 0, sizeof(u->known));
	for (size_t i = 0; i < n; i++) {
		int index = brokers_find(&u->supervisor.brokers, items[i].name);

		if (index != BROKERS_NONE)
			u->known[i] = old[index];
	}
}

static bool settings_changed(const struct uplink *u, const struct brokers_item *items,
	const struct config_broker *list, size_t n)
{
	int old = brokers_find(&u->supervisor.brokers, u->link_name);

	for (size_t i = 0; i < n; i++)
		if (streq(items[i].name, u->link_name))
			return old == BROKERS_NONE || !config_broker_equal(&u->list[old], &list[i]);
	return true;
}

static void log_list(const struct brokers_item *items, size_t n)
{
	char text[600] = "";
	size_t used = 0;

	for (size_t i = 0; i < n && used < sizeof(text); i++)
		used += (size_t)snprintf(
			text + used, sizeof(text) - used, "%s%s", i ? ", " : "", items[i].name);
	log_event(EVENT_BROKERS, NULL, "brokers: %s", n ? text : "none");
}

void uplink_set_brokers(struct uplink *u, const struct config_broker *brokers, size_t n)
{
	struct brokers_item items[BROKERS_MAX] = { 0 };
	struct config_broker *list = NULL;
	struct supervisor_step step;

	n = size_min(n, BROKERS_MAX);
	if (n > 0 && config_brokers_copy(&list, brokers, n) < 0) {
		log_error("brokers: the new list is not taken: no memory");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		/* -fanalyzer: of no brokers none is looked at. */
		snprintf(items[i].name, sizeof(items[i].name), "%.253s:%u", list[i].host,
			list[i].port);
		items[i].priority = list[i].priority;
	}
	log_list(items, n);
	if (u->link && settings_changed(u, items, list, n))
		u->link_outdated = true;
	carry_memory(u, items, n);
	config_brokers_free(u->list, u->n_list);
	u->list = list;
	u->n_list = n;
	supervisor_set_brokers(&u->supervisor, items, n, now_boot_usec(), &step);
	figures_set_brokers(mailbox_figures_begin(u->mailbox), items, n);
	mailbox_figures_end(u->mailbox);
	uplink_count_step(u, &step, false, FAILURE_NONE);
	if (step.from != step.to)
		uplink_tell_step(u, &step, SUPERVISOR_START, FAILURE_NONE);
	apply(u, &step);
}

bool uplink_is_local(const struct uplink *u)
{
	if (u->link && link_is_local(u->link))
		return true;
	for (size_t i = 0; i < u->n_list; i++)
		if (link_is_local_host(u->list[i].host))
			return true;
	return false;
}
