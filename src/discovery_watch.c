/* SPDX-License-Identifier: MIT */
/*
 * The watch on a directory: see discovery_watch.h. Owns the inotify descriptor. Must not know what
 * the file holds.
 */
#include "discovery_watch.h"
#include "timer.h"

#include <errno.h>
#include <libgen.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

/* Whoever renders the file may do so in several steps: this long after the last one it is read, and
 * at the latest this long after the first. */
#define SETTLE_USEC	(100 * USEC_PER_MSEC)
#define SETTLE_MAX_USEC (1 * USEC_PER_SEC)
#define ACCURACY_USEC	(10 * USEC_PER_MSEC)

/* No IN_MODIFY: half a file is of no use, and whoever writes closes it in the end. */
#define EVENTS                                                                                   \
	(IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | \
		IN_MOVE_SELF | IN_ATTRIB | IN_ONLYDIR)

struct discovery_watch {
	sd_event *event;
	sd_event_source *io;
	sd_event_source *timer;
	char *directory;
	int fd; /* inotify */
	int wd; /* -1 = nothing is watched */
	uint64_t first_usec; /* of the events that have not been told; 0 = none */
	discovery_watch_fn fn;
	void *userdata;
};

static int on_settled(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct discovery_watch *w = userdata;

	(void)source;
	(void)usec;
	w->first_usec = 0;
	/* Where the directory was removed or moved away, another may have taken its place. */
	if (w->wd < 0)
		(void)!discovery_watch_renew(w);
	w->fn(w->userdata);
	return 0;
}

static void settle(struct discovery_watch *w)
{
	uint64_t now = now_usec();

	if (w->first_usec == 0)
		w->first_usec = now;
	(void)sd_event_source_set_time(
		w->timer, u64_min(now + SETTLE_USEC, w->first_usec + SETTLE_MAX_USEC));
	(void)sd_event_source_set_enabled(w->timer, SD_EVENT_ONESHOT);
}

static void on_event(struct discovery_watch *w, const struct inotify_event *e)
{
	/* Of a directory that is watched no longer. An overflow (wd -1) may be about anything. */
	if (e->wd != w->wd && !(e->mask & IN_Q_OVERFLOW))
		return;
	if (e->mask & (IN_MOVE_SELF | IN_DELETE_SELF | IN_IGNORED | IN_UNMOUNT)) {
		if (e->mask & IN_MOVE_SELF)
			(void)inotify_rm_watch(w->fd, w->wd);
		w->wd = -1;
	}
	settle(w);
}

static int on_readable(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	_Alignas(struct inotify_event) char buffer[4096];
	struct discovery_watch *w = userdata;
	ssize_t n = read(fd, buffer, sizeof(buffer));

	(void)source;
	(void)events;
	for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= n;) {
		const struct inotify_event *e = (const void *)(buffer + at);

		on_event(w, e);
		at += (ssize_t)(sizeof(*e) + e->len);
	}
	return 0;
}

int discovery_watch_renew(struct discovery_watch *w)
{
	/* The same number when it is the same directory. */
	int wd = inotify_add_watch(w->fd, w->directory, EVENTS);
	int r = wd < 0 ? -errno : 0;

	if (w->wd >= 0 && wd != w->wd)
		(void)inotify_rm_watch(w->fd, w->wd);
	w->wd = wd;
	return r;
}

static int open_parts(struct discovery_watch *w, const char *path)
{
	char *copy = strdup(path);
	int r;

	w->directory = copy ? strdup(dirname(copy)) : NULL;
	free(copy);
	if (!w->directory)
		return -ENOMEM;
	w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->fd < 0)
		return -errno;
	r = sd_event_add_io(w->event, &w->io, w->fd, EPOLLIN, on_readable, w);
	if (r < 0)
		return r;
	return timer_new(&w->timer, w->event, CLOCK_MONOTONIC, ACCURACY_USEC, on_settled, w);
}

int discovery_watch_new(struct discovery_watch **ret, sd_event *event, const char *path,
	discovery_watch_fn fn, void *userdata)
{
	struct discovery_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->event = event;
	w->fd = w->wd = -1;
	w->fn = fn;
	w->userdata = userdata;
	r = open_parts(w, path);
	if (r < 0) {
		discovery_watch_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

struct discovery_watch *discovery_watch_free(struct discovery_watch *w)
{
	if (!w)
		return NULL;
	w->timer = sd_event_source_disable_unref(w->timer);
	w->io = sd_event_source_disable_unref(w->io);
	closep(&w->fd);
	free(w->directory);
	free(w);
	return NULL;
}
