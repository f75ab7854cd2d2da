/* SPDX-License-Identifier: MIT */
/*
 * A line of the operator's socket -> a request. Pure. Part of the room `control`.
 */
#pragma once

#include "util.h"

enum control_command {
	CONTROL_STATUS,
	CONTROL_METRICS,
	CONTROL_RECONNECT,
	CONTROL_EVENTS,
	CONTROL_QUEUE_LIST,
	CONTROL_QUEUE_SHOW,
	CONTROL_QUEUE_EXPORT,
	CONTROL_QUEUE_PURGE,
	CONTROL_DEAD_LIST,
	CONTROL_DEAD_SHOW,
	CONTROL_DEAD_EXPORT,
	CONTROL_DEAD_REQUEUE,
	CONTROL_DEAD_PURGE,
	N_CONTROL_COMMANDS,
};

/* The error words of the protocol. */
enum control_error {
	CONTROL_OK,
	CONTROL_BAD_JSON,
	CONTROL_BAD_COMMAND,
	CONTROL_BAD_FIELD,
	CONTROL_NOT_FOUND,
	CONTROL_BUSY,
	CONTROL_STORAGE,
	CONTROL_STOPPING,
	CONTROL_FAILED,
	CONTROL_TOO_MANY_CLIENTS,
};

#define CONTROL_NONE	 UINT64_MAX /* a number that was not given */
#define CONTROL_TEXT_MAX 200

struct control_request {
	enum control_command command;
	char *topic; /* owned: a topic filter; NULL = all */
	uint64_t limit, after, seq, since;
};

/* "queue-list", ... and "bad-json", ... as on the wire; static text. */
const char *control_command_to_string(enum control_command command);
const char *control_error_to_string(enum control_error error);

/*
 * Reads one line, without its line end. CONTROL_OK: *ret is a request, to be freed with
 * control_request_clear(). Else `text` says what is wrong and what would be right; *ret is
 * untouched.
 */
enum control_error control_request_parse(
	const char *line, size_t len, struct control_request *ret, char text[CONTROL_TEXT_MAX]);
void control_request_clear(struct control_request *r);
