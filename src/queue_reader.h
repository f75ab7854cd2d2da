/* SPDX-License-Identifier: MIT */
/*
 * A read-only connection to the queue: committed rows in order. Each thread has one of its own.
 *
 * No statement stays open between calls, so that checkpoints are never held up.
 */
#pragma once

#include "message.h"
#include "util.h"

struct queue_reader;

/* What to do after a row: 0 go on, 1 stop (this row counts as not read), or -errno to give up. The
 * message is valid during the call only. */
typedef int (*queue_reader_fn)(void *userdata, const struct message *m);

/* Opens `path`, which the writer must have open already. 0 or -errno, logged; -EUCLEAN, here and
 * below: the database is rotten, see queue_params. */
int queue_reader_new(struct queue_reader **ret, const char *path) _must_check_;
/* Takes NULL, returns NULL. */
struct queue_reader *queue_reader_free(struct queue_reader *r);

/*
 * Calls `fn` for at most `limit` rows with after < id <= upto, ascending. Returns 0 when there is
 * no further row in that range, 1 when `limit` or `fn` ended it, or -errno (logged, unless it came
 * from `fn`).
 */
int queue_reader_rows(struct queue_reader *r, uint64_t after, uint64_t upto, unsigned limit,
	queue_reader_fn fn, void *userdata) _must_check_;

/* The same for messages that no broker takes; what is passed besides is valid as long. */
typedef int (*queue_reader_dead_fn)(
	void *userdata, const struct message *m, const char *reason, int64_t died_at);
int queue_reader_dead_rows(struct queue_reader *r, uint64_t after, uint64_t upto, unsigned limit,
	queue_reader_dead_fn fn, void *userdata) _must_check_;

/* The lowest id above `after`. 0, -ENODATA when there is none, or -errno. */
int queue_reader_next_id(struct queue_reader *r, uint64_t after, uint64_t *ret_id) _must_check_;

/* A text of `meta`, to be freed by the caller. 0, -ENODATA when the key is not there, or -errno. */
int queue_reader_meta(struct queue_reader *r, const char *key, char **ret) _must_check_;
