/* SPDX-License-Identifier: MIT */
/*
 * Why nothing moves, in one line: see figures_why().
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "figures.h"

/* Acknowledgements that are late by so much are worth a word. */
#define LATE_USEC (3 * USEC_PER_SEC)

struct line {
	char *text;
	size_t size, used;
};

static void _printf_(2, 3) add(struct line *l, const char *format, ...)
{
	va_list ap;
	int n;

	if (l->used + 1 >= l->size)
		return;
	va_start(ap, format);
	n = vsnprintf(l->text + l->used, l->size - l->used, format, ap);
	va_end(ap);
	l->used = n < 0 ? l->used : size_min(l->used + (size_t)n, l->size - 1);
}

/* "1.5 s", "42 s", "3 min", "5 h" */
static void add_duration(struct line *l, uint64_t usec)
{
	uint64_t sec = usec / USEC_PER_SEC;

	if (sec < 10)
		add(l, "%.1f s", (double)usec / (double)USEC_PER_SEC);
	else if (sec < 120)
		add(l, "%llu s", (unsigned long long)sec);
	else if (sec < 7200)
		add(l, "%llu min", (unsigned long long)(sec / 60));
	else
		add(l, "%llu h", (unsigned long long)(sec / 3600));
}

static uint64_t since(const struct figures *f, uint64_t usec)
{
	return f->now_usec > usec ? f->now_usec - usec : 0;
}

static uint64_t until(const struct figures *f, uint64_t usec)
{
	return usec > f->now_usec ? usec - f->now_usec : 0;
}

/* --- without a connection -------------------------------------------------------------------- */

static void add_next_attempt(struct line *l, const struct figures *f)
{
	const struct figures_uplink *u = &f->uplink;

	if (u->next_usec == UINT64_MAX)
		return;
	if (u->next_usec <= f->now_usec) {
		add(l, "; next attempt now");
		return;
	}
	add(l, "; next attempt %sin ", u->network_down ? "once there is, or " : "");
	add_duration(l, until(f, u->next_usec));
}

static void add_last_failure(struct line *l, const struct figures *f)
{
	const struct figures_failure *last = &f->uplink.last_failure;

	if (last->broker[0])
		add(l, ": %s: %s (%s)", last->broker, last->text,
			failure_class_to_string(last->class));
}

static size_t listed(const struct figures *f, size_t *ret_aside)
{
	size_t n = 0;

	*ret_aside = 0;
	for (; n < f->uplink.n_brokers && f->uplink.brokers[n].listed; n++)
		if (f->uplink.brokers[n].aside_usec > f->now_usec)
			(*ret_aside)++;
	return n;
}

static void say_waiting(struct line *l, const struct figures *f)
{
	const struct figures_uplink *u = &f->uplink;
	size_t aside, n = listed(f, &aside);

	if (n == 0) {
		add(l, "no broker is known: %s",
			u->cause[0] ? u->cause : "waiting for the list of brokers");
		return;
	}
	if (u->network_down)
		add(l, "there is no network");
	else if (aside == n)
		add(l, "%s", n > 1 ? "every broker is set aside" : "the broker is set aside");
	else if (u->state == SUPERVISOR_OFFLINE && n > 1)
		add(l, "offline, every broker was tried");
	else
		add(l, "%s", supervisor_state_to_string(u->state));
	if (!u->network_down)
		add_last_failure(l, f);
	add_next_attempt(l, f);
}

static void say_connecting(struct line *l, const struct figures *f)
{
	const struct figures_uplink *u = &f->uplink;

	add(l, "connecting to %s for ", u->broker);
	add_duration(l, since(f, u->state_usec));
	if (u->last_failure.broker[0])
		add(l, "; before");
	add_last_failure(l, f);
}

/* --- with a connection ----------------------------------------------------------------------- */

static bool is_late(const struct figures *f)
{
	return f->uplink.inflight > 0 && since(f, f->uplink.moved_usec) >= LATE_USEC;
}

/* Whether there is something to say. */
static bool say_connected(struct line *l, const struct figures *f)
{
	const struct figures_uplink *u = &f->uplink;

	if (u->held) {
		add(l, "%s; tried again in ", u->cause[0] ? u->cause : "queue held");
		add_duration(l, until(f, u->held_usec));
	} else if (u->read_error < 0) {
		add(l, "the queue cannot be read: %s; tried again every second",
			strerrordesc_np(-u->read_error));
	} else if (is_late(f)) {
		add(l, "%u in flight wait for %s to acknowledge them, for ", u->inflight,
			u->broker);
		add_duration(l, since(f, u->moved_usec));
	} else if (u->suspect) {
		add(l,
			"message %llu is tried alone, the others wait: %s refused it or closed the "
			"connection over it",
			(unsigned long long)u->suspect, u->broker);
	} else if (u->brake == FIGURES_BRAKE_THROTTLED) {
		add(l, "%s has asked for less: sending pauses", u->broker);
	} else if (u->brake == FIGURES_BRAKE_RATE) {
		add(l, "mqtt.max_rate, %llu bytes a second, holds it back",
			(unsigned long long)u->max_rate);
	} else {
		return false;
	}
	return true;
}

/* --- all of it ------------------------------------------------------------------------------- */

static void say_uplink(struct line *l, const struct figures *f)
{
	switch (f->uplink.state) {
	case SUPERVISOR_CONNECTED: (void)say_connected(l, f); break;
	case SUPERVISOR_CONNECTING: say_connecting(l, f); break;
	case SUPERVISOR_DISCONNECTING:
		add(l, "leaving %s: %u in flight are finished first", f->uplink.broker,
			f->uplink.inflight);
		break;
	default: say_waiting(l, f); break;
	}
}

char *figures_why(const struct figures *f, char *out, size_t size)
{
	struct line l = { .text = out, .size = size };

	*out = '\0';
	if (f->store_error < 0)
		add(&l, "the queue cannot be written: %s; lines are refused",
			strerrordesc_np(-f->store_error));
	else if (f->stopping)
		add(&l, "stopping: %u in flight are finished first", f->uplink.inflight);
	else if (f->messages > 0)
		say_uplink(&l, f);
	if (f->messages > 0 && f->full[0] && f->store_error == 0)
		add(&l, "%s%s; %s", l.used ? "; " : "", f->full,
			f->drop_oldest ? "the oldest messages are dropped" : "lines are refused");
	return out;
}
