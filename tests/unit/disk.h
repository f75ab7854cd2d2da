/* SPDX-License-Identifier: MIT */
/*
 * A layer below SQLite, its default VFS while it is there. It counts, and can make writes and syncs
 * fail; it keeps an image of each file as it would be found after a power cut, on a system that
 * forgets what it could not write. There is one. Calls of stat() are counted, too.
 */
#pragma once

#include <sqlite3.h>

#include "util.h"

#define DISK_MAX_RANGES 65536

/* What would be found after a power cut. */
struct disk_image {
	char *data;
	size_t size;
	size_t ranges[DISK_MAX_RANGES][2]; /* written, not synced: from, to */
	unsigned n_ranges;
};

struct disk {
	sqlite3_vfs vfs, *real;
	/* Of databases and of logs: SQLite has different ones for them. */
	sqlite3_io_methods methods[2];
	const sqlite3_io_methods *real_methods[2];
	uint64_t written, syncs;
	unsigned log_writes;
	unsigned looks; /* stat(), of whatever file */
	unsigned fail_syncs; /* so many fail */
	unsigned
		fail_log_write; /* this one from now, counted from 1, as on a full disk; 0 = none */
	bool keep_images;
	struct disk_image database, log;
};

extern struct disk disk;

/* Before SQLite opens anything, and after it has closed it. */
void disk_add(void);
void disk_remove(void);
