/* SPDX-License-Identifier: MIT */
/*
 * All that is counted -> the answer to `status`. Pure: times come with the figures.
 */
#include <math.h>

#include "control_reply.h"

/* Seconds with three decimals. */
static json_t *seconds(uint64_t usec)
{
	return json_real(round((double)usec / 1000.0) / 1000.0);
}

static json_t *seconds_since(uint64_t usec, uint64_t now_usec)
{
	return seconds(now_usec > usec ? now_usec - usec : 0);
}

static json_t *seconds_until(uint64_t usec, uint64_t now_usec)
{
	return seconds(usec > now_usec ? usec - now_usec : 0);
}

static json_t *rate(double value)
{
	return json_real(round(value * 1000.0) / 1000.0);
}

static json_t *number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* 0 stands for none. */
static json_t *bound(uint64_t value)
{
	return value == 0 ? json_null() : number(value);
}

/* "" stands for none. */
static json_t *text(const char *value)
{
	return value[0] ? control_readable(value) : json_null();
}

static json_t *attempts(const struct figures_broker *b)
{
	json_t *o = json_object();

	for (int c = 0; o && c < N_FAILURE_CLASSES; c++) {
		const char *name = c == FAILURE_NONE ? "success" : failure_class_to_string(c);

		if (json_object_set_new(o, name, number(b->attempts[c])) < 0) {
			json_decref(o);
			return NULL;
		}
	}
	return o;
}

static json_t *broker(const struct figures *f, const struct figures_broker *b)
{
	return json_pack("{so sb sb so so}", "name", control_readable(b->name), "up", b->up,
		"current", streq(b->name, f->uplink.broker), "set_aside",
		b->aside_usec > f->now_usec ? seconds_until(b->aside_usec, f->now_usec)
					    : json_null(),
		"attempts", attempts(b));
}

static json_t *brokers(const struct figures *f)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < f->uplink.n_brokers; i++) {
		if (!f->uplink.brokers[i].listed)
			continue;
		if (json_array_append_new(list, broker(f, &f->uplink.brokers[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *last_failure(const struct figures_failure *l)
{
	char time[32];

	if (l->broker[0] == '\0')
		return json_null();
	control_time(l->time_msec, time);
	return json_pack("{sosssoss}", "broker", control_readable(l->broker), "class",
		failure_class_to_string(l->class), "message", control_readable(l->text), "time",
		time);
}

static json_t *queue(const struct figures *f)
{
	json_t *oldest = json_null();

	if (f->oldest_msec != INT64_MIN)
		oldest = rate(figures_oldest_seconds(f));
	return json_pack("{sososososososo}", "messages", number(f->messages), "max_messages",
		bound(f->max_messages), "bytes", number(f->bytes), "max_bytes", bound(f->max_bytes),
		"oldest", oldest, "dead_letters", number(f->dead_letters), "max_dead_letters",
		bound(f->max_dead_letters));
}

static uint64_t sum(const uint64_t *values, size_t n)
{
	uint64_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += values[i];
	return total;
}

static json_t *totals(const struct figures *f)
{
	uint64_t refused = 0;

	for (size_t i = 0; f->refused[i].error; i++)
		refused += f->refused[i].count;
	return json_pack("{sosososo}", "accepted", number(sum(f->accepted, 3)), "delivered",
		number(sum(f->uplink.delivered, 3)), "refused", number(refused), "dropped",
		number(sum(f->dropped, N_FIGURES_DROPPED)));
}

/* "a, b" or "a,b" -> ["a","b"] */
static json_t *list_of(const char *words)
{
	json_t *list = json_array();

	while (list && *words) {
		size_t n = strcspn(words, ", ");

		if (n > 0 && json_array_append_new(list, json_stringn(words, n)) < 0) {
			json_decref(list);
			return NULL;
		}
		words += n;
		words += strspn(words, ", ");
	}
	return list;
}

static json_t *who(const struct figures *f, const struct control_facts *facts)
{
	return json_pack("{ss ss ss si so ss}", "status", "ok", "version", facts->version,
		"gateway", facts->gateway, "pid", (int)getpid(), "uptime",
		seconds_since(f->started_usec, f->now_usec), "socket", facts->socket_path);
}

static json_t *connection(const struct figures *f)
{
	const struct figures_uplink *u = &f->uplink;
	bool waits = u->next_usec != 0 && u->next_usec != UINT64_MAX;
	char why[400];

	return json_pack("{ss so so so so so sb so}", "state", supervisor_state_to_string(u->state),
		"since", seconds_since(u->state_usec, f->now_usec), "broker", text(u->broker),
		"brokers", brokers(f), "why", control_readable(figures_why(f, why, sizeof(why))),
		"next_attempt", waits ? seconds_until(u->next_usec, f->now_usec) : json_null(),
		"held", u->held, "last_failure", last_failure(&u->last_failure));
}

static json_t *work(const struct figures *f, const struct control_facts *facts)
{
	return json_pack("{so ss? sI sI s{so so} so sI sI sb so}", "queue", queue(f), "store_error",
		f->store_error < 0 ? strerrordesc_np(-f->store_error) : NULL, "inflight",
		(json_int_t)f->uplink.inflight, "window", (json_int_t)f->uplink.window, "rates",
		"accepted", rate(f->accepted_rate), "delivered", rate(f->delivered_rate), "totals",
		totals(f), "clients", (json_int_t)f->clients, "max_clients",
		(json_int_t)f->max_clients, "stopping", f->stopping, "restart_needed",
		list_of(facts->restart_needed));
}

json_t *control_status(const struct figures *f, const struct control_facts *facts)
{
	json_t *status = who(f, facts), *parts[] = { connection(f), work(f, facts) };

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		if (status && (!parts[i] || json_object_update(status, parts[i]) < 0)) {
			json_decref(status);
			status = NULL;
		}
		json_decref(parts[i]);
	}
	return status;
}
