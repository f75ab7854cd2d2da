/* SPDX-License-Identifier: MIT */
/*
 * The layer below a connection: see queue_vfs.h.
 *
 * Invariants:
 * - All that SQLite asks for goes to the VFS below as it is, save for pages that a checkpoint need
 *   not write; only the names of some errors are changed on the way back.
 * - A failed sync of the log never leaves a gap before frames that are synced later. Linux marks
 *   pages as clean whose writing failed, and the next sync says yes without writing them: frames
 *   that waited for it (of removals, which ask for none) would be missing on disk below a commit
 *   that was acknowledged. So what was written since the last good sync is written again first.
 */
#include "queue_vfs.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>

#include "flap.h"
#include "queue_vfs_backfill.h"

struct queue_vfs {
	sqlite3_vfs vfs; /* first: SQLite hands it back */
	sqlite3_vfs *below;
	char name[40];
	uint64_t written_bytes;
	uint64_t syncs;
	uint64_t log_starts;
	int full_errno; /* what the last SQLITE_FULL was about */
	int told; /* the SQLite code last logged */
	struct flap tellings;
};

struct file {
	sqlite3_file base; /* first: SQLite hands it back */
	struct queue_vfs *owner;
	sqlite3_file *below;
	bool counted; /* the database or its log */
	bool is_log;
	bool sync_failed; /* and none was good since */
	/* Written since the last good sync; from == to: nothing. */
	sqlite3_int64 unsynced_from, unsynced_to;
	struct queue_vfs_backfill backfill; /* of the database */
};

static sqlite3_file *below(sqlite3_file *f)
{
	return ((struct file *)f)->below;
}

static sqlite3_vfs *vfs_below(sqlite3_vfs *vfs)
{
	return ((struct queue_vfs *)vfs)->below;
}

/*
 * A quota is no I/O error, nor is a disk without room for the wal-index: SQLite's own VFS knows
 * only ENOSPC of a write.
 */
static int name_error(struct file *file, int rc)
{
	int error = 0;

	if (rc == SQLITE_FULL)
		file->owner->full_errno = ENOSPC;
	if ((rc & 0xff) != SQLITE_IOERR ||
		file->below->pMethods->xFileControl(file->below, SQLITE_FCNTL_LAST_ERRNO, &error) !=
			SQLITE_OK)
		return rc;
	if (error != EDQUOT && error != ENOSPC)
		return rc;
	file->owner->full_errno = error;
	return SQLITE_FULL;
}

/* --- files: what is looked at ---------------------------------------------------------------- */

static void note_unsynced(struct file *file, sqlite3_int64 from, sqlite3_int64 to)
{
	if (file->unsynced_from == file->unsynced_to) {
		file->unsynced_from = from;
		file->unsynced_to = to;
		return;
	}
	if (from < file->unsynced_from)
		file->unsynced_from = from;
	if (to > file->unsynced_to)
		file->unsynced_to = to;
}

/* A page that nobody reads, where the file has a place for it already. */
static bool is_needless(struct file *file, const void *p, int n, sqlite3_int64 offset)
{
	sqlite3_int64 size;

	return queue_vfs_backfill_skips(&file->backfill, p, (size_t)n, (uint64_t)offset) &&
		file->below->pMethods->xFileSize(file->below, &size) == SQLITE_OK &&
		offset + n <= size;
}

static int file_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 offset)
{
	struct file *file = (struct file *)f;
	int rc;

	if (is_needless(file, p, n, offset))
		return SQLITE_OK;
	rc = file->below->pMethods->xWrite(file->below, p, n, offset);
	/* One that failed may have written a part. */
	if (file->is_log)
		note_unsynced(file, offset, offset + n);
	if (file->is_log && offset == 0)
		file->owner->log_starts++;
	if (rc == SQLITE_OK && file->counted)
		file->owner->written_bytes += (uint64_t)n;
	return name_error(file, rc);
}

/* Writes over what is there with what is there, so that the system knows it as not written. */
static int write_again(struct file *file)
{
	const sqlite3_io_methods *m = file->below->pMethods;
	sqlite3_int64 size, offset, end;
	char buffer[16384];
	int rc;

	rc = m->xFileSize(file->below, &size);
	if (rc != SQLITE_OK)
		return rc;
	end = file->unsynced_to < size ? file->unsynced_to : size;
	for (offset = file->unsynced_from; offset < end; offset += (int)sizeof(buffer)) {
		sqlite3_int64 left = end - offset;
		int n = left < (int)sizeof(buffer) ? (int)left : (int)sizeof(buffer);

		rc = m->xRead(file->below, buffer, n, offset);
		if (rc == SQLITE_OK)
			rc = m->xWrite(file->below, buffer, n, offset);
		if (rc != SQLITE_OK)
			return rc;
		file->owner->written_bytes += (uint64_t)n;
	}
	return SQLITE_OK;
}

static int file_sync(sqlite3_file *f, int flags)
{
	struct file *file = (struct file *)f;
	int rc;

	if (file->sync_failed && file->is_log) {
		rc = write_again(file);
		if (rc != SQLITE_OK)
			return rc;
	}
	rc = file->below->pMethods->xSync(file->below, flags);
	file->sync_failed = rc != SQLITE_OK;
	if (rc != SQLITE_OK)
		return rc;
	file->unsynced_from = file->unsynced_to = 0;
	if (file->counted)
		file->owner->syncs++;
	return SQLITE_OK;
}

static int file_close(sqlite3_file *f)
{
	struct file *file = (struct file *)f;
	int rc = file->below->pMethods->xClose(file->below);

	sqlite3_free(file->below);
	file->below = NULL;
	queue_vfs_backfill_end(&file->backfill);
	return rc;
}

/* SQLite says when a checkpoint begins and ends to write pages. */
static int file_control(sqlite3_file *f, int op, void *arg)
{
	struct file *file = (struct file *)f;

	if (op == SQLITE_FCNTL_CKPT_START)
		queue_vfs_backfill_begin(&file->backfill);
	else if (op == SQLITE_FCNTL_CKPT_DONE)
		queue_vfs_backfill_end(&file->backfill);
	return file->below->pMethods->xFileControl(file->below, op, arg);
}

/* --- files: what is handed on ---------------------------------------------------------------- */

static int file_read(sqlite3_file *f, void *p, int n, sqlite3_int64 offset)
{
	int rc = below(f)->pMethods->xRead(below(f), p, n, offset);

	/* SQLite's own VFS calls EIO a corrupt file system, which reaches the caller as
	 * SQLITE_CORRUPT: a disk that fails for a moment would pass for rot. */
	return rc == SQLITE_IOERR_CORRUPTFS ? SQLITE_IOERR_READ : rc;
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	return name_error((struct file *)f, below(f)->pMethods->xTruncate(below(f), size));
}

static int file_size(sqlite3_file *f, sqlite3_int64 *ret)
{
	return below(f)->pMethods->xFileSize(below(f), ret);
}

static int file_lock(sqlite3_file *f, int level)
{
	return below(f)->pMethods->xLock(below(f), level);
}

static int file_unlock(sqlite3_file *f, int level)
{
	return below(f)->pMethods->xUnlock(below(f), level);
}

static int file_check_lock(sqlite3_file *f, int *ret)
{
	return below(f)->pMethods->xCheckReservedLock(below(f), ret);
}

static int file_sector_size(sqlite3_file *f)
{
	return below(f)->pMethods->xSectorSize(below(f));
}

static int file_characteristics(sqlite3_file *f)
{
	return below(f)->pMethods->xDeviceCharacteristics(below(f));
}

static int file_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **ret)
{
	int rc;

	errno = 0;
	rc = below(f)->pMethods->xShmMap(below(f), region, size, extend, ret);
	/* Its file is not the one whose last error is known. */
	if (rc != SQLITE_IOERR_SHMSIZE || (errno != ENOSPC && errno != EDQUOT))
		return rc;
	((struct file *)f)->owner->full_errno = errno;
	return SQLITE_FULL;
}

static int file_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
	return below(f)->pMethods->xShmLock(below(f), offset, n, flags);
}

static void file_shm_barrier(sqlite3_file *f)
{
	below(f)->pMethods->xShmBarrier(below(f));
}

static int file_shm_unmap(sqlite3_file *f, int delete_flag)
{
	return below(f)->pMethods->xShmUnmap(below(f), delete_flag);
}

static int file_fetch(sqlite3_file *f, sqlite3_int64 offset, int n, void **ret)
{
	return below(f)->pMethods->xFetch(below(f), offset, n, ret);
}

static int file_unfetch(sqlite3_file *f, sqlite3_int64 offset, void *p)
{
	return below(f)->pMethods->xUnfetch(below(f), offset, p);
}

#define METHODS_1                                                                          \
	.xClose = file_close, .xRead = file_read, .xWrite = file_write,                    \
	.xTruncate = file_truncate, .xSync = file_sync, .xFileSize = file_size,            \
	.xLock = file_lock, .xUnlock = file_unlock, .xCheckReservedLock = file_check_lock, \
	.xFileControl = file_control, .xSectorSize = file_sector_size,                     \
	.xDeviceCharacteristics = file_characteristics
#define METHODS_2                                                      \
	METHODS_1, .xShmMap = file_shm_map, .xShmLock = file_shm_lock, \
		   .xShmBarrier = file_shm_barrier, .xShmUnmap = file_shm_unmap

/* By version: a layer offers what the file below has, no more. */
static const sqlite3_io_methods methods[] = {
	{ .iVersion = 1, METHODS_1 },
	{ .iVersion = 2, METHODS_2 },
	{ .iVersion = 3, METHODS_2, .xFetch = file_fetch, .xUnfetch = file_unfetch },
};

/* --- the VFS --------------------------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *ret_flags)
{
	struct queue_vfs *v = (struct queue_vfs *)vfs;
	struct file *file = (struct file *)f;
	int rc, version;

	memset(file, 0, sizeof(*file));
	file->below = sqlite3_malloc(v->below->szOsFile);
	if (!file->below)
		return SQLITE_NOMEM;
	memset(file->below, 0, (size_t)v->below->szOsFile);
	rc = v->below->xOpen(v->below, name, file->below, flags, ret_flags);
	if (!file->below->pMethods) {
		/* SQLite will not close it. */
		sqlite3_free(file->below);
		file->below = NULL;
		return rc;
	}
	version = file->below->pMethods->iVersion;
	file->owner = v;
	file->counted = (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) != 0;
	file->is_log = (flags & SQLITE_OPEN_WAL) != 0;
	file->base.pMethods = &methods[(version > 3 ? 3 : version) - 1];
	return rc;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_directory)
{
	return vfs_below(vfs)->xDelete(vfs_below(vfs), name, sync_directory);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret)
{
	return vfs_below(vfs)->xAccess(vfs_below(vfs), name, flags, ret);
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *name, int n, char *ret)
{
	return vfs_below(vfs)->xFullPathname(vfs_below(vfs), name, n, ret);
}

static int vfs_randomness(sqlite3_vfs *vfs, int n, char *ret)
{
	return vfs_below(vfs)->xRandomness(vfs_below(vfs), n, ret);
}

static int vfs_sleep(sqlite3_vfs *vfs, int usec)
{
	return vfs_below(vfs)->xSleep(vfs_below(vfs), usec);
}

static int vfs_current_time(sqlite3_vfs *vfs, double *ret)
{
	return vfs_below(vfs)->xCurrentTime(vfs_below(vfs), ret);
}

static int vfs_get_last_error(sqlite3_vfs *vfs, int n, char *ret)
{
	return vfs_below(vfs)->xGetLastError(vfs_below(vfs), n, ret);
}

static int vfs_current_time_int64(sqlite3_vfs *vfs, sqlite3_int64 *ret)
{
	return vfs_below(vfs)->xCurrentTimeInt64(vfs_below(vfs), ret);
}

/* NULL for a connection without one. */
static struct queue_vfs *layer_of(struct sqlite3 *db)
{
	sqlite3_vfs *vfs = NULL;

	if (!db || sqlite3_file_control(db, "main", SQLITE_FCNTL_VFS_POINTER, &vfs) != SQLITE_OK)
		return NULL;
	return vfs && vfs->xOpen == vfs_open ? (struct queue_vfs *)vfs : NULL;
}

bool queue_vfs_tells(struct sqlite3 *db, int rc)
{
	struct queue_vfs *v = layer_of(db);
	struct flap_told told;

	if (!v)
		return true;
	if (v->told != rc)
		v->tellings = (struct flap){ 0 };
	v->told = rc;
	return flap_occurred(&v->tellings, 1, 0, now_boot_usec(), &told) != FLAP_QUIET;
}

int queue_vfs_full_errno(struct sqlite3 *db)
{
	const struct queue_vfs *v = layer_of(db);

	return v && v->full_errno ? v->full_errno : ENOSPC;
}

/*
 * For the caches of the gateway's connection, the uplink's and one that answers mqttgwctl; with
 * fewer than ten to spare SQLite makes do with smaller caches. Others take the rest from the heap.
 */
#define CACHED_PAGES 144
#define PAGE	     4096
#define PAGE_EXTRA   512 /* at most, that SQLite keeps with each */

/*
 * SQLite would count its memory, under a lock that all connections share, at each allocation. And
 * it would take the pages of its caches from the heap, again and again: whenever it does, glibc
 * merges all small pieces that are free in that thread's arena. libmosquitto's list of what is in
 * flight, which it walks twice for each message, would then end up all over the memory, and take
 * half as long again to walk. None of it has an effect, nor does harm, once somebody has used
 * SQLite before.
 */
static void configure(void)
{
	static _Alignas(16) uint8_t pages[CACHED_PAGES * (PAGE + PAGE_EXTRA)];
	int extra = 0;

	(void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
	if (sqlite3_config(SQLITE_CONFIG_PCACHE_HDRSZ, &extra) == SQLITE_OK &&
		extra <= PAGE_EXTRA - 8)
		(void)sqlite3_config(
			SQLITE_CONFIG_PAGECACHE, pages, (PAGE + extra + 7) / 8 * 8, CACHED_PAGES);
}

int queue_vfs_new(struct queue_vfs **ret)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct queue_vfs *v;

	(void)pthread_once(&once, configure);
	if (sqlite3_initialize() != SQLITE_OK)
		return -EIO;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->below = sqlite3_vfs_find(NULL);
	if (!v->below) {
		free(v);
		return -EIO;
	}
	snprintf(v->name, sizeof(v->name), "mqttgw-queue-%p", (void *)v);
	/* Extensions and replaced system calls (version 3) are not for this connection. */
	v->vfs = (sqlite3_vfs){
		.iVersion = v->below->iVersion < 2 ? 1 : 2,
		.szOsFile = (int)sizeof(struct file),
		.mxPathname = v->below->mxPathname,
		.zName = v->name,
		.xOpen = vfs_open,
		.xDelete = vfs_delete,
		.xAccess = vfs_access,
		.xFullPathname = vfs_full_pathname,
		.xRandomness = vfs_randomness,
		.xSleep = vfs_sleep,
		.xCurrentTime = vfs_current_time,
		.xGetLastError = vfs_get_last_error,
		.xCurrentTimeInt64 = vfs_current_time_int64,
	};
	if (sqlite3_vfs_register(&v->vfs, 0) != SQLITE_OK) {
		free(v);
		return -EIO;
	}
	*ret = v;
	return 0;
}

struct queue_vfs *queue_vfs_free(struct queue_vfs *v)
{
	if (!v)
		return NULL;
	sqlite3_vfs_unregister(&v->vfs);
	free(v);
	return NULL;
}

const char *queue_vfs_name(const struct queue_vfs *v)
{
	return v->name;
}

uint64_t queue_vfs_written_bytes(const struct queue_vfs *v)
{
	return v->written_bytes;
}

uint64_t queue_vfs_syncs(const struct queue_vfs *v)
{
	return v->syncs;
}

uint64_t queue_vfs_log_starts(const struct queue_vfs *v)
{
	return v->log_starts;
}
