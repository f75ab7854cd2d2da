/* SPDX-License-Identifier: MIT */
/*
 * Text for people: numbers, durations, and what others wrote, made safe for a terminal. Pure but
 * for the locale.
 */
#pragma once

#include <jansson.h>

#include "util.h"

#define TEXT_SIZE 48

/* 1234567 -> "1,234,567". Each returns `out`. */
char *text_number(char out[static TEXT_SIZE], uint64_t n);
/* "980 B", "3.4 MiB" */
char *text_bytes(char out[static TEXT_SIZE], uint64_t n);
/* "0.2 s", "45 s", "3 min 12 s", "3 h 12 min", "5 d 3 h"; negative counts as 0. */
char *text_duration(char out[static TEXT_SIZE], double seconds);
/* Milliseconds since the epoch as local time, "2026-01-02 03:04:05"; `msec`: ".678" behind it. */
char *text_time(char out[static TEXT_SIZE], int64_t time_msec, bool msec);
/* "0", "0.7", "12.3", "1,234" */
char *text_rate(char out[static TEXT_SIZE], double rate);

/* Digits alone, of a number from `least` (0 or more) on. */
bool text_parse_number(const char *s, int64_t least, json_int_t *ret);

/* Whether the locale writes UTF-8. */
bool text_is_utf8(void);

/*
 * One character of `s` (at most `len` bytes, at least 1) as a terminal may have it: itself, or an
 * escape such as \n, \x1b or \u202e. Returns how many bytes of `s` that were; *ret_columns is its
 * width. `out` ends in NUL.
 */
size_t text_safe_character(char out[static 16], const char *s, size_t len, unsigned *ret_columns);
/* All of them; `size` bytes at most, whole characters. Returns `out`. */
char *text_safe(char *out, size_t size, const char *s, size_t len);

/* Members of a reply; of another type or absent: "", 0. */
const char *text_member(const json_t *object, const char *name);
double number_member(const json_t *object, const char *name);
uint64_t count_member(const json_t *object, const char *name);
/* Milliseconds since the epoch. */
int64_t time_member(const json_t *object, const char *name);
/* A number is there. */
bool has_number(const json_t *object, const char *name);

/* A line of JSON to standard output, ASCII alone: no terminal is commanded by it. */
void text_put_json(const json_t *value);
/* The same for a reply, without its status. */
void text_put_reply(const json_t *reply);
