/* SPDX-License-Identifier: MIT */
/*
 * Finds out which brokers there are: see discovery.h. Owns when to look, what was told last, and
 * when the kept list takes the place of a list that cannot be had.
 *
 * Invariant: once a list was told there is always one; a failure only means that it gets no newer.
 * Must not know how a broker is chosen or reached.
 */
#include "discovery.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "discovery_keep.h"
#include "discovery_list.h"
#include "discovery_watch.h"
#include "log.h"
#include "resolver.h"
#include "timer.h"

/* No name server and no file is looked at more often than this, whatever TTL says. */
#define LOOK_MIN_USEC	    (5 * USEC_PER_SEC)
#define RETRY_USEC	    (2 * USEC_PER_SEC)
#define TIMER_ACCURACY_USEC (100 * USEC_PER_MSEC)

struct discovery {
	const struct config *config;
	struct discovery_callbacks callbacks;
	void *userdata;

	struct resolver *resolver; /* SRV records only */
	struct discovery_watch *watch; /* a file only */
	sd_event_source *timer; /* the next look */
	char *keep_path;
	struct discovery_origin origin;

	struct discovery_list told; /* none before the first */
	char *failure; /* told last, and nothing better since; NULL = none */
	char *faults; /* of the file, logged last; NULL = none */
	unsigned failures; /* in a row */
	uint64_t looked_usec; /* when the last look began; 0 = never */
	bool looking; /* the resolver is at it */
	bool kept_tried;
	bool kept_current; /* the kept list is the one told last, or is beyond help */
};

static bool by_srv(const struct discovery *d)
{
	return *d->config->discovery.srv;
}

static bool by_file(const struct discovery *d)
{
	return *d->config->discovery.file;
}

/* --- what is told ---------------------------------------------------------------------------- */

static bool same_list(
	const struct discovery *d, const struct discovery_list *a, const struct discovery_list *b)
{
	/* Targets of equal weight come in another order each time. */
	return by_srv(d) ? discovery_list_same_targets(a, b) : discovery_list_same(a, b);
}

static void tell_list(struct discovery *d, struct discovery_list *list)
{
	discovery_list_clear(&d->told);
	d->told = *list;
	*list = (struct discovery_list){ 0 };
	d->callbacks.brokers(d->userdata, d->told.brokers, d->told.n);
}

static _printf_(2, 3) void tell_failure(struct discovery *d, const char *format, ...)
{
	char *text = NULL;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(&text, format, ap);
	va_end(ap);
	if (n < 0)
		return;
	if (d->failure && streq(d->failure, text)) {
		free(text);
		return;
	}
	free(d->failure);
	d->failure = text;
	d->callbacks.failed(d->userdata, text);
}

/* --- the kept list --------------------------------------------------------------------------- */

static void format_age(char *buf, size_t size, int64_t changed)
{
	int64_t seconds = now_epoch_msec() / 1000 - changed;

	if (seconds < 0)
		snprintf(buf, size, "from a time to come");
	else if (seconds < 2 * 60)
		snprintf(buf, size, "%lld s old", (long long)seconds);
	else if (seconds < 2 * 3600)
		snprintf(buf, size, "%lld min old", (long long)seconds / 60);
	else if (seconds < 2 * 86400)
		snprintf(buf, size, "%lld h old", (long long)seconds / 3600);
	else
		snprintf(buf, size, "%lld days old", (long long)seconds / 86400);
}

/* 0, or -errno; a list that is broken is logged. */
static int read_kept(struct discovery *d, struct discovery_list *ret, int64_t *ret_changed)
{
	struct discovery_list kept = { 0 };
	char text[300] = "";
	int r;

	r = discovery_keep_read(&kept, ret_changed, d->keep_path, &d->origin, text, sizeof(text));
	if (r == -EINVAL)
		log_warning("the kept list of brokers is ignored: %s", text);
	else if (r < 0 && r != -ENOENT)
		log_warning("the kept list of brokers is ignored: %s: %s", d->keep_path,
			strerrordesc_np(-r));
	if (r < 0)
		return r;
	if (!by_srv(d)) {
		*ret = kept;
		return 0;
	}
	/* User name, password and TLS are as they are configured now. */
	r = discovery_list_from_kept(ret, &kept, &d->config->discovery.template);
	discovery_list_clear(&kept);
	return r;
}

/* For a start without a list: the one of last time. */
static void fall_back(struct discovery *d)
{
	struct discovery_list kept = { 0 };
	int64_t changed = 0;
	char age[40];

	if (d->told.n > 0 || d->kept_tried)
		return;
	d->kept_tried = true;
	if (read_kept(d, &kept, &changed) < 0)
		return;
	format_age(age, sizeof(age), changed);
	log_notice("using the list of brokers kept in %s, which is %s", d->keep_path, age);
	d->kept_current = true;
	tell_list(d, &kept);
}

/* Whether the file says the same already, in whatever order. */
static bool is_kept(struct discovery *d, const struct discovery_list *list)
{
	struct discovery_list kept = { 0 };
	int64_t changed;
	bool same;

	if (d->kept_tried || read_kept(d, &kept, &changed) < 0)
		return false;
	same = same_list(d, &kept, list);
	discovery_list_clear(&kept);
	return same;
}

static void keep(struct discovery *d, const struct discovery_list *list)
{
	int r;

	if (!is_kept(d, list)) {
		r = discovery_keep_write(d->keep_path, &d->origin, list);
		if (r < 0)
			log_warning("cannot keep the list of brokers: %s: %s", d->keep_path,
				strerrordesc_np(-r));
	}
	d->kept_tried = true;
	/* One that could not be written is tried again with the next change. */
	d->kept_current = true;
}

/* --- the next look --------------------------------------------------------------------------- */

static void look_at(struct discovery *d, uint64_t usec)
{
	(void)sd_event_source_set_time(d->timer, usec);
	(void)sd_event_source_set_enabled(d->timer, SD_EVENT_ONESHOT);
}

static uint64_t longest_wait(const struct discovery *d)
{
	uint64_t refresh = d->config->discovery.refresh_usec;

	return refresh > LOOK_MIN_USEC ? refresh : LOOK_MIN_USEC;
}

static void wait_after_failure(struct discovery *d)
{
	unsigned n = d->failures < 20 ? d->failures++ : d->failures;

	look_at(d, now_usec() + u64_min(RETRY_USEC << n, longest_wait(d)));
}

static void wait_after_success(struct discovery *d, uint64_t good_for_usec)
{
	uint64_t wait = u64_min(good_for_usec, longest_wait(d));

	d->failures = 0;
	look_at(d, now_usec() + (wait > LOOK_MIN_USEC ? wait : LOOK_MIN_USEC));
}

/* A good list came; takes it. */
static void take(struct discovery *d, struct discovery_list *list)
{
	bool changed = !same_list(d, &d->told, list);

	free(d->failure);
	d->failure = NULL;
	if (changed || !d->kept_current)
		keep(d, list);
	if (changed)
		tell_list(d, list);
	else
		discovery_list_clear(list);
}

/* --- SRV records ----------------------------------------------------------------------------- */

static void on_services(void *userdata, const struct resolver_services *result)
{
	struct discovery_list list = { 0 };
	struct discovery *d = userdata;
	int r = 0;

	d->looking = false;
	if (result->error == 0)
		r = discovery_list_from_services(&list, result, &d->config->discovery.template);
	if (result->error != 0 || r < 0) {
		wait_after_failure(d);
		tell_failure(d, "SRV records of %s: %s", d->config->discovery.srv,
			r < 0 ? strerrordesc_np(-r) : result->text);
		fall_back(d);
		return;
	}
	wait_after_success(d, result->ttl * USEC_PER_SEC);
	take(d, &list);
}

/* Nothing is asked for this way. */
static void on_addresses(void *userdata, const struct resolver_result *result)
{
	(void)userdata;
	(void)result;
}

static void look_for_services(struct discovery *d)
{
	int r;

	r = resolver_lookup_services(d->resolver, d->config->discovery.srv, on_services);
	if (r == 0) {
		d->looking = true;
		return;
	}
	wait_after_failure(d);
	tell_failure(d, "SRV records of %s: %s", d->config->discovery.srv, strerrordesc_np(-r));
	fall_back(d);
}

/* --- a file ---------------------------------------------------------------------------------- */

/* Logs each fault on a line of its own, unless they are the same as last time. Takes `faults`. */
static void log_faults(struct discovery *d, char *faults)
{
	char *rest = NULL;
	char *copy;

	if (d->faults && streq(d->faults, faults)) {
		free(faults);
		return;
	}
	copy = strdup(faults);
	if (copy)
		for (char *line = strtok_r(copy, "\n", &rest); line;
			line = strtok_r(NULL, "\n", &rest))
			log_error("%s", line);
	free(copy);
	free(d->faults);
	d->faults = faults;
}

static void forget_faults(struct discovery *d)
{
	free(d->faults);
	d->faults = NULL;
}

/* 0, or -errno; has told and logged what is wrong. `news`: what is unwise in it is worth saying. */
static int load_file(struct discovery *d, bool news, struct discovery_list *ret)
{
	const char *path = d->config->discovery.file;
	char *faults = NULL;
	size_t size;
	FILE *out;
	int r = 0;

	if (access(path, R_OK) < 0) {
		r = -errno;
		forget_faults(d);
		tell_failure(d, "%s: %s", path, strerrordesc_np(-r));
		return r;
	}
	out = open_memstream(&faults, &size);
	if (!out)
		return -ENOMEM;
	r = config_load_brokers(&ret->brokers, &ret->n, path, !news, out);
	fclose(out);
	if (r == -EINVAL && faults) {
		log_faults(d, faults);
		tell_failure(d, "%s has faults and is not used", path);
		return r;
	}
	free(faults);
	forget_faults(d);
	if (r < 0)
		tell_failure(d, "%s: %s", path, strerrordesc_np(-r));
	return r;
}

static void look_at_file(struct discovery *d, bool news)
{
	struct discovery_list list = { 0 };
	/* First watched, then read: no change falls in between. */
	int watched = discovery_watch_renew(d->watch);
	int r = load_file(d, news, &list);

	if (r < 0 || watched < 0)
		wait_after_failure(d);
	else
		wait_after_success(d, longest_wait(d));
	if (r < 0)
		fall_back(d);
	else
		take(d, &list);
}

static void on_file(void *userdata)
{
	struct discovery *d = userdata;

	d->looked_usec = now_usec();
	look_at_file(d, true);
}

/* --- the loop -------------------------------------------------------------------------------- */

static void look(struct discovery *d)
{
	d->looked_usec = now_usec();
	if (by_srv(d))
		look_for_services(d);
	else if (by_file(d))
		look_at_file(d, d->told.n == 0);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	look(userdata);
	return 0;
}

void discovery_start(struct discovery *d)
{
	if (by_srv(d) || by_file(d))
		look(d);
	else
		d->callbacks.brokers(d->userdata, d->config->brokers, d->config->n_brokers);
}

void discovery_refresh(struct discovery *d)
{
	uint64_t earliest = d->looked_usec + LOOK_MIN_USEC;
	uint64_t planned = 0;

	if (d->looking || d->looked_usec == 0)
		return;
	(void)sd_event_source_get_time(d->timer, &planned);
	if (planned > earliest)
		look_at(d, earliest);
}

static int make_parts(struct discovery *d, sd_event *event)
{
	const struct config *config = d->config;
	int r;

	if (!by_srv(d) && !by_file(d))
		return 0;
	if (asprintf(&d->keep_path, "%s.brokers", config->queue.path) < 0) {
		d->keep_path = NULL;
		return -ENOMEM;
	}
	d->origin = (struct discovery_origin){
		.kind = by_srv(d) ? "srv" : "file",
		.name = by_srv(d) ? config->discovery.srv : config->discovery.file,
		.targets_only = by_srv(d),
	};
	r = timer_new(&d->timer, event, CLOCK_MONOTONIC, TIMER_ACCURACY_USEC, on_timer, d);
	if (r < 0)
		return r;
	if (by_srv(d))
		return resolver_new(&d->resolver, event, on_addresses, d);
	return discovery_watch_new(&d->watch, event, config->discovery.file, on_file, d);
}

int discovery_new(struct discovery **ret, sd_event *event, const struct config *config,
	const struct discovery_callbacks *callbacks, void *userdata)
{
	struct discovery *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->config = config;
	d->callbacks = *callbacks;
	d->userdata = userdata;
	r = make_parts(d, event);
	if (r < 0) {
		discovery_free(d);
		return r;
	}
	*ret = d;
	return 0;
}

struct discovery *discovery_free(struct discovery *d)
{
	if (!d)
		return NULL;
	d->watch = discovery_watch_free(d->watch);
	d->resolver = resolver_free(d->resolver);
	d->timer = sd_event_source_disable_unref(d->timer);
	discovery_list_clear(&d->told);
	free(d->keep_path);
	free(d->failure);
	free(d->faults);
	free(d);
	return NULL;
}
