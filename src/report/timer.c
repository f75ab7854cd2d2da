/* SPDX-License-Identifier: MIT */
#include "timer.h"

#include <sys/random.h>

double timer_random(void *userdata)
{
	uint64_t bits;

	(void)userdata;
	if (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		bits = now_usec() * UINT64_C(0x9e3779b97f4a7c15);
	return (double)(bits >> 11) * 0x1p-53;
}
