/* SPDX-License-Identifier: MIT */
/*
 * Lists of brokers as values: made of SRV records, compared. For discovery*.c and its tests only.
 * Pure.
 */
#pragma once

#include "config.h"
#include "resolver.h"

struct discovery_list {
	struct config_broker *brokers; /* NULL when there are none */
	size_t n;
};

/* Passwords are wiped. */
void discovery_list_clear(struct discovery_list *list);

/*
 * Brokers of an answer's targets, in its order: user name, password and TLS as in `template`;
 * `priority` counts the different priorities of the records, from 0. 0 or -ENOMEM.
 */
int discovery_list_from_services(struct discovery_list *ret,
	const struct resolver_services *services,
	const struct config_broker *template) _must_check_;
/*
 * The same of a list that was kept: hosts, ports and priorities of `kept`, the rest of `template`.
 */
int discovery_list_from_kept(struct discovery_list *ret, const struct discovery_list *kept,
	const struct config_broker *template) _must_check_;

/* The same brokers in the same order. A password file's name does not count, its content does. */
bool discovery_list_same(const struct discovery_list *a, const struct discovery_list *b);
/* The same hosts and ports in each priority, in whatever order; nothing else is compared. */
bool discovery_list_same_targets(const struct discovery_list *a, const struct discovery_list *b);
