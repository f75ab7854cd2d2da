/* SPDX-License-Identifier: MIT */
/*
 * A client's buffers and descriptor: see ingest_client.h. Must not know what a line means.
 */
#include "ingest_client.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Input thrown away before a close, so that the close does not cut off replies with a reset. */
#define DISCARD_MAX (1024 * 1024)

void client_pool_set(struct client_pool *pool, size_t max_message_bytes, size_t max)
{
	/* A whole line with "\r\n", and never less than one full read. */
	size_t reservation = max_message_bytes + 2;

	if (reservation < CLIENT_READ)
		reservation = CLIENT_READ;
	pool->max = max < reservation ? reservation : max;
	pool->reservation = reservation;
}

void client_pool_init(struct client_pool *pool, size_t max_message_bytes, size_t max)
{
	*pool = (struct client_pool){ 0 };
	client_pool_set(pool, max_message_bytes, max);
}

void client_pool_changed(struct client *c)
{
	if (!c->granted || c->reserved >= c->pool->reservation)
		return;
	c->pool->used += c->pool->reservation - c->reserved;
	c->reserved = c->pool->reservation;
}

bool client_pool_has_room(const struct client_pool *pool)
{
	if (pool->used > pool->max)
		return false;
	return pool->granted == 0 || pool->max - pool->used >= pool->reservation;
}

/* A whole reservation, or what its buffers take. */
static void reserve(struct client *c, size_t bytes, bool granted)
{
	c->pool->granted += (unsigned)granted - (unsigned)c->granted;
	c->pool->used += bytes - c->reserved;
	c->granted = granted;
	c->reserved = bytes;
}

static void give_back(struct client *c)
{
	reserve(c, 0, false);
	if (c->waiting)
		c->pool->waiting--;
	c->waiting = false;
}

int client_new(struct client **ret, struct client_pool *pool, int epoll_fd, int fd)
{
	struct client *c;
	int r;

	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->pool = pool;
	c->epoll_fd = epoll_fd;
	c->fd = fd;
	r = client_settle(c);
	if (r < 0) {
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

struct client *client_free(struct client *c)
{
	char discarded[CLIENT_SMALL];
	size_t total = 0;
	ssize_t n;

	if (!c)
		return NULL;
	give_back(c);
	while (total < DISCARD_MAX &&
		(n = recv(c->fd, discarded, sizeof(discarded), MSG_DONTWAIT)) > 0)
		total += (size_t)n;
	close(c->fd);
	buffer_clear(&c->in);
	buffer_clear(&c->out);
	free(c);
	return NULL;
}

static size_t room(struct client *c)
{
	struct client_pool *pool = c->pool;
	size_t len = buffer_len(&c->in);

	if (!c->granted && client_pool_has_room(pool)) {
		reserve(c, pool->reservation, true);
		c->progress = true;
	}
	if (c->granted)
		return size_min(CLIENT_READ, c->reserved - size_min(len, c->reserved));
	return CLIENT_SMALL - size_min(len, CLIENT_SMALL);
}

/* Memory that a buffer need not hold. */
static void shrink(struct buffer *b)
{
	struct buffer small = { 0 };
	size_t len = buffer_len(b);

	if (len == 0) {
		buffer_clear(b);
	} else if (b->allocated > 2 * CLIENT_SMALL && b->allocated / 2 > len &&
		buffer_append(&small, buffer_head(b), len) == 0) {
		buffer_clear(b);
		*b = small;
	}
}

/*
 * Without a reservation: the rest of the line, if its end lies in the socket. That much may be more
 * than the bound allows, for as long as the turn lasts, which counts it; but not when replies to
 * such lines have filled it. False: there is no line end.
 */
static bool read_rest_of_line(struct client *c)
{
	const struct client_pool *pool = c->pool;
	char *data, *end;
	int waiting = 0;
	ssize_t n;

	if (pool->used > pool->max && pool->used - pool->max > pool->reservation)
		return false;
	if (ioctl(c->fd, FIONREAD, &waiting) < 0 || waiting <= 0 || c->peeked == (size_t)waiting ||
		buffer_reserve(&c->in, (size_t)waiting) < 0)
		return false;
	data = c->in.data + c->in.end;
	n = recv(c->fd, data, (size_t)waiting, MSG_DONTWAIT | MSG_PEEK);
	end = n > 0 ? memchr(data, '\n', (size_t)n) : NULL;
	c->peeked = end ? 0 : (size_t)waiting;
	if (!end) {
		/* At once: there may be many such in a turn. */
		shrink(&c->in);
		return false;
	}
	n = recv(c->fd, data, (size_t)(end + 1 - data), MSG_DONTWAIT);
	if (n > 0)
		c->in.end += (size_t)n;
	return n > 0;
}

static void wait_for_room(struct client *c)
{
	if (!c->waiting)
		c->pool->waiting++;
	c->waiting = true;
}

bool client_read(struct client *c)
{
	size_t n = room(c);
	ssize_t got;

	c->readable = false;
	if (n == 0 && read_rest_of_line(c)) {
		c->readable = true;
		return true;
	}
	if (n == 0 || buffer_reserve(&c->in, n) < 0) {
		wait_for_room(c);
		return false;
	}
	if (c->waiting) {
		c->pool->waiting--;
		c->waiting = false;
	}
	c->peeked = 0;
	got = recv(c->fd, c->in.data + c->in.end, n, MSG_DONTWAIT);
	if (got > 0) {
		c->in.end += (size_t)got;
		if ((size_t)got == n)
			c->readable = true;
		return c->readable;
	}
	if (got == 0 || (errno != EAGAIN && errno != EINTR))
		c->eof = true;
	return false;
}

bool client_line(struct client *c, const char **ret_line, size_t *ret_len)
{
	const char *head = buffer_head(&c->in), *end;
	size_t len = buffer_len(&c->in);

	c->more = false;
	if (len == 0)
		return false;
	end = memchr(head + c->scanned, '\n', len - c->scanned);
	if (!end) {
		c->scanned = len;
		if (!c->eof)
			return false;
		*ret_line = head;
		*ret_len = len;
		c->more = true;
		return true;
	}
	*ret_line = head;
	*ret_len = (size_t)(end - head);
	c->more = true;
	return true;
}

void client_consume(struct client *c, size_t len)
{
	/* The line end goes with it, if it has one. */
	buffer_consume(&c->in, size_min(len + 1, buffer_len(&c->in)));
	c->scanned = 0;
	c->progress = true;
}

void client_stop_reading(struct client *c)
{
	c->eof = true;
	c->more = false;
	c->scanned = 0;
	buffer_clear(&c->in);
}

void client_flush(struct client *c)
{
	while (buffer_len(&c->out) > 0) {
		ssize_t n = send(c->fd, buffer_head(&c->out), buffer_len(&c->out),
			MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			c->deaf = true;
			break;
		}
		buffer_consume(&c->out, (size_t)n);
		c->progress = true;
	}
	/* What a deaf one has sent is still taken: it may have asked for no reply. */
	buffer_clear(&c->out);
}

bool client_is_done(const struct client *c)
{
	if (buffer_len(&c->out) > 0 || c->pending > 0)
		return false;
	return c->last || (c->eof && !c->more && buffer_len(&c->in) == 0);
}

static size_t counted(const struct buffer *b)
{
	return b->allocated > 2 * CLIENT_SMALL ? b->allocated : 0;
}

/* What an idle client, or one that is not read from, need not hold. */
static void slim(struct client *c)
{
	bool stuck = buffer_len(&c->out) > 0 || c->held;

	if (!stuck && (c->more || (c->readable && c->granted)))
		return;
	if (!stuck && c->granted && buffer_len(&c->in) > CLIENT_SMALL)
		return;
	shrink(&c->in);
	shrink(&c->out);
	reserve(c, counted(&c->in) + counted(&c->out), false);
}

int client_settle(struct client *c)
{
	struct epoll_event event = { .data.ptr = c };
	int op;

	slim(c);
	if (buffer_len(&c->out) > 0)
		event.events = EPOLLOUT;
	else if (!c->eof && !c->last && !c->more && !c->waiting && !c->held)
		event.events = EPOLLIN;
	if (event.events == c->events)
		return 0;
	/* Not merely without interest: a hang-up would be reported for ever. */
	op = event.events == 0 ? EPOLL_CTL_DEL : c->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
	if (epoll_ctl(c->epoll_fd, op, c->fd, &event) < 0)
		return -errno;
	c->events = event.events;
	return 0;
}
