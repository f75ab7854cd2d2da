/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into a program under test: lets calls on the files of one directory fail, or be late,
 * as a file of rules says that may be replaced at any time.
 *
 *   FAULT_DIR    the directory, absolute and without symbolic links
 *   FAULT_RULES  the rule: OPERATIONS SUFFIX ERRNO COUNT DELAY_MSEC, replaced by rename()
 *   FAULT_HITS   gets a line for each call that was hit
 *
 * OPERATIONS are joined by "+": write, sync, read, truncate, allocate, open. SUFFIX is the end of
 * the file's name, or "any". ERRNO 0 only delays. COUNT -1 has no end.
 *
 * Stores and loads through mmap are not seen.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct rule {
	char operations[64];
	char suffix[32];
	int error;
	long count;
	long delay_msec;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *directory, *rules_path, *hits_path;
static size_t directory_len;
static struct rule rule;
static struct stat rule_file;

__attribute__((constructor)) static void fault_open(void)
{
	rules_path = getenv("FAULT_RULES");
	hits_path = getenv("FAULT_HITS");
	directory = rules_path && hits_path ? getenv("FAULT_DIR") : NULL;
	if (directory)
		directory_len = strlen(directory);
}

/* Inodes come again, but not with the same time. */
static bool is_rule_file(const struct stat *st)
{
	return st->st_ino == rule_file.st_ino && st->st_mtim.tv_sec == rule_file.st_mtim.tv_sec &&
		st->st_mtim.tv_nsec == rule_file.st_mtim.tv_nsec;
}

/* Called with the lock held. */
static void read_rule(void)
{
	struct stat st;
	char text[256];
	ssize_t n;
	int fd;

	if (stat(rules_path, &st) < 0 || is_rule_file(&st))
		return;
	fd = (int)syscall(SYS_openat, AT_FDCWD, rules_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	/* The file may have been replaced once more. */
	if (fstat(fd, &st) == 0)
		rule_file = st;
	n = syscall(SYS_read, fd, text, sizeof(text) - 1);
	syscall(SYS_close, fd);
	text[n > 0 ? n : 0] = '\0';
	if (sscanf(text, "%63s %31s %d %ld %ld", rule.operations, rule.suffix, &rule.error,
		    &rule.count, &rule.delay_msec) != 5)
		rule = (struct rule){ .count = 0 };
}

static bool has_word(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = words; at; at = strchr(at, '+')) {
		at += *at == '+';
		if (strncmp(at, word, len) == 0 && (at[len] == '\0' || at[len] == '+'))
			return true;
	}
	return false;
}

static bool has_suffix(const char *path, const char *suffix)
{
	size_t path_len = strlen(path), len = strlen(suffix);

	return strcmp(suffix, "any") == 0 ||
		(path_len >= len && strcmp(path + path_len - len, suffix) == 0);
}

static void note_hit(const char *operation, const char *path)
{
	char line[PATH_MAX + 40];
	int fd, n;

	fd = (int)syscall(SYS_openat, AT_FDCWD, hits_path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (fd < 0)
		return;
	n = snprintf(line, sizeof(line), "%s %s\n", operation, path);
	syscall(SYS_write, fd, line, n);
	syscall(SYS_close, fd);
}

/* Whether this call fails, `errno` is set then. */
static bool is_hit(const char *operation, const char *path)
{
	struct timespec delay = { 0 };
	int saved = errno, error = 0;

	if (strncmp(path, directory, directory_len) != 0 || path[directory_len] != '/')
		return false;
	pthread_mutex_lock(&lock);
	read_rule();
	if (rule.count != 0 && has_word(rule.operations, operation) &&
		has_suffix(path, rule.suffix)) {
		if (rule.count > 0)
			rule.count--;
		error = rule.error;
		delay.tv_sec = rule.delay_msec / 1000;
		delay.tv_nsec = rule.delay_msec % 1000 * 1000000;
		note_hit(operation, path);
	}
	pthread_mutex_unlock(&lock);
	nanosleep(&delay, NULL);
	errno = error ? error : saved;
	return error != 0;
}

static bool is_fd_hit(const char *operation, int fd)
{
	char link[64], path[PATH_MAX];
	int saved = errno;
	ssize_t n;

	if (!directory || fd < 0)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	errno = saved;
	if (n <= 0)
		return false;
	path[n] = '\0';
	return is_hit(operation, path);
}

/* --- open --------------------------------------------------------------------------------------*/

static int do_open(int dirfd, const char *path, int flags, mode_t mode)
{
	/* Whoever opens a queue's file names it in full. */
	if (directory && path[0] == '/' && is_hit("open", path))
		return -1;
	return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

static mode_t mode_argument(int flags, va_list arguments)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define DEFINE_OPEN(name, more_flags)                                       \
	int name(const char *path, int flags, ...)                          \
	{                                                                   \
		va_list arguments;                                          \
		mode_t mode;                                                \
                                                                            \
		va_start(arguments, flags);                                 \
		mode = mode_argument(flags, arguments);                     \
		va_end(arguments);                                          \
		return do_open(AT_FDCWD, path, flags | (more_flags), mode); \
	}

#define DEFINE_OPENAT(name, more_flags)                                  \
	int name(int dirfd, const char *path, int flags, ...)            \
	{                                                                \
		va_list arguments;                                       \
		mode_t mode;                                             \
                                                                         \
		va_start(arguments, flags);                              \
		mode = mode_argument(flags, arguments);                  \
		va_end(arguments);                                       \
		return do_open(dirfd, path, flags | (more_flags), mode); \
	}

DEFINE_OPEN(open, 0)
DEFINE_OPEN(open64, O_LARGEFILE)
DEFINE_OPENAT(openat, 0)
DEFINE_OPENAT(openat64, O_LARGEFILE)

/* What the fortified headers call when there is no mode. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);

int __open_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags | O_LARGEFILE, 0);
}

/* --- contents ----------------------------------------------------------------------------------*/

ssize_t write(int fd, const void *data, size_t len)
{
	if (is_fd_hit("write", fd))
		return -1;
	return syscall(SYS_write, fd, data, len);
}

ssize_t writev(int fd, const struct iovec *data, int n_data)
{
	if (is_fd_hit("write", fd))
		return -1;
	return syscall(SYS_writev, fd, data, n_data);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
	if (is_fd_hit("write", fd))
		return -1;
	return syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	return pwrite64(fd, data, len, offset);
}

ssize_t pread64(int fd, void *data, size_t len, off64_t offset)
{
	if (is_fd_hit("read", fd))
		return -1;
	return syscall(SYS_pread64, fd, data, len, offset);
}

ssize_t pread(int fd, void *data, size_t len, off_t offset)
{
	return pread64(fd, data, len, offset);
}

/* Not interposed: read(). It is hot on sockets, and nobody reads the queue with it. */

int ftruncate64(int fd, off64_t size)
{
	if (is_fd_hit("truncate", fd))
		return -1;
	return (int)syscall(SYS_ftruncate, fd, size);
}

int ftruncate(int fd, off_t size)
{
	return ftruncate64(fd, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	if (is_fd_hit("allocate", fd))
		return -1;
	return (int)syscall(SYS_fallocate, fd, mode, offset, len);
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

int fsync(int fd)
{
	if (is_fd_hit("sync", fd))
		return -1;
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	if (is_fd_hit("sync", fd))
		return -1;
	return (int)syscall(SYS_fdatasync, fd);
}
