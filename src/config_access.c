/* SPDX-License-Identifier: MIT */
/*
 * Owns the list of who may publish what: reading it, and finding the numbers of users and groups.
 * Invariant: a rule that is handed out names one user or one group, which exists, and has at least
 * one good filter. Must not know how rules are applied.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>

#include "config_loader.h"
#include "topic.h"

/* Bytes for one entry of the user database; a group's holds the names of all its members. */
#define ENTRY_LEAST 4096
#define ENTRY_MOST  (4 * 1024 * 1024)

#define TOPICS_ALLOWED "topics = ( \"sensors/#\", \"log/+\" );"

void config_access_free(struct access_rule *rules, size_t n)
{
	for (size_t i = 0; rules && i < n; i++) {
		for (size_t k = 0; k < rules[i].topics.n; k++)
			free(rules[i].topics.list[k]);
		free(rules[i].topics.list);
		free(rules[i].user);
		free(rules[i].group);
	}
	free(rules);
}

/* --- users and groups ------------------------------------------------------------------------ */

/* One look-up with this much room: 0, -ENOENT, -ERANGE or another -errno. */
static int look_up(const char *name, bool is_group, char *buf, size_t size, uint32_t *ret)
{
	struct passwd user, *found_user = NULL;
	struct group group, *found_group = NULL;
	int r;

	if (is_group)
		r = getgrnam_r(name, &group, buf, size, &found_group);
	else
		r = getpwnam_r(name, &user, buf, size, &found_user);
	if (found_user)
		*ret = found_user->pw_uid;
	if (found_group)
		*ret = found_group->gr_gid;
	if (found_user || found_group)
		return 0;
	/* Where there is no such file or service, there is no such name. */
	return r == 0 || r == ENOENT || r == ESRCH ? -ENOENT : -r;
}

static int find_name(const char *name, bool is_group, uint32_t *ret)
{
	int r = -ERANGE;

	for (size_t size = ENTRY_LEAST; r == -ERANGE && size <= ENTRY_MOST; size *= 4) {
		_cleanup_(freep) char *buf = malloc(size);

		r = buf ? look_up(name, is_group, buf, size, ret) : -ENOMEM;
	}
	return r;
}

/* Digits are a number, whoever has it: its user may come later. The last one stands for "none". */
static int find_account(const char *name, bool is_group, uint32_t *ret)
{
	unsigned long long number;

	if (name[strspn(name, "0123456789")])
		return find_name(name, is_group, ret);
	errno = 0;
	number = strtoull(name, NULL, 10);
	if (errno != 0 || number >= UINT32_MAX)
		return -ENOENT;
	*ret = (uint32_t)number;
	return 0;
}

static void find_id(struct config_loader *l, const config_setting_t *setting, const char *path,
	struct access_rule *rule)
{
	bool is_group = !*rule->user;
	const char *name = is_group ? rule->group : rule->user, *what = is_group ? "group" : "user";
	int r;

	r = find_account(name, is_group, &rule->id);
	if (r == -ENOMEM)
		l->no_memory = true;
	else if (r == -ENOENT)
		config_fault(l, config_member(setting, what),
			"%s%s: there is no %s \"%s\"; allowed: a %s of this machine, or its number",
			path, what, what, name, what);
	else if (r < 0)
		config_fault(l, config_member(setting, what),
			"%s%s: %s \"%s\" cannot be looked up: %s; allowed: its number", path, what,
			what, name, strerror(-r));
}

/* --- topics ---------------------------------------------------------------------------------- */

static void read_filter(struct config_loader *l, config_setting_t *setting, const char *what,
	struct access_topics *topics)
{
	const char *filter = config_setting_get_string(setting);
	enum topic_fault fault;

	if (!filter) {
		config_fault(l, setting, "%s: found %s, wanted a topic filter: a string", what,
			config_found(setting));
		return;
	}
	fault = topic_filter_check(filter, strlen(filter));
	if (fault != TOPIC_OK) {
		config_fault(l, setting,
			"%s: %s; allowed: a topic filter, in which \"+\" stands for a level and "
			"\"#\" at its end for all below",
			what, topic_fault_to_string(fault));
		return;
	}
	topics->list[topics->n] = strdup(filter);
	if (topics->list[topics->n])
		topics->n++;
	else
		l->no_memory = true;
}

void config_read_filters(struct config_loader *l, config_setting_t *setting, const char *path,
	const struct config_key *key, struct access_topics *topics)
{
	int n = config_setting_length(setting);
	char what[64];

	if (n == 0) {
		config_fault(l, setting, "%s%s: the list is empty; allowed: " TOPICS_ALLOWED, path,
			key->name);
		return;
	}
	topics->list = calloc((size_t)n, sizeof(*topics->list));
	l->no_memory |= !topics->list;
	for (int i = 0; i < n && !l->no_memory; i++) {
		snprintf(what, sizeof(what), "%s%s[%d]", path, key->name, i);
		read_filter(l, config_setting_get_elem(setting, (unsigned)i), what, topics);
	}
}

/* --- rules ----------------------------------------------------------------------------------- */

static void check_rule(struct config_loader *l, config_setting_t *setting, const char *path,
	struct access_rule *rule)
{
	config_setting_t *user = config_member(setting, "user");
	config_setting_t *group = config_member(setting, "group");
	config_setting_t *topics = config_member(setting, "topics");

	if (!topics)
		config_fault(l, setting, "%stopics is missing; allowed: " TOPICS_ALLOWED, path);
	if (config_is_faulty(user) || config_is_faulty(group))
		return;
	if (*rule->user && *rule->group)
		config_fault(l, group,
			"%sgroup: there is a user, too; allowed: one of the two, and another rule",
			path);
	else if (*rule->user || *rule->group)
		find_id(l, setting, path, rule);
	else
		config_fault(l, setting,
			"%suser is missing; allowed: user = \"NAME\", or group = \"NAME\"", path);
}

static void read_rule(struct config_loader *l, config_setting_t *setting,
	const struct config_group *group, size_t index, struct access_rule *rule)
{
	char path[32];

	if (!config_setting_is_group(setting)) {
		config_fault(l, setting,
			"access[%zu]: found %s, wanted a group: { user = \"...\"; " TOPICS_ALLOWED
			" }",
			index, config_found(setting));
		return;
	}
	snprintf(path, sizeof(path), "access[%zu].", index);
	config_read_keys(l, setting, group, path, rule);
	if (!l->no_memory)
		check_rule(l, setting, path, rule);
}

static void read_rules(
	struct config_loader *l, config_setting_t *list, const struct config_group *group)
{
	size_t n = (size_t)config_setting_length(list);
	struct config *c = l->c;

	if (n == 0 || n > ACCESS_RULES) {
		/* Nobody or everybody? Whoever wrote it has to say. */
		config_fault(l, list,
			"access: found %zu; allowed: 1 to %d rules, or no list: whoever can open "
			"the socket may then publish all",
			n, ACCESS_RULES);
		return;
	}
	c->access = calloc(n, sizeof(*c->access));
	l->no_memory |= !c->access;
	for (size_t i = 0; i < n && !l->no_memory; i++) {
		c->n_access = i + 1;
		l->no_memory |= config_group_set_defaults(group, &c->access[i]) < 0;
		if (!l->no_memory)
			read_rule(l, config_setting_get_elem(list, (unsigned)i), group, i,
				&c->access[i]);
	}
}

void config_read_access(
	struct config_loader *l, config_setting_t *setting, const struct config_group *group)
{
	if (!setting)
		return;
	if (config_setting_is_list(setting) || config_setting_is_array(setting))
		read_rules(l, setting, group);
	else
		config_fault(l, setting,
			"access: found %s, wanted a list: ( { user = \"...\"; " TOPICS_ALLOWED
			" } )",
			config_found(setting));
}
