/* SPDX-License-Identifier: MIT */
/*
 * Setting a rotten database aside: see queue_rot.h. Renames and removes files; copies none.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/stat.h>

#include "event.h"
#include "log.h"
#include "queue_rot.h"

int queue_sync_directory(const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	_cleanup_(closep) int fd = -1;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0) {
		int r = -errno;

		log_error("%s: cannot sync its directory: %s", path, strerrordesc_np(-r));
		return r;
	}
	return 0;
}

static char *join(const char *path, const char *suffix)
{
	char *name;

	return asprintf(&name, "%s%s", path, suffix) < 0 ? NULL : name;
}

/* --- names ------------------------------------------------------------------------------------ */

static bool any_exists(const char *name)
{
	static const char *const suffixes[] = { "", "-wal", "-journal" };

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		_cleanup_(freep) char *file = join(name, suffixes[i]);
		struct stat st;

		if (file && lstat(file, &st) == 0)
			return true;
	}
	return false;
}

/* PATH.corrupt-TIME, with a number behind when the name is taken. NULL: no memory. */
static char *free_name(const char *path)
{
	time_t now = time(NULL);
	char stamp[32] = "";
	struct tm tm;

	if (gmtime_r(&now, &tm))
		strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	for (unsigned i = 1; i < 10000; i++) {
		char number[16] = "", *name;

		if (i > 1)
			snprintf(number, sizeof(number), ".%u", i);
		if (asprintf(&name, "%s.corrupt-%s%s", path, stamp, number) < 0)
			return NULL;
		if (!any_exists(name))
			return name;
		free(name);
	}
	return NULL;
}

/* Moves PATH's file of that suffix; nothing there is right as well. An empty log goes. */
static int move_aside(const char *path, const char *aside, const char *suffix)
{
	_cleanup_(freep) char *from = join(path, suffix);
	_cleanup_(freep) char *to = join(aside, suffix);
	struct stat st;
	int r;

	if (!from || !to)
		return -ENOMEM;
	if (lstat(from, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (suffix[0] && st.st_size == 0)
		r = unlink(from);
	else
		r = rename(from, to);
	if (r < 0) {
		r = -errno;
		log_error("%s: cannot be set aside as %s: %s", from, to, strerrordesc_np(-r));
		return r;
	}
	return 0;
}

/* --- the renames ------------------------------------------------------------------------------ */

static int remove_shared_memory(const char *path)
{
	_cleanup_(freep) char *name = join(path, "-shm");

	if (!name)
		return -ENOMEM;
	return unlink(name) < 0 && errno != ENOENT ? -errno : 0;
}

/* Each step finds out by itself whether it was done before. */
static int carry_through(const char *path, const char *new_path, const char *aside)
{
	static const char *const suffixes[] = { "-wal", "-journal", "" };
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		r = move_aside(path, aside, suffixes[i]);
		if (r < 0)
			return r;
	}
	r = remove_shared_memory(path);
	if (r < 0)
		return r;
	r = queue_sync_directory(path);
	if (r < 0)
		return r;
	if (rename(new_path, path) < 0) {
		r = -errno;
		log_error("%s: cannot become %s: %s", new_path, path, strerrordesc_np(-r));
		return r;
	}
	return queue_sync_directory(path);
}

/* --- what is said ----------------------------------------------------------------------------- */

static void alert(
	const struct queue_params *params, const char *path, const char *aside, const char *text)
{
	const struct event_fields fields = { .path = path, .aside = aside };

	log_event(EVENT_DATABASE_SET_ASIDE, &fields, "%s", text);
	if (params->alert)
		params->alert(params->userdata, text);
}

static uint64_t lost_of(int64_t known, uint64_t found)
{
	return known > 0 && (uint64_t)known > found ? (uint64_t)known - found : 0;
}

static void say_what_is_lost(const struct queue_salvaged *s, char *out, size_t size)
{
	uint64_t found = s->messages + s->dead_letters + s->left_behind;
	uint64_t lost = 0;

	if (s->known_messages >= 0 && s->known_dead_letters >= 0)
		lost = lost_of(s->known_messages + s->known_dead_letters, found);
	if (lost < s->bad_rows)
		lost = s->bad_rows;
	if (lost > 0)
		snprintf(out, size, "%llu could not be read", (unsigned long long)lost);
	else if (s->known_messages < 0 || s->known_dead_letters < 0)
		snprintf(out, size, "how many could not be read is not known");
	else
		snprintf(out, size, "none is known to be missing");
}

static void tell(const struct queue_params *params, const char *path, const char *aside,
	const struct queue_rot *rot, const struct queue_salvaged *s)
{
	char text[2000], lost[100], room[200] = "";

	say_what_is_lost(s, lost, sizeof(lost));
	if (s->left_behind)
		snprintf(room, sizeof(room),
			", and %llu had no room on this disk and are only in the file set aside",
			(unsigned long long)s->left_behind);
	if (rot->foreign)
		snprintf(text, sizeof(text),
			"%s: %s; it is set aside unchanged as %s, and the queue starts empty. "
			"Check "
			"queue.path; move the file back to where it belongs",
			path, rot->text, aside);
	else
		snprintf(text, sizeof(text),
			"%s: the queue's database is damaged: %s. It is set aside as %s; carried "
			"over: %llu messages, %llu dead letters; %s%s. Keep the file for "
			"examination or delete it, and check the disk",
			path, rot->text, aside, (unsigned long long)s->messages,
			(unsigned long long)s->dead_letters, lost, room);
	alert(params, path, aside, text);
}

int queue_quarantine(
	const char *path, const struct queue_rot *rot, const struct queue_params *params)
{
	_cleanup_(freep) char *aside = free_name(path);
	_cleanup_(freep) char *new_path = join(path, ".new");
	struct queue_salvaged salvaged;
	int r;

	if (!aside || !new_path)
		return -ENOMEM;
	log_event(EVENT_DATABASE_DAMAGED,
		&(struct event_fields){ .path = path, .priority = LOG_WARNING },
		"%s: %s; what can be read of it is carried over into a new database", path,
		rot->text);
	r = queue_salvage(path, aside, rot, params, &salvaged);
	if (r < 0)
		return r;
	r = carry_through(path, new_path, aside);
	if (r < 0)
		return r;
	tell(params, path, aside, rot, &salvaged);
	return 0;
}

/* --- at the start ----------------------------------------------------------------------------- */

/* The name that PATH.new was to make free, when it is complete: 1. 0: it is not. Or -errno. */
static int read_mark(const char *new_path, char **ret_aside, int64_t *ret_messages)
{
	sqlite3_stmt *stmt = NULL;
	sqlite3 *db = NULL;
	char *aside = NULL;
	int rc, r = 0;

	rc = sqlite3_open_v2(new_path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db,
			"SELECT value, (SELECT value FROM meta WHERE key = 'queue_messages') "
			"FROM meta WHERE key = '" QUEUE_SALVAGED_AS "'",
			-1, &stmt, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		const unsigned char *text = sqlite3_column_text(stmt, 0);

		aside = text ? strdup((const char *)text) : NULL;
		r = aside ? 1 : -ENOMEM;
		*ret_messages = sqlite3_column_int64(stmt, 1);
	} else if ((rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_NOMEM ||
		(rc & 0xff) == SQLITE_CANTOPEN) {
		r = queue_sql_fail(db, rc, "cannot read what a former process carried over");
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	if (r == 1)
		*ret_aside = aside;
	return r;
}

static int resume(const struct queue_params *params, const char *path, const char *new_path,
	const char *aside, int64_t messages)
{
	_cleanup_(freep) char *other = NULL;
	char text[1500];
	struct stat st;
	int r;

	/* Never over a file of that name: somebody made a database here in the meantime. */
	/* -fanalyzer: a 1 of read_mark() has set `aside`. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): so it has. */
	if (lstat(path, &st) == 0 && lstat(aside, &st) == 0) {
		other = free_name(path);
		if (!other)
			return -ENOMEM;
		aside = other;
	}
	r = carry_through(path, new_path, aside);
	if (r < 0)
		return r;
	snprintf(text, sizeof(text),
		"%s: the queue's database was damaged, and setting it aside as %s was cut short; "
		"done now. Carried over: %lld messages. Keep the file for examination or delete "
		"it, and check the disk",
		path, aside, (long long)messages);
	alert(params, path, aside, text);
	return 0;
}

/* SQLite would throw such a log away. */
static int set_log_aside(const struct queue_params *params, const char *path)
{
	_cleanup_(freep) char *log_name = join(path, "-wal"), *aside = NULL;
	char text[1000];
	struct stat st;
	int r;

	if (!log_name)
		return -ENOMEM;
	if (lstat(path, &st) == 0 && st.st_size > 0)
		return 0;
	if (lstat(log_name, &st) < 0 || st.st_size == 0)
		return 0;
	aside = free_name(path);
	if (!aside)
		return -ENOMEM;
	r = move_aside(path, aside, "-wal");
	if (r == 0)
		r = queue_sync_directory(path);
	if (r < 0)
		return r;
	snprintf(text, sizeof(text),
		"%s: the queue's database is missing or empty, but not its log, which is set aside "
		"as %s-wal; the queue starts empty. If the database was moved, stop the gateway "
		"and "
		"put both back under their names",
		path, aside);
	alert(params, path, aside, text);
	return 0;
}

int queue_quarantine_resume(const char *path, const struct queue_params *params)
{
	_cleanup_(freep) char *new_path = join(path, ".new"), *aside = NULL;
	int64_t messages = 0;
	struct stat st;
	int r = 0;

	if (!new_path)
		return -ENOMEM;
	if (lstat(new_path, &st) == 0)
		r = read_mark(new_path, &aside, &messages);
	if (r < 0)
		return r;
	if (r == 1) {
		r = resume(params, path, new_path, aside, messages);
		if (r < 0)
			return r;
	} else {
		queue_salvage_clear(new_path);
	}
	return set_log_aside(params, path);
}
