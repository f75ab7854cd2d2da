/* SPDX-License-Identifier: MIT */
/*
 * Ingest: see ingest.h.
 *
 * Clients hang on an epoll descriptor of their own, which is one source of the gateway's loop: so
 * one dispatch is one turn, with one commit. Replies are put together while lines are read, in
 * their order, and written only when the commit has said what they must be. A client whose lines
 * wait for it is kept until then, though it may have hung up.
 *
 * Fairness: clients with something to handle stand in a first-in, first-out list; one that is not
 * through when a turn is full goes on in the next, behind the others.
 *
 * Must not know: SQL, brokers.
 */
#include "ingest.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "event.h"
#include "flap.h"
#include "frame_json.h"
#include "ingest_client.h"
#include "log.h"
#include "timer.h"

/* Bounds of one turn. */
#define TURN_LINES  1000
#define TURN_BYTES  (1024 * 1024)
#define TURN_EVENTS 256
#define TURN_ACCEPT 64

#define ACCEPT_PAUSE_USEC   (1 * USEC_PER_SEC)
#define DELAY_ACCURACY_USEC (1 * USEC_PER_MSEC)

/* A line's answer, as far as it is known before the commit. */
struct reply {
	struct client *client;
	enum frame_error error;
	bool has_id;
	uint64_t seq;
	size_t id, id_len; /* in `texts` */
	size_t text, text_len;
};

struct ingest {
	sd_event *event;
	sd_event_source *listen;
	sd_event_source *resume; /* listening, after a pause */
	sd_event_source *io;
	sd_event_source *again; /* something is left from the last turn */
	sd_event_source *delay; /* the turn under way ends then */
	int listen_fd;
	int epoll_fd;
	struct ingest_params params;
	struct ingest_callbacks callbacks;
	void *userdata;
	struct frame_json *frames;

	struct client *clients;
	unsigned n_clients;
	struct client_pool pool;
	struct client *ready, **ready_tail;
	struct client *touched;

	/* The turn under way. */
	struct reply replies[TURN_LINES];
	size_t n_replies;
	struct buffer texts;
	size_t lines;
	size_t bytes; /* read */
	size_t appended;
	size_t taken; /* of them: whether they are stored depends on the commit alone */
	int failed; /* -errno: nothing that was appended in this turn is stored */
	bool hurry; /* no turn waits any more */

	struct flap refusals, pauses; /* told now and then */
};

/* --- lists ----------------------------------------------------------------------------------- */

static void touch(struct ingest *i, struct client *c)
{
	if (c->is_touched)
		return;
	c->is_touched = true;
	c->next_touched = i->touched;
	i->touched = c;
}

static void push_ready(struct ingest *i, struct client *c)
{
	if (c->is_ready)
		return;
	c->is_ready = true;
	c->next_ready = NULL;
	*i->ready_tail = c;
	i->ready_tail = &c->next_ready;
}

static struct client *pop_ready(struct ingest *i)
{
	struct client *c = i->ready;

	if (!c)
		return NULL;
	i->ready = c->next_ready;
	if (!i->ready)
		i->ready_tail = &i->ready;
	c->is_ready = false;
	touch(i, c);
	return c;
}

static void drop(struct ingest *i, struct client *c)
{
	if (c->prev)
		c->prev->next = c->next;
	else
		i->clients = c->next;
	if (c->next)
		c->next->prev = c->prev;
	i->n_clients--;
	client_free(c);
}

/* --- one line -------------------------------------------------------------------------------- */

static bool turn_is_full(const struct ingest *i)
{
	return i->lines >= TURN_LINES || i->bytes >= TURN_BYTES || i->failed < 0;
}

static int keep(struct ingest *i, const char *s, size_t len, size_t *ret_offset)
{
	*ret_offset = buffer_len(&i->texts);
	return buffer_append(&i->texts, s, len);
}

/* A reply that cannot be given would make the later ones lie: the connection ends without them,
 * which says of each line that it was not accepted. */
static void give_up_replies(struct client *c)
{
	client_stop_reading(c);
	c->last = c->deaf = true;
}

/* By the error's number, but for FRAME_OK. */
static void count_refused(struct ingest *i, enum frame_error error, uint64_t n)
{
	i->params.refused[error - 1].count += n;
}

static void name_refused(struct ingest *i)
{
	_Static_assert(N_FRAME_ERRORS - 1 <= FIGURES_ERRORS, "a counter for each error");

	for (unsigned error = FRAME_OK + 1; error < N_FRAME_ERRORS; error++)
		i->params.refused[error - 1].error = frame_error_to_string((enum frame_error)error);
}

/* Remembers what to answer. */
static void add_reply(struct ingest *i, struct client *c, const struct frame *f,
	enum frame_error error, const char *text, uint64_t seq)
{
	struct reply *reply = &i->replies[i->n_replies++];
	int r = 0;

	if (error == FRAME_OK)
		i->taken++;
	else
		count_refused(i, error, 1);
	*reply = (struct reply){ .client = c, .error = error, .seq = seq };
	if (f && f->id) {
		reply->has_id = true;
		reply->id_len = f->id_len;
		r = keep(i, f->id, f->id_len, &reply->id);
	}
	if (r == 0 && text) {
		reply->text_len = strlen(text) + 1;
		r = keep(i, text, reply->text_len, &reply->text);
	}
	if (r < 0) {
		i->n_replies--;
		give_up_replies(c);
		return;
	}
	c->pending++;
}

static const char *storage_text(int r)
{
	switch (r) {
	case -ENOSPC:
	case -EDQUOT: return "no space left on the queue's disk; nothing of this line was kept";
	case -EMSGSIZE: return "message is too large for the database";
	case -EROFS: return "the queue's disk is read-only; nothing of this line was kept";
	default: return "the queue could not be written; nothing of this line was kept";
	}
}

static void handle_line(struct ingest *i, struct client *c, const char *line, size_t len)
{
	enum frame_error error;
	const char *text = NULL;
	struct frame frame;
	uint64_t seq = 0;
	int r;

	i->lines++;
	error = frame_json_parse(
		i->frames, line, len, i->params.default_qos, now_epoch_msec(), &frame);
	if (error != FRAME_OK) {
		add_reply(i, c, &frame, error, frame.error_text, 0);
		return;
	}
	/* Counts whatever comes of it: `commit` ends what the first `append` began. */
	i->appended++;
	r = i->callbacks.append(i->userdata, &frame.message, &seq, &text);
	if (r == -ENOBUFS) {
		add_reply(i, c, &frame, FRAME_QUEUE_FULL, text, 0);
		return;
	}
	if (r == -EMSGSIZE || r == -EINVAL) {
		add_reply(i, c, &frame, FRAME_STORAGE, storage_text(r), 0);
		return;
	}
	if (r < 0)
		i->failed = r;
	add_reply(i, c, &frame, FRAME_OK, NULL, seq);
}

static bool is_too_large(const struct ingest *i, const char *line, size_t len)
{
	if (len > 0 && line[len - 1] == '\r')
		len--;
	return len > i->params.max_message_bytes;
}

static void refuse_too_large(struct ingest *i, struct client *c)
{
	char text[120];

	snprintf(text, sizeof(text), "line is longer than socket.max_message_bytes, %zu bytes",
		i->params.max_message_bytes);
	i->lines++;
	add_reply(i, c, NULL, FRAME_TOO_LARGE, text, 0);
	client_stop_reading(c);
	c->last = true;
}

/* Handles what this client has, as far as the turn has room. True when it has more to read. */
static bool serve(struct ingest *i, struct client *c)
{
	size_t before = buffer_len(&c->in), len;
	bool more_to_read = false;
	const char *line;

	if (c->readable && !c->eof && !c->more)
		more_to_read = client_read(c);
	i->bytes += buffer_len(&c->in) - before;
	/* In this order: a full turn must still find out that lines are left. */
	while (client_line(c, &line, &len) && !turn_is_full(i)) {
		if (is_too_large(i, line, len)) {
			refuse_too_large(i, c);
			return false;
		}
		if (!frame_json_is_blank(line, len))
			handle_line(i, c, line, len);
		client_consume(c, len);
	}
	/* A line that has no end yet, and is too long already. A full turn leaves it to the next.
	 */
	if (!c->more && buffer_len(&c->in) > i->params.max_message_bytes + 1) {
		if (turn_is_full(i))
			c->more = true;
		else
			refuse_too_large(i, c);
	}
	return more_to_read && !c->last;
}

/* --- the end of a turn ----------------------------------------------------------------------- */

static int write_reply(struct ingest *i, const struct reply *reply)
{
	const char *id = reply->has_id ? buffer_head(&i->texts) + reply->id : NULL;
	struct buffer *out = &reply->client->out;

	if (reply->client->deaf)
		return 0;
	if (reply->error != FRAME_OK)
		return frame_json_reply_error(
			out, id, reply->id_len, reply->error, buffer_head(&i->texts) + reply->text);
	if (i->failed < 0)
		return frame_json_reply_error(
			out, id, reply->id_len, FRAME_STORAGE, storage_text(i->failed));
	if (!reply->has_id)
		return 0;
	return frame_json_reply_queued(out, id, reply->id_len, reply->seq);
}

static void write_replies(struct ingest *i)
{
	for (size_t n = 0; n < i->n_replies; n++) {
		struct client *c = i->replies[n].client;

		if (write_reply(i, &i->replies[n]) < 0)
			give_up_replies(c);
		c->pending--;
		touch(i, c);
	}
	i->n_replies = 0;
	buffer_consume(&i->texts, buffer_len(&i->texts));
}

/* Clients that waited for memory may try again. */
static void wake_waiting(struct ingest *i)
{
	if (i->pool.waiting == 0 || !client_pool_has_room(&i->pool))
		return;
	for (struct client *c = i->clients; c; c = c->next) {
		if (!c->waiting)
			continue;
		c->waiting = false;
		i->pool.waiting--;
		touch(i, c);
	}
}

static void look_after(struct ingest *i, struct client *c)
{
	client_flush(c);
	if (client_is_done(c) && !c->is_ready) {
		drop(i, c);
		return;
	}
	/* One that does not read its replies is not read from. */
	if (c->more && buffer_len(&c->out) == 0)
		push_ready(i, c);
	if (client_settle(c) < 0) {
		log_warning("cannot watch a client; its connection is closed");
		give_up_replies(c);
		push_ready(i, c); /* the next turn finds it done */
	}
}

static void look_after_touched(struct ingest *i)
{
	while (i->touched) {
		struct client *c = i->touched;

		i->touched = c->next_touched;
		c->is_touched = false;
		look_after(i, c);
		if (!i->touched)
			wake_waiting(i);
	}
}

static void commit_turn(struct ingest *i)
{
	timer_off(i->delay);
	if (i->appended > 0 || i->failed < 0) {
		int r = i->callbacks.commit(i->userdata);

		if (r < 0 && i->failed == 0)
			i->failed = r;
	}
	if (i->failed < 0)
		count_refused(i, FRAME_STORAGE, i->taken);
	write_replies(i);
	i->lines = i->bytes = i->appended = i->taken = 0;
	i->failed = 0;
}

static bool may_wait(const struct ingest *i)
{
	return i->params.commit_delay_usec > 0 && !i->hurry && i->appended > 0 && !turn_is_full(i);
}

/* The delay counts from the first line on. */
static void wait_for_more(struct ingest *i)
{
	if (!timer_is_set(i->delay))
		timer_set(i->delay, i->params.commit_delay_usec);
}

static void finish_turn(struct ingest *i)
{
	if (may_wait(i))
		wait_for_more(i);
	else
		commit_turn(i);
	look_after_touched(i);
	sd_event_source_set_enabled(i->again, i->ready ? SD_EVENT_ON : SD_EVENT_OFF);
}

void ingest_commit(struct ingest *i)
{
	commit_turn(i);
	look_after_touched(i);
	sd_event_source_set_enabled(i->again, i->ready ? SD_EVENT_ON : SD_EVENT_OFF);
}

void ingest_set_params(struct ingest *i, const struct ingest_params *params)
{
	i->params = *params;
	client_pool_set(&i->pool, params->max_message_bytes, params->max_buffered_bytes);
	for (struct client *c = i->clients; c; c = c->next)
		client_pool_changed(c);
	wake_waiting(i);
	ingest_commit(i);
}

static int on_delay(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	ingest_commit(userdata);
	return 0;
}

/* --- a turn ---------------------------------------------------------------------------------- */

static void poll_clients(struct ingest *i)
{
	struct epoll_event events[TURN_EVENTS];
	int n;

	n = epoll_wait(i->epoll_fd, events, TURN_EVENTS, 0);
	for (int k = 0; k < n; k++) {
		struct client *c = events[k].data.ptr;

		touch(i, c);
		if (buffer_len(&c->out) > 0)
			continue; /* writable; look_after() flushes */
		c->readable = true;
		push_ready(i, c);
	}
}

static void turn(struct ingest *i)
{
	bool again = true;

	while (again && !turn_is_full(i)) {
		struct client *c;

		again = false;
		poll_clients(i);
		while (!turn_is_full(i) && (c = pop_ready(i))) {
			/* One that does not read its replies is not read from: see look_after(). */
			if (buffer_len(&c->out) > 0)
				continue;
			if (serve(i, c))
				again = true;
			else if (c->more)
				push_ready(i, c);
		}
	}
	finish_turn(i);
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	(void)s;
	(void)fd;
	(void)events;
	turn(userdata);
	return 0;
}

static int on_again(sd_event_source *s, void *userdata)
{
	(void)s;
	turn(userdata);
	return 0;
}

/* --- new clients ----------------------------------------------------------------------------- */

/* A program that does not give up must not fill the journal. */
static void tell_refusal(struct flap *flap, int error, const char *text)
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
	log_event(EVENT_CLIENT_REFUSED, &fields, "%s%s", text, more);
}

static void refuse_client(struct ingest *i, int fd)
{
	struct buffer out = { 0 };
	char text[80], line[120];

	count_refused(i, FRAME_TOO_MANY_CLIENTS, 1);
	snprintf(
		text, sizeof(text), "socket.max_clients, %u, are connected", i->params.max_clients);
	snprintf(line, sizeof(line), "a client is refused: %s", text);
	tell_refusal(&i->refusals, 0, line);
	if (frame_json_reply_error(&out, NULL, 0, FRAME_TOO_MANY_CLIENTS, text) == 0)
		(void)send(fd, buffer_head(&out), buffer_len(&out), MSG_DONTWAIT | MSG_NOSIGNAL);
	buffer_clear(&out);
	close(fd);
}

static void add_client(struct ingest *i, int fd)
{
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
}

/* Out of descriptors or memory: those who wait to connect wait a little longer. */
static void pause_listening(struct ingest *i, int error)
{
	char line[200];

	snprintf(line, sizeof(line), "cannot accept a client: %s; trying again in a second",
		strerrordesc_np(error));
	tell_refusal(&i->pauses, error, line);
	sd_event_source_set_enabled(i->listen, SD_EVENT_OFF);
	timer_set(i->resume, ACCEPT_PAUSE_USEC);
}

static int on_resume(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct ingest *i = userdata;

	(void)s;
	(void)usec;
	return sd_event_source_set_enabled(i->listen, SD_EVENT_ON);
}

static int on_listen(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct ingest *i = userdata;

	(void)s;
	(void)events;
	for (int n = 0; n < TURN_ACCEPT; n++) {
		int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (client >= 0) {
			add_client(i, client);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_listening(i, errno);
		break;
	}
	return 0;
}

/* --- the room -------------------------------------------------------------------------------- */

static int setup(struct ingest *i)
{
	int r;

	r = frame_json_new(&i->frames);
	if (r < 0)
		return r;
	i->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (i->epoll_fd < 0)
		return -errno;
	r = sd_event_add_io(i->event, &i->listen, i->listen_fd, EPOLLIN, on_listen, i);
	if (r < 0)
		return r;
	r = timer_new(&i->resume, i->event, CLOCK_MONOTONIC, 0, on_resume, i);
	if (r < 0)
		return r;
	r = timer_new(&i->delay, i->event, CLOCK_MONOTONIC, DELAY_ACCURACY_USEC, on_delay, i);
	if (r < 0)
		return r;
	r = sd_event_add_io(i->event, &i->io, i->epoll_fd, EPOLLIN, on_io, i);
	if (r < 0)
		return r;
	r = sd_event_add_defer(i->event, &i->again, on_again, i);
	if (r < 0)
		return r;
	/* sd-event never lets go of a defer source that stays enabled: at the same priority it
	 * would come before signals, the mailbox and new clients for ever. */
	r = sd_event_source_set_priority(i->again, SD_EVENT_PRIORITY_NORMAL + 10);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(i->again, SD_EVENT_OFF);
}

int ingest_new(struct ingest **ret, sd_event *event, int listen_fd,
	const struct ingest_params *params, const struct ingest_callbacks *callbacks,
	void *userdata)
{
	struct ingest *i;
	int r;

	i = calloc(1, sizeof(*i));
	if (!i)
		return -ENOMEM;
	i->event = sd_event_ref(event);
	i->listen_fd = listen_fd;
	i->epoll_fd = -1;
	i->params = *params;
	i->callbacks = *callbacks;
	i->userdata = userdata;
	i->ready_tail = &i->ready;
	name_refused(i);
	client_pool_init(&i->pool, params->max_message_bytes, params->max_buffered_bytes);
	r = setup(i);
	if (r < 0) {
		ingest_free(i);
		return r;
	}
	*ret = i;
	return 0;
}

struct ingest *ingest_free(struct ingest *i)
{
	if (!i)
		return NULL;
	while (i->clients)
		drop(i, i->clients);
	i->listen = sd_event_source_disable_unref(i->listen);
	i->resume = sd_event_source_disable_unref(i->resume);
	i->io = sd_event_source_disable_unref(i->io);
	i->again = sd_event_source_disable_unref(i->again);
	i->delay = sd_event_source_disable_unref(i->delay);
	closep(&i->epoll_fd);
	i->frames = frame_json_free(i->frames);
	buffer_clear(&i->texts);
	sd_event_unref(i->event);
	free(i);
	return NULL;
}

/* Every complete line that was read gets its answer, whether its sender reads answers or not. */
static void answer_what_was_read(struct ingest *i)
{
	for (struct client *c = i->clients; c; c = c->next) {
		c->readable = false;
		if (c->more)
			push_ready(i, c);
	}
	while (i->ready) {
		struct client *c;

		while (!turn_is_full(i) && (c = pop_ready(i))) {
			(void)serve(i, c);
			if (c->more)
				push_ready(i, c);
		}
		finish_turn(i);
	}
}

void ingest_stop(struct ingest *i)
{
	sd_event_source_set_enabled(i->listen, SD_EVENT_OFF);
	timer_off(i->resume);
	i->hurry = true;
	answer_what_was_read(i);
	ingest_commit(i);
	for (struct client *c = i->clients; c; c = c->next) {
		if (!c->deaf && !c->last) {
			count_refused(i, FRAME_STOPPING, 1);
			if (frame_json_reply_error(&c->out, NULL, 0, FRAME_STOPPING,
				    "the gateway stops; lines without a reply were not accepted, "
				    "send them again") < 0)
				c->deaf = true;
		}
		client_stop_reading(c);
		c->last = true;
		touch(i, c);
	}
	look_after_touched(i);
}

unsigned ingest_clients(const struct ingest *i)
{
	return i->n_clients;
}
