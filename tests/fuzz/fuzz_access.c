/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: rules of access and a topic. A topic is allowed exactly when libmosquitto finds it
 * covered by a filter of one of the peer's rules, and what is told of them fits its room.
 *
 * The input: the topic, then a rule a line, "u1 FILTER FILTER ..." for user 1, "g2 ..." for
 * group 2. The peer is user 1 of group 2, with groups 3 and 4 besides.
 */
#include <mosquitto.h>

#include "access.h"
#include "fuzz.h"
#include "topic.h"

static const uint32_t groups[] = { 3, 4 };
static const struct access_peer peer = { 1, 2, groups, ARRAY_SIZE(groups) };

/* One line, cut at its blanks in place; false: it is no rule. */
static bool read_rule(char *line, struct access_rule *rule)
{
	char *filter;

	*rule = (struct access_rule){ .user = "", .group = "" };
	if ((line[0] != 'u' && line[0] != 'g') || line[1] < '0' || line[1] > '9' || line[2] != ' ')
		return false;
	*(line[0] == 'u' ? &rule->user : &rule->group) = "name";
	rule->id = (uint32_t)(line[1] - '0');
	rule->topics.list = calloc(strlen(line), sizeof(char *));
	REQUIRE(rule->topics.list);
	line += 3;
	while ((filter = strsep(&line, " "))) {
		bool good = topic_filter_check(filter, strlen(filter)) == TOPIC_OK;

		/* Of what we take libmosquitto takes everything. */
		REQUIRE(!good || mosquitto_sub_topic_check(filter) == MOSQ_ERR_SUCCESS);
		if (good)
			rule->topics.list[rule->topics.n++] = filter;
	}
	return true;
}

static bool is_peers(const struct access_rule *rule)
{
	return *rule->user ? rule->id == 1 : rule->id >= 2 && rule->id <= 4;
}

/* The first rule that is the peer's and covers the topic, as libmosquitto has it. */
static const struct access_rule *find(const struct access_rules *rules, const char *topic)
{
	for (size_t i = 0; i < rules->n; i++)
		for (size_t k = 0; is_peers(&rules->list[i]) && k < rules->list[i].topics.n; k++) {
			bool covers = false;

			REQUIRE(mosquitto_topic_matches_sub(rules->list[i].topics.list[k], topic,
					&covers) == MOSQ_ERR_SUCCESS);
			if (covers)
				return &rules->list[i];
		}
	return NULL;
}

static void check(const struct access_rules *rules, const char *topic)
{
	char text[512];
	struct access_set set;

	access_select(rules, &peer, &set);
	for (size_t i = 0; i < ACCESS_RULES; i++)
		REQUIRE(!(set.words[i / 64] >> i % 64 & 1) ==
			(i >= rules->n || !is_peers(&rules->list[i])));
	if (topic_check(topic, strlen(topic)) == TOPIC_OK)
		REQUIRE(access_find(rules, &set, topic, strlen(topic)) == find(rules, topic));
	for (size_t n = 5; n <= sizeof(text); n += 13) {
		memset(text, 'x', sizeof(text));
		access_describe(rules, &set, text, n);
		REQUIRE(memchr(text, '\0', n));
		REQUIRE(n == sizeof(text) || text[n] == 'x');
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct access_rule list[ACCESS_RULES];
	struct access_rules rules = { list, 0 };
	char *text, *rest, *topic, *line;

	if (size > 1 << 16)
		return 0;
	text = calloc(1, size + 1);
	REQUIRE(text);
	if (size > 0)
		memcpy(text, data, size);
	rest = text;
	topic = strsep(&rest, "\n");
	while (rules.n < ACCESS_RULES && (line = strsep(&rest, "\n")))
		if (read_rule(line, &list[rules.n]))
			rules.n++;
	check(&rules, topic);
	for (size_t i = 0; i < rules.n; i++)
		free(list[i].topics.list);
	free(text);
	return 0;
}
