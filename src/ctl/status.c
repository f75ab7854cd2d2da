/* SPDX-License-Identifier: MIT */
/*
 * `status`: the state at a glance. Owns what the fields of the reply are called for people; a field
 * that is not there is left out.
 */
#include "status.h"

#include <stdio.h>

#include "ctl.h"

#define NAMES_WIDTH 14
#define BAR_WIDTH   20

/* --- pieces ---------------------------------------------------------------------------------- */

static void put_name(struct page *p, const char *name)
{
	page_put(p, PAGE_DIM, "%s", name);
	page_tab(p, NAMES_WIDTH);
}

/* "1,234" or "1,234 of 10,000" */
static void put_of(struct page *p, const json_t *object, const char *name, const char *bound)
{
	char number[TEXT_SIZE];

	page_put(p, PAGE_BOLD, "%s", text_number(number, count_member(object, name)));
	if (count_member(object, bound) > 0)
		page_put(p, PAGE_PLAIN, " of %s", text_number(number, count_member(object, bound)));
}

/* Green, and from four fifths of a bound on, when alerts go out, not any more. */
static enum page_look look_of(double part)
{
	return part >= 0.95 ? PAGE_RED : part >= 0.8 ? PAGE_YELLOW : PAGE_GREEN;
}

/* Which of the two bounds is nearer. */
static double fullness(const json_t *queue)
{
	double messages = number_member(queue, "max_messages") > 0
		? number_member(queue, "messages") / number_member(queue, "max_messages")
		: 0;
	double bytes = number_member(queue, "max_bytes") > 0
		? number_member(queue, "bytes") / number_member(queue, "max_bytes")
		: 0;

	return messages > bytes ? messages : bytes;
}

/* --- the head -------------------------------------------------------------------------------- */

static enum page_look look_of_state(const json_t *status)
{
	const char *state = text_member(status, "state");

	if (json_is_true(json_object_get(status, "held")) || streq(state, "error"))
		return PAGE_RED;
	if (streq(state, "connected"))
		return *text_member(status, "why") ? PAGE_YELLOW : PAGE_GREEN;
	return *text_member(status, "why") ? PAGE_RED : PAGE_YELLOW;
}

static const char *before_broker(const char *state)
{
	if (streq(state, "connected") || streq(state, "connecting"))
		return " to";
	return streq(state, "disconnected") || streq(state, "disconnecting") ? " from" : ", broker";
}

void status_put_head(struct page *p, const json_t *status)
{
	const char *state = text_member(status, "state"), *broker = text_member(status, "broker");
	const char *why = text_member(status, "why");
	enum page_look look = look_of_state(status);
	char text[TEXT_SIZE];

	page_put(p, look, "%s ", text_is_utf8() ? "●" : "*");
	page_put(p, look, "%s", state);
	if (*broker)
		page_put(p, PAGE_PLAIN, "%s %s", before_broker(state), broker);
	if (has_number(status, "since"))
		page_put(p, PAGE_PLAIN, " for %s",
			text_duration(text, number_member(status, "since")));
	if (json_is_true(json_object_get(status, "held")))
		page_put(p, PAGE_RED, ", queue held");
	if (json_is_true(json_object_get(status, "stopping")))
		page_put(p, PAGE_YELLOW, ", stopping");
	page_end_line(p);
	if (*why) {
		page_put(p, look, "  %s", why);
		page_end_line(p);
	}
	/* Most causes say so themselves. */
	if (has_number(status, "next_attempt") && !strstr(why, "next attempt")) {
		page_put(p, PAGE_PLAIN, "  next attempt in %s",
			text_duration(text, number_member(status, "next_attempt")));
		page_end_line(p);
	}
}

/* --- the body -------------------------------------------------------------------------------- */

static void put_queue(struct page *p, const json_t *status)
{
	const json_t *queue = json_object_get(status, "queue");
	double part = fullness(queue);
	char text[TEXT_SIZE];

	put_name(p, "queue");
	put_of(p, queue, "messages", "max_messages");
	page_put(p, PAGE_PLAIN, " message%s", count_member(queue, "messages") == 1 ? "" : "s");
	if (has_number(queue, "oldest"))
		page_put(p, PAGE_PLAIN, ", the oldest waits for %s",
			text_duration(text, number_member(queue, "oldest")));
	page_end_line(p);
	page_tab(p, NAMES_WIDTH);
	if (count_member(queue, "max_bytes") > 0 || count_member(queue, "max_messages") > 0) {
		page_put_bar(p, look_of(part), part, BAR_WIDTH);
		page_put(p, look_of(part), " %.*f %%", part > 0 && part < 0.01 ? 1 : 0, part * 100);
		page_put(p, PAGE_PLAIN, " full, ");
	}
	page_put(p, PAGE_PLAIN, "%s", text_bytes(text, count_member(queue, "bytes")));
	if (count_member(queue, "max_bytes") > 0)
		page_put(p, PAGE_PLAIN, " of %s",
			text_bytes(text, count_member(queue, "max_bytes")));
	page_end_line(p);
	if (*text_member(status, "store_error")) {
		put_name(p, "store");
		page_put(p, PAGE_RED, "%s", text_member(status, "store_error"));
		page_end_line(p);
	}
}

static void put_flow(struct page *p, const json_t *status)
{
	const json_t *rates = json_object_get(status, "rates");
	const json_t *totals = json_object_get(status, "totals");
	const json_t *queue = json_object_get(status, "queue");
	uint64_t dead = count_member(queue, "dead_letters");
	char a[TEXT_SIZE], b[TEXT_SIZE], c[TEXT_SIZE], d[TEXT_SIZE];

	put_name(p, "rates");
	page_put(p, PAGE_PLAIN, "%s/s accepted, %s/s delivered",
		text_rate(a, number_member(rates, "accepted")),
		text_rate(b, number_member(rates, "delivered")));
	page_end_line(p);
	put_name(p, "in flight");
	put_of(p, status, "inflight", "window");
	page_end_line(p);
	put_name(p, "since start");
	page_put(p, PAGE_PLAIN, "%s accepted, %s delivered, ",
		text_number(a, count_member(totals, "accepted")),
		text_number(b, count_member(totals, "delivered")));
	page_put(p, count_member(totals, "refused") ? PAGE_YELLOW : PAGE_PLAIN, "%s refused",
		text_number(c, count_member(totals, "refused")));
	page_put(p, PAGE_PLAIN, ", ");
	page_put(p, count_member(totals, "dropped") ? PAGE_YELLOW : PAGE_PLAIN, "%s dropped",
		text_number(d, count_member(totals, "dropped")));
	page_end_line(p);
	put_name(p, "dead letters");
	page_put(p, dead ? PAGE_YELLOW : PAGE_PLAIN, "%s", text_number(a, dead));
	if (count_member(queue, "max_dead_letters") > 0)
		page_put(p, PAGE_PLAIN, " of %s",
			text_number(b, count_member(queue, "max_dead_letters")));
	page_end_line(p);
}

/* "2026-01-02T03:04:05.678Z" as local time, and how long ago that is. */
static void put_when(struct page *p, const char *iso)
{
	char when[TEXT_SIZE], ago[TEXT_SIZE];
	struct tm tm = { 0 };
	time_t seconds;

	if (!strptime(iso, "%Y-%m-%dT%H:%M:%S", &tm)) {
		page_put(p, PAGE_PLAIN, "%s", iso);
		return;
	}
	seconds = timegm(&tm);
	page_put(p, PAGE_PLAIN, "%s, %s ago", text_time(when, (int64_t)seconds * 1000, false),
		text_duration(ago, (double)(time(NULL) - seconds)));
}

static void put_failure(struct page *p, const json_t *status)
{
	const json_t *failure = json_object_get(status, "last_failure");

	if (!json_is_object(failure))
		return;
	put_name(p, "last failure");
	page_put(p, PAGE_YELLOW, "%s", text_member(failure, "class"));
	page_put(p, PAGE_PLAIN, " with %s, ", text_member(failure, "broker"));
	put_when(p, text_member(failure, "time"));
	page_end_line(p);
	page_tab(p, NAMES_WIDTH);
	page_put(p, PAGE_PLAIN, "%s", text_member(failure, "message"));
	page_end_line(p);
}

static void put_gateway(struct page *p, const json_t *status)
{
	const json_t *keys = json_object_get(status, "restart_needed");
	char text[TEXT_SIZE];

	put_name(p, "gateway");
	page_put(p, PAGE_PLAIN, "%s, version %s, process %llu, up %s",
		text_member(status, "gateway"), text_member(status, "version"),
		(unsigned long long)count_member(status, "pid"),
		text_duration(text, number_member(status, "uptime")));
	page_end_line(p);
	put_name(p, "clients");
	put_of(p, status, "clients", "max_clients");
	page_put(p, PAGE_PLAIN, " at %s", text_member(status, "socket"));
	page_end_line(p);
	if (json_array_size(keys) == 0)
		return;
	put_name(p, "restart");
	page_put(p, PAGE_YELLOW, "needed for ");
	for (size_t i = 0; i < json_array_size(keys); i++) {
		const char *key = json_string_value(json_array_get(keys, i));

		page_put(p, PAGE_YELLOW, "%s%s", i ? ", " : "", key ? key : "");
	}
	page_end_line(p);
}

/* "12 of 14 attempts successful" */
static void put_attempts(struct page *p, const json_t *attempts)
{
	uint64_t good = count_member(attempts, "success"), all = 0;
	char a[TEXT_SIZE], b[TEXT_SIZE];
	const json_t *value;
	const char *name;

	json_object_foreach((json_t *)attempts, name, value) all +=
		json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;
	if (all > 0)
		page_put(p, PAGE_PLAIN, "%s of %s attempt%s successful", text_number(a, good),
			text_number(b, all), all == 1 ? "" : "s");
}

static void put_broker(struct page *p, const json_t *broker)
{
	bool up = json_is_true(json_object_get(broker, "up"));
	bool current = json_is_true(json_object_get(broker, "current"));
	unsigned column = NAMES_WIDTH + 34;
	char text[TEXT_SIZE];

	page_tab(p, NAMES_WIDTH);
	page_put(p, up ? PAGE_GREEN : PAGE_PLAIN, "%s", text_member(broker, "name"));
	page_put(p, PAGE_PLAIN, "  ");
	page_tab(p, column);
	if (up)
		page_put(p, PAGE_GREEN, "connected");
	else if (has_number(broker, "set_aside"))
		page_put(p, PAGE_YELLOW, "set aside for %s",
			text_duration(text, number_member(broker, "set_aside")));
	else
		page_put(p, PAGE_DIM, "%s", current ? "tried now" : "in reserve");
	page_put(p, PAGE_PLAIN, "  ");
	page_tab(p, column + 24);
	put_attempts(p, json_object_get(broker, "attempts"));
	page_end_line(p);
}

static void put_brokers(struct page *p, const json_t *status)
{
	const json_t *brokers = json_object_get(status, "brokers");

	if (json_array_size(brokers) < 2)
		return;
	put_name(p, "brokers");
	for (size_t i = 0; i < json_array_size(brokers); i++)
		put_broker(p, json_array_get(brokers, i));
}

void status_put_body(struct page *p, const json_t *status)
{
	put_queue(p, status);
	put_flow(p, status);
	put_failure(p, status);
	put_gateway(p, status);
	put_brokers(p, status);
}

void status_put_line(struct page *p, const json_t *status)
{
	const json_t *queue = json_object_get(status, "queue");
	const json_t *rates = json_object_get(status, "rates");
	const char *broker = text_member(status, "broker"), *why = text_member(status, "why");
	char oldest[TEXT_SIZE], accepted[TEXT_SIZE], delivered[TEXT_SIZE];

	page_put(p, PAGE_PLAIN, "%s%s%s, %llu queued", text_member(status, "state"),
		*broker ? " " : "", broker, (unsigned long long)count_member(queue, "messages"));
	if (has_number(queue, "oldest"))
		page_put(p, PAGE_PLAIN, ", oldest %s",
			text_duration(oldest, number_member(queue, "oldest")));
	page_put(p, PAGE_PLAIN, ", %s/s accepted, %s/s delivered",
		text_rate(accepted, number_member(rates, "accepted")),
		text_rate(delivered, number_member(rates, "delivered")));
	if (*why)
		page_put(p, PAGE_PLAIN, "; %s", why);
}

/* --- the command ----------------------------------------------------------------------------- */

int ctl_status(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		CTL_HELP_OPTION,
		{ 0 },
	};
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	_cleanup_(json_freep) json_t *reply = NULL;
	struct page page = page_of(stdout);
	bool json = false;
	int c, status;

	while ((c = ctl_option(ctl, argc, argv, "", options)) >= 0) {
		if (c != 'j')
			return ctl_option_status(c);
		json = true;
	}
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	status = ctl_link_open(&link, ctl);
	if (status == CTL_OK)
		status = ctl_ask(&link, json_pack("{s:s}", "command", "status"), &reply);
	if (status != CTL_OK)
		return status;
	if (json) {
		text_put_json(reply);
		return CTL_OK;
	}
	status_put_head(&page, reply);
	status_put_body(&page, reply);
	page_done(&page);
	return CTL_OK;
}
