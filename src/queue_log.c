/* SPDX-License-Identifier: MIT */
/*
 * The write-ahead log: when its frames go to the database, and that its file stays small.
 *
 * SQLite's own policy tries a checkpoint after every commit once the log is over the threshold,
 * with two syncs each time, and never waits for a reader: under steady reading the log starts over
 * only by luck. Here a checkpoint is tried once for each threshold of new frames, and when readers
 * have held the log for several of these, they are waited for, shortly.
 *
 * A reader that looks at what was there before the last commit keeps a checkpoint from the pages
 * that this commit has changed, the first one and the pointer map's among them. Which of the others
 * are free is then not known, and all are written (see queue_vfs_backfill.h). While a backlog
 * drains that is most of them, so after a transaction without lines a reader is waited for, too,
 * even more shortly.
 *
 * Invariant: a checkpoint that fails never makes a commit fail that went before it. The rows are
 * in the log, which is as good; it is tried again later.
 */
#include <errno.h>
#include <sys/stat.h>

#include "log.h"
#include "queue_internal.h"
#include "queue_wal.h"

#define THRESHOLD_FRAMES   1000
#define THRESHOLD_LEAST	   4
#define BOUND_PART	   16 /* of max_bytes is the log's */
#define RESERVE_SHARE	   2
#define RESTART_THRESHOLDS 4
#define RESTART_BUSY_MSEC  50
#define WHOLE_BUSY_MSEC	   10
/* A wait that was in vain, so many times, is left to commits before the next. */
#define RESTART_PAUSE_FACTOR 2
#define CROWDED_PAUSE_USEC   USEC_PER_SEC
#define TELL_USEC	     (60 * USEC_PER_SEC)
/* Frames of a small transaction besides its rows: leaf, counts, ids, free list, page 1. */
#define TRANSACTION_FRAMES 12

static uint64_t frame_bytes(const struct queue *q)
{
	return q->space.page_size + QUEUE_WAL_FRAME_HEADER;
}

uint64_t queue_log_allowance(const struct queue *q)
{
	return q->log.threshold * frame_bytes(q);
}

uint64_t queue_log_estimate(const struct queue *q, uint64_t bytes)
{
	uint64_t frames = q->log.in_database ? 0 : q->log.frames;

	/* Inner pages and pointer maps come with the leaves. */
	frames += bytes / q->space.page_size * 33 / 32 + TRANSACTION_FRAMES;
	return u64_max(q->log.bytes, frames * frame_bytes(q));
}

/*
 * Not after each commit: a file that somebody has asked for its times gets a new, fine one at the
 * next write (Linux 6.13), which may be more for fdatasync() to write than the commit itself.
 */
static void measure(struct queue *q)
{
	struct stat st;

	/* By name: opening and closing the file would take SQLite's locks away. */
	q->log.bytes = stat(q->log.path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* SQLite tells how long the log is, in frames, right after a commit. */
static int note_frames(void *userdata, sqlite3 *db, const char *name, int frames)
{
	struct queue *q = userdata;

	(void)db;
	(void)name;
	if (queue_vfs_log_starts(q->vfs) != q->log.starts) {
		q->log.starts = queue_vfs_log_starts(q->vfs);
		q->log.due = q->log.threshold;
		q->log.restart_due = RESTART_THRESHOLDS * q->log.threshold;
		/* It may have been shortened. */
		measure(q);
	}
	q->log.frames = (uint64_t)frames;
	q->log.bytes = u64_max(q->log.bytes, QUEUE_WAL_HEADER + q->log.frames * frame_bytes(q));
	q->log.in_database = false;
	return SQLITE_OK;
}

/* After how many frames the log is moved into the database. */
static uint64_t threshold(const struct queue *q)
{
	uint64_t part = q->params.max_bytes / BOUND_PART / q->space.page_size;
	uint64_t frames = THRESHOLD_FRAMES;

	if (q->params.max_bytes)
		frames = u64_min(part, frames);
	/* On a full disk the reserve must do for the database to take the log's frames in. */
	frames = u64_min(frames, queue_reserve_bytes(q) / RESERVE_SHARE / frame_bytes(q));
	return u64_max(frames, THRESHOLD_LEAST);
}

void queue_log_bounded(struct queue *q)
{
	struct queue_log *log = &q->log;

	/* Only down: the reserve is made for the bound it was made with. The next start has all of
	 * it. */
	log->threshold = u64_min(log->threshold, threshold(q));
	log->due = u64_min(log->due, log->frames + log->threshold);
	log->restart_due =
		u64_min(log->restart_due, log->frames + RESTART_THRESHOLDS * log->threshold);
}

void queue_log_start(struct queue *q)
{
	struct queue_log *log = &q->log;

	*log = (struct queue_log){ .path = sqlite3_filename_wal(
					   sqlite3_db_filename(q->db, "main")) };
	log->threshold = threshold(q);
	log->due = log->threshold;
	log->restart_due = RESTART_THRESHOLDS * log->threshold;
	sqlite3_wal_hook(q->db, note_frames, q);
	measure(q);
}

static int tell_failure(struct queue *q, int rc)
{
	uint64_t now = now_usec();

	if (q->log.told_usec && now - q->log.told_usec < TELL_USEC)
		return queue_sql_errno(rc);
	q->log.told_usec = now;
	return queue_sql_fail(q->db, rc,
		"cannot move the write-ahead log into the database, is tried again later");
}

/* 0, -EBUSY when readers or another connection are in the way, or another -errno. */
static int checkpoint(struct queue *q, int mode)
{
	int frames = -1, moved = -1, rc, r;

	rc = sqlite3_wal_checkpoint_v2(q->db, NULL, mode, &frames, &moved);
	measure(q);
	q->log.due = q->log.frames + q->log.threshold;
	q->log.in_database = frames >= 0 && frames == moved;
	if ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED)
		return -EBUSY;
	r = rc == SQLITE_OK ? 0 : tell_failure(q, rc);
	q->log.no_room = r == -ENOSPC || r == -EDQUOT;
	return r;
}

/* Unlike SQLite's own it looks again each millisecond: readers are brief, but many. */
static int wait_for_readers(void *userdata, int n)
{
	const uint64_t *deadline = userdata;

	(void)n;
	if (now_usec() >= *deadline)
		return 0;
	usleep(1000);
	return 1;
}

static int checkpoint_waiting(struct queue *q, int mode, unsigned busy_msec)
{
	uint64_t deadline = now_usec() + busy_msec * USEC_PER_MSEC;
	int r;

	if (busy_msec > 0)
		sqlite3_busy_handler(q->db, wait_for_readers, &deadline);
	r = checkpoint(q, mode);
	sqlite3_busy_handler(q->db, NULL, NULL);
	return r;
}

int queue_log_truncate(struct queue *q, unsigned busy_msec)
{
	int r = checkpoint_waiting(q, SQLITE_CHECKPOINT_TRUNCATE, busy_msec);

	if (r == 0) {
		q->log.frames = 0;
		q->log.in_database = true;
		q->log.due = q->log.threshold;
		q->log.restart_due = RESTART_THRESHOLDS * q->log.threshold;
	}
	return r;
}

/*
 * The log takes what the bound would leave to messages. Where the oldest are dropped they leave it
 * its part; where new ones are refused it gives way before that.
 */
static bool crowded(const struct queue *q)
{
	uint64_t allowance = queue_log_allowance(q);

	if (!q->params.max_bytes)
		return false;
	if (q->params.drop_oldest)
		return q->log.bytes > allowance &&
			q->space.live + q->log.bytes > q->params.max_bytes;
	return q->log.bytes > allowance / 2 &&
		q->space.live + q->log.bytes + allowance > q->params.max_bytes;
}

void queue_log_committed(struct queue *q)
{
	struct queue_log *log = &q->log;
	uint64_t now;
	bool held, wanted;

	held = log->frames >= log->restart_due;
	wanted = crowded(q);
	now = held || wanted ? now_usec() : 0;
	if ((held || wanted) && now >= log->restart_usec) {
		uint64_t then = now;

		if (queue_log_truncate(q, RESTART_BUSY_MSEC) == 0)
			return;
		now = now_usec();
		log->restart_due = log->frames + log->threshold;
		log->restart_usec =
			now + (held ? RESTART_PAUSE_FACTOR * (now - then) : CROWDED_PAUSE_USEC);
	} else if (log->frames >= log->due) {
		if (q->durable)
			(void)checkpoint(q, SQLITE_CHECKPOINT_PASSIVE);
		else
			(void)checkpoint_waiting(q, SQLITE_CHECKPOINT_FULL, WHOLE_BUSY_MSEC);
	}
}

void queue_log_rolled_back(struct queue *q)
{
	measure(q);
}

void queue_log_move(struct queue *q)
{
	/* Not truncated: the file's blocks are ours, and the next commit writes over them. */
	if (q->log.frames > 0 && !q->log.in_database)
		(void)checkpoint(q, SQLITE_CHECKPOINT_PASSIVE);
	else
		q->log.no_room = false;
}

void queue_log_restart(struct queue *q)
{
	(void)checkpoint_waiting(q, SQLITE_CHECKPOINT_RESTART, RESTART_BUSY_MSEC);
}

bool queue_is_stuck(const struct queue *q)
{
	return q->log.no_room;
}

int queue_log_tidy(struct queue *q)
{
	/* One more try after a commit that met readers; a full queue may see no further commit. */
	if (!crowded(q) || now_usec() < q->log.restart_usec)
		return 0;
	if (queue_log_truncate(q, 0) < 0)
		q->log.restart_usec = now_usec() + CROWDED_PAUSE_USEC;
	return 0;
}
