/* SPDX-License-Identifier: MIT */
/*
 * See address.h. Must not know what an address is for.
 */
#include "address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>

int address_parse(const char *s, union address *ret, socklen_t *ret_len)
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

uint16_t address_port(const union address *a)
{
	return ntohs(a->v4.sin_port);
}
