/* SPDX-License-Identifier: MIT */
/*
 * What the daemon counts and shows: one value that holds all of it, for metrics, `mqttgwctl status`
 * and systemd's status line. Pure.
 *
 * The uplink keeps its part behind the mailbox's lock; the gateway thread puts the whole together
 * when somebody asks. What is counted never goes back while the process lives.
 */
#pragma once

#include "brokers.h"
#include "failure.h"
#include "supervisor.h"
#include "util.h"

/* --- histograms of durations, as Prometheus has them --- */

#define HISTOGRAM_BOUNDS 16

/* Upper bounds, ascending, in microseconds. */
struct histogram_bounds {
	uint64_t usec[HISTOGRAM_BOUNDS];
};

struct histogram {
	uint64_t counts[HISTOGRAM_BOUNDS + 1]; /* of each bucket by itself; the last: above all */
	uint64_t sum_usec;
};

extern const struct histogram_bounds histogram_commit; /* half a millisecond to a minute */
extern const struct histogram_bounds histogram_delivery; /* a millisecond to a week */
extern const struct histogram_bounds histogram_reconnect; /* a tenth of a second to an hour */

/* `n` events that took so long each. */
void histogram_add(
	struct histogram *h, const struct histogram_bounds *bounds, uint64_t usec, uint64_t n);
uint64_t histogram_count(const struct histogram *h);

/* --- rates --- */

/* Events a second, averaged over about the last ten seconds. Costs nothing while nothing happens.
 */
struct rate {
	double weight;
	uint64_t usec;
};

void rate_add(struct rate *r, uint64_t n, uint64_t now_usec);
double rate_get(const struct rate *r, uint64_t now_usec);

/* --- the uplink's part --- */

struct figures_broker {
	char name[sizeof(((struct brokers_item *)NULL)->name)];
	uint64_t attempts[N_FAILURE_CLASSES]; /* that ended; FAILURE_NONE: with a connection */
	uint64_t aside_usec; /* CLOCK_BOOTTIME until which it is left alone; 0 = it is not */
	bool up;
	bool listed; /* one of the present list, in its order before those that are not */
};

struct figures_failure {
	char broker[sizeof(((struct brokers_item *)NULL)->name)]; /* "" = there was none yet */
	enum failure_class class;
	char text[200];
	int64_t time_msec; /* CLOCK_REALTIME */
};

/* What holds messages back though a connection stands. */
enum figures_brake {
	FIGURES_BRAKE_NONE,
	FIGURES_BRAKE_RATE, /* mqtt.max_rate */
	FIGURES_BRAKE_THROTTLED, /* the broker has asked for less */
};

struct figures_uplink {
	enum supervisor_state state;
	uint64_t state_usec; /* CLOCK_BOOTTIME since when; 0 = no uplink has begun yet */
	char broker[sizeof(((struct brokers_item *)NULL)->name)]; /* connected to, or tried last */
	char cause[200]; /* why it is not connected, or why the queue is held; "" = it is */
	uint64_t
		next_usec; /* CLOCK_BOOTTIME of the next attempt; UINT64_MAX = none is waited for */
	bool network_down; /* there is no network at all, as far as is known */
	bool held; /* several messages in a row were refused */
	uint64_t held_usec; /* CLOCK_BOOTTIME until when, while held */
	struct figures_failure last_failure;
	struct figures_broker
		brokers[BROKERS_MAX + 1]; /* the last: what no longer fitted, "other" */
	size_t n_brokers;
	uint64_t lost_usec; /* CLOCK_BOOTTIME when a connection was lost that is not back; 0 */
	struct histogram reconnect;
	uint64_t delivered[3]; /* taken by the broker, by the QoS they were accepted with */
	struct rate delivered_rate; /* messages, CLOCK_BOOTTIME */
	uint64_t bytes_out, bytes_in; /* MQTT's, all connections together: see mqtt_traffic */
	unsigned inflight; /* messages sent and not acknowledged; 0 without a connection */
	unsigned window; /* how many may be; 0 without a connection */
	uint64_t moved_usec; /* CLOCK_BOOTTIME of the last acknowledgement, or of the first message
				sent since nothing was in flight */
	enum figures_brake brake;
	uint64_t max_rate; /* mqtt.max_rate, bytes a second; 0 = no bound */
	uint64_t suspect; /* row that is tried alone, or left out, to see whose fault it is; 0 */
	int read_error; /* -errno: the queue cannot be read; 0 */
};

/* A new list of brokers. Those that are gone keep what was counted of them, behind the others,
 * as long as there is room; then the oldest are added up as "other". */
void figures_set_brokers(struct figures_uplink *u, const struct brokers_item *items, size_t n);
/* An attempt at this broker has ended; FAILURE_NONE: with a connection. */
void figures_attempt(struct figures_uplink *u, const char *broker, enum failure_class class);
/* A connection that stood was lost. */
void figures_lost(struct figures_uplink *u, uint64_t now_usec);
/* A connection stands: the time since the last one was lost goes into the histogram. */
void figures_connected(struct figures_uplink *u, uint64_t now_usec);
/* There is no uplink any more, until another one begins: what was counted stays. */
void figures_uplink_ended(struct figures_uplink *u, uint64_t now_usec);

/* --- all of it --- */

enum figures_dropped {
	FIGURES_DROPPED_OVERFLOW,
	FIGURES_DROPPED_EXPIRED,
	FIGURES_DROPPED_PURGED,
	FIGURES_DROPPED_DEAD_LETTER_BOUND,
	N_FIGURES_DROPPED,
};

#define FIGURES_ERRORS 16 /* at least as many as the socket's protocol has */

struct figures_refused {
	const char *error; /* the protocol's word, static; NULL ends the list */
	uint64_t count;
};

struct figures {
	struct figures_uplink uplink;
	uint64_t now_usec; /* CLOCK_BOOTTIME when this was put together */
	uint64_t started_usec; /* CLOCK_BOOTTIME */
	bool stopping;

	/* local clients */
	unsigned clients, max_clients;
	uint64_t accepted[3]; /* by QoS */
	struct figures_refused refused[FIGURES_ERRORS + 1];
	double accepted_rate, delivered_rate; /* messages a second */

	/* the store */
	int store_error; /* -errno: lines are refused because of it; 0 */
	char full[160]; /* which bound of the queue is reached; "" = none */
	bool drop_oldest; /* at a bound the oldest go; false: lines are refused */
	uint64_t messages, max_messages; /* 0 = no bound */
	uint64_t bytes, max_bytes;
	uint64_t dead_letters, max_dead_letters;
	int64_t oldest_msec; /* timestamp of the first row; INT64_MIN: the queue is empty */
	int64_t now_msec; /* the time of day to hold that against */
	uint64_t dropped[N_FIGURES_DROPPED];
	uint64_t commits, written_bytes;
	struct histogram commit; /* of accepted messages, with its sync */
	struct histogram delivery; /* acceptance to the broker's acknowledgement */
};

const char *figures_dropped_to_string(enum figures_dropped reason);

/*
 * Why nothing moves, or not as fast as it might: one line for an operator that says what is wrong
 * and what it waits for. "" when the queue drains or is empty. Returns `out`.
 */
char *figures_why(const struct figures *f, char *out, size_t size);

/* Seconds that the oldest message has waited; 0 when the queue is empty. */
double figures_oldest_seconds(const struct figures *f);
