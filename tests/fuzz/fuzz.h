/* SPDX-License-Identifier: MIT */
/*
 * What fuzz targets share. For fuzz_*.c only.
 */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "util.h"

#define REQUIRE(condition)                                                                      \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                \
		}                                                                               \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* At top level: what a library, "libx.so", loses by itself is not looked for. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_WITH_ASAN
#endif
#endif
#if defined(FUZZ_WITH_ASAN) || defined(__SANITIZE_ADDRESS__)
#define FUZZ_PASS_LEAKS(library)                       \
	const char *__lsan_default_suppressions(void); \
	const char *__lsan_default_suppressions(void)  \
	{                                              \
		return "leak:" library "\n";           \
	}
#else
#define FUZZ_PASS_LEAKS(library)
#endif

/* Of the exact size, so that sanitizers see a read past the end. To be freed by the caller. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + !size);

	REQUIRE(copy);
	if (size > 0)
		memcpy(copy, data, size);
	return copy;
}

/* --- a folder of the target's own, in memory where there is such a file system --- */

static char fuzz_folder[200];

static inline int fuzz_remove_one(
	const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void fuzz_remove_folder(void)
{
	nftw(fuzz_folder, fuzz_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Made once, and removed at the end. */
static inline const char *fuzz_dir(void)
{
	const char *parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR");

	if (fuzz_folder[0])
		return fuzz_folder;
	snprintf(fuzz_folder, sizeof(fuzz_folder), "%s/mqttgw-fuzz-XXXXXX",
		parent ? parent : "/tmp");
	REQUIRE(mkdtemp(fuzz_folder));
	REQUIRE(atexit(fuzz_remove_folder) == 0);
	return fuzz_folder;
}
