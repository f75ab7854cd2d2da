/* SPDX-License-Identifier: MIT */
/*
 * Tests of the HTTP server by bytes on real sockets, server and clients in one thread: what is
 * answered, and what clients that are slow, broken or too many can do. Needs libmicrohttpd in the
 * build, and says so where it is not.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "config-build.h"
#include "httpd.h"
#include "log.h"
#include "scratch.h"
#include "suites.h"

#ifdef HAVE_HTTPD

#define DEADLINE    (60 * USEC_PER_SEC)
#define CONNECTIONS 16 /* at once, as httpd.c has it */
#define CUT_USEC    (10 * USEC_PER_SEC) /* their longest time, as httpd.c has it */

static sd_event *event;
static struct httpd *httpd;
static uint16_t port;
static char address[64];
static struct buffer input; /* what the last exchange() got */
static int health, failing;
static size_t metrics_size;
static unsigned asked;

static int metrics(void *userdata, struct buffer *out)
{
	ck_assert_ptr_eq(userdata, &asked);
	asked++;
	if (failing < 0)
		return failing;
	for (size_t i = 0; i < metrics_size; i++) {
		if (buffer_append(out, "x", 1) < 0)
			return -ENOMEM;
	}
	return buffer_append(out, "up 1\n", 5);
}

static int write_health(void *userdata, struct buffer *out)
{
	int r = buffer_printf(out, "{\"status\":\"%s\"}\n", health ? "failing" : "ok");

	ck_assert_ptr_eq(userdata, &asked);
	return r < 0 ? r : health;
}

static const struct httpd_callbacks callbacks = { metrics, write_health };

/* A port that nobody listens on. */
static uint16_t free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	_cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, len), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	return ntohs(a.sin_port);
}

static void open_httpd(const char *host)
{
	snprintf(address, sizeof(address), "%s:%u", host, port);
	ck_assert_int_eq(httpd_new(&httpd, event, address, &callbacks, &asked), 0);
}

static void setup_loop(void)
{
	log_set_level(LOG_EMERG);
	health = failing = 0;
	metrics_size = 0;
	asked = 0;
	port = free_port();
	ck_assert_int_ge(sd_event_new(&event), 0);
}

static void setup(void)
{
	setup_loop();
	open_httpd("127.0.0.1");
}

static void teardown(void)
{
	httpd = httpd_free(httpd);
	ck_assert_ptr_null(httpd);
	event = sd_event_unref(event);
	buffer_clear(&input);
	log_set_level(LOG_INFO);
}

/* --- clients --------------------------------------------------------------------------------- */

/* A connected socket that does not block, or -errno. */
static int try_connect(const char *host)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	const bool is_v6 = strchr(host, ':');
	const struct sockaddr *a = is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
	int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(
		inet_pton(a->sa_family, host, is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr),
		1);
	if (connect(fd, a, is_v6 ? sizeof(v6) : sizeof(v4)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

static int dial(void)
{
	int fd = try_connect("127.0.0.1");

	ck_assert_int_ge(fd, 0);
	return fd;
}

/* Dispatches for so long; returns how often there was something to do. */
static unsigned turn_for(uint64_t usec)
{
	const uint64_t end = now_usec() + usec;
	unsigned n = 0;

	for (uint64_t now = now_usec(); now < end; now = now_usec()) {
		int r = sd_event_run(event, end - now);

		ck_assert_int_ge(r, 0);
		n += r > 0;
	}
	return n;
}

static void send_text(int fd, const char *text)
{
	const size_t n = strlen(text);
	const uint64_t end = now_usec() + DEADLINE;

	for (size_t sent = 0; sent < n;) {
		ssize_t r = send(fd, text + sent, n - sent, MSG_NOSIGNAL);

		ck_assert(now_usec() < end);
		if (r < 0 && errno != EAGAIN)
			return; /* it has heard enough */
		sent += r > 0 ? (size_t)r : 0;
		ck_assert_int_ge(sd_event_run(event, r > 0 ? 0 : 1000), 0);
	}
}

/* Reads into `input` until the other side ends the connection; closes it. */
static void read_all(int fd)
{
	const uint64_t end = now_usec() + DEADLINE;
	ssize_t r;

	buffer_clear(&input);
	for (;;) {
		ck_assert_int_eq(buffer_reserve(&input, 65536), 0);
		r = recv(fd, input.data + input.end, 65535, 0);
		if (r == 0 || (r < 0 && errno != EAGAIN))
			break;
		input.end += r > 0 ? (size_t)r : 0;
		ck_assert_msg(now_usec() < end, "the connection stays open");
		ck_assert_int_ge(sd_event_run(event, r > 0 ? 0 : 1000), 0);
	}
	input.data[input.end] = '\0';
	close(fd);
}

static const char *exchange(const char *request)
{
	int fd = dial();

	send_text(fd, request);
	read_all(fd);
	return input.data;
}

#define GET "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"

static const char *body(void)
{
	const char *end = strstr(input.data, "\r\n\r\n");

	ck_assert_msg(end != NULL, "no header: %s", input.data);
	return end + 4;
}

/* --- what is answered ------------------------------------------------------------------------ */

#define METRICS_TYPE "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
#define JSON_TYPE    "Content-Type: application/json\r\n"
#define TEXT_TYPE    "Content-Type: text/plain; charset=utf-8\r\n"

static const struct {
	const char *request;
	int health;
	const char *status, *header, *body;
} answers[] = {
	{ GET, 0, "HTTP/1.1 200 OK\r\n", METRICS_TYPE, "up 1\n" },
	{ GET, 0, "HTTP/1.1 200 ", "Content-Length: 5\r\n", "up 1\n" },
	{ GET, 0, "HTTP/1.1 200 ", "Cache-Control: no-store\r\n", "up 1\n" },
	{ GET, 0, "HTTP/1.1 200 ", "Connection: close\r\n", "up 1\n" },
	{ GET, 1, "HTTP/1.1 200 ", METRICS_TYPE, "up 1\n" },
	{ "GET /metrics HTTP/1.0\r\n\r\n", 0, "HTTP/1.1 200 ", METRICS_TYPE, "up 1\n" },
	{ "GET /metrics?x=1&y HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 200 ", METRICS_TYPE,
		"up 1\n" },
	{ "HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 200 ", "Content-Length: 5\r\n",
		"" },
	{ "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 200 ", JSON_TYPE,
		"{\"status\":\"ok\"}\n" },
	{ "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 1, "HTTP/1.1 503 ", JSON_TYPE,
		"{\"status\":\"failing\"}\n" },
	{ "HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 1, "HTTP/1.1 503 ", JSON_TYPE, "" },
	{ "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 404 ", TEXT_TYPE,
		"not found; there are /metrics and /healthz\n" },
	{ "GET /metrics/ HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 404 ", TEXT_TYPE, NULL },
	{ "GET /../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 404 ", TEXT_TYPE, NULL },
	{ "POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 0, "HTTP/1.1 404 ",
		TEXT_TYPE, NULL },
	{ "DELETE /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 405 ", "Allow: GET, HEAD\r\n",
		"only GET and HEAD\n" },
	{ "POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd", 0, "HTTP/1.1 405 ",
		"Allow: GET, HEAD\r\n", "only GET and HEAD\n" },
	{ "get /metrics HTTP/1.1\r\nHost: h\r\n\r\n", 0, "HTTP/1.1 405 ", TEXT_TYPE, NULL },
};

START_TEST(test_answers)
{
	health = answers[_i].health;
	exchange(answers[_i].request);
	ck_assert_msg(strncmp(input.data, answers[_i].status, strlen(answers[_i].status)) == 0,
		"%s", input.data);
	ck_assert_msg(strstr(input.data, answers[_i].header) != NULL, "%s", input.data);
	if (answers[_i].body)
		ck_assert_str_eq(body(), answers[_i].body);
}
END_TEST

/* Byte by byte, each in a segment of its own. */
START_TEST(test_slow_request)
{
	int fd = dial();

	for (const char *p = GET; *p; p++) {
		ck_assert_int_eq(send(fd, p, 1, MSG_NOSIGNAL), 1);
		turn_for(1000);
	}
	read_all(fd);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* No memory for the body: the connection ends, and the next one is served. */
START_TEST(test_no_body)
{
	failing = -ENOMEM;
	ck_assert_str_eq(exchange(GET), "");
	failing = 0;
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* --- what is no request ---------------------------------------------------------------------- */

static const char *const garbage[] = {
	"\r\n\r\n\r\n",
	"hello\r\n\r\n",
	"GET\r\n\r\n",
	"GET /metrics\r\n\r\n",
	"GET /metrics HTTP/9.9\r\n\r\n",
	"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
	"\x16\x03\x01\x02\x01\x01\xfd\x03\x03 a TLS hello",
	"{\"topic\":\"t\"}\n",
	"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
	"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n",
	"POST /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"\n\n\n\n",
};

START_TEST(test_garbage)
{
	int fd = dial();

	send_text(fd, garbage[_i]);
	shutdown(fd, SHUT_WR);
	read_all(fd);
	ck_assert_msg(input.end == 0 || strncmp(input.data, "HTTP/1.", 7) == 0, "%s", input.data);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* Random bytes, and requests with a few bytes changed. */
START_TEST(test_noise)
{
	uint64_t state = 1;

	const uint64_t begin = now_usec();

	for (int i = 0; i < 300; i++) {
		char bytes[200] = GET;
		size_t n = strlen(GET);
		int fd = dial();

		if (i % 2) {
			n = 1 + scratch_random(&state) % sizeof(bytes);
			for (size_t j = 0; j < n; j++)
				bytes[j] = (char)scratch_random(&state);
		} else {
			for (int j = 0; j < 3; j++)
				bytes[scratch_random(&state) % n] = (char)scratch_random(&state);
		}
		(void)!send(fd, bytes, n, MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		read_all(fd);
		ck_assert(input.end == 0 || strncmp(input.data, "HTTP/1.", 7) == 0);
	}
	/* None had to be cut off: each ended when its client did. */
	ck_assert_uint_lt(now_usec() - begin, CUT_USEC);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* A header without an end takes no more memory than a connection has. */
START_TEST(test_huge_header)
{
	char line[1024];
	int fd = dial();

	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	line[1] = ':';
	line[sizeof(line) - 3] = '\r';
	line[sizeof(line) - 2] = '\n';
	send_text(fd, "GET /metrics HTTP/1.1\r\nHost: h\r\n");
	for (int i = 0; i < 100; i++)
		send_text(fd, line);
	read_all(fd);
	/* Refused, or cut off while it still sent. */
	ck_assert_msg(
		input.end == 0 || strncmp(input.data, "HTTP/1.1 4", 10) == 0, "%s", input.data);
	ck_assert_uint_eq(asked, 0);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* --- clients that take their time ------------------------------------------------------------ */

/* They hold up nobody while there is room, and are not looked at again and again. */
START_TEST(test_half_requests)
{
	int fds[CONNECTIONS - 1];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = dial();
		send_text(fds[i], "GET /metr");
	}
	turn_for(100 * USEC_PER_MSEC);
	ck_assert_uint_eq(turn_for(500 * USEC_PER_MSEC), 0);
	for (int i = 0; i < 20; i++) {
		exchange(GET);
		ck_assert_str_eq(body(), "up 1\n");
	}
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		send_text(fds[i], "ics HTTP/1.1\r\nHost: h\r\n\r\n");
		read_all(fds[i]);
		ck_assert_str_eq(body(), "up 1\n");
	}
}
END_TEST

/* One too many waits until there is room; then all are served. */
START_TEST(test_all_places_taken)
{
	int fds[CONNECTIONS], waiting[20];
	char byte;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = dial();
	turn_for(100 * USEC_PER_MSEC);
	for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
		waiting[i] = dial();
		send_text(waiting[i], GET);
	}
	ck_assert_uint_eq(turn_for(300 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(asked, 0);
	for (size_t i = 0; i < ARRAY_SIZE(waiting); i++)
		ck_assert(recv(waiting[i], &byte, 1, 0) < 0 && errno == EAGAIN);
	close(fds[0]);
	for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
		read_all(waiting[i]);
		ck_assert_str_eq(body(), "up 1\n");
	}
	for (size_t i = 1; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	turn_for(100 * USEC_PER_MSEC);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* All who ask nothing are cut off when their time is over, and whoever waits is served. */
START_TEST(test_cut_off)
{
	const uint64_t begin = now_usec();
	int fds[CONNECTIONS];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = dial();
		send_text(fds[i], i % 2 ? "GET /metrics HTTP/1.1\r\n" : "");
	}
	turn_for(100 * USEC_PER_MSEC);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
	ck_assert_uint_ge(now_usec() - begin, CUT_USEC);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		read_all(fds[i]);
	ck_assert_uint_eq(asked, 1);
	ck_assert_uint_eq(turn_for(500 * USEC_PER_MSEC), 0);
}
END_TEST

/* A byte now and then does not buy more time. */
START_TEST(test_trickle)
{
	const uint64_t begin = now_usec();
	int fd = dial();

	send_text(fd, "GET /metrics HTTP/1.1\r\n");
	while (send(fd, "x: y\r\n", 6, MSG_NOSIGNAL) > 0) {
		ck_assert_uint_lt(now_usec() - begin, DEADLINE);
		turn_for(500 * USEC_PER_MSEC);
	}
	ck_assert_uint_ge(now_usec() - begin, CUT_USEC);
	read_all(fd);
	ck_assert_uint_eq(asked, 0);
}
END_TEST

/* Who reads slowly gets all of it; meanwhile others are served, and nothing spins. */
START_TEST(test_slow_reader)
{
	int fd = dial();

	metrics_size = 8 << 20;
	send_text(fd, GET);
	turn_for(200 * USEC_PER_MSEC);
	ck_assert_uint_eq(asked, 1);
	ck_assert_uint_eq(turn_for(500 * USEC_PER_MSEC), 0);
	metrics_size = 0;
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
	read_all(fd);
	ck_assert_uint_eq(strlen(body()), (8 << 20) + 5);
}
END_TEST

/* Who has said all and closed its side gets its answer nevertheless, however long that is. */
START_TEST(test_half_closed)
{
	int fd = dial();

	metrics_size = 8 << 20;
	ck_assert_int_gt(send(fd, GET, strlen(GET), MSG_NOSIGNAL), 0);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	turn_for(200 * USEC_PER_MSEC);
	metrics_size = 0;
	exchange(GET); /* a round of all connections */
	read_all(fd);
	ck_assert_uint_eq(strlen(body()), (8 << 20) + 5);
}
END_TEST

/* Who does not read at all is cut off, and what was kept for it is freed. */
START_TEST(test_no_reader)
{
	int fd = dial();

	metrics_size = 8 << 20;
	send_text(fd, GET);
	turn_for(CUT_USEC + 500 * USEC_PER_MSEC);
	metrics_size = 0;
	ck_assert_uint_eq(turn_for(500 * USEC_PER_MSEC), 0);
	read_all(fd);
	ck_assert_uint_lt(input.end, 8 << 20);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* Clients that vanish at any point. */
START_TEST(test_vanishing)
{
	const struct linger reset = { .l_onoff = 1 };

	metrics_size = 4 << 20;
	for (size_t n = 0; n <= strlen(GET); n++) {
		char part[100] = GET;
		int fd = dial();

		part[n] = '\0';
		send_text(fd, part);
		if (n % 2)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		turn_for(n % 3 * 1000);
		close(fd);
	}
	turn_for(50 * USEC_PER_MSEC);
	metrics_size = 0;
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
	/* Nobody is there: nothing to do, not even later. */
	ck_assert_uint_eq(turn_for(500 * USEC_PER_MSEC), 0);
}
END_TEST

/* --- descriptors and addresses --------------------------------------------------------------- */

/* Without descriptors nothing spins, and it goes on when there are some again. */
START_TEST(test_no_descriptors)
{
	struct rlimit before, low;
	int fds[3];

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = dial();
		ck_assert_int_gt(send(fds[i], GET, strlen(GET), MSG_NOSIGNAL), 0);
	}
	low = (struct rlimit){ (rlim_t)fds[2] + 1, before.rlim_max };
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
	ck_assert_uint_le(turn_for(800 * USEC_PER_MSEC), 3);
	ck_assert_uint_eq(asked, 0);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		read_all(fds[i]);
		ck_assert_str_eq(body(), "up 1\n");
	}
}
END_TEST

START_TEST(test_idle)
{
	ck_assert_uint_eq(turn_for(200 * USEC_PER_MSEC), 0);
	exchange(GET);
	turn_for(10 * USEC_PER_MSEC);
	ck_assert_uint_eq(turn_for(CUT_USEC + 500 * USEC_PER_MSEC), 0);
}
END_TEST

/* The address is another program's: no failure, and it is taken over when that ends. */
START_TEST(test_address_in_use)
{
	struct httpd *other;

	open_httpd("127.0.0.1");
	other = httpd;
	ck_assert_int_eq(httpd_new(&httpd, event, address, &callbacks, &asked), 0);
	ck_assert_uint_le(turn_for(2500 * USEC_PER_MSEC), 2);
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
	httpd_free(other);
	ck_assert_int_eq(try_connect("127.0.0.1"), -ECONNREFUSED);
	for (int i = 0; i < 50 && turn_for(100 * USEC_PER_MSEC) == 0; i++)
		;
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
	ck_assert_uint_eq(turn_for(500 * USEC_PER_MSEC), 0);
}
END_TEST

/* Freed while it waits for another try. */
START_TEST(test_free_while_failing)
{
	struct httpd *other;

	open_httpd("127.0.0.1");
	other = httpd;
	ck_assert_int_eq(httpd_new(&httpd, event, address, &callbacks, &asked), 0);
	httpd = httpd_free(httpd);
	httpd = other;
	exchange(GET);
	ck_assert_str_eq(body(), "up 1\n");
}
END_TEST

/* As at a reload: open connections end, and the address can be had again at once. */
START_TEST(test_again)
{
	for (int i = 0; i < 5; i++) {
		int half = dial(), unread = dial();

		metrics_size = 8 << 20;
		send_text(half, "GET /");
		send_text(unread, GET);
		turn_for(20 * USEC_PER_MSEC);
		httpd = httpd_free(httpd);
		read_all(half);
		ck_assert_uint_eq(input.end, 0);
		read_all(unread);
		metrics_size = 0;
		open_httpd("127.0.0.1");
		exchange(GET);
		ck_assert_str_eq(body(), "up 1\n");
	}
}
END_TEST

static const struct {
	const char *listen;
	const char *reaches[2], *refuses[2];
} hosts[] = {
	{ "127.0.0.1", { "127.0.0.1" }, { "127.0.0.2", "::1" } },
	{ "127.0.0.2", { "127.0.0.2" }, { "127.0.0.1", "::1" } },
	{ "0.0.0.0", { "127.0.0.1", "127.0.0.2" }, { "::1" } },
	{ "[::1]", { "::1" }, { "127.0.0.1" } },
	{ "[::]", { "::1" }, { "127.0.0.1" } },
};

START_TEST(test_hosts)
{
	_cleanup_(closep) int v6 = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	int fd;

	if (strchr(hosts[_i].listen, '[') && bind(v6, (struct sockaddr *)&any, sizeof(any)) < 0) {
		fprintf(stderr, "NOT TESTED: %s, there is no IPv6 here\n", hosts[_i].listen);
		return;
	}
	open_httpd(hosts[_i].listen);
	for (size_t i = 0; i < 2 && hosts[_i].reaches[i]; i++) {
		fd = try_connect(hosts[_i].reaches[i]);
		ck_assert_int_ge(fd, 0);
		send_text(fd, GET);
		read_all(fd);
		ck_assert_str_eq(body(), "up 1\n");
	}
	for (size_t i = 0; i < 2 && hosts[_i].refuses[i]; i++)
		ck_assert_int_lt(try_connect(hosts[_i].refuses[i]), 0);
}
END_TEST

static const char *const no_addresses[] = { "9641", ":9641", "localhost:9641", "127.0.0.1",
	"127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:9641", "[::1]", "[127.0.0.1]:9641",
	"[::1:9641", "127.0.0.1:9641 ", "" };

START_TEST(test_no_address)
{
	struct httpd *h = (struct httpd *)&asked;

	ck_assert_int_eq(httpd_new(&h, event, no_addresses[_i], &callbacks, &asked), -EINVAL);
	ck_assert_ptr_eq(h, &asked);
}
END_TEST

/* An address of nobody's here (RFC 5737): tried again, no failure. */
START_TEST(test_foreign_address)
{
	open_httpd("192.0.2.1");
	ck_assert_uint_eq(turn_for(1500 * USEC_PER_MSEC), 1);
}
END_TEST

Suite *check_httpd(void)
{
	Suite *s = suite_create("httpd");
	TCase *t = tcase_create("answers");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_answers, 0, ARRAY_SIZE(answers));
	tcase_add_test(t, test_slow_request);
	tcase_add_test(t, test_no_body);
	tcase_add_loop_test(t, test_garbage, 0, ARRAY_SIZE(garbage));
	tcase_add_test(t, test_noise);
	tcase_add_test(t, test_huge_header);
	tcase_add_test(t, test_half_requests);
	tcase_add_test(t, test_all_places_taken);
	tcase_add_test(t, test_slow_reader);
	tcase_add_test(t, test_half_closed);
	tcase_add_test(t, test_vanishing);
	tcase_add_test(t, test_again);
	suite_add_tcase(s, t);

	/* valgrind lets a program have more descriptors than its limit says. */
	t = tcase_create("no descriptors");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_set_tags(t, "native");
	tcase_add_test(t, test_no_descriptors);
	suite_add_tcase(s, t);

	t = tcase_create("time");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_set_tags(t, "long alone");
	tcase_add_test(t, test_cut_off);
	tcase_add_test(t, test_trickle);
	tcase_add_test(t, test_no_reader);
	tcase_add_test(t, test_idle);
	suite_add_tcase(s, t);

	t = tcase_create("addresses");
	tcase_add_checked_fixture(t, setup_loop, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_address_in_use);
	tcase_add_test(t, test_free_while_failing);
	tcase_add_loop_test(t, test_hosts, 0, ARRAY_SIZE(hosts));
	tcase_add_loop_test(t, test_no_address, 0, ARRAY_SIZE(no_addresses));
	tcase_add_test(t, test_foreign_address);
	suite_add_tcase(s, t);
	return s;
}

#else /* HAVE_HTTPD */

static int nothing(void *userdata, struct buffer *out)
{
	(void)userdata;
	(void)out;
	return 0;
}

START_TEST(test_built_without)
{
	static const struct httpd_callbacks callbacks = { nothing, nothing };
	struct httpd *h = NULL;

	log_set_level(LOG_EMERG);
	ck_assert_int_eq(httpd_new(&h, NULL, "127.0.0.1:1", &callbacks, NULL), -EOPNOTSUPP);
	ck_assert_ptr_null(h);
	ck_assert_ptr_null(httpd_free(NULL));
	fprintf(stderr, "NOT TESTED: metrics by HTTP, this build has none\n");
}
END_TEST

Suite *check_httpd(void)
{
	Suite *s = suite_create("httpd");
	TCase *t = tcase_create("without");

	tcase_add_test(t, test_built_without);
	suite_add_tcase(s, t);
	return s;
}

#endif
