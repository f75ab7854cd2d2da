/* SPDX-License-Identifier: MIT */
/*
 * A connection to one of the gateway's sockets: lines in, lines out, nothing that waits without
 * end. Knows JSON as far as the control socket's replies go, and no command.
 *
 * Deadlines are of CLOCK_MONOTONIC, in microseconds; 0 = do not wait at all.
 */
#pragma once

#include <jansson.h>

#include "util.h"

/*
 * For so long we wait for a gateway that says nothing: half of it for an answer, and half of it for
 * the probe whether it is at work at all.
 */
#define CLIENT_PATIENCE_USEC (5 * USEC_PER_SEC)

struct client;

/*
 * Connects. 0; -ENOENT, -ECONNREFUSED: nobody is there; -EACCES; -ETIMEDOUT: there is, but takes
 * no connections; -errno. To be freed with client_free().
 */
int client_new(struct client **ret, const char *path, uint64_t deadline_usec) _must_check_;
/* Takes NULL, returns NULL. */
struct client *client_free(struct client *c);
static inline void client_freep(struct client **c)
{
	client_free(*c);
}

/* For poll(). */
int client_fd(const struct client *c);

/* Sends as much as goes without waiting. Returns how much; -EPIPE: the other side has closed. */
ssize_t client_send_some(struct client *c, const char *data, size_t len) _must_check_;

/*
 * The next line, without its end; valid until the next call. 0; -ETIMEDOUT; -EPIPE: the other side
 * has closed; -EMSGSIZE: a line without end; -errno.
 */
int client_line(struct client *c, char **ret, size_t *ret_len, uint64_t deadline_usec) _must_check_;

/*
 * Whether the program behind the socket is at work: makes a connection of its own, ends it, and
 * waits for the other side to do the same. 0 or -errno as client_new().
 */
int client_probe(const char *path) _must_check_;

/* --- the control socket --- */

/* Sends a request, and takes it over. 0 or -errno. */
int client_request(struct client *c, json_t *request) _must_check_;

/*
 * The next reply, to be freed with json_decref(). -EBADMSG: it is none; else as client_line().
 * -ETIMEDOUT is told when the gateway as a whole has not answered for CLIENT_PATIENCE_USEC; work
 * that takes longer is waited for.
 */
int client_reply(struct client *c, json_t **ret) _must_check_;
/* Without waiting. -EAGAIN: there is none yet. */
int client_reply_now(struct client *c, json_t **ret) _must_check_;
