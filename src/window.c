/* SPDX-License-Identifier: MIT */
/*
 * The in-flight window: see window.h.
 */
#include "window.h"

#include <assert.h>

void window_init(struct window *w, unsigned max_messages, size_t max_bytes)
{
	*w = (struct window){
		.configured = max_messages ? max_messages : WINDOW_DEFAULT_MESSAGES,
		.max_bytes = max_bytes,
	};
	w->max = w->configured;
}

void window_limit(struct window *w, unsigned receive_maximum)
{
	w->max = receive_maximum && receive_maximum < w->configured ? receive_maximum
								    : w->configured;
}

bool window_admits(const struct window *w, size_t bytes)
{
	if (w->messages == 0)
		return true;
	if (w->messages >= w->max)
		return false;
	return w->bytes <= w->max_bytes && bytes <= w->max_bytes - w->bytes;
}

void window_add(struct window *w, size_t bytes)
{
	w->messages++;
	w->bytes += bytes;
}

void window_remove(struct window *w, size_t bytes)
{
	assert(w->messages > 0 && w->bytes >= bytes);
	w->messages--;
	w->bytes -= bytes;
}
