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

#include "access.h"
#include "backoff.h"
#include "util.h"

#define CONFIG_DEFAULT_PATH "/etc/mqttgw.conf"

enum config_sync {
	CONFIG_SYNC_FULL,
	CONFIG_SYNC_NORMAL,
};

enum config_overflow {
	CONFIG_OVERFLOW_REJECT,
	CONFIG_OVERFLOW_DROP_OLDEST,
};

enum config_mqtt_version {
	CONFIG_MQTT_AUTO, /* 5 first, 3.1.1 for a broker that refuses it */
	CONFIG_MQTT_5,
	CONFIG_MQTT_311,
};

/* Files are full paths, and could be read when the configuration was. */
struct config_tls {
	char *ca_file; /* both "": the system's certificates */
	char *ca_path;
	char *cert_file; /* client certificate and its key: both or neither */
	char *key_file;
	char *alpn; /* "" = none */
	/* Changes when a file is written or replaced; 0 = there is none. */
	uint64_t ca_file_stamp, ca_path_stamp, cert_file_stamp, key_file_stamp;
	bool enabled; /* `tls` is there, even empty */
	bool insecure; /* the broker's certificate is not checked */
};

struct config_broker {
	char *host;
	char *username; /* "" = none */
	char *password; /* effective one, "" = none; never printed */
	char *password_file; /* as configured, "" = none */
	struct config_tls tls;
	uint16_t port;
	/* Lower is preferred. Brokers of one priority are equals: there is no failing back among
	 * them. In a configured list: the place in it, from 0. */
	uint16_t priority;
};

/* A message the gateway itself publishes. */
struct config_presence {
	char *topic; /* %i and %h filled in; "" = none */
	char *payload;
	uint8_t qos;
	bool retain;
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
		/* Of each client; 0: no bound. */
		uint64_t max_rate; /* lines a second */
		size_t max_inflight_bytes; /* lines without an answer */
	} socket;
	struct {
		char *path;
	} control;
	struct {
		char *path;
		enum config_sync sync;
		uint64_t commit_delay_usec;
		/* 0: no bound. */
		uint64_t max_messages;
		uint64_t max_bytes;
		uint64_t max_age_usec;
		uint64_t max_dead_letters;
		enum config_overflow overflow;
	} queue;
	struct config_broker *brokers; /* at least one, or NULL with discovery */
	size_t n_brokers;
	struct {
		char *srv; /* at most one of the two is set */
		char *file;
		uint64_t refresh_usec;
		/* With srv: user name, password and TLS of every broker it names. `brokers` may
		 * hold one entry without host and port for it. host is "", port 0. A service
		 * "_secure-mqtt._tcp" (IANA's name) has TLS on, whatever that entry says. */
		struct config_broker template;
	} discovery;
	struct {
		enum config_mqtt_version version;
		char *client_id; /* %i and %h already filled in */
		uint16_t keepalive; /* seconds; 0 = off */
		uint64_t connect_timeout_usec;
		uint64_t ack_timeout_usec;
		unsigned inflight_max; /* messages; 0 = adaptive */
		size_t inflight_bytes;
		size_t max_rate; /* bytes a second towards the broker; 0 = no bound */
		char *topic_prefix; /* %i and %h filled in */
		bool clean_session;
		bool provenance;
		struct config_presence will;
		struct config_presence birth;
	} mqtt;
	struct {
		struct backoff_params backoff;
		uint64_t stable_usec;
		unsigned timeout_attempts;
		unsigned heartbeat_attempts;
		uint64_t heartbeat_delay_usec;
		uint64_t set_aside_usec;
		uint64_t failback_usec;
	} retry;
	struct {
		char *listen; /* "ADDRESS:PORT", IPv6 in brackets; "" = no HTTP */
	} metrics;
	struct { /* for mqttgw-report */
		char *push_url; /* "" = none */
		char *alert_url; /* "" = none */
		uint64_t interval_usec;
	} report;
	struct access_rule *access; /* who may publish what; NULL: who can open the socket, all */
	size_t n_access;
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
/*
 * The same, only to see whether it can be loaded: credentials are passed over where systemd hides
 * them, see config_hidden_credentials().
 */
int config_check(struct config **ret, const char *path, FILE *faults) _must_check_;
/* Whether there are credentials that this process may not see: systemd hides them from an
 * ExecReload= with a view of its own on files. */
bool config_hidden_credentials(void);
/*
 * The same for programs beside the daemon, which need no secrets and may not be allowed to read
 * them: no file of a broker is opened, and the brokers that are handed out have no password.
 */
int config_load_public(struct config **ret, const char *path, FILE *faults) _must_check_;
/*
 * For a program beside the daemon that wants to know where it is to be found: reads the groups of
 * `path`, not the brokers, and opens no other file than those it includes. What is faulty keeps its
 * default, and nothing is logged: the daemon has told it. Of *ret, which is to be freed with
 * config_free(), the id and what is derived from it are not final. -EINVAL: cannot be read, or is
 * no configuration at all. -ENOMEM.
 */
int config_load_places(struct config **ret, const char *path) _must_check_;
/* Takes NULL, returns NULL. Passwords are wiped. */
struct config *config_free(struct config *c);

/*
 * Reads a file that holds one `brokers` list and nothing else: what discovery.file names. 0: *ret
 * is an array of *ret_n brokers, at least one, to be freed with config_brokers_free(). -EINVAL:
 * one line per fault was written to `faults`. -ENOMEM. `quiet`: nothing is logged of what is
 * unwise, it was before. Never waits: takes regular files only. Any thread.
 */
int config_load_brokers(struct config_broker **ret, size_t *ret_n, const char *path, bool quiet,
	FILE *faults) _must_check_;
/* A copy of `n` brokers, to be freed with config_brokers_free(). 0 or -ENOMEM. */
int config_brokers_copy(
	struct config_broker **ret, const struct config_broker *brokers, size_t n) _must_check_;
/* Whether all settings of the two are the same; priority and the name of a password file left out.
 */
bool config_broker_equal(const struct config_broker *a, const struct config_broker *b);
/* Takes NULL. Passwords are wiped. */
void config_brokers_free(struct config_broker *brokers, size_t n);

/* --- comparing two, for a reload --- */

/* How a new value of a key comes into effect. */
enum config_effect {
	CONFIG_EFFECT_UNKNOWN, /* there is no such key */
	CONFIG_EFFECT_LIVE, /* at once */
	CONFIG_EFFECT_UPLINK, /* with a new connection */
	CONFIG_EFFECT_RESTART, /* with a restart of the daemon */
	CONFIG_EFFECT_REPORT, /* it is another program's */
};

/* `name` as in the manual: "mqtt.will.topic", "brokers.port". */
enum config_effect config_effect(const char *name);

/*
 * Calls `changed` once for each key whose values differ. `name`: as in a fault, "socket.path",
 * "brokers[1].port"; "brokers" where their number does. A secret counts with what it is; the files
 * of TLS also with what they hold. Never shows a value.
 */
typedef void (*config_changed_fn)(void *userdata, const char *name, enum config_effect effect);
void config_diff(
	const struct config *a, const struct config *b, config_changed_fn changed, void *userdata);

/* Gives `c` the value that `from` has for this key of a group other than brokers. 0, -ENOMEM, or
 * -ENOENT when there is no such key. */
int config_keep(struct config *c, const struct config *from, const char *name) _must_check_;
/* The value of such a key as config_print() shows it, cut short to fit. */
void config_show(const struct config *c, const char *name, char *buf, size_t size);

/*
 * Writes the effective configuration in libconfig syntax, secrets as "***" (one from a password
 * file as ""), URLs without user information and query. config_load() reads the same
 * configuration from it, but for the secrets. 0 or
 * -errno.
 */
int config_print(const struct config *c, FILE *out) _must_check_;
