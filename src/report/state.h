/* SPDX-License-Identifier: MIT */
/*
 * What is remembered over a restart: how far each alert has come. A value; kept as JSON in
 * $STATE_DIRECTORY, or in memory alone where there is none.
 */
#pragma once

#include <jansson.h>

#include "util.h"

#define STATE_ID 65 /* bytes of an instance's name, with the NUL */

struct state {
	char *path; /* NULL: in memory alone */
	char own[STATE_ID]; /* what the alerts of our own are numbered under */
	uint64_t own_seq; /* the last number given */
	char instance[STATE_ID]; /* of the gateway whose alerts were taken last; "" = none yet */
	uint64_t seen; /* the last of its alerts that was taken */
	char told[16]; /* the trouble with the gateway that was told and is not over; "" = none */
	uint64_t lost; /* alerts that were dropped, and nobody was told yet */
	json_t *pending; /* array of alerts that were not delivered, each as it is to be sent */
};

/* Reads what there is; a file that is damaged is logged and counts as none. -ENOMEM. */
int state_load(struct state *s) _must_check_;
/* Writes all of it: the old file or the new one survives a power cut. -errno; 0 without a path. */
int state_save(const struct state *s) _must_check_;
void state_done(struct state *s);
