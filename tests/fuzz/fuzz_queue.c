/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a database that is not as it was left. A small sound one is changed as the input
 * says, each change taking six bytes; or, with the first byte 'r', the rest is the database itself.
 * Then it is opened, read, added to, removed from, closed and opened again. Any of that may be
 * refused as rot; after rot was set aside, nothing may.
 */
#include <errno.h>
#include <fcntl.h>

#include "fuzz.h"
#include "log.h"
#include "queue.h"
#include "queue_reader.h"

#define CHANGE	    6
#define CHANGES_MAX 64
#define PAGE	    4096
#define ROWS	    60
#define LARGE	    9000 /* more than a page */

enum { WITH_LOG = 1, ROTTEN = 2, CUT = 4 };

struct file {
	uint8_t *bytes;
	size_t size;
};

static struct file database, with_log, its_log; /* sound; the latter two: as a crash leaves them */
static char path[300];

/* --- files -------------------------------------------------------------------------------------
 */

static const char *beside(const char *suffix)
{
	static char name[400];

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	return name;
}

static struct file read_file(const char *name)
{
	struct file f = { 0 };
	struct stat st;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	REQUIRE(fd >= 0 && fstat(fd, &st) == 0);
	f.size = (size_t)st.st_size;
	f.bytes = malloc(f.size + 1);
	REQUIRE(f.bytes && read(fd, f.bytes, f.size) == st.st_size);
	close(fd);
	return f;
}

static void write_file(const char *name, const uint8_t *bytes, size_t size)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	REQUIRE(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
	close(fd);
}

static int empty_one(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	return ftw->level > 0 ? remove(name) : 0;
}

static void empty_folder(void)
{
	REQUIRE(nftw(fuzz_dir(), empty_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

/* --- a sound database --------------------------------------------------------------------------
 */

static int open_queue(struct queue **ret, bool rotten, bool *set_aside)
{
	const struct queue_params params = { .path = path,
		.max_bytes = 64 << 20,
		.max_dead_letters = 100,
		.rotten = rotten,
		.ret_set_aside = set_aside };

	return queue_new(ret, &params);
}

static struct message message_of(unsigned i)
{
	static char payload[LARGE + 100];

	memset(payload, 'a' + (int)(i % 26), sizeof(payload));
	return (struct message){ .topic = i % 2 ? "a/b" : "a/longer/topic",
		.topic_len = i % 2 ? 3 : 14,
		.payload = payload,
		.payload_len = i % 20 == 7 ? LARGE : i * 5,
		.qos = (uint8_t)(i % 3),
		.retain = i % 2,
		.timestamp = 1700000000000 + i };
}

static int append(struct queue *q, unsigned n)
{
	uint64_t id;
	int r = queue_begin(q, true);

	for (unsigned i = 0; i < n && r >= 0; i++) {
		const struct message m = message_of(i);

		r = queue_append(q, &m, 0, &id);
	}
	if (r >= 0)
		return queue_commit(q);
	queue_rollback(q);
	return r;
}

static void make_sound_ones(void)
{
	uint64_t some[] = { 3, 4, 5, 20, 33 };
	struct queue *q;

	if (database.bytes)
		return;
	log_set_level(LOG_EMERG);
	snprintf(path, sizeof(path), "%s/queue.db", fuzz_dir());
	REQUIRE(open_queue(&q, false, NULL) == 0);
	REQUIRE(append(q, ROWS) == 0);
	REQUIRE(queue_begin(q, true) == 0);
	REQUIRE(queue_remove(q, some, ARRAY_SIZE(some)) == 0);
	REQUIRE(queue_condemn(q, 10, "refused") == 0 && queue_condemn(q, 27, "again") == 0);
	REQUIRE(queue_set_meta(q, "note", "x") == 0);
	REQUIRE(queue_commit(q) == 0);
	with_log = read_file(path);
	its_log = read_file(beside("-wal"));
	queue_free(q, true);
	database = read_file(path);
	empty_folder();
}

/* --- changes -----------------------------------------------------------------------------------
 */

/* Six bytes: what to do, three of a place, a length, a value. */
static void change(struct file *f, const uint8_t *c)
{
	size_t at = ((size_t)c[1] << 16 | (size_t)c[2] << 8 | c[3]) % f->size;
	size_t len = size_min(c[4] + 1U, f->size - at), from;

	switch (c[0] % 5) {
	case 0: f->bytes[at] = c[5]; break;
	case 1: memset(f->bytes + at, c[5], len); break;
	case 2: f->bytes[at] ^= (uint8_t)(1 << c[5] % 8); break;
	case 3: /* one page lies where another belongs */
		at = c[1] * (size_t)PAGE % f->size;
		from = c[2] * (size_t)PAGE % f->size;
		memmove(f->bytes + at, f->bytes + from,
			size_min(PAGE, f->size - (at > from ? at : from)));
		break;
	default: /* near the beginning of a page, where its form is told */
		at = c[1] * (size_t)PAGE % f->size + c[3] % 128;
		if (at < f->size)
			f->bytes[at] = c[5];
	}
}

static void write_changed(const struct file *sound, const char *name, uint8_t how,
	const uint8_t *data, size_t size, bool odd)
{
	struct file f = { fuzz_copy(sound->bytes, sound->size), sound->size };

	for (unsigned i = 0; size >= CHANGE && i < CHANGES_MAX; i++) {
		if (odd == (data[0] >= 0x80))
			change(&f, data);
		data += CHANGE;
		size -= CHANGE;
	}
	if (how & CUT && size > 0)
		f.size = f.size * data[0] / 256;
	write_file(name, f.bytes, f.size);
	free(f.bytes);
}

static void prepare(const uint8_t *data, size_t size)
{
	if (data[0] == 'r') {
		write_file(path, data + 1, size - 1);
		return;
	}
	if (data[0] & WITH_LOG) {
		write_changed(&with_log, path, data[0], data + 1, size - 1, false);
		write_changed(&its_log, beside("-wal"), data[0], data + 1, size - 1, true);
	} else {
		write_changed(&database, path, data[0], data + 1, size - 1, false);
	}
}

/* --- use ---------------------------------------------------------------------------------------
 */

struct reading {
	uint64_t last;
	unsigned rows;
	uint8_t sum;
};

static int on_row(void *userdata, const struct message *m)
{
	struct reading *r = userdata;

	REQUIRE(m->id > r->last && strlen(m->topic) == m->topic_len && m->qos <= 2);
	for (size_t i = 0; i < m->payload_len; i++)
		r->sum ^= (uint8_t)((const char *)m->payload)[i];
	r->last = m->id;
	r->rows++;
	return 0;
}

static int on_dead(void *userdata, const struct message *m, const char *reason, int64_t died_at)
{
	(void)died_at;
	REQUIRE(reason);
	return on_row(userdata, m);
}

/* True if nothing was refused. */
static bool read_all(void)
{
	struct reading rows = { 0 }, dead = { 0 };
	struct queue_reader *r;
	bool ok = true;
	char *uuid = NULL;
	int n;

	if (queue_reader_new(&r, path) < 0)
		return false;
	do
		n = queue_reader_rows(r, rows.last, INT64_MAX, 1000, on_row, &rows);
	while (n > 0);
	ok = n == 0;
	do
		n = queue_reader_dead_rows(r, dead.last, INT64_MAX, 1000, on_dead, &dead);
	while (n > 0);
	ok = ok && n == 0 && queue_reader_meta(r, "queue_uuid", &uuid) == 0;
	free(uuid);
	queue_reader_free(r);
	return ok;
}

static bool write_some(struct queue *q)
{
	uint64_t ids[] = { 1, 2, 30, 55, 60 }, dropped;
	bool ok = append(q, 8) == 0;

	if (queue_begin(q, false) < 0)
		return false;
	ok = queue_remove(q, ids, ARRAY_SIZE(ids)) == 0 && ok;
	ok = queue_condemn(q, 40, "why not") == 0 && ok;
	if (ok)
		ok = queue_commit(q) == 0;
	else
		queue_rollback(q);
	ok = queue_expire(q, 0, 1700000000010, &dropped) >= 0 && ok;
	ok = queue_tidy(q) >= 0 && ok;
	return ok;
}

static void use(bool rotten)
{
	bool set_aside = false, ok;
	struct queue *q;
	int r;

	r = open_queue(&q, rotten, &set_aside);
	REQUIRE(r == 0 || !set_aside || r == -EUCLEAN);
	if (r < 0)
		return;
	ok = read_all();
	ok = write_some(q) && ok;
	ok = read_all() && ok;
	queue_free(q, true);
	REQUIRE(ok || !set_aside);
	if (open_queue(&q, false, NULL) == 0) {
		ok = read_all() && ok;
		queue_free(q, true);
	} else {
		ok = false;
	}
	REQUIRE(ok || !set_aside);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	make_sound_ones();
	if (size == 0)
		return 0;
	prepare(data, size);
	use(data[0] != 'r' && data[0] & ROTTEN);
	empty_folder();
	return 0;
}
