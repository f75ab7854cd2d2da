/* SPDX-License-Identifier: MIT */
/*
 * The mailbox: see mailbox.h. Owns two eventfds and everything behind `lock`.
 *
 * Invariant: ids acknowledged but not confirmed as removed never exceed MAILBOX_SPAN, because the
 * uplink sends no row beyond that many; so the array of acknowledged ids has a fixed size.
 */
#include "mailbox.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>

/* Removals that a patient uplink is rung for after all. */
#define REMOVED_MANY (MAILBOX_SPAN / 4)

struct mailbox {
	pthread_mutex_t lock;
	int gateway_fd;
	int uplink_fd;

	uint64_t committed;
	uint64_t claimed;
	bool rows_wanted; /* the uplink has looked for rows since it was rung for some */
	bool frozen; /* the gateway drops rows above `claimed` */
	bool denied; /* the uplink asked for more meanwhile */
	uint64_t acked[MAILBOX_SPAN];
	size_t n_acked;
	size_t n_removed;
	bool patient; /* the uplink does not wait for them */

	struct mailbox_condemned condemned[MAILBOX_CONDEMNED];
	size_t n_condemned;
	size_t n_unburied; /* those, and those the gateway has taken */

	struct mailbox_meta meta;
	enum { META_NONE, META_WANTED, META_TAKEN, META_NOTED } meta_state;

	struct figures_uplink figures;
	uint64_t queued; /* messages that wait */
	bool queued_known;
	bool news; /* of them, for the gateway */
	struct mailbox_alert alerts[MAILBOX_ALERTS];
	size_t n_alerts;
	unsigned lost_alerts;

	struct clock clock;
	uint64_t max_age_usec;
	bool rotten;

	uint64_t pings;
	uint64_t answers;
	bool reconnect;
	bool stop;
	bool hurry;
	bool done;
};

int mailbox_new(struct mailbox **ret)
{
	struct mailbox *m;

	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	m->figures.next_usec = UINT64_MAX;
	m->rows_wanted = true;
	m->gateway_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->uplink_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->gateway_fd < 0 || m->uplink_fd < 0) {
		int r = -errno;

		mailbox_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

struct mailbox *mailbox_free(struct mailbox *m)
{
	if (!m)
		return NULL;
	closep(&m->gateway_fd);
	closep(&m->uplink_fd);
	pthread_mutex_destroy(&m->lock);
	free(m);
	return NULL;
}

/* The counter of an eventfd cannot overflow here, and one that is set already says enough. */
static void ring(int fd)
{
	(void)eventfd_write(fd, 1);
}

static void clear(int fd)
{
	eventfd_t value;

	(void)eventfd_read(fd, &value);
}

static void lock(struct mailbox *m)
{
	pthread_mutex_lock(&m->lock);
}

static void unlock(struct mailbox *m)
{
	pthread_mutex_unlock(&m->lock);
}

/* --- gateway thread --- */

int mailbox_gateway_fd(const struct mailbox *m)
{
	return m->gateway_fd;
}

void mailbox_gateway_clear(struct mailbox *m)
{
	clear(m->gateway_fd);
}

void mailbox_post_committed(struct mailbox *m, uint64_t last_id)
{
	bool wanted;

	lock(m);
	m->committed = last_id;
	wanted = m->rows_wanted;
	m->rows_wanted = false;
	unlock(m);
	if (wanted)
		ring(m->uplink_fd);
}

size_t mailbox_take_acked(struct mailbox *m, uint64_t *ids, size_t n_have)
{
	size_t n;

	lock(m);
	n = m->n_acked;
	assert(n_have + n <= MAILBOX_SPAN);
	memcpy(ids, m->acked, n * sizeof(*ids));
	m->n_acked = 0;
	unlock(m);
	return n;
}

void mailbox_post_removed(struct mailbox *m, size_t n)
{
	bool wanted;

	lock(m);
	m->n_removed += n;
	wanted = !m->patient || m->n_removed >= REMOVED_MANY;
	unlock(m);
	if (wanted)
		ring(m->uplink_fd);
}

size_t mailbox_take_condemned(struct mailbox *m, struct mailbox_condemned *rows, size_t n_have)
{
	size_t n;

	lock(m);
	n = m->n_condemned;
	assert(n_have + n <= MAILBOX_CONDEMNED);
	memcpy(rows, m->condemned, n * sizeof(*rows));
	m->n_condemned = 0;
	unlock(m);
	return n;
}

void mailbox_post_buried(struct mailbox *m, size_t n)
{
	lock(m);
	assert(n <= m->n_unburied);
	m->n_unburied -= n;
	unlock(m);
	ring(m->uplink_fd);
}

uint64_t mailbox_claimed(struct mailbox *m)
{
	uint64_t claimed;

	lock(m);
	claimed = m->claimed;
	unlock(m);
	return claimed;
}

uint64_t mailbox_freeze(struct mailbox *m)
{
	uint64_t claimed;

	lock(m);
	m->frozen = true;
	claimed = m->claimed;
	unlock(m);
	return claimed;
}

void mailbox_thaw(struct mailbox *m)
{
	bool denied;

	lock(m);
	m->frozen = false;
	denied = m->denied;
	m->denied = false;
	unlock(m);
	if (denied)
		ring(m->uplink_fd);
}

void mailbox_post_queued(struct mailbox *m, uint64_t messages)
{
	lock(m);
	m->queued = messages;
	m->queued_known = true;
	unlock(m);
}

void mailbox_post_clock(struct mailbox *m, const struct clock *clock, uint64_t max_age_usec)
{
	lock(m);
	m->clock = *clock;
	m->max_age_usec = max_age_usec;
	unlock(m);
}

bool mailbox_rotten(struct mailbox *m)
{
	bool rotten;

	lock(m);
	rotten = m->rotten;
	unlock(m);
	return rotten;
}

bool mailbox_take_meta(struct mailbox *m, struct mailbox_meta *ret)
{
	bool wanted;

	lock(m);
	wanted = m->meta_state == META_WANTED;
	if (wanted) {
		*ret = m->meta;
		m->meta_state = META_TAKEN;
	}
	unlock(m);
	return wanted;
}

void mailbox_post_noted(struct mailbox *m)
{
	lock(m);
	m->meta_state = META_NOTED;
	unlock(m);
	ring(m->uplink_fd);
}

void mailbox_get_figures(struct mailbox *m, struct figures_uplink *ret)
{
	lock(m);
	*ret = m->figures;
	unlock(m);
}

bool mailbox_take_news(struct mailbox *m)
{
	bool news;

	lock(m);
	news = m->news;
	m->news = false;
	unlock(m);
	return news;
}

size_t mailbox_take_alerts(
	struct mailbox *m, struct mailbox_alert *alerts, size_t room, unsigned *ret_lost)
{
	size_t n;

	lock(m);
	n = size_min(m->n_alerts, room);
	memcpy(alerts, m->alerts, n * sizeof(*alerts));
	memmove(m->alerts, m->alerts + n, (m->n_alerts - n) * sizeof(*alerts));
	m->n_alerts -= n;
	*ret_lost = m->lost_alerts;
	m->lost_alerts = 0;
	unlock(m);
	return n;
}

void mailbox_post_ping(struct mailbox *m)
{
	lock(m);
	m->pings++;
	unlock(m);
	ring(m->uplink_fd);
}

bool mailbox_pinged(struct mailbox *m)
{
	bool answered;

	lock(m);
	answered = m->answers == m->pings;
	unlock(m);
	return answered;
}

void mailbox_post_reconnect(struct mailbox *m)
{
	lock(m);
	m->reconnect = true;
	unlock(m);
	ring(m->uplink_fd);
}

void mailbox_post_stop(struct mailbox *m, bool hurry)
{
	lock(m);
	m->stop = true;
	m->hurry = m->hurry || hurry;
	unlock(m);
	ring(m->uplink_fd);
}

void mailbox_reset(struct mailbox *m)
{
	lock(m);
	m->committed = m->claimed = 0;
	m->rows_wanted = true;
	m->frozen = m->denied = false;
	m->n_acked = m->n_removed = 0;
	m->patient = false;
	m->n_condemned = m->n_unburied = 0;
	m->meta_state = META_NONE;
	figures_uplink_ended(&m->figures, now_boot_usec());
	m->rotten = false;
	m->answers = m->pings;
	m->reconnect = m->stop = m->hurry = m->done = false;
	unlock(m);
	clear(m->uplink_fd);
}

bool mailbox_uplink_done(struct mailbox *m)
{
	bool done;

	lock(m);
	done = m->done;
	unlock(m);
	return done;
}

/* --- uplink thread --- */

int mailbox_uplink_fd(const struct mailbox *m)
{
	return m->uplink_fd;
}

void mailbox_uplink_clear(struct mailbox *m)
{
	clear(m->uplink_fd);
}

uint64_t mailbox_claim(struct mailbox *m, uint64_t upto)
{
	lock(m);
	m->rows_wanted = true;
	if (upto > m->committed)
		upto = m->committed;
	if (upto > m->claimed && m->frozen)
		m->denied = true;
	else if (upto > m->claimed)
		m->claimed = upto;
	upto = m->claimed;
	unlock(m);
	return upto;
}

void mailbox_release(struct mailbox *m, uint64_t upto)
{
	lock(m);
	if (upto < m->claimed)
		m->claimed = upto;
	unlock(m);
}

void mailbox_clock(struct mailbox *m, struct clock *ret, uint64_t *ret_max_age_usec)
{
	lock(m);
	*ret = m->clock;
	*ret_max_age_usec = m->max_age_usec;
	unlock(m);
}

bool mailbox_get_queued(struct mailbox *m, uint64_t *ret)
{
	bool known;

	lock(m);
	known = m->queued_known;
	if (known)
		*ret = m->queued;
	unlock(m);
	return known;
}

void mailbox_post_rotten(struct mailbox *m)
{
	lock(m);
	m->rotten = true;
	unlock(m);
	ring(m->gateway_fd);
}

void mailbox_post_acked(struct mailbox *m, const uint64_t *ids, size_t n)
{
	lock(m);
	assert(m->n_acked + n <= MAILBOX_SPAN);
	memcpy(m->acked + m->n_acked, ids, n * sizeof(*ids));
	m->n_acked += n;
	unlock(m);
	ring(m->gateway_fd);
}

bool mailbox_may_condemn(struct mailbox *m)
{
	bool room;

	lock(m);
	room = m->n_unburied < MAILBOX_CONDEMNED;
	unlock(m);
	return room;
}

void mailbox_post_condemned(struct mailbox *m, uint64_t id, const char *reason)
{
	struct mailbox_condemned *row;

	lock(m);
	assert(m->n_unburied < MAILBOX_CONDEMNED);
	m->n_unburied++;
	row = &m->condemned[m->n_condemned++];
	row->id = id;
	snprintf(row->reason, sizeof(row->reason), "%s", reason);
	unlock(m);
	ring(m->gateway_fd);
}

size_t mailbox_take_removed(struct mailbox *m)
{
	size_t n;

	lock(m);
	n = m->n_removed;
	m->n_removed = 0;
	unlock(m);
	return n;
}

void mailbox_set_patient(struct mailbox *m, bool patient)
{
	lock(m);
	m->patient = patient;
	unlock(m);
}

void mailbox_post_meta(struct mailbox *m, const char *key, const char *value)
{
	lock(m);
	assert(m->meta_state == META_NONE);
	snprintf(m->meta.key, sizeof(m->meta.key), "%s", key);
	snprintf(m->meta.value, sizeof(m->meta.value), "%s", value);
	m->meta_state = META_WANTED;
	unlock(m);
	ring(m->gateway_fd);
}

bool mailbox_noted(struct mailbox *m)
{
	bool noted;

	lock(m);
	noted = m->meta_state == META_NOTED;
	if (noted)
		m->meta_state = META_NONE;
	unlock(m);
	return noted;
}

struct figures_uplink *mailbox_figures_begin(struct mailbox *m)
{
	lock(m);
	return &m->figures;
}

void mailbox_figures_end(struct mailbox *m)
{
	unlock(m);
}

void mailbox_figures_post(struct mailbox *m)
{
	m->news = true;
	unlock(m);
	ring(m->gateway_fd);
}

/* The one of this kind and broker that was not taken yet, a new one, or NULL: there is no room. */
static struct mailbox_alert *find_alert(struct mailbox *m, enum alert_kind kind, const char *broker)
{
	struct mailbox_alert *a;

	for (size_t i = 0; i < m->n_alerts; i++)
		if (m->alerts[i].kind == kind && streq(m->alerts[i].broker, broker))
			return &m->alerts[i];
	if (m->n_alerts == MAILBOX_ALERTS)
		return NULL;
	a = &m->alerts[m->n_alerts++];
	a->kind = kind;
	a->count = 0;
	snprintf(a->broker, sizeof(a->broker), "%s", broker);
	return a;
}

void mailbox_post_alert(
	struct mailbox *m, enum alert_kind kind, const char *broker, const char *text)
{
	struct mailbox_alert *a;

	lock(m);
	a = find_alert(m, kind, broker);
	if (a) {
		a->count++;
		snprintf(a->text, sizeof(a->text), "%s", text);
	} else {
		m->lost_alerts++;
	}
	unlock(m);
	ring(m->gateway_fd);
}

void mailbox_answer_ping(struct mailbox *m)
{
	lock(m);
	m->answers = m->pings;
	unlock(m);
}

bool mailbox_take_reconnect(struct mailbox *m)
{
	bool wanted;

	lock(m);
	wanted = m->reconnect;
	m->reconnect = false;
	unlock(m);
	return wanted;
}

bool mailbox_stopping(struct mailbox *m, bool *ret_hurry)
{
	bool stop;

	lock(m);
	stop = m->stop;
	*ret_hurry = m->hurry;
	unlock(m);
	return stop;
}

void mailbox_post_done(struct mailbox *m)
{
	lock(m);
	m->done = true;
	unlock(m);
	ring(m->gateway_fd);
}
