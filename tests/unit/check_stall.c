/* SPDX-License-Identifier: MIT */
/*
 * Tests of progress: slow links move, silent peers do not.
 */
#include "stall.h"
#include "suites.h"

#define SECOND USEC_PER_SEC

static const struct {
	struct stall_sample from, to;
	bool moved;
} samples[] = {
	{ { 0, 0, false }, { 0, 0, false }, false },
	{ { 5, 0, false }, { 6, 0, false }, true }, /* an acknowledgement */
	{ { 5, 100, true }, { 5, 200, true }, true }, /* bytes of a queue */
	{ { 5, 100, true }, { 5, 200, false }, true }, /* the last of them */
	{ { 5, 100, true }, { 5, 100, true }, false }, /* half open: nothing is taken */
	{ { 5, 100, false }, { 5, 100, true }, false }, /* more is waiting, nothing was taken */
	{ { 5, 100, false }, { 5, 102, false }, false }, /* a PINGREQ */
	{ { 5, 100, true }, { 5, 0, true }, true }, /* another connection */
};

START_TEST(test_samples)
{
	struct stall s;

	stall_begin(&s, &samples[_i].from, 7 * SECOND);
	ck_assert_uint_eq(
		stall_check(&s, &samples[_i].to, 9 * SECOND), samples[_i].moved ? 0 : 2 * SECOND);
}
END_TEST

/* 1 MiB at 64 kbit/s: 131 s without an acknowledgement of MQTT's. */
START_TEST(test_slow_link)
{
	struct stall_sample sample = { .unsent = true };
	uint64_t now = 1;
	struct stall s;

	stall_begin(&s, &sample, now);
	for (sample.acked_bytes = 8000; sample.acked_bytes < 1048576; sample.acked_bytes += 8000) {
		now += SECOND;
		ck_assert_uint_eq(stall_check(&s, &sample, now), 0);
	}
	sample.unsent = false;
	for (unsigned i = 0; i <= 20; i++)
		ck_assert_uint_eq(stall_check(&s, &sample, now + i * SECOND), i * SECOND);
}
END_TEST

/* A broker that takes all bytes, answers PINGREQ, and acknowledges nothing. */
START_TEST(test_silent_broker)
{
	struct stall_sample sample = { .acked_bytes = 500 };
	struct stall s;

	stall_begin(&s, &sample, 0);
	for (unsigned i = 1; i <= 60; i++) {
		sample.acked_bytes += i % 5 == 0 ? 2 : 0;
		ck_assert_uint_eq(stall_check(&s, &sample, i * SECOND), i * SECOND);
	}
}
END_TEST

Suite *check_stall(void)
{
	Suite *s = suite_create("stall");
	TCase *t = tcase_create("stall");

	tcase_add_loop_test(t, test_samples, 0, ARRAY_SIZE(samples));
	tcase_add_test(t, test_slow_link);
	tcase_add_test(t, test_silent_broker);
	suite_add_tcase(s, t);
	return s;
}
