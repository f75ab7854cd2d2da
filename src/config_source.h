/* SPDX-License-Identifier: MIT */
/*
 * The text of a configuration: the file and what it includes joined into one buffer, where each
 * line of it came from, and the faults found on those lines. Internal to config*.c.
 */
#pragma once

#include <stdio.h>
#include <sys/types.h>

#include "util.h"

struct config_source_line {
	unsigned file; /* index into files */
	unsigned line; /* of that file, from 1 */
};

struct config_source_file {
	char *name;
	mode_t mode;
};

struct config_source_fault {
	unsigned at;
	size_t order; /* in which they were found */
	char *text;
};

struct config_source {
	char *text; /* NUL-terminated, holds no other NUL; wiped when freed: it may hold secrets */
	size_t length;
	struct config_source_line *lines; /* of `text`, from index 0 */
	size_t n_lines;
	struct config_source_file *files; /* the first is the one asked for */
	size_t n_files;
	struct config_source_fault *faults;
	size_t n_faults;
	bool broken; /* the text is not whole: there is no point in reading it */
	bool no_memory;
};

/*
 * Reads `path` and its @include lines (relative names: from the folder of the including file),
 * and checks what libconfig 1.5 passes over in silence: integers it would cut to 32 bits, NUL
 * bytes, strings and comments that never end. Included files must be regular ones, which never keep
 * us waiting; with `regular` `path` itself, too. Faults are kept; -ENOMEM is the only error.
 */
int config_source_read(struct config_source *s, const char *path, bool regular) _must_check_;
void config_source_done(struct config_source *s);

/* Keeps a fault on line `at` (from 1) of the joined text; 0: on the file as a whole. */
void config_source_fault(struct config_source *s, unsigned at, const char *format, ...)
	_printf_(3, 4);
/* The file that line `at` of the joined text came from. */
const struct config_source_file *config_source_file_at(const struct config_source *s, unsigned at);
/* Writes the faults in the order of their lines. */
void config_source_report(struct config_source *s, FILE *out);

/*
 * Reads a whole file of at most `max` bytes and puts a NUL behind it. `regular`: -ENOTSUP for
 * anything but a regular file, and no waiting for one that is not. -EFBIG, -errno. *ret was
 * malloc'ed once and never moved: wipe it if it is a secret. `ret_mode` may be NULL.
 */
int config_slurp(const char *path, bool regular, size_t max, char **ret, size_t *ret_length,
	mode_t *ret_mode) _must_check_;
/* What went wrong there, for people. */
const char *config_slurp_strerror(int error);
