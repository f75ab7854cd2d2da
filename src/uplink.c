/* SPDX-License-Identifier: MIT */
/*
 * The uplink thread: see uplink.h. Wires supervisor, link and drain together.
 *
 * When the process stops in order with nothing in flight, the broker is noted as clean, so that the
 * next process may go on with its session.
 *
 * Invariant: apply() is the only place where a supervisor's decision is carried out.
 */
#include "uplink.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <systemd/sd-event.h>

#include "drain.h"
#include "link.h"
#include "log.h"
#include "mqtt.h"
#include "queue_reader.h"
#include "supervisor.h"

/* How long an orderly stop waits for acknowledgements, and for DISCONNECT to be written. */
#define STOP_INFLIGHT_USEC   (5 * USEC_PER_SEC)
#define STOP_DISCONNECT_USEC (2 * USEC_PER_SEC)
#define READ_RETRY_USEC	     (1 * USEC_PER_SEC)
#define TIMER_ACCURACY_USEC  (10 * USEC_PER_MSEC)

struct uplink {
	const struct config *config;
	struct mailbox *mailbox;
	pthread_t thread;
	bool started;

	sd_event *event;
	sd_event_source *mail;
	sd_event_source *timer; /* the supervisor's */
	sd_event_source *stop_timer; /* bound on what is in flight at a stop */
	sd_event_source *pump; /* more to send */
	sd_event_source *read_retry; /* the queue could not be read */
	sd_event_source *conclude; /* handles a refused message outside the library */
	struct link *link;
	struct queue_reader *reader;
	struct drain *drain;
	struct supervisor supervisor;

	bool noting_last; /* the final note is on its way: the thread ends with its confirmation */
	bool stopping;
	bool hurry;
	char broker_name[300];
	char meta_key[512];
	char cause[200];
	struct failure refusal; /* of a message: class FAILURE_NONE = none */
};

static void handle(struct uplink *u, enum supervisor_event event, enum failure_class class);

/* --- status ---------------------------------------------------------------------------------- */

static void post_status(struct uplink *u)
{
	struct mailbox_status status = { .inflight = drain_inflight(u->drain) };

	snprintf(status.state, sizeof(status.state), "%s",
		supervisor_state_to_string(u->supervisor.state));
	snprintf(status.broker, sizeof(status.broker), "%s", u->broker_name);
	snprintf(status.cause, sizeof(status.cause), "%s", u->cause);
	mailbox_post_status(u->mailbox, &status);
}

_printf_(2, 3) static void set_cause(struct uplink *u, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(u->cause, sizeof(u->cause), format, ap);
	va_end(ap);
}

static void log_step(struct uplink *u, const struct supervisor_step *step,
	enum supervisor_event event, enum failure_class class)
{
	bool failed = event == SUPERVISOR_FAILURE || step->deadline;
	const struct log_field fields[] = {
		{ "MQTTGW_STATE", supervisor_state_to_string(step->to) },
		{ "MQTTGW_OLD_STATE", supervisor_state_to_string(step->from) },
		{ "MQTTGW_BROKER", u->broker_name },
		{ "MQTTGW_CLASS", failure_class_to_string(class) },
		{ NULL, NULL },
	};
	int priority = step->to == SUPERVISOR_CONNECTED ? LOG_NOTICE
		: step->to == SUPERVISOR_ERROR		? LOG_ERR
		: failed				? LOG_WARNING
							: LOG_INFO;
	char next[80] = "";

	if (step->wait_usec)
		snprintf(next, sizeof(next), "; next attempt in %.1f s",
			(double)step->wait_usec / (double)USEC_PER_SEC);
	if (failed)
		log_write(priority, fields, "%s: %s -> %s: %s (%s)%s", u->broker_name,
			supervisor_state_to_string(step->from),
			supervisor_state_to_string(step->to), u->cause,
			failure_class_to_string(class), next);
	else
		log_write(priority, fields, "%s: %s -> %s%s", u->broker_name,
			supervisor_state_to_string(step->from),
			supervisor_state_to_string(step->to), next);
}

/* --- draining -------------------------------------------------------------------------------- */

static void fail_message(struct uplink *u, enum failure_class class, uint64_t id, const char *text)
{
	if (u->refusal.class != FAILURE_NONE)
		return;
	failure_set(&u->refusal, class,
		"message %llu was refused: %s; it stays at the head of the queue",
		(unsigned long long)id, text);
}

static int publish(void *userdata, const struct message *m, int *ret_mid)
{
	struct uplink *u = userdata;
	const char *text = NULL;
	int r;

	r = link_publish(u->link, m, ret_mid, &text);
	if (r < 0)
		fail_message(u, FAILURE_PROTOCOL, m->id, text);
	return r;
}

static void take_refusal(struct uplink *u)
{
	enum failure_class class = u->refusal.class;

	if (class == FAILURE_NONE)
		return;
	set_cause(u, "%s", u->refusal.text);
	u->refusal.class = FAILURE_NONE;
	if (u->supervisor.state == SUPERVISOR_CONNECTED)
		handle(u, SUPERVISOR_FAILURE, class);
}

static void finish_if_idle(struct uplink *u)
{
	if (u->stopping && u->supervisor.state == SUPERVISOR_CONNECTED &&
		drain_inflight(u->drain) == 0)
		handle(u, SUPERVISOR_STOP, FAILURE_NONE);
}

static void drain_turn(struct uplink *u)
{
	int r;

	if (u->supervisor.state != SUPERVISOR_CONNECTED || !link_is_up(u->link) || u->stopping ||
		u->refusal.class != FAILURE_NONE) {
		drain_flush(u->drain);
	} else {
		r = drain_pump(u->drain);
		if (r > 0) {
			sd_event_source_set_enabled(u->pump, SD_EVENT_ONESHOT);
		} else if (r < 0 && u->refusal.class == FAILURE_NONE) {
			/* The reader has logged it. The disk may come back. */
			sd_event_source_set_time_relative(u->read_retry, READ_RETRY_USEC);
			sd_event_source_set_enabled(u->read_retry, SD_EVENT_ONESHOT);
		}
	}
	if (u->refusal.class != FAILURE_NONE)
		sd_event_source_set_enabled(u->conclude, SD_EVENT_ONESHOT);
	finish_if_idle(u);
}

static int on_pump(sd_event_source *s, void *userdata)
{
	(void)s;
	drain_turn(userdata);
	return 0;
}

static int on_read_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	drain_turn(userdata);
	return 0;
}

static int on_conclude(sd_event_source *s, void *userdata)
{
	(void)s;
	take_refusal(userdata);
	return 0;
}

/* --- what the link reports -------------------------------------------------------------------- */

static void on_note(void *userdata)
{
	struct uplink *u = userdata;

	mailbox_post_meta(u->mailbox, u->meta_key, LINK_NOTE_UNCLEAN);
}

static void on_step_done(void *userdata)
{
	handle(userdata, SUPERVISOR_PROGRESS, FAILURE_NONE);
}

static void on_connected(void *userdata, unsigned receive_maximum)
{
	struct uplink *u = userdata;

	drain_connected(u->drain, receive_maximum);
	set_cause(u, "%s", "");
	handle(u, SUPERVISOR_CONNACK, FAILURE_NONE);
	drain_turn(u);
}

static void on_failed(void *userdata, const struct failure *f)
{
	struct uplink *u = userdata;

	set_cause(u, "%s", f->text);
	handle(u, SUPERVISOR_FAILURE, f->class);
}

static void on_closed(void *userdata)
{
	handle(userdata, SUPERVISOR_CLOSED, FAILURE_NONE);
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
	struct uplink *u = userdata;
	enum failure_class class = failure_of_publish(reason);
	char text[64];
	uint64_t id;

	id = drain_published(u->drain, mid, class == FAILURE_NONE);
	if (id && class != FAILURE_NONE) {
		snprintf(text, sizeof(text), "reason code 0x%02x", reason);
		fail_message(u, class, id, text);
	}
}

static void on_progress(void *userdata)
{
	drain_turn(userdata);
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
};

/* --- carrying out what the supervisor decides ------------------------------------------------ */

static void arm(sd_event_source *s, uint64_t usec)
{
	if (usec == SUPERVISOR_NO_TIMER) {
		sd_event_source_set_enabled(s, SD_EVENT_OFF);
		return;
	}
	sd_event_source_set_time(s, usec);
	sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static void end(struct uplink *u)
{
	/* Everything the broker's session could hold of ours is acknowledged: the next process may
	 * go on with that session. */
	if (link_is_clean(u->link) && !u->noting_last && !u->hurry) {
		u->noting_last = true;
		mailbox_post_meta(u->mailbox, u->meta_key, LINK_NOTE_CLEAN);
		return; /* take_noted() goes on */
	}
	post_status(u);
	sd_event_exit(u->event, 0);
}

static void apply(struct uplink *u, const struct supervisor_step *step)
{
	arm(u->timer, step->timer_usec);
	switch (step->action) {
	case SUPERVISOR_CONNECT: link_begin(u->link); break;
	case SUPERVISOR_ABORT:
		link_abort(u->link);
		drain_connection_lost(u->drain);
		drain_flush(u->drain);
		break;
	case SUPERVISOR_DISCONNECT: link_disconnect(u->link); break;
	case SUPERVISOR_NOTHING: break;
	}
	if (step->to != step->from)
		post_status(u);
	if (u->stopping && step->to == SUPERVISOR_DISCONNECTED &&
		step->timer_usec == SUPERVISOR_NO_TIMER)
		end(u);
}

static void handle(struct uplink *u, enum supervisor_event event, enum failure_class class)
{
	struct supervisor_step step;

	if (supervisor_handle(&u->supervisor, event, class, now_usec(), &step) < 0) {
		log_debug("%s: event %d ignored in state %s", u->broker_name, (int)event,
			supervisor_state_to_string(u->supervisor.state));
		return;
	}
	if (step.deadline) {
		class = FAILURE_TIMEOUT;
		set_cause(u, "no connection within mqtt.connect_timeout: waiting for %s",
			link_waits_for(u->link));
	}
	if (step.from != step.to)
		log_step(u, &step, event, class);
	apply(u, &step);
	/* A stop that came while an attempt failed or a connection was lost. */
	if (u->stopping && u->supervisor.timer_usec != SUPERVISOR_NO_TIMER &&
		(step.to == SUPERVISOR_OFFLINE || step.to == SUPERVISOR_ERROR ||
			step.to == SUPERVISOR_DISCONNECTED))
		handle(u, SUPERVISOR_STOP, FAILURE_NONE);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	handle(userdata, SUPERVISOR_TIMER, FAILURE_NONE);
	return 0;
}

static int on_stop_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct uplink *u = userdata;

	(void)s;
	(void)usec;
	if (u->supervisor.state == SUPERVISOR_CONNECTED)
		log_notice("%s: %u messages still in flight at the stop; they stay in the queue",
			u->broker_name, drain_inflight(u->drain));
	handle(u, SUPERVISOR_STOP, FAILURE_NONE);
	return 0;
}

/* --- the mailbox ----------------------------------------------------------------------------- */

static void begin_stop(struct uplink *u, bool hurry)
{
	bool news = !u->stopping || (hurry && !u->hurry);

	if (!news)
		return;
	u->stopping = true;
	u->hurry = hurry;
	if (u->noting_last) {
		end(u);
		return;
	}
	if (u->supervisor.state == SUPERVISOR_CONNECTED && !hurry) {
		arm(u->stop_timer, now_usec() + STOP_INFLIGHT_USEC);
		finish_if_idle(u);
		return;
	}
	handle(u, SUPERVISOR_STOP, FAILURE_NONE);
}

static void take_noted(struct uplink *u)
{
	if (u->noting_last) {
		end(u);
		return;
	}
	link_noted(u->link);
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
		take_noted(u);
	drain_turn(u);
	if (mailbox_stopping(u->mailbox, &hurry))
		begin_stop(u, hurry);
	return 0;
}

/* --- the thread ------------------------------------------------------------------------------ */

/* Uniform in [0, 1), for jitter: gateways of one image must not draw the same waits. */
static double draw(void *userdata)
{
	uint64_t bits = 0;

	(void)userdata;
	if (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		bits = now_usec() * UINT64_C(0x9e3779b97f4a7c15);
	return (double)(bits >> 11) * 0x1.0p-53;
}

static int add_timer(struct uplink *u, sd_event_source **ret, sd_event_time_handler_t handler)
{
	int r;

	r = sd_event_add_time(
		u->event, ret, CLOCK_MONOTONIC, UINT64_MAX, TIMER_ACCURACY_USEC, handler, u);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
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
	r = add_timer(u, &u->timer, on_timer);
	if (r < 0)
		return r;
	r = add_timer(u, &u->stop_timer, on_stop_timer);
	if (r < 0)
		return r;
	r = add_timer(u, &u->read_retry, on_read_retry);
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

static int setup_link(struct uplink *u)
{
	_cleanup_(freep) char *note = NULL;
	int r;

	snprintf(u->broker_name, sizeof(u->broker_name), "%s:%u", u->config->brokers[0].host,
		u->config->brokers[0].port);
	snprintf(u->meta_key, sizeof(u->meta_key), "session %s %s", u->broker_name,
		u->config->mqtt.client_id);
	r = queue_reader_meta(u->reader, u->meta_key, &note);
	if (r < 0 && r != -ENODATA)
		return r;
	return link_new(&u->link, u->event, u->config, u->broker_name, note, &link_callbacks, u);
}

static int setup(struct uplink *u)
{
	const struct supervisor_params params = {
		.backoff = u->config->retry.backoff,
		.connect_timeout_usec = u->config->mqtt.connect_timeout_usec,
		.stable_usec = u->config->retry.stable_usec,
		.disconnect_timeout_usec = STOP_DISCONNECT_USEC,
	};
	int r;

	r = setup_loop(u);
	if (r < 0)
		return r;
	r = queue_reader_new(&u->reader, u->config->queue.path);
	if (r < 0)
		return r;
	r = setup_link(u);
	if (r < 0)
		return r;
	supervisor_init(&u->supervisor, &params, draw, NULL);
	return drain_new(&u->drain, u->reader, u->mailbox, u->config->mqtt.inflight_max,
		u->config->mqtt.inflight_bytes, publish, u);
}

static void *run(void *userdata)
{
	struct uplink *u = userdata;
	int r;

	pthread_setname_np(pthread_self(), "uplink");
	handle(u, SUPERVISOR_START, FAILURE_NONE);
	r = sd_event_loop(u->event);
	if (r < 0)
		log_error("uplink: event loop failed: %s", strerrordesc_np(-r));
	mailbox_post_done(u->mailbox);
	return NULL;
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
	u->link = link_free(u->link);
	u->drain = drain_free(u->drain);
	u->reader = queue_reader_free(u->reader);
	u->mail = sd_event_source_disable_unref(u->mail);
	u->timer = sd_event_source_disable_unref(u->timer);
	u->stop_timer = sd_event_source_disable_unref(u->stop_timer);
	u->read_retry = sd_event_source_disable_unref(u->read_retry);
	u->pump = sd_event_source_disable_unref(u->pump);
	u->conclude = sd_event_source_disable_unref(u->conclude);
	u->event = sd_event_unref(u->event);
	mqtt_library_cleanup();
	free(u);
	return NULL;
}
