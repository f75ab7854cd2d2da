/* SPDX-License-Identifier: MIT */
/*
 * What a command begins: the short ones are answered at once, the others go on in control_work.c.
 */
#include <errno.h>

#include "control_internal.h"
#include "metrics.h"

static int tell_status(struct control_client *k)
{
	struct control *c = k->control;
	struct control_facts facts;
	struct figures *f;
	int r;

	f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	c->callbacks.figures(c->userdata, f);
	c->callbacks.facts(c->userdata, &facts);
	f->stopping = f->stopping || c->stopping;
	r = control_put(&k->out, control_status(f, &facts));
	free(f);
	return r;
}

static int tell_metrics(struct control_client *k)
{
	struct control *c = k->control;
	struct buffer text = { 0 };
	struct figures *f;
	int r;

	f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	c->callbacks.figures(c->userdata, f);
	f->stopping = f->stopping || c->stopping;
	r = metrics_write(f, &text);
	free(f);
	if (r == 0)
		r = control_put(&k->out,
			json_pack("{ssss%}", "status", "ok", "text",
				buffer_len(&text) > 0 ? buffer_head(&text) : "",
				buffer_len(&text)));
	buffer_clear(&text);
	return r;
}

static int reconnect(struct control_client *k)
{
	k->control->callbacks.reconnect(k->control->userdata);
	return control_put_ok(&k->out);
}

static int carry_out(struct control_client *k)
{
	switch (k->request.command) {
	case CONTROL_STATUS: return tell_status(k);
	case CONTROL_METRICS: return tell_metrics(k);
	case CONTROL_RECONNECT: return reconnect(k);
	case CONTROL_QUEUE_SHOW:
	case CONTROL_DEAD_SHOW: return control_show(k);
	default: return control_begin_work(k);
	}
}

static bool is_answered_while_stopping(enum control_command command)
{
	return command == CONTROL_STATUS || command == CONTROL_METRICS ||
		command == CONTROL_QUEUE_SHOW || command == CONTROL_DEAD_SHOW;
}

int control_begin(struct control_client *k, struct control_request *r)
{
	int ret;

	k->request = *r;
	if (k->control->stopping && !is_answered_while_stopping(r->command))
		ret = control_put_error(&k->out, CONTROL_STOPPING, "the daemon is stopping");
	else
		ret = carry_out(k);
	if (!k->working)
		control_request_clear(&k->request);
	return ret;
}
