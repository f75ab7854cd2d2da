/* SPDX-License-Identifier: MIT */
/*
 * A client's buffers and descriptor: see ingest_client.h. Must not know what a line means.
 */
#include "ingest_client.h"

#include <errno.h>
#include <sys/epoll.h>
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
	if (c->reserved == 0 || c->reserved >= c->pool->reservation)
		return;
	c->pool->used += c->pool->reservation - c->reserved;
	c->reserved = c->pool->reservation;
}

bool client_pool_has_room(const struct client_pool *pool)
{
	return pool->used <= pool->max && pool->max - pool->used >= pool->reservation;
}

static void give_back_reservation(struct client *c)
{
	c->pool->used -= c->reserved;
	c->reserved = 0;
}

static void give_back(struct client *c)
{
	give_back_reservation(c);
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

	if (c->reserved == 0 && client_pool_has_room(pool)) {
		pool->used += pool->reservation;
		c->reserved = pool->reservation;
	}
	if (c->reserved > 0)
		return size_min(CLIENT_READ, c->reserved - size_min(len, c->reserved));
	return CLIENT_SMALL - size_min(len, CLIENT_SMALL);
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
	if (n == 0 || buffer_reserve(&c->in, n) < 0) {
		wait_for_room(c);
		return false;
	}
	if (c->waiting) {
		c->pool->waiting--;
		c->waiting = false;
	}
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

/* Memory that an idle client need not hold. */
static void slim(struct client *c)
{
	struct buffer small = { 0 };
	size_t len = buffer_len(&c->in);

	if (c->more || c->readable || len > CLIENT_SMALL)
		return;
	give_back_reservation(c);
	if (len == 0) {
		buffer_clear(&c->in);
	} else if (c->in.allocated > 2 * CLIENT_SMALL &&
		buffer_append(&small, buffer_head(&c->in), len) == 0) {
		buffer_clear(&c->in);
		c->in = small;
	}
}

int client_settle(struct client *c)
{
	struct epoll_event event = { .data.ptr = c };
	int op;

	slim(c);
	if (buffer_len(&c->out) > 0)
		event.events = EPOLLOUT;
	else if (!c->eof && !c->last && !c->more && !c->waiting)
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
