/* SPDX-License-Identifier: MIT */
/*
 * What the journal hears of the uplink, and what a person has to know of at once: both from the
 * same text. A broker that fails or flaps without end fills no journal, see flap.h; news always
 * come at once: another broker, another class of failure, a connection.
 */
#include <stdarg.h>
#include <stdio.h>

#include "log.h"
#include "uplink_internal.h"

/* How many of a run are told in full. */
#define FULL 5
/* Between looks whether a run is over, while there is something to do anyway. */
#define SETTLE_USEC (60 * USEC_PER_SEC)

/* What may happen too often to one broker; the first two: with each class of failure. */
enum what {
	WHAT_ATTEMPT = 0, /* to connect has failed */
	WHAT_LOST = WHAT_ATTEMPT + N_FAILURE_CLASSES, /* a connection was */
	WHAT_PROBE = WHAT_LOST + N_FAILURE_CLASSES, /* has failed */
	WHAT_PROBE_UP = WHAT_PROBE + N_FAILURE_CLASSES,
	WHAT_HELD, /* the queue was */
	WHAT_EXHAUSTED, /* no broker is left; from here on under no broker's name */
	WHAT_NETWORK, /* came or went */
	WHAT_NO_BROKERS,
};

/* --- one line -------------------------------------------------------------------------------- */

/* One line, and the alert that goes with it if the kind is one. */
static void _printf_(4, 5) tell(struct uplink *u, enum event_kind kind,
	const struct event_fields *fields, const char *format, ...)
{
	struct event_fields all = *fields;
	char text[1200];
	va_list ap;

	all.queue_known = mailbox_get_queued(u->mailbox, &all.queue);
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	log_event(kind, &all, "%s", text);
	if (event_is_alert(kind))
		mailbox_post_alert(u->mailbox, event_type(kind)->alert,
			fields->broker ? fields->broker : "", text);
}

/*
 * `what` has happened to the broker of that name. Returns the kind that its line has, sets priority
 * and count in *fields, and writes what the line says of those that were not told: "; 7 times ...".
 */
static enum event_kind limit(struct uplink *u, const char *name, unsigned what, uint64_t well_usec,
	enum event_kind kind, struct event_fields *fields, char more[static 120])
{
	uint64_t now = now_boot_usec();
	struct flap_told told = { 0 };
	enum flap_verdict verdict =
		flap_occurred(flap_find(&u->flaps, name, what), FULL, well_usec, now, &told);
	char text[100];

	more[0] = '\0';
	if (verdict == FLAP_QUIET) {
		fields->priority = LOG_DEBUG;
		if (u->settle_usec == 0)
			u->settle_usec = now + FLAP_RUN_USEC;
		return kind;
	}
	if (told.count > 1) {
		fields->count = told.count;
		snprintf(more, 120, "; %s", flap_text(&told, text, sizeof(text)));
	}
	/* An alert stays one. */
	return verdict == FLAP_SUMMARY && !event_is_alert(kind) ? EVENT_FLAPPING : kind;
}

/* --- changes of state ------------------------------------------------------------------------ */

/* What a failure leads to: "; next attempt in 1.5 s". */
static void describe_plan(
	const struct uplink *u, const struct supervisor_step *step, char *buf, size_t size)
{
	const struct supervisor *s = &u->supervisor;
	double wait = (double)step->wait_usec / (double)USEC_PER_SEC;
	const char *next = brokers_name(&s->brokers, s->next);

	*buf = '\0';
	switch (step->plan) {
	case SUPERVISOR_PLAN_NONE: break;
	case SUPERVISOR_PLAN_SAME: snprintf(buf, size, "; next attempt in %.1f s", wait); break;
	case SUPERVISOR_PLAN_NEXT:
		if (step->wait_usec)
			snprintf(buf, size, "; next attempt in %.1f s, with %s", wait, next);
		else
			snprintf(buf, size, "; next attempt now, with %s", next);
		break;
	case SUPERVISOR_PLAN_ROUND:
		snprintf(buf, size, "; %snext attempt in %.1f s",
			s->brokers.n > 1 ? "every broker was tried; " : "", wait);
		break;
	case SUPERVISOR_PLAN_ASIDE:
		snprintf(buf, size, "; set aside; next attempt in %.1f s", wait);
		break;
	case SUPERVISOR_PLAN_NETWORK:
		snprintf(buf, size,
			"; there is no network: next attempt once there is, or in %.1f s", wait);
		break;
	}
}

/* Of a failure by its class, whether an attempt failed, a connection or a probe. */
static enum event_kind kind_of_class(enum failure_class class, enum event_kind otherwise)
{
	switch (class) {
	case FAILURE_AUTH: return EVENT_AUTH_REFUSED;
	case FAILURE_PROTOCOL: return EVENT_BROKER_SET_ASIDE;
	case FAILURE_TAKEN_OVER: return EVENT_TAKEN_OVER;
	default: return otherwise;
	}
}

static void tell_failure(struct uplink *u, const struct supervisor_step *step,
	enum failure_class class, struct event_fields *fields, const char *plan)
{
	bool lost = step->from == SUPERVISOR_CONNECTED || step->from == SUPERVISOR_DISCONNECTING;
	enum event_kind kind = kind_of_class(class,
		lost					 ? EVENT_CONNECTION_LOST
			: step->to == SUPERVISOR_OFFLINE ? EVENT_OFFLINE
							 : EVENT_CONNECT_FAILED);
	const char *advice = failure_advice(class);
	char more[120];

	fields->class = failure_class_to_string(class);
	if (step->to == SUPERVISOR_ERROR)
		fields->priority = LOG_ERR;
	kind = limit(u, u->broker_name, (lost ? WHAT_LOST : WHAT_ATTEMPT) + class,
		lost ? now_boot_usec() - u->connected_usec : 0, kind, fields, more);
	tell(u, kind, fields, "%s: %s -> %s: %s (%s)%s%s%s%s", fields->broker, fields->old_state,
		fields->state, u->cause, fields->class, plan, advice ? "; " : "",
		advice ? advice : "", more);
}

static bool flaps(const struct uplink *u, unsigned from, unsigned to)
{
	return !flap_all_told(&u->flaps, u->broker_name, from, to, FULL, now_boot_usec());
}

bool uplink_is_quiet(const struct uplink *u)
{
	return flaps(u, WHAT_LOST, WHAT_PROBE);
}

static void tell_connected(struct uplink *u, struct event_fields *fields, const char *plan)
{
	char more[60] = "";

	u->connected_usec = now_boot_usec();
	if (uplink_is_quiet(u)) {
		fields->priority = LOG_DEBUG;
	} else {
		/* The outage is over; the next one is told from its beginning. */
		fields->count = flap_forget(&u->flaps, u->broker_name, WHAT_ATTEMPT, WHAT_LOST);
		if (fields->count > 0)
			snprintf(more, sizeof(more), "; %llu more attempts had failed before",
				(unsigned long long)fields->count);
	}
	tell(u, EVENT_CONNECTED, fields, "%s: %s -> %s%s%s", fields->broker, fields->old_state,
		fields->state, plan, more);
}

static void tell_exhausted(struct uplink *u, const struct supervisor_step *step)
{
	struct event_fields fields = { .state = supervisor_state_to_string(step->to) };
	char more[120];
	enum event_kind kind =
		limit(u, "", WHAT_EXHAUSTED, 0, EVENT_BROKERS_EXHAUSTED, &fields, more);

	tell(u, kind, &fields,
		"no broker is left to be tried: every one is set aside; messages wait in the "
		"queue; next attempt in %.1f s%s",
		(double)step->wait_usec / (double)USEC_PER_SEC, more);
}

static bool is_network(enum supervisor_event event)
{
	return event == SUPERVISOR_NETWORK_UP || event == SUPERVISOR_NETWORK_DOWN;
}

void uplink_tell_step(struct uplink *u, const struct supervisor_step *step,
	enum supervisor_event event, enum failure_class class)
{
	struct event_fields fields = {
		.broker = u->broker_name[0] ? u->broker_name : "no broker",
		.state = supervisor_state_to_string(step->to),
		.old_state = supervisor_state_to_string(step->from),
	};
	char plan[400];

	describe_plan(u, step, plan, sizeof(plan));
	if (event == SUPERVISOR_FAILURE || step->deadline) {
		tell_failure(u, step, class, &fields, plan);
	} else if (step->to == SUPERVISOR_CONNECTED) {
		tell_connected(u, &fields, plan);
	} else {
		bool quiet = flaps(u, WHAT_ATTEMPT, WHAT_PROBE) ||
			(is_network(event) &&
				!flap_all_told(&u->flaps, "", WHAT_NETWORK, WHAT_NETWORK + 1, FULL,
					now_boot_usec()));

		fields.priority = quiet		       ? LOG_DEBUG
			: step->to == SUPERVISOR_ERROR ? LOG_ERR
						       : LOG_INFO;
		tell(u, step->to == SUPERVISOR_OFFLINE ? EVENT_OFFLINE : EVENT_STATE, &fields,
			"%s: %s -> %s%s", fields.broker, fields.old_state, fields.state, plan);
	}
	if (step->to == SUPERVISOR_ERROR && step->plan == SUPERVISOR_PLAN_ASIDE)
		tell_exhausted(u, step);
}

/* --- probes ---------------------------------------------------------------------------------- */

void uplink_tell_probe_up(struct uplink *u, const char *name)
{
	struct event_fields fields = { .broker = name };
	char more[120];
	enum event_kind kind = limit(u, name, WHAT_PROBE_UP, 0, EVENT_FAILED_BACK, &fields, more);

	tell(u, kind, &fields, "%s: answers again; leaving %s for it%s", name, u->broker_name,
		more);
}

void uplink_tell_probe_failed(struct uplink *u, const char *name, const struct failure *f)
{
	struct event_fields fields = {
		.broker = name,
		.class = failure_class_to_string(f->class),
	};
	const char *advice = failure_advice(f->class);
	enum event_kind kind;
	char more[120];

	if (!failure_policy(f->class)->alert) {
		log_debug("%s: probe failed: %s (%s); staying with %s", name, f->text, fields.class,
			u->broker_name);
		return;
	}
	kind = limit(u, name, WHAT_PROBE + f->class, 0,
		kind_of_class(f->class, EVENT_CONNECT_FAILED), &fields, more);
	tell(u, kind, &fields, "%s: probe failed: %s (%s); staying with %s%s%s%s", name, f->text,
		fields.class, u->broker_name, advice ? "; " : "", advice ? advice : "", more);
}

/* --- messages that nobody takes -------------------------------------------------------------- */

void uplink_tell_condemned(struct uplink *u, uint64_t id, const char *reason)
{
	const struct event_fields fields = { .broker = u->broker_name, .seq = id };

	tell(u, EVENT_DEAD_LETTER, &fields,
		"%s: message %llu cannot be delivered and goes to dead_letters: %s", u->broker_name,
		(unsigned long long)id, reason);
}

void uplink_tell_held(struct uplink *u, uint64_t id, const char *reason)
{
	struct event_fields fields = { .broker = u->broker_name, .seq = id };
	char more[120];
	enum event_kind kind =
		limit(u, u->broker_name, WHAT_HELD, 0, EVENT_QUEUE_HELD, &fields, more);

	tell(u, kind, &fields,
		"%s: message %llu, too, was refused: %s; several in a row: the queue is held and "
		"tried again in %llu s; check the broker and its access rules%s",
		u->broker_name, (unsigned long long)id, reason,
		(unsigned long long)(u->config->retry.set_aside_usec / USEC_PER_SEC), more);
}

void uplink_tell_released(struct uplink *u)
{
	struct event_fields fields = { .broker = u->broker_name };

	if (flap_all_told(
		    &u->flaps, u->broker_name, WHAT_HELD, WHAT_HELD + 1, FULL, now_boot_usec()))
		fields.count = flap_forget(&u->flaps, u->broker_name, WHAT_HELD, WHAT_HELD + 1);
	tell(u, EVENT_QUEUE_RELEASED, &fields,
		"%s: messages are taken again; the queue is no longer held", u->broker_name);
}

/* --- around the connection ------------------------------------------------------------------- */

void uplink_tell_network(struct uplink *u, bool up, const char *text)
{
	struct event_fields fields = { .state = supervisor_state_to_string(u->supervisor.state) };
	enum event_kind kind;
	char more[120];

	/* As long as there is a connection, it is the better witness. */
	if (u->supervisor.state == SUPERVISOR_CONNECTED)
		return;
	kind = limit(u, "", WHAT_NETWORK, 0, EVENT_NETWORK, &fields, more);
	tell(u, kind, &fields, "network %s: %s%s", up ? "up" : "down", text, more);
}

void uplink_tell_no_brokers(struct uplink *u, const char *text)
{
	struct event_fields fields = { .state = supervisor_state_to_string(u->supervisor.state) };
	char more[120];
	enum event_kind kind =
		limit(u, "", WHAT_NO_BROKERS, 0, EVENT_BROKERS_UNKNOWN, &fields, more);

	tell(u, kind, &fields, "%s%s", text, more);
}

/* --- and what comes to its end ---------------------------------------------------------------- */

/* "failed attempts to connect (timeout)" */
static void describe_what(unsigned what, char *out, size_t size)
{
	static const char *const of_class[] = { "failed attempts to connect", "lost connections",
		"failed probes" };
	static const char *const others[] = {
		/* NOLINTNEXTLINE(misc-redundant-expression): like those below. */
		[WHAT_PROBE_UP - WHAT_PROBE_UP] = "moves to it",
		[WHAT_HELD - WHAT_PROBE_UP] = "times that the queue was held",
		[WHAT_EXHAUSTED - WHAT_PROBE_UP] = "times that every broker was set aside",
		[WHAT_NETWORK - WHAT_PROBE_UP] = "changes of the network",
		[WHAT_NO_BROKERS - WHAT_PROBE_UP] = "times without a list of brokers",
	};

	if (what < WHAT_PROBE_UP)
		snprintf(out, size, "%s (%s)", of_class[what / N_FAILURE_CLASSES],
			failure_class_to_string(what % N_FAILURE_CLASSES));
	else
		snprintf(out, size, "%s", others[what - WHAT_PROBE_UP]);
}

static void tell_over(
	struct uplink *u, const char *name, unsigned what, const struct flap_told *told)
{
	struct event_fields fields = {
		.broker = name,
		.state = supervisor_state_to_string(u->supervisor.state),
		.count = told->count,
	};
	char text[100], times[100];

	describe_what(what, text, sizeof(text));
	tell(u, EVENT_STEADY, &fields, "%s%s%s for %u minutes; now %s. Since the last line: %s",
		*name ? name : "", *name ? ": no " : "no ", text,
		(unsigned)(FLAP_RUN_USEC / USEC_PER_SEC / 60), fields.state,
		flap_text(told, times, sizeof(times)));
}

void uplink_tell_steady(struct uplink *u)
{
	struct flap_told told;
	const char *name;
	unsigned what;
	uint64_t now;

	if (u->settle_usec == 0)
		return;
	now = now_boot_usec();
	if (now < u->settle_usec)
		return;
	while (flap_any_over(&u->flaps, now, &name, &what, &told))
		tell_over(u, name, what, &told);
	u->settle_usec = flap_any_untold(&u->flaps) ? now + SETTLE_USEC : 0;
}
