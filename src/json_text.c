/* SPDX-License-Identifier: MIT */
/*
 * Scanner and digest of JSON text: see json_text.h.
 *
 * Invariant: no function looks beyond `len`, whatever the text holds; the cost is linear in it.
 */
#include "json_text.h"

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

size_t json_skip_space(const char *s, size_t i, size_t len)
{
	while (i < len && is_space(s[i]))
		i++;
	return i;
}

/* One brace, colon or comma with the white space around it. */
size_t json_skip_punctuation(const char *s, size_t i, size_t len)
{
	i = json_skip_space(s, i, len);
	return json_skip_space(s, size_min(i + 1, len), len);
}

/* From the opening quote to after the closing one. */
size_t json_skip_string(const char *s, size_t i, size_t len)
{
	for (i++; i < len && s[i] != '"'; i++) {
		if (s[i] == '\\')
			i++;
	}
	return size_min(i + 1, len);
}

static size_t skip_nested(const char *s, size_t i, size_t len)
{
	size_t depth = 0;

	do {
		switch (s[i]) {
		case '"': i = json_skip_string(s, i, len); continue;
		case '{':
		case '[': depth++; break;
		case '}':
		case ']': depth--; break;
		}
		i++;
	} while (depth > 0 && i < len);
	return i;
}

size_t json_skip_value(const char *s, size_t i, size_t len)
{
	if (i >= len)
		return len;
	if (s[i] == '"')
		return json_skip_string(s, i, len);
	if (s[i] == '{' || s[i] == '[')
		return skip_nested(s, i, len);
	while (i < len && s[i] != ',' && s[i] != '}' && !is_space(s[i]))
		i++;
	return i;
}

static uint32_t read_hex4(const char *s)
{
	uint32_t code = 0;

	for (size_t i = 0; i < 4; i++)
		code = code << 4 | (uint32_t)(s[i] <= '9' ? s[i] & 0xf : (s[i] & 0xf) + 9);
	return code;
}

/* Takes the \u escape at `i`, or the pair of them that makes one character. */
static size_t read_unicode_escape(const char *s, size_t i, size_t len, uint32_t *ret_code)
{
	uint32_t code = read_hex4(s + i + 2);

	i += 6;
	if (code >= 0xd800 && code <= 0xdbff && len - i >= 6) {
		code = 0x10000 + ((code & 0x3ff) << 10) + (read_hex4(s + i + 2) & 0x3ff);
		i += 6;
	}
	*ret_code = code;
	return i;
}

static size_t write_utf8(char *out, uint32_t code)
{
	size_t n = 0;

	if (code < 0x80) {
		out[n++] = (char)code;
		return n;
	}
	if (code < 0x800) {
		out[n++] = (char)(0xc0 | code >> 6);
	} else {
		if (code < 0x10000) {
			out[n++] = (char)(0xe0 | code >> 12);
		} else {
			out[n++] = (char)(0xf0 | code >> 18);
			out[n++] = (char)(0x80 | (code >> 12 & 0x3f));
		}
		out[n++] = (char)(0x80 | (code >> 6 & 0x3f));
	}
	out[n++] = (char)(0x80 | (code & 0x3f));
	return n;
}

/* Decodes what stands between the quotes of a string. Returns the length, at most `len`. */
size_t json_unescape(const char *s, size_t len, char *out)
{
	size_t i = 0, n = 0;
	uint32_t code;

	while (i < len) {
		if (s[i] != '\\') {
			out[n++] = s[i++];
		} else if (len - i >= 6 && s[i + 1] == 'u') {
			i = read_unicode_escape(s, i, len, &code);
			n += write_utf8(out + n, code);
		} else if (len - i >= 2) {
			switch (s[i + 1]) {
			case 'b': out[n++] = '\b'; break;
			case 'f': out[n++] = '\f'; break;
			case 'n': out[n++] = '\n'; break;
			case 'r': out[n++] = '\r'; break;
			case 't': out[n++] = '\t'; break;
			default: out[n++] = s[i + 1];
			}
			i += 2;
		} else {
			break;
		}
	}
	return n;
}

bool json_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static size_t skip_digits(const char *s, size_t i, size_t len)
{
	while (i < len && json_is_digit(s[i]))
		i++;
	return i;
}

/* A run of these is a number or it is nothing in JSON. */
static bool is_number_char(char c)
{
	return json_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
		c == '-' || c == '.';
}

static bool is_number(const char *s, size_t len)
{
	size_t i = 0, begin;

	if (i < len && s[i] == '-')
		i++;
	begin = i;
	i = skip_digits(s, i, len);
	if (i == begin || (s[begin] == '0' && i > begin + 1))
		return false;
	if (i < len && s[i] == '.') {
		begin = ++i;
		i = skip_digits(s, i, len);
		if (i == begin)
			return false;
	}
	if (i < len && (s[i] == 'e' || s[i] == 'E')) {
		i++;
		if (i < len && (s[i] == '+' || s[i] == '-'))
			i++;
		begin = i;
		i = skip_digits(s, i, len);
		if (i == begin)
			return false;
	}
	return i == len;
}

/* False for each number that may be too large for jansson. */
static bool fits(const char *s, size_t len)
{
	return len <= 18 && !memchr(s, 'e', len) && !memchr(s, 'E', len);
}

/* As json_skip_string(); also tells whether the string is known to be good without a closer look.
 */
static size_t skip_string_plain(const char *s, size_t i, size_t len, bool *ret_plain)
{
	bool plain = true;

	for (i++; i < len && s[i] != '"'; i++) {
		if (s[i] == '\\') {
			i++;
			plain = plain && i < len && s[i] && strchr("\"\\/bfnrt", s[i]);
		} else if ((unsigned char)s[i] < 0x20 || (unsigned char)s[i] >= 0x80) {
			plain = false;
		}
	}
	*ret_plain = plain && i < len;
	return size_min(i + 1, len);
}

/* These two copy the token at `i`, return the position after it and move `*n`, `out`'s end. */

static size_t digest_string(const char *s, size_t i, size_t len, bool shorten, char *out, size_t *n)
{
	bool plain;
	size_t end = skip_string_plain(s, i, len, &plain), size = end - i;
	char *copy = out + *n;

	if (plain && shorten) {
		memcpy(copy, "\"\"", 2);
		*n += 2;
		return end;
	}
	memcpy(copy, s + i, size);
	for (size_t k = 0; !plain && k < size; k++) {
		if (copy[k] != '\\')
			continue;
		if (size - k > 6 && memcmp(copy + k, "\\u0000", 6) == 0)
			copy[k + 5] = '1';
		k++;
	}
	*n += size;
	return end;
}

static size_t digest_word(const char *s, size_t i, size_t len, bool shorten, char *out, size_t *n)
{
	size_t end = i, size;
	char *copy = out + *n;

	while (end < len && is_number_char(s[end]))
		end++;
	size = end - i;
	if (!is_number(s + i, size) || (!shorten && fits(s + i, size))) {
		memcpy(copy, s + i, size);
	} else if (shorten) {
		copy[0] = '0';
		size = 1;
	} else {
		memset(copy, '0', size);
		copy[1] = '.';
	}
	*n += size;
	return end;
}

/* `out` has room for `len` bytes. Returns how many it took. */
size_t json_digest(const char *line, size_t len, bool shorten, char *out)
{
	size_t i = 0, n = 0;

	while (i < len) {
		if (line[i] == '"')
			i = digest_string(line, i, len, shorten, out, &n);
		else if (is_number_char(line[i]))
			i = digest_word(line, i, len, shorten, out, &n);
		else
			out[n++] = line[i++];
	}
	return n;
}
