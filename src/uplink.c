/* SPDX-License-Identifier: MIT */
/*
 * The uplink thread: see uplink.h. Its loop, its mail, and what it is made of; the work is in
 * uplink_steps.c and uplink_flow.c.
 */
#include "uplink.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "log.h"
#include "timer.h"
#include "uplink_internal.h"

#define TIMER_ACCURACY_USEC (10 * USEC_PER_MSEC)

/* --- events ---------------------------------------------------------------------------------- */

static int on_pump(sd_event_source *s, void *userdata)
{
	(void)s;
	uplink_drain_turn(userdata);
	return 0;
}

static int on_drain_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	uplink_drain_turn(userdata);
	return 0;
}

static int on_conclude(sd_event_source *s, void *userdata)
{
	(void)s;
	uplink_take_trouble(userdata);
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	uplink_handle(userdata, SUPERVISOR_TIMER, FAILURE_NONE);
	return 0;
}

static int on_leave_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	uplink_leave_due(userdata);
	return 0;
}

static int on_stall_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	uplink_check_stall(userdata);
	return 0;
}

static int on_hold_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct uplink *u = userdata;

	(void)s;
	(void)usec;
	if (link_is_up(u->link))
		drain_alive(u->drain);
	uplink_release(u);
	uplink_drain_turn(u);
	return 0;
}

static int on_mail(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct uplink *u = userdata;
	bool hurry;

	(void)s;
	(void)fd;
	(void)events;
	mailbox_uplink_clear(u->mailbox);
	mailbox_answer_ping(u->mailbox);
	if (mailbox_noted(u->mailbox))
		uplink_noted(u);
	if (mailbox_take_reconnect(u->mailbox)) {
		uplink_release(u);
		uplink_handle(u, SUPERVISOR_RECONNECT, FAILURE_NONE);
		/* What it names, password files say, may be new. */
		discovery_refresh(u->discovery);
	}
	uplink_drain_turn(u);
	if (mailbox_stopping(u->mailbox, &hurry))
		uplink_stop(u, hurry);
	return 0;
}

static void on_brokers(void *userdata, const struct config_broker *brokers, size_t n)
{
	uplink_set_brokers(userdata, brokers, n);
}

static void on_no_brokers(void *userdata, const char *text)
{
	struct uplink *u = userdata;

	uplink_tell_no_brokers(u, text);
	if (u->n_list > 0)
		return;
	uplink_set_cause(u, "%s", text);
	uplink_post_status(u);
}

static const struct discovery_callbacks discovery_callbacks = {
	.brokers = on_brokers,
	.failed = on_no_brokers,
};

static void on_network(void *userdata, enum netwatch_event event, const char *text)
{
	struct uplink *u = userdata;

	log_debug("network: %s", text);
	if (event == NETWATCH_DOWN && uplink_is_local(u))
		return;
	uplink_tell_network(u, event == NETWATCH_UP, text);
	uplink_handle(u, event == NETWATCH_UP ? SUPERVISOR_NETWORK_UP : SUPERVISOR_NETWORK_DOWN,
		FAILURE_NONE);
	if (event == NETWATCH_UP)
		discovery_refresh(u->discovery);
}

/* --- the thread ------------------------------------------------------------------------------ */

static int add_timers(struct uplink *u)
{
	const struct {
		sd_event_source **source;
		clockid_t clock;
		sd_event_time_handler_t handler;
	} timers[] = {
		/* After a suspend, a wait is over as soon as it would have been. */
		{ &u->timer, CLOCK_BOOTTIME, on_timer },
		{ &u->leave_timer, CLOCK_MONOTONIC, on_leave_timer },
		{ &u->wake, CLOCK_MONOTONIC, on_drain_timer },
		{ &u->read_retry, CLOCK_MONOTONIC, on_drain_timer },
		{ &u->stall_timer, CLOCK_MONOTONIC, on_stall_timer },
		{ &u->hold_timer, CLOCK_MONOTONIC, on_hold_timer },
	};

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		int r = timer_new(timers[i].source, u->event, timers[i].clock, TIMER_ACCURACY_USEC,
			timers[i].handler, u);

		if (r < 0)
			return r;
	}
	return 0;
}

static int add_defer(struct uplink *u, sd_event_source **ret, sd_event_handler_t handler)
{
	int r;

	r = sd_event_add_defer(u->event, ret, handler, u);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

static int setup_loop(struct uplink *u)
{
	int r;

	r = sd_event_new(&u->event);
	if (r < 0)
		return r;
	r = sd_event_add_io(u->event, &u->mail, mailbox_uplink_fd(u->mailbox), EPOLLIN, on_mail, u);
	if (r < 0)
		return r;
	r = add_timers(u);
	if (r < 0)
		return r;
	r = add_defer(u, &u->pump, on_pump);
	if (r < 0)
		return r;
	/* Behind mail and acknowledgements: see the same in ingest.c. */
	r = sd_event_source_set_priority(u->pump, SD_EVENT_PRIORITY_NORMAL + 10);
	if (r < 0)
		return r;
	return add_defer(u, &u->conclude, on_conclude);
}

static int setup_flow(struct uplink *u)
{
	const struct window_params window = {
		.max_messages = u->config->mqtt.inflight_max,
		.max_bytes = u->config->mqtt.inflight_bytes,
		.max_rate = u->config->mqtt.max_rate,
	};
	int r;

	r = queue_reader_new(&u->reader, u->config->queue.path);
	if (r < 0)
		return r;
	r = queue_reader_meta(u->reader, "queue_uuid", &u->queue_uuid);
	if (r < 0)
		return r;
	return drain_new(&u->drain, u->reader, u->mailbox, &window, &uplink_drain_callbacks, u);
}

static int setup_steps(struct uplink *u)
{
	const struct config *c = u->config;
	const struct supervisor_params params = {
		.backoff = c->retry.backoff,
		.connect_timeout_usec = c->mqtt.connect_timeout_usec,
		.stable_usec = c->retry.stable_usec,
		/* Both parts end by themselves before. */
		.disconnect_timeout_usec =
			LEAVE_INFLIGHT_USEC + LEAVE_DISCONNECT_USEC + USEC_PER_SEC,
		.timeout_attempts = c->retry.timeout_attempts,
		.heartbeat_attempts = c->retry.heartbeat_attempts,
		.heartbeat_delay_usec = c->retry.heartbeat_delay_usec,
		.set_aside_usec = c->retry.set_aside_usec,
		.failback_usec = c->retry.failback_usec,
	};
	int r;

	supervisor_init(&u->supervisor, &params, timer_random, NULL);
	r = netwatch_new(&u->netwatch, u->event, on_network, u);
	if (r < 0)
		log_info("network changes are not watched: %s", strerrordesc_np(-r));
	return discovery_new(&u->discovery, u->event, c, &discovery_callbacks, u);
}

static void *run(void *userdata)
{
	struct uplink *u = userdata;
	int r;

	pthread_setname_np(pthread_self(), "uplink");
	uplink_forget_brokers(u);
	discovery_start(u->discovery);
	uplink_handle(u, SUPERVISOR_START, FAILURE_NONE);
	r = sd_event_loop(u->event);
	if (r < 0)
		log_error("uplink: event loop failed: %s", strerrordesc_np(-r));
	mailbox_post_done(u->mailbox);
	return NULL;
}

static int setup(struct uplink *u)
{
	int r;

	r = setup_loop(u);
	if (r < 0)
		return r;
	r = setup_flow(u);
	if (r < 0)
		return r;
	return setup_steps(u);
}

int uplink_new(struct uplink **ret, const struct config *config, struct mailbox *mailbox)
{
	sigset_t all, old;
	struct uplink *u;
	int r;

	u = calloc(1, sizeof(*u));
	if (!u)
		return -ENOMEM;
	u->config = config;
	u->mailbox = mailbox;
	mqtt_library_init();
	r = setup(u);
	if (r < 0) {
		log_error("cannot set up the uplink: %s", strerrordesc_np(-r));
		uplink_free(u);
		return r;
	}
	/* Signals are the gateway thread's; SIGABRT ends the process whoever hangs. */
	sigfillset(&all);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&u->thread, NULL, run, u);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0) {
		log_error("cannot start the uplink thread: %s", strerrordesc_np(-r));
		uplink_free(u);
		return r;
	}
	u->started = true;
	*ret = u;
	return 0;
}

struct uplink *uplink_free(struct uplink *u)
{
	if (!u)
		return NULL;
	if (u->started)
		pthread_join(u->thread, NULL);
	u->discovery = discovery_free(u->discovery);
	u->netwatch = netwatch_free(u->netwatch);
	u->probe = link_free(u->probe);
	u->link = link_free(u->link);
	u->drain = drain_free(u->drain);
	u->reader = queue_reader_free(u->reader);
	config_brokers_free(u->list, u->n_list);
	free(u->queue_uuid);
	u->mail = sd_event_source_disable_unref(u->mail);
	u->timer = sd_event_source_disable_unref(u->timer);
	u->leave_timer = sd_event_source_disable_unref(u->leave_timer);
	u->wake = sd_event_source_disable_unref(u->wake);
	u->read_retry = sd_event_source_disable_unref(u->read_retry);
	u->stall_timer = sd_event_source_disable_unref(u->stall_timer);
	u->hold_timer = sd_event_source_disable_unref(u->hold_timer);
	u->pump = sd_event_source_disable_unref(u->pump);
	u->conclude = sd_event_source_disable_unref(u->conclude);
	u->event = sd_event_unref(u->event);
	mqtt_library_cleanup();
	free(u);
	return NULL;
}
