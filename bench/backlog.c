/* SPDX-License-Identifier: MIT */
/*
 * A long outage on disk: fills a queue with rows as ingest would, and tells how fast that goes and
 * what it takes. With --drain, removes them again as acknowledged deliveries would, and gives the
 * space back. bench/backlog.py goes on with the daemon and a broker.
 */
#include "log.h"
#include "queue.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define REMOVALS 500 /* in a transaction */

struct options {
	const char *path;
	uint64_t rows;
	uint64_t bytes; /* of a payload */
	uint64_t batch; /* rows in a transaction */
	bool drain;
};

static double seconds_since(uint64_t usec)
{
	return (double)(now_usec() - usec) / (double)USEC_PER_SEC;
}

static uint64_t size_of(const char *path, const char *suffix)
{
	char name[4096];
	struct stat st;

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	return stat(name, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Not ru_maxrss, which a process inherits from the one that started it. */
static double resident_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[200];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f) && sscanf(line, "VmHWM: %lu", &kib) != 1)
		;
	fclose(f);
	return (double)kib;
}

static void print_number(const char *what, double value, const char *unit)
{
	printf("%-32s %14.1f %s\n", what, value, unit);
	fflush(stdout);
}

static int append_batch(struct queue *q, const struct options *o, char *payload, uint64_t n)
{
	int r;

	r = queue_begin(q, true);
	for (uint64_t i = 0; i < n && r == 0; i++) {
		char topic[40];
		uint64_t id;
		struct message m = { .topic = topic,
			.payload = payload,
			.payload_len = o->bytes,
			.qos = 1,
			.timestamp = now_epoch_msec() };

		m.topic_len = (size_t)snprintf(
			topic, sizeof(topic), "sensors/%02u/temperature", (unsigned)(i % 100));
		r = queue_append(q, &m, 0, &id);
	}
	if (r == 0)
		return queue_commit(q);
	queue_rollback(q);
	return r;
}

static int fill(struct queue *q, const struct options *o)
{
	char *payload = malloc(o->bytes + 1);
	uint64_t start = now_usec(), longest = 0;
	struct queue_stats s;
	int r = payload ? 0 : -1;

	if (payload)
		memset(payload, 'x', o->bytes);
	for (uint64_t done = 0; done < o->rows && r == 0;) {
		uint64_t n = u64_min(o->batch, o->rows - done), usec = now_usec();

		r = append_batch(q, o, payload, n);
		done += n;
		longest = u64_max(longest, now_usec() - usec);
	}
	free(payload);
	if (r < 0)
		return r;
	queue_get_stats(q, &s);
	print_number("rows", (double)s.messages, "");
	print_number("fill, rows a second", (double)o->rows / seconds_since(start), "1/s");
	print_number("longest transaction", (double)longest / 1000, "ms");
	print_number("database", (double)size_of(o->path, "") / 1e6, "MB");
	print_number("log", (double)size_of(o->path, "-wal") / 1e6, "MB");
	print_number("written to fill, a row", (double)s.written_bytes / (double)o->rows, "bytes");
	print_number("syncs", (double)s.syncs, "");
	return 0;
}

static int remove_all(struct queue *q, const struct options *o)
{
	uint64_t last = queue_last_id(q), id = last - queue_messages(q) + 1;
	uint64_t tenth = u64_max((last - id + 1) / 10, 1), start = now_usec(), next = id + tenth;
	uint64_t before, ids[REMOVALS];
	struct queue_stats s;

	queue_get_stats(q, &s);
	before = s.written_bytes;
	while (id <= last) {
		size_t n = 0;
		int r;

		while (n < REMOVALS && id <= last)
			ids[n++] = id++;
		r = queue_begin(q, false);
		if (r == 0)
			r = queue_remove(q, ids, n);
		if (r == 0)
			r = queue_commit(q);
		if (r < 0)
			return r;
		if (id >= next) {
			print_number("a tenth removed, rows a second",
				(double)tenth / seconds_since(start), "1/s");
			start = now_usec();
			next += tenth;
		}
	}
	queue_get_stats(q, &s);
	print_number("written to remove, a row",
		(double)(s.written_bytes - before) / (double)o->rows, "bytes");
	return 0;
}

static int tidy(struct queue *q, const struct options *o)
{
	uint64_t start = now_usec(), longest = 0, calls = 0, before;
	struct queue_stats s;
	int r;

	queue_get_stats(q, &s);
	before = s.written_bytes;
	print_number("database before tidying", (double)size_of(o->path, "") / 1e6, "MB");
	do {
		uint64_t usec = now_usec();

		r = queue_tidy(q);
		longest = u64_max(longest, now_usec() - usec);
		calls++;
	} while (r > 0);
	if (r < 0)
		return r;
	queue_get_stats(q, &s);
	print_number("tidying", seconds_since(start), "s");
	print_number("calls", (double)calls, "");
	print_number("longest call", (double)longest / 1000, "ms");
	print_number("written to tidy", (double)(s.written_bytes - before) / 1e6, "MB");
	print_number("database after it", (double)size_of(o->path, "") / 1e6, "MB");
	return 0;
}

static int run(const struct options *o)
{
	const struct queue_params params = { .path = o->path, .sync_full = true };
	struct queue *q = NULL;
	int r;

	r = queue_new(&q, &params);
	if (r == 0)
		r = fill(q, o);
	if (r == 0 && o->drain)
		r = remove_all(q, o);
	if (r == 0 && o->drain)
		r = tidy(q, o);
	print_number("resident memory, most", resident_kib() / 1024, "MiB");
	queue_free(q, r == 0);
	return r;
}

static int usage(FILE *out, int status)
{
	fprintf(out, "usage: backlog [--rows N] [--bytes N] [--batch N] [--drain] DATABASE\n");
	return status;
}

static bool parse_number(const char *text, uint64_t *ret)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);

	if (end == text || *end || n == 0)
		return false;
	*ret = n;
	return true;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "rows", required_argument, NULL, 'r' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "batch", required_argument, NULL, 't' },
		{ "drain", no_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct options o = { .rows = 100000, .bytes = 200, .batch = 1000 };
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		bool good = c != '?';

		switch (c) {
		case 'r': good = parse_number(optarg, &o.rows); break;
		case 'b': good = parse_number(optarg, &o.bytes); break;
		case 't': good = parse_number(optarg, &o.batch); break;
		case 'd': o.drain = true; break;
		case 'h': return usage(stdout, 0);
		}
		if (!good)
			return usage(stderr, 2);
	}
	if (optind != argc - 1)
		return usage(stderr, 2);
	o.path = argv[optind];
	return run(&o) < 0;
}
