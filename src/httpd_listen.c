/* SPDX-License-Identifier: MIT */
/*
 * See httpd_listen.h. Must not know what is spoken on the socket.
 */
#include "httpd_listen.h"

#include <errno.h>

#include "address.h"

/* Connections that wait in the kernel for their turn. */
#define BACKLOG 32

int httpd_listen(const char *address, int *ret_fd)
{
	_cleanup_(closep) int fd = -1;
	const int on = 1;
	union address a;
	socklen_t len;
	int r;

	r = address_parse(address, &a, &len);
	if (r < 0)
		return r;
	fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Connections of the process before may linger. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return -errno;
	if (a.any.sa_family == AF_INET6 &&
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
		return -errno;
	if (bind(fd, &a.any, len) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	*ret_fd = fd;
	/* NOLINTNEXTLINE(clang-analyzer-deadcode.DeadStores): closep() reads it. */
	fd = -1;
	return 0;
}
