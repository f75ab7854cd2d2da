/* SPDX-License-Identifier: MIT */
/*
 * A folder of a test's own, and what is done with files in it. For check_*.c only.
 */
#pragma once

#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "util.h"

/* Bound of one test: sanitizers, valgrind and a busy machine are slow. */
#define TEST_SECONDS 120

struct scratch {
	char dir[200];
};

static inline void scratch_make(struct scratch *s)
{
	const char *parent = getenv("TMPDIR");

	snprintf(s->dir, sizeof(s->dir), "%s/mqttgw-check-XXXXXX", parent ? parent : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(s->dir));
}

/* A path in the folder; static memory, good for the next few calls. */
static inline const char *scratch_path(const struct scratch *s, const char *name)
{
	static char paths[8][500];
	static unsigned next;
	char *path = paths[next++ % ARRAY_SIZE(paths)];

	snprintf(path, sizeof(paths[0]), "%s/%s", s->dir, name);
	return path;
}

static inline int scratch_remove_one(
	const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void scratch_remove(struct scratch *s)
{
	ck_assert_int_eq(nftw(s->dir, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* The same numbers in every run: splitmix64. */
static inline uint64_t scratch_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Waits for a child that was forked, and returns its exit status; -1 when a signal ended it. */
/*
 * Ends a forked child at once, as a crash would: nothing is closed or freed in order. By way of
 * another program, so that valgrind does not count what the child never came to free.
 */
static inline _Noreturn void scratch_exit(int status)
{
	char command[32];

	snprintf(command, sizeof(command), "exit %d", status);
	execl("/bin/sh", "sh", "-c", command, NULL);
	_exit(127);
}

static inline int scratch_wait(pid_t child)
{
	int status;

	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
