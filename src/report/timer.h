/* SPDX-License-Identifier: MIT */
/*
 * A timer of the loop that is off until it is set, goes off once and can be set again. Waits are
 * measured in CLOCK_BOOTTIME: after a suspend they are over when they would have been.
 */
#pragma once

#include <systemd/sd-event.h>

#include "util.h"

#define TIMER_ACCURACY (50 * USEC_PER_MSEC)

static inline int timer_new(
	sd_event_source **ret, sd_event *event, sd_event_time_handler_t handler, void *userdata)
{
	sd_event_source *s = NULL;
	int r;

	r = sd_event_add_time(
		event, &s, CLOCK_BOOTTIME, UINT64_MAX, TIMER_ACCURACY, handler, userdata);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(s, SD_EVENT_OFF);
	if (r < 0) {
		sd_event_source_unref(s);
		return r;
	}
	*ret = s;
	return 0;
}

/* Goes off in `usec`. Fails for nothing but a bug. */
static inline void timer_set(sd_event_source *s, uint64_t usec)
{
	(void)sd_event_source_set_time_relative(s, usec);
	(void)sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static inline void timer_off(sd_event_source *s)
{
	(void)sd_event_source_set_enabled(s, SD_EVENT_OFF);
}

static inline bool timer_is_set(sd_event_source *s)
{
	return sd_event_source_get_enabled(s, NULL) > 0;
}

/* Uniform in [0, 1): the source of backoff's jitter. */
double timer_random(void *userdata);
