/* SPDX-License-Identifier: MIT */
/*
 * Requests: see control_request.h. Owns the names of commands and of their fields.
 *
 * Strict on purpose: whoever misspells the field that narrows a purge down must not have
 * everything purged.
 */
#include "control_request.h"

#include <jansson.h>
#include <stdio.h>

#include "topic.h"

enum field {
	FIELD_TOPIC = 1 << 0,
	FIELD_LIMIT = 1 << 1,
	FIELD_AFTER = 1 << 2,
	FIELD_SEQ = 1 << 3,
	FIELD_SINCE = 1 << 4,
};

static const struct {
	const char *name;
	unsigned fields; /* that it may have */
	unsigned required;
} commands[N_CONTROL_COMMANDS] = {
	[CONTROL_STATUS] = { "status", 0, 0 },
	[CONTROL_METRICS] = { "metrics", 0, 0 },
	[CONTROL_RECONNECT] = { "reconnect", 0, 0 },
	[CONTROL_EVENTS] = { "events", FIELD_SINCE, 0 },
	[CONTROL_QUEUE_LIST] = { "queue-list", FIELD_TOPIC | FIELD_LIMIT | FIELD_AFTER, 0 },
	[CONTROL_QUEUE_SHOW] = { "queue-show", FIELD_SEQ, FIELD_SEQ },
	[CONTROL_QUEUE_EXPORT] = { "queue-export", FIELD_TOPIC | FIELD_LIMIT | FIELD_AFTER, 0 },
	[CONTROL_QUEUE_PURGE] = { "queue-purge", FIELD_TOPIC, 0 },
	[CONTROL_DEAD_LIST] = { "dead-list", FIELD_TOPIC | FIELD_LIMIT | FIELD_AFTER, 0 },
	[CONTROL_DEAD_SHOW] = { "dead-show", FIELD_SEQ, FIELD_SEQ },
	[CONTROL_DEAD_EXPORT] = { "dead-export", FIELD_TOPIC | FIELD_LIMIT | FIELD_AFTER, 0 },
	[CONTROL_DEAD_REQUEUE] = { "dead-requeue", FIELD_TOPIC | FIELD_SEQ, 0 },
	[CONTROL_DEAD_PURGE] = { "dead-purge", FIELD_TOPIC | FIELD_SEQ, 0 },
};

static const struct {
	const char *name;
	enum field field;
	json_int_t least; /* of numbers */
	size_t offset;
} fields[] = {
	{ "topic", FIELD_TOPIC, 0, offsetof(struct control_request, topic) },
	{ "limit", FIELD_LIMIT, 1, offsetof(struct control_request, limit) },
	{ "after", FIELD_AFTER, 0, offsetof(struct control_request, after) },
	{ "seq", FIELD_SEQ, 1, offsetof(struct control_request, seq) },
	{ "since", FIELD_SINCE, 0, offsetof(struct control_request, since) },
};

const char *control_command_to_string(enum control_command command)
{
	return commands[command].name;
}

const char *control_error_to_string(enum control_error error)
{
	static const char *const names[] = {
		[CONTROL_OK] = "ok",
		[CONTROL_BAD_JSON] = "bad-json",
		[CONTROL_BAD_COMMAND] = "bad-command",
		[CONTROL_BAD_FIELD] = "bad-field",
		[CONTROL_NOT_FOUND] = "not-found",
		[CONTROL_BUSY] = "busy",
		[CONTROL_STORAGE] = "storage",
		[CONTROL_STOPPING] = "stopping",
		[CONTROL_FAILED] = "failed",
		[CONTROL_TOO_MANY_CLIENTS] = "too-many-clients",
	};

	return names[error];
}

static enum control_error find_command(
	const json_t *object, enum control_command *ret, char text[CONTROL_TEXT_MAX])
{
	const json_t *value = json_object_get(object, "command");

	if (!json_is_string(value)) {
		snprintf(text, CONTROL_TEXT_MAX, "\"command\" %s, it must be a string",
			value ? "is no string" : "is missing");
		return CONTROL_BAD_COMMAND;
	}
	for (size_t i = 0; i < N_CONTROL_COMMANDS; i++) {
		size_t len = strlen(commands[i].name);

		if (json_string_length(value) == len &&
			memcmp(json_string_value(value), commands[i].name, len) == 0) {
			*ret = (enum control_command)i;
			return CONTROL_OK;
		}
	}
	snprintf(text, CONTROL_TEXT_MAX, "no such command: \"%.60s\"", json_string_value(value));
	return CONTROL_BAD_COMMAND;
}

/* "limit, after", for the text of an error. */
static const char *allowed_fields(enum control_command command, char out[64])
{
	size_t n = 0;

	out[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (commands[command].fields & fields[i].field)
			n += (size_t)snprintf(
				out + n, 64 - n, "%s%s", n > 0 ? ", " : "", fields[i].name);
	return n > 0 ? out : "none";
}

static enum control_error take_topic(
	const json_t *value, struct control_request *r, char text[CONTROL_TEXT_MAX])
{
	enum topic_fault fault;

	if (!json_is_string(value)) {
		snprintf(text, CONTROL_TEXT_MAX, "topic must be a string, a topic filter");
		return CONTROL_BAD_FIELD;
	}
	fault = topic_filter_check(json_string_value(value), json_string_length(value));
	if (fault != TOPIC_OK) {
		snprintf(text, CONTROL_TEXT_MAX, "%s",
			fault == TOPIC_WILDCARD
				? "topic: + must be a whole level, # a whole level and the last"
				: topic_fault_to_string(fault));
		return CONTROL_BAD_FIELD;
	}
	r->topic = strdup(json_string_value(value));
	if (!r->topic) {
		snprintf(text, CONTROL_TEXT_MAX, "no memory");
		return CONTROL_FAILED;
	}
	return CONTROL_OK;
}

static enum control_error take_number(
	const json_t *value, size_t i, struct control_request *r, char text[CONTROL_TEXT_MAX])
{
	if (!json_is_integer(value) || json_integer_value(value) < fields[i].least) {
		snprintf(text, CONTROL_TEXT_MAX, "%s must be a whole number, %lld or more",
			fields[i].name, (long long)fields[i].least);
		return CONTROL_BAD_FIELD;
	}
	*(uint64_t *)((char *)r + fields[i].offset) = (uint64_t)json_integer_value(value);
	return CONTROL_OK;
}

static enum control_error take_member(const char *key, const json_t *value,
	struct control_request *r, unsigned *given, char text[CONTROL_TEXT_MAX])
{
	char allowed[64];

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		if (!streq(key, fields[i].name) || !(commands[r->command].fields & fields[i].field))
			continue;
		*given |= fields[i].field;
		return fields[i].field == FIELD_TOPIC ? take_topic(value, r, text)
						      : take_number(value, i, r, text);
	}
	snprintf(text, CONTROL_TEXT_MAX, "%s has no field \"%.60s\"; it may have: %s",
		commands[r->command].name, key, allowed_fields(r->command, allowed));
	return CONTROL_BAD_FIELD;
}

static enum control_error take_members(
	json_t *object, struct control_request *r, char text[CONTROL_TEXT_MAX])
{
	enum control_error e = CONTROL_OK;
	unsigned given = 0;
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		if (e == CONTROL_OK && !streq(key, "command"))
			e = take_member(key, value, r, &given, text);
	}
	if (e != CONTROL_OK)
		return e;
	if (commands[r->command].required & ~given) {
		snprintf(text, CONTROL_TEXT_MAX, "%s needs a seq: the number of a message",
			commands[r->command].name);
		return CONTROL_BAD_FIELD;
	}
	if ((given & FIELD_TOPIC) && (given & FIELD_SEQ)) {
		snprintf(text, CONTROL_TEXT_MAX, "%s takes topic or seq, not both",
			commands[r->command].name);
		return CONTROL_BAD_FIELD;
	}
	return CONTROL_OK;
}

static enum control_error parse(
	json_t *object, struct control_request *ret, char text[CONTROL_TEXT_MAX])
{
	struct control_request r = {
		.limit = CONTROL_NONE,
		.after = 0,
		.seq = CONTROL_NONE,
		.since = CONTROL_NONE,
	};
	enum control_error e;

	if (!json_is_object(object)) {
		snprintf(text, CONTROL_TEXT_MAX, "a request is a JSON object");
		return CONTROL_BAD_JSON;
	}
	e = find_command(object, &r.command, text);
	if (e == CONTROL_OK)
		e = take_members(object, &r, text);
	if (e == CONTROL_OK)
		*ret = r;
	else
		control_request_clear(&r);
	return e;
}

enum control_error control_request_parse(
	const char *line, size_t len, struct control_request *ret, char text[CONTROL_TEXT_MAX])
{
	enum control_error e;
	json_error_t error;
	json_t *object;

	object = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
	if (!object) {
		snprintf(text, CONTROL_TEXT_MAX, "column %d: %s", error.column, error.text);
		return json_error_code(&error) == json_error_duplicate_key ? CONTROL_BAD_FIELD
									   : CONTROL_BAD_JSON;
	}
	e = parse(object, ret, text);
	json_decref(object);
	return e;
}

void control_request_clear(struct control_request *r)
{
	free(r->topic);
	r->topic = NULL;
}
