/* SPDX-License-Identifier: MIT */
/*
 * The orchestrator: one event loop in the main thread that owns the queue's writer, the local
 * socket, signals, the watchdog and systemd's status; and the uplink thread beside it.
 *
 * A transaction is opened by the first line of a turn, takes along what the broker has acknowledged
 * since, and is committed once. Without lines, acknowledged rows are removed in a transaction of
 * their own that asks for no sync.
 *
 * Must not know: the protocol on the socket, MQTT.
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
#include "queue.h"
#include "uplink.h"

#define REMOVAL_RETRY_USEC (1 * USEC_PER_SEC)
#define STATUS_USEC	   (1 * USEC_PER_SEC)
#define STATUS_ACCURACY	   (100 * USEC_PER_MSEC)
/* Bounds of an orderly stop: replies still to be written, then the uplink, then the rest. */
#define STOP_REPLIES_USEC (1 * USEC_PER_SEC)
#define STOP_UPLINK_USEC  (10 * USEC_PER_SEC)
#define STORE_LOG_USEC	  (60 * USEC_PER_SEC)

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
	sd_event_source *removal_retry;
	sd_event_source *status_timer;
	sd_event_source *watchdog;
	sd_event_source *stop_timer;
	sd_event_source *stop_check;
	struct listener listener;
	struct queue *queue;
	struct mailbox *mailbox;
	struct ingest *ingest;
	struct uplink *uplink;
	enum gateway_phase phase;
	bool hurry;

	uint64_t removals[MAILBOX_SPAN]; /* acknowledged, not yet removed for good */
	size_t n_removals;
	struct mailbox_condemned condemned[MAILBOX_CONDEMNED]; /* not yet moved for good */
	size_t n_condemned;
	struct mailbox_meta meta; /* to be written for the uplink */
	bool meta_wanted;

	int append_error; /* of the transaction under way */
	bool store_failing;
	uint64_t store_logged_usec;

	struct mailbox_status status;
	uint64_t status_messages; /* as last told to systemd */
	bool status_told;

	uint64_t watchdog_usec; /* 0 = none */
};

/* --- the store ------------------------------------------------------------------------------- */

static void store_failed(struct gateway *g, int error)
{
	uint64_t now = now_usec();

	if (g->store_failing && now - g->store_logged_usec < STORE_LOG_USEC)
		return;
	g->store_failing = true;
	g->store_logged_usec = now;
	log_error("%s: cannot be written: %s; lines are refused with \"storage\" until it can",
		g->config->queue.path, strerrordesc_np(-error));
}

static void store_works(struct gateway *g)
{
	if (!g->store_failing)
		return;
	g->store_failing = false;
	log_notice("%s: can be written again", g->config->queue.path);
}

/* Takes over what the uplink wants written. False: nothing. */
static bool take_uplink_work(struct gateway *g)
{
	g->n_removals += mailbox_take_acked(g->mailbox, g->removals + g->n_removals, g->n_removals);
	g->n_condemned +=
		mailbox_take_condemned(g->mailbox, g->condemned + g->n_condemned, g->n_condemned);
	if (!g->meta_wanted)
		g->meta_wanted = mailbox_take_meta(g->mailbox, &g->meta);
	return g->n_removals > 0 || g->n_condemned > 0 || g->meta_wanted;
}

/* Puts what was taken into the open transaction. */
static int add_uplink_work(struct gateway *g)
{
	int r;

	for (size_t i = 0; i < g->n_condemned; i++) {
		r = queue_condemn(g->queue, g->condemned[i].id, g->condemned[i].reason);
		if (r < 0)
			return r;
	}
	if (g->n_removals > 0) {
		r = queue_remove(g->queue, g->removals, g->n_removals);
		if (r < 0)
			return r;
	}
	return g->meta_wanted ? queue_set_meta(g->queue, g->meta.key, g->meta.value) : 0;
}

static void schedule_status(struct gateway *g);

static void committed(struct gateway *g)
{
	store_works(g);
	if (g->n_removals > 0) {
		mailbox_post_removed(g->mailbox, g->n_removals);
		g->n_removals = 0;
	}
	if (g->n_condemned > 0) {
		mailbox_post_buried(g->mailbox, g->n_condemned);
		g->n_condemned = 0;
	}
	if (g->meta_wanted) {
		g->meta_wanted = false;
		mailbox_post_noted(g->mailbox);
	}
	schedule_status(g);
}

/* Acknowledged rows and notes alone. What fails is tried again in a while. */
static void commit_uplink_work(struct gateway *g)
{
	int r;

	if (!take_uplink_work(g))
		return;
	r = queue_begin(g->queue, g->meta_wanted);
	if (r >= 0)
		r = add_uplink_work(g);
	if (r >= 0)
		r = queue_commit(g->queue);
	if (r < 0) {
		queue_rollback(g->queue);
		store_failed(g, r);
		sd_event_source_set_time_relative(g->removal_retry, REMOVAL_RETRY_USEC);
		sd_event_source_set_enabled(g->removal_retry, SD_EVENT_ONESHOT);
		return;
	}
	committed(g);
}

static int on_removal_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	commit_uplink_work(userdata);
	return 0;
}

/* --- what ingest asks for -------------------------------------------------------------------- */

static int append(void *userdata, const struct message *m, uint64_t *ret_id)
{
	struct gateway *g = userdata;
	int r;

	if (!queue_in_transaction(g->queue)) {
		r = queue_begin(g->queue, true);
		if (r < 0) {
			g->append_error = r;
			return r;
		}
	}
	r = queue_append(g->queue, m, ret_id);
	if (r < 0 && r != -EMSGSIZE && r != -EINVAL)
		g->append_error = r;
	return r;
}

static int commit_appended(struct gateway *g)
{
	int r = g->append_error;

	g->append_error = 0;
	take_uplink_work(g);
	if (r == 0)
		r = add_uplink_work(g);
	if (r == 0)
		r = queue_commit(g->queue);
	if (r < 0)
		queue_rollback(g->queue);
	return r;
}

static int commit(void *userdata)
{
	struct gateway *g = userdata;
	int r = commit_appended(g);

	if (r < 0) {
		store_failed(g, r);
		/* A full disk refuses new rows; removing old ones alone may still work. */
		commit_uplink_work(g);
		return r;
	}
	committed(g);
	mailbox_post_committed(g->mailbox, queue_last_id(g->queue));
	return 0;
}

static const struct ingest_callbacks ingest_callbacks = {
	.append = append,
	.commit = commit,
};

/* --- systemd --------------------------------------------------------------------------------- */

static void tell_status(struct gateway *g)
{
	uint64_t messages = queue_messages(g->queue);

	g->status_messages = messages;
	sd_notifyf(0, "STATUS=%s %s; %llu queued%s%s", g->status.state, g->status.broker,
		(unsigned long long)messages, g->status.cause[0] ? "; " : "", g->status.cause);
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
	if (queue_messages(g->queue) == g->status_messages && g->status_told)
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
	/* This thread lives, or it would not be here; the other one must have answered. */
	if (mailbox_pinged(g->mailbox)) {
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
	commit_uplink_work(g);
	if (mailbox_uplink_done(g->mailbox))
		sd_event_exit(g->event, g->phase == PHASE_UPLINK ? 0 : -EIO);
	return 0;
}

/* --- set up and run -------------------------------------------------------------------------- */

static int setup_timers(struct gateway *g)
{
	const struct {
		sd_event_source **source;
		sd_event_time_handler_t handler;
		uint64_t accuracy;
	} timers[] = {
		{ &g->removal_retry, on_removal_retry, STATUS_ACCURACY },
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
	const struct queue_params params = {
		.path = g->config->queue.path,
		.sync_full = g->config->queue.sync == CONFIG_SYNC_FULL,
	};
	int r;

	r = mailbox_new(&g->mailbox);
	if (r >= 0)
		r = setup_loop(g);
	if (r < 0) {
		log_error("cannot set up the event loop: %s", strerrordesc_np(-r));
		return r;
	}
	r = queue_new(&g->queue, &params);
	if (r < 0)
		return r;
	mailbox_post_committed(g->mailbox, queue_last_id(g->queue));
	r = setup_ingest(g);
	if (r < 0)
		return r;
	return uplink_new(&g->uplink, g->config, g->mailbox);
}

/* The reverse of setup(), on half-built ones too. The uplink has ended, or never began. */
static void teardown(struct gateway *g, bool orderly)
{
	g->ingest = ingest_free(g->ingest);
	if (g->uplink && !mailbox_uplink_done(g->mailbox))
		mailbox_post_stop(g->mailbox, true);
	g->uplink = uplink_free(g->uplink);
	if (orderly)
		commit_uplink_work(g);
	g->queue = queue_free(g->queue, orderly);
	listener_close(&g->listener);
	for (size_t i = 0; i < ARRAY_SIZE(g->signals); i++)
		g->signals[i] = sd_event_source_disable_unref(g->signals[i]);
	g->mail = sd_event_source_disable_unref(g->mail);
	g->removal_retry = sd_event_source_disable_unref(g->removal_retry);
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
		log_notice("accepting messages on %s; %llu queued", config->socket.path,
			(unsigned long long)queue_messages(g->queue));
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
