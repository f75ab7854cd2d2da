/* SPDX-License-Identifier: MIT */
/*
 * The link: see link.h. Owns the resolver and the client objects; what is published on the session
 * is in link_message.c.
 *
 * Invariant: while `must_purge` holds there is no usable session; nothing that the broker answers
 * about it counts.
 *
 * Must not know: rows, what a failure leads to, when to connect.
 */
#include <errno.h>
#include <stdio.h>

#include "link_internal.h"
#include "event.h"
#include "log.h"

/* Seconds: libmosquitto sends PINGREQ when it heard nothing for so long; it takes no less. */
#define SIGN_OF_LIFE_KEEPALIVE 5
#define MAX_QOS2_311	       (20 - 2) /* birth and will may be among them */

static void connect_next(struct link *l);

/* --- what the client objects report ---------------------------------------------------------- */

static unsigned inflight(const struct link *l)
{
	return l->callbacks.inflight(l->userdata) + (l->birth_mid != 0) + (l->will_mid != 0);
}

/*
 * Without a session the broker has forgotten exchanges that the library goes on with: a QoS 2
 * message between PUBREC and PUBREL would be lost, the others would come out of order and, sent
 * again after the purge, twice. So nothing more may leave, and no answer counts.
 */
static bool on_session(void *userdata, bool present)
{
	struct link *l = userdata;

	if (!present && inflight(l) > 0)
		l->must_purge = true;
	return !l->must_purge;
}

/* The address being tried. */
static const char *address(const struct link *l)
{
	return l->addresses.addresses[(l->memory->address + l->tried) % l->addresses.n];
}

int link_priority(const struct link *l, int priority)
{
	return l->callbacks.is_quiet(l->userdata) ? LOG_DEBUG : priority;
}

static void settle(struct link *l)
{
	l->memory->settled = true;
	l->memory->address += l->tried;
	l->tried = 0;
}

static void on_connected(void *userdata, const struct mqtt_limits *limits)
{
	struct link *l = userdata;
	uint8_t max_qos = limits->max_qos;

	settle(l);
	if (l->must_purge) {
		log_event(EVENT_SESSION_LOST,
			&(struct event_fields){
				.broker = l->name, .priority = link_priority(l, LOG_NOTICE) },
			"%s: broker has no session any more, with %u messages in flight; they "
			"are sent again",
			l->name, inflight(l));
		l->callbacks.step_done(l->userdata);
		connect_next(l);
		return;
	}
	l->step = STEP_NONE;
	l->retain_dropped = false;
	if (l->memory->no_qos2 && max_qos > 1)
		max_qos = 1;
	if (max_qos < 2 && max_qos != l->limits.max_qos)
		log_write(link_priority(l, LOG_NOTICE), NULL,
			"%s: broker takes no QoS above %u; messages of a higher one are sent "
			"with that",
			l->name, max_qos);
	l->limits = *limits;
	l->limits.max_qos = max_qos;
	link_publish_birth(l);
	l->callbacks.connected(l->userdata, limits->receive_maximum, max_qos);
}

static bool try_next_address(struct link *l, const struct mqtt_failure *f)
{
	if (l->step == STEP_NONE || f->phase != MQTT_PHASE_TCP || l->tried + 1 >= l->addresses.n)
		return false;
	log_debug("%s: %s: %s; trying the next address", l->name, address(l), f->failure.text);
	l->tried++;
	connect_next(l);
	return true;
}

/*
 * version = "auto": 5 first, and 3.1.1 at once for a broker that refuses it or hangs up; unless one
 * of them has worked before.
 */
static bool try_other_version(struct link *l, const struct mqtt_failure *f)
{
	struct mqtt **client = l->step == STEP_PURGE ? &l->purge : &l->session;

	if (l->step == STEP_NONE || !f->try_other_version || l->memory->settled ||
		l->config->mqtt.version != CONFIG_MQTT_AUTO)
		return false;
	l->memory->v311 = !l->memory->v311;
	*client = mqtt_free(*client);
	if (!l->memory->v311)
		return false; /* both were tried: 5 again next time */
	log_write(link_priority(l, LOG_INFO), NULL, "%s: %s; trying MQTT 3.1.1", l->name,
		f->failure.text);
	connect_next(l);
	return true;
}

static void on_failed(void *userdata, const struct mqtt_failure *f)
{
	struct failure failure = f->failure;
	struct link *l = userdata;

	if (try_next_address(l, f) || try_other_version(l, f))
		return;
	if (f->no_qos2 && !l->memory->no_qos2) {
		/* Not a fault to set the broker aside for: we know how to deal with it. */
		failure.class = FAILURE_HEARTBEAT;
		l->memory->no_qos2 = true;
		l->must_purge = true;
	}
	if (f->strange_session)
		l->must_purge = true;
	l->callbacks.failed(l->userdata, &failure, f->by_peer && !f->no_qos2);
}

static void on_closed(void *userdata)
{
	struct link *l = userdata;

	l->callbacks.closed(l->userdata);
}

static void on_published(void *userdata, uint16_t mid, unsigned reason)
{
	struct link *l = userdata;

	if (l->must_purge)
		return;
	if (link_is_own(l, mid)) {
		if (reason >= 0x80)
			log_write(link_priority(l, LOG_WARNING), NULL,
				"%s: broker refused mqtt.birth or mqtt.will with reason code "
				"0x%02x",
				l->name, reason);
		return;
	}
	l->callbacks.published(l->userdata, mid, reason);
}

static void on_progress(void *userdata)
{
	struct link *l = userdata;

	l->callbacks.progress(l->userdata);
}

static void on_alive(void *userdata)
{
	struct link *l = userdata;

	l->callbacks.alive(l->userdata);
}

static const struct mqtt_callbacks session_callbacks = {
	.session = on_session,
	.connected = on_connected,
	.failed = on_failed,
	.closed = on_closed,
	.published = on_published,
	.progress = on_progress,
	.alive = on_alive,
};

static void on_purge_connected(void *userdata, const struct mqtt_limits *limits)
{
	struct link *l = userdata;

	settle(l);
	mqtt_disconnect(l->purge, false);
	if (l->probe)
		l->callbacks.connected(l->userdata, limits->receive_maximum, limits->max_qos);
}

static void on_purge_closed(void *userdata)
{
	struct link *l = userdata;

	l->purge = mqtt_free(l->purge);
	if (l->probe) {
		l->step = STEP_NONE;
		l->callbacks.closed(l->userdata);
		return;
	}
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
	l->callbacks.failed(l->userdata, &f, false);
}

static int make_client(struct link *l, struct mqtt **ret)
{
	const struct config_tls *t = &l->broker->tls;
	const struct mqtt_tls tls = {
		.ca_file = t->ca_file,
		.ca_path = t->ca_path,
		.cert_file = t->cert_file,
		.key_file = t->key_file,
		.alpn = t->alpn,
		.insecure = t->insecure,
	};
	const struct config_presence *w = &l->config->mqtt.will;
	const struct mqtt_will will = {
		.topic = w->topic,
		.payload = w->payload,
		.qos = w->qos,
		.retain = w->retain,
	};
	const struct mqtt_params params = {
		.client_id = l->client_id,
		.username = l->broker->username,
		.password = l->broker->password,
		.tls = t->enabled ? &tls : NULL,
		.will = link_has_will(l) && !l->must_purge ? &will : NULL,
		.keepalive = l->keepalive,
		.ping_timeout_usec = l->config->mqtt.ack_timeout_usec,
		.v5 = !l->memory->v311,
		.clean_session = l->must_purge || l->config->mqtt.clean_session,
		.traffic = l->traffic,
	};

	return mqtt_new(
		ret, l->event, &params, l->must_purge ? &purge_callbacks : &session_callbacks, l);
}

/* The client object's memory of the session goes with the session. */
static void drop_session(struct link *l)
{
	l->session = mqtt_free(l->session);
	l->birth_mid = l->will_mid = 0;
	if (!l->probe)
		l->callbacks.session_lost(l->userdata);
}

/* Steps 3 and 4. */
static void connect_next(struct link *l)
{
	struct mqtt **client = l->must_purge ? &l->purge : &l->session;
	int r = 0;

	l->step = l->must_purge ? STEP_PURGE : STEP_SESSION;
	if (l->must_purge)
		drop_session(l);
	if (!*client)
		r = make_client(l, client);
	if (r < 0) {
		fail(l, FAILURE_TIMEOUT, "cannot make an MQTT client", strerrordesc_np(-r));
		return;
	}
	mqtt_connect(*client, l->broker->host, address(l), l->broker->port, l->keepalive);
}

static void on_resolved(void *userdata, const struct resolver_result *result)
{
	struct link *l = userdata;

	if (result->error) {
		fail(l, FAILURE_TIMEOUT, "cannot resolve the name", result->text);
		return;
	}
	l->addresses = *result;
	l->tried = 0;
	if (l->noted || l->probe || l->config->mqtt.clean_session) {
		connect_next(l);
		return;
	}
	l->step = STEP_NOTE;
	/* A note asked for by an attempt that failed since may still be on its way. */
	if (!l->note_pending)
		l->callbacks.note(l->userdata);
	l->note_pending = true;
}

void link_begin(struct link *l, bool sign_of_life)
{
	uint16_t keepalive = l->config->mqtt.keepalive;
	int r;

	if (l->config->mqtt.clean_session && !l->probe)
		drop_session(l);
	if (sign_of_life && (keepalive == 0 || keepalive > SIGN_OF_LIFE_KEEPALIVE))
		keepalive = SIGN_OF_LIFE_KEEPALIVE;
	l->keepalive = keepalive;
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
	/* Whatever this address did, perhaps nothing at all: another one may do better. */
	if (l->step == STEP_PURGE || l->step == STEP_SESSION)
		l->memory->address += l->tried + 1;
	l->step = STEP_NONE;
	link_forget_presence(l);
	resolver_cancel(l->resolver);
	l->purge = mqtt_free(l->purge);
	if (l->session)
		mqtt_abort(l->session);
}

void link_give_up_session(struct link *l)
{
	l->must_purge = true;
}

void link_disconnect(struct link *l)
{
	mqtt_disconnect(l->session, link_has_will(l) && !l->memory->v311);
}

bool link_is_up(const struct link *l)
{
	return l && mqtt_is_up(l->session);
}

bool link_is_clean(const struct link *l)
{
	return l->noted && !l->must_purge && !l->config->mqtt.clean_session && inflight(l) == 0;
}

static bool is_loopback(const char *address)
{
	return strncmp(address, "127.", 4) == 0 || streq(address, "::1");
}

bool link_is_local_host(const char *host)
{
	return streq(host, "localhost") || is_loopback(host);
}

bool link_is_local(const struct link *l)
{
	if (link_is_local_host(l->broker->host))
		return true;
	return l->addresses.n > 0 && is_loopback(l->addresses.addresses[0]);
}

unsigned link_max_qos2(const struct link *l)
{
	return l->memory->v311 ? MAX_QOS2_311 : 0;
}

const char *link_waits_for(const struct link *l)
{
	switch (l->step) {
	case STEP_RESOLVE: return "the name look-up";
	case STEP_NOTE: return "the queue's disk";
	default: return "the broker's CONNACK";
	}
}

void link_get_progress(const struct link *l, struct mqtt_progress *ret)
{
	*ret = (struct mqtt_progress){ 0 };
	if (l->session)
		mqtt_get_progress(l->session, ret);
}

void link_count_traffic(struct link *l)
{
	if (!l)
		return;
	mqtt_count_traffic(l->purge);
	mqtt_count_traffic(l->session);
}

/* --- the object ------------------------------------------------------------------------------ */

static int copy_params(struct link *l, const struct link_params *params)
{
	int r;

	r = config_brokers_copy(&l->broker, params->broker, 1);
	if (r < 0)
		return r;
	l->name = strdup(params->name);
	l->queue_uuid = strdup(params->queue_uuid);
	if (!l->name || !l->queue_uuid)
		return -ENOMEM;
	if (asprintf(&l->client_id, "%s%s", params->config->mqtt.client_id,
		    params->probe ? "-probe" : "") < 0) {
		l->client_id = NULL;
		return -ENOMEM;
	}
	return 0;
}

int link_new(struct link **ret, sd_event *event, const struct link_params *params,
	const struct link_callbacks *callbacks, void *userdata)
{
	const char *note = params->note;
	struct link *l;
	int r;

	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->event = sd_event_ref(event);
	l->config = params->config;
	l->memory = params->memory;
	l->traffic = params->traffic;
	l->probe = params->probe;
	l->callbacks = *callbacks;
	l->userdata = userdata;
	l->limits.max_qos = 2;
	l->prefix_len = strlen(l->config->mqtt.topic_prefix);
	if (!l->memory->settled && l->config->mqtt.version != CONFIG_MQTT_AUTO)
		l->memory->v311 = l->config->mqtt.version == CONFIG_MQTT_311;
	l->noted = note && streq(note, LINK_NOTE_UNCLEAN);
	/* What an earlier process or visit left there is nothing only if it said so. A connection
	 * without a session ends whatever there is by itself. */
	l->must_purge = l->probe ||
		(!l->config->mqtt.clean_session && (!note || !streq(note, LINK_NOTE_CLEAN)));
	r = copy_params(l, params);
	if (r >= 0)
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
	config_brokers_free(l->broker, 1);
	free(l->name);
	free(l->client_id);
	free(l->queue_uuid);
	free(l->topic);
	sd_event_unref(l->event);
	free(l);
	return NULL;
}
