/* SPDX-License-Identifier: MIT */
/*
 * How much may be in flight: messages and bytes. Pure.
 */
#pragma once

#include "util.h"

/* libmosquitto walks what is in flight for each message and each acknowledgement: a larger window
 * costs more than it brings on short round trips. */
#define WINDOW_DEFAULT_MESSAGES 100

struct window {
	unsigned configured; /* messages, never 0 */
	unsigned max; /* the same, or less when the broker takes less */
	size_t max_bytes;
	unsigned messages; /* in flight */
	size_t bytes; /* in flight */
};

/* `max_messages` 0: WINDOW_DEFAULT_MESSAGES. */
void window_init(struct window *w, unsigned max_messages, size_t max_bytes);
/* The broker's Receive Maximum (MQTT 5, 3.2.2.3.3), for the connection that begins. */
void window_limit(struct window *w, unsigned receive_maximum);
/* Whether a message of `bytes` may go out now. One message always may, however large. */
bool window_admits(const struct window *w, size_t bytes);
void window_add(struct window *w, size_t bytes);
void window_remove(struct window *w, size_t bytes);
