/* SPDX-License-Identifier: MIT */
/*
 * Tests of access: whose rules are whose, which of them covers a topic, and how they are told.
 */
#include <stdio.h>

#include "access.h"
#include "suites.h"

static char *all[] = { "#" };
static char *sensors[] = { "sensors/#", "log/+" };
static char *system_topics[] = { "$SYS/#" };
static char *levels[] = { "+/+/x", "a" };

static const struct access_rule list[] = {
	{ "app", "", 1000, { sensors, 2 } },
	{ "", "ops", 20, { all, 1 } },
	{ "app", "", 1000, { levels, 2 } },
	{ "", "app", 1000, { system_topics, 1 } },
};

static const struct access_rules rules = { list, ARRAY_SIZE(list) };

static struct access_set select_for(
	uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n_groups)
{
	const struct access_peer peer = { uid, gid, groups, n_groups };
	struct access_set set;

	memset(&set, 0xff, sizeof(set));
	access_select(&rules, &peer, &set);
	return set;
}

static const struct {
	uint32_t uid, gid, groups[3];
	size_t n_groups;
	uint64_t wanted;
} peers[] = {
	{ 1, 1, { 0 }, 0, 0 },
	{ 0, 0, { 0 }, 0, 0 }, /* nor is the superuser */
	{ 1000, 1, { 0 }, 0, 1 | 4 },
	{ 1, 1000, { 0 }, 0, 8 },
	{ 1, 20, { 0 }, 0, 2 },
	{ 1, 1, { 5, 6, 20 }, 3, 2 },
	{ 1, 1, { 5, 6, 20 }, 2, 0 },
	{ 1000, 1000, { 20 }, 1, 15 },
};

START_TEST(test_whose_rules)
{
	struct access_set set =
		select_for(peers[_i].uid, peers[_i].gid, peers[_i].groups, peers[_i].n_groups);

	ck_assert_uint_eq(set.words[0], peers[_i].wanted);
	for (size_t i = 1; i < ARRAY_SIZE(set.words); i++)
		ck_assert_uint_eq(set.words[i], 0);
}
END_TEST

static const struct {
	uint64_t set;
	const char *topic;
	int rule; /* -1: none */
} topics[] = {
	{ 0, "a", -1 },
	{ 1, "sensors", 0 },
	{ 1, "sensors/", 0 },
	{ 1, "sensors/a/b", 0 },
	{ 1, "sensor", -1 },
	{ 1, "sensorsx", -1 },
	{ 1, "log/a", 0 },
	{ 1, "log/", 0 },
	{ 1, "log", -1 },
	{ 1, "log/a/b", -1 },
	{ 1, "a", -1 },
	{ 5, "a", 2 },
	{ 5, "/a/x", 2 }, /* the first level is empty */
	{ 5, "/a", -1 },
	{ 5, "a//x", 2 },
	/* The first that covers it. */
	{ 7, "log/1", 0 },
	{ 7, "b", 1 },
	{ 6, "a", 1 },
	/* Wildcards are not for what the broker keeps for itself. */
	{ 7, "$SYS/a", -1 },
	{ 15, "$SYS/a", 3 },
	{ 15, "$SYS", 3 },
	{ 15, "$OTHER/a/x", -1 },
};

START_TEST(test_topics)
{
	const struct access_set set = { { topics[_i].set } };
	const struct access_rule *wanted = topics[_i].rule < 0 ? NULL : &list[topics[_i].rule];
	char longer[40];

	/* The length counts, not what stands behind. */
	snprintf(longer, sizeof(longer), "%s/x", topics[_i].topic);
	ck_assert_ptr_eq(access_find(&rules, &set, longer, strlen(topics[_i].topic)), wanted);
}
END_TEST

/* The last of as many as there may be. */
START_TEST(test_many_rules)
{
	struct access_rule many[ACCESS_RULES];
	const struct access_rules r = { many, ARRAY_SIZE(many) };
	const struct access_peer peer = { 7, 8, NULL, 0 };
	struct access_set set;

	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct access_rule){ "u", "", 100 + (uint32_t)i, { sensors, 2 } };
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		many[i].id = 7;
		access_select(&r, &peer, &set);
		ck_assert_uint_eq(set.words[i / 64], UINT64_C(1) << i % 64);
		ck_assert_ptr_eq(access_find(&r, &set, "sensors/a", 9), &many[i]);
		ck_assert_ptr_null(access_find(&r, &set, "a", 1));
		many[i].id = 0;
	}
}
END_TEST

START_TEST(test_no_rules)
{
	const struct access_rules none = { NULL, 0 };
	const struct access_peer peer = { 0 };
	struct access_set set;
	char text[10];

	access_select(&none, &peer, &set);
	ck_assert_ptr_null(access_find(&none, &set, "a", 1));
	ck_assert_str_eq(access_describe(&none, &set, text, sizeof(text)), "none");
}
END_TEST

START_TEST(test_describe)
{
	const struct access_set set = { { 3 } }, none = { { 0 } };
	static const char whole[] = "user app: sensors/#, log/+; group ops: #";
	char text[100];

	ck_assert_str_eq(access_describe(&rules, &set, text, sizeof(text)), whole);
	ck_assert_str_eq(access_describe(&rules, &none, text, sizeof(text)), "none");
	/* However little room there is. */
	for (size_t size = 5; size <= sizeof(whole) + 3; size++) {
		memset(text, 'x', sizeof(text));
		access_describe(&rules, &set, text, size);
		ck_assert_uint_lt(strlen(text), size);
		ck_assert_int_eq(text[size], 'x');
		if (!streq(text, whole))
			ck_assert_str_eq(text + strlen(text) - 3, "...");
	}
	ck_assert_str_eq(access_describe(&rules, &set, text, sizeof(whole) + 3), whole);
}
END_TEST

Suite *check_access(void)
{
	Suite *s = suite_create("access");
	TCase *t = tcase_create("access");

	tcase_add_loop_test(t, test_whose_rules, 0, ARRAY_SIZE(peers));
	tcase_add_loop_test(t, test_topics, 0, ARRAY_SIZE(topics));
	tcase_add_test(t, test_many_rules);
	tcase_add_test(t, test_no_rules);
	tcase_add_test(t, test_describe);
	suite_add_tcase(s, t);
	return s;
}
