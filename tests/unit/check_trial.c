/* SPDX-License-Identifier: MIT */
/*
 * Tests of messages on trial: every way into suspicion and out of it again, in scripts of events.
 */
#include "suites.h"
#include "trial.h"

enum what {
	END, /* of the script */
	DELIVERED,
	REFUSED,
	FINAL,
	CLOSED, /* by the peer, with `id` as the oldest in flight among others */
	CLOSED_ALONE,
	CLOSED_ANSWERED, /* with others, and something was answered */
	LOST, /* in another way */
	LOST_ALONE,
	ALIVE,
	NEXT,
	RELEASE,
};

struct event {
	enum what what;
	uint64_t id;
	int result; /* verdict, or: the session is to be given up */
	enum trial_state state;
	uint64_t suspect; /* 0 = it does not matter */
};

static int handle(struct trial *t, const struct event *e)
{
	switch (e->what) {
	case DELIVERED: trial_delivered(t, e->id); return 0;
	case REFUSED: return (int)trial_refused(t, e->id, false);
	case FINAL: return (int)trial_refused(t, e->id, true);
	case CLOSED: return trial_connection_ended(t, e->id, false, true, false);
	case CLOSED_ALONE: return trial_connection_ended(t, e->id, true, true, false);
	case CLOSED_ANSWERED: return trial_connection_ended(t, e->id, false, true, true);
	case LOST: return trial_connection_ended(t, e->id, false, false, false);
	case LOST_ALONE: return trial_connection_ended(t, e->id, true, false, false);
	case ALIVE: return (int)trial_alive(t);
	case NEXT: trial_next(t, e->id); return 0;
	case RELEASE: trial_release(t); return 0;
	case END: break;
	}
	return -1;
}

#define GO   TRIAL_GO_ON
#define DEAD TRIAL_CONDEMN
#define HOLD TRIAL_HOLD

/* A suspect that is closed on once more, and a connection that lives without it. */
#define DEATH(id)                                      \
	{                                              \
		CLOSED_ALONE, id, 1, TRIAL_WITHOUT, id \
	}
#define SURVIVES(id)                          \
	{                                     \
		ALIVE, 0, GO, TRIAL_ALONE, id \
	}
#define CONDEMNED(id)                          \
	{                                      \
		ALIVE, 0, DEAD, TRIAL_NONE, id \
	}
#define CLOSED_ON(id)                     \
	{                                 \
		CLOSED, id, 0, TRIAL_NONE \
	}
#define SUSPECTED(id)                                               \
	CLOSED_ON(id), CLOSED_ON(id), CLOSED_ON(id), CLOSED_ON(id), \
	{                                                           \
		CLOSED, id, 1, TRIAL_ALONE, id                      \
	}
#define POISON(id)                                                                                \
	SUSPECTED(id), DEATH(id), SURVIVES(id), DEATH(id), SURVIVES(id), DEATH(id), SURVIVES(id), \
		DEATH(id), SURVIVES(id), DEATH(id)

/* clang-format off */
static const struct event scripts[][64] = {
	/* Ten connections, and the row is condemned; the others go on. */
	{ POISON(5), CONDEMNED(5), { DELIVERED, 6, 0, TRIAL_NONE } },
	/* Refused once in company, once alone. */
	{ { REFUSED, 5, GO, TRIAL_ALONE, 5 }, { DELIVERED, 6, 0, TRIAL_ALONE, 5 },
		{ REFUSED, 5, DEAD, TRIAL_NONE, 5 } },
	/* Refused once, and taken then. */
	{ { REFUSED, 5, GO, TRIAL_ALONE, 5 }, { DELIVERED, 5, 0, TRIAL_NONE },
		{ REFUSED, 5, GO, TRIAL_ALONE, 5 } },
	/* The oldest suspect comes first. */
	{ { REFUSED, 7, GO, TRIAL_ALONE, 7 }, { REFUSED, 9, GO, TRIAL_ALONE, 7 },
		{ REFUSED, 5, GO, TRIAL_ALONE, 5 }, { DELIVERED, 7, 0, TRIAL_ALONE, 5 },
		{ REFUSED, 5, DEAD, TRIAL_NONE, 5 } },
	/* Never to be sent: at once, whatever else is suspected. */
	{ { FINAL, 5, DEAD, TRIAL_NONE, 5 } },
	{ SUSPECTED(5), DEATH(5), SURVIVES(5),
		{ FINAL, 4, DEAD, TRIAL_ALONE, 5 }, DEATH(5), SURVIVES(5), DEATH(5), SURVIVES(5),
		DEATH(5), SURVIVES(5), DEATH(5), CONDEMNED(5) },
	/* It dies without the suspect, too. */
	{ SUSPECTED(5), DEATH(5), SURVIVES(5),
		DEATH(5), { CLOSED, 0, 0, TRIAL_NONE }, SUSPECTED(5), DEATH(5), SURVIVES(5), DEATH(5), SURVIVES(5),
		DEATH(5), SURVIVES(5), DEATH(5), SURVIVES(5), DEATH(5), CONDEMNED(5) },
	/* Or without us knowing how. */
	{ SUSPECTED(5), DEATH(5),
		{ LOST, 0, 0, TRIAL_NONE } },
	/* Other losses say nothing; nor do those with nothing in flight. */
	{ { LOST, 5, 0, TRIAL_NONE }, { LOST, 5, 0, TRIAL_NONE }, { LOST_ALONE, 5, 0, TRIAL_NONE },
		{ CLOSED, 0, 0, TRIAL_NONE }, { CLOSED, 0, 0, TRIAL_NONE },
		CLOSED_ON(5), CLOSED_ON(5), { LOST, 5, 0, TRIAL_NONE }, CLOSED_ON(5), CLOSED_ON(5),
		{ CLOSED, 0, 0, TRIAL_NONE }, { CLOSED, 5, 1, TRIAL_ALONE, 5 },
		{ LOST_ALONE, 5, 0, TRIAL_ALONE, 5 }, { CLOSED, 0, 0, TRIAL_ALONE, 5 },
		/* Not yet alone: what is in flight must not come again all at once. */
		{ CLOSED, 5, 1, TRIAL_ALONE, 5 }, { LOST, 5, 1, TRIAL_ALONE, 5 },
		{ ALIVE, 0, GO, TRIAL_ALONE, 5 } },
	/* Another row each time: the link is bad, and no row. */
	{ { CLOSED, 5, 0, TRIAL_NONE }, { CLOSED, 6, 0, TRIAL_NONE }, { CLOSED, 7, 0, TRIAL_NONE },
		{ DELIVERED, 7, 0, TRIAL_NONE }, { CLOSED, 7, 0, TRIAL_NONE } },
	/* An answer for those before it clears a row once; those behind it do not. */
	{ { CLOSED_ANSWERED, 5, 0, TRIAL_NONE }, SUSPECTED(5) },
	{ CLOSED_ON(5), CLOSED_ON(5), CLOSED_ON(5), CLOSED_ON(5), { DELIVERED, 6, 0, TRIAL_NONE },
		{ CLOSED_ANSWERED, 5, 1, TRIAL_ALONE, 5 } },
	/* The guilty one stands before the suspect. */
	{ SUSPECTED(7), DEATH(7), SURVIVES(7),
		DEATH(5), SURVIVES(5), DEATH(5), SURVIVES(5), DEATH(5), SURVIVES(5), DEATH(5),
		SURVIVES(5), DEATH(5), CONDEMNED(5) },
	/* The suspect is gone. */
	{ { REFUSED, 5, GO, TRIAL_ALONE, 5 }, { NEXT, 5, 0, TRIAL_ALONE, 5 },
		{ NEXT, 4, 0, TRIAL_ALONE, 5 }, { NEXT, 6, 0, TRIAL_NONE } },
	/* Three in a row, then the queue is held, until somebody says so. */
	{ { FINAL, 1, DEAD, TRIAL_NONE }, { FINAL, 2, DEAD, TRIAL_NONE },
		{ FINAL, 3, DEAD, TRIAL_NONE }, POISON(4), { ALIVE, 0, HOLD, TRIAL_HELD, 4 },
		{ CLOSED, 4, 0, TRIAL_HELD, 4 }, { LOST, 4, 0, TRIAL_HELD, 4 },
		{ ALIVE, 0, GO, TRIAL_HELD, 4 }, { NEXT, 9, 0, TRIAL_HELD, 4 },
		{ RELEASE, 0, 0, TRIAL_ALONE, 4 }, { REFUSED, 4, HOLD, TRIAL_HELD, 4 },
		{ RELEASE, 0, 0, TRIAL_ALONE, 4 }, { DELIVERED, 4, 0, TRIAL_NONE },
		{ FINAL, 5, DEAD, TRIAL_NONE } },
	/* What was in flight when it was held: refusals keep it so, a delivery opens it. */
	{ { FINAL, 6, DEAD, TRIAL_NONE }, { FINAL, 7, DEAD, TRIAL_NONE },
		{ FINAL, 8, DEAD, TRIAL_NONE }, { FINAL, 9, HOLD, TRIAL_HELD, 9 },
		{ REFUSED, 3, GO, TRIAL_HELD, 3 }, { REFUSED, 4, GO, TRIAL_HELD, 3 },
		{ FINAL, 10, HOLD, TRIAL_HELD, 3 }, { DELIVERED, 5, 0, TRIAL_ALONE, 3 },
		{ REFUSED, 3, DEAD, TRIAL_NONE, 3 } },
	/* While another one is on trial. */
	{ { FINAL, 6, DEAD, TRIAL_NONE }, { FINAL, 7, DEAD, TRIAL_NONE },
		{ FINAL, 8, DEAD, TRIAL_NONE }, { REFUSED, 10, GO, TRIAL_ALONE, 10 },
		{ FINAL, 9, HOLD, TRIAL_HELD, 9 }, { RELEASE, 0, 0, TRIAL_ALONE, 9 } },
	/* A delivery in between, and they were not in a row. */
	{ { FINAL, 1, DEAD, TRIAL_NONE }, { FINAL, 2, DEAD, TRIAL_NONE },
		{ FINAL, 3, DEAD, TRIAL_NONE }, { DELIVERED, 4, 0, TRIAL_NONE },
		{ FINAL, 5, DEAD, TRIAL_NONE }, { FINAL, 6, DEAD, TRIAL_NONE },
		{ FINAL, 7, DEAD, TRIAL_NONE }, { FINAL, 8, HOLD, TRIAL_HELD, 8 } },
	/* Nothing to release. */
	{ { RELEASE, 0, 0, TRIAL_NONE }, SUSPECTED(5), DEATH(5), { RELEASE, 0, 0, TRIAL_WITHOUT, 5 } },
};
/* clang-format on */

START_TEST(test_scripts)
{
	struct trial t = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(scripts[0]) && scripts[_i][i].what != END; i++) {
		const struct event *e = &scripts[_i][i];
		int result = handle(&t, e);

		ck_assert_msg(result == e->result, "script %d, event %zu: %d", _i, i, result);
		ck_assert_msg(
			t.state == e->state, "script %d, event %zu: state %d", _i, i, t.state);
		if (e->suspect != 0)
			ck_assert_uint_eq(t.suspect, e->suspect);
	}
}
END_TEST

static const struct {
	enum trial_state state;
	uint64_t id;
	unsigned inflight;
	bool admitted;
} admissions[] = {
	{ TRIAL_NONE, 1, 0, true },
	{ TRIAL_NONE, 9, 500, true },
	{ TRIAL_ALONE, 4, 0, true }, /* those before the suspect, one by one */
	{ TRIAL_ALONE, 5, 0, true },
	{ TRIAL_ALONE, 5, 1, false },
	{ TRIAL_ALONE, 4, 1, false },
	{ TRIAL_ALONE, 6, 0, false }, /* nobody passes it */
	{ TRIAL_WITHOUT, 4, 0, false },
	{ TRIAL_WITHOUT, 5, 0, false },
	{ TRIAL_HELD, 4, 0, false },
	{ TRIAL_HELD, 5, 0, false },
	{ TRIAL_HELD, 6, 0, false },
};

START_TEST(test_admits)
{
	struct trial t = { .state = admissions[_i].state, .suspect = 5 };

	ck_assert_int_eq(trial_admits(&t, admissions[_i].id, admissions[_i].inflight),
		admissions[_i].admitted);
}
END_TEST

Suite *check_trial(void)
{
	Suite *s = suite_create("trial");
	TCase *t = tcase_create("trial");

	tcase_add_loop_test(t, test_scripts, 0, ARRAY_SIZE(scripts));
	tcase_add_loop_test(t, test_admits, 0, ARRAY_SIZE(admissions));
	suite_add_tcase(s, t);
	return s;
}
