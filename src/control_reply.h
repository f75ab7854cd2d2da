/* SPDX-License-Identifier: MIT */
/*
 * Values -> the lines that the operator's socket answers with. Pure. Part of the room `control`.
 */
#pragma once

#include <jansson.h>

#include "alerts.h"
#include "buffer.h"
#include "control.h"
#include "control_request.h"
#include "message.h"

/* A message that no broker takes has these two as well. */
struct control_death {
	const char *reason;
	int64_t died_at; /* milliseconds since the epoch */
};

/* Appends a line; takes `line` over, and NULL for one there was no memory for. 0 or -ENOMEM. */
int control_put(struct buffer *out, json_t *line) _must_check_;
int control_put_ok(struct buffer *out) _must_check_;
int control_put_error(struct buffer *out, enum control_error error, const char *text) _must_check_;
/* A text that may quote a client's or a broker's bytes, cut anywhere. NULL: no memory. */
json_t *control_readable(const char *text);
/* "2026-01-02T03:04:05.678Z" */
void control_time(int64_t msec, char out[32]);

/* The answer to `status`; "status" stands first. NULL: no memory. control_status.c */
json_t *control_status(const struct figures *f, const struct control_facts *facts);

/* control_row.c; `death` NULL for messages of the queue. NULL: no memory. */
/* A row of a list: the beginning of the payload. */
json_t *control_row_short(const struct message *m, const struct control_death *death);
/* One message, whole. */
json_t *control_row_whole(const struct message *m, const struct control_death *death);
/* A row of an export: what the local socket takes. */
json_t *control_row_line(const struct message *m);
