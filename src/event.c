/* SPDX-License-Identifier: MIT */
/*
 * See event.h. Owns the message ids: one that was given out is never changed, nor used for anything
 * else. Each has an entry in systemd/mqttgw.catalog; tests/check-catalog.sh holds the two together.
 */
#include "event.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static const struct event_type types[] = {
	[EVENT_STARTED] = { "f36a485d49a840e0b05fbdc0aea1031b", "started", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_START_FAILED] = { "a9667bc8863a4bd1bf31142ba44b5dc3", "start-failed", LOG_ERR,
		N_ALERT_KINDS },
	[EVENT_STOPPING] = { "adf6a8c93f86423dbc323ba63f905fb6", "stopping", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_STOPPED] = { "e2cbbec1f578469f8be859d216cb4ed5", "stopped", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_STATE] = { "3dc1374ea1534608a37c122138573a0e", "state", LOG_INFO, N_ALERT_KINDS },
	[EVENT_CONNECTED] = { "d2c27d55373d4ce2be68a32318d77cfb", "connected", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_CONNECTION_LOST] = { "3a72fc54befc4a4798503474ddc902a3", "connection-lost",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_CONNECT_FAILED] = { "4bb80fc9295642289d79a2e6bc88b189", "connect-failed",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_OFFLINE] = { "c85781330c9a4cd597aca00f5ecd835c", "offline", LOG_WARNING,
		N_ALERT_KINDS },
	[EVENT_BROKERS_EXHAUSTED] = { "c8b1cbac2e814d71988f5f8f034e50a3", "error", LOG_ERR,
		N_ALERT_KINDS },
	[EVENT_BROKER_SET_ASIDE] = { "22b638323383458b886cd8a6ca954255", "broker-set-aside",
		LOG_ERR, ALERT_SET_ASIDE },
	[EVENT_AUTH_REFUSED] = { "7711b18a35ef4a0bba7000d21f440824", "auth-refused", LOG_ERR,
		ALERT_AUTH },
	[EVENT_TAKEN_OVER] = { "d3a2f685a98546df93932fc04cf06935", "taken-over", LOG_ERR,
		ALERT_TAKEN_OVER },
	[EVENT_FAILED_BACK] = { "0ffdb2b9af604bd9a412851393424bb2", "failed-back", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_FLAPPING] = { "4dff7a8f286d45099e302eed155c8f68", "flapping", LOG_WARNING,
		N_ALERT_KINDS },
	[EVENT_STEADY] = { "682d16651f124df289bec8c29676bc6b", "steady", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_SESSION_LOST] = { "7ca2283d6603446d83a1c5d7bc43a31f", "session-lost", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_NETWORK] = { "3b5ecd4709f9405bb082f4df9ac8d85f", "network", LOG_INFO,
		N_ALERT_KINDS },
	[EVENT_BROKERS] = { "d4d4b96af9504728869623c442afdcc7", "brokers", LOG_INFO,
		N_ALERT_KINDS },
	[EVENT_BROKERS_UNKNOWN] = { "bf35ce92e6e4427aba8f0bbe70937894", "brokers-unknown",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_STORE_FAILING] = { "ff53b6cdfcb04886b37edfabdad36435", "store-failing", LOG_ERR,
		ALERT_STORE },
	[EVENT_STORE_WORKS] = { "def3c65c85384d109cb95b0a632edb1e", "store-works", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_DATABASE_DAMAGED] = { "eeee60f02fcd4399b9fc56c21b60152c", "database-damaged",
		LOG_ERR, N_ALERT_KINDS },
	[EVENT_DATABASE_SET_ASIDE] = { "80f3b74ce1964543bbef483a94320f75", "database-set-aside",
		LOG_ERR, ALERT_STORE },
	[EVENT_RESERVE_GIVEN_UP] = { "70598d90aa324d1d9ca59291f03a324f", "reserve-given-up",
		LOG_NOTICE, N_ALERT_KINDS },
	[EVENT_DEAD_LETTER] = { "09868bec77d346beaed5b3a06f544bd6", "dead-letter", LOG_ERR,
		ALERT_DEAD_LETTER },
	[EVENT_QUEUE_HELD] = { "bf5be6d8ab9a4965a5fe1fc0ba0549df", "queue-held", LOG_ERR,
		ALERT_HELD },
	[EVENT_QUEUE_RELEASED] = { "a9116f6574a94103b1bd309176391474", "queue-released", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_QUEUE_HIGH] = { "29a404cd05c940eab2c4aea2b5623094", "queue-high", LOG_WARNING,
		ALERT_QUEUE_HIGH },
	[EVENT_QUEUE_NORMAL] = { "850965c6209e4b18a436842444cd2203", "queue-normal", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_LINES_REFUSED] = { "db13037979204835a60ef143a8c6a431", "lines-refused", LOG_WARNING,
		N_ALERT_KINDS },
	[EVENT_MESSAGES_DROPPED] = { "fe077a27b8f94cafaced93038e2c0b79", "messages-dropped",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_MESSAGES_EXPIRED] = { "3221e033fcc5451fb51abb86f996ca95", "messages-expired",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_CLIENT_REFUSED] = { "854ea41789db430086d9defdac3c1e7a", "client-refused",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_CLIENT_CUT_OFF] = { "a74471e20dae4c8a9ee20fc0f88f71ae", "client-cut-off",
		LOG_WARNING, N_ALERT_KINDS },
	[EVENT_NOT_ALLOWED] = { "317f8839ef2d45bca514b0410aea36e5", "not-allowed", LOG_WARNING,
		N_ALERT_KINDS },
	[EVENT_CLOCK_UNSET] = { "9f277e269ff446f0ae08c3e8dfce8b66", "clock-unset", LOG_INFO,
		N_ALERT_KINDS },
	[EVENT_CLOCK_TRUSTED] = { "d7dd35a1fc56433b9146e8d3bd06a084", "clock-trusted", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_RELOADED] = { "2bcb5cc731d44cf3a1d343ceac497cd2", "reloaded", LOG_NOTICE,
		N_ALERT_KINDS },
	[EVENT_RELOAD_REFUSED] = { "7adfb662ad8e4eb5ad431ef718cb931c", "reload-refused", LOG_ERR,
		N_ALERT_KINDS },
};

#define TEXT_MAX 2048 /* as much as a line may have */

/* The journal's fields of one event, in the form that log_write() takes. */
struct fields {
	struct log_field list[16];
	size_t n;
	char numbers[4][24];
	size_t n_numbers;
};

const struct event_type *event_type(enum event_kind kind)
{
	return &types[kind];
}

bool event_is_alert(enum event_kind kind)
{
	return types[kind].alert != N_ALERT_KINDS;
}

static void add(struct fields *f, const char *name, const char *value)
{
	if (value && *value)
		f->list[f->n++] = (struct log_field){ name, value };
}

static void add_number(struct fields *f, const char *name, uint64_t value)
{
	char *text = f->numbers[f->n_numbers++];

	snprintf(text, sizeof(f->numbers[0]), "%llu", (unsigned long long)value);
	add(f, name, text);
}

static void collect(struct fields *f, enum event_kind kind, const struct event_fields *e)
{
	add(f, "MESSAGE_ID", types[kind].id);
	add(f, "MQTTGW_EVENT", types[kind].name);
	if (event_is_alert(kind))
		add(f, "MQTTGW_ALERT", "1");
	add(f, "MQTTGW_BROKER", e->broker);
	add(f, "MQTTGW_CLASS", e->class);
	add(f, "MQTTGW_STATE", e->state);
	add(f, "MQTTGW_OLD_STATE", e->old_state);
	add(f, "MQTTGW_PATH", e->path);
	add(f, "MQTTGW_PATH_ASIDE", e->aside);
	if (e->seq)
		add_number(f, "MQTTGW_SEQ", e->seq);
	if (e->count)
		add_number(f, "MQTTGW_COUNT", e->count);
	if (e->queue_known)
		add_number(f, "MQTTGW_QUEUE", e->queue);
	if (e->error)
		add_number(f, "ERRNO", (uint64_t)(e->error < 0 ? -(int64_t)e->error : e->error));
}

void log_event(enum event_kind kind, const struct event_fields *fields, const char *format, ...)
{
	static const struct event_fields none;
	struct fields f = { .n = 0 };
	int priority = types[kind].priority, saved_errno = errno;
	char text[TEXT_MAX];
	va_list ap;

	if (!fields)
		fields = &none;
	if (fields->priority)
		priority = fields->priority;
	if (priority > log_level())
		return;
	collect(&f, kind, fields);
	errno = saved_errno; /* for %m */
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	log_write(priority, f.list, "%s", text);
	errno = saved_errno;
}
