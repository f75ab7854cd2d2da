/* SPDX-License-Identifier: MIT */
/*
 * The list of brokers as the supervisor sees it: order of preference, who was tried in this round,
 * who is set aside. Pure: the time is passed in, in microseconds.
 */
#pragma once

#include "failure.h"
#include "util.h"

#define BROKERS_MAX  32
#define BROKERS_NONE (-1)

/* What identifies a broker, and how much it is preferred. */
struct brokers_item {
	char name[272]; /* HOST:PORT */
	unsigned priority; /* lower is preferred; brokers of one priority are equals */
};

struct brokers_entry {
	struct brokers_item item;
	uint64_t aside_until_usec; /* 0 = not set aside */
	enum failure_class aside_class;
	bool tried; /* in this round */
};

struct brokers {
	struct brokers_entry entries[BROKERS_MAX]; /* in order of preference */
	size_t n;
};

/*
 * A new list, in order of preference; what lies beyond BROKERS_MAX is left out. Nobody is set aside
 * in it: whoever made a new list may have mended what was wrong.
 */
void brokers_set(struct brokers *b, const struct brokers_item *items, size_t n);
/* The index of the broker of that name, or BROKERS_NONE. */
int brokers_find(const struct brokers *b, const char *name);
const char *brokers_name(const struct brokers *b, int index);

/* The first one that was not tried in this round and is not set aside, or BROKERS_NONE. */
int brokers_first(const struct brokers *b, uint64_t now);
void brokers_tried(struct brokers *b, int index);
/* A new round: nobody was tried. */
void brokers_new_round(struct brokers *b);

void brokers_set_aside(struct brokers *b, int index, enum failure_class class, uint64_t until_usec);
/* Ends it for all that were set aside for this class; FAILURE_NONE: for all. */
void brokers_take_back(struct brokers *b, enum failure_class class);
bool brokers_is_aside(const struct brokers *b, int index, uint64_t now);
/* When the first of those set aside may be tried again; UINT64_MAX unless all are set aside. */
uint64_t brokers_all_aside_until(const struct brokers *b, uint64_t now);

/* Whether any broker is preferred to this one. */
bool brokers_has_better(const struct brokers *b, int index);
/*
 * The next one after `after` (BROKERS_NONE: from the first) that is preferred to `index` and not
 * set aside, or BROKERS_NONE: whom to probe for failing back.
 */
int brokers_better(const struct brokers *b, int index, int after, uint64_t now);
