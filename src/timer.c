/* SPDX-License-Identifier: MIT */
/*
 * See timer.h.
 */
#include "timer.h"

#include <sys/random.h>

int timer_new(sd_event_source **ret, sd_event *event, clockid_t clock, uint64_t accuracy_usec,
	sd_event_time_handler_t handler, void *userdata)
{
	sd_event_source *s = NULL;
	int r;

	r = sd_event_add_time(event, &s, clock, UINT64_MAX, accuracy_usec, handler, userdata);
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

double timer_random(void *userdata)
{
	uint64_t bits = 0;

	(void)userdata;
	if (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		bits = now_usec() * UINT64_C(0x9e3779b97f4a7c15);
	return (double)(bits >> 11) * 0x1p-53;
}
