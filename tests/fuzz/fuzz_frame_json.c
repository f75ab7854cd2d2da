/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the JSON Lines protocol. The input is split into lines as a client's bytes are. Each
 * is parsed twice, by a parser that has seen all lines before and by a new one; both must say the
 * same, agree with what jansson says of the line itself, and answer in JSON.
 */
#include <jansson.h>
#include <mosquitto.h>

#include "frame_json.h"
#include "fuzz.h"

#define DEFAULT_QOS 1
#define NOW	    INT64_C(1700000000000)

/* JSON that jansson refuses: numbers that it cannot hold, and U+0000 in keys. */
static bool is_limit_of_jansson(const json_error_t *error)
{
	enum json_error_code code = json_error_code(error);

	return code == json_error_numeric_overflow || code == json_error_null_byte_in_key;
}

static bool is_json(const char *s, size_t len, size_t flags)
{
	json_error_t error;
	json_t *value = json_loadb(s, len, flags | JSON_ALLOW_NUL, &error);

	json_decref(value);
	return value || is_limit_of_jansson(&error);
}

static bool is_within(const char *s, size_t len, const char *line, size_t line_len)
{
	return s >= line && s <= line + line_len && len <= (size_t)(line + line_len - s);
}

static void require_same_bytes(const void *a, size_t a_len, const void *b, size_t b_len)
{
	REQUIRE(a_len == b_len);
	REQUIRE(a_len == 0 || memcmp(a, b, a_len) == 0);
}

static void require_same(const struct frame *a, const struct frame *b, enum frame_error error)
{
	REQUIRE(a->id == b->id && a->id_len == b->id_len);
	REQUIRE(!a->error_text == !b->error_text);
	REQUIRE(!a->error_text || streq(a->error_text, b->error_text));
	if (error)
		return;
	require_same_bytes(a->message.topic, a->message.topic_len + 1, b->message.topic,
		b->message.topic_len + 1);
	require_same_bytes(a->message.payload, a->message.payload_len, b->message.payload,
		b->message.payload_len);
	REQUIRE(a->message.id == b->message.id && a->message.qos == b->message.qos &&
		a->message.retain == b->message.retain &&
		a->message.timestamp == b->message.timestamp &&
		a->message.own_timestamp == b->message.own_timestamp);
}

/* What jansson itself makes of the line must not contradict the verdict. */
static void check_verdict(enum frame_error error, const char *line, size_t len)
{
	json_error_t json_error;
	json_t *root = json_loadb(line, len, JSON_ALLOW_NUL, &json_error);

	if (memchr(line, 0, len) || (root && !json_is_object(root)))
		REQUIRE(error == FRAME_BAD_JSON);
	else if (root)
		REQUIRE(error != FRAME_BAD_JSON);
	else if (!is_limit_of_jansson(&json_error))
		REQUIRE(error == FRAME_BAD_JSON);
	json_decref(root);
}

static void check_payload(const struct message *m, const json_t *root, const char *line, size_t len)
{
	const json_t *payload = json_object_get(root, "payload");

	if (json_is_string(payload)) {
		require_same_bytes(m->payload, m->payload_len, json_string_value(payload),
			json_string_length(payload));
	} else if (payload && !json_is_null(payload)) {
		REQUIRE(is_within(m->payload, m->payload_len, line, len));
		REQUIRE(is_json(m->payload, m->payload_len, JSON_DECODE_ANY));
	} else if (!json_object_get(root, "payload_base64")) {
		REQUIRE(m->payload_len == 0);
	}
}

/* `root` is the line as jansson reads it, or NULL where it cannot. */
static void check_message(const struct frame *frame, const char *line, size_t len)
{
	json_t *root = json_loadb(line, len, JSON_ALLOW_NUL, NULL);
	const struct message *m = &frame->message;

	REQUIRE(!frame->error_text);
	REQUIRE(m->topic_len > 0 && strlen(m->topic) == m->topic_len);
	REQUIRE(mosquitto_pub_topic_check(m->topic) == MOSQ_ERR_SUCCESS);
	REQUIRE(mosquitto_validate_utf8(m->topic, (int)m->topic_len) == MOSQ_ERR_SUCCESS);
	REQUIRE(m->qos <= 2);
	REQUIRE(m->timestamp >= 0);
	REQUIRE(m->own_timestamp || m->timestamp == NOW);

	if (root) {
		const json_t *topic = json_object_get(root, "topic");
		const json_t *qos = json_object_get(root, "qos");
		const json_t *timestamp = json_object_get(root, "timestamp");

		require_same_bytes(m->topic, m->topic_len, json_string_value(topic),
			json_string_length(topic));
		REQUIRE(m->qos == (qos ? json_integer_value(qos) : DEFAULT_QOS));
		REQUIRE(m->retain == json_is_true(json_object_get(root, "retain")));
		REQUIRE(m->own_timestamp == (timestamp != NULL));
		REQUIRE(!timestamp || m->timestamp == json_integer_value(timestamp));
		REQUIRE(!json_object_get(root, "id") == !frame->id);
		check_payload(m, root, line, len);
		json_decref(root);
	}
}

static void check_error(const struct frame *frame)
{
	REQUIRE(frame->error_text);
	REQUIRE(strlen(frame->error_text) < 200);
	for (const char *c = frame->error_text; *c; c++)
		REQUIRE(*c >= ' ' && *c <= '~');
}

static void check_id(const struct frame *frame, const char *line, size_t len)
{
	REQUIRE(is_within(frame->id, frame->id_len, line, len));
	REQUIRE(frame->id_len > 0);
	REQUIRE(*frame->id == '"' || *frame->id == '-' || (*frame->id >= '0' && *frame->id <= '9'));
	REQUIRE(is_json(frame->id, frame->id_len, JSON_DECODE_ANY));
}

static void check_reply(const struct frame *frame, enum frame_error error)
{
	struct buffer out = { 0 };
	json_error_t json_error;
	json_t *reply;

	if (error)
		REQUIRE(frame_json_reply_error(
				&out, frame->id, frame->id_len, error, frame->error_text) == 0);
	else
		REQUIRE(frame_json_reply_queued(&out, frame->id, frame->id_len, 1042) == 0);
	REQUIRE(memchr(buffer_head(&out), '\n', buffer_len(&out)) ==
		buffer_head(&out) + buffer_len(&out) - 1);

	reply = json_loadb(buffer_head(&out), buffer_len(&out),
		JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &json_error);
	REQUIRE(reply || json_error_code(&json_error) == json_error_numeric_overflow);
	if (reply) {
		REQUIRE(json_object_size(reply) == (error ? 4 : 3));
		REQUIRE(json_is_null(json_object_get(reply, "id")) == !frame->id);
		if (error)
			REQUIRE(streq(json_string_value(json_object_get(reply, "message")),
				frame->error_text));
	}
	json_decref(reply);
	buffer_clear(&out);
}

static void check_line(struct frame_json *used, const char *line, size_t len)
{
	struct frame_json *fresh;
	struct frame a, b;
	enum frame_error error;

	REQUIRE(frame_json_new(&fresh) == 0);
	error = frame_json_parse(used, line, len, DEFAULT_QOS, NOW, &a);
	REQUIRE(frame_json_parse(fresh, line, len, DEFAULT_QOS, NOW, &b) == error);
	require_same(&a, &b, error);

	REQUIRE(error <= FRAME_BAD_FIELD);
	check_verdict(error, line, len);
	if (error)
		check_error(&a);
	else
		check_message(&a, line, len);
	if (error == FRAME_BAD_JSON)
		REQUIRE(!a.id);
	if (frame_json_is_blank(line, len))
		REQUIRE(error == FRAME_BAD_JSON);
	if (a.id)
		check_id(&a, line, len);
	check_reply(&a, error);
	frame_json_free(fresh);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct frame_json *used;

	if (!used)
		REQUIRE(frame_json_new(&used) == 0);
	while (size > 0) {
		const uint8_t *newline = memchr(data, '\n', size);
		size_t len = newline ? (size_t)(newline - data) : size;
		/* Of the exact size, so that sanitizers see a read past the end. */
		char *line = malloc(len + !len);

		REQUIRE(line);
		memcpy(line, data, len);
		check_line(used, line, len);
		free(line);
		data += len + (newline != NULL);
		size -= len + (newline != NULL);
	}
	return 0;
}
