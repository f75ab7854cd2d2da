/* SPDX-License-Identifier: MIT */
/*
 * Owns the memory behind struct buffer.
 *
 * Invariants: begin <= end <= allocated; an empty buffer has begin == end == 0, so that its whole
 * memory is at hand. Bytes are moved to the front only when at least as many have been consumed:
 * the cost of moving is paid for by what was read before.
 *
 * Must not know what the bytes mean.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "buffer.h"

#define ALLOCATED_MIN ((size_t)256)

static int grow(struct buffer *b, size_t n)
{
	size_t len = buffer_len(b);
	size_t size, needed;
	char *data;

	/* No object is larger than PTRDIFF_MAX, so doubling cannot overflow. */
	if (__builtin_add_overflow(len, n, &needed) || needed > PTRDIFF_MAX)
		return -ENOMEM;
	size = b->allocated * 2;
	if (size < needed)
		size = needed;
	if (size < ALLOCATED_MIN)
		size = ALLOCATED_MIN;

	/* No realloc(): it would copy the consumed bytes, too. */
	data = malloc(size);
	if (!data)
		return -ENOMEM;
	/* -fanalyzer: what holds bytes has data. */
	if (len > 0)
		memcpy(data, buffer_head(b), len);
	free(b->data);
	*b = (struct buffer){ .data = data, .end = len, .allocated = size };
	return 0;
}

int buffer_reserve(struct buffer *b, size_t n)
{
	size_t len = buffer_len(b);

	if (b->allocated - b->end >= n)
		return 0;
	if (b->begin < len || b->allocated - len < n)
		return grow(b, n);
	memmove(b->data, b->data + b->begin, len);
	b->begin = 0;
	b->end = len;
	return 0;
}

int buffer_append(struct buffer *b, const void *data, size_t n)
{
	int r;

	if (n == 0)
		return 0;
	r = buffer_reserve(b, n);
	if (r < 0)
		return r;
	memcpy(b->data + b->end, data, n);
	b->end += n;
	return 0;
}

int buffer_printf(struct buffer *b, const char *format, ...)
{
	size_t room = b->allocated - b->end;
	va_list ap;
	int n, r;

	va_start(ap, format);
	n = vsnprintf(room > 0 ? b->data + b->end : NULL, room, format, ap);
	va_end(ap);
	if (n < 0)
		return -ENOMEM;

	/* vsnprintf() also writes a NUL, which needs room but is not taken in. */
	if ((size_t)n >= room) {
		r = buffer_reserve(b, (size_t)n + 1);
		if (r < 0)
			return r;
		va_start(ap, format);
		vsnprintf(b->data + b->end, (size_t)n + 1, format, ap);
		va_end(ap);
	}
	b->end += (size_t)n;
	return 0;
}

void buffer_consume(struct buffer *b, size_t n)
{
	b->begin += size_min(n, buffer_len(b));
	if (b->begin == b->end)
		b->begin = b->end = 0;
}

void buffer_clear(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){ 0 };
}
