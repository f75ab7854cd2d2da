/* SPDX-License-Identifier: MIT */
/*
 * One local program's connection: its bytes in, its replies out. Part of the room `ingest`.
 *
 * Memory for input is bounded over all clients: beyond a small buffer of its own, a client needs a
 * reservation for a whole line of the largest size, so that lines once begun can always be
 * finished.
 */
#pragma once

#include "buffer.h"
#include "util.h"

/* What a client may hold without a reservation. */
#define CLIENT_SMALL 4096
/* What one read takes at most. */
#define CLIENT_READ 65536

struct client_pool {
	size_t used;
	size_t max;
	size_t reservation; /* of one client */
	unsigned waiting; /* clients that wait for one */
};

struct client {
	struct client *prev, *next; /* all clients */
	struct client *next_ready; /* has something to handle */
	struct client *next_touched; /* to be looked after at the end of the turn */
	struct client_pool *pool;
	int fd;
	int epoll_fd;
	uint32_t events; /* registered with epoll_fd; 0 = not there */

	struct buffer in;
	size_t scanned; /* bytes of `in` known to hold no line end */
	struct buffer out;
	unsigned pending; /* lines handled whose answer waits for the commit */

	bool readable; /* epoll said so */
	bool more; /* complete lines are left in `in` */
	bool eof; /* nothing more will be read */
	bool last; /* close once `out` is written */
	bool deaf; /* the other side reads no replies any more */
	size_t reserved; /* bytes; 0 = none */
	bool waiting; /* for a reservation */
	bool is_ready;
	bool is_touched;
};

void client_pool_init(struct client_pool *pool, size_t max_message_bytes, size_t max);
/* Other bounds; then client_pool_changed() for each client. */
void client_pool_set(struct client_pool *pool, size_t max_message_bytes, size_t max);
/* One that holds a reservation for a shorter line gets one for the longest, beyond the bound if
 * need be: a line once begun can always be finished. */
void client_pool_changed(struct client *c);
/* Whether one more client can have a reservation. */
bool client_pool_has_room(const struct client_pool *pool);

/* Takes over `fd`. 0 or -errno; on failure `fd` stays the caller's. */
int client_new(struct client **ret, struct client_pool *pool, int epoll_fd, int fd) _must_check_;
/* Closes. Takes NULL, returns NULL. */
struct client *client_free(struct client *c);

/* Reads once. True when there may be more to read at once. Sets `eof`, or `waiting`. */
bool client_read(struct client *c);
/* The next complete line in `in` (without its '\n'), valid until client_consume(); at the end of
 * the input also what stands there without one. False when there is none. */
bool client_line(struct client *c, const char **ret_line, size_t *ret_len);
/* Drops a line that client_line() returned. */
void client_consume(struct client *c, size_t len);
/* No further input: what is read and not handled is dropped. */
void client_stop_reading(struct client *c);

/* Writes what it can of `out`. */
void client_flush(struct client *c);
/* True when the connection has served its purpose. */
bool client_is_done(const struct client *c);
/* Tells epoll what this client waits for, and gives back what it need not hold. */
int client_settle(struct client *c) _must_check_;
