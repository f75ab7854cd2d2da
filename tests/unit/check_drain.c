/* SPDX-License-Identifier: MIT */
/*
 * Tests of the drain, between a real queue with its mailbox and a broker that is only played: what
 * goes out in which order and how much at a time, what is sent again after a loss and what is not.
 * At the end a model of all that at once, under thousands of random events.
 */
#include <errno.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdio.h>

#include "drain.h"
#include "log.h"
#include "queue.h"
#include "scratch.h"
#include "suites.h"
#include "trial.h"

#define MAX_ROWS 70000

static struct scratch scratch;
static struct queue *q;
static struct queue_reader *reader;
static struct mailbox *mailbox;
static struct drain *d;

/* --- the broker that is played --------------------------------------------------------------- */

static struct {
	uint64_t sent[MAX_ROWS]; /* ids in order */
	size_t n_sent;
	uint16_t next_mid;
	uint64_t by_mid[UINT16_MAX + 1]; /* the row that is in flight with it, or 0 */
	uint16_t mid_of[MAX_ROWS]; /* of a row's last sending */
	uint8_t qos_of[MAX_ROWS];
	size_t size_of[MAX_ROWS];
	unsigned wraps;

	bool acks_qos0_inside;
	uint64_t fails_at; /* this row, with ... */
	int fails_with;
	uint64_t breaks_at; /* taken, with the connection breaking */
	uint64_t refuses_inside;
	uint16_t answers_before; /* a mid that is acknowledged before the next one is given */
	void (*on_send)(const struct message *m); /* the model's checks */
	uint64_t condemned[16];
	size_t n_condemned;
	char reason[200];
	uint64_t held_at;
} broker;

static uint16_t give_mid(void)
{
	if (broker.next_mid++ == UINT16_MAX) {
		broker.next_mid = 1;
		broker.wraps++;
	}
	return broker.next_mid;
}

static uint64_t committed;

static void post_committed(uint64_t last_id)
{
	committed = last_id;
	mailbox_post_committed(mailbox, last_id);
}

/* Refused in a way that is nobody's fault: the row is only lost. */
static uint64_t published(uint16_t mid, bool taken)
{
	return drain_published(
		d, mid, taken ? FAILURE_MESSAGE_TAKEN : FAILURE_MESSAGE_CONFUSED, "");
}

static int publish(void *userdata, const struct message *m, int *ret_mid, const char **ret_text)
{
	uint16_t mid;

	ck_assert_ptr_eq(userdata, &broker);
	/* Nobody else may touch this one. */
	ck_assert_uint_ge(mailbox_claimed(mailbox), m->id);
	ck_assert_uint_le(m->id, committed);
	if (broker.on_send)
		broker.on_send(m);
	if (m->id == broker.fails_at) {
		*ret_text = "not for this library";
		return broker.fails_with;
	}
	if (broker.answers_before) {
		uint64_t row = broker.by_mid[broker.answers_before];

		broker.by_mid[broker.answers_before] = 0;
		ck_assert_uint_eq(published(broker.answers_before, true), row);
		broker.answers_before = 0;
	}
	mid = give_mid();
	ck_assert_msg(broker.by_mid[mid] == 0, "mid %u is in use", mid);
	*ret_mid = mid;
	ck_assert_uint_lt(m->id, MAX_ROWS);
	ck_assert_uint_lt(broker.n_sent, MAX_ROWS);
	broker.sent[broker.n_sent++] = m->id;
	broker.mid_of[m->id] = mid;
	broker.qos_of[m->id] = m->qos;
	broker.size_of[m->id] = message_size(m);
	if (m->id == broker.refuses_inside) {
		broker.refuses_inside = 0;
		ck_assert_uint_eq(published(mid, false), m->id);
		return 0;
	}
	if (m->qos == 0 && broker.acks_qos0_inside) {
		ck_assert_uint_eq(published(mid, true), m->id);
		return 0;
	}
	broker.by_mid[mid] = m->id;
	return m->id == broker.breaks_at;
}

/* The broker answers for a row. */
static void answer(uint64_t id, bool taken)
{
	uint16_t mid = broker.mid_of[id];

	ck_assert_uint_eq(broker.by_mid[mid], id);
	broker.by_mid[mid] = 0;
	ck_assert_uint_eq(published(mid, taken), id);
}

static void take(uint64_t id)
{
	answer(id, true);
}

static void connection_lost(void)
{
	ck_assert(!drain_connection_lost(d, false));
}

/* What the library forgets with the connection, or with the session. */
static void forget(bool session)
{
	for (unsigned mid = 1; mid <= UINT16_MAX; mid++) {
		uint64_t id = broker.by_mid[mid];

		if (id && (session || broker.qos_of[id] == 0))
			broker.by_mid[mid] = 0;
	}
}

static void lose_connection(void)
{
	forget(false);
	connection_lost();
}

static void lose_session(void)
{
	forget(true);
	connection_lost();
	drain_session_lost(d);
}

/* Checks what was sent since the last time, as "1 2 3". */
static void expect_sent(const char *expected)
{
	static char text[1000];
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < broker.n_sent && len < sizeof(text); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%llu", i ? " " : "",
			(unsigned long long)broker.sent[i]);
	ck_assert_str_eq(text, expected);
	broker.n_sent = 0;
}

/* --- the gateway's side ---------------------------------------------------------------------- */

static uint64_t acked[MAILBOX_SPAN]; /* told by the drain, not yet removed */
static size_t n_acked;
static char payload[100000];

static void append(unsigned n, uint8_t qos, size_t size)
{
	const struct message m = {
		.topic = "t",
		.topic_len = 1,
		.payload = payload,
		.payload_len = size - 1,
		.qos = qos,
	};
	uint64_t id;

	ck_assert_int_eq(queue_begin(q, true), 0);
	for (unsigned i = 0; i < n; i++)
		ck_assert_int_eq(queue_append(q, &m, 0, &id), 0);
	ck_assert_int_eq(queue_commit(q), 0);
	post_committed(queue_last_id(q));
}

static void remove_rows(uint64_t *ids, size_t n)
{
	ck_assert_int_eq(queue_begin(q, false), 0);
	ck_assert_int_eq(queue_remove(q, ids, n), 0);
	ck_assert_int_eq(queue_commit(q), 0);
}

static void remove_from(uint64_t first, uint64_t last)
{
	uint64_t *ids = calloc(last - first + 1, sizeof(*ids));

	for (uint64_t id = first; id <= last; id++)
		ids[id - first] = id;
	remove_rows(ids, last - first + 1);
	free(ids);
}

static void take_acked(void)
{
	n_acked += mailbox_take_acked(mailbox, acked + n_acked, n_acked);
}

/* Checks what the gateway has been told and not yet removed. */
static void expect_acked(const char *expected)
{
	static char text[1000];
	size_t len = 0;

	take_acked();
	text[0] = '\0';
	for (size_t i = 0; i < n_acked; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%llu", i ? " " : "",
			(unsigned long long)acked[i]);
	ck_assert_str_eq(text, expected);
}

/* Removes the first `n` of them, and says so. */
static void confirm(size_t n)
{
	uint64_t copy[MAILBOX_SPAN];

	ck_assert_uint_le(n, n_acked);
	memcpy(copy, acked, n * sizeof(*copy));
	remove_rows(copy, n);
	memmove(acked, acked + n, (n_acked - n) * sizeof(*acked));
	n_acked -= n;
	mailbox_post_removed(mailbox, n);
}

static void confirm_all(void)
{
	take_acked();
	confirm(n_acked);
}

/* Until there is nothing more to do. */
static void pump(void)
{
	int r;

	do {
		r = drain_pump(d);
		ck_assert_int_ge(r, 0);
	} while (r > 0);
}

static void note_condemned(void *userdata, uint64_t id, const char *reason)
{
	(void)userdata;
	broker.condemned[broker.n_condemned++] = id;
	snprintf(broker.reason, sizeof(broker.reason), "%s", reason);
}

static void note_held(void *userdata, uint64_t id, const char *reason)
{
	(void)userdata;
	(void)reason;
	broker.held_at = id;
}

static const struct drain_callbacks callbacks = {
	.publish = publish,
	.condemned = note_condemned,
	.held = note_held,
};

static void start_with(const struct window_params *window)
{
	char path[300];

	snprintf(path, sizeof(path), "%s", scratch_path(&scratch, "queue.db"));
	ck_assert_int_eq(queue_reader_new(&reader, path), 0);
	ck_assert_int_eq(drain_new(&d, reader, mailbox, window, &callbacks, &broker), 0);
	post_committed(queue_last_id(q));
	drain_connected(d, 0, 2);
}

static void start(unsigned inflight_max, size_t inflight_bytes)
{
	const struct window_params window = {
		.max_messages = inflight_max,
		.max_bytes = inflight_bytes,
	};

	start_with(&window);
}

static void setup(void)
{
	struct queue_params params;

	log_set_level(LOG_EMERG);
	scratch_make(&scratch);
	params = (struct queue_params){ .path = scratch_path(&scratch, "queue.db") };
	ck_assert_int_eq(queue_new(&q, &params), 0);
	ck_assert_int_eq(mailbox_new(&mailbox), 0);
	memset(&broker, 0, sizeof(broker));
	n_acked = 0;
}

static void teardown(void)
{
	d = drain_free(d);
	ck_assert_ptr_null(d);
	reader = queue_reader_free(reader);
	mailbox = mailbox_free(mailbox);
	q = queue_free(q, true);
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static struct figures_uplink figures(void)
{
	struct figures_uplink f;

	mailbox_get_figures(mailbox, &f);
	return f;
}

/* Everything there is goes out, is taken and removed. */
static void finish(void)
{
	struct figures_uplink f;

	for (int rounds = 0; queue_messages(q) > 0; rounds++) {
		ck_assert_int_lt(rounds, 100000);
		pump();
		for (unsigned mid = 1; mid <= UINT16_MAX; mid++) {
			if (broker.by_mid[mid])
				take(broker.by_mid[mid]);
		}
		drain_flush(d);
		confirm_all();
	}
	drain_flush(d);
	ck_assert_uint_eq(drain_inflight(d), 0);
	ck_assert_uint_eq(drain_inflight_session(d), 0);
	f = figures();
	ck_assert_uint_eq(f.delivered[0] + f.delivered[1] + f.delivered[2], drain_taken(d));
	ck_assert_uint_eq(f.inflight, 0);
}

/* --- the straight way ------------------------------------------------------------------------ */

START_TEST(test_free_takes_null)
{
	ck_assert_ptr_null(drain_free(NULL));
}
END_TEST

START_TEST(test_nothing_to_do)
{
	start(10, 1000);
	ck_assert_int_eq(drain_pump(d), 0);
	drain_flush(d);
	ck_assert_uint_eq(drain_inflight(d), 0);
	expect_sent("");
	expect_acked("");
}
END_TEST

START_TEST(test_in_order)
{
	append(3, 1, 10);
	append(1, 0, 10);
	append(2, 2, 10);
	start(10, 1000);
	pump();
	expect_sent("1 2 3 4 5 6");
	ck_assert_uint_eq(drain_inflight(d), 6);
	ck_assert_uint_eq(drain_inflight_session(d), 5);
	pump();
	expect_sent("");
	/* Answers come in any order, and the gateway hears of them in that one. */
	take(4);
	take(2);
	take(6);
	ck_assert_uint_eq(drain_inflight(d), 3);
	ck_assert_uint_eq(drain_inflight_session(d), 3);
	drain_flush(d);
	expect_acked("4 2 6");
	append(1, 1, 10);
	pump();
	expect_sent("7");
	take(1);
	pump();
	expect_acked("4 2 6 1");
	confirm(2);
	pump();
	finish();
}
END_TEST

static bool rung(void)
{
	struct pollfd p = { .fd = mailbox_uplink_fd(mailbox), .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* Removals wake nobody while messages come and go anyway; but without a connection what is claimed
 * is to be given back at once. */
START_TEST(test_removals_ring_without_a_connection)
{
	append(3, 1, 10);
	start(3, 1000);
	pump();
	take(1);
	drain_flush(d);
	mailbox_uplink_clear(mailbox);
	confirm_all();
	ck_assert(!rung());
	take(2);
	drain_flush(d);
	take_acked();
	lose_session();
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 2);
	confirm_all();
	ck_assert(rung());
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
	drain_connected(d, 0, 2);
	pump();
	take(3);
	drain_flush(d);
	confirm_all();
	drain_flush(d);
	ck_assert_uint_eq(queue_messages(q), 0);
}
END_TEST

/* Only what the gateway said is committed. */
START_TEST(test_not_beyond_what_is_committed)
{
	start(10, 1000);
	append(5, 1, 10);
	post_committed(3);
	pump();
	expect_sent("1 2 3");
	post_committed(5);
	pump();
	expect_sent("4 5");
}
END_TEST

START_TEST(test_window_of_messages)
{
	append(10, 1, 10);
	start(4, 1000);
	pump();
	expect_sent("1 2 3 4");
	take(3);
	pump();
	expect_sent("5");
	take(5);
	take(1);
	take(2);
	pump();
	expect_sent("6 7 8");
	ck_assert_uint_eq(drain_inflight(d), 4);
}
END_TEST

START_TEST(test_window_of_the_broker)
{
	append(10, 1, 10);
	start(4, 1000);
	drain_connected(d, 2, 2);
	pump();
	expect_sent("1 2");
	take(1);
	take(2);
	drain_connected(d, 65535, 2);
	pump();
	expect_sent("3 4 5 6");
}
END_TEST

/* Those behind wait, too: the order is kept. */
START_TEST(test_bound_of_qos2)
{
	append(1, 1, 10);
	append(3, 2, 10);
	append(1, 1, 10);
	start(10, 1000);
	drain_bound_qos2(d, 2);
	pump();
	expect_sent("1 2 3");
	take(1);
	pump();
	expect_sent("");
	take(2);
	pump();
	expect_sent("4 5");
	/* What is sent again counts. */
	lose_connection();
	drain_connected(d, 0, 2);
	append(1, 2, 10);
	take(5);
	ck_assert(drain_wait_no_more(d));
	pump();
	expect_sent("");
	take(3);
	pump();
	expect_sent("6");
	/* Sent with less, it is none. */
	lose_session();
	drain_connected(d, 0, 1);
	append(1, 2, 10);
	pump();
	expect_sent("4 6 7");
	finish();
}
END_TEST

START_TEST(test_window_of_bytes)
{
	append(3, 1, 40);
	append(1, 1, 20);
	append(2, 1, 1);
	start(100, 100);
	pump();
	expect_sent("1 2"); /* 3 does not fit; 4 would, and waits behind it */
	take(1);
	pump();
	expect_sent("3 4");
	pump();
	expect_sent("");
	take(4);
	pump();
	expect_sent("5 6");
}
END_TEST

START_TEST(test_one_too_large_goes_alone)
{
	append(1, 1, 10);
	append(1, 1, 5000);
	append(2, 1, 10);
	start(100, 100);
	pump();
	expect_sent("1");
	take(1);
	pump();
	expect_sent("2");
	pump();
	expect_sent("");
	take(2);
	pump();
	expect_sent("3 4");
}
END_TEST

/* One call does not keep the loop from its other work. */
START_TEST(test_pump_is_bounded)
{
	size_t calls = 0, most = 0;
	int r;

	append(3000, 1, 10);
	start(5000, 1 << 20);
	do {
		size_t before = broker.n_sent;

		r = drain_pump(d);
		calls++;
		if (broker.n_sent - before > most)
			most = broker.n_sent - before;
	} while (r > 0);
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(broker.n_sent, 3000);
	ck_assert_uint_gt(calls, 2);
	ck_assert_uint_lt(most, 3000);
}
END_TEST

START_TEST(test_qos0_acknowledged_inside)
{
	broker.acks_qos0_inside = true;
	append(2, 0, 10);
	append(1, 1, 10);
	append(3, 0, 10);
	start(1, 10);
	pump();
	expect_sent("1 2 3");
	expect_acked("1 2");
	ck_assert_uint_eq(drain_inflight(d), 1);
	take(3);
	pump();
	expect_sent("4 5 6");
	expect_acked("1 2 3 4 5 6");
	ck_assert_uint_eq(drain_inflight(d), 0);
	lose_session();
	drain_connected(d, 0, 2);
	pump();
	expect_sent("");
	finish();
}
END_TEST

/* --- figures --------------------------------------------------------------------------------- */

START_TEST(test_figures)
{
	struct figures_uplink f;

	append(1, 0, 10);
	append(4, 1, 10);
	append(1, 2, 10);
	start(4, 1000);
	drain_flush(d);
	ck_assert_uint_eq(figures().window, 4);
	ck_assert_uint_eq(figures().inflight, 0);
	ck_assert_uint_eq(figures().moved_usec, 0);
	pump();
	expect_sent("1 2 3 4");
	ck_assert_uint_eq(figures().inflight, 4);
	ck_assert_uint_gt(figures().moved_usec, 0);
	take(1);
	take(3);
	ck_assert_uint_eq(figures().delivered[1], 0); /* once a batch */
	mailbox_gateway_clear(mailbox);
	drain_flush(d);
	ck_assert_uint_eq(figures().delivered[0], 1);
	ck_assert_uint_eq(figures().delivered[1], 1);
	ck_assert_uint_eq(figures().inflight, 2);
	f = figures();
	ck_assert_double_gt(rate_get(&f.delivered_rate, now_boot_usec()), 0.1);
	/* Without a connection nothing is on its way, whatever the session holds. */
	lose_connection();
	drain_flush(d);
	ck_assert_uint_gt(drain_inflight_session(d), 0);
	ck_assert_uint_eq(figures().inflight, 0);
	ck_assert_uint_eq(figures().window, 0);
	/* With the next one it waits anew: the outage was no delay of the broker's. */
	f = figures();
	ck_assert_int_eq(usleep(2000), 0);
	drain_connected(d, 4, 2);
	drain_flush(d);
	ck_assert_uint_eq(figures().inflight, drain_inflight(d));
	ck_assert_uint_gt(figures().moved_usec, f.moved_usec);
	/* Sent with less, counted as what it was accepted with. */
	lose_session();
	drain_flush(d);
	ck_assert_uint_eq(figures().inflight, 0);
	ck_assert_uint_eq(figures().window, 0);
	drain_connected(d, 2, 1);
	finish();
	ck_assert_uint_eq(broker.qos_of[6], 1);
	ck_assert_uint_eq(figures().window, 2);
	ck_assert_uint_eq(figures().delivered[0], 1);
	ck_assert_uint_eq(figures().delivered[1], 4);
	ck_assert_uint_eq(figures().delivered[2], 1);
}
END_TEST

/* What holds it back though a connection stands. */
START_TEST(test_figures_of_brakes)
{
	const struct window_params window = { .max_bytes = 1 << 20, .max_rate = 100 };

	append(3, 1, 1000);
	start_with(&window);
	ck_assert_int_eq(figures().brake, FIGURES_BRAKE_NONE);
	pump();
	expect_sent("1");
	ck_assert_int_eq(figures().brake, FIGURES_BRAKE_RATE);
	broker.by_mid[broker.mid_of[1]] = 0;
	drain_published(d, broker.mid_of[1], FAILURE_MESSAGE_THROTTLED, "quota");
	pump();
	ck_assert_int_eq(figures().brake, FIGURES_BRAKE_THROTTLED);
	lose_connection();
	drain_flush(d);
	ck_assert_int_eq(figures().brake, FIGURES_BRAKE_NONE);
}
END_TEST

/* The rate counts them, too. */
START_TEST(test_qos0_pays_for_the_rate)
{
	const struct window_params window = { .max_bytes = 1 << 20, .max_rate = 100 };
	uint64_t before = now_usec();

	broker.acks_qos0_inside = true;
	append(3, 0, 50000);
	start_with(&window);
	pump();
	expect_sent("1"); /* a second may be saved up, and the next 499 are owed */
	expect_acked("1");
	ck_assert_uint_eq(drain_inflight(d), 0);
	ck_assert_uint_gt(drain_wake_usec(d), before + 400 * USEC_PER_SEC);
	ck_assert_uint_lt(drain_wake_usec(d), UINT64_MAX);
}
END_TEST

/* The library may get rid of an older message inside the call that hands it a new one. */
START_TEST(test_older_one_acknowledged_inside)
{
	append(2, 0, 10);
	start(10, 1000);
	post_committed(1);
	pump();
	post_committed(2);
	broker.answers_before = broker.mid_of[1];
	pump();
	expect_sent("1 2");
	expect_acked("1");
	ck_assert_uint_eq(drain_inflight(d), 1);
	take(2);
	drain_flush(d);
	expect_acked("1 2");
}
END_TEST

START_TEST(test_unknown_and_repeated_mids)
{
	uint16_t mid;

	append(2, 1, 10);
	start(10, 1000);
	ck_assert_uint_eq(published(0, true), 0);
	ck_assert_uint_eq(published(1, true), 0);
	ck_assert_uint_eq(published(65535, false), 0);
	pump();
	mid = broker.mid_of[1];
	ck_assert_uint_eq(published(0, true), 0);
	ck_assert_uint_eq(published(777, true), 0);
	take(1);
	ck_assert_uint_eq(published(mid, true), 0);
	ck_assert_uint_eq(published(mid, false), 0);
	drain_flush(d);
	expect_acked("1");
	confirm_all();
	drain_flush(d);
	ck_assert_uint_eq(published(mid, true), 0);
	ck_assert_uint_eq(drain_inflight(d), 1);
}
END_TEST

/* What was answered is told to the gateway whether or not there is a connection. */
START_TEST(test_flush_without_connection)
{
	append(3, 1, 10);
	start(10, 1000);
	pump();
	take(2);
	lose_connection();
	drain_flush(d);
	expect_acked("2");
	confirm_all();
	drain_flush(d);
	drain_connected(d, 0, 2);
	take(1);
	drain_flush(d);
	expect_acked("1");
}
END_TEST

/* --- gaps and bounds ------------------------------------------------------------------------- */

static const struct {
	unsigned rows;
	uint64_t first, last; /* of what is not there */
	const char *sent;
} gaps[] = {
	{ 5000, 2, 4999, "1 5000" },
	{ 5000, 1, 4999, "5000" },
	{ 5000, 2, 5000, "1" },
	{ 5000, 1, 5000, "" },
	{ 1030, 2, 1025, "1 1026 1027 1028 1029 1030" },
	{ 1026, 2, 1024, "1 1025 1026" },
	{ 2050, 3, 2048, "1 2 2049 2050" },
};

START_TEST(test_gaps)
{
	append(gaps[_i].rows, 1, 10);
	remove_from(gaps[_i].first, gaps[_i].last);
	start(10, 1000);
	pump();
	expect_sent(gaps[_i].sent);
	/* What comes then is seen as well, and the way back leads over the gap, too. */
	lose_session();
	drain_connected(d, 0, 2);
	pump();
	expect_sent(gaps[_i].sent);
	append(2, 1, 10);
	pump();
	ck_assert_uint_eq(broker.n_sent, 2);
	ck_assert_uint_eq(broker.sent[1], gaps[_i].rows + 2);
	finish();
}
END_TEST

/* As after a kill: the last id reserved is far above the last row. */
START_TEST(test_committed_beyond_the_last_row)
{
	append(2, 1, 10);
	start(10, 1000);
	post_committed(60000);
	pump();
	expect_sent("1 2");
	pump();
	finish();
}
END_TEST

/* Acknowledged rows whose removal does not come stop the drain; each that comes lets one go. */
START_TEST(test_ring_is_full)
{
	append(MAILBOX_SPAN + 500, 1, 10);
	start(MAILBOX_SPAN * 2, SIZE_MAX);
	pump();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN);
	ck_assert_uint_eq(drain_inflight(d), MAILBOX_SPAN);
	for (uint64_t id = MAILBOX_SPAN; id > 0; id--)
		take(id);
	pump();
	take_acked();
	ck_assert_uint_eq(n_acked, MAILBOX_SPAN);
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN);
	ck_assert_uint_eq(drain_inflight(d), 0);
	/* The ring is left from its old end; what is gone behind that does not count yet. */
	confirm(MAILBOX_SPAN - 100);
	pump();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN);
	confirm(1);
	pump();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN);
	confirm(99);
	pump();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN + 500);
	finish();
}
END_TEST

START_TEST(test_ring_is_full_and_moves)
{
	append(MAILBOX_SPAN + 500, 1, 10);
	start(MAILBOX_SPAN * 2, SIZE_MAX);
	pump();
	for (uint64_t id = 1; id <= MAILBOX_SPAN; id++)
		take(id);
	pump();
	take_acked();
	for (unsigned n = 1; n <= 5; n++) {
		confirm(10);
		pump();
		ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN + 10 * n);
	}
	/* Lost in a full ring. */
	lose_session();
	drain_connected(d, 0, 2);
	pump();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN + 100);
	finish();
}
END_TEST

/* 65,535 comes round several times. */
START_TEST(test_mids_come_round)
{
	uint64_t next = 1;

	start(300, SIZE_MAX);
	for (int round = 0; round < 34; round++) {
		append(2000, (uint8_t)(round % 3), 10);
		do {
			pump();
			ck_assert_uint_gt(drain_inflight(d), 0);
			for (size_t i = 0; i < broker.n_sent; i++)
				ck_assert_uint_eq(broker.sent[i], next + i);
			/* From behind, and not all of them. */
			for (size_t i = broker.n_sent; i > 0; i--)
				take(broker.sent[i - 1]);
			next += broker.n_sent;
			broker.n_sent = 0;
			drain_flush(d);
			confirm_all();
			drain_flush(d);
		} while (queue_messages(q) > 0);
	}
	ck_assert_uint_gt(broker.wraps, 0);
	ck_assert_uint_eq(next, 68001);
}
END_TEST

/* --- losses ---------------------------------------------------------------------------------- */

START_TEST(test_connection_lost)
{
	append(1, 1, 10);
	append(1, 0, 10);
	append(1, 2, 10);
	append(2, 0, 10);
	append(4, 1, 10);
	start(6, 1000);
	pump();
	expect_sent("1 2 3 4 5 6");
	take(4);
	lose_connection();
	ck_assert_uint_eq(drain_inflight(d), 3);
	ck_assert_uint_eq(drain_inflight_session(d), 3);
	drain_connected(d, 0, 2);
	/* The library is sending 1, 3 and 6 again; nothing else goes until they are through. */
	pump();
	expect_sent("");
	append(1, 1, 10);
	take(3);
	take(1);
	pump();
	expect_sent("");
	take(6);
	pump();
	expect_sent("2 5 7 8 9 10"); /* without 4, which was taken */
	finish();
	expect_sent("");
}
END_TEST

/* The same once more while what was lost is on its way again. */
START_TEST(test_connection_lost_again)
{
	append(6, 0, 10);
	append(2, 1, 10);
	start(4, 1000);
	pump();
	expect_sent("1 2 3 4");
	lose_connection();
	drain_connected(d, 0, 2);
	pump();
	expect_sent("1 2 3 4");
	take(1);
	take(3);
	lose_connection();
	drain_connected(d, 0, 2);
	pump();
	expect_sent("2 4 5 6");
	lose_connection();
	lose_connection();
	drain_connected(d, 0, 2);
	pump();
	expect_sent("2 4 5 6");
	take(4);
	pump();
	expect_sent("7");
	finish();
}
END_TEST

START_TEST(test_late_answer_for_a_lost_row)
{
	uint16_t mid;

	append(1, 0, 10);
	start(10, 1000);
	pump();
	mid = broker.mid_of[1];
	lose_connection();
	ck_assert_uint_eq(published(mid, true), 0);
	drain_connected(d, 0, 2);
	pump();
	expect_sent("1 1");
	ck_assert_uint_eq(published(mid, true), 0);
	ck_assert_uint_eq(drain_inflight(d), 1);
	take(1);
}
END_TEST

START_TEST(test_session_lost)
{
	append(8, 1, 10);
	start(6, 1000);
	pump();
	expect_sent("1 2 3 4 5 6");
	take(2);
	take(4);
	pump();
	expect_sent("7 8");
	lose_session();
	ck_assert_uint_eq(drain_inflight(d), 0);
	ck_assert_uint_eq(drain_inflight_session(d), 0);
	drain_connected(d, 0, 2);
	pump();
	/* Taken, but not yet removed: the rows are still in the queue, and are passed over. */
	expect_sent("1 3 5 6 7 8");
	expect_acked("2 4");
	take(1);
	take(3);
	pump();
	expect_acked("2 4 1 3");
	lose_session();
	drain_connected(d, 0, 2);
	confirm(3);
	pump();
	expect_sent("5 6 7 8");
	finish();
}
END_TEST

/* A session that is lost while its messages are being sent again. */
START_TEST(test_session_lost_in_the_replay)
{
	append(3, 1, 10);
	append(1, 0, 10);
	append(2, 1, 10);
	start(4, 1000);
	pump();
	expect_sent("1 2 3 4");
	lose_connection();
	drain_connected(d, 0, 2);
	take(2);
	pump();
	expect_sent("");
	lose_session();
	drain_connected(d, 0, 2);
	pump();
	expect_sent("1 3 4 5");
	finish();
}
END_TEST

START_TEST(test_refused_is_sent_again)
{
	append(6, 1, 10);
	start(4, 1000);
	pump();
	expect_sent("1 2 3 4");
	answer(2, false);
	ck_assert_uint_eq(drain_inflight(d), 3);
	pump();
	expect_sent("2");
	ck_assert_uint_eq(mailbox_claimed(mailbox) >= 4, 1);
	answer(2, false);
	take(3);
	pump();
	expect_sent("2 5");
	drain_flush(d);
	expect_acked("3");
	finish();
}
END_TEST

START_TEST(test_refused_inside)
{
	append(3, 1, 10);
	start(10, 1000);
	broker.refuses_inside = 2;
	pump();
	pump();
	expect_sent("1 2 3 2");
	ck_assert_uint_eq(drain_inflight(d), 3);
	drain_flush(d);
	expect_acked("");
	finish();
}
END_TEST

/* Rows that are under way stay claimed, wherever the cursor stands, and no other ones. */
START_TEST(test_claim_covers_what_was_sent)
{
	append(5000, 1, 10);
	remove_from(2, 4997);
	start(3, 1000);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
	pump();
	expect_sent("1 4998 4999");
	ck_assert_uint_eq(mailbox_claimed(mailbox), 4999);
	answer(1, false);
	pump();
	expect_sent("1");
	ck_assert_uint_eq(mailbox_claimed(mailbox), 4999);
	take(4999);
	answer(1, false);
	pump();
	expect_sent("1 5000");
	ck_assert_uint_eq(mailbox_claimed(mailbox), 5000);
	/* Until the gateway has removed it, too. */
	take(5000);
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 5000);
	confirm_all();
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 4998);
	finish();
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
}
END_TEST

/* What is lost is anybody's; what the library sends again by itself is not. */
START_TEST(test_claims_without_a_connection)
{
	append(3, 1, 10);
	append(2, 0, 10);
	append(2000, 1, 10);
	start(6, 1000);
	pump();
	expect_sent("1 2 3 4 5 6");
	ck_assert_uint_eq(mailbox_claimed(mailbox), 6);
	take(6);
	lose_connection();
	ck_assert_uint_eq(mailbox_claimed(mailbox), 6); /* it is taken, and not yet removed */
	drain_flush(d);
	confirm_all();
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 3);
	append(1, 1, 10);
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 3);
	lose_session();
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
	drain_connected(d, 0, 2);
	pump();
	expect_sent("1 2 3 4 5 7");
	ck_assert_uint_eq(mailbox_claimed(mailbox), 7);
	finish();
}
END_TEST

/* The gateway drops rows: nothing new goes meanwhile, nothing is lost, and it rings afterwards. */
START_TEST(test_frozen)
{
	append(6, 1, 10);
	start(3, 1000);
	ck_assert_uint_eq(mailbox_freeze(mailbox), 0);
	pump();
	expect_sent("");
	remove_from(2, 2);
	mailbox_thaw(mailbox);
	pump();
	expect_sent("1 3 4");
	take(3);
	ck_assert_uint_eq(mailbox_freeze(mailbox), 4);
	pump();
	expect_sent("");
	expect_acked("3"); /* what is done is told */
	remove_from(5, 5);
	mailbox_thaw(mailbox);
	pump();
	expect_sent("6");
	/* In the middle of a replay, too. */
	lose_session();
	drain_connected(d, 0, 2);
	ck_assert_uint_eq(mailbox_freeze(mailbox), 3);
	pump();
	expect_sent("1"); /* below row 3, which is not yet removed */
	remove_from(6, 6);
	mailbox_thaw(mailbox);
	append(1, 1, 10);
	pump();
	expect_sent("4 7");
	finish();
}
END_TEST

/* A ring full of rows that were lost and dropped does not stop those behind it. */
START_TEST(test_full_ring_dropped)
{
	append(MAILBOX_SPAN, 1, 10);
	start(MAILBOX_SPAN * 2, SIZE_MAX);
	pump();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN);
	lose_session();
	remove_from(1, MAILBOX_SPAN - 1 + (uint64_t)_i);
	append(3, 1, 10);
	broker.n_sent = 0;
	drain_connected(d, 0, 2);
	pump();
	expect_sent(_i ? "16385 16386 16387" : "16384 16385 16386 16387");
	finish();
}
END_TEST

/* No memory, say: nothing is lost, and it is tried again. */
START_TEST(test_publish_fails)
{
	append(4, 1, 10);
	start(10, 1000);
	broker.fails_at = 3;
	broker.fails_with = -ENOMEM;
	for (size_t i = 0; i < 3; i++) {
		ck_assert_int_eq(drain_pump(d), -ENOMEM);
		expect_sent(i ? "" : "1 2");
		ck_assert_uint_eq(drain_inflight(d), 2);
	}
	take(1);
	ck_assert_int_eq(drain_pump(d), -ENOMEM);
	expect_acked("1"); /* a failure does not keep back what is done */
	broker.fails_at = 0;
	pump();
	expect_sent("3 4");
	finish();
}
END_TEST

/* The same for a row that is sent again, in the middle of others. */
START_TEST(test_publish_fails_in_a_replay)
{
	append(5, 1, 10);
	start(10, 1000);
	pump();
	take(2);
	lose_session();
	drain_connected(d, 0, 2);
	broker.n_sent = 0;
	broker.fails_at = 3;
	broker.fails_with = -ENOMEM;
	ck_assert_int_eq(drain_pump(d), -ENOMEM);
	expect_sent("1");
	ck_assert_int_eq(drain_pump(d), -ENOMEM);
	lose_session();
	drain_connected(d, 0, 2);
	broker.fails_at = 0;
	pump();
	expect_sent("1 3 4 5");
	finish();
}
END_TEST

/* Taken by the library while the connection breaks: it sends it again, unless it is QoS 0. */
START_TEST(test_publish_in_a_breaking_connection)
{
	append(1, 1, 10);
	append(1, _i ? 1 : 0, 10);
	append(2, 1, 10);
	start(10, 1000);
	broker.breaks_at = 2;
	ck_assert_int_ge(drain_pump(d), 0);
	expect_sent("1 2"); /* and nothing more for now */
	ck_assert_uint_eq(drain_inflight(d), 2);
	broker.breaks_at = 0;
	lose_connection();
	drain_connected(d, 0, 2);
	ck_assert_uint_eq(drain_inflight(d), _i ? 2 : 1);
	pump();
	expect_sent("");
	take(1);
	if (_i)
		take(2);
	pump();
	expect_sent(_i ? "3 4" : "2 3 4");
	finish();
}
END_TEST

static const struct {
	const char *what;
	uint64_t first, last; /* removed by somebody else */
	const char *sent;
} dropped[] = {
	{ "the first", 1, 1, "2 3 4 5" },
	{ "in the middle", 2, 3, "1 4 5" },
	{ "the last", 5, 5, "1 2 3 4" },
	{ "all", 1, 5, "" },
};

START_TEST(test_lost_rows_dropped_by_somebody_else)
{
	append(5, 1, 10);
	start(2000, 1 << 20);
	pump();
	broker.n_sent = 0;
	lose_session();
	drain_connected(d, 0, 2);
	remove_from(dropped[_i].first, dropped[_i].last);
	pump();
	expect_sent(dropped[_i].sent);
	append(2, 1, 10);
	pump();
	expect_sent("6 7");
	finish();
	expect_acked("");
	/* Their places in the ring are free again. */
	append(MAILBOX_SPAN, 1, 10);
	drain_connected(d, 0, 2);
	finish();
	ck_assert_uint_eq(broker.n_sent, MAILBOX_SPAN);
}
END_TEST

/* A queue that cannot be read is an error that passes. */
START_TEST(test_unreadable_queue)
{
	sqlite3 *db;

	append(3, 1, 10);
	start(10, 1000);
	ck_assert_int_eq(sqlite3_open(scratch_path(&scratch, "queue.db"), &db), SQLITE_OK);
	ck_assert_int_eq(
		sqlite3_exec(db, "ALTER TABLE queue RENAME TO hidden", NULL, NULL, NULL), 0);
	ck_assert_int_lt(drain_pump(d), 0);
	ck_assert_int_lt(drain_pump(d), 0);
	expect_sent("");
	ck_assert_int_eq(
		sqlite3_exec(db, "ALTER TABLE hidden RENAME TO queue", NULL, NULL, NULL), 0);
	sqlite3_close(db);
	pump();
	expect_sent("1 2 3");
}
END_TEST

/* --- messages nobody takes ------------------------------------------------------------------- */

static void refuse(uint64_t id)
{
	uint16_t mid = broker.mid_of[id];

	broker.by_mid[mid] = 0;
	ck_assert_uint_eq(
		drain_published(d, mid, FAILURE_MESSAGE_REFUSED, "it does not please"), id);
}

/* The peer closes; true: the session is given up. */
static bool closed(void)
{
	bool give_up = drain_connection_lost(d, true);

	forget(give_up);
	if (give_up)
		drain_session_lost(d);
	return give_up;
}

static void expect_condemned(const char *ids)
{
	struct mailbox_condemned rows[MAILBOX_CONDEMNED];
	size_t n = mailbox_take_condemned(mailbox, rows, 0);
	char text[200] = "";

	ck_assert_uint_eq(n, broker.n_condemned);
	for (size_t i = 0; i < n; i++) {
		size_t used = strlen(text);

		snprintf(text + used, sizeof(text) - used, "%s%llu", i ? " " : "",
			(unsigned long long)rows[i].id);
		ck_assert_uint_eq(rows[i].id, broker.condemned[i]);
		ck_assert_str_ne(rows[i].reason, "");
	}
	ck_assert_str_eq(text, ids);
	mailbox_post_buried(mailbox, n);
	broker.n_condemned = 0;
}

static const int final_errors[] = { -EINVAL, -EMSGSIZE, -EOPNOTSUPP };

/* What the library will never take goes to dead_letters, and the rows behind it go out. */
START_TEST(test_final_refusal)
{
	append(4, 1, 10);
	start(10, 1000);
	broker.fails_at = 2;
	broker.fails_with = final_errors[_i];
	pump();
	expect_sent("1 3 4");
	ck_assert_str_eq(broker.reason, "not for this library");
	expect_condemned("2");
	ck_assert_uint_eq(drain_inflight(d), 3);
	expect_acked("2");
	finish();
}
END_TEST

START_TEST(test_refused_twice)
{
	append(5, 1, 10);
	start(3, 1000);
	pump();
	expect_sent("1 2 3");
	refuse(2);
	pump();
	expect_sent(""); /* alone: first the others */
	take(3);
	pump();
	expect_sent("");
	ck_assert_uint_eq(figures().suspect, 2);
	take(1);
	pump();
	expect_sent("2");
	refuse(2);
	expect_condemned("2");
	ck_assert_str_eq(broker.reason, "it does not please");
	pump();
	ck_assert_uint_eq(figures().suspect, 0);
	ck_assert_uint_eq(figures().delivered[1], 2); /* dead letters are not */
	expect_sent("4 5");
	finish();
}
END_TEST

START_TEST(test_refused_once)
{
	append(4, 1, 10);
	start(2, 1000);
	pump();
	expect_sent("1 2");
	refuse(1);
	take(2);
	pump();
	expect_sent("1");
	take(1);
	pump();
	expect_sent("3 4");
	expect_condemned("");
	finish();
}
END_TEST

/* A suspect that is gone from the queue does not hold up the others. */
START_TEST(test_suspect_vanishes)
{
	append(4, 1, 10);
	start(2, 1000);
	pump();
	refuse(1);
	take(2);
	remove_from(1, 1);
	pump();
	expect_sent("1 2 3 4");
	expect_condemned("");
	take(3);
	take(4);
	drain_flush(d);
	expect_acked("2 3 4");
}
END_TEST

static void connect_again(void)
{
	drain_connected(d, 0, 2);
	pump();
}

/* Held, and dropped to make room: the next one takes its place. */
START_TEST(test_held_suspect_vanishes)
{
	append(6, 1, 10);
	start(1, 1000);
	for (uint64_t id = 1; id <= TRIAL_IN_A_ROW + 1; id++) {
		pump();
		refuse(id);
		pump();
		refuse(id);
	}
	ck_assert(drain_is_held(d));
	drain_flush(d);
	confirm_all();
	drain_flush(d);
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
	remove_from(4, 4);
	broker.n_sent = 0;
	pump();
	expect_sent("");
	drain_release(d);
	pump();
	expect_sent("5");
	take(5);
	pump();
	expect_sent("6");
	finish();
}
END_TEST

/* Brought to the last look at row 2, which is not in flight: the connection without it lives. */
static void bring_to_the_last_death(void)
{
	append(4, 1, 10);
	start(10, 1000);
	pump();
	take(1);
	for (unsigned i = 0; i < TRIAL_BARREN; i++) {
		ck_assert(!closed());
		connect_again();
	}
	ck_assert(closed());
	connect_again();
	for (unsigned i = 0; i < TRIAL_DEATHS; i++) {
		ck_assert(closed());
		connect_again();
		if (i + 1 < TRIAL_DEATHS) {
			drain_alive(d);
			pump();
		}
	}
	drain_flush(d);
	confirm_all();
	drain_flush(d);
	broker.n_sent = 0;
	expect_condemned("");
	ck_assert(drain_wants_sign_of_life(d));
	ck_assert_uint_eq(mailbox_claimed(mailbox), 0);
}

static const struct {
	uint64_t first, last; /* dropped meanwhile */
	bool frozen;
	const char *condemned, *sent;
} last_deaths[] = {
	{ 1, 0, false, "2", "3 4" },
	{ 1, 0, true, "2", "3 4" },
	{ 2, 2, false, "", "3 4" },
	{ 2, 2, true, "", "3 4" },
	{ 2, 3, true, "", "4" },
	{ 2, 4, false, "", "" },
};

/* One that is dropped before its verdict is not condemned, and not counted as if it were. */
START_TEST(test_suspect_vanishes_before_the_verdict)
{
	bring_to_the_last_death();
	if (last_deaths[_i].frozen) {
		mailbox_freeze(mailbox);
		drain_alive(d);
		expect_condemned("");
	}
	if (last_deaths[_i].first <= last_deaths[_i].last)
		remove_from(last_deaths[_i].first, last_deaths[_i].last);
	if (last_deaths[_i].frozen)
		mailbox_thaw(mailbox);
	else
		drain_alive(d);
	pump();
	ck_assert(!drain_wants_sign_of_life(d));
	expect_condemned(last_deaths[_i].condemned);
	expect_sent(last_deaths[_i].sent);
	append(1, 1, 10);
	pump();
	expect_sent("5");
	finish();
}
END_TEST

/* A broker that closes on row 2, whatever else is sent. */
START_TEST(test_closed_on)
{
	append(4, 1, 10);
	start(10, 1000);
	pump();
	expect_sent("1 2 3 4");
	take(1);
	for (unsigned i = 0; i < TRIAL_BARREN; i++) {
		ck_assert(!closed());
		connect_again();
		expect_sent(""); /* the library sends again by itself */
	}
	ck_assert(closed());
	for (unsigned i = 0; i < TRIAL_DEATHS; i++) {
		if (i == 0)
			connect_again();
		expect_sent("2"); /* alone */
		ck_assert(closed());
		ck_assert(drain_wants_sign_of_life(d));
		connect_again();
		expect_sent(""); /* without it */
		expect_condemned("");
		drain_alive(d);
		ck_assert(!drain_wants_sign_of_life(d));
		pump();
	}
	expect_condemned("2");
	expect_sent("3 4");
	finish();
}
END_TEST

/* Timeouts, half-open links: nobody closes. However often, nobody is to blame. */
START_TEST(test_lost_is_not_closed)
{
	append(3, 1, 10);
	start(10, 1000);
	pump();
	for (unsigned i = 0; i < 50; i++) {
		lose_connection();
		connect_again();
	}
	expect_sent("1 2 3");
	expect_condemned("");
	finish();
}
END_TEST

/* The end of a connection on which nothing moved any more; see drain_passed_over(). */
static bool stalled(bool passed_over)
{
	ck_assert_int_eq(drain_passed_over(d), passed_over);
	if (passed_over)
		return closed();
	lose_connection();
	return false;
}

/* Several that the broker never answers, as if they did not concern it: one after the other is put
 * on trial, as long as it answers what comes behind them. */
START_TEST(test_several_passed_over)
{
	append(3, 1, 10);
	start(10, 1000);
	pump();
	take(3);
	ck_assert(!stalled(true));
	for (uint64_t id = 4; id < 4 + TRIAL_BARREN; id++) {
		connect_again();
		ck_assert(drain_wait_no_more(d));
		append(1, 1, 10);
		pump();
		take(id);
		ck_assert_int_eq(stalled(true), id + 1 == 4 + TRIAL_BARREN);
	}
	connect_again();
	broker.n_sent = 0;
	for (unsigned i = 0; i < TRIAL_DEATHS; i++) {
		ck_assert(stalled(true));
		connect_again();
		expect_condemned("");
		drain_alive(d);
		pump();
	}
	expect_condemned("1");
	ck_assert_str_eq(broker.reason, "broker never answers it");
	finish();
}
END_TEST

/* A line that goes dead with much on its way says nothing of any of it: nothing behind the oldest
 * was answered. */
START_TEST(test_dead_line_passes_nothing_over)
{
	append(9, 1, 10);
	start(10, 1000);
	pump();
	for (uint64_t id = 1; id <= 7; id++) {
		take(id);
		ck_assert(!stalled(false));
		connect_again();
	}
	finish();
}
END_TEST

/* Access rules that went wrong do not eat the backlog. */
START_TEST(test_held)
{
	append(10, 1, 10);
	start(1, 1000);
	for (uint64_t id = 1; id <= TRIAL_IN_A_ROW; id++) {
		pump();
		refuse(id);
		pump();
		refuse(id);
	}
	expect_condemned("1 2 3");
	pump();
	refuse(4);
	pump();
	ck_assert(!drain_is_held(d));
	refuse(4);
	ck_assert(drain_is_held(d));
	ck_assert_uint_eq(broker.held_at, 4);
	expect_condemned("");
	broker.n_sent = 0;
	pump();
	expect_sent("");
	/* It goes on when it is told to, with the same row. */
	drain_release(d);
	pump();
	expect_sent("4");
	refuse(4);
	ck_assert(drain_is_held(d));
	drain_release(d);
	pump();
	expect_sent("4");
	take(4);
	pump();
	expect_sent("5");
	expect_condemned("");
	finish();
}
END_TEST

/* No more than the gateway can write down. */
START_TEST(test_no_room_for_the_condemned)
{
	struct mailbox_condemned rows[MAILBOX_CONDEMNED];

	append(4, 1, 10);
	for (uint64_t id = 101; id <= 100 + MAILBOX_CONDEMNED; id++)
		mailbox_post_condemned(mailbox, id, "another");
	start(10, 1000);
	broker.fails_at = 2;
	broker.fails_with = -EMSGSIZE;
	pump();
	expect_sent("1");
	ck_assert_uint_eq(broker.n_condemned, 0);
	ck_assert_uint_eq(mailbox_take_condemned(mailbox, rows, 0), (size_t)MAILBOX_CONDEMNED);
	mailbox_post_buried(mailbox, MAILBOX_CONDEMNED);
	pump();
	expect_sent("3 4");
	expect_condemned("2");
	finish();
}
END_TEST

/* Nor is the same row refused over and over while there is no room. */
START_TEST(test_no_room_for_the_refused)
{
	struct mailbox_condemned rows[MAILBOX_CONDEMNED];

	append(2, 1, 10);
	for (uint64_t id = 101; id <= 100 + MAILBOX_CONDEMNED; id++)
		mailbox_post_condemned(mailbox, id, "another");
	start(10, 1000);
	pump();
	expect_sent("1 2");
	refuse(1);
	take(2);
	pump();
	expect_sent("");
	ck_assert_uint_eq(drain_wake_usec(d), UINT64_MAX); /* the gateway rings */
	ck_assert_uint_eq(mailbox_take_condemned(mailbox, rows, 0), (size_t)MAILBOX_CONDEMNED);
	mailbox_post_buried(mailbox, MAILBOX_CONDEMNED);
	pump();
	expect_sent("1");
	refuse(1);
	expect_condemned("1");
	finish();
}
END_TEST

/* The broker wants less: what it gave back waits, and nothing is condemned. */
START_TEST(test_throttled)
{
	uint64_t before = now_usec();

	append(4, 1, 10);
	start(10, 1000);
	pump();
	expect_sent("1 2 3 4");
	for (uint64_t id = 1; id <= 4; id++) {
		uint16_t mid = broker.mid_of[id];

		broker.by_mid[mid] = 0;
		drain_published(d, mid, FAILURE_MESSAGE_THROTTLED, "quota");
	}
	pump();
	expect_sent("");
	ck_assert_uint_gt(drain_wake_usec(d), before);
	while (now_usec() < drain_wake_usec(d) && drain_wake_usec(d) != UINT64_MAX)
		usleep(1000);
	pump();
	expect_sent("1"); /* less at a time than before */
	ck_assert_uint_eq(drain_wake_usec(d), UINT64_MAX);
	expect_condemned("");
	finish();
}
END_TEST

START_TEST(test_qos_is_lowered)
{
	append(2, 2, 10);
	start(10, 1000);
	connection_lost();
	drain_connected(d, 0, 1);
	pump();
	expect_sent("1 2");
	ck_assert_uint_eq(broker.qos_of[1], 1);
	ck_assert_uint_eq(drain_inflight_session(d), 2);
	lose_session();
	drain_connected(d, 0, 0);
	pump();
	ck_assert_uint_eq(broker.qos_of[1], 0);
	ck_assert_uint_eq(drain_inflight_session(d), 0);
	finish();
}
END_TEST

/* --- a model --------------------------------------------------------------------------------- */

enum row_state {
	ROW_NONE,
	ROW_WAITING, /* to be sent, for the first time or again */
	ROW_SENT,
	ROW_TAKEN,
	ROW_REMOVED,
	ROW_DROPPED,
};

static struct {
	uint64_t random;
	enum row_state rows[MAX_ROWS];
	bool old[MAX_ROWS]; /* in flight since an earlier connection */
	uint64_t last; /* row */
	uint64_t first_waiting; /* no row below waits */
	uint64_t highest_sent;
	uint64_t taken[MAX_ROWS]; /* in the order taken */
	size_t n_taken, n_told;
	unsigned in_flight, session, n_old;
	size_t bytes;
	unsigned window;
	size_t window_bytes;
	bool connected;
	bool breaking;
	unsigned sends, again, losses, refusals, errors, drops;
} model;

static uint64_t below(uint64_t n)
{
	return scratch_random(&model.random) % n;
}

static uint64_t first_waiting(void)
{
	while (model.first_waiting <= model.last && model.rows[model.first_waiting] != ROW_WAITING)
		model.first_waiting++;
	return model.first_waiting;
}

/* Whatever is sent is the oldest row that waits, and there is room for it. */
static void model_on_send(const struct message *m)
{
	ck_assert(model.connected && !model.breaking);
	ck_assert_uint_eq(m->id, first_waiting());
	ck_assert_uint_eq(model.n_old, 0);
	ck_assert_uint_lt(model.in_flight, model.window);
	ck_assert(model.in_flight == 0 || model.bytes + message_size(m) <= model.window_bytes);
	if (below(60) == 0) {
		broker.fails_at = m->id;
		broker.fails_with = -ENOMEM;
		return;
	}
	broker.fails_at = 0;
	broker.breaks_at = below(60) == 0 ? m->id : 0;
	model.breaking = broker.breaks_at != 0;
	broker.acks_qos0_inside = below(2);
	model.sends++;
	model.again += m->id <= model.highest_sent;
	if (m->id > model.highest_sent)
		model.highest_sent = m->id;
	if (m->qos == 0 && broker.acks_qos0_inside) {
		/* The library has written it, so it is not breaking yet. */
		broker.breaks_at = 0;
		model.breaking = false;
		model.rows[m->id] = ROW_TAKEN;
		model.taken[model.n_taken++] = m->id;
		return;
	}
	model.rows[m->id] = ROW_SENT;
	model.in_flight++;
	model.session += m->qos > 0;
	model.bytes += message_size(m);
}

static void leave_flight(uint64_t id, enum row_state to)
{
	ck_assert_int_eq(model.rows[id], ROW_SENT);
	model.rows[id] = to;
	model.in_flight--;
	model.session -= broker.qos_of[id] > 0;
	model.bytes -= broker.size_of[id];
	model.n_old -= model.old[id];
	model.old[id] = false;
	if (to == ROW_WAITING && id < model.first_waiting)
		model.first_waiting = id;
}

static void model_append(void)
{
	static const size_t sizes[] = { 1, 10, 10, 10, 100, 900, 5000 };
	unsigned n = (unsigned)below(12) + 1;

	append(n, (uint8_t)below(3), sizes[below(ARRAY_SIZE(sizes))]);
	for (uint64_t id = queue_last_id(q) - n + 1; id <= queue_last_id(q); id++)
		model.rows[id] = ROW_WAITING;
	model.last = queue_last_id(q);
	ck_assert_uint_lt(model.last, MAX_ROWS);
}

/* No row that is in flight, or taken and not removed, is above what is claimed. */
static void model_check_claims(bool exactly)
{
	uint64_t id = model.last;

	while (id > 0 && model.rows[id] != ROW_SENT && model.rows[id] != ROW_TAKEN)
		id--;
	if (exactly)
		ck_assert_uint_eq(mailbox_claimed(mailbox), id);
	else
		ck_assert_uint_ge(mailbox_claimed(mailbox), id);
}

static void model_pump(void)
{
	int r;

	if (!model.connected || model.breaking)
		return;
	r = drain_pump(d);
	ck_assert(r >= 0 || (r == -ENOMEM && broker.fails_at));
	model.errors += r < 0;
	broker.fails_at = 0;
	model_check_claims(true);
}

static void model_answer(bool taken)
{
	uint16_t mid = (uint16_t)below(UINT16_MAX);

	if (model.in_flight == 0)
		return;
	while (broker.by_mid[mid] == 0)
		mid++;
	if (taken)
		model.taken[model.n_taken++] = broker.by_mid[mid];
	else
		model.refusals++;
	leave_flight(broker.by_mid[mid], taken ? ROW_TAKEN : ROW_WAITING);
	answer(broker.by_mid[mid], taken);
}

static void model_lose(bool session)
{
	for (uint64_t id = 1; id <= model.last; id++) {
		if (model.rows[id] != ROW_SENT)
			continue;
		if (session || broker.qos_of[id] == 0)
			leave_flight(id, ROW_WAITING);
	}
	if (session)
		lose_session();
	else
		lose_connection();
	model.connected = model.breaking = false;
	model.losses++;
}

static void model_connect(void)
{
	if (model.connected)
		return;
	model.connected = true;
	model.n_old = 0;
	for (uint64_t id = 1; id <= model.last; id++) {
		model.old[id] = model.rows[id] == ROW_SENT;
		model.n_old += model.old[id];
	}
	drain_connected(d, model.window, 2);
}

/* The gateway hears of each row once, in the order in which they were taken. */
static void model_take_acked(void)
{
	size_t before = n_acked;

	take_acked();
	for (size_t i = before; i < n_acked; i++)
		ck_assert_uint_eq(acked[i], model.taken[model.n_told++]);
}

static void model_confirm(size_t n)
{
	uint64_t messages = queue_messages(q);

	for (size_t i = 0; i < n; i++)
		model.rows[acked[i]] = ROW_REMOVED;
	confirm(n);
	/* Each was still there: nobody had dropped it. */
	ck_assert_uint_eq(messages - n, queue_messages(q));
}

/* The gateway drops the oldest rows that are not claimed, or others in the middle. */
static void model_drop(bool oldest)
{
	uint64_t id = mailbox_freeze(mailbox) + 1, last;

	model_check_claims(false);
	/* The uplink does not wait for it. */
	if (below(2))
		model_pump();
	if (!oldest)
		id += below(20);
	last = id + below(oldest ? 30 : 3);
	for (; id <= last && id <= model.last; id++) {
		if (model.rows[id] != ROW_WAITING)
			continue;
		remove_from(id, id);
		model.rows[id] = ROW_DROPPED;
		model.drops++;
	}
	mailbox_thaw(mailbox);
}

static void model_unknown_mid(void)
{
	uint16_t mid = (uint16_t)below(UINT16_MAX + 1);

	if (broker.by_mid[mid] == 0)
		ck_assert_uint_eq(published(mid, below(2)), 0);
}

static void model_step(void)
{
	switch (below(16)) {
	case 0:
	case 1: model_append(); break;
	case 2:
	case 3:
	case 4: model_pump(); break;
	case 5:
	case 6:
	case 7:
	case 8:
	case 9: model_answer(true); break;
	case 10:
		if (below(4) == 0)
			model_answer(false);
		break;
	case 11:
		if (model.breaking || below(6) == 0)
			model_lose(below(3) == 0);
		break;
	case 12: model_connect(); break;
	case 13:
		model_take_acked();
		model_confirm(below(n_acked + 1));
		break;
	case 14:
		drain_flush(d);
		model_check_claims(true);
		break;
	case 15:
		model_unknown_mid();
		if (below(4) == 0)
			model_drop(below(2));
		break;
	}
	model_check_claims(false);
	ck_assert_uint_eq(drain_inflight(d), model.in_flight);
	ck_assert_uint_eq(drain_inflight_session(d), model.session);
}

static void model_finish(void)
{
	for (int rounds = 0; queue_messages(q) > 0; rounds++) {
		ck_assert_int_lt(rounds, 100000);
		if (model.breaking)
			model_lose(false);
		model_connect();
		model_pump();
		while (model.in_flight > 0)
			model_answer(true);
		drain_flush(d);
		model_take_acked();
		model_confirm(n_acked);
	}
}

static const struct {
	unsigned window;
	size_t bytes;
} models[] = { { 1, 1000 }, { 3, 100 }, { 20, 2000 }, { 20, 200 }, { 500, 100000 } };

START_TEST(test_model)
{
	memset(&model, 0, sizeof(model));
	model.random = 100 + (uint64_t)_i;
	model.window = models[_i].window;
	model.window_bytes = models[_i].bytes;
	model.first_waiting = 1;
	broker.on_send = model_on_send;
	/* So that mids come round. */
	broker.next_mid = 64000;
	start(model.window, model.window_bytes);
	connection_lost();
	for (int step = 0; step < 6000; step++)
		model_step();
	model_finish();

	ck_assert_uint_eq(drain_inflight(d), 0);
	ck_assert_uint_eq(model.n_told, model.n_taken);
	for (uint64_t id = 1; id <= model.last; id++)
		ck_assert(model.rows[id] == ROW_REMOVED || model.rows[id] == ROW_DROPPED);
	/* Once each: a row that was taken is never in flight again, so never taken again. */
	ck_assert_uint_ge(model.sends, model.n_taken);
	/* It did see some weather. */
	ck_assert_uint_gt(model.n_taken, 500);
	ck_assert_uint_gt(model.again, 20);
	ck_assert_uint_gt(model.losses, 20);
	ck_assert_uint_gt(model.refusals, 20);
	ck_assert_uint_gt(model.errors, 5);
	ck_assert_uint_gt(model.drops, 100);
}
END_TEST

Suite *check_drain(void)
{
	Suite *s = suite_create("drain");
	TCase *t = tcase_create("straight");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_free_takes_null);
	tcase_add_test(t, test_nothing_to_do);
	tcase_add_test(t, test_in_order);
	tcase_add_test(t, test_removals_ring_without_a_connection);
	tcase_add_test(t, test_not_beyond_what_is_committed);
	tcase_add_test(t, test_window_of_messages);
	tcase_add_test(t, test_window_of_the_broker);
	tcase_add_test(t, test_bound_of_qos2);
	tcase_add_test(t, test_window_of_bytes);
	tcase_add_test(t, test_one_too_large_goes_alone);
	tcase_add_test(t, test_pump_is_bounded);
	tcase_add_test(t, test_qos0_acknowledged_inside);
	tcase_add_test(t, test_figures);
	tcase_add_test(t, test_figures_of_brakes);
	tcase_add_test(t, test_qos0_pays_for_the_rate);
	tcase_add_test(t, test_older_one_acknowledged_inside);
	tcase_add_test(t, test_unknown_and_repeated_mids);
	tcase_add_test(t, test_flush_without_connection);
	suite_add_tcase(s, t);

	t = tcase_create("bounds");
	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_gaps, 0, ARRAY_SIZE(gaps));
	tcase_add_test(t, test_committed_beyond_the_last_row);
	tcase_add_test(t, test_ring_is_full);
	tcase_add_test(t, test_ring_is_full_and_moves);
	tcase_add_test(t, test_mids_come_round);
	suite_add_tcase(s, t);

	t = tcase_create("losses");
	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_connection_lost);
	tcase_add_test(t, test_connection_lost_again);
	tcase_add_test(t, test_late_answer_for_a_lost_row);
	tcase_add_test(t, test_session_lost);
	tcase_add_test(t, test_session_lost_in_the_replay);
	tcase_add_test(t, test_refused_is_sent_again);
	tcase_add_test(t, test_refused_inside);
	tcase_add_test(t, test_claim_covers_what_was_sent);
	tcase_add_test(t, test_claims_without_a_connection);
	tcase_add_test(t, test_frozen);
	tcase_add_loop_test(t, test_full_ring_dropped, 0, 2);
	tcase_add_test(t, test_publish_fails);
	tcase_add_test(t, test_publish_fails_in_a_replay);
	tcase_add_loop_test(t, test_publish_in_a_breaking_connection, 0, 2);
	tcase_add_loop_test(t, test_lost_rows_dropped_by_somebody_else, 0, ARRAY_SIZE(dropped));
	tcase_add_test(t, test_unreadable_queue);
	suite_add_tcase(s, t);

	t = tcase_create("refusals");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, test_final_refusal, 0, ARRAY_SIZE(final_errors));
	tcase_add_test(t, test_refused_twice);
	tcase_add_test(t, test_refused_once);
	tcase_add_test(t, test_suspect_vanishes);
	tcase_add_test(t, test_held_suspect_vanishes);
	tcase_add_loop_test(
		t, test_suspect_vanishes_before_the_verdict, 0, ARRAY_SIZE(last_deaths));
	tcase_add_test(t, test_closed_on);
	tcase_add_test(t, test_lost_is_not_closed);
	tcase_add_test(t, test_several_passed_over);
	tcase_add_test(t, test_dead_line_passes_nothing_over);
	tcase_add_test(t, test_held);
	tcase_add_test(t, test_no_room_for_the_condemned);
	tcase_add_test(t, test_no_room_for_the_refused);
	tcase_add_test(t, test_throttled);
	tcase_add_test(t, test_qos_is_lowered);
	suite_add_tcase(s, t);

	t = tcase_create("model");
	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_model, 0, ARRAY_SIZE(models));
	suite_add_tcase(s, t);
	return s;
}
