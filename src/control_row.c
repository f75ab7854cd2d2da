/* SPDX-License-Identifier: MIT */
/*
 * One message -> a line of JSON: see control_reply.h.
 *
 * A payload that is UTF-8 is shown as text, any other as base64, so that what is exported can be
 * fed to the local socket again and comes out byte for byte the same.
 */
#include "base64.h"
#include "control_reply.h"
#include "utf8.h"

#define SHOWN_BYTES 100

static json_t *common(const struct message *m, const struct control_death *death)
{
	json_t *o = json_pack("{sIss%sisbsIsI}", "seq", (json_int_t)m->id, "topic", m->topic,
		m->topic_len, "qos", m->qos, "retain", m->retain, "timestamp",
		(json_int_t)m->timestamp, "bytes", (json_int_t)m->payload_len);

	if (o && death &&
		(json_object_set_new(o, "reason", json_string(death->reason)) < 0 ||
			json_object_set_new(o, "died_at", json_integer(death->died_at)) < 0)) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* {"status":...} with all members of `rest` behind it; takes over `rest`. */
static json_t *with_status(const char *status, json_t *rest)
{
	json_t *o = json_pack("{ss}", "status", status);

	if (o && (!rest || json_object_update(o, rest) < 0)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(rest);
	return o;
}

/* Whether it is UTF-8 as far as `len`; *ret_len: without a last character that is cut short there,
 * if `cut` says that it may be. */
static bool is_text(const unsigned char *s, size_t len, bool cut, size_t *ret_len)
{
	uint32_t code;
	size_t i, n;

	for (i = 0; i < len; i += n) {
		n = utf8_read(s + i, len - i, &code);
		if (n == 0 && !(cut && len - i < 4 && s[i] >= 0xc2))
			return false;
		if (n == 0)
			break;
	}
	*ret_len = i;
	return true;
}

static json_t *base64(const void *data, size_t len)
{
	char *text = malloc(base64_encoded_len(len) + 1);
	json_t *value;

	if (!text)
		return NULL;
	base64_encode(data, len, text);
	value = json_stringn_nocheck(text, base64_encoded_len(len));
	free(text);
	return value;
}

/* Adds payload or payload_base64. -1: no memory. */
static int add_payload(json_t *o, const struct message *m)
{
	size_t len;

	if (m->payload_len == 0)
		return json_object_set_new(o, "payload", json_string(""));
	if (!is_text(m->payload, m->payload_len, false, &len))
		return json_object_set_new(o, "payload_base64", base64(m->payload, m->payload_len));
	return json_object_set_new(o, "payload", json_stringn_nocheck(m->payload, m->payload_len));
}

static json_t *checked(json_t *o, int r)
{
	if (o && r < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

json_t *control_row_short(const struct message *m, const struct control_death *death)
{
	size_t len = size_min(m->payload_len, SHOWN_BYTES);
	json_t *o = with_status("row", common(m, death));

	if (!o || (len > 0 && !is_text(m->payload, len, len < m->payload_len, &len)))
		return o;
	return checked(o,
		json_object_set_new(
			o, "payload", json_stringn_nocheck(len ? m->payload : "", len)));
}

json_t *control_row_whole(const struct message *m, const struct control_death *death)
{
	json_t *o = with_status("ok", common(m, death));

	return checked(o, o ? add_payload(o, m) : 0);
}

json_t *control_row_line(const struct message *m)
{
	json_t *line = json_pack("{ss%}", "topic", m->topic, m->topic_len), *o;

	line = checked(line, line ? add_payload(line, m) : 0);
	if (!line)
		return NULL;
	if (json_object_set_new(line, "qos", json_integer(m->qos)) < 0 ||
		json_object_set_new(line, "retain", json_boolean(m->retain)) < 0 ||
		json_object_set_new(line, "timestamp", json_integer(m->timestamp)) < 0) {
		json_decref(line);
		return NULL;
	}
	o = json_pack("{ss}", "status", "row");
	if (!o || json_object_set_new(o, "line", line) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}
