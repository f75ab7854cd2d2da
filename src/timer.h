/* SPDX-License-Identifier: MIT */
/*
 * A timer of the loop that is off until it is set, goes off once and can be set again. For the
 * thread that runs the loop.
 */
#pragma once

#include <systemd/sd-event.h>

#include "util.h"

/*
 * `clock`: CLOCK_MONOTONIC, or CLOCK_BOOTTIME, by which a wait is over after a suspend when it
 * would have been. `accuracy_usec`: how much later it may come, to come along with others; 0 =
 * sd-event's default, a quarter of a second. 0 or -errno.
 */
int timer_new(sd_event_source **ret, sd_event *event, clockid_t clock, uint64_t accuracy_usec,
	sd_event_time_handler_t handler, void *userdata) _must_check_;

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

/* Uniform in [0, 1), from the kernel: the source of backoff's jitter. Gateways of one image must
 * not draw the same waits. Any thread. */
double timer_random(void *userdata);
