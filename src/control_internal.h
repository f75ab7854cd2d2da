/* SPDX-License-Identifier: MIT */
/*
 * What the files of the room `control` share. Only control*.c include this header.
 *
 *   control.c           listening, the clients, whose turn it is
 *   control_client.c    a client's buffers and descriptor; its requests, one after the other
 *   control_commands.c  what a command begins
 *   control_work.c      what is done in steps: going over rows, changing them, events
 *   control_request.c, control_reply.c, control_row.c, control_status.c   lines and values; pure
 */
#pragma once

#include <sys/types.h>

#include "control.h"
#include "control_reply.h"
#include "control_request.h"
#include "queue_reader.h"

struct control_client {
	struct control *control;
	int fd;
	sd_event_source *io;
	struct buffer in, out;
	size_t scanned; /* bytes of `in` known to hold no line end */
	bool eof; /* nothing more will be read */
	bool last; /* close once `out` is written */
	bool gone; /* close now */
	uid_t uid; /* who it was that connected; (uid_t)-1 = not known */

	/* The command under way, if `working`. */
	bool working;
	struct control_request request;
	struct selection selection;
	uint64_t left; /* rows that may still be sent */
	uint64_t sent; /* rows; or the number of the last alert */
};

struct control {
	sd_event *event;
	sd_event_source *listen;
	sd_event_source *resume; /* listening, after descriptors ran out */
	sd_event_source *work; /* a timer: see control.c */
	uint64_t work_usec; /* CLOCK_MONOTONIC: not before */
	const struct alerts *alerts;
	struct control_callbacks callbacks;
	void *userdata;

	struct control_client *clients[CONTROL_CLIENTS_MAX];
	size_t n_clients;
	size_t turn; /* index of the client whose step was the last */
	struct queue_reader *reader; /* while somebody goes over rows */
	bool stopping;
	bool broken_off; /* commands were: their clients may go on */
};

/* --- control.c --- */

/* After something happened to a client: closes those that are done, and sees to the steps that are
 * due. */
void control_settle(struct control *c);

/* --- control_client.c --- */

/* Takes over `fd`. 0 or -errno; on failure `fd` stays the caller's. */
int control_client_new(struct control_client **ret, struct control *c, int fd) _must_check_;
/* Closes. Takes NULL, returns NULL. */
struct control_client *control_client_free(struct control_client *k);
/* Writes what it can, begins further requests, and tells the loop what to wait for. */
void control_client_go_on(struct control_client *k);
/* The connection has served its purpose. */
bool control_client_is_done(const struct control_client *k);
/* Ends the command under way with this error. */
void control_client_fail(struct control_client *k, enum control_error error, const char *text);

/* --- control_commands.c --- */

/* Carries a request out, or begins with it; takes it over. 0 or -ENOMEM. */
int control_begin(struct control_client *k, struct control_request *r) _must_check_;

/* --- control_work.c --- */

/* What is done in steps; `request` is set. 0 or -ENOMEM. */
int control_begin_work(struct control_client *k) _must_check_;
/* Whether control_step() has something to do now. */
bool control_is_ready(const struct control_client *k);
/* One bounded step of the command under way. 0, or -ENOMEM: the client is to be closed. */
int control_step(struct control_client *k) _must_check_;
/* The command under way is over, also when it was broken off. */
void control_end_work(struct control_client *k);
/* One message by its number, at once. 0 or -ENOMEM. */
int control_show(struct control_client *k) _must_check_;
