/* SPDX-License-Identifier: MIT */
/*
 * What the queue's writer and reader share about SQLite: errors, statements, and the schema built
 * in from sql/. Part of the room `queue`; only its files include this header.
 */
#pragma once

#include <sqlite3.h>

#include "util.h"

/* The schema version this program writes: PRAGMA user_version. */
#define QUEUE_SCHEMA_VERSION 1

/* An SQLite result code (extended or not) -> -errno. */
int queue_sql_errno(int rc);

/* Logs "PATH: what: SQLite's text (and the system's)" at error level; returns queue_sql_errno(). */
int queue_sql_fail(sqlite3 *db, int rc, const char *what);

/* Prepares a statement that lives as long as its connection. 0 or -errno, logged. */
int queue_sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret) _must_check_;

/* Runs statements that return no rows. 0 or -errno, logged with `what`. */
int queue_sql_exec(sqlite3 *db, const char *sql, const char *what) _must_check_;

/* Runs a query whose first column of the first row is an integer. 0, -ENODATA without a row, or
 * -errno, logged. */
int queue_sql_integer(sqlite3 *db, const char *sql, int64_t *ret) _must_check_;

/*
 * Looks whether the database is empty or ours, and of which schema version; reads only. 0 and
 * *ret_version; -EPROTONOSUPPORT for one of a newer program, -EUCLEAN for one that is not ours,
 * both logged; -errno.
 */
int queue_sql_check(sqlite3 *db, int64_t *ret_version) _must_check_;

/* Brings the schema from `version` to QUEUE_SCHEMA_VERSION, one transaction a step. 0 or -errno. */
int queue_sql_migrate(sqlite3 *db, int64_t version) _must_check_;
