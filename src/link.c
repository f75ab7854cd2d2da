/* SPDX-License-Identifier: MIT */
/*
 * The link: see link.h. Owns the resolver and the client objects.
 *
 * Invariant: while `must_purge` holds there is no usable session; nothing that the broker answers
 * about it counts.
 */
#include "link.h"

#include <errno.h>

#include "log.h"
#include "mqtt.h"
#include "resolver.h"

enum step {
	STEP_NONE,
	STEP_RESOLVE,
	STEP_NOTE,
	STEP_PURGE,
	STEP_SESSION,
};

struct link {
	sd_event *event;
	const struct config *config;
	const struct config_broker *broker;
	const char *name;
	struct link_callbacks callbacks;
	void *userdata;

	enum step step;
	struct resolver *resolver;
	struct resolver_result addresses;
	size_t address; /* the one being tried */
	struct mqtt *purge;
	struct mqtt *session;
	bool v5; /* the version to try, or the one that worked */
	bool v5_settled; /* it worked */
	bool noted; /* `meta` says unclean, durably */
	bool note_pending;
	bool must_purge; /* the broker's session may hold what is not ours any more */
};

static void connect_next(struct link *l);

/* --- what the client objects report ---------------------------------------------------------- */

/*
 * Without a session the broker has forgotten exchanges that the library goes on with: a QoS 2
 * message between PUBREC and PUBREL would be lost, the others would come out of order and, sent
 * again after the purge, twice. So nothing more may leave, and no answer counts.
 */
static bool on_session(void *userdata, bool present)
{
	struct link *l = userdata;

	if (!present && l->callbacks.inflight(l->userdata) > 0)
		l->must_purge = true;
	return !l->must_purge;
}

static void on_connected(void *userdata, unsigned receive_maximum)
{
	struct link *l = userdata;

	l->v5_settled = true;
	if (l->must_purge) {
		log_notice("%s: broker has no session any more, with %u messages in flight; they "
			   "are sent again",
			l->name, l->callbacks.inflight(l->userdata));
		l->callbacks.step_done(l->userdata);
		connect_next(l);
		return;
	}
	l->step = STEP_NONE;
	l->callbacks.connected(l->userdata, receive_maximum);
}

static bool try_next_address(struct link *l, const struct mqtt_failure *f)
{
	if (l->step == STEP_NONE || f->phase != MQTT_PHASE_TCP || l->address + 1 >= l->addresses.n)
		return false;
	log_debug("%s: %s: %s; trying the next address", l->name,
		l->addresses.addresses[l->address], f->failure.text);
	l->address++;
	connect_next(l);
	return true;
}

/* version = "auto": the other one, next time, until one has worked. */
static void consider_version(struct link *l, const struct mqtt_failure *f)
{
	if (!f->try_other_version || l->v5_settled || l->config->mqtt.version != CONFIG_MQTT_AUTO)
		return;
	l->v5 = !l->v5;
	l->session = mqtt_free(l->session);
	log_info("%s: next attempt with MQTT %s", l->name, l->v5 ? "5" : "3.1.1");
}

static void on_failed(void *userdata, const struct mqtt_failure *f)
{
	struct link *l = userdata;

	if (try_next_address(l, f))
		return;
	consider_version(l, f);
	l->callbacks.failed(l->userdata, &f->failure);
}

static void on_closed(void *userdata)
{
	struct link *l = userdata;

	l->callbacks.closed(l->userdata);
}

static void on_published(void *userdata, uint16_t mid, unsigned reason)
{
	struct link *l = userdata;

	if (!l->must_purge)
		l->callbacks.published(l->userdata, mid, reason);
}

static void on_progress(void *userdata)
{
	struct link *l = userdata;

	l->callbacks.progress(l->userdata);
}

static const struct mqtt_callbacks session_callbacks = {
	.session = on_session,
	.connected = on_connected,
	.failed = on_failed,
	.closed = on_closed,
	.published = on_published,
	.progress = on_progress,
};

static void on_purge_connected(void *userdata, unsigned receive_maximum)
{
	struct link *l = userdata;

	(void)receive_maximum;
	l->v5_settled = true;
	mqtt_disconnect(l->purge);
}

static void on_purge_closed(void *userdata)
{
	struct link *l = userdata;

	l->purge = mqtt_free(l->purge);
	l->must_purge = false;
	l->callbacks.step_done(l->userdata);
	connect_next(l);
}

static const struct mqtt_callbacks purge_callbacks = {
	.connected = on_purge_connected,
	.failed = on_failed,
	.closed = on_purge_closed,
};

/* --- the steps ------------------------------------------------------------------------------- */

static void fail(struct link *l, enum failure_class class, const char *what, const char *why)
{
	struct failure f;

	failure_set(&f, class, "%s: %s", what, why);
	l->callbacks.failed(l->userdata, &f);
}

static int make_client(struct link *l, struct mqtt **ret)
{
	const struct mqtt_params params = {
		.client_id = l->config->mqtt.client_id,
		.username = l->broker->username,
		.password = l->broker->password,
		.keepalive = l->config->mqtt.keepalive,
		.v5 = l->v5,
		.clean_session = l->must_purge,
	};

	return mqtt_new(
		ret, l->event, &params, l->must_purge ? &purge_callbacks : &session_callbacks, l);
}

/* Steps 3 and 4. */
static void connect_next(struct link *l)
{
	struct mqtt **client = l->must_purge ? &l->purge : &l->session;
	int r = 0;

	l->step = l->must_purge ? STEP_PURGE : STEP_SESSION;
	if (l->must_purge) {
		/* The client object's memory of the session goes with the session. */
		l->session = mqtt_free(l->session);
		l->callbacks.session_lost(l->userdata);
	}
	if (!*client)
		r = make_client(l, client);
	if (r < 0) {
		fail(l, FAILURE_TIMEOUT, "cannot make an MQTT client", strerrordesc_np(-r));
		return;
	}
	mqtt_connect(*client, l->addresses.addresses[l->address], l->broker->port);
}

static void on_resolved(void *userdata, const struct resolver_result *result)
{
	struct link *l = userdata;

	if (result->error) {
		fail(l, FAILURE_TIMEOUT, "cannot resolve the name", result->text);
		return;
	}
	l->addresses = *result;
	l->address = 0;
	if (l->noted) {
		connect_next(l);
		return;
	}
	l->step = STEP_NOTE;
	/* A note asked for by an attempt that failed since may still be on its way. */
	if (!l->note_pending)
		l->callbacks.note(l->userdata);
	l->note_pending = true;
}

void link_begin(struct link *l)
{
	int r;

	l->step = STEP_RESOLVE;
	r = resolver_lookup(l->resolver, l->broker->host);
	if (r < 0)
		fail(l, FAILURE_TIMEOUT, "cannot resolve the name", strerrordesc_np(-r));
}

void link_noted(struct link *l)
{
	l->noted = true;
	l->note_pending = false;
	if (l->step != STEP_NOTE)
		return;
	l->callbacks.step_done(l->userdata);
	connect_next(l);
}

void link_abort(struct link *l)
{
	l->step = STEP_NONE;
	resolver_cancel(l->resolver);
	l->purge = mqtt_free(l->purge);
	if (l->session)
		mqtt_abort(l->session);
}

void link_disconnect(struct link *l)
{
	mqtt_disconnect(l->session);
}

bool link_is_up(const struct link *l)
{
	return mqtt_is_up(l->session);
}

bool link_is_clean(const struct link *l)
{
	return l->noted && !l->must_purge && l->callbacks.inflight(l->userdata) == 0;
}

const char *link_waits_for(const struct link *l)
{
	switch (l->step) {
	case STEP_RESOLVE: return "the name look-up";
	case STEP_NOTE: return "the queue's disk";
	default: return "the broker's CONNACK";
	}
}

int link_publish(struct link *l, const struct message *m, int *ret_mid, const char **ret_text)
{
	return mqtt_publish(l->session, m, ret_mid, ret_text);
}

int link_new(struct link **ret, sd_event *event, const struct config *config, const char *name,
	const char *note, const struct link_callbacks *callbacks, void *userdata)
{
	struct link *l;
	int r;

	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->event = sd_event_ref(event);
	l->config = config;
	l->broker = &config->brokers[0];
	l->name = name;
	l->callbacks = *callbacks;
	l->userdata = userdata;
	l->v5 = config->mqtt.version != CONFIG_MQTT_311;
	l->noted = note && streq(note, LINK_NOTE_UNCLEAN);
	/* What an earlier process left there is nothing only if it said so. */
	l->must_purge = !note || !streq(note, LINK_NOTE_CLEAN);
	r = resolver_new(&l->resolver, event, on_resolved, l);
	if (r < 0) {
		link_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

struct link *link_free(struct link *l)
{
	if (!l)
		return NULL;
	l->purge = mqtt_free(l->purge);
	l->session = mqtt_free(l->session);
	l->resolver = resolver_free(l->resolver);
	sd_event_unref(l->event);
	free(l);
	return NULL;
}
