/* SPDX-License-Identifier: MIT */
/*
 * When rows were stamped: which of them by a clock that nobody had set, and what their timestamps
 * should have been. Owns the table unset_clock and the key `clock` of meta.
 *
 * Invariants:
 * - A row and its part of a run are written in the same transaction, and so are a row's correction
 *   and its leaving the run: none is missed, and none corrected twice.
 * - The open run holds no row that has a timestamp of its own, or was stamped by a right clock.
 * - What the table says of it may reach beyond its last row, up to the ids that are reserved, so
 *   that not every commit has to write it. It is cut before a row that is none of its own gets such
 *   an id, in the same transaction; and none does after a crash, since a process begins beyond what
 *   the one before had reserved.
 *
 * Must not know when anything expires.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#include "log.h"
#include "queue_internal.h"

/* Where a sandbox hides the kernel's file, the service manager tells. */
#define BOOT_ID_ENV  "MQTTGW_BOOT_ID"
#define BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"

/* Less is within what two readings of a clock may differ by. */
#define JUMP_MSEC 1000
/* So long may a row have waited for its transaction. One that is older was not stamped by the clock
 * that was announced. */
#define STALE_MSEC 3700000

/* Of one step of queue_correct(). */
#define STEP_ROWS  1000
#define STEP_BYTES (1024 * 1024)
#define STEP_RUNS  100

static const char *const age_sql[N_QUEUE_AGE_STATEMENTS] = {
	[QUEUE_AGE_SET_RUN] = "INSERT INTO unset_clock (first_id, last_id, offset_msec, boot_id) "
			      "VALUES (?1, ?2, ?3, ?4) ON CONFLICT (first_id) DO UPDATE SET "
			      "last_id = excluded.last_id",
	[QUEUE_AGE_PRUNE_RUNS] = "DELETE FROM unset_clock WHERE first_id IN "
				 "(SELECT first_id FROM unset_clock ORDER BY first_id LIMIT ?1) "
				 "AND last_id < (SELECT id FROM queue ORDER BY id LIMIT 1)",
	[QUEUE_AGE_OLDEST_RUN] = "SELECT first_id, last_id, offset_msec, boot_id FROM unset_clock "
				 "ORDER BY first_id LIMIT 1",
	[QUEUE_AGE_RUN_BEFORE] = "SELECT last_id FROM unset_clock WHERE first_id <= ?1 "
				 "ORDER BY first_id DESC LIMIT 1",
	[QUEUE_AGE_REMOVE_RUN] = "DELETE FROM unset_clock WHERE first_id = ?1",
	[QUEUE_AGE_MOVE_RUN] = "UPDATE unset_clock SET first_id = ?2, offset_msec = ?3, "
			       "boot_id = ?4 WHERE first_id = ?1",
	[QUEUE_AGE_YOUNGEST] = "SELECT timestamp FROM queue WHERE id BETWEEN ?1 AND ?2 "
			       "ORDER BY id DESC LIMIT 1",
	/* The length comes from the row's header. */
	[QUEUE_AGE_SIZES] = "SELECT id, length(payload) FROM queue WHERE id BETWEEN ?1 AND ?2 "
			    "ORDER BY id LIMIT ?3",
	[QUEUE_AGE_CORRECT] =
		/* A row whose time would not fit any more keeps the one it has. */
	"UPDATE queue SET timestamp = timestamp + ?3 "
	"WHERE id BETWEEN ?1 AND ?2 AND typeof(timestamp + ?3) = 'integer'",
	[QUEUE_AGE_TIMESTAMPS] =
		"SELECT id, timestamp, length(payload) FROM queue WHERE id > ?1 AND id <= ?2 "
		"ORDER BY id LIMIT ?3",
};

/* --- statements ------------------------------------------------------------------------------ */

int queue_age_failed(struct queue *q, enum queue_age_statement s, int rc)
{
	int r = queue_sql_fail(q->db, rc, age_sql[s]);

	sqlite3_reset(q->age.statements[s]);
	return r;
}

int queue_age_bind(struct queue *q, enum queue_age_statement s, int64_t a, int64_t b, int64_t c)
{
	const int64_t values[] = { a, b, c };
	sqlite3_stmt *stmt = q->age.statements[s];
	int n = sqlite3_bind_parameter_count(stmt), rc = SQLITE_OK;

	for (int i = 0; i < n && i < 3 && rc == SQLITE_OK; i++)
		rc = sqlite3_bind_int64(stmt, i + 1, values[i]);
	return rc == SQLITE_OK ? 0 : queue_age_failed(q, s, rc);
}

/* The statement's fourth parameter, where it has one. */
static int bind_boot(struct queue *q, enum queue_age_statement s)
{
	int rc = sqlite3_bind_text(q->age.statements[s], 4, q->age.boot_id, -1, SQLITE_STATIC);

	return rc == SQLITE_OK ? 0 : queue_age_failed(q, s, rc);
}

/* One that returns no row. */
static int run(struct queue *q, enum queue_age_statement s)
{
	int rc = sqlite3_step(q->age.statements[s]);

	if (rc != SQLITE_DONE)
		return queue_age_failed(q, s, rc);
	sqlite3_reset(q->age.statements[s]);
	return 0;
}

/* The first row's first column. 1 and *ret, 0 without a row. */
static int get_integer(struct queue *q, enum queue_age_statement s, int64_t *ret)
{
	sqlite3_stmt *stmt = q->age.statements[s];
	int rc = sqlite3_step(stmt);

	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return queue_age_failed(q, s, rc);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(stmt, 0);
	sqlite3_reset(stmt);
	return rc == SQLITE_ROW;
}

/* --- this boot ------------------------------------------------------------------------------- */

/* 32 hexadecimal digits, with or without dashes. */
static bool is_boot_id(const char *s)
{
	size_t digits = 0;

	for (; *s; s++) {
		if (*s != '-' && !isxdigit((unsigned char)*s))
			return false;
		digits += *s != '-';
	}
	return digits == 32;
}

static bool read_boot_id(char *buf, size_t size)
{
	_cleanup_(closep) int fd = open(BOOT_ID_PATH, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, buf, size - 1) : -1;

	if (n <= 0)
		return false;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return is_boot_id(buf);
}

/* Without a name for this boot, only this process knows its own rows. */
static void find_boot_id(struct queue_age *a)
{
	const char *told = getenv(BOOT_ID_ENV);
	uint64_t bits = 0;

	a->boot_known = true;
	if (told && strlen(told) < sizeof(a->boot_id) && is_boot_id(told)) {
		strcpy(a->boot_id, told);
		return;
	}
	if (read_boot_id(a->boot_id, sizeof(a->boot_id)))
		return;
	a->boot_known = false;
	if (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		bits = now_usec();
	snprintf(a->boot_id, sizeof(a->boot_id), "process-%016" PRIx64, bits);
	log_info("the boot's id is not known: name it in $" BOOT_ID_ENV ", or have " BOOT_ID_PATH
		 " readable; until then trust in the clock ends with "
		 "this process");
}

static int read_note(struct queue *q)
{
	_cleanup_(freep) char *sql = NULL;
	struct queue_age *a = &q->age;
	int r;

	if (asprintf(&sql,
		    "SELECT CAST(substr(value, %zu) AS INTEGER) FROM meta WHERE key = 'clock' "
		    "AND substr(value, 1, %zu) = '%s '",
		    strlen(a->boot_id) + 2, strlen(a->boot_id) + 1, a->boot_id) < 0) {
		sql = NULL;
		return -ENOMEM;
	}
	r = queue_sql_integer(q->db, sql, &a->noted.offset_msec);
	a->noted.trusted = r == 0;
	return r == -ENODATA ? 0 : r;
}

int queue_age_open(struct queue *q)
{
	int r = 0;

	find_boot_id(&q->age);
	for (size_t i = 0; i < N_QUEUE_AGE_STATEMENTS && r == 0; i++)
		r = queue_sql_prepare(q->db, age_sql[i], &q->age.statements[i]);
	if (r < 0)
		return r;
	queue_expire_open(q);
	return read_note(q);
}

void queue_age_close(struct queue *q)
{
	for (size_t i = 0; i < N_QUEUE_AGE_STATEMENTS; i++)
		sqlite3_finalize(q->age.statements[i]);
}

/* --- the clock ------------------------------------------------------------------------------- */

static bool is_jump(int64_t a, int64_t b)
{
	return a - b >= JUMP_MSEC || b - a >= JUMP_MSEC;
}

void queue_set_clock(struct queue *q, const struct clock *clock)
{
	struct queue_age *a = &q->age;

	a->clock = *clock;
	a->has_clock = true;
	if (clock->trusted && a->boot_known &&
		(!a->noted.trusted || is_jump(clock->offset_msec, a->noted.offset_msec)))
		a->note_wanted = true;
}

bool queue_get_clock(const struct queue *q, struct clock *ret)
{
	if (q->age.noted.trusted)
		*ret = q->age.noted;
	return q->age.noted.trusted;
}

/* --- runs ------------------------------------------------------------------------------------ */

static int write_run(struct queue *q, uint64_t last)
{
	struct queue_run *u = &q->age.run;
	int r;

	if (!u->open || u->stored == last)
		return 0;
	r = queue_age_bind(q, QUEUE_AGE_SET_RUN, (int64_t)u->first, (int64_t)last, u->offset_msec);
	if (r == 0)
		r = bind_boot(q, QUEUE_AGE_SET_RUN);
	if (r == 0)
		r = run(q, QUEUE_AGE_SET_RUN);
	if (r == 0)
		u->stored = last;
	return r;
}

/* Where rows of two kinds take turns, runs are short, and are written once. */
static int extend_run(struct queue *q)
{
	const struct queue_run *u = &q->age.run;

	if (u->stored >= u->last)
		return 0;
	return write_run(q, u->stored == 0 ? u->last : u64_max(u->last, q->reserved));
}

static int end_run(struct queue *q)
{
	int r = write_run(q, q->age.run.last);

	if (r == 0)
		q->age.run.open = false;
	return r;
}

int queue_age_end(struct queue *q)
{
	return end_run(q);
}

static int begin_run(struct queue *q, uint64_t id, int64_t offset)
{
	int r = end_run(q);

	if (r < 0)
		return r;
	q->age.run =
		(struct queue_run){ .first = id, .last = id, .offset_msec = offset, .open = true };
	/* A clock that is never set must not fill the disk with runs of rows that have left: each
	 * new one takes up to two old ones along. */
	r = queue_age_bind(q, QUEUE_AGE_PRUNE_RUNS, 2, 0, 0);
	return r < 0 ? r : run(q, QUEUE_AGE_PRUNE_RUNS);
}

void queue_age_begin(struct queue *q)
{
	q->age.boot_msec = (int64_t)(now_boot_usec() / USEC_PER_MSEC);
}

/* Whether the clock that was announced stamped the row within the time `most`, in milliseconds,
 * before or a moment after it was looked at. */
static bool is_fresh(const struct queue_age *a, int64_t timestamp, int64_t moment, int64_t most)
{
	int64_t age;

	return !__builtin_sub_overflow(a->boot_msec + a->clock.offset_msec, timestamp, &age) &&
		age >= -moment && age <= most;
}

/* The row was stamped by the gateway. */
static int append_stamped(struct queue *q, const struct message *m, uint64_t id)
{
	struct queue_age *a = &q->age;
	int64_t offset = a->clock.offset_msec;
	bool stale = false;

	/* A reading of a moment ago will do for most rows. */
	if (!is_fresh(a, m->timestamp, JUMP_MSEC / 2, STALE_MSEC / 2)) {
		queue_age_begin(q);
		stale = !is_fresh(a, m->timestamp, JUMP_MSEC, STALE_MSEC);
	}
	if (stale && __builtin_sub_overflow(m->timestamp, a->boot_msec, &offset))
		offset = 0;
	if (a->clock.trusted && !stale)
		return end_run(q);
	if (!a->run.open || is_jump(offset, a->run.offset_msec))
		return begin_run(q, id, offset);
	a->run.last = id;
	return 0;
}

int queue_age_append(struct queue *q, const struct message *m, uint64_t id)
{
	int r = 0;

	queue_expire_append(q, id, m->timestamp);
	if (q->age.has_clock)
		r = m->own_timestamp ? end_run(q) : append_stamped(q, m, id);
	/* This is not about the row. */
	return r == -EINVAL || r == -EMSGSIZE || r == -ENOBUFS ? -EIO : r;
}

static int write_note(struct queue *q)
{
	struct queue_age *a = &q->age;
	char text[sizeof(a->boot_id) + 24];
	int r;

	if (!a->note_wanted)
		return 0;
	snprintf(text, sizeof(text), "%s %" PRId64, a->boot_id, a->clock.offset_msec);
	r = queue_set_meta(q, "clock", text);
	a->note_written = r == 0;
	return r;
}

int queue_age_commit(struct queue *q)
{
	int r = extend_run(q);

	return r < 0 ? r : write_note(q);
}

void queue_age_committed(struct queue *q)
{
	struct queue_age *a = &q->age;

	a->run_committed = a->run;
	if (a->note_written) {
		a->noted = a->clock;
		a->note_wanted = a->note_written = false;
	}
	if (q->messages == 0)
		queue_expire_open(q);
}

void queue_age_rolled_back(struct queue *q)
{
	q->age.run = q->age.run_committed;
	q->age.note_written = false;
}

int queue_age_is_unset(struct queue *q, uint64_t id)
{
	int64_t last = 0;
	int r;

	r = queue_age_bind(q, QUEUE_AGE_RUN_BEFORE, (int64_t)id, 0, 0);
	if (r == 0)
		r = get_integer(q, QUEUE_AGE_RUN_BEFORE, &last);
	return r < 0 ? r : r > 0 && (uint64_t)last >= id;
}

/* --- correction ------------------------------------------------------------------------------ */

struct stored_run {
	int64_t first, last, offset_msec;
	bool of_this_boot;
};

/* 1 and *ret, 0 when there is none. */
static int oldest_run(struct queue *q, struct stored_run *ret)
{
	sqlite3_stmt *stmt = q->age.statements[QUEUE_AGE_OLDEST_RUN];
	int rc = sqlite3_step(stmt);

	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return queue_age_failed(q, QUEUE_AGE_OLDEST_RUN, rc);
	if (rc == SQLITE_ROW) {
		const char *boot = (const char *)sqlite3_column_text(stmt, 3);

		*ret = (struct stored_run){
			.first = sqlite3_column_int64(stmt, 0),
			.last = sqlite3_column_int64(stmt, 1),
			.offset_msec = sqlite3_column_int64(stmt, 2),
			.of_this_boot = boot && streq(boot, q->age.boot_id),
		};
	}
	sqlite3_reset(stmt);
	return rc == SQLITE_ROW;
}

static int move_run(struct queue *q, struct stored_run *u, int64_t first)
{
	int r;

	r = queue_age_bind(q, QUEUE_AGE_MOVE_RUN, u->first, first, u->offset_msec);
	if (r == 0)
		r = bind_boot(q, QUEUE_AGE_MOVE_RUN);
	if (r == 0)
		r = run(q, QUEUE_AGE_MOVE_RUN);
	u->first = first;
	return r;
}

static int remove_run(struct queue *q, const struct stored_run *u)
{
	int r = queue_age_bind(q, QUEUE_AGE_REMOVE_RUN, u->first, 0, 0);

	return r < 0 ? r : run(q, QUEUE_AGE_REMOVE_RUN);
}

/*
 * A run of an earlier boot becomes one of this boot, stamped by a clock that showed the time of the
 * youngest row when this boot began: from then on each step finds the same distance to shift by.
 */
static int adopt_run(struct queue *q, struct stored_run *u)
{
	int64_t youngest = 0;
	int r;

	r = queue_age_bind(q, QUEUE_AGE_YOUNGEST, u->first, u->last, 0);
	if (r == 0)
		r = get_integer(q, QUEUE_AGE_YOUNGEST, &youngest);
	if (r < 0)
		return r;
	u->offset_msec = youngest;
	return move_run(q, u, u->first);
}

/* What one step has done so far. */
struct step {
	unsigned rows;
	int64_t bytes;
};

static bool may_go_on(const struct step *s)
{
	return s->rows < STEP_ROWS && s->bytes < STEP_BYTES;
}

/* Which rows of the run the step may still take: up to *ret_last. 1, or 0 when none is left. */
static int measure(struct queue *q, const struct stored_run *u, struct step *s, int64_t *ret_last)
{
	sqlite3_stmt *stmt = q->age.statements[QUEUE_AGE_SIZES];
	unsigned before = s->rows;
	int rc = SQLITE_DONE, r;

	r = queue_age_bind(q, QUEUE_AGE_SIZES, u->first, u->last, STEP_ROWS);
	if (r < 0)
		return r;
	while (may_go_on(s) && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		*ret_last = sqlite3_column_int64(stmt, 0);
		s->bytes += sqlite3_column_int64(stmt, 1);
		s->rows++;
	}
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return queue_age_failed(q, QUEUE_AGE_SIZES, rc);
	sqlite3_reset(stmt);
	return s->rows > before;
}

static int correct_part(struct queue *q, struct stored_run *u, struct step *s)
{
	int64_t last = u->last;
	int r;

	r = measure(q, u, s, &last);
	if (r < 0)
		return r;
	if (r == 0)
		return remove_run(q, u);
	r = queue_age_bind(
		q, QUEUE_AGE_CORRECT, u->first, last, q->age.clock.offset_msec - u->offset_msec);
	if (r == 0)
		r = run(q, QUEUE_AGE_CORRECT);
	if (r < 0)
		return r;
	queue_expire_forget(q, (uint64_t)last);
	return last >= u->last ? remove_run(q, u) : move_run(q, u, last + 1);
}

static int correct_step(struct queue *q, bool *ret_more)
{
	struct step s = { 0 };
	struct stored_run u;
	int r = 1;

	for (unsigned i = 0; i < STEP_RUNS && may_go_on(&s); i++) {
		r = oldest_run(q, &u);
		if (r <= 0)
			break;
		/* -fanalyzer: what is positive has set it. */
		if (!u.of_this_boot)
			r = adopt_run(q, &u);
		if (r >= 0)
			r = correct_part(q, &u, &s);
		if (r < 0)
			return r;
		r = 1;
	}
	*ret_more = r > 0;
	return r < 0 ? r : 0;
}

int queue_correct(struct queue *q)
{
	struct stored_run u;
	bool more = false;
	int r;

	if (!q->age.clock.trusted)
		return 0;
	r = oldest_run(q, &u);
	if (r <= 0)
		return r;
	r = queue_begin(q, false);
	if (r < 0)
		return r;
	/* It is about to change on disk: the next row of its kind begins another. */
	r = end_run(q);
	if (r == 0)
		r = correct_step(q, &more);
	if (r < 0) {
		queue_rollback(q);
		return r;
	}
	r = queue_commit(q);
	return r < 0 ? r : more;
}
