/* SPDX-License-Identifier: MIT */
/*
 * Local programs, as many as asked for, in one thread: each keeps a number of lines in flight on
 * the daemon's socket and reads the replies.
 *
 *   bench/feed [--connections N] [--window N] [--messages N] [--bytes N] [--rate N] [--timeout S]
 *              SOCKET
 *
 * --window is lines in flight of each connection, --messages lines in all, --rate lines a second in
 * all: a line's time then counts from when it was due, so that waiting for a slow reply is not
 * forgotten. Every reply is compared with the line it answers. The payload opens with a number and
 * a time, for bench/subscribe. Prints JSON; exit status 1 when a line was refused, a reply was
 * wrong or none came for --timeout seconds.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define FIRST_ID 1000000000U /* all ids have ten digits */
#define ID_AT	 6 /* in a line: {"id":1000000000, */
#define TOPIC_AT 34 /* "topic":"sensors/00/temperature" */
#define REPLY	 65536
#define CHUNK	 262144 /* written at a time, at most */

struct options {
	const char *path;
	uint64_t connections, window, messages, bytes, rate, timeout;
};

struct connection {
	int fd;
	uint32_t events;
	uint64_t written, answered; /* lines of this connection */
	struct {
		uint32_t number;
		uint64_t usec;
	} * flight; /* a ring of `window` */
	char *out;
	size_t out_at, out_len, out_size;
	char in[REPLY];
	size_t in_len;
};

struct feed {
	struct options o;
	struct connection *connections;
	struct bench_times times;
	int epoll;
	char *line;
	size_t line_len, payload_at;
	uint64_t written, answered, errors;
	uint64_t start_usec, moved_usec;
};

static void make_line(struct feed *f)
{
	static const char head[] =
		"{\"id\":1000000000,\"topic\":\"sensors/00/temperature\",\"payload\":\"";

	f->payload_at = sizeof(head) - 1;
	f->line_len = f->payload_at + f->o.bytes + 3;
	f->line = malloc(f->line_len);
	if (!f->line)
		bench_die("line", -ENOMEM);
	memcpy(f->line, head, f->payload_at);
	memset(f->line + f->payload_at, 'x', f->o.bytes);
	memcpy(f->line + f->line_len - 3, "\"}\n", 3);
}

static void put_decimal(char *p, unsigned digits, uint64_t value)
{
	while (digits-- > 0) {
		p[digits] = (char)('0' + value % 10);
		value /= 10;
	}
}

/* When the line of this number should be written; 0: as soon as possible. */
static uint64_t due_usec(const struct feed *f, uint64_t number)
{
	return f->o.rate > 0 ? f->start_usec + number * USEC_PER_SEC / f->o.rate : 0;
}

static void add_line(struct feed *f, struct connection *c, uint64_t now)
{
	uint64_t usec = f->o.rate > 0 ? due_usec(f, f->written) : now;
	uint32_t number = (uint32_t)f->written++;
	char *p = c->out + c->out_len;

	memcpy(p, f->line, f->line_len);
	put_decimal(p + ID_AT, 10, FIRST_ID + number);
	put_decimal(p + TOPIC_AT, 2, number % 100);
	bench_stamp(p + f->payload_at, number, usec);
	c->out_len += f->line_len;
	c->flight[c->written % f->o.window].number = number;
	c->flight[c->written % f->o.window].usec = usec;
	c->written++;
}

static bool may_write(const struct feed *f, const struct connection *c, uint64_t now)
{
	return f->written < f->o.messages && c->written - c->answered < f->o.window &&
		c->out_len + f->line_len <= c->out_size && due_usec(f, f->written) <= now;
}

static void watch(struct feed *f, struct connection *c, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = c };
	int op = c->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	if (c->events == events)
		return;
	if (epoll_ctl(f->epoll, op, c->fd, &e) < 0)
		bench_die("epoll_ctl", -errno);
	c->events = events;
}

static void write_lines(struct feed *f, struct connection *c)
{
	uint64_t now = now_usec();

	for (;;) {
		ssize_t n;

		if (c->out_at == c->out_len)
			c->out_at = c->out_len = 0;
		while (c->out_at == 0 && may_write(f, c, now))
			add_line(f, c, now);
		if (c->out_len == 0)
			break;
		n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			bench_die("send", -errno);
		c->out_at += (size_t)n;
	}
	watch(f, c, c->out_len > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* One reply, without its newline. */
static void take_reply(
	struct feed *f, struct connection *c, const char *p, size_t len, uint64_t now)
{
	char want[] = "{\"id\":1000000000,\"status\":\"queued\",\"seq\":";

	if (c->answered == c->written)
		bench_die("a reply that no line asked for", 0);
	put_decimal(want + ID_AT, 10, FIRST_ID + c->flight[c->answered % f->o.window].number);
	if (len < sizeof(want) || memcmp(p, want, sizeof(want) - 1) != 0) {
		if (f->errors++ == 0)
			fprintf(stderr, "feed: a wrong reply: %.*s\n", (int)len, p);
	}
	bench_times_add(&f->times, now - u64_min(now, c->flight[c->answered % f->o.window].usec));
	c->answered++;
	f->answered++;
}

static void read_replies(struct feed *f, struct connection *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, 0);
	char *p = c->in, *end, *newline;
	uint64_t now = now_usec();

	if (n < 0 && errno == EAGAIN)
		return;
	if (n < 0)
		bench_die("recv", -errno);
	if (n == 0)
		bench_die("the daemon closed the connection", 0);
	end = c->in + c->in_len + n;
	while ((newline = memchr(p, '\n', (size_t)(end - p)))) {
		take_reply(f, c, p, (size_t)(newline - p), now);
		p = newline + 1;
	}
	c->in_len = (size_t)(end - p);
	if (c->in_len == sizeof(c->in))
		bench_die("a reply without end", 0);
	memmove(c->in, p, c->in_len);
	f->moved_usec = now;
}

static void open_connection(struct feed *f, struct connection *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t most = CHUNK / f->line_len + 1;

	if (strlen(f->o.path) >= sizeof(address.sun_path))
		bench_die(f->o.path, -ENAMETOOLONG);
	strcpy(address.sun_path, f->o.path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
		bench_die(f->o.path, -errno);
	c->out_size = size_min(most, f->o.window) * f->line_len;
	c->out = malloc(c->out_size);
	c->flight = calloc(f->o.window, sizeof(*c->flight));
	if (!c->out || !c->flight)
		bench_die("connection", -ENOMEM);
	watch(f, c, EPOLLIN);
}

/* The next thing that happens by itself: a line that is due, or the end of our patience. */
static uint64_t next_usec(const struct feed *f)
{
	uint64_t patience = f->moved_usec + f->o.timeout * USEC_PER_SEC;

	if (f->o.rate > 0 && f->written < f->o.messages)
		return u64_min(patience, u64_max(due_usec(f, f->written), now_usec() + 50));
	return patience;
}

static void run(struct feed *f)
{
	struct epoll_event events[256];

	f->start_usec = f->moved_usec = now_usec();
	while (f->answered < f->o.messages) {
		int n;

		if (f->o.rate > 0 || f->written == 0)
			for (uint64_t i = 0; i < f->o.connections; i++)
				write_lines(f, &f->connections[i]);
		n = bench_epoll_wait(f->epoll, events, ARRAY_SIZE(events), next_usec(f));
		if (n == 0 && now_usec() >= f->moved_usec + f->o.timeout * USEC_PER_SEC)
			bench_die("no reply came", -ETIMEDOUT);
		for (int i = 0; i < n; i++) {
			struct connection *c = events[i].data.ptr;

			if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
				read_replies(f, c);
			write_lines(f, c);
		}
	}
}

static void read_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "connections", required_argument, NULL, 'c' },
		{ "window", required_argument, NULL, 'w' },
		{ "messages", required_argument, NULL, 'm' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "rate", required_argument, NULL, 'r' },
		{ "timeout", required_argument, NULL, 't' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'c': o->connections = bench_number(optarg, 100000); break;
		case 'w': o->window = bench_number(optarg, 1000000); break;
		case 'm': o->messages = bench_number(optarg, 1000000000); break;
		case 'b': o->bytes = bench_number(optarg, 100 << 20); break;
		case 'r': o->rate = bench_number(optarg, 10000000); break;
		case 't': o->timeout = bench_number(optarg, 3600); break;
		default: exit(2);
		}
	}
	if (optind + 1 != argc || o->bytes < BENCH_STAMP) {
		fprintf(stderr,
			"usage: feed [--connections N] [--window N] [--messages N]"
			" [--bytes N] [--rate N] [--timeout S] SOCKET\n"
			"at least %d bytes\n",
			BENCH_STAMP);
		exit(2);
	}
	o->path = argv[optind];
}

int main(int argc, char **argv)
{
	struct feed f = { .o = { .connections = 1,
				  .window = 1000,
				  .messages = 100000,
				  .bytes = 200,
				  .timeout = 30 } };
	uint64_t first_usec;
	double seconds;

	read_options(&f.o, argc, argv);
	bench_prepare();
	make_line(&f);
	bench_times_init(&f.times, f.o.messages);
	f.epoll = epoll_create1(EPOLL_CLOEXEC);
	f.connections = calloc(f.o.connections, sizeof(*f.connections));
	if (f.epoll < 0 || !f.connections)
		bench_die("set up", -ENOMEM);
	for (uint64_t i = 0; i < f.o.connections; i++)
		open_connection(&f, &f.connections[i]);
	run(&f);
	first_usec = f.start_usec;
	seconds = (double)(now_usec() - first_usec) / (double)USEC_PER_SEC;
	printf("{\"messages\": %" PRIu64 ", \"queued\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"seconds\": %.6f, \"rate\": %.1f, \"start_usec\": %" PRIu64 ", ",
		f.o.messages, f.answered - f.errors, f.errors, seconds,
		(double)f.o.messages / seconds, first_usec);
	bench_times_print(&f.times, "latency_usec");
	printf("}\n");
	return f.errors > 0;
}
