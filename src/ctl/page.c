/* SPDX-License-Identifier: MIT */
/*
 * Owns the place in a line and in the screen. Invariant: a line is never wider than the page, a
 * character of two columns included.
 */
#include "page.h"

#include <stdarg.h>
#include <sys/ioctl.h>

static const char *const looks[] = {
	[PAGE_PLAIN] = "",
	[PAGE_BOLD] = "\033[1m",
	[PAGE_DIM] = "\033[2m",
	[PAGE_RED] = "\033[31m",
	[PAGE_GREEN] = "\033[32m",
	[PAGE_YELLOW] = "\033[33m",
	[PAGE_CYAN] = "\033[36m",
};

bool page_is_terminal(FILE *file)
{
	const char *term = getenv("TERM");

	return isatty(fileno(file)) && term && *term && !streq(term, "dumb");
}

void page_get_size(unsigned *ret_columns, unsigned *ret_rows)
{
	struct winsize size = { 0 };

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 || size.ws_row == 0)
		size = (struct winsize){ .ws_col = 80, .ws_row = 24 };
	*ret_columns = size.ws_col;
	*ret_rows = size.ws_row;
}

struct page page_of(FILE *out)
{
	const char *no_colour = getenv("NO_COLOR");

	return (struct page){
		.out = out,
		.colour = page_is_terminal(out) && !(no_colour && *no_colour),
		.end_of_line = "\n",
	};
}

/* Ends the line before, if there is one. False: nothing more fits. */
static bool begin(struct page *p)
{
	if (p->ended && p->rows && p->row + 1 >= p->rows)
		p->full = true;
	if (p->full)
		return false;
	if (p->ended) {
		fputs(p->end_of_line, p->out);
		p->row++;
		p->column = 0;
		p->ended = false;
	}
	return true;
}

void page_put_bytes(struct page *p, enum page_look look, const char *s, size_t len)
{
	bool coloured = p->colour && look != PAGE_PLAIN;
	char character[16];
	unsigned columns;
	size_t n;

	if (!begin(p))
		return;
	if (coloured)
		fputs(looks[look], p->out);
	for (; len > 0; s += n, len -= n) {
		n = text_safe_character(character, s, len, &columns);
		if (p->columns && p->column + columns > p->columns)
			break;
		fputs(character, p->out);
		p->column += columns;
	}
	if (coloured)
		fputs("\033[0m", p->out);
}

void page_put(struct page *p, enum page_look look, const char *format, ...)
{
	_cleanup_(freep) char *text = NULL;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(&text, format, ap);
	va_end(ap);
	if (n < 0)
		text = NULL;
	else
		page_put_bytes(p, look, text, (size_t)n);
}

void page_tab(struct page *p, unsigned column)
{
	if (!begin(p))
		return;
	while (p->column < column && (!p->columns || p->column < p->columns)) {
		putc(' ', p->out);
		p->column++;
	}
}

void page_end_line(struct page *p)
{
	if (begin(p))
		p->ended = true;
}

void page_done(struct page *p)
{
	if (p->ended)
		fputs(p->end_of_line, p->out);
	p->ended = false;
	p->column = 0;
}

void page_put_bar(struct page *p, enum page_look look, double part, unsigned width)
{
	bool utf8 = text_is_utf8();
	unsigned full;

	part = part > 1 ? 1 : part > 0 ? part : 0;
	full = (unsigned)(part * width + 0.5);
	/* What is there is seen to be there. */
	if (full == 0 && part > 0)
		full = 1;
	for (unsigned i = 0; i < width; i++)
		page_put(p, i < full ? look : PAGE_DIM, "%s",
			i < full ? (utf8 ? "█" : "#") : (utf8 ? "░" : "."));
}
