/* SPDX-License-Identifier: MIT */
/*
 * Owns the alphabet of base64. Every text has one meaning and every value one text: whatever the
 * RFC leaves to the decoder (line breaks, missing padding, unused bits that are set) is refused.
 *
 * Must not know where the text comes from.
 */
#include <errno.h>

#include "base64.h"

#define BAD 0xff

/* What the characters '+' (the first of the alphabet in ASCII) to 'z' (the last) stand for. */
static const uint8_t digits['z' - '+' + 1] = {
	/* clang-format off */
	62, BAD, BAD, BAD, 63,                                            /* + , - . / */
	52, 53, 54, 55, 56, 57, 58, 59, 60, 61,                           /* 0 to 9 */
	BAD, BAD, BAD, BAD, BAD, BAD, BAD,                                /* : ; < = > ? @ */
	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,                         /* A to M */
	13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,               /* N to Z */
	BAD, BAD, BAD, BAD, BAD, BAD,                                     /* [ \ ] ^ _ ` */
	26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38,               /* a to m */
	39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,               /* n to z */
	/* clang-format on */
};

/* 0 to 63, or BAD, which sets bits that no digit sets. */
static unsigned digit(char c)
{
	unsigned i = (unsigned char)c - (unsigned)'+';

	return i < sizeof(digits) ? digits[i] : BAD;
}

int base64_decode(const char *s, size_t len, void *out, size_t *ret_len)
{
	unsigned char *o = out;
	size_t pad = 0, i = 0, n = 0;
	unsigned a, b, c, d;

	if (len % 4 != 0)
		return -EINVAL;
	if (len > 0)
		pad = s[len - 1] != '=' ? 0 : s[len - 2] != '=' ? 1 : 2;

	for (; i + 4 <= len - (pad > 0 ? 4 : 0); i += 4) {
		a = digit(s[i]);
		b = digit(s[i + 1]);
		c = digit(s[i + 2]);
		d = digit(s[i + 3]);
		if ((a | b | c | d) > 63)
			return -EINVAL;
		o[n++] = (unsigned char)(a << 2 | b >> 4);
		o[n++] = (unsigned char)(b << 4 | c >> 2);
		o[n++] = (unsigned char)(c << 6 | d);
	}

	/* The last group, when it is a short one, and the bits of it that no byte takes. */
	if (pad > 0) {
		a = digit(s[i]);
		b = digit(s[i + 1]);
		c = pad == 1 ? digit(s[i + 2]) : 0;
		if ((a | b | c) > 63 || (pad == 1 ? c & 3 : b & 15) != 0)
			return -EINVAL;
		o[n++] = (unsigned char)(a << 2 | b >> 4);
		if (pad == 1)
			o[n++] = (unsigned char)(b << 4 | c >> 2);
	}
	*ret_len = n;
	return 0;
}

void base64_encode(const void *data, size_t len, char *out)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i += 3) {
		uint32_t bits = (uint32_t)p[i] << 16;

		if (i + 1 < len)
			bits |= (uint32_t)p[i + 1] << 8;
		if (i + 2 < len)
			bits |= p[i + 2];
		*out++ = alphabet[bits >> 18];
		*out++ = alphabet[bits >> 12 & 63];
		*out++ = i + 1 < len ? alphabet[bits >> 6 & 63] : '=';
		*out++ = i + 2 < len ? alphabet[bits & 63] : '=';
	}
}
