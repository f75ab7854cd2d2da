/* SPDX-License-Identifier: MIT */
/*
 * /etc/mqttgw.conf -> struct config: read, validate, print. The only user of libconfig.
 *
 * Every fault is collected as one line "FILE:LINE: what is wrong and what is allowed", in the order
 * of lines; FILE is the included file where there is one. What concerns no line ("FILE: cannot
 * read: ...") has no LINE. A key whose feature does not exist is a fault, like any unknown key.
 */
#pragma once

#include <stdio.h>
#include <sys/types.h>

#include "backoff.h"
#include "util.h"

#define CONFIG_DEFAULT_PATH "/etc/mqttgw.conf"

enum config_sync {
	CONFIG_SYNC_FULL,
	CONFIG_SYNC_NORMAL,
};

enum config_mqtt_version {
	CONFIG_MQTT_AUTO, /* 5 first, 3.1.1 for a broker that refuses it */
	CONFIG_MQTT_5,
	CONFIG_MQTT_311,
};

struct config_broker {
	char *host;
	char *username; /* "" = none */
	char *password; /* effective one, "" = none; never printed */
	char *password_file; /* as configured, "" = none */
	uint16_t port;
};

/* Strings are never NULL; "" stands for "not set". */
struct config {
	struct {
		char *id; /* effective: never "" after config_load() */
	} gateway;
	struct {
		char *path;
		char *group; /* "" = leave the group alone */
		mode_t mode;
		uint8_t default_qos;
		unsigned max_clients;
		size_t max_message_bytes;
		size_t max_buffered_bytes;
	} socket;
	struct {
		char *path;
		enum config_sync sync;
	} queue;
	struct config_broker *brokers; /* at least one */
	size_t n_brokers;
	struct {
		enum config_mqtt_version version;
		char *client_id; /* %i and %h already filled in */
		uint16_t keepalive; /* seconds; 0 = off */
		uint64_t connect_timeout_usec;
		unsigned inflight_max; /* messages; 0 = the program's choice */
		size_t inflight_bytes;
	} mqtt;
	struct {
		struct backoff_params backoff;
		uint64_t stable_usec;
	} retry;
	struct {
		int level; /* LOG_ERR ... LOG_DEBUG */
	} log;
};

/*
 * Reads `path`. 0: *ret is a complete configuration, to be freed with config_free(). -EINVAL: one
 * line per fault was written to `faults`, *ret is untouched. -ENOMEM. A file that cannot be read
 * is a fault too.
 *
 * Reads password files, /etc/machine-id and the host name; $CREDENTIALS_DIRECTORY is where a
 * `password_file` without '/' is looked up.
 */
int config_load(struct config **ret, const char *path, FILE *faults) _must_check_;
/* Takes NULL, returns NULL. Passwords are wiped. */
struct config *config_free(struct config *c);

/*
 * Writes the effective configuration in libconfig syntax, secrets as "***" (one from a password
 * file as ""). config_load() reads the same configuration from it, but for the password. 0 or
 * -errno.
 */
int config_print(const struct config *c, FILE *out) _must_check_;
