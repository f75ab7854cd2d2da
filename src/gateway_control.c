/* SPDX-License-Identifier: MIT */
/*
 * The operator's socket: what its commands do here.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#include "config-build.h"
#include "gateway_internal.h"
#include "log.h"

static void get_figures(void *userdata, struct figures *ret)
{
	gateway_get_figures(userdata, ret);
}

static void get_facts(void *userdata, struct control_facts *ret)
{
	const struct gateway *g = userdata;

	*ret = (struct control_facts){
		.version = PACKAGE_VERSION,
		.gateway = g->config->gateway.id,
		.instance = g->instance,
		.socket_path = g->config->socket.path,
		.queue_path = g->config->queue.path,
		.restart_needed = g->restart_needed,
	};
}

static void reconnect(void *userdata)
{
	struct gateway *g = userdata;

	log_notice("an operator asks for a connection now");
	mailbox_post_reconnect(g->mailbox);
}

static int may_read(void *userdata)
{
	const struct gateway *g = userdata;

	return store_may_read(g->store);
}

/* As when the uplink comes across it. */
static void rotten(void *userdata)
{
	struct gateway *g = userdata;

	mailbox_post_rotten(g->mailbox);
}

static int purge(void *userdata, struct selection *sel)
{
	struct gateway *g = userdata;

	return store_purge(g->store, sel);
}

static int purge_dead(void *userdata, struct selection *sel)
{
	struct gateway *g = userdata;

	return store_purge_dead(g->store, sel);
}

static int requeue(void *userdata, struct selection *sel, const char **ret_text)
{
	struct gateway *g = userdata;

	return store_requeue(g->store, sel, ret_text);
}

static const struct control_callbacks callbacks = {
	.figures = get_figures,
	.facts = get_facts,
	.reconnect = reconnect,
	.may_read = may_read,
	.rotten = rotten,
	.purge = purge,
	.purge_dead = purge_dead,
	.requeue = requeue,
};

static int open_at(struct gateway *g, const char *path, struct listener *ret_listener,
	struct control **ret_control)
{
	struct control *control = NULL;
	struct listener listener;
	int r;

	r = listener_make(&listener, path, 0660, NULL);
	if (r < 0)
		return r;
	r = control_new(&control, g->event, listener.fd, g->alerts, &callbacks, g);
	if (r < 0) {
		listener_close(&listener);
		return r;
	}
	*ret_listener = listener;
	*ret_control = control;
	return 0;
}

static const char *advice(int error)
{
	return error == -ENOENT	   ? "Make its directory"
		: error == -EACCES ? "Let the daemon's user write to its directory"
				   : "Give it another place with control.path";
}

static int name_instance(struct gateway *g)
{
	unsigned char bits[16];

	if (getrandom(bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		return -EIO;
	for (size_t i = 0; i < sizeof(bits); i++)
		snprintf(g->instance + 2 * i, 3, "%02x", bits[i]);
	return 0;
}

/* Messages come first: without this socket they are taken and sent as well. */
int gateway_open_control(struct gateway *g)
{
	const char *path = g->config->control.path;
	int r;

	r = name_instance(g);
	if (r < 0) {
		log_error("no random bits for the name of this process: %s", strerrordesc_np(-r));
		return r;
	}
	r = open_at(g, path, &g->control_listener, &g->control);
	if (r < 0)
		log_error("%s: no socket for operators: mqttgwctl and mqttgw-report cannot ask "
			  "this daemon anything. %s, then restart it. Messages are accepted",
			path, advice(r));
	return 0;
}

int gateway_move_control(struct gateway *g)
{
	const char *path = g->config->control.path;
	struct listener listener;
	struct control *control;
	int r;

	r = open_at(g, path, &listener, &control);
	if (r < 0) {
		log_error(
			"%s: cannot be control.path: %s. %s", path, strerrordesc_np(-r), advice(r));
		return r;
	}
	gateway_close_control(g);
	g->control_listener = listener;
	g->control = control;
	return 0;
}

void gateway_close_control(struct gateway *g)
{
	g->control = control_free(g->control);
	listener_close(&g->control_listener);
}
