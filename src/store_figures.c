/* SPDX-License-Identifier: MIT */
/*
 * What the store counts, and what it shows. Counters go on when a queue is closed and another one
 * opened.
 *
 * Everything here is done once a transaction, or for a run of rows; a row costs an addition.
 */
#include <errno.h>
#include <stdio.h>

#include "store_internal.h"

/* A bound that was met so long ago is no news. */
#define FULL_USEC (30 * USEC_PER_SEC)

/* --- counting -------------------------------------------------------------------------------- */

void store_count_opened(struct store *s)
{
	acceptance_begin(&s->counts.acceptance, queue_last_id(s->queue));
}

static void add_counters(struct queue_stats *to, const struct queue_stats *from)
{
	to->commits += from->commits;
	to->syncs += from->syncs;
	to->written_bytes += from->written_bytes;
	to->dropped_overflow += from->dropped_overflow;
	to->dropped_expired += from->dropped_expired;
	to->dropped_purged += from->dropped_purged;
	to->dropped_dead_letters += from->dropped_dead_letters;
}

void store_count_closing(struct store *s)
{
	struct queue_stats stats;

	store_count_rolled_back(s);
	if (!s->queue)
		return;
	queue_get_stats(s->queue, &stats);
	add_counters(&s->counts.closed, &stats);
}

void store_count_appended(struct store *s, const struct message *m)
{
	s->counts.appended[m->qos]++;
}

void store_count_rolled_back(struct store *s)
{
	memset(s->counts.appended, 0, sizeof(s->counts.appended));
}

void store_count_committed(struct store *s, uint64_t usec)
{
	struct store_counts *c = &s->counts;
	uint64_t n = 0;

	histogram_add(&c->commit, &histogram_commit, usec, 1);
	for (size_t qos = 0; qos < ARRAY_SIZE(c->accepted); qos++) {
		c->accepted[qos] += c->appended[qos];
		n += c->appended[qos];
	}
	store_count_rolled_back(s);
	if (n == 0)
		return;
	rate_add(&c->accepted_rate, n, now_boot_usec());
	c->full_usec = 0;
}

void store_post_committed(struct store *s)
{
	uint64_t last_id = queue_last_id(s->queue);

	acceptance_add(&s->counts.acceptance, last_id, now_boot_usec());
	mailbox_post_committed(s->mailbox, last_id);
}

/* The ids come a moment later than the rows, perhaps when those are moved already. */
void store_count_condemned(struct store *s, const struct mailbox_condemned *rows, size_t n)
{
	struct store_counts *c = &s->counts;

	for (size_t i = 0; i < n; i++)
		c->condemned[c->n_condemned++ % ARRAY_SIZE(c->condemned)] = rows[i].id;
}

static bool was_condemned(const struct store_counts *c, uint64_t id)
{
	for (size_t i = 0; i < size_min(c->n_condemned, ARRAY_SIZE(c->condemned)); i++)
		if (c->condemned[i] == id)
			return true;
	return false;
}

void store_count_delivered(struct store *s, const uint64_t *ids, size_t n)
{
	struct store_counts *c = &s->counts;
	uint64_t now = n > 0 ? now_boot_usec() : 0;

	/* Rows of one commit mostly come in a run. */
	for (size_t i = 0; i < n;) {
		uint64_t first = ids[i], last = 0, accepted = 0, delivered = 0;
		bool known = acceptance_find(&c->acceptance, first, &accepted, &last);

		for (; i < n && ids[i] >= first && ids[i] <= last; i++)
			delivered += !was_condemned(c, ids[i]);
		if (known && delivered > 0)
			histogram_add(&c->delivery, &histogram_delivery,
				now > accepted ? now - accepted : 0, delivered);
	}
}

void store_count_full(struct store *s, const char *text)
{
	s->counts.full_usec = now_boot_usec();
	snprintf(s->counts.full, sizeof(s->counts.full), "%s", text);
}

/* --- showing --------------------------------------------------------------------------------- */

static void get_counters(const struct store *s, struct figures *ret)
{
	const struct store_counts *c = &s->counts;
	struct queue_stats all = c->closed, stats;

	if (s->queue) {
		queue_get_stats(s->queue, &stats);
		add_counters(&all, &stats);
		ret->messages = stats.messages;
		ret->bytes = stats.bytes;
		ret->dead_letters = stats.dead_letters;
	}
	ret->dropped[FIGURES_DROPPED_OVERFLOW] = all.dropped_overflow;
	ret->dropped[FIGURES_DROPPED_EXPIRED] = all.dropped_expired;
	ret->dropped[FIGURES_DROPPED_PURGED] = all.dropped_purged;
	ret->dropped[FIGURES_DROPPED_DEAD_LETTER_BOUND] = all.dropped_dead_letters;
	ret->commits = all.commits;
	ret->written_bytes = all.written_bytes;
	memcpy(ret->accepted, c->accepted, sizeof(ret->accepted));
	ret->accepted_rate = rate_get(&c->accepted_rate, ret->now_usec);
	ret->commit = c->commit;
	ret->delivery = c->delivery;
}

static void get_oldest(struct store *s, struct figures *ret)
{
	const struct clock_reading now = {
		.boot_msec = (int64_t)(ret->now_usec / USEC_PER_MSEC),
	};
	int64_t timestamp;
	int r;

	ret->oldest_msec = INT64_MIN;
	/* As for stamping: with the same clock rows of now are not older than they are. */
	ret->now_msec = clock_time_msec(&s->clock, &now);
	if (!s->queue || s->parking || ret->messages == 0)
		return;
	r = queue_oldest(s->queue, &timestamp);
	if (r == 0)
		ret->oldest_msec = timestamp;
	else if (r == -EUCLEAN)
		store_failed(s, r);
}

static void get_full(const struct store *s, struct figures *ret)
{
	const struct store_counts *c = &s->counts;

	if (c->full_usec != 0 && ret->now_usec - c->full_usec < FULL_USEC)
		snprintf(ret->full, sizeof(ret->full), "%s", c->full);
	else if (ret->max_messages && ret->messages >= ret->max_messages)
		snprintf(ret->full, sizeof(ret->full), "queue.max_messages, %llu, is reached",
			(unsigned long long)ret->max_messages);
}

void store_get_figures(struct store *s, struct figures *ret)
{
	ret->store_error = s->error;
	ret->max_messages = s->config->queue.max_messages;
	ret->max_bytes = s->config->queue.max_bytes;
	ret->max_dead_letters = s->config->queue.max_dead_letters;
	ret->drop_oldest = s->config->queue.overflow == CONFIG_OVERFLOW_DROP_OLDEST;
	get_counters(s, ret);
	get_oldest(s, ret);
	get_full(s, ret);
}
