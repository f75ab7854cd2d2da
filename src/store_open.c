/* SPDX-License-Identifier: MIT */
/*
 * The store opens the queue: at the start, when the disk lets it, and anew after its database was
 * set aside.
 */
#include <errno.h>

#include "log.h"
#include "store_internal.h"

/* Whether the same attempt may succeed later without anybody's help. */
bool store_is_passing(int error)
{
	switch (error) {
	case -ENOSPC:
	case -EDQUOT:
	case -EIO:
	case -EROFS:
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE: return true;
	default: return false;
	}
}

static void on_alive(void *userdata)
{
	struct store *s = userdata;

	s->callbacks.alive(s->userdata);
}

/* The queue has logged it. */
static void on_alert(void *userdata, const char *text)
{
	struct store *s = userdata;

	s->callbacks.alert(s->userdata, ALERT_STORE, text);
}

/* *ret_set_aside: a database was, whatever came of it. */
static int open_queue(struct store *s, bool *ret_set_aside)
{
	const struct queue_params params = {
		.path = s->config->queue.path,
		.sync_full = s->config->queue.sync == CONFIG_SYNC_FULL,
		.drop_oldest = s->config->queue.overflow == CONFIG_OVERFLOW_DROP_OLDEST,
		.max_messages = s->config->queue.max_messages,
		.max_bytes = s->config->queue.max_bytes,
		.max_dead_letters = s->config->queue.max_dead_letters,
		.rotten = s->rotten,
		.ret_set_aside = ret_set_aside,
		.alive = s->callbacks.alive ? on_alive : NULL,
		.alert = on_alert,
		.userdata = s,
	};
	int r;

	r = queue_new(&s->queue, &params);
	/* Once is enough: the new one is sound, and has what could be carried over. */
	if (r == 0 || *ret_set_aside)
		s->rotten = false;
	if (r < 0)
		return r;
	/* Those of an uplink that has ended: nobody waits to hear of them. */
	if (s->n_removals > 0 || s->n_condemned > 0) {
		r = store_try_uplink_work(s);
		if (r < 0)
			return r;
		s->n_removals = s->n_condemned = 0;
	}
	store_count_opened(s);
	mailbox_post_committed(s->mailbox, queue_last_id(s->queue));
	mailbox_post_queued(s->mailbox, queue_messages(s->queue));
	store_begin_chores(s);
	return s->callbacks.opened(s->userdata);
}

/* 0, or -errno: then the queue is not open. */
int store_open(struct store *s)
{
	bool set_aside = false;
	int r;

	r = open_queue(s, &set_aside);
	if (r == -EUCLEAN && !set_aside) {
		/* Rot that the look at the start does not come across. */
		store_count_closing(s);
		s->queue = queue_free(s->queue, false);
		s->rotten = true;
		r = open_queue(s, &set_aside);
	}
	if (r == 0) {
		store_works(s);
		if (store_is_full(queue_refill_reserve(s->queue)))
			store_failed(s, -ENOSPC);
		return 0;
	}
	store_count_closing(s);
	s->queue = queue_free(s->queue, false);
	s->error = r;
	store_log_failing(s);
	store_arm_retry(s);
	s->callbacks.changed(s->userdata);
	return r;
}

void store_parked(struct store *s)
{
	/* What was acknowledged or condemned still is: ids stay the same. */
	(void)store_take_uplink_work(s);
	s->meta_wanted = false;
	mailbox_reset(s->mailbox);
	queue_rollback(s->queue);
	store_count_closing(s);
	s->queue = queue_free(s->queue, false);
	s->parking = s->between = false;
	s->rotten = true;
	s->append_error = 0;
	s->retry_usec = 0;
	(void)store_open(s);
}

void store_begin_next_uplink(struct store *s)
{
	int r;

	if (!s->between || s->parking || store_uplink_work_left(s))
		return;
	mailbox_reset(s->mailbox);
	mailbox_post_committed(s->mailbox, queue_last_id(s->queue));
	r = s->callbacks.opened(s->userdata);
	s->between = r < 0;
	if (r == -EUCLEAN)
		store_failed(s, r);
	else if (r < 0)
		store_arm_retry(s);
}
