/* SPDX-License-Identifier: MIT */
/*
 * Text on its way to a terminal or a file: in colour where that is wanted, no wider and no longer
 * than the screen where there is one. All of it goes through text_safe_character(): whatever stands
 * in it, no terminal is commanded.
 */
#pragma once

#include <stdio.h>

#include "text.h"

enum page_look {
	PAGE_PLAIN,
	PAGE_BOLD,
	PAGE_DIM,
	PAGE_RED,
	PAGE_GREEN,
	PAGE_YELLOW,
	PAGE_CYAN,
};

struct page {
	FILE *out;
	unsigned columns, rows; /* 0 = no bound */
	bool colour;
	const char *end_of_line;
	/* private */
	unsigned column, row;
	bool ended; /* the line has; its end is written when there is another one */
	bool full;
};

/* Whether a terminal that knows the usual commands is at `file`. */
bool page_is_terminal(FILE *file);
/* Its size; 80 by 24 when it does not tell. */
void page_get_size(unsigned *ret_columns, unsigned *ret_rows);

/* Without bounds, in colour if `out` is a terminal and nobody has asked for none. */
struct page page_of(FILE *out);
void page_put(struct page *p, enum page_look look, const char *format, ...) _printf_(3, 4);
/* `len` bytes of anything. */
void page_put_bytes(struct page *p, enum page_look look, const char *s, size_t len);
/* Blanks up to this column. */
void page_tab(struct page *p, unsigned column);
void page_end_line(struct page *p);
/* The end of the last line. */
void page_done(struct page *p);

/* `width` columns of a bar, of which `part` (0 to 1) is full. */
void page_put_bar(struct page *p, enum page_look look, double part, unsigned width);
