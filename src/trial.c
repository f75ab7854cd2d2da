/* SPDX-License-Identifier: MIT */
/*
 * Suspicion and its end: see trial.h. Must not know connections, windows, or what a row holds.
 */
#include "trial.h"

static void acquit(struct trial *t)
{
	t->state = TRIAL_NONE;
	t->deaths = 0;
	t->barren = 0;
	t->barren_id = 0;
}

static void suspect(struct trial *t, uint64_t id)
{
	if (t->suspect != id)
		t->deaths = 0;
	t->suspect = id;
	t->state = TRIAL_ALONE;
}

/* Counts row `id` among the condemned; false if that would be one too many. */
static bool one_more(struct trial *t, uint64_t id)
{
	/* Rows go out many at a time: by now, those between two bad ones may be long delivered. */
	if (t->delivered > t->condemned)
		t->in_a_row = 0;
	if (t->in_a_row >= TRIAL_IN_A_ROW)
		return false;
	t->in_a_row++;
	t->condemned = id;
	return true;
}

/* t->suspect stays for the caller to read. */
static enum trial_verdict condemn(struct trial *t)
{
	if (!one_more(t, t->suspect)) {
		t->state = TRIAL_HELD;
		t->deaths = 0;
		return TRIAL_HOLD;
	}
	acquit(t);
	return TRIAL_CONDEMN;
}

/* The trial of the suspect goes on. */
static enum trial_verdict condemn_other(struct trial *t, uint64_t id)
{
	if (one_more(t, id))
		return TRIAL_CONDEMN;
	t->state = TRIAL_HELD;
	t->deaths = 0;
	t->suspect = u64_min(t->suspect, id);
	return TRIAL_HOLD;
}

void trial_written(struct trial *t, uint64_t id)
{
	if (id == t->barren_id)
		t->barren = 0;
	if (t->state != TRIAL_NONE && id == t->suspect)
		acquit(t);
}

void trial_delivered(struct trial *t, uint64_t id)
{
	t->in_a_row = 0;
	if (id > t->delivered)
		t->delivered = id;
	trial_written(t, id);
	if (t->state == TRIAL_HELD)
		t->state = TRIAL_ALONE; /* the broker does take messages */
}

void trial_next(struct trial *t, uint64_t id)
{
	if (t->state == TRIAL_ALONE && id > t->suspect)
		acquit(t);
}

void trial_gone(struct trial *t)
{
	if (t->state == TRIAL_ALONE || t->state == TRIAL_WITHOUT)
		acquit(t);
}

enum trial_verdict trial_refused(struct trial *t, uint64_t id, bool final)
{
	if (final && t->state != TRIAL_NONE && t->suspect != id)
		return condemn_other(t, id);
	if (final || (t->state == TRIAL_ALONE && t->suspect == id)) {
		t->suspect = id;
		return condemn(t);
	}
	/* The oldest one first: order is kept among what is left. */
	if (t->state == TRIAL_NONE || (t->state == TRIAL_ALONE && id < t->suspect))
		suspect(t, id);
	else if (t->state == TRIAL_HELD && id < t->suspect)
		t->suspect = id;
	return TRIAL_GO_ON;
}

bool trial_connection_ended(
	struct trial *t, uint64_t oldest, bool alone, bool closed, bool answered)
{
	switch (t->state) {
	case TRIAL_WITHOUT:
		/* It dies without the suspect, too. */
		acquit(t);
		return false;
	case TRIAL_ALONE:
		if (oldest == 0)
			return false;
		if (!alone)
			return true;
		if (!closed)
			return false;
		suspect(t, oldest);
		t->deaths++;
		t->state = TRIAL_WITHOUT;
		return true;
	case TRIAL_HELD: return false;
	case TRIAL_NONE: break;
	}
	if (oldest == 0 || !closed)
		return false;
	/* One that answered for others first may have died of this one. It counts if it did so
	 * once more: some brokers work on several at a time. */
	if (oldest != t->barren_id)
		t->barren = answered ? 0 : 1;
	else
		t->barren++;
	t->barren_id = oldest;
	if (t->barren < TRIAL_BARREN)
		return false;
	suspect(t, oldest);
	return true;
}

enum trial_verdict trial_alive(struct trial *t)
{
	if (t->state != TRIAL_WITHOUT)
		return TRIAL_GO_ON;
	if (t->deaths >= TRIAL_DEATHS)
		return condemn(t);
	t->state = TRIAL_ALONE;
	return TRIAL_GO_ON;
}

bool trial_admits(const struct trial *t, uint64_t id, unsigned inflight)
{
	switch (t->state) {
	case TRIAL_NONE: return true;
	case TRIAL_ALONE: return inflight == 0 && id <= t->suspect;
	default: return false;
	}
}

void trial_release(struct trial *t)
{
	if (t->state == TRIAL_HELD)
		t->state = TRIAL_ALONE;
}
