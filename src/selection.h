/* SPDX-License-Identifier: MIT */
/*
 * The rows that an operator's command is about, and how far it has come with them: what is worked
 * through in many small steps, with turns for everybody else in between. A value.
 */
#pragma once

#include "topic.h"
#include "util.h"

/* Of one step: rows looked at, and bytes of messages that it may read, write or remove. */
#define SELECTION_STEP_ROWS  500
#define SELECTION_STEP_BYTES ((size_t)1024 * 1024)

struct selection {
	const char *filter; /* borrowed: a topic filter; NULL: every topic */
	uint64_t after; /* rows up to this id were looked at */
	uint64_t upto; /* rows above this one are not meant */
	uint64_t count; /* rows it was done to */
	uint64_t kept; /* rows that were meant, but are the uplink's */
};

static inline bool selection_has(const struct selection *s, const char *topic, size_t len)
{
	return !s->filter || topic_matches(s->filter, topic, len);
}
