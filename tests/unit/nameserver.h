/* SPDX-License-Identifier: MIT */
/*
 * A scripted name server on a loopback port, and a way to have look-ups of SRV records go to it, or
 * to another one. For check_*.c only.
 */
#pragma once

#include "util.h"

#define NAMESERVER_MAX 65535

/* An SRV record of a scripted answer. */
struct nameserver_record {
	uint32_t ttl;
	uint16_t priority, weight, port;
	const char *target; /* "." and "" are the root */
};

struct nameserver_answer {
	const uint8_t *raw; /* sent as it is behind the question's id, when it is there */
	size_t n_raw;
	const struct nameserver_record *records;
	size_t n;
	int rcode;
	bool silent; /* none at all */
	bool udp_truncated; /* by UDP; the whole by TCP */
};

/* Look-ups go to this UDP and TCP port of 127.0.0.1 from now on; 0: to the system's. */
void nameserver_use(uint16_t port);

/* Starts it, and uses it. */
void nameserver_start(void);
void nameserver_stop(void);
/* What it answers from now on; the answer is copied, what it points to is not. */
void nameserver_set(const struct nameserver_answer *answer);
/* How many questions it got, by UDP and by TCP. */
unsigned nameserver_questions(void);
unsigned nameserver_questions_tcp(void);

/* Puts an answer to the question in `question` together, of `records` from `first` on. */
size_t nameserver_build(uint8_t *message, const uint8_t *question, size_t n_question,
	const struct nameserver_answer *answer);
