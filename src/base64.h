/* SPDX-License-Identifier: MIT */
/*
 * Base64 as RFC 4648, section 4: the standard alphabet, padding required, no line breaks, unused
 * bits zero. Pure.
 */
#pragma once

#include "util.h"

/* Bytes that decoding `len` characters needs at most. */
static inline size_t base64_decoded_max(size_t len)
{
	return len / 4 * 3;
}

/*
 * Decodes `len` characters into `out` (room for base64_decoded_max(len)). 0, or -EINVAL when the
 * text is not base64; `*ret_len` is untouched then.
 */
int base64_decode(const char *s, size_t len, void *out, size_t *ret_len) _must_check_;

/* Characters that encoding `len` bytes gives, without a NUL. */
static inline size_t base64_encoded_len(size_t len)
{
	return (len + 2) / 3 * 4;
}

/* Encodes `len` bytes into `out` (room for base64_encoded_len(len)); no NUL is added. */
void base64_encode(const void *data, size_t len, char *out);
