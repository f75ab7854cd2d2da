/* SPDX-License-Identifier: MIT */
/*
 * libmosquitto joined to sd-event: see mqtt.h.
 *
 * The library closes and replaces its descriptor inside its calls, so watch_descriptor() looks
 * again after every one of them. Library callbacks only record what happened; dispatch() reports
 * it upwards once the library has returned.
 *
 * TCP_USER_TIMEOUT is not set: while a slow peer closes its window now and then, the kernel (seen
 * with 6.18) would end a connection whose bytes move all the time. Whoever uses this watches
 * mqtt_get_progress() instead.
 *
 * Must not know: rows, windows, when to connect.
 */
#include "mqtt.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "log.h"
#include "mqtt_internal.h"
#include "timer.h"

#define SESSION_EXPIRY_NEVER 0xffffffffU
#define TICK_ACCURACY_USEC   (250 * USEC_PER_MSEC)

void mqtt_library_init(void)
{
	mosquitto_lib_init();
}

void mqtt_library_cleanup(void)
{
	mosquitto_lib_cleanup();
}

/* --- callbacks of the library: record only --------------------------------------------------- */

/*
 * The library keeps a Maximum QoS and a Maximum Packet Size for the life of the object, unless a
 * later CONNACK names others; what it would refuse is in force, too. Receive Maximum and Retain
 * Available begin anew (see mqtt_connect()).
 */
static void take_limits(struct mqtt_limits *l, const mosquitto_property *properties)
{
	uint16_t receive_maximum = MQTT_RECEIVE_MAXIMUM_NONE;
	uint8_t retain = 1;

	mosquitto_property_read_int16(
		properties, MQTT_PROP_RECEIVE_MAXIMUM, &receive_maximum, false);
	mosquitto_property_read_byte(properties, MQTT_PROP_RETAIN_AVAILABLE, &retain, false);
	mosquitto_property_read_byte(properties, MQTT_PROP_MAXIMUM_QOS, &l->max_qos, false);
	mosquitto_property_read_int32(
		properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, &l->max_packet, false);
	l->receive_maximum = receive_maximum;
	l->retain_available = retain != 0;
}

static void on_connect(struct mosquitto *mosq, void *userdata, int code, int flags,
	const mosquitto_property *properties)
{
	struct mqtt *m = userdata;
	uint16_t value;

	m->connack_seen = true;
	m->connack_code = code;
	m->broker_keepalive = -1;
	take_limits(&m->limits, properties);
	mqtt_note_reason(m, properties);
	if (mosquitto_property_read_int16(properties, MQTT_PROP_SERVER_KEEP_ALIVE, &value, false))
		m->broker_keepalive = value;
	if (code == 0 && m->callbacks.session && !m->callbacks.session(m->userdata, flags & 1))
		shutdown(mosquitto_socket(mosq), SHUT_RDWR);
	mqtt_intake_callback(m);
}

static void on_disconnect(
	struct mosquitto *mosq, void *userdata, int code, const mosquitto_property *properties)
{
	struct mqtt *m = userdata;
	int error = errno;

	(void)mosq;
	if (m->over)
		return;
	m->over = true;
	m->over_code = code;
	if (properties) /* none after a refusal, nor, with 2.0.11, of the broker's DISCONNECT */
		mqtt_note_reason(m, properties);
	/* With TLS the library makes up an errno. */
	if (code != MOSQ_ERR_ERRNO || m->socket_error != 0 || m->tls)
		return;
	m->socket_error = error;
	/* It takes the end of the connection inside a packet for an error, which it is not. */
	if (error == 0)
		m->over_code = MOSQ_ERR_CONN_LOST;
}

static void on_publish(struct mosquitto *mosq, void *userdata, int mid, int reason,
	const mosquitto_property *properties)
{
	struct mqtt *m = userdata;

	(void)mosq;
	(void)properties;
	/* One of QoS 0 was written, which says nothing of the broker. */
	if (mqtt_mid_is_unanswered(m, (unsigned)mid))
		m->answered = true;
	if (!m->listening) /* the log told of the packet before */
		m->packets++;
	mqtt_mid_answered(m, (unsigned)mid);
	if (m->callbacks.published)
		m->callbacks.published(m->userdata, (uint16_t)mid, (unsigned)reason);
	mqtt_intake_callback(m);
}

/* What the library tells nowhere else. */
static void take_log_line(struct mqtt *m, const char *text)
{
	static const char pingreq[] = "sending PINGREQ", pingresp[] = "received PINGRESP";
	static const char puback[] = "received PUBACK (Mid: ";
	static const char sending[] = "sending ", received[] = "received ";

	if (strnlen(text, m->log_prefix) < m->log_prefix)
		return;
	text += m->log_prefix;
	if (strncmp(text, sending, strlen(sending)) == 0)
		m->sent_usec = now_usec();
	else if (strncmp(text, received, strlen(received)) == 0) {
		m->received_usec = now_usec();
		m->packets++;
	}
	if (streq(text, pingreq)) {
		mqtt_ping_sent(m);
	} else if (streq(text, pingresp)) {
		m->pingresp_seen = true;
		mqtt_ping_answered(m);
	} else if (strncmp(text, puback, strlen(puback)) == 0) {
		m->puback_for_qos2 =
			mqtt_mid_has_qos2(m, (unsigned)strtoul(text + strlen(puback), NULL, 10));
	}
}

static void on_log(struct mosquitto *mosq, void *userdata, int level, const char *text)
{
	struct mqtt *m = userdata;

	if (level == MOSQ_LOG_DEBUG)
		take_log_line(m, text);
	else if (level == MOSQ_LOG_ERR && m->tls)
		mqtt_tls_note(m->tls, mosquitto_ssl_get(mosq), text);
	log_debug("libmosquitto: %s", text);
	mqtt_intake_callback(m);
}

/*
 * The library formats two lines for each message as soon as anybody listens: a fifth of what it
 * costs to send one. So somebody does only while a line may come that matters.
 */
static bool wants_log(const struct mqtt *m)
{
	return !m->up || m->ping_pending || m->n_qos2 > 0 || log_level() >= LOG_DEBUG;
}

void mqtt_listen(struct mqtt *m, bool wanted)
{
	if (wanted == m->listening)
		return;
	mosquitto_log_callback_set(m->mosq, wanted ? on_log : NULL);
	m->listening = wanted;
}

/* --- outcomes -------------------------------------------------------------------------------- */

static void forget_connection(struct mqtt *m)
{
	m->io = sd_event_source_disable_unref(m->io);
	timer_off(m->tick);
	sd_event_source_set_enabled(m->outcome, SD_EVENT_OFF);
	m->fd = -1;
	m->counted = (struct mqtt_traffic){ 0 };
	m->tcp_up = m->up = m->closing = false;
	m->connack_seen = m->pingresp_seen = m->over = m->puback_for_qos2 = false;
	m->ping_pending = false;
	m->socket_error = 0;
	mqtt_intake_begin(m);
}

/*
 * Traffic only puts the PINGREQ off, so nothing is done here for each packet: the timer that goes
 * off finds that out.
 */
static void start_tick(struct mqtt *m)
{
	uint64_t wake = mqtt_ping_wake_usec(m, now_usec());

	if (wake == UINT64_MAX)
		return;
	sd_event_source_set_time(m->tick, wake);
	sd_event_source_set_enabled(m->tick, SD_EVENT_ONESHOT);
}

/*
 * Reports what the library's callbacks recorded. True when something was reported; the object may
 * be gone then.
 */
static bool dispatch(struct mqtt *m)
{
	struct mqtt_failure f = { 0 };
	struct mqtt_limits limits;

	if (m->connack_seen && m->connack_code == 0 && !m->up) {
		m->up = true;
		m->connack_seen = false;
		start_tick(m);
		limits = m->limits;
		if (m->over) /* lost in the same read: one report at a time */
			sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
		m->callbacks.connected(m->userdata, &limits);
		return true;
	}
	if (!m->over && !m->connack_seen)
		return false;
	if (m->closing) {
		forget_connection(m);
		m->callbacks.closed(m->userdata);
		return true;
	}
	if (m->connack_seen)
		mqtt_describe_refusal(m, &f);
	else
		mqtt_describe_end(m, &f);
	mqtt_abort(m);
	m->callbacks.failed(m->userdata, &f);
	return true;
}

/* OpenSSL may hold what it has read already; the descriptor does not tell. */
static bool tls_has_input(const struct mqtt *m)
{
	const SSL *ssl = m->tls && m->io && !m->over ? mosquitto_ssl_get(m->mosq) : NULL;

	return ssl && m->tls->secured && SSL_pending(ssl) > 0;
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata);

static int on_outcome(sd_event_source *s, void *userdata)
{
	struct mqtt *m = userdata;

	if (tls_has_input(m))
		return on_io(s, m->fd, EPOLLIN, m);
	if (dispatch(m))
		return 0;
	if (m->up && m->pingresp_seen) {
		m->pingresp_seen = false;
		start_tick(m);
		if (m->callbacks.alive)
			m->callbacks.alive(m->userdata);
	}
	return 0;
}

void mqtt_record_end(struct mqtt *m, int code, int error)
{
	if (m->over)
		return;
	m->over = true;
	m->over_code = code;
	m->socket_error = error;
}

/* --- the descriptor -------------------------------------------------------------------------- */

static bool in_handshake(const struct mqtt *m)
{
	return m->tls && !m->tls->secured;
}

/* While TLS shakes hands the library does not say what it waits for, or says for ever that it wants
 * to write. */
static bool wants_write(const struct mqtt *m)
{
	const SSL *ssl;

	if (!in_handshake(m))
		return mosquitto_want_write(m->mosq);
	ssl = mosquitto_ssl_get(m->mosq);
	return ssl && SSL_want_write(ssl);
}

void mqtt_watch_descriptor(struct mqtt *m)
{
	int fd = mosquitto_socket(m->mosq);
	uint32_t events;
	int r;

	mqtt_listen(m, wants_log(m));
	/* What closing a connection left there would be taken for an error of the next one. */
	if (m->tls)
		ERR_clear_error();
	if (fd < 0 || m->over) {
		m->io = sd_event_source_disable_unref(m->io);
		m->fd = -1;
		if (m->over)
			sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
		return;
	}
	events = EPOLLIN | EPOLLRDHUP | (!m->tcp_up || wants_write(m) ? EPOLLOUT : 0);
	if (m->io && m->fd == fd) {
		sd_event_source_set_io_events(m->io, events);
		return;
	}
	m->io = sd_event_source_disable_unref(m->io);
	m->fd = fd;
	r = sd_event_add_io(m->event, &m->io, fd, events, on_io, m);
	if (r < 0) {
		mqtt_record_end(m, MOSQ_ERR_ERRNO, -r);
		m->fd = -1;
		sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
		return;
	}
}

static int take_socket_error(const struct mqtt *m)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(m->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return errno;
	return error;
}

/* The first sign of life of the descriptor: false if it is of a failed attempt. */
static bool take_tcp(struct mqtt *m)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);

	m->socket_error = take_socket_error(m);
	/* The library, about to begin with TLS, may have taken the error. */
	if (!m->socket_error && getpeername(m->fd, (struct sockaddr *)&peer, &len) < 0)
		m->socket_error = ECONNREFUSED;
	if (!m->socket_error) {
		m->tcp_up = true;
		return true;
	}
	/* Only a connection that stood can be reset; a refusal is ECONNREFUSED. */
	m->tcp_up = m->socket_error == ECONNRESET || m->socket_error == EPIPE;
	mqtt_record_end(m, MOSQ_ERR_ERRNO, m->socket_error);
	return false;
}

/* Lets the library read and write as far as `events` and TLS allow. */
static int move_bytes(struct mqtt *m, uint32_t events)
{
	bool handshake = in_handshake(m);
	int rc = MOSQ_ERR_SUCCESS;

	/* With TLS the library goes on with the handshake in the call that reads, whatever it waits
	 * for. After that an alert, such as the refusal of our certificate, is to be read before a
	 * write fails for it. */
	if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) || (m->tls && !m->up))
		rc = mqtt_intake(m, events);
	/* It also takes a dead socket in the handshake for one that is not ready yet. */
	if (rc == MOSQ_ERR_SUCCESS && in_handshake(m) && (events & (EPOLLERR | EPOLLHUP)))
		rc = MOSQ_ERR_CONN_LOST;
	if (rc == MOSQ_ERR_SUCCESS && !m->over && !handshake && mosquitto_want_write(m->mosq))
		rc = mosquitto_loop_write(m->mosq, 1);
	if (!mosquitto_want_write(m->mosq))
		m->guard.answers = 0;
	return rc;
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct mqtt *m = userdata;
	uint64_t began;
	int rc;

	(void)s;
	(void)fd;
	if (!m->tcp_up && !take_tcp(m)) {
		dispatch(m);
		return 0;
	}
	if (events & EPOLLERR && !m->socket_error)
		m->socket_error = take_socket_error(m);
	/* Before: the library may find that the connection has ended, and close it. */
	mqtt_count_traffic(m);
	m->answered = false;
	began = now_usec();
	rc = move_bytes(m, events);
	if (m->answered)
		m->received_usec = u64_max(m->received_usec, began);
	if (rc != MOSQ_ERR_SUCCESS)
		mqtt_record_end(m, rc, m->socket_error);
	mqtt_watch_descriptor(m);
	if (m->pingresp_seen || tls_has_input(m))
		sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
	if (!dispatch(m) && m->up && m->callbacks.progress)
		m->callbacks.progress(m->userdata);
	return 0;
}

static int on_tick(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct mqtt *m = userdata;
	int rc;

	(void)s;
	(void)usec;
	mqtt_listen(m, true);
	rc = mqtt_ping_check(m);
	if (rc != MOSQ_ERR_SUCCESS)
		mqtt_record_end(m, rc, 0);
	mqtt_watch_descriptor(m);
	start_tick(m);
	dispatch(m);
	return 0;
}

/* --- the object ------------------------------------------------------------------------------ */

static int setup_sources(struct mqtt *m)
{
	int r;

	r = timer_new(&m->tick, m->event, CLOCK_MONOTONIC, TICK_ACCURACY_USEC, on_tick, m);
	if (r < 0)
		return r;
	r = sd_event_add_defer(m->event, &m->outcome, on_outcome, m);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(m->outcome, SD_EVENT_OFF);
}

static int set_will(struct mqtt *m, const struct mqtt_will *will)
{
	int rc;

	if (!will)
		return 0;
	rc = mosquitto_will_set(m->mosq, will->topic, (int)strlen(will->payload), will->payload,
		will->qos, will->retain);
	return rc == MOSQ_ERR_SUCCESS ? 0 : rc == MOSQ_ERR_NOMEM ? -ENOMEM : -EINVAL;
}

static int setup_library(struct mqtt *m, const struct mqtt_params *params)
{
	m->mosq = mosquitto_new(params->client_id, params->clean_session, m);
	if (!m->mosq)
		return errno == EINVAL ? -EINVAL : -ENOMEM;
	mosquitto_connect_v5_callback_set(m->mosq, on_connect);
	mosquitto_disconnect_v5_callback_set(m->mosq, on_disconnect);
	mosquitto_publish_v5_callback_set(m->mosq, on_publish);
	mqtt_listen(m, true);
	if (mosquitto_int_option(m->mosq, MOSQ_OPT_PROTOCOL_VERSION,
		    params->v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311) ||
		mosquitto_int_option(m->mosq, MOSQ_OPT_SSL_CTX_WITH_DEFAULTS, 0) ||
		mosquitto_int_option(m->mosq, MOSQ_OPT_TCP_NODELAY, 1))
		return -EINVAL;
	if (params->username[0] &&
		mosquitto_username_pw_set(m->mosq, params->username,
			params->password[0] ? params->password : NULL) != MOSQ_ERR_SUCCESS)
		return -ENOMEM;
	return set_will(m, params->will);
}

int mqtt_new(struct mqtt **ret, sd_event *event, const struct mqtt_params *params,
	const struct mqtt_callbacks *callbacks, void *userdata)
{
	struct mqtt *m;
	int r;

	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->event = sd_event_ref(event);
	m->callbacks = *callbacks;
	m->userdata = userdata;
	m->v5 = params->v5;
	m->clean_session = params->clean_session;
	m->keepalive = params->keepalive;
	m->ping_timeout_usec = params->ping_timeout_usec;
	m->traffic = params->traffic;
	m->log_prefix = strlen("Client ") + strlen(params->client_id) + 1;
	m->limits = (struct mqtt_limits){
		.receive_maximum = MQTT_RECEIVE_MAXIMUM_NONE, .max_qos = 2, .retain_available = true
	};
	m->fd = -1;
	r = setup_sources(m);
	if (r >= 0 && params->tls)
		r = mqtt_tls_new(&m->tls, params->tls);
	if (r >= 0)
		r = setup_library(m, params);
	if (r < 0) {
		mqtt_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

struct mqtt *mqtt_free(struct mqtt *m)
{
	if (!m)
		return NULL;
	mqtt_count_traffic(m);
	m->io = sd_event_source_disable_unref(m->io);
	m->tick = sd_event_source_disable_unref(m->tick);
	m->outcome = sd_event_source_disable_unref(m->outcome);
	if (m->mosq)
		mosquitto_destroy(m->mosq);
	if (m->tls)
		ERR_clear_error();
	mqtt_tls_free(m->tls);
	sd_event_unref(m->event);
	free(m);
	return NULL;
}

/*
 * No asynchronous connect of the library takes CONNECT properties. The blocking one, called with a
 * keepalive it must refuse, keeps the properties and connects nowhere; the asynchronous one that
 * follows sends them.
 */
static int keep_connect_properties(struct mqtt *m, const char *address, uint16_t port)
{
	mosquitto_property *properties = NULL;
	int rc;

	if (!m->v5)
		return MOSQ_ERR_SUCCESS;
	rc = mosquitto_property_add_int32(
		&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, MQTT_GUARD_PACKET_MAX);
	if (rc == MOSQ_ERR_SUCCESS && !m->clean_session)
		rc = mosquitto_property_add_int32(
			&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, SESSION_EXPIRY_NEVER);
	if (rc == MOSQ_ERR_SUCCESS) {
		rc = mosquitto_connect_bind_v5(m->mosq, address, port, 1, NULL, properties);
		rc = rc == MOSQ_ERR_INVAL ? MOSQ_ERR_SUCCESS : MOSQ_ERR_UNKNOWN;
	}
	mosquitto_property_free_all(&properties);
	return rc;
}

/* The library forgets the context it had, with its reference. */
static int give_tls_context(struct mqtt *m, const char *host)
{
	SSL_CTX *ctx;
	int rc;

	if (!m->tls)
		return MOSQ_ERR_SUCCESS;
	ctx = mqtt_tls_begin(m->tls, host);
	if (!ctx)
		return MOSQ_ERR_TLS;
	rc = mosquitto_void_option(m->mosq, MOSQ_OPT_SSL_CTX, ctx);
	if (rc == MOSQ_ERR_SUCCESS) {
		SSL_CTX_free(m->ssl_ctx);
		m->ssl_ctx = ctx;
	}
	SSL_CTX_free(ctx); /* the library has a reference of its own now */
	return rc;
}

void mqtt_connect(
	struct mqtt *m, const char *host, const char *address, uint16_t port, uint16_t keepalive)
{
	int error, rc;

	forget_connection(m);
	mqtt_listen(m, true);
	m->keepalive = keepalive;
	m->sent_usec = m->received_usec = now_usec();
	rc = give_tls_context(m, host);
	/* Our own window bounds what is in flight; the library must not queue behind it, or behind
	 * the Receive Maximum of an earlier connection. */
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_int_option(
			m->mosq, MOSQ_OPT_SEND_MAXIMUM, MQTT_RECEIVE_MAXIMUM_NONE);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = keep_connect_properties(m, address, port);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_connect_async(m->mosq, address, port, keepalive);
	error = errno;
	if (m->tls)
		mqtt_tls_go_on(m->tls);
	if (rc != MOSQ_ERR_SUCCESS)
		mqtt_record_end(m, rc, rc == MOSQ_ERR_ERRNO ? error : 0);
	mqtt_watch_descriptor(m);
}

void mqtt_abort(struct mqtt *m)
{
	int fd = mosquitto_socket(m->mosq);

	mqtt_count_traffic(m);
	forget_connection(m);
	/* The library offers no way to close; it closes this one when it connects again or ends. */
	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

void mqtt_disconnect(struct mqtt *m, bool with_will)
{
	int rc;

	m->closing = true;
	mqtt_count_traffic(m);
	rc = mosquitto_disconnect_v5(
		m->mosq, with_will && m->v5 ? MQTT_RC_DISCONNECT_WITH_WILL_MSG : 0, NULL);
	if (rc != MOSQ_ERR_SUCCESS)
		mqtt_record_end(m, rc, 0);
	mqtt_watch_descriptor(m);
}

bool mqtt_is_up(const struct mqtt *m)
{
	return m && m->up && !m->over && !m->closing;
}
