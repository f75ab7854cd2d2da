/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into a program under test: writes down, in order, every call that changes a file below
 * one directory, and every acknowledgement before it leaves on a Unix stream socket. images.py
 * rebuilds from that what a power cut could have left at each moment.
 *
 *   RECORD_DIR   the directory, absolute and without symbolic links
 *   RECORD_LOG   the log; appended to, so that several runs of the program make one recording
 *   RECORD_KILL  after so many records of this process it is killed (SIGKILL), exactly there
 *   RECORD_FAIL  "FIRST:COUNT": so many of this process's syncs, from that one on (the first is 1),
 *                fail with EIO; what they were to bring to the disk stays where it is
 *
 * One mutex is held around each call and its record: the log's order is the order of the effects.
 * Only syncs run outside of it, between a "begin" and an "end" record. Nothing is remembered about
 * descriptors; /proc says which file one stands for. Stores through mmap are not seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RECORD_MAGIC UINT32_C(0x6d716377)
#define ACK_WORD     "queued"

/* images.py knows the same numbers. */
enum record_kind {
	RECORD_CREATE = 1, /* a name and an empty file behind it */
	RECORD_WRITE, /* data at offset */
	RECORD_SIZE, /* the file's size becomes offset */
	RECORD_GROW, /* the file's size becomes at least offset */
	RECORD_SYNC_BEGIN,
	RECORD_SYNC_END, /* offset pairs it with its begin */
	RECORD_UNLINK,
	RECORD_RENAME, /* data is the new name */
	RECORD_ACK, /* data is what is being sent */
	RECORD_SYNC_FAILED, /* as RECORD_SYNC_END */
	RECORD_LINK, /* data is the second name */
};

struct record {
	uint32_t magic;
	uint32_t kind;
	uint64_t inode;
	uint64_t offset;
	uint64_t time_nsec; /* CLOCK_MONOTONIC */
	uint32_t pid;
	uint32_t path_len;
	uint64_t data_len;
	/* path and data follow */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *directory;
static size_t directory_len;
static int log_fd = -1;
static long records_left = -1; /* -1: no limit */
static uint64_t syncs;
static uint64_t fail_first, fail_count;

__attribute__((constructor)) static void record_open(void)
{
	const char *path = getenv("RECORD_LOG");
	const char *kill_after = getenv("RECORD_KILL");
	const char *fail = getenv("RECORD_FAIL");
	int fd;

	directory = getenv("RECORD_DIR");
	if (!directory || !path)
		return;
	directory_len = strlen(directory);
	fd = (int)syscall(
		SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	/* Out of the way of the program's own, low numbers. */
	log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 400);
	syscall(SYS_close, fd);
	if (kill_after)
		records_left = atol(kill_after);
	if (fail && sscanf(fail, "%" SCNu64 ":%" SCNu64, &fail_first, &fail_count) != 2)
		abort();
}

/* Called with the lock held. */
static void record(enum record_kind kind, uint64_t inode, const char *path, uint64_t offset,
	const struct iovec *data, int n_data)
{
	struct record head = {
		.magic = RECORD_MAGIC, .kind = kind, .inode = inode, .offset = offset
	};
	struct iovec parts[2 + IOV_MAX / 2];
	struct timespec now;
	int n = 2;

	if (log_fd < 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	head.time_nsec = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	head.pid = (uint32_t)getpid();
	head.path_len = (uint32_t)strlen(path);
	for (int i = 0; i < n_data && n < (int)(sizeof(parts) / sizeof(parts[0])); i++) {
		parts[n++] = data[i];
		head.data_len += data[i].iov_len;
	}
	parts[0] = (struct iovec){ &head, sizeof(head) };
	parts[1] = (struct iovec){ (void *)path, head.path_len };
	/* Appended in one call, hence whole whatever happens to the process. */
	syscall(SYS_writev, log_fd, parts, n);

	if (records_left > 0 && --records_left == 0)
		syscall(SYS_kill, getpid(), SIGKILL);
}

static void record_simple(enum record_kind kind, uint64_t inode, const char *path, uint64_t offset)
{
	record(kind, inode, path, offset, NULL, 0);
}

static bool is_inside(const char *path)
{
	return strncmp(path, directory, directory_len) == 0 && path[directory_len] == '/';
}

/* The file behind a descriptor, when it is a regular file or directory that we record. */
static bool recorded_fd(int fd, char path[PATH_MAX], uint64_t *ret_inode)
{
	char link[64];
	struct stat st;
	ssize_t n;

	if (log_fd < 0 || fd < 0)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, PATH_MAX - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	if (!is_inside(path) && strcmp(path, directory) != 0)
		return false;
	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return false;
	*ret_inode = st.st_ino;
	return true;
}

/* The absolute form of a path, when it is below the directory. */
static bool recorded_path(int dirfd, const char *path, char absolute[PATH_MAX])
{
	char link[64], base[PATH_MAX / 2];
	ssize_t n;

	if (log_fd < 0)
		return false;
	if (path[0] == '/') {
		snprintf(absolute, PATH_MAX, "%s", path);
		return is_inside(absolute);
	}
	if (dirfd == AT_FDCWD)
		snprintf(link, sizeof(link), "/proc/self/cwd");
	else
		snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
	n = readlink(link, base, sizeof(base) - 1);
	if (n <= 0)
		return false;
	base[n] = '\0';
	snprintf(absolute, PATH_MAX, "%s/%.2000s", base, path);
	return is_inside(absolute);
}

/* --- names -------------------------------------------------------------------------------------*/

static int do_open(int dirfd, const char *path, int flags, mode_t mode)
{
	char absolute[PATH_MAX], found[PATH_MAX];
	bool existed;
	uint64_t inode;
	int fd, error;

	if (!(flags & (O_CREAT | O_TRUNC)) || !recorded_path(dirfd, path, absolute))
		return (int)syscall(SYS_openat, dirfd, path, flags, mode);

	pthread_mutex_lock(&lock);
	existed = faccessat(dirfd, path, F_OK, 0) == 0;
	fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
	error = errno;
	if (fd >= 0 && recorded_fd(fd, found, &inode)) {
		if (!existed)
			record_simple(RECORD_CREATE, inode, found, 0);
		else if (flags & O_TRUNC)
			record_simple(RECORD_SIZE, inode, found, 0);
	}
	pthread_mutex_unlock(&lock);
	errno = error;
	return fd;
}

static mode_t mode_argument(int flags, va_list arguments)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = mode_argument(flags, arguments);
	va_end(arguments);
	return do_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = mode_argument(flags, arguments);
	va_end(arguments);
	return do_open(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int dirfd, const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = mode_argument(flags, arguments);
	va_end(arguments);
	return do_open(dirfd, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = mode_argument(flags, arguments);
	va_end(arguments);
	return do_open(dirfd, path, flags | O_LARGEFILE, mode);
}

/* What the fortified headers call when there is no mode. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);

int __open_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags | O_LARGEFILE, 0);
}

int __openat_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags, 0);
}

int __openat64_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags | O_LARGEFILE, 0);
}

int creat(const char *path, mode_t mode)
{
	return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode)
{
	return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC | O_LARGEFILE, mode);
}

int unlinkat(int dirfd, const char *path, int flags)
{
	char absolute[PATH_MAX];
	int r, error;

	if (!recorded_path(dirfd, path, absolute))
		return (int)syscall(SYS_unlinkat, dirfd, path, flags);
	pthread_mutex_lock(&lock);
	r = (int)syscall(SYS_unlinkat, dirfd, path, flags);
	error = errno;
	if (r == 0)
		record_simple(RECORD_UNLINK, 0, absolute, 0);
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
	char old_name[PATH_MAX], new_name[PATH_MAX];
	struct iovec data;
	int r, error;

	/* Both are looked at: a relative one is completed. */
	bool inside = recorded_path(from_fd, from, old_name);
	inside = recorded_path(to_fd, to, new_name) || inside;

	if (!inside)
		return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	if (flags & ~RENAME_NOREPLACE) {
		/* Exchanges are not modelled. */
		errno = EINVAL;
		return -1;
	}
	pthread_mutex_lock(&lock);
	r = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	error = errno;
	if (r == 0) {
		data = (struct iovec){ new_name, strlen(new_name) };
		record(RECORD_RENAME, 0, old_name, 0, &data, 1);
	}
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
	return renameat2(from_fd, from, to_fd, to, 0);
}

int rename(const char *from, const char *to)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
	char old_name[PATH_MAX], new_name[PATH_MAX];
	struct iovec data;
	int r, error;

	bool inside = recorded_path(from_fd, from, old_name);
	inside = recorded_path(to_fd, to, new_name) || inside;

	if (!inside)
		return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
	pthread_mutex_lock(&lock);
	r = (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
	error = errno;
	if (r == 0) {
		data = (struct iovec){ new_name, strlen(new_name) };
		record(RECORD_LINK, 0, old_name, 0, &data, 1);
	}
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

int link(const char *from, const char *to)
{
	return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* --- contents ----------------------------------------------------------------------------------*/

/* Where a write without an offset goes. */
static off_t write_offset(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return lseek(fd, 0, flags >= 0 && (flags & O_APPEND) ? SEEK_END : SEEK_CUR);
}

/* `offset` is -1 for the file's own position. */
static ssize_t file_write(int fd, const char *path, uint64_t inode, const struct iovec *data,
	int n_data, off_t offset)
{
	struct iovec kept[IOV_MAX / 2];
	ssize_t r, left;
	off_t at;
	int error, n = 0;

	if (n_data > (int)(sizeof(kept) / sizeof(kept[0]))) {
		errno = EINVAL;
		return -1;
	}
	pthread_mutex_lock(&lock);
	at = offset >= 0 ? offset : write_offset(fd);
	if (offset >= 0)
		r = syscall(
			SYS_pwritev, fd, data, (long)n_data, (long)offset, (long)(offset >> 32));
	else
		r = syscall(SYS_writev, fd, data, n_data);
	error = errno;
	for (left = r; left > 0 && n < n_data; n++) {
		kept[n] = data[n];
		if ((size_t)left < kept[n].iov_len)
			kept[n].iov_len = (size_t)left;
		left -= (ssize_t)kept[n].iov_len;
	}
	if (r > 0)
		record(RECORD_WRITE, inode, path, (uint64_t)at, kept, n);
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

/* A local client's connection: that is where acknowledgements leave. */
static bool is_client(int fd)
{
	int value = 0;
	socklen_t len = sizeof(value);

	if (log_fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &len) < 0 ||
		value != AF_UNIX)
		return false;
	len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &len) == 0 && value == SOCK_STREAM;
}

/* Before it leaves: what the client may have seen is never missing in the log. */
static void note_sending(int fd, const struct iovec *data, int n_data)
{
	int error = errno;
	bool found = false;

	if (log_fd < 0)
		return;
	for (int i = 0; i < n_data && !found; i++)
		found = memmem(data[i].iov_base, data[i].iov_len, ACK_WORD, strlen(ACK_WORD));
	if (found && is_client(fd)) {
		pthread_mutex_lock(&lock);
		record(RECORD_ACK, 0, "", 0, data, n_data);
		pthread_mutex_unlock(&lock);
	}
	errno = error;
}

static ssize_t do_write(int fd, const struct iovec *data, int n_data, off_t offset)
{
	char path[PATH_MAX];
	uint64_t inode;

	if (recorded_fd(fd, path, &inode))
		return file_write(fd, path, inode, data, n_data, offset);
	if (offset >= 0)
		return syscall(
			SYS_pwritev, fd, data, (long)n_data, (long)offset, (long)(offset >> 32));
	note_sending(fd, data, n_data);
	return syscall(SYS_writev, fd, data, n_data);
}

ssize_t write(int fd, const void *data, size_t len)
{
	struct iovec part = { (void *)data, len };

	return do_write(fd, &part, 1, -1);
}

ssize_t writev(int fd, const struct iovec *data, int n_data)
{
	return do_write(fd, data, n_data, -1);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	struct iovec part = { (void *)data, len };

	return do_write(fd, &part, 1, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
	struct iovec part = { (void *)data, len };

	return do_write(fd, &part, 1, offset);
}

ssize_t pwritev(int fd, const struct iovec *data, int n_data, off_t offset)
{
	return do_write(fd, data, n_data, offset);
}

ssize_t pwritev64(int fd, const struct iovec *data, int n_data, off64_t offset)
{
	return do_write(fd, data, n_data, offset);
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
	struct iovec part = { (void *)data, len };

	note_sending(fd, &part, 1);
	return syscall(SYS_sendto, fd, data, len, flags, NULL, 0);
}

ssize_t sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to,
	socklen_t to_len)
{
	struct iovec part = { (void *)data, len };

	note_sending(fd, &part, 1);
	return syscall(SYS_sendto, fd, data, len, flags, to, to_len);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	note_sending(fd, message->msg_iov, (int)message->msg_iovlen);
	return syscall(SYS_sendmsg, fd, message, flags);
}

int ftruncate64(int fd, off64_t size)
{
	char path[PATH_MAX];
	uint64_t inode;
	int r, error;

	if (!recorded_fd(fd, path, &inode))
		return (int)syscall(SYS_ftruncate, fd, size);
	pthread_mutex_lock(&lock);
	r = (int)syscall(SYS_ftruncate, fd, size);
	error = errno;
	if (r == 0)
		record_simple(RECORD_SIZE, inode, path, (uint64_t)size);
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

int ftruncate(int fd, off_t size)
{
	return ftruncate64(fd, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	char path[PATH_MAX];
	uint64_t inode;
	int r, error;

	if (!recorded_fd(fd, path, &inode))
		return (int)syscall(SYS_fallocate, fd, mode, offset, len);
	if (mode & ~FALLOC_FL_KEEP_SIZE) {
		/* Holes and the like are not modelled; programs have a way without them. */
		errno = EOPNOTSUPP;
		return -1;
	}
	pthread_mutex_lock(&lock);
	r = (int)syscall(SYS_fallocate, fd, mode, offset, len);
	error = errno;
	if (r == 0 && mode == 0)
		record_simple(RECORD_GROW, inode, path, (uint64_t)(offset + len));
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
	return fallocate64(fd, mode, offset, len);
}

int posix_fallocate64(int fd, off64_t offset, off64_t len)
{
	int saved = errno;
	int r = fallocate64(fd, 0, offset, len) < 0 ? errno : 0;

	errno = saved;
	return r;
}

int posix_fallocate(int fd, off_t offset, off_t len)
{
	return posix_fallocate64(fd, offset, len);
}

/* --- syncs -------------------------------------------------------------------------------------*/

static int do_sync(int fd, long number)
{
	char path[PATH_MAX];
	uint64_t inode, pair;
	int r = -1, error = EIO;

	if (!recorded_fd(fd, path, &inode))
		return (int)syscall(number, fd);
	pthread_mutex_lock(&lock);
	pair = ++syncs;
	record_simple(RECORD_SYNC_BEGIN, inode, path, pair);
	pthread_mutex_unlock(&lock);

	if (pair < fail_first || pair - fail_first >= fail_count) {
		r = (int)syscall(number, fd);
		error = errno;
	}

	pthread_mutex_lock(&lock);
	record_simple(r == 0 ? RECORD_SYNC_END : RECORD_SYNC_FAILED, inode, path, pair);
	pthread_mutex_unlock(&lock);
	errno = error;
	return r;
}

int fsync(int fd)
{
	return do_sync(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return do_sync(fd, SYS_fdatasync);
}

/* The log's descriptor is not the program's to close. */
int close(int fd)
{
	if (fd >= 0 && fd == log_fd) {
		errno = EBADF;
		return -1;
	}
	return (int)syscall(SYS_close, fd);
}
