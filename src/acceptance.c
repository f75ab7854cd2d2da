/* SPDX-License-Identifier: MIT */
/*
 * See acceptance.h.
 */
#include "acceptance.h"

/* An entry may span so much of its age, as a divisor, and this much in any case. */
#define AGE_DIVISOR 8
#define SPAN_USEC   100

void acceptance_begin(struct acceptance *a, uint64_t last_id)
{
	while (a->n > 0 && a->entries[a->n - 1].last_id > last_id) {
		uint64_t before = a->n > 1 ? a->entries[a->n - 2].last_id : a->before_id;

		if (before < last_id) {
			a->entries[a->n - 1].last_id = last_id;
			return;
		}
		a->n--;
	}
	if (a->n == 0)
		a->before_id = last_id;
}

static bool may_be_one(const struct acceptance_entry *older, const struct acceptance_entry *newer,
	uint64_t now_usec, uint64_t divisor)
{
	uint64_t span = newer->last_usec - older->first_usec;
	uint64_t age = now_usec - newer->last_usec;

	return span <= u64_max(age / divisor, SPAN_USEC);
}

/* Makes one of neighbours wherever their age allows it. */
static void merge(struct acceptance *a, uint64_t now_usec, uint64_t divisor)
{
	size_t n = 1;

	for (size_t i = 1; i < a->n; i++) {
		struct acceptance_entry *last = &a->entries[n - 1];

		if (may_be_one(last, &a->entries[i], now_usec, divisor)) {
			last->last_id = a->entries[i].last_id;
			last->last_usec = a->entries[i].last_usec;
		} else {
			a->entries[n++] = a->entries[i];
		}
	}
	a->n = n;
}

/*
 * Entries left are about 2 * log(age of the oldest / 800 us) / log(1 + 1/8): 380 for a year. So a
 * merge makes room for hundreds, and costs next to nothing for each. Should that ever not hold, it
 * gets coarser until there is room.
 */
static void make_room(struct acceptance *a, uint64_t now_usec)
{
	for (uint64_t divisor = AGE_DIVISOR; divisor > 0; divisor /= 2) {
		merge(a, now_usec, divisor);
		if (a->n <= ACCEPTANCE_ENTRIES * 3 / 4)
			return;
	}
	/* The oldest, then: it takes in what follows it. */
	if (a->n == ACCEPTANCE_ENTRIES) {
		a->entries[1].first_usec = a->entries[0].first_usec;
		memmove(a->entries, a->entries + 1, (a->n - 1) * sizeof(*a->entries));
		a->n--;
	}
}

void acceptance_add(struct acceptance *a, uint64_t last_id, uint64_t now_usec)
{
	uint64_t before = a->n > 0 ? a->entries[a->n - 1].last_id : a->before_id;

	if (last_id <= before)
		return;
	if (a->n == ACCEPTANCE_ENTRIES)
		make_room(a, now_usec);
	a->entries[a->n++] = (struct acceptance_entry){ last_id, now_usec, now_usec };
}

bool acceptance_find(
	const struct acceptance *a, uint64_t id, uint64_t *ret_usec, uint64_t *ret_last)
{
	size_t low = 0, high = a->n;

	if (id <= a->before_id) {
		*ret_last = a->before_id;
		return false;
	}
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (a->entries[middle].last_id < id)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == a->n) {
		*ret_last = UINT64_MAX;
		return false;
	}
	*ret_last = a->entries[low].last_id;
	*ret_usec = a->entries[low].first_usec +
		(a->entries[low].last_usec - a->entries[low].first_usec) / 2;
	return true;
}
