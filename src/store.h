/* SPDX-License-Identifier: MIT */
/*
 * The store: what the gateway does with the queue. It opens it, now or when the disk lets it; puts
 * into one transaction a turn's lines and what the uplink wants written; keeps the bounds; and
 * knows what to do while the disk fails. For the gateway thread.
 */
#pragma once

#include <systemd/sd-event.h>

#include "alerts.h"
#include "config.h"
#include "figures.h"
#include "mailbox.h"
#include "message.h"
#include "queue.h"
#include "util.h"

struct store;

struct store_callbacks {
	/* The queue is open: the uplink may begin. Again after `park` and store_next_uplink(). 0,
	 * or -errno: it cannot, and all of it is tried again later. Comes inside store_new(), too.
	 */
	int (*opened)(void *userdata);
	/* The database is about to be set aside: the uplink has to end, then store_parked(). */
	void (*park)(void *userdata);
	/* What store_get_state() tells may have changed. */
	void (*changed)(void *userdata);
	/* Opening takes long, and goes on. */
	void (*alive)(void *userdata);
	/* The transaction is waiting for more lines; it shall do so no longer: store_commit(). */
	void (*hurry)(void *userdata);
	/* A person has to know at once: the text was logged. Comes inside store_new(), too. */
	void (*alert)(void *userdata, enum alert_kind kind, const char *text);
};

struct store_state {
	int error; /* -errno: lines are refused because of it; 0: they are taken */
	bool open; /* false: what follows is not known, and 0 */
	uint64_t messages;
	uint64_t dead_letters;
	uint64_t bytes; /* that count for queue.max_bytes */
};

/*
 * Borrows configuration and mailbox. 0, also when the disk does not let the queue be opened now: it
 * will be tried again. -errno, logged, when only a person can help: another process has the queue,
 * it is of a newer program, its directory is not there.
 */
int store_new(struct store **ret, sd_event *event, const struct config *config,
	struct mailbox *mailbox, const struct store_callbacks *callbacks,
	void *userdata) _must_check_;
/* The uplink has ended. With `orderly`, what it wanted written is written. Takes NULL, returns
 * NULL. */
struct store *store_free(struct store *s, bool orderly);

/* As in ingest.h. */
int store_append(struct store *s, const struct message *m, uint64_t *ret_id,
	const char **ret_text) _must_check_;
int store_commit(struct store *s) _must_check_;

/* The uplink has posted something. */
void store_mail(struct store *s);
/* The uplink has ended after `park`, its thread is joined. */
void store_parked(struct store *s);
/*
 * The uplink has ended because its owner wanted it to, its thread is joined: what it wanted written
 * is written, so that the next one meets no row that was delivered; then comes `opened`, inside
 * this call, or later when the disk lets it.
 */
void store_next_uplink(struct store *s);

/* Another configuration from now on, with the same path and sync; borrowed like the first. Bounds
 * count at once. Not inside a transaction. */
void store_set_config(struct store *s, const struct config *config);

/*
 * What an operator asks for: a bounded step, as in queue.h. 1: call again; 0: done; -EINPROGRESS:
 * the database is about to be set aside, -errno: it cannot be written. *ret_text with -ENOBUFS:
 * which bound is reached.
 */
int store_purge(struct store *s, struct selection *sel) _must_check_;
int store_purge_dead(struct store *s, struct selection *sel) _must_check_;
int store_requeue(struct store *s, struct selection *sel, const char **ret_text) _must_check_;
/* Whether the database may be opened for reading: 0, -EINPROGRESS as above, -errno: it is not open.
 */
int store_may_read(const struct store *s) _must_check_;

void store_get_state(const struct store *s, struct store_state *ret);
/* Fills in the store's part of *ret: all that stands below "the store" in figures.h, what was
 * accepted, and how fast. ret->now_usec is set. */
void store_get_figures(struct store *s, struct figures *ret);
