/* SPDX-License-Identifier: MIT */
/*
 * A growable array of bytes that is filled at its end and emptied at its front.
 *
 * A zeroed struct is an empty buffer. `data + begin .. data + end` are the bytes it holds.
 */
#pragma once

#include "util.h"

struct buffer {
	char *data;
	size_t begin;
	size_t end;
	size_t allocated;
};

static inline size_t buffer_len(const struct buffer *b)
{
	return b->end - b->begin;
}

/* NULL before the first byte: sanitizers object to NULL + 0. */
static inline char *buffer_head(const struct buffer *b)
{
	return b->data ? b->data + b->begin : NULL;
}

/* Makes room for `n` more bytes at the end, moving what is there to the front if that helps.
 * 0 or -ENOMEM. */
int buffer_reserve(struct buffer *b, size_t n) _must_check_;
/* 0 or -ENOMEM; on failure the buffer is as it was. */
int buffer_append(struct buffer *b, const void *data, size_t n) _must_check_;
int buffer_printf(struct buffer *b, const char *format, ...) _must_check_ _printf_(2, 3);
/* Drops `n` bytes (at most all) at the front. */
void buffer_consume(struct buffer *b, size_t n);
/* Frees the memory; the buffer is empty and usable again. */
void buffer_clear(struct buffer *b);
