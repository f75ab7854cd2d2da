/* SPDX-License-Identifier: MIT */
/*
 * `watch`: the state every second, on the screen of a terminal, or as lines.
 *
 * Owns the terminal while it runs, and hands it back as it was, whatever ends it. Signals come
 * through a descriptor, so that nothing happens between any two instructions. Nothing waits for the
 * gateway: one that hangs or restarts is told of, and asked again.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <termios.h>

#include "ctl.h"
#include "graph.h"
#include "status.h"

#define PERIOD_USEC    USEC_PER_SEC
#define MARGIN	       21 /* columns before a graph */
#define GRAPHS_SECONDS 300 /* that they show, if there are columns enough */
#define TALL_SCREEN    30 /* rows from which on graphs have three */

struct watch {
	const struct ctl *ctl;
	struct ctl_link link; /* no client: not connected */
	uint64_t asked_usec; /* 0: no reply is awaited */
	int error; /* why there is no answer; 0 = there is one */
	json_t *status; /* the latest; NULL: none yet */
	uint64_t status_usec; /* when it came */
	uint64_t totals[2]; /* of the one before: accepted, delivered */
	uint64_t totals_usec; /* 0: none */
	uint64_t pid; /* of the gateway that they are of */
	double rates[2]; /* below 0: not known */
	struct graph graph;
	uint64_t next_usec; /* of the next look */
	int signals;
	sigset_t signals_before;
	struct termios terminal_before;
	bool screen; /* else lines */
	bool on_screen; /* the terminal is ours */
	bool ended;
	int ended_by; /* a signal that we pass on; 0 */
};

/* --- asking ---------------------------------------------------------------------------------- */

static void lose(struct watch *w, int error)
{
	w->link.client = client_free(w->link.client);
	w->asked_usec = 0;
	w->totals_usec = 0;
	w->error = error;
}

/* Connects if need be, and asks; an answer that is still to come is asked for already. */
static void ask(struct watch *w, uint64_t now)
{
	int r = 0;

	if (w->asked_usec && now - w->asked_usec > CLIENT_PATIENCE_USEC)
		w->error = -ETIMEDOUT;
	if (w->asked_usec)
		return;
	if (!w->link.client)
		r = client_new(&w->link.client, w->link.path, 0);
	if (r == 0)
		r = client_request(w->link.client, json_pack("{s:s}", "command", "status"));
	if (r < 0)
		lose(w, r);
	else
		w->asked_usec = now;
}

/* Rates from totals: what happened in this very second. */
static void note_rates(struct watch *w, uint64_t now)
{
	const json_t *totals = json_object_get(w->status, "totals");
	uint64_t counts[] = { count_member(totals, "accepted"), count_member(totals, "delivered") };
	uint64_t pid = count_member(w->status, "pid");

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		w->rates[i] = -1;
		if (w->totals_usec && now > w->totals_usec && pid == w->pid &&
			counts[i] >= w->totals[i])
			w->rates[i] = (double)(counts[i] - w->totals[i]) * (double)USEC_PER_SEC /
				(double)(now - w->totals_usec);
		w->totals[i] = counts[i];
	}
	w->totals_usec = now;
	w->pid = pid;
}

/* What has come. */
static void hear(struct watch *w, uint64_t now)
{
	json_t *reply;
	int r;

	if (!w->link.client)
		return;
	r = client_reply_now(w->link.client, &reply);
	if (r == -EAGAIN)
		return;
	if (r < 0) {
		lose(w, r);
		return;
	}
	if (!streq(text_member(reply, "status"), "ok")) {
		/* Too many are connected, or it stops. */
		lose(w, streq(text_member(reply, "error"), "too-many-clients") ? -EUSERS : -EPIPE);
		json_decref(reply);
		return;
	}
	json_decref(w->status);
	w->status = reply;
	w->status_usec = now;
	w->asked_usec = 0;
	w->error = 0;
	note_rates(w, now);
}

static void add_sample(struct watch *w)
{
	double values[] = {
		[GRAPH_ACCEPTED] = w->rates[0],
		[GRAPH_DELIVERED] = w->rates[1],
		[GRAPH_QUEUED] = number_member(json_object_get(w->status, "queue"), "messages"),
	};

	graph_add(&w->graph, w->error < 0 ? NULL : values);
}

/* --- showing --------------------------------------------------------------------------------- */

static const char *why_silent(const struct watch *w, char *out, size_t size)
{
	if (w->error == -EUSERS)
		snprintf(out, size, "the gateway has too many control connections");
	else
		ctl_unreachable_text(w->error, w->link.path, out, size);
	return out;
}

static void draw_graphs(struct watch *w, struct page *p)
{
	unsigned width = p->columns > MARGIN + 10 ? p->columns - MARGIN : 10;
	unsigned seconds = (GRAPHS_SECONDS + width - 1) / width;
	unsigned height = p->rows >= TALL_SCREEN ? 3 : 1;
	char text[TEXT_SIZE];

	/* No more than is kept. */
	if (width > GRAPH_SAMPLES / seconds)
		width = GRAPH_SAMPLES / seconds;
	graph_put(p, &w->graph, GRAPH_ACCEPTED, "accepted", PAGE_CYAN, width, height, seconds);
	graph_put(p, &w->graph, GRAPH_DELIVERED, "delivered", PAGE_GREEN, width, height, seconds);
	graph_put(p, &w->graph, GRAPH_QUEUED, "queued", PAGE_YELLOW, width, height, seconds);
	page_tab(p, MARGIN);
	page_put(p, PAGE_DIM, "the last %s, messages a second and in the queue",
		text_duration(text, width * seconds));
	page_end_line(p);
	page_end_line(p);
}

static void draw(struct watch *w)
{
	struct page p = page_of(stdout);
	char text[256], when[TEXT_SIZE];

	page_get_size(&p.columns, &p.rows);
	p.end_of_line = "\033[K\r\n";
	fputs("\033[H", stdout);
	page_put(&p, PAGE_BOLD, "mqttgwctl watch");
	page_put(&p, PAGE_DIM, "  %s  q ends", text_time(when, now_epoch_msec(), false));
	page_end_line(&p);
	if (w->error < 0) {
		page_put(&p, PAGE_RED, "%s not reachable: %s", text_is_utf8() ? "●" : "*",
			why_silent(w, text, sizeof(text)));
		page_end_line(&p);
		page_put(&p, PAGE_DIM, "  asked again every second; below, what it said %s ago",
			text_duration(when,
				(double)(now_usec() - w->status_usec) / (double)USEC_PER_SEC));
		page_end_line(&p);
	} else if (w->status) {
		status_put_head(&p, w->status);
	}
	page_end_line(&p);
	draw_graphs(w, &p);
	if (w->status)
		status_put_body(&p, w->status);
	fputs("\033[K\033[J", stdout);
	fflush(stdout);
}

static void print_line(struct watch *w)
{
	struct page p = page_of(stdout);
	char text[256], when[TEXT_SIZE];

	page_put(&p, PAGE_PLAIN, "%s ", text_time(when, now_epoch_msec(), false));
	if (w->error < 0)
		page_put(&p, PAGE_PLAIN, "not reachable: %s", why_silent(w, text, sizeof(text)));
	else if (w->status)
		status_put_line(&p, w->status);
	page_end_line(&p);
	page_done(&p);
	fflush(stdout);
}

static void show(struct watch *w)
{
	if (w->screen)
		draw(w);
	else
		print_line(w);
}

/* --- the terminal ---------------------------------------------------------------------------- */

/* The other screen, no cursor, no echo, keys as they are pressed. */
static void take_terminal(struct watch *w)
{
	struct termios ours;

	if (!w->screen || w->on_screen)
		return;
	if (tcgetattr(STDIN_FILENO, &w->terminal_before) == 0) {
		ours = w->terminal_before;
		ours.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		ours.c_cc[VMIN] = 1;
		ours.c_cc[VTIME] = 0;
		tcsetattr(STDIN_FILENO, TCSADRAIN, &ours);
	}
	fputs("\033[?1049h\033[?25l\033[2J", stdout);
	fflush(stdout);
	w->on_screen = true;
}

static void give_terminal_back(struct watch *w)
{
	if (!w->on_screen)
		return;
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &w->terminal_before);
	w->on_screen = false;
}

static int open_signals(struct watch *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	if (w->screen) {
		sigaddset(&set, SIGTSTP);
		sigaddset(&set, SIGWINCH);
	}
	w->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (w->signals < 0 || sigprocmask(SIG_BLOCK, &set, &w->signals_before) < 0)
		return -errno;
	return 0;
}

/* ^Z: the shell gets its terminal; when it gives it back we are here again. */
static void pause_here(struct watch *w)
{
	give_terminal_back(w);
	raise(SIGSTOP);
	take_terminal(w);
	draw(w);
}

static void take_signal(struct watch *w)
{
	struct signalfd_siginfo info;

	if (read(w->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGWINCH: draw(w); break;
	case SIGTSTP: pause_here(w); break;
	case SIGINT: w->ended = true; break;
	default:
		w->ended = true;
		w->ended_by = (int)info.ssi_signo;
		break;
	}
}

/* False: nobody is at the keys any more. */
static bool take_keys(struct watch *w)
{
	char keys[64];
	ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

	for (ssize_t i = 0; i < n; i++)
		w->ended |= keys[i] == 'q' || keys[i] == 'Q' || keys[i] == 4;
	return n > 0 || (n < 0 && errno == EINTR);
}

/* --- the loop -------------------------------------------------------------------------------- */

/* Until the next look, or something happens. */
static void wait_for_something(struct watch *w)
{
	struct pollfd p[] = {
		{ .fd = w->signals, .events = POLLIN },
		{ .fd = w->screen ? STDIN_FILENO : -1, .events = POLLIN },
		{ .fd = w->link.client && w->asked_usec ? client_fd(w->link.client) : -1,
			.events = POLLIN },
	};
	uint64_t now = now_usec();
	int wait = w->next_usec > now ? (int)((w->next_usec - now) / USEC_PER_MSEC) + 1 : 0;

	if (poll(p, ARRAY_SIZE(p), wait) <= 0)
		return;
	if (p[0].revents)
		take_signal(w);
	if (p[1].revents && !take_keys(w))
		w->ended = true;
	if (p[2].revents)
		hear(w, now_usec());
}

static void run(struct watch *w)
{
	show(w);
	while (!w->ended && !ferror(stdout)) {
		uint64_t now = now_usec();

		if (now >= w->next_usec) {
			/* After a pause there is no catching up. */
			w->next_usec = u64_max(w->next_usec + PERIOD_USEC, now + PERIOD_USEC / 2);
			add_sample(w);
			show(w);
			ask(w, now);
		}
		wait_for_something(w);
	}
}

/* The first answer is waited for: a gateway that is not there is told as by any command. */
static int begin(struct watch *w)
{
	int status;

	status = ctl_link_open(&w->link, w->ctl);
	if (status == CTL_OK)
		status = ctl_ask(&w->link, json_pack("{s:s}", "command", "status"), &w->status);
	if (status != CTL_OK)
		return status;
	w->status_usec = now_usec();
	w->next_usec = w->status_usec + PERIOD_USEC;
	note_rates(w, w->status_usec);
	return open_signals(w) < 0 ? ctl_fail(0, "signals: %s", strerror(errno)) : CTL_OK;
}

static void watch_done(struct watch *w)
{
	give_terminal_back(w);
	closep(&w->signals);
	ctl_link_done(&w->link);
	json_decref(w->status);
}

int ctl_watch(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = { CTL_HELP_OPTION, { 0 } };
	_cleanup_(freep) struct watch *w = NULL;
	int c, status;

	c = ctl_option(ctl, argc, argv, "", options);
	if (c >= 0)
		return ctl_option_status(c);
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	w = calloc(1, sizeof(*w));
	if (!w)
		return ctl_fail(0, "no memory");
	w->ctl = ctl;
	w->signals = -1;
	w->screen = page_is_terminal(stdout) && isatty(STDIN_FILENO);
	status = begin(w);
	if (status == CTL_OK) {
		take_terminal(w);
		run(w);
	}
	watch_done(w);
	if (w->ended_by) {
		sigprocmask(SIG_SETMASK, &w->signals_before, NULL);
		raise(w->ended_by);
	}
	return status;
}
