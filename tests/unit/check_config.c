/* SPDX-License-Identifier: MIT */
/*
 * Tests of the configuration: every key's default, good values and faults with file and line, what
 * is printed and read again, includes, credentials, and what libconfig alone would get wrong. The
 * shipped file and the manual page are held against the table of keys.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <systemd/sd-id128.h>

#include "config.h"
#include "config_keys.h"
#include "log.h"
#include "suites.h"

static char dir[] = "/tmp/check-config-XXXXXX";
static char *report; /* the faults of the last load(), without the folder's name */

/* --- helpers --------------------------------------------------------------------------------- */

static void setup(void)
{
	strcpy(dir + sizeof(dir) - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	unsetenv("CREDENTIALS_DIRECTORY");
}

static void teardown(void)
{
	char command[64];

	free(report);
	report = NULL;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static const char *in_dir(const char *name)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % ARRAY_SIZE(paths)];

	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

static void write_bytes(const char *name, const char *bytes, size_t n)
{
	FILE *f = fopen(in_dir(name), "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert_int_eq(chmod(in_dir(name), 0600), 0);
}

static void write_text(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

static char *format(const char *f, ...) _printf_(1, 2);
static char *format(const char *f, ...)
{
	va_list ap;
	char *text;

	va_start(ap, f);
	ck_assert_int_ge(vasprintf(&text, f, ap), 0);
	va_end(ap);
	return text;
}

/* Every "DIR/" goes. */
static void strip_dir(char *text)
{
	char *p;

	while ((p = strstr(text, dir)))
		memmove(p, p + strlen(dir) + 1, strlen(p + strlen(dir) + 1) + 1);
}

/* Loads a file of the folder. NULL: there were faults. */
static struct config *load_file(const char *name)
{
	struct config *c = NULL;
	size_t size;
	FILE *f;
	int r;

	free(report);
	f = open_memstream(&report, &size);
	ck_assert_ptr_nonnull(f);
	r = config_load(&c, in_dir(name), f);
	ck_assert_int_eq(fclose(f), 0);
	strip_dir(report);
	ck_assert_int_eq(r, c ? 0 : -EINVAL);
	ck_assert_int_eq(*report == '\0', c != NULL);
	return c;
}

/* Loads a text, given an id where it has none: the machine may be without one. */
static struct config *load(const char *text)
{
	static const char id[] = "gateway: { id = \"gw\"; };\n";
	char *whole = format("%s\n%s", text, strstr(text, "gateway") ? "" : id);

	write_text("c", whole);
	free(whole);
	return load_file("c");
}

static struct config *load_good(const char *text)
{
	struct config *c = load(text);

	ck_assert_msg(c, "%s\n%s", text, report);
	return c;
}

static void assert_faults(const char *text, const char *expected)
{
	struct config *c = load(text);

	config_free(c);
	ck_assert_msg(!c, "no fault: %s", text);
	ck_assert_str_eq(report, expected);
}

static char *print(const struct config *c)
{
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(config_print(c, f), 0);
	ck_assert_int_eq(fclose(f), 0);
	return text;
}

/* What was printed for "group.key" or "group.group.key" is `expected`. */
static void assert_printed(const char *text, const char *path, const char *expected)
{
	const char *at = text, *dot, *end = NULL;
	char *head, *found;

	for (; (dot = strchr(path, '.')); path = dot + 1) {
		head = format("%.*s: ", (int)(dot - path), path);
		at = strstr(at, head);
		ck_assert_msg(at && (!end || at < end), "%s is not printed", head);
		end = strstr(at, strncmp(head, "brokers", 7) == 0 ? "\n)" : "\n}");
		if (end)
			end++;
		free(head);
	}
	head = format("\t%s = ", path);
	at = strstr(at, head);
	ck_assert_msg(at && at < end, "%s is not printed", path);
	at += strlen(head);
	found = format("%.*s", (int)(strchr(at, '\n') - at), at);
	ck_assert_str_eq(found, expected);
	free(found);
	free(head);
}

static char *repeat(char c, size_t n)
{
	char *text = malloc(n + 1);

	ck_assert_ptr_nonnull(text);
	memset(text, c, n);
	text[n] = '\0';
	return text;
}

static char *read_whole(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	ck_assert_msg(f, "%s: %s", path, strerror(errno));
	ck_assert_int_ge(getdelim(&text, &size, '\0', f), 0);
	fclose(f);
	return text;
}

/* --- defaults -------------------------------------------------------------------------------- */

START_TEST(test_defaults)
{
	struct config *c = load_good("");

	ck_assert_str_eq(c->gateway.id, "gw");
	ck_assert_str_eq(c->socket.path, "/run/mqttgw.sock");
	ck_assert_uint_eq(c->socket.mode, 0660);
	ck_assert_str_eq(c->socket.group, "mqttgw-clients");
	ck_assert_uint_eq(c->socket.default_qos, 1);
	ck_assert_uint_eq(c->socket.max_clients, 1024);
	ck_assert_uint_eq(c->socket.max_message_bytes, 1 << 20);
	ck_assert_uint_eq(c->socket.max_buffered_bytes, 16 << 20);
	ck_assert_uint_eq(c->socket.max_rate, 0);
	ck_assert_uint_eq(c->socket.max_inflight_bytes, 0);
	ck_assert_ptr_null(c->access);
	ck_assert_uint_eq(c->n_access, 0);
	ck_assert_str_eq(c->queue.path, "/var/lib/mqttgw/queue.db");
	ck_assert_int_eq(c->queue.sync, CONFIG_SYNC_FULL);
	ck_assert_uint_eq(c->queue.commit_delay_usec, 0);
	ck_assert_uint_eq(c->queue.max_messages, 0);
	ck_assert_uint_eq(c->queue.max_bytes, 1 << 30);
	ck_assert_uint_eq(c->queue.max_age_usec, 0);
	ck_assert_int_eq(c->queue.overflow, CONFIG_OVERFLOW_REJECT);
	ck_assert_uint_eq(c->queue.max_dead_letters, 10000);
	ck_assert_uint_eq(c->n_brokers, 1);
	ck_assert_str_eq(c->brokers[0].host, "localhost");
	ck_assert_uint_eq(c->brokers[0].port, 1883);
	ck_assert_str_eq(c->brokers[0].username, "");
	ck_assert_str_eq(c->brokers[0].password, "");
	ck_assert_str_eq(c->brokers[0].password_file, "");
	ck_assert(!c->brokers[0].tls.enabled);
	ck_assert(!c->brokers[0].tls.insecure);
	ck_assert_str_eq(c->brokers[0].tls.ca_file, "");
	ck_assert_str_eq(c->brokers[0].tls.ca_path, "");
	ck_assert_str_eq(c->brokers[0].tls.cert_file, "");
	ck_assert_str_eq(c->brokers[0].tls.key_file, "");
	ck_assert_str_eq(c->brokers[0].tls.alpn, "");
	ck_assert_uint_eq(c->brokers[0].priority, 0);
	ck_assert_str_eq(c->discovery.srv, "");
	ck_assert_str_eq(c->discovery.file, "");
	ck_assert_uint_eq(c->discovery.refresh_usec, 300 * USEC_PER_SEC);
	ck_assert_str_eq(c->discovery.template.host, "");
	ck_assert_str_eq(c->discovery.template.tls.alpn, "");
	ck_assert_int_eq(c->mqtt.version, CONFIG_MQTT_AUTO);
	ck_assert_str_eq(c->mqtt.client_id, "mqttgw-gw");
	ck_assert(!c->mqtt.clean_session);
	ck_assert_uint_eq(c->mqtt.ack_timeout_usec, 20 * USEC_PER_SEC);
	ck_assert_uint_eq(c->mqtt.max_rate, 0);
	ck_assert_str_eq(c->mqtt.topic_prefix, "");
	ck_assert(c->mqtt.provenance);
	ck_assert_str_eq(c->mqtt.will.topic, "");
	ck_assert_str_eq(c->mqtt.will.payload, "");
	ck_assert_uint_eq(c->mqtt.will.qos, 1);
	ck_assert(c->mqtt.will.retain);
	ck_assert_str_eq(c->mqtt.birth.topic, "");
	ck_assert_str_eq(c->mqtt.birth.payload, "");
	ck_assert_uint_eq(c->mqtt.birth.qos, 1);
	ck_assert(c->mqtt.birth.retain);
	ck_assert_uint_eq(c->mqtt.keepalive, 60);
	ck_assert_uint_eq(c->mqtt.connect_timeout_usec, 10 * USEC_PER_SEC);
	ck_assert_uint_eq(c->mqtt.inflight_max, 0);
	ck_assert_uint_eq(c->mqtt.inflight_bytes, 1 << 20);
	ck_assert_uint_eq(c->retry.backoff.base_usec, USEC_PER_SEC);
	ck_assert_uint_eq(c->retry.backoff.max_usec, 60 * USEC_PER_SEC);
	ck_assert(c->retry.backoff.multiplier == 2.0);
	ck_assert_int_eq(c->retry.backoff.jitter, BACKOFF_JITTER_FULL);
	ck_assert_uint_eq(c->retry.stable_usec, 30 * USEC_PER_SEC);
	ck_assert_uint_eq(c->retry.timeout_attempts, 3);
	ck_assert_uint_eq(c->retry.heartbeat_attempts, 2);
	ck_assert_uint_eq(c->retry.heartbeat_delay_usec, USEC_PER_SEC);
	ck_assert_uint_eq(c->retry.set_aside_usec, 300 * USEC_PER_SEC);
	ck_assert_uint_eq(c->retry.failback_usec, 300 * USEC_PER_SEC);
	ck_assert_str_eq(c->control.path, "/run/mqttgw/control.sock");
	ck_assert_str_eq(c->metrics.listen, "");
	ck_assert_str_eq(c->report.push_url, "");
	ck_assert_str_eq(c->report.alert_url, "");
	ck_assert_uint_eq(c->report.interval_usec, 300 * USEC_PER_SEC);
	ck_assert_int_eq(c->log.level, LOG_INFO);
	config_free(c);
}
END_TEST

START_TEST(test_everything_set)
{
	struct config *c = load_good(
		"gateway: { id = \"g.1_a-B\"; };\n"
		"socket: { path = \"/s\"; mode = \"0600\"; group = \"\"; default_qos = 2;\n"
		"	max_clients = 7; max_message_bytes = 2048; max_buffered_bytes = \"3K\";\n"
		"	max_rate = 22; max_inflight_bytes = \"23K\"; };\n"
		"access: ( { group = \"root\"; topics = [ \"a/#\", \"+\" ]; },\n"
		"	{ user = \"4242\"; topics = ( \"#\" ); } );\n"
		"queue: { path = \"/q\"; sync = \"normal\"; commit_delay = 0.5;\n"
		"	max_messages = 18; max_bytes = \"19M\"; max_age = 20.5;\n"
		"	overflow = \"drop-oldest\"; max_dead_letters = 21; };\n"
		"brokers: ( { host = \"b\"; port = 2; username = \"u\"; password = \"p\";\n"
		"	tls: { ca_path = \"/\"; alpn = \"mqtt\"; insecure = true; }; } );\n"
		"discovery: { refresh = 3.5; };\n"
		"mqtt: { version = \"3.1.1\"; client_id = \"c\"; keepalive = 9;\n"
		"	connect_timeout = 0.25; inflight_max = 11; inflight_bytes = \"12K\";\n"
		"	clean_session = true; ack_timeout = 1.5; max_rate = \"64\";\n"
		"	topic_prefix = \"p/%i/\"; provenance = false;\n"
		"	will: { topic = \"w/%i\"; payload = \"gone\"; qos = 0; retain = false; };\n"
		"	birth: { topic = \"b\"; payload = \"here\"; qos = 2; retain = false; }; "
		"};\n"
		"retry: { base = 13; max = 14.5; multiplier = 15; jitter = \"none\"; stable = 0;\n"
		"	timeout_attempts = 16; heartbeat_attempts = 0; heartbeat_delay = 0;\n"
		"	set_aside = 17; failback = 0.5; };\n"
		"control: { path = \"/c\"; };\n"
		"metrics: { listen = \"[::1]:9641\"; };\n"
		"report: { push_url = \"http://p\"; alert_url = \"https://a\"; interval = 1.5; };\n"
		"log: { level = \"debug\"; };\n");

	ck_assert_str_eq(c->gateway.id, "g.1_a-B");
	ck_assert_str_eq(c->socket.path, "/s");
	ck_assert_uint_eq(c->socket.mode, 0600);
	ck_assert_str_eq(c->socket.group, "");
	ck_assert_uint_eq(c->socket.default_qos, 2);
	ck_assert_uint_eq(c->socket.max_clients, 7);
	ck_assert_uint_eq(c->socket.max_message_bytes, 2048);
	ck_assert_uint_eq(c->socket.max_buffered_bytes, 3072);
	ck_assert_uint_eq(c->socket.max_rate, 22);
	ck_assert_uint_eq(c->socket.max_inflight_bytes, 23 << 10);
	ck_assert_uint_eq(c->n_access, 2);
	ck_assert_str_eq(c->access[0].user, "");
	ck_assert_str_eq(c->access[0].group, "root");
	ck_assert_uint_eq(c->access[0].id, 0);
	ck_assert_uint_eq(c->access[0].topics.n, 2);
	ck_assert_str_eq(c->access[0].topics.list[0], "a/#");
	ck_assert_str_eq(c->access[0].topics.list[1], "+");
	ck_assert_str_eq(c->access[1].user, "4242");
	ck_assert_uint_eq(c->access[1].id, 4242);
	ck_assert_str_eq(c->queue.path, "/q");
	ck_assert_int_eq(c->queue.sync, CONFIG_SYNC_NORMAL);
	ck_assert_uint_eq(c->queue.commit_delay_usec, 500000);
	ck_assert_uint_eq(c->queue.max_messages, 18);
	ck_assert_uint_eq(c->queue.max_bytes, 19 << 20);
	ck_assert_uint_eq(c->queue.max_age_usec, 20500000);
	ck_assert_int_eq(c->queue.overflow, CONFIG_OVERFLOW_DROP_OLDEST);
	ck_assert_uint_eq(c->queue.max_dead_letters, 21);
	ck_assert_str_eq(c->brokers[0].host, "b");
	ck_assert_uint_eq(c->brokers[0].port, 2);
	ck_assert_str_eq(c->brokers[0].username, "u");
	ck_assert_str_eq(c->brokers[0].password, "p");
	ck_assert_str_eq(c->brokers[0].password_file, "");
	ck_assert(c->brokers[0].tls.enabled);
	ck_assert(c->brokers[0].tls.insecure);
	ck_assert_str_eq(c->brokers[0].tls.ca_path, "/");
	ck_assert_str_eq(c->brokers[0].tls.alpn, "mqtt");
	ck_assert_uint_eq(c->discovery.refresh_usec, 3500000);
	ck_assert(c->mqtt.clean_session);
	ck_assert_uint_eq(c->mqtt.ack_timeout_usec, 1500000);
	ck_assert_uint_eq(c->mqtt.max_rate, 64);
	ck_assert_str_eq(c->mqtt.topic_prefix, "p/g.1_a-B/");
	ck_assert(!c->mqtt.provenance);
	ck_assert_str_eq(c->mqtt.will.topic, "w/g.1_a-B");
	ck_assert_str_eq(c->mqtt.will.payload, "gone");
	ck_assert_uint_eq(c->mqtt.will.qos, 0);
	ck_assert(!c->mqtt.will.retain);
	ck_assert_str_eq(c->mqtt.birth.topic, "b");
	ck_assert_str_eq(c->mqtt.birth.payload, "here");
	ck_assert_uint_eq(c->mqtt.birth.qos, 2);
	ck_assert(!c->mqtt.birth.retain);
	ck_assert_str_eq(c->control.path, "/c");
	ck_assert_str_eq(c->metrics.listen, "[::1]:9641");
	ck_assert_str_eq(c->report.push_url, "http://p");
	ck_assert_str_eq(c->report.alert_url, "https://a");
	ck_assert_uint_eq(c->report.interval_usec, 1500000);
	ck_assert_int_eq(c->mqtt.version, CONFIG_MQTT_311);
	ck_assert_str_eq(c->mqtt.client_id, "c");
	ck_assert_uint_eq(c->mqtt.keepalive, 9);
	ck_assert_uint_eq(c->mqtt.connect_timeout_usec, 250000);
	ck_assert_uint_eq(c->mqtt.inflight_max, 11);
	ck_assert_uint_eq(c->mqtt.inflight_bytes, 12288);
	ck_assert_uint_eq(c->retry.backoff.base_usec, 13 * USEC_PER_SEC);
	ck_assert_uint_eq(c->retry.backoff.max_usec, 14500000);
	ck_assert(c->retry.backoff.multiplier == 15.0);
	ck_assert_int_eq(c->retry.backoff.jitter, BACKOFF_JITTER_NONE);
	ck_assert_uint_eq(c->retry.stable_usec, 0);
	ck_assert_uint_eq(c->retry.timeout_attempts, 16);
	ck_assert_uint_eq(c->retry.heartbeat_attempts, 0);
	ck_assert_uint_eq(c->retry.heartbeat_delay_usec, 0);
	ck_assert_uint_eq(c->retry.set_aside_usec, 17 * USEC_PER_SEC);
	ck_assert_uint_eq(c->retry.failback_usec, 500000);
	ck_assert_int_eq(c->log.level, LOG_DEBUG);
	config_free(c);
}
END_TEST

/* --- good values ----------------------------------------------------------------------------- */

/* The text of a group, and what is printed for one key of it. */
static const struct {
	const char *text;
	const char *key;
	const char *printed;
} good[] = {
	{ "gateway: { id = \"A-z_0.9\"; };", "gateway.id", "\"A-z_0.9\";" },
	{ "socket: { path = \"/a b/\\\"q\\\"\\\\x\"; };", "socket.path",
		"\"/a b/\\\"q\\\"\\\\x\";" },
	{ "socket: { path = \"/a\" \"b\"; };", "socket.path", "\"/ab\";" },
	{ "socket: { mode = \"0000\"; };", "socket.mode", "\"0000\";" },
	{ "socket: { mode = \"0777\"; };", "socket.mode", "\"0777\";" },
	{ "socket: { group = \"DOM\\\\a group\"; };", "socket.group", "\"DOM\\\\a group\";" },
	{ "socket: { default_qos = 0; };", "socket.default_qos", "0;" },
	{ "socket: { default_qos = 0x2; };", "socket.default_qos", "2;" },
	{ "socket: { max_clients = 1; };", "socket.max_clients", "1;" },
	{ "socket: { max_clients = 65536L; };", "socket.max_clients", "65536;" },
	{ "socket: { max_message_bytes = 1024; };", "socket.max_message_bytes", "\"1K\";" },
	{ "socket: { max_message_bytes = \"1025\"; };", "socket.max_message_bytes", "\"1025\";" },
	{ "socket: { max_buffered_bytes = \"64M\"; max_message_bytes = \"64M\"; };",
		"socket.max_message_bytes", "\"64M\";" },
	{ "socket: { max_buffered_bytes = \"1G\"; };", "socket.max_buffered_bytes", "\"1G\";" },
	{ "socket: { max_buffered_bytes = \"1024K\"; };", "socket.max_buffered_bytes", "\"1M\";" },
	{ "queue: { sync = \"full\"; };", "queue.sync", "\"full\";" },
	{ "queue: { commit_delay = 0; };", "queue.commit_delay", "0.0;" },
	{ "queue: { commit_delay = 3600; };", "queue.commit_delay", "3600.0;" },
	{ "queue: { };", "queue.max_messages", "\"none\";" },
	{ "queue: { max_messages = \"none\"; };", "queue.max_messages", "\"none\";" },
	{ "queue: { max_messages = 1; };", "queue.max_messages", "1;" },
	{ "queue: { max_messages = 2147483647; };", "queue.max_messages", "2147483647;" },
	{ "queue: { max_messages = 2147483648L; };", "queue.max_messages", "2147483648L;" },
	{ "queue: { max_messages = 1000000000000000L; };", "queue.max_messages",
		"1000000000000000L;" },
	{ "queue: { max_bytes = \"none\"; };", "queue.max_bytes", "\"none\";" },
	{ "queue: { max_bytes = 262144; };", "queue.max_bytes", "\"256K\";" },
	{ "queue: { max_bytes = \"1048576G\"; };", "queue.max_bytes", "\"1048576G\";" },
	{ "queue: { };", "queue.max_age", "\"none\";" },
	{ "queue: { max_age = \"none\"; };", "queue.max_age", "\"none\";" },
	{ "queue: { max_age = 0.000001; };", "queue.max_age", "0.000001;" },
	{ "queue: { max_age = 3153600000L; };", "queue.max_age", "3153600000.0;" },
	{ "queue: { overflow = \"drop-oldest\"; };", "queue.overflow", "\"drop-oldest\";" },
	{ "queue: { max_dead_letters = \"none\"; };", "queue.max_dead_letters", "\"none\";" },
	{ "queue: { max_dead_letters = 1; };", "queue.max_dead_letters", "1;" },
	{ "brokers: ( { host = \"fe80::1%eth0\"; } );", "brokers.host", "\"fe80::1%eth0\";" },
	{ "brokers = ( { host = \"b-1.example\" } )", "brokers.host", "\"b-1.example\";" },
	{ "brokers: ( { } );", "brokers.host", "\"localhost\";" },
	{ "brokers: ( { port = 1; } );", "brokers.port", "1;" },
	{ "brokers: ( { port = 65535; } );", "brokers.port", "65535;" },
	{ "brokers: ( { username = \"\xC3\xBC\"; } );", "brokers.username", "\"\xC3\xBC\";" },
	{ "brokers: ( { username = \"u\"; password = \"s\\x01\"; } );", "brokers.password",
		"\"***\";" },
	{ "brokers: ( { username = \"u\"; } );", "brokers.password", "\"\";" },
	{ "brokers: ( { tls: { }; } );", "brokers.port", "8883;" },
	{ "brokers: ( { tls: { }; } );", "brokers.tls.insecure", "false;" },
	{ "brokers: ( { tls: { }; port = 1883; } );", "brokers.port", "1883;" },
	{ "brokers: ( { tls: { ca_file = \"/etc/passwd\"; }; } );", "brokers.tls.ca_file",
		"\"/etc/passwd\";" },
	{ "brokers: ( { tls: { ca_path = \"/etc/\"; }; } );", "brokers.tls.ca_path", "\"/etc/\";" },
	{ "brokers: ( { tls: { cert_file = \"/etc/passwd\"; key_file = \"/etc/passwd\"; }; } );",
		"brokers.tls.key_file", "\"/etc/passwd\";" },
	{ "brokers: ( { tls: { alpn = \"x-amzn-mqtt-ca\"; }; } );", "brokers.tls.alpn",
		"\"x-amzn-mqtt-ca\";" },
	{ "brokers: ( { host = \"a\"; }, { host = \"a\"; tls: { }; }, { } );", "brokers.host",
		"\"a\";" },
	{ "discovery: { srv = \"_mqtt._tcp.example.org\"; };", "discovery.srv",
		"\"_mqtt._tcp.example.org\";" },
	{ "discovery: { srv = \"_mqtt._tcp.example.org\"; };", "brokers.username", "\"\";" },
	{ "discovery: { srv = \"_a-1._tcp.b_c.example.\"; };", "discovery.srv",
		"\"_a-1._tcp.b_c.example.\";" },
	{ "discovery: { srv = \"_Secure-MQTT._TCP.example.org\"; };", "brokers.tls.insecure",
		"false;" },
	{ "discovery: { srv = \"_secure-mqtt._tcp.x\"; }; brokers: ( { username = \"u\"; } );",
		"brokers.tls.insecure", "false;" },
	{ "brokers: ( { tls: { alpn = \"mqtt\"; }; username = \"u\"; password = \"p\"; } );"
	  "discovery: { srv = \"_mqtt._tcp.x\"; };",
		"brokers.password", "\"***\";" },
	{ "discovery: { file = \"/absent/brokers\"; };", "discovery.file", "\"/absent/brokers\";" },
	{ "discovery: { refresh = 86400; };", "discovery.refresh", "86400.0;" },
	{ "mqtt: { clean_session = TRUE; };", "mqtt.clean_session", "true;" },
	{ "mqtt: { provenance = false; };", "mqtt.provenance", "false;" },
	{ "mqtt: { ack_timeout = 3600; };", "mqtt.ack_timeout", "3600.0;" },
	{ "mqtt: { max_rate = \"none\"; };", "mqtt.max_rate", "\"none\";" },
	{ "mqtt: { max_rate = 64; };", "mqtt.max_rate", "\"64\";" },
	{ "mqtt: { max_rate = \"1G\"; };", "mqtt.max_rate", "\"1G\";" },
	{ "mqtt: { topic_prefix = \"/%i/%%/\xC3\xBC\"; };", "mqtt.topic_prefix",
		"\"/gw/%%/\xC3\xBC\";" },
	{ "mqtt: { will: { topic = \"w/%i\"; }; };", "mqtt.will.topic", "\"w/gw\";" },
	{ "mqtt: { will: { topic = \"$w\"; payload = \"\\xFF\\x01%i\"; }; };", "mqtt.will.payload",
		"\"\xFF\\x01%i\";" },
	{ "mqtt: { will: { topic = \"w\"; qos = 0; }; };", "mqtt.will.qos", "0;" },
	{ "mqtt: { birth: { topic = \"w\"; retain = false; }; };", "mqtt.birth.retain", "false;" },
	{ "mqtt: { birth: { topic = \"w\"; retain = false; }; };", "mqtt.will.retain", "true;" },
	{ "mqtt: { birth: { topic = \"\"; payload = \"\"; qos = 1; retain = true; }; };",
		"mqtt.birth.topic", "\"\";" },
	{ "mqtt: { version = \"5\"; };", "mqtt.version", "\"5\";" },
	{ "mqtt: { version = \"3.1.1\"; };", "mqtt.version", "\"3.1.1\";" },
	{ "mqtt: { client_id = \"a%%i#+\xF0\x9F\x90\x9D\"; };", "mqtt.client_id",
		"\"a%%i#+\xF0\x9F\x90\x9D\";" },
	{ "mqtt: { client_id = \"%i/%i%%\"; };", "mqtt.client_id", "\"gw/gw%%\";" },
	{ "mqtt: { keepalive = 0; };", "mqtt.keepalive", "0;" },
	{ "mqtt: { keepalive = 5; };", "mqtt.keepalive", "5;" },
	{ "mqtt: { keepalive = 65535; };", "mqtt.keepalive", "65535;" },
	{ "mqtt: { connect_timeout = 0.000001; };", "mqtt.connect_timeout", "0.000001;" },
	{ "mqtt: { connect_timeout = 3600; };", "mqtt.connect_timeout", "3600.0;" },
	{ "mqtt: { connect_timeout = 2.5e-1; };", "mqtt.connect_timeout", "0.25;" },
	{ "mqtt: { inflight_max = 65000; };", "mqtt.inflight_max", "65000;" },
	{ "mqtt: { inflight_bytes = \"1K\"; };", "mqtt.inflight_bytes", "\"1K\";" },
	{ "mqtt: { inflight_bytes = 1073741824; };", "mqtt.inflight_bytes", "\"1G\";" },
	{ "retry: { base = 0.1; };", "retry.base", "0.1;" },
	{ "retry: { base = 60; };", "retry.base", "60.0;" },
	{ "retry: { max = 86400; };", "retry.max", "86400.0;" },
	{ "retry: { max = 100L; };", "retry.max", "100.0;" },
	{ "retry: { multiplier = 1; };", "retry.multiplier", "1.0;" },
	{ "retry: { multiplier = 1.1; };", "retry.multiplier", "1.1;" },
	{ "retry: { multiplier = 1.2345678901234567; };", "retry.multiplier",
		"1.2345678901234567;" },
	{ "retry: { multiplier = 1e2; };", "retry.multiplier", "1e+02;" },
	{ "retry: { jitter = \"proportional\"; };", "retry.jitter", "\"proportional\";" },
	{ "retry: { jitter = \"additive\"; };", "retry.jitter", "\"additive\";" },
	{ "retry: { stable = 0; };", "retry.stable", "0.0;" },
	{ "retry: { timeout_attempts = 1; };", "retry.timeout_attempts", "1;" },
	{ "retry: { timeout_attempts = 1000; };", "retry.timeout_attempts", "1000;" },
	{ "retry: { heartbeat_attempts = 0; };", "retry.heartbeat_attempts", "0;" },
	{ "retry: { heartbeat_attempts = 1000; };", "retry.heartbeat_attempts", "1000;" },
	{ "retry: { heartbeat_delay = 0; };", "retry.heartbeat_delay", "0.0;" },
	{ "retry: { heartbeat_delay = 3600; };", "retry.heartbeat_delay", "3600.0;" },
	{ "retry: { set_aside = 0.5; };", "retry.set_aside", "0.5;" },
	{ "retry: { failback = 86400; };", "retry.failback", "86400.0;" },
	{ "retry: { stable = 86400; };", "retry.stable", "86400.0;" },
	{ "control: { path = \"/run/\xC3\xBC\"; };", "control.path", "\"/run/\xC3\xBC\";" },
	{ "control: { };", "control.path", "\"/run/mqttgw/control.sock\";" },
	{ "metrics: { listen = \"0.0.0.0:1\"; };", "metrics.listen", "\"0.0.0.0:1\";" },
	{ "metrics: { listen = \"127.0.0.1:65535\"; };", "metrics.listen", "\"127.0.0.1:65535\";" },
	{ "metrics: { listen = \"[::]:9641\"; };", "metrics.listen", "\"[::]:9641\";" },
	{ "metrics: { listen = \"[::ffff:1.2.3.4]:80\"; };", "metrics.listen",
		"\"[::ffff:1.2.3.4]:80\";" },
	{ "report: { push_url = \"http://h:9091\"; };", "report.push_url", "\"http://h:9091\";" },
	{ "report: { push_url = \"HTTP://[::1]:1/x/\"; };", "report.push_url",
		"\"HTTP://[::1]:1/x/\";" },
	/* what may be a secret is not shown, and what is shown can be read */
	{ "report: { push_url = \"https://u:p@h/x?k=s#f\"; };", "report.push_url",
		"\"https://***@h/x?***\";" },
	{ "report: { alert_url = \"https://t0ken@h:8443\"; };", "report.alert_url",
		"\"https://***@h:8443\";" },
	{ "report: { alert_url = \"http://h/hook?key=\\\"\"; };", "report.alert_url",
		"\"http://h/hook?***\";" },
	{ "report: { interval = 1; };", "report.interval", "1.0;" },
	{ "report: { interval = 86400; };", "report.interval", "86400.0;" },
	{ "report: { alert_url = \"\"; };", "report.alert_url", "\"\";" },
	{ "log: { level = \"error\"; };", "log.level", "\"error\";" },
	{ "log: { level = \"warning\"; };", "log.level", "\"warning\";" },
	{ "log: { level = \"notice\"; };", "log.level", "\"notice\";" },
	{ "log: { }; mqtt = { };", "log.level", "\"info\";" },
	/* the syntax around it */
	{ "\xEF\xBB\xBFlog: { level = \"error\"; };", "log.level", "\"error\";" },
	{ "log: {\r\n\tlevel = \"error\"; // why\r\n};\r\n", "log.level", "\"error\";" },
	{ "/* log: { level = \"debug\"; }; 9999999999 */ // 9999999999\n# 9999999999", "log.level",
		"\"info\";" },
	{ "socket: { path = \"/9999999999 # // /* \"; };", "socket.path",
		"\"/9999999999 # // /* \";" },
};

/* The second print is as the first: what is printed reads back as the same. */
static void assert_round_trip(const struct config *c)
{
	char *first = print(c), *second;
	struct config *again = load_good(first);

	second = print(again);
	ck_assert_str_eq(second, first);
	config_free(again);
	free(first);
	free(second);
}

START_TEST(test_good)
{
	struct config *c;
	char *text;

	c = load_good(good[_i].text);
	text = print(c);
	assert_printed(text, good[_i].key, good[_i].printed);
	free(text);
	assert_round_trip(c);
	config_free(c);
}
END_TEST

/* --- faults ---------------------------------------------------------------------------------- */

#define SIZE_RANGE(least, most)                                                                \
	"allowed: " least " to " most ", as a string such as \"64K\", \"1M\" or \"1G\", or a " \
	"plain integer\n"
#define BUFFERED SIZE_RANGE("1K", "1G")
#define MESSAGE	 SIZE_RANGE("1K", "64M")
#define ID                                                                                   \
	"allowed: 1 to 64 letters, digits, '.', '_', '-', or \"\" for one derived from the " \
	"machine\n"
#define HOST	  "allowed: a host name or an address, without \"mqtt://\", brackets or port\n"
#define MODE	  "allowed: an octal string, \"0000\" to \"0777\"\n"
#define LEVELS	  "\"error\", \"warning\", \"notice\", \"info\", \"debug\"\n"
#define PERCENT	  "a % that means nothing; allowed: %i (gateway's id), %h (host name), %% (a %)\n"
#define CLIENT_ID "not a client id; allowed: 1 to 240 bytes of UTF-8, no control characters\n"
#define USERNAME  "allowed: UTF-8 of at most 65535 bytes without control characters\n"
#define SYNTAX                                                                                  \
	"syntax error; allowed: name = value; with groups in { }, lists in ( ) and strings in " \
	"\" \"\n"
#define ALPN "allowed: 1 to 255 ASCII characters without blanks, or \"\" for none\n"
#define SRV                                                                                      \
	"allowed: a name such as \"_mqtt._tcp.example.org\", at most 253 letters, digits, '-', " \
	"'_', "                                                                                  \
	"'.'\n"
#define RATE                                                                                   \
	"allowed: \"none\", or 64 to 1G, as a string such as \"64K\", \"1M\" or \"1G\", or a " \
	"plain integer\n"
#define QUEUE_BYTES                                                                               \
	"allowed: \"none\", or 256K to 1048576G, as a string such as \"64K\", \"1M\" or \"1G\", " \
	"or a plain integer\n"
#define COUNT_OR_NONE "allowed: \"none\", or 1 to 1000000000000000\n"
#define AGE	      "allowed: \"none\", or above 0, up to 3153600000 seconds\n"
#define TOPIC                                                                                  \
	"not a topic name; allowed: at most 65535 bytes of UTF-8, no \"+\", \"#\" or control " \
	"characters, or \"\" for none\n"
#define PREFIX                                                                                     \
	"not the start of a topic name; allowed: at most 1024 bytes of UTF-8, no \"+\", \"#\" or " \
	"control characters\n"
#define GROUPS                                                                                 \
	"allowed: gateway, socket, control, queue, brokers, discovery, mqtt, retry, metrics, " \
	"report, access, log\n"
#define TOPICS "allowed: topics = ( \"sensors/#\", \"log/+\" );\n"
#define RULE   "{ user = \"...\"; topics = ( \"sensors/#\", \"log/+\" ); }"
#define RULES                                                                                \
	"allowed: 1 to 256 rules, or no list: whoever can open the socket may then publish " \
	"all\n"
#define WHO   "allowed: user = \"NAME\", or group = \"NAME\"\n"
#define USER  "allowed: a user of this machine, or its number\n"
#define GROUP "allowed: a group of this machine, or its number\n"
#define FILTER                                                                                 \
	"allowed: a topic filter, in which \"+\" stands for a level and \"#\" at its end for " \
	"all below\n"
#define CONTROL_PATH "is not allowed; allowed: an absolute path of at most 107 bytes\n"
#define LISTEN                                                                       \
	"is not allowed; allowed: \"ADDRESS:PORT\" with a numeric address, such as " \
	"\"127.0.0.1:9641\" or \"[::1]:9641\", or \"\" for none\n"
#define URL                                                                                       \
	"this value is not allowed; allowed: \"http://HOST...\" or \"https://HOST...\", at most " \
	"2000 ASCII characters without blanks, or \"\" for none\n"
#define LISTEN_FAULT(listen)                                          \
	{                                                             \
		"metrics: { listen = \"" listen "\"; };",             \
			"c:1: metrics.listen: \"" listen "\" " LISTEN \
	}
#define URL_FAULT(url)                                                                 \
	{                                                                              \
		"report: { alert_url = \"" url "\"; };", "c:1: report.alert_url: " URL \
	}

static const struct {
	const char *text;
	const char *faults;
} bad[] = {
	/* gateway */
	{ "gateway: { id = \"a b\"; };", "c:1: gateway.id: \"a b\" is not allowed; " ID },
	{ "gateway: { id = 5; };", "c:1: gateway.id: found an integer, wanted a string\n" },
	{ "gateway = \"gw\";",
		"c:1: gateway: found a string, wanted a group: { name = value; ... }\n" },
	/* socket */
	{ "socket: {\n\tpath = \"run/x\";\n};",
		"c:2: socket.path: \"run/x\" is not allowed; allowed: an absolute path of at most "
		"107 bytes\n" },
	{ "socket: {\n\tpath = \"\";\n};",
		"c:2: socket.path: \"\" is not allowed; allowed: an absolute path of at most 107 "
		"bytes\n" },
	{ "socket: {\n\tpath = \"/run/\";\n};",
		"c:2: socket.path: \"/run/\" is not allowed; allowed: an absolute path of at most "
		"107 bytes\n" },
	{ "socket: { path = \"/a\\nb\"; };",
		"c:1: socket.path: \"/a\\nb\" is not allowed; allowed: an absolute path of at most "
		"107 bytes\n" },
	{ "socket: { path = [ \"/x\" ]; };",
		"c:1: socket.path: found an array, wanted a string\n" },
	{ "socket: { mode = 0660; };",
		"c:1: socket.mode: found an integer, wanted a string: an octal string, \"0000\" to "
		"\"0777\"\n" },
	{ "socket: { mode = \"660\"; };", "c:1: socket.mode: \"660\" is not allowed; " MODE },
	{ "socket: { mode = \"0680\"; };", "c:1: socket.mode: \"0680\" is not allowed; " MODE },
	{ "socket: { mode = \"1777\"; };", "c:1: socket.mode: \"1777\" is not allowed; " MODE },
	{ "socket: { mode = \"00660\"; };", "c:1: socket.mode: \"00660\" is not allowed; " MODE },
	{ "socket: { group = \"a:b\"; };",
		"c:1: socket.group: \"a:b\" is not allowed; allowed: the name of a group, or \"\" "
		"to leave the group alone\n" },
	{ "socket: { group = ( ); };", "c:1: socket.group: found a list, wanted a string\n" },
	{ "socket: { default_qos = 3; };",
		"c:1: socket.default_qos: 3 is not allowed; allowed: 0 to 2\n" },
	{ "socket: { default_qos = -1; };",
		"c:1: socket.default_qos: -1 is not allowed; allowed: 0 to 2\n" },
	{ "socket: { default_qos = 1.0; };",
		"c:1: socket.default_qos: found a float, wanted an integer: 0 to 2\n" },
	{ "socket: { max_clients = 0; };",
		"c:1: socket.max_clients: 0 is not allowed; allowed: 1 to 65536\n" },
	{ "socket: { max_clients = 65537; };",
		"c:1: socket.max_clients: 65537 is not allowed; allowed: 1 to 65536\n" },
	{ "socket: { max_clients = \"1K\"; };",
		"c:1: socket.max_clients: found a string, wanted an integer: 1 to 65536\n" },
	{ "socket: { max_message_bytes = 1023; };",
		"c:1: socket.max_message_bytes: 1023 is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"65M\"; };",
		"c:1: socket.max_message_bytes: \"65M\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"1m\"; };",
		"c:1: socket.max_message_bytes: \"1m\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"1MB\"; };",
		"c:1: socket.max_message_bytes: \"1MB\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"M\"; };",
		"c:1: socket.max_message_bytes: \"M\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"\"; };",
		"c:1: socket.max_message_bytes: \"\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"-1K\"; };",
		"c:1: socket.max_message_bytes: \"-1K\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = \"none\"; };",
		"c:1: socket.max_message_bytes: \"none\" is not allowed; " MESSAGE },
	{ "socket: { max_message_bytes = 1e6; };",
		"c:1: socket.max_message_bytes: found a float, wanted a size: 1K to 64M, as a "
		"string such as \"64K\", \"1M\" or \"1G\", or a plain integer\n" },
	{ "socket: { max_buffered_bytes = 0; };",
		"c:1: socket.max_buffered_bytes: 0 is not allowed; " BUFFERED },
	{ "socket: { max_buffered_bytes = \"99999999999999999999999G\"; };",
		"c:1: socket.max_buffered_bytes: \"99999999999999999999999G\" is not "
		"allowed; " BUFFERED },
	{ "socket: { max_buffered_bytes = true; };",
		"c:1: socket.max_buffered_bytes: found a boolean, wanted a size: 1K to 1G, as a "
		"string such as \"64K\", \"1M\" or \"1G\", or a plain integer\n" },
	{ "socket: {\n\tmax_message_bytes = \"32M\";\n};",
		"c:2: socket.max_buffered_bytes: 16M is less than max_message_bytes; allowed: 32M "
		"or more\n" },
	{ "socket: {\n\tmax_message_bytes = \"2K\";\n\tmax_buffered_bytes = \"1K\"; };",
		"c:3: socket.max_buffered_bytes: 1K is less than max_message_bytes; allowed: 2K "
		"or more\n" },
	/* queue */
	{ "queue: { path = \"queue.db\"; };",
		"c:1: queue.path: \"queue.db\" is not allowed; allowed: an absolute path of at "
		"most 480 bytes\n" },
	{ "queue: { sync = \"off\"; };",
		"c:1: queue.sync: \"off\" is not allowed; allowed: \"full\", \"normal\"\n" },
	{ "queue: { sync = true; };",
		"c:1: queue.sync: found a boolean, wanted a string: \"full\", \"normal\"\n" },
	{ "queue: { commit_delay = -0.1; };",
		"c:1: queue.commit_delay: -0.1 is not allowed; allowed: 0 to 3600 seconds\n" },
	{ "queue: { commit_delay = \"none\"; };",
		"c:1: queue.commit_delay: found a string, wanted a number: 0 to 3600 seconds\n" },
	{ "queue: { max_messages = 0; };",
		"c:1: queue.max_messages: 0 is not allowed; " COUNT_OR_NONE },
	{ "queue: { max_messages = -1; };",
		"c:1: queue.max_messages: -1 is not allowed; " COUNT_OR_NONE },
	{ "queue: { max_messages = 1000000000000001L; };",
		"c:1: queue.max_messages: 1000000000000001 is not allowed; " COUNT_OR_NONE },
	{ "queue: { max_messages = \"1000\"; };",
		"c:1: queue.max_messages: \"1000\" is not allowed; " COUNT_OR_NONE },
	{ "queue: { max_messages = \"\"; };",
		"c:1: queue.max_messages: \"\" is not allowed; " COUNT_OR_NONE },
	{ "queue: { max_messages = 1.5; };",
		"c:1: queue.max_messages: found a float, wanted an integer: \"none\", or 1 to "
		"1000000000000000\n" },
	{ "queue: { max_bytes = 0; };", "c:1: queue.max_bytes: 0 is not allowed; " QUEUE_BYTES },
	{ "queue: { max_bytes = \"255K\"; };",
		"c:1: queue.max_bytes: \"255K\" is not allowed; " QUEUE_BYTES },
	{ "queue: { max_age = 0; };", "c:1: queue.max_age: 0 is not allowed; " AGE },
	{ "queue: { max_age = 0.0; };", "c:1: queue.max_age: 0 is not allowed; " AGE },
	{ "queue: { max_age = 1e-7; };", "c:1: queue.max_age: 1e-07 is not allowed; " AGE },
	{ "queue: { max_age = 1e10; };", "c:1: queue.max_age: 1e+10 is not allowed; " AGE },
	{ "queue: { max_age = \"1d\"; };", "c:1: queue.max_age: \"1d\" is not allowed; " AGE },
	{ "queue: { max_age = true; };",
		"c:1: queue.max_age: found a boolean, wanted a number: \"none\", or above 0, up to "
		"3153600000 seconds\n" },
	{ "queue: { overflow = \"none\"; };",
		"c:1: queue.overflow: \"none\" is not allowed; allowed: \"reject\", "
		"\"drop-oldest\"\n" },
	{ "queue: { max_dead_letters = 0; };",
		"c:1: queue.max_dead_letters: 0 is not allowed; " COUNT_OR_NONE },
	/* brokers */
	{ "brokers: ( );", "c:1: brokers: the list is empty; allowed: 1 to 32 brokers\n" },
	{ "brokers: [ ];", "c:1: brokers: the list is empty; allowed: 1 to 32 brokers\n" },
	{ "brokers: {\n\thost = \"x\"; };",
		"c:1: brokers: found a group, wanted a list: ( { host = \"...\"; } )\n" },
	{ "brokers: [ 1 ];",
		"c:1: brokers[0]: found an integer, wanted a group: { host = \"...\"; }\n" },
	{ "brokers: ( { host = \"a\"; },\n{ hots = \"b\";\nport = 0; },\n{ } );",
		"c:2: unknown key \"brokers[1].hots\"; did you mean \"brokers.host\"?\n"
		"c:3: brokers[1].port: 0 is not allowed; allowed: 1 to 65535\n" },
	{ "brokers: ( { host = \"\"; } );", "c:1: brokers[0].host: \"\" is not allowed; " HOST },
	{ "brokers: ( { host = \"mqtt://b\"; } );",
		"c:1: brokers[0].host: \"mqtt://b\" is not allowed; " HOST },
	{ "brokers: ( { host = \"[::1]\"; } );",
		"c:1: brokers[0].host: \"[::1]\" is not allowed; " HOST },
	{ "brokers: ( { host = \"a b\"; } );",
		"c:1: brokers[0].host: \"a b\" is not allowed; " HOST },
	{ "brokers: (\n{\nport = 0; } );",
		"c:3: brokers[0].port: 0 is not allowed; allowed: 1 to 65535\n" },
	{ "brokers: ( { port = 65536; } );",
		"c:1: brokers[0].port: 65536 is not allowed; allowed: 1 to 65535\n" },
	{ "brokers: ( { port = \"1883\"; } );",
		"c:1: brokers[0].port: found a string, wanted an integer: 1 to 65535\n" },
	{ "brokers: ( { username = \"a\\x01\"; } );",
		"c:1: brokers[0].username: \"a\\x01\" is not allowed; " USERNAME },
	{ "brokers: ( { username = \"\\xFF\"; } );",
		"c:1: brokers[0].username: \"\xFF\" is not allowed; " USERNAME },
	{ "brokers: ( { password = \"x\"; } );",
		"c:1: brokers[0].username is missing; allowed with a password: a user name\n" },
	{ "brokers: ( { username = \"u\"; password = 5; } );",
		"c:1: brokers[0].password: found an integer, wanted a string\n" },
	{ "brokers: ( { username = \"u\";\npassword_file = \"a/b\"; } );",
		"c:2: brokers[0].password_file: \"a/b\" is not allowed; allowed: an absolute path, "
		"or the name of a systemd credential\n" },
	{ "brokers: ( { username = \"u\"; password = \"p\";\npassword_file = \"/x\"; } );",
		"c:2: brokers[0].password_file: there is a password, too; allowed: one of the "
		"two\n" },
	{ "brokers: ( { username = \"u\"; password_file = \"cred\"; } );",
		"c:1: password_file \"cred\" names a credential, but $CREDENTIALS_DIRECTORY is not "
		"set; allowed: an absolute path, or a name when systemd passes credentials\n" },
	{ "brokers: ( { colour = 1; } );",
		"c:1: unknown key \"brokers[0].colour\"; allowed: host, port, username, password, "
		"password_file, tls\n" },
	{ "brokers: ( { },\n{ host = \"LOCALHOST\"; port = 1883; } );",
		"c:2: brokers[1]: host \"LOCALHOST\", port 1883 are those of brokers[0]; allowed: "
		"each broker once\n" },
	{ "brokers: ( { host = \"a\"; port = 8883; }, { host = \"b\"; },\n{ host = \"a\"; tls: { "
	  "}; "
	  "} );",
		"c:2: brokers[2]: host \"a\", port 8883 are those of brokers[0]; allowed: each "
		"broker once\n" },
	{ "brokers: ( { host = 1; }, { port = 0; },\n5 );",
		"c:1: brokers[0].host: found an integer, wanted a string\n"
		"c:1: brokers[1].port: 0 is not allowed; allowed: 1 to 65535\n"
		"c:2: brokers[2]: found an integer, wanted a group: { host = \"...\"; }\n" },
	/* brokers.tls */
	{ "brokers: ( { tls = true; } );",
		"c:1: brokers[0].tls: found a boolean, wanted a group: { name = value; ... }\n" },
	{ "brokers: ( { tls: {\nca_fil = \"/x\"; }; } );",
		"c:2: unknown key \"brokers[0].tls.ca_fil\"; did you mean "
		"\"brokers.tls.ca_file\"?\n" },
	{ "brokers: ( { tls: { colour = 1; }; } );",
		"c:1: unknown key \"brokers[0].tls.colour\"; allowed: ca_file, ca_path, cert_file, "
		"key_file, alpn, insecure\n" },
	{ "brokers: ( { cert_file = \"/x\"; } );",
		"c:1: unknown key \"brokers[0].cert_file\"; did you mean "
		"\"brokers.tls.cert_file\"?\n" },
	{ "brokers: ( { tls: { insecure = 1; }; } );",
		"c:1: brokers[0].tls.insecure: found an integer, wanted a boolean: true or "
		"false\n" },
	{ "brokers: ( { tls: { ca_file = \"/absent\"; }; } );",
		"c:1: brokers[0].tls.ca_file: cannot read \"/absent\": No such file or "
		"directory\n" },
	{ "brokers: ( { tls: { ca_file = \"/etc\"; }; } );",
		"c:1: brokers[0].tls.ca_file: cannot read \"/etc\": Is a directory\n" },
	{ "brokers: ( { tls: { ca_file = \"/dev/null\"; }; } );",
		"c:1: brokers[0].tls.ca_file: cannot read \"/dev/null\": not a regular file\n" },
	{ "brokers: ( { tls: { ca_file = \"/etc/\"; }; } );",
		"c:1: brokers[0].tls.ca_file: \"/etc/\" is not allowed; allowed: an absolute path, "
		"or the name of a systemd credential\n" },
	{ "brokers: ( { tls: { ca_file = \"ca\"; }; } );",
		"c:1: brokers[0].tls.ca_file \"ca\" names a credential, but $CREDENTIALS_DIRECTORY "
		"is not set; allowed: an absolute path, or a name when systemd passes "
		"credentials\n" },
	{ "brokers: ( { tls: { ca_path = \"/etc/passwd\"; }; } );",
		"c:1: brokers[0].tls.ca_path: cannot read \"/etc/passwd\": Not a directory\n" },
	{ "brokers: ( { tls: { ca_path = \"certs\"; }; } );",
		"c:1: brokers[0].tls.ca_path: \"certs\" is not allowed; allowed: the absolute path "
		"of a folder\n" },
	{ "brokers: ( { tls: { cert_file = \"/etc/passwd\"; }; } );",
		"c:1: brokers[0].tls.key_file is missing; allowed with cert_file: both or "
		"neither\n" },
	{ "brokers: ( { }, { tls: { key_file = \"/etc/passwd\"; cert_file = \"\"; }; } );",
		"c:1: brokers[1].tls.cert_file is missing; allowed with key_file: both or "
		"neither\n" },
	{ "brokers: ( { tls: { cert_file = \"/absent\";\nkey_file = \"a/b\"; }; } );",
		"c:1: brokers[0].tls.cert_file: cannot read \"/absent\": No such file or "
		"directory\n"
		"c:2: brokers[0].tls.key_file: \"a/b\" is not allowed; allowed: an absolute path, "
		"or "
		"the name of a systemd credential\n" },
	{ "brokers: ( { tls: { alpn = \"a b\"; }; } );",
		"c:1: brokers[0].tls.alpn: \"a b\" is not allowed; " ALPN },
	{ "brokers: ( { tls: { alpn = \"\\xC3\\xBC\"; }; } );",
		"c:1: brokers[0].tls.alpn: \"\xC3\xBC\" is not allowed; " ALPN },
	{ "tls: { };", "c:1: unknown key \"tls\"; did you mean \"brokers.tls\"?\n" },
	/* discovery */
	{ "discovery: { srv = \"_mqtt._tcp.x\";\nfile = \"/x\"; };",
		"c:2: discovery.file: there is discovery.srv, too; allowed: one of the two\n" },
	{ "brokers: ( { } );\ndiscovery: { file = \"/x\"; };",
		"c:1: brokers: there is discovery.file, too; allowed: one of the two\n" },
	{ "discovery: { file = \"brokers\"; };",
		"c:1: discovery.file: \"brokers\" is not allowed; allowed: an absolute path\n" },
	{ "discovery: { srv = \"mqtt.example.org\"; };",
		"c:1: discovery.srv: \"mqtt.example.org\" is not allowed; " SRV },
	{ "discovery: { srv = \"_mqtt._tcp\"; };",
		"c:1: discovery.srv: \"_mqtt._tcp\" is not allowed; " SRV },
	{ "discovery: { srv = \"_mqtt._tcp.\"; };",
		"c:1: discovery.srv: \"_mqtt._tcp.\" is not allowed; " SRV },
	{ "discovery: { srv = \"_._tcp.x\"; };",
		"c:1: discovery.srv: \"_._tcp.x\" is not allowed; " SRV },
	{ "discovery: { srv = \"_mqtt._tcp.a..b\"; };",
		"c:1: discovery.srv: \"_mqtt._tcp.a..b\" is not allowed; " SRV },
	{ "discovery: { srv = \"_mqtt._tcp.a b\"; };",
		"c:1: discovery.srv: \"_mqtt._tcp.a b\" is not allowed; " SRV },
	{ "discovery: { refresh = 0; };",
		"c:1: discovery.refresh: 0 is not allowed; allowed: above 0, up to 86400 "
		"seconds\n" },
	{ "discovery: { srv = \"_mqtt._tcp.x\"; };\nbrokers: ( );",
		"c:2: brokers: found 0; allowed with discovery.srv: one, for user name, password "
		"and TLS of all\n" },
	{ "brokers: ( { }, { } );\ndiscovery: { srv = \"_mqtt._tcp.x\"; };",
		"c:1: brokers: found 2; allowed with discovery.srv: one, for user name, password "
		"and TLS of all\n" },
	{ "brokers: ( { host = \"a\";\nport = 1883; } );\ndiscovery: { srv = \"_mqtt._tcp.x\"; };",
		"c:1: brokers[0].host: there is discovery.srv, too; allowed: an entry without host "
		"and port\n"
		"c:2: brokers[0].port: there is discovery.srv, too; allowed: an entry without host "
		"and port\n" },
	{ "brokers: ( 1 );\ndiscovery: { srv = \"_mqtt._tcp.x\"; };",
		"c:1: brokers[0]: found an integer, wanted a group: { host = \"...\"; }\n" },
	{ "brokers: ( { password = \"x\"; } );\ndiscovery: { srv = \"_mqtt._tcp.x\"; };",
		"c:1: brokers[0].username is missing; allowed with a password: a user name\n" },
	{ "discovry: { };", "c:1: unknown key \"discovry\"; did you mean \"discovery\"?\n" },
	/* mqtt */
	{ "mqtt: { version = 5; };",
		"c:1: mqtt.version: found an integer, wanted a string: \"auto\", \"5\", "
		"\"3.1.1\"\n" },
	{ "mqtt: { version = \"3.1\"; };",
		"c:1: mqtt.version: \"3.1\" is not allowed; allowed: \"auto\", \"5\", "
		"\"3.1.1\"\n" },
	{ "mqtt: { client_id = \"\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"a\\tb\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\x7F\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\xC2\\x85\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\xC3\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\xC0\\x80\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\xED\\xA0\\x80\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\xEF\\xBF\\xBF\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"\\xF4\\x90\\x80\\x80\"; };", "c:1: mqtt.client_id: " CLIENT_ID },
	{ "mqtt: { client_id = \"%q\"; };", "c:1: mqtt.client_id: " PERCENT },
	{ "mqtt: {\nclient_id = \"50%\"; };", "c:2: mqtt.client_id: " PERCENT },
	{ "mqtt: { client_id = 5; };", "c:1: mqtt.client_id: found an integer, wanted a string\n" },
	{ "mqtt: { keepalive = 1; };",
		"c:1: mqtt.keepalive: 1 is not allowed; allowed: 0, or 5 to 65535\n" },
	{ "mqtt: { keepalive = 4; };",
		"c:1: mqtt.keepalive: 4 is not allowed; allowed: 0, or 5 to 65535\n" },
	{ "mqtt: { keepalive = 65536; };",
		"c:1: mqtt.keepalive: 65536 is not allowed; allowed: 0, or 5 to 65535\n" },
	{ "mqtt: { keepalive = 60.0; };",
		"c:1: mqtt.keepalive: found a float, wanted an integer: 0, or 5 to 65535\n" },
	{ "mqtt: { connect_timeout = 0; };",
		"c:1: mqtt.connect_timeout: 0 is not allowed; allowed: above 0, up to 3600 "
		"seconds\n" },
	{ "mqtt: { connect_timeout = 0.0000001; };",
		"c:1: mqtt.connect_timeout: 1e-07 is not allowed; allowed: above 0, up to 3600 "
		"seconds\n" },
	{ "mqtt: { connect_timeout = 3600.1; };",
		"c:1: mqtt.connect_timeout: 3600.1 is not allowed; allowed: above 0, up to 3600 "
		"seconds\n" },
	{ "mqtt: { connect_timeout = \"10s\"; };",
		"c:1: mqtt.connect_timeout: found a string, wanted a number: above 0, up to 3600 "
		"seconds\n" },
	{ "mqtt: { inflight_max = -1; };",
		"c:1: mqtt.inflight_max: -1 is not allowed; allowed: 0 to 65000\n" },
	{ "mqtt: { inflight_max = 65001; };",
		"c:1: mqtt.inflight_max: 65001 is not allowed; allowed: 0 to 65000\n" },
	{ "mqtt: { inflight_bytes = \"2G\"; };",
		"c:1: mqtt.inflight_bytes: \"2G\" is not allowed; " BUFFERED },
	{ "mqtt: { clean_session = \"true\"; };",
		"c:1: mqtt.clean_session: found a string, wanted a boolean: true or false\n" },
	{ "mqtt: { provenance = 0; };",
		"c:1: mqtt.provenance: found an integer, wanted a boolean: true or false\n" },
	{ "mqtt: { ack_timeout = 0; };",
		"c:1: mqtt.ack_timeout: 0 is not allowed; allowed: above 0, up to 3600 seconds\n" },
	{ "mqtt: { ack_timeout = 3601; };",
		"c:1: mqtt.ack_timeout: 3601 is not allowed; allowed: above 0, up to 3600 "
		"seconds\n" },
	{ "mqtt: { max_rate = 0; };", "c:1: mqtt.max_rate: 0 is not allowed; " RATE },
	{ "mqtt: { max_rate = \"0\"; };", "c:1: mqtt.max_rate: \"0\" is not allowed; " RATE },
	{ "mqtt: { max_rate = 63; };", "c:1: mqtt.max_rate: 63 is not allowed; " RATE },
	{ "mqtt: { max_rate = \"None\"; };", "c:1: mqtt.max_rate: \"None\" is not allowed; " RATE },
	{ "mqtt: { max_rate = \"1025M\"; };",
		"c:1: mqtt.max_rate: \"1025M\" is not allowed; " RATE },
	{ "mqtt: { topic_prefix = \"a/+/\"; };", "c:1: mqtt.topic_prefix: " PREFIX },
	{ "mqtt: { topic_prefix = \"#\"; };", "c:1: mqtt.topic_prefix: " PREFIX },
	{ "mqtt: { topic_prefix = \"a\\n\"; };", "c:1: mqtt.topic_prefix: " PREFIX },
	{ "mqtt: { topic_prefix = \"\\xC3\"; };", "c:1: mqtt.topic_prefix: " PREFIX },
	{ "mqtt: { topic_prefix = \"%x/\"; };", "c:1: mqtt.topic_prefix: " PERCENT },
	/* mqtt.will, mqtt.birth */
	{ "mqtt: { will = \"w\"; };",
		"c:1: mqtt.will: found a string, wanted a group: { name = value; ... }\n" },
	{ "mqtt: { will: { topic = \"a/#\"; }; };", "c:1: mqtt.will.topic: " TOPIC },
	{ "mqtt: { will: {\ntopic = \"+\"; payload = \"x\"; }; };",
		"c:2: mqtt.will.topic: " TOPIC },
	{ "mqtt: { birth: { topic = \"a\\x7F\"; }; };", "c:1: mqtt.birth.topic: " TOPIC },
	{ "mqtt: { birth: { topic = \"100%\"; }; };", "c:1: mqtt.birth.topic: " PERCENT },
	{ "mqtt: { birth: { topic = 5; payload = \"x\"; }; };",
		"c:1: mqtt.birth.topic: found an integer, wanted a string\n" },
	{ "mqtt: { birth: { topic = \"t\"; payload = 5; }; };",
		"c:1: mqtt.birth.payload: found an integer, wanted a string\n" },
	{ "mqtt: { will: { topic = \"t\"; qos = 3; }; };",
		"c:1: mqtt.will.qos: 3 is not allowed; allowed: 0 to 2\n" },
	{ "mqtt: { will: { topic = \"t\"; retain = 1; }; };",
		"c:1: mqtt.will.retain: found an integer, wanted a boolean: true or false\n" },
	{ "mqtt: { will: { payload = \"x\";\nqos = 0;\nretain = false; }; };",
		"c:1: mqtt.will.payload: there is no topic; allowed with mqtt.will.topic\n"
		"c:2: mqtt.will.qos: there is no topic; allowed with mqtt.will.topic\n"
		"c:3: mqtt.will.retain: there is no topic; allowed with mqtt.will.topic\n" },
	{ "mqtt: { will: { topic = \"w\"; }; birth: { topic = \"\"; payload = \"x\"; }; };",
		"c:1: mqtt.birth.payload: there is no topic; allowed with mqtt.birth.topic\n" },
	{ "mqtt: { will: { topik = \"w\"; }; };",
		"c:1: unknown key \"mqtt.will.topik\"; did you mean \"mqtt.will.topic\"?\n" },
	{ "mqtt: { wil: { }; };", "c:1: unknown key \"mqtt.wil\"; did you mean \"mqtt.will\"?\n" },
	{ "mqtt: { payload = \"x\"; };",
		"c:1: unknown key \"mqtt.payload\"; did you mean \"mqtt.will.payload\"?\n" },
	{ "mqtt: { birth: { will = 1; }; };",
		"c:1: unknown key \"mqtt.birth.will\"; did you mean \"mqtt.will\"?\n" },
	/* keys of later versions */
	{ "queue: { size = 5; };",
		"c:1: unknown key \"queue.size\"; allowed: path, sync, commit_delay, max_messages, "
		"max_bytes, max_age, overflow, max_dead_letters\n" },
	{ "queue: { maxage = 5; };",
		"c:1: unknown key \"queue.maxage\"; did you mean \"queue.max_age\"?\n" },
	{ "acess: ( );", "c:1: unknown key \"acess\"; did you mean \"access\"?\n" },
	/* access */
	{ "access: ( );", "c:1: access: found 0; " RULES },
	{ "access: { user = \"root\"; topics = ( \"#\" ); };",
		"c:1: access: found a group, wanted a list: ( " RULE " )\n" },
	{ "access: ( \"root\" );", "c:1: access[0]: found a string, wanted a group: " RULE "\n" },
	{ "access: (\n{ topics = ( \"#\" ); },\n{ user = \"\"; topics = ( \"#\" ); } );",
		"c:2: access[0].user is missing; " WHO "c:3: access[1].user is missing; " WHO },
	{ "access: (\n{ user = \"root\"; topics = ( \"#\" );\ngroup = \"root\"; } );",
		"c:3: access[0].group: there is a user, too; allowed: one of the two, and another "
		"rule\n" },
	{ "access: ( { user = \"root\"; } );", "c:1: access[0].topics is missing; " TOPICS },
	{ "access: ( { user = \"root\"; topics = [ ]; } );",
		"c:1: access[0].topics: the list is empty; " TOPICS },
	{ "access: ( { user = \"root\"; topics = \"#\"; } );",
		"c:1: access[0].topics: found a string, wanted a list of topic filters: "
		"( \"a/b\", \"c/#\" )\n" },
	{ "access: ( { user = \"root\"; topics = (\n\"a\",\n5,\n\"#/a\",\n\"\",\n\"\\x01\" ); } );",
		"c:3: access[0].topics[1]: found an integer, wanted a topic filter: a string\n"
		"c:4: access[0].topics[2]: topic holds a wildcard; " FILTER
		"c:5: access[0].topics[3]: topic is empty, must be 1 to 65535 bytes; " FILTER
		"c:6: access[0].topics[4]: topic holds a control character; " FILTER },
	{ "access: ( { user = 5; topics = ( \"#\" ); }, { group = \"-x\"; topics = ( \"#\" ); } );",
		"c:1: access[0].user: found an integer, wanted a string\n"
		"c:1: access[1].group: \"-x\" is not allowed; allowed: a name or a number\n" },
	{ "access: ( { user = \"root\"; topics = ( \"#\" ); },\n"
	  "{ user = \"no.such.user\"; topics = ( \"#\" ); },\n"
	  "{ group = \"no.such.group\"; topics = ( \"#\" ); },\n"
	  "{ user = \"4294967295\"; topics = ( \"#\" ); },\n"
	  "{ group = \"99999999999999999999999\"; topics = ( \"#\" ); } );",
		"c:2: access[1].user: there is no user \"no.such.user\"; " USER
		"c:3: access[2].group: there is no group \"no.such.group\"; " GROUP
		"c:4: access[3].user: there is no user \"4294967295\"; " USER
		"c:5: access[4].group: there is no group \"99999999999999999999999\"; " GROUP },
	{ "access: ( { uid = 5; topic = ( \"#\" ); } );",
		"c:1: unknown key \"access[0].uid\"; allowed: user, group, topics\n"
		"c:1: unknown key \"access[0].topic\"; did you mean \"access.topics\"?\n"
		"c:1: access[0].topics is missing; " TOPICS
		"c:1: access[0].user is missing; " WHO },
	/* retry */
	{ "retry: { timeout_attempts = 0; };",
		"c:1: retry.timeout_attempts: 0 is not allowed; allowed: 1 to 1000\n" },
	{ "retry: { timeout_attempts = 1001; };",
		"c:1: retry.timeout_attempts: 1001 is not allowed; allowed: 1 to 1000\n" },
	{ "retry: { heartbeat_attempts = -1; };",
		"c:1: retry.heartbeat_attempts: -1 is not allowed; allowed: 0 to 1000\n" },
	{ "retry: { heartbeat_attempts = 1001; };",
		"c:1: retry.heartbeat_attempts: 1001 is not allowed; allowed: 0 to 1000\n" },
	{ "retry: { heartbeat_delay = -1; };",
		"c:1: retry.heartbeat_delay: -1 is not allowed; allowed: 0 to 3600 seconds\n" },
	{ "retry: { heartbeat_delay = 3601; };",
		"c:1: retry.heartbeat_delay: 3601 is not allowed; allowed: 0 to 3600 seconds\n" },
	{ "retry: { set_aside = 0; };",
		"c:1: retry.set_aside: 0 is not allowed; allowed: above 0, up to 86400 seconds\n" },
	{ "retry: { failback = 86401; };",
		"c:1: retry.failback: 86401 is not allowed; allowed: above 0, up to 86400 "
		"seconds\n" },
	{ "retry: { base = 0; };",
		"c:1: retry.base: 0 is not allowed; allowed: above 0, up to 86400 seconds\n" },
	{ "retry: { base = -1.5; };",
		"c:1: retry.base: -1.5 is not allowed; allowed: above 0, up to 86400 seconds\n" },
	{ "retry: { base = 86401; };",
		"c:1: retry.base: 86401 is not allowed; allowed: above 0, up to 86400 seconds\n" },
	{ "retry: {\nbase = 61;\n};",
		"c:2: retry.max: 60 seconds is less than retry.base; allowed: 61 seconds or "
		"more\n" },
	{ "retry: {\nmax = 0.5;\n};",
		"c:2: retry.max: 0.5 seconds is less than retry.base; allowed: 1 seconds or "
		"more\n" },
	{ "retry: { max = 1e999; };",
		"c:1: retry.max: inf is not allowed; allowed: above 0, up to 86400 seconds\n" },
	{ "retry: { multiplier = 0.99; };",
		"c:1: retry.multiplier: 0.99 is not allowed; allowed: 1 to 100\n" },
	{ "retry: { multiplier = 101; };",
		"c:1: retry.multiplier: 101 is not allowed; allowed: 1 to 100\n" },
	{ "retry: { multiplier = false; };",
		"c:1: retry.multiplier: found a boolean, wanted a number: 1 to 100\n" },
	{ "retry: { jitter = \"half\"; };",
		"c:1: retry.jitter: \"half\" is not allowed; allowed: \"full\", \"proportional\", "
		"\"additive\", \"none\"\n" },
	{ "retry: { stable = -0.1; };",
		"c:1: retry.stable: -0.1 is not allowed; allowed: 0 to 86400 seconds\n" },
	{ "retry: { stable = { }; };",
		"c:1: retry.stable: found a group, wanted a number: 0 to 86400 seconds\n" },
	/* control, metrics, report */
	{ "control: { path = \"\"; };", "c:1: control.path: \"\" " CONTROL_PATH },
	{ "control: { path = \"run/c\"; };", "c:1: control.path: \"run/c\" " CONTROL_PATH },
	{ "control: { path = \"/run/\"; };", "c:1: control.path: \"/run/\" " CONTROL_PATH },
	{ "control: { mode = \"0660\"; };",
		"c:1: unknown key \"control.mode\"; did you mean \"socket.mode\"?\n" },
	LISTEN_FAULT("9641"),
	LISTEN_FAULT(":9641"),
	LISTEN_FAULT("localhost:9641"),
	LISTEN_FAULT("*:9641"),
	LISTEN_FAULT("127.0.0.1"),
	LISTEN_FAULT("127.0.0.1:"),
	LISTEN_FAULT("127.0.0.1:0"),
	LISTEN_FAULT("127.0.0.1:65536"),
	LISTEN_FAULT("127.0.0.1:99999999999999999999"),
	LISTEN_FAULT("127.0.0.1:+80"),
	LISTEN_FAULT("127.0.0.1: 80"),
	LISTEN_FAULT("127.0.0.1:80x"),
	LISTEN_FAULT("127.0.0:80"),
	LISTEN_FAULT("[127.0.0.1]:80"),
	LISTEN_FAULT("::1:80"),
	LISTEN_FAULT("[::1]"),
	LISTEN_FAULT("[::1]80"),
	LISTEN_FAULT("[]:80"),
	LISTEN_FAULT("[::1:80"),
	LISTEN_FAULT("http://127.0.0.1:80"),
	{ "metrics: { listen = 9641; };",
		"c:1: metrics.listen: found an integer, wanted a string\n" },
	URL_FAULT("example.org"),
	URL_FAULT("http:/h"),
	URL_FAULT("http://"),
	URL_FAULT("http:///path"),
	URL_FAULT("http://?q"),
	URL_FAULT("http://#f"),
	URL_FAULT("http://:80"),
	URL_FAULT("http://u:secret@"),
	URL_FAULT("http://u:secret@/x"),
	URL_FAULT("http://h:"),
	URL_FAULT("http://h:0"),
	URL_FAULT("http://h:65536"),
	URL_FAULT("http://h:123456"),
	URL_FAULT("http://h:8o"),
	URL_FAULT("http://::1"),
	URL_FAULT("http://[::1"),
	URL_FAULT("http://[]"),
	URL_FAULT("http://[h/x]"),
	URL_FAULT("http://a b"),
	URL_FAULT("http://h/\xC3\xBC"),
	URL_FAULT("ftp://h"),
	URL_FAULT("file:///etc/passwd"),
	URL_FAULT(" http://h"),
	{ "report: { push_url = \"unix://h\"; };", "c:1: report.push_url: " URL },
	{ "report: { push_url = true; };",
		"c:1: report.push_url: found a boolean, wanted a string\n" },
	{ "report: { interval = 0.5; };",
		"c:1: report.interval: 0.5 is not allowed; allowed: 1 to 86400 seconds\n" },
	{ "report: { interval = 86401; };",
		"c:1: report.interval: 86401 is not allowed; allowed: 1 to 86400 seconds\n" },
	/* log */
	{ "log: { level = \"INFO\"; };",
		"c:1: log.level: \"INFO\" is not allowed; allowed: " LEVELS },
	{ "log: { level = 6; };", "c:1: log.level: found an integer, wanted a string: " LEVELS },
	{ "log = ( );", "c:1: log: found a list, wanted a group: { name = value; ... }\n" },
	/* unknown keys */
	{ "socket: {\n\n\tcolour = 1;\n};",
		"c:3: unknown key \"socket.colour\"; allowed: path, mode, group, default_qos, "
		"max_clients, max_message_bytes, max_buffered_bytes, max_rate, "
		"max_inflight_bytes\n" },
	{ "socket: { maxclients = 1; };",
		"c:1: unknown key \"socket.maxclients\"; did you mean \"socket.max_clients\"?\n" },
	{ "socket: { mdoe = \"0660\"; };",
		"c:1: unknown key \"socket.mdoe\"; did you mean \"socket.mode\"?\n" },
	{ "socket: { Path = \"/x\"; };",
		"c:1: unknown key \"socket.Path\"; did you mean \"socket.path\"?\n" },
	{ "socket: { keepalive = 5; };",
		"c:1: unknown key \"socket.keepalive\"; did you mean \"mqtt.keepalive\"?\n" },
	{ "sokcet: { };", "c:1: unknown key \"sokcet\"; did you mean \"socket\"?\n" },
	{ "level = \"info\";", "c:1: unknown key \"level\"; did you mean \"log.level\"?\n" },
	{ "metric: { listen = \"\"; };",
		"c:1: unknown key \"metric\"; did you mean \"metrics\"?\n" },
	{ "report: { url = \"\"; };",
		"c:1: unknown key \"report.url\"; allowed: push_url, alert_url, interval\n" },
	{ "a_name_much_longer_than_any_key_there_is = 1;",
		"c:1: unknown key \"a_name_much_longer_than_any_key_there_is\"; " GROUPS },
	/* syntax */
	{ "log: {\nlevel = \"info\"\n", "c:5: " SYNTAX },
	{ "log: {\n= 5; };", "c:2: " SYNTAX },
	{ "log: {\r\nlevel = ;\r\n};", "c:2: " SYNTAX },
	{ "log: { };\n\nlog: { };",
		"c:3: duplicate setting name; allowed: each name once in its group\n" },
	{ "log: {\nlevel = \"info\";\nlevel = \"info\"; };",
		"c:3: duplicate setting name; allowed: each name once in its group\n" },
	{ "a = [ 1,\n\"x\" ];",
		"c:2: mismatched element type in array; allowed: an array [ ] of one type, or a "
		"list ( )\n" },
	{ "log: { level =\n\"info };\n# gateway",
		"c:2: a string begins here and never ends\nc:4: " SYNTAX },
	{ "gateway: { id = \"gw\"; };\n/* log: { };\n\n",
		"c:2: a comment begins here and never ends\n" },
	{ "socket: { path = \"/a\\x00b\"; };",
		"c:1: \\x00 in a string; allowed: every byte but this one\n" },
	/* integers libconfig would cut */
	{ "socket: {\nmax_buffered_bytes = 4294967296; };",
		"c:2: 4294967296 does not fit 32 bits and would be cut; allowed: 4294967296L, or "
		"for a size a string such as \"4G\"\n"
		"c:2: socket.max_buffered_bytes: 4294967296 is not allowed; " BUFFERED },
	{ "brokers: ( { port = 4294969179; } );",
		"c:1: 4294969179 does not fit 32 bits and would be cut; allowed: 4294969179L, or "
		"for a size a string such as \"4G\"\n"
		"c:1: brokers[0].port: 4294969179 is not allowed; allowed: 1 to 65535\n" },
	{ "retry: { stable = -2147483649; };",
		"c:1: -2147483649 does not fit 32 bits and would be cut; allowed: -2147483649L, or "
		"for a size a string such as \"4G\"\n"
		"c:1: retry.stable: -2147483649 is not allowed; allowed: 0 to 86400 seconds\n" },
	{ "brokers: ( { port = 0x10000075B; } );",
		"c:1: 0x10000075B does not fit 32 bits and would be cut; allowed: 0x10000075BL, or "
		"for a size a string such as \"4G\"\n"
		"c:1: brokers[0].port: 4294969179 is not allowed; allowed: 1 to 65535\n" },
	/* what may be a password is not shown */
	{ "brokers: ( { username = \"u\"; password = 98765432109876; } );",
		"c:1: brokers[0].password: found an integer, wanted a string\n" },
	{ "brokers: ( { Password = 99999999999999999999; } );",
		"c:1: unknown key \"brokers[0].Password\"; did you mean \"brokers.password\"?\n" },
	{ "brokers: ( { host = \"mqtt://u:hidden@h\"; } );",
		"c:1: brokers[0].host: \"***@h\" is not allowed; " HOST },
	{ "retry: { stable = 2147483648L; };",
		"c:1: retry.stable: 2147483648 is not allowed; allowed: 0 to 86400 seconds\n" },
	{ "retry: { stable = -2147483648; };",
		"c:1: retry.stable: -2147483648 is not allowed; allowed: 0 to 86400 seconds\n" },
	{ "retry: { stable = 2147483647; };",
		"c:1: retry.stable: 2147483647 is not allowed; allowed: 0 to 86400 seconds\n" },
	{ "metrics = ( 1.5, 12e3, -.5, a4294967296 );", "c:1: " SYNTAX },
	{ "metrics = ( 1.5, 12e3, -.5, 18446744073709551616LL );",
		"c:1: 18446744073709551616 does not fit 64 bits; allowed: at most "
		"9223372036854775807L\n"
		"c:1: metrics: found a list, wanted a group: { name = value; ... }\n" },
	/* all in one run, in the order of lines */
	{ "log: { level = \"loud\"; };\nretry: { base = 10; max = 5; stabel = 1; };\n"
	  "mqtt: { keepalive = 3;\nclient_id = \"%\"; };\nqueue: { sync = 1; };",
		"c:1: log.level: \"loud\" is not allowed; allowed: " LEVELS
		"c:2: unknown key \"retry.stabel\"; did you mean \"retry.stable\"?\n"
		"c:2: retry.max: 5 seconds is less than retry.base; allowed: 10 seconds or more\n"
		"c:3: mqtt.keepalive: 3 is not allowed; allowed: 0, or 5 to 65535\n"
		"c:4: mqtt.client_id: " PERCENT
		"c:5: queue.sync: found an integer, wanted a string: \"full\", \"normal\"\n" },
};

START_TEST(test_bad)
{
	assert_faults(bad[_i].text, bad[_i].faults);
}
END_TEST

/* --- lengths --------------------------------------------------------------------------------- */

static const struct {
	const char *head, *tail;
	size_t most;
} lengths[] = {
	{ "gateway: { id = \"", "\"; };", 64 },
	{ "socket: { path = \"/", "\"; };", 106 },
	{ "queue: { path = \"/", "\"; };", 479 },
	{ "control: { path = \"/", "\"; };", 106 },
	{ "report: { push_url = \"http://", "\"; };", 1993 },
	{ "report: { alert_url = \"https://u@h/", "\"; };", 1986 },
	{ "brokers: ( { host = \"", "\"; } );", 253 },
	{ "brokers: ( { username = \"", "\"; } );", 65535 },
	{ "brokers: ( { username = \"u\"; password = \"", "\"; } );", 65535 },
	{ "mqtt: { client_id = \"", "\"; };", 240 },
	{ "mqtt: { client_id = \"%i", "\"; };", 238 },
	{ "mqtt: { topic_prefix = \"%i", "\"; };", 1022 },
	{ "mqtt: { will: { topic = \"%i", "\"; }; };", 65533 },
	{ "mqtt: { birth: { topic = \"t\"; payload = \"", "\"; }; };", 65535 },
	{ "mqtt: { will: { topic = \"t\"; payload = \"", "\"; }; };", 65535 },
	{ "brokers: ( { tls: { alpn = \"", "\"; }; } );", 255 },
	{ "discovery: { file = \"/", "\"; };", 4094 },
	{ "discovery: { srv = \"_mqtt._tcp.", "\"; };", 63 },
	{ "discovery: { srv = \"_s._p.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy."
	  "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy."
	  "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy."
	  "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.",
		"\"; };", 253 - 213 },
};

START_TEST(test_length)
{
	for (size_t more = 0; more < 2; more++) {
		char *name = repeat('x', lengths[_i].most + more);
		char *text = format("%s%s%s", lengths[_i].head, name, lengths[_i].tail);
		struct config *c = load(text);

		ck_assert_int_eq(c != NULL, more == 0);
		ck_assert_uint_lt(strlen(report), 300);
		if (c)
			assert_round_trip(c);
		config_free(c);
		free(text);
		free(name);
	}
}
END_TEST

/* --- the file -------------------------------------------------------------------------------- */

START_TEST(test_unreadable)
{
	ck_assert_ptr_null(load_file("absent"));
	ck_assert_str_eq(report, "absent: cannot read: No such file or directory\n");
	ck_assert_int_eq(mkdir(in_dir("folder"), 0700), 0);
	ck_assert_ptr_null(load_file("folder"));
	ck_assert_str_eq(report, "folder: cannot read: Is a directory\n");
}
END_TEST

START_TEST(test_bytes)
{
	char *large = repeat(' ', 1024 * 1024 + 1);

	write_text("c", large);
	ck_assert_ptr_null(load_file("c"));
	ck_assert_str_eq(report, "c: cannot read: File too large\n");
	free(large);
	write_bytes("c", "log: {\n};\0log: { };\n", 20);
	ck_assert_ptr_null(load_file("c"));
	ck_assert_str_eq(report, "c:2: a NUL byte; allowed: text\n");
}
END_TEST

/* A comment ends the file, and no newline ends the comment: libconfig alone would refuse it. */
START_TEST(test_no_last_newline)
{
	struct config *c;

	write_text("c", "gateway: { id = \"gw\"; }; # end");
	c = load_file("c");
	ck_assert_msg(c, "%s", report);
	config_free(c);
	write_text("c", "gateway: {");
	ck_assert_ptr_null(load_file("c"));
	ck_assert_str_eq(report, "c:1: " SYNTAX);
}
END_TEST

START_TEST(test_include)
{
	struct config *c;

	ck_assert_int_eq(mkdir(in_dir("sub"), 0700), 0);
	write_text("sub/a", "@include \"b\"\r\nqueue: { path = \"/a\"; };\r\n");
	write_text("sub/b", "retry: { base = 2; }; // no newline");
	write_text("level", "level = \"debug\";");
	c = load_good("@include \"sub/a\"\nlog: {\n  @include\t\"level\" // why\n};\n");
	ck_assert_str_eq(c->queue.path, "/a");
	ck_assert_uint_eq(c->retry.backoff.base_usec, 2 * USEC_PER_SEC);
	ck_assert_int_eq(c->log.level, LOG_DEBUG);
	config_free(c);

	/* only at the beginning of a line, outside of strings and comments */
	c = load_good("/*\n@include \"x\"\n*/\nqueue: { path = \"/\x20"
		      "@include \"\n\"x\"; };");
	ck_assert_str_eq(c->queue.path, "/ @include x");
	config_free(c);
}
END_TEST

START_TEST(test_include_faults)
{
	char *absolute = format("@include \"%s\"\nx = 1;", in_dir("inc"));

	write_text("inc", "log: {\n\tlevel = \"loud\"; };\nsokcet: { };\nretry: { base = ; };");
	assert_faults(absolute, "inc:4: " SYNTAX);
	free(absolute);

	write_text(
		"inc", "\nlog: {\n\tlevel = \"loud\"; };\nsocket: { max_clients = 3000000000; }");
	assert_faults("mqtt: { keepalive = 1; };\n@include \"inc\"\nretry: { base = 0; };",
		"c:1: mqtt.keepalive: 1 is not allowed; allowed: 0, or 5 to 65535\n"
		"inc:3: log.level: \"loud\" is not allowed; allowed: " LEVELS
		"inc:4: 3000000000 does not fit 32 bits and would be cut; allowed: 3000000000L, or "
		"for a size a string such as \"4G\"\n"
		"inc:4: socket.max_clients: 3000000000 is not allowed; allowed: 1 to 65536\n"
		"c:3: retry.base: 0 is not allowed; allowed: above 0, up to 86400 seconds\n");

	assert_faults("\n@include \"absent\"\nlog: { level = 1; };",
		"c:2: cannot include \"absent\": No such file or directory\n"
		"c:3: log.level: found an integer, wanted a string: " LEVELS);
	assert_faults("@include \"/\"\n", "c:1: cannot include \"/\": Is a directory\n");
	assert_faults("@include \"/dev/null\"\n",
		"c:1: cannot include \"/dev/null\": not a regular file\n");
	assert_faults("@include \"\"\n",
		"c:1: @include without a file name; allowed: @include \"FILE\" on a line of its "
		"own\n");
	write_text("open", "\n/* never closed");
	assert_faults("@include \"open\"\n*/ log: { };",
		"open:2: a comment begins here and never ends\n");
	write_text("loop", "\n\n@include \"loop\"\n@include \"loop\"\n");
	assert_faults("@include \"loop\"",
		"loop:3: @include nests too deep; allowed: 10 files deep, none of them itself\n");
}
END_TEST

/* Included again and again, until there is too much of it. */
START_TEST(test_include_too_much)
{
	char *big = repeat(' ', 300 * 1024);

	write_text("big", big);
	free(big);
	assert_faults("@include \"big\"\n@include \"big\"\n@include \"big\"\n@include \"big\"\n",
		"big:1: too much text; allowed: 1048576 bytes, included files and all\n");
}
END_TEST

/* --- from the machine ------------------------------------------------------------------------ */

START_TEST(test_derived_id)
{
	struct config *c = load("gateway: {\nid = \"\"; };");
	sd_id128_t id;

	if (sd_id128_get_machine(&id) < 0) {
		ck_assert_ptr_null(c);
		ck_assert_msg(strstr(report, "c:2: gateway.id: cannot be derived") == report, "%s",
			report);
		ck_assert_msg(strstr(report, "set gateway.id"), "%s", report);
		return;
	}
	ck_assert_msg(c, "%s", report);
	ck_assert_uint_eq(strlen(c->gateway.id), 16);
	ck_assert_uint_eq(strspn(c->gateway.id, "0123456789abcdef"), 16);
	ck_assert_uint_eq(strlen(c->mqtt.client_id), 23);
	ck_assert_str_eq(c->mqtt.client_id + 7, c->gateway.id);
	assert_round_trip(c);
	config_free(c);
}
END_TEST

START_TEST(test_host_name)
{
	struct config *c = load_good("mqtt: { client_id = \"%h-%i\"; };");
	char host[256] = "", *expected;

	ck_assert_int_eq(gethostname(host, sizeof(host) - 1), 0);
	expected = format("%s-gw", host);
	ck_assert_str_eq(c->mqtt.client_id, expected);
	free(expected);
	config_free(c);
}
END_TEST

/* --- passwords ------------------------------------------------------------------------------- */

#define WITH_FILE "brokers: ( { username = \"u\";\npassword_file = \"%s\"; } );"

static const struct {
	const char *bytes;
	size_t n;
	const char *password; /* NULL: a fault */
	const char *fault; /* what is said about the file */
} files[] = {
	{ "secret", 6, "secret", NULL },
	{ "secret\n", 7, "secret", NULL },
	{ "secret\r\n", 8, "secret", NULL },
	{ "secret\n\n", 8, "secret\n", NULL },
	{ " se\"cret\r", 9, " se\"cret\r", NULL },
	{ "", 0, NULL, "too short; allowed: 1 to 65535 bytes" },
	{ "\n", 1, NULL, "too short; allowed: 1 to 65535 bytes" },
	{ "\r\n", 2, NULL, "too short; allowed: 1 to 65535 bytes" },
	{ "a\0b", 3, NULL, NULL },
};

START_TEST(test_password_file)
{
	char *absolute = format(WITH_FILE, in_dir("secret")), *text, *expected;
	struct config *c;

	write_bytes("secret", files[_i].bytes, files[_i].n);
	if (files[_i].password) {
		c = load_good(absolute);
		ck_assert_str_eq(c->brokers[0].password, files[_i].password);
		text = print(c);
		assert_printed(text, "brokers.password", "\"\";");
		ck_assert_ptr_null(strstr(text, "secret\n"));
		free(text);
		assert_round_trip(c);
		config_free(c);
	} else {
		expected = files[_i].fault
			? format("c:2: password_file: \"secret\" is %s\n", files[_i].fault)
			: format("c:2: password_file: \"secret\" holds a NUL "
				 "byte; allowed: text\n");
		assert_faults(absolute, expected);
		free(expected);
	}
	free(absolute);
}
END_TEST

START_TEST(test_password_file_faults)
{
	char *text = format(WITH_FILE, in_dir("secret")), *large = repeat('x', 65537);
	struct config *c;

	assert_faults(
		text, "c:2: password_file: cannot read \"secret\": No such file or directory\n");
	write_text("secret", large);
	assert_faults(
		text, "c:2: password_file: \"secret\" is too long; allowed: 1 to 65535 bytes\n");
	large[65535] = '\n';
	write_bytes("secret", large, 65536);
	c = load_good(text);
	ck_assert_uint_eq(strlen(c->brokers[0].password), 65535);
	config_free(c);
	free(large);
	free(text);
	assert_faults("brokers: ( { username = \"u\"; password_file = \"/dev/null\"; } );",
		"c:1: password_file: cannot read \"/dev/null\": not a regular file\n");
	assert_faults("brokers: ( { username = \"u\"; password_file = \"/\"; } );",
		"c:1: brokers[0].password_file: \"/\" is not allowed; allowed: an absolute path, "
		"or "
		"the name of a systemd credential\n");
	write_text("secret", "s");
	text = format("brokers: ( { password_file = \"%s\"; } );", in_dir("secret"));
	assert_faults(text,
		"c:1: brokers[0].username is missing; allowed with a password: a user name\n");
	free(text);
}
END_TEST

START_TEST(test_credential)
{
	struct config *c;

	ck_assert_int_eq(mkdir(in_dir("creds"), 0700), 0);
	write_text("creds/mqtt", "from systemd\n");
	ck_assert_int_eq(setenv("CREDENTIALS_DIRECTORY", in_dir("creds"), 1), 0);
	c = load_good("brokers: ( { username = \"u\"; password_file = \"mqtt\"; } );");
	ck_assert_str_eq(c->brokers[0].password, "from systemd");
	ck_assert_str_eq(c->brokers[0].password_file, "mqtt");
	assert_round_trip(c);
	config_free(c);
	assert_faults("brokers: ( { username = \"u\"; password_file = \"absent\"; } );",
		"c:1: password_file: cannot read \"creds/absent\": No such file or directory\n");
}
END_TEST

/* What loading a file that holds a password, with these permissions, logs. */
static char *logged(const char *text, mode_t mode)
{
	int saved = dup(STDERR_FILENO), r;
	struct config *c = NULL;
	FILE *f;

	write_text("c", text);
	ck_assert_int_eq(chmod(in_dir("c"), mode), 0);
	f = fopen(in_dir("log"), "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(dup2(fileno(f), STDERR_FILENO), 0);
	r = config_load(&c, in_dir("c"), stdout);
	dup2(saved, STDERR_FILENO);
	close(saved);
	fputs(".", f); /* never an empty file */
	fclose(f);
	ck_assert_int_eq(r, 0);
	config_free(c);
	return read_whole(in_dir("log"));
}

START_TEST(test_readable_by_others)
{
	static const struct {
		const char *broker, *rest;
		mode_t mode, file_mode; /* of the configuration, of password_file */
		bool warns;
	} cases[] = {
		{ "password = \"hidden\";", "", 0600, 0600, false },
		{ "password = \"hidden\";", "", 0640, 0600, false },
		{ "password = \"hidden\";", "", 0644, 0600, true },
		{ "password = \"\";", "", 0644, 0644, false },
		{ "password_file = \"%s\";", "", 0644, 0640, false },
		{ "password_file = \"%s\";", "", 0600, 0644, true },
		{ "", "report: { push_url = \"http://u:hidden@h\"; };\n", 0640, 0600, false },
		{ "", "report: { push_url = \"http://u:hidden@h\"; };\n", 0644, 0600, true },
		{ "", "report: { alert_url = \"http://h/?t=hidden\"; };\n", 0644, 0600, true },
		{ "", "report: { alert_url = \"http://h/path\"; };\n", 0644, 0600, false },
	};

	write_text("secret", "hidden\n");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *broker = strstr(cases[i].broker, "%s")
			? format("password_file = \"%s\";", in_dir("secret"))
			: strdup(cases[i].broker);
		char *text = format("gateway: { id = \"g\"; };\n"
				    "brokers: ( { username = \"u\"; %s } );\n%s",
			broker, cases[i].rest);
		char *said;

		ck_assert_int_eq(chmod(in_dir("secret"), cases[i].file_mode), 0);
		said = logged(text, cases[i].mode);
		ck_assert_msg((strstr(said, "readable by others") != NULL) == cases[i].warns,
			"%zu: %s", i, said);
		ck_assert_ptr_null(strstr(said, "hidden"));
		free(said);
		free(text);
		free(broker);
	}
}
END_TEST

/* A fault never shows a password. */
START_TEST(test_password_not_shown)
{
	char *password = repeat('s', 65536);
	char *text = format("brokers: ( { username = \"u\"; password = \"%s\"; } );", password);

	assert_faults(text,
		"c:1: brokers[0].password: this value is not allowed; allowed: at most "
		"65535 bytes\n");
	free(text);
	free(password);
}
END_TEST

/* Programs beside the daemon: no secret is needed, none is given away, all else is as ever. */
START_TEST(test_public)
{
	static const char text[] =
		"gateway: { id = \"gw\"; };\n"
		"brokers: ( { host = \"h\"; username = \"u\"; password_file = \"/absent\";\n"
		"	tls: { ca_file = \"/absent\"; cert_file = \"none\"; key_file = \"none\"; "
		"}; },\n"
		"	{ host = \"i\"; username = \"u\"; password = \"secret\"; } );\n"
		"control: { path = \"/c\"; };\n";
	struct config *c = NULL;
	size_t size;
	FILE *f;

	write_text("c", text);
	ck_assert_ptr_null(load_file("c"));
	free(report);
	f = open_memstream(&report, &size);
	ck_assert_int_eq(config_load_public(&c, in_dir("c"), f), 0);
	ck_assert_str_eq(c->control.path, "/c");
	ck_assert_str_eq(c->gateway.id, "gw");
	ck_assert_uint_eq(c->n_brokers, 2);
	ck_assert_str_eq(c->brokers[0].host, "h");
	ck_assert_str_eq(c->brokers[0].password, "");
	ck_assert_str_eq(c->brokers[1].host, "i");
	ck_assert_str_eq(c->brokers[1].password, "");
	c = config_free(c);
	write_text("c", "report: { interval = 0; };\nbrokers: ( { prot = 1; } );\n");
	ck_assert_int_eq(config_load_public(&c, in_dir("c"), f), -EINVAL);
	ck_assert_ptr_null(c);
	fclose(f);
	strip_dir(report);
	ck_assert_str_eq(report,
		"c:1: report.interval: 0 is not allowed; allowed: 1 to 86400 seconds\n"
		"c:2: unknown key \"brokers[0].prot\"; did you mean \"brokers.port\"?\n");
}
END_TEST

/* --- lists of brokers ------------------------------------------------------------------------ */

START_TEST(test_brokers)
{
	static const struct {
		const char *host;
		uint16_t port;
		bool tls;
	} expected[] = { { "a", 8883, true }, { "b", 1883, false }, { "c", 5, true },
		{ "localhost", 1883, false } };
	struct config *c = load_good("brokers: ( { host = \"a\"; tls: { }; }, { host = \"b\"; },\n"
				     "{ host = \"c\"; port = 5; tls: { alpn = \"x\"; }; }, { } );");

	ck_assert_uint_eq(c->n_brokers, ARRAY_SIZE(expected));
	for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
		ck_assert_str_eq(c->brokers[i].host, expected[i].host);
		ck_assert_uint_eq(c->brokers[i].port, expected[i].port);
		ck_assert_int_eq(c->brokers[i].tls.enabled, expected[i].tls);
		ck_assert_uint_eq(c->brokers[i].priority, i);
	}
	assert_round_trip(c);
	config_free(c);
}
END_TEST

/* "brokers: ( ... );" with n entries, to be freed. */
static char *many_brokers(unsigned n)
{
	char *text = format("brokers: (");

	for (unsigned i = 0; i < n; i++) {
		char *more = format("%s%s\n{ host = \"b%u\"; }", text, i ? "," : "", i);

		free(text);
		text = more;
	}
	return text;
}

START_TEST(test_many_brokers)
{
	char *text = many_brokers(32), *whole = format("%s );", text);
	struct config *c = load_good(whole);

	ck_assert_uint_eq(c->n_brokers, 32);
	ck_assert_str_eq(c->brokers[31].host, "b31");
	assert_round_trip(c);
	config_free(c);
	free(whole);
	free(text);
	text = many_brokers(34);
	whole = format("%s );", text);
	assert_faults(whole, "c:34: brokers: found 34; allowed: 1 to 32 brokers\n");
	free(whole);
	free(text);
}
END_TEST

START_TEST(test_discovered)
{
	static const struct {
		const char *text;
		const char *username;
		bool tls;
	} cases[] = {
		{ "discovery: { srv = \"_mqtt._tcp.x\"; };", "", false },
		{ "discovery: { srv = \"_secure-mqtt._tcp.x\"; };", "", true },
		{ "discovery: { srv = \"_SECURE-mqtt._TCP.x\"; };", "", true },
		{ "discovery: { srv = \"_secure-mqtt._udp.x\"; };", "", false },
		{ "discovery: { srv = \"_mqtt._tcp.x\"; };"
		  "brokers: ( { username = \"u\"; } );",
			"u", false },
		{ "brokers: ( { username = \"u\"; password = \"p\"; tls: { }; } );"
		  "discovery: { srv = \"_mqtt._tcp.x\"; };",
			"u", true },
		/* A name that says TLS never means a password in the clear. */
		{ "brokers: ( { username = \"u\"; password = \"p\"; } );"
		  "discovery: { srv = \"_secure-mqtt._tcp.x\"; };",
			"u", true },
		{ "discovery: { file = \"/absent\"; };", "", false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config *c = load_good(cases[i].text);

		ck_assert_uint_eq(c->n_brokers, 0);
		ck_assert_ptr_null(c->brokers);
		ck_assert_str_eq(c->discovery.template.host, "");
		ck_assert_uint_eq(c->discovery.template.port, 0);
		ck_assert_str_eq(c->discovery.template.username, cases[i].username);
		ck_assert_int_eq(c->discovery.template.tls.enabled, cases[i].tls);
		assert_round_trip(c);
		config_free(c);
	}
}
END_TEST

/* Loads a file of the folder that holds brokers only. NULL: there were faults. */
static struct config_broker *load_brokers(const char *name, size_t *ret_n)
{
	struct config_broker *brokers = NULL;
	size_t size;
	FILE *f;
	int r;

	free(report);
	f = open_memstream(&report, &size);
	ck_assert_ptr_nonnull(f);
	r = config_load_brokers(&brokers, ret_n, in_dir(name), false, f);
	ck_assert_int_eq(fclose(f), 0);
	strip_dir(report);
	ck_assert_int_eq(r, brokers ? 0 : -EINVAL);
	ck_assert_int_eq(*report == '\0', brokers != NULL);
	return brokers;
}

START_TEST(test_load_brokers)
{
	struct config_broker *brokers, *copy = NULL;
	size_t n = 0;

	write_text("inc", "{ host = \"b\"; tls: { alpn = \"mqtt\"; }; }");
	write_text("list", "brokers: ( { host = \"a\"; port = 0x75B; },\n@include \"inc\"\n );");
	brokers = load_brokers("list", &n);
	ck_assert_msg(brokers, "%s", report);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(brokers[0].host, "a");
	ck_assert_uint_eq(brokers[0].port, 1883);
	ck_assert_str_eq(brokers[1].host, "b");
	ck_assert_uint_eq(brokers[1].port, 8883);
	ck_assert_uint_eq(brokers[1].priority, 1);
	ck_assert_int_eq(config_brokers_copy(&copy, brokers, n), 0);
	config_brokers_free(brokers, n);
	ck_assert_str_eq(copy[0].username, "");
	ck_assert_str_eq(copy[1].host, "b");
	ck_assert_str_eq(copy[1].tls.alpn, "mqtt");
	ck_assert(copy[1].tls.enabled);
	ck_assert_uint_eq(copy[1].port, 8883);
	config_brokers_free(copy, n);
	ck_assert_int_eq(config_brokers_copy(&copy, NULL, 0), 0);
	config_brokers_free(copy, 0);
	config_brokers_free(NULL, 0);
}
END_TEST

START_TEST(test_load_brokers_faults)
{
	static const struct {
		const char *text;
		const char *faults;
	} cases[] = {
		{ "", "list: no brokers; allowed: brokers: ( { host = \"...\"; } )\n" },
		{ "brokers: ( );",
			"list:1: brokers: the list is empty; allowed: 1 to 32 brokers\n" },
		{ "brokers = 1;",
			"list:1: brokers: found an integer, wanted a list: ( { host = \"...\"; } "
			")\n" },
		{ "brokers: ( { } );\nlog: { level = \"debug\"; };",
			"list:2: unknown key \"log\"; allowed in a file of brokers: brokers\n" },
		{ "discovery: { file = \"/x\"; };\nborkers: ( );",
			"list: no brokers; allowed: brokers: ( { host = \"...\"; } )\n"
			"list:1: unknown key \"discovery\"; allowed in a file of brokers: brokers\n"
			"list:2: unknown key \"borkers\"; allowed in a file of brokers: "
			"brokers\n" },
		{ "\nbrokers: ( { port = 4294969179; hots = 1; } );",
			"list:2: 4294969179 does not fit 32 bits and would be cut; allowed: "
			"4294969179L, or for a size a string such as \"4G\"\n"
			"list:2: brokers[0].port: 4294969179 is not allowed; allowed: 1 to 65535\n"
			"list:2: unknown key \"brokers[0].hots\"; did you mean "
			"\"brokers.host\"?\n" },
		{ "brokers: ( { } ", "list:1: " SYNTAX },
		{ "@include \"absent\"\nbrokers: ( { }, { } );",
			"list:1: cannot include \"absent\": No such file or directory\n"
			"list:2: brokers[1]: host \"localhost\", port 1883 are those of "
			"brokers[0]; "
			"allowed: each broker once\n" },
		{ "brokers: ( { password = \"p\"; tls: { ca_fil = \"/x\"; }; } );",
			"list:1: unknown key \"brokers[0].tls.ca_fil\"; did you mean "
			"\"brokers.tls.ca_file\"?\n"
			"list:1: brokers[0].username is missing; allowed with a password: a user "
			"name\n" },
	};
	size_t n = 7;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		write_text("list", cases[i].text);
		ck_assert_ptr_null(load_brokers("list", &n));
		ck_assert_str_eq(report, cases[i].faults);
	}
	ck_assert_ptr_null(load_brokers("absent", &n));
	ck_assert_str_eq(report, "absent: cannot read: No such file or directory\n");
	/* Nobody writes to it: there is no waiting for it. */
	ck_assert_int_eq(mkfifo(in_dir("pipe"), 0600), 0);
	ck_assert_ptr_null(load_brokers("pipe", &n));
	ck_assert_str_eq(report, "pipe: cannot read: not a regular file\n");
	ck_assert_uint_eq(n, 7);
}
END_TEST

/* --- files of TLS ---------------------------------------------------------------------------- */

/* What a tool beside the daemon reads: what is faulty or secret is not its business. */
START_TEST(test_places)
{
	struct config *c = NULL;

	write_text("c",
		"control: { path = \"/run/c.sock\"; };\n"
		"socket: { path = \"no path\"; mode = 7; };\n"
		"nonsense = 1;\n"
		"brokers: ( { username = \"u\"; password_file = \"/nonexistent\"; }, 7 );\n");
	ck_assert_int_eq(config_load_places(&c, in_dir("c")), 0);
	ck_assert_str_eq(c->control.path, "/run/c.sock");
	ck_assert_str_eq(c->socket.path, "/run/mqttgw.sock");
	ck_assert_uint_eq(c->n_brokers, 0);
	c = config_free(c);
	ck_assert_int_eq(config_load_places(&c, "/dev/null"), 0);
	ck_assert_str_eq(c->control.path, "/run/mqttgw/control.sock");
	c = config_free(c);
	write_text("c", "control: {");
	ck_assert_int_eq(config_load_places(&c, in_dir("c")), -EINVAL);
	ck_assert_int_eq(config_load_places(&c, in_dir("missing")), -EINVAL);
	ck_assert_ptr_null(c);
}
END_TEST

START_TEST(test_tls_files)
{
	struct config *c;
	char *text;

	ck_assert_int_eq(mkdir(in_dir("creds"), 0700), 0);
	write_text("creds/cert", "certificate");
	write_text("creds/key", "key");
	write_text("ca", "authority");
	ck_assert_int_eq(setenv("CREDENTIALS_DIRECTORY", in_dir("creds"), 1), 0);
	text = format("brokers: ( { tls: { ca_file = \"%s\"; ca_path = \"%s\";\n"
		      "cert_file = \"cert\"; key_file = \"key\"; }; } );",
		in_dir("ca"), dir);
	c = load_good(text);
	ck_assert_str_eq(c->brokers[0].tls.ca_file, in_dir("ca"));
	ck_assert_str_eq(c->brokers[0].tls.ca_path, dir);
	ck_assert_str_eq(c->brokers[0].tls.cert_file, in_dir("creds/cert"));
	ck_assert_str_eq(c->brokers[0].tls.key_file, in_dir("creds/key"));
	assert_round_trip(c);
	config_free(c);
	free(text);
	ck_assert_int_eq(unlink(in_dir("creds/key")), 0);
	assert_faults("brokers: ( { tls: { cert_file = \"cert\";\nkey_file = \"key\"; }; } );",
		"c:2: brokers[0].tls.key_file: cannot read \"creds/key\": No such file or "
		"directory\n");
	ck_assert_int_eq(mkdir(in_dir("creds/key"), 0700), 0);
	assert_faults("discovery: { srv = \"_mqtt._tcp.x\"; };\n"
		      "brokers: ( { tls: { cert_file = \"cert\"; key_file = \"key\"; }; } );",
		"c:2: brokers[0].tls.key_file: cannot read \"creds/key\": Is a directory\n");
}
END_TEST

START_TEST(test_tls_warnings)
{
	static const struct {
		const char *tls;
		mode_t mode; /* of the key */
		const char *warning; /* NULL: none */
	} cases[] = {
		{ "", 0600, NULL },
		{ "insecure = true;", 0600, "brokers[0].tls.insecure = true: THE BROKER'S" },
		{ "insecure = false;", 0600, NULL },
		{ "cert_file = \"k\"; key_file = \"k\";", 0640, NULL },
		{ "cert_file = \"k\"; key_file = \"k\";", 0644, "k holds a private key and is " },
	};

	ck_assert_int_eq(setenv("CREDENTIALS_DIRECTORY", dir, 1), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *text = format(
			"gateway: { id = \"g\"; };\nbrokers: ( { tls: { %s }; } );", cases[i].tls);
		char *said;

		write_text("k", "");
		ck_assert_int_eq(chmod(in_dir("k"), cases[i].mode), 0);
		said = logged(text, 0600);
		if (cases[i].warning)
			ck_assert_msg(strstr(said, cases[i].warning), "%s", said);
		else
			ck_assert_str_eq(said, ".");
		free(said);
		free(text);
	}
}
END_TEST

/* --- what is shipped ------------------------------------------------------------------------- */

/* Calls for each key of the group and of the groups within it. */
static void each_key(const struct config_group *group,
	void (*call)(const char *group, const char *key, const char *text), const char *text)
{
	for (size_t i = 0; i < group->n_keys; i++)
		if (group->keys[i].group)
			each_key(group->keys[i].group, call, text);
		else
			call(group->name, group->keys[i].name, text);
}

/* Removes the '#' before each setting: comments proper have a blank behind it. */
static void uncomment(char *text)
{
	for (char *p = text; (p = strchr(p, '#')); p++)
		if ((p[1] >= 'a' && p[1] <= 'z') || p[1] == '}')
			*p = ' ';
}

static void assert_shown(const char *group, const char *key, const char *text)
{
	/* Rules have no defaults to show. */
	char *line = format("%s %s = ", streq(group, "access") ? "" : "\t", key);

	if (!streq(key, "id"))
		ck_assert_msg(strstr(text, line), "%s: not shown:%s", group, line);
	free(line);
}

static void assert_described(const char *group, const char *key, const char *text)
{
	char *item = format(".It Va %s.%s\n", group, key);

	ck_assert_msg(strstr(text, item), "not described: %s", item);
	free(item);
}

/* As it is: the defaults. Uncommented: the same, and TLS, which being there turns on. */
START_TEST(test_shipped_file)
{
	static const char *const same[] = { "", "brokers: ( { port = 1883; tls: { }; } );" };
	char *text = read_whole(TEST_SRCDIR "/../etc/mqttgw.conf"), *found, *expected, *id;

	/* The id is the machine's own: give it the one of load(). */
	id = strstr(text, "#id = \"\";");
	ck_assert_ptr_nonnull(id);
	for (unsigned round = 0; round < ARRAY_SIZE(same); round++) {
		struct config *c = load_good(same[round]);

		expected = print(c);
		config_free(c);
		memcpy(id, "id=\"gw\"; ", 9);
		c = load_good(text);
		found = print(c);
		ck_assert_str_eq(found, expected);
		config_free(c);
		free(found);
		free(expected);
		uncomment(text);
	}
	for (size_t g = 0; g < config_n_groups; g++)
		each_key(&config_groups[g], assert_shown, text);
	free(text);
}
END_TEST

START_TEST(test_manual)
{
	char *text = read_whole(TEST_SRCDIR "/../man/mqttgw.conf.5");

	for (size_t g = 0; g < config_n_groups; g++)
		each_key(&config_groups[g], assert_described, text);
	free(text);
}
END_TEST

START_TEST(test_print_full)
{
	struct config *c = load_good("");
	FILE *f = fopen("/dev/full", "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(config_print(c, f), -ENOSPC);
	fclose(f);
	config_free(c);
	ck_assert_ptr_null(config_free(NULL));
}
END_TEST

Suite *check_config(void)
{
	Suite *s = suite_create("config");
	TCase *tc = tcase_create("config");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_defaults);
	tcase_add_test(tc, test_everything_set);
	tcase_add_loop_test(tc, test_good, 0, ARRAY_SIZE(good));
	tcase_add_loop_test(tc, test_bad, 0, ARRAY_SIZE(bad));
	tcase_add_loop_test(tc, test_length, 0, ARRAY_SIZE(lengths));
	tcase_add_test(tc, test_unreadable);
	tcase_add_test(tc, test_bytes);
	tcase_add_test(tc, test_no_last_newline);
	tcase_add_test(tc, test_include);
	tcase_add_test(tc, test_include_faults);
	tcase_add_test(tc, test_include_too_much);
	tcase_add_test(tc, test_derived_id);
	tcase_add_test(tc, test_host_name);
	tcase_add_loop_test(tc, test_password_file, 0, ARRAY_SIZE(files));
	tcase_add_test(tc, test_password_file_faults);
	tcase_add_test(tc, test_credential);
	tcase_add_test(tc, test_readable_by_others);
	tcase_add_test(tc, test_password_not_shown);
	tcase_add_test(tc, test_public);
	tcase_add_test(tc, test_brokers);
	tcase_add_test(tc, test_many_brokers);
	tcase_add_test(tc, test_discovered);
	tcase_add_test(tc, test_load_brokers);
	tcase_add_test(tc, test_load_brokers_faults);
	tcase_add_test(tc, test_places);
	tcase_add_test(tc, test_tls_files);
	tcase_add_test(tc, test_tls_warnings);
	tcase_add_test(tc, test_shipped_file);
	tcase_add_test(tc, test_manual);
	tcase_add_test(tc, test_print_full);
	suite_add_tcase(s, tc);
	return s;
}
