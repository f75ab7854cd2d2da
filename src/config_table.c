/* SPDX-License-Identifier: MIT */
/*
 * Owns the table of keys: what exists, its default, its range, and what strings may be. Invariant:
 * every default passes its own check. Must not know how values are read, stored or shown.
 */
#include "config_keys.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <sys/un.h>

#include "address.h"
#include "log.h"
#include "url.h"
#include "utf8.h"

#define MAX_QUEUE_PATH	480 /* SQLite takes 512, with the names of its other files */
#define MAX_SOCKET_PATH (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1)

/* --- what strings may be ------------------------------------------------------------------- */

bool config_is_mqtt_string(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t len = strlen(s), n;
	uint32_t code = 0;

	if (len > UINT16_MAX)
		return false;
	for (size_t i = 0; i < len; i += n) {
		n = utf8_read(p + i, len - i, &code);
		if (n == 0 || utf8_is_control(code) || utf8_is_noncharacter(code))
			return false;
	}
	return true;
}

/* Only ASCII letters and digits, and the characters of `more`. */
static bool is_plain(const char *s, const char *more)
{
	for (; *s; s++)
		if (!isascii((unsigned char)*s) ||
			(!isalnum((unsigned char)*s) && !strchr(more, *s)))
			return false;
	return true;
}

static bool is_path(const char *s, size_t most)
{
	if (s[0] != '/' || strlen(s) > most)
		return false;
	for (; *s; s++)
		if (iscntrl((unsigned char)*s))
			return false;
	return true;
}

static bool is_file_path(const char *s, size_t most)
{
	return is_path(s, most) && s[strlen(s) - 1] != '/';
}

static const char *check_id(const char *s)
{
	return strlen(s) <= 64 && is_plain(s, "._-")
		? NULL
		: "1 to 64 letters, digits, '.', '_', '-', or \"\" for one derived from the "
		  "machine";
}

static const char *check_socket_path(const char *s)
{
	return is_file_path(s, MAX_SOCKET_PATH) ? NULL : "an absolute path of at most 107 bytes";
}

static const char *check_queue_path(const char *s)
{
	return is_file_path(s, MAX_QUEUE_PATH) ? NULL : "an absolute path of at most 480 bytes";
}

static const char *check_group(const char *s)
{
	return strlen(s) <= 256 && *s != '-' && is_plain(s, "._-$@\\ ")
		? NULL
		: "the name of a group, or \"\" to leave the group alone";
}

static const char *check_account(const char *s)
{
	return strlen(s) <= 256 && *s != '-' && is_plain(s, "._-$@\\ ") ? NULL
									: "a name or a number";
}

static const char *check_host(const char *s)
{
	return *s && strlen(s) <= 253 && is_plain(s, ".-_:%")
		? NULL
		: "a host name or an address, without \"mqtt://\", brackets or port";
}

static const char *check_username(const char *s)
{
	return config_is_mqtt_string(s) ? NULL
					: "UTF-8 of at most 65535 bytes without control characters";
}

static const char *check_password(const char *s)
{
	return strlen(s) <= UINT16_MAX ? NULL : "at most 65535 bytes";
}

static const char *check_file(const char *s)
{
	if (!*s || (strchr(s, '/') ? is_file_path(s, PATH_MAX - 1) : strlen(s) <= NAME_MAX))
		return NULL;
	return "an absolute path, or the name of a systemd credential";
}

static const char *check_folder(const char *s)
{
	return !*s || is_path(s, PATH_MAX - 1) ? NULL : "the absolute path of a folder";
}

static const char *check_alpn(const char *s)
{
	size_t n = strlen(s);

	for (; *s; s++)
		if (!isascii((unsigned char)*s) || !isgraph((unsigned char)*s))
			n = SIZE_MAX;
	return n <= 255 ? NULL : "1 to 255 ASCII characters without blanks, or \"\" for none";
}

/* One label of a name, of n bytes. */
static bool is_label(const char *s, size_t n, bool underscore)
{
	return n >= (underscore ? 2 : 1) && n <= 63 && (!underscore || *s == '_');
}

static const char *check_srv(const char *s)
{
	size_t n_labels = 0, n;
	const char *p = s;
	bool good = strlen(s) <= 253 && is_plain(s, "-_.");

	if (!*s)
		return NULL;
	while (good) {
		n = strcspn(p, ".");
		good = is_label(p, n, n_labels < 2);
		n_labels++;
		p += n;
		/* A dot at the end is the root's. */
		if (!*p || !*++p)
			break;
	}
	return good && n_labels > 2 ? NULL
				    : "a name such as \"_mqtt._tcp.example.org\", at most 253 "
				      "letters, digits, '-', '_', '.'";
}

static const char *check_discovery_file(const char *s)
{
	return !*s || is_file_path(s, PATH_MAX - 1) ? NULL : "an absolute path";
}

static const char *check_payload(const char *s)
{
	return strlen(s) <= UINT16_MAX ? NULL : "at most 65535 bytes";
}

static const char *check_listen(const char *s)
{
	union address a;
	socklen_t len;

	return !*s || (address_parse(s, &a, &len) == 0 && address_port(&a) > 0)
		? NULL
		: "\"ADDRESS:PORT\" with a numeric address, such as \"127.0.0.1:9641\" or "
		  "\"[::1]:9641\", or \"\" for none";
}

static const char *check_url(const char *s)
{
	return !*s || url_is_good(s)
		? NULL
		: "\"http://HOST...\" or \"https://HOST...\", at most 2000 ASCII characters "
		  "without blanks, or \"\" for none";
}

/* --- words --------------------------------------------------------------------------------- */

static int sync_from_string(const char *s)
{
	return streq(s, "full")	     ? CONFIG_SYNC_FULL
		: streq(s, "normal") ? CONFIG_SYNC_NORMAL
				     : -EINVAL;
}

static const char *sync_to_string(int value)
{
	return value == CONFIG_SYNC_NORMAL ? "normal" : "full";
}

static int overflow_from_string(const char *s)
{
	return streq(s, "reject")	  ? CONFIG_OVERFLOW_REJECT
		: streq(s, "drop-oldest") ? CONFIG_OVERFLOW_DROP_OLDEST
					  : -EINVAL;
}

static const char *overflow_to_string(int value)
{
	return value == CONFIG_OVERFLOW_DROP_OLDEST ? "drop-oldest" : "reject";
}

static int version_from_string(const char *s)
{
	if (streq(s, "auto"))
		return CONFIG_MQTT_AUTO;
	if (streq(s, "5"))
		return CONFIG_MQTT_5;
	return streq(s, "3.1.1") ? CONFIG_MQTT_311 : -EINVAL;
}

static const char *version_to_string(int value)
{
	return value == CONFIG_MQTT_5 ? "5" : value == CONFIG_MQTT_311 ? "3.1.1" : "auto";
}

static const char *jitter_to_string(int value)
{
	return backoff_jitter_to_string((enum backoff_jitter)value);
}

static const struct config_words sync_words = {
	sync_from_string,
	sync_to_string,
	"\"full\", \"normal\"",
};

static const struct config_words overflow_words = {
	overflow_from_string,
	overflow_to_string,
	"\"reject\", \"drop-oldest\"",
};

static const struct config_words version_words = {
	version_from_string,
	version_to_string,
	"\"auto\", \"5\", \"3.1.1\"",
};

static const struct config_words jitter_words = {
	backoff_jitter_from_string,
	jitter_to_string,
	"\"full\", \"proportional\", \"additive\", \"none\"",
};

static const struct config_words level_words = {
	log_level_from_string,
	log_level_to_string,
	"\"error\", \"warning\", \"notice\", \"info\", \"debug\"",
};

/* --- the table ----------------------------------------------------------------------------- */

#define K   (1024.0)
#define M   (1024.0 * 1024.0)
#define G   (1024.0 * 1024.0 * 1024.0)
#define DAY (86400.0)

#define IN(type, field) .offset = offsetof(type, field), .width = sizeof(((type *)NULL)->field)
#define CONFIG(field)	IN(struct config, field)
#define BROKER(field)	IN(struct config_broker, field)
#define TLS(field)	IN(struct config_tls, field)
#define ACCESS(field)	IN(struct access_rule, field)
#define PRESENCE(field) IN(struct config_presence, field)

/* clang-format off */
static const struct config_key gateway_keys[] = {
	{ "id", CONFIG_KIND_STRING, CONFIG(gateway.id), .text = "", .check = check_id },
};

static const struct config_key socket_keys[] = {
	{ "path", CONFIG_KIND_STRING, CONFIG(socket.path), .text = "/run/mqttgw.sock",
		.check = check_socket_path },
	{ "mode", CONFIG_KIND_MODE, CONFIG(socket.mode), .text = "0660" },
	{ "group", CONFIG_KIND_STRING, CONFIG(socket.group), .text = "mqttgw-clients",
		.check = check_group },
	{ "default_qos", CONFIG_KIND_COUNT, CONFIG(socket.default_qos), .number = 1, .most = 2 },
	{ "max_clients", CONFIG_KIND_COUNT, CONFIG(socket.max_clients), .number = 1024,
		.least = 1, .most = 65536 },
	{ "max_message_bytes", CONFIG_KIND_SIZE, CONFIG(socket.max_message_bytes), .number = M,
		.least = K, .most = 64 * M },
	{ "max_buffered_bytes", CONFIG_KIND_SIZE, CONFIG(socket.max_buffered_bytes),
		.number = 16 * M, .least = K, .most = G },
	{ "max_rate", CONFIG_KIND_COUNT, CONFIG(socket.max_rate), .least = 1, .most = 1e6,
		.none = true },
	{ "max_inflight_bytes", CONFIG_KIND_SIZE, CONFIG(socket.max_inflight_bytes), .least = K,
		.most = G, .none = true },
};

static const struct config_key queue_keys[] = {
	{ "path", CONFIG_KIND_STRING, CONFIG(queue.path), .text = "/var/lib/mqttgw/queue.db",
		.check = check_queue_path },
	{ "sync", CONFIG_KIND_WORD, CONFIG(queue.sync), .text = "full", .words = &sync_words },
	{ "commit_delay", CONFIG_KIND_DURATION, CONFIG(queue.commit_delay_usec), .most = 3600 },
	{ "max_messages", CONFIG_KIND_COUNT, CONFIG(queue.max_messages), .least = 1,
		.most = 1e15, .none = true },
	{ "max_bytes", CONFIG_KIND_SIZE, CONFIG(queue.max_bytes), .number = G, .least = 256 * K,
		.most = M * G, .none = true },
	{ "max_age", CONFIG_KIND_DURATION, CONFIG(queue.max_age_usec), .most = 36500 * DAY,
		.above = true, .none = true },
	{ "overflow", CONFIG_KIND_WORD, CONFIG(queue.overflow), .text = "reject",
		.words = &overflow_words },
	{ "max_dead_letters", CONFIG_KIND_COUNT, CONFIG(queue.max_dead_letters), .number = 10000,
		.least = 1, .most = 1e15, .none = true },
};

static const struct config_key tls_keys[] = {
	{ "ca_file", CONFIG_KIND_STRING, TLS(ca_file), .text = "", .check = check_file },
	{ "ca_path", CONFIG_KIND_STRING, TLS(ca_path), .text = "", .check = check_folder },
	{ "cert_file", CONFIG_KIND_STRING, TLS(cert_file), .text = "", .check = check_file },
	{ "key_file", CONFIG_KIND_STRING, TLS(key_file), .text = "", .check = check_file },
	{ "alpn", CONFIG_KIND_STRING, TLS(alpn), .text = "", .check = check_alpn },
	{ "insecure", CONFIG_KIND_BOOLEAN, TLS(insecure) },
};

static const struct config_group tls_group = {
	"brokers.tls", tls_keys, ARRAY_SIZE(tls_keys),
	.is_switch = true, .enabled = offsetof(struct config_tls, enabled),
};

static const struct config_key broker_keys[] = {
	{ "host", CONFIG_KIND_STRING, BROKER(host), .text = "localhost", .check = check_host,
		.discovered = true },
	/* 8883 with TLS */
	{ "port", CONFIG_KIND_COUNT, BROKER(port), .number = 1883, .least = 1, .most = 65535,
		.discovered = true },
	{ "username", CONFIG_KIND_STRING, BROKER(username), .text = "", .check = check_username },
	{ "password", CONFIG_KIND_SECRET, BROKER(password), .text = "", .check = check_password },
	{ "password_file", CONFIG_KIND_STRING, BROKER(password_file), .text = "",
		.check = check_file },
	{ "tls", CONFIG_KIND_GROUP, BROKER(tls), .group = &tls_group },
};

static const struct config_key discovery_keys[] = {
	{ "srv", CONFIG_KIND_STRING, CONFIG(discovery.srv), .text = "", .check = check_srv },
	{ "file", CONFIG_KIND_STRING, CONFIG(discovery.file), .text = "",
		.check = check_discovery_file },
	{ "refresh", CONFIG_KIND_DURATION, CONFIG(discovery.refresh_usec), .number = 300,
		.most = DAY, .above = true },
};

static const struct config_key presence_keys[] = {
	{ "topic", CONFIG_KIND_TEMPLATE, PRESENCE(topic), .text = "" },
	{ "payload", CONFIG_KIND_STRING, PRESENCE(payload), .text = "", .check = check_payload },
	{ "qos", CONFIG_KIND_COUNT, PRESENCE(qos), .number = 1, .most = 2 },
	{ "retain", CONFIG_KIND_BOOLEAN, PRESENCE(retain), .number = true },
};

static const struct config_group will_group = {
	"mqtt.will", presence_keys, ARRAY_SIZE(presence_keys),
};

static const struct config_group birth_group = {
	"mqtt.birth", presence_keys, ARRAY_SIZE(presence_keys),
};

static const struct config_key mqtt_keys[] = {
	{ "version", CONFIG_KIND_WORD, CONFIG(mqtt.version), .text = "auto",
		.words = &version_words },
	{ "client_id", CONFIG_KIND_TEMPLATE, CONFIG(mqtt.client_id), .text = "mqttgw-%i" },
	{ "clean_session", CONFIG_KIND_BOOLEAN, CONFIG(mqtt.clean_session) },
	/* libmosquitto refuses 1 to 4. */
	{ "keepalive", CONFIG_KIND_COUNT, CONFIG(mqtt.keepalive), .number = 60,
		.least = 5, .most = 65535, .zero = true },
	{ "connect_timeout", CONFIG_KIND_DURATION, CONFIG(mqtt.connect_timeout_usec), .number = 10,
		.most = 3600, .above = true },
	{ "ack_timeout", CONFIG_KIND_DURATION, CONFIG(mqtt.ack_timeout_usec), .number = 20,
		.most = 3600, .above = true },
	{ "inflight_max", CONFIG_KIND_COUNT, CONFIG(mqtt.inflight_max), .most = 65000 },
	{ "inflight_bytes", CONFIG_KIND_SIZE, CONFIG(mqtt.inflight_bytes), .number = M,
		.least = K, .most = G },
	{ "max_rate", CONFIG_KIND_SIZE, CONFIG(mqtt.max_rate), .least = 64, .most = G,
		.none = true },
	{ "topic_prefix", CONFIG_KIND_TEMPLATE, CONFIG(mqtt.topic_prefix), .text = "" },
	{ "provenance", CONFIG_KIND_BOOLEAN, CONFIG(mqtt.provenance), .number = true },
	{ "will", CONFIG_KIND_GROUP, CONFIG(mqtt.will), .group = &will_group },
	{ "birth", CONFIG_KIND_GROUP, CONFIG(mqtt.birth), .group = &birth_group },
};

static const struct config_key retry_keys[] = {
	{ "base", CONFIG_KIND_DURATION, CONFIG(retry.backoff.base_usec), .number = 1,
		.most = DAY, .above = true },
	{ "max", CONFIG_KIND_DURATION, CONFIG(retry.backoff.max_usec), .number = 60,
		.most = DAY, .above = true },
	{ "multiplier", CONFIG_KIND_FACTOR, CONFIG(retry.backoff.multiplier), .number = 2,
		.least = 1, .most = 100 },
	{ "jitter", CONFIG_KIND_WORD, CONFIG(retry.backoff.jitter), .text = "full",
		.words = &jitter_words },
	{ "stable", CONFIG_KIND_DURATION, CONFIG(retry.stable_usec), .number = 30, .most = DAY },
	{ "timeout_attempts", CONFIG_KIND_COUNT, CONFIG(retry.timeout_attempts), .number = 3,
		.least = 1, .most = 1000 },
	{ "heartbeat_attempts", CONFIG_KIND_COUNT, CONFIG(retry.heartbeat_attempts), .number = 2,
		.most = 1000 },
	{ "heartbeat_delay", CONFIG_KIND_DURATION, CONFIG(retry.heartbeat_delay_usec), .number = 1,
		.most = 3600 },
	{ "set_aside", CONFIG_KIND_DURATION, CONFIG(retry.set_aside_usec), .number = 300,
		.most = DAY, .above = true },
	{ "failback", CONFIG_KIND_DURATION, CONFIG(retry.failback_usec), .number = 300,
		.most = DAY, .above = true },
};

static const struct config_key control_keys[] = {
	{ "path", CONFIG_KIND_STRING, CONFIG(control.path), .text = "/run/mqttgw/control.sock",
		.check = check_socket_path },
};

static const struct config_key metrics_keys[] = {
	{ "listen", CONFIG_KIND_STRING, CONFIG(metrics.listen), .text = "",
		.check = check_listen },
};

static const struct config_key report_keys[] = {
	{ "push_url", CONFIG_KIND_STRING, CONFIG(report.push_url), .text = "",
		.check = check_url, .is_url = true },
	{ "alert_url", CONFIG_KIND_STRING, CONFIG(report.alert_url), .text = "",
		.check = check_url, .is_url = true },
	{ "interval", CONFIG_KIND_DURATION, CONFIG(report.interval_usec), .number = 300,
		.least = 1, .most = DAY },
};

/* Defaults mean: not given. */
static const struct config_key access_keys[] = {
	{ "user", CONFIG_KIND_STRING, ACCESS(user), .text = "", .check = check_account },
	{ "group", CONFIG_KIND_STRING, ACCESS(group), .text = "", .check = check_account },
	{ "topics", CONFIG_KIND_FILTERS, ACCESS(topics) },
};

static const struct config_key log_keys[] = {
	{ "level", CONFIG_KIND_WORD, CONFIG(log.level), .text = "info", .words = &level_words },
};

const struct config_group config_groups[] = {
	{ "gateway", gateway_keys, ARRAY_SIZE(gateway_keys) },
	{ "socket", socket_keys, ARRAY_SIZE(socket_keys) },
	{ "control", control_keys, ARRAY_SIZE(control_keys) },
	{ "queue", queue_keys, ARRAY_SIZE(queue_keys) },
	{ "brokers", broker_keys, ARRAY_SIZE(broker_keys), .is_list = true },
	{ "discovery", discovery_keys, ARRAY_SIZE(discovery_keys) },
	{ "mqtt", mqtt_keys, ARRAY_SIZE(mqtt_keys) },
	{ "retry", retry_keys, ARRAY_SIZE(retry_keys) },
	{ "metrics", metrics_keys, ARRAY_SIZE(metrics_keys) },
	{ "report", report_keys, ARRAY_SIZE(report_keys) },
	{ "access", access_keys, ARRAY_SIZE(access_keys), .is_list = true, .is_access = true },
	{ "log", log_keys, ARRAY_SIZE(log_keys) },
};
/* clang-format on */

const size_t config_n_groups = ARRAY_SIZE(config_groups);
