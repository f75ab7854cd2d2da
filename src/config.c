/* SPDX-License-Identifier: MIT */
/*
 * Owns the way from a file to a struct config: libconfig parses, the table of keys checks and
 * stores each value, then come the checks between keys and what is found out from the machine.
 * libconfig is used here and in the parts that share config_loader.h, nowhere else.
 *
 * Invariants: a fault never stops the search for more; a configuration is handed out only when
 * there was no fault. Must not know what a value is for.
 */
#include "config.h"

#include <errno.h>
#include <sys/stat.h>

#include "config_loader.h"
#include "url.h"

/* --- groups -------------------------------------------------------------------------------- */

static void read_group(
	struct config_loader *l, config_setting_t *setting, const struct config_group *group)
{
	char path[32];

	if (!config_setting_is_group(setting)) {
		config_fault(l, setting, "%s: found %s, wanted a group: { name = value; ... }",
			group->name, config_found(setting));
		return;
	}
	snprintf(path, sizeof(path), "%s.", group->name);
	config_read_keys(l, setting, group, path, l->c);
}

static bool is_brokers(const struct config_group *group)
{
	return group->is_list && !group->is_access;
}

static const struct config_group *find_group(const struct config_loader *l, const char *name)
{
	for (size_t g = 0; g < config_n_groups; g++)
		if (streq(name, config_groups[g].name) && (l->c || is_brokers(&config_groups[g])))
			return &config_groups[g];
	return NULL;
}

static void read_root(struct config_loader *l)
{
	const config_setting_t *root = config_root_setting(&l->lib);
	int n = config_setting_length(root);

	for (int i = 0; i < n && !l->no_memory; i++) {
		config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
		const struct config_group *group = find_group(l, config_setting_name(setting));

		if (!group)
			config_fault_unknown(l, setting, NULL, "");
		else if (!group->is_list)
			read_group(l, setting, group);
	}
	/* What a list of brokers may be depends on the group `discovery`. */
	for (size_t g = 0; g < config_n_groups && !l->no_memory && !l->places; g++) {
		const struct config_group *group = &config_groups[g];

		if (is_brokers(group))
			config_read_brokers(l, config_member(root, group->name), group);
		else if (group->is_access && l->c)
			config_read_access(l, config_member(root, group->name), group);
	}
}

/* --- between keys -------------------------------------------------------------------------- */

/* The setting to blame when two do not fit: the first one given. NULL: both are good or absent. */
static config_setting_t *blame(const config_setting_t *group, const char *first, const char *second)
{
	config_setting_t *a = config_member(group, first), *b = config_member(group, second);

	if (config_is_faulty(a) || config_is_faulty(b))
		return NULL;
	return a ? a : b;
}

static void check_order(struct config_loader *l)
{
	const config_setting_t *root = config_root_setting(&l->lib);
	const struct config *c = l->c;
	config_setting_t *setting;
	char least[32], found[32];

	setting = blame(config_member(root, "socket"), "max_buffered_bytes", "max_message_bytes");
	if (setting && c->socket.max_buffered_bytes < c->socket.max_message_bytes) {
		config_size_to_string(c->socket.max_message_bytes, least, sizeof(least));
		config_size_to_string(c->socket.max_buffered_bytes, found, sizeof(found));
		config_fault(l, setting,
			"socket.max_buffered_bytes: %s is less than max_message_bytes; allowed: %s "
			"or more",
			found, least);
	}
	setting = blame(config_member(root, "retry"), "max", "base");
	if (setting && c->retry.backoff.max_usec < c->retry.backoff.base_usec)
		config_fault(l, setting,
			"retry.max: %g seconds is less than retry.base; allowed: %g seconds or "
			"more",
			(double)c->retry.backoff.max_usec / (double)USEC_PER_SEC,
			(double)c->retry.backoff.base_usec / (double)USEC_PER_SEC);
}

/* A payload that is never sent is a topic forgotten. Defaults may stand there all the same. */
static void check_presence(
	struct config_loader *l, const char *name, const struct config_presence *p)
{
	const config_setting_t *mqtt = config_member(config_root_setting(&l->lib), "mqtt");
	const config_setting_t *group = config_member(mqtt, name);
	const struct {
		const char *key;
		bool is_set;
	} keys[] = {
		{ "payload", *p->payload },
		{ "qos", p->qos != 1 },
		{ "retain", !p->retain },
	};

	if (*p->topic || config_is_faulty(config_member(group, "topic")))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		config_setting_t *setting = config_member(group, keys[i].key);

		if (keys[i].is_set && !config_is_faulty(setting))
			config_fault(l, setting,
				"mqtt.%s.%s: there is no topic; allowed with mqtt.%s.topic", name,
				keys[i].key, name);
	}
}

static void check_discovery(struct config_loader *l)
{
	const config_setting_t *root = config_root_setting(&l->lib);

	if (*l->c->discovery.srv && *l->c->discovery.file)
		config_fault(l, config_member(config_member(root, "discovery"), "file"),
			"discovery.file: there is discovery.srv, too; allowed: one of the two");
}

/* User information and query of a URL are passwords and tokens, see url.h. */
static void check_report(struct config_loader *l)
{
	const config_setting_t *report = config_member(config_root_setting(&l->lib), "report");
	const struct {
		const char *name, *url;
	} urls[] = {
		{ "push_url", l->c->report.push_url },
		{ "alert_url", l->c->report.alert_url },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(urls); i++) {
		const config_setting_t *setting = config_member(report, urls[i].name);
		_cleanup_(freep) char *masked = NULL;
		const struct config_source_file *file;

		if (!*urls[i].url || !setting)
			continue;
		if (url_mask(&masked, urls[i].url) < 0) {
			l->no_memory = true;
			return;
		}
		file = config_source_file_at(&l->source, config_line_of(setting));
		if (!streq(masked, urls[i].url) && (file->mode & S_IROTH))
			config_warn(l,
				"%s holds a secret in report.%s and is readable by others: chmod "
				"o-r",
				file->name, urls[i].name);
	}
}

static void check_all(struct config_loader *l)
{
	check_report(l);
	check_order(l);
	check_discovery(l);
	check_presence(l, "will", &l->c->mqtt.will);
	check_presence(l, "birth", &l->c->mqtt.birth);
}

/* --- the whole ----------------------------------------------------------------------------- */

static void fault_syntax(struct config_loader *l)
{
	const char *text = config_error_text(&l->lib);
	unsigned line = (unsigned)config_error_line(&l->lib);
	const char *allowed = "each name once in its group";

	if (!text || streq(text, "syntax error"))
		allowed = "name = value; with groups in { }, lists in ( ) and strings in \" \"";
	else if (strstr(text, "array"))
		allowed = "an array [ ] of one type, or a list ( )";
	config_source_fault(
		&l->source, line, "%s; allowed: %s", text ? text : "syntax error", allowed);
}

static int new_config(struct config_loader *l)
{
	struct config_broker *template;
	int r = 0;

	l->c = calloc(1, sizeof(*l->c));
	if (!l->c)
		return -ENOMEM;
	template = &l->c->discovery.template;
	for (size_t g = 0; g < config_n_groups && r == 0; g++) {
		const struct config_group *group = &config_groups[g];

		if (!group->is_access) /* no rule is the default */
			r = config_group_set_defaults(
				group, group->is_list ? (void *)template : (void *)l->c);
	}
	return r;
}

/* The template is none of a host's. */
static void finish_template(struct config_loader *l)
{
	struct config_broker *template = &l->c->discovery.template;

	template->port = 0;
	l->no_memory |= config_string_set(&template->host, "") < 0;
}

/* From text to configuration; what is wrong becomes faults. */
static void load(struct config_loader *l, const char *path)
{
	/* The list of brokers is read while the uplink runs: nothing may keep it waiting. */
	if (config_source_read(&l->source, path, !l->c) < 0)
		l->no_memory = true;
	if (l->no_memory || l->source.broken)
		return;
	if (!config_read_string(&l->lib, l->source.text)) {
		fault_syntax(l);
		return;
	}
	read_root(l);
	if (!l->c || l->no_memory)
		return;
	check_all(l);
	finish_template(l);
	if (!l->no_memory)
		config_derive_id(l);
	if (!l->no_memory)
		config_fill_in_templates(l);
}

/* Reads one file of either kind, reports the faults. -EINVAL, -ENOMEM. */
static int run(struct config_loader *l, const char *path, FILE *faults)
{
	int r = 0;

	config_init(&l->lib);
	load(l, path);
	if (l->no_memory || l->source.no_memory)
		r = -ENOMEM;
	if (r == 0) {
		config_source_report(&l->source, faults);
		r = l->source.n_faults > 0 ? -EINVAL : 0;
	}
	config_destroy(&l->lib);
	config_source_done(&l->source);
	if (r < 0)
		config_brokers_free(l->brokers, l->n_brokers);
	return r;
}

static int load_whole(struct config **ret, const char *path, struct config_loader l, FILE *faults)
{
	int r;

	r = new_config(&l);
	if (r == 0)
		r = run(&l, path, faults);
	if (r < 0) {
		config_free(l.c);
		return r;
	}
	l.c->brokers = l.brokers;
	l.c->n_brokers = l.n_brokers;
	*ret = l.c;
	return 0;
}

int config_load(struct config **ret, const char *path, FILE *faults)
{
	return load_whole(ret, path, (struct config_loader){ 0 }, faults);
}

int config_check(struct config **ret, const char *path, FILE *faults)
{
	return load_whole(ret, path,
		(struct config_loader){ .pass_over = config_hidden_credentials() }, faults);
}

int config_load_public(struct config **ret, const char *path, FILE *faults)
{
	return load_whole(ret, path, (struct config_loader){ .is_public = true }, faults);
}

int config_load_places(struct config **ret, const char *path)
{
	struct config_loader l = { .quiet = true, .places = true };
	int r;

	r = new_config(&l);
	if (r < 0) {
		config_free(l.c);
		return r;
	}
	config_init(&l.lib);
	if (config_source_read(&l.source, path, false) < 0)
		r = -ENOMEM;
	else if (l.source.broken || !config_read_string(&l.lib, l.source.text))
		r = -EINVAL;
	else
		read_root(&l);
	if (l.no_memory || l.source.no_memory)
		r = -ENOMEM;
	config_destroy(&l.lib);
	config_source_done(&l.source);
	if (r < 0) {
		config_free(l.c);
		return r;
	}
	*ret = l.c;
	return 0;
}

int config_load_brokers(
	struct config_broker **ret, size_t *ret_n, const char *path, bool quiet, FILE *faults)
{
	struct config_loader l = { .quiet = quiet };
	int r;

	r = run(&l, path, faults);
	if (r < 0)
		return r;
	*ret = l.brokers;
	*ret_n = l.n_brokers;
	return 0;
}

static void presence_done(struct config_presence *p)
{
	free(p->topic);
	free(p->payload);
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	config_brokers_free(c->brokers, c->n_brokers);
	config_broker_done(&c->discovery.template);
	config_access_free(c->access, c->n_access);
	free(c->discovery.srv);
	free(c->discovery.file);
	free(c->gateway.id);
	free(c->socket.path);
	free(c->control.path);
	free(c->metrics.listen);
	free(c->report.push_url);
	free(c->report.alert_url);
	free(c->socket.group);
	free(c->queue.path);
	free(c->mqtt.client_id);
	free(c->mqtt.topic_prefix);
	presence_done(&c->mqtt.will);
	presence_done(&c->mqtt.birth);
	free(c);
	return NULL;
}
