/* SPDX-License-Identifier: MIT */
/*
 * See httpd_listen.h. Must not know what is spoken on the socket.
 */
#include "httpd_listen.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* Connections that wait in the kernel for their turn. */
#define BACKLOG 32

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* 0 or -EINVAL. */
static int parse(const char *s, union address *ret, socklen_t *ret_len)
{
	const char *colon = strrchr(s, ':');
	char host[INET6_ADDRSTRLEN] = "", *end;
	size_t n = colon ? (size_t)(colon - s) : 0;
	bool v6 = *s == '[' && n > 2 && s[n - 1] == ']';
	union address a = { 0 };
	unsigned long port;

	if (n == 0 || n - 2 * v6 >= sizeof(host) || !isdigit((unsigned char)colon[1]))
		return -EINVAL;
	memcpy(host, s + v6, n - 2 * v6);
	port = strtoul(colon + 1, &end, 10);
	if (*end || port > UINT16_MAX)
		return -EINVAL;
	a.any.sa_family = v6 ? AF_INET6 : AF_INET;
	if (inet_pton(a.any.sa_family, host,
		    v6 ? (void *)&a.v6.sin6_addr : (void *)&a.v4.sin_addr) != 1)
		return -EINVAL;
	/* The port is at the same place in both. */
	a.v4.sin_port = htons((uint16_t)port);
	*ret = a;
	*ret_len = v6 ? sizeof(a.v6) : sizeof(a.v4);
	return 0;
}

int httpd_listen(const char *address, int *ret_fd)
{
	_cleanup_(closep) int fd = -1;
	const int on = 1;
	union address a;
	socklen_t len;
	int r;

	r = parse(address, &a, &len);
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
	fd = -1;
	return 0;
}
