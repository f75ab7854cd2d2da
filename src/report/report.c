/* SPDX-License-Identifier: MIT */
/*
 * Owns the loop, signals, systemd's notifications, and which parts run: pushing when there is a
 * push_url, watching when there is an alert_url.
 *
 * Invariant: a faulty configuration changes nothing. Must not know HTTP, nor the control protocol.
 */
#include "report.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "http.h"
#include "log.h"
#include "outbox.h"
#include "push.h"
#include "timer.h"
#include "url.h"
#include "watch.h"

/* At a stop, what is under way may take so long to be answered: an alert whose answer nobody waits
 * for would be sent again. */
#define STOP_USEC (3 * USEC_PER_SEC)

struct report {
	struct config *config;
	const char *path;
	sd_event *event;
	sd_event_source *signals[3];
	sd_event_source *stop_timer;
	struct http *http;
	struct outbox *outbox;
	struct watch *watch;
	struct push *push;
	bool stopping;
};

/* --- status ----------------------------------------------------------------------------------- */

static void end_when_quiet(struct report *r)
{
	if (r->stopping && !outbox_is_busy(r->outbox) && !push_is_busy(r->push))
		sd_event_exit(r->event, 0);
}

static void on_changed(void *userdata)
{
	struct report *r = userdata;

	/* Called while it is being made, too. */
	if (!r->outbox)
		return;
	if (!r->stopping)
		sd_notifyf(0,
			"STATUS=%" PRIu64 " pushes%s, %" PRIu64 " alerts delivered, %zu waiting",
			push_done(r->push),
			push_is_failing(r->push) ? " (the last one failed)" : "",
			outbox_delivered(r->outbox), outbox_waiting(r->outbox));
	end_when_quiet(r);
}

/* --- what runs -------------------------------------------------------------------------------- */

/* Starts what the configuration asks for, in place of what runs. */
static int apply(struct report *r)
{
	const struct config *c = r->config;
	int error = outbox_configure(r->outbox, c->report.alert_url, c->gateway.id);

	r->watch = watch_free(r->watch);
	r->push = push_free(r->push);
	if (error == 0 && *c->report.alert_url)
		error = watch_new(
			&r->watch, r->event, r->outbox, c->control.path, c->report.interval_usec);
	if (error == 0 && *c->report.push_url)
		error = push_new(&r->push, r->event, r->http, c->control.path, c->report.push_url,
			c->gateway.id, c->report.interval_usec, on_changed, r);
	return error;
}

static void log_targets(const struct config *c)
{
	_cleanup_(freep) char *push = NULL, *alert = NULL;

	if (url_origin(&push, c->report.push_url) < 0 ||
		url_origin(&alert, c->report.alert_url) < 0)
		return;
	log_info("figures go to %s every %g s, alerts to %s", *push ? push : "nobody",
		(double)c->report.interval_usec / (double)USEC_PER_SEC, *alert ? alert : "nobody");
}

/* --- signals ---------------------------------------------------------------------------------- */

static void reload(struct report *r)
{
	_cleanup_(freep) char *faults = NULL;
	struct config *config = NULL;
	size_t size;
	FILE *f = open_memstream(&faults, &size);
	char *line, *rest;
	int error;

	if (!f)
		return;
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec());
	error = config_load_public(&config, r->path, f);
	fclose(f);
	if (error < 0) {
		for (line = strtok_r(faults, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
			log_error("%s", line);
		log_error("the configuration stays as it was");
	} else {
		config_free(r->config);
		r->config = config;
		log_set_level(config->log.level);
		error = apply(r);
		if (error < 0)
			log_error("cannot apply the configuration: %s", strerror(-error));
		else
			log_targets(config);
	}
	sd_notify(0, "READY=1");
}

static void stop(struct report *r)
{
	if (r->stopping) {
		sd_event_exit(r->event, 0);
		return;
	}
	sd_notify(0, "STOPPING=1");
	r->stopping = true;
	timer_set(r->stop_timer, STOP_USEC);
	r->watch = watch_free(r->watch);
	/* Nothing new is begun. What waits is kept for the next time. */
	outbox_pause(r->outbox);
	end_when_quiet(r);
}

static int on_signal(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	struct report *r = userdata;

	(void)s;
	if (si->ssi_signo != SIGHUP)
		stop(r);
	else if (!r->stopping)
		reload(r);
	return 0;
}

static int on_stop_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct report *r = userdata;

	(void)s;
	(void)usec;
	return sd_event_exit(r->event, 0);
}

/* --- run -------------------------------------------------------------------------------------- */

static int setup(struct report *r)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	sigset_t set;
	int error;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	/* A peer that hangs up in the middle of TLS. */
	signal(SIGPIPE, SIG_IGN);
	error = sd_event_default(&r->event);
	for (size_t i = 0; i < ARRAY_SIZE(signals) && error >= 0; i++)
		error = sd_event_add_signal(r->event, &r->signals[i], signals[i], on_signal, r);
	if (error >= 0)
		error = sd_event_set_watchdog(r->event, true);
	if (error >= 0)
		error = timer_new(&r->stop_timer, r->event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC,
			on_stop_timer, r);
	if (error >= 0)
		error = http_new(&r->http, r->event);
	if (error >= 0)
		error = outbox_new(&r->outbox, r->event, r->http, on_changed, r);
	return error < 0 ? error : apply(r);
}

static void done(struct report *r)
{
	watch_free(r->watch);
	push_free(r->push);
	outbox_free(r->outbox);
	http_free(r->http);
	sd_event_source_disable_unref(r->stop_timer);
	for (size_t i = 0; i < ARRAY_SIZE(r->signals); i++)
		sd_event_source_disable_unref(r->signals[i]);
	sd_event_unref(r->event);
	config_free(r->config);
}

int report_run(struct config *config, const char *path)
{
	struct report r = { .config = config, .path = path };
	int error;

	error = setup(&r);
	if (error < 0) {
		log_error("cannot start: %s", strerror(-error));
		done(&r);
		return error;
	}
	log_targets(config);
	sd_notify(0, "READY=1");
	error = sd_event_loop(r.event);
	if (error < 0)
		log_error("the event loop failed: %s", strerror(-error));
	done(&r);
	return error < 0 ? error : 0;
}
