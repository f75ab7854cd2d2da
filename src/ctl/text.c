/* SPDX-License-Identifier: MIT */
/*
 * Owns how values look. What comes from a message may be anything: nothing of it reaches a terminal
 * that is not a printable character, or that turns the direction of writing.
 */
#include "text.h"

#include <errno.h>
#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <wchar.h>
#include <wctype.h>

#include "utf8.h"

#define MAX_MSEC INT64_C(1000000000000000) /* some 30,000 years */

/* --- numbers --------------------------------------------------------------------------------- */

char *text_number(char out[static TEXT_SIZE], uint64_t n)
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n);
	char *p = out;

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p = '\0';
	return out;
}

char *text_bytes(char out[static TEXT_SIZE], uint64_t n)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)n;
	unsigned u = 0;

	/* 1023.95 would be shown as 1024.0. */
	while (value >= 1023.95 && u + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		u++;
	}
	snprintf(out, TEXT_SIZE, u ? "%.1f %s" : "%.0f %s", value, units[u]);
	return out;
}

char *text_duration(char out[static TEXT_SIZE], double seconds)
{
	unsigned long long s = seconds > 0 && seconds < 1e15 ? (unsigned long long)seconds : 0;

	if (s < 10 && seconds > 0)
		snprintf(out, TEXT_SIZE, "%.1f s", floor(seconds * 10) / 10);
	else if (s < 60)
		snprintf(out, TEXT_SIZE, "%llu s", s);
	else if (s < 3600)
		snprintf(out, TEXT_SIZE, "%llu min %llu s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, TEXT_SIZE, "%llu h %llu min", s / 3600, s / 60 % 60);
	else
		snprintf(out, TEXT_SIZE, "%llu d %llu h", s / 86400, s / 3600 % 24);
	return out;
}

char *text_time(char out[static TEXT_SIZE], int64_t time_msec, bool msec)
{
	int64_t part = (time_msec % 1000 + 1000) % 1000;
	time_t seconds = time_msec / 1000 - (time_msec % 1000 < 0);
	struct tm tm;
	size_t n;

	/* Beyond any clock. */
	if (time_msec > MAX_MSEC || time_msec < -MAX_MSEC || !localtime_r(&seconds, &tm)) {
		snprintf(out, TEXT_SIZE, "%lld ms", (long long)time_msec);
		return out;
	}
	n = strftime(out, TEXT_SIZE, "%Y-%m-%d %H:%M:%S", &tm);
	if (msec)
		snprintf(out + n, TEXT_SIZE - n, ".%03d", (int)part);
	return out;
}

char *text_rate(char out[static TEXT_SIZE], double rate)
{
	if (rate < 0.05)
		snprintf(out, TEXT_SIZE, "0");
	else if (rate < 99.95)
		snprintf(out, TEXT_SIZE, "%.1f", rate);
	else
		text_number(out, (uint64_t)(rate + 0.5));
	return out;
}

bool text_parse_number(const char *s, int64_t least, json_int_t *ret)
{
	char *end;
	long long n;

	errno = 0;
	n = strtoll(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno || n < least)
		return false;
	*ret = n;
	return true;
}

/* --- what others wrote ----------------------------------------------------------------------- */

bool text_is_utf8(void)
{
	return streq(nl_langinfo(CODESET), "UTF-8");
}

/* Invisible, or changing how its neighbours are shown. */
static bool is_deceptive(uint32_t code)
{
	return code == 0xad || code == 0x61c || code == 0x180e ||
		(code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
		(code >= 0x2060 && code <= 0x206f) || (code >= 0xfe00 && code <= 0xfe0f) ||
		code == 0xfeff || (code >= 0xfff0 && code <= 0xfffb) || code >= 0xe0000 ||
		utf8_is_noncharacter(code);
}

static bool is_shown(uint32_t code)
{
	if (code < 0x80)
		return code >= ' ' && code < 0x7f;
	return text_is_utf8() && !utf8_is_control(code) && !is_deceptive(code) &&
		iswprint((wint_t)code) && wcwidth((wchar_t)code) > 0;
}

static void escape(char out[static 16], uint32_t code, size_t n_bytes)
{
	static const char names[] = "abtnvfr"; /* from 7 on */

	if (code >= 7 && code <= 13)
		snprintf(out, 16, "\\%c", names[code - 7]);
	else if (code < 0x80 || n_bytes == 0)
		snprintf(out, 16, "\\x%02x", (unsigned)code);
	else
		snprintf(out, 16, code <= 0xffff ? "\\u%04x" : "\\U%08x", (unsigned)code);
}

size_t text_safe_character(char out[static 16], const char *s, size_t len, unsigned *ret_columns)
{
	uint32_t code = 0;
	size_t n = utf8_read((const unsigned char *)s, len, &code);

	if (n == 0) {
		code = (unsigned char)*s;
		escape(out, code, 0);
	} else if (code == '\\') {
		/* So that what is escaped cannot be taken for what was written. */
		strcpy(out, "\\\\");
	} else if (is_shown(code)) {
		memcpy(out, s, n);
		out[n] = '\0';
		*ret_columns = code < 0x80 ? 1 : (unsigned)wcwidth((wchar_t)code);
		return n;
	} else {
		escape(out, code, n);
	}
	*ret_columns = (unsigned)strlen(out);
	return n ? n : 1;
}

char *text_safe(char *out, size_t size, const char *s, size_t len)
{
	char character[16];
	unsigned columns;
	size_t used = 0, n;

	while (len > 0) {
		n = text_safe_character(character, s, len, &columns);
		if (used + strlen(character) >= size)
			break;
		strcpy(out + used, character);
		used += strlen(character);
		s += n;
		len -= n;
	}
	out[used] = '\0';
	return out;
}

/* --- members --------------------------------------------------------------------------------- */

const char *text_member(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));

	return s ? s : "";
}

double number_member(const json_t *object, const char *name)
{
	return json_number_value(json_object_get(object, name));
}

uint64_t count_member(const json_t *object, const char *name)
{
	double n = number_member(object, name);
	json_t *value = json_object_get(object, name);

	if (json_is_integer(value))
		return json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;
	return n > 0 && n < 1e18 ? (uint64_t)n : 0;
}

int64_t time_member(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

bool has_number(const json_t *object, const char *name)
{
	return json_is_number(json_object_get(object, name));
}

void text_put_json(const json_t *value)
{
	/* 15 digits: 0.1 stays 0.1. */
	if (json_dumpf(value, stdout, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15)) ==
		0)
		putchar('\n');
}

void text_put_reply(const json_t *reply)
{
	json_t *copy = json_copy((json_t *)reply);

	json_object_del(copy, "status");
	if (copy)
		text_put_json(copy);
	json_decref(copy);
}
