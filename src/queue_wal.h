/* SPDX-License-Identifier: MIT */
/*
 * SQLite's write-ahead log, read without SQLite: which frames it would take. Part of the room
 * `queue`.
 */
#pragma once

#include <sys/types.h>

#include "util.h"

#define QUEUE_MAX_PAGE_SIZE    65536
#define QUEUE_WAL_HEADER       32
#define QUEUE_WAL_FRAME_HEADER 24

/* What a frame is checked against: from the header, and of the frames before. */
struct queue_wal {
	bool big_endian;
	uint32_t page_size;
	uint8_t salts[8];
	uint32_t sum[2];
};

bool queue_wal_is_page_size(uint32_t n);
/* Up to `n` bytes; fewer at the end of the file. Their number or -errno. */
ssize_t queue_wal_read_at(int fd, void *buffer, size_t n, uint64_t offset);
/* False: SQLite would take nothing of this log. */
bool queue_wal_header(int fd, struct queue_wal *s);
/* Frames of whole transactions; and the size of the database after the last, in pages. `frame` has
 * room for a frame's header and the largest page. */
uint32_t queue_wal_count(int fd, struct queue_wal s, uint8_t *frame, uint32_t *ret_n_pages);

/*
 * Whether the log of PATH is one that SQLite would take no frame of although it is neither empty
 * nor blank: its header is damaged, and what was committed to it is out of reach. 1, 0 or -errno.
 */
int queue_wal_is_lost(const char *path) _must_check_;
