/* SPDX-License-Identifier: MIT */
/*
 * A new configuration while the gateway runs: whole or not at all. Owns the order in which it is
 * applied, and the change from one uplink to the next.
 *
 * What may fail comes first: reading the file, opening new listening sockets. Then nothing fails
 * any more. The uplink keeps the configuration it was started with until it has ended in order;
 * that one is freed with it, so that its thread never sees a value change.
 *
 * Must not know what a value means to the room it is for.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "event.h"
#include "gateway_internal.h"
#include "log.h"
#include "timer.h"

/* An uplink that has not left by then is hurried: it finishes what is in flight within 5 s, and
 * waits for the disk to take its last note. */
#define LEAVE_USEC (10 * USEC_PER_SEC)

struct reload {
	const struct config *old;
	struct config *next;
	bool uplink;
	int error; /* a value that waits for a restart could not be kept */
	char applied[600]; /* names, with commas */
	char restart[sizeof(((struct gateway *)NULL)->restart_needed)];
	char report[120];
};

/* --- what has changed ------------------------------------------------------------------------ */

/* "..." for those that have no room. */
static void add_name(char *list, size_t size, const char *name)
{
	static const char rest[] = ", ...";
	size_t n = strlen(list), need = strlen(name) + 2;

	if (n >= sizeof(rest) && streq(list + n - strlen(rest), rest))
		return;
	if (n + need + sizeof(rest) > size)
		snprintf(list + n, size - n, "%s", n ? rest : "...");
	else
		snprintf(list + n, size - n, "%s%s", n ? ", " : "", name);
}

static void on_changed(void *userdata, const char *name, enum config_effect effect)
{
	struct reload *r = userdata;

	r->uplink |= effect == CONFIG_EFFECT_UPLINK;
	switch (effect) {
	case CONFIG_EFFECT_UPLINK:
	case CONFIG_EFFECT_LIVE: add_name(r->applied, sizeof(r->applied), name); break;
	case CONFIG_EFFECT_REPORT: add_name(r->report, sizeof(r->report), name); break;
	case CONFIG_EFFECT_UNKNOWN:
	case CONFIG_EFFECT_RESTART: add_name(r->restart, sizeof(r->restart), name); break;
	}
}

/* Those that wait for a restart keep the value in use. */
static void keep_old(void *userdata, const char *name, enum config_effect effect)
{
	struct reload *r = userdata;

	if (effect == CONFIG_EFFECT_RESTART && r->error == 0)
		r->error = config_keep(r->next, r->old, name);
}

/* One line each, with the value kept; and for who asks later. */
static void say_restart(struct gateway *g, const struct reload *r)
{
	char names[sizeof(r->restart)], value[300], *rest = names;
	size_t n = 0;

	memcpy(names, r->restart, sizeof(names));
	for (char *name; (name = strsep(&rest, ", "));) {
		if (!*name)
			continue;
		n += (size_t)snprintf(g->restart_needed + n, sizeof(g->restart_needed) - n, "%s%s",
			n ? "," : "", name);
		config_show(g->config, name, value, sizeof(value));
		if (value[0])
			log_warning("%s: needs a restart, goes on with %s", name, value);
	}
	g->restart_needed[n] = '\0';
}

/* Those of systemd are snapshots, whatever became of what they were made from. Some of its versions
 * make new ones for a second ExecReload=; a signal alone never does. */
static void say_credentials(const struct config *c)
{
	const char *folder = getenv("CREDENTIALS_DIRECTORY");
	size_t n = folder ? strlen(folder) : 0;

	/* -fanalyzer: there is a configuration by now. */
	for (size_t i = 0; i <= c->n_brokers; i++) {
		const struct config_broker *b =
			i < c->n_brokers ? &c->brokers[i] : &c->discovery.template;
		const char *files[] = {
			b->password_file,
			b->tls.ca_file,
			b->tls.cert_file,
			b->tls.key_file,
		};

		for (unsigned k = 0; k < ARRAY_SIZE(files); k++) {
			const char *file = files[k];

			if (n > 0 && strncmp(file, folder, n) == 0 && file[n] == '/')
				file += n + 1;
			if (*file && !strchr(file, '/'))
				log_info("%s: a systemd credential, as it was when systemd last "
					 "handed it over, at the start as a rule: a restart is "
					 "sure to take a new one",
					file);
		}
	}
}

/* --- reading --------------------------------------------------------------------------------- */

static void log_faults(char *faults)
{
	char *rest = faults;

	for (char *line; (line = strsep(&rest, "\n"));)
		if (*line)
			log_error("%s", line);
}

/* A start may wait for what comes through a pipe; this thread may not. */
static bool is_regular(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0 || S_ISREG(st.st_mode))
		return true; /* config_load() says what is wrong */
	log_error("%s: is not a regular file, and cannot be read again", path);
	return false;
}

/* 0 or -errno, logged. */
static int load(const char *path, struct config **ret)
{
	_cleanup_(freep) char *faults = NULL;
	size_t size = 0;
	FILE *f;
	int r;

	if (!is_regular(path))
		return -EINVAL;
	f = open_memstream(&faults, &size);
	if (!f)
		return -errno;
	r = config_load(ret, path, f);
	if (fclose(f) == 0 && faults)
		log_faults(faults);
	if (r < 0 && r != -EINVAL)
		log_error("%s: %s", path, strerrordesc_np(-r));
	return r;
}

/* --- the uplink ------------------------------------------------------------------------------ */

void gateway_free_uplink(struct gateway *g)
{
	g->uplink = uplink_free(g->uplink);
	if (g->uplink_config != g->config)
		config_free(g->uplink_config);
	g->uplink_config = NULL;
}

/* One that ends anyway, or has not begun, is followed by one with the new configuration. */
static void change_uplink(struct gateway *g)
{
	if (!g->uplink || g->parking || g->changing)
		return;
	g->changing = true;
	mailbox_post_stop(g->mailbox, false);
	timer_set(g->leave_timer, LEAVE_USEC);
}

int gateway_on_leave_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct gateway *g = userdata;

	(void)s;
	(void)usec;
	if (!g->changing || g->phase != PHASE_RUNNING)
		return 0;
	log_notice("reload: the uplink does not come to its end, it is hurried");
	mailbox_post_stop(g->mailbox, true);
	return 0;
}

void gateway_uplink_changes(struct gateway *g)
{
	g->changing = false;
	timer_off(g->leave_timer);
	gateway_free_uplink(g);
	if (g->phase == PHASE_RUNNING)
		store_next_uplink(g->store);
}

/* --- the whole ------------------------------------------------------------------------------- */

static void tell(struct gateway *g, const struct reload *r)
{
	const struct event_fields fields = { .path = g->config_path };
	bool any = r->applied[0] || r->restart[0] || r->report[0];

	say_restart(g, r);
	if (r->report[0])
		log_notice(
			"%s: for mqttgw-report, which reads it at a reload of its own", r->report);
	if (!any)
		log_event(EVENT_RELOADED, &fields,
			"reloaded: nothing has changed; trying to connect now");
	else
		log_event(EVENT_RELOADED, &fields, "reloaded: %s%s%s%s",
			r->applied[0] ? r->applied : "nothing",
			r->restart[0] ? "; restart needed for " : "", r->restart,
			r->uplink ? "; connecting anew" : "");
}

/* Nothing fails from here on. */
static void apply(struct gateway *g, struct reload *r)
{
	struct ingest_params params;

	if (!streq(r->old->metrics.listen, g->config->metrics.listen)) {
		gateway_close_httpd(g);
		/* Messages come first: what it could not do it has logged. */
		(void)!gateway_open_httpd(g);
	}
	gateway_ingest_params(g, &params);
	ingest_set_params(g->ingest, &params);
	store_set_config(g->store, g->config);
	if (r->uplink)
		change_uplink(g);
	else if (!g->changing)
		mailbox_post_reconnect(g->mailbox);
}

static int reload(struct gateway *g)
{
	struct config *old = g->config, *next = NULL;
	struct reload changes = { .old = old };
	int r;

	r = load(g->config_path, &next);
	if (r < 0)
		return r;
	changes.next = next;
	config_diff(old, next, on_changed, &changes);
	config_diff(old, next, keep_old, &changes);
	r = changes.error;
	g->config = next;
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): load() has set it. */
	if (r >= 0 && !streq(old->control.path, next->control.path))
		r = gateway_move_control(g);
	if (r < 0) {
		g->config = old;
		config_free(next);
		return r;
	}
	apply(g, &changes);
	if (g->uplink_config != old)
		config_free(old);
	say_credentials(next);
	tell(g, &changes);
	log_set_level(next->log.level);
	gateway_watch_queue(g);
	return 0;
}

void gateway_reload(struct gateway *g)
{
	if (g->phase != PHASE_RUNNING) {
		log_notice("SIGHUP: stopping, nothing is reloaded");
		return;
	}
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)now_usec());
	if (reload(g) < 0)
		log_event(EVENT_RELOAD_REFUSED, &(struct event_fields){ .path = g->config_path },
			"%s: not applied; the old configuration stays", g->config_path);
	sd_notify(0, "READY=1");
	gateway_schedule_status(g);
}
