/* SPDX-License-Identifier: MIT */
/*
 * The table of all keys: name, type, default, range. What is read, refused and printed follows from
 * it. Internal to config*.c.
 */
#pragma once

#include <stdio.h>

#include "config.h"

enum config_type {
	CONFIG_NOTHING, /* a setting that syntax errors leave behind */
	CONFIG_GROUP,
	CONFIG_INTEGER,
	CONFIG_FLOAT,
	CONFIG_STRING,
	CONFIG_BOOLEAN,
	CONFIG_ARRAY,
	CONFIG_LIST,
};

/* "a string", "an integer": for faults. */
const char *config_type_to_string(enum config_type type);

/* A scalar as it stands in the file. */
struct config_value {
	enum config_type type;
	int64_t integer; /* of a boolean, too: 0 or 1 */
	double number;
	const char *string;
};

enum config_kind {
	CONFIG_KIND_STRING,
	CONFIG_KIND_TEMPLATE, /* a string in which % means something; stored filled in */
	CONFIG_KIND_SECRET, /* a string that is never shown */
	CONFIG_KIND_BOOLEAN,
	CONFIG_KIND_COUNT, /* an unsigned integer of the field's width */
	CONFIG_KIND_SIZE, /* bytes, in a size_t */
	CONFIG_KIND_DURATION, /* seconds; stored as microseconds in a uint64_t */
	CONFIG_KIND_FACTOR, /* a double */
	CONFIG_KIND_WORD, /* one of a few words, in an int or an enum */
	CONFIG_KIND_MODE, /* file permissions, in a mode_t */
	CONFIG_KIND_FILTERS, /* topic filters, in a struct access_topics; no scalar */
	CONFIG_KIND_GROUP, /* of keys, in a struct of its own */
};

/* The words of CONFIG_KIND_WORD. */
struct config_words {
	int (*from_string)(const char *s); /* -EINVAL for another word */
	const char *(*to_string)(int value);
	const char *allowed;
};

struct config_group;

struct config_key {
	const char *name;
	enum config_kind kind;
	size_t offset; /* in the group's struct */
	size_t width;
	const struct config_group *group; /* of CONFIG_KIND_GROUP */
	const char *text; /* default of strings, words, modes */
	double number; /* default of numbers; durations in seconds */
	double least, most; /* their range */
	bool zero; /* 0 is allowed below the range, too */
	bool above; /* `least` itself is not allowed */
	bool none; /* a number that may be the word "none" instead, stored as 0 */
	bool is_url; /* a string that may hold secrets in its user information and query */
	bool discovered; /* of a broker; not given where DNS tells it */
	/* NULL when a string is good, else what is allowed. */
	const char *(*check)(const char *s);
	const struct config_words *words;
};

struct config_group {
	const char *name; /* of one within another group: both, with a dot */
	const struct config_key *keys;
	size_t n_keys;
	bool is_list; /* of groups, each a struct of its own; else keys are in struct config */
	bool is_access; /* of the lists: each is a struct access_rule, else a struct config_broker
			 */
	/* There is a bool `enabled` in the struct: whether the group was given. Only then it is
	 * printed. */
	bool is_switch;
	size_t enabled;
};

extern const struct config_group config_groups[];
extern const size_t config_n_groups;

const struct config_key *config_key_find(const struct config_group *group, const char *name);

/*
 * The key that somebody who wrote `name` in `group` (NULL: outside of any) may have meant, as
 * "group.key" or "group". False: nothing is close.
 */
bool config_suggest(const struct config_group *group, const char *name, char *buf, size_t size);

/* Sets all fields in `base`, those of groups within the group, too, to their defaults. -ENOMEM. */
int config_group_set_defaults(const struct config_group *group, void *base) _must_check_;

/* Whether a group is on; always, unless it is one that has to be given. */
bool config_group_is_enabled(const struct config_group *group, const void *base);
void config_group_enable(const struct config_group *group, void *base);

/*
 * Checks and stores one value. -EINVAL: `why` says what is wrong and what is allowed, the field is
 * as before. -ENOMEM.
 */
int config_key_set(const struct config_key *key, const struct config_value *value, void *base,
	char *why, size_t size) _must_check_;

/* The field's string, replaced by a copy; the old one is wiped and freed. -ENOMEM. */
int config_string_set(char **field, const char *s) _must_check_;

/* The value in libconfig syntax; a secret as "***". */
void config_key_print(const struct config_key *key, const void *base, FILE *out);

/* Valid UTF-8 without control or non-characters, at most 65,535 bytes: what MQTT takes. */
bool config_is_mqtt_string(const char *s);

/* `s` as a libconfig string without the quotes. False: cut short for lack of room. */
bool config_escape(const char *s, char *buf, size_t size);
/* "64K", "1M", "1500". */
void config_size_to_string(uint64_t bytes, char *buf, size_t size);
