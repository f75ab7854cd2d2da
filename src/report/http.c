/* SPDX-License-Identifier: MIT */
/*
 * Owns libcurl's multi handle and how it is joined to the loop: libcurl says which descriptors and
 * which timer it wants, the loop tells it what became of them.
 *
 * Invariants: libcurl is called from the loop alone, never from within a callback of its own;
 * done() is called once for a request that was not cancelled. Must not know what is sent.
 */
#include "http.h"

#include <curl/curl.h>
#include <errno.h>
#include <sys/epoll.h>

#include "config-build.h"
#include "report.h"
#include "timer.h"

#define CONNECT_TIMEOUT_MSEC 10000L
#define TIMEOUT_MSEC	     20000L
#define MAX_ANSWER	     (64 * 1024) /* bytes of an answer that are waited for */

struct http {
	sd_event *event;
	CURLM *multi;
	sd_event_source *timer;
};

struct http_request {
	struct http *http;
	CURL *easy;
	struct curl_slist *headers;
	http_done_fn done;
	void *userdata;
	size_t received;
	char error[CURL_ERROR_SIZE];
};

/* --- what libcurl waits for ------------------------------------------------------------------- */

/* A request has an answer as soon as there is a status: what comes after it changes nothing. */
static void finish(struct http_request *r, CURLcode code)
{
	http_done_fn done = r->done;
	void *userdata = r->userdata;
	char error[CURL_ERROR_SIZE + 64];
	struct http_result result = { .error = error };
	curl_off_t after = 0;

	snprintf(error, sizeof(error), "%s",
		*r->error		   ? r->error
			: code == CURLE_OK ? "no answer"
					   : curl_easy_strerror(code));
	curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &result.status);
	curl_easy_getinfo(r->easy, CURLINFO_RETRY_AFTER, &after);
	if (result.status < 200)
		result.status = 0;
	if (after > 0)
		result.retry_after_usec = u64_min((uint64_t)after, 86400) * USEC_PER_SEC;
	http_cancel(r);
	done(userdata, &result);
}

static void take_finished(struct http *h)
{
	struct http_request *r;
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(h->multi, &left))) {
		if (message->msg != CURLMSG_DONE)
			continue;
		r = NULL;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&r);
		if (r)
			finish(r, message->data.result);
	}
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct http *h = userdata;
	int action = 0, running;

	(void)s;
	if (events & EPOLLIN)
		action |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		action |= CURL_CSELECT_OUT;
	if (events & (EPOLLERR | EPOLLHUP))
		action |= CURL_CSELECT_ERR;
	curl_multi_socket_action(h->multi, fd, action, &running);
	take_finished(h);
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct http *h = userdata;
	int running;

	(void)s;
	(void)usec;
	curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	take_finished(h);
	return 0;
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *userdata, void *socket)
{
	uint32_t events =
		(what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
	sd_event_source *s = socket;
	struct http *h = userdata;

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		curl_multi_assign(h->multi, fd, NULL);
		sd_event_source_disable_unref(s);
		return 0;
	}
	if (s)
		return sd_event_source_set_io_events(s, events) < 0 ? -1 : 0;
	if (sd_event_add_io(h->event, &s, fd, events, on_io, h) < 0)
		return -1;
	curl_multi_assign(h->multi, fd, s);
	return 0;
}

static int on_curl_timer(CURLM *multi, long msec, void *userdata)
{
	struct http *h = userdata;

	(void)multi;
	if (msec < 0)
		timer_off(h->timer);
	else
		timer_set(h->timer, (uint64_t)msec * USEC_PER_MSEC);
	return 0;
}

/* --- one request ------------------------------------------------------------------------------ */

/* Returning less than there is ends the transfer. */
static size_t on_body(char *data, size_t size, size_t n, void *userdata)
{
	struct http_request *r = userdata;

	(void)data;
	r->received += size * n;
	return r->received > MAX_ANSWER ? 0 : size * n;
}

static int add_header(struct http_request *r, const char *name, const char *value)
{
	struct curl_slist *list;
	char line[128];

	snprintf(line, sizeof(line), "%s:%s%s", name, *value ? " " : "", value);
	list = curl_slist_append(r->headers, line);
	if (!list)
		return -ENOMEM;
	r->headers = list;
	return 0;
}

/* libcurl's command reads these, libcurl itself does not. */
static bool set_trust(CURL *easy)
{
	const char *file = getenv("SSL_CERT_FILE"), *folder = getenv("SSL_CERT_DIR");
	bool good = true;

	if (file && *file)
		good &= curl_easy_setopt(easy, CURLOPT_CAINFO, file) == CURLE_OK;
	if (folder && *folder)
		good &= curl_easy_setopt(easy, CURLOPT_CAPATH, folder) == CURLE_OK;
	return good;
}

#define SET(option, value) (curl_easy_setopt(r->easy, option, value) == CURLE_OK)

static bool set_options(
	struct http_request *r, const char *method, const char *url, const void *body, size_t len)
{
	return SET(CURLOPT_PROTOCOLS_STR, "http,https") && SET(CURLOPT_URL, url) &&
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len) &&
		SET(CURLOPT_COPYPOSTFIELDS, body) && SET(CURLOPT_CUSTOMREQUEST, method) &&
		SET(CURLOPT_HTTPHEADER, r->headers) && SET(CURLOPT_FOLLOWLOCATION, 0L) &&
		SET(CURLOPT_PATH_AS_IS, 1L) && SET(CURLOPT_NOSIGNAL, 1L) &&
		SET(CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MSEC) &&
		SET(CURLOPT_TIMEOUT_MS, TIMEOUT_MSEC) && SET(CURLOPT_ERRORBUFFER, r->error) &&
		SET(CURLOPT_USERAGENT, "mqttgw-report/" PACKAGE_VERSION) &&
		SET(CURLOPT_WRITEFUNCTION, on_body) && SET(CURLOPT_WRITEDATA, r) &&
		SET(CURLOPT_PRIVATE, r) && set_trust(r->easy);
}

static struct http_request *request_new(struct http *h, http_done_fn done, void *userdata)
{
	struct http_request *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	*r = (struct http_request){ .http = h, .done = done, .userdata = userdata };
	r->easy = curl_easy_init();
	return r;
}

int http_send(struct http *h, const char *method, const char *url, const char *content_type,
	const void *body, size_t len, http_done_fn done, void *userdata, struct http_request **ret)
{
	struct http_request *r = request_new(h, done, userdata);
	bool good = r && r->easy;

	if (!good || add_header(r, "Content-Type", content_type) < 0 ||
		/* Nobody is asked beforehand. */
		add_header(r, "Expect", "") < 0) {
		http_cancel(r);
		return -ENOMEM;
	}
	if (!set_options(r, method, url, body, len) ||
		curl_multi_add_handle(h->multi, r->easy) != CURLM_OK) {
		http_cancel(r);
		return -EINVAL;
	}
	*ret = r;
	return 0;
}

struct http_request *http_cancel(struct http_request *r)
{
	if (!r)
		return NULL;
	if (r->easy) {
		curl_multi_remove_handle(r->http->multi, r->easy);
		curl_easy_cleanup(r->easy);
	}
	curl_slist_free_all(r->headers);
	free(r);
	return NULL;
}

/* --- the whole -------------------------------------------------------------------------------- */

int http_new(struct http **ret, sd_event *event)
{
	struct http *h;
	int r;

	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return -ENOMEM;
	h = calloc(1, sizeof(*h));
	if (!h) {
		curl_global_cleanup();
		return -ENOMEM;
	}
	h->event = sd_event_ref(event);
	h->multi = curl_multi_init();
	r = h->multi
		? timer_new(&h->timer, event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC, on_timer, h)
		: -ENOMEM;
	if (r < 0) {
		http_free(h);
		return r;
	}
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	*ret = h;
	return 0;
}

struct http *http_free(struct http *h)
{
	if (!h)
		return NULL;
	/* Closes idle connections, and has their sources removed. */
	curl_multi_cleanup(h->multi);
	sd_event_source_disable_unref(h->timer);
	sd_event_unref(h->event);
	free(h);
	curl_global_cleanup();
	return NULL;
}
