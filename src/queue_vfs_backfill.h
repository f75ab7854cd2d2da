/* SPDX-License-Identifier: MIT */
/*
 * Which pages a checkpoint need not write. In WAL mode SQLite logs every page that it changed, also
 * those that are free by the end of the transaction, and a checkpoint then copies them into the
 * database. So each page of a backlog that is removed would be written twice more, although nobody
 * reads it. Part of the room `queue_vfs`; pure.
 *
 * A checkpoint writes pages in ascending order, each as the last commit has left it; those that
 * changed after what it may take of the log it passes over. So the first page comes first, and each
 * page of the pointer map that an auto_vacuum database has before the pages that it tells of. A
 * page is left out if the map that this very checkpoint wrote calls it free, and it looks like a
 * leaf of a table. A free page is either a trunk of the list of free pages, which begins with the
 * number of the next trunk and does not look like that, or is listed in one; nobody reads those,
 * and whoever takes one into use writes all of it.
 *
 * Invariant: when in doubt a page is written.
 */
#pragma once

#include "util.h"

struct queue_vfs_backfill {
	bool active;
	uint32_t page_size; /* 0: the first page has not come, or there is no map */
	uint32_t usable;
	uint32_t last_page; /* that was asked about */
	uint32_t map_page; /* whose entries are in `map`; 0: none */
	uint8_t *map; /* a page */
};

/* A checkpoint begins to write pages. */
void queue_vfs_backfill_begin(struct queue_vfs_backfill *b);
/* It has written them. Frees what `b` owns. */
void queue_vfs_backfill_end(struct queue_vfs_backfill *b);
/*
 * Asked before each write to the database, in their order. True: these `n` bytes need not be
 * written if the file is longer already than where they end.
 */
bool queue_vfs_backfill_skips(
	struct queue_vfs_backfill *b, const void *bytes, size_t n, uint64_t offset) _must_check_;
