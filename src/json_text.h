/* SPDX-License-Identifier: MIT */
/*
 * JSON as text: stepping over tokens, decoding strings, and a digest that is quick to judge. Pure;
 * the skipping functions expect text that has been accepted as JSON, and stay inside any other.
 *
 * Each json_skip_*() takes the position of a token in `s` and returns the position after it, at
 * most `len`.
 */
#pragma once

#include "util.h"

bool json_is_digit(char c);
size_t json_skip_space(const char *s, size_t i, size_t len);
/* One brace, colon or comma with the white space around it. */
size_t json_skip_punctuation(const char *s, size_t i, size_t len);
/* From the opening quote to after the closing one. */
size_t json_skip_string(const char *s, size_t i, size_t len);
/* A value of any type. */
size_t json_skip_value(const char *s, size_t i, size_t len);

/* Decodes what stands between the quotes of a string. Returns the length, at most `len`. */
size_t json_unescape(const char *s, size_t len, char *out);

/*
 * Writes to `out` (room for `len` bytes) text that is JSON exactly when the line is, and returns
 * its length.
 *
 * jansson looks at every byte several times, so with `shorten` a string of ASCII and legal
 * two-character escapes becomes "" and a number becomes 0: more than twice as fast. It also heals
 * two things that jansson refuses though the grammar allows them: numbers that fit no int64 or
 * double, and U+0000 in keys (here U+0001). More than 2048 levels of nesting stay refused.
 *
 * Without `shorten` tokens keep their width, so that the columns jansson tells are the line's.
 */
size_t json_digest(const char *line, size_t len, bool shorten, char *out);
