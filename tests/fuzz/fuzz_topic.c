/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a topic is accepted exactly when libmosquitto would publish it.
 */
#include <mosquitto.h>
#include <stdio.h>

#include "topic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *s = (const char *)data;
	enum topic_fault fault;
	bool publishable;
	char *copy;

	if (size > 1 << 17)
		return 0;
	/* libmosquitto may read past a length that cuts a character in two, as far as to a NUL. */
	copy = calloc(1, size + 1);
	if (!copy)
		return 0;
	if (size > 0)
		memcpy(copy, data, size);
	/* mosquitto_publish() refuses an empty topic before it asks these two. */
	publishable = size > 0 && mosquitto_pub_topic_check2(copy, size) == MOSQ_ERR_SUCCESS &&
		mosquitto_validate_utf8(copy, (int)size) == MOSQ_ERR_SUCCESS;
	free(copy);

	fault = topic_check(s, size);
	if ((fault == TOPIC_OK) != publishable) {
		fprintf(stderr, "topic_check() says \"%s\", libmosquitto that it is %s\n",
			topic_fault_to_string(fault), publishable ? "good" : "bad");
		abort();
	}
	return 0;
}
