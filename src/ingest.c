/* SPDX-License-Identifier: MIT */
/*
 * Ingest: see ingest.h.
 *
 * Clients hang on an epoll descriptor of their own, which is one source of the gateway's loop: so
 * one dispatch is one turn, with one commit. Replies are put together while lines are read, in
 * their order, and written only when the commit has said what they must be. A client whose lines
 * wait for it is kept until then, though it may have hung up.
 *
 * Fairness: clients with something to handle stand in a first-in, first-out list, and each has its
 * share of the turn's lines; one that is not through with it goes on behind the others.
 *
 * Must not know: SQL, brokers.
 */
#include "ingest.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "ingest_internal.h"
#include "log.h"
#include "timer.h"

/* Bounds of one turn, besides its lines. */
#define TURN_BYTES  (1024 * 1024)
#define TURN_EVENTS 256
/* Lines of one client, before it is the next one's turn. */
#define LEAST_SHARE 32

#define DELAY_ACCURACY_USEC (1 * USEC_PER_MSEC)

/* --- lists ----------------------------------------------------------------------------------- */

void ingest_touch(struct ingest *i, struct client *c)
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
	i->n_ready++;
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
	i->n_ready--;
	ingest_touch(i, c);
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
	/* There is a descriptor again. */
	if (timer_is_set(i->resume))
		timer_set(i->resume, 0);
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

void ingest_give_up_replies(struct client *c)
{
	client_stop_reading(c);
	c->last = c->deaf = true;
}

/* By the error's number, but for FRAME_OK. */
void ingest_count_refused(struct ingest *i, enum frame_error error, uint64_t n)
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
		ingest_count_refused(i, error, 1);
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
		ingest_give_up_replies(c);
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
	error = frame_json_parse(i->frames, line, len, i->params.default_qos, i->read_msec, &frame);
	if (error != FRAME_OK) {
		add_reply(i, c, &frame, error, frame.error_text, 0);
		return;
	}
	text = ingest_access_refuses(i, c, &frame.message);
	if (text) {
		add_reply(i, c, &frame, FRAME_NOT_ALLOWED, text, 0);
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

/* What is left of a turn is shared among those who have something for it. */
static size_t share(const struct ingest *i)
{
	size_t left = TURN_LINES - size_min(i->lines, TURN_LINES), each = left / (i->n_ready + 1);

	return i->lines + (each < LEAST_SHARE ? LEAST_SHARE : each);
}

/* Handles what this client has, as far as the turn has room. True when it has more to read. */
static bool serve(struct ingest *i, struct client *c)
{
	size_t before = buffer_len(&c->in), len, most = share(i);
	bool more_to_read = false;
	const char *line;

	if (c->held)
		return false;
	if (c->readable && !c->eof && !c->more)
		more_to_read = client_read(c);
	i->bytes += buffer_len(&c->in) - before;
	i->read_msec = now_epoch_msec();
	/* In this order: a full turn must still find out that lines are left. */
	while (client_line(c, &line, &len) && !turn_is_full(i) && i->lines < most) {
		if (is_too_large(i, line, len)) {
			refuse_too_large(i, c);
			return false;
		}
		if (ingest_limits_hold(i, c, len))
			return false;
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
			ingest_give_up_replies(c);
		c->pending--;
		ingest_limits_answered(c);
		ingest_touch(i, c);
	}
	i->n_replies = 0;
	buffer_consume(&i->texts, buffer_len(&i->texts));
}

void ingest_wake_waiting(struct ingest *i)
{
	for (struct client *c = i->clients; c; c = c->next) {
		if (!c->waiting)
			continue;
		c->waiting = false;
		i->pool.waiting--;
		ingest_touch(i, c);
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
	if (c->more && !c->held && buffer_len(&c->out) == 0)
		push_ready(i, c);
	if (client_settle(c) < 0) {
		log_warning("cannot watch a client; its connection is closed");
		ingest_give_up_replies(c);
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
		if (!i->touched && i->pool.waiting > 0 && client_pool_has_room(&i->pool))
			ingest_wake_waiting(i);
	}
}

void ingest_finish(struct ingest *i)
{
	look_after_touched(i);
	ingest_limits_watch(i);
	sd_event_source_set_enabled(i->again, i->ready ? SD_EVENT_ON : SD_EVENT_OFF);
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
		ingest_count_refused(i, FRAME_STORAGE, i->taken);
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
	ingest_finish(i);
}

void ingest_commit(struct ingest *i)
{
	commit_turn(i);
	ingest_finish(i);
}

void ingest_dismiss(struct ingest *i, struct client *c, enum frame_error error, const char *text)
{
	if (c->pending > 0)
		commit_turn(i);
	ingest_count_refused(i, error, 1);
	client_stop_reading(c);
	c->last = true;
	if (frame_json_reply_error(&c->out, NULL, 0, error, text) < 0)
		ingest_give_up_replies(c);
	ingest_touch(i, c);
}

void ingest_set_params(struct ingest *i, const struct ingest_params *params)
{
	i->params = *params;
	client_pool_set(&i->pool, params->max_message_bytes, params->max_buffered_bytes);
	for (struct client *c = i->clients; c; c = c->next) {
		client_pool_changed(c);
		ingest_access_admit(i, c);
	}
	ingest_limits_changed(i);
	ingest_wake_waiting(i);
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

		ingest_touch(i, c);
		if (buffer_len(&c->out) > 0)
			continue; /* writable; look_after() flushes */
		c->readable = true;
		push_ready(i, c);
	}
}

void ingest_turn(struct ingest *i)
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
			/* It has had its share: the others first. */
			if (c->more && !c->held)
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
	ingest_turn(userdata);
	return 0;
}

static int on_again(sd_event_source *s, void *userdata)
{
	(void)s;
	ingest_turn(userdata);
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
	r = sd_event_add_io(i->event, &i->listen, i->listen_fd, EPOLLIN, ingest_on_listen, i);
	if (r < 0)
		return r;
	r = timer_new(&i->resume, i->event, CLOCK_MONOTONIC, 0, ingest_on_resume, i);
	if (r < 0)
		return r;
	r = timer_new(&i->delay, i->event, CLOCK_MONOTONIC, DELAY_ACCURACY_USEC, on_delay, i);
	if (r < 0)
		return r;
	r = ingest_limits_open(i);
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
	ingest_limits_close(i);
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
		c->held = 0;
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
	timer_off(i->release);
	timer_off(i->stalled);
	i->hurry = true;
	answer_what_was_read(i);
	ingest_commit(i);
	for (struct client *c = i->clients; c; c = c->next) {
		if (!c->deaf && !c->last) {
			ingest_count_refused(i, FRAME_STOPPING, 1);
			if (frame_json_reply_error(&c->out, NULL, 0, FRAME_STOPPING,
				    "the gateway stops; lines without a reply were not accepted, "
				    "send them again") < 0)
				c->deaf = true;
		}
		client_stop_reading(c);
		c->last = true;
		ingest_touch(i, c);
	}
	look_after_touched(i);
}

unsigned ingest_clients(const struct ingest *i)
{
	return i->n_clients;
}
