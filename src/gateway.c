/* SPDX-License-Identifier: MIT */
/*
 * The orchestrator: one event loop in the main thread that owns the store, the local socket,
 * signals, the watchdog and systemd's status; and the uplink thread beside it, which runs while the
 * store is open.
 *
 * Must not know: the protocol on the socket, SQL, MQTT.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "event.h"
#include "footprint.h"
#include "gateway_internal.h"
#include "log.h"
#include "timer.h"

#define ACCURACY_USEC (100 * USEC_PER_MSEC)

/* --- between ingest and the store ------------------------------------------------------------- */

static int append(void *userdata, const struct message *m, uint64_t *ret_id, const char **ret_text)
{
	struct gateway *g = userdata;

	return store_append(g->store, m, ret_id, ret_text);
}

static int commit(void *userdata)
{
	struct gateway *g = userdata;

	return store_commit(g->store);
}

static const struct ingest_callbacks ingest_callbacks = {
	.append = append,
	.commit = commit,
};

/* --- systemd --------------------------------------------------------------------------------- */

static int on_watchdog(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)usec;
	/* This thread lives, or it would not be here; the other one, if there is one, must have
	 * answered. */
	if (!g->uplink || mailbox_pinged(g->mailbox)) {
		sd_notify(0, "WATCHDOG=1");
		mailbox_post_ping(g->mailbox);
	}
	timer_set(s, g->watchdog_usec / 4);
	return 0;
}

static int on_signal(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	if (si->ssi_signo == SIGHUP) {
		gateway_reload(g);
		return 0;
	}
	log_debug("signal %u", si->ssi_signo);
	gateway_stop(g);
	return 0;
}

/* The uplink's thread has come to its end. */
static void uplink_done(struct gateway *g)
{
	if (g->phase == PHASE_UPLINK) {
		gateway_uplink_stopped(g);
	} else if (g->parking) {
		g->parking = g->changing = false;
		gateway_free_uplink(g);
		store_parked(g->store);
	} else if (g->changing) {
		gateway_uplink_changes(g);
	} else if (g->uplink) {
		sd_event_exit(g->event, -EIO);
	}
}

static int on_mail(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)fd;
	(void)events;
	mailbox_gateway_clear(g->mailbox);
	if (mailbox_take_news(g->mailbox)) {
		g->status_told = false;
		if (g->phase == PHASE_RUNNING)
			gateway_schedule_status(g);
	}
	gateway_take_alerts(g);
	store_mail(g->store);
	if (mailbox_uplink_done(g->mailbox))
		uplink_done(g);
	return 0;
}

/* --- what the store asks for ------------------------------------------------------------------ */

static int on_store_opened(void *userdata)
{
	struct gateway *g = userdata;
	int r;

	r = uplink_new(&g->uplink, g->config, g->mailbox);
	if (r >= 0)
		g->uplink_config = g->config;
	return r;
}

static void on_store_park(void *userdata)
{
	struct gateway *g = userdata;

	g->parking = true;
	control_release_queue(g->control);
	if (g->uplink)
		mailbox_post_stop(g->mailbox, true);
	else
		mailbox_post_done(g->mailbox); /* between two: nobody else will */
}

static void on_store_changed(void *userdata)
{
	struct gateway *g = userdata;

	if (!g->store)
		return;
	gateway_watch_queue(g);
	if (g->phase == PHASE_RUNNING)
		gateway_schedule_status(g);
}

static void on_store_alert(void *userdata, enum alert_kind kind, const char *text)
{
	gateway_alert(userdata, kind, "", text);
}

/* A start or a restart of the store that takes minutes is no hang. */
static void on_store_alive(void *userdata)
{
	(void)userdata;
	sd_notify(0, "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000");
}

static void on_store_hurry(void *userdata)
{
	struct gateway *g = userdata;

	if (g->ingest)
		ingest_commit(g->ingest);
}

static const struct store_callbacks store_callbacks = {
	.opened = on_store_opened,
	.park = on_store_park,
	.changed = on_store_changed,
	.alive = on_store_alive,
	.hurry = on_store_hurry,
	.alert = on_store_alert,
};

/* --- set up and run -------------------------------------------------------------------------- */

static int setup_timers(struct gateway *g)
{
	const struct {
		sd_event_source **source;
		sd_event_time_handler_t handler;
	} timers[] = {
		{ &g->status_timer, gateway_on_status_timer },
		{ &g->stop_timer, gateway_on_stop_timer },
		{ &g->leave_timer, gateway_on_leave_timer },
		{ &g->watchdog, on_watchdog },
	};

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		int r;

		r = timer_new(timers[i].source, g->event, CLOCK_MONOTONIC, ACCURACY_USEC,
			timers[i].handler, g);
		if (r < 0)
			return r;
	}
	return 0;
}

static int setup_loop(struct gateway *g)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	int r;

	r = sd_event_default(&g->event);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		r = sd_event_add_signal(g->event, &g->signals[i], signals[i], on_signal, g);
		if (r < 0)
			return r;
	}
	r = sd_event_add_io(
		g->event, &g->mail, mailbox_gateway_fd(g->mailbox), EPOLLIN, on_mail, g);
	if (r < 0)
		return r;
	r = sd_event_add_post(g->event, &g->stop_check, gateway_on_stop_check, g);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(g->stop_check, SD_EVENT_OFF);
	if (r < 0)
		return r;
	return setup_timers(g);
}

void gateway_ingest_params(struct gateway *g, struct ingest_params *ret)
{
	const struct config *c = g->config;

	*ret = (struct ingest_params){
		.default_qos = c->socket.default_qos,
		.max_clients = c->socket.max_clients,
		.max_message_bytes = c->socket.max_message_bytes,
		.max_buffered_bytes = c->socket.max_buffered_bytes,
		.stall_usec = INGEST_STALL_USEC,
		.max_rate = c->socket.max_rate,
		.max_inflight_bytes = c->socket.max_inflight_bytes,
		.access = { c->access, c->n_access },
		.commit_delay_usec = c->queue.commit_delay_usec,
		.refused = g->refused,
	};
}

static int setup_ingest(struct gateway *g)
{
	struct ingest_params params;
	int r;

	gateway_ingest_params(g, &params);
	r = listener_open(&g->listener, g->config->socket.path, g->config->socket.mode,
		g->config->socket.group);
	if (r < 0)
		return r;
	r = ingest_new(&g->ingest, g->event, g->listener.fd, &params, &ingest_callbacks, g);
	if (r < 0)
		log_error("cannot serve %s: %s", g->config->socket.path, strerrordesc_np(-r));
	return r;
}

static void start_watchdog(struct gateway *g)
{
	if (sd_watchdog_enabled(0, &g->watchdog_usec) <= 0) {
		g->watchdog_usec = 0;
		return;
	}
	timer_set(g->watchdog, 0);
}

static int setup(struct gateway *g)
{
	int r;

	r = mailbox_new(&g->mailbox);
	if (r >= 0)
		r = setup_loop(g);
	if (r >= 0)
		r = gateway_open_alerts(g);
	if (r < 0) {
		log_error("cannot set up the event loop: %s", strerrordesc_np(-r));
		return r;
	}
	r = store_new(&g->store, g->event, g->config, g->mailbox, &store_callbacks, g);
	if (r < 0)
		return r;
	gateway_watch_queue(g);
	r = setup_ingest(g);
	if (r >= 0)
		r = gateway_open_control(g);
	return r < 0 ? r : gateway_open_httpd(g);
}

/* The reverse of setup(), on half-built ones too. The uplink has ended, or never began. */
static void teardown(struct gateway *g, bool orderly)
{
	g->ingest = ingest_free(g->ingest);
	if (g->uplink && !mailbox_uplink_done(g->mailbox))
		mailbox_post_stop(g->mailbox, true);
	gateway_free_uplink(g);
	/* It may be reading the queue. */
	gateway_close_control(g);
	g->store = store_free(g->store, orderly);
	gateway_stop_step(g,
		"control is closed, what the uplink wanted written is committed, "
		"the queue is closed");
	gateway_close_httpd(g);
	listener_close(&g->listener);
	gateway_stop_step(g, "metrics and the local socket are closed");
	for (size_t i = 0; i < ARRAY_SIZE(g->signals); i++)
		g->signals[i] = sd_event_source_disable_unref(g->signals[i]);
	g->mail = sd_event_source_disable_unref(g->mail);
	g->status_timer = sd_event_source_disable_unref(g->status_timer);
	g->watchdog = sd_event_source_disable_unref(g->watchdog);
	g->stop_timer = sd_event_source_disable_unref(g->stop_timer);
	g->stop_check = sd_event_source_disable_unref(g->stop_check);
	g->leave_timer = sd_event_source_disable_unref(g->leave_timer);
	g->event = sd_event_unref(g->event);
	g->mailbox = mailbox_free(g->mailbox);
	gateway_close_alerts(g);
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int gateway_run(struct config *config, const char *config_path)
{
	struct store_state store;
	struct gateway *g;
	int r;

	g = calloc(1, sizeof(*g));
	if (!g) {
		config_free(config);
		return -ENOMEM;
	}
	g->config = config;
	g->config_path = config_path;
	g->started_usec = now_boot_usec();
	g->listener.fd = g->control_listener.fd = -1;
	block_signals();
	umask(0077);

	r = setup(g);
	if (r >= 0) {
		start_watchdog(g);
		store_get_state(g->store, &store);
		if (store.error == 0)
			log_event(EVENT_STARTED,
				&(struct event_fields){ .path = g->config->socket.path,
					.queue_known = true,
					.queue = store.messages },
				"accepting messages on %s; %llu queued", g->config->socket.path,
				(unsigned long long)store.messages);
		else
			log_event(EVENT_STARTED,
				&(struct event_fields){
					.path = g->config->socket.path, .error = store.error },
				"serving %s; lines are refused until the queue can be written",
				g->config->socket.path);
		sd_notify(0, "READY=1");
		footprint_trim();
		r = sd_event_loop(g->event);
		if (r < 0)
			log_error("event loop failed: %s", strerrordesc_np(-r));
	} else {
		log_event(EVENT_START_FAILED, &(struct event_fields){ .error = r },
			"cannot start: %s; see the lines before", strerrordesc_np(-r));
	}
	teardown(g, r >= 0);
	config_free(g->config);
	free(g);
	if (r >= 0)
		log_event(EVENT_STOPPED, NULL, "stopped");
	return r;
}
