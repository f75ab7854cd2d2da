/* SPDX-License-Identifier: MIT */
/*
 * Progress: see stall.h. Must not know sockets, or how long is too long.
 */
#include "stall.h"

void stall_begin(struct stall *s, const struct stall_sample *sample, uint64_t now)
{
	s->last = *sample;
	s->since_usec = now;
}

uint64_t stall_check(struct stall *s, const struct stall_sample *sample, uint64_t now)
{
	/* Without bytes waiting, what the peer's TCP takes is a PINGREQ and proves nothing. */
	if (sample->taken != s->last.taken ||
		(s->last.unsent && sample->acked_bytes != s->last.acked_bytes))
		s->since_usec = now;
	s->last = *sample;
	return now - s->since_usec;
}
