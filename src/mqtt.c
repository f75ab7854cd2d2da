/* SPDX-License-Identifier: MIT */
/*
 * libmosquitto joined to sd-event: see mqtt.h.
 *
 * The library closes and replaces its descriptor inside its calls, so watch_descriptor() looks
 * again after every one of them. Library callbacks only record what happened; dispatch() reports
 * it upwards once the library has returned.
 *
 * Must not know: rows, windows, when to connect.
 */
#include "mqtt.h"

#include <errno.h>
#include <limits.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "log.h"

#define SESSION_EXPIRY_NEVER 0xffffffffU
#define RECEIVE_MAXIMUM_NONE 65535
#define TICK_MIN_USEC	     (1 * USEC_PER_SEC)
#define TICK_MAX_USEC	     (10 * USEC_PER_SEC)
#define TICK_ACCURACY_USEC   (250 * USEC_PER_MSEC)

struct mqtt {
	sd_event *event;
	struct mqtt_callbacks callbacks;
	void *userdata;
	struct mosquitto *mosq;
	bool v5;
	bool clean_session;
	uint16_t keepalive;

	sd_event_source *io;
	sd_event_source *tick; /* keepalive */
	sd_event_source *outcome; /* reports what happened outside the loop's own calls */
	int fd; /* the one `io` watches, or -1 */
	int socket_error; /* what SO_ERROR said last */
	bool tcp_up;
	bool up;
	bool closing; /* DISCONNECT was asked for */

	/* Recorded by the library's callbacks, taken by dispatch(). */
	bool connack_seen;
	int connack_code;
	unsigned receive_maximum;
	int broker_keepalive; /* seconds, -1 = as configured */
	bool over;
	int over_code;
};

void mqtt_library_init(void)
{
	mosquitto_lib_init();
}

void mqtt_library_cleanup(void)
{
	mosquitto_lib_cleanup();
}

/* --- callbacks of the library: record only --------------------------------------------------- */

static void on_connect(struct mosquitto *mosq, void *userdata, int code, int flags,
	const mosquitto_property *properties)
{
	struct mqtt *m = userdata;
	uint16_t value;

	m->connack_seen = true;
	m->connack_code = code;
	m->receive_maximum = RECEIVE_MAXIMUM_NONE;
	m->broker_keepalive = -1;
	if (mosquitto_property_read_int16(properties, MQTT_PROP_RECEIVE_MAXIMUM, &value, false))
		m->receive_maximum = value;
	if (mosquitto_property_read_int16(properties, MQTT_PROP_SERVER_KEEP_ALIVE, &value, false))
		m->broker_keepalive = value;
	if (code == 0 && m->callbacks.session && !m->callbacks.session(m->userdata, flags & 1))
		shutdown(mosquitto_socket(mosq), SHUT_RDWR);
}

static void on_disconnect(
	struct mosquitto *mosq, void *userdata, int code, const mosquitto_property *properties)
{
	struct mqtt *m = userdata;

	(void)mosq;
	(void)properties;
	if (m->over)
		return;
	m->over = true;
	m->over_code = code;
	if (code == MOSQ_ERR_ERRNO && m->socket_error == 0)
		m->socket_error = errno;
}

static void on_publish(struct mosquitto *mosq, void *userdata, int mid, int reason,
	const mosquitto_property *properties)
{
	struct mqtt *m = userdata;

	(void)mosq;
	(void)properties;
	if (m->callbacks.published)
		m->callbacks.published(m->userdata, (uint16_t)mid, (unsigned)reason);
}

static void on_log(struct mosquitto *mosq, void *userdata, int level, const char *text)
{
	(void)mosq;
	(void)userdata;
	(void)level;
	log_debug("libmosquitto: %s", text);
}

/* --- outcomes -------------------------------------------------------------------------------- */

static void forget_connection(struct mqtt *m)
{
	m->io = sd_event_source_disable_unref(m->io);
	sd_event_source_set_enabled(m->tick, SD_EVENT_OFF);
	sd_event_source_set_enabled(m->outcome, SD_EVENT_OFF);
	m->fd = -1;
	m->tcp_up = m->up = m->closing = false;
	m->connack_seen = m->over = false;
	m->socket_error = 0;
}

static enum failure_class class_of_library_code(int code, bool up)
{
	switch (code) {
	case MOSQ_ERR_PROTOCOL:
	case MOSQ_ERR_MALFORMED_PACKET:
	case MOSQ_ERR_MALFORMED_UTF8:
	case MOSQ_ERR_OVERSIZE_PACKET: return FAILURE_PROTOCOL;
	default: return up ? FAILURE_HEARTBEAT : FAILURE_TIMEOUT;
	}
}

/* The connection ended by itself: says why, as well as the library lets us know. */
static void describe_end(const struct mqtt *m, struct mqtt_failure *f)
{
	f->phase = m->up ? MQTT_PHASE_UP : m->tcp_up ? MQTT_PHASE_CONNACK : MQTT_PHASE_TCP;

	if (m->up && m->over_code >= 0x80)
		failure_set(&f->failure, failure_of_disconnect((unsigned)m->over_code),
			"broker sent DISCONNECT 0x%02x: %s", (unsigned)m->over_code,
			mosquitto_reason_string(m->over_code));
	else if (m->up && m->over_code == MOSQ_ERR_SUCCESS)
		failure_set(&f->failure, FAILURE_HEARTBEAT, "broker ended the connection");
	else if (m->over_code == MOSQ_ERR_KEEPALIVE)
		failure_set(&f->failure, FAILURE_HEARTBEAT, "no PINGRESP within the keepalive");
	else if (m->socket_error)
		failure_set(&f->failure, m->up ? FAILURE_HEARTBEAT : FAILURE_TIMEOUT, "%s",
			strerrordesc_np(m->socket_error));
	else if (!m->up && m->over_code == MOSQ_ERR_CONN_LOST)
		failure_set(&f->failure, FAILURE_TIMEOUT, "broker hung up before its CONNACK");
	else if (m->over_code == MOSQ_ERR_CONN_LOST)
		failure_set(&f->failure, FAILURE_HEARTBEAT, "connection closed by the broker");
	else
		failure_set(&f->failure, class_of_library_code(m->over_code, m->up), "%s",
			mosquitto_strerror(m->over_code));
	f->try_other_version = f->phase == MQTT_PHASE_CONNACK;
}

static void describe_refusal(const struct mqtt *m, struct mqtt_failure *f)
{
	bool v5_code = m->v5 && m->connack_code >= 0x80;

	f->phase = MQTT_PHASE_CONNACK;
	failure_set(&f->failure, failure_of_connack(m->v5, (unsigned)m->connack_code),
		"broker refused the connection with CONNACK 0x%02x: %s", (unsigned)m->connack_code,
		v5_code ? mosquitto_reason_string(m->connack_code)
			: mosquitto_connack_string(m->connack_code));
	f->try_other_version = m->v5 ? m->connack_code == MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION ||
			m->connack_code == CONNACK_REFUSED_PROTOCOL_VERSION
				     : m->connack_code == CONNACK_REFUSED_PROTOCOL_VERSION;
}

static void start_tick(struct mqtt *m)
{
	uint64_t keepalive =
		m->broker_keepalive >= 0 ? (uint64_t)m->broker_keepalive : m->keepalive;
	uint64_t interval = keepalive * USEC_PER_SEC / 4;

	if (keepalive == 0)
		return;
	if (interval < TICK_MIN_USEC)
		interval = TICK_MIN_USEC;
	interval = u64_min(interval, TICK_MAX_USEC);
	sd_event_source_set_time_relative(m->tick, interval);
	sd_event_source_set_enabled(m->tick, SD_EVENT_ONESHOT);
}

/*
 * Reports what the library's callbacks recorded. True when something was reported; the object may
 * be gone then.
 */
static bool dispatch(struct mqtt *m)
{
	struct mqtt_failure f = { 0 };

	if (m->connack_seen && m->connack_code == 0 && !m->up) {
		m->up = true;
		m->connack_seen = false;
		start_tick(m);
		if (m->over) /* lost in the same read: one report at a time */
			sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
		m->callbacks.connected(m->userdata, m->receive_maximum);
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
		describe_refusal(m, &f);
	else
		describe_end(m, &f);
	mqtt_abort(m);
	m->callbacks.failed(m->userdata, &f);
	return true;
}

static int on_outcome(sd_event_source *s, void *userdata)
{
	(void)s;
	dispatch(userdata);
	return 0;
}

static void record_end(struct mqtt *m, int code, int error)
{
	if (m->over)
		return;
	m->over = true;
	m->over_code = code;
	m->socket_error = error;
}

/* --- the descriptor -------------------------------------------------------------------------- */

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata);

static void set_socket_options(const struct mqtt *m)
{
	unsigned timeout_msec = m->keepalive * 1000U;

	/* Without it a dead link is noticed after the kernel's quarter of an hour of
	 * retransmission, if something is on its way. */
	if (timeout_msec &&
		setsockopt(m->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_msec,
			sizeof(timeout_msec)) < 0)
		log_debug("TCP_USER_TIMEOUT: %s", strerrordesc_np(errno));
}

/* Call after every call into the library that may write, read, open or close. */
static void watch_descriptor(struct mqtt *m)
{
	int fd = mosquitto_socket(m->mosq);
	uint32_t events;
	int r;

	if (fd < 0 || m->over) {
		m->io = sd_event_source_disable_unref(m->io);
		m->fd = -1;
		if (m->over)
			sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
		return;
	}
	events = EPOLLIN | (!m->tcp_up || mosquitto_want_write(m->mosq) ? EPOLLOUT : 0);
	if (m->io && m->fd == fd) {
		sd_event_source_set_io_events(m->io, events);
		return;
	}
	m->io = sd_event_source_disable_unref(m->io);
	m->fd = fd;
	r = sd_event_add_io(m->event, &m->io, fd, events, on_io, m);
	if (r < 0) {
		record_end(m, MOSQ_ERR_ERRNO, -r);
		m->fd = -1;
		sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
		return;
	}
	set_socket_options(m);
}

static int take_socket_error(const struct mqtt *m)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(m->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return errno;
	return error;
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct mqtt *m = userdata;
	int rc = MOSQ_ERR_SUCCESS;

	(void)s;
	(void)fd;
	if ((events & EPOLLERR) || !m->tcp_up)
		m->socket_error = take_socket_error(m);
	if (!m->tcp_up) {
		if (m->socket_error) {
			/* Only a connection that stood can be reset; a refusal is ECONNREFUSED. */
			m->tcp_up = m->socket_error == ECONNRESET || m->socket_error == EPIPE;
			record_end(m, MOSQ_ERR_ERRNO, m->socket_error);
			dispatch(m);
			return 0;
		}
		m->tcp_up = true;
	}
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		rc = mosquitto_loop_read(m->mosq, 1);
	if (rc == MOSQ_ERR_SUCCESS && !m->over && mosquitto_want_write(m->mosq))
		rc = mosquitto_loop_write(m->mosq, 1);
	if (rc != MOSQ_ERR_SUCCESS)
		record_end(m, rc, m->socket_error);
	watch_descriptor(m);
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
	rc = mosquitto_loop_misc(m->mosq);
	if (rc != MOSQ_ERR_SUCCESS)
		record_end(m, rc, 0);
	watch_descriptor(m);
	start_tick(m);
	dispatch(m);
	return 0;
}

/* --- the object ------------------------------------------------------------------------------ */

static int setup_sources(struct mqtt *m)
{
	int r;

	r = sd_event_add_time(
		m->event, &m->tick, CLOCK_MONOTONIC, UINT64_MAX, TICK_ACCURACY_USEC, on_tick, m);
	if (r < 0)
		return r;
	sd_event_source_set_enabled(m->tick, SD_EVENT_OFF);
	r = sd_event_add_defer(m->event, &m->outcome, on_outcome, m);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(m->outcome, SD_EVENT_OFF);
}

static int setup_library(struct mqtt *m, const struct mqtt_params *params)
{
	m->mosq = mosquitto_new(params->client_id, params->clean_session, m);
	if (!m->mosq)
		return errno == EINVAL ? -EINVAL : -ENOMEM;
	mosquitto_connect_v5_callback_set(m->mosq, on_connect);
	mosquitto_disconnect_v5_callback_set(m->mosq, on_disconnect);
	mosquitto_publish_v5_callback_set(m->mosq, on_publish);
	mosquitto_log_callback_set(m->mosq, on_log);
	if (mosquitto_int_option(m->mosq, MOSQ_OPT_PROTOCOL_VERSION,
		    params->v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311) ||
		/* Our own window bounds what is in flight; the library must not queue behind it. */
		mosquitto_int_option(m->mosq, MOSQ_OPT_SEND_MAXIMUM, RECEIVE_MAXIMUM_NONE) ||
		mosquitto_int_option(m->mosq, MOSQ_OPT_TCP_NODELAY, 1))
		return -EINVAL;
	if (params->username[0] &&
		mosquitto_username_pw_set(m->mosq, params->username,
			params->password[0] ? params->password : NULL) != MOSQ_ERR_SUCCESS)
		return -ENOMEM;
	return 0;
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
	m->fd = -1;
	r = setup_sources(m);
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
	m->io = sd_event_source_disable_unref(m->io);
	m->tick = sd_event_source_disable_unref(m->tick);
	m->outcome = sd_event_source_disable_unref(m->outcome);
	if (m->mosq)
		mosquitto_destroy(m->mosq);
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

	if (!m->v5 || m->clean_session)
		return MOSQ_ERR_SUCCESS;
	rc = mosquitto_property_add_int32(
		&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, SESSION_EXPIRY_NEVER);
	if (rc != MOSQ_ERR_SUCCESS)
		return rc;
	rc = mosquitto_connect_bind_v5(m->mosq, address, port, 1, NULL, properties);
	mosquitto_property_free_all(&properties);
	return rc == MOSQ_ERR_INVAL ? MOSQ_ERR_SUCCESS : MOSQ_ERR_UNKNOWN;
}

void mqtt_connect(struct mqtt *m, const char *address, uint16_t port)
{
	int rc;

	forget_connection(m);
	rc = keep_connect_properties(m, address, port);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_connect_async(m->mosq, address, port, m->keepalive);
	if (rc != MOSQ_ERR_SUCCESS)
		record_end(m, rc, rc == MOSQ_ERR_ERRNO ? errno : 0);
	watch_descriptor(m);
	if (m->over)
		sd_event_source_set_enabled(m->outcome, SD_EVENT_ONESHOT);
}

void mqtt_abort(struct mqtt *m)
{
	int fd = mosquitto_socket(m->mosq);

	forget_connection(m);
	/* The library offers no way to close; it closes this one when it connects again or ends. */
	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

void mqtt_disconnect(struct mqtt *m)
{
	int rc;

	m->closing = true;
	rc = mosquitto_disconnect(m->mosq);
	if (rc != MOSQ_ERR_SUCCESS)
		record_end(m, rc, 0);
	watch_descriptor(m);
}

bool mqtt_is_up(const struct mqtt *m)
{
	return m && m->up && !m->over && !m->closing;
}

static int publish_refused(int rc, const char **ret_text)
{
	*ret_text = mosquitto_strerror(rc);
	switch (rc) {
	case MOSQ_ERR_NOMEM: return -ENOMEM;
	case MOSQ_ERR_OVERSIZE_PACKET:
	case MOSQ_ERR_PAYLOAD_SIZE: return -EMSGSIZE;
	case MOSQ_ERR_QOS_NOT_SUPPORTED: return -EOPNOTSUPP;
	default: return -EINVAL;
	}
}

int mqtt_publish(struct mqtt *m, const struct message *message, int *ret_mid, const char **ret_text)
{
	int rc;

	if (message->payload_len > INT_MAX)
		return publish_refused(MOSQ_ERR_PAYLOAD_SIZE, ret_text);
	rc = mosquitto_publish_v5(m->mosq, ret_mid, message->topic, (int)message->payload_len,
		message->payload, message->qos, message->retain, NULL);
	watch_descriptor(m);
	switch (rc) {
	case MOSQ_ERR_SUCCESS: return 0;
	/* Queued by then; the library has it whatever becomes of this connection. */
	case MOSQ_ERR_NO_CONN:
	case MOSQ_ERR_CONN_LOST:
	case MOSQ_ERR_ERRNO: return 1;
	default: return publish_refused(rc, ret_text);
	}
}
