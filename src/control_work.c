/* SPDX-License-Identifier: MIT */
/*
 * Commands that take many steps: going over rows, changing them, and events, which never end.
 *
 * Invariant: the connection for reading is there only while a client goes over rows, and is given
 * up before anybody moves the database away.
 */
#include <errno.h>
#include <stdio.h>

#include "control_internal.h"
#include "log.h"

/* What a step of reading may have ready for its client. */
#define STEP_OUT_BYTES 65536

/* --- the connection for reading -------------------------------------------------------------- */

static int open_reader(struct control *c)
{
	struct control_facts facts;
	int r;

	r = c->callbacks.may_read(c->userdata);
	if (r < 0 || c->reader)
		return r;
	c->callbacks.facts(c->userdata, &facts);
	return queue_reader_new(&c->reader, facts.queue_path);
}

static bool goes_over_rows(const struct control_client *k)
{
	switch (k->request.command) {
	case CONTROL_QUEUE_LIST:
	case CONTROL_QUEUE_EXPORT:
	case CONTROL_DEAD_LIST:
	case CONTROL_DEAD_EXPORT: return k->working;
	default: return false;
	}
}

static void close_unused_reader(struct control *c)
{
	for (size_t i = 0; i < c->n_clients; i++)
		if (goes_over_rows(c->clients[i]))
			return;
	c->reader = queue_reader_free(c->reader);
}

static int put_storage_error(struct control_client *k, int error)
{
	char text[CONTROL_TEXT_MAX];

	if (error == -ENOMEM)
		return error;
	if (error == -EUCLEAN)
		k->control->callbacks.rotten(k->control->userdata);
	if (error == -EINPROGRESS)
		return control_put_error(&k->out, CONTROL_BUSY,
			"the database is being set aside; try again in a moment");
	snprintf(text, sizeof(text), "the queue's database: %s", strerrordesc_np(-error));
	return control_put_error(&k->out, CONTROL_STORAGE, text);
}

/* --- rows ------------------------------------------------------------------------------------ */

struct walk {
	struct control_client *k;
	size_t bytes; /* read in this step */
};

static json_t *row_of(
	const struct control_client *k, const struct message *m, const struct control_death *death)
{
	switch (k->request.command) {
	case CONTROL_QUEUE_LIST:
	case CONTROL_DEAD_LIST: return control_row_short(m, death);
	case CONTROL_QUEUE_SHOW:
	case CONTROL_DEAD_SHOW: return control_row_whole(m, death);
	default: return control_row_line(m);
	}
}

/* 0 go on, 1 stop before this row, -ENOMEM. */
static int take_row(struct walk *w, const struct message *m, const struct control_death *death)
{
	struct control_client *k = w->k;

	if (k->left == 0 || w->bytes >= SELECTION_STEP_BYTES ||
		buffer_len(&k->out) >= STEP_OUT_BYTES)
		return 1;
	w->bytes += message_size(m);
	k->selection.after = m->id;
	if (!selection_has(&k->selection, m->topic, m->topic_len))
		return 0;
	k->left--;
	k->sent++;
	return control_put(&k->out, row_of(k, m, death));
}

static int on_row(void *userdata, const struct message *m)
{
	return take_row(userdata, m, NULL);
}

static int on_dead_row(void *userdata, const struct message *m, const char *reason, int64_t died_at)
{
	const struct control_death death = { .reason = reason, .died_at = died_at };

	return take_row(userdata, m, &death);
}

static bool is_about_dead(const struct control_client *k)
{
	switch (k->request.command) {
	case CONTROL_DEAD_LIST:
	case CONTROL_DEAD_EXPORT:
	case CONTROL_DEAD_SHOW: return true;
	default: return false;
	}
}

/* 1: there are more rows; 0: there are not; -errno. */
static int read_rows(struct control_client *k)
{
	struct walk w = { .k = k };
	int r;

	r = open_reader(k->control);
	if (r < 0)
		return r;
	if (is_about_dead(k))
		return queue_reader_dead_rows(k->control->reader, k->selection.after,
			k->selection.upto, SELECTION_STEP_ROWS, on_dead_row, &w);
	return queue_reader_rows(k->control->reader, k->selection.after, k->selection.upto,
		SELECTION_STEP_ROWS, on_row, &w);
}

static int finish_rows(struct control_client *k)
{
	int r = control_put(
		&k->out, json_pack("{sssI}", "status", "ok", "count", (json_int_t)k->sent));

	control_end_work(k);
	return r;
}

static int step_rows(struct control_client *k)
{
	int r = read_rows(k);

	if (r < 0) {
		r = put_storage_error(k, r);
		control_end_work(k);
		return r;
	}
	return r == 0 || k->left == 0 ? finish_rows(k) : 0;
}

int control_show(struct control_client *k)
{
	int r;

	k->selection = (struct selection){ .after = k->request.seq - 1, .upto = k->request.seq };
	k->left = 1;
	r = read_rows(k);
	if (r < 0)
		r = put_storage_error(k, r);
	else if (k->left == 1)
		r = control_put_error(&k->out, CONTROL_NOT_FOUND,
			is_about_dead(k) ? "no dead letter has this number"
					 : "no message in the queue has this number");
	else
		r = 0;
	close_unused_reader(k->control);
	return r;
}

/* --- changes --------------------------------------------------------------------------------- */

static bool is_change(const struct control_client *k)
{
	switch (k->request.command) {
	case CONTROL_QUEUE_PURGE:
	case CONTROL_DEAD_PURGE:
	case CONTROL_DEAD_REQUEUE: return true;
	default: return false;
	}
}

static int change(struct control_client *k, const char **ret_text)
{
	const struct control_callbacks *cb = &k->control->callbacks;
	void *userdata = k->control->userdata;

	switch (k->request.command) {
	case CONTROL_QUEUE_PURGE: return cb->purge(userdata, &k->selection);
	case CONTROL_DEAD_PURGE: return cb->purge_dead(userdata, &k->selection);
	default: return cb->requeue(userdata, &k->selection, ret_text);
	}
}

static int put_changed(struct control_client *k)
{
	const struct selection *sel = &k->selection;

	if (k->request.seq != CONTROL_NONE && sel->count == 0)
		return control_put_error(
			&k->out, CONTROL_NOT_FOUND, "no dead letter has this number");
	if (k->request.command == CONTROL_QUEUE_PURGE)
		return control_put(&k->out,
			json_pack("{sssIsI}", "status", "ok", "count", (json_int_t)sel->count,
				"kept", (json_int_t)sel->kept));
	return control_put(
		&k->out, json_pack("{sssI}", "status", "ok", "count", (json_int_t)sel->count));
}

static int put_broken_off(struct control_client *k, int error, const char *why)
{
	enum control_error word = error == -ENOBUFS ? CONTROL_FAILED
		: error == -EINPROGRESS		    ? CONTROL_BUSY
						    : CONTROL_STORAGE;
	char text[2 * CONTROL_TEXT_MAX];

	if (error == -EINPROGRESS)
		why = "the database is being set aside; try again in a moment";
	else if (error != -ENOBUFS)
		why = strerrordesc_np(-error);
	snprintf(text, sizeof(text), "%s; done before that: %llu messages", why,
		(unsigned long long)k->selection.count);
	return control_put_error(&k->out, word, text);
}

static int step_change(struct control_client *k)
{
	const char *text = "";
	int r = change(k, &text);

	/* It may have been ended meanwhile, by damage that came to light. */
	if (r > 0 || !k->working)
		return 0;
	r = r == 0 ? put_changed(k) : put_broken_off(k, r, text);
	control_end_work(k);
	return r;
}

/* One line for each, also when it was broken off. */
static void log_change(const struct control_client *k)
{
	const struct selection *sel = &k->selection;
	char user[32] = "an unknown user", which[64] = "any topic";

	if (k->uid != (uid_t)-1)
		snprintf(user, sizeof(user), "user %u", (unsigned)k->uid);
	if (k->request.seq != CONTROL_NONE)
		snprintf(which, sizeof(which), "number %llu", (unsigned long long)k->request.seq);
	log_notice("%s by %s, %s%s: %llu messages; %llu were being delivered and stay",
		control_command_to_string(k->request.command), user,
		k->request.topic ? "topic " : "", k->request.topic ? k->request.topic : which,
		(unsigned long long)sel->count, (unsigned long long)sel->kept);
}

/* --- events ---------------------------------------------------------------------------------- */

static int say_hello(struct control_client *k)
{
	struct control_facts facts;

	k->control->callbacks.facts(k->control->userdata, &facts);
	return control_put(&k->out,
		json_pack("{sssssIssss}", "status", "event", "kind", "hello", "seq",
			(json_int_t)alerts_last(k->control->alerts), "instance", facts.instance,
			"gateway", facts.gateway));
}

/* A number that was not given yet is of another process: all there are. */
static uint64_t first_event(const struct control_client *k)
{
	uint64_t last = alerts_last(k->control->alerts);

	if (k->request.since == CONTROL_NONE)
		return last;
	return k->request.since > last ? 0 : k->request.since;
}

static int put_event(struct control_client *k, const struct alert *a)
{
	char time[32];

	control_time(a->time_msec, time);
	return control_put(&k->out,
		json_pack("{sssIsssssisoso}", "status", "event", "seq", (json_int_t)a->seq, "time",
			time, "kind", alert_kind_to_string(a->kind), "count", (int)a->count,
			"broker", a->broker[0] ? json_string(a->broker) : json_null(), "message",
			json_string(a->text)));
}

static int step_events(struct control_client *k)
{
	const struct alert *a;
	uint64_t lost;
	int r = 0;

	while (r == 0 && buffer_len(&k->out) < STEP_OUT_BYTES &&
		(a = alerts_next(k->control->alerts, k->sent, &lost))) {
		if (lost > 0)
			r = control_put(&k->out,
				json_pack("{sssssI}", "status", "event", "kind", "lost", "count",
					(json_int_t)lost));
		if (r == 0)
			r = put_event(k, a);
		k->sent = a->seq;
	}
	return r;
}

/* --- all of them ----------------------------------------------------------------------------- */

int control_begin_work(struct control_client *k)
{
	k->working = true;
	k->left = k->request.limit;
	k->sent = 0;
	k->selection = (struct selection){
		.filter = k->request.topic,
		.after = k->request.after,
		.upto = UINT64_MAX,
	};
	if (k->request.seq != CONTROL_NONE) {
		k->selection.after = k->request.seq - 1;
		k->selection.upto = k->request.seq;
	}
	if (k->request.command != CONTROL_EVENTS)
		return 0;
	k->sent = first_event(k);
	return say_hello(k);
}

bool control_is_ready(const struct control_client *k)
{
	uint64_t lost;

	if (!k->working || k->gone || buffer_len(&k->out) > 0)
		return false;
	return k->request.command != CONTROL_EVENTS ||
		alerts_next(k->control->alerts, k->sent, &lost);
}

int control_step(struct control_client *k)
{
	if (k->request.command == CONTROL_EVENTS)
		return step_events(k);
	return is_change(k) ? step_change(k) : step_rows(k);
}

void control_end_work(struct control_client *k)
{
	if (is_change(k))
		log_change(k);
	k->working = false;
	control_request_clear(&k->request);
	close_unused_reader(k->control);
}
