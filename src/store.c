/* SPDX-License-Identifier: MIT */
/*
 * The store: see store.h. Owns the queue's writer.
 *
 * A transaction is opened by the first line of a turn, takes along what the broker has acknowledged
 * since, and is committed once. Without lines, acknowledged rows are removed in a transaction of
 * their own that asks for no sync.
 *
 * After a failed write no line is taken, and none is tried, until a transaction of the store's own
 * has succeeded; attempts are RETRY_LEAST to RETRY_MOST apart. On a full disk what was acknowledged
 * is removed nevertheless, if need be at the cost of the reserve file, and lines are taken again
 * only once the reserve is back.
 *
 * Must not know: clients, the protocol on the socket, MQTT.
 */
#include "store.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "log.h"
#include "store_internal.h"
#include "timer.h"

#define RETRY_LEAST_USEC (500 * USEC_PER_MSEC)
#define RETRY_MOST_USEC	 (10 * USEC_PER_SEC)
#define RETRY_ACCURACY	 (100 * USEC_PER_MSEC)
/* Failures and recoveries in a row that are told one by one. */
#define TOLD_IN_FULL 5
/*
 * Acknowledged rows wait for the next lines: removed in their transaction they cost a quarter of
 * the bytes (see bench/wear). Without lines they wait for each other: a transaction costs ten pages
 * or so besides those of its rows. A process that is killed meanwhile sends them twice. With a
 * commit delay more of them wait, and for as long as lines do.
 */
#define REMOVAL_PATIENCE_USEC (1250 * USEC_PER_MSEC) /* a message a second is company */
#define REMOVALS_FEW	      2048 /* some hundred pages, that the cache holds */
#define REMOVALS_WAITING      (MAILBOX_SPAN / 4)
#define PIECE_ROWS	      128

/* --- failing, and working again -------------------------------------------------------------- */

void store_arm_retry(struct store *s)
{
	s->retry_usec =
		s->retry_usec == 0 ? RETRY_LEAST_USEC : u64_min(s->retry_usec * 2, RETRY_MOST_USEC);
	timer_set(s->retry, s->retry_usec);
}

bool store_is_full(int error)
{
	return error == -ENOSPC || error == -EDQUOT;
}

void store_alert(struct store *s, enum event_kind kind, int error, const char *format, ...)
{
	struct event_fields fields = { .path = s->config->queue.path, .error = error };
	char text[1000];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	if (s->queue) {
		fields.queue_known = true;
		fields.queue = queue_messages(s->queue);
	}
	log_event(kind, &fields, "%s", text);
	s->callbacks.alert(s->userdata, event_type(kind)->alert, text);
}

void store_log_failing(struct store *s)
{
	bool full = store_is_full(s->error);
	struct flap_told told;

	/* Each attempt that fails comes here; the first one is told, and one now and then. */
	if (flap_occurred(&s->failing[full], 1, 0, now_boot_usec(), &told) == FLAP_QUIET)
		return;
	store_alert(s, EVENT_STORE_FAILING, s->error,
		"%s: cannot be written: %s; lines are refused with \"storage\" until it can. "
		"Nothing that was accepted is lost. %s",
		s->config->queue.path, strerrordesc_np(-s->error),
		full ? "Make room on its file system."
		     : "Look at the disk and at the kernel's log.");
}

static void park(struct store *s)
{
	if (s->parking)
		return;
	s->parking = true;
	s->error = -EUCLEAN;
	timer_off(s->retry);
	log_event(EVENT_DATABASE_DAMAGED, &(struct event_fields){ .path = s->config->queue.path },
		"%s: the database is malformed; it is set aside, and what can be read of it is "
		"carried over",
		s->config->queue.path);
	s->callbacks.park(s->userdata);
	s->callbacks.changed(s->userdata);
}

void store_failed(struct store *s, int error)
{
	if (error == -EUCLEAN) {
		park(s);
		return;
	}
	s->error = error;
	store_log_failing(s);
	store_arm_retry(s);
	s->callbacks.changed(s->userdata);
}

static void tell_works(struct store *s)
{
	struct event_fields fields = { .path = s->config->queue.path };
	struct flap_told told = { 0 };
	char more[120] = "", times[100];

	if (flap_occurred(&s->working, TOLD_IN_FULL, 0, now_boot_usec(), &told) == FLAP_QUIET) {
		fields.priority = LOG_DEBUG;
	} else {
		/* The next failure is told at once. */
		memset(s->failing, 0, sizeof(s->failing));
		if (told.count > 1) {
			fields.count = told.count;
			snprintf(more, sizeof(more), "; so it was %s",
				flap_text(&told, times, sizeof(times)));
		}
	}
	if (s->queue) {
		fields.queue_known = true;
		fields.queue = queue_messages(s->queue);
	}
	log_event(EVENT_STORE_WORKS, &fields, "%s: can be written again; lines are taken%s",
		s->config->queue.path, more);
}

void store_works(struct store *s)
{
	if (s->error == 0)
		return;
	s->error = 0;
	s->retry_usec = 0;
	timer_off(s->retry);
	tell_works(s);
	s->callbacks.changed(s->userdata);
	store_arm_chores(s);
}

/* --- what the uplink wants written ----------------------------------------------------------- */

bool store_uplink_work_left(const struct store *s)
{
	return s->n_removals > 0 || s->n_condemned > 0 || s->meta_wanted;
}

bool store_take_uplink_work(struct store *s)
{
	size_t acked, condemned;

	acked = mailbox_take_acked(s->mailbox, s->removals + s->n_removals, s->n_removals);
	condemned =
		mailbox_take_condemned(s->mailbox, s->condemned + s->n_condemned, s->n_condemned);
	store_count_condemned(s, s->condemned + s->n_condemned, condemned);
	store_count_delivered(s, s->removals + s->n_removals, acked);
	s->n_removals += acked;
	s->n_condemned += condemned;
	if (!s->meta_wanted)
		s->meta_wanted = mailbox_take_meta(s->mailbox, &s->meta);
	return store_uplink_work_left(s);
}

static int add_uplink_work(struct store *s)
{
	int r;

	for (size_t i = 0; i < s->n_condemned; i++) {
		r = queue_condemn(s->queue, s->condemned[i].id, s->condemned[i].reason);
		if (r < 0)
			return r;
	}
	if (s->n_removals > 0) {
		r = queue_remove(s->queue, s->removals, s->n_removals);
		if (r < 0)
			return r;
	}
	return s->meta_wanted ? queue_set_meta(s->queue, s->meta.key, s->meta.value) : 0;
}

static void uplink_work_done(struct store *s)
{
	if (s->n_removals > 0) {
		mailbox_post_removed(s->mailbox, s->n_removals);
		s->n_removals = 0;
	}
	if (s->n_condemned > 0) {
		mailbox_post_buried(s->mailbox, s->n_condemned);
		s->n_condemned = 0;
	}
	if (s->meta_wanted) {
		s->meta_wanted = false;
		mailbox_post_noted(s->mailbox);
	}
	timer_off(s->removal);
}

/* In one transaction. */
int store_try_uplink_work(struct store *s)
{
	int r;

	r = queue_begin(s->queue, s->meta_wanted);
	if (r >= 0)
		r = add_uplink_work(s);
	if (r >= 0)
		r = queue_commit(s->queue);
	if (r < 0)
		queue_rollback(s->queue);
	return r;
}

static bool is_condemned(const struct store *s, uint64_t id)
{
	for (size_t i = 0; i < s->n_condemned; i++)
		if (s->condemned[i].id == id)
			return true;
	return false;
}

/* Returns how many of the removals are of other rows: they come first. */
static size_t put_condemned_last(struct store *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_removals; i++) {
		uint64_t id = s->removals[i];

		if (is_condemned(s, id))
			continue;
		s->removals[i] = s->removals[n];
		s->removals[n++] = id;
	}
	return n;
}

/*
 * On a full disk: in small ones, each of which finds its place in the log; what needs new pages
 * comes last. Those that were removed already are passed over when it is all tried again.
 */
static int try_in_pieces(struct store *s)
{
	size_t others = put_condemned_last(s);

	for (size_t done = 0; done < others;) {
		size_t n = size_min(others - done, PIECE_ROWS);
		int r;

		r = queue_begin(s->queue, false);
		if (r >= 0)
			r = queue_remove(s->queue, s->removals + done, n);
		if (r >= 0)
			r = queue_commit(s->queue);
		if (r < 0) {
			queue_rollback(s->queue);
			return r;
		}
		done += n;
	}
	/* A condemned row may have come before its removal. */
	return s->n_condemned > 0 || s->meta_wanted ? store_try_uplink_work(s) : 0;
}

/* In a transaction of its own. 0, also when there is nothing to write, or -errno. */
int store_commit_uplink_work(struct store *s)
{
	bool gave_up = false;
	int r;

	if (!store_take_uplink_work(s))
		return 0;
	r = store_try_uplink_work(s);
	if (store_is_full(r))
		r = try_in_pieces(s);
	if (store_is_full(r) && queue_give_up_reserve(s->queue)) {
		gave_up = true;
		log_event(EVENT_RESERVE_GIVEN_UP,
			&(struct event_fields){ .path = s->config->queue.path, .error = r },
			"%s: no space left: the reserve is given up, so that what was delivered "
			"can be removed",
			s->config->queue.path);
		r = try_in_pieces(s);
	}
	if (r < 0)
		return r;
	uplink_work_done(s);
	s->callbacks.changed(s->userdata);
	store_arm_chores(s);
	/* Without the reserve no line is taken. */
	if (gave_up && s->error == 0)
		store_failed(s, -ENOSPC);
	return 0;
}

/* As a part of the transaction with the lines, which goes on without it when it fails. */
static int add_uplink_part(struct store *s, int *ret_failed)
{
	int r;

	*ret_failed = 0;
	if (!store_take_uplink_work(s))
		return 0;
	r = queue_savepoint(s->queue);
	if (r < 0)
		return r;
	*ret_failed = add_uplink_work(s);
	return *ret_failed < 0 ? queue_savepoint_rollback(s->queue)
			       : queue_savepoint_release(s->queue);
}

static int on_removal(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct store *s = userdata;
	int r;

	(void)source;
	(void)usec;
	if (!s->queue || s->parking || queue_in_transaction(s->queue))
		return 0;
	r = store_commit_uplink_work(s);
	if (r < 0)
		store_failed(s, r);
	return 0;
}

/* True when acknowledged rows may wait for company. */
static bool may_wait(struct store *s)
{
	uint64_t delay = s->config->queue.commit_delay_usec;
	size_t most = delay > 0 ? REMOVALS_WAITING : REMOVALS_FEW;

	if (s->error < 0 || s->meta_wanted || s->n_condemned > 0 || s->n_removals > most)
		return false;
	if (!timer_is_set(s->removal))
		timer_set(s->removal, u64_max(delay, REMOVAL_PATIENCE_USEC));
	return true;
}

void store_mail(struct store *s)
{
	int r;

	if (!s->queue || s->parking)
		return;
	if (mailbox_rotten(s->mailbox)) {
		park(s);
		return;
	}
	/* On a disk that fails in another way the next attempt will take it along. */
	if (s->error < 0 && !store_is_full(s->error))
		return;
	if (!store_take_uplink_work(s) || may_wait(s))
		return;
	if (queue_in_transaction(s->queue)) {
		s->callbacks.hurry(s->userdata);
		return;
	}
	r = store_commit_uplink_work(s);
	if (r < 0)
		store_failed(s, r);
}

/* --- lines ----------------------------------------------------------------------------------- */

/* At a bound: rows that were acknowledged make room before a line is refused. */
static bool make_room(struct store *s)
{
	size_t before = s->n_removed_early;
	int part_failed;

	(void)store_take_uplink_work(s);
	if (s->n_removals == before)
		return false;
	s->n_removed_early = s->n_removals;
	s->append_error = add_uplink_part(s, &part_failed);
	return s->append_error == 0 && part_failed == 0;
}

/* Up to where rows are the uplink's: only who may drop rows has to know, and asks a lock for it. */
static uint64_t claimed(struct store *s)
{
	return s->config->queue.overflow == CONFIG_OVERFLOW_DROP_OLDEST
		? mailbox_claimed(s->mailbox)
		: UINT64_MAX;
}

int store_append(struct store *s, const struct message *m, uint64_t *ret_id, const char **ret_text)
{
	struct message stamped = *m;
	int r;

	if (s->error < 0)
		return s->error;
	if (!queue_in_transaction(s->queue)) {
		store_begin_lines(s);
		s->n_removed_early = 0;
		r = queue_begin(s->queue, true);
		if (r < 0) {
			s->append_error = r;
			return r;
		}
	}
	store_stamp(s, &stamped);
	r = queue_append(s->queue, &stamped, claimed(s), ret_id);
	if (r == -ENOBUFS && make_room(s))
		r = queue_append(s->queue, &stamped, claimed(s), ret_id);
	if (r == -ENOBUFS) {
		*ret_text = queue_full_text(s->queue);
		store_note_refused(s);
		store_count_full(s, *ret_text);
	} else if (r == 0) {
		store_count_appended(s, &stamped);
	} else if (r != -EMSGSIZE && r != -EINVAL) {
		s->append_error = r;
	}
	return s->append_error < 0 ? s->append_error : r;
}

static int commit_lines(struct store *s)
{
	int part_failed = 0, r = s->append_error;
	uint64_t began = 0;
	bool apart;

	s->append_error = 0;
	(void)store_take_uplink_work(s);
	apart = s->n_removals > REMOVALS_FEW && s->n_removed_early == 0;
	if (r == 0 && !apart)
		r = add_uplink_part(s, &part_failed);
	if (r == 0) {
		began = now_usec();
		r = queue_commit(s->queue);
	}
	if (r < 0) {
		queue_rollback(s->queue);
		store_count_rolled_back(s);
		return r;
	}
	store_count_committed(s, now_usec() - began);
	if (part_failed == 0 && !apart)
		uplink_work_done(s);
	store_post_committed(s);
	/* As a part they would cost memory: each page they change is kept as it was, to go back to.
	 */
	if (apart)
		part_failed = store_commit_uplink_work(s);
	if (part_failed < 0)
		store_failed(s, part_failed);
	return 0;
}

int store_commit(struct store *s)
{
	int r;

	if (s->error < 0)
		return s->error;
	r = commit_lines(s);
	if (r < 0) {
		store_failed(s, r);
		/* A full disk refuses new rows; removing old ones alone may still work. */
		if (!s->parking && store_is_full(r))
			(void)store_commit_uplink_work(s);
		return r;
	}
	s->callbacks.changed(s->userdata);
	store_after_commit(s);
	return 0;
}

/* --- trying again ---------------------------------------------------------------------------- */

static int try_again(struct store *s)
{
	int r;

	r = store_commit_uplink_work(s);
	if (r < 0)
		return r;
	/* What keeps it from being made otherwise does not keep lines from being written. */
	r = queue_refill_reserve(s->queue);
	return store_is_full(r) ? r : queue_probe(s->queue);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct store *s = userdata;
	int r;

	(void)source;
	(void)usec;
	if (!s->queue) {
		(void)store_open(s);
		return 0;
	}
	r = try_again(s);
	if (r < 0)
		store_failed(s, r);
	else
		store_works(s);
	store_begin_next_uplink(s);
	return 0;
}

/* --- another uplink, another configuration ---------------------------------------------------- */

void store_next_uplink(struct store *s)
{
	int r;

	if (!s->queue)
		return; /* `opened` comes with the queue */
	s->between = true;
	/* Rows acknowledged are removed before anybody reads the queue from its beginning. */
	if (queue_in_transaction(s->queue))
		s->callbacks.hurry(s->userdata);
	r = s->parking ? 0 : store_commit_uplink_work(s);
	if (r < 0)
		store_failed(s, r);
	store_begin_next_uplink(s);
}

void store_set_config(struct store *s, const struct config *config)
{
	const struct queue_bounds bounds = {
		.drop_oldest = config->queue.overflow == CONFIG_OVERFLOW_DROP_OLDEST,
		.max_messages = config->queue.max_messages,
		.max_bytes = config->queue.max_bytes,
		.max_dead_letters = config->queue.max_dead_letters,
	};

	s->config = config;
	store_age_changed(s);
	if (!s->queue)
		return;
	queue_set_bounds(s->queue, &bounds);
	store_arm_chores(s);
}

/* --- the room -------------------------------------------------------------------------------- */

static int setup(struct store *s)
{
	const struct {
		sd_event_source **source;
		sd_event_time_handler_t handler;
	} timers[] = {
		{ &s->retry, on_retry },
		{ &s->removal, on_removal },
	};

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		int r;

		r = timer_new(timers[i].source, s->event, CLOCK_MONOTONIC, RETRY_ACCURACY,
			timers[i].handler, s);
		if (r < 0)
			return r;
	}
	return store_setup_chores(s);
}

int store_new(struct store **ret, sd_event *event, const struct config *config,
	struct mailbox *mailbox, const struct store_callbacks *callbacks, void *userdata)
{
	struct store *s;
	int r;

	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->event = sd_event_ref(event);
	s->config = config;
	s->mailbox = mailbox;
	s->callbacks = *callbacks;
	s->userdata = userdata;
	r = setup(s);
	if (r < 0) {
		/* Without its timers nothing would be tried again. */
		log_error("cannot set up the store: %s", strerrordesc_np(-r));
		store_free(s, false);
		return r;
	}
	r = store_open(s);
	if (r < 0 && !store_is_passing(r)) {
		store_free(s, false);
		return r;
	}
	*ret = s;
	return 0;
}

static void log_cost(struct store *s)
{
	struct queue_stats stats;

	queue_get_stats(s->queue, &stats);
	log_info("%s: %llu commits, %llu syncs and %llu bytes written since the start",
		s->config->queue.path, (unsigned long long)stats.commits,
		(unsigned long long)stats.syncs, (unsigned long long)stats.written_bytes);
}

struct store *store_free(struct store *s, bool orderly)
{
	if (!s)
		return NULL;
	if (s->queue) {
		queue_rollback(s->queue);
		if (orderly)
			(void)store_commit_uplink_work(s);
		log_cost(s);
	}
	store_close_chores(s);
	s->queue = queue_free(s->queue, orderly);
	s->retry = sd_event_source_disable_unref(s->retry);
	s->removal = sd_event_source_disable_unref(s->removal);
	sd_event_unref(s->event);
	free(s);
	return NULL;
}

void store_get_state(const struct store *s, struct store_state *ret)
{
	struct queue_stats stats;

	*ret = (struct store_state){ .error = s->error };
	if (!s->queue)
		return;
	queue_get_stats(s->queue, &stats);
	ret->open = true;
	ret->bytes = stats.bytes;
	ret->messages = queue_messages(s->queue);
	ret->dead_letters = queue_dead_letters(s->queue);
}
