/* SPDX-License-Identifier: MIT */
/*
 * A thin layer between SQLite and the system's files, one for each connection to the queue: counts
 * what is written and synced, makes good what a failed sync leaves undone, and sees to it that
 * errors of the disk reach the caller as what they are.
 */
#pragma once

#include "util.h"

struct queue_vfs;
struct sqlite3;

/*
 * Registers the layer over what is SQLite's default VFS now, under a name of its own. Each
 * connection has one, so that nothing is shared. -ENOMEM, -EIO. Any thread; its connection is one
 * thread's.
 */
int queue_vfs_new(struct queue_vfs **ret) _must_check_;
/* Its connections must be closed. Takes NULL, returns NULL. */
struct queue_vfs *queue_vfs_free(struct queue_vfs *v);
/* For sqlite3_open_v2(); lives as long as `v`. */
const char *queue_vfs_name(const struct queue_vfs *v);

/* Since queue_vfs_new(): bytes written to the database and its log, and their syncs. */
uint64_t queue_vfs_written_bytes(const struct queue_vfs *v);
uint64_t queue_vfs_syncs(const struct queue_vfs *v);
/* How often a log was begun, or begun over: its header is written then. */
uint64_t queue_vfs_log_starts(const struct queue_vfs *v);

/* Whether a failure with this SQLite code is to be logged: the same one only now and then, see
 * flap.h. True for a connection that has no such layer, and for NULL. */
bool queue_vfs_tells(struct sqlite3 *db, int rc);
/* What the last SQLITE_FULL was about: ENOSPC, EDQUOT. */
int queue_vfs_full_errno(struct sqlite3 *db);
