/* SPDX-License-Identifier: MIT */
/*
 * `flush`: waits until the queue is empty. On a terminal a line shows how far it is; elsewhere
 * nothing is said before the end.
 */
#include <math.h>
#include <poll.h>
#include <stdio.h>

#include "ctl.h"
#include "page.h"

#define PERIOD_MSEC 250
#define HISTORY	    40 /* looks, over which the rate is averaged */
#define BAR_WIDTH   30

struct flush {
	struct ctl_link link;
	uint64_t begin_usec;
	uint64_t most; /* messages: what counts as all of it */
	uint64_t first; /* messages at the beginning */
	uint64_t delivered_before; /* total when it began */
	uint64_t delivered;
	struct {
		uint64_t usec, messages;
	} history[HISTORY];
	uint64_t looks;
	json_t *status; /* the latest */
	bool terminal;
	bool line; /* one is on the screen, to be written over */
};

static uint64_t messages_of(const json_t *status)
{
	return count_member(json_object_get(status, "queue"), "messages");
}

/* Messages by which the queue gets shorter in a second; 0: it does not. */
static double speed(const struct flush *f)
{
	uint64_t last = f->looks - 1;
	uint64_t first = f->looks > HISTORY ? f->looks - HISTORY : 0;
	uint64_t from = f->history[first % HISTORY].messages;
	uint64_t to = f->history[last % HISTORY].messages;
	uint64_t usec = f->history[last % HISTORY].usec - f->history[first % HISTORY].usec;

	return from > to && usec > 0 ? (double)(from - to) * (double)USEC_PER_SEC / (double)usec
				     : 0;
}

static void clear_line(struct flush *f)
{
	if (f->line)
		fputs("\r\033[K", stdout);
	f->line = false;
}

static void draw(struct flush *f)
{
	uint64_t messages = messages_of(f->status);
	const char *why = text_member(f->status, "why");
	struct page p = page_of(stdout);
	char left[TEXT_SIZE], rate[TEXT_SIZE], time_left[TEXT_SIZE];
	double part = f->most > 0 ? 1 - (double)messages / (double)f->most : 1;
	unsigned rows;

	page_get_size(&p.columns, &rows);
	/* A line that fills the screen's width may wrap. */
	p.columns = p.columns > 1 ? p.columns - 1 : 1;
	p.end_of_line = "";
	fputs("\r\033[K", stdout);
	page_put_bar(&p, PAGE_GREEN, part, p.columns >= 70 ? BAR_WIDTH : 10);
	page_put(&p, PAGE_BOLD, " %3.0f %%", floor(part * 100));
	page_put(&p, PAGE_PLAIN, "  %s left", text_number(left, messages));
	if (speed(f) > 0)
		page_put(&p, PAGE_PLAIN, ", %s/s, %s to go", text_rate(rate, speed(f)),
			text_duration(time_left, (double)messages / speed(f)));
	else if (*why)
		page_put(&p, PAGE_YELLOW, "  %s", why);
	fflush(stdout);
	f->line = true;
}

static void note(struct flush *f)
{
	uint64_t messages = messages_of(f->status);
	uint64_t delivered = count_member(json_object_get(f->status, "totals"), "delivered");

	if (f->looks == 0) {
		f->first = messages;
		f->delivered_before = delivered;
	}
	f->delivered = delivered;
	f->most = u64_max(f->most, messages);
	f->history[f->looks % HISTORY].usec = now_usec();
	f->history[f->looks % HISTORY].messages = messages;
	f->looks++;
}

static int tell_empty(struct flush *f)
{
	double seconds = (double)(now_usec() - f->begin_usec) / (double)USEC_PER_SEC;
	char delivered[TEXT_SIZE], rate[TEXT_SIZE], duration[TEXT_SIZE];
	uint64_t n = f->delivered - f->delivered_before;

	clear_line(f);
	if (f->first == 0 && f->looks == 1)
		printf("the queue is empty\n");
	else
		printf("the queue is empty: %s message%s delivered in %s, %s/s\n",
			text_number(delivered, n), n == 1 ? "" : "s",
			text_duration(duration, seconds),
			text_rate(rate, seconds > 0 ? (double)n / seconds : 0));
	return CTL_OK;
}

static int tell_timeout(struct flush *f)
{
	uint64_t messages = messages_of(f->status);
	const char *why = text_member(f->status, "why");
	char left[TEXT_SIZE], duration[TEXT_SIZE], safe[512];

	clear_line(f);
	return ctl_fail(0, "not empty after %s: %s message%s left%s%s",
		text_duration(
			duration, (double)(now_usec() - f->begin_usec) / (double)USEC_PER_SEC),
		text_number(left, messages), messages == 1 ? "" : "s",
		*why ? ": " : ", but they move", text_safe(safe, sizeof(safe), why, strlen(why)));
}

/* `timeout_usec` UINT64_MAX: none. */
static int wait_for_empty(struct flush *f, uint64_t timeout_usec)
{
	int status;

	f->begin_usec = now_usec();
	for (;;) {
		uint64_t passed, pause = PERIOD_MSEC * USEC_PER_MSEC;

		json_decref(f->status);
		f->status = NULL;
		status = ctl_ask(&f->link, json_pack("{s:s}", "command", "status"), &f->status);
		if (status != CTL_OK)
			return status;
		note(f);
		if (messages_of(f->status) == 0)
			return tell_empty(f);
		passed = now_usec() - f->begin_usec;
		if (passed >= timeout_usec)
			return tell_timeout(f);
		if (f->terminal)
			draw(f);
		pause = u64_min(pause, timeout_usec - passed);
		poll(NULL, 0, (int)((pause + USEC_PER_MSEC - 1) / USEC_PER_MSEC));
	}
}

/* Seconds, a fraction maybe. */
static bool parse_timeout(const char *s, uint64_t *ret_usec)
{
	char *end;
	double seconds = strtod(s, &end);

	if (end == s || *end || strspn(s, "0123456789.") != strlen(s) || seconds > 1e9)
		return false;
	*ret_usec = (uint64_t)(seconds * (double)USEC_PER_SEC);
	return true;
}

int ctl_flush(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "timeout", required_argument, NULL, 't' },
		CTL_HELP_OPTION,
		{ 0 },
	};
	struct flush f = { .terminal = page_is_terminal(stdout) };
	uint64_t timeout_usec = UINT64_MAX;
	int c, status;

	while ((c = ctl_option(ctl, argc, argv, "", options)) >= 0) {
		if (c != 't')
			return ctl_option_status(c);
		if (!parse_timeout(optarg, &timeout_usec))
			return ctl_usage(ctl, "--timeout %s: not a number of seconds", optarg);
	}
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	status = ctl_link_open(&f.link, ctl);
	if (status == CTL_OK)
		status = wait_for_empty(&f, timeout_usec);
	if (f.line)
		putchar('\n');
	json_decref(f.status);
	ctl_link_done(&f.link);
	return status;
}
