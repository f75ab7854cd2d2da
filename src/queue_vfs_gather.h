/* SPDX-License-Identifier: MIT */
/*
 * Writes to the log that go out together. SQLite writes each frame of it with two calls, 24 bytes
 * and a page; here the frames of a transaction are put one behind the other, and written as they
 * are many at a time. Part of the room `queue_vfs`; pure.
 *
 * Invariant: with the page of a transaction's last frame, which SQLite marks as such, nothing is
 * held any more: what went wrong with any of them is told before the transaction counts as
 * committed, and whoever else reads the log finds it whole.
 */
#pragma once

#include "util.h"

struct queue_vfs_gather {
	uint8_t *bytes; /* that are held */
	size_t len;
	uint64_t offset; /* of the first one */
	bool in_frame; /* the beginning of a frame came last: its page comes next */
	bool last; /* that frame ends its transaction */
};

enum queue_vfs_gather_verdict {
	QUEUE_VFS_GATHER_HELD, /* nothing is to be done now */
	QUEUE_VFS_GATHER_DUE, /* held with all before it, which must be written now */
	QUEUE_VFS_GATHER_DIRECT, /* not held: to be written after what is held */
};

/* A write of `n` bytes, which are copied. */
enum queue_vfs_gather_verdict queue_vfs_gather(
	struct queue_vfs_gather *g, const void *bytes, size_t n, uint64_t offset) _must_check_;
/* What was held is written, or has failed. */
void queue_vfs_gather_clear(struct queue_vfs_gather *g);
/* Frees what `g` owns, and forgets what it holds. */
void queue_vfs_gather_end(struct queue_vfs_gather *g);
