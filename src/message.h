/* SPDX-License-Identifier: MIT */
/*
 * The value that travels: from a line on the local socket, through the queue, to PUBLISH.
 *
 * A struct message borrows its bytes; whoever hands one out says for how long they are valid.
 * Nobody but the value itself lives here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message {
	uint64_t id; /* row id of the queue; 0 = not queued yet */
	const char *topic; /* NUL-terminated */
	const void *payload; /* may be NULL when payload_len is 0 */
	size_t topic_len; /* bytes, without the NUL */
	size_t payload_len; /* bytes */
	int64_t timestamp; /* milliseconds since the epoch, UTC */
	uint8_t qos; /* 0, 1 or 2 */
	bool retain;
	bool own_timestamp; /* given by the sender, not taken from the gateway's clock */
};

/* Bytes that count for windows and batches: topic and payload. */
static inline size_t message_size(const struct message *m)
{
	return m->topic_len + m->payload_len;
}
