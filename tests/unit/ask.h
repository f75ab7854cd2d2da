/* SPDX-License-Identifier: MIT */
/*
 * A question to a database that has one number for an answer. For check_*.c only.
 */
#pragma once

#include <check.h>
#include <sqlite3.h>

#include "util.h"

static inline int64_t ask_database(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int64_t answer;

	ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", sql,
		sqlite3_errmsg(db));
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	answer = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return answer;
}
