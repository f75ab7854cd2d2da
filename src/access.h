/* SPDX-License-Identifier: MIT */
/*
 * Who may publish what: rules give topics to users and groups of this machine. Pure: whoever asks
 * tells whose peer it is.
 *
 * Which rules are a peer's is found out once for a connection; a topic is then held against the
 * filters of these alone. Rules only ever permit: what none of a peer's rules covers is refused.
 */
#pragma once

#include "util.h"

/* As many rules as there may be. */
#define ACCESS_RULES 256

struct access_topics {
	char **list; /* filters that have passed topic_filter_check() */
	size_t n;
};

/* One of the two names is "": the rule is the other's. Owned by the configuration. */
struct access_rule {
	char *user;
	char *group;
	uint32_t id; /* the user's or the group's number */
	struct access_topics topics;
};

/* Rules in the order of the configuration, borrowed. None at all: everybody may do everything. */
struct access_rules {
	const struct access_rule *list;
	size_t n; /* at most ACCESS_RULES */
};

/* Credentials of the other end of a Unix socket, as they were when it connected. Borrowed. */
struct access_peer {
	uint32_t uid, gid;
	const uint32_t *groups; /* supplementary ones */
	size_t n_groups;
};

/* Some of the rules, by their index. */
struct access_set {
	uint64_t words[ACCESS_RULES / 64];
};

/* Those of the rules that are about this peer. */
void access_select(
	const struct access_rules *rules, const struct access_peer *peer, struct access_set *ret);

/* The first of `set`'s rules, which access_select() has filled from the same rules, with a filter
 * for the topic, or NULL: not allowed. The topic has passed topic_check(). */
const struct access_rule *access_find(const struct access_rules *rules,
	const struct access_set *set, const char *topic, size_t topic_len);

/* "user app: sensors/#, log/+; group ops: #", cut short with "..." to fit, or "none". Returns
 * `buf`. */
char *access_describe(
	const struct access_rules *rules, const struct access_set *set, char *buf, size_t size);
