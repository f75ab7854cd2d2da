/* SPDX-License-Identifier: MIT */
/*
 * JSON as RFC 8259 has it, and the digest: see json_text.h.
 *
 * Invariant: no function looks beyond `len`, whatever the text holds; the cost is linear in it.
 * Runs of plain characters, which are most of what there is, are passed over many at a time.
 */
#include "json_text.h"

#include "utf8.h"

/* Eight times the same byte. */
#define EIGHT(c) (UINT64_C(0x0101010101010101) * (c))

/* Sixteen bytes, which the compiler compares at once where the processor can. */
typedef signed char block __attribute__((vector_size(16)));
#define BLOCK(c)                                               \
	{                                                      \
		c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c \
	}

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

/* --- strings --------------------------------------------------------------------------------- */

static uint64_t load(const char *s)
{
	uint64_t x;

	memcpy(&x, s, sizeof(x));
	return x;
}

/* Whether a byte of `x` is below `n`, at most 0x80; bytes of 0x80 and above may count as well. */
static bool has_less(uint64_t x, uint64_t n)
{
	return ((x - EIGHT(n)) & EIGHT(0x80)) != 0;
}

/* What stands for itself in a string, but for what is not ASCII. */
static bool is_plain(char c)
{
	return (unsigned char)c >= 0x20 && (unsigned char)c < 0x80 && c != '"' && c != '\\';
}

/* Whether all of a block are; a byte of 0x80 and above is a negative number. */
static bool is_plain_block(const char *s)
{
	const block space = BLOCK(' '), quote = BLOCK('"'), escape = BLOCK('\\');
	block x[2], other[2];
	union {
		block bytes;
		uint64_t words[2];
	} any;

	memcpy(x, s, sizeof(x));
	for (size_t i = 0; i < 2; i++)
		other[i] = (block)((x[i] < space) | (x[i] == quote) | (x[i] == escape));
	any.bytes = other[0] | other[1];
	return (any.words[0] | any.words[1]) == 0;
}

static size_t skip_plain(const char *s, size_t i, size_t len)
{
	while (len - i >= 2 * sizeof(block) && is_plain_block(s + i))
		i += 2 * sizeof(block);
	for (; len - i >= 8; i += 8) {
		uint64_t x = load(s + i), quote = x ^ EIGHT('"'), escape = x ^ EIGHT('\\');

		/* A byte that borrows from its neighbour is not plain itself. */
		if (((x - EIGHT(0x20)) | (quote - EIGHT(1)) | (escape - EIGHT(1)) | x) &
			EIGHT(0x80))
			break;
	}
	while (i < len && is_plain(s[i]))
		i++;
	return i;
}

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static uint32_t read_hex4(const char *s)
{
	uint32_t code = 0;

	for (size_t i = 0; i < 4; i++)
		code = code << 4 | (uint32_t)(s[i] <= '9' ? s[i] & 0xf : (s[i] & 0xf) + 9);
	return code;
}

/* Whether there is a \uXXXX at `i`. */
static bool is_unicode_escape(const char *s, size_t i, size_t len)
{
	return i < len && len - i >= 6 && s[i] == '\\' && s[i + 1] == 'u' && is_hex(s[i + 2]) &&
		is_hex(s[i + 3]) && is_hex(s[i + 4]) && is_hex(s[i + 5]);
}

/* From the backslash to after the escape, or the pair of them that makes one character; 0: it is
 * none. */
static size_t read_escape(const char *s, size_t i, size_t len)
{
	uint32_t code;

	if (len - i < 2)
		return 0;
	if (s[i + 1] != 'u')
		return s[i + 1] && strchr("\"\\/bfnrt", s[i + 1]) ? i + 2 : 0;
	if (!is_unicode_escape(s, i, len))
		return 0;
	code = read_hex4(s + i + 2);
	i += 6;
	if (code < 0xd800 || code > 0xdfff)
		return i;
	if (code > 0xdbff || !is_unicode_escape(s, i, len))
		return 0;
	code = read_hex4(s + i + 2);
	return code >= 0xdc00 && code <= 0xdfff ? i + 6 : 0;
}

size_t json_read_string(const char *s, size_t i, size_t len)
{
	if (i >= len || s[i] != '"')
		return 0;
	for (i++;;) {
		size_t n;

		i = skip_plain(s, i, len);
		if (i >= len)
			return 0;
		if (s[i] == '"')
			return i + 1;
		if (s[i] == '\\') {
			i = read_escape(s, i, len);
			if (i == 0)
				return 0;
			continue;
		}
		n = utf8_skip_wide((const unsigned char *)s + i, len - i);
		if (n == 0)
			return 0;
		i += n;
	}
}

/* Takes the \u escape at `i`, or the pair of them, of a string that was read. */
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

/* Copies what stands before the next escape. Returns where that is. */
static size_t copy_plain(const char *s, size_t i, size_t len, char *out, size_t *n)
{
	for (; len - i >= 8 && !has_less(load(s + i) ^ EIGHT('\\'), 1); i += 8, *n += 8)
		memcpy(out + *n, s + i, 8);
	while (i < len && s[i] != '\\')
		out[(*n)++] = s[i++];
	return i;
}

size_t json_unescape(const char *s, size_t len, char *out)
{
	size_t i = 0, n = 0;
	uint32_t code;

	while ((i = copy_plain(s, i, len, out, &n)) < len) {
		if (len - i >= 6 && s[i + 1] == 'u') {
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

/* --- values ---------------------------------------------------------------------------------- */

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

static size_t read_digits(const char *s, size_t i, size_t len)
{
	size_t end = skip_digits(s, i, len);

	return end > i ? end : 0;
}

static size_t read_number(const char *s, size_t i, size_t len)
{
	if (i < len && s[i] == '-')
		i++;
	i = i < len && s[i] == '0' ? i + 1 : read_digits(s, i, len);
	if (i > 0 && i < len && s[i] == '.')
		i = read_digits(s, i + 1, len);
	if (i > 0 && i < len && (s[i] == 'e' || s[i] == 'E')) {
		i++;
		if (i < len && (s[i] == '+' || s[i] == '-'))
			i++;
		i = read_digits(s, i, len);
	}
	return i;
}

static size_t read_word(const char *s, size_t i, size_t len, const char *word)
{
	size_t n = strlen(word);

	return len - i >= n && memcmp(s + i, word, n) == 0 ? i + n : 0;
}

/* What is neither object nor array. */
static size_t read_scalar(const char *s, size_t i, size_t len)
{
	switch (s[i]) {
	case '"': return json_read_string(s, i, len);
	case 't': return read_word(s, i, len, "true");
	case 'f': return read_word(s, i, len, "false");
	case 'n': return read_word(s, i, len, "null");
	default: return read_number(s, i, len);
	}
}

size_t json_read_colon(const char *s, size_t i, size_t len)
{
	i = json_skip_space(s, i, len);
	return i < len && s[i] == ':' ? json_skip_space(s, i + 1, len) : 0;
}

static size_t read_key(const char *s, size_t i, size_t len)
{
	i = json_read_string(s, i, len);
	return i > 0 ? json_read_colon(s, i, len) : 0;
}

/* Objects and arrays that are open: a bit each, set for an object. */
struct nest {
	size_t depth;
	uint64_t objects[JSON_DEPTH / 64];
};

static bool is_object(const struct nest *n)
{
	size_t level = n->depth - 1;

	return n->objects[level / 64] >> level % 64 & 1;
}

/* Takes the bracket at `i`, and a first key, or the other bracket: *ret_whole. */
static size_t open_nest(struct nest *n, const char *s, size_t i, size_t len, bool *ret_whole)
{
	uint64_t bit = UINT64_C(1) << n->depth % 64, *word = &n->objects[n->depth / 64];
	bool object = s[i] == '{';

	i = json_skip_space(s, i + 1, len);
	*ret_whole = i < len && s[i] == (object ? '}' : ']');
	if (*ret_whole)
		return i + 1;
	*word = object ? *word | bit : *word & ~bit;
	n->depth++;
	return object ? read_key(s, i, len) : i;
}

/* After a value: takes brackets that close, or a comma and a key. Returns where the next value is,
 * or with depth 0 the end. */
static size_t go_on(struct nest *n, const char *s, size_t i, size_t len)
{
	while (n->depth > 0) {
		bool object = is_object(n);

		i = json_skip_space(s, i, len);
		if (i >= len)
			return 0;
		if (s[i] == ',') {
			i = json_skip_space(s, i + 1, len);
			return object ? read_key(s, i, len) : i;
		}
		if (s[i] != (object ? '}' : ']'))
			return 0;
		n->depth--;
		i++;
	}
	return i;
}

static size_t read_nested(const char *s, size_t i, size_t len)
{
	struct nest n = { 0 };

	do {
		bool whole = true;

		/* The object that is the line, and the value itself. */
		if (i >= len || n.depth + 2 > JSON_DEPTH)
			return 0;
		if (s[i] == '{' || s[i] == '[')
			i = open_nest(&n, s, i, len, &whole);
		else
			i = read_scalar(s, i, len);
		if (i > 0 && whole)
			i = go_on(&n, s, i, len);
	} while (i > 0 && n.depth > 0);
	return i;
}

size_t json_read_value(const char *s, size_t i, size_t len)
{
	if (i >= len)
		return 0;
	return s[i] == '{' || s[i] == '[' ? read_nested(s, i, len) : read_scalar(s, i, len);
}

/* --- the digest ------------------------------------------------------------------------------ */

/* A run of these is a number or it is nothing in JSON. */
static bool is_number_char(char c)
{
	return json_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
		c == '-' || c == '.';
}

/* False for each number that may be too large for jansson. */
static bool fits(const char *s, size_t len)
{
	return len <= 18 && !memchr(s, 'e', len) && !memchr(s, 'E', len);
}

/* These two copy the token at `i` and return the position after it. */

static size_t digest_string(const char *s, size_t i, size_t len, char *out)
{
	size_t begin = i;

	for (i++; i < len && s[i] != '"'; i++)
		if (s[i] == '\\')
			i++;
	i = size_min(i + 1, len);
	memcpy(out + begin, s + begin, i - begin);
	for (size_t k = begin; k < i; k++) {
		if (s[k] != '\\')
			continue;
		if (i - k > 6 && memcmp(s + k, "\\u0000", 6) == 0)
			out[k + 5] = '1';
		k++;
	}
	return i;
}

static size_t digest_word(const char *s, size_t i, size_t len, char *out)
{
	size_t begin = i;

	while (i < len && is_number_char(s[i]))
		i++;
	if (read_number(s, begin, i) != i || fits(s + begin, i - begin)) {
		memcpy(out + begin, s + begin, i - begin);
	} else {
		memset(out + begin, '0', i - begin);
		out[begin + 1] = '.';
	}
	return i;
}

void json_digest(const char *line, size_t len, char *out)
{
	for (size_t i = 0; i < len;) {
		if (line[i] == '"') {
			i = digest_string(line, i, len, out);
		} else if (is_number_char(line[i])) {
			i = digest_word(line, i, len, out);
		} else {
			out[i] = line[i];
			i++;
		}
	}
}
