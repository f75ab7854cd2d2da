/* SPDX-License-Identifier: MIT */
/*
 * A main() for a fuzz target where there is no libFuzzer: feeds it the files named on the command
 * line, and those in the folders named there. Fails when there is none, or one cannot be read; the
 * target itself aborts on what it finds wrong.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fail(const char *path)
{
	fprintf(stderr, "%s: %s\n", path, strerror(errno));
	return -1;
}

static int replay_file(const char *path, size_t size)
{
	/* Of the exact size, so that sanitizers see a read past the end. */
	_cleanup_(freep) uint8_t *data = malloc(size + !size);
	FILE *file = fopen(path, "re");
	size_t n;

	if (!file)
		return fail(path);
	n = data ? fread(data, 1, size, file) : 0;
	fclose(file);
	if (n != size)
		return fail(path);
	/* Whatever the target dies of, the culprit stands above it. */
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, size);
	return 0;
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* Counts in `*n`. Sorted, for the same order everywhere. */
static int replay(const char *path, size_t *n)
{
	struct dirent **entries;
	struct stat st;
	int count, r = 0;

	if (stat(path, &st) < 0)
		return fail(path);
	if (!S_ISDIR(st.st_mode)) {
		++*n;
		return replay_file(path, (size_t)st.st_size);
	}

	count = scandir(path, &entries, is_visible, alphasort);
	if (count < 0)
		return fail(path);
	for (int i = 0; i < count; i++) {
		char inner[PATH_MAX];

		snprintf(inner, sizeof(inner), "%s/%s", path, entries[i]->d_name);
		if (replay(inner, n) < 0)
			r = -1;
		free(entries[i]);
	}
	free(entries);
	return r;
}

int main(int argc, char **argv)
{
	bool ok = true;
	size_t n = 0;

	for (int i = 1; i < argc; i++)
		ok = replay(argv[i], &n) == 0 && ok;
	printf("%zu inputs replayed\n", n);
	return ok && n > 0 ? 0 : 1;
}
