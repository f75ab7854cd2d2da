/* SPDX-License-Identifier: MIT */
/*
 * Pages that a checkpoint need not write: see queue_vfs_backfill.h. Offsets and values are those of
 * SQLite's file format.
 */
#include "queue_vfs_backfill.h"

#include <endian.h>

#define PENDING_BYTE	0x40000000
#define PAGE_TABLE_LEAF 0x0d
#define MAP_ENTRY	5
/* Numbers of pages stay below those that would begin with PAGE_TABLE_LEAF. */
#define MAX_PAGE	 ((uint32_t)PAGE_TABLE_LEAF << 24)
#define HEADER_PAGE_SIZE 16
#define HEADER_RESERVED	 20
#define HEADER_N_PAGES	 28
#define HEADER_N_FREE	 36
#define HEADER_MAX_ROOT	 52 /* not 0: there is a pointer map */
#define HEADER_BYTES	 100

static uint32_t be32_at(const uint8_t *p)
{
	uint32_t n;

	memcpy(&n, p, sizeof(n));
	return be32toh(n);
}

void queue_vfs_backfill_begin(struct queue_vfs_backfill *b)
{
	queue_vfs_backfill_end(b);
	b->active = true;
}

void queue_vfs_backfill_end(struct queue_vfs_backfill *b)
{
	free(b->map);
	*b = (struct queue_vfs_backfill){ 0 };
}

static void read_header(struct queue_vfs_backfill *b, const uint8_t *page, size_t n)
{
	if (n < HEADER_BYTES || be32_at(page + HEADER_MAX_ROOT) == 0 ||
		be32_at(page + HEADER_N_FREE) == 0 || be32_at(page + HEADER_N_PAGES) >= MAX_PAGE)
		return;
	/* The largest size, 65536, stands there as 1, and is not ours. */
	if (((size_t)page[HEADER_PAGE_SIZE] << 8 | page[HEADER_PAGE_SIZE + 1]) != n)
		return;
	b->map = malloc(n);
	if (!b->map)
		return;
	b->page_size = (uint32_t)n;
	b->usable = b->page_size - page[HEADER_RESERVED];
}

/* The page of the pointer map that has a page's entry; as SQLite computes it. */
static uint32_t map_page_of(const struct queue_vfs_backfill *b, uint32_t page)
{
	uint32_t group = b->usable / MAP_ENTRY + 1;
	uint32_t map_page = (page - 2) / group * group + 2;

	return map_page + (map_page == PENDING_BYTE / b->page_size + 1);
}

static bool is_free(const struct queue_vfs_backfill *b, uint32_t page)
{
	static const uint8_t free_page[MAP_ENTRY] = { 2 };

	return memcmp(b->map + (size_t)MAP_ENTRY * (page - b->map_page - 1), free_page,
		       MAP_ENTRY) == 0;
}

bool queue_vfs_backfill_skips(
	struct queue_vfs_backfill *b, const void *bytes, size_t n, uint64_t offset)
{
	const uint8_t *page = bytes;
	uint32_t number, map_page;

	if (!b->active)
		return false;
	if (b->page_size == 0 && b->last_page == 0 && offset == 0) {
		b->last_page = 1;
		read_header(b, page, n);
		return false;
	}
	number = b->page_size ? (uint32_t)(offset / b->page_size) + 1 : 0;
	if (number <= b->last_page || n != b->page_size || offset % b->page_size != 0) {
		/* Not as expected: this one goes without. */
		queue_vfs_backfill_end(b);
		return false;
	}
	b->last_page = number;
	map_page = map_page_of(b, number);
	if (number == map_page) {
		memcpy(b->map, page, n);
		b->map_page = number;
		return false;
	}
	return b->map_page == map_page && number > map_page && page[0] == PAGE_TABLE_LEAF &&
		is_free(b, number);
}
