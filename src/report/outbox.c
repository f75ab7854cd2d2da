/* SPDX-License-Identifier: MIT */
/*
 * Owns the alerts that wait, and their delivery.
 *
 * Invariants: the first one that waits is the one under way; an alert leaves when the receiver took
 * it, or is counted in `lost`; what was delivered is on disk before the next one is sent. Must not
 * know where alerts come from.
 */
#include "outbox.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "backoff.h"
#include "log.h"
#include "report.h"
#include "state.h"
#include "timer.h"
#include "url.h"

/* A receiver that does not want this very alert is asked so often. */
#define REFUSALS 3
/* What is not urgent to be saved gathers so long. */
#define SAVE_DELAY_USEC USEC_PER_SEC
#define LOST		"lost"

static const struct backoff_params patience = {
	.base_usec = USEC_PER_SEC,
	.max_usec = 300 * USEC_PER_SEC,
	.multiplier = 2,
	.jitter = BACKOFF_JITTER_PROPORTIONAL,
};

struct outbox {
	struct http *http;
	struct http_request *request;
	sd_event_source *retry_timer;
	sd_event_source *save_timer;
	struct state state;
	struct backoff backoff;
	char *url;
	char *origin;
	char *gateway;
	char host[HOST_NAME_MAX + 1];
	unsigned refusals; /* of the first alert */
	/* The receiver did not even want to know how many were lost. It is told again once it took
	 * something else, so that it never keeps others waiting. */
	bool lost_refused;
	bool failing; /* that was logged */
	bool save_failing;
	bool paused;
	uint64_t delivered;
	void (*changed)(void *userdata);
	void *userdata;
};

static void send_next(struct outbox *o);

/* --- remembering ------------------------------------------------------------------------------ */

static void save(struct outbox *o)
{
	int r;

	timer_off(o->save_timer);
	r = state_save(&o->state);
	if (r < 0 && !o->save_failing)
		log_error("cannot write %s: %s: alerts may be lost or sent twice at a restart",
			o->state.path, strerror(-r));
	o->save_failing = r < 0;
}

static void save_soon(struct outbox *o)
{
	if (!timer_is_set(o->save_timer))
		timer_set(o->save_timer, SAVE_DELAY_USEC);
}

static int on_save_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	save(userdata);
	return 0;
}

/* --- what waits ------------------------------------------------------------------------------- */

static bool is_lost(const json_t *alert)
{
	const char *kind = json_string_value(json_object_get(alert, "kind"));

	return kind && streq(kind, LOST);
}

/* How many alerts are gone when this one is. */
static uint64_t weight(const json_t *alert)
{
	json_int_t n = json_integer_value(json_object_get(alert, "count"));

	return is_lost(alert) && n > 0 ? (uint64_t)n : 1;
}

static void drop(struct outbox *o, size_t i)
{
	o->state.lost += weight(json_array_get(o->state.pending, i));
	json_array_remove(o->state.pending, i);
}

/* "2026-01-02T03:04:05.678Z" */
static void time_text(char *buf, size_t size)
{
	int64_t msec = now_epoch_msec();
	time_t seconds = (time_t)(msec / 1000);
	struct tm tm;
	size_t n;

	gmtime_r(&seconds, &tm);
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, size - n, ".%03dZ", (int)(msec % 1000));
}

/* NULL: no memory. */
static json_t *make(struct outbox *o, const struct outbox_event *e)
{
	const char *instance = e->seq > 0 ? o->state.instance : o->state.own;
	uint64_t seq = e->seq > 0 ? e->seq : ++o->state.own_seq;
	char now[40];

	time_text(now, sizeof(now));
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:s, s:s}", "gateway",
		o->gateway ? o->gateway : "", "kind", e->kind, "message", e->message, "broker",
		e->broker ? e->broker : "", "count", (json_int_t)e->count, "time",
		e->time && *e->time ? e->time : now, "seq", (json_int_t)seq, "instance", instance,
		"host", o->host);
}

static void put(struct outbox *o, json_t *alert, bool first)
{
	if (!alert ||
		(first ? json_array_insert(o->state.pending, 0, alert)
		       : json_array_append(o->state.pending, alert)) < 0)
		o->state.lost += alert ? weight(alert) : 1;
	json_decref(alert);
}

/* What was dropped is told before what comes after it. */
static void tell_lost(struct outbox *o)
{
	char message[160];
	struct outbox_event e = {
		.kind = LOST,
		.message = message,
		.count = o->state.lost,
	};
	json_t *alert;

	if (o->state.lost == 0 || o->lost_refused)
		return;
	snprintf(message, sizeof(message),
		"%" PRIu64 " alerts were dropped by mqttgw-report: the receiver did not take them",
		o->state.lost);
	alert = make(o, &e);
	if (!alert)
		return;
	o->state.lost = 0;
	put(o, alert, true);
}

void outbox_add(struct outbox *o, const struct outbox_event *e)
{
	if (e->seq > 0 && e->seq <= o->state.seen)
		return;
	if (e->seq > 0)
		o->state.seen = e->seq;
	/* The first one may be under way. */
	if (json_array_size(o->state.pending) >= OUTBOX_MAX)
		drop(o, o->request ? 1 : 0);
	put(o, make(o, e), false);
	save_soon(o);
	send_next(o);
	o->changed(o->userdata);
}

/* --- delivery --------------------------------------------------------------------------------- */

static void delivered(struct outbox *o)
{
	json_array_remove(o->state.pending, 0);
	o->delivered++;
	o->refusals = 0;
	o->lost_refused = false;
	backoff_reset(&o->backoff);
	if (o->failing)
		log_notice("alerts are taken again by %s", o->origin);
	o->failing = false;
	save(o);
	send_next(o);
}

/* Statuses that blame what was sent; all others blame the address, the credentials, the day. */
static bool is_refusal(long status)
{
	return status == 400 || status == 413 || status == 422;
}

static void refused(struct outbox *o, long status)
{
	const json_t *alert = json_array_get(o->state.pending, 0);
	const char *kind = json_string_value(json_object_get(alert, "kind"));

	if (++o->refusals < REFUSALS)
		return;
	log_error("an alert of kind \"%s\" is dropped: %s refused it with HTTP status %ld %d times",
		kind ? kind : "", o->origin, status, REFUSALS);
	o->refusals = 0;
	o->lost_refused |= is_lost(alert);
	drop(o, 0);
	save(o);
}

static void failed(struct outbox *o, const struct http_result *result)
{
	uint64_t wait = backoff_next_usec(&o->backoff);
	char status[48];

	snprintf(status, sizeof(status), "HTTP status %ld", result->status);
	wait = u64_min(u64_max(wait, result->retry_after_usec), patience.max_usec);
	if (!o->failing)
		log_warning("alerts are not taken by %s: %s; trying again", o->origin,
			result->status ? status : result->error);
	else
		log_debug("alert not taken: %s; again in %.1f s",
			result->status ? status : result->error,
			(double)wait / (double)USEC_PER_SEC);
	o->failing = true;
	if (is_refusal(result->status))
		refused(o, result->status);
	else
		o->refusals = 0;
	timer_set(o->retry_timer, wait);
}

static void on_done(void *userdata, const struct http_result *result)
{
	struct outbox *o = userdata;

	o->request = NULL;
	if (result->status >= 200 && result->status < 300)
		delivered(o);
	else
		failed(o, result);
	o->changed(o->userdata);
}

static void send_next(struct outbox *o)
{
	_cleanup_(freep) char *text = NULL;
	int r;

	if (o->request || o->paused || !o->url || !*o->url || timer_is_set(o->retry_timer))
		return;
	tell_lost(o);
	if (json_array_size(o->state.pending) == 0)
		return;
	text = json_dumps(json_array_get(o->state.pending, 0), JSON_COMPACT);
	r = text ? http_send(o->http, "POST", o->url, "application/json", text, strlen(text),
			   on_done, o, &o->request)
		 : -ENOMEM;
	if (r < 0)
		failed(o, &(struct http_result){ .error = strerror(-r) });
}

static int on_retry_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	send_next(userdata);
	return 0;
}

/* --- the whole -------------------------------------------------------------------------------- */

int outbox_new(struct outbox **ret, sd_event *event, struct http *http,
	void (*changed)(void *userdata), void *userdata)
{
	struct outbox *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	*o = (struct outbox){ .http = http, .changed = changed, .userdata = userdata };
	backoff_init(&o->backoff, &patience, timer_random, NULL);
	if (gethostname(o->host, sizeof(o->host)) < 0)
		*o->host = '\0';
	o->host[sizeof(o->host) - 1] = '\0';
	r = state_load(&o->state);
	if (r == 0)
		r = timer_new(&o->retry_timer, event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC,
			on_retry_timer, o);
	if (r == 0)
		r = timer_new(&o->save_timer, event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC,
			on_save_timer, o);
	if (r < 0) {
		outbox_free(o);
		return r;
	}
	if (json_array_size(o->state.pending) > 0)
		log_info("%zu alerts wait since the last time", json_array_size(o->state.pending));
	*ret = o;
	return 0;
}

int outbox_configure(struct outbox *o, const char *url, const char *gateway)
{
	char *new_url = strdup(url), *id = strdup(gateway), *origin = NULL;

	if (!new_url || !id || url_origin(&origin, url) < 0) {
		free(new_url);
		free(id);
		return -ENOMEM;
	}
	if (o->url && !streq(o->url, url)) {
		o->request = http_cancel(o->request);
		o->failing = false;
		o->refusals = 0;
	}
	/* Whoever asks for a reload has changed something: it may do better at once. */
	timer_off(o->retry_timer);
	backoff_reset(&o->backoff);
	free(o->url);
	free(o->gateway);
	free(o->origin);
	o->url = new_url;
	o->gateway = id;
	o->origin = origin;
	send_next(o);
	return 0;
}

struct outbox *outbox_free(struct outbox *o)
{
	if (!o)
		return NULL;
	http_cancel(o->request);
	if (timer_is_set(o->save_timer))
		save(o);
	sd_event_source_disable_unref(o->retry_timer);
	sd_event_source_disable_unref(o->save_timer);
	state_done(&o->state);
	free(o->url);
	free(o->origin);
	free(o->gateway);
	free(o);
	return NULL;
}

const char *outbox_instance(const struct outbox *o)
{
	return o->state.instance;
}

uint64_t outbox_seen(const struct outbox *o)
{
	return o->state.seen;
}

void outbox_set_instance(struct outbox *o, const char *instance)
{
	snprintf(o->state.instance, sizeof(o->state.instance), "%s", instance);
	o->state.seen = 0;
	save_soon(o);
}

const char *outbox_told(const struct outbox *o)
{
	return o->state.told;
}

void outbox_set_told(struct outbox *o, const char *kind)
{
	snprintf(o->state.told, sizeof(o->state.told), "%s", kind);
	save_soon(o);
}

void outbox_pause(struct outbox *o)
{
	timer_off(o->retry_timer);
	o->paused = true;
}

bool outbox_is_busy(const struct outbox *o)
{
	return o->request;
}

size_t outbox_waiting(const struct outbox *o)
{
	return json_array_size(o->state.pending);
}

uint64_t outbox_delivered(const struct outbox *o)
{
	return o->delivered;
}
