/* SPDX-License-Identifier: MIT */
/*
 * Tests of the brokers' list: order, rounds, who is set aside and until when, who is preferred.
 */
#include <stdio.h>

#include "brokers.h"
#include "suites.h"

#define NOW UINT64_C(1000)

static const struct brokers_item items[] = { { "a:1", 0 }, { "b:1", 1 }, { "c:1", 1 },
	{ "d:1", 2 } };

static void make(struct brokers *b, size_t n)
{
	brokers_set(b, items, n);
	ck_assert_uint_eq(b->n, n);
}

START_TEST(test_names)
{
	struct brokers b;

	make(&b, 4);
	ck_assert_int_eq(brokers_find(&b, "a:1"), 0);
	ck_assert_int_eq(brokers_find(&b, "d:1"), 3);
	ck_assert_int_eq(brokers_find(&b, "a:2"), BROKERS_NONE);
	ck_assert_int_eq(brokers_find(&b, ""), BROKERS_NONE);
	ck_assert_str_eq(brokers_name(&b, 2), "c:1");
	ck_assert_str_eq(brokers_name(&b, BROKERS_NONE), "");
	make(&b, 0);
	ck_assert_int_eq(brokers_find(&b, "a:1"), BROKERS_NONE);
}
END_TEST

START_TEST(test_bound)
{
	struct brokers_item many[BROKERS_MAX + 3] = { 0 };
	struct brokers b;

	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		snprintf(many[i].name, sizeof(many[i].name), "h%u:1", i);
	brokers_set(&b, many, ARRAY_SIZE(many));
	ck_assert_uint_eq(b.n, BROKERS_MAX);
	ck_assert_int_eq(brokers_find(&b, "h31:1"), 31);
	ck_assert_int_eq(brokers_find(&b, "h32:1"), BROKERS_NONE);
}
END_TEST

START_TEST(test_round)
{
	struct brokers b;

	make(&b, 3);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(brokers_first(&b, NOW), i);
		brokers_tried(&b, i);
	}
	ck_assert_int_eq(brokers_first(&b, NOW), BROKERS_NONE);
	brokers_new_round(&b);
	ck_assert_int_eq(brokers_first(&b, NOW), 0);
	make(&b, 0);
	ck_assert_int_eq(brokers_first(&b, NOW), BROKERS_NONE);
}
END_TEST

START_TEST(test_aside)
{
	struct brokers b;

	make(&b, 3);
	brokers_set_aside(&b, 0, FAILURE_AUTH, NOW + 10);
	ck_assert(brokers_is_aside(&b, 0, NOW + 9));
	ck_assert(!brokers_is_aside(&b, 0, NOW + 10));
	ck_assert_int_eq(brokers_first(&b, NOW), 1);
	ck_assert_int_eq(brokers_first(&b, NOW + 10), 0);
	/* A new round does not end it. */
	brokers_new_round(&b);
	ck_assert_int_eq(brokers_first(&b, NOW), 1);
	/* A new list does. */
	make(&b, 3);
	ck_assert_int_eq(brokers_first(&b, NOW), 0);
}
END_TEST

START_TEST(test_all_aside)
{
	struct brokers b;

	make(&b, 3);
	brokers_set_aside(&b, 0, FAILURE_AUTH, NOW + 30);
	brokers_set_aside(&b, 1, FAILURE_PROTOCOL, NOW + 20);
	ck_assert_uint_eq(brokers_all_aside_until(&b, NOW), UINT64_MAX);
	brokers_set_aside(&b, 2, FAILURE_AUTH, NOW + 25);
	ck_assert_uint_eq(brokers_all_aside_until(&b, NOW), NOW + 20);
	ck_assert_uint_eq(brokers_all_aside_until(&b, NOW + 20), UINT64_MAX);
	make(&b, 0);
	ck_assert_uint_eq(brokers_all_aside_until(&b, NOW), UINT64_MAX);
}
END_TEST

START_TEST(test_take_back)
{
	struct brokers b;

	make(&b, 3);
	brokers_set_aside(&b, 0, FAILURE_AUTH, NOW + 30);
	brokers_set_aside(&b, 1, FAILURE_PROTOCOL, NOW + 30);
	brokers_take_back(&b, FAILURE_PROTOCOL);
	ck_assert(brokers_is_aside(&b, 0, NOW));
	ck_assert(!brokers_is_aside(&b, 1, NOW));
	brokers_set_aside(&b, 1, FAILURE_PROTOCOL, NOW + 30);
	brokers_take_back(&b, FAILURE_NONE);
	ck_assert(!brokers_is_aside(&b, 0, NOW));
	ck_assert(!brokers_is_aside(&b, 1, NOW));
}
END_TEST

/* a, then b and c as equals, then d. */
static const struct {
	int index, after;
	unsigned aside; /* bits */
	int better;
} preferred[] = {
	{ 0, BROKERS_NONE, 0, BROKERS_NONE },
	{ 1, BROKERS_NONE, 0, 0 },
	{ 1, 0, 0, BROKERS_NONE },
	{ 2, BROKERS_NONE, 0, 0 },
	{ 2, 0, 0, BROKERS_NONE },
	{ 3, BROKERS_NONE, 0, 0 },
	{ 3, 0, 0, 1 },
	{ 3, 1, 0, 2 },
	{ 3, 2, 0, BROKERS_NONE },
	{ 3, BROKERS_NONE, 1, 1 },
	{ 3, 0, 2, 2 },
	{ 3, BROKERS_NONE, 7, BROKERS_NONE },
};

START_TEST(test_better)
{
	struct brokers b;

	make(&b, 4);
	for (int i = 0; i < 4; i++)
		if (preferred[_i].aside & (1U << i))
			brokers_set_aside(&b, i, FAILURE_AUTH, NOW + 1);
	ck_assert_int_eq(brokers_better(&b, preferred[_i].index, preferred[_i].after, NOW),
		preferred[_i].better);
	/* Whoever is set aside is preferred all the same. */
	ck_assert_int_eq(brokers_has_better(&b, preferred[_i].index), preferred[_i].index > 0);
}
END_TEST

Suite *check_brokers(void)
{
	Suite *s = suite_create("brokers");
	TCase *t = tcase_create("brokers");

	tcase_add_test(t, test_names);
	tcase_add_test(t, test_bound);
	tcase_add_test(t, test_round);
	tcase_add_test(t, test_aside);
	tcase_add_test(t, test_all_aside);
	tcase_add_test(t, test_take_back);
	tcase_add_loop_test(t, test_better, 0, ARRAY_SIZE(preferred));
	suite_add_tcase(s, t);
	return s;
}
