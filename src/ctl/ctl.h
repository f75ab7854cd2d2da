/* SPDX-License-Identifier: MIT */
/*
 * mqttgwctl, the operator's tool: what its commands share. All of src/ctl/ is the room `ctl`.
 *
 * A command is a line of the table in main.c and a function ctl_COMMAND().
 */
#pragma once

#include <getopt.h>
#include <jansson.h>
#include <stdint.h>

#include "client.h"
#include "util.h"

/* Exit statuses. */
enum {
	CTL_OK = 0,
	CTL_FAILED = 1, /* also: something was found */
	CTL_USAGE = 2,
	CTL_UNREACHABLE = 3, /* the gateway does not run, or hangs */
};

/* What the options before the command say, and which command it is. */
struct ctl {
	const char *config_path; /* NULL: the default one, which need not be readable */
	const char *control_path; /* --socket; NULL: the configuration's */
	const struct ctl_command *command;
};

struct ctl_command {
	const char *words[2]; /* the second one may be NULL */
	const char *arguments; /* for its usage line */
	const char *help; /* one line */
	const char *details; /* a line for each option, and what else is to be known */
	int (*run)(const struct ctl *ctl, int argc, char **argv);
};

/* --- main.c --- */

/*
 * Prints "mqttgwctl: ..." to standard error, and for `error` -EACCES whom to run it as. Returns
 * CTL_FAILED.
 */
int ctl_fail(int error, const char *format, ...) _printf_(2, 3);
/* Says what is wrong with the command line, and how the command is used. Returns CTL_USAGE. */
int ctl_usage(const struct ctl *ctl, const char *format, ...) _printf_(2, 3);
/*
 * getopt_long(), with -h and --help added: 'h' was answered, '?' was told; both end the command
 * with ctl_option_status(). `options` has room for both behind its last entry:
 * CTL_HELP_OPTION, then { 0 }.
 */
#define CTL_HELP_OPTION                        \
	{                                      \
		"help", no_argument, NULL, 'h' \
	}
int ctl_option(const struct ctl *ctl, int argc, char **argv, const char *letters,
	const struct option *options);
int ctl_option_status(int option);

/* --- places.c: where the gateway is --- */

/* 0, or the exit status after it was told. *ret_path is to be freed. */
int ctl_control_path(const struct ctl *ctl, char **ret_path) _must_check_;
int ctl_local_path(const struct ctl *ctl, char **ret_path) _must_check_;

/* One line that says why the gateway cannot be reached there: `error` is a client's. */
void ctl_unreachable_text(int error, const char *path, char *out, size_t size);
/* Tells that; returns the exit status. */
int ctl_unreachable(int error, const char *path);
/* Tells an "error" reply, behind `what` ("line 17: "). Returns CTL_FAILED. */
int ctl_refused(const char *what, const json_t *reply);

/* A connection to the control socket, its path beside it. Zeroes before, ctl_link_done() after. */
struct ctl_link {
	char *path;
	struct client *client;
};

int ctl_link_open(struct ctl_link *link, const struct ctl *ctl) _must_check_;
void ctl_link_done(struct ctl_link *link);

/*
 * Sends a request, which it takes over, and gives the next reply: 0 with *ret, whose status is not
 * "error"; else the exit status after it was told. `request` NULL: only the next reply.
 */
int ctl_ask(struct ctl_link *link, json_t *request, json_t **ret) _must_check_;
static inline void json_freep(json_t **j)
{
	json_decref(*j);
}

/* --- the commands: argv[0] is the command's name. Each returns the exit status. --- */

int ctl_status(const struct ctl *ctl, int argc, char **argv);
int ctl_watch(const struct ctl *ctl, int argc, char **argv);
int ctl_pub(const struct ctl *ctl, int argc, char **argv);
int ctl_flush(const struct ctl *ctl, int argc, char **argv);
int ctl_reconnect(const struct ctl *ctl, int argc, char **argv);
int ctl_check(const struct ctl *ctl, int argc, char **argv);
/* Of the queue, or of the dead letters, as the command's first word says. */
int ctl_list(const struct ctl *ctl, int argc, char **argv);
int ctl_show(const struct ctl *ctl, int argc, char **argv);
int ctl_export(const struct ctl *ctl, int argc, char **argv);
int ctl_purge(const struct ctl *ctl, int argc, char **argv);
int ctl_requeue(const struct ctl *ctl, int argc, char **argv);
