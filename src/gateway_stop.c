/* SPDX-License-Identifier: MIT */
/*
 * The orderly stop, in this order:
 *
 *   1. no more clients, no more lines; what was read is answered, each client is told. /healthz
 * says 503 from now on: it looks at `phase`.
 *   2. the replies are written, the clients' connections closed
 *   3. the uplink finishes what is in flight, disconnects in order, ends
 *   4. control is closed, what the uplink wanted written is committed, the queue closed
 *   5. metrics are closed: both answer for as long as the loop runs
 *   6. the last words
 *
 * Each part has its bound, a second request hurries, and each step tells at debug when it is done.
 */
#include <systemd/sd-daemon.h>

#include "event.h"
#include "gateway_internal.h"
#include "log.h"
#include "timer.h"

/* Bounds: replies still to be written, then the uplink, then the rest. */
#define STOP_REPLIES_USEC (1 * USEC_PER_SEC)
#define STOP_UPLINK_USEC  (10 * USEC_PER_SEC)

static void arm_stop(struct gateway *g, uint64_t usec)
{
	timer_set(g->stop_timer, usec);
}

void gateway_stop_step(struct gateway *g, const char *what)
{
	uint64_t now = now_usec();

	/* The ends of a start that failed and of a loop that did are no stop. */
	if (g->phase == PHASE_RUNNING)
		return;
	log_debug("stop: %s: %.3f s, %.3f s in all", what,
		(double)(now - g->step_usec) / (double)USEC_PER_SEC,
		(double)(now - g->stop_usec) / (double)USEC_PER_SEC);
	g->step_usec = now;
}

static void stop_uplink(struct gateway *g)
{
	g->phase = PHASE_UPLINK;
	g->ingest = ingest_free(g->ingest);
	gateway_stop_step(g, "replies are written, clients' connections closed");
	sd_event_source_set_enabled(g->stop_check, SD_EVENT_OFF);
	if (!g->uplink) {
		sd_event_exit(g->event, 0);
		return;
	}
	log_debug("stop: waiting for the uplink");
	mailbox_post_stop(g->mailbox, g->hurry);
	arm_stop(g, STOP_UPLINK_USEC);
}

void gateway_uplink_stopped(struct gateway *g)
{
	gateway_stop_step(g, "the uplink has ended");
	sd_event_exit(g->event, 0);
}

/* Accepting ends with the listener's source; connections made from now on wait in the kernel for
 * the next process if the socket is systemd's. */
static void begin_stop(struct gateway *g)
{
	g->phase = PHASE_REPLIES;
	g->stop_usec = g->step_usec = now_usec();
	sd_notify(0, "STOPPING=1\nSTATUS=stopping");
	log_event(EVENT_STOPPING, NULL, "stopping");
	ingest_stop(g->ingest);
	gateway_stop_step(g, "no more clients and lines, what was read is answered");
	control_stop(g->control);
	if (ingest_clients(g->ingest) == 0) {
		stop_uplink(g);
		return;
	}
	arm_stop(g, STOP_REPLIES_USEC);
	sd_event_source_set_enabled(g->stop_check, SD_EVENT_ON);
}

/* After each dispatch of another source, while replies are being written. */
int gateway_on_stop_check(sd_event_source *s, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	if (g->phase == PHASE_REPLIES && ingest_clients(g->ingest) == 0)
		stop_uplink(g);
	return 0;
}

int gateway_on_stop_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)usec;
	if (g->phase == PHASE_REPLIES) {
		log_notice("stop: %u clients did not read their replies in time",
			ingest_clients(g->ingest));
		stop_uplink(g);
		return 0;
	}
	if (g->hurry) {
		/* Nothing is left to be done but to wait: the manager ends what does not end. */
		log_error("stop: the uplink does not end");
		return 0;
	}
	g->hurry = true;
	mailbox_post_stop(g->mailbox, true);
	arm_stop(g, STOP_REPLIES_USEC);
	return 0;
}

void gateway_stop(struct gateway *g)
{
	if (g->phase == PHASE_RUNNING) {
		begin_stop(g);
		return;
	}
	log_notice("second signal: hurrying");
	g->hurry = true;
	if (g->phase == PHASE_REPLIES)
		stop_uplink(g);
	else
		mailbox_post_stop(g->mailbox, true);
}
