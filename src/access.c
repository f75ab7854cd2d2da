/* SPDX-License-Identifier: MIT */
/*
 * See access.h. Wildcards are MQTT's, by topic_matches(): "#" is not for topics that begin with
 * "$". Must not know where credentials come from, nor what becomes of a message.
 */
#include "access.h"

#include <stdio.h>

#include "topic.h"

static bool is_in_group(const struct access_peer *peer, uint32_t gid)
{
	bool found = peer->gid == gid;

	for (size_t i = 0; i < peer->n_groups && !found; i++)
		found = peer->groups[i] == gid;
	return found;
}

static bool is_about(const struct access_rule *rule, const struct access_peer *peer)
{
	return *rule->user ? rule->id == peer->uid : is_in_group(peer, rule->id);
}

void access_select(
	const struct access_rules *rules, const struct access_peer *peer, struct access_set *ret)
{
	*ret = (struct access_set){ 0 };
	for (size_t i = 0; i < rules->n; i++)
		if (is_about(&rules->list[i], peer))
			ret->words[i / 64] |= UINT64_C(1) << i % 64;
}

/* Takes the lowest index out of what is left of a set. False: there is none. */
static bool next_rule(struct access_set *left, size_t *ret)
{
	for (size_t w = 0; w < ARRAY_SIZE(left->words); w++) {
		uint64_t word = left->words[w];

		if (word == 0)
			continue;
		*ret = w * 64 + (size_t)__builtin_ctzll(word);
		left->words[w] = word & (word - 1);
		return true;
	}
	return false;
}

static bool covers(const struct access_rule *rule, const char *topic, size_t topic_len)
{
	for (size_t i = 0; i < rule->topics.n; i++)
		if (topic_matches(rule->topics.list[i], topic, topic_len))
			return true;
	return false;
}

const struct access_rule *access_find(const struct access_rules *rules,
	const struct access_set *set, const char *topic, size_t topic_len)
{
	struct access_set left = *set;
	size_t i;

	while (next_rule(&left, &i))
		if (i < rules->n && covers(&rules->list[i], topic, topic_len))
			return &rules->list[i];
	return NULL;
}

/* --- for people ------------------------------------------------------------------------------ */

/* Puts `s` behind what is there; False: it does not fit, and "..." stands there. */
static bool add(char *buf, size_t size, const char *s)
{
	static const char cut[] = "...";
	size_t n = strlen(buf), len = strlen(s);

	if (n + len + sizeof(cut) <= size) {
		memcpy(buf + n, s, len + 1);
		return true;
	}
	snprintf(buf + n, size - n, "%s", cut);
	return false;
}

static bool add_rule(char *buf, size_t size, const struct access_rule *rule)
{
	bool fits = add(buf, size, *buf ? "; " : "");

	fits = fits && add(buf, size, *rule->user ? "user " : "group ");
	fits = fits && add(buf, size, *rule->user ? rule->user : rule->group);
	for (size_t i = 0; i < rule->topics.n && fits; i++)
		fits = add(buf, size, i ? ", " : ": ") && add(buf, size, rule->topics.list[i]);
	return fits;
}

char *access_describe(
	const struct access_rules *rules, const struct access_set *set, char *buf, size_t size)
{
	struct access_set left = *set;
	bool fits = true;
	size_t i;

	*buf = '\0';
	while (fits && next_rule(&left, &i))
		if (i < rules->n)
			fits = add_rule(buf, size, &rules->list[i]);
	if (!*buf)
		snprintf(buf, size, "none");
	return buf;
}
