/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into the daemon by the soak: a disk that fails and a clock that jumps, when a file says
 * so. The file is a struct control; shim.py writes it, and what it says holds at once.
 *
 *   SOAK_CONTROL  the control file, at least as large as struct control
 *   SOAK_DIR      only files below this directory fail; absolute, without symbolic links
 *
 * With an offset the kernel's clock counts as not synchronised, as after settimeofday(); without
 * one it counts as synchronised, whatever it is on this machine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* shim.py knows the same layout. */
struct control {
	volatile int32_t write_error; /* errno of writes and of making a file longer; 0 for none */
	volatile int32_t sync_error;
	volatile int32_t read_error;
	volatile int32_t failed; /* calls that were made to fail */
	volatile int64_t clock_offset_nsec; /* of CLOCK_REALTIME */
};

static struct control none, *control = &none;
static const char *directory;
static size_t directory_len;

__attribute__((constructor)) static void shim_open(void)
{
	const char *path = getenv("SOAK_CONTROL");
	int fd;

	directory = getenv("SOAK_DIR");
	if (!directory || !path)
		return;
	directory_len = strlen(directory);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
	if (fd < 0)
		abort();
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		abort();
	syscall(SYS_close, fd);
}

/* --- the disk ----------------------------------------------------------------------------------*/

/* Whether a call on this descriptor has to fail with `error`; sets errno. */
static bool fails(int fd, int32_t error)
{
	char link[64], path[PATH_MAX];
	struct stat st;
	ssize_t n;

	if (error == 0 || fd < 0)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	if (strncmp(path, directory, directory_len) != 0 ||
		(path[directory_len] != '/' && path[directory_len] != '\0'))
		return false;
	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return false;
	__atomic_add_fetch(&control->failed, 1, __ATOMIC_RELAXED);
	errno = error;
	return true;
}

ssize_t write(int fd, const void *data, size_t len)
{
	return fails(fd, control->write_error) ? -1 : syscall(SYS_write, fd, data, len);
}

ssize_t writev(int fd, const struct iovec *data, int n)
{
	return fails(fd, control->write_error) ? -1 : syscall(SYS_writev, fd, data, n);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
	return fails(fd, control->write_error) ? -1 : syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	return pwrite64(fd, data, len, offset);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	if (fails(fd, control->write_error))
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

int ftruncate64(int fd, off64_t size)
{
	struct stat st;

	/* Making it shorter needs no room. */
	if (control->write_error && fstat(fd, &st) == 0 && size > st.st_size &&
		fails(fd, control->write_error))
		return -1;
	return (int)syscall(SYS_ftruncate, fd, size);
}

int ftruncate(int fd, off_t size)
{
	return ftruncate64(fd, size);
}

int fsync(int fd)
{
	return fails(fd, control->sync_error) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	return fails(fd, control->sync_error) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

ssize_t pread64(int fd, void *data, size_t len, off64_t offset)
{
	return fails(fd, control->read_error) ? -1 : syscall(SYS_pread64, fd, data, len, offset);
}

ssize_t pread(int fd, void *data, size_t len, off_t offset)
{
	return pread64(fd, data, len, offset);
}

/* --- the clock ---------------------------------------------------------------------------------*/

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	int r = (int)syscall(SYS_clock_gettime, clock, ret);
	int64_t offset = control->clock_offset_nsec, nsec;

	if (r < 0 || offset == 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
		return r;
	nsec = (int64_t)ret->tv_sec * 1000000000 + ret->tv_nsec + offset;
	ret->tv_sec = nsec / 1000000000;
	ret->tv_nsec = nsec % 1000000000;
	return 0;
}

time_t time(time_t *ret)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (ret)
		*ret = now.tv_sec;
	return now.tv_sec;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
	struct timespec now;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	ret->tv_sec = now.tv_sec;
	ret->tv_usec = now.tv_nsec / 1000;
	return 0;
}

/* What systemd-timesyncd has left on this machine says nothing about the daemon's clock. */
int access(const char *path, int mode)
{
	if (strcmp(path, "/run/systemd/timesync/synchronized") == 0) {
		errno = ENOENT;
		return -1;
	}
	return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

/* Only asked, never set. */
int clock_adjtime(clockid_t clock, struct timex *t)
{
	struct timespec now;

	if (t->modes != 0) {
		errno = EPERM;
		return -1;
	}
	clock_gettime(clock, &now);
	memset(t, 0, sizeof(*t));
	t->time.tv_sec = now.tv_sec;
	t->time.tv_usec = now.tv_nsec / 1000;
	t->maxerror = control->clock_offset_nsec ? 16000000 : 1000;
	t->status = control->clock_offset_nsec ? STA_UNSYNC : STA_PLL;
	return control->clock_offset_nsec ? TIME_ERROR : TIME_OK;
}

int adjtimex(struct timex *t)
{
	return clock_adjtime(CLOCK_REALTIME, t);
}

int ntp_adjtime(struct timex *t)
{
	return clock_adjtime(CLOCK_REALTIME, t);
}
