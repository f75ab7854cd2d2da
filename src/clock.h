/* SPDX-License-Identifier: MIT */
/*
 * Whether the time of day can be trusted, and what it is. Pure but for clock_read().
 *
 * A device may start in 1970, and somebody may set its clock wrong at any time. The rule:
 *
 * - While the kernel says that its clock is synchronised, CLOCK_REALTIME is right, and its distance
 *   from CLOCK_BOOTTIME is taken anew with each reading. Setting the clock makes the kernel say no,
 *   until whoever synchronises it has done so again.
 * - While it says no, a clock that was trusted before in this boot is counted on with
 * CLOCK_BOOTTIME and the distance last taken, whatever CLOCK_REALTIME says. So a clock set wrong by
 * hand changes nothing, nor does a network that is gone for long, after which the kernel says no,
 * too.
 * - Some kernels are not asked (the call is refused in a sandbox) or always say no (hardware clocks
 *   in local time). Then the file that systemd-timesyncd leaves at its first synchronisation stands
 *   in, but only for the first trust in a boot: it says that the clock was right once, not that it
 *   is now. Whoever sets the clock wrong between that and the first look is believed.
 * - Trust ends with the boot. It is for the queue to remember it across processes.
 */
#pragma once

#include "util.h"

/* All of one moment. */
struct clock_reading {
	int64_t real_msec; /* CLOCK_REALTIME, since the epoch */
	int64_t boot_msec; /* CLOCK_BOOTTIME */
	bool synchronised; /* the kernel's clock is, now */
	bool was_synchronised; /* it was in this boot, as far as is known */
};

struct clock {
	bool trusted;
	/* Time of day less CLOCK_BOOTTIME: as last known to be right, or until then as it is. */
	int64_t offset_msec;
};

/* Any thread. */
void clock_read(struct clock_reading *ret);
/* Takes a reading in. True when `trusted` changed, or `offset_msec` by a second or more. */
bool clock_update(struct clock *c, const struct clock_reading *r);
/*
 * For how many more seconds something of `timestamp` (milliseconds since the epoch) is younger than
 * `max_age_usec`, at `boot_msec` of CLOCK_BOOTTIME: rounded up, at least 1. 0: there is no such
 * bound (`max_age_usec` is 0), or the clock is not trusted.
 */
uint32_t clock_seconds_left(
	const struct clock *c, int64_t boot_msec, int64_t timestamp, uint64_t max_age_usec);
/* The time of day, milliseconds since the epoch: for timestamps in any case, for ages only while
 * trusted. */
int64_t clock_time_msec(const struct clock *c, const struct clock_reading *r);
