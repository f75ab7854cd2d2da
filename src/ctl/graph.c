/* SPDX-License-Identifier: MIT */
/*
 * Owns the history that `watch` draws. A column stands for the same seconds for as long as it is on
 * the screen: a graph moves, and does not flicker.
 */
#include "graph.h"

#define EIGHTHS 8

void graph_add(struct graph *g, const double *values)
{
	float *sample = g->samples[g->n % GRAPH_SAMPLES];

	for (unsigned i = 0; i < N_GRAPH_LINES; i++)
		sample[i] = values ? (float)values[i] : -1;
	g->n++;
}

/* The mean of what is known of `n` samples from number `first` on; below 0: nothing. */
static double mean(const struct graph *g, enum graph_line line, uint64_t first, unsigned n)
{
	double sum = 0;
	unsigned known = 0;

	for (uint64_t i = first; i < first + n && i < g->n; i++) {
		float value = g->samples[i % GRAPH_SAMPLES][line];

		if (i + GRAPH_SAMPLES < g->n || value < 0)
			continue;
		sum += (double)value;
		known++;
	}
	return known ? sum / known : -1;
}

/* The value of a column, counted from the left. */
static double value_at(const struct graph *g, enum graph_line line, unsigned column, unsigned width,
	unsigned seconds)
{
	/* The last column may be of fewer seconds than the others, for now. */
	uint64_t last = g->n > 0 ? (g->n - 1) / seconds : 0, back = width - 1 - column;

	return g->n == 0 || back > last ? -1 : mean(g, line, (last - back) * seconds, seconds);
}

/* How much of a row a value fills, in eighths. */
static unsigned fill_of(double value, double most, unsigned row, unsigned height)
{
	double level = most > 0 ? value / most * height * EIGHTHS : 0;
	double below = (double)(height - 1 - row) * EIGHTHS;

	if (value <= 0)
		return 0;
	/* What is not nothing is seen. */
	if (row == height - 1 && level < 1)
		level = 1;
	return level <= below ? 0 : level - below >= EIGHTHS ? EIGHTHS : (unsigned)(level - below);
}

static const char *shape(unsigned fill)
{
	static const char *const blocks[] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
	static const char *const letters[] = { " ", ".", ":", "-", "=", "+", "*", "%", "#" };

	return text_is_utf8() ? blocks[fill] : letters[fill];
}

static char *text_value(char out[static TEXT_SIZE], enum graph_line line, double value)
{
	if (line == GRAPH_QUEUED)
		return text_number(out, value > 0 ? (uint64_t)(value + 0.5) : 0);
	return text_rate(out, value);
}

static double most_of(const struct graph *g, enum graph_line line, unsigned width, unsigned seconds)
{
	double most = 0;

	for (unsigned column = 0; column < width; column++) {
		double value = value_at(g, line, column, width, seconds);

		most = value > most ? value : most;
	}
	return most;
}

void graph_put(struct page *p, const struct graph *g, enum graph_line line, const char *name,
	enum page_look look, unsigned width, unsigned height, unsigned seconds)
{
	double most = most_of(g, line, width, seconds);
	double latest = g->n > 0 ? (double)g->samples[(g->n - 1) % GRAPH_SAMPLES][line] : -1;
	char text[TEXT_SIZE];

	for (unsigned row = 0; row < height; row++) {
		if (row == height - 1)
			page_put(p, PAGE_DIM, "%-9s %10s ", name,
				latest < 0 ? "?" : text_value(text, line, latest));
		else
			page_put(
				p, PAGE_DIM, "%20s ", row == 0 ? text_value(text, line, most) : "");
		for (unsigned column = 0; column < width; column++)
			page_put(p, look, "%s",
				shape(fill_of(value_at(g, line, column, width, seconds), most, row,
					height)));
		page_end_line(p);
	}
}
