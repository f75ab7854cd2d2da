/* SPDX-License-Identifier: MIT */
/*
 * Tests of rot: each kind of damage, done to real files; what is carried over, what is set aside,
 * and setting aside that was cut short. And the whole check, which is to find what was done.
 *
 * What a row holds follows from its id, so that any row can be compared with what it was.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>

#include "ask.h"
#include "log.h"
#include "queue.h"
#include "queue_check.h"
#include "queue_reader.h"
#include "queue_sql.h"
#include "scratch.h"
#include "suites.h"

#define PAGE	 4096
#define ROOT	 3 /* of the table queue: the first table, behind the first page of the map */
#define MANY	 10000
#define MAX_ROWS 20000

static struct scratch scratch;
static struct queue *q;

/* --- helpers ---------------------------------------------------------------------------------- */

static void setup(void)
{
	scratch_make(&scratch);
	log_set_level(LOG_EMERG); /* all of this damage is on purpose */
}

static void teardown(void)
{
	q = queue_free(q, false);
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static const char *path_of(const char *name)
{
	return scratch_path(&scratch, name);
}

static unsigned n_alive;

static void on_alive(void *userdata)
{
	ck_assert_ptr_eq(userdata, &n_alive);
	n_alive++;
}

static int try_open(bool rotten)
{
	const struct queue_params params = { .path = path_of("queue.db"),
		.sync_full = true,
		.rotten = rotten,
		.alive = on_alive,
		.userdata = &n_alive };

	return queue_new(&q, &params);
}

static void open_queue(void)
{
	ck_assert_ptr_null(q);
	ck_assert_int_eq(try_open(false), 0);
}

static void close_queue(void)
{
	q = queue_free(q, true);
}

static char payload_text[70000];
static char topic_text[40];

static struct message message_of(uint64_t id, size_t size)
{
	uint64_t state = id;
	size_t len = 12 + (size_t)(scratch_random(&state) % size);

	snprintf(topic_text, sizeof(topic_text), "site/%llu/x", (unsigned long long)id % 1000);
	snprintf(payload_text, sizeof(payload_text), "row-%06llu|", (unsigned long long)id);
	for (size_t i = 11; i < len; i++)
		payload_text[i] = (char)scratch_random(&state);
	return (struct message){ .id = id,
		.topic = topic_text,
		.topic_len = strlen(topic_text),
		.payload = payload_text,
		.payload_len = len,
		.qos = (uint8_t)(id % 3),
		.retain = id % 2,
		.timestamp = 1700000000000 + (int64_t)id };
}

static void append(unsigned n, size_t size)
{
	ck_assert_int_eq(queue_begin(q, true), 0);
	for (unsigned i = 0; i < n; i++) {
		uint64_t next = queue_last_id(q) + 1 + i, id = 0;
		const struct message m = message_of(next, size);

		ck_assert_int_eq(queue_append(q, &m, 0, &id), 0);
		ck_assert_uint_eq(id, next);
	}
	ck_assert_int_eq(queue_commit(q), 0);
}

static void remove_upto(uint64_t last)
{
	uint64_t *ids = calloc(last, sizeof(*ids));

	for (uint64_t i = 0; i < last; i++)
		ids[i] = i + 1;
	ck_assert_int_eq(queue_begin(q, false), 0);
	ck_assert_int_eq(queue_remove(q, ids, last), 0);
	ck_assert_int_eq(queue_commit(q), 0);
	free(ids);
}

static void make_queue(unsigned n, size_t size)
{
	open_queue();
	append(n, size);
	close_queue();
}

static sqlite3 *connect_to(const char *name)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path_of(name), &db), SQLITE_OK);
	return db;
}

static void execute(const char *name, const char *sql)
{
	sqlite3 *db = connect_to(name);

	ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql,
		sqlite3_errmsg(db));
	sqlite3_close(db);
}

static int64_t ask(const char *name, const char *sql)
{
	sqlite3 *db = connect_to(name);
	int64_t answer = ask_database(db, sql);

	sqlite3_close(db);
	return answer;
}

static uint8_t *read_whole(const char *name, size_t *ret_len)
{
	FILE *f = fopen(path_of(name), "r");
	struct stat st;
	uint8_t *bytes;

	ck_assert_msg(f != NULL, "%s", name);
	ck_assert_int_eq(fstat(fileno(f), &st), 0);
	*ret_len = (size_t)st.st_size;
	bytes = malloc(*ret_len + 1);
	ck_assert_uint_eq(fread(bytes, 1, *ret_len, f), *ret_len);
	fclose(f);
	return bytes;
}

static void write_whole(const char *name, const void *bytes, size_t len)
{
	FILE *f = fopen(path_of(name), "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(bytes, 1, len, f), len);
	ck_assert_int_eq(fclose(f), 0);
}

static void copy_file(const char *from, const char *to)
{
	size_t len;
	uint8_t *bytes = read_whole(from, &len);

	write_whole(to, bytes, len);
	free(bytes);
}

static bool exists(const char *name)
{
	return access(path_of(name), F_OK) == 0;
}

/* The files as a killed process would leave them; our own locks on them do not matter any more. */
static void kill_queue(void)
{
	copy_file("queue.db", "copy.db");
	copy_file("queue.db-wal", "copy.db-wal");
	close_queue();
	ck_assert_int_eq(rename(path_of("copy.db"), path_of("queue.db")), 0);
	ck_assert_int_eq(rename(path_of("copy.db-wal"), path_of("queue.db-wal")), 0);
}

/* The name of the one database that was set aside, or NULL. Static memory. */
static const char *aside(const char *suffix)
{
	static char name[300];
	struct dirent *e;
	DIR *d = opendir(scratch.dir);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d)) != NULL) {
		size_t len = strlen(e->d_name);
		const char *dash = strrchr(e->d_name, '-');

		if (strncmp(e->d_name, "queue.db.corrupt-", 17) != 0)
			continue;
		if (suffix[0] ? len > strlen(suffix) &&
					streq(e->d_name + len - strlen(suffix), suffix)
			      : dash == e->d_name + 16) {
			snprintf(name, sizeof(name), "%s", e->d_name);
			n++;
		}
	}
	closedir(d);
	ck_assert_uint_le(n, 1);
	return n == 1 ? name : NULL;
}

static void expect_aside(const uint8_t *bytes, size_t len)
{
	const char *name = aside("");
	uint8_t *found;
	size_t found_len;

	ck_assert_ptr_nonnull(name);
	found = read_whole(name, &found_len);
	ck_assert_uint_eq(found_len, len);
	ck_assert_msg(memcmp(found, bytes, len) == 0, "the bytes set aside changed");
	free(found);
}

/* --- what is in a queue ----------------------------------------------------------------------- */

struct found {
	size_t size; /* of message_of() */
	uint8_t state[MAX_ROWS + 1]; /* 1: as it was, 2: different */
	uint64_t intact, different, strange; /* strange: of an id that never was */
	uint64_t last;
};

static struct found found;

static int take_row(void *userdata, const struct message *m)
{
	struct found *f = userdata;
	struct message was;

	ck_assert_uint_gt(m->id, f->last);
	f->last = m->id;
	if (m->id > MAX_ROWS) {
		f->strange++;
		return 0;
	}
	was = message_of(m->id, f->size);
	if (m->topic_len == was.topic_len && memcmp(m->topic, was.topic, was.topic_len) == 0 &&
		m->payload_len == was.payload_len &&
		memcmp(m->payload, was.payload, was.payload_len) == 0 && m->qos == was.qos &&
		m->retain == was.retain && m->timestamp == was.timestamp) {
		f->state[m->id] = 1;
		f->intact++;
	} else {
		f->state[m->id] = 2;
		f->different++;
	}
	return 0;
}

/* Reads all rows there are. 0 or -errno. */
static int read_rows(size_t size)
{
	struct queue_reader *reader = NULL;
	int r;

	found = (struct found){ .size = size };
	r = queue_reader_new(&reader, path_of("queue.db"));
	if (r == 0)
		r = queue_reader_rows(reader, 0, INT64_MAX, 1000000, take_row, &found);
	queue_reader_free(reader);
	return r;
}

static void count_finding(void *userdata, const char *text)
{
	ck_assert_uint_gt(strlen(text), 0);
	++*(unsigned *)userdata;
}

static unsigned findings_of(const char *name)
{
	unsigned n = 0;
	int r = queue_check_whole(path_of(name), count_finding, &n, NULL);

	ck_assert_int_eq(r, n > 0);
	return n;
}

/* The queue is whole, works, and gives no id twice. */
static void expect_sound(uint64_t rows)
{
	uint64_t id = 0, last = queue_last_id(q);
	const struct message m = message_of(1, 10);

	ck_assert_uint_eq(queue_messages(q), rows);
	ck_assert_uint_eq(findings_of("queue.db"), 0);
	ck_assert_int_eq(queue_begin(q, true), 0);
	ck_assert_int_eq(queue_append(q, &m, 0, &id), 0);
	ck_assert_int_eq(queue_commit(q), 0);
	ck_assert_uint_gt(id, last);
	ck_assert_uint_gt(id, found.last);
	ck_assert_uint_eq(queue_messages(q), rows + 1);
	ck_assert(!exists("queue.db.new"));
}

/* --- kinds of damage -------------------------------------------------------------------------- */

static void damage(uint64_t offset, const void *bytes, size_t n)
{
	int fd = open(path_of("queue.db"), O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, bytes, n, (off_t)offset), (ssize_t)n);
	close(fd);
}

static void damage_random(uint64_t offset, size_t n)
{
	static uint8_t bytes[2 * PAGE];
	uint64_t state = offset;

	ck_assert_uint_le(n, sizeof(bytes));
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)scratch_random(&state);
	damage(offset, bytes, n);
}

static void damage_zero(uint64_t offset, size_t n)
{
	static const uint8_t zeroes[2 * PAGE];

	ck_assert_uint_le(n, sizeof(zeroes));
	damage(offset, zeroes, n);
}

/* The `n`th page of a kind, from 1, told by its first byte. */
static uint64_t page_of_kind(uint8_t kind, unsigned n)
{
	size_t len;
	uint8_t *bytes = read_whole("queue.db", &len);
	uint64_t offset = 0;

	for (size_t at = 2 * PAGE; at < len && offset == 0; at += PAGE) {
		if (bytes[at] == kind && --n == 0)
			offset = at;
	}
	free(bytes);
	ck_assert_uint_gt(offset, 0);
	return offset;
}

static unsigned count_pages(uint8_t kind)
{
	size_t len;
	uint8_t *bytes = read_whole("queue.db", &len);
	unsigned n = 0;

	for (size_t at = 2 * PAGE; at < len; at += PAGE)
		n += bytes[at] == kind;
	free(bytes);
	return n;
}

/* Of a row's payload. */
static uint64_t place_of(uint64_t id)
{
	char marker[32];
	size_t len;
	uint8_t *bytes = read_whole("queue.db", &len), *at;
	uint64_t offset;

	snprintf(marker, sizeof(marker), "row-%06llu|", (unsigned long long)id);
	at = memmem(bytes, len, marker, strlen(marker));
	ck_assert_ptr_nonnull(at);
	offset = (uint64_t)(at - bytes);
	free(bytes);
	return offset;
}

static uint64_t page_of_row(uint64_t id)
{
	return place_of(id) / PAGE * PAGE;
}

static void random_header(void)
{
	damage_random(0, 100);
}

static void no_magic(void)
{
	damage_zero(0, 1);
}

static void no_first_page(void)
{
	damage_zero(0, PAGE);
}

static void random_first_page(void)
{
	damage_random(0, PAGE);
}

static void no_schema(void)
{
	damage_random(100, PAGE - 100);
}

static void unknown_write_version(void)
{
	damage(18, "\x03", 1);
}

static void unknown_schema_format(void)
{
	damage(47, "\x63", 1);
}

static void random_root(void)
{
	damage_random((ROOT - 1) * PAGE, PAGE);
}

static void no_root(void)
{
	damage_zero((ROOT - 1) * PAGE, PAGE);
}

static void root_and_header(void)
{
	random_header();
	random_root();
}

static void random_map(void)
{
	damage_random(PAGE, PAGE);
}

static void no_map(void)
{
	damage_zero(PAGE, PAGE);
}

static void random_leaf(void)
{
	damage_random(page_of_row(5000), PAGE);
}

static void no_leaf(void)
{
	damage_zero(page_of_row(5000), PAGE);
}

static void half_a_leaf(void)
{
	damage_random(page_of_row(5000) + PAGE / 2, PAGE / 2);
}

static void leaf_header(void)
{
	damage_random(page_of_row(5000), 8);
}

static void leaf_pointers(void)
{
	damage_random(page_of_row(5000) + 8, 16);
}

static void first_leaf(void)
{
	damage_random(page_of_row(1), PAGE);
}

static void last_leaf(void)
{
	damage_random(page_of_row(MANY), PAGE);
}

static void three_leaves(void)
{
	damage_random(page_of_row(2000), PAGE);
	damage_zero(page_of_row(5000), PAGE);
	damage_random(page_of_row(8000), PAGE);
}

static void no_meta(void)
{
	damage_zero(page_of_kind(0x0a, 1), PAGE);
}

static void wrong_counts(void)
{
	execute("queue.db", "UPDATE meta SET value = 'many' WHERE key = 'queue_messages'");
}

static void no_uuid(void)
{
	execute("queue.db", "DELETE FROM meta WHERE key = 'queue_uuid'");
}

static void no_sequence(void)
{
	execute("queue.db", "DELETE FROM sqlite_sequence");
}

static void low_sequence(void)
{
	execute("queue.db", "UPDATE sqlite_sequence SET seq = 9000");
}

static void cut_in_half(void)
{
	struct stat st;

	ck_assert_int_eq(stat(path_of("queue.db"), &st), 0);
	ck_assert_int_eq(truncate(path_of("queue.db"), st.st_size / 2), 0);
}

static void cut_by_one(void)
{
	struct stat st;

	ck_assert_int_eq(stat(path_of("queue.db"), &st), 0);
	ck_assert_int_eq(truncate(path_of("queue.db"), st.st_size - 1), 0);
}

static void version_0(void)
{
	execute("queue.db", "PRAGMA user_version = 0");
}

static void version_minus_1(void)
{
	execute("queue.db", "PRAGMA user_version = -1");
}

static void another_column(void)
{
	execute("queue.db", "ALTER TABLE queue ADD COLUMN note TEXT");
}

static void other_column_name(void)
{
	execute("queue.db", "ALTER TABLE dead_letters RENAME COLUMN reason TO cause");
}

static void no_dead_letters(void)
{
	execute("queue.db", "DROP TABLE dead_letters");
}

static void bad_first_row(void)
{
	execute("queue.db",
		"PRAGMA ignore_check_constraints = ON; UPDATE queue SET qos = 7 WHERE id = 1");
}

static void bad_last_row(void)
{
	execute("queue.db",
		"PRAGMA ignore_check_constraints = ON;"
		"UPDATE queue SET payload = 'text' WHERE id = 10000");
}

static void bad_middle_rows(void)
{
	execute("queue.db",
		"PRAGMA ignore_check_constraints = ON;"
		"UPDATE queue SET payload = 'text' WHERE id = 4000;"
		"UPDATE queue SET qos = 7 WHERE id = 4100;"
		"UPDATE queue SET topic = '' WHERE id = 4200;"
		"UPDATE queue SET topic = x'41' WHERE id = 4300;"
		"UPDATE queue SET topic = 'a' || char(0) || 'b' WHERE id = 4350;"
		"UPDATE queue SET retained = 2 WHERE id = 4400;"
		"UPDATE queue SET timestamp = 'now' WHERE id = 4500;"
		"UPDATE queue SET timestamp = 1.5 WHERE id = 4600");
}

static const struct {
	const char *what;
	void (*damage)(void);
	bool at_start; /* the look at the start finds it */
	unsigned pages; /* rows of so many leaves may be lost */
	unsigned rows; /* so many rows are lost exactly, when no pages */
} kinds[] = {
	{ "random header", random_header, true, 0, 0 },
	{ "no magic", no_magic, true, 0, 0 },
	{ "no first page", no_first_page, true, 0, 0 },
	{ "random first page", random_first_page, true, 0, 0 },
	{ "random schema", no_schema, true, 0, 0 },
	{ "unknown write version", unknown_write_version, true, 0, 0 },
	{ "unknown schema format", unknown_schema_format, true, 0, 0 },
	{ "random root", random_root, true, 0, 0 },
	{ "no root", no_root, true, 0, 0 },
	{ "random root and header", root_and_header, true, 0, 0 },
	{ "random map", random_map, false, 0, 0 },
	{ "no map", no_map, false, 0, 0 },
	{ "random leaf", random_leaf, false, 1, 0 },
	{ "no leaf", no_leaf, false, 1, 0 },
	{ "half a leaf", half_a_leaf, false, 1, 0 },
	{ "header of a leaf", leaf_header, false, 1, 0 },
	{ "pointers of a leaf", leaf_pointers, false, 1, 0 },
	{ "first leaf", first_leaf, true, 1, 0 },
	{ "last leaf", last_leaf, true, 1, 0 },
	{ "three leaves", three_leaves, false, 3, 0 },
	{ "no meta", no_meta, true, 0, 0 },
	{ "wrong counts", wrong_counts, true, 0, 0 },
	{ "no uuid", no_uuid, true, 0, 0 },
	{ "no sequence", no_sequence, true, 0, 0 },
	{ "low sequence", low_sequence, true, 0, 0 },
	{ "cut in half", cut_in_half, true, 0, UINT32_MAX },
	{ "cut by one byte", cut_by_one, true, 1, 0 },
	{ "version 0", version_0, true, 0, 0 },
	{ "version -1", version_minus_1, true, 0, 0 },
	{ "another column", another_column, true, 0, 0 },
	{ "other name of a column", other_column_name, true, 0, 0 },
	{ "no dead letters", no_dead_letters, true, 0, 0 },
	{ "bad first row", bad_first_row, true, 0, 1 },
	{ "bad last row", bad_last_row, true, 0, 1 },
	{ "bad rows in between", bad_middle_rows, false, 0, 8 },
};

START_TEST(test_kinds)
{
	uint64_t per_leaf, lost;
	uint8_t *bytes;
	size_t len;

	make_queue(MANY, 60);
	per_leaf = 2 * MANY / count_pages(0x0d);
	kinds[_i].damage();
	bytes = read_whole("queue.db", &len);
	n_alive = 0;
	if (!kinds[_i].at_start) {
		/* It opens, and what reads all finds it. */
		open_queue();
		ck_assert_ptr_null(aside(""));
		close_queue();
		ck_assert_msg(findings_of("queue.db") > 0, "%s", kinds[_i].what);
		free(bytes);
		bytes = read_whole("queue.db", &len);
	}
	ck_assert_int_eq(try_open(!kinds[_i].at_start), 0);
	ck_assert_uint_gt(n_alive, 0);
	expect_aside(bytes, len);
	free(bytes);

	ck_assert_int_eq(read_rows(60), 0);
	/* The one row of which damage hit the payload alone; nobody can tell. */
	ck_assert_uint_le(found.different, kinds[_i].pages > 0);
	ck_assert_uint_eq(found.strange, 0);
	lost = MANY - found.intact;
	if (kinds[_i].rows == UINT32_MAX)
		ck_assert_msg(found.intact > MANY / 3, "%s: %llu", kinds[_i].what,
			(unsigned long long)found.intact);
	else if (kinds[_i].pages == 0)
		ck_assert_msg(lost == kinds[_i].rows, "%s: %llu lost", kinds[_i].what,
			(unsigned long long)lost);
	else
		ck_assert_msg(lost > 0 && lost <= kinds[_i].pages * per_leaf, "%s: %llu lost",
			kinds[_i].what, (unsigned long long)lost);
	expect_sound(found.intact + found.different);
}
END_TEST

/* Rows that were removed lie on free pages, and stay removed. */
START_TEST(test_removed_rows_stay_away)
{
	make_queue(MANY, 60);
	execute("queue.db",
		"PRAGMA secure_delete = OFF; DELETE FROM queue WHERE id <= 5000;"
		"UPDATE meta SET value = 5000 WHERE key = 'queue_messages'");
	ck_assert_uint_gt(place_of(57), 0);
	kinds[_i].damage();
	ck_assert_int_eq(try_open(true), 0);
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.different + found.strange, 0);
	ck_assert_uint_eq(found.intact, MANY / 2);
	for (unsigned i = 1; i <= MANY / 2; i++)
		ck_assert_uint_eq(found.state[i], 0);
	expect_sound(MANY / 2);
}
END_TEST

/* --- large rows, dead letters, the log -------------------------------------------------------- */

START_TEST(test_large_rows)
{
	make_queue(300, 50000);
	random_root();
	ck_assert_int_eq(try_open(false), 0);
	ck_assert_int_eq(read_rows(50000), 0);
	ck_assert_uint_eq(found.intact, 300);
	expect_sound(300);
}
END_TEST

/* A page in the middle of a large row: that row is gone, or changed where it was hit. */
START_TEST(test_large_row_damaged)
{
	uint64_t at;

	make_queue(300, 50000);
	at = page_of_row(150) + 3 * PAGE;
	damage_random(at, 4); /* where it goes on */
	ck_assert_int_eq(try_open(true), 0);
	ck_assert_int_eq(read_rows(50000), 0);
	ck_assert_uint_eq(found.different, 0);
	ck_assert_uint_ge(found.intact, 299);
	expect_sound(found.intact);
}
END_TEST

START_TEST(test_dead_letters)
{
	open_queue();
	append(1000, 60);
	ck_assert_int_eq(queue_begin(q, true), 0);
	for (uint64_t i = 1; i <= 500; i++)
		ck_assert_int_eq(queue_condemn(q, i, "refused"), 0);
	ck_assert_int_eq(queue_commit(q), 0);
	close_queue();
	random_header();
	ck_assert_int_eq(try_open(false), 0);
	ck_assert_uint_eq(queue_messages(q), 500);
	ck_assert_uint_eq(queue_dead_letters(q), 500);
	ck_assert_int_eq(ask("queue.db",
				 "SELECT count(*) FROM dead_letters WHERE reason = 'refused' "
				 "AND id <= 500 AND timestamp = 1700000000000 + id"),
		500);
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 500);
	expect_sound(500);
}
END_TEST

/* Rows that are in the log alone. */
START_TEST(test_rows_in_the_log)
{
	make_queue(1000, 60);
	open_queue();
	append(1000, 60);
	kill_queue();
	if (_i == 0)
		random_header(); /* the log has another first page: nothing is lost, or wrong */
	else
		random_root();
	ck_assert_int_eq(try_open(_i == 2), 0);
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 2000);
	expect_sound(2000);
}
END_TEST

START_TEST(test_rows_in_the_log_set_aside)
{
	make_queue(1000, 60);
	open_queue();
	append(1000, 60);
	kill_queue();
	ck_assert_int_eq(try_open(true), 0);
	ck_assert_ptr_nonnull(aside(""));
	ck_assert_ptr_nonnull(aside("-wal"));
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 2000);
	expect_sound(2000);
}
END_TEST

/* What was in the log is lost, and the ids with it may come again: so they get a new name. */
START_TEST(test_garbage_log)
{
	static uint8_t garbage[10000];
	uint64_t state = 1;

	make_queue(1000, 60);
	open_queue();
	append(1000, 60);
	kill_queue();
	for (size_t i = 0; i < sizeof(garbage); i++)
		garbage[i] = (uint8_t)scratch_random(&state);
	write_whole("queue.db-wal", garbage, sizeof(garbage));
	open_queue();
	ck_assert_ptr_nonnull(aside(""));
	ck_assert_ptr_nonnull(aside("-wal"));
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 1000);
	ck_assert_uint_gt(queue_last_id(q), 2000);
	expect_sound(1000);
}
END_TEST

/* A power cut leaves such a log, and it held nothing. */
START_TEST(test_blank_log)
{
	static const uint8_t zeroes[5000];

	make_queue(1000, 60);
	write_whole("queue.db-wal", zeroes, sizeof(zeroes));
	open_queue();
	ck_assert_ptr_null(aside(""));
	ck_assert_int_eq(read_rows(60), 0);
	expect_sound(1000);
}
END_TEST

START_TEST(test_log_without_a_database)
{
	open_queue();
	append(1000, 60);
	kill_queue();
	if (_i == 0)
		ck_assert_int_eq(unlink(path_of("queue.db")), 0);
	else
		write_whole("queue.db", "", 0);
	open_queue();
	ck_assert_ptr_null(aside(""));
	ck_assert_ptr_nonnull(aside("-wal"));
	found = (struct found){ 0 };
	expect_sound(0);
}
END_TEST

/* --- not ours --------------------------------------------------------------------------------- */

static const struct {
	const char *what;
	size_t garbage;
	const char *sql;
} strangers[] = {
	{ "foreign", 0, "CREATE TABLE t (x); INSERT INTO t VALUES (5)" },
	{ "foreign, WAL", 0, "PRAGMA journal_mode = WAL; CREATE TABLE t (x)" },
	{ "foreign, auto_vacuum", 0, "PRAGMA auto_vacuum = FULL; CREATE TABLE t (x)" },
	{ "foreign, version 1", 0, "CREATE TABLE t (x); PRAGMA user_version = 1" },
	{ "foreign, version -1", 0, "CREATE TABLE t (x); PRAGMA user_version = -1" },
	{ "version 1, nothing in it", 0, "PRAGMA user_version = 1" },
	{ "one table called like ours", 0, "CREATE TABLE queue (x)" },
	{ "rows that look like ours", 0,
		"CREATE TABLE q (id INTEGER PRIMARY KEY, a TEXT, b BLOB, c, d, e);"
		"INSERT INTO q VALUES (5, 'a', x'00', 1, 1, 1)" },
	{ "garbage", 2000, NULL },
	{ "short garbage", 10, NULL },
	{ "long garbage", 100000, NULL },
};

START_TEST(test_strangers_are_set_aside)
{
	uint8_t *bytes;
	size_t len;

	if (strangers[_i].sql) {
		execute("queue.db", strangers[_i].sql);
	} else {
		bytes = malloc(strangers[_i].garbage);
		memset(bytes, 'g', strangers[_i].garbage);
		write_whole("queue.db", bytes, strangers[_i].garbage);
		free(bytes);
	}
	bytes = read_whole("queue.db", &len);
	open_queue();
	expect_aside(bytes, len);
	free(bytes);
	found = (struct found){ 0 };
	expect_sound(0);
	close_queue();
	/* Once and for all. */
	open_queue();
	ck_assert_uint_eq(queue_messages(q), 1);
	ck_assert_ptr_nonnull(aside(""));
}
END_TEST

/* --- the name, the id of the sequence, what is asked of brokers ------------------------------- */

static void uuid_of(const char *name, char out[static 64])
{
	sqlite3 *db = connect_to(name);
	sqlite3_stmt *stmt;

	sqlite3_prepare_v2(db, "SELECT value FROM meta WHERE key = 'queue_uuid'", -1, &stmt, NULL);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	snprintf(out, 64, "%s", (const char *)sqlite3_column_text(stmt, 0));
	sqlite3_finalize(stmt);
	sqlite3_close(db);
}

START_TEST(test_what_is_remembered)
{
	char before[64], after[64];

	open_queue();
	append(100, 60);
	ck_assert_int_eq(queue_begin(q, true), 0);
	ck_assert_int_eq(queue_set_meta(q, "session broker:1883 id", "clean"), 0);
	ck_assert_int_eq(queue_commit(q), 0);
	close_queue();
	uuid_of("queue.db", before);
	ck_assert_int_eq(try_open(true), 0);
	uuid_of("queue.db", after);
	ck_assert_str_ne(before, after);
	ck_assert_uint_eq(strlen(after), 32);
	/* No broker's session is trusted. */
	ck_assert_int_eq(
		ask("queue.db", "SELECT count(*) FROM meta WHERE key LIKE 'session %'"), 0);
	/* Ids of a block that was reserved and lost do not come again. */
	ck_assert_uint_gt(queue_last_id(q), 100 + 1000);
}
END_TEST

#if QUEUE_SCHEMA_VERSION >= 2
/* Which rows were stamped by a clock that was not set: else they would seem to be of 1970. */
START_TEST(test_runs_of_an_unset_clock)
{
	make_queue(MANY, 60);
	execute("queue.db",
		"INSERT INTO unset_clock (first_id, last_id, boot_id, offset_msec) VALUES "
		"(10, 20, 'a-boot', -5), (30, 4000, 'b-boot', 1700000000000)");
	kinds[_i].damage();
	ck_assert_int_eq(try_open(true), 0);
	ck_assert_int_eq(ask("queue.db",
				 "SELECT count(*) FROM unset_clock WHERE "
				 "(first_id, last_id, boot_id, offset_msec) IN (VALUES "
				 "(10, 20, 'a-boot', -5), (30, 4000, 'b-boot', 1700000000000))"),
		2);
	ck_assert_int_eq(ask("queue.db", "SELECT count(*) FROM unset_clock"), 2);
	ck_assert_int_eq(read_rows(60), 0);
	expect_sound(found.intact);
}
END_TEST
#endif

START_TEST(test_names_that_are_taken)
{
	unsigned n = 0;
	struct dirent *e;
	DIR *d;

	make_queue(10, 60);
	for (unsigned i = 0; i < 5; i++) {
		ck_assert_int_eq(try_open(true), 0);
		ck_assert_int_eq(read_rows(60), 0);
		ck_assert_uint_eq(found.intact, 10);
		close_queue();
	}
	d = opendir(scratch.dir);
	while ((e = readdir(d)) != NULL)
		n += strstr(e->d_name, ".corrupt-") != NULL;
	closedir(d);
	ck_assert_uint_eq(n, 5);
}
END_TEST

START_TEST(test_through_a_link)
{
	make_queue(10, 60);
	ck_assert_int_eq(mkdir(path_of("disk"), 0700), 0);
	ck_assert_int_eq(rename(path_of("queue.db"), path_of("disk/queue.db")), 0);
	ck_assert_int_eq(symlink("disk/queue.db", path_of("queue.db")), 0);
	ck_assert_int_eq(try_open(true), 0);
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 10);
	ck_assert_ptr_null(aside(""));
	ck_assert_uint_eq(ask("disk/queue.db", "SELECT count(*) FROM queue"), 10);
}
END_TEST

/* --- at run time ------------------------------------------------------------------------------ */

START_TEST(test_met_by_the_reader)
{
	uint64_t ids[] = { 5000 };

	make_queue(MANY, 60);
	if (_i == 0)
		damage_zero(page_of_row(5000), PAGE);
	else
		bad_middle_rows();
	open_queue();
	ck_assert_int_eq(read_rows(60), -EUCLEAN);
	ck_assert_uint_eq(found.different, 0);
	ck_assert_uint_lt(found.last, 5000);
	if (_i == 0) {
		ck_assert_int_eq(queue_begin(q, true), 0);
		ck_assert_int_eq(queue_remove(q, ids, 1), -EUCLEAN);
		queue_rollback(q);
	}
	close_queue();
	ck_assert_int_eq(try_open(true), 0);
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_gt(found.intact, MANY - 150);
	expect_sound(found.intact);
}
END_TEST

static const char *const bad_rows[] = {
	"payload = 'text'",
	"qos = 7",
	"qos = '1x'",
	"topic = ''",
	"topic = x'41'",
	"retained = 2",
	"timestamp = 'now'",
	"timestamp = 1.5",
};

START_TEST(test_bad_row_is_not_delivered)
{
	char sql[200];

	make_queue(3, 60);
	snprintf(sql, sizeof(sql),
		"PRAGMA ignore_check_constraints = ON; UPDATE queue SET %s WHERE id = 2",
		bad_rows[_i]);
	execute("queue.db", sql);
	open_queue();
	ck_assert_int_eq(read_rows(60), -EUCLEAN);
	ck_assert_uint_eq(found.last, 1);
	ck_assert_uint_gt(findings_of("queue.db"), 0);
}
END_TEST

START_TEST(test_bad_meta_is_not_taken)
{
	struct queue_reader *reader = NULL;
	char *text = NULL;

	make_queue(3, 60);
	execute("queue.db", "INSERT INTO meta VALUES ('k', x'00'), ('r', 1.5)");
	open_queue();
	ck_assert_int_eq(queue_reader_new(&reader, path_of("queue.db")), 0);
	ck_assert_int_eq(queue_reader_meta(reader, "k", &text), -EUCLEAN);
	ck_assert_int_eq(queue_reader_meta(reader, "r", &text), -EUCLEAN);
	ck_assert_ptr_null(text);
	queue_reader_free(reader);
}
END_TEST

/* --- setting aside that was cut short --------------------------------------------------------- */

/* The files as they are after so many steps, made of those that a whole run leaves. */
static void back_to_step(unsigned step, const char *name)
{
	char log_name[200];

	ck_assert_int_lt(snprintf(log_name, sizeof(log_name), "%s-wal", name), 200);
	if (step < 4)
		ck_assert_int_eq(rename(path_of("queue.db"), path_of("queue.db.new")), 0);
	if (step < 3)
		write_whole("queue.db-shm", "left over", 9);
	if (step < 2)
		ck_assert_int_eq(rename(path_of(name), path_of("queue.db")), 0);
	if (step < 1)
		ck_assert_int_eq(rename(path_of(log_name), path_of("queue.db-wal")), 0);
}

START_TEST(test_cut_short)
{
	char name[300], uuid[64], uuid_after[64];

	make_queue(1000, 60);
	open_queue();
	append(1000, 60);
	kill_queue();
	ck_assert_int_eq(try_open(true), 0);
	close_queue();
	snprintf(name, sizeof(name), "%s", aside(""));
	uuid_of("queue.db", uuid);
	back_to_step((unsigned)_i, name);

	open_queue();
	ck_assert_str_eq(aside(""), name);
	ck_assert_ptr_nonnull(aside("-wal"));
	uuid_of("queue.db", uuid_after);
	ck_assert_str_eq(uuid, uuid_after);
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 2000);
	ck_assert_uint_eq(found.strange + found.different, 0);
	expect_sound(2000);
}
END_TEST

/* A copy that is not complete counts for nothing, whatever state it is in. */
START_TEST(test_cut_short_while_copying)
{
	make_queue(1000, 60);
	if (_i == 0) {
		copy_file("queue.db", "queue.db.new");
		execute("queue.db.new", "DELETE FROM queue WHERE id > 500");
	} else if (_i == 1) {
		write_whole("queue.db.new", "", 0);
		write_whole("queue.db.new-journal", "left over", 9);
	} else {
		write_whole("queue.db.new", "garbage, garbage, garbage", 25);
	}
	if (_i == 3)
		random_root();
	open_queue();
	ck_assert_int_eq(aside("") != NULL, _i == 3);
	ck_assert(!exists("queue.db.new-journal"));
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 1000);
	expect_sound(1000);
}
END_TEST

/* Somebody put a database there meanwhile: nothing is written over. */
START_TEST(test_cut_short_and_replaced)
{
	char name[300];

	make_queue(100, 60);
	ck_assert_int_eq(try_open(true), 0);
	close_queue();
	snprintf(name, sizeof(name), "%s", aside(""));
	back_to_step(3, name);
	copy_file(name, "queue.db");
	open_queue();
	ck_assert(exists(name));
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 100);
}
END_TEST

/* --- no room ---------------------------------------------------------------------------------- */

/* A layer below SQLite that has room for so many bytes of a file called *.new, and no more; and
 * that reads badly from the others. */
static struct {
	sqlite3_vfs vfs, *real;
	sqlite3_io_methods methods, bad_methods;
	const sqlite3_io_methods *real_methods;
	int64_t room;
	unsigned bad_reads; /* so many reads of a root give nothing sensible, or `bad_code` */
	int bad_code;
} narrow;

static int narrow_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 offset)
{
	return offset + n > narrow.room ? SQLITE_FULL
					: narrow.real_methods->xWrite(f, p, n, offset);
}

static int narrow_read(sqlite3_file *f, void *p, int n, sqlite3_int64 offset)
{
	int rc = narrow.real_methods->xRead(f, p, n, offset);

	if (offset == (ROOT - 1) * PAGE && narrow.bad_reads > 0) {
		narrow.bad_reads--;
		memset(p, 0x5a, (size_t)n);
		return narrow.bad_code;
	}
	return rc;
}

static int narrow_open(
	sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *ret_flags)
{
	int rc = narrow.real->xOpen(narrow.real, name, f, flags, ret_flags);

	(void)vfs;
	if (rc == SQLITE_OK && name && strlen(name) > 4 && streq(name + strlen(name) - 4, ".new")) {
		narrow.real_methods = f->pMethods;
		narrow.methods = *f->pMethods;
		narrow.methods.xWrite = narrow_write;
		f->pMethods = &narrow.methods;
	} else if (rc == SQLITE_OK && flags & SQLITE_OPEN_MAIN_DB) {
		narrow.real_methods = f->pMethods;
		narrow.bad_methods = *f->pMethods;
		narrow.bad_methods.xRead = narrow_read;
		f->pMethods = &narrow.bad_methods;
	}
	return rc;
}

static void setup_narrow(void)
{
	setup();
	memset(&narrow, 0, sizeof(narrow));
	narrow.room = INT64_MAX;
	narrow.real = sqlite3_vfs_find(NULL);
	narrow.vfs = *narrow.real;
	narrow.vfs.zName = "narrow";
	narrow.vfs.xOpen = narrow_open;
	sqlite3_vfs_register(&narrow.vfs, 1);
}

static void teardown_narrow(void)
{
	teardown();
	sqlite3_vfs_unregister(&narrow.vfs);
	sqlite3_vfs_register(narrow.real, 1);
}

/* The oldest are carried over; the rest is in the file set aside, and the queue works. */
START_TEST(test_little_room)
{
	uint8_t *bytes;
	size_t len;

	make_queue(MAX_ROWS, 1500);
	random_root();
	bytes = read_whole("queue.db", &len);
	narrow.room = (int64_t)len / 2;
	open_queue();
	expect_aside(bytes, len);
	free(bytes);
	ck_assert_int_eq(read_rows(1500), 0);
	ck_assert_uint_gt(found.intact, MAX_ROWS / 8);
	ck_assert_uint_lt(found.intact, MAX_ROWS / 2);
	ck_assert_uint_eq(found.last, found.intact); /* no gap */
	ck_assert_uint_gt(queue_last_id(q), MAX_ROWS);
	expect_sound(found.intact);
}
END_TEST

/* Then it waits, with everything as it was. */
START_TEST(test_no_room_at_all)
{
	uint8_t *bytes, *after;
	size_t len, len_after;

	make_queue(100, 60);
	random_root();
	bytes = read_whole("queue.db", &len);
	narrow.room = _i == 0 ? 0 : 2 * PAGE;
	ck_assert_int_eq(try_open(false), -ENOSPC);
	ck_assert_ptr_null(q);
	ck_assert_ptr_null(aside(""));
	ck_assert(!exists("queue.db.new"));
	after = read_whole("queue.db", &len_after);
	ck_assert_uint_eq(len, len_after);
	ck_assert_int_eq(memcmp(bytes, after, len), 0);
	free(bytes);
	free(after);
	narrow.room = INT64_MAX;
	open_queue();
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, 100);
}
END_TEST

/* --- what is no rot --------------------------------------------------------------------------- */

/* Seen once only: the device's or the memory's fault, and gone at the second look. */
START_TEST(test_seen_once)
{
	make_queue(MANY, 60);
	narrow.bad_reads = 1;
	open_queue();
	ck_assert_uint_eq(narrow.bad_reads, 0);
	ck_assert_ptr_null(aside(""));
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, MANY);
	expect_sound(MANY);
}
END_TEST

static const struct {
	int code, r;
} no_rot[] = {
	{ SQLITE_IOERR_READ, -EIO },
	{ SQLITE_NOMEM, -ENOMEM },
};

/* All stays as it is, also when damage was met before. */
START_TEST(test_no_rot)
{
	uint8_t *bytes, *after;
	size_t len, len_after;

	make_queue(MANY, 60);
	bytes = read_whole("queue.db", &len);
	narrow.bad_code = no_rot[_i].code;
	for (unsigned i = 0; i < 2; i++) {
		narrow.bad_reads = 100;
		ck_assert_int_eq(try_open(i == 1), no_rot[_i].r);
		ck_assert_ptr_null(q);
		ck_assert_ptr_null(aside(""));
		ck_assert(!exists("queue.db.new"));
	}
	after = read_whole("queue.db", &len_after);
	ck_assert_uint_eq(len, len_after);
	ck_assert_int_eq(memcmp(bytes, after, len), 0);
	free(bytes);
	free(after);
	narrow.bad_reads = 0;
	open_queue();
	ck_assert_int_eq(read_rows(60), 0);
	ck_assert_uint_eq(found.intact, MANY);
}
END_TEST

/* --- what is said ----------------------------------------------------------------------------- */

/* Opens with standard error going to a file, and returns what was said. */
static char *said_at_the_start(bool rotten)
{
	int saved = dup(STDERR_FILENO), r;
	int fd = open(path_of("said"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char *text;
	size_t len;

	ck_assert_int_ge(saved, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	log_set_level(LOG_ERR);
	r = try_open(rotten);
	log_set_level(LOG_EMERG);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fd);
	ck_assert_int_eq(r, 0);
	text = (char *)read_whole("said", &len);
	text[len] = '\0';
	return text;
}

START_TEST(test_alert)
{
	char *text;

	make_queue(MANY, 60);
	bad_middle_rows();
	text = said_at_the_start(true);
	ck_assert_ptr_nonnull(strstr(text, aside("")));
	ck_assert_ptr_nonnull(strstr(text, "damage was met in use"));
	ck_assert_ptr_nonnull(strstr(text, " 9992 messages, 0 dead letters; 8 could not be read."));
	ck_assert_ptr_nonnull(strstr(text, "check the disk"));
	ck_assert_ptr_eq(strchr(text, '\n'), strrchr(text, '\n')); /* one line */
	free(text);
}
END_TEST

START_TEST(test_alert_about_a_stranger)
{
	char *text;

	execute("queue.db", "CREATE TABLE t (x)");
	text = said_at_the_start(false);
	ck_assert_ptr_nonnull(strstr(text, "another program"));
	ck_assert_ptr_nonnull(strstr(text, aside("")));
	free(text);
}
END_TEST

/* --- at random -------------------------------------------------------------------------------- */

#define RANDOM_ROWS    2000
#define RANDOM_REMOVED 500
#define RANDOM_ROUNDS  200
#define MAX_HITS       20
#define ROW_SIZE       300

static struct {
	uint64_t offset, len;
} hits[MAX_HITS];

static unsigned n_hits;

static void hit_at_random(uint64_t *state, uint8_t *bytes, size_t len)
{
	unsigned kind = (unsigned)(scratch_random(state) % 4);
	uint64_t n = kind == 0 ? 1
		: kind == 1    ? 1 + scratch_random(state) % 64
		: kind == 2    ? 512
			       : PAGE;
	/* Damage from a device comes in its blocks. */
	uint64_t offset = kind < 2 ? scratch_random(state) % (len - n)
				   : scratch_random(state) % (len / n) * n;

	hits[n_hits].offset = offset;
	hits[n_hits++].len = n;
	if (kind == 0)
		bytes[offset] ^= (uint8_t)(1U << scratch_random(state) % 8);
	for (uint64_t i = 0; kind > 0 && i < n; i++)
		bytes[offset + i] = kind == 3 && n_hits % 2 ? 0 : (uint8_t)scratch_random(state);
}

static bool hit_between(uint64_t from, uint64_t to)
{
	for (unsigned i = 0; i < n_hits; i++) {
		if (hits[i].offset < to && hits[i].offset + hits[i].len > from)
			return true;
	}
	return false;
}

/* Where a row's payload lies. Splitting a page leaves copies; which one counts does not matter
 * here. */
#define MAX_PLACES 4

static uint64_t places[RANDOM_ROWS + 1][MAX_PLACES];

static void find_places(const uint8_t *bytes, size_t len, uint64_t id)
{
	const uint8_t *at = bytes;
	char marker[32];
	unsigned n = 0;

	snprintf(marker, sizeof(marker), "row-%06llu|", (unsigned long long)id);
	while ((at = memmem(at, len - (size_t)(at - bytes), marker, strlen(marker))) != NULL) {
		ck_assert_uint_lt(n, MAX_PLACES);
		places[id][n++] = (uint64_t)(at++ - bytes);
	}
	ck_assert_uint_gt(n, 0);
}

/* Whether a row's own bytes were hit: its cell begins less than 60 bytes before the payload, and
 * has the timestamp behind it. */
static bool was_hit(uint64_t id)
{
	for (unsigned i = 0; i < MAX_PLACES && places[id][i] > 0; i++) {
		if (hit_between(places[id][i] - 60, places[id][i] + ROW_SIZE + 20))
			return true;
	}
	return false;
}

/* Pages that tell which others count: the map, the root, and the row's own one. */
static bool way_was_hit(uint64_t id)
{
	for (unsigned i = 0; i < MAX_PLACES && places[id][i] > 0; i++) {
		uint64_t page = places[id][i] / PAGE * PAGE;

		if (hit_between(page, page + PAGE))
			return true;
	}
	return hit_between(PAGE, 2 * PAGE) && hit_between((ROOT - 1) * PAGE, ROOT * PAGE);
}

static void remove_asides(void)
{
	struct dirent *e;
	DIR *d = opendir(scratch.dir);

	while ((e = readdir(d)) != NULL) {
		if (strncmp(e->d_name, "queue.db", 8) == 0)
			ck_assert_int_eq(unlink(path_of(e->d_name)), 0);
	}
	closedir(d);
}

/* As the gateway does: reads, and opens again when it meets rot. */
static int open_and_read(bool rotten)
{
	int r = try_open(rotten);

	if (r < 0)
		return r;
	r = read_rows(ROW_SIZE);
	if (r != -EUCLEAN)
		return r;
	q = queue_free(q, false);
	r = try_open(true);
	return r < 0 ? r : read_rows(ROW_SIZE);
}

START_TEST(test_at_random)
{
	uint64_t state = 20261122;
	size_t len;
	uint8_t *sound, *bytes;

	make_queue(RANDOM_ROWS, ROW_SIZE);
	execute("queue.db",
		"PRAGMA secure_delete = OFF; DELETE FROM queue WHERE id <= 500;"
		"UPDATE meta SET value = 1500 WHERE key = 'queue_messages'");
	sound = read_whole("queue.db", &len);
	bytes = malloc(len);
	for (uint64_t id = RANDOM_REMOVED + 1; id <= RANDOM_ROWS; id++)
		find_places(sound, len, id);

	for (unsigned round = 0; round < RANDOM_ROUNDS; round++) {
		unsigned n = 1 + (unsigned)(scratch_random(&state) % (round % 2 ? 3 : MAX_HITS));
		int r;

		memcpy(bytes, sound, len);
		n_hits = 0;
		while (n_hits < n)
			hit_at_random(&state, bytes, len);
		remove_asides();
		write_whole("queue.db", bytes, len);
		r = open_and_read(round % 4 == 0);
		if (r == -EPROTONOSUPPORT && hit_between(60, 64))
			continue; /* who could tell it from a newer one? */
		ck_assert_msg(r == 0, "round %u: %d", round, r);
		ck_assert_msg(found.strange == 0 || round % 4 != 0, "round %u: strange ids", round);
		for (uint64_t id = 1; id <= RANDOM_ROWS; id++) {
			if (id <= RANDOM_REMOVED)
				ck_assert_msg(found.state[id] == 0, "round %u: row %llu came back",
					round, (unsigned long long)id);
			else if (!was_hit(id))
				ck_assert_msg(found.state[id] == 1 ||
						(found.state[id] == 0 && way_was_hit(id)),
					"round %u: row %llu is %d", round, (unsigned long long)id,
					found.state[id]);
		}
		q = queue_free(q, false);
	}
	free(sound);
	free(bytes);
}
END_TEST

/* --- the whole check -------------------------------------------------------------------------- */

START_TEST(test_whole_check)
{
	struct queue_check_rows rows;
	unsigned n = 0;

	open_queue();
	append(1000, 5000);
	remove_upto(200);
	ck_assert_uint_eq(findings_of("queue.db"), 0);
	/* Also beside a transaction under way. */
	ck_assert_int_eq(queue_begin(q, true), 0);
	ck_assert_uint_eq(findings_of("queue.db"), 0);
	queue_rollback(q);
	close_queue();
	ck_assert_int_eq(queue_check_whole(path_of("queue.db"), count_finding, &n, &rows), 0);
	ck_assert_uint_eq(rows.messages, 800);
	ck_assert_uint_eq(rows.dead_letters, 0);
	ck_assert_int_lt(queue_check_whole(path_of("nothing.db"), count_finding, &n, NULL), 0);
	ck_assert(!exists("nothing.db"));
}
END_TEST

static const char *const wrongs[] = {
	"UPDATE meta SET value = 99 WHERE key = 'queue_messages'",
	"UPDATE meta SET value = 'x' WHERE key = 'dead_letters'",
	"DELETE FROM meta WHERE key = 'queue_messages'",
	"UPDATE sqlite_sequence SET seq = 50",
	"DELETE FROM sqlite_sequence",
	"DELETE FROM queue WHERE id = 50",
	"INSERT INTO dead_letters VALUES (1, 't', x'', 1, 0, 17, 'r', 17)",
	"PRAGMA user_version = 0",
	"ALTER TABLE queue ADD COLUMN note",
	"DROP TABLE meta",
	"PRAGMA ignore_check_constraints = ON; UPDATE queue SET qos = 9 WHERE id = 50",
	"UPDATE queue SET topic = 'a' || char(0) WHERE id = 50",
};

START_TEST(test_whole_check_finds)
{
	make_queue(100, 60);
	ck_assert_uint_eq(findings_of("queue.db"), 0);
	execute("queue.db", wrongs[_i]);
	ck_assert_msg(findings_of("queue.db") > 0, "%s", wrongs[_i]);
}
END_TEST

Suite *check_queue_rot(void)
{
	Suite *s = suite_create("queue_rot");
	TCase *t = tcase_create("damage");

	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_kinds, 0, ARRAY_SIZE(kinds));
	tcase_add_loop_test(t, test_removed_rows_stay_away, 0, 12);
	tcase_add_test(t, test_large_rows);
	tcase_add_test(t, test_large_row_damaged);
	tcase_add_test(t, test_dead_letters);
	tcase_add_loop_test(t, test_rows_in_the_log, 0, 3);
	tcase_add_test(t, test_rows_in_the_log_set_aside);
	tcase_add_test(t, test_garbage_log);
	tcase_add_test(t, test_blank_log);
	tcase_add_loop_test(t, test_log_without_a_database, 0, 2);
	tcase_add_loop_test(t, test_strangers_are_set_aside, 0, ARRAY_SIZE(strangers));
	tcase_add_test(t, test_what_is_remembered);
#if QUEUE_SCHEMA_VERSION >= 2
	tcase_add_loop_test(t, test_runs_of_an_unset_clock, 0, 12);
#endif
	tcase_add_test(t, test_names_that_are_taken);
	tcase_add_test(t, test_through_a_link);
	tcase_add_test(t, test_at_random);
	suite_add_tcase(s, t);

	t = tcase_create("in use");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_met_by_the_reader, 0, 2);
	tcase_add_loop_test(t, test_bad_row_is_not_delivered, 0, ARRAY_SIZE(bad_rows));
	tcase_add_test(t, test_bad_meta_is_not_taken);
	suite_add_tcase(s, t);

	t = tcase_create("cut short");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_cut_short, 0, 5);
	tcase_add_loop_test(t, test_cut_short_while_copying, 0, 4);
	tcase_add_test(t, test_cut_short_and_replaced);
	suite_add_tcase(s, t);

	t = tcase_create("alert");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_alert);
	tcase_add_test(t, test_alert_about_a_stranger);
	suite_add_tcase(s, t);

	t = tcase_create("no rot");
	tcase_add_checked_fixture(t, setup_narrow, teardown_narrow);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_seen_once);
	tcase_add_loop_test(t, test_no_rot, 0, ARRAY_SIZE(no_rot));
	suite_add_tcase(s, t);

	t = tcase_create("no room");
	tcase_add_checked_fixture(t, setup_narrow, teardown_narrow);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_little_room);
	tcase_add_loop_test(t, test_no_room_at_all, 0, 2);
	suite_add_tcase(s, t);

	t = tcase_create("whole check");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_whole_check);
	tcase_add_loop_test(t, test_whole_check_finds, 0, ARRAY_SIZE(wrongs));
	suite_add_tcase(s, t);
	return s;
}
