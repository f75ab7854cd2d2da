/* SPDX-License-Identifier: MIT */
/*
 * The last minutes of three quantities, a sample a second, and their graphs.
 */
#pragma once

#include "page.h"

enum graph_line {
	GRAPH_ACCEPTED, /* messages a second */
	GRAPH_DELIVERED,
	GRAPH_QUEUED, /* messages */
	N_GRAPH_LINES,
};

#define GRAPH_SAMPLES 600 /* seconds kept */

struct graph {
	float samples[GRAPH_SAMPLES][N_GRAPH_LINES]; /* a ring; below 0: nothing is known */
	uint64_t n; /* taken so far */
};

/* `values` NULL: the gateway could not be asked. */
void graph_add(struct graph *g, const double *values);
/*
 * Draws one line of it, `width` columns and `height` rows, the latest on the right, each column the
 * mean of `seconds_a_column` seconds. Left of it, the largest value shown stands in the first row
 * if there are several, `name` and the latest value in the last one.
 */
void graph_put(struct page *p, const struct graph *g, enum graph_line line, const char *name,
	enum page_look look, unsigned width, unsigned height, unsigned seconds_a_column);
