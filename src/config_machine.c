/* SPDX-License-Identifier: MIT */
/*
 * Owns what the machine has a part in: the gateway's id where none is given, and the templates,
 * into which id and host name are filled. Invariant: what is left in a field is good for its use
 * and holds no template any more.
 */
#include <errno.h>
#include <limits.h>

#include <systemd/sd-id128.h>

#include "config_loader.h"
#include "topic.h"

#define MAX_PREFIX 1024 /* bytes */
/* MQTT allows more; keys of `meta` and lines of libmosquitto's log, which we read, do not. */
#define MAX_CLIENT_ID 240

/* Ours among the applications that derive an id from the machine's. */
#define APPLICATION_ID SD_ID128_MAKE(bd, 38, 9c, 79, 60, e9, 4e, 02, bf, 8a, aa, 47, 61, cf, 25, 01)

/* --- the gateway's id ------------------------------------------------------------------------ */

void config_derive_id(struct config_loader *l)
{
	config_setting_t *group = config_member(config_root_setting(&l->lib), "gateway");
	config_setting_t *setting = config_member(group, "id");
	char text[SD_ID128_STRING_MAX];
	sd_id128_t id;
	int r;

	if (*l->c->gateway.id || config_is_faulty(group) || config_is_faulty(setting))
		return;
	r = sd_id128_get_machine_app_specific(APPLICATION_ID, &id);
	if (r < 0) {
		config_fault(l, setting ? setting : group,
			"gateway.id: cannot be derived from /etc/machine-id: %s; allowed: an id of "
			"your own, set gateway.id",
			strerror(-r));
		return;
	}
	/* "mqttgw-" and these are 23 bytes: what every MQTT 3.1.1 broker takes as a client id. */
	sd_id128_to_string(id, text);
	text[16] = '\0';
	l->no_memory |= config_string_set(&l->c->gateway.id, text) < 0;
}

/* --- templates ------------------------------------------------------------------------------- */

static bool is_client_id(const char *s)
{
	return *s && strlen(s) <= MAX_CLIENT_ID && config_is_mqtt_string(s);
}

static bool is_topic(const char *s)
{
	return !*s || topic_check(s, strlen(s)) == TOPIC_OK;
}

static bool is_prefix(const char *s)
{
	return is_topic(s) && strlen(s) <= MAX_PREFIX;
}

#define CLIENT_ID "not a client id; allowed: 1 to 240 bytes of UTF-8, no control characters"
#define TOPIC                                                                                  \
	"not a topic name; allowed: at most 65535 bytes of UTF-8, no \"+\", \"#\" or control " \
	"characters, or \"\" for none"
#define PREFIX                                                                                  \
	"not the start of a topic name; allowed: at most 1024 bytes of UTF-8, no \"+\", \"#\" " \
	"or control characters"

static const struct template
{
	const char *name;
	const char *group; /* within mqtt; NULL: mqtt itself */
	const char *key;
	size_t offset; /* in struct config */
	bool (*is_good)(const char *s); /* once it is filled in */
	const char *wrong;
}
templates[] = {
	{ "mqtt.client_id", NULL, "client_id", offsetof(struct config, mqtt.client_id),
		is_client_id, CLIENT_ID },
	{ "mqtt.topic_prefix", NULL, "topic_prefix", offsetof(struct config, mqtt.topic_prefix),
		is_prefix, PREFIX },
	{ "mqtt.will.topic", "will", "topic", offsetof(struct config, mqtt.will.topic), is_topic,
		TOPIC },
	{ "mqtt.birth.topic", "birth", "topic", offsetof(struct config, mqtt.birth.topic), is_topic,
		TOPIC },
};

static int host_name(char *buf, size_t size)
{
	if (gethostname(buf, size) < 0)
		return -errno;
	buf[size - 1] = '\0';
	return *buf ? 0 : -ENOENT;
}

/* Puts `s` behind what is there; what does not fit makes it longer than anything allowed. */
static void append(char *buf, size_t size, const char *s, size_t n)
{
	size_t used = strlen(buf);

	n = size_min(n, size - 1 - used);
	memcpy(buf + used, s, n);
	buf[used + n] = '\0';
}

/* Fills %i, %h and %% into `buf`. False: there is another %. */
static bool fill_in(const char *template, const char *id, const char *host, char *buf, size_t size)
{
	const char *p = template;

	*buf = '\0';
	for (;;) {
		size_t n = strcspn(p, "%");

		append(buf, size, p, n);
		p += n;
		if (!*p)
			return true;
		if (p[1] == 'i')
			append(buf, size, id, strlen(id));
		else if (p[1] == 'h')
			append(buf, size, host, strlen(host));
		else if (p[1] == '%')
			append(buf, size, "%", 1);
		else
			return false;
		p += 2;
	}
}

static void fill_in_one(struct config_loader *l, const struct template *t, char *buf, size_t size)
{
	config_setting_t *group = config_member(config_root_setting(&l->lib), "mqtt"), *setting;
	const char *id = *l->c->gateway.id ? l->c->gateway.id : "faulty";
	char **field = (char **)((char *)l->c + t->offset);
	char host[HOST_NAME_MAX + 1] = "";
	int r;

	if (t->group)
		group = config_member(group, t->group);
	setting = config_member(group, t->key);
	if (config_is_faulty(setting))
		return;
	if (!setting)
		setting = group;
	r = host_name(host, sizeof(host));
	if (r < 0 && strstr(*field, "%h"))
		config_fault(l, setting, "%s: %%h: no host name: %s; allowed: %%i", t->name,
			strerror(-r));
	else if (!fill_in(*field, id, host, buf, size))
		config_fault(l, setting,
			"%s: a %% that means nothing; allowed: %%i (gateway's id), %%h (host "
			"name), %%%% (a %%)",
			t->name);
	else if (!t->is_good(buf))
		config_fault(l, setting, "%s: %s", t->name, t->wrong);
	else
		l->no_memory |= config_string_set(field, buf) < 0;
}

void config_fill_in_templates(struct config_loader *l)
{
	/* Room for one byte too many: that is how a name is found too long. */
	static const size_t size = UINT16_MAX + 2;
	_cleanup_(freep) char *buf = malloc(size);

	l->no_memory |= !buf;
	for (size_t i = 0; i < ARRAY_SIZE(templates) && !l->no_memory; i++)
		fill_in_one(l, &templates[i], buf, size);
}
