/* SPDX-License-Identifier: MIT */
/*
 * Tests of ingest: real clients on a real socket, in front of a store that is only played. The
 * store looks at every commit whether a reply has gone out before it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "ingest.h"
#include "frame_json.h"
#include "ingest_client.h"
#include "journal.h"
#include "log.h"
#include "scratch.h"
#include "suites.h"

#define DEADLINE (60 * USEC_PER_SEC)
#define MAX_ROWS 200000

/* --- clients --------------------------------------------------------------------------------- */

struct peer {
	int fd;
	char *got;
	size_t n_got, n_read, size;
	int waiting; /* bytes that lay in the socket after the last dispatch */
	bool closed; /* by the other side */
	bool reset; /* in the hard way */
};

static struct scratch scratch;
static sd_event *event;
static struct ingest *ingest;
static int listen_fd;
static struct peer peers[64];
static unsigned n_peers;

/* --- the store that is played ---------------------------------------------------------------- */

static struct {
	struct row {
		int payload; /* as a number */
		bool stored;
	} rows[MAX_ROWS]; /* by id */
	uint64_t last_id;
	uint64_t first_open; /* of the transaction under way */
	unsigned commits, appends;
	bool stopping;
	unsigned append_fails_in; /* the n-th from now, once */
	int append_error;
	bool append_failed; /* in this transaction */
	unsigned commit_fails; /* so many from now */
	int commit_error;
	struct message last; /* without its bytes */
	char topic[100], payload[100];
} store;

static int bytes_waiting(const struct peer *p)
{
	int n = 0;

	if (p->fd >= 0 && !p->closed)
		ck_assert_int_eq(ioctl(p->fd, FIONREAD, &n), 0);
	return n;
}

/* What the other side has not yet read, roughly. */
static unsigned bytes_unsent(const struct peer *p)
{
	int n = 0;

	ck_assert_int_eq(ioctl(p->fd, TIOCOUTQ, &n), 0);
	return (unsigned)n;
}

/* A stop takes several turns in one go: each begins with its first append. */
static void expect_no_reply_yet(void)
{
	if (store.stopping && store.first_open > store.last_id) {
		for (unsigned i = 0; i < n_peers; i++)
			peers[i].waiting = bytes_waiting(&peers[i]);
	}
	for (unsigned i = 0; i < n_peers; i++)
		ck_assert_int_eq(bytes_waiting(&peers[i]), peers[i].waiting);
}

static int append(void *userdata, const struct message *m, uint64_t *ret_id, const char **ret_text)
{
	ck_assert_ptr_eq(userdata, &store);
	store.appends++;
	expect_no_reply_yet();
	ck_assert(!store.append_failed); /* nothing can be stored now, it said */
	if (store.append_fails_in && --store.append_fails_in == 0) {
		store.append_failed = store.append_error != -EMSGSIZE &&
			store.append_error != -EINVAL && store.append_error != -ENOBUFS;
		*ret_text = "which bound it is";
		return store.append_error;
	}
	ck_assert_uint_lt(store.last_id, MAX_ROWS - 1);
	*ret_id = ++store.last_id;
	store.last = *m;
	snprintf(store.topic, sizeof(store.topic), "%.*s", (int)m->topic_len, m->topic);
	snprintf(store.payload, sizeof(store.payload), "%.*s", (int)m->payload_len,
		m->payload ? (const char *)m->payload : "");
	store.rows[*ret_id] = (struct row){ .payload = atoi(store.payload) };
	return 0;
}

static int commit(void *userdata)
{
	bool fails = store.commit_fails > 0;

	ck_assert_ptr_eq(userdata, &store);
	expect_no_reply_yet();
	store.commits++;
	store.append_failed = false;
	store.commit_fails -= fails;
	for (uint64_t id = store.first_open; id <= store.last_id; id++)
		store.rows[id].stored = !fails;
	store.first_open = store.last_id + 1;
	return fails ? store.commit_error : 0;
}

static uint64_t stored_rows(void)
{
	uint64_t n = 0;

	for (uint64_t id = 1; id <= store.last_id; id++)
		n += store.rows[id].stored;
	return n;
}

/* --- set up ---------------------------------------------------------------------------------- */

static const struct ingest_callbacks callbacks = { .append = append, .commit = commit };

static struct figures_refused counters[FIGURES_ERRORS + 1];

static const struct ingest_params defaults = {
	.refused = counters,
	.default_qos = 1,
	.max_clients = 1000,
	.max_message_bytes = 1 << 20,
	.max_buffered_bytes = 16 << 20,
	.stall_usec = INGEST_STALL_USEC,
};

static struct sockaddr_un address(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", scratch_path(&scratch, "socket"));
	return a;
}

static void setup(void)
{
	struct sockaddr_un a;

	log_set_level(LOG_EMERG);
	scratch_make(&scratch);
	a = address();
	ck_assert_int_ge(sd_event_new(&event), 0);
	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(bind(listen_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	ck_assert_int_eq(listen(listen_fd, 100), 0);
	memset(&store, 0, sizeof(store));
	memset(counters, 0, sizeof(counters));
	store.first_open = 1;
	n_peers = 0;
}

static void hang_up(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

static void teardown(void)
{
	ingest = ingest_free(ingest);
	ck_assert_ptr_null(ingest);
	for (unsigned i = 0; i < n_peers; i++) {
		hang_up(&peers[i]);
		free(peers[i].got);
	}
	n_peers = 0;
	event = sd_event_unref(event);
	close(listen_fd);
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static void start(const struct ingest_params *params)
{
	ck_assert_int_eq(ingest_new(&ingest, event, listen_fd, params, &callbacks, &store), 0);
}

/* --- the loop -------------------------------------------------------------------------------- */

/* One dispatch; false when there was nothing to do. */
static bool step(uint64_t timeout_usec)
{
	int r = sd_event_run(event, timeout_usec);

	ck_assert_int_ge(r, 0);
	for (unsigned i = 0; i < n_peers; i++)
		peers[i].waiting = bytes_waiting(&peers[i]);
	return r > 0;
}

static void run_until_idle(void)
{
	uint64_t deadline = now_usec() + DEADLINE;

	while (step(0))
		ck_assert_uint_lt(now_usec(), deadline);
}

static struct peer *connect_peer(void)
{
	struct sockaddr_un a = address();
	struct peer *p = &peers[n_peers++];

	ck_assert_uint_le(n_peers, ARRAY_SIZE(peers));
	*p = (struct peer){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	ck_assert_int_ge(p->fd, 0);
	ck_assert_int_eq(connect(p->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	run_until_idle();
	return p;
}

/* Sends what goes now. */
static size_t send_some(struct peer *p, const char *data, size_t n)
{
	ssize_t sent = send(p->fd, data, n, MSG_NOSIGNAL);

	if (sent < 0)
		ck_assert_msg(errno == EAGAIN || errno == EPIPE || errno == ECONNRESET, "%m");
	return sent < 0 ? 0 : (size_t)sent;
}

static void send_bytes(struct peer *p, const char *data, size_t n)
{
	ck_assert_uint_eq(send_some(p, data, n), n);
}

static void send_text(struct peer *p, const char *text)
{
	send_bytes(p, text, strlen(text));
}

/* Reads what is there. */
static void receive(struct peer *p)
{
	while (!p->closed) {
		ssize_t n;

		if (p->size - p->n_got < 4096) {
			p->size = p->size * 2 + 8192;
			p->got = realloc(p->got, p->size);
			ck_assert_ptr_nonnull(p->got);
		}
		n = recv(p->fd, p->got + p->n_got, p->size - p->n_got - 1, 0);
		if (n < 0 && errno == EAGAIN)
			break;
		p->reset = n < 0;
		if (n <= 0)
			p->closed = true;
		else
			p->n_got += (size_t)n;
	}
	p->got[p->n_got] = '\0';
	p->waiting = 0;
}

/* The next line without its end, good until the next call; NULL when there is none yet. */
static const char *next_line(struct peer *p)
{
	char *line, *end;

	if (!p->got)
		return NULL;
	line = p->got + p->n_read;
	end = memchr(line, '\n', p->n_got - p->n_read);
	if (!end)
		return NULL;
	*end = '\0';
	p->n_read = (size_t)(end + 1 - p->got);
	return line;
}

static const char *wait_line(struct peer *p)
{
	uint64_t deadline = now_usec() + DEADLINE;
	const char *line;

	while (!(line = next_line(p))) {
		bool busy = step(0);

		receive(p);
		if ((!busy && p->n_read == p->n_got) || now_usec() > deadline)
			ck_abort_msg("no reply");
	}
	return line;
}

static void _printf_(2, 3) expect_line(struct peer *p, const char *format, ...)
{
	const char *line = wait_line(p);
	char expected[300];
	va_list ap;

	va_start(ap, format);
	vsnprintf(expected, sizeof(expected), format, ap);
	va_end(ap);
	ck_assert_str_eq(line, expected);
}

static void expect_queued(struct peer *p, const char *id, uint64_t seq)
{
	expect_line(
		p, "{\"id\":%s,\"status\":\"queued\",\"seq\":%llu}", id, (unsigned long long)seq);
}

/* Returns the explanation. */
static const char *expect_error(struct peer *p, const char *id, const char *error)
{
	const char *line = wait_line(p);
	char prefix[200];
	size_t n;

	snprintf(prefix, sizeof(prefix),
		"{\"id\":%s,\"status\":\"error\",\"error\":\"%s\",\"message\":\"", id, error);
	n = strlen(prefix);
	ck_assert_msg(strncmp(line, prefix, n) == 0, "%s instead of %s", line, prefix);
	ck_assert_uint_gt(strlen(line), n + 2);
	ck_assert_str_eq(line + strlen(line) - 2, "\"}");
	return line + n;
}

static void stop(void)
{
	store.stopping = true;
	ingest_stop(ingest);
	store.stopping = false;
}

static void expect_silence(struct peer *p)
{
	run_until_idle();
	receive(p);
	ck_assert_uint_eq(p->n_got, p->n_read);
	ck_assert(!p->closed);
}

static void expect_closed(struct peer *p)
{
	run_until_idle();
	receive(p);
	ck_assert_uint_eq(p->n_got, p->n_read);
	ck_assert(p->closed);
}

/* Many small writes would fill the socket sooner than one large one. */
static void send_lines(struct peer *p, const char *line, unsigned n)
{
	size_t len = strlen(line);
	char *block = malloc(n * len);

	ck_assert_ptr_nonnull(block);
	for (size_t i = 0; i < n * len; i++)
		block[i] = line[i % len];
	send_bytes(p, block, n * len);
	free(block);
}

static void say(struct peer *p, int id)
{
	char line[100];

	snprintf(line, sizeof(line), "{\"topic\":\"t\",\"payload\":%d,\"id\":%d}\n", id, id);
	send_text(p, line);
}

/* --- lines and replies ----------------------------------------------------------------------- */

START_TEST(test_free_takes_null)
{
	ck_assert_ptr_null(ingest_free(NULL));
	start(&defaults);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

START_TEST(test_message)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p, "{\"topic\":\"a/b\",\"payload\":\"text\",\"id\":\"x\"}\n");
	expect_queued(p, "\"x\"", 1);
	ck_assert_str_eq(store.topic, "a/b");
	ck_assert_str_eq(store.payload, "text");
	ck_assert_uint_eq(store.last.qos, 1);
	ck_assert(!store.last.retain);
	ck_assert_int_le(store.last.timestamp, now_epoch_msec());
	ck_assert_int_gt(store.last.timestamp, now_epoch_msec() - 60000);
	send_text(p, "{\"topic\":\"c\",\"qos\":2,\"retain\":true,\"timestamp\":5,\"id\":1}\r\n");
	expect_queued(p, "1", 2);
	ck_assert_uint_eq(store.last.qos, 2);
	ck_assert(store.last.retain);
	ck_assert_int_eq(store.last.timestamp, 5);
	ck_assert_uint_eq(store.last.payload_len, 0);
	ck_assert_uint_eq(stored_rows(), 2);
}
END_TEST

START_TEST(test_default_qos)
{
	struct ingest_params params = defaults;
	struct peer *p;

	params.default_qos = (uint8_t)_i;
	start(&params);
	p = connect_peer();
	say(p, 1);
	expect_queued(p, "1", 1);
	ck_assert_int_eq(store.last.qos, _i);
}
END_TEST

START_TEST(test_replies_in_order)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p,
		"{\"topic\":\"t\",\"id\":1}\n"
		"nonsense\n"
		"{\"topic\":\"a/+\",\"id\":\"two\"}\n"
		"\n"
		"{\"topic\":\"t\",\"id\":3}\n"
		"{\"topic\":\"t\",\"qos\":7,\"id\":4}\n"
		"{\"topic\":\"t\",\"colour\":1,\"id\":5}\n"
		"{\"topic\":\"t\",\"id\":6}\n");
	expect_queued(p, "1", 1);
	expect_error(p, "null", "bad-json");
	expect_error(p, "\"two\"", "bad-topic");
	expect_queued(p, "3", 2);
	expect_error(p, "4", "bad-qos");
	expect_error(p, "5", "bad-field");
	expect_queued(p, "6", 3);
	expect_silence(p);
	ck_assert_uint_eq(store.commits, 1);
}
END_TEST

START_TEST(test_silence_without_id)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p, "{\"topic\":\"t\"}\n{\"topic\":\"t\",\"payload\":5}\n");
	expect_silence(p);
	ck_assert_uint_eq(stored_rows(), 2);
	send_text(p, "{\"topic\":\"#\"}\n{\"topic\":\"t\"}\n");
	expect_error(p, "null", "bad-topic");
	expect_silence(p);
	ck_assert_uint_eq(stored_rows(), 3);
}
END_TEST

START_TEST(test_blank_lines)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p, "\n\r\n   \n\t \r\n\n");
	expect_silence(p);
	ck_assert_uint_eq(store.commits, 0);
	ck_assert_uint_eq(store.appends, 0);
	say(p, 1);
	expect_queued(p, "1", 1);
}
END_TEST

/* Lines that are no messages need no commit. */
START_TEST(test_no_commit_for_nothing)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p, "nonsense\n{}\n");
	expect_error(p, "null", "bad-json");
	expect_error(p, "null", "bad-topic");
	ck_assert_uint_eq(store.commits, 0);
}
END_TEST

static const char *const other_protocols[] = { "GET / HTTP/1.1\n", "\x10\n", "[1]\n", "x\n",
	"\xff\xfe\n", "\"topic\"\n" };

START_TEST(test_other_protocols)
{
	struct peer *p, *other;

	start(&defaults);
	p = connect_peer();
	other = connect_peer();
	send_text(p, other_protocols[_i]);
	say(other, 1);
	expect_error(p, "null", "bad-json");
	expect_queued(other, "1", 1);
}
END_TEST

START_TEST(test_last_line_without_newline)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p, "{\"topic\":\"t\",\"id\":1}\n{\"topic\":\"t\",\"id\":2}");
	expect_queued(p, "1", 1);
	expect_silence(p);
	ck_assert_int_eq(shutdown(p->fd, SHUT_WR), 0);
	expect_queued(p, "2", 2);
	expect_closed(p);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

START_TEST(test_everything_at_once_and_shutdown)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_text(p, "{\"topic\":\"t\",\"id\":1}\n{\"topic\":\"t\",\"id\":2}\r");
	shutdown(p->fd, SHUT_WR);
	expect_queued(p, "1", 1);
	expect_queued(p, "2", 2);
	expect_closed(p);
}
END_TEST

START_TEST(test_nothing_but_a_shutdown)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	shutdown(p->fd, SHUT_WR);
	expect_closed(p);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

/* A client that only reports and hangs up at once is heard to the end. */
START_TEST(test_hang_up_after_sending)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_lines(p, "{\"topic\":\"t\",\"id\":5}\n", 5000);
	hang_up(p);
	run_until_idle();
	ck_assert_uint_eq(stored_rows(), 5000);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

START_TEST(test_one_byte_at_a_time)
{
	static const char lines[] = "{\"topic\":\"t\",\"payload\":\"a\\nb\",\"id\":1}\r\n"
				    "\n"
				    "nonsense\n"
				    "{\"topic\":\"t\",\"id\":\"\xc3\xa4\"}\n";
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	for (size_t i = 0; lines[i]; i++) {
		send_bytes(p, lines + i, 1);
		run_until_idle();
	}
	expect_queued(p, "1", 1);
	expect_error(p, "null", "bad-json");
	expect_queued(p, "\"\xc3\xa4\"", 2);
}
END_TEST

START_TEST(test_one_commit_for_all_clients)
{
	struct peer *three[3];
	char id[32];

	start(&defaults);
	for (int i = 0; i < 3; i++)
		three[i] = connect_peer();
	for (int i = 0; i < 30; i++)
		say(three[i % 3], i);
	run_until_idle();
	ck_assert_uint_eq(stored_rows(), 30);
	ck_assert_uint_eq(store.commits, 1);
	for (int i = 0; i < 30; i++) {
		const char *line = wait_line(three[i % 3]);

		snprintf(id, sizeof(id), "\"id\":%d,", i);
		ck_assert_ptr_nonnull(strstr(line, id));
	}
}
END_TEST

/* Far more than one turn takes. */
START_TEST(test_many_lines)
{
	struct peer *p;
	int sent = 0, answered = 0;
	char line[64];

	start(&defaults);
	p = connect_peer();
	while (answered < 20000) {
		const char *reply;

		while (sent < 20000) {
			int n = snprintf(line, sizeof(line), "{\"topic\":\"t\",\"id\":%d}\n", sent);
			size_t done = send_some(p, line, (size_t)n);

			if (done == 0)
				break;
			ck_assert_uint_eq(done, (size_t)n); /* so short a one is never cut */
			sent++;
		}
		ck_assert(step(0));
		receive(p);
		while ((reply = next_line(p))) {
			snprintf(line, sizeof(line), "{\"id\":%d,\"status\":\"queued\",\"seq\":%d}",
				answered, answered + 1);
			ck_assert_str_eq(reply, line);
			answered++;
		}
	}
	ck_assert_uint_eq(stored_rows(), 20000);
	ck_assert_uint_le(store.commits, 20000 / 10);
}
END_TEST

/* --- bounds of a line ------------------------------------------------------------------------ */

#define BOUND 200

static const struct {
	size_t len; /* of the line, without its end */
	const char *end;
	bool shut; /* its sender shuts down */
	const char *error; /* NULL: it is taken */
} lengths[] = {
	{ BOUND - 1, "\n", false, NULL },
	{ BOUND, "\n", false, NULL },
	{ BOUND, "\r\n", false, NULL },
	{ BOUND, "", true, NULL },
	{ BOUND, "\r", true, NULL },
	{ BOUND + 1, "\n", false, "too-large" },
	{ BOUND + 1, "\r\n", false, "too-large" },
	{ BOUND + 1, "", true, "too-large" },
	{ BOUND + 2, "", false, "too-large" }, /* no end is needed to see it */
	{ BOUND + 500, "\n", false, "too-large" },
	{ BOUND + 500, "", false, "too-large" },
	{ BOUND * 500, "\n", false, "too-large" },
	{ BOUND * 500, "", false, "too-large" },
	{ BOUND * 500, "", true, "too-large" },
};

/* A line of that length that is a message. */
static char *make_line(size_t len, int id)
{
	char *line = malloc(len + 1);
	int n;

	ck_assert_ptr_nonnull(line);
	n = snprintf(line, len + 1, "{\"topic\":\"t\",\"id\":%d,\"payload\":\"", id);
	ck_assert_uint_lt((size_t)n + 2, len);
	memset(line + n, 'x', len - (size_t)n - 2);
	memcpy(line + len - 2, "\"}", 3);
	return line;
}

START_TEST(test_length_of_a_line)
{
	struct ingest_params params = defaults;
	char *line = make_line(lengths[_i].len, 2);
	struct peer *p, *other;

	params.max_message_bytes = BOUND;
	start(&params);
	p = connect_peer();
	other = connect_peer();
	say(p, 1);
	send_text(p, line);
	send_text(p, lengths[_i].end);
	if (lengths[_i].shut)
		shutdown(p->fd, SHUT_WR);
	else if (lengths[_i].end[0])
		say(p, 3);
	expect_queued(p, "1", 1);
	if (lengths[_i].error) {
		expect_error(p, "null", lengths[_i].error);
		expect_closed(p);
		ck_assert_uint_eq(stored_rows(), 1);
		ck_assert_uint_eq(ingest_clients(ingest), 1);
	} else {
		expect_queued(p, "2", 2);
		if (!lengths[_i].shut)
			expect_queued(p, "3", 3);
	}
	/* Nobody else is harmed. */
	say(other, 9);
	wait_line(other);
	free(line);
}
END_TEST

/* Its end may come later than the rest. */
START_TEST(test_length_with_a_late_end)
{
	static const char *const ends[] = { "\n", "\r\n" };
	struct ingest_params params = defaults;
	char *line = make_line(BOUND, 1);
	struct peer *p;

	params.max_message_bytes = BOUND;
	start(&params);
	p = connect_peer();
	send_text(p, line);
	for (const char *end = ends[_i]; *end; end++) {
		expect_silence(p);
		send_bytes(p, end, 1);
	}
	expect_queued(p, "1", 1);
	free(line);
}
END_TEST

/* The reply is there although the client goes on sending. */
START_TEST(test_too_large_and_still_sending)
{
	struct ingest_params params = defaults;
	char *line = make_line(100000, 1);
	struct peer *p;

	params.max_message_bytes = BOUND;
	start(&params);
	p = connect_peer();
	send_text(p, line);
	send_text(p, line);
	expect_error(p, "null", "too-large");
	expect_closed(p);
	ck_assert(!p->reset); /* which might cost it the reply */
	free(line);
}
END_TEST

START_TEST(test_longest_lines)
{
	struct ingest_params params = defaults;
	char *line = make_line(100000, 1);
	struct peer *p;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 1; /* room for one is always there */
	start(&params);
	p = connect_peer();
	for (int i = 0; i < 5; i++) {
		send_text(p, line);
		send_text(p, "\r\n");
		expect_queued(p, "1", (uint64_t)i + 1);
		ck_assert_uint_gt(store.last.payload_len, 99000);
	}
	free(line);
}
END_TEST

/* --- the store fails ------------------------------------------------------------------------- */

static const int store_errors[] = { -EIO, -ENOSPC, -EROFS, -EBUSY, -ENOMEM };

START_TEST(test_commit_fails)
{
	struct peer *p, *other;

	start(&defaults);
	p = connect_peer();
	other = connect_peer();
	store.commit_fails = 1;
	store.commit_error = store_errors[_i];
	send_text(p,
		"{\"topic\":\"t\",\"id\":1}\n"
		"{\"topic\":\"t\"}\n"
		"{\"topic\":\"#\",\"id\":3}\n"
		"{\"topic\":\"t\",\"id\":4}\n");
	say(other, 5);
	expect_error(p, "1", "storage");
	expect_error(p, "null", "storage"); /* a failure is never silent */
	expect_error(p, "3", "bad-topic");
	expect_error(p, "4", "storage");
	expect_error(other, "5", "storage");
	ck_assert_uint_eq(store.commits, 1);
	ck_assert_uint_eq(stored_rows(), 0);
	say(p, 6);
	expect_queued(p, "6", 5); /* the ids of the failed batch are not used again */
	expect_silence(other);
	ck_assert_uint_eq(stored_rows(), 1);
}
END_TEST

START_TEST(test_append_fails)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	store.append_fails_in = 2;
	store.append_error = store_errors[_i];
	store.commit_fails = 1; /* a store that failed to append commits nothing */
	store.commit_error = store_errors[_i];
	send_text(p,
		"{\"topic\":\"t\",\"id\":1}\n"
		"{\"topic\":\"#\",\"id\":2}\n"
		"{\"topic\":\"t\"}\n"
		"{\"topic\":\"t\",\"id\":4}\n");
	expect_error(p, "1", "storage");
	expect_error(p, "2", "bad-topic");
	expect_error(p, "null", "storage");
	/* That ended the batch, so that the store could end what it had begun. */
	expect_queued(p, "4", 2);
	ck_assert_uint_eq(store.commits, 2);
	say(p, 5);
	expect_queued(p, "5", 3);
	ck_assert_uint_eq(stored_rows(), 2);
}
END_TEST

START_TEST(test_storage_says_why)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	store.commit_fails = 3;
	store.commit_error = -ENOSPC;
	say(p, 1);
	ck_assert_ptr_nonnull(strstr(expect_error(p, "1", "storage"), "space"));
	store.commit_error = -EROFS;
	say(p, 2);
	ck_assert_ptr_nonnull(strstr(expect_error(p, "2", "storage"), "read-only"));
	store.commit_error = -EIO;
	say(p, 3);
	expect_error(p, "3", "storage");
}
END_TEST

/* One message that the store does not take: its neighbours are none the worse. */
START_TEST(test_one_cannot_be_stored)
{
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	store.append_fails_in = 2;
	store.append_error = _i ? -EINVAL : -EMSGSIZE;
	say(p, 1);
	say(p, 2);
	say(p, 3);
	expect_queued(p, "1", 1);
	expect_error(p, "2", "storage");
	expect_queued(p, "3", 2);
	ck_assert_uint_eq(store.commits, 1);
	ck_assert_uint_eq(stored_rows(), 2);
	/* Alone in its turn, too, it must not leave the store's transaction open. */
	store.append_fails_in = 1;
	say(p, 4);
	expect_error(p, "4", "storage");
	ck_assert_uint_eq(store.commits, 2);
}
END_TEST

/* --- many clients ---------------------------------------------------------------------------- */

START_TEST(test_max_clients)
{
	struct ingest_params params = defaults;
	struct peer *first, *second, *third;

	params.max_clients = 2;
	start(&params);
	first = connect_peer();
	second = connect_peer();
	ck_assert_uint_eq(ingest_clients(ingest), 2);
	for (int i = 0; i < 3; i++) {
		third = connect_peer();
		ck_assert_uint_eq(ingest_clients(ingest), 2);
		expect_error(third, "null", "too-many-clients");
		expect_closed(third);
	}
	say(first, 1);
	say(second, 2);
	wait_line(first);
	wait_line(second);
	hang_up(first);
	run_until_idle();
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	third = connect_peer();
	say(third, 3);
	expect_queued(third, "3", 3);
}
END_TEST

/* Its first lines are already there when it is turned away. */
START_TEST(test_max_clients_with_lines)
{
	struct ingest_params params = defaults;
	struct sockaddr_un a = address();
	struct peer *p;

	params.max_clients = 0;
	start(&params);
	p = &peers[n_peers++];
	*p = (struct peer){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	ck_assert_int_eq(connect(p->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	say(p, 1);
	expect_error(p, "null", "too-many-clients");
	expect_closed(p);
	ck_assert_uint_eq(store.appends, 0);
}
END_TEST

/* As much as is taken from a client that asks for replies and never reads one. */
static size_t flood(struct peer *p)
{
	static const char line[] = "{\"topic\":\"t\",\"payload\":0,\"id\":0}\n";
	static char block[(sizeof(line) - 1) * 100];
	uint64_t deadline = now_usec() + DEADLINE;
	size_t total = 0, offset = 0;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = line[i % (sizeof(line) - 1)];
	for (;;) {
		size_t n = send_some(p, block + offset, sizeof(block) - offset);

		total += n;
		offset = (offset + n) % sizeof(block);
		if (n == 0 && !step(0))
			break;
		ck_assert_uint_lt(now_usec(), deadline);
	}
	/* To the end of a line. */
	while (offset % (sizeof(line) - 1)) {
		size_t n = send_some(
			p, block + offset, (sizeof(line) - 1) - offset % (sizeof(line) - 1));

		if (n == 0)
			receive(p);
		step(0);
		total += n;
		offset += n;
		ck_assert_uint_lt(now_usec(), deadline);
	}
	return total / (sizeof(line) - 1);
}

START_TEST(test_client_that_does_not_read)
{
	struct peer *deaf, *other;
	size_t lines, replies = 0;
	uint64_t rows;

	start(&defaults);
	deaf = connect_peer();
	other = connect_peer();
	lines = flood(deaf);
	/* What lies in the two sockets, and one read between them. */
	ck_assert_uint_lt(lines * 34, 4 << 20);
	rows = stored_rows();
	for (int i = 0; i < 20; i++) {
		say(other, i);
		wait_line(other);
	}
	/* Meanwhile nothing was taken from it. */
	ck_assert_uint_eq(stored_rows(), rows + 20);
	/* It wakes up: everything goes on where it stopped, and nothing was forgotten. */
	while (replies < lines) {
		bool busy = step(0);
		size_t before = replies;

		receive(deaf);
		while (next_line(deaf))
			replies++;
		ck_assert(busy || replies > before);
	}
	expect_silence(deaf);
	ck_assert_uint_eq(stored_rows(), lines + 20);
}
END_TEST

/* Several that are stuck, each with something else half done, cost nothing while they are. */
START_TEST(test_clients_that_do_not_read_do_not_keep_us_busy)
{
	struct peer *deaf[12], *other;

	start(&defaults);
	other = connect_peer();
	for (unsigned i = 0; i < ARRAY_SIZE(deaf); i++) {
		char id[100], line[200];

		memset(id, 'x', sizeof(id));
		id[8 * i] = '\0';
		snprintf(line, sizeof(line), "{\"topic\":\"t\",\"id\":\"%s\"}\n", id);
		deaf[i] = connect_peer();
		/* Replies are longer than lines, so they are stuck before the last line. */
		for (int round = 0; round < 4; round++) {
			send_lines(deaf[i], line, (unsigned)(120000 / strlen(line)));
			run_until_idle();
			if (bytes_unsent(deaf[i]) > 0)
				break;
		}
		ck_assert_uint_gt(bytes_unsent(deaf[i]), 0);
	}
	ck_assert(!step(0));
	say(other, 1);
	wait_line(other);
}
END_TEST

/* It goes away instead. What was read of it counts. */
START_TEST(test_client_that_does_not_read_hangs_up)
{
	struct peer *deaf, *other;
	size_t lines;

	start(&defaults);
	deaf = connect_peer();
	other = connect_peer();
	lines = flood(deaf);
	hang_up(deaf);
	run_until_idle();
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	ck_assert_uint_le(stored_rows(), lines);
	say(other, 1);
	wait_line(other);
}
END_TEST

START_TEST(test_fairness)
{
	static const char line[] = "{\"topic\":\"t\"}\n";
	static char block[(sizeof(line) - 1) * 4096];
	struct peer *busy[4], *quiet;
	size_t offset[4] = { 0 };
	unsigned commits;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = line[i % (sizeof(line) - 1)];
	start(&defaults);
	for (int i = 0; i < 4; i++)
		busy[i] = connect_peer();
	quiet = connect_peer();
	for (int round = 0; round < 20; round++) {
		const char *reply = NULL;

		commits = store.commits;
		say(quiet, round);
		while (!reply) {
			for (int i = 0; i < 4; i++)
				offset[i] = (offset[i] +
						    send_some(busy[i], block + offset[i],
							    sizeof(block) - offset[i])) %
					sizeof(block);
			step(0);
			receive(quiet);
			reply = next_line(quiet);
			/* Each has its share of a turn. */
			ck_assert_uint_le(store.commits - commits, 3);
		}
	}
	ck_assert_uint_gt(stored_rows(), 10000);
}
END_TEST

static int count_dispatch(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	char byte;

	(void)source;
	(void)events;
	ck_assert_int_eq(read(fd, &byte, 1), 1);
	++*(unsigned *)userdata;
	return 0;
}

/* One dispatch with eight clients that never run dry. */
static void flood_step(struct peer **busy, size_t *offset, const char *block, size_t n)
{
	for (int k = 0; k < 8; k++)
		offset[k] = (offset[k] + send_some(busy[k], block + offset[k], n - offset[k])) % n;
	step(0);
}

/* Others on the same loop, and clients who knock, get their turn while lines pour in. */
START_TEST(test_flood_does_not_hold_up_the_loop)
{
	static const char line[] = "{\"topic\":\"t\"}\n";
	static char block[(sizeof(line) - 1) * 4096];
	sd_event_source *source = NULL;
	struct sockaddr_un a = address();
	unsigned dispatched = 0;
	struct peer *busy[8];
	size_t offset[8] = { 0 };
	int fds[2], late[20];

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = line[i % (sizeof(line) - 1)];
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	start(&defaults);
	ck_assert_int_ge(
		sd_event_add_io(event, &source, fds[0], EPOLLIN, count_dispatch, &dispatched), 0);
	for (int k = 0; k < 8; k++)
		busy[k] = connect_peer();
	for (unsigned round = 1; round <= ARRAY_SIZE(late); round++) {
		int fd = late[round - 1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		unsigned clients = ingest_clients(ingest);

		for (int i = 0; i < 4; i++)
			flood_step(busy, offset, block, sizeof(block));
		ck_assert_int_eq(write(fds[1], "x", 1), 1);
		ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
		for (int i = 0; i < 6 && (dispatched < round || ingest_clients(ingest) == clients);
			i++)
			flood_step(busy, offset, block, sizeof(block));
		ck_assert_uint_eq(dispatched, round);
		ck_assert_uint_gt(ingest_clients(ingest), clients);
	}
	for (size_t i = 0; i < ARRAY_SIZE(late); i++)
		close(late[i]);
	sd_event_source_unref(source);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

/* Reads that fill a turn: what they brought is handled in the next one, without a further push. */
START_TEST(test_turn_full_of_bytes)
{
	struct ingest_params params = defaults;
	char *line = make_line(8191, 1);
	struct peer *many[40];

	params.max_message_bytes = 70000; /* more than one read takes */
	start(&params);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = connect_peer();
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		for (int k = 0; k < 8; k++) {
			send_text(many[i], line);
			send_text(many[i], "\n");
		}
	}
	run_until_idle();
	ck_assert_uint_eq(stored_rows(), 8 * ARRAY_SIZE(many));
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		for (int k = 0; k < 8; k++)
			ck_assert_ptr_nonnull(strstr(wait_line(many[i]), "queued"));
		expect_silence(many[i]);
	}
	free(line);
}
END_TEST

/* The same with lines that are too large already, and have no end. */
START_TEST(test_turn_full_of_half_lines)
{
	struct ingest_params params = defaults;
	char *line = make_line(65536, 1);
	struct peer *many[40];

	params.max_message_bytes = 10000;
	start(&params);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = connect_peer();
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		send_text(many[i], line);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		expect_error(many[i], "null", "too-large");
		expect_closed(many[i]);
	}
	ck_assert_uint_eq(ingest_clients(ingest), 0);
	free(line);
}
END_TEST

/* Room for two lines; fifty clients are each in the middle of one. */
START_TEST(test_many_half_lines)
{
	struct ingest_params params = defaults;
	char *line = make_line(90000, 7);
	struct peer *many[50], *other;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 200004;
	start(&params);
	other = connect_peer();
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = connect_peer();
		send_bytes(many[i], line, 40000);
	}
	run_until_idle();
	ck_assert_uint_eq(store.appends, 0);
	/* One that asks for little is served meanwhile. */
	say(other, 1);
	expect_queued(other, "1", 1);
	for (size_t i = ARRAY_SIZE(many); i > 0; i--) {
		send_text(many[i - 1], line + 40000);
		send_text(many[i - 1], "\n");
		if (i % 3 == 0)
			run_until_idle();
	}
	run_until_idle();
	ck_assert_uint_eq(stored_rows(), 1 + ARRAY_SIZE(many));
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		ck_assert_ptr_nonnull(strstr(wait_line(many[i]), "\"id\":7,"));
	free(line);
}
END_TEST

/* Those who hold the room go away without finishing. */
START_TEST(test_half_lines_that_end)
{
	struct ingest_params params = defaults;
	char *line = make_line(90000, 7);
	struct peer *many[10], *last;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 200004;
	start(&params);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = connect_peer();
		send_bytes(many[i], line, 40000);
	}
	last = connect_peer();
	send_text(last, line);
	expect_silence(last);
	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		hang_up(many[i]);
	run_until_idle();
	send_text(last, "\n");
	expect_queued(last, "7", 1);
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	free(line);
}
END_TEST

/* Without descriptors, those who connect wait until there are some again. */
START_TEST(test_out_of_descriptors)
{
	struct rlimit old, limit;
	uint64_t deadline = now_usec() + DEADLINE;
	struct sockaddr_un a = address();
	struct peer *p, *first;
	int fd;

	start(&defaults);
	first = connect_peer();
	p = &peers[n_peers++];
	*p = (struct peer){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	ck_assert_int_eq(connect(p->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	say(p, 1);
	fd = dup(0);
	ck_assert_int_ge(fd, 0);
	close(fd);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
	limit = old;
	limit.rlim_cur = (rlim_t)fd; /* the lowest one that is free is not to be had */
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	run_until_idle();
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	/* The others are served. */
	say(first, 2);
	expect_queued(first, "2", 1);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	while (ingest_clients(ingest) < 2 && now_usec() < deadline)
		step(100 * USEC_PER_MSEC);
	expect_queued(p, "1", 2);
}
END_TEST

/* --- a commit that waits for more lines ------------------------------------------------------- */

static void start_with_delay(uint64_t usec)
{
	struct ingest_params params = defaults;

	params.commit_delay_usec = usec;
	start(&params);
}

START_TEST(test_delay)
{
	struct peer *a, *b;

	start_with_delay(50 * USEC_PER_MSEC);
	a = connect_peer();
	b = connect_peer();
	for (uint64_t round = 0; round < 3; round++) {
		uint64_t begin = now_usec();

		send_text(a, "{\"topic\":\"t\",\"payload\":1,\"id\":1}\n");
		run_until_idle();
		send_text(b, "{\"topic\":\"t\",\"payload\":2,\"id\":2}\nnot JSON\n");
		send_text(a, "{\"topic\":\"t\",\"payload\":3,\"id\":3}\n");
		run_until_idle();
		while (store.commits == round) {
			receive(a);
			receive(b);
			ck_assert(!next_line(a) && !next_line(b));
			step(DEADLINE);
		}
		ck_assert_uint_ge(now_usec() - begin, 50 * USEC_PER_MSEC);
		expect_queued(a, "1", 3 * round + 1);
		expect_queued(a, "3", 3 * round + 3);
		expect_queued(b, "2", 3 * round + 2);
		expect_error(b, "null", "bad-json");
	}
	/* An answer that waits for nothing is given at once. */
	send_text(b, "not JSON\n");
	expect_error(b, "null", "bad-json");
	ck_assert_uint_eq(store.commits, 3);
}
END_TEST

START_TEST(test_delay_cut_short)
{
	struct peer *a;

	start_with_delay(DEADLINE * 100);
	a = connect_peer();
	ingest_commit(ingest); /* nothing waits */
	ck_assert_uint_eq(store.commits, 0);
	send_text(a, "{\"topic\":\"t\",\"payload\":1,\"id\":1}\n");
	run_until_idle();
	ck_assert_uint_eq(store.commits, 0);
	ingest_commit(ingest);
	expect_queued(a, "1", 1);
	ck_assert_uint_eq(store.commits, 1);
}
END_TEST

/* A full turn does not wait. */
START_TEST(test_delay_full_turn)
{
	static const char line[] = "{\"topic\":\"t\",\"payload\":1}\n";
	struct peer *a;

	start_with_delay(DEADLINE * 100);
	a = connect_peer();
	for (unsigned n = 0; n < 1500; n++) {
		send_text(a, line);
		if (n % 100 == 99)
			run_until_idle();
	}
	run_until_idle();
	ck_assert_uint_eq(store.commits, 1);
	ck_assert_uint_eq(stored_rows(), 1000);
	ingest_commit(ingest);
	ck_assert_uint_eq(stored_rows(), 1500);
}
END_TEST

/* One that hangs up, or stops sending, does not take its lines along. */
START_TEST(test_delay_and_hang_up)
{
	struct peer *a, *b;

	start_with_delay(DEADLINE * 100);
	a = connect_peer();
	b = connect_peer();
	send_text(a, "{\"topic\":\"t\",\"payload\":1,\"id\":1}\n");
	send_text(b, "{\"topic\":\"t\",\"payload\":2,\"id\":2}\n");
	run_until_idle();
	hang_up(a);
	ck_assert_int_eq(shutdown(b->fd, SHUT_WR), 0);
	run_until_idle();
	ck_assert_uint_eq(ingest_clients(ingest), 2);
	ck_assert_uint_eq(store.commits, 0);
	ingest_commit(ingest);
	ck_assert_uint_eq(stored_rows(), 2);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
	expect_queued(b, "2", 2);
}
END_TEST

START_TEST(test_delay_and_failures)
{
	struct peer *a;

	start_with_delay(DEADLINE * 100);
	a = connect_peer();
	store.commit_fails = 1;
	store.commit_error = -EIO;
	send_text(a, "{\"topic\":\"t\",\"payload\":1,\"id\":1}\n");
	run_until_idle();
	ingest_commit(ingest);
	expect_error(a, "1", "storage");
	/* No store: no waiting. */
	store.append_fails_in = 1;
	store.append_error = -ENOSPC;
	send_text(a, "{\"topic\":\"t\",\"payload\":2,\"id\":2}\n");
	expect_error(a, "2", "storage");
	ck_assert_uint_eq(stored_rows(), 0);
}
END_TEST

START_TEST(test_delay_and_stop)
{
	struct peer *a;

	start_with_delay(DEADLINE * 100);
	a = connect_peer();
	send_text(a, "{\"topic\":\"t\",\"payload\":1,\"id\":1}\n");
	run_until_idle();
	send_text(a, "{\"topic\":\"t\",\"payload\":2,\"id\":2}\n");
	ingest_stop(ingest);
	expect_queued(a, "1", 1);
	expect_error(a, "null", "stopping");
	ck_assert_uint_eq(stored_rows(), 1);
}
END_TEST

START_TEST(test_bound_reached)
{
	struct peer *a;

	start(&defaults);
	a = connect_peer();
	store.append_fails_in = 2;
	store.append_error = -ENOBUFS;
	send_text(a,
		"{\"topic\":\"t\",\"payload\":1,\"id\":1}\n"
		"{\"topic\":\"t\",\"payload\":2,\"id\":2}\n"
		"{\"topic\":\"t\",\"payload\":3,\"id\":3}\n");
	run_until_idle();
	expect_queued(a, "1", 1);
	ck_assert_ptr_nonnull(strstr(expect_error(a, "2", "queue-full"), "which bound it is"));
	expect_queued(a, "3", 2);
	ck_assert_uint_eq(stored_rows(), 2);
}
END_TEST

/* --- counters --------------------------------------------------------------------------------- */

/* As "bad-json 1, storage 3": those that are not zero. */
static void expect_counted(const char *expected)
{
	char text[500] = "";
	size_t len = 0;

	for (const struct figures_refused *r = counters; r->error; r++)
		if (r->count)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s %llu",
				len ? ", " : "", r->error, (unsigned long long)r->count);
	ck_assert_str_eq(text, expected);
}

START_TEST(test_words_of_counters)
{
	static const char *const words[] = { "bad-json", "bad-topic", "bad-payload", "bad-qos",
		"bad-field", "too-large", "not-allowed", "queue-full", "storage",
		"too-many-clients", "stopping" };

	start(&defaults);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		ck_assert_str_eq(counters[i].error, words[i]);
	ck_assert_ptr_null(counters[ARRAY_SIZE(words)].error);
	expect_counted("");
}
END_TEST

START_TEST(test_counters)
{
	struct ingest_params params = defaults;
	struct peer *p;

	params.max_clients = 2;
	params.max_message_bytes = 200;
	start(&params);
	p = connect_peer();
	connect_peer();
	connect_peer();
	expect_counted("too-many-clients 1");
	/* Also those that ask for no reply. */
	send_text(p,
		"{\"topic\":\"t\"}\n"
		"no\n"
		"\n"
		"{\"topic\":\"#\"}\n"
		"{\"topic\":\"#\",\"id\":1}\n");
	run_until_idle();
	expect_counted("bad-json 1, bad-topic 2, too-many-clients 1");
	store.append_fails_in = 1;
	store.append_error = -ENOBUFS;
	say(p, 1);
	run_until_idle();
	expect_counted("bad-json 1, bad-topic 2, queue-full 1, too-many-clients 1");
	/* A commit that fails: all that hung on it, and nothing else. */
	store.commit_fails = 1;
	store.commit_error = -EIO;
	send_text(p,
		"{\"topic\":\"t\"}\n"
		"no\n"
		"{\"topic\":\"t\",\"id\":1}\n");
	run_until_idle();
	expect_counted("bad-json 2, bad-topic 2, queue-full 1, storage 2, too-many-clients 1");
	/* Nor does the next turn count them again. */
	say(p, 2);
	store.append_fails_in = 1;
	store.append_error = -ENOSPC;
	run_until_idle();
	expect_counted("bad-json 2, bad-topic 2, queue-full 1, storage 3, too-many-clients 1");
	stop();
	expect_counted("bad-json 2, bad-topic 2, queue-full 1, storage 3, too-many-clients 1, "
		       "stopping 2");
	/* They outlive it. */
	ingest = ingest_free(ingest);
	start(&params);
	p = connect_peer();
	send_lines(p, "x", 300);
	run_until_idle();
	expect_counted("bad-json 2, bad-topic 2, too-large 1, queue-full 1, storage 3, "
		       "too-many-clients 1, stopping 2");
}
END_TEST

/* --- limits of one client -------------------------------------------------------------------- */

/* A second's lines at once, then so many a second; nobody else is held up, and nothing spins. */
START_TEST(test_max_rate)
{
	struct ingest_params params = defaults;
	uint64_t begin = now_usec();
	struct peer *fast, *other;
	unsigned replies = 0;

	params.max_rate = 200;
	start(&params);
	fast = connect_peer();
	other = connect_peer();
	send_lines(fast, "{\"topic\":\"t\",\"id\":1}\n", 150);
	send_lines(fast, "\n", 50);
	send_lines(fast, "x\n", 100);
	while (replies < 250) {
		ck_assert(step(DEADLINE));
		receive(fast);
		while (next_line(fast))
			replies++;
	}
	ck_assert_uint_ge(now_usec() - begin, 490 * USEC_PER_MSEC); /* 100 lines more than 200 */
	expect_silence(fast);
	/* Held again, it costs nothing, and others are served. */
	send_lines(fast, "{\"topic\":\"t\",\"id\":1}\n", 1000);
	run_until_idle();
	for (int i = 0; i < 20; i++) {
		say(other, i);
		ck_assert_ptr_nonnull(strstr(wait_line(other), "queued"));
	}
	ck_assert_uint_lt(stored_rows(), 1000);
}
END_TEST

START_TEST(test_max_rate_is_lifted)
{
	struct ingest_params params = defaults;
	char id[] = "2";
	struct peer *p;

	params.max_rate = 1;
	start(&params);
	p = connect_peer();
	for (int i = 1; i <= 5; i++)
		say(p, i);
	expect_queued(p, "1", 1);
	expect_silence(p);
	params.max_rate = 0;
	ingest_set_params(ingest, &params);
	for (; id[0] <= '5'; id[0]++)
		expect_queued(p, id, (uint64_t)(id[0] - '0'));
}
END_TEST

/* What was read of one that is held back is answered all the same; it may hang up, too. */
START_TEST(test_max_rate_and_stop)
{
	struct ingest_params params = defaults;
	struct peer *p, *gone;

	params.max_rate = 1;
	start(&params);
	p = connect_peer();
	gone = connect_peer();
	for (int i = 1; i <= 3; i++) {
		say(p, i);
		say(gone, i);
	}
	hang_up(gone);
	run_until_idle();
	ck_assert_uint_eq(stored_rows(), 2);
	stop();
	ck_assert_uint_eq(stored_rows(), 6);
	receive(p);
	for (int i = 1; i <= 3; i++)
		ck_assert_ptr_nonnull(strstr(wait_line(p), "queued"));
	expect_error(p, "null", "stopping");
	expect_closed(p);
}
END_TEST

START_TEST(test_max_inflight_bytes)
{
	static const char line[] = "{\"topic\":\"t\",\"payload\":1,\"id\":1}\n";
	const unsigned fit = 1024 / (sizeof(line) - 2); /* without its end */
	struct ingest_params params = defaults;
	char *large = make_line(2000, 9);
	struct peer *p, *other;

	params.commit_delay_usec = 3600 * USEC_PER_SEC;
	params.max_inflight_bytes = 1024;
	start(&params);
	p = connect_peer();
	other = connect_peer();
	send_lines(p, line, 3 * fit);
	send_text(p, large);
	send_text(p, "\n");
	run_until_idle();
	for (unsigned round = 1; round <= 3; round++) {
		ck_assert_uint_eq(store.appends, round * fit);
		ck_assert(!step(0));
		ingest_commit(ingest);
		receive(p);
		run_until_idle();
		for (unsigned i = 0; i < fit; i++)
			ck_assert_ptr_nonnull(next_line(p));
		ck_assert_ptr_null(next_line(p));
	}
	/* One that is too long by itself goes alone. */
	ck_assert_uint_eq(store.appends, 3 * fit + 1);
	say(p, 2);
	say(other, 3);
	run_until_idle();
	ck_assert_uint_eq(store.appends, 3 * fit + 2);
	ck_assert_str_eq(store.payload, "3");
	params.max_inflight_bytes = 0;
	ingest_set_params(ingest, &params);
	receive(p);
	receive(other);
	expect_queued(p, "9", 3 * fit + 1);
	run_until_idle();
	ck_assert_uint_eq(store.appends, 3 * fit + 3);
	free(large);
}
END_TEST

/* --- half lines, unread replies -------------------------------------------------------------- */

static void expect_cut_off(struct peer *p)
{
	ck_assert_ptr_nonnull(strstr(expect_error(p, "null", "too-large"), "not complete"));
	expect_closed(p);
}

/* Those who have the room do not go on, and another needs it. */
START_TEST(test_stalled_lines)
{
	struct ingest_params params = defaults;
	char *line = make_line(90000, 7);
	struct peer *slow[2], *late;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 200004; /* room for two */
	params.stall_usec = 100 * USEC_PER_MSEC;
	start(&params);
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++) {
		slow[i] = connect_peer();
		send_bytes(slow[i], line, 40000);
	}
	/* While nobody waits they have all the time there is. */
	run_until_idle();
	ck_assert(!step(2 * params.stall_usec));
	ck_assert_uint_eq(ingest_clients(ingest), ARRAY_SIZE(slow));
	late = connect_peer();
	send_text(late, line);
	while (ingest_clients(ingest) > 1)
		ck_assert(step(DEADLINE));
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++)
		expect_cut_off(slow[i]);
	ck_assert_uint_eq(counters[FRAME_TOO_LARGE - 1].count, ARRAY_SIZE(slow));
	send_text(late, "\n");
	expect_queued(late, "7", 1);
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	free(line);
}
END_TEST

/* Nor does the time count that lies between two times in which somebody waited. */
START_TEST(test_stalled_line_and_a_pause)
{
	struct ingest_params params = defaults;
	char *line = make_line(40000, 7);
	struct peer *slow, *other;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 1; /* room for one */
	params.stall_usec = 200 * USEC_PER_MSEC;
	start(&params);
	slow = connect_peer();
	send_bytes(slow, line, 20000);
	run_until_idle();
	other = connect_peer();
	send_bytes(other, line, 20000);
	run_until_idle();
	ck_assert(step(DEADLINE)); /* a look */
	send_text(other, line + 20000);
	send_text(other, "\n");
	while (stored_rows() == 0)
		ck_assert(step(DEADLINE));
	receive(other);
	expect_queued(other, "7", 1);
	ck_assert_uint_eq(ingest_clients(ingest), 2);
	while (step(2 * params.stall_usec))
		;
	send_bytes(other, line, 20000);
	run_until_idle();
	ck_assert(step(DEADLINE)); /* another */
	run_until_idle();
	ck_assert_uint_eq(ingest_clients(ingest), 2);
	while (ingest_clients(ingest) > 1)
		ck_assert(step(DEADLINE));
	expect_cut_off(slow);
	send_text(other, line + 20000);
	send_text(other, "\n");
	expect_queued(other, "7", 2);
	free(line);
}
END_TEST

/* What is there as a whole needs no room, whoever has taken all of it. */
START_TEST(test_whole_lines_need_no_room)
{
	struct ingest_params params = defaults;
	char *line = make_line(40000, 7);
	struct peer *slow[3], *other;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 200004; /* room for two */
	start(&params);
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++) {
		slow[i] = connect_peer();
		send_bytes(slow[i], line, 30000);
	}
	run_until_idle();
	other = connect_peer();
	for (uint64_t i = 0; i < 2; i++) {
		send_text(other, line);
		send_text(other, "\n");
		send_text(other, line);
		send_text(other, "\n");
		send_bytes(other, line, 20000);
		expect_queued(other, "7", 3 * i + 1);
		expect_queued(other, "7", 3 * i + 2);
		expect_silence(other);
		send_text(other, line + 20000);
		send_text(other, "\n");
		/* It is looked at again, now or then. */
		while (stored_rows() < 3 * i + 3)
			ck_assert(step(DEADLINE));
		expect_queued(other, "7", 3 * i + 3);
	}
	ck_assert_uint_eq(ingest_clients(ingest), 1 + ARRAY_SIZE(slow));
	free(line);
}
END_TEST

/* Answers that wait for the commit come before the one that ends it. */
START_TEST(test_stalled_line_behind_others)
{
	struct ingest_params params = defaults;
	char *line = make_line(90000, 7);
	struct peer *slow, *late;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 1; /* room for one */
	params.stall_usec = 200 * USEC_PER_MSEC;
	params.commit_delay_usec = 3600 * USEC_PER_SEC;
	start(&params);
	slow = connect_peer();
	say(slow, 1);
	send_bytes(slow, line, 40000);
	run_until_idle();
	late = connect_peer();
	send_bytes(late, line, 40000);
	while (ingest_clients(ingest) == 2)
		ck_assert(step(DEADLINE));
	receive(slow);
	expect_queued(slow, "1", 1);
	expect_cut_off(slow);
	send_text(late, line + 40000);
	send_text(late, "\n");
	run_until_idle();
	ingest_commit(ingest);
	expect_queued(late, "7", 2);
	free(line);
}
END_TEST

/* Replies that nobody reads have taken the room that others need. */
START_TEST(test_unread_replies_and_room)
{
	struct ingest_params params = defaults;
	char *line = make_line(90000, 7), *large = malloc(100000);
	struct peer *deaf[8], *other;
	const char *reply;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 200004;
	params.stall_usec = 300 * USEC_PER_MSEC;
	start(&params);
	ck_assert_ptr_nonnull(large);
	snprintf(large, 100000, "{\"topic\":\"t\",\"id\":\"%090000d\"}\n", 0);
	other = connect_peer();
	for (size_t i = 0; i < ARRAY_SIZE(deaf); i++) {
		deaf[i] = connect_peer();
		for (int n = 0; n < 6; n++) {
			(void)send_some(deaf[i], large, strlen(large));
			run_until_idle();
		}
	}
	send_text(other, line);
	send_text(other, "\n");
	while (!(reply = next_line(other))) {
		ck_assert(step(DEADLINE));
		receive(other);
	}
	ck_assert_ptr_nonnull(strstr(reply, "\"id\":7,"));
	ck_assert_uint_lt(ingest_clients(ingest), 1 + ARRAY_SIZE(deaf));
	free(line);
	free(large);
}
END_TEST

/* What little they take keeps nobody from it. */
START_TEST(test_unread_replies_take_no_room)
{
	struct ingest_params params = defaults;
	char *line = make_line(90000, 7);
	struct peer *deaf[6], *other;

	params.max_message_bytes = 100000;
	params.max_buffered_bytes = 200004;
	start(&params);
	for (size_t i = 0; i < ARRAY_SIZE(deaf); i++) {
		deaf[i] = connect_peer();
		(void)flood(deaf[i]);
	}
	other = connect_peer();
	for (int i = 0; i < 5; i++) {
		send_text(other, line);
		send_text(other, "\n");
		ck_assert_ptr_nonnull(strstr(wait_line(other), "\"id\":7,"));
	}
	free(line);
}
END_TEST

/* --- who may publish what -------------------------------------------------------------------- */

static char *mine[] = { "a/#", "b" }, *all[] = { "#" };

START_TEST(test_access)
{
	struct access_rule rules[] = {
		{ "nobody", "", getuid() + 1, { all, 1 } },
		{ "", "nobody", getgid() + 100000, { all, 1 } },
		{ "me", "", getuid(), { mine, 2 } },
	};
	struct ingest_params params = defaults;
	struct peer *p;

	params.access = (struct access_rules){ rules, ARRAY_SIZE(rules) };
	start(&params);
	p = connect_peer();
	send_text(p,
		"{\"topic\":\"a/b\",\"id\":1}\n"
		"{\"topic\":\"c\",\"id\":2}\n"
		"{\"topic\":\"c/a/b\"}\n"
		"{\"topic\":\"b\",\"id\":3}\n"
		"{\"topic\":\"+\",\"id\":4}\n");
	expect_queued(p, "1", 1);
	expect_error(p, "2", "not-allowed");
	expect_error(p, "null", "not-allowed");
	expect_queued(p, "3", 2);
	expect_error(p, "4", "bad-topic");
	ck_assert_uint_eq(counters[FRAME_NOT_ALLOWED - 1].count, 2);
	/* Another group, and this connection is one of its. */
	rules[1].id = getgid();
	ingest_set_params(ingest, &params);
	send_text(p, "{\"topic\":\"c\",\"id\":5}\n{\"topic\":\"$x\",\"id\":6}\n");
	expect_queued(p, "5", 3);
	expect_error(p, "6", "not-allowed");
	/* No rule is its. */
	params.access.n = 1;
	ingest_set_params(ingest, &params);
	send_text(p, "{\"topic\":\"a/b\",\"id\":7}\n");
	expect_error(p, "7", "not-allowed");
	/* No rules at all. */
	params.access.n = 0;
	ingest_set_params(ingest, &params);
	send_text(p, "{\"topic\":\"$x\",\"id\":8}\n");
	expect_queued(p, "8", 4);
	ck_assert_uint_eq(store.appends, 4);
}
END_TEST

/* One line for a user, with what it has, and no more within a minute. */
START_TEST(test_not_allowed_is_told)
{
	struct access_rule rules[] = { { "me", "", getuid(), { mine, 2 } } };
	struct ingest_params params = defaults;
	char expected[400], topic[301], line[400];
	struct peer *p;

	params.access = (struct access_rules){ rules, ARRAY_SIZE(rules) };
	start(&params);
	p = connect_peer();
	memset(topic, 'x', sizeof(topic) - 1);
	topic[sizeof(topic) - 1] = '\0';
	/* A character across the place where it is cut. */
	memcpy(topic + 199, "\xc3\xa4", 2);
	snprintf(line, sizeof(line), "{\"topic\":\"%s\"}\n", topic);
	journal_begin();
	for (int i = 0; i < 3; i++) {
		send_text(p, line);
		expect_error(p, "null", "not-allowed");
	}
	journal_end();
	ck_assert_int_eq(journal_entries, 1);
	snprintf(expected, sizeof(expected),
		"MESSAGE=uid %u (gid %u, pid %d) may not publish to \"%.199s...\"; its rules of "
		"access: user me: a/#, b|",
		getuid(), getgid(), getpid(), topic);
	ck_assert_msg(strstr(journal, expected), "%s", journal);
	ck_assert_ptr_nonnull(strstr(journal, "|MQTTGW_EVENT=not-allowed|"));
}
END_TEST

/* --- the stop -------------------------------------------------------------------------------- */

START_TEST(test_stop)
{
	struct peer *p, *other, *late;
	struct sockaddr_un a = address();

	start(&defaults);
	p = connect_peer();
	other = connect_peer();
	say(p, 1);
	send_text(p, "{\"topic\":\"half"); /* not accepted, as it gets no reply */
	expect_queued(p, "1", 1);
	stop();
	expect_error(p, "null", "stopping");
	expect_error(other, "null", "stopping");
	expect_closed(p);
	expect_closed(other);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
	ck_assert_uint_eq(stored_rows(), 1);
	/* Nobody comes in any more. */
	late = &peers[n_peers++];
	*late = (struct peer){ .fd = socket(
				       AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	ck_assert_int_eq(connect(late->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	say(late, 1);
	expect_silence(late);
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

/* Stopped in the middle of many lines: what is in the store was answered, and nothing else was. */
START_TEST(test_stop_answers_what_was_read)
{
	struct peer *p;
	uint64_t replies = 0;
	const char *line;

	start(&defaults);
	p = connect_peer();
	/* More than one read takes, and far more than one turn. */
	send_lines(p, "{\"topic\":\"t\",\"id\":5}\n", 5000);
	ck_assert(step(0));
	ck_assert_uint_gt(stored_rows(), 0);
	ck_assert_uint_lt(stored_rows(), 2000);
	stop();
	do {
		step(0);
		receive(p);
	} while (!p->closed);
	while ((line = next_line(p)) && strstr(line, "queued"))
		replies++;
	ck_assert_ptr_nonnull(line);
	ck_assert_ptr_nonnull(strstr(line, "\"stopping\""));
	ck_assert_ptr_null(next_line(p));
	ck_assert_uint_eq(replies, stored_rows());
	ck_assert_uint_ge(replies, CLIENT_READ / 21);
	ck_assert_uint_lt(replies, 5000); /* what was not read was not accepted */
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

/* The same with a store that fails just then. */
START_TEST(test_stop_with_a_failing_store)
{
	uint64_t queued = 0, refused = 0;
	const char *line;
	struct peer *p;

	start(&defaults);
	p = connect_peer();
	send_lines(p, "{\"topic\":\"t\",\"id\":5}\n", 3000);
	ck_assert(step(0));
	store.commit_fails = 1;
	store.commit_error = -EIO;
	stop();
	do {
		step(0);
		receive(p);
	} while (!p->closed);
	while ((line = next_line(p)) && !strstr(line, "\"stopping\"")) {
		queued += strstr(line, "\"queued\"") != NULL;
		refused += strstr(line, "\"storage\"") != NULL;
	}
	ck_assert_ptr_nonnull(line);
	ck_assert_uint_eq(queued, stored_rows());
	ck_assert_uint_gt(refused, 0);
}
END_TEST

START_TEST(test_stop_with_a_client_that_does_not_read)
{
	struct peer *deaf, *other;
	uint64_t replies = 0;
	const char *line;

	start(&defaults);
	deaf = connect_peer();
	other = connect_peer();
	flood(deaf);
	stop();
	expect_error(other, "null", "stopping");
	expect_closed(other);
	ck_assert_uint_eq(ingest_clients(ingest), 1);
	do {
		step(0);
		receive(deaf);
	} while (!deaf->closed);
	while ((line = next_line(deaf)) && strstr(line, "queued"))
		replies++;
	ck_assert_ptr_nonnull(line);
	ck_assert_ptr_nonnull(strstr(line, "\"stopping\""));
	ck_assert_uint_eq(replies, stored_rows());
	run_until_idle();
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

/* Other params, for clients that are there. */
START_TEST(test_set_params)
{
	struct ingest_params params = {
		.default_qos = 1,
		.max_clients = 2,
		.max_message_bytes = 1024,
		.max_buffered_bytes = 1 << 20,
		.commit_delay_usec = 3600 * USEC_PER_SEC,
	};
	struct peer *a, *b, *c;
	char text[3000];

	params.refused = counters;
	start(&params);
	a = connect_peer();
	b = connect_peer();
	say(a, 1);
	run_until_idle();
	expect_silence(a);
	params.commit_delay_usec = 0;
	params.default_qos = 2;
	params.max_clients = 1;
	params.max_message_bytes = 4096;
	ingest_set_params(ingest, &params);
	expect_queued(a, "1", 1);
	say(b, 2);
	expect_queued(b, "2", 2);
	ck_assert_uint_eq(store.last.qos, 2);
	c = connect_peer();
	expect_error(c, "null", "too-many-clients");
	expect_closed(c);
	snprintf(text, sizeof(text), "{\"topic\":\"t\",\"id\":3,\"payload\":\"%02500d\"}\n", 0);
	send_text(b, text);
	expect_queued(b, "3", 3);
	params.max_message_bytes = 1024;
	ingest_set_params(ingest, &params);
	send_text(b, text);
	expect_error(b, "null", "too-large");
	expect_closed(b);
	say(a, 4);
	expect_queued(a, "4", 4);
}
END_TEST

START_TEST(test_free_with_clients)
{
	struct peer *p, *deaf;

	start(&defaults);
	p = connect_peer();
	deaf = connect_peer();
	flood(deaf);
	say(p, 1);
	ingest = ingest_free(ingest);
	expect_closed(p);
}
END_TEST

/* --- everything at once ---------------------------------------------------------------------- */

#define TORTURED 12

enum answer {
	ANSWER_NONE,
	ANSWER_QUEUED, /* or "storage" */
	ANSWER_ERROR,
};

struct tortured {
	struct peer *peer;
	char *script; /* what is left to be sent */
	size_t len, sent;
	struct expected {
		enum answer answer;
		int id;
		bool silent; /* no reply unless the store fails */
	} lines[400];
	size_t n_lines, n_answered;
	uint64_t last_seq;
	bool shut;
};

static struct tortured tortured[TORTURED];
static uint64_t seed;

static uint64_t below(uint64_t n)
{
	return scratch_random(&seed) % n;
}

static void add_to_script(struct tortured *t, const char *text, size_t n)
{
	t->script = realloc(t->script, t->len + n);
	ck_assert_ptr_nonnull(t->script);
	memcpy(t->script + t->len, text, n);
	t->len += n;
}

static void script_line(struct tortured *t, int id)
{
	struct expected *e = &t->lines[t->n_lines];
	char *text = NULL;
	int n = 0;

	*e = (struct expected){ .id = id };
	switch (below(8)) {
	case 0: n = asprintf(&text, "   "); break;
	case 1:
		n = asprintf(&text, "{\"topic\":\"t\",\"payload\":%d}", id);
		e->answer = ANSWER_QUEUED;
		e->silent = true;
		break;
	case 2:
		n = asprintf(&text, "{\"topic\":\"+\",\"id\":%d}", id);
		e->answer = ANSWER_ERROR;
		break;
	default:
		n = asprintf(&text, "{\"topic\":\"t\",\"payload\":\"%d%*s\",\"id\":%d}", id,
			(int)(below(10) ? below(50) : below(9000)), "", id);
		e->answer = ANSWER_QUEUED;
		break;
	}
	ck_assert_int_gt(n, 0);
	add_to_script(t, text, (size_t)n);
	if (below(2))
		add_to_script(t, "\r", 1);
	add_to_script(t, "\n", 1);
	free(text);
	t->n_lines += e->answer != ANSWER_NONE;
}

static void check_reply(struct tortured *t, const char *line)
{
	bool failed = strstr(line, "\"storage\""), queued = strstr(line, "\"queued\"");
	unsigned long long seq = 0;
	struct expected *e;
	int id = -1;

	(void)sscanf(line, "{\"id\":%d,\"status\":\"queued\",\"seq\":%llu}", &id, &seq);
	/* Lines that ask for no reply get one only when the store failed. */
	while (t->n_answered < t->n_lines && t->lines[t->n_answered].silent &&
		!(failed && strstr(line, "\"id\":null")))
		t->n_answered++;
	ck_assert_uint_lt(t->n_answered, t->n_lines);
	e = &t->lines[t->n_answered++];
	if (e->answer == ANSWER_ERROR) {
		ck_assert_ptr_nonnull(strstr(line, "\"bad-topic\""));
		ck_assert_int_eq(id, e->id);
		return;
	}
	ck_assert(failed != queued);
	if (queued) {
		ck_assert_int_eq(id, e->id);
		ck_assert_uint_gt(seq, t->last_seq);
		ck_assert_uint_le(seq, store.last_id);
		ck_assert(store.rows[seq].stored);
		ck_assert_int_eq(store.rows[seq].payload, e->id);
		t->last_seq = seq;
	}
}

static bool torture_step(struct tortured *t)
{
	const char *line;

	if (t->sent < t->len && below(3) == 0) {
		size_t n = below(4) ? below(200) + 1 : below(20000) + 1;

		t->sent += send_some(t->peer, t->script + t->sent, size_min(n, t->len - t->sent));
	}
	if (t->sent == t->len && !t->shut) {
		shutdown(t->peer->fd, SHUT_WR);
		t->shut = true;
	}
	if (below(4) == 0 && !t->peer->closed) {
		receive(t->peer);
		while ((line = next_line(t->peer)))
			check_reply(t, line);
	}
	return t->peer->closed;
}

START_TEST(test_torture)
{
	struct ingest_params params = defaults;
	uint64_t deadline = now_usec() + DEADLINE;
	unsigned done;

	seed = 40 + (uint64_t)_i;
	params.max_message_bytes = 10000;
	params.max_buffered_bytes = _i == 1 ? 1 : 1 << 20;
	params.commit_delay_usec = _i == 2 ? 2 * USEC_PER_MSEC : 0;
	start(&params);
	memset(tortured, 0, sizeof(tortured));
	for (unsigned i = 0; i < TORTURED; i++) {
		tortured[i].peer = connect_peer();
		for (int k = 0; k < 400; k++)
			script_line(&tortured[i], (int)i * 1000 + k);
	}
	do {
		done = 0;
		for (unsigned i = 0; i < TORTURED; i++)
			done += torture_step(&tortured[i]);
		if (below(50) == 0) {
			store.commit_fails = 1;
			store.commit_error = -EIO;
		}
		if (below(2))
			step(0);
		ck_assert_uint_lt(now_usec(), deadline);
	} while (done < TORTURED);
	for (unsigned i = 0; i < TORTURED; i++) {
		struct tortured *t = &tortured[i];

		while (t->n_answered < t->n_lines && t->lines[t->n_answered].silent)
			t->n_answered++;
		ck_assert_uint_eq(t->n_answered, t->n_lines);
		free(t->script);
	}
	ck_assert_uint_eq(ingest_clients(ingest), 0);
}
END_TEST

/* --- one client's buffers -------------------------------------------------------------------- */

static struct client_pool pool;
static int epoll_fd;

static void setup_client(void)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ck_assert_int_ge(epoll_fd, 0);
}

static void teardown_client(void)
{
	close(epoll_fd);
	ck_assert_uint_eq(pool.used, 0);
	ck_assert_uint_eq(pool.waiting, 0);
}

static struct client *make_client(int *ret_other)
{
	struct client *c = NULL;
	int fds[2];

	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	ck_assert_int_eq(client_new(&c, &pool, epoll_fd, fds[0]), 0);
	*ret_other = fds[1];
	return c;
}

static void fill(int fd, size_t n)
{
	char *bytes = malloc(n);

	ck_assert_ptr_nonnull(bytes);
	memset(bytes, 'x', n);
	ck_assert_int_eq(send(fd, bytes, n, 0), (ssize_t)n);
	free(bytes);
}

static const struct {
	size_t line, max;
	size_t reservation, pool;
} pools[] = {
	{ 100, 1 << 20, CLIENT_READ, 1 << 20 },
	{ 100, 1, CLIENT_READ, CLIENT_READ },
	{ 1 << 20, 16 << 20, (1 << 20) + 2, 16 << 20 },
	{ 1 << 20, 1 << 20, (1 << 20) + 2, (1 << 20) + 2 },
	{ CLIENT_READ, 1 << 20, CLIENT_READ + 2, 1 << 20 },
};

START_TEST(test_pool)
{
	client_pool_init(&pool, pools[_i].line, pools[_i].max);
	ck_assert_uint_eq(pool.reservation, pools[_i].reservation);
	ck_assert_uint_eq(pool.max, pools[_i].pool);
}
END_TEST

START_TEST(test_reservations)
{
	struct client *c[3];
	const char *line;
	size_t len;
	int other[3];

	client_pool_init(&pool, 100000, 200004); /* two */
	for (int i = 0; i < 3; i++) {
		c[i] = make_client(&other[i]);
		fill(other[i], 50000);
	}
	for (int i = 0; i < 3; i++) {
		while (client_read(c[i]))
			ck_assert_uint_le(pool.used, pool.max);
		ck_assert(!client_line(c[i], &line, &len));
		ck_assert_int_eq(client_settle(c[i]), 0);
		ck_assert_uint_le(pool.used, pool.max);
	}
	ck_assert_uint_eq(pool.used, 2 * pool.reservation);
	ck_assert_uint_eq(buffer_len(&c[0]->in), 50000);
	ck_assert_uint_eq(buffer_len(&c[1]->in), 50000);
	ck_assert_uint_le(buffer_len(&c[2]->in), CLIENT_SMALL);
	ck_assert(!c[2]->waiting || pool.waiting == 1);
	/* Full to its small buffer, it waits, and is not polled meanwhile. */
	while (client_read(c[2]))
		;
	client_read(c[2]);
	ck_assert(c[2]->waiting);
	ck_assert_uint_eq(pool.waiting, 1);
	ck_assert_int_eq(client_settle(c[2]), 0);
	ck_assert_uint_eq(c[2]->events, 0);
	/* One is through, and gives its room back. */
	ck_assert_int_eq(send(other[0], "\n", 1, 0), 1);
	while (client_read(c[0]))
		;
	ck_assert(client_line(c[0], &line, &len));
	ck_assert_uint_eq(len, 50000);
	client_consume(c[0], len);
	ck_assert(!client_line(c[0], &line, &len));
	ck_assert_int_eq(client_settle(c[0]), 0);
	ck_assert_uint_eq(pool.used, pool.reservation);
	ck_assert_uint_le(c[0]->in.allocated, 2 * CLIENT_SMALL);
	client_read(c[2]);
	ck_assert(!c[2]->waiting);
	ck_assert_uint_eq(pool.waiting, 0);
	ck_assert_uint_eq(pool.used, 2 * pool.reservation);
	for (int i = 0; i < 3; i++) {
		ck_assert_ptr_null(client_free(c[i]));
		close(other[i]);
	}
	ck_assert_ptr_null(client_free(NULL));
}
END_TEST

/* Other bounds while clients hold reservations of the old size: nothing is counted twice or lost,
 * and the longer line that one has begun can be finished. */
START_TEST(test_reservations_change)
{
	struct client *c[2];
	const char *line;
	size_t len;
	int other[2];

	client_pool_init(&pool, 100000, 200004); /* two */
	for (int i = 0; i < 2; i++) {
		c[i] = make_client(&other[i]);
		fill(other[i], 50000);
		while (client_read(c[i]))
			;
		ck_assert(!client_line(c[i], &line, &len));
		ck_assert_int_eq(client_settle(c[i]), 0);
	}
	client_pool_set(&pool, 150000, 150002); /* one */
	ck_assert(!client_pool_has_room(&pool));
	client_pool_changed(c[0]);
	client_pool_changed(c[1]);
	ck_assert_uint_eq(pool.used, 2 * 150002);
	ck_assert(!client_pool_has_room(&pool));
	fill(other[0], 90000);
	while (client_read(c[0]))
		;
	ck_assert_uint_eq(buffer_len(&c[0]->in), 140000);
	ck_assert(!c[0]->waiting);
	client_pool_set(&pool, 70000, 300000);
	client_pool_changed(c[0]);
	ck_assert_uint_eq(c[0]->reserved, 150002); /* it holds that much */
	for (int i = 0; i < 2; i++) {
		ck_assert_ptr_null(client_free(c[i]));
		close(other[i]);
	}
	ck_assert_uint_eq(pool.used, 0);
	ck_assert(client_pool_has_room(&pool));
}
END_TEST

/* A client that goes away takes its claims along. */
START_TEST(test_free_of_one_that_waits)
{
	struct client *holder, *waiter;
	int other[2];

	client_pool_init(&pool, 100000, 1);
	holder = make_client(&other[0]);
	waiter = make_client(&other[1]);
	fill(other[0], 50000);
	fill(other[1], 50000);
	for (int i = 0; i < 3; i++) {
		(void)client_read(holder);
		(void)client_read(waiter);
	}
	ck_assert(holder->reserved);
	ck_assert(waiter->waiting);
	ck_assert_uint_eq(pool.waiting, 1);
	client_free(waiter);
	ck_assert_uint_eq(pool.waiting, 0);
	ck_assert_uint_eq(pool.used, pool.reservation);
	client_free(holder);
	close(other[0]);
	close(other[1]);
}
END_TEST

/* A line of the largest size with "\r\n" fits its reservation. */
START_TEST(test_reservation_is_enough)
{
	struct client *c;
	const char *line;
	size_t len;
	int other;

	client_pool_init(&pool, 100000, 1);
	c = make_client(&other);
	fill(other, 100000);
	ck_assert_int_eq(send(other, "\r\nabc", 5, 0), 5);
	do {
		(void)client_read(c);
		ck_assert(!c->waiting);
	} while (!client_line(c, &line, &len));
	ck_assert_uint_eq(len, 100001);
	ck_assert_uint_le(buffer_len(&c->in), pool.reservation);
	client_consume(c, len);
	(void)client_read(c);
	ck_assert(!client_line(c, &line, &len));
	ck_assert_uint_eq(buffer_len(&c->in), 3);
	client_free(c);
	close(other);
}
END_TEST

/* What a client does not read counts, and it gives its reservation back. */
START_TEST(test_unread_replies_count)
{
	struct client *c, *next;
	const char *line;
	size_t len;
	int other, another;

	client_pool_init(&pool, 100000, 170000); /* one */
	c = make_client(&other);
	fill(other, 30000);
	ck_assert_int_eq(send(other, "\nxyz", 4, 0), 4);
	while (client_read(c))
		;
	ck_assert(c->granted);
	ck_assert(client_line(c, &line, &len));
	ck_assert_int_eq(client_settle(c), 0);
	ck_assert(c->granted); /* it goes on at once */
	ck_assert_int_eq(buffer_reserve(&c->out, 200000), 0);
	memset(c->out.data, 'x', 200000);
	c->out.end = 200000;
	ck_assert_int_eq(client_settle(c), 0);
	ck_assert(!c->granted);
	ck_assert_uint_ge(pool.used, 230000);
	ck_assert_uint_eq(pool.granted, 0);
	/* There is no room for another half line. */
	ck_assert_uint_gt(pool.used, pool.max);
	next = make_client(&another);
	fill(another, 50000);
	while (client_read(next))
		;
	(void)client_read(next);
	ck_assert(!next->granted);
	ck_assert(next->waiting);
	ck_assert_int_eq(client_settle(next), 0);
	ck_assert_uint_lt(next->in.allocated, 3 * CLIENT_SMALL);
	/* The whole of it needs none. */
	ck_assert_int_eq(send(another, "\nabc", 4, 0), 4);
	ck_assert(client_read(next));
	ck_assert(client_line(next, &line, &len));
	ck_assert_uint_eq(len, 50000);
	ck_assert_uint_eq(buffer_len(&next->in), 50001);
	client_free(next);
	close(another);
	/* Less is used than there may be, and nobody has a whole one: one goes beyond the bound. */
	buffer_consume(&c->out, 150000);
	ck_assert_int_eq(client_settle(c), 0);
	ck_assert_uint_lt(pool.used, pool.max);
	ck_assert_uint_gt(pool.used + pool.reservation, pool.max);
	ck_assert(client_pool_has_room(&pool));
	/* Held back: as if it did not read. */
	buffer_clear(&c->out);
	ck_assert(client_line(c, &line, &len));
	c->held = CLIENT_HELD_RATE;
	ck_assert_int_eq(client_settle(c), 0);
	ck_assert_uint_eq(c->events, 0);
	ck_assert_uint_ge(pool.used, 30000);
	ck_assert_uint_lt(pool.used, 100002);
	c->held = 0;
	ck_assert(client_line(c, &line, &len));
	client_consume(c, len);
	ck_assert(!client_line(c, &line, &len));
	c->readable = false;
	ck_assert_int_eq(client_settle(c), 0);
	ck_assert_uint_eq(pool.used, 0);
	ck_assert_uint_eq(c->events, EPOLLIN);
	client_free(c);
	close(other);
}
END_TEST

/* An idle client costs next to nothing, however busy it was. */
START_TEST(test_idle_client_is_slim)
{
	struct client *c;
	const char *line;
	size_t len;
	int other;

	client_pool_init(&pool, 100000, 1 << 20);
	c = make_client(&other);
	fill(other, 90000);
	ck_assert_int_eq(send(other, "\n", 1, 0), 1);
	do {
		(void)client_read(c);
	} while (!client_line(c, &line, &len));
	client_consume(c, len);
	ck_assert_int_eq(buffer_append(&c->out, "reply\n", 6), 0);
	client_flush(c);
	c->readable = false;
	ck_assert(!client_line(c, &line, &len));
	ck_assert_int_eq(client_settle(c), 0);
	ck_assert_uint_eq(pool.used, 0);
	ck_assert_uint_eq(c->in.allocated, 0);
	ck_assert_uint_eq(c->out.allocated, 0);
	ck_assert_uint_eq(c->events, EPOLLIN);
	ck_assert(!client_is_done(c));
	close(other);
	(void)client_read(c);
	ck_assert(c->eof);
	ck_assert(client_is_done(c));
	client_free(c);
}
END_TEST

Suite *check_ingest(void)
{
	Suite *s = suite_create("ingest");
	TCase *t = tcase_create("lines");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_free_takes_null);
	tcase_add_test(t, test_message);
	tcase_add_loop_test(t, test_default_qos, 0, 3);
	tcase_add_test(t, test_replies_in_order);
	tcase_add_test(t, test_silence_without_id);
	tcase_add_test(t, test_blank_lines);
	tcase_add_test(t, test_no_commit_for_nothing);
	tcase_add_loop_test(t, test_other_protocols, 0, ARRAY_SIZE(other_protocols));
	tcase_add_test(t, test_last_line_without_newline);
	tcase_add_test(t, test_everything_at_once_and_shutdown);
	tcase_add_test(t, test_nothing_but_a_shutdown);
	tcase_add_test(t, test_hang_up_after_sending);
	tcase_add_test(t, test_one_byte_at_a_time);
	tcase_add_test(t, test_one_commit_for_all_clients);
	tcase_add_test(t, test_many_lines);
	tcase_add_loop_test(t, test_length_of_a_line, 0, ARRAY_SIZE(lengths));
	tcase_add_loop_test(t, test_length_with_a_late_end, 0, 2);
	tcase_add_test(t, test_too_large_and_still_sending);
	tcase_add_test(t, test_longest_lines);
	suite_add_tcase(s, t);

	t = tcase_create("store");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_commit_fails, 0, ARRAY_SIZE(store_errors));
	tcase_add_loop_test(t, test_append_fails, 0, ARRAY_SIZE(store_errors));
	tcase_add_test(t, test_storage_says_why);
	tcase_add_loop_test(t, test_one_cannot_be_stored, 0, 2);
	suite_add_tcase(s, t);

	t = tcase_create("clients");
	tcase_set_tags(t, "long");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_max_clients);
	tcase_add_test(t, test_max_clients_with_lines);
	tcase_add_test(t, test_client_that_does_not_read);
	tcase_add_test(t, test_clients_that_do_not_read_do_not_keep_us_busy);
	tcase_add_test(t, test_client_that_does_not_read_hangs_up);
	tcase_add_test(t, test_fairness);
	tcase_add_test(t, test_flood_does_not_hold_up_the_loop);
	tcase_add_test(t, test_turn_full_of_bytes);
	tcase_add_test(t, test_turn_full_of_half_lines);
	tcase_add_test(t, test_many_half_lines);
	tcase_add_test(t, test_half_lines_that_end);
	suite_add_tcase(s, t);

	/* valgrind lets a program have more descriptors than its limit says. */
	t = tcase_create("descriptors");
	tcase_set_tags(t, "native");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_out_of_descriptors);
	suite_add_tcase(s, t);

	t = tcase_create("waiting for more lines");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_delay);
	tcase_add_test(t, test_delay_cut_short);
	tcase_add_test(t, test_delay_full_turn);
	tcase_add_test(t, test_delay_and_hang_up);
	tcase_add_test(t, test_delay_and_failures);
	tcase_add_test(t, test_delay_and_stop);
	tcase_add_test(t, test_bound_reached);
	suite_add_tcase(s, t);

	t = tcase_create("limits");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_max_rate);
	tcase_add_test(t, test_max_rate_is_lifted);
	tcase_add_test(t, test_max_rate_and_stop);
	tcase_add_test(t, test_max_inflight_bytes);
	tcase_add_test(t, test_stalled_lines);
	tcase_add_test(t, test_stalled_line_and_a_pause);
	tcase_add_test(t, test_stalled_line_behind_others);
	tcase_add_test(t, test_whole_lines_need_no_room);
	tcase_add_test(t, test_unread_replies_and_room);
	tcase_add_test(t, test_unread_replies_take_no_room);
	suite_add_tcase(s, t);

	t = tcase_create("access");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_access);
	tcase_add_test(t, test_not_allowed_is_told);
	suite_add_tcase(s, t);

	t = tcase_create("counters");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_words_of_counters);
	tcase_add_test(t, test_counters);
	suite_add_tcase(s, t);

	t = tcase_create("stop");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_stop);
	tcase_add_test(t, test_stop_answers_what_was_read);
	tcase_add_test(t, test_stop_with_a_failing_store);
	tcase_add_test(t, test_stop_with_a_client_that_does_not_read);
	tcase_add_test(t, test_set_params);
	tcase_add_test(t, test_free_with_clients);
	suite_add_tcase(s, t);

	t = tcase_create("torture");
	tcase_set_tags(t, "long");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_torture, 0, 3);
	suite_add_tcase(s, t);

	t = tcase_create("one client");
	tcase_add_checked_fixture(t, setup_client, teardown_client);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_pool, 0, ARRAY_SIZE(pools));
	tcase_add_test(t, test_reservations);
	tcase_add_test(t, test_reservations_change);
	tcase_add_test(t, test_free_of_one_that_waits);
	tcase_add_test(t, test_reservation_is_enough);
	tcase_add_test(t, test_idle_client_is_slim);
	tcase_add_test(t, test_unread_replies_count);
	suite_add_tcase(s, t);
	return s;
}
