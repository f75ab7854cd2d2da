/* SPDX-License-Identifier: MIT */
/*
 * SRV records (RFC 2782): see resolver_srv.h and resolver.h. Owns the question, the answer's bytes
 * and the order of targets. Must not know threads and loops.
 */
#include "resolver_srv.h"

#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <resolv.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>

/* The most that DNS over TCP can carry: no answer is cut short. */
#define MESSAGE_MAX 65535
/* Priority, weight and port, before the target. */
#define SRV_FIXED 6

static _printf_(3, 4) void set_error(
	struct resolver_services *result, int error, const char *format, ...)
{
	va_list ap;

	*result = (struct resolver_services){ .error = error };
	va_start(ap, format);
	vsnprintf(result->text, sizeof(result->text), format, ap);
	va_end(ap);
}

/* --- order ----------------------------------------------------------------------------------- */

static bool goes_before(const struct resolver_service *a, const struct resolver_service *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority;
	return a->weight == 0 && b->weight != 0;
}

/* By priority; within one, those of weight 0 first; else as they came. */
static void sort(struct resolver_service *services, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct resolver_service moved = services[i];
		size_t at = i;

		for (; at > 0 && goes_before(&moved, &services[at - 1]); at--)
			services[at] = services[at - 1];
		services[at] = moved;
	}
}

/* Which of `n` of one priority comes next. */
static size_t choose(const struct resolver_service *services, size_t n, double chance)
{
	uint64_t sum = 0, running = 0, wanted;

	for (size_t i = 0; i < n; i++)
		sum += services[i].weight;
	/* A whole number from 0 to the sum, both included: that is what gives weight 0 its small
	 * chance. */
	wanted = u64_min((uint64_t)(chance * (double)(sum + 1)), sum);
	for (size_t i = 0; i < n; i++) {
		running += services[i].weight;
		if (running >= wanted)
			return i;
	}
	return n - 1;
}

static size_t n_of_same_priority(const struct resolver_service *services, size_t n)
{
	size_t same = 1;

	while (same < n && services[same].priority == services[0].priority)
		same++;
	return same;
}

void resolver_order(
	struct resolver_service *services, size_t n, double (*draw)(void *userdata), void *userdata)
{
	sort(services, n);
	for (size_t i = 0; i < n; i++) {
		size_t left = n_of_same_priority(services + i, n - i);
		struct resolver_service chosen;
		size_t at;

		if (left == 1)
			continue;
		at = i + choose(services + i, left, draw(userdata));
		/* The others keep their order, so that weight 0 stays in front. */
		chosen = services[at];
		memmove(&services[i + 1], &services[i], (at - i) * sizeof(*services));
		services[i] = chosen;
	}
}

/* --- the answer ------------------------------------------------------------------------------ */

/*
 * 1: *ret is a target; 0: a record that is not one (another type, or nothing that could be
 * connected to); -EBADMSG.
 */
static int read_record(const ns_msg *message, const ns_rr *rr, struct resolver_service *ret)
{
	const uint8_t *data = ns_rr_rdata(*rr);
	struct resolver_service s;
	int used;

	if (ns_rr_type(*rr) != ns_t_srv || ns_rr_class(*rr) != ns_c_in)
		return 0;
	if (ns_rr_rdlen(*rr) <= SRV_FIXED)
		return -EBADMSG;
	s.priority = (uint16_t)ns_get16(data);
	s.weight = (uint16_t)ns_get16(data + 2);
	s.port = (uint16_t)ns_get16(data + 4);
	used = ns_name_uncompress(ns_msg_base(*message), ns_msg_end(*message), data + SRV_FIXED,
		s.host, sizeof(s.host));
	if (used < 0 || used != ns_rr_rdlen(*rr) - SRV_FIXED)
		return -EBADMSG;
	/* "." says that there is no such service there (RFC 2782); the caller sees that it is the
	 * only one. */
	if (s.port == 0 || streq(s.host, ".") || streq(s.host, "") || !res_hnok(s.host))
		return 0;
	*ret = s;
	return 1;
}

static bool says_not_available(const ns_rr *rr)
{
	return ns_rr_type(*rr) == ns_t_srv && ns_rr_rdlen(*rr) == SRV_FIXED + 1 &&
		ns_rr_rdata(*rr)[SRV_FIXED] == 0;
}

struct targets {
	struct resolver_service *services;
	size_t n;
	size_t n_records; /* SRV records, fit for use or not */
	uint32_t ttl;
	bool not_available;
};

static int read_records(ns_msg *message, struct targets *t)
{
	t->ttl = UINT32_MAX;
	for (int i = 0; i < ns_msg_count(*message, ns_s_an); i++) {
		ns_rr rr;
		int r;

		if (ns_parserr(message, ns_s_an, i, &rr) < 0)
			return -EBADMSG;
		/* An alias on the way there counts as well: it may point elsewhere later. One with
		 * the first bit set is to be taken for 0 (RFC 2181, section 8). */
		t->ttl = (uint32_t)u64_min(t->ttl, ns_rr_ttl(rr) > INT32_MAX ? 0 : ns_rr_ttl(rr));
		r = read_record(message, &rr, &t->services[t->n]);
		if (r < 0)
			return r;
		t->n += r > 0;
		t->n_records += ns_rr_type(rr) == ns_t_srv;
		t->not_available |= says_not_available(&rr);
	}
	return 0;
}

static void set_rcode(struct resolver_services *result, int rcode)
{
	switch (rcode) {
	case ns_r_nxdomain: set_error(result, EAI_NONAME, "there is no such name"); break;
	case ns_r_servfail:
		set_error(result, EAI_AGAIN, "the name server failed to find out (SERVFAIL)");
		break;
	case ns_r_refused:
		set_error(result, EAI_FAIL, "the name server refuses to answer (REFUSED)");
		break;
	default: set_error(result, EAI_FAIL, "the name server answers with code %d", rcode); break;
	}
}

static void set_targets(struct targets *t, double (*draw)(void *userdata), void *userdata,
	struct resolver_services *result)
{
	if (t->n == 0) {
		if (t->not_available)
			set_error(result, EAI_NONAME,
				"the service is decidedly not available (the target is \".\")");
		else if (t->n_records > 0)
			set_error(result, EAI_FAIL,
				"no SRV record names a host and a port to connect to");
		else
			set_error(result, EAI_NONAME, "the name has no SRV records");
		return;
	}
	resolver_order(t->services, t->n, draw, userdata);
	*result = (struct resolver_services){
		.ttl = t->ttl,
		.n = size_min(t->n, RESOLVER_MAX_SERVICES),
	};
	memcpy(result->services, t->services, result->n * sizeof(*t->services));
}

void resolver_srv_parse(const uint8_t *message, size_t n, double (*draw)(void *userdata),
	void *userdata, struct resolver_services *result)
{
	struct targets t = { 0 };
	ns_msg parsed;

	if (ns_initparse(message, (int)size_min(n, MESSAGE_MAX), &parsed) < 0) {
		set_error(result, EAI_FAIL, "the name server's answer is malformed");
		return;
	}
	if (ns_msg_getflag(parsed, ns_f_rcode) != ns_r_noerror) {
		set_rcode(result, ns_msg_getflag(parsed, ns_f_rcode));
		return;
	}
	/* The parser has found each of the counted records in the message: the count is bounded by
	 * its size. */
	t.services = calloc((size_t)ns_msg_count(parsed, ns_s_an) + 1, sizeof(*t.services));
	if (!t.services)
		set_error(result, EAI_MEMORY, "%s", gai_strerror(EAI_MEMORY));
	else if (read_records(&parsed, &t) < 0)
		set_error(result, EAI_FAIL, "the name server's answer is malformed");
	else
		set_targets(&t, draw, userdata, result);
	free(t.services);
}

/* --- the question ---------------------------------------------------------------------------- */

static double draw_system(void *userdata)
{
	uint64_t bits = 0;

	(void)userdata;
	/* If there are none, the order is still one of those that are allowed. */
	(void)!getrandom(&bits, sizeof(bits), 0);
	return (double)(bits >> 11) * 0x1p-53;
}

/* Which of the many ways not to get an answer it was; `message` is what came, if anything. */
static void set_failure(
	int h_error, int error, const uint8_t *message, struct resolver_services *result)
{
	const HEADER *header = (const HEADER *)(const void *)message;

	if (header->qr && header->rcode != ns_r_noerror)
		set_rcode(result, header->rcode);
	else if (h_error == HOST_NOT_FOUND)
		set_rcode(result, ns_r_nxdomain);
	else if (h_error == NO_DATA)
		set_error(result, EAI_NONAME, "the name has no SRV records");
	else if (h_error == TRY_AGAIN && error != 0)
		set_error(result, EAI_AGAIN, "no answer from a name server (%s)",
			strerrordesc_np(error));
	else if (h_error == TRY_AGAIN)
		set_error(result, EAI_AGAIN, "no answer from a name server");
	else
		set_error(result, EAI_FAIL, "the name cannot be asked for (%s)",
			h_error == NO_RECOVERY ? "not a name, or a broken answer"
					       : hstrerror(h_error));
}

static void query(res_state state, const char *name, struct resolver_services *result)
{
	/* As wide as HEADER wants to be aligned. */
	uint32_t *message = calloc(1, MESSAGE_MAX + 1);
	uint8_t *bytes = (uint8_t *)message;
	int n;

	if (!message) {
		set_error(result, EAI_MEMORY, "%s", gai_strerror(EAI_MEMORY));
		return;
	}
	errno = 0;
	/* Follows an answer that was cut short with one by TCP. */
	n = res_nquery(state, name, ns_c_in, ns_t_srv, bytes, MESSAGE_MAX);
	if (n < 0)
		set_failure(state->res_h_errno, errno, bytes, result);
	else
		resolver_srv_parse(bytes, (size_t)n, draw_system, NULL, result);
	free(message);
}

void resolver_srv_query(const char *name, struct resolver_services *result)
{
	/* A new one for each question: resolv.conf may be another by now. */
	struct __res_state state = { 0 };

	if (res_ninit(&state) < 0) {
		set_error(result, EAI_SYSTEM, "cannot read the resolver's configuration");
		return;
	}
	query(&state, name, result);
	res_nclose(&state);
}
