/* SPDX-License-Identifier: MIT */
/*
 * When rows were accepted, for telling how long they took: the times of commits by their last ids,
 * in bounded memory. Pure: ids and times are passed in.
 *
 * The older commits are, the more of them share an entry: one spans at most an eighth of its age,
 * so that a row's time, taken from the middle, is wrong by no more than a sixteenth of how long it
 * has waited, or by 50 microseconds. Thus all rows since the start are covered, whatever the
 * backlog.
 */
#pragma once

#include "util.h"

#define ACCEPTANCE_ENTRIES 1024

struct acceptance_entry {
	uint64_t last_id; /* rows above the last one of the entry before, up to this one */
	uint64_t first_usec, last_usec; /* were accepted between these */
};

struct acceptance {
	struct acceptance_entry entries[ACCEPTANCE_ENTRIES]; /* ascending */
	size_t n;
	uint64_t before_id; /* of rows up to this one nothing is known */
};

/*
 * The queue is open, and its highest id is `last_id`. The first time: nothing is known of what is
 * in it. Later, when another database took the place of the former one: ids above it are to come
 * once more.
 */
void acceptance_begin(struct acceptance *a, uint64_t last_id);
/* Rows up to `last_id` are accepted now. Microseconds of a clock that never goes back. */
void acceptance_add(struct acceptance *a, uint64_t last_id, uint64_t now_usec);
/* When row `id` was accepted; the same is true up to *ret_last. False: not known, up to there. */
bool acceptance_find(
	const struct acceptance *a, uint64_t id, uint64_t *ret_usec, uint64_t *ret_last);
