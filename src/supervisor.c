/* SPDX-License-Identifier: MIT */
/*
 * The connection's state machine: see supervisor.h.
 *
 * Brokers are tried in rounds. In the first round after a connection was stable each gets
 * `timeout_attempts`; in later ones one, so that a broker that comes back is found within one wait.
 *
 * Invariants: set_state() is the only writer of `state`, and refuses what `legal` does not list; at
 * most one attempt is under way; in `connecting` and `disconnecting` a deadline is always armed, in
 * every other state but `connected` a wait is, unless we were told to stop or there is no broker.
 */
#include "supervisor.h"

#include <assert.h>
#include <errno.h>

/* After the network came back: soon, but not everybody in the same instant. */
#define SOON_USEC (1 * USEC_PER_SEC)

static const bool legal[N_SUPERVISOR_STATES][N_SUPERVISOR_STATES] = {
	[SUPERVISOR_DISCONNECTED] = { [SUPERVISOR_CONNECTING] = true,
		[SUPERVISOR_OFFLINE] = true,
		[SUPERVISOR_ERROR] = true },
	[SUPERVISOR_CONNECTING] = { [SUPERVISOR_CONNECTED] = true,
		[SUPERVISOR_OFFLINE] = true,
		[SUPERVISOR_ERROR] = true,
		[SUPERVISOR_DISCONNECTED] = true },
	[SUPERVISOR_CONNECTED] = { [SUPERVISOR_DISCONNECTED] = true,
		[SUPERVISOR_OFFLINE] = true,
		[SUPERVISOR_ERROR] = true,
		[SUPERVISOR_DISCONNECTING] = true },
	[SUPERVISOR_DISCONNECTING] = { [SUPERVISOR_DISCONNECTED] = true },
	[SUPERVISOR_ERROR] = { [SUPERVISOR_CONNECTING] = true,
		[SUPERVISOR_OFFLINE] = true,
		[SUPERVISOR_DISCONNECTED] = true },
	[SUPERVISOR_OFFLINE] = { [SUPERVISOR_CONNECTING] = true,
		[SUPERVISOR_ERROR] = true,
		[SUPERVISOR_DISCONNECTED] = true },
};

void supervisor_init(struct supervisor *s, const struct supervisor_params *params,
	backoff_random_fn random, void *userdata)
{
	*s = (struct supervisor){
		.params = *params,
		.state = SUPERVISOR_DISCONNECTED,
		.current = BROKERS_NONE,
		.next = BROKERS_NONE,
		.probing = BROKERS_NONE,
		.home = BROKERS_NONE,
		.probe_cycle_usec = SUPERVISOR_NO_TIMER,
		.timer_usec = SUPERVISOR_NO_TIMER,
		.quick_left = params->heartbeat_attempts,
	};
	backoff_init(&s->backoff, &params->backoff, random, userdata);
}

/* The one writer of state, action and timer. */
static void set_state(struct supervisor *s, enum supervisor_state to, enum supervisor_action action,
	uint64_t timer_usec, struct supervisor_step *step)
{
	assert(to == s->state || legal[s->state][to]);
	s->state = to;
	s->timer_usec = timer_usec;
	if (to != SUPERVISOR_CONNECTED)
		s->probing = BROKERS_NONE;
	step->to = to;
	step->action = action;
	step->timer_usec = timer_usec;
}

static void wait_for(struct supervisor *s, enum supervisor_state to, enum supervisor_plan plan,
	uint64_t wait_usec, enum supervisor_action action, uint64_t now,
	struct supervisor_step *step)
{
	step->plan = plan;
	step->wait_usec = wait_usec;
	set_state(s, to, action, now + wait_usec, step);
}

/* --- attempts -------------------------------------------------------------------------------- */

static void forget_failures(struct supervisor *s)
{
	s->attempts = 0;
	s->quick_left = s->params.heartbeat_attempts;
	s->recovering = false;
}

/* Nobody is left to be tried in this round. */
static void rest(struct supervisor *s, enum supervisor_action action, uint64_t now,
	struct supervisor_step *step)
{
	uint64_t until = brokers_all_aside_until(&s->brokers, now);

	s->next = BROKERS_NONE;
	s->later_round = true;
	if (s->brokers.n == 0)
		set_state(s, SUPERVISOR_OFFLINE, action, SUPERVISOR_NO_TIMER, step);
	else if (until != UINT64_MAX)
		wait_for(
			s, SUPERVISOR_ERROR, SUPERVISOR_PLAN_ASIDE, until - now, action, now, step);
	else
		wait_for(s, SUPERVISOR_OFFLINE, SUPERVISOR_PLAN_ROUND,
			backoff_next_usec(&s->backoff), action, now, step);
}

static void attempt(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	if (s->next == BROKERS_NONE) {
		brokers_new_round(&s->brokers);
		s->next = brokers_first(&s->brokers, now);
		s->attempts = 0;
	}
	if (s->next == BROKERS_NONE) {
		rest(s, SUPERVISOR_NOTHING, now, step);
		return;
	}
	s->current = s->next;
	set_state(s, SUPERVISOR_CONNECTING, SUPERVISOR_CONNECT,
		now + s->params.connect_timeout_usec, step);
}

/* Whether this broker is tried once more, and after which wait. */
static bool try_again(struct supervisor *s, enum failure_retry retry, uint64_t *ret_wait_usec)
{
	uint64_t delay = s->params.heartbeat_delay_usec;
	unsigned most = s->later_round ? 1 : s->params.timeout_attempts;

	if (retry != FAILURE_RETRY_ATTEMPTS && retry != FAILURE_RETRY_QUICKLY)
		return false;
	if (s->recovering && s->quick_left > 0) {
		s->quick_left--;
		*ret_wait_usec = backoff_uniform_usec(&s->backoff, delay / 2, delay + delay / 2);
		return true;
	}
	if (++s->attempts >= most)
		return false;
	*ret_wait_usec = backoff_next_usec(&s->backoff);
	return true;
}

static void go_on_with_next(
	struct supervisor *s, enum failure_retry retry, uint64_t now, struct supervisor_step *step)
{
	uint64_t wait_usec = 0;

	s->next = brokers_first(&s->brokers, now);
	if (s->next == BROKERS_NONE) {
		rest(s, SUPERVISOR_ABORT, now, step);
		return;
	}
	s->attempts = 0;
	if (!s->later_round)
		forget_failures(s);
	if (retry == FAILURE_RETRY_WAIT)
		wait_usec = backoff_next_usec(&s->backoff);
	wait_for(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_PLAN_NEXT, wait_usec, SUPERVISOR_ABORT, now,
		step);
}

/* Waits, and begins with `next`; once the network is back, with `home`. */
static void wait_without_network(struct supervisor *s, enum supervisor_action action, uint64_t now,
	struct supervisor_step *step)
{
	/* Not for ever: what tells us about the network may be wrong. */
	wait_for(s, SUPERVISOR_OFFLINE, SUPERVISOR_PLAN_NETWORK, s->params.backoff.max_usec, action,
		now, step);
}

/* A lost connection is looked for where it was; an attempt that failed leads to the next broker:
 * perhaps it is the broker and not the network. */
static void fail_without_network(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	if (step->from == SUPERVISOR_CONNECTED) {
		s->home = s->current;
	} else {
		brokers_tried(&s->brokers, s->current);
		s->next = brokers_first(&s->brokers, now);
	}
	wait_without_network(s, SUPERVISOR_ABORT, now, step);
}

static void fail(
	struct supervisor *s, enum failure_class class, uint64_t now, struct supervisor_step *step)
{
	const struct failure_policy *policy = failure_policy(class);
	uint64_t wait_usec;

	step->alert = policy->alert;
	s->next = s->current;
	s->recovering = s->recovering || class == FAILURE_HEARTBEAT;
	if (s->network_down && (class == FAILURE_TIMEOUT || class == FAILURE_HEARTBEAT)) {
		fail_without_network(s, now, step);
		return;
	}
	if (policy->retry == FAILURE_RETRY_LONGEST) {
		wait_for(s, SUPERVISOR_ERROR, SUPERVISOR_PLAN_SAME,
			backoff_longest_usec(&s->backoff), SUPERVISOR_ABORT, now, step);
		return;
	}
	if (try_again(s, policy->retry, &wait_usec)) {
		wait_for(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_PLAN_SAME, wait_usec,
			SUPERVISOR_ABORT, now, step);
		return;
	}
	brokers_tried(&s->brokers, s->current);
	if (policy->set_aside)
		brokers_set_aside(&s->brokers, s->current, class, now + s->params.set_aside_usec);
	go_on_with_next(s, policy->retry, now, step);
}

/* --- connected: stability and failing back ---------------------------------------------------- */

static void stay_connected(
	struct supervisor *s, enum supervisor_action action, struct supervisor_step *step)
{
	set_state(s, SUPERVISOR_CONNECTED, action, u64_min(s->stable_usec, s->probe_usec), step);
}

static void leave(struct supervisor *s, int next, uint64_t now, struct supervisor_step *step)
{
	s->next = next;
	set_state(s, SUPERVISOR_DISCONNECTING, SUPERVISOR_LEAVE,
		now + s->params.disconnect_timeout_usec, step);
}

/*
 * A cycle of probes goes on when a connection is lost or a new list comes, or a broker that does
 * not last as long as a cycle would keep us from the preferred one for ever.
 */
static void plan_probe(struct supervisor *s, uint64_t now)
{
	s->probing = BROKERS_NONE;
	if (!brokers_has_better(&s->brokers, s->current)) {
		s->probe_usec = s->probe_cycle_usec = SUPERVISOR_NO_TIMER;
		return;
	}
	if (s->probe_cycle_usec == SUPERVISOR_NO_TIMER)
		s->probe_cycle_usec = now;
	s->probe_usec = s->probe_cycle_usec + s->params.failback_usec;
	if (s->probe_usec < now)
		s->probe_usec = now; /* its time came while there was no connection */
}

static void connected(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	/* Whatever we were told, there is a network. */
	s->network_down = false;
	s->home = BROKERS_NONE;
	s->stable_usec = now + s->params.stable_usec;
	plan_probe(s, now);
	stay_connected(s, SUPERVISOR_NOTHING, step);
}

/* Probes the next one that is preferred; without one, the next cycle is planned. */
static void probe_next(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	bool was_probing = s->probing != BROKERS_NONE;

	s->probing = brokers_better(&s->brokers, s->current, s->probing, now);
	if (s->probing != BROKERS_NONE) {
		s->probe_usec = now + s->params.connect_timeout_usec;
		stay_connected(s, SUPERVISOR_PROBE, step);
		return;
	}
	/* Never at once again, however long this cycle took. */
	if (s->probe_cycle_usec + s->params.failback_usec <= now)
		s->probe_cycle_usec = now;
	plan_probe(s, now);
	stay_connected(s, was_probing ? SUPERVISOR_END_PROBE : SUPERVISOR_NOTHING, step);
}

static void connected_timer(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	if (s->stable_usec <= now) {
		s->stable_usec = SUPERVISOR_NO_TIMER;
		backoff_reset(&s->backoff);
		brokers_new_round(&s->brokers);
		forget_failures(s);
		s->later_round = false;
	}
	if (s->probe_usec > now) {
		stay_connected(s, SUPERVISOR_NOTHING, step);
		return;
	}
	if (s->probing == BROKERS_NONE)
		s->probe_cycle_usec = now;
	probe_next(s, now, step);
}

static void probe_failed(
	struct supervisor *s, enum failure_class class, uint64_t now, struct supervisor_step *step)
{
	const struct failure_policy *policy = failure_policy(class);

	step->alert = policy->alert;
	if (policy->set_aside)
		brokers_set_aside(&s->brokers, s->probing, class, now + s->params.set_aside_usec);
	probe_next(s, now, step);
}

/* --- by state -------------------------------------------------------------------------------- */

static uint64_t soon(struct supervisor *s, uint64_t now)
{
	return now + backoff_uniform_usec(&s->backoff, 0, SOON_USEC);
}

/* The network is back: on with the broker that was ours when it went. */
static void go_home(struct supervisor *s, uint64_t now)
{
	if (s->home == BROKERS_NONE)
		return;
	/* What was tried without a network was not tried. */
	brokers_new_round(&s->brokers);
	if (!brokers_is_aside(&s->brokers, s->home, now))
		s->next = s->home;
	s->home = BROKERS_NONE;
}

/* The wait ends soon, if it does not anyway. */
static void hurry(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	set_state(s, s->state, SUPERVISOR_NOTHING, u64_min(s->timer_usec, soon(s, now)), step);
}

static int in_wait(struct supervisor *s, enum supervisor_event event, uint64_t now,
	struct supervisor_step *step)
{
	switch (event) {
	case SUPERVISOR_START:
		s->stopping = false;
		attempt(s, now, step);
		return 0;
	case SUPERVISOR_TIMER:
		if (s->timer_usec == SUPERVISOR_NO_TIMER)
			return -EPROTO;
		attempt(s, now, step);
		return 0;
	case SUPERVISOR_NETWORK_UP:
		if (s->timer_usec == SUPERVISOR_NO_TIMER ||
			brokers_all_aside_until(&s->brokers, now) != UINT64_MAX)
			return -EPROTO;
		go_home(s, now);
		hurry(s, now, step);
		return 0;
	case SUPERVISOR_NETWORK_DOWN:
		if (s->timer_usec == SUPERVISOR_NO_TIMER || s->state == SUPERVISOR_ERROR)
			return -EPROTO;
		s->home = s->next;
		wait_without_network(s, SUPERVISOR_NOTHING, now, step);
		return 0;
	case SUPERVISOR_RECONNECT:
		if (s->timer_usec == SUPERVISOR_NO_TIMER)
			return -EPROTO;
		brokers_take_back(&s->brokers, FAILURE_NONE);
		s->next = BROKERS_NONE;
		s->later_round = false;
		hurry(s, now, step);
		return 0;
	case SUPERVISOR_STOP:
		s->stopping = true;
		set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, SUPERVISOR_NO_TIMER, step);
		return 0;
	default: return -EPROTO;
	}
}

static int in_connecting(struct supervisor *s, enum supervisor_event event,
	enum failure_class class, bool network_was_down, uint64_t now, struct supervisor_step *step)
{
	switch (event) {
	case SUPERVISOR_PROGRESS:
		set_state(s, SUPERVISOR_CONNECTING, SUPERVISOR_NOTHING,
			now + s->params.connect_timeout_usec, step);
		return 0;
	case SUPERVISOR_CONNACK: connected(s, now, step); return 0;
	case SUPERVISOR_FAILURE: fail(s, class, now, step); return 0;
	case SUPERVISOR_TIMER:
		step->deadline = true;
		fail(s, FAILURE_TIMEOUT, now, step);
		return 0;
	case SUPERVISOR_NETWORK_UP:
		if (!network_was_down)
			return -EPROTO;
		/* Its packets went nowhere; TCP would take its time to send them again. */
		s->next = s->current;
		go_home(s, now);
		set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, soon(s, now), step);
		return 0;
	case SUPERVISOR_NETWORK_DOWN:
		s->next = s->home = s->current;
		wait_without_network(s, SUPERVISOR_ABORT, now, step);
		return 0;
	case SUPERVISOR_STOP:
		s->stopping = true;
		set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, SUPERVISOR_NO_TIMER, step);
		return 0;
	default: return -EPROTO;
	}
}

static int in_connected(struct supervisor *s, enum supervisor_event event, enum failure_class class,
	uint64_t now, struct supervisor_step *step)
{
	switch (event) {
	case SUPERVISOR_TIMER: connected_timer(s, now, step); return 0;
	case SUPERVISOR_FAILURE: fail(s, class, now, step); return 0;
	case SUPERVISOR_PROBE_UP:
		if (s->probing == BROKERS_NONE)
			return -EPROTO;
		forget_failures(s);
		brokers_new_round(&s->brokers);
		leave(s, s->probing, now, step);
		return 0;
	case SUPERVISOR_PROBE_FAILED:
		if (s->probing == BROKERS_NONE)
			return -EPROTO;
		probe_failed(s, class, now, step);
		return 0;
	case SUPERVISOR_RECONNECT:
		brokers_take_back(&s->brokers, FAILURE_NONE);
		if (s->probing != BROKERS_NONE || !brokers_has_better(&s->brokers, s->current))
			return -EPROTO;
		s->probe_usec = soon(s, now);
		stay_connected(s, SUPERVISOR_NOTHING, step);
		return 0;
	case SUPERVISOR_STOP:
		s->stopping = true;
		leave(s, BROKERS_NONE, now, step);
		return 0;
	default: return -EPROTO;
	}
}

static int in_disconnecting(struct supervisor *s, enum supervisor_event event, uint64_t now,
	struct supervisor_step *step)
{
	switch (event) {
	case SUPERVISOR_STOP:
		if (!s->stopping) {
			s->stopping = true;
			return 0;
		}
		break;
	case SUPERVISOR_FAILURE:
	case SUPERVISOR_TIMER:
	case SUPERVISOR_CLOSED: break;
	default: return -EPROTO;
	}
	set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT,
		s->stopping ? SUPERVISOR_NO_TIMER : now, step);
	return 0;
}

static void begin_step(const struct supervisor *s, struct supervisor_step *step)
{
	*step = (struct supervisor_step){
		.from = s->state,
		.to = s->state,
		.action = SUPERVISOR_NOTHING,
		.timer_usec = s->timer_usec,
	};
}

int supervisor_handle(struct supervisor *s, enum supervisor_event event, enum failure_class class,
	uint64_t now, struct supervisor_step *ret)
{
	bool network_was_down = s->network_down;

	begin_step(s, ret);
	if (event == SUPERVISOR_NETWORK_UP) {
		s->network_down = false;
		brokers_take_back(
			&s->brokers, FAILURE_PROTOCOL); /* a captive portal's certificate */
	} else if (event == SUPERVISOR_NETWORK_DOWN) {
		if (s->network_down)
			return -EPROTO; /* the wait is not to begin anew each time */
		s->network_down = true;
	}

	switch (s->state) {
	case SUPERVISOR_CONNECTING:
		return in_connecting(s, event, class, network_was_down, now, ret);
	case SUPERVISOR_CONNECTED: return in_connected(s, event, class, now, ret);
	case SUPERVISOR_DISCONNECTING: return in_disconnecting(s, event, now, ret);
	default: return in_wait(s, event, now, ret);
	}
}

/* --- a new list ------------------------------------------------------------------------------ */

static int renamed(const struct supervisor *s, const char *name)
{
	return *name ? brokers_find(&s->brokers, name) : BROKERS_NONE;
}

static void new_list_in_wait(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	bool waits = s->timer_usec != SUPERVISOR_NO_TIMER || s->state == SUPERVISOR_OFFLINE;

	if (!waits)
		return; /* not started, or stopped */
	s->next = BROKERS_NONE;
	s->later_round = false;
	forget_failures(s);
	if (s->brokers.n == 0)
		set_state(s, SUPERVISOR_OFFLINE, SUPERVISOR_NOTHING, SUPERVISOR_NO_TIMER, step);
	else
		set_state(s, s->state, SUPERVISOR_NOTHING, now, step);
}

static void new_list_in_connected(struct supervisor *s, uint64_t now, struct supervisor_step *step)
{
	bool was_probing = s->probing != BROKERS_NONE;

	if (s->current == BROKERS_NONE) {
		leave(s, BROKERS_NONE, now, step);
		return;
	}
	plan_probe(s, now);
	stay_connected(s, was_probing ? SUPERVISOR_END_PROBE : SUPERVISOR_NOTHING, step);
}

void supervisor_set_brokers(struct supervisor *s, const struct brokers_item *items, size_t n,
	uint64_t now, struct supervisor_step *ret)
{
	struct brokers_item current = { 0 };

	begin_step(s, ret);
	if (s->current != BROKERS_NONE)
		current = s->brokers.entries[s->current].item;
	brokers_set(&s->brokers, items, n);
	s->current = renamed(s, current.name);
	s->next = s->home = BROKERS_NONE;

	switch (s->state) {
	case SUPERVISOR_CONNECTED: new_list_in_connected(s, now, ret); break;
	case SUPERVISOR_CONNECTING:
		if (s->current == BROKERS_NONE)
			set_state(s, SUPERVISOR_DISCONNECTED, SUPERVISOR_ABORT, now, ret);
		break;
	case SUPERVISOR_DISCONNECTING: break;
	default: new_list_in_wait(s, now, ret); break;
	}
}

const char *supervisor_state_to_string(enum supervisor_state state)
{
	static const char *const names[N_SUPERVISOR_STATES] = {
		[SUPERVISOR_DISCONNECTED] = "disconnected",
		[SUPERVISOR_CONNECTING] = "connecting",
		[SUPERVISOR_CONNECTED] = "connected",
		[SUPERVISOR_DISCONNECTING] = "disconnecting",
		[SUPERVISOR_ERROR] = "error",
		[SUPERVISOR_OFFLINE] = "offline",
	};

	return names[state];
}
