/* SPDX-License-Identifier: MIT */
/*
 * Frames of the log that are written together: see queue_vfs_gather.h. The layout of a frame is
 * that of SQLite's file format.
 */
#include "queue_vfs_gather.h"

#define FRAME_HEADER 24
/* Four bytes: how many pages the database has after this transaction; 0: this is not its end. */
#define FRAME_PAGES 4
#define MOST_BYTES  ((size_t)8 * (FRAME_HEADER + 4096))

void queue_vfs_gather_clear(struct queue_vfs_gather *g)
{
	g->len = 0;
	g->in_frame = g->last = false;
}

void queue_vfs_gather_end(struct queue_vfs_gather *g)
{
	free(g->bytes);
	*g = (struct queue_vfs_gather){ 0 };
}

static bool ends_transaction(const uint8_t *frame)
{
	static const uint8_t none[4] = { 0 };

	return memcmp(frame + FRAME_PAGES, none, sizeof(none)) != 0;
}

static bool has_room(const struct queue_vfs_gather *g, size_t n, uint64_t offset)
{
	return g->bytes && n <= MOST_BYTES - g->len &&
		(g->len == 0 || offset == g->offset + g->len);
}

enum queue_vfs_gather_verdict queue_vfs_gather(
	struct queue_vfs_gather *g, const void *bytes, size_t n, uint64_t offset)
{
	bool page = g->in_frame && n != FRAME_HEADER;

	if (!g->bytes)
		g->bytes = malloc(MOST_BYTES);
	if ((!page && n != FRAME_HEADER) || !has_room(g, n, offset))
		return QUEUE_VFS_GATHER_DIRECT;
	if (g->len == 0)
		g->offset = offset;
	memcpy(g->bytes + g->len, bytes, n);
	g->len += n;
	g->in_frame = !page;
	if (!page)
		g->last = ends_transaction(bytes);
	return page && g->last ? QUEUE_VFS_GATHER_DUE : QUEUE_VFS_GATHER_HELD;
}
