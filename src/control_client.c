/* SPDX-License-Identifier: MIT */
/*
 * One operator's connection: see control_internal.h. Must not know what a command does.
 *
 * Invariant: a request is begun only when no other is under way and all replies so far are written;
 * nothing is read meanwhile. So neither buffer grows beyond one request, and one batch of replies.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "control_internal.h"

#define READ_BYTES  4096
#define DISCARD_MAX (1024 * 1024)

static void flush(struct control_client *k)
{
	while (buffer_len(&k->out) > 0) {
		ssize_t n = send(k->fd, buffer_head(&k->out), buffer_len(&k->out),
			MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			k->gone = true;
			return;
		}
		buffer_consume(&k->out, (size_t)n);
	}
	buffer_clear(&k->out);
}

static void take_input(struct control_client *k)
{
	ssize_t n;

	if (buffer_reserve(&k->in, READ_BYTES) < 0) {
		k->gone = true;
		return;
	}
	n = recv(k->fd, k->in.data + k->in.end, READ_BYTES, MSG_DONTWAIT);
	if (n > 0)
		k->in.end += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		k->eof = true;
}

/* --- requests -------------------------------------------------------------------------------- */

static bool is_blank(const char *line, size_t len)
{
	/* -fanalyzer: a line without bytes is not looked at. */
	for (size_t i = 0; i < len; i++)
		if (!strchr(" \t\r", line[i]) || line[i] == '\0')
			return false;
	return true;
}

static void answer_line(struct control_client *k, const char *line, size_t len)
{
	struct control_request request;
	char text[CONTROL_TEXT_MAX];
	enum control_error e;
	int r;

	if (is_blank(line, len))
		return;
	e = control_request_parse(line, len, &request, text);
	r = e == CONTROL_OK ? control_begin(k, &request) : control_put_error(&k->out, e, text);
	if (r < 0)
		k->gone = true;
}

static void refuse_length(struct control_client *k)
{
	if (control_put_error(&k->out, CONTROL_BAD_JSON,
		    "the line is longer than 65536 bytes; a line feed ends a request") < 0)
		k->gone = true;
	k->last = true;
	buffer_clear(&k->in);
}

/* The next line, if it is there. False: none. */
static bool take_line(struct control_client *k)
{
	const char *head = buffer_head(&k->in), *end;
	size_t have = buffer_len(&k->in), len;

	if (have == 0)
		return false;
	end = memchr(head + k->scanned, '\n', have - k->scanned);
	len = end ? (size_t)(end - head) : have;
	if (len > CONTROL_LINE_MAX) {
		refuse_length(k);
		return false;
	}
	if (!end && !k->eof) {
		k->scanned = have;
		return false;
	}
	answer_line(k, head, len);
	buffer_consume(&k->in, size_min(len + 1, have));
	k->scanned = 0;
	if (buffer_len(&k->in) == 0)
		buffer_clear(&k->in);
	return true;
}

static bool may_begin(const struct control_client *k)
{
	return !k->gone && !k->last && !k->working && buffer_len(&k->out) == 0;
}

static void wait_for(struct control_client *k)
{
	uint32_t events = 0;

	if (buffer_len(&k->out) > 0)
		events = EPOLLOUT;
	else if (may_begin(k) && !k->eof)
		events = EPOLLIN;
	/* Without either: a hang-up is told in any case. */
	if (sd_event_source_set_io_events(k->io, events) < 0)
		k->gone = true;
}

void control_client_go_on(struct control_client *k)
{
	flush(k);
	while (may_begin(k) && take_line(k))
		flush(k);
	if (k->last)
		flush(k);
	wait_for(k);
}

void control_client_fail(struct control_client *k, enum control_error error, const char *text)
{
	if (control_put_error(&k->out, error, text) < 0)
		k->gone = true;
	control_end_work(k);
	/* What it asked for besides waits for the next turn. */
	flush(k);
	wait_for(k);
}

bool control_client_is_done(const struct control_client *k)
{
	if (k->gone)
		return true;
	if (buffer_len(&k->out) > 0 || k->working)
		return false;
	return k->last || (k->eof && buffer_len(&k->in) == 0);
}

/* --- the connection -------------------------------------------------------------------------- */

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct control_client *k = userdata;

	(void)s;
	(void)fd;
	if ((events & EPOLLIN) && may_begin(k) && !k->eof)
		take_input(k);
	control_client_go_on(k);
	/* Nobody is left to read an answer. */
	if (events & (EPOLLHUP | EPOLLERR))
		k->gone = true;
	control_settle(k->control);
	return 0;
}

static uid_t uid_of(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ? (uid_t)-1 : peer.uid;
}

int control_client_new(struct control_client **ret, struct control *c, int fd)
{
	struct control_client *k;
	int r;

	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	k->control = c;
	k->fd = fd;
	k->uid = uid_of(fd);
	r = sd_event_add_io(c->event, &k->io, fd, EPOLLIN, on_io, k);
	if (r < 0) {
		free(k);
		return r;
	}
	*ret = k;
	return 0;
}

struct control_client *control_client_free(struct control_client *k)
{
	char discarded[READ_BYTES];
	size_t total = 0;
	ssize_t n;

	if (!k)
		return NULL;
	if (k->working)
		control_end_work(k);
	sd_event_source_disable_unref(k->io);
	/* What was sent and not read would cut off the replies with a reset. */
	while (total < DISCARD_MAX &&
		(n = recv(k->fd, discarded, sizeof(discarded), MSG_DONTWAIT)) > 0)
		total += (size_t)n;
	close(k->fd);
	buffer_clear(&k->in);
	buffer_clear(&k->out);
	free(k);
	return NULL;
}
