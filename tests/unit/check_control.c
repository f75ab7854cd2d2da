/* SPDX-License-Identifier: MIT */
/*
 * Tests of the operator's socket: requests, the lines that answer them, and events on a socket.
 * What the other commands do is tested with a real daemon, in tests/integration/test_control.py.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "control_reply.h"
#include "control_request.h"
#include "listener.h"
#include "scratch.h"
#include "suites.h"

/* --- requests -------------------------------------------------------------------------------- */

static const struct {
	const char *line;
	enum control_error error;
	const char *text; /* a part of it */
} bad[] = {
	{ "", CONTROL_BAD_JSON, "" },
	{ "{", CONTROL_BAD_JSON, "column 1" },
	{ "[]", CONTROL_BAD_JSON, "object" },
	{ "7", CONTROL_BAD_JSON, "" },
	{ "{\"command\":\"status\"}x", CONTROL_BAD_JSON, "column 21" },
	{ "{\"command\":\"\xff\"}", CONTROL_BAD_JSON, "" },
	{ "{\"command\":\"queue-list\",\"limit\":99999999999999999999}", CONTROL_BAD_JSON, "" },
	{ "{}", CONTROL_BAD_COMMAND, "missing" },
	{ "{\"command\":null}", CONTROL_BAD_COMMAND, "no string" },
	{ "{\"command\":\"Status\"}", CONTROL_BAD_COMMAND, "\"Status\"" },
	{ "{\"command\":\"statu\"}", CONTROL_BAD_COMMAND, "" },
	{ "{\"command\":\"status\\u0000\"}", CONTROL_BAD_COMMAND, "" },
	{ "{\"command\":\"status\",\"since\":1}", CONTROL_BAD_FIELD,
		"\"since\"; it may have: none" },
	{ "{\"command\":\"queue-purge\",\"seq\":1}", CONTROL_BAD_FIELD, "it may have: topic" },
	{ "{\"command\":\"queue-list\",\"x\":1}", CONTROL_BAD_FIELD, "topic, limit, after" },
	{ "{\"command\":\"status\",\"command\":\"status\"}", CONTROL_BAD_FIELD, "" },
	{ "{\"command\":\"events\",\"since\":-1}", CONTROL_BAD_FIELD, "whole number, 0 or more" },
	{ "{\"command\":\"events\",\"since\":null}", CONTROL_BAD_FIELD, "since" },
	{ "{\"command\":\"queue-list\",\"limit\":0}", CONTROL_BAD_FIELD, "1 or more" },
	{ "{\"command\":\"queue-list\",\"limit\":1.0}", CONTROL_BAD_FIELD, "limit" },
	{ "{\"command\":\"queue-show\"}", CONTROL_BAD_FIELD, "needs a seq" },
	{ "{\"command\":\"queue-show\",\"seq\":0}", CONTROL_BAD_FIELD, "seq" },
	{ "{\"command\":\"dead-purge\",\"seq\":1,\"topic\":\"a\"}", CONTROL_BAD_FIELD, "not both" },
	{ "{\"command\":\"queue-purge\",\"topic\":7}", CONTROL_BAD_FIELD, "must be a string" },
	{ "{\"command\":\"queue-purge\",\"topic\":\"\"}", CONTROL_BAD_FIELD, "empty" },
	{ "{\"command\":\"queue-purge\",\"topic\":\"a/#/b\"}", CONTROL_BAD_FIELD, "whole level" },
	{ "{\"command\":\"queue-purge\",\"topic\":\"a\\u0000\"}", CONTROL_BAD_FIELD, "U+0000" },
};

START_TEST(test_bad_requests)
{
	struct control_request r = { .limit = 42 };
	char text[CONTROL_TEXT_MAX] = "";

	ck_assert_int_eq(
		control_request_parse(bad[_i].line, strlen(bad[_i].line), &r, text), bad[_i].error);
	ck_assert_msg(strstr(text, bad[_i].text), "%s -> %s", bad[_i].line, text);
	ck_assert_uint_gt(strlen(text), 0);
	ck_assert_uint_eq(r.limit, 42);
}
END_TEST

START_TEST(test_each_command)
{
	char line[200], text[CONTROL_TEXT_MAX];
	enum control_command c = (enum control_command)_i;
	bool wants_seq = c == CONTROL_QUEUE_SHOW || c == CONTROL_DEAD_SHOW;
	struct control_request r;

	snprintf(line, sizeof(line), " { \"command\" : \"%s\"%s } ", control_command_to_string(c),
		wants_seq ? ", \"seq\": 9223372036854775807" : "");
	ck_assert_int_eq(control_request_parse(line, strlen(line), &r, text), CONTROL_OK);
	ck_assert_int_eq(r.command, c);
	ck_assert_ptr_null(r.topic);
	ck_assert_uint_eq(r.limit, CONTROL_NONE);
	ck_assert_uint_eq(r.after, 0);
	ck_assert_uint_eq(r.since, CONTROL_NONE);
	ck_assert_uint_eq(r.seq, wants_seq ? INT64_MAX : CONTROL_NONE);
	control_request_clear(&r);
}
END_TEST

START_TEST(test_fields)
{
	static const char line[] = "{\"after\":3,\"limit\":1,\"topic\":\"a/+/#\","
				   "\"command\":\"dead-export\"}";
	char text[CONTROL_TEXT_MAX];
	struct control_request r;

	ck_assert_int_eq(control_request_parse(line, strlen(line), &r, text), CONTROL_OK);
	ck_assert_int_eq(r.command, CONTROL_DEAD_EXPORT);
	ck_assert_str_eq(r.topic, "a/+/#");
	ck_assert_uint_eq(r.after, 3);
	ck_assert_uint_eq(r.limit, 1);
	control_request_clear(&r);
}
END_TEST

/* --- replies --------------------------------------------------------------------------------- */

/* What is put, as text; static. */
static const char *text_of(json_t *line)
{
	static char text[4000];
	struct buffer out = { 0 };

	ck_assert_ptr_nonnull(line);
	ck_assert_int_eq(control_put(&out, line), 0);
	ck_assert_uint_lt(buffer_len(&out), sizeof(text));
	memcpy(text, buffer_head(&out), buffer_len(&out));
	text[buffer_len(&out)] = '\0';
	buffer_clear(&out);
	return text;
}

START_TEST(test_errors)
{
	struct buffer out = { 0 };

	ck_assert_int_eq(control_put_ok(&out), 0);
	ck_assert_int_eq(control_put_error(&out, CONTROL_BUSY, "say \"later\"\n"), 0);
	/* What is cut inside a character is told all the same. */
	ck_assert_int_eq(control_put_error(&out, CONTROL_FAILED, "no \xc3"), 0);
	ck_assert_int_eq(buffer_append(&out, "", 1), 0);
	ck_assert_str_eq(buffer_head(&out),
		"{\"status\":\"ok\"}\n"
		"{\"status\":\"error\",\"error\":\"busy\",\"message\":\"say \\\"later\\\"\\n\"}\n"
		"{\"status\":\"error\",\"error\":\"failed\",\"message\":\"no ?\"}\n");
	buffer_clear(&out);
	ck_assert_int_eq(control_put(&out, NULL), -ENOMEM);
	ck_assert_uint_eq(buffer_len(&out), 0);
}
END_TEST

START_TEST(test_times)
{
	char text[32];

	control_time(INT64_C(1767323045678), text);
	ck_assert_str_eq(text, "2026-01-02T03:04:05.678Z");
	control_time(0, text);
	ck_assert_str_eq(text, "1970-01-01T00:00:00.000Z");
	control_time(INT64_MAX, text);
	ck_assert_str_eq(text, "9223372036854775807");
}
END_TEST

static struct message message_of(const void *payload, size_t len)
{
	return (struct message){
		.id = 7,
		.topic = "a/b",
		.topic_len = 3,
		.payload = payload,
		.payload_len = len,
		.timestamp = -5,
		.qos = 2,
		.retain = true,
	};
}

#define ROW "\"seq\":7,\"topic\":\"a/b\",\"qos\":2,\"retain\":true,\"timestamp\":-5,"

START_TEST(test_rows)
{
	const struct control_death death = { .reason = "no", .died_at = 9 };
	struct message m = message_of("hi\0", 3), binary = message_of("\xff\x00", 2);
	struct message empty = message_of(NULL, 0);

	ck_assert_str_eq(text_of(control_row_short(&m, NULL)),
		"{\"status\":\"row\"," ROW "\"bytes\":3,\"payload\":\"hi\\u0000\"}\n");
	ck_assert_str_eq(text_of(control_row_whole(&m, &death)),
		"{\"status\":\"ok\"," ROW
		"\"bytes\":3,\"reason\":\"no\",\"died_at\":9,\"payload\":\"hi\\u0000\"}\n");
	ck_assert_str_eq(text_of(control_row_short(&binary, NULL)),
		"{\"status\":\"row\"," ROW "\"bytes\":2}\n");
	ck_assert_str_eq(text_of(control_row_whole(&binary, NULL)),
		"{\"status\":\"ok\"," ROW "\"bytes\":2,\"payload_base64\":\"/wA=\"}\n");
	ck_assert_str_eq(text_of(control_row_line(&binary)),
		"{\"status\":\"row\",\"line\":{\"topic\":\"a/b\",\"payload_base64\":\"/wA=\","
		"\"qos\":2,\"retain\":true,\"timestamp\":-5}}\n");
	ck_assert_str_eq(text_of(control_row_line(&empty)),
		"{\"status\":\"row\",\"line\":{\"topic\":\"a/b\",\"payload\":\"\","
		"\"qos\":2,\"retain\":true,\"timestamp\":-5}}\n");
}
END_TEST

/* Where the first hundred bytes end inside a character, that one is left out. */
START_TEST(test_beginning_of_a_payload)
{
	char payload[200];
	struct message m = message_of(payload, 0);

	for (size_t before = 96; before <= 100; before++) {
		json_t *row;

		memset(payload, 'x', before);
		memcpy(payload + before, "\xf0\x9f\x8c\xa1yyyy", 8);
		m.payload_len = before + 8;
		row = control_row_short(&m, NULL);
		ck_assert_uint_eq(json_string_length(json_object_get(row, "payload")),
			before == 96 ? 100 : before);
		json_decref(row);
		/* The same bytes at the end of a payload are no UTF-8. */
		m.payload_len = before + 3;
		row = control_row_short(&m, NULL);
		ck_assert_int_eq(json_object_get(row, "payload") != NULL, before + 3 > 100);
		json_decref(row);
		row = control_row_whole(&m, NULL);
		ck_assert_ptr_nonnull(json_object_get(row, "payload_base64"));
		json_decref(row);
	}
}
END_TEST

/* --- status ---------------------------------------------------------------------------------- */

static const struct control_facts facts = {
	.version = "9",
	.gateway = "gw",
	.instance = "0123",
	.socket_path = "/run/s",
	.queue_path = "/var/q",
	.restart_needed = "socket.path, queue.path",
};

static struct figures *figures_of_now(void)
{
	struct figures *f = calloc(1, sizeof(*f));

	ck_assert_ptr_nonnull(f);
	f->now_usec = 100 * USEC_PER_SEC;
	f->oldest_msec = INT64_MIN;
	f->uplink.next_usec = UINT64_MAX;
	return f;
}

START_TEST(test_status_of_nothing)
{
	struct figures *f = figures_of_now();
	struct control_facts none = facts;
	char expected[2000];

	none.restart_needed = "";
	snprintf(expected, sizeof(expected),
		"{\"status\":\"ok\",\"version\":\"9\",\"gateway\":\"gw\",\"pid\":%d,"
		"\"uptime\":100.0,\"socket\":\"/run/s\",\"state\":\"disconnected\","
		"\"since\":100.0,\"broker\":null,\"brokers\":[],\"why\":\"\","
		"\"next_attempt\":null,\"held\":false,\"last_failure\":null,"
		"\"queue\":{\"messages\":0,\"max_messages\":null,\"bytes\":0,\"max_bytes\":null,"
		"\"oldest\":null,\"dead_letters\":0,\"max_dead_letters\":null},"
		"\"store_error\":null,\"inflight\":0,\"window\":0,"
		"\"rates\":{\"accepted\":0.0,\"delivered\":0.0},"
		"\"totals\":{\"accepted\":0,\"delivered\":0,\"refused\":0,\"dropped\":0},"
		"\"clients\":0,\"max_clients\":0,\"stopping\":false,\"restart_needed\":[]}\n",
		(int)getpid());
	ck_assert_str_eq(text_of(control_status(f, &none)), expected);
	free(f);
}
END_TEST

static void fill_uplink(struct figures_uplink *u)
{
	u->state = SUPERVISOR_OFFLINE;
	u->state_usec = 40 * USEC_PER_SEC;
	strcpy(u->broker, "b:1");
	strcpy(u->cause, "no answer");
	u->next_usec = 101250 * USEC_PER_MSEC;
	u->held = true;
	u->last_failure.class = FAILURE_AUTH;
	strcpy(u->last_failure.broker, "a:1");
	strcpy(u->last_failure.text, "refused");
	u->last_failure.time_msec = 1500;
	u->n_brokers = 3;
	strcpy(u->brokers[0].name, "a:1");
	u->brokers[0].listed = true;
	u->brokers[0].aside_usec = 130 * USEC_PER_SEC;
	u->brokers[0].attempts[FAILURE_AUTH] = 2;
	strcpy(u->brokers[1].name, "b:1");
	u->brokers[1].listed = u->brokers[1].up = true;
	u->brokers[1].attempts[FAILURE_NONE] = 3;
	strcpy(u->brokers[2].name, "gone:1");
	for (size_t i = 0; i < 3; i++)
		u->delivered[i] = i + 1;
	u->inflight = 4;
	u->window = 20;
}

#define ATTEMPTS(ok, auth)                                                           \
	"\"attempts\":{\"success\":" ok ",\"timeout\":0,\"heartbeat\":0,\"busy\":0," \
	"\"moved\":0,\"taken-over\":0,\"auth\":" auth ",\"protocol\":0}}"

/* What a broker says is quoted, and cut to fit, in the middle of a character perhaps. */
START_TEST(test_status_quotes_bytes)
{
	struct figures *f = figures_of_now();
	json_t *status;

	f->messages = 1;
	f->uplink.n_brokers = 1;
	f->uplink.brokers[0] = (struct figures_broker){ .name = "a:1", .listed = true };
	f->uplink.last_failure = (struct figures_failure){
		.broker = "a:1", .class = FAILURE_AUTH, .text = "it says \"gesperrt f\xc3"
	};
	status = control_status(f, &facts);
	ck_assert_ptr_nonnull(status);
	ck_assert_str_eq(json_string_value(json_object_get(
				 json_object_get(status, "last_failure"), "message")),
		"it says \"gesperrt f?");
	ck_assert_str_eq(json_string_value(json_object_get(status, "why")),
		"disconnected: a:1: it says \"gesperrt f? (auth)");
	json_decref(status);
	free(f);
}
END_TEST

START_TEST(test_status_of_much)
{
	struct figures *f = figures_of_now();
	char why[400], expected[3000];

	fill_uplink(&f->uplink);
	f->started_usec = 1 * USEC_PER_SEC;
	f->store_error = -ENOSPC;
	f->messages = 1000;
	f->max_messages = 5000;
	f->bytes = UINT64_C(1) << 40;
	f->max_bytes = UINT64_C(1) << 41;
	f->oldest_msec = 1000;
	f->now_msec = 3500;
	f->dead_letters = 6;
	f->max_dead_letters = 10;
	f->accepted[1] = 70;
	f->refused[0].error = "bad-json";
	f->refused[0].count = 8;
	f->refused[1].error = "queue-full";
	f->refused[1].count = 1;
	f->dropped[FIGURES_DROPPED_PURGED] = 5;
	f->dropped[FIGURES_DROPPED_OVERFLOW] = 6;
	f->accepted_rate = 1.0 / 3.0;
	f->clients = 2;
	f->max_clients = 3;
	f->stopping = true;
	figures_why(f, why, sizeof(why));
	ck_assert_uint_gt(strlen(why), 0);
	snprintf(expected, sizeof(expected),
		"{\"status\":\"ok\",\"version\":\"9\",\"gateway\":\"gw\",\"pid\":%d,"
		"\"uptime\":99.0,\"socket\":\"/run/s\",\"state\":\"offline\",\"since\":60.0,"
		"\"broker\":\"b:1\",\"brokers\":["
		"{\"name\":\"a:1\",\"up\":false,\"current\":false,\"set_aside\":30.0," ATTEMPTS("0",
			"2") ",{\"name\":\"b:1\",\"up\":true,\"current\":true,"
			     "\"set_aside\":null," ATTEMPTS("3",
				     "0") "],"
					  "\"why\":\"%s\",\"next_attempt\":1.25,\"held\":true,"
					  "\"last_failure\":{\"broker\":\"a:1\",\"class\":\"auth\","
					  "\"message\":\"refused\","
					  "\"time\":\"1970-01-01T00:00:01.500Z\"},"
					  "\"queue\":{\"messages\":1000,\"max_messages\":5000,"
					  "\"bytes\":1099511627776,"
					  "\"max_bytes\":2199023255552,\"oldest\":2.5,\"dead_"
					  "letters\":6,"
					  "\"max_dead_letters\":10},\"store_error\":\"No space "
					  "left on device\","
					  "\"inflight\":4,\"window\":20,\"rates\":{\"accepted\":0."
					  "333,\"delivered\":0.0},"
					  "\"totals\":{\"accepted\":70,\"delivered\":6,\"refused\":"
					  "9,\"dropped\":11},"
					  "\"clients\":2,\"max_clients\":3,\"stopping\":true,"
					  "\"restart_needed\":[\"socket.path\",\"queue.path\"]}\n",
		(int)getpid(), why);
	ck_assert_str_eq(text_of(control_status(f, &facts)), expected);
	free(f);
}
END_TEST

/* --- events ---------------------------------------------------------------------------------- */

static void get_facts(void *userdata, struct control_facts *ret)
{
	(void)userdata;
	*ret = facts;
}

struct served {
	struct scratch scratch;
	sd_event *event;
	struct listener listener;
	struct alerts *alerts;
	struct control *control;
	int fd; /* a client's */
	bool damaged; /* the next look at the queue finds it */
	unsigned steps; /* of a purge */
	char said[400000];
};

/* Damage may come to light in whatever the gateway is asked for. */
static void meet_damage(struct served *v)
{
	if (!v->damaged)
		return;
	v->damaged = false;
	control_release_queue(v->control);
	control_alerted(v->control);
}

static void get_figures(void *userdata, struct figures *ret)
{
	*ret = (struct figures){ .oldest_msec = INT64_MIN };
	meet_damage(userdata);
}

/* Has as many rows as there are steps. */
static int purge(void *userdata, struct selection *sel)
{
	struct served *v = userdata;

	meet_damage(v);
	sel->count++;
	return v->steps-- > 1;
}

static struct served *serve(void)
{
	static const struct control_callbacks callbacks = {
		.facts = get_facts,
		.figures = get_figures,
		.purge = purge,
	};
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct served *v = calloc(1, sizeof(*v));

	ck_assert_ptr_nonnull(v);
	scratch_make(&v->scratch);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.90s/s", v->scratch.dir);
	ck_assert_int_ge(sd_event_new(&v->event), 0);
	ck_assert_int_eq(listener_make(&v->listener, address.sun_path, 0600, NULL), 0);
	ck_assert_int_eq(alerts_new(&v->alerts), 0);
	ck_assert_int_eq(
		control_new(&v->control, v->event, v->listener.fd, v->alerts, &callbacks, v), 0);
	v->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(connect(v->fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return v;
}

static void end(struct served *v)
{
	close(v->fd);
	v->control = control_free(v->control);
	v->alerts = alerts_free(v->alerts);
	listener_close(&v->listener);
	v->event = sd_event_unref(v->event);
	scratch_remove(&v->scratch);
	free(v);
}

/* Runs until nothing happens any more; what was said meanwhile. */
static const char *converse(struct served *v, const char *request)
{
	size_t have = 0;
	ssize_t n;
	int r;

	if (request)
		ck_assert_int_eq(send(v->fd, request, strlen(request), 0), strlen(request));
	do {
		r = sd_event_run(v->event, 20 * USEC_PER_MSEC);
		n = recv(v->fd, v->said + have, sizeof(v->said) - 1 - have, 0);
		have += n > 0 ? (size_t)n : 0;
	} while (r > 0);
	v->said[have] = '\0';
	return v->said;
}

/* One of a broker of its own: the same again would be counted only. */
static void raise_alert(struct served *v, unsigned n)
{
	char broker[20];

	snprintf(broker, sizeof(broker), "b%u", n);
	alerts_raise(v->alerts, ALERT_AUTH, n ? broker : "", 1, "say \"no\"", 1 + n, 1500);
	control_alerted(v->control);
}

static unsigned lines_of(const char *text)
{
	unsigned n = 0;

	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n;
}

START_TEST(test_events_as_they_come)
{
	struct served *v = serve();
	const char *said;

	raise_alert(v, 7);
	said = converse(v, "{\"command\":\"events\"}\n");
	ck_assert_uint_eq(lines_of(said), 1);
	ck_assert_ptr_nonnull(strstr(said, "\"kind\":\"hello\",\"seq\":1,\"instance\":\"0123\""));
	raise_alert(v, 0);
	ck_assert_str_eq(converse(v, NULL),
		"{\"status\":\"event\",\"seq\":2,\"time\":\"1970-01-01T00:00:01.500Z\","
		"\"kind\":\"auth\",\"count\":1,\"broker\":null,\"message\":\"say "
		"\\\"no\\\"\"}\n");
	raise_alert(v, 8);
	ck_assert_ptr_nonnull(strstr(converse(v, NULL), "\"seq\":3,"));
	ck_assert_ptr_nonnull(strstr(v->said, "\"broker\":\"b8\""));
	/* Nobody to tell, and nobody at all. */
	control_alerted(NULL);
	control_stop(v->control);
	ck_assert_ptr_nonnull(strstr(converse(v, NULL), "\"error\":\"stopping\""));
	end(v);
}
END_TEST

static const struct {
	const char *since;
	unsigned raised, lines;
	const char *first; /* after hello */
} sinces[] = {
	{ "0", 3, 3, "\"seq\":1," },
	{ "2", 3, 1, "\"seq\":3," },
	{ "3", 3, 0, "" },
	{ "4", 3, 3, "\"seq\":1," }, /* of another process */
	{ "0", 0, 0, "" },
	{ "0", ALERTS_KEPT, ALERTS_KEPT, "\"seq\":1," },
	{ "0", ALERTS_KEPT + 5, ALERTS_KEPT + 1, "\"kind\":\"lost\",\"count\":5}" },
	{ "3", ALERTS_KEPT + 5, ALERTS_KEPT + 1, "\"kind\":\"lost\",\"count\":2}" },
	{ "5", ALERTS_KEPT + 5, ALERTS_KEPT, "\"seq\":6," },
};

START_TEST(test_events_since)
{
	struct served *v = serve();
	char request[100];
	const char *said;

	for (unsigned n = 0; n < sinces[_i].raised; n++)
		raise_alert(v, n);
	snprintf(request, sizeof(request), "{\"command\":\"events\",\"since\":%s}\n",
		sinces[_i].since);
	said = converse(v, request);
	ck_assert_uint_eq(lines_of(said), 1 + sinces[_i].lines);
	said = strchr(said, '\n');
	ck_assert_ptr_nonnull(said);
	ck_assert_ptr_eq(strstr(said, sinces[_i].first),
		sinces[_i].lines ? said + strlen("\n{\"status\":\"event\",") : said);
	end(v);
}
END_TEST

/* --- news in the middle of a command --------------------------------------------------------- */

#define BUSY_LINE                                                                                  \
	"{\"status\":\"error\",\"error\":\"busy\",\"message\":\"the database is being set aside; " \
	"try "                                                                                     \
	"again in a moment\"}\n"

/* The last line of one that says nothing any more: answered, then closed. */
static const char *say_last(struct served *v, const char *line)
{
	ck_assert_int_eq(send(v->fd, line, strlen(line), 0), strlen(line));
	ck_assert_int_eq(shutdown(v->fd, SHUT_WR), 0);
	return converse(v, NULL);
}

START_TEST(test_damage_inside_a_request)
{
	struct served *v = serve();

	v->damaged = true;
	ck_assert_ptr_nonnull(
		strstr(say_last(v, "{\"command\":\"status\"}"), "{\"status\":\"ok\""));
	ck_assert(!v->damaged);
	ck_assert_int_eq(recv(v->fd, v->said, 1, 0), 0);
	end(v);
}
END_TEST

START_TEST(test_damage_inside_a_step)
{
	struct served *v = serve();

	v->damaged = true;
	v->steps = 5;
	ck_assert_str_eq(say_last(v, "{\"command\":\"queue-purge\"}"), BUSY_LINE);
	ck_assert_uint_eq(v->steps, 4);
	ck_assert_int_eq(recv(v->fd, v->said, 1, 0), 0);
	end(v);
}
END_TEST

/* The request behind the one that was broken off was read already, and is answered. */
START_TEST(test_broken_off_between_steps)
{
	struct served *v = serve();
	const char *said;

	v->steps = UINT32_MAX;
	ck_assert_int_gt(
		send(v->fd, "{\"command\":\"queue-purge\"}\n{\"command\":\"status\"}\n", 47, 0), 0);
	for (unsigned n = 0; n < 50; n++)
		ck_assert_int_ge(sd_event_run(v->event, USEC_PER_MSEC), 0);
	ck_assert_uint_lt(v->steps, UINT32_MAX);
	control_release_queue(v->control);
	said = converse(v, NULL);
	ck_assert_int_eq(strncmp(said, BUSY_LINE, strlen(BUSY_LINE)), 0);
	ck_assert_ptr_nonnull(strstr(said, "{\"status\":\"ok\",\"version\""));
	ck_assert_uint_eq(lines_of(said), 2);
	end(v);
}
END_TEST

static int on_idle(sd_event_source *s, void *userdata)
{
	unsigned *n = userdata;

	(void)s;
	++*n;
	return 0;
}

/* A long command leaves time for what the loop has of the lowest priority. */
START_TEST(test_steps_leave_others_their_turn)
{
	struct served *v = serve();
	sd_event_source *idle;
	unsigned n = 0;

	ck_assert_int_ge(sd_event_add_defer(v->event, &idle, on_idle, &n), 0);
	ck_assert_int_ge(sd_event_source_set_priority(idle, SD_EVENT_PRIORITY_IDLE), 0);
	ck_assert_int_ge(sd_event_source_set_enabled(idle, SD_EVENT_ON), 0);
	v->steps = UINT32_MAX;
	ck_assert_int_gt(send(v->fd, "{\"command\":\"queue-purge\"}\n", 26, 0), 0);
	for (unsigned i = 0; i < 1000 && (n < 20 || v->steps > UINT32_MAX - 2); i++)
		ck_assert_int_ge(sd_event_run(v->event, UINT64_MAX), 0);
	ck_assert_uint_ge(n, 20);
	sd_event_source_disable_unref(idle);
	end(v);
}
END_TEST

Suite *check_control(void)
{
	Suite *s = suite_create("control");
	TCase *t;

	t = tcase_create("requests");
	tcase_add_loop_test(t, test_bad_requests, 0, ARRAY_SIZE(bad));
	tcase_add_loop_test(t, test_each_command, 0, N_CONTROL_COMMANDS);
	tcase_add_test(t, test_fields);
	suite_add_tcase(s, t);

	t = tcase_create("replies");
	tcase_add_test(t, test_errors);
	tcase_add_test(t, test_times);
	tcase_add_test(t, test_rows);
	tcase_add_test(t, test_beginning_of_a_payload);
	tcase_add_test(t, test_status_of_nothing);
	tcase_add_test(t, test_status_quotes_bytes);
	tcase_add_test(t, test_status_of_much);
	suite_add_tcase(s, t);

	t = tcase_create("news");
	tcase_add_test(t, test_damage_inside_a_request);
	tcase_add_test(t, test_damage_inside_a_step);
	tcase_add_test(t, test_broken_off_between_steps);
	tcase_add_test(t, test_steps_leave_others_their_turn);
	suite_add_tcase(s, t);

	t = tcase_create("events");
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_events_as_they_come);
	tcase_add_loop_test(t, test_events_since, 0, ARRAY_SIZE(sinces));
	suite_add_tcase(s, t);
	return s;
}
