/* SPDX-License-Identifier: MIT */
/*
 * What the small programs of bench/run have in common: reading options, latencies, the payload that
 * carries a number and a time, JSON on standard output. Knows no room of the daemon.
 */
#pragma once

#include "util.h"

#include <stdio.h>

/* A payload opens with this many bytes, "NNNNNNNNTTTTTTTTTTTT" in hexadecimal: the message's
 * number, from 0, and when it was sent, microseconds of CLOCK_MONOTONIC. */
#define BENCH_STAMP 20

/* Ends the program with status 1 and a line on standard error. `r` is 0 or -errno. */
__attribute__((noreturn)) void bench_die(const char *what, int r);

/* An option's number, 1 to `most`; ends the program with status 2 when it is none. */
uint64_t bench_number(const char *text, uint64_t most);

/* Writes BENCH_STAMP characters, and no NUL behind them. */
void bench_stamp(char *p, uint32_t number, uint64_t usec);

/* False when there is no stamp at `p`. */
bool bench_read_stamp(const char *p, size_t len, uint32_t *ret_number, uint64_t *ret_usec);

/* Times of up to `max` events, in microseconds. */
struct bench_times {
	uint32_t *usec;
	size_t n, max;
};

void bench_times_init(struct bench_times *t, size_t max);
void bench_times_add(struct bench_times *t, uint64_t usec);
void bench_times_free(struct bench_times *t);

/* Prints `"NAME": {"p50": ..., "max": ...}`; sorts the times. */
void bench_times_print(struct bench_times *t, const char *name);

/* Bytes that this process sent to the disk, as the kernel counts them. */
uint64_t bench_written(void);

/* Lets this process open as many descriptors as it is allowed to, and wakes it in time. */
void bench_prepare(void);

/* Waits until `usec` of CLOCK_MONOTONIC at the most, for ever with UINT64_MAX. */
struct epoll_event;
int bench_epoll_wait(int fd, struct epoll_event *events, int max, uint64_t until_usec);
