/* SPDX-License-Identifier: MIT */
/*
 * The program's loop: what is running, reload, stop.
 */
#pragma once

#include "config.h"

/* Of the timers of all its parts. They are CLOCK_BOOTTIME's. */
#define REPORT_ACCURACY_USEC (50 * USEC_PER_MSEC)

/* Takes the configuration, which was read from `path`, over. Returns after a stop in order: 0, or
 * -errno when it could not be started. */
int report_run(struct config *config, const char *path) _must_check_;
