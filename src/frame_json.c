/* SPDX-License-Identifier: MIT */
/*
 * Owns the text of the JSON Lines protocol: what a line may hold, what its replies look like.
 *
 * Invariants: a line is walked once, and is JSON to its last byte before anything of it counts. The
 * cost is linear in its length. What was parsed before has no influence. A line that is refused
 * goes to jansson, which tells what is wrong with it; tests/fuzz holds the two verdicts against
 * each other.
 *
 * Must not know of sockets, clients or the queue.
 */
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

#include "base64.h"
#include "frame_json.h"
#include "json_text.h"
#include "topic.h"

#define TEXT_MAX 200 /* of an explanation, with its NUL */

/* How a slice that may be long and hold anything is shown in an explanation. */
#define EXCERPT_MAX ((size_t)40)
#define EXCERPT	    "%.*s%s"
#define EXCERPT_ARGS(x) \
	(int)size_min((x)->len, EXCERPT_MAX), (x)->s, (x)->len > EXCERPT_MAX ? "..." : ""

enum member {
	MEMBER_TOPIC,
	MEMBER_PAYLOAD,
	MEMBER_PAYLOAD_BASE64,
	MEMBER_QOS,
	MEMBER_RETAIN,
	MEMBER_TIMESTAMP,
	MEMBER_ID,
	MEMBER_COUNT,
	MEMBER_UNKNOWN = MEMBER_COUNT,
};

static const char *const member_names[MEMBER_COUNT] = {
	[MEMBER_TOPIC] = "topic",
	[MEMBER_PAYLOAD] = "payload",
	[MEMBER_PAYLOAD_BASE64] = "payload_base64",
	[MEMBER_QOS] = "qos",
	[MEMBER_RETAIN] = "retain",
	[MEMBER_TIMESTAMP] = "timestamp",
	[MEMBER_ID] = "id",
};

#define MEMBER_NAME_MAX 14
#define MEMBER_LIST	"topic, payload, payload_base64, qos, retain, timestamp, id"

struct slice {
	const char *s; /* NULL: absent */
	size_t len;
};

/* The members of a line's object. */
struct members {
	struct slice value[MEMBER_COUNT]; /* the last one, of a member given twice */
	struct slice stranger; /* the first unknown key, without its quotes */
	unsigned twice; /* bit mask of enum member */
};

struct frame_json {
	/* What the last frame points to. */
	struct buffer topic;
	struct buffer payload;
	char text[TEXT_MAX];
	/* What jansson is given, see json_digest(); what base64 is read from. */
	struct buffer digest;
};

const char *frame_error_to_string(enum frame_error error)
{
	switch (error) {
	case FRAME_OK: return "ok";
	case FRAME_BAD_JSON: return "bad-json";
	case FRAME_BAD_TOPIC: return "bad-topic";
	case FRAME_BAD_PAYLOAD: return "bad-payload";
	case FRAME_BAD_QOS: return "bad-qos";
	case FRAME_BAD_FIELD: return "bad-field";
	case FRAME_TOO_LARGE: return "too-large";
	case FRAME_NOT_ALLOWED: return "not-allowed";
	case FRAME_QUEUE_FULL: return "queue-full";
	case FRAME_STORAGE: return "storage";
	case FRAME_TOO_MANY_CLIENTS: return "too-many-clients";
	case FRAME_STOPPING: return "stopping";
	case N_FRAME_ERRORS: break;
	}
	return "unknown";
}

int frame_json_new(struct frame_json **ret)
{
	struct frame_json *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	*ret = f;
	return 0;
}

struct frame_json *frame_json_free(struct frame_json *f)
{
	if (!f)
		return NULL;
	buffer_clear(&f->digest);
	buffer_clear(&f->payload);
	buffer_clear(&f->topic);
	free(f);
	return NULL;
}

/* Explains `error` in printable ASCII: the pieces may come from the line. Returns `error`. */
static enum frame_error _printf_(4, 5) fail(
	struct frame_json *f, struct frame *ret, enum frame_error error, const char *format, ...)
{
	char *to = f->text;
	va_list ap;

	va_start(ap, format);
	if (vsnprintf(f->text, sizeof(f->text), format, ap) < 0)
		f->text[0] = '\0';
	va_end(ap);

	for (const char *from = f->text; *from; from++) {
		if ((*from & 0xc0) == 0x80)
			continue; /* one '?' for a whole character */
		*to++ = *from >= ' ' && *from <= '~' ? *from : '?';
	}
	*to = '\0';
	ret->error_text = f->text;
	return error;
}

/* All of them differ in length. */
static enum member find_plain_member(const char *s, size_t len)
{
	enum member m;

	switch (len) {
	case 2: m = MEMBER_ID; break;
	case 3: m = MEMBER_QOS; break;
	case 5: m = MEMBER_TOPIC; break;
	case 6: m = MEMBER_RETAIN; break;
	case 7: m = MEMBER_PAYLOAD; break;
	case 9: m = MEMBER_TIMESTAMP; break;
	case 14: m = MEMBER_PAYLOAD_BASE64; break;
	default: return MEMBER_UNKNOWN;
	}
	return memcmp(s, member_names[m], len) == 0 ? m : MEMBER_UNKNOWN;
}

static enum member find_member(const struct slice *key)
{
	enum member m = find_plain_member(key->s, key->len);
	char plain[6 * MEMBER_NAME_MAX];

	if (m == MEMBER_UNKNOWN && key->len <= sizeof(plain) && memchr(key->s, '\\', key->len))
		m = find_plain_member(plain, json_unescape(key->s, key->len, plain));
	return m;
}

static void note_member(struct members *m, const struct slice *key, const struct slice *value)
{
	enum member which = find_member(key);

	if (which == MEMBER_UNKNOWN) {
		if (!m->stranger.s)
			m->stranger = *key;
		return;
	}
	if (m->value[which].s)
		m->twice |= 1U << which;
	m->value[which] = *value;
}

/* False: the line is no object of JSON. */
static bool read_members(const char *s, size_t len, struct members *ret)
{
	size_t i = json_skip_space(s, 0, len);

	*ret = (struct members){ 0 };
	if (i == len || s[i] != '{')
		return false;
	i = json_skip_space(s, i + 1, len);
	if (i < len && s[i] == '}')
		return json_skip_space(s, i + 1, len) == len;
	for (;;) {
		size_t key_end = json_read_string(s, i, len), begin, end;

		begin = key_end > 0 ? json_read_colon(s, key_end, len) : 0;
		end = begin > 0 ? json_read_value(s, begin, len) : 0;
		if (end == 0)
			return false;
		note_member(ret, &(struct slice){ s + i + 1, key_end - i - 2 },
			&(struct slice){ s + begin, end - begin });
		i = json_skip_space(s, end, len);
		if (i == len || s[i] != ',')
			break;
		i = json_skip_space(s, i + 1, len);
	}
	return i < len && s[i] == '}' && json_skip_space(s, i + 1, len) == len;
}

/* Says why a line is refused. */
static enum frame_error explain(
	struct frame_json *f, const char *line, size_t len, struct frame *ret)
{
	size_t first = json_skip_space(line, 0, len);
	json_error_t error = { 0 };
	const char *nul;
	bool accepted;
	json_t *root;

	if (first == len || line[first] != '{')
		return fail(f, ret, FRAME_BAD_JSON, "line is not a JSON object");
	/* jansson passes over a NUL byte that follows a number or a word. */
	nul = memchr(line, 0, len);
	if (nul)
		return fail(f, ret, FRAME_BAD_JSON, "byte %zu is NUL", (size_t)(nul - line) + 1);

	buffer_consume(&f->digest, SIZE_MAX);
	if (buffer_reserve(&f->digest, len) < 0)
		return fail(f, ret, FRAME_STORAGE, "out of memory");
	json_digest(line, len, f->digest.data);
	errno = 0;
	root = json_loadb(f->digest.data, len, 0, &error);
	accepted = root != NULL;
	json_decref(root);
	/* jansson may take a failed allocation for a bad token. */
	if (errno == ENOMEM)
		return fail(f, ret, FRAME_STORAGE, "out of memory");
	if (accepted)
		return fail(f, ret, FRAME_BAD_JSON, "line is not valid JSON");
	return fail(f, ret, FRAME_BAD_JSON, "column %d: %s", error.column, error.text);
}

/* The members, one by one. */

static enum frame_error check_keys(struct frame_json *f, const struct members *m, struct frame *ret)
{
	if (m->stranger.s)
		return fail(f, ret, FRAME_BAD_FIELD,
			"unknown key \"" EXCERPT "\", must be one of " MEMBER_LIST,
			EXCERPT_ARGS(&m->stranger));
	if (m->twice)
		return fail(f, ret, FRAME_BAD_FIELD, "key \"%s\" is given twice",
			member_names[__builtin_ctz(m->twice)]);
	if (m->value[MEMBER_PAYLOAD].s && m->value[MEMBER_PAYLOAD_BASE64].s)
		return fail(f, ret, FRAME_BAD_FIELD,
			"payload and payload_base64 are both given, must be one of them");
	return FRAME_OK;
}

static bool id_is_valid(const struct members *m)
{
	const struct slice *id = &m->value[MEMBER_ID];

	return id->s && !(m->twice & 1U << MEMBER_ID) &&
		(id->s[0] == '"' || id->s[0] == '-' || json_is_digit(id->s[0]));
}

/* What a string of the line stands for, with a NUL after it, in `out`. 0 or -ENOMEM. */
static int read_string(const struct slice *literal, struct buffer *out)
{
	const char *s = literal->s + 1;
	size_t len = literal->len - 2;

	buffer_consume(out, SIZE_MAX);
	if (buffer_reserve(out, len + 1) < 0)
		return -ENOMEM;
	out->end = json_unescape(s, len, out->data);
	out->data[out->end] = '\0';
	return 0;
}

static enum frame_error read_topic(struct frame_json *f, const struct members *m, struct frame *ret)
{
	const struct slice *topic = &m->value[MEMBER_TOPIC];
	enum topic_fault fault;

	if (!topic->s)
		return fail(f, ret, FRAME_BAD_TOPIC, "topic is missing, must be a string");
	if (topic->s[0] != '"')
		return fail(f, ret, FRAME_BAD_TOPIC, "topic is " EXCERPT ", must be a string",
			EXCERPT_ARGS(topic));
	if (read_string(topic, &f->topic) < 0)
		return fail(f, ret, FRAME_STORAGE, "out of memory");
	fault = topic_check(f->topic.data, f->topic.end);
	if (fault != TOPIC_OK)
		return fail(f, ret, FRAME_BAD_TOPIC, "%s", topic_fault_to_string(fault));
	ret->message.topic = f->topic.data;
	ret->message.topic_len = f->topic.end;
	return FRAME_OK;
}

static enum frame_error read_base64(
	struct frame_json *f, const struct slice *value, struct frame *ret)
{
	size_t len;

	if (value->s[0] != '"')
		return fail(f, ret, FRAME_BAD_PAYLOAD,
			"payload_base64 is " EXCERPT ", must be a string", EXCERPT_ARGS(value));
	buffer_consume(&f->payload, SIZE_MAX);
	if (read_string(value, &f->digest) < 0 ||
		buffer_reserve(&f->payload, base64_decoded_max(f->digest.end)) < 0)
		return fail(f, ret, FRAME_STORAGE, "out of memory");
	if (base64_decode(f->digest.data, f->digest.end, f->payload.data, &len) < 0)
		return fail(f, ret, FRAME_BAD_PAYLOAD,
			"payload_base64 is not base64, must be as RFC 4648, section 4, padded");
	ret->message.payload = f->payload.data;
	ret->message.payload_len = len;
	return FRAME_OK;
}

static enum frame_error read_payload(
	struct frame_json *f, const struct members *m, struct frame *ret)
{
	const struct slice *payload = &m->value[MEMBER_PAYLOAD];

	if (m->value[MEMBER_PAYLOAD_BASE64].s)
		return read_base64(f, &m->value[MEMBER_PAYLOAD_BASE64], ret);
	if (!payload->s || payload->s[0] == 'n')
		return FRAME_OK;
	if (payload->s[0] != '"') {
		ret->message.payload = payload->s;
		ret->message.payload_len = payload->len;
	} else if (!memchr(payload->s, '\\', payload->len)) {
		ret->message.payload = payload->s + 1;
		ret->message.payload_len = payload->len - 2;
	} else {
		if (read_string(payload, &f->payload) < 0)
			return fail(f, ret, FRAME_STORAGE, "out of memory");
		ret->message.payload = f->payload.data;
		ret->message.payload_len = f->payload.end;
	}
	return FRAME_OK;
}

static enum frame_error read_qos(struct frame_json *f, const struct members *m, struct frame *ret)
{
	const struct slice *qos = &m->value[MEMBER_QOS];

	if (!qos->s)
		return FRAME_OK;
	if (qos->len != 1 || qos->s[0] < '0' || qos->s[0] > '2')
		return fail(f, ret, FRAME_BAD_QOS, "qos is " EXCERPT ", must be 0, 1 or 2",
			EXCERPT_ARGS(qos));
	ret->message.qos = (uint8_t)(qos->s[0] - '0');
	return FRAME_OK;
}

static enum frame_error read_retain(
	struct frame_json *f, const struct members *m, struct frame *ret)
{
	const struct slice *retain = &m->value[MEMBER_RETAIN];

	if (!retain->s)
		return FRAME_OK;
	if (retain->s[0] != 't' && retain->s[0] != 'f')
		return fail(f, ret, FRAME_BAD_FIELD, "retain is " EXCERPT ", must be true or false",
			EXCERPT_ARGS(retain));
	ret->message.retain = retain->s[0] == 't';
	return FRAME_OK;
}

static enum frame_error read_timestamp(
	struct frame_json *f, const struct members *m, struct frame *ret)
{
	const struct slice *timestamp = &m->value[MEMBER_TIMESTAMP];
	int64_t value = 0;
	bool bad = false;

	if (!timestamp->s)
		return FRAME_OK;
	for (size_t i = 0; i < timestamp->len && !bad; i++)
		bad = !json_is_digit(timestamp->s[i]) ||
			__builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, timestamp->s[i] - '0', &value);
	if (bad)
		return fail(f, ret, FRAME_BAD_FIELD,
			"timestamp is " EXCERPT
			", must be an integer from 0 to %lld (milliseconds since the epoch)",
			EXCERPT_ARGS(timestamp), (long long)INT64_MAX);
	ret->message.timestamp = value;
	ret->message.own_timestamp = true;
	return FRAME_OK;
}

enum frame_error frame_json_parse(struct frame_json *f, const char *line, size_t len,
	uint8_t default_qos, int64_t now_msec, struct frame *ret)
{
	struct members members;
	enum frame_error error;

	*ret = (struct frame){ .message = { .qos = default_qos, .timestamp = now_msec } };

	if (!read_members(line, len, &members))
		return explain(f, line, len, ret);

	if (id_is_valid(&members)) {
		ret->id = members.value[MEMBER_ID].s;
		ret->id_len = members.value[MEMBER_ID].len;
	}

	error = check_keys(f, &members, ret);
	if (!error && members.value[MEMBER_ID].s && !ret->id)
		error = fail(f, ret, FRAME_BAD_FIELD,
			"id is " EXCERPT ", must be a string or a number",
			EXCERPT_ARGS(&members.value[MEMBER_ID]));
	if (!error)
		error = read_topic(f, &members, ret);
	if (!error)
		error = read_payload(f, &members, ret);
	if (!error)
		error = read_qos(f, &members, ret);
	if (!error)
		error = read_retain(f, &members, ret);
	if (!error)
		error = read_timestamp(f, &members, ret);
	return error;
}

bool frame_json_is_blank(const char *line, size_t len)
{
	return json_skip_space(line, 0, len) == len;
}

/* The replies: one reservation, then nothing can fail. */

static void put(struct buffer *out, const char *s, size_t n)
{
	memcpy(out->data + out->end, s, n);
	out->end += n;
}

static void put_string(struct buffer *out, const char *s)
{
	put(out, s, strlen(s));
}

static void put_number(struct buffer *out, uint64_t n)
{
	char digits[20];
	size_t i = sizeof(digits);

	do
		digits[--i] = (char)('0' + n % 10);
	while (n /= 10);
	put(out, digits + i, sizeof(digits) - i);
}

/* Needs up to six times the bytes. */
static void put_escaped(struct buffer *out, const char *s)
{
	static const char hex[] = "0123456789abcdef";

	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			put(out, (char[]){ '\\', *s }, 2);
		else if (c < 0x20)
			put(out, (char[]){ '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] }, 6);
		else
			put(out, c < 0x7f ? s : "?", 1);
	}
}

static int begin_reply(struct buffer *out, const char *id, size_t id_len, size_t room)
{
	int r;

	if (!id) {
		id = "null";
		id_len = 4;
	}
	if (__builtin_add_overflow(room, id_len, &room))
		return -ENOMEM;
	r = buffer_reserve(out, room);
	if (r < 0)
		return r;
	put_string(out, "{\"id\":");
	put(out, id, id_len);
	return 0;
}

int frame_json_reply_queued(struct buffer *out, const char *id, size_t id_len, uint64_t seq)
{
	int r = begin_reply(out, id, id_len, 80);

	if (r < 0)
		return r;
	put_string(out, ",\"status\":\"queued\",\"seq\":");
	put_number(out, seq);
	put_string(out, "}\n");
	return 0;
}

int frame_json_reply_error(
	struct buffer *out, const char *id, size_t id_len, enum frame_error error, const char *text)
{
	int r;

	if (!text)
		text = frame_error_to_string(error);
	r = begin_reply(out, id, id_len, 100 + 6 * strlen(text));
	if (r < 0)
		return r;
	put_string(out, ",\"status\":\"error\",\"error\":\"");
	put_string(out, frame_error_to_string(error));
	put_string(out, "\",\"message\":\"");
	put_escaped(out, text);
	put_string(out, "\"}\n");
	return 0;
}
