/* SPDX-License-Identifier: MIT */
/*
 * Owns how a URL is taken apart. Must not know what it is for, nor any other room.
 */
#include "url.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#define MAX_URL 2000

/* Offsets into a URL; each part goes up to where the next one begins. */
struct parts {
	size_t user; /* behind "//" */
	size_t host; /* == user: there is no user information */
	size_t path;
	size_t query; /* the '?' or '#', or the end */
};

static bool split(const char *url, struct parts *ret)
{
	size_t scheme = strncasecmp(url, "http://", 7) == 0 ? 7
		: strncasecmp(url, "https://", 8) == 0	    ? 8
							    : 0;
	struct parts p = { .user = scheme, .host = scheme };

	if (scheme == 0)
		return false;
	p.path = scheme + strcspn(url + scheme, "/?#");
	p.query = p.path + strcspn(url + p.path, "?#");
	for (size_t i = scheme; i < p.path; i++)
		if (url[i] == '@')
			p.host = i + 1;
	*ret = p;
	return true;
}

/* Where the port's digits begin, or the end when there is none. */
static size_t find_port(const char *url, const struct parts *p)
{
	for (size_t i = p->path; i > p->host && url[i - 1] != ']'; i--)
		if (url[i - 1] == ':')
			return i;
	return p->path;
}

static bool is_port(const char *s, size_t n)
{
	unsigned port = 0;

	if (n > 5)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!isdigit((unsigned char)s[i]))
			return false;
		port = port * 10 + (unsigned)(s[i] - '0');
	}
	return port >= 1 && port <= UINT16_MAX;
}

/* A name or an address; one of IPv6 stands in brackets. */
static bool is_host(const char *s, size_t n)
{
	bool bracketed = n > 2 && s[0] == '[' && s[n - 1] == ']';

	for (size_t i = bracketed; i < n - bracketed; i++)
		if (!isalnum((unsigned char)s[i]) && !strchr(bracketed ? ":.%" : "-._", s[i]))
			return false;
	return n > 0;
}

/* What url_mask() makes can be read again: "***" may be longer than what it stands for. */
static size_t masked_length(const char *url, const struct parts *p)
{
	return p->user + (p->host > p->user ? strlen("***@") : 0) + p->query - p->host +
		(url[p->query] ? strlen("?***") : 0);
}

bool url_is_good(const char *url)
{
	struct parts p;
	size_t port, end;

	for (const char *c = url; *c; c++)
		if (!isascii((unsigned char)*c) || !isgraph((unsigned char)*c))
			return false;
	if (!split(url, &p) || strlen(url) > MAX_URL || masked_length(url, &p) > MAX_URL)
		return false;
	port = find_port(url, &p);
	end = port > p.host && url[port - 1] == ':' ? port - 1 : p.path;
	if (end < p.path && !is_port(url + port, p.path - port))
		return false;
	return is_host(url + p.host, end - p.host);
}

int url_mask(char **ret, const char *url)
{
	struct parts p;
	char *text;

	if (!split(url, &p)) {
		url = "";
		p = (struct parts){ 0 };
	}
	if (asprintf(&text, "%.*s%s%.*s%s", (int)p.user, url, p.host > p.user ? "***@" : "",
		    (int)(p.query - p.host), url + p.host, url[p.query] ? "?***" : "") < 0)
		return -ENOMEM;
	*ret = text;
	return 0;
}

int url_origin(char **ret, const char *url)
{
	struct parts p;
	char *text;

	if (!split(url, &p)) {
		url = "";
		p = (struct parts){ 0 };
	}
	if (asprintf(&text, "%.*s%.*s", (int)p.user, url, (int)(p.path - p.host), url + p.host) < 0)
		return -ENOMEM;
	*ret = text;
	return 0;
}

/* "." and ".." would be taken out of a path on the way; Pushgateway takes base64url for any. */
static const char *label_of(const char *instance)
{
	if (streq(instance, "."))
		return "instance@base64/Lg";
	return streq(instance, "..") ? "instance@base64/Li4" : NULL;
}

static bool names_job(const char *path, size_t n)
{
	return memmem(path, n, "/metrics/job/", 13) || memmem(path, n, "/metrics/job@base64/", 20);
}

int url_pushgateway(char **ret, const char *url, const char *instance)
{
	const char *label = label_of(instance);
	struct parts p;
	char *text;
	size_t end;
	int r;

	if (!split(url, &p) || names_job(url + p.path, p.query - p.path)) {
		text = strdup(url);
	} else {
		for (end = p.query; end > p.path && url[end - 1] == '/'; end--)
			;
		r = asprintf(&text, "%.*s/metrics/job/mqttgw/%s%s%s", (int)end, url,
			label ? label : "instance/", label ? "" : instance, url + p.query);
		if (r < 0)
			text = NULL;
	}
	if (!text)
		return -ENOMEM;
	*ret = text;
	return 0;
}
