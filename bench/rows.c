/* SPDX-License-Identifier: MIT */
/*
 * The floor under the queue: a bare SQLite loop that inserts the rows the daemon would insert, into
 * the same table, with the same PRAGMAs, and does nothing else.
 *
 *   bench/rows [--rows N] [--batch N] [--bytes N] [--remove] DIRECTORY
 *   bench/rows --fsync N DIRECTORY
 *
 * --batch is rows a commit. With --remove each commit is followed by another that deletes its rows,
 * as a program would that sends what it stored one by one. --fsync measures the disk itself: N
 * times 4 KiB at the end of a file, and fdatasync. Prints JSON; leaves nothing in DIRECTORY.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sqlite3.h>

/* The daemon's schema, as it stands under sql/. */
static const char *const schema[] = {
#include "sql-001.inc"
#include "sql-002.inc"
};

#define PAGE 4096

struct options {
	const char *directory;
	uint64_t rows, batch, bytes, syncs;
	bool remove;
};

struct rows {
	sqlite3 *db;
	sqlite3_stmt *begin, *commit, *insert, *delete;
	char *payload;
};

static void check(struct rows *s, int rc)
{
	if (rc != SQLITE_OK && rc != SQLITE_DONE && rc != SQLITE_ROW)
		bench_die(sqlite3_errmsg(s->db), 0);
}

static void prepare(struct rows *s, const char *sql, sqlite3_stmt **ret)
{
	check(s, sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL));
}

static void step(struct rows *s, sqlite3_stmt *stmt)
{
	check(s, sqlite3_step(stmt));
	check(s, sqlite3_reset(stmt));
}

static void open_rows(struct rows *s, const char *path, const struct options *o)
{
	static const char pragmas[] = "PRAGMA auto_vacuum = INCREMENTAL;"
				      "PRAGMA journal_mode = WAL;"
				      "PRAGMA synchronous = FULL;"
				      "PRAGMA cache_size = -2000;"
				      "PRAGMA wal_autocheckpoint = 1000;"
				      "PRAGMA secure_delete = FAST;";

	check(s,
		sqlite3_open_v2(path, &s->db,
			SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL));
	check(s, sqlite3_exec(s->db, pragmas, NULL, NULL, NULL));
	for (size_t i = 0; i < ARRAY_SIZE(schema); i++)
		check(s, sqlite3_exec(s->db, schema[i], NULL, NULL, NULL));
	prepare(s, "BEGIN IMMEDIATE", &s->begin);
	prepare(s, "COMMIT", &s->commit);
	prepare(s,
		"INSERT INTO queue (topic, payload, qos, retained, timestamp) "
		"VALUES (?1, ?2, 1, 0, ?3)",
		&s->insert);
	prepare(s, "DELETE FROM queue WHERE id BETWEEN ?1 AND ?2", &s->delete);
	s->payload = malloc(o->bytes);
	if (!s->payload)
		bench_die("payload", -ENOMEM);
	memset(s->payload, 'x', o->bytes);
}

static void close_rows(struct rows *s)
{
	sqlite3_finalize(s->begin);
	sqlite3_finalize(s->commit);
	sqlite3_finalize(s->insert);
	sqlite3_finalize(s->delete);
	check(s, sqlite3_close(s->db));
	free(s->payload);
}

static void insert_row(struct rows *s, const struct options *o, uint64_t n)
{
	char topic[40];
	int len = snprintf(topic, sizeof(topic), "sensors/%02u/temperature", (unsigned)(n % 100));

	check(s, sqlite3_bind_text(s->insert, 1, topic, len, SQLITE_STATIC));
	check(s, sqlite3_bind_blob64(s->insert, 2, s->payload, o->bytes, SQLITE_STATIC));
	check(s, sqlite3_bind_int64(s->insert, 3, now_epoch_msec()));
	step(s, s->insert);
}

static void delete_rows(struct rows *s, uint64_t first, uint64_t last)
{
	step(s, s->begin);
	check(s, sqlite3_bind_int64(s->delete, 1, (sqlite3_int64)first));
	check(s, sqlite3_bind_int64(s->delete, 2, (sqlite3_int64)last));
	step(s, s->delete);
	step(s, s->commit);
}

static void measure_rows(struct rows *s, const struct options *o)
{
	struct bench_times times;
	uint64_t start, written;
	double seconds;

	bench_times_init(&times, o->rows / o->batch + 1);
	written = bench_written();
	start = now_usec();
	for (uint64_t done = 0; done < o->rows;) {
		uint64_t first = done, usec = now_usec();

		step(s, s->begin);
		while (done < o->rows && done < first + o->batch)
			insert_row(s, o, done++);
		step(s, s->commit);
		bench_times_add(&times, now_usec() - usec);
		if (o->remove)
			delete_rows(s, first + 1, done); /* ids begin at 1 */
	}
	seconds = (double)(now_usec() - start) / (double)USEC_PER_SEC;
	printf("{\"rows\": %" PRIu64 ", \"seconds\": %.6f, \"rate\": %.1f, \"written\": %" PRIu64
	       ", ",
		o->rows, seconds, (double)o->rows / seconds, bench_written() - written);
	bench_times_print(&times, "commit_usec");
	printf("}\n");
	bench_times_free(&times);
}

static void measure_syncs(const char *path, const struct options *o)
{
	struct bench_times times;
	char page[PAGE];
	int fd;

	bench_times_init(&times, o->syncs);
	memset(page, 'x', sizeof(page));
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		bench_die(path, -errno);
	for (uint64_t i = 0; i < o->syncs; i++) {
		uint64_t usec = now_usec();

		if (pwrite(fd, page, PAGE, (off_t)i * PAGE) != PAGE || fdatasync(fd) < 0)
			bench_die(path, -errno);
		bench_times_add(&times, now_usec() - usec);
	}
	close(fd);
	unlink(path);
	printf("{\"syncs\": %" PRIu64 ", ", o->syncs);
	bench_times_print(&times, "fsync_usec");
	printf("}\n");
	bench_times_free(&times);
}

static void unlink_rows(const char *path)
{
	static const char *const suffixes[] = { "", "-wal", "-shm" };
	char name[4200];

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		unlink(name);
	}
}

static void read_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "rows", required_argument, NULL, 'r' },
		{ "batch", required_argument, NULL, 't' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "fsync", required_argument, NULL, 'f' },
		{ "remove", no_argument, NULL, 'd' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'r': o->rows = bench_number(optarg, 1000000000); break;
		case 't': o->batch = bench_number(optarg, 1000000); break;
		case 'b': o->bytes = bench_number(optarg, 100 << 20); break;
		case 'f': o->syncs = bench_number(optarg, 1000000); break;
		case 'd': o->remove = true; break;
		default: exit(2);
		}
	}
	if (optind + 1 != argc) {
		fprintf(stderr,
			"usage: rows [--rows N] [--batch N] [--bytes N] [--remove]"
			" [--fsync N] DIRECTORY\n");
		exit(2);
	}
	o->directory = argv[optind];
}

int main(int argc, char **argv)
{
	struct options o = { .rows = 100000, .batch = 1000, .bytes = 200 };
	struct rows s = { 0 };
	char path[4096];

	read_options(&o, argc, argv);
	snprintf(path, sizeof(path), "%s/rows.db", o.directory);
	unlink_rows(path);
	if (o.syncs > 0) {
		measure_syncs(path, &o);
		return 0;
	}
	open_rows(&s, path, &o);
	measure_rows(&s, &o);
	close_rows(&s);
	unlink_rows(path);
	return 0;
}
