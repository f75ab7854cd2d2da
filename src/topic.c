/* SPDX-License-Identifier: MIT */
/*
 * Owns what a topic name may be made of: the rules of MQTT plus the stricter ones of libmosquitto,
 * so that what is accepted here is never refused when it is published. tests/fuzz/fuzz_topic.c
 * holds the two against each other.
 *
 * The first fault in the order of the bytes is the one reported; a wrong length comes before all.
 * Must not know who may publish what.
 */
#include "topic.h"

#define TOPIC_LEN_MAX 65535

/*
 * Reads the character that begins with a byte of 0x80 or more. Returns how many bytes it has, 0
 * when they are ill-formed: cut short, overlong, a surrogate, or above U+10FFFF.
 */
static size_t read_multibyte(const unsigned char *s, size_t len, uint32_t *ret_code)
{
	uint32_t code, least;
	size_t n;

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

static enum topic_fault check_ascii(unsigned char c)
{
	if (c == '+' || c == '#')
		return TOPIC_WILDCARD;
	if (c == 0)
		return TOPIC_NUL;
	if (c < 0x20 || c == 0x7f)
		return TOPIC_CONTROL;
	return TOPIC_OK;
}

static enum topic_fault check_beyond_ascii(uint32_t code)
{
	if (code <= 0x9f)
		return TOPIC_CONTROL;
	if ((code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe)
		return TOPIC_NONCHARACTER;
	return TOPIC_OK;
}

enum topic_fault topic_check(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	enum topic_fault fault;
	uint32_t code;
	size_t n;

	if (len == 0)
		return TOPIC_EMPTY;
	if (len > TOPIC_LEN_MAX)
		return TOPIC_TOO_LONG;

	for (size_t i = 0; i < len; i += n) {
		if (p[i] < 0x80) {
			n = 1;
			fault = check_ascii(p[i]);
		} else {
			n = read_multibyte(p + i, len - i, &code);
			fault = n == 0 ? TOPIC_BAD_UTF8 : check_beyond_ascii(code);
		}
		if (fault != TOPIC_OK)
			return fault;
	}
	return TOPIC_OK;
}

const char *topic_fault_to_string(enum topic_fault fault)
{
	switch (fault) {
	case TOPIC_OK: return "topic is good";
	case TOPIC_EMPTY: return "topic is empty, must be 1 to 65535 bytes";
	case TOPIC_TOO_LONG: return "topic is too long, must be 1 to 65535 bytes";
	case TOPIC_WILDCARD: return "topic holds a wildcard";
	case TOPIC_NUL: return "topic holds U+0000";
	case TOPIC_CONTROL: return "topic holds a control character";
	case TOPIC_NONCHARACTER: return "topic holds a Unicode non-character";
	case TOPIC_BAD_UTF8: return "topic is not valid UTF-8";
	}
	return "topic is bad";
}
