/* SPDX-License-Identifier: MIT */
/*
 * Local programs: the listening socket, its clients, their lines and the replies.
 *
 * One turn takes what all clients have ready (bounded), appends it, commits once, and replies. With
 * a commit delay, a turn that is not full goes on with what comes until the delay is over. For the
 * gateway thread.
 */
#pragma once

#include <sys/types.h>
#include <systemd/sd-event.h>

#include "access.h"
#include "figures.h"
#include "message.h"
#include "util.h"

struct ingest;

/* So long may half a line keep others from the room for theirs. */
#define INGEST_STALL_USEC (10 * USEC_PER_SEC)

struct ingest_params {
	uint8_t default_qos;
	unsigned max_clients;
	size_t max_message_bytes;
	size_t max_buffered_bytes; /* lines not yet handled, all clients together */
	uint64_t max_rate; /* lines a second of one client; 0 = no bound */
	size_t max_inflight_bytes; /* of one client's lines without an answer; 0 = no bound */
	uint64_t commit_delay_usec; /* a turn waits so long for further lines, unless it is full */
	uint64_t stall_usec; /* INGEST_STALL_USEC, but for tests */
	/* FIGURES_ERRORS + 1 of them, borrowed: answers with an error are counted here, by their
	 * words, which ingest_new() sets. What is counted already goes on. */
	struct figures_refused *refused;
	struct access_rules access; /* borrowed until other params are set, or the end */
};

struct ingest_callbacks {
	/* Stores a message; its id counts once `commit` succeeded. 0; -EMSGSIZE or -EINVAL: this
	 * one cannot be stored; -ENOBUFS: nor this one, *ret_text says which bound is reached;
	 * another -errno: nothing can be stored now. */
	int (*append)(
		void *userdata, const struct message *m, uint64_t *ret_id, const char **ret_text);
	/* Puts all that was appended since the last time on disk. 0, or -errno: none of it is. */
	int (*commit)(void *userdata);
};

/* `listen_fd` is a listening Unix stream socket, non-blocking; borrowed. 0 or -errno. */
int ingest_new(struct ingest **ret, sd_event *event, int listen_fd,
	const struct ingest_params *params, const struct ingest_callbacks *callbacks,
	void *userdata) _must_check_;
/* Closes what is open. Takes NULL, returns NULL. */
struct ingest *ingest_free(struct ingest *i);

/*
 * Other params from now on, for the clients there are, too: a line that began before counts by the
 * new bound; nobody is disconnected for a lower max_clients. Ends a turn that waits.
 */
void ingest_set_params(struct ingest *i, const struct ingest_params *params);

/* Ends a turn that waits for further lines. */
void ingest_commit(struct ingest *i);

/*
 * No more clients, no more lines: answers what was read, tells each client `stopping`. Clients
 * whose replies cannot be written yet stay until they are; see ingest_clients().
 */
void ingest_stop(struct ingest *i);
unsigned ingest_clients(const struct ingest *i);
