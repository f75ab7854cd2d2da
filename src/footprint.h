/* SPDX-License-Identifier: MIT */
/*
 * How much memory the process keeps: how the C library's allocator goes about it, and what only a
 * start needs of the libraries.
 */
#pragma once

#include "util.h"

/* Sets the allocator up. Once, before the first thread and the first large allocation. */
void footprint_init(void);
/*
 * Gives back what nothing uses: free memory, and the pages of program and libraries, of which those
 * that are needed come again from the page cache. Worthwhile after a phase that touched much once.
 * Any thread.
 */
void footprint_trim(void);
