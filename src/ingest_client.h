/* SPDX-License-Identifier: MIT */
/*
 * One local program's connection: its bytes in, its replies out. Part of the room `ingest`.
 *
 * Memory is bounded over all clients: to read beyond a small buffer of its own, a client needs a
 * reservation for a whole line of the largest size, so that lines once begun can always be
 * finished. One that is not read from, because it does not read its replies or is held back, has
 * only as much counted as its buffers take. When nobody has a whole reservation and the bound is
 * not passed, one is given beyond it; and a line that lies in the socket as a whole is taken
 * without any, since it is handled at once.
 */
#pragma once

#include "access.h"
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
	unsigned granted; /* clients that have a whole one */
	unsigned waiting; /* clients that wait for one */
};

/* Why a client is not read from. */
enum client_held {
	CLIENT_HELD_RATE = 1, /* until `release_usec` */
	CLIENT_HELD_ANSWERS = 2, /* until what it has sent is answered */
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
	size_t reserved; /* bytes that count for it in the pool */
	bool granted; /* they are a whole reservation */
	bool progress; /* a line was handled, a reply read, or a reservation given */
	size_t peeked; /* bytes in the socket that hold no line end; 0 = not looked at */
	bool waiting; /* for a reservation */
	bool is_ready;
	bool is_touched;

	unsigned held; /* CLIENT_HELD_*; 0 = it is not */
	size_t unanswered; /* bytes of the pending lines */
	double tokens; /* lines that it may send now, as of filled_usec */
	uint64_t filled_usec, release_usec, stalled_usec; /* CLOCK_MONOTONIC */
	struct access_set access; /* the rules that are its own */
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
