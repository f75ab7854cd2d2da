/* SPDX-License-Identifier: MIT */
/*
 * A handful of macros and inline functions that every room may use. Knows no room.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_PER_MSEC UINT64_C(1000)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define _cleanup_(f)   __attribute__((cleanup(f)))
#define _must_check_   __attribute__((warn_unused_result))
#define _printf_(f, a) __attribute__((format(printf, f, a)))

/* Frees *p; for `_cleanup_(freep)` on a pointer of any type. */
static inline void freep(void *p)
{
	/* -fanalyzer: does not follow every output; -Wmaybe-uninitialized and valgrind do. */
	free(*(void **)p);
}

/* Closes *fd if it is open; for `_cleanup_(closep)`. */
static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline size_t size_min(size_t a, size_t b)
{
	return a < b ? a : b;
}

static inline uint64_t u64_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t u64_max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline bool streq(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

/* Microseconds of CLOCK_MONOTONIC: for intervals and timers. */
static inline uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* Microseconds of CLOCK_BOOTTIME, which goes on through a suspend: for waits between attempts. */
static inline uint64_t now_boot_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* Milliseconds since the epoch, UTC: for a message's timestamp. */
static inline int64_t now_epoch_msec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
