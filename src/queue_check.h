/* SPDX-License-Identifier: MIT */
/*
 * The whole check of a queue, for an operator who asks for it. Part of the room `queue`.
 */
#pragma once

#include "util.h"

#define QUEUE_CHECK_MAX_FINDINGS 100

struct queue_check_rows {
	uint64_t messages, dead_letters;
};

/*
 * Reads all of the database at `path` through a connection of its own and calls `finding` for each
 * thing that is wrong, QUEUE_CHECK_MAX_FINDINGS times at most; `text` is valid during the call and
 * may hold anything that a damaged database holds. Writes nothing. Any thread; takes long for a
 * long queue. 0 nothing was found, and *ret_rows, which may be NULL, is what there is; 1 something
 * was found; -errno (logged): it could not be checked.
 */
int queue_check_whole(const char *path, void (*finding)(void *userdata, const char *text),
	void *userdata, struct queue_check_rows *ret_rows) _must_check_;
