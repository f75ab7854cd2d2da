/* SPDX-License-Identifier: MIT */
/*
 * The listening socket: see listener.h. Must not know the protocol spoken on it.
 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "log.h"

#define BACKLOG 4096

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* 1 and the descriptor, 0 when systemd passed none, -errno. */
static int take_passed(struct listener *l)
{
	int n = sd_listen_fds(1);

	if (n < 0) {
		log_error("cannot read the sockets systemd passed: %s", strerrordesc_np(-n));
		return n;
	}
	for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
		int r;

		if (l->fd >= 0 || sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0) {
			log_warning("systemd passed a socket that is not a listening Unix stream "
				    "socket, or a second one; closed");
			close(fd);
			continue;
		}
		r = set_nonblocking(fd);
		if (r < 0)
			return r;
		l->fd = fd;
	}
	return l->fd >= 0;
}

/* A socket file that refuses connections belongs to nobody. */
static int remove_stale(const struct sockaddr_un *address)
{
	_cleanup_(closep) int fd = -1;
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
		return -EADDRINUSE;
	if (errno == ENOENT)
		return 0;
	if (errno != ECONNREFUSED)
		return -errno;
	if (unlink(address->sun_path) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

/* Without the group only the owner gets in: safe, so it is no reason not to start. */
static void set_group(const char *path, const char *name)
{
	struct group entry, *found = NULL;
	char buffer[16384];
	int r;

	r = getgrnam_r(name, &entry, buffer, sizeof(buffer), &found);
	if (!found) {
		log_warning("%s: socket.group \"%s\": %s; only the owner may connect", path, name,
			r ? strerrordesc_np(r) : "no such group");
		return;
	}
	if (chown(path, (uid_t)-1, found->gr_gid) < 0)
		log_warning("%s: cannot give it to group %s: %s; only the owner may connect", path,
			name, strerrordesc_np(errno));
}

/* It has that group already, unless the folder hands on its own: then chown(2) is needed, which a
 * service may not even call. */
static int give_own_group(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (st.st_gid != getegid() && chown(path, (uid_t)-1, getegid()) < 0)
		return -errno;
	return 0;
}

static int make(struct listener *l, const char *path, mode_t mode, const char *group)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	mode_t mask;
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	r = remove_stale(&address);
	if (r < 0)
		return r;
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return -errno;
	/* Nobody gets in before mode and group are right. */
	mask = umask(0177);
	r = bind(l->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (r < 0)
		return r;
	l->path = strdup(path);
	if (!l->path) {
		(void)unlink(path);
		return -ENOMEM;
	}
	if (!group) {
		r = give_own_group(path);
		if (r < 0)
			return r;
	}
	if (group && group[0])
		set_group(path, group);
	if (chmod(path, mode) < 0 || listen(l->fd, BACKLOG) < 0)
		return -errno;
	return 0;
}

int listener_make(struct listener *l, const char *path, mode_t mode, const char *group)
{
	int r;

	*l = (struct listener){ .fd = -1 };
	r = make(l, path, mode, group);
	if (r < 0) {
		log_error("%s: cannot listen: %s", path,
			r == -EADDRINUSE       ? "another program listens there"
				: r == -EEXIST ? "something that is not a socket has this name"
					       : strerrordesc_np(-r));
		listener_close(l);
	}
	return r;
}

int listener_open(struct listener *l, const char *path, mode_t mode, const char *group)
{
	int r;

	*l = (struct listener){ .fd = -1 };
	r = take_passed(l);
	if (r != 0)
		return r < 0 ? r : 0;
	return listener_make(l, path, mode, group);
}

int listener_accept(int fd, unsigned most, void (*add)(void *userdata, int client), void *userdata)
{
	for (unsigned n = 0; n < most; n++) {
		int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (client < 0)
			return errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
					errno == ENOBUFS
				? -errno
				: 0;
		add(userdata, client);
	}
	return 0;
}

void listener_close(struct listener *l)
{
	if (l->path)
		(void)unlink(l->path);
	free(l->path);
	l->path = NULL;
	closep(&l->fd);
	l->fd = -1;
}
