/* SPDX-License-Identifier: MIT */
/*
 * Log lines: to the journal with structured fields when systemd started us (standard error is
 * connected to the journal), else as text to standard error. Callable from any thread.
 *
 * Owns the one global of the program, the log level.
 */
#pragma once

#include <syslog.h>

#include "util.h"

/* One structured field; a list of them ends with { NULL, NULL }. Journal names: upper case. */
struct log_field {
	const char *name;
	const char *value;
};

/* Looks whether standard error is the journal. Call once, before other threads start. */
void log_open(void);
/* The same for mqttgw-report, whose lines in the journal carry its own name. */
void log_open_report(void);

/* Lines of a priority above `priority` (LOG_ERR ... LOG_DEBUG) are dropped from now on. */
void log_set_level(int priority);
int log_level(void);

/* "error", "warning", "notice", "info", "debug" <-> LOG_*; -EINVAL for another word. */
int log_level_from_string(const char *s) _must_check_;
const char *log_level_to_string(int priority);

/*
 * Writes one line. `fields` may be NULL. Never fails visibly: there is nobody to tell. errno is
 * kept.
 */
void log_write(int priority, const struct log_field *fields, const char *format, ...)
	_printf_(3, 4);

#define log_error(...)	 log_write(LOG_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, NULL, __VA_ARGS__)
#define log_notice(...)	 log_write(LOG_NOTICE, NULL, __VA_ARGS__)
#define log_info(...)	 log_write(LOG_INFO, NULL, __VA_ARGS__)
#define log_debug(...)                                           \
	do {                                                     \
		if (log_level() >= LOG_DEBUG)                    \
			log_write(LOG_DEBUG, NULL, __VA_ARGS__); \
	} while (0)
