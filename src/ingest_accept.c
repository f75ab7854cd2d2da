/* SPDX-License-Identifier: MIT */
/*
 * Lets clients in, or tells them why not. Invariant: no more than a bounded number of them in one
 * dispatch, and none while there are no descriptors. See ingest_internal.h.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "event.h"
#include "ingest_internal.h"
#include "listener.h"
#include "log.h"
#include "timer.h"

#define TURN_ACCEPT	  64
#define ACCEPT_PAUSE_USEC (1 * USEC_PER_SEC)

/* A program that does not give up must not fill the journal. */
void ingest_tell(struct flap *flap, enum event_kind kind, int error, const char *text)
{
	struct event_fields fields = { .error = error };
	struct flap_told told = { 0 };
	char more[120] = "", times[100];

	if (flap_occurred(flap, 1, 0, now_boot_usec(), &told) == FLAP_QUIET)
		fields.priority = LOG_DEBUG;
	if (told.count > 1) {
		fields.count = told.count;
		snprintf(more, sizeof(more), "; %s", flap_text(&told, times, sizeof(times)));
	}
	log_event(kind, &fields, "%s%s", text, more);
}

static void refuse_client(struct ingest *i, int fd)
{
	struct buffer out = { 0 };
	char text[80], line[120];

	ingest_count_refused(i, FRAME_TOO_MANY_CLIENTS, 1);
	snprintf(
		text, sizeof(text), "socket.max_clients, %u, are connected", i->params.max_clients);
	snprintf(line, sizeof(line), "a client is refused: %s", text);
	ingest_tell(&i->refusals, EVENT_CLIENT_REFUSED, 0, line);
	if (frame_json_reply_error(&out, NULL, 0, FRAME_TOO_MANY_CLIENTS, text) == 0)
		(void)send(fd, buffer_head(&out), buffer_len(&out), MSG_DONTWAIT | MSG_NOSIGNAL);
	buffer_clear(&out);
	close(fd);
}

static void add_client(void *userdata, int fd)
{
	struct ingest *i = userdata;
	struct client *c;

	if (i->n_clients >= i->params.max_clients) {
		refuse_client(i, fd);
		return;
	}
	if (client_new(&c, &i->pool, i->epoll_fd, fd) < 0) {
		log_warning("no memory for a client; its connection is closed");
		close(fd);
		return;
	}
	c->next = i->clients;
	if (c->next)
		c->next->prev = c;
	i->clients = c;
	i->n_clients++;
	ingest_access_admit(i, c);
}

/* Out of descriptors or memory: those who wait to connect wait a little longer. */
static void pause_listening(struct ingest *i, int error)
{
	char line[200];

	snprintf(line, sizeof(line), "cannot accept a client: %s; trying again in a second",
		strerrordesc_np(error));
	ingest_tell(&i->pauses, EVENT_CLIENT_REFUSED, error, line);
	sd_event_source_set_enabled(i->listen, SD_EVENT_OFF);
	timer_set(i->resume, ACCEPT_PAUSE_USEC);
}

int ingest_on_resume(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct ingest *i = userdata;

	(void)s;
	(void)usec;
	return sd_event_source_set_enabled(i->listen, SD_EVENT_ON);
}

int ingest_on_listen(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct ingest *i = userdata;
	int r;

	(void)s;
	(void)events;
	r = listener_accept(fd, TURN_ACCEPT, add_client, i);
	if (r < 0)
		pause_listening(i, -r);
	/* While connections come in an endless row, the source for what is left of the last turn
	 * has no turn itself. */
	if (i->ready)
		ingest_turn(i);
	return 0;
}
