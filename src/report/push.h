/* SPDX-License-Identifier: MIT */
/*
 * The figures: asked of the gateway every so often, and put to a Pushgateway.
 */
#pragma once

#include <systemd/sd-event.h>

#include "http.h"

struct push;

/* `url` as configured; `gateway` is the instance's label. `changed` is called when figures for the
 * status line did. Starts at once. */
int push_new(struct push **ret, sd_event *event, struct http *http, const char *path,
	const char *url, const char *gateway, uint64_t interval_usec,
	void (*changed)(void *userdata), void *userdata) _must_check_;
/* A request under way is given up. Takes NULL, returns NULL. */
struct push *push_free(struct push *p);

bool push_is_busy(const struct push *p); /* a request is under way; NULL: none is */
uint64_t push_done(const struct push *p); /* how many were taken */
bool push_is_failing(const struct push *p);
