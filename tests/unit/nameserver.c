/* SPDX-License-Identifier: MIT */
/*
 * The scripted name server: see nameserver.h. One thread, one question at a time.
 */
#include "nameserver.h"

#include <arpa/inet.h>
#include <check.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <resolv.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define HEADER_SIZE 12
#define TYPE_SRV    33
#define CLASS_IN    1
#define FLAG_QR	    0x80
#define FLAG_TC	    0x02

static atomic_int used_port;

static struct {
	pthread_t thread;
	pthread_mutex_t lock;
	int udp, tcp;
	int stop[2]; /* a pipe */
	struct nameserver_answer answer;
	unsigned questions, questions_tcp;
} server = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- whom to ask ----------------------------------------------------------------------------- */

/* In the place of the C library's, as res_ninit(): the rest of the look-up is the real one. */
int __res_ninit(res_state state)
{
	int (*real)(res_state) = (int (*)(res_state))(uintptr_t)dlsym(RTLD_NEXT, "__res_ninit");
	int port = atomic_load(&used_port);
	int r = real(state);

	if (r < 0 || port == 0)
		return r;
	state->nscount = 1;
	state->nsaddr_list[0] = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	state->retrans = 1;
	state->retry = 1;
	return r;
}

void nameserver_use(uint16_t port)
{
	atomic_store(&used_port, port);
}

/* --- answers --------------------------------------------------------------------------------- */

static uint8_t *put16(uint8_t *at, unsigned value)
{
	*at++ = (uint8_t)(value >> 8);
	*at++ = (uint8_t)value;
	return at;
}

/* Labels, without compression. */
static uint8_t *put_name(uint8_t *at, const char *name)
{
	while (*name && !streq(name, ".")) {
		size_t n = strcspn(name, ".");

		*at++ = (uint8_t)n;
		memcpy(at, name, n);
		at += n;
		name += n;
		if (*name == '.' && name[1])
			name++;
	}
	*at++ = 0;
	return at;
}

static uint8_t *put_record(uint8_t *at, const struct nameserver_record *r)
{
	uint8_t *length;

	at = put16(at, 0xc000 | HEADER_SIZE); /* the question's name */
	at = put16(at, TYPE_SRV);
	at = put16(at, CLASS_IN);
	at = put16(at, r->ttl >> 16);
	at = put16(at, r->ttl & 0xffff);
	length = at;
	at += 2;
	at = put16(at, r->priority);
	at = put16(at, r->weight);
	at = put16(at, r->port);
	at = put_name(at, r->target);
	put16(length, (unsigned)(at - length - 2));
	return at;
}

size_t nameserver_build(uint8_t *message, const uint8_t *question, size_t n_question,
	const struct nameserver_answer *answer)
{
	uint8_t *at = message + HEADER_SIZE;
	/* The question: name, type, class; without what may follow. */
	const uint8_t *end = question + HEADER_SIZE;

	while (end < question + n_question && *end)
		end += *end + 1;
	end += 5;
	memset(message, 0, HEADER_SIZE);
	memcpy(message, question, 2);
	message[2] = FLAG_QR | 0x01;
	message[3] = (uint8_t)(0x80 | answer->rcode);
	put16(message + 4, 1);
	put16(message + 6, (unsigned)answer->n);
	memcpy(at, question + HEADER_SIZE, (size_t)(end - question) - HEADER_SIZE);
	at += (end - question) - HEADER_SIZE;
	for (size_t i = 0; i < answer->n; i++)
		at = put_record(at, &answer->records[i]);
	return (size_t)(at - message);
}

static size_t make_answer(uint8_t *message, const uint8_t *question, size_t n_question,
	const struct nameserver_answer *answer, bool tcp)
{
	size_t n;

	if (answer->raw) {
		memcpy(message, answer->raw, answer->n_raw);
		memcpy(message, question, size_min(2, answer->n_raw));
		return answer->n_raw;
	}
	if (answer->udp_truncated && !tcp) {
		struct nameserver_answer empty = { 0 };

		n = nameserver_build(message, question, n_question, &empty);
		message[2] |= FLAG_TC;
		return n;
	}
	return nameserver_build(message, question, n_question, answer);
}

/* --- the server ------------------------------------------------------------------------------ */

static struct nameserver_answer count_question(bool tcp)
{
	struct nameserver_answer answer;

	pthread_mutex_lock(&server.lock);
	answer = server.answer;
	*(tcp ? &server.questions_tcp : &server.questions) += 1;
	pthread_mutex_unlock(&server.lock);
	return answer;
}

static void serve_udp(uint8_t *message)
{
	uint8_t question[1024];
	struct sockaddr_in from;
	socklen_t n_from = sizeof(from);
	struct nameserver_answer answer;
	ssize_t n = recvfrom(
		server.udp, question, sizeof(question), 0, (struct sockaddr *)&from, &n_from);

	if (n < HEADER_SIZE)
		return;
	answer = count_question(false);
	if (answer.silent)
		return;
	n = (ssize_t)make_answer(message, question, (size_t)n, &answer, false);
	(void)!sendto(server.udp, message, (size_t)n, 0, (struct sockaddr *)&from, n_from);
}

static void serve_tcp(uint8_t *message)
{
	uint8_t question[1024];
	struct nameserver_answer answer;
	int fd = accept(server.tcp, NULL, NULL);
	uint8_t length[2];
	ssize_t n;

	if (fd < 0)
		return;
	if (recv(fd, length, 2, MSG_WAITALL) == 2) {
		n = recv(fd, question, (size_t)(length[0] << 8 | length[1]) & 1023, MSG_WAITALL);
		answer = count_question(true);
		if (n >= HEADER_SIZE && !answer.silent) {
			n = (ssize_t)make_answer(message, question, (size_t)n, &answer, true);
			put16(length, (unsigned)n);
			(void)!send(fd, length, 2, MSG_NOSIGNAL | MSG_MORE);
			(void)!send(fd, message, (size_t)n, MSG_NOSIGNAL);
		}
	}
	close(fd);
}

static void *serve(void *userdata)
{
	uint8_t *message = malloc(NAMESERVER_MAX + 1000);
	struct pollfd fds[] = {
		{ .fd = server.stop[0], .events = POLLIN },
		{ .fd = server.udp, .events = POLLIN },
		{ .fd = server.tcp, .events = POLLIN },
	};

	(void)userdata;
	for (;;) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
			continue;
		if (fds[0].revents)
			break;
		if (fds[1].revents)
			serve_udp(message);
		if (fds[2].revents)
			serve_tcp(message);
	}
	free(message);
	return NULL;
}

/* The same port for both kinds. */
static int try_listen(uint16_t *ret_port)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t n = sizeof(a);

	server.udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	server.tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(server.udp, (struct sockaddr *)&a, n), 0);
	ck_assert_int_eq(getsockname(server.udp, (struct sockaddr *)&a, &n), 0);
	if (bind(server.tcp, (struct sockaddr *)&a, n) < 0 || listen(server.tcp, 8) < 0) {
		close(server.udp);
		close(server.tcp);
		return -1;
	}
	*ret_port = ntohs(a.sin_port);
	return 0;
}

void nameserver_start(void)
{
	uint16_t port = 0;

	for (int i = 0; port == 0 && i < 20; i++)
		(void)!try_listen(&port);
	ck_assert_uint_ne(port, 0);
	ck_assert_int_eq(pipe(server.stop), 0);
	server.answer = (struct nameserver_answer){ 0 };
	server.questions = server.questions_tcp = 0;
	ck_assert_int_eq(pthread_create(&server.thread, NULL, serve, NULL), 0);
	nameserver_use(port);
}

void nameserver_stop(void)
{
	nameserver_use(0);
	close(server.stop[1]);
	pthread_join(server.thread, NULL);
	close(server.stop[0]);
	close(server.udp);
	close(server.tcp);
}

void nameserver_set(const struct nameserver_answer *answer)
{
	pthread_mutex_lock(&server.lock);
	server.answer = *answer;
	pthread_mutex_unlock(&server.lock);
}

unsigned nameserver_questions(void)
{
	unsigned n;

	pthread_mutex_lock(&server.lock);
	n = server.questions;
	pthread_mutex_unlock(&server.lock);
	return n;
}

unsigned nameserver_questions_tcp(void)
{
	unsigned n;

	pthread_mutex_lock(&server.lock);
	n = server.questions_tcp;
	pthread_mutex_unlock(&server.lock);
	return n;
}
