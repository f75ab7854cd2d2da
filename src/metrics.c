/* SPDX-License-Identifier: MIT */
/*
 * See metrics.h. Each metric is a function: HELP, TYPE, and a line for each of its labels, those
 * that count nothing yet included: a rate of what was not there before is not known.
 */
#include "metrics.h"

#include "utf8.h"

/* The first error ends it all; the functions below need not look. */
struct text {
	struct buffer *out;
	int error;
};

#define put(t, ...)                                                        \
	do {                                                               \
		if ((t)->error == 0)                                       \
			(t)->error = buffer_printf((t)->out, __VA_ARGS__); \
	} while (0)

static unsigned long long ull(uint64_t n)
{
	return n;
}

static void head(struct text *t, const char *name, const char *type, const char *help)
{
	put(t, "# HELP mqttgw_%s %s\n# TYPE mqttgw_%s %s\n", name, help, name, type);
}

/* One without labels. */
static void single(
	struct text *t, const char *name, const char *type, uint64_t value, const char *help)
{
	head(t, name, type, help);
	put(t, "mqttgw_%s %llu\n", name, ull(value));
}

/* As a decimal fraction of seconds, exactly, without zeros at its end: no locale has a say. */
static void put_seconds(struct text *t, uint64_t usec)
{
	uint64_t fraction = usec % USEC_PER_SEC;
	int digits = 6;

	put(t, "%llu", ull(usec / USEC_PER_SEC));
	if (fraction == 0)
		return;
	for (; fraction % 10 == 0; digits--)
		fraction /= 10;
	put(t, ".%0*llu", digits, ull(fraction));
}

/* How many bytes at the front of `s` stand for themselves in a label's value. */
static size_t plain(const char *s)
{
	size_t len = strlen(s), at = 0;

	while (at < len && s[at] != '\\' && s[at] != '"') {
		uint32_t code;
		size_t n = utf8_read((const unsigned char *)s + at, len - at, &code);

		if (n == 0 || utf8_is_control(code))
			break;
		at += n;
	}
	return at;
}

/* A label's value: quoted, and UTF-8 whatever is in it. */
static void put_value(struct text *t, const char *s)
{
	put(t, "\"");
	while (*s) {
		size_t n = plain(s);

		put(t, "%.*s", (int)n, s);
		s += n;
		if (*s == '\0')
			break;
		if (*s == '\n')
			put(t, "\\n");
		else if (*s == '\\' || *s == '"')
			put(t, "\\%c", *s);
		else
			put(t, "?");
		s++;
	}
	put(t, "\"");
}

/* One with a single label. */
static void labelled(
	struct text *t, const char *name, const char *label, const char *value, uint64_t n)
{
	put(t, "mqttgw_%s{%s=", name, label);
	put_value(t, value);
	put(t, "} %llu\n", ull(n));
}

static void by_qos(struct text *t, const char *name, const uint64_t counts[3], const char *help)
{
	head(t, name, "counter", help);
	for (unsigned qos = 0; qos < 3; qos++)
		put(t, "mqttgw_%s{qos=\"%u\"} %llu\n", name, qos, ull(counts[qos]));
}

static void histogram(struct text *t, const char *name, const struct histogram *h,
	const struct histogram_bounds *bounds, const char *help)
{
	uint64_t n = 0;

	head(t, name, "histogram", help);
	for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
		n += h->counts[i];
		put(t, "mqttgw_%s_bucket{le=\"", name);
		put_seconds(t, bounds->usec[i]);
		put(t, "\"} %llu\n", ull(n));
	}
	n = histogram_count(h);
	put(t, "mqttgw_%s_bucket{le=\"+Inf\"} %llu\nmqttgw_%s_sum ", name, ull(n), name);
	put_seconds(t, h->sum_usec);
	put(t, "\nmqttgw_%s_count %llu\n", name, ull(n));
}

/* --- the queue ------------------------------------------------------------------------------- */

static void put_oldest(struct text *t, const struct figures *f)
{
	double seconds = figures_oldest_seconds(f);

	head(t, "queue_oldest_seconds", "gauge",
		"Age of the first message of the queue by its timestamp; 0 when it is empty.");
	put(t, "mqttgw_queue_oldest_seconds ");
	put_seconds(t, (uint64_t)(seconds * 1000.0 + 0.5) * USEC_PER_MSEC);
	put(t, "\n");
}

static void put_queue(struct text *t, const struct figures *f)
{
	single(t, "queue_messages", "gauge", f->messages, "Messages in the queue.");
	single(t, "queue_bytes", "gauge", f->bytes,
		"Bytes of the queue: live pages of its database and the write-ahead log.");
	put_oldest(t, f);
	single(t, "dead_letters", "gauge", f->dead_letters, "Messages that no broker takes.");
}

/* --- messages -------------------------------------------------------------------------------- */

static void put_refused(struct text *t, const struct figures *f)
{
	head(t, "messages_refused_total", "counter",
		"Lines and clients of the local socket answered with an error, by its word.");
	for (size_t i = 0; f->refused[i].error; i++)
		labelled(t, "messages_refused_total", "error", f->refused[i].error,
			f->refused[i].count);
}

static void put_dropped(struct text *t, const struct figures *f)
{
	head(t, "messages_dropped_total", "counter",
		"Messages dropped undelivered at a bound, for their age or by an operator.");
	for (unsigned i = 0; i < N_FIGURES_DROPPED; i++)
		labelled(t, "messages_dropped_total", "reason",
			figures_dropped_to_string((enum figures_dropped)i), f->dropped[i]);
}

static void put_messages(struct text *t, const struct figures *f)
{
	by_qos(t, "messages_accepted_total", f->accepted,
		"Messages accepted from local programs, and on disk.");
	by_qos(t, "messages_delivered_total", f->uplink.delivered,
		"Messages acknowledged by the broker, QoS 0: written to the connection; by the QoS "
		"they were accepted with.");
	put_refused(t, f);
	put_dropped(t, f);
}

/* --- the uplink ------------------------------------------------------------------------------ */

static void put_traffic(struct text *t, const struct figures *f)
{
	head(t, "uplink_bytes_total", "counter",
		"Bytes carried to and from brokers over TCP, each once, TLS included, headers of "
		"TCP and IP not.");
	labelled(t, "uplink_bytes_total", "direction", "out", f->uplink.bytes_out);
	labelled(t, "uplink_bytes_total", "direction", "in", f->uplink.bytes_in);
}

static void put_attempts(struct text *t, const struct figures *f)
{
	head(t, "connect_attempts_total", "counter",
		"Attempts to connect that ended, by broker and result: success, or the class of "
		"the failure. Probes of better brokers are left out.");
	for (size_t i = 0; i < f->uplink.n_brokers; i++) {
		const struct figures_broker *b = &f->uplink.brokers[i];

		for (unsigned class = 0; class < N_FAILURE_CLASSES; class ++) {
			put(t, "mqttgw_connect_attempts_total{broker=");
			put_value(t, b->name);
			put(t, ",result=\"%s\"} %llu\n",
				class == FAILURE_NONE
					? "success"
					: failure_class_to_string((enum failure_class) class),
				ull(b->attempts[class]));
		}
	}
}

static void put_up(struct text *t, const struct figures *f)
{
	head(t, "connection_up", "gauge", "1 for the broker that is connected, 0 for the others.");
	for (size_t i = 0; i < f->uplink.n_brokers; i++)
		if (f->uplink.brokers[i].listed)
			labelled(t, "connection_up", "broker", f->uplink.brokers[i].name,
				f->uplink.brokers[i].up);
}

static void put_state(struct text *t, const struct figures *f)
{
	head(t, "uplink_state", "gauge", "1 for the state that the uplink is in.");
	for (unsigned i = 0; i < N_SUPERVISOR_STATES; i++)
		labelled(t, "uplink_state", "state",
			supervisor_state_to_string((enum supervisor_state)i), f->uplink.state == i);
}

static void put_uplink(struct text *t, const struct figures *f)
{
	const struct figures_uplink *u = &f->uplink;

	put_traffic(t, f);
	put_attempts(t, f);
	put_up(t, f);
	put_state(t, f);
	histogram(t, "reconnect_seconds", &u->reconnect, &histogram_reconnect,
		"Time from losing a connection to the next CONNACK.");
	single(t, "inflight_messages", "gauge", u->inflight,
		"Messages sent and not acknowledged yet; 0 without a connection.");
	single(t, "inflight_window", "gauge", u->window,
		"Messages that may be in flight; 0 without a connection.");
}

/* --- the store ------------------------------------------------------------------------------- */

static void put_store(struct text *t, const struct figures *f)
{
	single(t, "store_commits_total", "counter", f->commits,
		"Transactions committed to the queue's database.");
	single(t, "store_written_bytes_total", "counter", f->written_bytes,
		"Bytes written to the files of the queue's database.");
	histogram(t, "commit_seconds", &f->commit, &histogram_commit,
		"Time to commit accepted messages, until they are on disk.");
	histogram(t, "delivery_seconds", &f->delivery, &histogram_delivery,
		"Time from a message's acceptance to the broker's acknowledgement; messages "
		"accepted by an earlier process are left out.");
}

int metrics_write(const struct figures *f, struct buffer *out)
{
	struct text t = { .out = out };

	put_queue(&t, f);
	put_messages(&t, f);
	put_uplink(&t, f);
	put_store(&t, f);
	return t.error;
}
