/* SPDX-License-Identifier: MIT */
/*
 * Tests of the store: with a real queue, a real mailbox and a test that plays the uplink and the
 * clients. A read-only look from a connection of its own tells what is on disk.
 */
#include <errno.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <fcntl.h>

#include "log.h"
#include "scratch.h"
#include "store.h"
#include "suites.h"

static struct scratch scratch;
static struct config config;
static char path[300];
static sd_event *event;
static struct mailbox *mailbox;
static struct store *store;
static unsigned opened, parks, hurries, alerts;
static char alert_text[1000]; /* of the last one */
static int opened_error, opened_once; /* the latter at the first time */

static int on_opened(void *userdata)
{
	ck_assert_ptr_eq(userdata, &opened);
	opened++;
	return opened == 1 && opened_once ? opened_once : opened_error;
}

static void on_park(void *userdata)
{
	(void)userdata;
	parks++;
}

static void on_changed(void *userdata)
{
	(void)userdata;
}

/* As gateway does: the lines that wait are committed. */
static void on_hurry(void *userdata)
{
	(void)userdata;
	hurries++;
	ck_assert_int_eq(store_commit(store), 0);
}

static void on_alert(void *userdata, enum alert_kind kind, const char *text)
{
	ck_assert_ptr_eq(userdata, &opened);
	ck_assert_int_eq(kind, ALERT_STORE);
	alerts++;
	snprintf(alert_text, sizeof(alert_text), "%s", text);
}

static const struct store_callbacks callbacks = {
	.opened = on_opened,
	.park = on_park,
	.changed = on_changed,
	.alive = on_changed,
	.hurry = on_hurry,
	.alert = on_alert,
};

static int try_open(void)
{
	return store_new(&store, event, &config, mailbox, &callbacks, &opened);
}

static void setup(void)
{
	log_set_level(LOG_EMERG);
	scratch_make(&scratch);
	snprintf(path, sizeof(path), "%s/queue.db", scratch.dir);
	config = (struct config){ .queue = { .path = path, .sync = CONFIG_SYNC_FULL } };
	opened = parks = hurries = alerts = 0;
	opened_error = opened_once = 0;
	ck_assert_int_ge(sd_event_new(&event), 0);
	ck_assert_int_eq(mailbox_new(&mailbox), 0);
}

static void teardown(void)
{
	store = store_free(store, true);
	ck_assert_ptr_null(store);
	mailbox = mailbox_free(mailbox);
	event = sd_event_unref(event);
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static void run(uint64_t usec)
{
	uint64_t end = now_usec() + usec;

	for (uint64_t now = now_usec(); now < end; now = now_usec())
		ck_assert_int_ge(sd_event_run(event, end - now), 0);
}

/* --- both sides ------------------------------------------------------------------------------ */

/* 0 or the error; `ret_id` is that of the row. */
static int line(const char *payload, uint64_t *ret_id)
{
	const struct message m = {
		.topic = "t",
		.topic_len = 1,
		.payload = payload,
		.payload_len = strlen(payload),
		.qos = 1,
	};
	const char *text = NULL;
	int r;

	r = store_append(store, &m, ret_id, &text);
	ck_assert_int_eq(r == -ENOBUFS, text != NULL);
	return r;
}

static uint64_t accept_line(const char *payload)
{
	uint64_t id = 0;

	ck_assert_int_eq(line(payload, &id), 0);
	ck_assert_int_eq(store_commit(store), 0);
	return id;
}

/* The uplink has had these acknowledged. */
static void deliver(uint64_t first, uint64_t last)
{
	for (; first <= last; first++)
		mailbox_post_acked(mailbox, &first, 1);
	mailbox_gateway_clear(mailbox);
	store_mail(store);
}

static void execute(const char *sql)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

/* The ids on disk, as "1 2 3". */
static const char *rows(void)
{
	static char text[1000];
	sqlite3_stmt *stmt;
	size_t len = 0;
	sqlite3 *db;

	text[0] = '\0';
	ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	ck_assert_int_eq(
		sqlite3_prepare_v2(db, "SELECT id FROM queue ORDER BY id", -1, &stmt, NULL),
		SQLITE_OK);
	while (sqlite3_step(stmt) == SQLITE_ROW && len < sizeof(text))
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%lld", len ? " " : "",
			(long long)sqlite3_column_int64(stmt, 0));
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return text;
}

static uint64_t messages(void)
{
	struct store_state state;

	store_get_state(store, &state);
	return state.messages;
}

static int error(void)
{
	struct store_state state;

	store_get_state(store, &state);
	return state.error;
}

/* --- lines and removals ---------------------------------------------------------------------- */

START_TEST(test_lines)
{
	uint64_t id;

	ck_assert_int_eq(try_open(), 0);
	ck_assert_uint_eq(opened, 1);
	ck_assert_int_eq(line("a", &id), 0);
	ck_assert_int_eq(line("b", &id), 0);
	ck_assert_str_eq(rows(), "");
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_str_eq(rows(), "1 2");
	ck_assert_uint_eq(messages(), 2);
	ck_assert_uint_eq(mailbox_claim(mailbox, 100), 2);
	ck_assert_int_eq(error(), 0);
}
END_TEST

START_TEST(test_few_removals_wait_for_lines)
{
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	accept_line("b");
	deliver(1, 1);
	ck_assert_str_eq(rows(), "1 2");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 0);
	accept_line("c");
	ck_assert_str_eq(rows(), "2 3");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 1);
}
END_TEST

START_TEST(test_few_removals_do_not_wait_for_ever)
{
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	deliver(1, 1);
	run(300 * USEC_PER_MSEC);
	ck_assert_str_eq(rows(), "1");
	run(2 * USEC_PER_SEC);
	ck_assert_str_eq(rows(), "");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 1);
}
END_TEST

START_TEST(test_many_removals_do_not_wait)
{
	const uint64_t n = 3000;
	uint64_t id;

	ck_assert_int_eq(try_open(), 0);
	for (uint64_t i = 0; i < n; i++)
		ck_assert_int_eq(line("a", &id), 0);
	ck_assert_int_eq(store_commit(store), 0);
	/* A transaction for each handful would write as many pages as the rows are on. */
	deliver(1, 1000);
	ck_assert_uint_eq(messages(), n);
	deliver(1001, n);
	ck_assert_uint_eq(messages(), 0);
	ck_assert_str_eq(rows(), "");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), n);
}
END_TEST

/* They do not go with lines either, but right after them. */
START_TEST(test_many_removals_with_lines)
{
	const uint64_t n = 3000;
	uint64_t id;

	config.queue.commit_delay_usec = 3600 * USEC_PER_SEC;
	ck_assert_int_eq(try_open(), 0);
	for (uint64_t i = 0; i < n; i++)
		ck_assert_int_eq(line("a", &id), 0);
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_int_eq(line("b", &id), 0);
	deliver(1, n);
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_str_eq(rows(), "3001");
	ck_assert_uint_eq(messages(), 1);
	ck_assert_uint_eq(mailbox_take_removed(mailbox), n);
	ck_assert_int_eq(error(), 0);
}
END_TEST

static int64_t free_pages(void)
{
	sqlite3_stmt *stmt;
	sqlite3 *db;
	int64_t n;

	ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	ck_assert_int_eq(
		sqlite3_prepare_v2(db, "PRAGMA freelist_count", -1, &stmt, NULL), SQLITE_OK);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	n = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return n;
}

/* Space is given back once a backlog is gone or stays as it is: what is left of it is moved then.
 */
START_TEST(test_space_of_a_backlog)
{
	static char payload[1001];
	const uint64_t n = 12000, step = 2130;
	uint64_t id;

	memset(payload, 'x', sizeof(payload) - 1);
	ck_assert_int_eq(try_open(), 0);
	for (uint64_t i = 1; i <= n; i++) {
		ck_assert_int_eq(line(payload, &id), 0);
		if (i % 1000 == 0)
			ck_assert_int_eq(store_commit(store), 0);
	}
	for (uint64_t done = 0; done < 5 * step; done += step) {
		deliver(done + 1, done + step);
		run(40 * USEC_PER_MSEC);
	}
	ck_assert_uint_eq(messages(), n - 5 * step);
	ck_assert_int_gt(free_pages(), 2000);
	while (free_pages() > 300)
		run(10 * USEC_PER_MSEC);
	ck_assert_uint_eq(messages(), n - 5 * step);
}
END_TEST

START_TEST(test_removals_at_the_end)
{
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	accept_line("b");
	deliver(1, 1);
	store = store_free(store, true);
	ck_assert_str_eq(rows(), "2");
}
END_TEST

START_TEST(test_notes_do_not_wait)
{
	ck_assert_int_eq(try_open(), 0);
	mailbox_post_meta(mailbox, "session a b", "unclean");
	store_mail(store);
	ck_assert(mailbox_noted(mailbox));
}
END_TEST

/* A note ends a transaction that waits for lines; removals do not. */
START_TEST(test_hurry)
{
	uint64_t id;

	config.queue.commit_delay_usec = 3600 * USEC_PER_SEC;
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	ck_assert_int_eq(line("b", &id), 0);
	deliver(1, 1);
	ck_assert_uint_eq(hurries, 0);
	mailbox_post_meta(mailbox, "session a b", "unclean");
	store_mail(store);
	ck_assert_uint_eq(hurries, 1);
	ck_assert(mailbox_noted(mailbox));
	ck_assert_str_eq(rows(), "2");
}
END_TEST

START_TEST(test_condemned)
{
	struct store_state state;
	uint64_t id = 1;

	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	accept_line("b");
	mailbox_post_condemned(mailbox, id, "not liked");
	mailbox_post_acked(mailbox, &id, 1);
	store_mail(store);
	ck_assert_str_eq(rows(), "2");
	store_get_state(store, &state);
	ck_assert_uint_eq(state.dead_letters, 1);
	ck_assert_uint_eq(state.messages, 1);
	ck_assert(mailbox_may_condemn(mailbox));
}
END_TEST

/* --- bounds ---------------------------------------------------------------------------------- */

START_TEST(test_refused_at_a_bound)
{
	uint64_t id;

	config.queue.max_messages = 2;
	ck_assert_int_eq(try_open(), 0);
	ck_assert_int_eq(line("a", &id), 0);
	ck_assert_int_eq(line("b", &id), 0);
	ck_assert_int_eq(line("c", &id), -ENOBUFS);
	ck_assert_int_eq(line("d", &id), -ENOBUFS);
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_str_eq(rows(), "1 2");
	/* An acknowledged row makes room, though its removal was waiting. */
	deliver(1, 1);
	accept_line("e");
	ck_assert_str_eq(rows(), "2 3");
	ck_assert_int_eq(line("f", &id), -ENOBUFS);
	/* Also one that is acknowledged in the middle of a transaction. */
	deliver(2, 2);
	ck_assert_int_eq(line("g", &id), 0);
	ck_assert_int_eq(line("h", &id), -ENOBUFS);
	deliver(3, 3);
	ck_assert_int_eq(line("i", &id), 0);
	ck_assert_int_eq(line("j", &id), -ENOBUFS);
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_str_eq(rows(), "4 5");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 3);
	ck_assert_uint_eq(messages(), 2);
}
END_TEST

START_TEST(test_oldest_dropped_but_what_is_claimed)
{
	uint64_t id;

	config.queue.max_messages = 3;
	config.queue.overflow = CONFIG_OVERFLOW_DROP_OLDEST;
	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 5; i++)
		accept_line("a");
	ck_assert_str_eq(rows(), "3 4 5");
	ck_assert_uint_eq(mailbox_claim(mailbox, 4), 4);
	for (int i = 0; i < 5; i++)
		accept_line("a");
	ck_assert_str_eq(rows(), "3 4 10");
	ck_assert_uint_eq(mailbox_claim(mailbox, 10), 10);
	ck_assert_int_eq(line("b", &id), -ENOBUFS);
	ck_assert_int_eq(store_commit(store), 0);
	mailbox_release(mailbox, 3);
	accept_line("c");
	ck_assert_str_eq(rows(), "3 10 11");
	ck_assert_uint_eq(messages(), 3);
}
END_TEST

/* With a commit delay there is always a transaction. */
START_TEST(test_chores_while_lines_wait)
{
	const struct message old = {
		.topic = "t",
		.topic_len = 1,
		.timestamp = 1,
		.own_timestamp = true,
	};
	const char *text = NULL;
	uint64_t id;

	setenv("MQTTGW_BOOT_ID", "0123456789abcdef0123456789abcdef", 1);
	ck_assert_int_eq(try_open(), 0);
	store = store_free(store, true);
	/* The clock was right before in this boot. */
	execute("INSERT OR REPLACE INTO meta (key, value) "
		"VALUES ('clock', '0123456789abcdef0123456789abcdef 1800000000000')");
	config.queue.commit_delay_usec = USEC_PER_SEC;
	config.queue.max_age_usec = USEC_PER_SEC;
	ck_assert_int_eq(try_open(), 0);
	ck_assert_int_eq(store_append(store, &old, &id, &text), 0);
	for (int i = 0; i < 3; i++) {
		run(50 * USEC_PER_MSEC);
		ck_assert_int_eq(store_commit(store), 0);
		ck_assert_int_eq(line("a", &id), 0);
	}
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_ptr_null(strstr(rows(), "1"));
	unsetenv("MQTTGW_BOOT_ID");
}
END_TEST

/* --- figures --------------------------------------------------------------------------------- */

static struct figures figures(void)
{
	struct figures f = { .now_usec = now_boot_usec() };

	store_get_figures(store, &f);
	return f;
}

START_TEST(test_figures)
{
	struct message m = { .topic = "t", .topic_len = 1, .qos = 2 };
	const char *text = NULL;
	struct figures f;
	uint64_t id;

	config.queue.max_messages = 100;
	config.queue.max_dead_letters = 50;
	ck_assert_int_eq(try_open(), 0);
	f = figures();
	ck_assert_uint_eq(f.messages, 0);
	ck_assert_int_eq(f.oldest_msec, INT64_MIN);
	ck_assert_double_eq(figures_oldest_seconds(&f), 0);
	ck_assert_uint_eq(histogram_count(&f.commit), 0);
	ck_assert_uint_eq(f.max_messages, 100);
	ck_assert_uint_eq(f.max_dead_letters, 50);

	ck_assert_int_eq(line("a", &id), 0);
	ck_assert_int_eq(line("b", &id), 0);
	m.timestamp = 1;
	m.own_timestamp = true;
	ck_assert_int_eq(store_append(store, &m, &id, &text), 0);
	f = figures();
	ck_assert_uint_eq(f.accepted[1] + f.accepted[2], 0); /* not before the commit */
	ck_assert_int_eq(store_commit(store), 0);
	f = figures();
	ck_assert_uint_eq(f.accepted[0], 0);
	ck_assert_uint_eq(f.accepted[1], 2);
	ck_assert_uint_eq(f.accepted[2], 1);
	ck_assert_uint_eq(f.messages, 3);
	ck_assert_uint_gt(f.bytes, 0);
	ck_assert_uint_ge(f.commits, 1);
	ck_assert_uint_gt(f.written_bytes, 4096);
	ck_assert_uint_eq(histogram_count(&f.commit), 1);
	ck_assert_uint_gt(f.commit.sum_usec, 0);
	ck_assert_double_gt(f.accepted_rate, 0.2);
	/* That of the first row, not the smallest one. */
	ck_assert_double_lt(figures_oldest_seconds(&f), 5);
	ck_assert_double_ge(figures_oldest_seconds(&f), 0);
	deliver(1, 2);
	accept_line("c");
	f = figures();
	ck_assert_int_eq(f.oldest_msec, 1);
	ck_assert_double_gt(figures_oldest_seconds(&f), 1e9);
	ck_assert_uint_eq(histogram_count(&f.delivery), 2);
	ck_assert_uint_eq(histogram_count(&f.commit), 2);
}
END_TEST

/* Of what was rolled back nothing was accepted. */
START_TEST(test_figures_of_a_failed_commit)
{
	struct figures f;
	uint64_t id;
	sqlite3 *db;

	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(line("b", &id), -EBUSY);
	ck_assert_int_eq(store_commit(store), -EBUSY);
	ck_assert_int_eq(figures().store_error, -EBUSY);
	ck_assert_int_eq(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	ck_assert_uint_eq(figures().accepted[1], 1);
	f = figures();
	ck_assert_uint_eq(histogram_count(&f.commit), 1);
}
END_TEST

/* From acceptance to the acknowledgement; dead letters and rows of an earlier process are not. */
START_TEST(test_figures_of_delivery)
{
	struct figures f;
	uint64_t id;

	ck_assert_int_eq(try_open(), 0);
	accept_line("of an earlier process");
	store = store_free(store, true);
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	accept_line("b");
	usleep(30000);
	accept_line("c");
	deliver(1, 1);
	f = figures();
	ck_assert_uint_eq(histogram_count(&f.delivery), 0);
	id = 3;
	mailbox_post_condemned(mailbox, id, "not liked");
	store_mail(store); /* moved, and its id comes later */
	ck_assert_uint_eq(figures().dead_letters, 1);
	deliver(2, 4);
	f = figures();
	ck_assert_uint_eq(histogram_count(&f.delivery), 2);
	ck_assert_uint_ge(f.delivery.sum_usec, 30000);
	ck_assert_uint_lt(f.delivery.sum_usec, 20 * USEC_PER_SEC);
}
END_TEST

START_TEST(test_figures_of_bounds)
{
	uint64_t id;

	config.queue.max_messages = 2;
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	ck_assert_str_eq(figures().full, "");
	ck_assert_int_eq(line("b", &id), 0);
	ck_assert_int_eq(line("c", &id), -ENOBUFS);
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_str_eq(figures().full, "queue.max_messages, 2, is reached");
	ck_assert_uint_eq(figures().accepted[1], 2);
	deliver(1, 1);
	accept_line("d");
	ck_assert_str_eq(figures().full, "queue.max_messages, 2, is reached");
	deliver(2, 3);
	run(2 * USEC_PER_SEC);
	ck_assert_str_eq(figures().full, "");
	ck_assert(!figures().drop_oldest);

	store = store_free(store, true);
	config.queue.overflow = CONFIG_OVERFLOW_DROP_OLDEST;
	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 5; i++)
		accept_line("a");
	ck_assert_uint_eq(figures().dropped[FIGURES_DROPPED_OVERFLOW], 3);
	ck_assert(figures().drop_oldest);
	ck_assert_str_eq(figures().full, "a bound of the queue is reached");
}
END_TEST

/* The queue is set aside and another one opened: nothing that is counted goes back. */
START_TEST(test_figures_of_another_queue)
{
	struct figures before, after;

	config.queue.max_messages = 5;
	config.queue.overflow = CONFIG_OVERFLOW_DROP_OLDEST;
	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 7; i++)
		accept_line("a");
	before = figures();
	ck_assert_uint_eq(before.dropped[FIGURES_DROPPED_OVERFLOW], 2);
	mailbox_post_rotten(mailbox);
	store_mail(store);
	mailbox_post_done(mailbox);
	store_parked(store);
	ck_assert_uint_eq(opened, 2);
	after = figures();
	ck_assert_uint_ge(after.commits, before.commits);
	ck_assert_uint_ge(after.written_bytes, before.written_bytes);
	ck_assert_uint_eq(after.dropped[FIGURES_DROPPED_OVERFLOW], 2);
	ck_assert_uint_eq(after.accepted[1], 7);
	ck_assert_uint_eq(after.messages, 5);
	ck_assert_uint_eq(histogram_count(&after.commit), 7);
	/* Rows that were carried over are still those of this process. */
	deliver(3, 3);
	after = figures();
	ck_assert_uint_eq(histogram_count(&after.delivery), 1);
	accept_line("b");
	ck_assert_uint_gt(figures().commits, after.commits);
	ck_assert_uint_eq(figures().dropped[FIGURES_DROPPED_OVERFLOW], 2);
}
END_TEST

/* --- trouble --------------------------------------------------------------------------------- */

START_TEST(test_another_process_has_the_queue)
{
	char lock[400];
	int fd;

	snprintf(lock, sizeof(lock), "%s.lock", path);
	fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	ck_assert_int_eq(try_open(), -EBUSY);
	ck_assert_ptr_null(store);
	close(fd);
}
END_TEST

/* What fails for want of something that comes back is tried again. */
START_TEST(test_opening_is_tried_again)
{
	uint64_t id;

	opened_error = -EMFILE;
	ck_assert_int_eq(try_open(), 0);
	ck_assert_int_eq(error(), -EMFILE);
	ck_assert_int_eq(line("a", &id), -EMFILE);
	ck_assert_int_eq(store_commit(store), -EMFILE);
	ck_assert_uint_eq(messages(), 0);
	store_mail(store);
	run(700 * USEC_PER_MSEC);
	ck_assert_uint_eq(opened, 2);
	ck_assert_int_eq(error(), -EMFILE);
	opened_error = 0;
	run(1200 * USEC_PER_MSEC);
	ck_assert_uint_eq(opened, 3);
	ck_assert_int_eq(error(), 0);
	ck_assert_uint_eq(accept_line("a"), 1);
}
END_TEST

/* Somebody holds the database's own lock for a while. */
START_TEST(test_failing_and_working_again)
{
	uint64_t id;
	sqlite3 *db;

	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	deliver(1, 1);
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(line("b", &id), -EBUSY);
	ck_assert_int_eq(store_commit(store), -EBUSY);
	ck_assert_int_eq(error(), -EBUSY);
	ck_assert_int_eq(line("c", &id), -EBUSY);
	ck_assert_int_eq(store_commit(store), -EBUSY);
	run(700 * USEC_PER_MSEC);
	ck_assert_int_eq(error(), -EBUSY);
	/* Once, not at each attempt. */
	ck_assert_uint_eq(alerts, 1);
	ck_assert_ptr_nonnull(strstr(alert_text, "cannot be written: Device or resource busy"));
	ck_assert_int_eq(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	run(1200 * USEC_PER_MSEC);
	ck_assert_int_eq(error(), 0);
	ck_assert_str_eq(rows(), "");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 1);
	accept_line("d");
	ck_assert_uint_eq(messages(), 1);
}
END_TEST

/* The reader says so: the uplink is ended, the database set aside, and all goes on. */
START_TEST(test_rot)
{
	uint64_t id = 0, last;
	struct store_state state;
	unsigned answered = parks;

	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 10; i++)
		accept_line("a");
	last = 10;
	ck_assert_int_eq(line("not committed", &id), 0);
	mailbox_post_rotten(mailbox);
	store_mail(store);
	ck_assert_uint_eq(parks, answered + 1);
	store_mail(store);
	ck_assert_uint_eq(parks, answered + 1);
	ck_assert_int_eq(line("b", &id), -EUCLEAN);
	ck_assert_int_eq(store_commit(store), -EUCLEAN);
	/* Its last words. */
	mailbox_post_condemned(mailbox, 2, "not liked");
	for (id = 1; id <= 3; id++)
		mailbox_post_acked(mailbox, &id, 1);
	store_mail(store);
	mailbox_post_done(mailbox);
	store_parked(store);
	ck_assert_uint_eq(opened, 2);
	ck_assert_int_eq(error(), 0);
	ck_assert_uint_eq(alerts, 1);
	ck_assert_ptr_nonnull(strstr(alert_text, "carried over: "));
	ck_assert_str_eq(rows(), "4 5 6 7 8 9 10");
	ck_assert_uint_eq(messages(), 7);
	store_get_state(store, &state);
	ck_assert_uint_eq(state.dead_letters, 1);
	ck_assert(mailbox_may_condemn(mailbox));
	ck_assert(!mailbox_uplink_done(mailbox) && !mailbox_rotten(mailbox));
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 0);
	ck_assert_uint_gt(accept_line("c"), last);
}
END_TEST

/* What the look at the start does not find keeps no start from going on. */
START_TEST(test_rot_found_late)
{
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	accept_line("b");
	store = store_free(store, true);
	mailbox_reset(mailbox);
	opened = 0;
	opened_once = -EUCLEAN;
	ck_assert_int_eq(try_open(), 0);
	ck_assert_uint_eq(opened, 2);
	ck_assert_uint_eq(parks, 0);
	ck_assert_int_eq(error(), 0);
	ck_assert_str_eq(rows(), "1 2");
	ck_assert_uint_gt(accept_line("c"), 1000);
}
END_TEST

/* --- another uplink, another configuration ---------------------------------------------------- */

/* What the last one had delivered is gone before the next one begins, and nothing is left of it. */
START_TEST(test_next_uplink)
{
	uint64_t id;

	config.queue.commit_delay_usec = 3600 * USEC_PER_SEC;
	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 5; i++)
		accept_line("a");
	ck_assert_uint_eq(mailbox_claim(mailbox, 5), 5);
	deliver(1, 2);
	ck_assert_str_eq(rows(), "1 2 3 4 5");
	/* Not taken yet, any of these. */
	mailbox_post_condemned(mailbox, 4, "not liked");
	for (id = 3; id <= 4; id++)
		mailbox_post_acked(mailbox, &id, 1);
	mailbox_post_meta(mailbox, "session a b", "clean");
	ck_assert_int_eq(line("waits", &id), 0);
	mailbox_post_stop(mailbox, false);
	mailbox_post_done(mailbox);
	store_next_uplink(store);
	ck_assert_uint_eq(hurries, 1);
	ck_assert_uint_eq(opened, 2);
	ck_assert_uint_eq(parks, 0);
	ck_assert_str_eq(rows(), "5 6");
	ck_assert(!mailbox_uplink_done(mailbox));
	ck_assert(!mailbox_noted(mailbox));
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 0);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
	ck_assert_uint_eq(mailbox_claim(mailbox, 100), 6);
	mailbox_post_meta(mailbox, "session a b", "unclean");
	store_mail(store);
	ck_assert(mailbox_noted(mailbox));
}
END_TEST

/* As long as its rows cannot be removed there is no next one. */
START_TEST(test_next_uplink_waits_for_the_disk)
{
	uint64_t id;
	sqlite3 *db;

	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	accept_line("b");
	deliver(1, 1);
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	store_next_uplink(store);
	ck_assert_uint_eq(opened, 1);
	ck_assert_int_eq(error(), -EBUSY);
	run(700 * USEC_PER_MSEC);
	ck_assert_uint_eq(opened, 1);
	ck_assert_int_eq(line("c", &id), -EBUSY);
	ck_assert_int_eq(store_commit(store), -EBUSY);
	ck_assert_int_eq(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	run(1200 * USEC_PER_MSEC);
	ck_assert_uint_eq(opened, 2);
	ck_assert_int_eq(error(), 0);
	ck_assert_str_eq(rows(), "2");
	ck_assert_uint_eq(mailbox_claim(mailbox, 100), 2);
}
END_TEST

/* One that cannot begin is tried again; lines are taken meanwhile. */
START_TEST(test_next_uplink_cannot_begin)
{
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	opened_error = -EMFILE;
	store_next_uplink(store);
	ck_assert_uint_eq(opened, 2);
	ck_assert_int_eq(error(), 0);
	accept_line("b");
	run(700 * USEC_PER_MSEC);
	ck_assert_uint_eq(opened, 3);
	opened_error = 0;
	run(1500 * USEC_PER_MSEC);
	ck_assert_uint_eq(opened, 4);
	ck_assert_uint_eq(mailbox_claim(mailbox, 100), 2);
	run(3 * USEC_PER_SEC);
	ck_assert_uint_eq(opened, 4);
	accept_line("c");
	ck_assert_str_eq(rows(), "1 2 3");
}
END_TEST

/* Its reader finds rot: there is no thread that could end. */
START_TEST(test_next_uplink_finds_rot)
{
	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	opened_error = -EUCLEAN;
	store_next_uplink(store);
	ck_assert_uint_eq(parks, 1);
	ck_assert_int_eq(error(), -EUCLEAN);
	opened_error = 0;
	mailbox_post_done(mailbox);
	store_parked(store);
	ck_assert_uint_eq(opened, 3);
	ck_assert_int_eq(error(), 0);
	ck_assert_str_eq(rows(), "1");
}
END_TEST

static struct config other; /* borrowed by the store until it is freed */

START_TEST(test_set_config)
{
	uint64_t id;

	other = config;
	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 21; i++)
		accept_line("a");
	run(100 * USEC_PER_MSEC);
	other.queue.max_messages = 10;
	store_set_config(store, &other);
	memset(&config, 0xff, sizeof(config)); /* looked at no more */
	ck_assert_int_eq(line("b", &id), -ENOBUFS);
	ck_assert_int_eq(store_commit(store), 0);
	ck_assert_uint_eq(messages(), 21);
	other.queue.overflow = CONFIG_OVERFLOW_DROP_OLDEST;
	store_set_config(store, &other);
	run(200 * USEC_PER_MSEC);
	ck_assert_str_eq(rows(), "12 13 14 15 16 17 18 19 20 21");
	other.queue.max_messages = 0;
	store_set_config(store, &other);
	accept_line("c");
	run(100 * USEC_PER_MSEC);
	ck_assert_uint_eq(messages(), 11);
}
END_TEST

/* --- what an operator asks for --------------------------------------------------------------- */

static void run_purge(struct selection *sel)
{
	int r;

	do {
		r = store_purge(store, sel);
	} while (r > 0);
	ck_assert_int_eq(r, 0);
}

START_TEST(test_purge)
{
	struct selection all = { .upto = UINT64_MAX },
			 none = { .filter = "x/#", .upto = UINT64_MAX };

	ck_assert_int_eq(try_open(), 0);
	for (unsigned n = 0; n < 2 * SELECTION_STEP_ROWS + 10; n++)
		accept_line("a");
	run_purge(&none);
	ck_assert_uint_eq(none.count + none.kept, 0);
	/* Three are the uplink's, one of them is delivered. */
	ck_assert_uint_eq(mailbox_claim(mailbox, 3), 3);
	deliver(2, 2);
	ck_assert_int_eq(store_purge(store, &all), 1);
	/* What comes between the steps is not meant. */
	accept_line("late");
	run_purge(&all);
	ck_assert_uint_eq(all.kept, 2);
	ck_assert_uint_eq(all.count, 2 * SELECTION_STEP_ROWS + 10 - 3);
	ck_assert_str_eq(rows(), "1 3 1011");
	ck_assert_uint_eq(messages(), 3);
	/* The uplink may claim again. */
	ck_assert_uint_eq(mailbox_claim(mailbox, 2000), 1011);
}
END_TEST

/* A transaction that waits for more lines is committed first. */
START_TEST(test_purge_while_lines_wait)
{
	struct selection all = { .upto = UINT64_MAX };
	uint64_t id;

	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	ck_assert_int_eq(line("b", &id), 0);
	run_purge(&all);
	ck_assert_uint_ge(hurries, 1);
	ck_assert_uint_eq(all.count, 2);
	ck_assert_str_eq(rows(), "");
}
END_TEST

static void condemn(uint64_t id)
{
	mailbox_post_condemned(mailbox, id, "refused");
	deliver(id, id);
}

static uint64_t dead_letters(void)
{
	struct store_state state;

	store_get_state(store, &state);
	return state.dead_letters;
}

START_TEST(test_requeue)
{
	struct selection one = { .after = 1, .upto = 2 }, all = { .upto = UINT64_MAX };
	const char *text = NULL;

	ck_assert_int_eq(try_open(), 0);
	for (unsigned n = 0; n < 4; n++)
		accept_line("a");
	for (uint64_t id = 1; id <= 3; id++)
		condemn(id);
	ck_assert_str_eq(rows(), "4");
	ck_assert_uint_eq(dead_letters(), 3);
	ck_assert_int_eq(store_requeue(store, &one, &text), 0);
	ck_assert_uint_eq(one.count, 1);
	ck_assert_str_eq(rows(), "4 5");
	/* The uplink hears of it. */
	ck_assert_uint_eq(mailbox_claim(mailbox, 100), 5);
	ck_assert_int_eq(store_purge_dead(store, &(struct selection){ .after = 2, .upto = 3 }), 0);
	ck_assert_int_eq(store_requeue(store, &all, &text), 0);
	ck_assert_uint_eq(all.count, 1);
	ck_assert_str_eq(rows(), "4 5 6");
	ck_assert_uint_eq(dead_letters(), 0);
	store = store_free(store, true);
	mailbox_reset(mailbox);
	ck_assert_int_eq(try_open(), 0);
	ck_assert_uint_eq(messages(), 3);
	ck_assert_uint_eq(dead_letters(), 0);
	ck_assert_uint_eq(accept_line("b"), 7);
}
END_TEST

/* Nothing makes room for them, whatever the policy is. */
START_TEST(test_requeue_at_a_bound)
{
	struct selection all = { .upto = UINT64_MAX };
	const char *text = NULL;

	config.queue.max_messages = 3;
	config.queue.overflow = _i ? CONFIG_OVERFLOW_DROP_OLDEST : CONFIG_OVERFLOW_REJECT;
	ck_assert_int_eq(try_open(), 0);
	for (unsigned n = 0; n < 3; n++)
		accept_line("a");
	condemn(1);
	condemn(2);
	accept_line("b");
	ck_assert_str_eq(rows(), "3 4");
	ck_assert_int_eq(store_requeue(store, &all, &text), -ENOBUFS);
	ck_assert_ptr_nonnull(strstr(text, "max_messages"));
	ck_assert_uint_eq(all.count, 1);
	ck_assert_str_eq(rows(), "3 4 5");
	ck_assert_uint_eq(dead_letters(), 1);
	ck_assert_int_eq(store_requeue(store, &all, &text), -ENOBUFS);
	ck_assert_uint_eq(all.count, 1);
	ck_assert_int_eq(error(), 0);
	ck_assert_uint_eq(mailbox_claim(mailbox, 100), 5);
}
END_TEST

START_TEST(test_nothing_is_changed_while_parking)
{
	struct selection all = { .upto = UINT64_MAX };
	const char *text;

	ck_assert_int_eq(try_open(), 0);
	accept_line("a");
	ck_assert_int_eq(store_may_read(store), 0);
	mailbox_post_rotten(mailbox);
	store_mail(store);
	ck_assert_uint_eq(parks, 1);
	ck_assert_int_eq(store_may_read(store), -EINPROGRESS);
	ck_assert_int_eq(store_purge(store, &all), -EINPROGRESS);
	ck_assert_int_eq(store_purge_dead(store, &all), -EINPROGRESS);
	ck_assert_int_eq(store_requeue(store, &all, &text), -EINPROGRESS);
	store_parked(store);
	ck_assert_int_eq(store_may_read(store), 0);
	run_purge(&all);
	ck_assert_uint_eq(all.count, 1);
}
END_TEST

Suite *check_store(void)
{
	Suite *s = suite_create("store");
	TCase *t;

	t = tcase_create("lines and removals");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_lines);
	tcase_add_test(t, test_few_removals_wait_for_lines);
	tcase_add_test(t, test_few_removals_do_not_wait_for_ever);
	tcase_add_test(t, test_many_removals_do_not_wait);
	tcase_add_test(t, test_many_removals_with_lines);
	tcase_add_test(t, test_space_of_a_backlog);
	tcase_add_test(t, test_removals_at_the_end);
	tcase_add_test(t, test_notes_do_not_wait);
	tcase_add_test(t, test_hurry);
	tcase_add_test(t, test_condemned);
	suite_add_tcase(s, t);

	t = tcase_create("bounds");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_refused_at_a_bound);
	tcase_add_test(t, test_oldest_dropped_but_what_is_claimed);
	tcase_add_test(t, test_chores_while_lines_wait);
	suite_add_tcase(s, t);

	t = tcase_create("figures");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_figures);
	tcase_add_test(t, test_figures_of_a_failed_commit);
	tcase_add_test(t, test_figures_of_delivery);
	tcase_add_test(t, test_figures_of_bounds);
	tcase_add_test(t, test_figures_of_another_queue);
	suite_add_tcase(s, t);

	t = tcase_create("operator");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_purge);
	tcase_add_test(t, test_purge_while_lines_wait);
	tcase_add_test(t, test_requeue);
	tcase_add_loop_test(t, test_requeue_at_a_bound, 0, 2);
	tcase_add_test(t, test_nothing_is_changed_while_parking);
	suite_add_tcase(s, t);

	t = tcase_create("trouble");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_another_process_has_the_queue);
	tcase_add_test(t, test_opening_is_tried_again);
	tcase_add_test(t, test_failing_and_working_again);
	tcase_add_test(t, test_rot);
	tcase_add_test(t, test_rot_found_late);
	suite_add_tcase(s, t);

	t = tcase_create("changes");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_next_uplink);
	tcase_add_test(t, test_next_uplink_waits_for_the_disk);
	tcase_add_test(t, test_next_uplink_cannot_begin);
	tcase_add_test(t, test_next_uplink_finds_rot);
	tcase_add_test(t, test_set_config);
	suite_add_tcase(s, t);
	return s;
}
