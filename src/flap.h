/* SPDX-License-Identifier: MIT */
/*
 * What happens again and again is not told each time: the first few of a run in full, then one line
 * now and then that says how often it was. Pure: decides; logs nothing, and has no timer. What is
 * left untold is told with the next occurrence, or when somebody asks whether the run is over.
 *
 * Times are microseconds of one clock.
 */
#pragma once

#include "util.h"

/* Without an occurrence for so long, a run is over. */
#define FLAP_RUN_USEC (10 * 60 * USEC_PER_SEC)

enum flap_verdict {
	FLAP_TELL, /* in full, as if there were no flap */
	FLAP_SUMMARY, /* in one line, with struct flap_told */
	FLAP_QUIET, /* not at all */
};

/* What a line stands for besides itself. */
struct flap_told {
	uint64_t count; /* occurrences since the line before, with the present one; 1 = only it */
	uint64_t span_usec; /* since that line */
	uint64_t longest_usec; /* the longest that it was well in between; 0 = never was */
};

/* One thing that may happen too often. All zero at the start. */
struct flap {
	unsigned in_run;
	unsigned summaries; /* in this run */
	uint64_t occurred_usec; /* 0 = never */
	uint64_t told_usec;
	uint64_t untold;
	uint64_t longest_usec;
};

/*
 * It has occurred, after it was well for `well_usec` (0: it was not). `full`: how many of a run are
 * told in full. Of those behind, lines are at least 1, then 10, then 60 minutes apart.
 */
enum flap_verdict flap_occurred(
	struct flap *f, unsigned full, uint64_t well_usec, uint64_t now, struct flap_told *ret);
/* Whether what belongs to it (an attempt, a connection) is to be told: no more than `full` were in
 * this run, or it is over. */
bool flap_is_told(const struct flap *f, unsigned full, uint64_t now);
/* True when a run is over and something of it is untold: *ret, and it counts as told. */
bool flap_over(struct flap *f, uint64_t now, struct flap_told *ret);

/* "37 times in 41 min", "17 times in 10 min, well for 3 s at the longest". Returns `out`. */
char *flap_text(const struct flap_told *t, char *out, size_t size);

/* --- several, by name --- */

#define FLAP_ITEMS 64

/* One who has not been heard of for the longest makes room. All zero at the start. */
struct flap_table {
	struct {
		char name[272];
		unsigned what;
		struct flap flap;
	} items[FLAP_ITEMS];
};

/* The one of this name that is `what`; a new one if there is none. Valid until the next call. */
struct flap *flap_find(struct flap_table *t, const char *name, unsigned what);
/* flap_is_told() for all of this name with `from` <= what < `to`. */
bool flap_all_told(const struct flap_table *t, const char *name, unsigned from, unsigned to,
	unsigned full, uint64_t now);
/* Ends the runs of all of them, and returns how much of them is untold. */
uint64_t flap_forget(struct flap_table *t, const char *name, unsigned from, unsigned to);
bool flap_any_untold(const struct flap_table *t);
/* flap_over() of any: true with *ret_name, valid until the next call, and *ret_what. */
bool flap_any_over(struct flap_table *t, uint64_t now, const char **ret_name, unsigned *ret_what,
	struct flap_told *ret);
