/* SPDX-License-Identifier: MIT */
/*
 * Owns how settings become fields: the table of keys checks and stores each value. Invariant: a
 * fault never stops the search for more. Must not know any key by name.
 */
#include "config_loader.h"

#include <errno.h>

/* --- faults -------------------------------------------------------------------------------- */

unsigned config_line_of(const config_setting_t *setting)
{
	return setting ? config_setting_source_line(setting) : 0;
}

void config_mark_faulty(config_setting_t *setting)
{
	if (setting)
		config_setting_set_hook(setting, setting);
}

bool config_is_faulty(const config_setting_t *setting)
{
	return setting && config_setting_get_hook(setting);
}

config_setting_t *config_member(const config_setting_t *group, const char *name)
{
	if (!group || !config_setting_is_group(group))
		return NULL;
	return config_setting_get_member(group, name);
}

/* --- reading by the table ------------------------------------------------------------------ */

static struct config_value value_of(const config_setting_t *setting)
{
	struct config_value v = { .type = CONFIG_NOTHING };

	switch (config_setting_type(setting)) {
	case CONFIG_TYPE_GROUP: v.type = CONFIG_GROUP; break;
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		v.type = CONFIG_INTEGER;
		v.integer = config_setting_get_int64(setting);
		break;
	case CONFIG_TYPE_FLOAT:
		v.type = CONFIG_FLOAT;
		v.number = config_setting_get_float(setting);
		break;
	case CONFIG_TYPE_STRING:
		v.type = CONFIG_STRING;
		v.string = config_setting_get_string(setting);
		break;
	case CONFIG_TYPE_BOOL:
		v.type = CONFIG_BOOLEAN;
		v.integer = config_setting_get_bool(setting) != 0;
		break;
	case CONFIG_TYPE_ARRAY: v.type = CONFIG_ARRAY; break;
	case CONFIG_TYPE_LIST: v.type = CONFIG_LIST; break;
	default: break;
	}
	return v;
}

const char *config_found(const config_setting_t *setting)
{
	return config_type_to_string(value_of(setting).type);
}

/* "port, host, ..." of a group, or the groups' names. */
static void list_names(const struct config_group *group, char *buf, size_t size)
{
	size_t n = group ? group->n_keys : config_n_groups, used = 0;

	*buf = '\0';
	for (size_t i = 0; i < n && used < size; i++)
		used += (size_t)snprintf(buf + used, size - used, "%s%s", i ? ", " : "",
			group ? group->keys[i].name : config_groups[i].name);
}

void config_fault_unknown(struct config_loader *l, config_setting_t *setting,
	const struct config_group *group, const char *path)
{
	const char *name = config_setting_name(setting);
	char text[256];

	if (!group && !l->c) {
		config_fault(l, setting,
			"unknown key \"%s\"; allowed in a file of brokers: brokers", name);
		return;
	}
	if (config_suggest(group, name, text, sizeof(text))) {
		config_fault(
			l, setting, "unknown key \"%s%s\"; did you mean \"%s\"?", path, name, text);
		return;
	}
	list_names(group, text, sizeof(text));
	config_fault(l, setting, "unknown key \"%s%s\"; allowed: %s", path, name, text);
}

/* A group within a group. */
static void read_subgroup(struct config_loader *l, config_setting_t *setting,
	const struct config_key *key, const char *path, void *field)
{
	char inner[64];

	if (!config_setting_is_group(setting)) {
		config_fault(l, setting, "%s%s: found %s, wanted a group: { name = value; ... }",
			path, key->name, config_found(setting));
		return;
	}
	snprintf(inner, sizeof(inner), "%s%s.", path, key->name);
	config_group_enable(key->group, field);
	config_read_keys(l, setting, key->group, inner, field);
}

static void read_key(struct config_loader *l, config_setting_t *setting,
	const struct config_key *key, const char *path, void *base)
{
	struct config_value v = value_of(setting);
	char why[512];
	int r;

	r = config_key_set(key, &v, base, why, sizeof(why));
	if (r == -ENOMEM)
		l->no_memory = true;
	else if (r < 0)
		config_fault(l, setting, "%s%s: %s", path, key->name, why);
	if (key->kind == CONFIG_KIND_SECRET && v.string)
		explicit_bzero(setting->value.sval, strlen(v.string));
}

static bool is_any_list(const config_setting_t *setting)
{
	return config_setting_is_list(setting) || config_setting_is_array(setting);
}

void config_read_keys(struct config_loader *l, const config_setting_t *setting,
	const struct config_group *group, const char *path, void *base)
{
	int n = config_setting_length(setting);

	for (int i = 0; i < n; i++) {
		config_setting_t *child = config_setting_get_elem(setting, (unsigned)i);
		const struct config_key *key = config_key_find(group, config_setting_name(child));

		if (key && key->kind == CONFIG_KIND_GROUP)
			read_subgroup(l, child, key, path, (char *)base + key->offset);
		else if (key && key->kind == CONFIG_KIND_FILTERS && is_any_list(child))
			config_read_filters(
				l, child, path, key, (void *)((char *)base + key->offset));
		else if (key)
			read_key(l, child, key, path, base);
		else
			config_fault_unknown(l, child, group, path);
	}
}
