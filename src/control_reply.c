/* SPDX-License-Identifier: MIT */
/*
 * The small replies, and how lines are written: see control_reply.h.
 */
#include "control_reply.h"

#include <errno.h>
#include <stdio.h>

#include "utf8.h"

static int append(const char *text, size_t len, void *userdata)
{
	return buffer_append(userdata, text, len) < 0 ? -1 : 0;
}

int control_put(struct buffer *out, json_t *line)
{
	size_t before = buffer_len(out);
	int r;

	if (!line)
		return -ENOMEM;
	/* Times and rates have three decimals at most: so many digits show them as they are. */
	r = json_dump_callback(line, append, out, JSON_COMPACT | JSON_REAL_PRECISION(15));
	json_decref(line);
	if (r == 0 && buffer_append(out, "\n", 1) == 0)
		return 0;
	out->end = out->begin + before;
	return -ENOMEM;
}

int control_put_ok(struct buffer *out)
{
	return control_put(out, json_pack("{ss}", "status", "ok"));
}

json_t *control_readable(const char *text)
{
	char readable[400];

	utf8_copy(readable, sizeof(readable), text);
	return json_string(readable);
}

int control_put_error(struct buffer *out, enum control_error error, const char *text)
{
	json_t *line =
		json_pack("{ssss}", "status", "error", "error", control_error_to_string(error));

	if (line && json_object_set_new(line, "message", control_readable(text)) < 0) {
		json_decref(line);
		line = NULL;
	}
	return control_put(out, line);
}

void control_time(int64_t msec, char out[32])
{
	time_t seconds = (time_t)(msec / 1000);
	struct tm tm;
	size_t n;

	if (!gmtime_r(&seconds, &tm) || tm.tm_year > 9999 - 1900) {
		snprintf(out, 32, "%lld", (long long)msec);
		return;
	}
	n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, 32 - n, ".%03dZ", (int)(msec % 1000 + (msec % 1000 < 0 ? 1000 : 0)));
}
