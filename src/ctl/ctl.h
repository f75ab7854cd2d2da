/* SPDX-License-Identifier: MIT */
/*
 * mqttgwctl, the operator's tool: what its commands share. All of src/ctl/ is the room `ctl`.
 *
 * A command is a line of the table in main.c and a function in a file named after it.
 */
#pragma once

#include <stdint.h>

/* Exit statuses. */
enum {
	CTL_OK = 0,
	CTL_FAILED = 1, /* also: something was found */
	CTL_USAGE = 2,
};

/* What the options before the command say. */
struct ctl {
	const char *config_path;
};

/*
 * Prints "mqttgwctl: ..." to standard error, and for `error` -EACCES whom to run it as. Returns
 * CTL_FAILED.
 */
int ctl_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* 1234567 -> "1,234,567". Returns `out`. */
#define CTL_NUMBER_SIZE 27
char *ctl_number(char out[static CTL_NUMBER_SIZE], uint64_t n);

/* The commands: `argv` is what follows the command's name. Each returns the exit status. */
int ctl_queue_check(const struct ctl *ctl, int argc, char **argv);
