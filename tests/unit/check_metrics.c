/* SPDX-License-Identifier: MIT */
/*
 * Tests of the metrics' text: every metric of the contract, to the letter, with the values it was
 * given. Whether Prometheus has a complaint is for tests/check-metrics.sh, which asks this suite
 * for the text.
 */
#include <stdio.h>

#include "metrics.h"
#include "suites.h"

static struct figures f;
static struct buffer out;

static void setup(void)
{
	static const char *const words[] = { "bad-json", "bad-topic", "storage" };

	memset(&f, 0, sizeof(f));
	f.oldest_msec = INT64_MIN;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		f.refused[i].error = words[i];
	f.refused[1].count = 5;
}

static void teardown(void)
{
	buffer_clear(&out);
}

static const char *text_of(void)
{
	buffer_clear(&out);
	ck_assert_int_eq(metrics_write(&f, &out), 0);
	ck_assert_int_eq(buffer_append(&out, "", 1), 0);
	return buffer_head(&out);
}

/* The lines about one metric: those that name it after HELP and TYPE, and its samples. */
static const char *about(const char *text, const char *name)
{
	static char lines[20000];
	size_t used = 0;

	for (const char *line = text, *end; *line; line = end + 1) {
		const char *at = line;

		end = strchr(line, '\n');
		ck_assert_ptr_nonnull(end);
		if (strncmp(at, "# HELP ", 7) == 0 || strncmp(at, "# TYPE ", 7) == 0)
			at += 7;
		if (strncmp(at, name, strlen(name)) != 0 || !strchr("{ _", at[strlen(name)]))
			continue;
		used += (size_t)snprintf(
			lines + used, sizeof(lines) - used, "%.*s", (int)(end + 1 - line), line);
	}
	lines[used] = '\0';
	return lines;
}

/* Without HELP, whose words are free. */
static void expect(const char *text, const char *name, const char *expected)
{
	const char *lines = about(text, name);
	char help[200];

	snprintf(help, sizeof(help), "# HELP %s ", name);
	ck_assert_msg(strncmp(lines, help, strlen(help)) == 0, "no HELP: %s", lines);
	ck_assert_str_eq(strchr(lines, '\n') + 1, expected);
}

/* The contract's table. */
static const struct {
	const char *name, *type, *label;
} metrics[] = {
	{ "mqttgw_queue_messages", "gauge", NULL },
	{ "mqttgw_queue_bytes", "gauge", NULL },
	{ "mqttgw_queue_oldest_seconds", "gauge", NULL },
	{ "mqttgw_dead_letters", "gauge", NULL },
	{ "mqttgw_messages_accepted_total", "counter", "qos" },
	{ "mqttgw_messages_delivered_total", "counter", "qos" },
	{ "mqttgw_messages_refused_total", "counter", "error" },
	{ "mqttgw_messages_dropped_total", "counter", "reason" },
	{ "mqttgw_uplink_bytes_total", "counter", "direction" },
	{ "mqttgw_connect_attempts_total", "counter", "broker" },
	{ "mqttgw_connection_up", "gauge", "broker" },
	{ "mqttgw_uplink_state", "gauge", "state" },
	{ "mqttgw_reconnect_seconds", "histogram", "le" },
	{ "mqttgw_inflight_messages", "gauge", NULL },
	{ "mqttgw_inflight_window", "gauge", NULL },
	{ "mqttgw_store_commits_total", "counter", NULL },
	{ "mqttgw_store_written_bytes_total", "counter", NULL },
	{ "mqttgw_commit_seconds", "histogram", "le" },
	{ "mqttgw_delivery_seconds", "histogram", "le" },
};

static void list_two_brokers(void)
{
	f.uplink.n_brokers = 3;
	f.uplink.brokers[0] = (struct figures_broker){ .name = "a:1883", .listed = true };
	f.uplink.brokers[1] =
		(struct figures_broker){ .name = "b:8883", .listed = true, .up = true };
	f.uplink.brokers[2] = (struct figures_broker){ .name = "gone:1" };
}

START_TEST(test_contract)
{
	const char *text, *at;
	unsigned types = 0;

	list_two_brokers();
	text = text_of();
	for (size_t i = 0; i < ARRAY_SIZE(metrics); i++) {
		char line[200], sample[200];

		snprintf(line, sizeof(line), "\n# TYPE %s %s\n", metrics[i].name, metrics[i].type);
		ck_assert_msg(strstr(text, line), "no %s", line);
		snprintf(line, sizeof(line), "# HELP %s ", metrics[i].name);
		ck_assert_msg(strstr(text, line), "no %s", line);
		if (!metrics[i].label)
			snprintf(sample, sizeof(sample), "\n%s ", metrics[i].name);
		else
			snprintf(sample, sizeof(sample), "\n%s%s{%s=\"", metrics[i].name,
				streq(metrics[i].label, "le") ? "_bucket" : "", metrics[i].label);
		ck_assert_msg(strstr(text, sample), "no %s", sample);
	}
	for (at = text; (at = strstr(at, "# TYPE ")); at++)
		types++;
	ck_assert_uint_eq(types, ARRAY_SIZE(metrics));
}
END_TEST

START_TEST(test_queue)
{
	f.messages = 7;
	f.bytes = 4096;
	f.dead_letters = 2;
	f.oldest_msec = 1000;
	f.now_msec = 1250;
	expect(text_of(), "mqttgw_queue_messages",
		"# TYPE mqttgw_queue_messages gauge\n"
		"mqttgw_queue_messages 7\n");
	expect(text_of(), "mqttgw_queue_bytes",
		"# TYPE mqttgw_queue_bytes gauge\n"
		"mqttgw_queue_bytes 4096\n");
	expect(text_of(), "mqttgw_queue_oldest_seconds",
		"# TYPE mqttgw_queue_oldest_seconds gauge\n"
		"mqttgw_queue_oldest_seconds 0.25\n");
	expect(text_of(), "mqttgw_dead_letters",
		"# TYPE mqttgw_dead_letters gauge\n"
		"mqttgw_dead_letters 2\n");
	f.oldest_msec = INT64_MIN;
	ck_assert_ptr_nonnull(strstr(text_of(), "\nmqttgw_queue_oldest_seconds 0\n"));
}
END_TEST

START_TEST(test_messages)
{
	f.accepted[0] = 1;
	f.accepted[1] = 22;
	f.accepted[2] = UINT64_MAX;
	f.uplink.delivered[1] = 21;
	f.dropped[FIGURES_DROPPED_EXPIRED] = 3;
	f.dropped[FIGURES_DROPPED_PURGED] = 4;
	expect(text_of(), "mqttgw_messages_accepted_total",
		"# TYPE mqttgw_messages_accepted_total counter\n"
		"mqttgw_messages_accepted_total{qos=\"0\"} 1\n"
		"mqttgw_messages_accepted_total{qos=\"1\"} 22\n"
		"mqttgw_messages_accepted_total{qos=\"2\"} 18446744073709551615\n");
	expect(text_of(), "mqttgw_messages_delivered_total",
		"# TYPE mqttgw_messages_delivered_total counter\n"
		"mqttgw_messages_delivered_total{qos=\"0\"} 0\n"
		"mqttgw_messages_delivered_total{qos=\"1\"} 21\n"
		"mqttgw_messages_delivered_total{qos=\"2\"} 0\n");
	expect(text_of(), "mqttgw_messages_refused_total",
		"# TYPE mqttgw_messages_refused_total counter\n"
		"mqttgw_messages_refused_total{error=\"bad-json\"} 0\n"
		"mqttgw_messages_refused_total{error=\"bad-topic\"} 5\n"
		"mqttgw_messages_refused_total{error=\"storage\"} 0\n");
	expect(text_of(), "mqttgw_messages_dropped_total",
		"# TYPE mqttgw_messages_dropped_total counter\n"
		"mqttgw_messages_dropped_total{reason=\"overflow\"} 0\n"
		"mqttgw_messages_dropped_total{reason=\"expired\"} 3\n"
		"mqttgw_messages_dropped_total{reason=\"purged\"} 4\n"
		"mqttgw_messages_dropped_total{reason=\"dead-letter-bound\"} 0\n");
}
END_TEST

START_TEST(test_uplink)
{
	f.uplink.bytes_out = 100;
	f.uplink.bytes_in = 50;
	f.uplink.inflight = 3;
	f.uplink.window = 20;
	f.uplink.state = SUPERVISOR_OFFLINE;
	expect(text_of(), "mqttgw_uplink_bytes_total",
		"# TYPE mqttgw_uplink_bytes_total counter\n"
		"mqttgw_uplink_bytes_total{direction=\"out\"} 100\n"
		"mqttgw_uplink_bytes_total{direction=\"in\"} 50\n");
	expect(text_of(), "mqttgw_uplink_state",
		"# TYPE mqttgw_uplink_state gauge\n"
		"mqttgw_uplink_state{state=\"disconnected\"} 0\n"
		"mqttgw_uplink_state{state=\"connecting\"} 0\n"
		"mqttgw_uplink_state{state=\"connected\"} 0\n"
		"mqttgw_uplink_state{state=\"disconnecting\"} 0\n"
		"mqttgw_uplink_state{state=\"error\"} 0\n"
		"mqttgw_uplink_state{state=\"offline\"} 1\n");
	expect(text_of(), "mqttgw_inflight_messages",
		"# TYPE mqttgw_inflight_messages gauge\n"
		"mqttgw_inflight_messages 3\n");
	expect(text_of(), "mqttgw_inflight_window",
		"# TYPE mqttgw_inflight_window gauge\n"
		"mqttgw_inflight_window 20\n");
}
END_TEST

START_TEST(test_brokers)
{
	static const char *const results[] = { "success", "timeout", "heartbeat", "busy", "moved",
		"taken-over", "auth", "protocol" };
	static const char *const names[] = { "a:1883", "b:8883", "gone:1" };
	char expected[3000] = "# TYPE mqttgw_connect_attempts_total counter\n";
	size_t used = strlen(expected);

	list_two_brokers();
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned class = 0; class < N_FAILURE_CLASSES; class ++) {
			f.uplink.brokers[i].attempts[class] = i * 100 + class;
			used += (size_t)snprintf(expected + used, sizeof(expected) - used,
				"mqttgw_connect_attempts_total{broker=\"%s\",result=\"%s\"} %u\n",
				names[i], results[class], i * 100 + class);
		}
	}
	expect(text_of(), "mqttgw_connect_attempts_total", expected);
	expect(text_of(), "mqttgw_connection_up",
		"# TYPE mqttgw_connection_up gauge\n"
		"mqttgw_connection_up{broker=\"a:1883\"} 0\n"
		"mqttgw_connection_up{broker=\"b:8883\"} 1\n");
}
END_TEST

/* Whatever stands in a configuration. */
static const struct {
	const char *name, *label;
} labels[] = {
	{ "[::1]:1883", "[::1]:1883" },
	{ "a\"b", "a\\\"b" },
	{ "a\\b", "a\\\\b" },
	{ "a\nb", "a\\nb" },
	{ "\r\t\x7f", "???" },
	{ "b\xc3\xbc", "b\xc3\xbc" },
	{ "b\xfc:1", "b?:1" },
	{ "\xc3", "?" },
	{ "", "" },
};

START_TEST(test_labels)
{
	char expected[300];

	f.uplink.n_brokers = 1;
	f.uplink.brokers[0].listed = true;
	strcpy(f.uplink.brokers[0].name, labels[_i].name);
	snprintf(expected, sizeof(expected), "\nmqttgw_connection_up{broker=\"%s\"} 0\n",
		labels[_i].label);
	ck_assert_msg(strstr(text_of(), expected), "no %s", expected);
}
END_TEST

START_TEST(test_store)
{
	f.commits = 12;
	f.written_bytes = 34567;
	histogram_add(&f.commit, &histogram_commit, 400, 1);
	histogram_add(&f.commit, &histogram_commit, 1500, 2);
	histogram_add(&f.commit, &histogram_commit, 100 * USEC_PER_SEC, 1);
	expect(text_of(), "mqttgw_store_commits_total",
		"# TYPE mqttgw_store_commits_total counter\n"
		"mqttgw_store_commits_total 12\n");
	expect(text_of(), "mqttgw_store_written_bytes_total",
		"# TYPE mqttgw_store_written_bytes_total counter\n"
		"mqttgw_store_written_bytes_total 34567\n");
	expect(text_of(), "mqttgw_commit_seconds",
		"# TYPE mqttgw_commit_seconds histogram\n"
		"mqttgw_commit_seconds_bucket{le=\"0.0005\"} 1\n"
		"mqttgw_commit_seconds_bucket{le=\"0.001\"} 1\n"
		"mqttgw_commit_seconds_bucket{le=\"0.002\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.005\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.01\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.02\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.05\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.1\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.2\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"0.5\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"1\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"2\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"5\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"10\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"30\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"60\"} 3\n"
		"mqttgw_commit_seconds_bucket{le=\"+Inf\"} 4\n"
		"mqttgw_commit_seconds_sum 100.0034\n"
		"mqttgw_commit_seconds_count 4\n");
}
END_TEST

START_TEST(test_other_histograms)
{
	const char *text;

	histogram_add(&f.delivery, &histogram_delivery, 20000, 5);
	histogram_add(&f.delivery, &histogram_delivery, 25 * 3600 * USEC_PER_SEC, 1);
	histogram_add(&f.uplink.reconnect, &histogram_reconnect, 90 * USEC_PER_SEC, 1);
	text = text_of();
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_delivery_seconds_bucket{le=\"0.005\"} 0\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_delivery_seconds_bucket{le=\"0.02\"} 5\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_delivery_seconds_bucket{le=\"86400\"} 5\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_delivery_seconds_bucket{le=\"604800\"} 6\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_delivery_seconds_sum 90000.1\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_delivery_seconds_count 6\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_reconnect_seconds_bucket{le=\"60\"} 0\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_reconnect_seconds_bucket{le=\"120\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_reconnect_seconds_bucket{le=\"3600\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmqttgw_reconnect_seconds_sum 90\n"));
}
END_TEST

/* For tests/check-metrics.sh: the text, with something in everything, to the file it names. */
START_TEST(test_for_promtool)
{
	const char *path = getenv("MQTTGW_METRICS_TO"), *text;
	FILE *file;

	list_two_brokers();
	strcpy(f.uplink.brokers[2].name, "a \"b\"\n\\:1");
	f.accepted[1] = 123456789012;
	f.oldest_msec = -1;
	f.now_msec = 1;
	histogram_add(&f.commit, &histogram_commit, 1234, 3);
	text = text_of();
	if (!path)
		return;
	file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
}
END_TEST

Suite *check_metrics(void)
{
	Suite *s = suite_create("metrics");
	TCase *t = tcase_create("text");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_contract);
	tcase_add_test(t, test_queue);
	tcase_add_test(t, test_messages);
	tcase_add_test(t, test_uplink);
	tcase_add_test(t, test_brokers);
	tcase_add_loop_test(t, test_labels, 0, ARRAY_SIZE(labels));
	tcase_add_test(t, test_store);
	tcase_add_test(t, test_other_histograms);
	tcase_add_test(t, test_for_promtool);
	suite_add_tcase(s, t);
	return s;
}
