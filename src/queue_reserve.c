/* SPDX-License-Identifier: MIT */
/*
 * The reserve file: space that is ours already when the disk is full. Removals need some, too: they
 * are written to the log first. Given up, it lets them be committed, and the log be moved to the
 * database, after which the log's own space serves the next ones.
 *
 * Owns PATH.reserve. Invariant: while has_reserve, its blocks are allocated.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "queue_internal.h"

/* Room for the log's frames in the database, and for as much of the log again. */
#define RESERVE_BYTES	    (UINT64_C(8) << 20)
#define RESERVE_LEAST_BYTES (UINT64_C(256) << 10)
#define RESERVE_PART	    16 /* of max_bytes */
#define RESERVE_DISK_PART   8 /* of the file system */
#define VACUUM_PAGES	    256 /* as many as fit the cache */
#define VACUUM_LEAST_PAGES  64
#define VACUUM_STEPS	    8 /* of one call */
/* With less than that left, giving pages back would fail as well: it goes through the log. */
#define VACUUM_LEAST_BYTES (UINT64_C(256) << 10)

uint64_t queue_reserve_bytes(const struct queue *q)
{
	uint64_t bytes = RESERVE_BYTES;
	struct statvfs st;

	if (q->params.max_bytes)
		bytes = u64_min(bytes, q->params.max_bytes / RESERVE_PART);
	if (statvfs(q->params.path, &st) == 0)
		bytes = u64_min(bytes, (uint64_t)st.f_blocks * st.f_frsize / RESERVE_DISK_PART);
	return u64_max(bytes, RESERVE_LEAST_BYTES);
}

static char *reserve_path(const struct queue *q)
{
	char *path;

	return asprintf(&path, "%s.reserve", q->params.path) < 0 ? NULL : path;
}

static int write_zeros(int fd, uint64_t size)
{
	static const char zeros[65536];

	for (uint64_t at = 0; at < size;) {
		ssize_t n = pwrite(fd, zeros, (size_t)u64_min(sizeof(zeros), size - at), (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		at += (uint64_t)n;
	}
	/* Blocks may be chosen no sooner than now. */
	return fdatasync(fd) < 0 ? -errno : 0;
}

static int allocate(int fd, uint64_t size)
{
	int r;

	do {
		r = fallocate(fd, 0, 0, (off_t)size) < 0 ? -errno : 0;
	} while (r == -EINTR);
	return r == -EOPNOTSUPP || r == -ENOSYS ? write_zeros(fd, size) : r;
}

/*
 * Whether the file may be made. With it the disk must not be full again: messages would be accepted
 * only to be refused.
 */
static int check_room(const struct queue *q, uint64_t size)
{
	struct statvfs st;

	if (statvfs(q->params.path, &st) < 0)
		return -errno;
	return (uint64_t)st.f_bavail * st.f_frsize < size + size / 2 ? -ENOSPC : 0;
}

/* One of a former process, of the same size. */
static bool is_filled(int fd, uint64_t size)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == size &&
		(uint64_t)st.st_blocks * 512 >= size;
}

static void drop(int fd, const char *path)
{
	/* Its blocks are free once that is on disk; unlinking alone may leave it for later. */
	if (ftruncate(fd, 0) == 0)
		(void)fsync(fd);
	(void)unlink(path);
}

/* The file, if it is one of ours; else -errno. */
static int open_reserve(const char *path, int flags)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | flags, 0600);

	return fd < 0 ? -errno : fd;
}

static int make(struct queue *q)
{
	_cleanup_(freep) char *path = reserve_path(q);
	_cleanup_(closep) int fd = -1;
	uint64_t size = queue_reserve_bytes(q);
	int r;

	if (!path)
		return -ENOMEM;
	fd = open_reserve(path, 0);
	if (fd >= 0 && is_filled(fd, size))
		return 0;
	r = check_room(q, size);
	if (r < 0)
		return r;
	if (fd == -ENOENT)
		fd = open_reserve(path, O_CREAT | O_EXCL);
	if (fd < 0)
		return fd;
	r = ftruncate(fd, 0) < 0 ? -errno : allocate(fd, size);
	if (r < 0)
		drop(fd, path);
	return r == -EDQUOT ? -ENOSPC : r;
}

/* The disk is full, and we may be what fills it: free pages go back to the file system. True when
 * some did. */
static bool make_room(struct queue *q)
{
	struct statvfs st;
	uint64_t left;

	if (q->space.free_pages < VACUUM_LEAST_PAGES || statvfs(q->params.path, &st) < 0)
		return false;
	left = (uint64_t)st.f_bavail * st.f_frsize;
	if (left < VACUUM_LEAST_BYTES) {
		/* The log's own blocks do as well, once what is in them is in the database. */
		queue_log_move(q);
		left += q->log.in_database ? q->log.bytes : 0;
	}
	if (left < VACUUM_LEAST_BYTES)
		return false;
	return queue_space_vacuum(q, VACUUM_PAGES) == 0 && queue_log_truncate(q, 0) == 0;
}

int queue_refill_reserve(struct queue *q)
{
	int r;

	if (q->has_reserve)
		return 0;
	r = make(q);
	for (unsigned n = 0; n < VACUUM_STEPS && r == -ENOSPC && make_room(q); n++)
		r = make(q);
	q->has_reserve = r == 0;
	return r;
}

bool queue_drop_reserve(struct queue *q)
{
	_cleanup_(freep) char *path = reserve_path(q);
	_cleanup_(closep) int fd = path ? open_reserve(path, 0) : -ENOMEM;

	q->has_reserve = false;
	if (fd < 0)
		return false;
	drop(fd, path);
	return true;
}

bool queue_give_up_reserve(struct queue *q)
{
	if (!q->has_reserve || !queue_drop_reserve(q))
		return false;
	/* The database takes of it what it needs for the log's frames before anything is added to
	 * these: else the log could take all of it, and never be moved. */
	queue_log_restart(q);
	return true;
}

bool queue_has_reserve(const struct queue *q)
{
	return q->has_reserve;
}
