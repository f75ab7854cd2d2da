/* SPDX-License-Identifier: MIT */
/*
 * JSON as text: what is JSON, stepping over it, decoding strings, and a digest for jansson. Pure.
 *
 * Each json_read_*() takes the position of a token in `s` and returns the position after it, or 0
 * when there is no such token there: RFC 8259 to the letter, strings in valid UTF-8 without lone
 * surrogates. None looks beyond `len`.
 */
#pragma once

#include "util.h"

/* Values within values that are taken, as many as jansson takes. */
#define JSON_DEPTH 2048

bool json_is_digit(char c);
size_t json_skip_space(const char *s, size_t i, size_t len);
/* From the opening quote to after the closing one. */
size_t json_read_string(const char *s, size_t i, size_t len);
/* A colon and the white space around it. */
size_t json_read_colon(const char *s, size_t i, size_t len);
/* A value of any type, itself a member of an object. */
size_t json_read_value(const char *s, size_t i, size_t len);

/* Decodes what stands between the quotes of a string that was read. Returns the length, at most
 * `len`. */
size_t json_unescape(const char *s, size_t len, char *out);

/*
 * For a line that is no JSON: writes to `out`, `len` bytes of the same width, what jansson finds
 * fault with for the same reason, so that the column it tells is the line's. Two things that it
 * refuses though the grammar allows them are healed: numbers that fit no int64 or double, and
 * U+0000 in keys (here U+0001).
 */
void json_digest(const char *line, size_t len, char *out);
