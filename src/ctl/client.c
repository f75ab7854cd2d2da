/* SPDX-License-Identifier: MIT */
/*
 * Owns the socket and what was read from it and not yet handed out. Invariant: the socket never
 * blocks; who waits, waits in poll().
 */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Longer than any reply: a message of 64 MiB of which each byte is escaped. */
#define MAX_LINE (512U * 1024 * 1024)
#define CHUNK	 (256U * 1024)

struct client {
	int fd;
	const char *path; /* for probing */
	char *in;
	size_t begin, end, size; /* what is in `in` from `begin` was not handed out */
	size_t searched; /* from `begin`: there is no newline in it */
};

/* Until then, in milliseconds for poll(). */
static int milliseconds_until(uint64_t deadline_usec)
{
	uint64_t now = now_usec();

	if (deadline_usec <= now)
		return 0;
	return (int)u64_min((deadline_usec - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC, 1000000);
}

/* 0, -ETIMEDOUT, -errno. */
static int wait_for(int fd, short events, uint64_t deadline_usec)
{
	struct pollfd p = { .fd = fd, .events = events };
	int r;

	do {
		r = poll(&p, 1, milliseconds_until(deadline_usec));
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	return r == 0 ? -ETIMEDOUT : 0;
}

/* --- making a connection --------------------------------------------------------------------- */

/*
 * A local socket connects at once or, when too many wait to be accepted, not at all; the kernel
 * has no way to tell when there is room again.
 */
static int connect_until(int fd, const struct sockaddr_un *to, uint64_t deadline_usec)
{
	static const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };

	while (connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (now_usec() >= deadline_usec)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int client_new(struct client **ret, const char *path, uint64_t deadline_usec)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct client *c;
	int r;

	if (strlen(path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->path = path;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = c->fd < 0 ? -errno : connect_until(c->fd, &to, deadline_usec);
	if (r < 0) {
		client_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

struct client *client_free(struct client *c)
{
	if (!c)
		return NULL;
	closep(&c->fd);
	free(c->in);
	free(c);
	return NULL;
}

int client_fd(const struct client *c)
{
	return c->fd;
}

int client_probe(const char *path)
{
	_cleanup_(client_freep) struct client *c = NULL;
	uint64_t deadline = now_usec() + CLIENT_PATIENCE_USEC / 2;
	int r;

	r = client_new(&c, path, deadline);
	if (r < 0)
		return r;
	if (shutdown(c->fd, SHUT_WR) < 0)
		return -errno;
	/* Its end, or what it has to say. */
	return wait_for(c->fd, POLLIN, deadline);
}

/* --- bytes and lines ------------------------------------------------------------------------- */

ssize_t client_send_some(struct client *c, const char *data, size_t len)
{
	size_t sent = 0;
	ssize_t n;

	while (sent < len) {
		n = send(c->fd, data + sent, len - sent, MSG_NOSIGNAL);
		if (n >= 0)
			sent += (size_t)n;
		else if (errno == EAGAIN || errno == ENOBUFS)
			break;
		else if (errno == ECONNRESET)
			return -EPIPE;
		else if (errno != EINTR)
			return -errno;
	}
	return (ssize_t)sent;
}

/* Room for a chunk behind what is there. */
static int make_room(struct client *c)
{
	size_t used = c->end - c->begin;
	char *in;

	if (c->size - c->end >= CHUNK)
		return 0;
	if (used > MAX_LINE)
		return -EMSGSIZE;
	if (used > 0)
		memmove(c->in, c->in + c->begin, used);
	c->begin = 0;
	c->end = used;
	if (c->size - c->end >= CHUNK)
		return 0;
	in = realloc(c->in, used * 2 + 2 * CHUNK);
	if (!in)
		return -ENOMEM;
	c->in = in;
	c->size = used * 2 + 2 * CHUNK;
	return 0;
}

/* What can be read without waiting. 0; -EAGAIN; -EPIPE; -errno. */
static int take(struct client *c)
{
	ssize_t n;
	int r;

	r = make_room(c);
	if (r < 0)
		return r;
	do {
		n = recv(c->fd, c->in + c->end, c->size - c->end, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	if (n == 0)
		return -EPIPE;
	c->end += (size_t)n;
	return 0;
}

/* A line of what was read, if there is a whole one. */
static bool next_line(struct client *c, char **ret, size_t *ret_len)
{
	char *begin = c->in + c->begin, *newline;
	size_t have = c->end - c->begin;

	newline = have > c->searched ? memchr(begin + c->searched, '\n', have - c->searched) : NULL;
	if (!newline) {
		c->searched = have;
		return false;
	}
	*newline = '\0';
	*ret = begin;
	*ret_len = (size_t)(newline - begin);
	c->begin += *ret_len + 1;
	c->searched = 0;
	return true;
}

int client_line(struct client *c, char **ret, size_t *ret_len, uint64_t deadline_usec)
{
	int r;

	while (!next_line(c, ret, ret_len)) {
		r = take(c);
		if (r == -EAGAIN)
			r = wait_for(c->fd, POLLIN, deadline_usec);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- the control socket ---------------------------------------------------------------------- */

static int send_all(struct client *c, const char *data, size_t len)
{
	uint64_t deadline = now_usec() + CLIENT_PATIENCE_USEC;
	ssize_t n;
	int r = 0;

	while (len > 0 && r == 0) {
		n = client_send_some(c, data, len);
		if (n < 0)
			return (int)n;
		data += n;
		len -= (size_t)n;
		if (len > 0)
			r = wait_for(c->fd, POLLOUT, deadline);
	}
	return r;
}

int client_request(struct client *c, json_t *request)
{
	_cleanup_(freep) char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	int r;

	json_decref(request);
	if (!text)
		return -ENOMEM;
	r = send_all(c, text, strlen(text));
	return r < 0 ? r : send_all(c, "\n", 1);
}

static int parse(const char *line, size_t len, json_t **ret)
{
	json_t *reply = json_loadb(line, len, JSON_ALLOW_NUL, NULL);

	if (!json_is_object(reply) || !json_is_string(json_object_get(reply, "status"))) {
		json_decref(reply);
		return -EBADMSG;
	}
	*ret = reply;
	return 0;
}

int client_reply(struct client *c, json_t **ret)
{
	size_t len;
	char *line;
	int r;

	for (;;) {
		r = client_line(c, &line, &len, now_usec() + CLIENT_PATIENCE_USEC / 2);
		if (r == 0)
			return parse(line, len, ret);
		if (r != -ETIMEDOUT)
			return r;
		/* Going through a long queue takes a while; a gateway that hangs does not answer
		 * others either. */
		r = client_probe(c->path);
		if (r < 0)
			return r;
	}
}

int client_reply_now(struct client *c, json_t **ret)
{
	size_t len;
	char *line;
	int r;

	r = client_line(c, &line, &len, 0);
	if (r == 0)
		return parse(line, len, ret);
	return r == -ETIMEDOUT ? -EAGAIN : r;
}
