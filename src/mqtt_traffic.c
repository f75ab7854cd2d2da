/* SPDX-License-Identifier: MIT */
/*
 * How many bytes a connection has carried, and whether they arrive: see struct mqtt_traffic and
 * struct mqtt_progress. The library does not count, so the kernel is asked.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "mqtt_internal.h"

/* As in the kernel's enumeration of states, which no header exports beside <linux/tcp.h>. */
enum {
	STATE_TIME_WAIT = 6,
	STATE_CLOSE_WAIT = 8,
	STATE_LAST_ACK = 9,
	STATE_CLOSING = 11,
};

/* The kernel counts the end of the peer's bytes as one of them. */
static bool has_ended(uint8_t state)
{
	return state == STATE_TIME_WAIT || state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK ||
		state == STATE_CLOSING;
}

/* What an older kernel does not fill in stays zero. */
static bool get_info(int fd, struct tcp_info *ret)
{
	socklen_t len = sizeof(*ret);

	*ret = (struct tcp_info){ 0 };
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, ret, &len) == 0;
}

static bool get_carried(int fd, struct mqtt_traffic *ret)
{
	struct tcp_info info;

	if (!get_info(fd, &info))
		return false;
	ret->out = info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
	ret->in = info.tcpi_bytes_received;
	if (ret->in > 0 && has_ended(info.tcpi_state))
		ret->in--;
	return true;
}

void mqtt_count_traffic(struct mqtt *m)
{
	struct mqtt_traffic now;

	if (!m || m->fd < 0 || !m->traffic || !get_carried(m->fd, &now))
		return;
	if (now.out > m->counted.out) {
		m->traffic->out += now.out - m->counted.out;
		m->counted.out = now.out;
	}
	if (now.in > m->counted.in) {
		m->traffic->in += now.in - m->counted.in;
		m->counted.in = now.in;
	}
}

void mqtt_get_progress(const struct mqtt *m, struct mqtt_progress *ret)
{
	struct tcp_info info;
	int unacknowledged = 0;

	*ret = (struct mqtt_progress){ 0 };
	if (!m || m->fd < 0)
		return;
	if (get_info(m->fd, &info))
		ret->acked_bytes = info.tcpi_bytes_acked;
	if (ioctl(m->fd, SIOCOUTQ, &unacknowledged) < 0)
		unacknowledged = 0;
	ret->unsent = unacknowledged > 0 || mosquitto_want_write(m->mosq);
}
