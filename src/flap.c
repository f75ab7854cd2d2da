/* SPDX-License-Identifier: MIT */
/*
 * See flap.h.
 */
#include "flap.h"

#include <stdio.h>

#define MINUTE (60 * USEC_PER_SEC)

static const uint64_t distances[] = { 1 * MINUTE, 10 * MINUTE, 60 * MINUTE };

static bool is_over(const struct flap *f, uint64_t now)
{
	return f->occurred_usec == 0 || now - f->occurred_usec >= FLAP_RUN_USEC;
}

static void tell(struct flap *f, uint64_t now, struct flap_told *ret)
{
	*ret = (struct flap_told){
		.count = f->untold,
		.span_usec = f->told_usec ? now - f->told_usec : 0,
		.longest_usec = f->longest_usec,
	};
	f->untold = 0;
	f->longest_usec = 0;
	f->told_usec = now;
}

enum flap_verdict flap_occurred(
	struct flap *f, unsigned full, uint64_t well_usec, uint64_t now, struct flap_told *ret)
{
	size_t step;

	if (is_over(f, now))
		f->in_run = f->summaries = 0;
	f->occurred_usec = now;
	f->untold++;
	f->longest_usec = u64_max(f->longest_usec, well_usec);
	if (f->in_run < full) {
		f->in_run++;
		tell(f, now, ret);
		return FLAP_TELL;
	}
	f->in_run = full + 1;
	step = size_min(f->summaries, ARRAY_SIZE(distances) - 1);
	if (now - f->told_usec < distances[step])
		return FLAP_QUIET;
	f->summaries++;
	tell(f, now, ret);
	return FLAP_SUMMARY;
}

bool flap_is_told(const struct flap *f, unsigned full, uint64_t now)
{
	return is_over(f, now) || f->in_run <= full;
}

bool flap_over(struct flap *f, uint64_t now, struct flap_told *ret)
{
	if (f->untold == 0 || !is_over(f, now))
		return false;
	tell(f, now, ret);
	return true;
}

static char *duration(uint64_t usec, char *out, size_t size)
{
	uint64_t seconds = usec / USEC_PER_SEC;

	if (seconds == 0)
		snprintf(out, size, "less than 1 s");
	else if (seconds < 120)
		snprintf(out, size, "%llu s", (unsigned long long)seconds);
	else if (seconds < 120 * 60)
		snprintf(out, size, "%llu min", (unsigned long long)(seconds / 60));
	else
		snprintf(out, size, "%llu h", (unsigned long long)(seconds / 3600));
	return out;
}

char *flap_text(const struct flap_told *t, char *out, size_t size)
{
	char span[24], longest[24];

	snprintf(out, size, "%llu times in %s%s%s%s", (unsigned long long)t->count,
		duration(t->span_usec, span, sizeof(span)), t->longest_usec ? ", well for " : "",
		t->longest_usec ? duration(t->longest_usec, longest, sizeof(longest)) : "",
		t->longest_usec ? " at the longest" : "");
	return out;
}

struct flap *flap_find(struct flap_table *t, const char *name, unsigned what)
{
	size_t oldest = 0;

	for (size_t i = 0; i < FLAP_ITEMS; i++) {
		if (t->items[i].what == what && streq(t->items[i].name, name))
			return &t->items[i].flap;
		if (t->items[i].flap.occurred_usec < t->items[oldest].flap.occurred_usec)
			oldest = i;
	}
	t->items[oldest].what = what;
	snprintf(t->items[oldest].name, sizeof(t->items[oldest].name), "%s", name);
	t->items[oldest].flap = (struct flap){ 0 };
	return &t->items[oldest].flap;
}

static bool is_among(
	const struct flap_table *t, size_t i, const char *name, unsigned from, unsigned to)
{
	return t->items[i].flap.occurred_usec != 0 && t->items[i].what >= from &&
		t->items[i].what < to && streq(t->items[i].name, name);
}

bool flap_all_told(const struct flap_table *t, const char *name, unsigned from, unsigned to,
	unsigned full, uint64_t now)
{
	for (size_t i = 0; i < FLAP_ITEMS; i++)
		if (is_among(t, i, name, from, to) && !flap_is_told(&t->items[i].flap, full, now))
			return false;
	return true;
}

uint64_t flap_forget(struct flap_table *t, const char *name, unsigned from, unsigned to)
{
	uint64_t untold = 0;

	for (size_t i = 0; i < FLAP_ITEMS; i++) {
		if (!is_among(t, i, name, from, to))
			continue;
		untold += t->items[i].flap.untold;
		t->items[i].flap = (struct flap){ 0 };
	}
	return untold;
}

bool flap_any_over(struct flap_table *t, uint64_t now, const char **ret_name, unsigned *ret_what,
	struct flap_told *ret)
{
	for (size_t i = 0; i < FLAP_ITEMS; i++) {
		if (!flap_over(&t->items[i].flap, now, ret))
			continue;
		*ret_name = t->items[i].name;
		*ret_what = t->items[i].what;
		return true;
	}
	return false;
}

bool flap_any_untold(const struct flap_table *t)
{
	for (size_t i = 0; i < FLAP_ITEMS; i++)
		if (t->items[i].flap.untold > 0)
			return true;
	return false;
}
