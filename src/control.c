/* SPDX-License-Identifier: MIT */
/*
 * The operator's socket: see control.h. Owns the clients and the connection to the database they
 * share for reading.
 *
 * A client has one command under way at a time. One that takes long does a step in a turn of the
 * loop, one client after the other, and only while all that it has said before is written: so a
 * client that does not read costs a batch of rows in memory, and nobody any time.
 *
 * Steps are a timer's, with a pause between them: sd-event takes a defer source that is always on
 * before everything else of its priority, and all there is to do of it before what has a lower one.
 *
 * News from the gateway may come inside a step or a request, out of what that asks of it. So
 * nothing is freed then, but in the next turn.
 *
 * Must not know: what the commands do to the queue, SQL, the local socket's protocol.
 */
#include "control.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "control_internal.h"
#include "listener.h"
#include "log.h"
#include "timer.h"

#define TURN_ACCEPT 16
#define RESUME_USEC (1 * USEC_PER_SEC)
#define PAUSE_USEC  (1 * USEC_PER_MSEC)

/* --- work ------------------------------------------------------------------------------------ */

/* The next client, in turn, that has something to do. NULL: nobody. */
static struct control_client *next_ready(struct control *c)
{
	for (size_t i = 1; i <= c->n_clients; i++) {
		size_t at = (c->turn + i) % c->n_clients;

		if (control_is_ready(c->clients[at])) {
			c->turn = at;
			return c->clients[at];
		}
	}
	return NULL;
}

static void remove_done(struct control *c)
{
	for (size_t i = 0; i < c->n_clients;) {
		struct control_client *k = c->clients[i];

		if (!control_client_is_done(k)) {
			i++;
			continue;
		}
		c->n_clients--;
		/* NOLINTNEXTLINE(bugprone-sizeof-expression): it is pointers that are moved. */
		memmove(&c->clients[i], &c->clients[i + 1], (c->n_clients - i) * sizeof(k));
		control_client_free(k);
	}
}

static bool is_work_left(const struct control *c)
{
	for (size_t i = 0; i < c->n_clients; i++)
		if (control_is_ready(c->clients[i]))
			return true;
	return c->broken_off;
}

/* Sees to the steps that are due. */
static void schedule(struct control *c)
{
	if (!is_work_left(c)) {
		timer_off(c->work);
		return;
	}
	sd_event_source_set_time(c->work, c->work_usec);
	sd_event_source_set_enabled(c->work, SD_EVENT_ONESHOT);
}

void control_settle(struct control *c)
{
	remove_done(c);
	schedule(c);
}

static int on_work(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct control *c = userdata;
	struct control_client *k;

	(void)s;
	(void)usec;
	if (c->broken_off) {
		c->broken_off = false;
		for (size_t i = 0; i < c->n_clients; i++)
			control_client_go_on(c->clients[i]);
	}
	k = next_ready(c);
	if (k) {
		if (control_step(k) < 0)
			k->gone = true;
		control_client_go_on(k);
		c->work_usec = now_usec() + PAUSE_USEC;
	}
	control_settle(c);
	return 0;
}

/* --- listening ------------------------------------------------------------------------------- */

static void refuse(int fd)
{
	struct buffer out = { 0 };

	if (control_put_error(&out, CONTROL_TOO_MANY_CLIENTS,
		    "32 programs are connected to the operator's socket already") == 0)
		(void)send(fd, buffer_head(&out), buffer_len(&out), MSG_DONTWAIT | MSG_NOSIGNAL);
	buffer_clear(&out);
	close(fd);
}

static void add_client(void *userdata, int fd)
{
	struct control *c = userdata;
	struct control_client *k;

	remove_done(c);
	if (c->n_clients == CONTROL_CLIENTS_MAX) {
		refuse(fd);
		return;
	}
	if (control_client_new(&k, c, fd) < 0) {
		close(fd);
		return;
	}
	c->clients[c->n_clients++] = k;
}

static int on_resume(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct control *c = userdata;

	(void)s;
	(void)usec;
	return sd_event_source_set_enabled(c->listen, SD_EVENT_ON);
}

/* Without descriptors: the waiting client would wake the loop again at once. */
static void pause_listening(struct control *c, int error)
{
	log_warning("control socket: cannot accept a client: %s", strerrordesc_np(error));
	sd_event_source_set_enabled(c->listen, SD_EVENT_OFF);
	timer_set(c->resume, RESUME_USEC);
}

static int on_listen(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct control *c = userdata;
	int r;

	(void)s;
	(void)events;
	r = listener_accept(fd, TURN_ACCEPT, add_client, c);
	if (r < 0)
		pause_listening(c, -r);
	return 0;
}

/* --- news from the gateway ------------------------------------------------------------------- */

void control_alerted(struct control *c)
{
	if (c)
		schedule(c);
}

/* What else their clients have asked for is looked at in the next turn. */
static void break_off(
	struct control *c, struct control_client *k, enum control_error error, const char *text)
{
	control_client_fail(k, error, text);
	c->broken_off = true;
}

static bool uses_queue(const struct control_client *k)
{
	return k->working && k->request.command != CONTROL_EVENTS;
}

void control_release_queue(struct control *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_clients; i++)
		if (uses_queue(c->clients[i]))
			break_off(c, c->clients[i], CONTROL_BUSY,
				"the database is being set aside; try again in a moment");
	c->reader = queue_reader_free(c->reader);
	schedule(c);
}

void control_stop(struct control *c)
{
	if (!c)
		return;
	c->stopping = true;
	for (size_t i = 0; i < c->n_clients; i++)
		if (c->clients[i]->working)
			break_off(c, c->clients[i], CONTROL_STOPPING, "the daemon is stopping");
	schedule(c);
}

/* --- the room -------------------------------------------------------------------------------- */

static int setup(struct control *c, int listen_fd)
{
	int r;

	r = timer_new(&c->resume, c->event, CLOCK_MONOTONIC, 0, on_resume, c);
	if (r >= 0)
		r = timer_new(&c->work, c->event, CLOCK_MONOTONIC, 1, on_work, c);
	return r < 0 ? r : sd_event_add_io(c->event, &c->listen, listen_fd, EPOLLIN, on_listen, c);
}

int control_new(struct control **ret, sd_event *event, int listen_fd, const struct alerts *alerts,
	const struct control_callbacks *callbacks, void *userdata)
{
	struct control *c;
	int r;

	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->event = sd_event_ref(event);
	c->alerts = alerts;
	c->callbacks = *callbacks;
	c->userdata = userdata;
	r = setup(c, listen_fd);
	if (r < 0) {
		control_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	while (c->n_clients > 0)
		control_client_free(c->clients[--c->n_clients]);
	queue_reader_free(c->reader);
	sd_event_source_disable_unref(c->listen);
	sd_event_source_disable_unref(c->resume);
	sd_event_source_disable_unref(c->work);
	sd_event_unref(c->event);
	free(c);
	return NULL;
}
