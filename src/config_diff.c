/* SPDX-License-Identifier: MIT */
/*
 * Owns what differs between two configurations, and how each key comes into effect. Walks the table
 * of keys, so that none is forgotten. Invariant: no value is handed out but by config_show(), which
 * hides secrets. Must not know who applies a value.
 */
#include <errno.h>
#include <stdio.h>

#include "config_keys.h"

/* --- how a key comes into effect ------------------------------------------------------------- */

static const struct {
	const char *name;
	enum config_effect effect;
} effects[] = {
	{ "gateway.id", CONFIG_EFFECT_UPLINK },

	{ "socket.path", CONFIG_EFFECT_RESTART },
	{ "socket.mode", CONFIG_EFFECT_RESTART },
	{ "socket.group", CONFIG_EFFECT_RESTART },
	{ "socket.default_qos", CONFIG_EFFECT_LIVE },
	{ "socket.max_clients", CONFIG_EFFECT_LIVE },
	{ "socket.max_message_bytes", CONFIG_EFFECT_LIVE },
	{ "socket.max_buffered_bytes", CONFIG_EFFECT_LIVE },
	{ "socket.max_rate", CONFIG_EFFECT_LIVE },
	{ "socket.max_inflight_bytes", CONFIG_EFFECT_LIVE },

	{ "control.path", CONFIG_EFFECT_LIVE },

	{ "queue.path", CONFIG_EFFECT_RESTART },
	/* The database notes at the start which of the two it is used with. */
	{ "queue.sync", CONFIG_EFFECT_RESTART },
	{ "queue.commit_delay", CONFIG_EFFECT_LIVE },
	{ "queue.max_messages", CONFIG_EFFECT_LIVE },
	{ "queue.max_bytes", CONFIG_EFFECT_LIVE },
	{ "queue.max_age", CONFIG_EFFECT_LIVE },
	{ "queue.overflow", CONFIG_EFFECT_LIVE },
	{ "queue.max_dead_letters", CONFIG_EFFECT_LIVE },

	{ "brokers.host", CONFIG_EFFECT_UPLINK },
	{ "brokers.port", CONFIG_EFFECT_UPLINK },
	{ "brokers.username", CONFIG_EFFECT_UPLINK },
	{ "brokers.password", CONFIG_EFFECT_UPLINK },
	{ "brokers.password_file", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls.ca_file", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls.ca_path", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls.cert_file", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls.key_file", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls.alpn", CONFIG_EFFECT_UPLINK },
	{ "brokers.tls.insecure", CONFIG_EFFECT_UPLINK },

	{ "discovery.srv", CONFIG_EFFECT_UPLINK },
	{ "discovery.file", CONFIG_EFFECT_UPLINK },
	{ "discovery.refresh", CONFIG_EFFECT_UPLINK },

	{ "mqtt.version", CONFIG_EFFECT_UPLINK },
	{ "mqtt.client_id", CONFIG_EFFECT_UPLINK },
	{ "mqtt.clean_session", CONFIG_EFFECT_UPLINK },
	{ "mqtt.keepalive", CONFIG_EFFECT_UPLINK },
	{ "mqtt.connect_timeout", CONFIG_EFFECT_UPLINK },
	{ "mqtt.ack_timeout", CONFIG_EFFECT_UPLINK },
	{ "mqtt.inflight_max", CONFIG_EFFECT_UPLINK },
	{ "mqtt.inflight_bytes", CONFIG_EFFECT_UPLINK },
	{ "mqtt.max_rate", CONFIG_EFFECT_UPLINK },
	{ "mqtt.topic_prefix", CONFIG_EFFECT_UPLINK },
	{ "mqtt.provenance", CONFIG_EFFECT_UPLINK },
	{ "mqtt.will.topic", CONFIG_EFFECT_UPLINK },
	{ "mqtt.will.payload", CONFIG_EFFECT_UPLINK },
	{ "mqtt.will.qos", CONFIG_EFFECT_UPLINK },
	{ "mqtt.will.retain", CONFIG_EFFECT_UPLINK },
	{ "mqtt.birth.topic", CONFIG_EFFECT_UPLINK },
	{ "mqtt.birth.payload", CONFIG_EFFECT_UPLINK },
	{ "mqtt.birth.qos", CONFIG_EFFECT_UPLINK },
	{ "mqtt.birth.retain", CONFIG_EFFECT_UPLINK },

	{ "retry.base", CONFIG_EFFECT_UPLINK },
	{ "retry.max", CONFIG_EFFECT_UPLINK },
	{ "retry.multiplier", CONFIG_EFFECT_UPLINK },
	{ "retry.jitter", CONFIG_EFFECT_UPLINK },
	{ "retry.stable", CONFIG_EFFECT_UPLINK },
	{ "retry.timeout_attempts", CONFIG_EFFECT_UPLINK },
	{ "retry.heartbeat_attempts", CONFIG_EFFECT_UPLINK },
	{ "retry.heartbeat_delay", CONFIG_EFFECT_UPLINK },
	{ "retry.set_aside", CONFIG_EFFECT_UPLINK },
	{ "retry.failback", CONFIG_EFFECT_UPLINK },

	{ "metrics.listen", CONFIG_EFFECT_LIVE },

	{ "report.push_url", CONFIG_EFFECT_REPORT },
	{ "report.alert_url", CONFIG_EFFECT_REPORT },
	{ "report.interval", CONFIG_EFFECT_REPORT },

	{ "access.user", CONFIG_EFFECT_LIVE },
	{ "access.group", CONFIG_EFFECT_LIVE },
	{ "access.topics", CONFIG_EFFECT_LIVE },

	{ "log.level", CONFIG_EFFECT_LIVE },
};

enum config_effect config_effect(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(effects); i++)
		if (streq(effects[i].name, name))
			return effects[i].effect;
	return CONFIG_EFFECT_UNKNOWN;
}

/* --- comparing ------------------------------------------------------------------------------- */

struct diff {
	config_changed_fn changed;
	void *userdata;
};

/* `shown`: the group's name with an index, where it has one. */
static void tell(const struct diff *d, const char *group, const char *shown, const char *name)
{
	char key[64], text[80];

	snprintf(key, sizeof(key), "%s.%s", group, name);
	snprintf(text, sizeof(text), "%s.%s", shown, name);
	d->changed(d->userdata, text, config_effect(key));
}

static bool is_string(const struct config_key *key)
{
	return key->kind == CONFIG_KIND_STRING || key->kind == CONFIG_KIND_TEMPLATE ||
		key->kind == CONFIG_KIND_SECRET;
}

static bool same_filters(const struct access_topics *a, const struct access_topics *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!streq(a->list[i], b->list[i]))
			return false;
	return true;
}

static bool same_value(const struct config_key *key, const void *a, const void *b)
{
	if (key->kind == CONFIG_KIND_FILTERS)
		return same_filters(a, b);
	if (is_string(key))
		return streq(*(char *const *)a, *(char *const *)b);
	return memcmp(a, b, key->width) == 0;
}

static void diff_keys(const struct diff *d, const struct config_group *group, const char *shown,
	const void *a, const void *b)
{
	for (size_t i = 0; i < group->n_keys; i++) {
		const struct config_key *key = &group->keys[i];
		const void *one = (const char *)a + key->offset;
		const void *other = (const char *)b + key->offset;
		char inner[80];

		if (key->kind != CONFIG_KIND_GROUP) {
			if (!same_value(key, one, other))
				tell(d, group->name, shown, key->name);
			continue;
		}
		if (config_group_is_enabled(key->group, one) !=
			config_group_is_enabled(key->group, other))
			tell(d, group->name, shown, key->name);
		snprintf(inner, sizeof(inner), "%s.%s", shown, key->name);
		diff_keys(d, key->group, inner, one, other);
	}
}

/* What stands in the files that TLS reads by name; another name was told already. */
static void diff_files(const struct diff *d, const char *shown, const struct config_tls *a,
	const struct config_tls *b)
{
	const struct {
		const char *name, *one, *other;
		bool same;
	} files[] = {
		{ "ca_file", a->ca_file, b->ca_file, a->ca_file_stamp == b->ca_file_stamp },
		{ "ca_path", a->ca_path, b->ca_path, a->ca_path_stamp == b->ca_path_stamp },
		{ "cert_file", a->cert_file, b->cert_file,
			a->cert_file_stamp == b->cert_file_stamp },
		{ "key_file", a->key_file, b->key_file, a->key_file_stamp == b->key_file_stamp },
	};
	char inner[80];

	snprintf(inner, sizeof(inner), "%s.tls", shown);
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
		if (!files[i].same && streq(files[i].one, files[i].other))
			tell(d, "brokers.tls", inner, files[i].name);
}

static void diff_broker(const struct diff *d, const struct config_group *group, unsigned index,
	const struct config_broker *a, const struct config_broker *b)
{
	char shown[32];

	snprintf(shown, sizeof(shown), "%s[%u]", group->name, index);
	diff_keys(d, group, shown, a, b);
	diff_files(d, shown, &a->tls, &b->tls);
}

static void diff_brokers(const struct diff *d, const struct config_group *group,
	const struct config *a, const struct config *b)
{
	diff_broker(d, group, 0, &a->discovery.template, &b->discovery.template);
	if (a->n_brokers != b->n_brokers) {
		d->changed(d->userdata, group->name, CONFIG_EFFECT_UPLINK);
		return;
	}
	for (size_t i = 0; i < a->n_brokers; i++)
		diff_broker(d, group, (unsigned)i, &a->brokers[i], &b->brokers[i]);
}

/* A name that stands for another number than before counts as another name. */
static void diff_access(const struct diff *d, const struct config_group *group,
	const struct config *a, const struct config *b)
{
	char shown[32];

	if (a->n_access != b->n_access) {
		d->changed(d->userdata, group->name, config_effect("access.topics"));
		return;
	}
	for (size_t i = 0; i < a->n_access; i++) {
		const struct access_rule *one = &a->access[i], *other = &b->access[i];

		snprintf(shown, sizeof(shown), "%s[%zu]", group->name, i);
		diff_keys(d, group, shown, one, other);
		if (one->id != other->id && streq(one->user, other->user) &&
			streq(one->group, other->group))
			tell(d, group->name, shown, *one->user ? "user" : "group");
	}
}

void config_diff(
	const struct config *a, const struct config *b, config_changed_fn changed, void *userdata)
{
	const struct diff d = { changed, userdata };

	for (size_t g = 0; g < config_n_groups; g++) {
		const struct config_group *group = &config_groups[g];

		if (group->is_access)
			diff_access(&d, group, a, b);
		else if (group->is_list)
			diff_brokers(&d, group, a, b);
		else
			diff_keys(&d, group, group->name, a, b);
	}
}

/* --- one key --------------------------------------------------------------------------------- */

static const struct config_key *find(const char *name)
{
	const char *dot = strchr(name, '.');

	for (size_t g = 0; dot && g < config_n_groups; g++) {
		const struct config_group *group = &config_groups[g];
		size_t n = strlen(group->name);

		if (!group->is_list && n == (size_t)(dot - name) &&
			strncmp(group->name, name, n) == 0)
			return config_key_find(group, dot + 1);
	}
	return NULL;
}

int config_keep(struct config *c, const struct config *from, const char *name)
{
	const struct config_key *key = find(name);

	if (!key || key->kind == CONFIG_KIND_GROUP)
		return -ENOENT;
	if (is_string(key))
		return config_string_set((char **)((char *)c + key->offset),
			*(char *const *)((const char *)from + key->offset));
	memcpy((char *)c + key->offset, (const char *)from + key->offset, key->width);
	return 0;
}

void config_show(const struct config *c, const char *name, char *buf, size_t size)
{
	const struct config_key *key = find(name);
	char *text = NULL;
	size_t n = 0;
	FILE *f = key ? open_memstream(&text, &n) : NULL;

	if (f) {
		config_key_print(key, c, f);
		if (fclose(f) != 0)
			n = 0;
	}
	snprintf(buf, size, "%.*s", (int)n, text ? text : "");
	free(text);
}
