/* SPDX-License-Identifier: MIT */
/*
 * Owns the rhythm of pushing. Invariants: what is pushed was asked for right before; at most one is
 * under way; a failed one is tried again after a growing wait, at the latest when the next one is
 * due. Must not know what the figures mean.
 */
#include "push.h"

#include <errno.h>
#include <stdio.h>

#include "ask.h"
#include "backoff.h"
#include "log.h"
#include "report.h"
#include "timer.h"
#include "url.h"

#define ANSWER_USEC (10 * USEC_PER_SEC)
/* A power cut's end brings many gateways up at once. */
#define FIRST_MOST (30 * USEC_PER_SEC)

struct push {
	sd_event *event;
	struct http *http;
	char *path;
	char *url;
	char *origin;
	uint64_t interval_usec;
	uint64_t due_usec; /* CLOCK_BOOTTIME: when the next one is, however this one ends */
	struct ask *ask;
	struct http_request *request;
	sd_event_source *timer;
	struct backoff backoff;
	uint64_t n_done;
	bool failing;
	void (*changed)(void *userdata);
	void *userdata;
};

static void wait_for_due(struct push *p, uint64_t most_usec)
{
	uint64_t now = now_boot_usec();

	timer_set(p->timer, u64_min(most_usec, p->due_usec > now ? p->due_usec - now : 0));
}

static void failed(struct push *p, const char *whose, const char *why)
{
	if (!p->failing)
		log_warning("figures are not pushed: %s: %s; trying again", whose, why);
	else
		log_debug("figures are not pushed: %s: %s", whose, why);
	p->failing = true;
	wait_for_due(p, backoff_next_usec(&p->backoff));
	p->changed(p->userdata);
}

static void on_pushed(void *userdata, const struct http_result *result)
{
	struct push *p = userdata;
	char why[48];

	p->request = NULL;
	if (result->status < 200 || result->status > 299) {
		snprintf(why, sizeof(why), "HTTP status %ld", result->status);
		failed(p, p->origin, result->status ? why : result->error);
		return;
	}
	if (p->failing)
		log_notice("figures are pushed again to %s", p->origin);
	p->failing = false;
	p->n_done++;
	backoff_reset(&p->backoff);
	wait_for_due(p, UINT64_MAX);
	p->changed(p->userdata);
}

static void on_reply(void *userdata, json_t *reply)
{
	const json_t *text = json_object_get(reply, "text");
	struct push *p = userdata;
	int r;

	if (!json_is_string(text)) {
		const char *message = json_string_value(json_object_get(reply, "message"));

		p->ask = ask_free(p->ask);
		failed(p, "the gateway", message ? message : "no figures");
		return;
	}
	r = http_send(p->http, "PUT", p->url, "text/plain; version=0.0.4", json_string_value(text),
		json_string_length(text), on_pushed, p, &p->request);
	p->ask = ask_free(p->ask);
	if (r < 0)
		failed(p, p->origin, strerror(-r));
}

static void on_end(void *userdata, int error)
{
	struct push *p = userdata;

	p->ask = ask_free(p->ask);
	failed(p, "the gateway", error == -ETIMEDOUT ? "no answer" : strerror(-error));
}

static const struct ask_callbacks ask_callbacks = {
	.reply = on_reply,
	.end = on_end,
};

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct push *p = userdata;
	uint64_t now = now_boot_usec();
	int r;

	(void)s;
	(void)usec;
	/* In step with the first one, whatever happened in between; what was missed is not made up
	 * for. */
	while (p->due_usec <= now)
		p->due_usec += ((now - p->due_usec) / p->interval_usec + 1) * p->interval_usec;
	r = ask_new(&p->ask, p->event, p->path, json_pack("{s:s}", "command", "metrics"),
		ANSWER_USEC, &ask_callbacks, p);
	if (r < 0)
		failed(p, p->path, strerror(-r));
	return 0;
}

int push_new(struct push **ret, sd_event *event, struct http *http, const char *path,
	const char *url, const char *gateway, uint64_t interval_usec,
	void (*changed)(void *userdata), void *userdata)
{
	struct push *p = calloc(1, sizeof(*p));
	const struct backoff_params patience = {
		.base_usec = USEC_PER_SEC,
		.max_usec = 300 * USEC_PER_SEC,
		.multiplier = 2,
		.jitter = BACKOFF_JITTER_PROPORTIONAL,
	};
	int r;

	if (!p)
		return -ENOMEM;
	*p = (struct push){
		.event = sd_event_ref(event),
		.http = http,
		.path = strdup(path),
		.interval_usec = interval_usec,
		.due_usec = now_boot_usec(),
		.changed = changed,
		.userdata = userdata,
	};
	backoff_init(&p->backoff, &patience, timer_random, NULL);
	r = p->path ? url_origin(&p->origin, url) : -ENOMEM;
	if (r == 0)
		r = url_pushgateway(&p->url, url, gateway);
	if (r == 0)
		r = timer_new(&p->timer, event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC, on_timer, p);
	if (r < 0) {
		push_free(p);
		return r;
	}
	p->due_usec +=
		backoff_uniform_usec(&p->backoff, 0, u64_min(interval_usec / 10, FIRST_MOST));
	wait_for_due(p, UINT64_MAX);
	*ret = p;
	return 0;
}

struct push *push_free(struct push *p)
{
	if (!p)
		return NULL;
	ask_free(p->ask);
	http_cancel(p->request);
	sd_event_source_disable_unref(p->timer);
	sd_event_unref(p->event);
	free(p->path);
	free(p->url);
	free(p->origin);
	free(p);
	return NULL;
}

bool push_is_busy(const struct push *p)
{
	return p && p->request;
}

uint64_t push_done(const struct push *p)
{
	return p ? p->n_done : 0;
}

bool push_is_failing(const struct push *p)
{
	return p && p->failing;
}
