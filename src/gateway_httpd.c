/* SPDX-License-Identifier: MIT */
/*
 * Metrics and health by HTTP. Messages are accepted whether that can be served or not.
 */
#include <errno.h>

#include "gateway_internal.h"
#include "metrics.h"

static int write_metrics(void *userdata, struct buffer *out)
{
	struct gateway *g = userdata;
	struct figures f;

	gateway_get_figures(g, &f);
	return metrics_write(&f, out);
}

/* Healthy is who takes messages; whether the broker is there is no matter of health. */
static int write_health(void *userdata, struct buffer *out)
{
	struct gateway *g = userdata;
	struct figures_uplink uplink;
	struct store_state store;
	int r;

	if (g->phase != PHASE_RUNNING) {
		r = buffer_printf(out, "{\"status\":\"failing\",\"reason\":\"stopping\"}\n");
		return r < 0 ? r : 1;
	}
	store_get_state(g->store, &store);
	if (store.error < 0) {
		r = buffer_printf(out,
			"{\"status\":\"failing\",\"reason\":\"storage\",\"message\":\"%s\"}\n",
			strerrordesc_np(-store.error));
		return r < 0 ? r : 1;
	}
	mailbox_get_figures(g->mailbox, &uplink);
	return buffer_printf(out,
		"{\"status\":\"ok\",\"uplink\":\"%s\",\"messages\":%llu,"
		"\"dead_letters\":%llu}\n",
		uplink.state_usec ? supervisor_state_to_string(uplink.state) : "starting",
		(unsigned long long)store.messages, (unsigned long long)store.dead_letters);
}

int gateway_open_httpd(struct gateway *g)
{
	static const struct httpd_callbacks callbacks = {
		.metrics = write_metrics,
		.health = write_health,
	};
	int r;

	if (!*g->config->metrics.listen)
		return 0;
	r = httpd_new(&g->httpd, g->event, g->config->metrics.listen, &callbacks, g);
	return r == -EOPNOTSUPP ? 0 : r;
}

void gateway_close_httpd(struct gateway *g)
{
	g->httpd = httpd_free(g->httpd);
}
