/* SPDX-License-Identifier: MIT */
/*
 * What the broker sent is looked at before the library reads it: see mqtt_guard.h for why, and
 * mqtt_internal.h.
 *
 * The bytes are peeked at, those of plain TCP in the socket, those of TLS in OpenSSL. Then the
 * library must read no further than was looked. It reads as many packets in one call as it has
 * messages in flight, but returns after one if errno is EAGAIN by then, as callbacks of ours see to
 * (mqtt_intake_callback()), provided that it wrote nothing since. It writes nothing while it takes
 * threads to be ours; what it wants written is written right after. So it is called once for each
 * packet, and these are counted: the acknowledgement of a message of QoS 1 comes as a callback, all
 * others the library tells its log only, which is listened to for them. Should it ever read more,
 * another version of it perhaps, nothing is looked at any more, and that is logged.
 *
 * Plain TCP: what is left of a packet that is not whole stays in the socket, which tells of no more
 * bytes until it is (SO_RCVLOWAT). TLS: bytes of one record hide those of the next, so the library
 * is given the beginning of a packet while nothing further can be read, and a copy is kept.
 */
#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "log.h"
#include "mqtt_internal.h"

/* Looks into the socket, or TLS records, in one turn of the loop. */
#define PEEKS_MAX   8
#define RECORDS_MAX 64
/* Bytes, of one connection, that the library may lose; in memory they are some twenty times that.
 */
#define LOST_MAX 1024

/* The first byte of a packet, without flags. */
#define PUBLISH 0x30
#define PUBACK	0x40

void mqtt_intake_begin(struct mqtt *m)
{
	m->guard = (struct mqtt_guard){ .v5 = m->v5 };
	m->fault[0] = '\0';
	m->fault_in_delivery = false;
	m->kept = 0;
	m->lost = 0;
	m->lowat = 1;
}

void mqtt_intake_callback(struct mqtt *m)
{
	if (m->stepping)
		errno = EAGAIN;
}

static int read_on(struct mqtt *m)
{
	return mosquitto_loop_read(m->mosq, 1);
}

/* The one kind that comes by the thousand. `packet` is whole, and such as the guard lets pass. */
static bool is_plain_puback(const struct mqtt *m, const uint8_t *packet)
{
	unsigned mid = (unsigned)packet[2] << 8 | packet[3];

	return packet[0] == PUBACK && packet[1] < 0x80 && mqtt_mid_is_unanswered(m, mid) &&
		!mqtt_mid_has_qos2(m, mid);
}

/* Has the library read one packet, which is there. False: it did not, or the connection is over. */
static bool step(struct mqtt *m, const uint8_t *packet, int *ret_rc)
{
	if (!is_plain_puback(m, packet))
		mqtt_listen(m, true);
	m->packets = 0;
	m->stepping = true;
	mosquitto_threaded_set(m->mosq, true);
	*ret_rc = read_on(m);
	mosquitto_threaded_set(m->mosq, false);
	m->stepping = false;
	if (m->packets > 1) {
		log_warning("libmosquitto reads ahead; what brokers send is not checked before it");
		m->blind = true;
	}
	return *ret_rc == MOSQ_ERR_SUCCESS && !m->over && m->packets == 1;
}

static void found_fault(struct mqtt *m, const char *text)
{
	if (m->over)
		return;
	snprintf(m->fault, sizeof(m->fault), "broker %s", text);
	mqtt_record_end(m, MOSQ_ERR_PROTOCOL, 0);
}

/*
 * Of an acknowledgement for a message that it does not know the library (2.0.11) never frees the
 * properties. A broker may repeat itself, but it cannot go on like that.
 */
static bool is_bearable(struct mqtt *m, const uint8_t *packet, size_t size)
{
	uint16_t mid;

	if (!mqtt_guard_is_lengthy(packet, size, &mid) || mqtt_mid_is_unanswered(m, mid))
		return true;
	m->lost += size;
	if (m->lost <= LOST_MAX)
		return true;
	found_fault(m, "acknowledges at length messages that were never sent");
	return false;
}

/*
 * Has the library read the whole packets among the `len` bytes in m->in. *ret_used: how many bytes
 * those are; *ret_wanted: how many the next one has at least, 0 = nothing more is to be read now.
 */
static int take_packets(struct mqtt *m, size_t len, size_t *ret_used, size_t *ret_wanted)
{
	char text[MQTT_GUARD_TEXT_MAX];
	size_t at = 0, size = 0;
	int rc = MOSQ_ERR_SUCCESS;

	*ret_wanted = 0;
	while (at < len) {
		struct mqtt_guard after = m->guard;
		unsigned qos2 = m->n_qos2;
		enum mqtt_guard_verdict verdict =
			mqtt_guard_look(&after, m->in + at, len - at, &size, text);

		if (verdict == MQTT_GUARD_FAULT) {
			m->fault_in_delivery = m->guard.connack && m->in[at] >> 4 == PUBLISH >> 4;
			found_fault(m, text);
		}
		if (verdict == MQTT_GUARD_PART)
			*ret_wanted = size;
		if (verdict != MQTT_GUARD_WHOLE || !is_bearable(m, m->in + at, size) ||
			!step(m, m->in + at, &rc))
			break;
		/* The end of an exchange: its PUBREL was read, or there is none. On a slow line
		 * there may always be something left to write. */
		if (m->n_qos2 < qos2 && after.answers > 0)
			after.answers--;
		m->guard = after;
		at += size;
	}
	*ret_used = at;
	return rc;
}

/* --- plain TCP ---------------------------------------------------------------------------------
 */

static void set_lowat(struct mqtt *m, size_t bytes)
{
	int value = (int)bytes;

	if (m->lowat == value)
		return;
	if (setsockopt(m->fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value)) == 0)
		m->lowat = value;
}

static int take_what_is_there(struct mqtt *m, uint32_t events, bool *ret_more)
{
	ssize_t n = recv(m->fd, m->in, MQTT_GUARD_PACKET_MAX, MSG_PEEK | MSG_DONTWAIT);
	size_t used, wanted;
	int rc;

	*ret_more = false;
	if (n < 0 && errno == EAGAIN)
		return MOSQ_ERR_SUCCESS;
	if (n < 0) /* it is told once only */
		m->socket_error = errno;
	if (n <= 0)
		return read_on(m);
	rc = take_packets(m, (size_t)n, &used, &wanted);
	if (rc != MOSQ_ERR_SUCCESS || m->over || m->blind)
		return rc;
	/* It never gets whole: there is nothing that the library could act on. */
	if (wanted && used == 0 && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		return read_on(m);
	set_lowat(m, wanted ? wanted : 1);
	*ret_more = used > 0 && !wanted;
	return MOSQ_ERR_SUCCESS;
}

/*
 * While the library reads, more may come. The more answers there are before the next messages are
 * sent, the longer are the stretches of memory that these get in the order of those, and the sooner
 * the library has walked its list of them.
 */
static int take_plain(struct mqtt *m, uint32_t events)
{
	int rc = MOSQ_ERR_SUCCESS;
	bool more = true;

	for (unsigned i = 0; i < PEEKS_MAX && more && rc == MOSQ_ERR_SUCCESS; i++)
		rc = take_what_is_there(m, events, &more);
	return rc;
}

/* --- TLS ---------------------------------------------------------------------------------------
 */

/* The library would find the same, were it not taken from it by looking. */
static int end_of_tls(struct mqtt *m, const SSL *ssl, int result)
{
	int error = errno;

	switch (SSL_get_error(ssl, result)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: return MOSQ_ERR_SUCCESS;
	case SSL_ERROR_ZERO_RETURN: return MOSQ_ERR_CONN_LOST;
	case SSL_ERROR_SSL: mqtt_tls_note_error(m->tls, ssl, ERR_peek_error()); break;
	default:
		if (error == ECONNRESET)
			return MOSQ_ERR_CONN_LOST;
	}
	return MOSQ_ERR_ERRNO;
}

/* The library reads what OpenSSL holds, and nothing else. */
static int read_held(struct mqtt *m, size_t len, size_t *ret_used)
{
	SSL *ssl = mosquitto_ssl_get(m->mosq);
	size_t wanted;
	int rc;

	mqtt_tls_hold(m->tls, ssl);
	rc = take_packets(m, len, ret_used, &wanted);
	if (rc == MOSQ_ERR_SUCCESS && !m->over && !m->blind && *ret_used < len)
		rc = read_on(m);
	mqtt_tls_go_on(m->tls);
	return rc;
}

static int take_record(struct mqtt *m, bool *ret_more)
{
	SSL *ssl = mosquitto_ssl_get(m->mosq);
	size_t len, used = 0;
	int n, rc;

	*ret_more = false;
	ERR_clear_error();
	errno = 0;
	n = SSL_peek(ssl, m->in + m->kept, MQTT_GUARD_PACKET_MAX);
	if (n <= 0) {
		rc = end_of_tls(m, ssl, n);
		ERR_clear_error();
		return rc;
	}
	len = m->kept + (size_t)n;
	rc = read_held(m, len, &used);
	if (rc != MOSQ_ERR_SUCCESS || m->over || m->blind)
		return rc;
	m->kept = len - used;
	memmove(m->in, m->in + used, m->kept);
	*ret_more = true;
	return MOSQ_ERR_SUCCESS;
}

static int take_tls(struct mqtt *m)
{
	int rc = MOSQ_ERR_SUCCESS;
	bool more = true;

	for (unsigned i = 0; i < RECORDS_MAX && more && rc == MOSQ_ERR_SUCCESS; i++)
		rc = take_record(m, &more);
	return rc;
}

int mqtt_intake(struct mqtt *m, uint32_t events)
{
	if (m->blind || (m->tls && !m->tls->secured))
		return read_on(m);
	return m->tls ? take_tls(m) : take_plain(m, events);
}
