/* SPDX-License-Identifier: MIT */
/*
 * A preload library: the time of day is what the test says, and so is whether it is synchronised.
 * All other clocks go on, as they do when somebody sets the real one.
 *
 * MQTTGW_CLOCK names a file of three 64-bit integers, which clock.py changes at any time: what is
 * added to CLOCK_REALTIME, in milliseconds; what adjtimex() says, 1 synchronised, 0 not, -1 the
 * call is refused; whether systemd-timesyncd's file is there.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define TIMESYNC_PATH "/run/systemd/timesync/synchronized"

struct shared {
	volatile int64_t offset_msec;
	volatile int64_t synchronised;
	volatile int64_t file;
};

static struct shared nothing;
static struct shared *shared = &nothing;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_access)(const char *, int);

static void find(void *ret, const char *name)
{
	void *symbol = dlsym(RTLD_NEXT, name);

	memcpy(ret, &symbol, sizeof(symbol));
}

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("MQTTGW_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *map = MAP_FAILED;

	find(&real_clock_gettime, "clock_gettime");
	find(&real_access, "access");
	if (fd >= 0) {
		map = mmap(NULL, sizeof(*shared), PROT_READ, MAP_SHARED, fd, 0);
		close(fd);
	}
	if (map == MAP_FAILED)
		abort(); /* a test without the clock it asked for proves nothing */
	shared = map;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	int64_t nsec;
	int r;

	if (!real_clock_gettime)
		find(&real_clock_gettime, "clock_gettime");
	r = real_clock_gettime(clock, ts);
	if (r == 0 && clock == CLOCK_REALTIME) {
		nsec = ts->tv_nsec + shared->offset_msec % 1000 * 1000000;
		ts->tv_sec += shared->offset_msec / 1000;
		ts->tv_sec += nsec >= 1000000000 ? 1 : nsec < 0 ? -1 : 0;
		ts->tv_nsec = nsec >= 1000000000 ? nsec - 1000000000
			: nsec < 0		 ? nsec + 1000000000
						 : nsec;
	}
	return r;
}

int adjtimex(struct timex *t)
{
	int64_t synchronised = shared->synchronised;

	if (t->modes != 0 || synchronised < 0) {
		errno = EPERM;
		return -1;
	}
	memset(t, 0, sizeof(*t));
	t->status = synchronised ? STA_PLL : STA_UNSYNC;
	return synchronised ? TIME_OK : TIME_ERROR;
}

int access(const char *path, int mode)
{
	if (strcmp(path, TIMESYNC_PATH) != 0)
		return real_access(path, mode);
	if (shared->file)
		return 0;
	errno = ENOENT;
	return -1;
}
