/* SPDX-License-Identifier: MIT */
/*
 * Owns two connections to the control socket: the stream of alerts, which is kept up, and a short
 * one now and then that asks for the status, because a process that hangs keeps its connections.
 *
 * Invariants: trouble is told once, and once that it is over; what is told outlives a restart of
 * ours (it stands in the outbox's state). Must not know how alerts are delivered.
 */
#include "watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "ask.h"
#include "backoff.h"
#include "log.h"
#include "report.h"
#include "timer.h"

#define GONE  "daemon-gone"
#define HANGS "daemon-hangs"
#define BACK  "daemon-back"

#define GRACE_USEC     (15 * USEC_PER_SEC) /* a restart is no alert */
#define ANSWER_USEC    (10 * USEC_PER_SEC) /* whoever takes longer hangs */
#define PROBE_USEC     (30 * USEC_PER_SEC)
#define PROBE_BAD_USEC (5 * USEC_PER_SEC) /* while it hangs */

/* A local connection costs next to nothing. */
static const struct backoff_params patience = {
	.base_usec = USEC_PER_SEC / 4,
	.max_usec = 10 * USEC_PER_SEC,
	.multiplier = 2,
	.jitter = BACKOFF_JITTER_PROPORTIONAL,
};

struct watch {
	sd_event *event;
	struct outbox *outbox;
	char *path;
	uint64_t probe_usec;
	struct ask *stream;
	struct ask *probe;
	sd_event_source *retry_timer;
	sd_event_source *probe_timer;
	sd_event_source *grace_timer;
	struct backoff backoff;
	bool is_up; /* the stream has said hello */
	bool refused; /* that the gateway does not give us a stream was logged */
	const char *trouble; /* a kind of alert; NULL = none */
	uint64_t since_usec; /* when it began */
	char why[128];
};

/* --- what is told ----------------------------------------------------------------------------- */

static void tell(struct watch *w, const char *kind, const char *message)
{
	struct outbox_event e = { .kind = kind, .message = message, .count = 1 };

	log_write(streq(kind, BACK) ? LOG_NOTICE : LOG_WARNING, NULL, "%s: %s", kind, message);
	outbox_set_told(w->outbox, streq(kind, BACK) ? "" : kind);
	outbox_add(w->outbox, &e);
}

static uint64_t seconds_since(uint64_t usec)
{
	return (now_boot_usec() - usec + USEC_PER_SEC / 2) / USEC_PER_SEC;
}

static int on_grace_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct watch *w = userdata;
	char message[320];

	(void)s;
	(void)usec;
	if (!w->trouble || streq(outbox_told(w->outbox), w->trouble))
		return 0;
	snprintf(message, sizeof(message), "%s, for %" PRIu64 " s: %s",
		streq(w->trouble, GONE) ? "the gateway cannot be reached"
					: "the gateway runs and does not answer",
		seconds_since(w->since_usec), w->why);
	tell(w, w->trouble, message);
	return 0;
}

/* It does not look good. Is told when it has lasted for `grace_usec`. */
static void trouble(struct watch *w, const char *kind, const char *why, uint64_t grace_usec)
{
	snprintf(w->why, sizeof(w->why), "%s", why);
	if (!w->trouble)
		w->since_usec = now_boot_usec();
	else if (streq(w->trouble, kind))
		return;
	/* One that hung and is restarted by its watchdog has its time, too. */
	w->trouble = kind;
	timer_set(w->grace_timer, grace_usec);
}

static void well(struct watch *w)
{
	char message[160] = "the gateway answers again";

	timer_off(w->grace_timer);
	if (*outbox_told(w->outbox)) {
		if (w->trouble)
			snprintf(message, sizeof(message),
				"the gateway answers again, after %" PRIu64 " s",
				seconds_since(w->since_usec));
		tell(w, BACK, message);
	}
	w->trouble = NULL;
}

/* What the end of an unanswered request tells. */
static void unanswered(struct watch *w, int error)
{
	char why[96];

	if (error == -ETIMEDOUT) {
		snprintf(why, sizeof(why), "no answer within %d s",
			(int)(ANSWER_USEC / USEC_PER_SEC));
		trouble(w, HANGS, why, 0);
	} else if (error == -EAGAIN) {
		trouble(w, HANGS, "it takes no connections", GRACE_USEC);
	} else {
		trouble(w, GONE,
			error == -ECONNRESET ? "it closed the connection" : strerror(-error),
			GRACE_USEC);
	}
}

/* --- the stream of alerts --------------------------------------------------------------------- */

static void open_stream(struct watch *w);

static const char *text_of(const json_t *reply, const char *key)
{
	const char *text = json_string_value(json_object_get(reply, key));

	return text ? text : "";
}

static uint64_t number_of(const json_t *reply, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(reply, key));

	return n > 0 ? (uint64_t)n : 0;
}

static void close_stream(struct watch *w)
{
	w->stream = ask_free(w->stream);
	w->is_up = false;
}

static void retry_soon(struct watch *w)
{
	close_stream(w);
	timer_set(w->retry_timer, backoff_next_usec(&w->backoff));
}

/* The first line. What we asked for counts in the numbers of the process we knew. */
static void on_hello(struct watch *w, const json_t *hello)
{
	const char *instance = text_of(hello, "instance");
	bool is_same = streq(instance, outbox_instance(w->outbox)) &&
		outbox_seen(w->outbox) <= number_of(hello, "seq");
	bool begun_late = !is_same && outbox_seen(w->outbox) > 0;

	if (!is_same)
		outbox_set_instance(w->outbox, instance);
	if (begun_late) {
		close_stream(w);
		open_stream(w);
		return;
	}
	log_debug("watching the gateway's alerts from number %" PRIu64 " on",
		outbox_seen(w->outbox) + 1);
	w->is_up = true;
	w->refused = false;
	backoff_reset(&w->backoff);
	well(w);
}

static void on_alert(struct watch *w, const json_t *reply)
{
	const char *kind = text_of(reply, "kind"), *message = text_of(reply, "message");
	char lost[96];
	struct outbox_event e = {
		.kind = kind,
		.message = message,
		.broker = text_of(reply, "broker"),
		.time = text_of(reply, "time"),
		.count = u64_max(number_of(reply, "count"), 1),
		.seq = number_of(reply, "seq"),
	};

	if (streq(kind, "lost") && !*message) {
		snprintf(lost, sizeof(lost), "%" PRIu64 " alerts were lost: too many came at once",
			e.count);
		e.message = lost;
	}
	outbox_add(w->outbox, &e);
}

static void on_stream_reply(void *userdata, json_t *reply)
{
	struct watch *w = userdata;

	if (streq(text_of(reply, "status"), "event")) {
		if (streq(text_of(reply, "kind"), "hello"))
			on_hello(w, reply);
		else if (*text_of(reply, "kind"))
			on_alert(w, reply);
		return;
	}
	if (streq(text_of(reply, "error"), "stopping")) {
		trouble(w, GONE, "it was stopped", GRACE_USEC);
	} else {
		/* It lives, whatever it says. */
		well(w);
		if (!w->refused)
			log_warning("the gateway gives no alerts: %s: %s", text_of(reply, "error"),
				text_of(reply, "message"));
		w->refused = true;
	}
	retry_soon(w);
}

static void on_stream_end(void *userdata, int error)
{
	struct watch *w = userdata;

	log_debug("the stream of alerts ended: %s", strerror(-error));
	unanswered(w, error);
	retry_soon(w);
}

static const struct ask_callbacks stream_callbacks = {
	.reply = on_stream_reply,
	.end = on_stream_end,
};

static void open_stream(struct watch *w)
{
	json_t *request = json_pack(
		"{s:s, s:I}", "command", "events", "since", (json_int_t)outbox_seen(w->outbox));
	int r;

	timer_off(w->retry_timer);
	r = ask_new(&w->stream, w->event, w->path, request, ANSWER_USEC, &stream_callbacks, w);
	if (r == 0)
		return;
	log_debug("%s: %s", w->path, strerror(-r));
	unanswered(w, r);
	retry_soon(w);
}

static int on_retry_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	open_stream(userdata);
	return 0;
}

/* --- does it answer? -------------------------------------------------------------------------- */

static void end_probe(struct watch *w)
{
	w->probe = ask_free(w->probe);
	timer_set(w->probe_timer,
		w->trouble ? u64_min(w->probe_usec, PROBE_BAD_USEC) : w->probe_usec);
}

static void on_probe_reply(void *userdata, json_t *reply)
{
	struct watch *w = userdata;

	(void)reply;
	if (w->is_up)
		well(w);
	end_probe(w);
}

static void on_probe_end(void *userdata, int error)
{
	struct watch *w = userdata;

	/* Of a gateway that has gone the stream tells by its end. */
	if (error == -ETIMEDOUT)
		unanswered(w, error);
	end_probe(w);
}

static const struct ask_callbacks probe_callbacks = {
	.reply = on_probe_reply,
	.end = on_probe_end,
};

static int on_probe_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct watch *w = userdata;
	int r = -ENOTCONN;

	(void)s;
	(void)usec;
	/* While there is no stream the attempts to get one tell enough. */
	if (w->is_up)
		r = ask_new(&w->probe, w->event, w->path, json_pack("{s:s}", "command", "status"),
			ANSWER_USEC, &probe_callbacks, w);
	if (r == -EAGAIN)
		unanswered(w, r);
	if (r < 0)
		end_probe(w);
	return 0;
}

/* --- the whole -------------------------------------------------------------------------------- */

static int setup(struct watch *w)
{
	int r;

	r = timer_new(
		&w->retry_timer, w->event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC, on_retry_timer, w);
	if (r == 0)
		r = timer_new(&w->probe_timer, w->event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC,
			on_probe_timer, w);
	if (r == 0)
		r = timer_new(&w->grace_timer, w->event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC,
			on_grace_timer, w);
	return r;
}

int watch_new(struct watch **ret, sd_event *event, struct outbox *outbox, const char *path,
	uint64_t interval_usec)
{
	struct watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	*w = (struct watch){
		.event = sd_event_ref(event),
		.outbox = outbox,
		.path = strdup(path),
		.probe_usec = u64_min(PROBE_USEC, interval_usec),
	};
	backoff_init(&w->backoff, &patience, timer_random, NULL);
	r = w->path ? setup(w) : -ENOMEM;
	if (r < 0) {
		watch_free(w);
		return r;
	}
	timer_set(w->probe_timer, w->probe_usec);
	open_stream(w);
	*ret = w;
	return 0;
}

struct watch *watch_free(struct watch *w)
{
	if (!w)
		return NULL;
	ask_free(w->stream);
	ask_free(w->probe);
	sd_event_source_disable_unref(w->retry_timer);
	sd_event_source_disable_unref(w->probe_timer);
	sd_event_source_disable_unref(w->grace_timer);
	sd_event_unref(w->event);
	free(w->path);
	free(w);
	return NULL;
}
