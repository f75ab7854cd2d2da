/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a request of the operator's socket is read or refused with a text; what is accepted
 * holds only what its command may have. Each answer that quotes it is one line of JSON.
 */
#include <jansson.h>
#include <stdio.h>

#include "control_reply.h"
#include "control_request.h"
#include "topic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void complain(const char *what)
{
	fprintf(stderr, "%s\n", what);
	abort();
}

static void check_request(const struct control_request *r)
{
	if (r->command >= N_CONTROL_COMMANDS)
		complain("no such command");
	if (r->topic && topic_filter_check(r->topic, strlen(r->topic)) != TOPIC_OK)
		complain("a topic that is no filter");
	if (r->limit == 0 || r->seq == 0)
		complain("a number below its least");
	if ((r->command == CONTROL_QUEUE_SHOW || r->command == CONTROL_DEAD_SHOW) &&
		r->seq == CONTROL_NONE)
		complain("nothing to show");
	if (r->command != CONTROL_EVENTS && r->since != CONTROL_NONE)
		complain("a field of another command");
}

static void check_answer(enum control_error error, const char *text)
{
	struct buffer out = { 0 };
	json_t *line;

	if (text[0] == '\0' || strlen(text) >= CONTROL_TEXT_MAX)
		complain("an error without a text");
	if (control_put_error(&out, error, text) < 0)
		complain("an error that cannot be told");
	if (memchr(buffer_head(&out), '\n', buffer_len(&out)) !=
		buffer_head(&out) + buffer_len(&out) - 1)
		complain("an answer of several lines");
	line = json_loadb(buffer_head(&out), buffer_len(&out), 0, NULL);
	if (!line)
		complain("an answer that is no JSON");
	if (json_string_length(json_object_get(line, "message")) == 0)
		complain("an answer that tells nothing");
	json_decref(line);
	buffer_clear(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[CONTROL_TEXT_MAX] = "";
	struct control_request r;
	enum control_error error;

	error = control_request_parse((const char *)data, size, &r, text);
	if (error == CONTROL_OK) {
		check_request(&r);
		control_request_clear(&r);
	} else {
		check_answer(error, text);
	}
	return 0;
}
