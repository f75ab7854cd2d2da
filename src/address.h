/* SPDX-License-Identifier: MIT */
/*
 * "127.0.0.1:9641", "[::1]:9641": a numeric address and a port; nothing is looked up. Pure.
 */
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include "util.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* Port 0 is a port: any that is free. -EINVAL. */
int address_parse(const char *s, union address *ret, socklen_t *ret_len) _must_check_;
uint16_t address_port(const union address *a);
