/* SPDX-License-Identifier: MIT */
/*
 * The local listening socket: the one systemd passes, or one of our own.
 */
#pragma once

#include <sys/types.h>

#include "util.h"

struct listener {
	int fd;
	char *path; /* of a socket we made, to be removed at the end; NULL for systemd's */
};

/*
 * Takes the Unix stream socket that systemd passed; without one, makes a socket at `path` with
 * `mode` and `group` ("" = leave the group alone). A socket file nobody listens on any more is
 * replaced. 0, or -errno, logged. -EADDRINUSE: another program listens there; -EEXIST:
 * the name belongs to something that is not a socket.
 */
int listener_open(
	struct listener *l, const char *path, mode_t mode, const char *group) _must_check_;
/* The same, whatever systemd passed; `group` NULL: the group this process runs as. */
int listener_make(
	struct listener *l, const char *path, mode_t mode, const char *group) _must_check_;
/*
 * Hands up to `most` clients that wait at `fd` to `add`, whose descriptors they are then: not
 * blocking, closed at an exec. 0, or -errno when there are no descriptors or no memory for one: it
 * would wake the loop again at once, so do not listen for a while.
 */
int listener_accept(int fd, unsigned most, void (*add)(void *userdata, int client),
	void *userdata) _must_check_;
/* Closes, and removes the file of a socket we made. Safe to call twice. */
void listener_close(struct listener *l);
