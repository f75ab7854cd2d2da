/* SPDX-License-Identifier: MIT */
/*
 * When the library is to look whether a PINGREQ is due, and when an unanswered one means that the
 * broker is gone. See mqtt_internal.h.
 *
 * The library sends one when keepalive is over since the last packet that it wrote, or since the
 * last one that it read, and looks only when it is asked to. It counts in whole seconds of
 * CLOCK_MONOTONIC, and tells its account to nobody; `sent_usec` and `received_usec` are taken from
 * before a message is handed to it or the socket is read, and from what it logs, where its log is
 * listened to. What is late by that, a packet that it had to queue, is late for the PINGREQ, too.
 *
 * It gives up when keepalive is over once more after its PINGREQ. That is late for a broker that
 * says nothing any more, and wrong for a slow link, on which a large message may keep the PINGREQ
 * behind it for minutes. So it only sends them; the judgement is made here.
 */
#include <poll.h>

#include "mqtt_internal.h"

/* Progress is sampled while a PINGREQ is out. */
#define SAMPLE_MIN_USEC (1 * USEC_PER_SEC)
#define SAMPLE_MAX_USEC (10 * USEC_PER_SEC)
/* After a look that came too early: a packet had waited in the library before it was written. */
#define LOOK_AGAIN_USEC (1 * USEC_PER_SEC)

static uint64_t patience(const struct mqtt *m)
{
	return m->ping_timeout_usec ? m->ping_timeout_usec : m->keepalive * USEC_PER_SEC;
}

/* An answer that came while this process stood still counts. */
static bool has_input(const struct mqtt *m)
{
	struct pollfd p = { .fd = m->fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* Seconds, in force on this connection; 0 = none. */
static uint64_t keepalive_sec(const struct mqtt *m)
{
	return m->broker_keepalive >= 0 ? (uint64_t)m->broker_keepalive : m->keepalive;
}

static uint64_t sample_usec(const struct mqtt *m)
{
	uint64_t interval = keepalive_sec(m) * USEC_PER_SEC / 4;

	if (interval < SAMPLE_MIN_USEC)
		interval = SAMPLE_MIN_USEC;
	return u64_min(u64_min(interval, SAMPLE_MAX_USEC), patience(m) / 4);
}

void mqtt_ping_sent(struct mqtt *m)
{
	struct mqtt_progress p;

	mqtt_get_progress(m, &p);
	m->ping_pending = true;
	m->ping_usec = now_usec();
	m->ping_acked = p.acked_bytes;
	mqtt_guard_ping(&m->guard);
	m->received_usec = m->ping_usec; /* the library counts from here, to leave time for it */
}

void mqtt_ping_answered(struct mqtt *m)
{
	m->ping_pending = false;
}

uint64_t mqtt_ping_wake_usec(const struct mqtt *m, uint64_t now)
{
	uint64_t last = u64_min(m->sent_usec, m->received_usec);
	uint64_t due = (last / USEC_PER_SEC + keepalive_sec(m)) * USEC_PER_SEC;

	if (keepalive_sec(m) == 0)
		return UINT64_MAX;
	if (m->ping_pending)
		return now + sample_usec(m);
	return due > now ? due : now + LOOK_AGAIN_USEC;
}

int mqtt_ping_check(struct mqtt *m)
{
	struct mqtt_progress p;

	if (!m->ping_pending)
		return mosquitto_loop_misc(m->mosq);
	mqtt_get_progress(m, &p);
	if ((p.unsent && p.acked_bytes != m->ping_acked) || has_input(m))
		m->ping_usec = now_usec();
	m->ping_acked = p.acked_bytes;
	return now_usec() - m->ping_usec < patience(m) ? MOSQ_ERR_SUCCESS : MOSQ_ERR_KEEPALIVE;
}
