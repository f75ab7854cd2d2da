/* SPDX-License-Identifier: MIT */
/*
 * UTF-8: see utf8.h.
 */
#include "utf8.h"

size_t utf8_read(const unsigned char *s, size_t len, uint32_t *ret_code)
{
	uint32_t code, least;
	size_t n;

	if (len == 0)
		return 0;
	if (s[0] < 0x80) {
		*ret_code = s[0];
		return 1;
	}
	if (s[0] >= 0xc2 && s[0] <= 0xdf) {
		n = 2;
		code = s[0] & 0x1f;
		least = 0x80;
	} else if ((s[0] & 0xf0) == 0xe0) {
		n = 3;
		code = s[0] & 0x0f;
		least = 0x800;
	} else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		n = 4;
		code = s[0] & 0x07;
		least = 0x10000;
	} else {
		return 0;
	}

	if (n > len)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return 0;
	*ret_code = code;
	return n;
}

void utf8_copy(char *out, size_t size, const char *text)
{
	size_t left = strlen(text), len = 0;
	uint32_t code;

	while (left > 0) {
		size_t n = utf8_read((const unsigned char *)text, left, &code);

		if (len + u64_max(n, 1) >= size)
			break;
		if (n == 0)
			out[len++] = '?';
		else
			len = (size_t)((char *)mempcpy(out + len, text, n) - out);
		text += u64_max(n, 1);
		left -= u64_max(n, 1);
	}
	out[len] = '\0';
}

static bool continues(unsigned char c)
{
	return (c & 0xc0) == 0x80;
}

size_t utf8_skip_wide(const unsigned char *s, size_t len)
{
	size_t i = 0, n;
	uint32_t code;

	while (i < len && s[i] >= 0x80) {
		/* Most of what is written in the world; the rest takes the long way. */
		if (s[i] >= 0xc2 && s[i] <= 0xdf && len - i >= 2 && continues(s[i + 1])) {
			i += 2;
		} else if (s[i] > 0xe0 && s[i] < 0xf0 && s[i] != 0xed && len - i >= 3 &&
			continues(s[i + 1]) && continues(s[i + 2])) {
			i += 3;
		} else {
			n = utf8_read(s + i, len - i, &code);
			if (n == 0)
				break;
			i += n;
		}
	}
	return i;
}
