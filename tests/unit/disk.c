/* SPDX-License-Identifier: MIT */
/*
 * See disk.h.
 */
#include "disk.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

struct disk disk;

/* In place of the C library's. */
int stat(const char *path, struct stat *st)
{
	disk.looks++;
	return fstatat(AT_FDCWD, path, st, 0);
}

/* The real file's object, with what follows it. */
struct tail {
	int flags;
};

static struct tail *tail_of(sqlite3_file *f)
{
	return (struct tail *)((char *)f + disk.real->szOsFile);
}

static bool is_log(sqlite3_file *f)
{
	return (tail_of(f)->flags & SQLITE_OPEN_WAL) != 0;
}

static struct disk_image *image_of(sqlite3_file *f)
{
	if (!disk.keep_images)
		return NULL;
	return is_log(f) ? &disk.log : &disk.database;
}

static void image_resize(struct disk_image *image, size_t size)
{
	image->data = realloc(image->data, size + 1);
	ck_assert_ptr_nonnull(image->data);
	if (size > image->size)
		memset(image->data + image->size, 0, size - image->size);
	image->size = size;
}

static int disk_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 offset)
{
	struct disk_image *image = image_of(f);

	if (is_log(f))
		disk.log_writes++;
	if (is_log(f) && disk.fail_log_write > 0 && --disk.fail_log_write == 0)
		return SQLITE_FULL;
	disk.written += (uint64_t)n;
	if (image) {
		ck_assert_uint_lt(image->n_ranges, DISK_MAX_RANGES);
		image->ranges[image->n_ranges][0] = (size_t)offset;
		image->ranges[image->n_ranges++][1] = (size_t)offset + (size_t)n;
	}
	return disk.real_methods[is_log(f)]->xWrite(f, p, n, offset);
}

static int disk_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	struct disk_image *image = image_of(f);

	if (image && (size_t)size < image->size)
		image_resize(image, (size_t)size);
	return disk.real_methods[is_log(f)]->xTruncate(f, size);
}

static int disk_sync(sqlite3_file *f, int flags)
{
	struct disk_image *image = image_of(f);
	bool fails = disk.fail_syncs > 0;

	(void)flags;
	for (unsigned i = 0; image && !fails && i < image->n_ranges; i++) {
		size_t from = image->ranges[i][0], to = image->ranges[i][1];

		if (to > image->size)
			image_resize(image, to);
		(void)disk.real_methods[is_log(f)]->xRead(
			f, image->data + from, (int)(to - from), (sqlite3_int64)from);
	}
	/* Those that failed are forgotten as if they had been written. */
	if (image)
		image->n_ranges = 0;
	if (fails) {
		disk.fail_syncs--;
		return SQLITE_IOERR_FSYNC;
	}
	disk.syncs++;
	return SQLITE_OK;
}

static int disk_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *ret_flags)
{
	int rc = disk.real->xOpen(disk.real, name, f, flags, ret_flags);

	(void)vfs;
	tail_of(f)->flags = flags;
	if (rc == SQLITE_OK && flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) {
		sqlite3_io_methods *methods = &disk.methods[is_log(f)];

		disk.real_methods[is_log(f)] = f->pMethods;
		*methods = *f->pMethods;
		methods->xWrite = disk_write;
		methods->xTruncate = disk_truncate;
		methods->xSync = disk_sync;
		f->pMethods = methods;
	}
	return rc;
}

void disk_add(void)
{
	memset(&disk, 0, sizeof(disk));
	disk.real = sqlite3_vfs_find(NULL);
	disk.vfs = *disk.real;
	disk.vfs.zName = "disk";
	disk.vfs.szOsFile = disk.real->szOsFile + (int)sizeof(struct tail);
	disk.vfs.xOpen = disk_open;
	ck_assert_int_eq(sqlite3_vfs_register(&disk.vfs, 1), SQLITE_OK);
}

void disk_remove(void)
{
	sqlite3_vfs_unregister(&disk.vfs);
	sqlite3_vfs_register(disk.real, 1);
	free(disk.database.data);
	free(disk.log.data);
}
