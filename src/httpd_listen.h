/* SPDX-License-Identifier: MIT */
/*
 * A listening TCP socket at a numeric address, for the room `httpd` alone.
 */
#pragma once

#include "util.h"

/*
 * `address` is "ADDRESS:PORT" or "[ADDRESS]:PORT", numeric. Binds to exactly that: an IPv6 address
 * takes no IPv4 connections. *ret_fd does not block and is the caller's. 0 or -errno; -EINVAL:
 * `address` has another form.
 */
int httpd_listen(const char *address, int *ret_fd) _must_check_;
