/* SPDX-License-Identifier: MIT */
/*
 * The clock: see clock.h. Sets nothing, remembers nothing.
 */
#include "clock.h"

#include <sys/timex.h>

#define TIMESYNC_PATH "/run/systemd/timesync/synchronized"

/* What is less is the two clocks' readings not being of quite the same moment. */
#define JUMP_MSEC 1000

/* Longer between two readings than this: the thread was not running in between. */
#define MOMENT_USEC  (1 * USEC_PER_MSEC)
#define MOMENT_TRIES 5

static void read_clocks(struct clock_reading *ret)
{
	uint64_t before, after;

	for (unsigned i = 0; i < MOMENT_TRIES; i++) {
		before = now_boot_usec();
		ret->real_msec = now_epoch_msec();
		after = now_boot_usec();
		ret->boot_msec = (int64_t)(after / USEC_PER_MSEC);
		if (after - before <= MOMENT_USEC)
			break;
	}
}

static bool is_synchronised(void)
{
	struct timex t = { .modes = 0 }; /* reads only */
	int state = adjtimex(&t);

	return state >= 0 && state != TIME_ERROR && !(t.status & STA_UNSYNC);
}

void clock_read(struct clock_reading *ret)
{
	bool before = is_synchronised();

	read_clocks(ret);
	/* Nobody has set the clock, right or wrong, while it was read. */
	ret->synchronised = before && is_synchronised();
	ret->was_synchronised = ret->synchronised || access(TIMESYNC_PATH, F_OK) == 0;
}

bool clock_update(struct clock *c, const struct clock_reading *r)
{
	bool right = r->synchronised || (r->was_synchronised && !c->trusted);
	int64_t offset = r->real_msec - r->boot_msec;
	bool changed;

	if (c->trusted && !right)
		return false;
	changed = c->trusted != right || offset - c->offset_msec >= JUMP_MSEC ||
		c->offset_msec - offset >= JUMP_MSEC;
	c->trusted = right;
	c->offset_msec = offset;
	return changed;
}

int64_t clock_time_msec(const struct clock *c, const struct clock_reading *r)
{
	return r->boot_msec + c->offset_msec;
}

uint32_t clock_seconds_left(
	const struct clock *c, int64_t boot_msec, int64_t timestamp, uint64_t max_age_usec)
{
	int64_t max_age = (int64_t)(max_age_usec / USEC_PER_MSEC), age, left;

	if (max_age_usec == 0 || !c->trusted)
		return 0;
	/* A sender may give any timestamp. */
	if (__builtin_sub_overflow(boot_msec + c->offset_msec, timestamp, &age) ||
		__builtin_sub_overflow(max_age, age, &left))
		return timestamp > 0 ? UINT32_MAX : 1;
	if (left <= 1000)
		return 1;
	return left > (int64_t)UINT32_MAX * 1000 ? UINT32_MAX : (uint32_t)((left + 999) / 1000);
}
