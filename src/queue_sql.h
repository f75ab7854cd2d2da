/* SPDX-License-Identifier: MIT */
/*
 * What the queue's writer and reader share about SQLite: errors, statements, and the schema built
 * in from sql/. Part of the room `queue`; only its files include this header.
 */
#pragma once

#include <sqlite3.h>

#include "message.h"
#include "util.h"

/* The schema version this program writes: PRAGMA user_version. */
#define QUEUE_SCHEMA_VERSION 2

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

/* Brings the schema from `version` to QUEUE_SCHEMA_VERSION, one transaction a step. 0 or -errno. */
int queue_sql_migrate(sqlite3 *db, int64_t version) _must_check_;
/* The same up to version `to`. */
int queue_sql_migrate_to(sqlite3 *db, int64_t version, int64_t to) _must_check_;

/*
 * A row as SQLite gives it: of a statement whose first columns are id, topic, payload, qos,
 * retained and timestamp, before any column is converted. NULL, and *ret borrows from the statement
 * until its next step; or what is wrong with it. Damage can bring forth rows that no CHECK of the
 * schema would have let in.
 */
const char *queue_sql_row(sqlite3_stmt *stmt, struct message *ret);
/* Of a row without fault. False: there was no memory for all of it. */
bool queue_sql_row_is_whole(const struct message *m);
