/* SPDX-License-Identifier: MIT */
/*
 * The orchestrator: one event loop in the main thread that owns the store, the local socket,
 * signals, the watchdog and systemd's status; and the uplink thread beside it, which runs while the
 * store is open.
 *
 * Must not know: the protocol on the socket, SQL, MQTT.
 */
#include "gateway.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "ingest.h"
#include "listener.h"
#include "log.h"
#include "mailbox.h"
#include "store.h"
#include "uplink.h"

#define STATUS_USEC	(1 * USEC_PER_SEC)
#define STATUS_ACCURACY (100 * USEC_PER_MSEC)
/* Bounds of an orderly stop: replies still to be written, then the uplink, then the rest. */
#define STOP_REPLIES_USEC (1 * USEC_PER_SEC)
#define STOP_UPLINK_USEC  (10 * USEC_PER_SEC)

enum gateway_phase {
	PHASE_RUNNING,
	PHASE_REPLIES, /* stopping: replies are being written */
	PHASE_UPLINK, /* stopping: the uplink finishes */
};

struct gateway {
	const struct config *config;
	sd_event *event;
	sd_event_source *signals[3];
	sd_event_source *mail;
	sd_event_source *status_timer;
	sd_event_source *watchdog;
	sd_event_source *stop_timer;
	sd_event_source *stop_check;
	struct listener listener;
	struct store *store;
	struct mailbox *mailbox;
	struct ingest *ingest;
	struct uplink *uplink;
	enum gateway_phase phase;
	bool hurry;

	bool parking; /* the uplink ends, and begins again when the store is open again */

	struct mailbox_status status;
	struct store_state status_store; /* as last told to systemd */
	bool status_told;

	uint64_t watchdog_usec; /* 0 = none */
};

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

static void tell_status(struct gateway *g)
{
	struct store_state store;

	store_get_state(g->store, &store);
	g->status_store = store;
	if (store.error < 0)
		sd_notifyf(0,
			"STATUS=queue cannot be written (%s), lines are refused; %s %s; %llu "
			"queued",
			strerrordesc_np(-store.error), g->status.state, g->status.broker,
			(unsigned long long)store.messages);
	else
		sd_notifyf(0, "STATUS=%s %s; %llu queued%s%s", g->status.state, g->status.broker,
			(unsigned long long)store.messages, g->status.cause[0] ? "; " : "",
			g->status.cause);
}

static bool store_has_changed(const struct gateway *g)
{
	struct store_state store;

	store_get_state(g->store, &store);
	return store.error != g->status_store.error || store.messages != g->status_store.messages;
}

/* At once when nothing was told lately, else a little later: one line a second is enough. */
static void schedule_status(struct gateway *g)
{
	int enabled = SD_EVENT_OFF;

	(void)sd_event_source_get_enabled(g->status_timer, &enabled);
	if (enabled != SD_EVENT_OFF) {
		g->status_told = false;
		return;
	}
	if (g->status_told && !store_has_changed(g))
		return;
	tell_status(g);
	g->status_told = true;
	sd_event_source_set_time_relative(g->status_timer, STATUS_USEC);
	sd_event_source_set_enabled(g->status_timer, SD_EVENT_ONESHOT);
}

static int on_status_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)usec;
	if (!g->status_told)
		schedule_status(g);
	return 0;
}

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
	sd_event_source_set_time_relative(s, g->watchdog_usec / 4);
	return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

/* --- the orderly stop ------------------------------------------------------------------------ */

static void arm_stop(struct gateway *g, uint64_t usec)
{
	sd_event_source_set_time_relative(g->stop_timer, usec);
	sd_event_source_set_enabled(g->stop_timer, SD_EVENT_ONESHOT);
}

static void stop_uplink(struct gateway *g)
{
	g->phase = PHASE_UPLINK;
	g->ingest = ingest_free(g->ingest);
	sd_event_source_set_enabled(g->stop_check, SD_EVENT_OFF);
	if (!g->uplink) {
		sd_event_exit(g->event, 0);
		return;
	}
	log_debug("stop: waiting for the uplink");
	mailbox_post_stop(g->mailbox, g->hurry);
	arm_stop(g, STOP_UPLINK_USEC);
}

/* Accepting ends with the listener's source; connections made from now on wait in the kernel for
 * the next process if the socket is systemd's. */
static void begin_stop(struct gateway *g)
{
	g->phase = PHASE_REPLIES;
	sd_notify(0, "STOPPING=1\nSTATUS=stopping");
	log_notice("stopping");
	ingest_stop(g->ingest);
	if (ingest_clients(g->ingest) == 0) {
		stop_uplink(g);
		return;
	}
	arm_stop(g, STOP_REPLIES_USEC);
	sd_event_source_set_enabled(g->stop_check, SD_EVENT_ON);
}

/* After each dispatch of another source, while replies are being written. */
static int on_stop_check(sd_event_source *s, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	if (g->phase == PHASE_REPLIES && ingest_clients(g->ingest) == 0)
		stop_uplink(g);
	return 0;
}

static int on_stop_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)usec;
	if (g->phase == PHASE_REPLIES) {
		log_notice("stop: %u clients did not read their replies in time",
			ingest_clients(g->ingest));
		stop_uplink(g);
		return 0;
	}
	if (g->hurry)
		log_error("stop: the uplink does not end");
	g->hurry = true;
	mailbox_post_stop(g->mailbox, true);
	arm_stop(g, STOP_REPLIES_USEC);
	return 0;
}

static int on_signal(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	if (si->ssi_signo == SIGHUP) {
		log_notice("SIGHUP: trying to connect now; this version does not reload: restart "
			   "it to apply a new configuration");
		mailbox_post_reconnect(g->mailbox);
		return 0;
	}
	log_debug("signal %u", si->ssi_signo);
	if (g->phase == PHASE_RUNNING) {
		begin_stop(g);
		return 0;
	}
	log_notice("second signal: hurrying");
	g->hurry = true;
	if (g->phase == PHASE_REPLIES)
		stop_uplink(g);
	else
		mailbox_post_stop(g->mailbox, true);
	return 0;
}

/* The uplink's thread has come to its end. */
static void uplink_done(struct gateway *g)
{
	if (g->phase == PHASE_UPLINK) {
		sd_event_exit(g->event, 0);
		return;
	}
	if (!g->parking) {
		sd_event_exit(g->event, -EIO);
		return;
	}
	g->parking = false;
	g->uplink = uplink_free(g->uplink);
	store_parked(g->store);
}

static int on_mail(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)fd;
	(void)events;
	mailbox_gateway_clear(g->mailbox);
	if (mailbox_take_status(g->mailbox, &g->status)) {
		g->status_told = false;
		if (g->phase == PHASE_RUNNING)
			schedule_status(g);
	}
	store_mail(g->store);
	if (mailbox_uplink_done(g->mailbox))
		uplink_done(g);
	return 0;
}

/* --- what the store asks for ------------------------------------------------------------------ */

static int on_store_opened(void *userdata)
{
	struct gateway *g = userdata;

	return uplink_new(&g->uplink, g->config, g->mailbox);
}

static void on_store_park(void *userdata)
{
	struct gateway *g = userdata;

	g->parking = true;
	mailbox_post_stop(g->mailbox, true);
}

static void on_store_changed(void *userdata)
{
	struct gateway *g = userdata;

	if (g->store && g->phase == PHASE_RUNNING)
		schedule_status(g);
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
};

/* --- set up and run -------------------------------------------------------------------------- */

static int setup_timers(struct gateway *g)
{
	const struct {
		sd_event_source **source;
		sd_event_time_handler_t handler;
		uint64_t accuracy;
	} timers[] = {
		{ &g->status_timer, on_status_timer, STATUS_ACCURACY },
		{ &g->stop_timer, on_stop_timer, STATUS_ACCURACY },
		{ &g->watchdog, on_watchdog, STATUS_ACCURACY },
	};

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		int r;

		r = sd_event_add_time(g->event, timers[i].source, CLOCK_MONOTONIC, UINT64_MAX,
			timers[i].accuracy, timers[i].handler, g);
		if (r < 0)
			return r;
		r = sd_event_source_set_enabled(*timers[i].source, SD_EVENT_OFF);
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
	r = sd_event_add_post(g->event, &g->stop_check, on_stop_check, g);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(g->stop_check, SD_EVENT_OFF);
	if (r < 0)
		return r;
	return setup_timers(g);
}

static int setup_ingest(struct gateway *g)
{
	const struct ingest_params params = {
		.default_qos = g->config->socket.default_qos,
		.max_clients = g->config->socket.max_clients,
		.max_message_bytes = g->config->socket.max_message_bytes,
		.max_buffered_bytes = g->config->socket.max_buffered_bytes,
		.commit_delay_usec = g->config->queue.commit_delay_usec,
	};
	int r;

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
	sd_event_source_set_time_relative(g->watchdog, 0);
	sd_event_source_set_enabled(g->watchdog, SD_EVENT_ONESHOT);
}

static int setup(struct gateway *g)
{
	int r;

	r = mailbox_new(&g->mailbox);
	if (r >= 0)
		r = setup_loop(g);
	if (r < 0) {
		log_error("cannot set up the event loop: %s", strerrordesc_np(-r));
		return r;
	}
	r = store_new(&g->store, g->event, g->config, g->mailbox, &store_callbacks, g);
	if (r < 0)
		return r;
	return setup_ingest(g);
}

/* The reverse of setup(), on half-built ones too. The uplink has ended, or never began. */
static void teardown(struct gateway *g, bool orderly)
{
	g->ingest = ingest_free(g->ingest);
	if (g->uplink && !mailbox_uplink_done(g->mailbox))
		mailbox_post_stop(g->mailbox, true);
	g->uplink = uplink_free(g->uplink);
	g->store = store_free(g->store, orderly);
	listener_close(&g->listener);
	for (size_t i = 0; i < ARRAY_SIZE(g->signals); i++)
		g->signals[i] = sd_event_source_disable_unref(g->signals[i]);
	g->mail = sd_event_source_disable_unref(g->mail);
	g->status_timer = sd_event_source_disable_unref(g->status_timer);
	g->watchdog = sd_event_source_disable_unref(g->watchdog);
	g->stop_timer = sd_event_source_disable_unref(g->stop_timer);
	g->stop_check = sd_event_source_disable_unref(g->stop_check);
	g->event = sd_event_unref(g->event);
	g->mailbox = mailbox_free(g->mailbox);
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

int gateway_run(const struct config *config)
{
	struct store_state store;
	struct gateway *g;
	int r;

	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->config = config;
	g->listener.fd = -1;
	snprintf(g->status.state, sizeof(g->status.state), "starting");
	block_signals();
	umask(0077);

	r = setup(g);
	if (r >= 0) {
		start_watchdog(g);
		store_get_state(g->store, &store);
		if (store.error == 0)
			log_notice("accepting messages on %s; %llu queued", config->socket.path,
				(unsigned long long)store.messages);
		sd_notify(0, "READY=1");
		r = sd_event_loop(g->event);
		if (r < 0)
			log_error("event loop failed: %s", strerrordesc_np(-r));
	}
	teardown(g, r >= 0);
	free(g);
	if (r >= 0)
		log_notice("stopped");
	return r;
}
