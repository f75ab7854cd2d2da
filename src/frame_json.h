/* SPDX-License-Identifier: MIT */
/*
 * The local socket's JSON Lines protocol: one line -> one message, and the replies. Pure: no I/O,
 * no clock but the one passed in.
 *
 * A line is read here and not by a library, so that a payload that is not a string travels as the
 * very bytes that stood in the line, and because parsing into a tree would cost more than all the
 * rest of accepting. jansson says what is wrong with a line that is refused.
 */
#pragma once

#include "buffer.h"
#include "message.h"
#include "util.h"

/* The error words of the protocol. */
enum frame_error {
	FRAME_OK = 0,
	FRAME_BAD_JSON,
	FRAME_BAD_TOPIC,
	FRAME_BAD_PAYLOAD,
	FRAME_BAD_QOS,
	FRAME_BAD_FIELD,
	FRAME_TOO_LARGE,
	FRAME_NOT_ALLOWED,
	FRAME_QUEUE_FULL,
	FRAME_STORAGE,
	FRAME_TOO_MANY_CLIENTS,
	FRAME_STOPPING,
	N_FRAME_ERRORS,
};

/* "bad-json", ... as on the wire; static text. */
const char *frame_error_to_string(enum frame_error error);

struct frame_json;

struct frame {
	struct message message;
	/* The id's text as it stands in the line (quotes included), or NULL: no reply asked for.
	 * Points into the line. */
	const char *id;
	size_t id_len;
	/* What is wrong, when frame_json_parse() found something; else NULL. ASCII, short. */
	const char *error_text;
};

/* 0 or -ENOMEM. */
int frame_json_new(struct frame_json **ret) _must_check_;
/* Takes NULL, returns NULL. */
struct frame_json *frame_json_free(struct frame_json *f);

/* True for a line of white space alone, which is passed over without an answer. */
bool frame_json_is_blank(const char *line, size_t len);

/*
 * Reads one line (without its line end; a trailing '\r' is taken as part of it). `default_qos` and
 * `now_msec` (milliseconds since the epoch) stand in for absent members.
 *
 * Fills *ret in either case: with an error, `id` is set if the line holds a valid one. What *ret
 * points to is valid until the next call with the same `f` and as long as `line` is. Out of memory
 * is FRAME_STORAGE.
 */
enum frame_error frame_json_parse(struct frame_json *f, const char *line, size_t len,
	uint8_t default_qos, int64_t now_msec, struct frame *ret);

/*
 * Append one reply line. `id` is JSON text or NULL (written as null); `text` is the explanation,
 * escaped as needed, what is not ASCII shown as '?'; NULL: the error's word. 0 or -ENOMEM.
 */
int frame_json_reply_queued(
	struct buffer *out, const char *id, size_t id_len, uint64_t seq) _must_check_;
int frame_json_reply_error(struct buffer *out, const char *id, size_t id_len,
	enum frame_error error, const char *text) _must_check_;
