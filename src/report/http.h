/* SPDX-License-Identifier: MIT */
/*
 * Requests by HTTP and HTTPS on the loop. The only user of libcurl.
 *
 * The proxy comes from the environment ($http_proxy, $https_proxy, $all_proxy, $no_proxy), as does
 * what is trusted instead of the system's certificates ($SSL_CERT_FILE, $SSL_CERT_DIR). Redirects
 * are not followed; what the answer holds is dropped.
 */
#pragma once

#include <systemd/sd-event.h>

#include "util.h"

struct http;
struct http_request;

struct http_result {
	long status; /* 0: there was none, `error` tells why */
	const char *error;
	uint64_t retry_after_usec; /* what the other side asks for; 0 = nothing */
};

/* The request is over and freed. May send the next one. */
typedef void (*http_done_fn)(void *userdata, const struct http_result *result);

int http_new(struct http **ret, sd_event *event) _must_check_;
/* Takes NULL, returns NULL. No request is left. */
struct http *http_free(struct http *h);

/* `body` is copied. -ENOMEM, or -EINVAL for a URL that libcurl does not take. done() is never
 * called from within. */
int http_send(struct http *h, const char *method, const char *url, const char *content_type,
	const void *body, size_t len, http_done_fn done, void *userdata,
	struct http_request **ret) _must_check_;
/* Ends it without done(). Takes NULL, returns NULL. */
struct http_request *http_cancel(struct http_request *r);
