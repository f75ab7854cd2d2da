/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the way from a file to a struct config share while it is gone. Internal to
 * config*.c.
 */
#pragma once

#include <libconfig.h>

#include "config_keys.h"
#include "config_source.h"
#include "log.h"

struct config_loader {
	struct config_source source;
	config_t lib;
	struct config *c; /* NULL: the file is to hold a list of brokers and nothing else */
	struct config_broker *brokers; /* read so far; NULL: none */
	size_t n_brokers;
	bool is_public; /* secrets and files of brokers are left alone */
	bool quiet; /* warnings were given before */
	bool pass_over; /* credentials that systemd hides are no fault */
	bool places; /* brokers, and what the machine has a part in, are left out */
	bool no_memory;
};

/* --- config_loader.c: faults, reading by the table --- */

/* A fault of this setting; NULL: of the file. The checks between keys then leave it alone. */
#define config_fault(l, setting, ...)                                                    \
	do {                                                                             \
		config_source_fault(&(l)->source, config_line_of(setting), __VA_ARGS__); \
		config_mark_faulty(setting);                                             \
	} while (0)

/* What is allowed and unwise. */
#define config_warn(l, ...)                       \
	do {                                      \
		if (!(l)->quiet)                  \
			log_warning(__VA_ARGS__); \
	} while (0)

unsigned config_line_of(const config_setting_t *setting);
void config_mark_faulty(config_setting_t *setting);
bool config_is_faulty(const config_setting_t *setting);
/* The setting of this name in a group that may be absent, or no group at all. */
config_setting_t *config_member(const config_setting_t *group, const char *name);
const char *config_found(const config_setting_t *setting);

/* `path` is what stands before the name: "socket.", or "". `group` NULL: outside of any. */
void config_fault_unknown(struct config_loader *l, config_setting_t *setting,
	const struct config_group *group, const char *path);
/* The keys of one group, into `base`. `path` names the group, with the dot. */
void config_read_keys(struct config_loader *l, const config_setting_t *setting,
	const struct config_group *group, const char *path, void *base);

/* --- config_brokers.c: where messages go --- */

/*
 * Reads the `brokers` list, NULL when there is none: into l->brokers, or with discovery into the
 * template of `l->c`, whose group `discovery` was read before.
 */
void config_read_brokers(
	struct config_loader *l, config_setting_t *setting, const struct config_group *group);
/* Wipes and frees what it holds. */
void config_broker_done(struct config_broker *b);

/* --- config_access.c: who may publish what --- */

/* Reads the `access` list, NULL when there is none, into `l->c`. */
void config_read_access(
	struct config_loader *l, config_setting_t *setting, const struct config_group *group);
/* What CONFIG_KIND_FILTERS is. */
void config_read_filters(struct config_loader *l, config_setting_t *setting, const char *path,
	const struct config_key *key, struct access_topics *topics);
/* Takes NULL. */
void config_access_free(struct access_rule *rules, size_t n);

/* --- config_machine.c: what the machine has a part in --- */

void config_derive_id(struct config_loader *l);
/* Fills %i, %h and %% into all templates and checks what comes of it. The id is there. */
void config_fill_in_templates(struct config_loader *l);
