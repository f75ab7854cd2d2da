/* SPDX-License-Identifier: MIT */
/*
 * The brokers' list: see brokers.h. Owns who was tried and who is set aside. Must not know states,
 * waits, or where the list comes from.
 */
#include "brokers.h"

#include <assert.h>

void brokers_set(struct brokers *b, const struct brokers_item *items, size_t n)
{
	*b = (struct brokers){ .n = size_min(n, BROKERS_MAX) };
	for (size_t i = 0; i < b->n; i++)
		b->entries[i].item = items[i];
}

int brokers_find(const struct brokers *b, const char *name)
{
	for (size_t i = 0; i < b->n; i++)
		if (streq(b->entries[i].item.name, name))
			return (int)i;
	return BROKERS_NONE;
}

const char *brokers_name(const struct brokers *b, int index)
{
	return index == BROKERS_NONE ? "" : b->entries[index].item.name;
}

bool brokers_is_aside(const struct brokers *b, int index, uint64_t now)
{
	return b->entries[index].aside_until_usec > now;
}

int brokers_first(const struct brokers *b, uint64_t now)
{
	for (size_t i = 0; i < b->n; i++)
		if (!b->entries[i].tried && !brokers_is_aside(b, (int)i, now))
			return (int)i;
	return BROKERS_NONE;
}

void brokers_tried(struct brokers *b, int index)
{
	b->entries[index].tried = true;
}

void brokers_new_round(struct brokers *b)
{
	for (size_t i = 0; i < b->n; i++)
		b->entries[i].tried = false;
}

void brokers_set_aside(struct brokers *b, int index, enum failure_class class, uint64_t until_usec)
{
	assert(index >= 0 && (size_t)index < b->n);
	b->entries[index].aside_until_usec = until_usec;
	b->entries[index].aside_class = class;
}

void brokers_take_back(struct brokers *b, enum failure_class class)
{
	for (size_t i = 0; i < b->n; i++)
		if (class == FAILURE_NONE || b->entries[i].aside_class == class)
			b->entries[i].aside_until_usec = 0;
}

uint64_t brokers_all_aside_until(const struct brokers *b, uint64_t now)
{
	uint64_t first = UINT64_MAX;

	for (size_t i = 0; i < b->n; i++) {
		if (!brokers_is_aside(b, (int)i, now))
			return UINT64_MAX;
		first = u64_min(first, b->entries[i].aside_until_usec);
	}
	return first;
}

static bool is_better(const struct brokers *b, size_t i, int index)
{
	return b->entries[i].item.priority < b->entries[index].item.priority;
}

bool brokers_has_better(const struct brokers *b, int index)
{
	for (size_t i = 0; i < b->n; i++)
		if (is_better(b, i, index))
			return true;
	return false;
}

int brokers_better(const struct brokers *b, int index, int after, uint64_t now)
{
	for (size_t i = (size_t)(after + 1); i < b->n; i++)
		if (is_better(b, i, index) && !brokers_is_aside(b, (int)i, now))
			return (int)i;
	return BROKERS_NONE;
}
