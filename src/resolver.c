/* SPDX-License-Identifier: MIT */
/*
 * The resolver thread: see resolver.h. It starts with the first question.
 *
 * What the two threads share is counted by reference, because a look-up cannot be interrupted: the
 * last one to leave frees it.
 */
#include "resolver.h"

#include "resolver_srv.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

/* What is asked for, and the answer to it. */
enum kind {
	KIND_ADDRESSES,
	KIND_SERVICES,
};

struct question {
	char *name; /* NULL: none */
	enum kind kind;
	uint64_t number; /* counts questions; an answer to an older one is dropped */
};

struct answer {
	enum kind kind;
	uint64_t number; /* of the question; 0 = none */
	union {
		struct resolver_result addresses;
		struct resolver_services services;
	};
};

struct shared {
	pthread_mutex_t lock;
	pthread_cond_t asked;
	unsigned references;
	int fd; /* eventfd: an answer is there */
	bool end;

	struct question question; /* the next one */
	struct answer answer;
};

struct resolver {
	struct shared *shared;
	sd_event_source *source;
	resolver_fn fn;
	resolver_services_fn services_fn;
	void *userdata;
	bool started; /* there is a thread */
	uint64_t waiting_for; /* 0 = nothing */
};

static void shared_unref(struct shared *s)
{
	bool last;

	pthread_mutex_lock(&s->lock);
	last = --s->references == 0;
	pthread_mutex_unlock(&s->lock);
	if (!last)
		return;
	closep(&s->fd);
	free(s->question.name);
	pthread_cond_destroy(&s->asked);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void add_address(struct resolver_result *result, const struct addrinfo *ai)
{
	char text[sizeof(result->addresses[0])];

	if (result->n == RESOLVER_MAX_ADDRESSES)
		return;
	if (getnameinfo(ai->ai_addr, ai->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) !=
		0)
		return;
	memcpy(result->addresses[result->n++], text, sizeof(text));
}

static void look_up(const char *host, struct resolver_result *result)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *list = NULL;

	*result = (struct resolver_result){ 0 };
	result->error = getaddrinfo(host, NULL, &hints, &list);
	if (result->error == 0) {
		for (const struct addrinfo *ai = list; ai; ai = ai->ai_next)
			add_address(result, ai);
		freeaddrinfo(list);
		if (result->n == 0)
			result->error = EAI_NONAME;
	}
	if (result->error)
		snprintf(result->text, sizeof(result->text), "%s",
			result->error == EAI_SYSTEM ? strerrordesc_np(errno)
						    : gai_strerror(result->error));
}

static void *run(void *userdata)
{
	struct shared *s = userdata;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct question question;
		struct answer answer;

		while (!s->end && !s->question.name)
			pthread_cond_wait(&s->asked, &s->lock);
		if (s->end)
			break;
		question = s->question;
		s->question.name = NULL;
		pthread_mutex_unlock(&s->lock);

		answer.kind = question.kind;
		answer.number = question.number;
		if (question.kind == KIND_SERVICES)
			resolver_srv_query(question.name, &answer.services);
		else
			look_up(question.name, &answer.addresses);
		free(question.name);

		pthread_mutex_lock(&s->lock);
		s->answer = answer;
		(void)eventfd_write(s->fd, 1);
	}
	pthread_mutex_unlock(&s->lock);
	shared_unref(s);
	return NULL;
}

static int on_answer(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct resolver *r = userdata;
	struct answer answer;
	eventfd_t value;

	(void)source;
	(void)events;
	(void)eventfd_read(fd, &value);
	pthread_mutex_lock(&r->shared->lock);
	answer = r->shared->answer;
	pthread_mutex_unlock(&r->shared->lock);
	if (r->waiting_for == 0 || answer.number != r->waiting_for)
		return 0;
	r->waiting_for = 0;
	if (answer.kind == KIND_SERVICES)
		r->services_fn(r->userdata, &answer.services);
	else
		r->fn(r->userdata, &answer.addresses);
	return 0;
}

static int start_thread(struct shared *s)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int r;

	/* Signals are the gateway thread's. */
	sigfillset(&all);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = -pthread_create(&thread, &attr, run, s);
	if (r == 0)
		pthread_setname_np(thread, "resolver");
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

static int shared_new(struct shared **ret)
{
	struct shared *s;

	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->fd < 0) {
		int r = -errno;

		free(s);
		return r;
	}
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->asked, NULL);
	s->references = 1;
	*ret = s;
	return 0;
}

int resolver_new(struct resolver **ret, sd_event *event, resolver_fn fn, void *userdata)
{
	struct resolver *r;
	int k;

	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->fn = fn;
	r->userdata = userdata;
	k = shared_new(&r->shared);
	if (k < 0)
		goto rollback;
	/* -fanalyzer: a 0 of shared_new() has set it. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): so it has. */
	k = sd_event_add_io(event, &r->source, r->shared->fd, EPOLLIN, on_answer, r);
	if (k < 0)
		goto rollback;
	*ret = r;
	return 0;

rollback:
	resolver_free(r);
	return k;
}

struct resolver *resolver_free(struct resolver *r)
{
	if (!r)
		return NULL;
	r->source = sd_event_source_disable_unref(r->source);
	if (r->shared) {
		pthread_mutex_lock(&r->shared->lock);
		r->shared->end = true;
		pthread_cond_signal(&r->shared->asked);
		pthread_mutex_unlock(&r->shared->lock);
		shared_unref(r->shared);
	}
	free(r);
	return NULL;
}

static int ensure_thread(struct resolver *r)
{
	int k;

	if (r->started)
		return 0;
	/* No other thread can see it yet. */
	r->shared->references++;
	k = start_thread(r->shared);
	if (k < 0) {
		r->shared->references--;
		return k;
	}
	r->started = true;
	return 0;
}

static int ask(struct resolver *r, enum kind kind, const char *name)
{
	struct question *q = &r->shared->question;
	char *copy = strdup(name);
	int k;

	if (!copy)
		return -ENOMEM;
	k = ensure_thread(r);
	if (k < 0) {
		free(copy);
		return k;
	}
	pthread_mutex_lock(&r->shared->lock);
	free(q->name);
	q->name = copy;
	q->kind = kind;
	r->waiting_for = ++q->number;
	pthread_cond_signal(&r->shared->asked);
	pthread_mutex_unlock(&r->shared->lock);
	return 0;
}

int resolver_lookup(struct resolver *r, const char *host)
{
	return ask(r, KIND_ADDRESSES, host);
}

int resolver_lookup_services(struct resolver *r, const char *name, resolver_services_fn fn)
{
	int k = ask(r, KIND_SERVICES, name);

	/* Only on_answer() reads it, in this thread. */
	if (k == 0)
		r->services_fn = fn;
	return k;
}

void resolver_cancel(struct resolver *r)
{
	r->waiting_for = 0;
}
