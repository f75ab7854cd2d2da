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

#include "utf8.h"

#define TOPIC_LEN_MAX 65535

static enum topic_fault check_character(uint32_t code)
{
	if (code == '+' || code == '#')
		return TOPIC_WILDCARD;
	if (code == 0)
		return TOPIC_NUL;
	if (utf8_is_control(code))
		return TOPIC_CONTROL;
	if (utf8_is_noncharacter(code))
		return TOPIC_NONCHARACTER;
	return TOPIC_OK;
}

/* Most of what topics are made of: printable ASCII without wildcards. */
static const bool plain[256] = {
	[' ' ... '"'] = true,
	['$' ... '*'] = true,
	[',' ... '~'] = true,
};

/* Whether the wildcard at `i` is a level of its own; `#` has to be the last one. */
static bool is_level(const char *s, size_t i, size_t len)
{
	if (i > 0 && s[i - 1] != '/')
		return false;
	return i + 1 == len || (s[i] == '+' && s[i + 1] == '/');
}

static enum topic_fault check(const char *s, size_t len, bool is_filter)
{
	const unsigned char *p = (const unsigned char *)s;
	enum topic_fault fault;
	uint32_t code = 0;
	size_t n;

	if (len == 0)
		return TOPIC_EMPTY;
	if (len > TOPIC_LEN_MAX)
		return TOPIC_TOO_LONG;

	for (size_t i = 0; i < len; i += n) {
		while (i < len && plain[p[i]])
			i++;
		if (i == len)
			break;
		n = utf8_read(p + i, len - i, &code);
		fault = n == 0 ? TOPIC_BAD_UTF8 : check_character(code);
		if (fault == TOPIC_WILDCARD && is_filter && is_level(s, i, len))
			fault = TOPIC_OK;
		if (fault != TOPIC_OK)
			return fault;
	}
	return TOPIC_OK;
}

enum topic_fault topic_check(const char *s, size_t len)
{
	return check(s, len, false);
}

enum topic_fault topic_filter_check(const char *s, size_t len)
{
	return check(s, len, true);
}

bool topic_matches(const char *filter, const char *topic, size_t topic_len)
{
	const char *f = filter, *t = topic, *end = topic + topic_len;

	if ((*f == '+' || *f == '#') && *t == '$')
		return false;
	for (;;) {
		/* Both stand at the start of a level. */
		if (*f == '#')
			return true;
		if (*f == '+') {
			f++;
			while (t != end && *t != '/')
				t++;
		} else {
			while (t != end && *t != '/' && *f == *t) {
				f++;
				t++;
			}
		}
		if (t == end)
			return *f == '\0' || streq(f, "/#");
		if (*f != '/' || *t != '/')
			return false;
		f++;
		t++;
	}
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
