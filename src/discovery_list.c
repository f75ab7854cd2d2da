/* SPDX-License-Identifier: MIT */
/*
 * Lists of brokers: see discovery_list.h. Must not know where they come from.
 */
#include "discovery_list.h"

#include <errno.h>
#include <strings.h>

void discovery_list_clear(struct discovery_list *list)
{
	config_brokers_free(list->brokers, list->n);
	*list = (struct discovery_list){ 0 };
}

/* A deep copy of `n` brokers that borrow their strings; takes the array. */
static int copy_borrowed(struct discovery_list *ret, struct config_broker *borrowed, size_t n)
{
	struct config_broker *copy = NULL;
	int r = config_brokers_copy(&copy, borrowed, n);

	free(borrowed);
	if (r < 0)
		return r;
	*ret = (struct discovery_list){ copy, n };
	return 0;
}

int discovery_list_from_services(struct discovery_list *ret,
	const struct resolver_services *services, const struct config_broker *template)
{
	struct config_broker *borrowed = calloc(services->n, sizeof(*borrowed));
	uint16_t rank = 0;

	if (!borrowed)
		return -ENOMEM;
	for (size_t i = 0; i < services->n; i++) {
		const struct resolver_service *s = &services->services[i];

		if (i > 0 && s->priority != s[-1].priority)
			rank++;
		borrowed[i] = *template;
		/* Nobody writes to it: it is copied below. */
		borrowed[i].host = (char *)s->host;
		borrowed[i].port = s->port;
		borrowed[i].priority = rank;
	}
	return copy_borrowed(ret, borrowed, services->n);
}

int discovery_list_from_kept(struct discovery_list *ret, const struct discovery_list *kept,
	const struct config_broker *template)
{
	struct config_broker *borrowed = calloc(kept->n, sizeof(*borrowed));

	if (!borrowed)
		return -ENOMEM;
	for (size_t i = 0; i < kept->n; i++) {
		borrowed[i] = *template;
		borrowed[i].host = kept->brokers[i].host;
		borrowed[i].port = kept->brokers[i].port;
		borrowed[i].priority = kept->brokers[i].priority;
	}
	return copy_borrowed(ret, borrowed, kept->n);
}

/* Names of hosts know no upper and lower case (RFC 4343). */
static bool same_target(const struct config_broker *a, const struct config_broker *b)
{
	return a->port == b->port && a->priority == b->priority &&
		strcasecmp(a->host, b->host) == 0;
}

bool discovery_list_same(const struct discovery_list *a, const struct discovery_list *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (a->brokers[i].priority != b->brokers[i].priority ||
			!config_broker_equal(&a->brokers[i], &b->brokers[i]))
			return false;
	return true;
}

static size_t count_target(const struct discovery_list *list, const struct config_broker *target)
{
	size_t count = 0;

	for (size_t i = 0; i < list->n; i++)
		count += same_target(&list->brokers[i], target);
	return count;
}

bool discovery_list_same_targets(const struct discovery_list *a, const struct discovery_list *b)
{
	if (a->n != b->n)
		return false;
	/* A record may stand there twice. */
	for (size_t i = 0; i < a->n; i++)
		if (count_target(a, &a->brokers[i]) != count_target(b, &a->brokers[i]))
			return false;
	return true;
}
