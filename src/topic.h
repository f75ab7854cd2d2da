/* SPDX-License-Identifier: MIT */
/*
 * MQTT topic names: what may be published. Pure.
 */
#pragma once

#include "util.h"

enum topic_fault {
	TOPIC_OK = 0,
	TOPIC_EMPTY,
	TOPIC_TOO_LONG, /* over 65,535 bytes (MQTT 5, 1.5.4) */
	TOPIC_WILDCARD, /* '+' or '#' (MQTT 5, 4.7.1) */
	TOPIC_NUL, /* U+0000 [MQTT-1.5.4-2] */
	TOPIC_CONTROL, /* U+0001..U+001F, U+007F..U+009F */
	TOPIC_NONCHARACTER, /* U+FDD0..U+FDEF, U+nFFFE, U+nFFFF */
	TOPIC_BAD_UTF8, /* ill-formed, surrogates included [MQTT-1.5.4-1] */
};

/* Checks that `s` (`len` bytes, need not end in NUL) is a topic name libmosquitto publishes. */
enum topic_fault topic_check(const char *s, size_t len);

/* What a sender is told, e.g. "topic holds a wildcard". Static text. */
const char *topic_fault_to_string(enum topic_fault fault);

/*
 * Checks that `s` is a topic filter: as topic_check(), but `+` may be a level and `#` the last one
 * [MQTT-4.7.1-1 to 3]. A wildcard anywhere else is TOPIC_WILDCARD.
 */
enum topic_fault topic_filter_check(const char *s, size_t len);

/*
 * Whether a topic name matches a filter; both have passed their check. As a broker does it:
 * wildcards at the start match no topic that begins with `$` [MQTT-4.7.2-1], `a/#` matches `a`,
 * too.
 */
bool topic_matches(const char *filter, const char *topic, size_t topic_len);
