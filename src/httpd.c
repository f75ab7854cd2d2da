/* SPDX-License-Identifier: MIT */
/*
 * Owns the listening socket, the connections' time and what is answered; libmicrohttpd reads the
 * requests and writes the answers. It would accept by itself, too, but busy-waits once descriptors
 * have run out, and knows no bound on a connection's whole time, only on its pauses.
 *
 * Invariants: never blocks; at most CONNECTIONS_MAX connections of CONNECTION_MEMORY bytes and one
 * answer each, and none older than CONNECTION_USEC; no timer runs while there is no connection and
 * the socket listens.
 *
 * Must not know what the bodies say.
 */
#include "config-build.h"

#include "httpd.h"

#include <errno.h>

#include "log.h"

#ifdef HAVE_HTTPD

#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "httpd_listen.h"
#include "timer.h"

#define CONNECTIONS_MAX	  16
#define CONNECTION_MEMORY ((size_t)8192)
/* From being accepted to the last byte of the answer. One request each. */
#define CONNECTION_USEC (10 * USEC_PER_SEC)
/* Connections accepted before others of the loop have their turn. */
#define ACCEPTS_A_TURN 4
/* An address that cannot be listened on is tried again after so long, doubled each time. */
#define RETRY_MIN_USEC (1 * USEC_PER_SEC)
#define RETRY_MAX_USEC (30 * USEC_PER_SEC)
/* No descriptor for a connection: the next one is looked at after so long. */
#define PAUSE_USEC (1 * USEC_PER_SEC)
/* What the library complains of is logged so often at most. */
#define SAY_USEC (60 * USEC_PER_SEC)

struct connection {
	int fd; /* the library's; -1 = this place is free */
	bool answered; /* its request is complete */
	uint64_t end_usec; /* CLOCK_MONOTONIC; UINT64_MAX: was cut off, and ends by itself */
};

struct httpd {
	sd_event *event;
	struct httpd_callbacks callbacks;
	void *userdata;
	char *address;
	int fd; /* listens; -1 = not now */
	struct MHD_Daemon *mhd;
	sd_event_source *listening; /* on while there is room */
	sd_event_source *epoll;
	sd_event_source *timer; /* the library's, and the connections' ends */
	sd_event_source *retry; /* of listening, or of accepting */
	uint64_t retry_usec; /* the next wait */
	int failed; /* -errno of the last try to listen, as logged; 0 = none */
	bool pausing;
	struct connection connections[CONNECTIONS_MAX];
	unsigned n_connections;
	uint64_t say_usec; /* when the library's next complaint may be logged */
	unsigned unsaid;
};

/* --- answers --------------------------------------------------------------------------------- */

static int make_metrics(struct httpd *h, struct buffer *out, unsigned *ret_status)
{
	*ret_status = MHD_HTTP_OK;
	return h->callbacks.metrics(h->userdata, out);
}

static int make_health(struct httpd *h, struct buffer *out, unsigned *ret_status)
{
	int r = h->callbacks.health(h->userdata, out);

	*ret_status = r == 0 ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
	return r < 0 ? r : 0;
}

static const struct page {
	const char *url;
	const char *type;
	int (*make)(struct httpd *h, struct buffer *out, unsigned *ret_status);
} pages[] = {
	{ "/metrics", "text/plain; version=0.0.4; charset=utf-8", make_metrics },
	{ "/healthz", "application/json", make_health },
};

static const struct page *find_page(const char *url)
{
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (streq(pages[i].url, url))
			return &pages[i];
	}
	return NULL;
}

/* The body of an answer, its type and status. 0 or -ENOMEM. */
static int make_answer(struct httpd *h, const struct page *page, bool reading, struct buffer *out,
	unsigned *ret_status)
{
	if (!page) {
		*ret_status = MHD_HTTP_NOT_FOUND;
		return buffer_printf(out, "not found; there are /metrics and /healthz\n");
	}
	if (!reading) {
		*ret_status = MHD_HTTP_METHOD_NOT_ALLOWED;
		return buffer_printf(out, "only GET and HEAD\n");
	}
	return page->make(h, out, ret_status);
}

static bool add_headers(struct MHD_Response *response, const char *type, unsigned status)
{
	return MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES &&
		MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store") ==
		MHD_YES &&
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES &&
		(status != MHD_HTTP_METHOD_NOT_ALLOWED ||
			MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD") ==
				MHD_YES);
}

static void mark_answered(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct connection *c = info ? info->socket_context : NULL;

	if (c)
		c->answered = true;
}

/*
 * The library's AccessHandlerCallback. Answers as soon as the header is there: a body that comes
 * with it is of no interest. MHD_NO closes the connection.
 */
static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection,
	const char *url, const char *method, const char *version, const char *data, size_t *size,
	void **request)
{
	const bool reading =
		streq(method, MHD_HTTP_METHOD_GET) || streq(method, MHD_HTTP_METHOD_HEAD);
	const struct page *page = find_page(url);
	struct MHD_Response *response;
	enum MHD_Result result = MHD_NO;
	struct buffer body = { 0 };
	struct httpd *h = userdata;
	unsigned status;

	mark_answered(connection);
	(void)version;
	(void)data;
	(void)size;
	(void)request;
	if (make_answer(h, page, reading, &body, &status) < 0) {
		buffer_clear(&body);
		return MHD_NO;
	}
	/* The library frees what it is given, when the last byte is out. */
	response = MHD_create_response_from_buffer(
		buffer_len(&body), body.data, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		buffer_clear(&body);
		return MHD_NO;
	}
	if (add_headers(
		    response, page && reading ? page->type : "text/plain; charset=utf-8", status))
		result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

/* --- what the library tells ------------------------------------------------------------------ */

static void on_connection(void *userdata, struct MHD_Connection *connection, void **place,
	enum MHD_ConnectionNotificationCode code)
{
	const union MHD_ConnectionInfo *info;
	struct connection *c = *place;
	struct httpd *h = userdata;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (c) {
			c->fd = -1;
			h->n_connections--;
		}
		return;
	}
	info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	for (size_t i = 0; info && i < ARRAY_SIZE(h->connections); i++) {
		c = &h->connections[i];
		if (c->fd >= 0)
			continue;
		*c = (struct connection){
			.fd = info->connect_fd,
			.end_usec = now_usec() + CONNECTION_USEC,
		};
		h->n_connections++;
		*place = c;
		return;
	}
}

static void _printf_(2, 0) on_log(void *userdata, const char *format, va_list ap)
{
	struct httpd *h = userdata;
	const uint64_t now = now_usec();
	char text[300];
	size_t n;

	if (now < h->say_usec) {
		h->unsaid++;
		return;
	}
	if (vsnprintf(text, sizeof(text), format, ap) < 0)
		return;
	n = strlen(text);
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = '\0';
	if (h->unsaid > 0)
		log_info("metrics on %s: %s (and %u more since the last such line)", h->address,
			text, h->unsaid);
	else
		log_info("metrics on %s: %s", h->address, text);
	h->unsaid = 0;
	h->say_usec = now + SAY_USEC;
}

/* --- the loop -------------------------------------------------------------------------------- */

static void set_timer(sd_event_source *timer, uint64_t usec)
{
	if (usec == UINT64_MAX) {
		sd_event_source_set_enabled(timer, SD_EVENT_OFF);
		return;
	}
	sd_event_source_set_time(timer, usec);
	sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
}

/* The library sees an end of the connection, and closes it. */
static void cut_off(struct connection *c)
{
	(void)shutdown(c->fd, SHUT_RDWR);
	c->end_usec = UINT64_MAX;
}

static void cut_off_overdue(struct httpd *h, uint64_t now)
{
	for (size_t i = 0; i < ARRAY_SIZE(h->connections); i++) {
		struct connection *c = &h->connections[i];

		if (c->fd >= 0 && c->end_usec <= now)
			cut_off(c);
	}
}

/* The library misses an end that came together with the last bytes: it takes a short read for all
 * there is until epoll tells of more, which has told already. */
static void cut_off_ended(struct httpd *h)
{
	char byte;

	for (size_t i = 0; i < ARRAY_SIZE(h->connections); i++) {
		struct connection *c = &h->connections[i];

		if (c->fd >= 0 && !c->answered && c->end_usec != UINT64_MAX &&
			recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
			cut_off(c);
	}
}

static void arm(struct httpd *h, uint64_t now)
{
	uint64_t due = UINT64_MAX;
	MHD_UNSIGNED_LONG_LONG msec;

	if (MHD_get_timeout(h->mhd, &msec) == MHD_YES)
		due = now + msec * USEC_PER_MSEC;
	for (size_t i = 0; i < ARRAY_SIZE(h->connections); i++) {
		if (h->connections[i].fd >= 0)
			due = u64_min(due, h->connections[i].end_usec);
	}
	set_timer(h->timer, due);
	sd_event_source_set_enabled(h->listening,
		h->n_connections < CONNECTIONS_MAX && !h->pausing ? SD_EVENT_ON : SD_EVENT_OFF);
}

/* A round of the library, and when the next one is due. */
static void run(struct httpd *h)
{
	cut_off_overdue(h, now_usec());
	(void)MHD_run(h->mhd);
	cut_off_ended(h);
	arm(h, now_usec());
}

static int on_epoll(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	(void)s;
	(void)fd;
	(void)events;
	run(userdata);
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	run(userdata);
	return 0;
}

/* 0, -EAGAIN when nobody waits, -EMFILE when there is no room in the process or the system; what
 * befell a single connection before it was accepted is none of our concern. */
static int accept_one(struct httpd *h)
{
	struct sockaddr_storage address = { 0 };
	socklen_t len = sizeof(address);
	int fd;

	fd = accept4(h->fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return errno == EAGAIN ? -EAGAIN
			: errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM
			? -EMFILE
			: 0;
	/* Closes it when that fails. */
	(void)MHD_add_connection(h->mhd, fd, (struct sockaddr *)&address, len);
	return 0;
}

static int on_listening(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct httpd *h = userdata;
	int r = 0;

	(void)s;
	(void)fd;
	(void)events;
	for (unsigned i = 0; i < ACCEPTS_A_TURN && r == 0 && h->n_connections < CONNECTIONS_MAX;
		i++)
		r = accept_one(h);
	if (r == -EMFILE) {
		log_debug("metrics on %s: no descriptor for a connection", h->address);
		h->pausing = true;
		set_timer(h->retry, now_usec() + PAUSE_USEC);
	}
	run(h);
	return 0;
}

/* --- listening ------------------------------------------------------------------------------- */

static void stop_listening(struct httpd *h)
{
	h->timer = sd_event_source_disable_unref(h->timer);
	h->epoll = sd_event_source_disable_unref(h->epoll);
	h->listening = sd_event_source_disable_unref(h->listening);
	if (h->mhd)
		MHD_stop_daemon(h->mhd);
	h->mhd = NULL;
	closep(&h->fd);
	h->fd = -1;
}

/* The library has no errno to tell; what it lacks are memory or descriptors. */
static int start_library(struct httpd *h, int *ret_epoll)
{
	const union MHD_DaemonInfo *info;

	errno = 0;
	h->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0,
		NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, h,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)CONNECTIONS_MAX, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
		MHD_OPTION_END);
	if (!h->mhd)
		return errno > 0 ? -errno : -ENOMEM;
	info = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		return -EOPNOTSUPP;
	*ret_epoll = info->epoll_fd;
	return 0;
}

/* 0 or -errno; stop_listening() tidies up after a failure. */
static int start_listening(struct httpd *h)
{
	int r, epoll = -1;

	r = httpd_listen(h->address, &h->fd);
	if (r >= 0)
		r = start_library(h, &epoll);
	if (r >= 0)
		r = sd_event_add_io(h->event, &h->epoll, epoll, EPOLLIN, on_epoll, h);
	if (r >= 0)
		r = sd_event_add_io(h->event, &h->listening, h->fd, EPOLLIN, on_listening, h);
	/* To the microsecond: what is due at once must not wait for company. */
	if (r >= 0)
		r = timer_new(&h->timer, h->event, CLOCK_MONOTONIC, 1, on_timer, h);
	return r;
}

static const char *what_to_do(int error)
{
	switch (error) {
	case -EADDRINUSE: return "; end the other program, or change metrics.listen";
	case -EADDRNOTAVAIL:
		return "; no interface has this address: bring it up, or change metrics.listen";
	case -EACCES: return "; choose a port above 1023 in metrics.listen";
	default: return "";
	}
}

/* Now, or later: a failure is logged when it is a new one. */
static void listen_or_retry(struct httpd *h)
{
	int r = start_listening(h);

	if (r >= 0) {
		if (h->failed < 0)
			log_notice("metrics on http://%s/metrics now", h->address);
		else
			log_debug("metrics on http://%s/metrics", h->address);
		h->failed = 0;
		h->retry_usec = RETRY_MIN_USEC;
		return;
	}
	stop_listening(h);
	if (r != h->failed)
		log_error("cannot serve metrics on %s: %s%s; messages are accepted nevertheless, "
			  "and this is tried again",
			h->address, strerrordesc_np(-r), what_to_do(r));
	h->failed = r;
	set_timer(h->retry, now_usec() + h->retry_usec);
	h->retry_usec = u64_min(2 * h->retry_usec, RETRY_MAX_USEC);
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct httpd *h = userdata;

	(void)s;
	(void)usec;
	if (h->fd < 0) {
		listen_or_retry(h);
		return 0;
	}
	h->pausing = false;
	arm(h, now_usec());
	return 0;
}

/* --- begin and end --------------------------------------------------------------------------- */

static int setup(struct httpd *h, const char *listen)
{
	h->address = strdup(listen);
	if (!h->address)
		return -ENOMEM;
	return timer_new(&h->retry, h->event, CLOCK_MONOTONIC, 100 * USEC_PER_MSEC, on_retry, h);
}

int httpd_new(struct httpd **ret, sd_event *event, const char *listen,
	const struct httpd_callbacks *callbacks, void *userdata)
{
	struct httpd *h;
	int r = -ENOMEM;

	h = calloc(1, sizeof(*h));
	if (h) {
		h->event = sd_event_ref(event);
		h->callbacks = *callbacks;
		h->userdata = userdata;
		h->fd = -1;
		h->retry_usec = RETRY_MIN_USEC;
		for (size_t i = 0; i < ARRAY_SIZE(h->connections); i++)
			h->connections[i].fd = -1;
		r = setup(h, listen);
	}
	if (r < 0) {
		log_error("cannot serve metrics on %s: %s", listen, strerrordesc_np(-r));
		httpd_free(h);
		return r;
	}
	listen_or_retry(h);
	if (h->failed == -EINVAL) {
		httpd_free(h);
		return -EINVAL;
	}
	*ret = h;
	return 0;
}

struct httpd *httpd_free(struct httpd *h)
{
	if (!h)
		return NULL;
	stop_listening(h);
	sd_event_source_disable_unref(h->retry);
	sd_event_unref(h->event);
	free(h->address);
	free(h);
	return NULL;
}

#else /* HAVE_HTTPD */

int httpd_new(struct httpd **ret, sd_event *event, const char *listen,
	const struct httpd_callbacks *callbacks, void *userdata)
{
	(void)ret;
	(void)event;
	(void)callbacks;
	(void)userdata;
	log_warning(
		"metrics.listen = \"%s\": this build has no HTTP, nothing is served there", listen);
	return -EOPNOTSUPP;
}

struct httpd *httpd_free(struct httpd *h)
{
	(void)h;
	return NULL;
}

#endif
