/* SPDX-License-Identifier: MIT */
/*
 * The eye on the gateway: reads its stream of alerts and sees whether it is there and answers.
 */
#pragma once

#include <systemd/sd-event.h>

#include "outbox.h"

struct watch;

/* Alerts go to `outbox`. `interval_usec`: how often the figures are reported. Starts at once. */
int watch_new(struct watch **ret, sd_event *event, struct outbox *outbox, const char *path,
	uint64_t interval_usec) _must_check_;
/* Takes NULL, returns NULL. */
struct watch *watch_free(struct watch *w);
