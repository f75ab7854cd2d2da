/* SPDX-License-Identifier: MIT */
/*
 * Messages on the session of a link: rows of the queue with their topic prefix, and the two of its
 * own, birth and will. See link.h and link_internal.h.
 *
 * Owns the packet identifiers of birth and will, which link.c forgets with the session, and the
 * room for a prefixed topic.
 *
 * Invariant: a message of our own is in flight once at most; while its identifier is not 0 the
 * library sends it again by itself.
 *
 * Must not know: addresses, the steps of an attempt, the client object that clears a session; of
 * the queue nothing but one message at a time.
 */
#include <errno.h>

#include "link_internal.h"
#include "log.h"

/* --- messages of our own --------------------------------------------------------------------- */

bool link_has_will(const struct link *l)
{
	return l->config->mqtt.will.topic[0] != '\0' && !l->probe;
}

static uint8_t presence_qos(const struct link *l, const struct config_presence *p)
{
	return p->qos < l->limits.max_qos ? p->qos : l->limits.max_qos;
}

void link_forget_presence(struct link *l)
{
	if (presence_qos(l, &l->config->mqtt.birth) == 0)
		l->birth_mid = 0;
	if (presence_qos(l, &l->config->mqtt.will) == 0)
		l->will_mid = 0;
}

/* The library sets *mid before the acknowledgement can come, which sets it to 0. */
static void publish_presence(
	struct link *l, const struct config_presence *p, const char *what, int *mid)
{
	const struct message m = {
		.topic = p->topic,
		.topic_len = strlen(p->topic),
		.payload = p->payload,
		.payload_len = strlen(p->payload),
		.qos = presence_qos(l, p),
		.retain = p->retain && l->limits.retain_available,
	};
	const char *text = "";

	if (!p->topic[0] || *mid != 0)
		return; /* one that is in flight is sent again by the library */
	if (mqtt_publish(l->session, &m, NULL, mid, &text) < 0) {
		log_write(link_priority(l, LOG_WARNING), NULL,
			"%s: mqtt.%s cannot be published: %s", l->name, what, text);
		*mid = 0;
	}
}

void link_publish_birth(struct link *l)
{
	publish_presence(l, &l->config->mqtt.birth, "birth", &l->birth_mid);
}

bool link_is_own(struct link *l, int mid)
{
	if (mid == l->birth_mid)
		l->birth_mid = 0;
	else if (mid == l->will_mid)
		l->will_mid = 0;
	else
		return false;
	return true;
}

void link_farewell(struct link *l)
{
	if (link_has_will(l) && l->memory->v311)
		publish_presence(l, &l->config->mqtt.will, "will", &l->will_mid);
}

bool link_is_busy(const struct link *l)
{
	return l->birth_mid != 0 || l->will_mid != 0;
}

/* --- rows ------------------------------------------------------------------------------------ */

/* The topic with its prefix, valid until the next call, or NULL. */
static const char *prefixed(struct link *l, const struct message *m)
{
	size_t size = l->prefix_len + m->topic_len + 1;
	char *topic;

	if (l->prefix_len == 0)
		return m->topic;
	if (size > l->topic_size) {
		topic = realloc(l->topic, size);
		if (!topic)
			return NULL;
		l->topic = topic;
		l->topic_size = size;
		memcpy(topic, l->config->mqtt.topic_prefix, l->prefix_len);
	}
	memcpy(l->topic + l->prefix_len, m->topic, m->topic_len + 1);
	return l->topic;
}

int link_publish(struct link *l, const struct message *m, uint32_t expiry_sec, int *ret_mid,
	const char **ret_text)
{
	const struct mqtt_extras extras = {
		.gateway_id = l->config->mqtt.provenance ? l->config->gateway.id : NULL,
		.queue_uuid = l->queue_uuid,
		.expiry_sec = expiry_sec,
	};
	struct message full = *m;

	full.topic_len += l->prefix_len;
	if (full.topic_len > UINT16_MAX) {
		*ret_text = "topic is longer than 65535 bytes with mqtt.topic_prefix";
		return -EINVAL;
	}
	full.topic = prefixed(l, m);
	if (!full.topic)
		return -ENOMEM;
	if (full.retain && !l->limits.retain_available) {
		full.retain = false;
		if (!l->retain_dropped)
			log_write(link_priority(l, LOG_NOTICE), NULL,
				"%s: broker keeps no retained messages; they are sent without "
				"the flag",
				l->name);
		l->retain_dropped = true;
	}
	return mqtt_publish(l->session, &full, &extras, ret_mid, ret_text);
}
