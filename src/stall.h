/* SPDX-License-Identifier: MIT */
/*
 * Tells whether a connection with messages in flight still moves. Pure.
 *
 * Progress is an acknowledgement, or bytes that the peer's TCP took while more were waiting: a
 * megabyte over a slow link takes minutes and is no fault, while a peer that takes bytes and never
 * answers is one.
 */
#pragma once

#include "util.h"

struct stall_sample {
	uint64_t taken; /* counts acknowledgements */
	uint64_t acked_bytes; /* by the peer's TCP, of this connection */
	bool unsent; /* bytes are waiting to be taken by it */
};

struct stall {
	struct stall_sample last;
	uint64_t since_usec; /* of the last progress */
};

/* Something is in flight from now on. Microseconds of a clock that never goes back. */
void stall_begin(struct stall *s, const struct stall_sample *sample, uint64_t now);
/* How long nothing has moved. To be asked often enough: no more is known than the samples tell. */
uint64_t stall_check(struct stall *s, const struct stall_sample *sample, uint64_t now);
