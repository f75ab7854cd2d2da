/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `ingest` share. ingest.c is the turn: lines, the commit, replies;
 * ingest_accept.c lets clients in; ingest_access.c knows what each may publish; ingest_limits.c
 * holds back those who want too much. Only these include this header.
 */
#pragma once

#include "access.h"
#include "event.h"
#include "flap.h"
#include "frame_json.h"
#include "ingest.h"
#include "ingest_client.h"

/* Lines of one turn. */
#define TURN_LINES 1000

/* A line's answer, as far as it is known before the commit. */
struct reply {
	struct client *client;
	enum frame_error error;
	bool has_id;
	uint64_t seq;
	size_t id, id_len; /* in `texts` */
	size_t text, text_len;
};

struct ingest {
	sd_event *event;
	sd_event_source *listen;
	sd_event_source *resume; /* listening, after a pause */
	sd_event_source *io;
	sd_event_source *again; /* something is left from the last turn */
	sd_event_source *delay; /* the turn under way ends then */
	sd_event_source *release; /* the first client that max_rate holds back may go on */
	sd_event_source *stalled; /* somebody waits for room: a look at those who have it */
	int listen_fd;
	int epoll_fd;
	struct ingest_params params;
	struct ingest_callbacks callbacks;
	void *userdata;
	struct frame_json *frames;

	struct client *clients;
	unsigned n_clients;
	struct client_pool pool;
	struct client *ready, **ready_tail;
	unsigned n_ready;
	struct client *touched;

	/* The turn under way. */
	struct reply replies[TURN_LINES];
	size_t n_replies;
	struct buffer texts;
	int64_t read_msec; /* when its client was read last, by the clock as it is */
	size_t lines;
	size_t bytes; /* read */
	size_t appended;
	size_t taken; /* of them: whether they are stored depends on the commit alone */
	int failed; /* -errno: nothing that was appended in this turn is stored */
	bool hurry; /* no turn waits any more */

	uint64_t release_usec; /* when `release` goes off */
	uint64_t looked_usec; /* at those who have room, last */

	/* Told now and then. */
	struct flap refusals, pauses, cut_off;
	struct flap_table not_allowed; /* by the peer's user */
};

/* --- ingest.c --- */

/* This client is looked after at the end of the turn. */
void ingest_touch(struct ingest *i, struct client *c);
/* Looks after those, and goes on in a next turn if something is left. */
void ingest_finish(struct ingest *i);
/* A turn. */
void ingest_turn(struct ingest *i);
/* Those that wait for room look again whether there is some. */
void ingest_wake_waiting(struct ingest *i);
/* A reply that cannot be given would make the later ones lie: the connection ends without them,
 * which says of each line that it was not accepted. */
void ingest_give_up_replies(struct client *c);
/* By the error's number, but for FRAME_OK. */
void ingest_count_refused(struct ingest *i, enum frame_error error, uint64_t n);
/* An answer that waits for no commit, behind those that do; then the connection ends. */
void ingest_dismiss(struct ingest *i, struct client *c, enum frame_error error, const char *text);

/* --- ingest_accept.c --- */

int ingest_on_listen(sd_event_source *s, int fd, uint32_t events, void *userdata);
int ingest_on_resume(sd_event_source *s, uint64_t usec, void *userdata);
/* Tells of it, if it is time to. `text` without an end. */
void ingest_tell(struct flap *flap, enum event_kind kind, int error, const char *text);

/* --- ingest_access.c --- */

/* Finds out which rules are this client's. */
void ingest_access_admit(struct ingest *i, struct client *c);
/* What is wrong with it, static text, or NULL: this client may publish it. Tells of it, too. */
const char *ingest_access_refuses(struct ingest *i, struct client *c, const struct message *m);

/* --- ingest_limits.c --- */

int ingest_limits_open(struct ingest *i) _must_check_;
void ingest_limits_close(struct ingest *i);
/* Whether the next line, of `len` bytes, has to wait: then the client is held. It counts as taken
 * otherwise. */
bool ingest_limits_hold(struct ingest *i, struct client *c, size_t len);
/* The lines that were taken from it are answered. */
void ingest_limits_answered(struct client *c);
/* Other limits, or none any more: whoever is held may try again. */
void ingest_limits_changed(struct ingest *i);
/* At the end of a turn. */
void ingest_limits_watch(struct ingest *i);
