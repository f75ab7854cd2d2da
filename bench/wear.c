/* SPDX-License-Identifier: MIT */
/*
 * What a message costs the flash: bytes written for each, from the queue's own count and, given a
 * block device, from the kernel's. Messages are appended and committed some at a time, as
 * queue.commit_delay would have it, and removed once "delivered", either at once in a transaction
 * of their own or along with the next messages.
 *
 *   bench/wear [--messages N] [--bytes N] [--device NAME] DIRECTORY
 *
 * DIRECTORY is on the file system to be measured; NAME is its device as in /sys/block, whole.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <fcntl.h>

#include "log.h"
#include "queue.h"

#define SECTOR 512
#define MOST   1000 /* messages a commit */

enum removal {
	REMOVED_ALONE,
	REMOVED_WITH_NEXT,
	REMOVED_LATER,
	N_REMOVALS,
};

struct options {
	const char *directory;
	const char *device; /* NULL: none */
	unsigned long messages;
	unsigned long bytes; /* of payload */
};

struct costs {
	double written; /* bytes a message */
	double device;
	double syncs;
};

static void die(const char *what, int r)
{
	fprintf(stderr, "wear: %s: %s\n", what, strerrordesc_np(-r));
	exit(1);
}

/* Bytes written to the device since it is there. */
static double device_bytes(const char *device)
{
	unsigned long long v[7] = { 0 };
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/%s/stat", device);
	f = fopen(path, "re");
	if (!f)
		die(path, -errno);
	if (fscanf(f, "%llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4],
		    &v[5], &v[6]) != 7)
		die(path, -EINVAL);
	fclose(f);
	return (double)v[6] * SECTOR;
}

static double settled_device_bytes(const struct options *o)
{
	int fd;

	if (!o->device)
		return 0;
	fd = open(o->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || syncfs(fd) < 0)
		die(o->directory, -errno);
	close(fd);
	return device_bytes(o->device);
}

static void append(struct queue *q, const struct options *o, uint64_t *ret_id)
{
	static char payload[1 << 20];
	const struct message m = {
		.topic = "plant/line-4/press/temperature",
		.topic_len = strlen("plant/line-4/press/temperature"),
		.payload = payload,
		.payload_len = o->bytes,
		.qos = 1,
		.timestamp = now_epoch_msec(),
	};
	int r;

	r = queue_append(q, &m, 0, ret_id);
	if (r < 0)
		die("append", r);
}

static void remove_ids(struct queue *q, uint64_t *ids, size_t n)
{
	int r;

	r = queue_remove(q, ids, n);
	if (r < 0)
		die("remove", r);
}

static void begin(struct queue *q, bool durable)
{
	int r = queue_begin(q, durable);

	if (r < 0)
		die("begin", r);
}

static void commit(struct queue *q)
{
	int r = queue_commit(q);

	if (r < 0)
		die("commit", r);
}

/* `batch` messages a commit. */
static void run(struct queue *q, const struct options *o, size_t batch, enum removal removal)
{
	static uint64_t ids[2][MOST];
	uint64_t first = queue_last_id(q) + 1;
	size_t n_last = 0;
	unsigned turn = 0;

	for (unsigned long done = 0; done < o->messages; done += batch, turn ^= 1) {
		begin(q, true);
		for (size_t i = 0; i < batch; i++)
			append(q, o, &ids[turn][i]);
		if (removal == REMOVED_WITH_NEXT && n_last > 0)
			remove_ids(q, ids[turn ^ 1], n_last);
		commit(q);
		n_last = batch;
		if (removal != REMOVED_ALONE)
			continue;
		begin(q, false);
		remove_ids(q, ids[turn], n_last);
		commit(q);
	}
	while (removal == REMOVED_LATER && queue_messages(q) > 0) {
		for (size_t i = 0; i < MOST; i++)
			ids[0][i] = first++;
		begin(q, false);
		remove_ids(q, ids[0], MOST);
		commit(q);
	}
}

static void measure(const struct options *o, size_t batch, enum removal removal, struct costs *ret)
{
	const char *const suffixes[] = { "", "-wal", "-shm", ".lock", ".reserve" };
	struct queue_stats before, after;
	struct queue_params params = { .sync_full = true };
	double device;
	char path[512], file[600];
	struct queue *q;
	int r;

	snprintf(path, sizeof(path), "%s/wear.db", o->directory);
	params.path = path;
	r = queue_new(&q, &params);
	if (r < 0)
		die(path, r);
	run(q, o, batch, removal); /* until everything has its usual size */
	queue_get_stats(q, &before);
	device = settled_device_bytes(o);
	run(q, o, batch, removal);
	device = settled_device_bytes(o) - device;
	queue_get_stats(q, &after);
	*ret = (struct costs){
		.written =
			(double)(after.written_bytes - before.written_bytes) / (double)o->messages,
		.device = device / (double)o->messages,
		.syncs = (double)(after.syncs - before.syncs) / (double)o->messages,
	};
	queue_free(q, true);
	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		snprintf(file, sizeof(file), "%s%s", path, suffixes[i]);
		unlink(file);
	}
}

static unsigned long number(const char *s, unsigned long most)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(s, &end, 10);
	if (errno != 0 || *end || n < 1 || n > most) {
		fprintf(stderr, "wear: %s: not a number of 1 to %lu\n", s, most);
		exit(2);
	}
	return n;
}

static void read_options(struct options *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ "messages", required_argument, NULL, 'm' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "device", required_argument, NULL, 'd' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'm': o->messages = number(optarg, 100000000); break;
		case 'b': o->bytes = number(optarg, 1 << 20); break;
		case 'd': o->device = optarg; break;
		default: exit(2);
		}
	}
	if (optind + 1 != argc) {
		fprintf(stderr,
			"usage: wear [--messages N] [--bytes N] [--device NAME] DIRECTORY\n");
		exit(2);
	}
	o->directory = argv[optind];
}

int main(int argc, char **argv)
{
	static const char *const words[] = { "alone", "with next", "later" };
	static const size_t batches[] = { 1, 10, 60, 100, 600, MOST };
	struct options o = { .messages = 6000, .bytes = 200 };
	struct costs costs;

	read_options(&o, argc, argv);
	log_set_level(LOG_WARNING);
	printf("%lu messages of %lu bytes, each appended, delivered and removed\n\n", o.messages,
		o.bytes);
	printf("messages   removed       syncs a    bytes written a message\n");
	printf("a commit                 message    to the files   to the device\n");
	for (size_t i = 0; i < ARRAY_SIZE(batches); i++) {
		for (int removal = 0; removal < N_REMOVALS; removal++) {
			measure(&o, batches[i], (enum removal)removal, &costs);
			printf("%8zu   %-11s   %7.3f   %13.0f", batches[i], words[removal],
				costs.syncs, costs.written);
			if (o.device)
				printf("   %13.0f", costs.device);
			putchar('\n');
			fflush(stdout);
		}
	}
	return 0;
}
