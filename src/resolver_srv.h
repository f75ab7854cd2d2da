/* SPDX-License-Identifier: MIT */
/*
 * SRV records: the question, and what the answer says. For resolver.c and its tests only.
 */
#pragma once

#include "resolver.h"

/*
 * Asks the system's name servers and waits for the answer. Fills in all of *result, which is in the
 * order in which to try the targets. For the resolver's own thread.
 */
void resolver_srv_query(const char *name, struct resolver_services *result);

/*
 * Reads a message of DNS (RFC 1035). Fills in all of *result as above; a message that is cut short
 * or makes no sense is EAI_FAIL. Never reads outside of the message. Pure, but for `draw`.
 */
void resolver_srv_parse(const uint8_t *message, size_t n, double (*draw)(void *userdata),
	void *userdata, struct resolver_services *result);
