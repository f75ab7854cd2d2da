/* SPDX-License-Identifier: MIT */
/*
 * The store and the operator: rows purged or put back, in steps between everybody else's turns.
 */
#include <errno.h>

#include "store_internal.h"

int store_may_read(const struct store *s)
{
	if (s->parking)
		return -EINPROGRESS;
	if (!s->queue)
		return s->error < 0 ? s->error : -EIO;
	return 0;
}

/* Whether a transaction may begin. 0 or -errno. */
static int prepare(struct store *s)
{
	int r = store_may_read(s);

	if (r < 0)
		return r;
	if (s->error < 0)
		return s->error;
	if (queue_in_transaction(s->queue))
		s->callbacks.hurry(s->userdata);
	/* The lines' commit may have failed, or found damage. */
	r = store_may_read(s);
	if (r < 0 || s->error < 0)
		return r < 0 ? r : s->error;
	return queue_in_transaction(s->queue) ? -EBUSY : 0;
}

/* After a step; `r` is what it returned. */
static int finish(struct store *s, int r)
{
	if (r < 0 && r != -ENOBUFS)
		store_failed(s, r);
	s->callbacks.changed(s->userdata);
	store_arm_chores(s);
	return r;
}

int store_purge(struct store *s, struct selection *sel)
{
	int r = prepare(s);

	if (r < 0)
		return r;
	/* What was delivered already is neither purged nor kept. */
	r = store_commit_uplink_work(s);
	if (r < 0)
		return finish(s, r);
	r = queue_purge(s->queue, mailbox_freeze(s->mailbox), sel);
	mailbox_thaw(s->mailbox);
	return finish(s, r);
}

int store_purge_dead(struct store *s, struct selection *sel)
{
	int r = prepare(s);

	return r < 0 ? r : finish(s, queue_purge_dead(s->queue, sel));
}

int store_requeue(struct store *s, struct selection *sel, const char **ret_text)
{
	uint64_t before = sel->count;
	int r = prepare(s);

	if (r < 0)
		return r;
	r = queue_requeue(s->queue, sel);
	if (r == -ENOBUFS)
		*ret_text = queue_full_text(s->queue);
	if (sel->count > before) {
		store_post_committed(s);
		store_after_commit(s);
	}
	return finish(s, r);
}
