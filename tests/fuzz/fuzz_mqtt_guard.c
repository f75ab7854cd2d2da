/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: what a broker sends, as the guard sees it. The first byte chooses the version. The
 * bytes are looked at once as a whole, and once as they come in one by one: both must find the same
 * packets, and the same end.
 */
#include "fuzz.h"
#include "mqtt_guard.h"

struct outcome {
	size_t whole; /* bytes of whole packets */
	unsigned packets;
	bool fault;
	struct mqtt_guard guard;
};

static void check_text(const char *text)
{
	REQUIRE(text[0] && strlen(text) < MQTT_GUARD_TEXT_MAX);
	for (const char *c = text; *c; c++)
		REQUIRE(*c >= ' ' && *c <= '~');
}

/* One look at the first `len` bytes, of memory of their own. */
static enum mqtt_guard_verdict look(
	struct mqtt_guard *g, const uint8_t *data, size_t len, size_t *ret_size)
{
	char text[MQTT_GUARD_TEXT_MAX] = "";
	uint8_t *copy = fuzz_copy(data, len);
	const struct mqtt_guard before = *g;
	enum mqtt_guard_verdict verdict = mqtt_guard_look(g, copy, len, ret_size, text);

	free(copy);
	switch (verdict) {
	case MQTT_GUARD_WHOLE:
		REQUIRE(*ret_size >= 2 && *ret_size <= len);
		REQUIRE(*ret_size <= MQTT_GUARD_PACKET_MAX && g->connack);
		break;
	case MQTT_GUARD_PART: REQUIRE(*ret_size > len && *ret_size <= MQTT_GUARD_PACKET_MAX); break;
	case MQTT_GUARD_FAULT: check_text(text); break;
	}
	if (verdict != MQTT_GUARD_WHOLE)
		REQUIRE(memcmp(g, &before, sizeof(before)) == 0);
	return verdict;
}

/* `together`: all that is there at a time; else no more than the guard asks for. */
static void run(struct outcome *o, const uint8_t *data, size_t size, bool together)
{
	size_t len = together ? size : 1, want;

	while (o->whole < size) {
		switch (look(&o->guard, data + o->whole, size_min(len, size - o->whole), &want)) {
		case MQTT_GUARD_WHOLE:
			o->whole += want;
			o->packets++;
			len = together ? size : 1;
			break;
		case MQTT_GUARD_PART:
			if (want > size - o->whole)
				return;
			REQUIRE(!together);
			len = want;
			break;
		case MQTT_GUARD_FAULT: o->fault = true; return;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outcome a = { 0 }, b = { 0 };

	if (size == 0)
		return 0;
	a.guard.v5 = b.guard.v5 = data[0] & 1;
	run(&a, data + 1, size - 1, true);
	run(&b, data + 1, size - 1, false);
	REQUIRE(a.whole == b.whole && a.packets == b.packets && a.fault == b.fault);
	REQUIRE(memcmp(&a.guard, &b.guard, sizeof(a.guard)) == 0);
	return 0;
}
