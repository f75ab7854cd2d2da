/* SPDX-License-Identifier: MIT */
/*
 * Owns a connection to the control socket. Invariants: nothing blocks; no more than one line of
 * MAX_LINE bytes is held; after end() neither callback is called again. Must not know what is
 * asked.
 */
#include "ask.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "buffer.h"
#include "report.h"
#include "timer.h"

#define MAX_LINE (4 * 1024 * 1024)
#define CHUNK	 (64 * 1024)

struct ask {
	const struct ask_callbacks *callbacks;
	void *userdata;
	sd_event_source *io;
	sd_event_source *timer;
	int fd;
	struct buffer output;
	struct buffer input;
	size_t looked; /* bytes of input that hold no line end */
	bool *freed; /* where ask_free() leaves word while a callback runs */
};

static void end(struct ask *a, int error)
{
	(void)sd_event_source_set_enabled(a->io, SD_EVENT_OFF);
	timer_off(a->timer);
	a->callbacks->end(a->userdata, error);
}

static int write_some(struct ask *a)
{
	ssize_t n;

	while (buffer_len(&a->output) > 0) {
		n = send(a->fd, buffer_head(&a->output), buffer_len(&a->output), MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		buffer_consume(&a->output, (size_t)n);
	}
	return sd_event_source_set_io_events(a->io, EPOLLIN);
}

/* 1: the ask was freed. -EBADMSG: no JSON object. */
static int take_line(struct ask *a, size_t n)
{
	json_t *reply = json_loadb(buffer_head(&a->input), n, JSON_ALLOW_NUL, NULL);
	bool freed = false;

	if (!json_is_object(reply)) {
		json_decref(reply);
		return -EBADMSG;
	}
	buffer_consume(&a->input, n + 1);
	a->looked = 0;
	timer_off(a->timer);
	/* Taken back below, unless there is no ask any more. */
	/* cppcheck-suppress autoVariables */
	a->freed = &freed;
	a->callbacks->reply(a->userdata, reply);
	json_decref(reply);
	if (freed)
		return 1;
	a->freed = NULL;
	return 0;
}

/* All whole lines. 1: the ask was freed. */
static int take_lines(struct ask *a)
{
	for (;;) {
		size_t len = buffer_len(&a->input);
		char *head = buffer_head(&a->input), *newline;
		int r;

		newline = len > a->looked ? memchr(head + a->looked, '\n', len - a->looked) : NULL;
		if (!newline) {
			a->looked = len;
			return len > MAX_LINE ? -EBADMSG : 0;
		}
		r = take_line(a, (size_t)(newline - head));
		if (r != 0)
			return r;
	}
}

/* 1: there may be more. -EAGAIN: not now. -ECONNRESET: the end. */
static int read_some(struct ask *a)
{
	ssize_t n;
	int r;

	r = buffer_reserve(&a->input, CHUNK);
	if (r < 0)
		return r;
	n = recv(a->fd, a->input.data + a->input.end, CHUNK, 0);
	if (n < 0)
		return errno == EINTR ? 1 : -errno;
	if (n == 0)
		return -ECONNRESET;
	a->input.end += (size_t)n;
	return 1;
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct ask *a = userdata;
	int r = 1;

	(void)s;
	(void)fd;
	if (events & EPOLLOUT)
		r = write_some(a) < 0 ? -ECONNRESET : 1;
	/* What was said before the end counts. */
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		int lines;

		r = read_some(a);
		lines = take_lines(a);
		if (lines == 1)
			return 0;
		if (lines < 0)
			r = lines;
	}
	if (r < 0 && r != -EAGAIN)
		end(a, r);
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	end(userdata, -ETIMEDOUT);
	return 0;
}

static int open_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* A local connection is made at once, or not at all. */
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

static int put_request(struct ask *a, json_t *request)
{
	char *text = json_dumps(request, JSON_COMPACT);
	int r = text ? buffer_printf(&a->output, "%s\n", text) : -ENOMEM;

	free(text);
	json_decref(request);
	return r;
}

int ask_new(struct ask **ret, sd_event *event, const char *path, json_t *request,
	uint64_t patience_usec, const struct ask_callbacks *callbacks, void *userdata)
{
	struct ask *a = calloc(1, sizeof(*a));
	int r;

	if (!a || !request) {
		json_decref(request);
		free(a);
		return -ENOMEM;
	}
	*a = (struct ask){ .callbacks = callbacks, .userdata = userdata, .fd = -1 };
	r = put_request(a, request);
	if (r == 0)
		r = a->fd = open_socket(path);
	if (r >= 0)
		r = sd_event_add_io(event, &a->io, a->fd, EPOLLIN | EPOLLOUT, on_io, a);
	if (r >= 0)
		r = timer_new(&a->timer, event, CLOCK_BOOTTIME, REPORT_ACCURACY_USEC, on_timer, a);
	if (r < 0) {
		ask_free(a);
		return r;
	}
	timer_set(a->timer, patience_usec);
	*ret = a;
	return 0;
}

struct ask *ask_free(struct ask *a)
{
	if (!a)
		return NULL;
	if (a->freed)
		*a->freed = true;
	sd_event_source_disable_unref(a->io);
	sd_event_source_disable_unref(a->timer);
	closep(&a->fd);
	buffer_clear(&a->output);
	buffer_clear(&a->input);
	free(a);
	return NULL;
}
