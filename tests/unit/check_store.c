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
static unsigned opened, parks, hurries;
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

static const struct store_callbacks callbacks = {
	.opened = on_opened,
	.park = on_park,
	.changed = on_changed,
	.alive = on_changed,
	.hurry = on_hurry,
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
	opened = parks = hurries = 0;
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
	ck_assert_int_eq(try_open(), 0);
	for (int i = 0; i < 100; i++)
		accept_line("a");
	deliver(1, 100);
	ck_assert_str_eq(rows(), "");
	ck_assert_uint_eq(mailbox_take_removed(mailbox), 100);
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

	t = tcase_create("trouble");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_another_process_has_the_queue);
	tcase_add_test(t, test_opening_is_tried_again);
	tcase_add_test(t, test_failing_and_working_again);
	tcase_add_test(t, test_rot);
	tcase_add_test(t, test_rot_found_late);
	suite_add_tcase(s, t);
	return s;
}
