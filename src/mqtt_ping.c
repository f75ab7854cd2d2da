/* SPDX-License-Identifier: MIT */
/*
 * When an unanswered PINGREQ means that the broker is gone. See mqtt_internal.h.
 *
 * The library gives up when keepalive is over once more after its PINGREQ. That is late for a
 * broker that says nothing any more, and wrong for a slow link, on which a large message may keep
 * the PINGREQ behind it for minutes. So it only sends them; the judgement is made here.
 */
#include <poll.h>

#include "mqtt_internal.h"

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

void mqtt_ping_sent(struct mqtt *m)
{
	struct mqtt_progress p;

	mqtt_get_progress(m, &p);
	m->ping_pending = true;
	m->ping_usec = now_usec();
	m->ping_acked = p.acked_bytes;
}

void mqtt_ping_answered(struct mqtt *m)
{
	m->ping_pending = false;
}

uint64_t mqtt_ping_interval(const struct mqtt *m, uint64_t interval)
{
	return m->ping_pending ? u64_min(interval, patience(m) / 4) : interval;
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
