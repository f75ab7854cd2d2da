/* SPDX-License-Identifier: MIT */
/*
 * A long way between two ends of a TCP connection: a relay that hands on each byte a fixed time
 * after it came, in both directions, without a bound on the rate. It acknowledges at once, so that
 * TCP's own windows do not count: what is measured is the protocol above.
 *
 *   bench/delay --msec N PORT TO-PORT
 *
 * --msec is the way in one direction, half a round trip. Listens on 127.0.0.1, PORT, and connects
 * to TO-PORT there. Prints {"listening": true} and runs until SIGTERM.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CHUNK 65536

struct chunk {
	struct chunk *next;
	uint64_t due_usec;
	size_t at, len; /* 0: the end of the stream */
	char bytes[];
};

/* One direction: what came from `from` and waits for its time to go to `to`. */
struct way {
	struct end *from, *to;
	struct chunk *first, **last;
	bool blocked; /* `to` takes no more for now */
};

struct end {
	struct pair *pair; /* NULL: the listening socket */
	struct way in; /* what is read here */
	uint32_t events;
	bool ended; /* and watched no more: its last bytes are on their way */
	int fd;
};

struct pair {
	struct pair *next, **where;
	struct end ends[2];
};

struct relay {
	int epoll, listener;
	uint64_t delay_usec;
	struct sockaddr_in to;
	struct pair *pairs;
};

static void watch(struct relay *r, struct end *e, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = e };

	if (e->events == events || e->ended)
		return;
	if (epoll_ctl(r->epoll, e->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, e->fd, &event) < 0)
		bench_die("epoll_ctl", -errno);
	e->events = events;
}

static void pair_free(struct pair *p)
{
	*p->where = p->next;
	if (p->next)
		p->next->where = p->where;
	for (int i = 0; i < 2; i++) {
		struct chunk *c;

		while ((c = p->ends[i].in.first)) {
			p->ends[i].in.first = c->next;
			free(c);
		}
		close(p->ends[i].fd);
	}
	free(p);
}

static void pair_new(struct relay *r, int fd)
{
	struct pair *p = calloc(1, sizeof(*p));
	int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (!p || to < 0)
		bench_die("pair", -ENOMEM);
	if (connect(to, (struct sockaddr *)&r->to, sizeof(r->to)) < 0) {
		close(to);
		close(fd);
		free(p);
		return;
	}
	for (int i = 0; i < 2; i++) {
		struct end *e = &p->ends[i];

		e->pair = p;
		e->fd = i ? to : fd;
		e->in = (struct way){ .from = e, .to = &p->ends[!i], .last = &e->in.first };
		setsockopt(e->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		watch(r, e, EPOLLIN);
	}
	p->next = r->pairs;
	p->where = &r->pairs;
	if (p->next)
		p->next->where = &p->next;
	r->pairs = p;
}

/* False when the connection has failed. */
static bool take(struct relay *r, struct way *w)
{
	static char bytes[CHUNK];
	ssize_t n = recv(w->from->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	struct chunk *c;

	if (n < 0)
		return errno == EAGAIN;
	c = malloc(sizeof(*c) + (size_t)n);
	if (!c)
		bench_die("chunk", -ENOMEM);
	*c = (struct chunk){ .due_usec = now_usec() + r->delay_usec, .len = (size_t)n };
	memcpy(c->bytes, bytes, (size_t)n);
	*w->last = c;
	w->last = &c->next;
	if (n == 0) {
		epoll_ctl(r->epoll, EPOLL_CTL_DEL, w->from->fd, NULL);
		w->from->ended = true;
	}
	return true;
}

/* False when the stream has ended or failed. */
static bool hand_on(struct relay *r, struct way *w, uint64_t now)
{
	while (w->first && w->first->due_usec <= now) {
		struct chunk *c = w->first;
		ssize_t n;

		if (c->len == 0)
			return false;
		n = send(w->to->fd, c->bytes + c->at, c->len - c->at, MSG_DONTWAIT | MSG_NOSIGNAL);
		w->blocked = n < 0 && errno == EAGAIN;
		if (w->blocked)
			break;
		if (n < 0)
			return false;
		c->at += (size_t)n;
		if (c->at < c->len)
			continue;
		w->first = c->next;
		if (!w->first)
			w->last = &w->first;
		free(c);
	}
	watch(r, w->to, EPOLLIN | (w->blocked ? EPOLLOUT : 0U));
	return true;
}

/* Hands on what is due, and tells when the next will be. */
static uint64_t hand_on_all(struct relay *r)
{
	uint64_t next = UINT64_MAX, now = now_usec();
	struct pair *p = r->pairs;

	while (p) {
		struct pair *follower = p->next;

		if (!hand_on(r, &p->ends[0].in, now) || !hand_on(r, &p->ends[1].in, now)) {
			pair_free(p);
			p = follower;
			continue;
		}
		for (int i = 0; i < 2; i++) {
			const struct way *w = &p->ends[i].in;

			if (w->first && !w->blocked)
				next = u64_min(next, w->first->due_usec);
		}
		p = follower;
	}
	return next;
}

static void run(struct relay *r)
{
	struct end listening = { .fd = r->listener };

	watch(r, &listening, EPOLLIN);
	for (;;) {
		struct epoll_event e;
		struct end *end;

		if (bench_epoll_wait(r->epoll, &e, 1, hand_on_all(r)) == 0)
			continue;
		end = e.data.ptr;
		if (!end->pair) {
			int fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);

			if (fd >= 0)
				pair_new(r, fd);
		} else if ((e.events & EPOLLERR) ||
			((e.events & (EPOLLIN | EPOLLHUP)) && !take(r, &end->in))) {
			pair_free(end->pair);
		} else if (e.events & EPOLLOUT) {
			end->pair->ends[end == &end->pair->ends[0]].in.blocked = false;
		}
	}
}

static struct sockaddr_in loopback(const char *port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
		.sin_port = htons((uint16_t)bench_number(port, 65535)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

int main(int argc, char **argv)
{
	static const struct option longs[] = { { "msec", required_argument, NULL, 'm' }, { 0 } };
	struct sockaddr_in address;
	struct relay r = { 0 };
	int c, one = 1;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c != 'm')
			exit(2);
		r.delay_usec = strcmp(optarg, "0") ? bench_number(optarg, 100000) * 1000 : 0;
	}
	if (optind + 2 != argc) {
		fprintf(stderr, "usage: delay --msec N PORT TO-PORT\n");
		return 2;
	}
	bench_prepare();
	address = loopback(argv[optind]);
	r.to = loopback(argv[optind + 1]);
	r.epoll = epoll_create1(EPOLL_CLOEXEC);
	r.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(r.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (r.epoll < 0 || bind(r.listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(r.listener, 128) < 0)
		bench_die(argv[optind], -errno);
	printf("{\"listening\": true}\n");
	fflush(stdout);
	run(&r);
}
