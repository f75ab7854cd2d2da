/* SPDX-License-Identifier: MIT */
/*
 * What check_log.c's stand-in for the journal was given last.
 */
#pragma once

#include <limits.h>

extern char journal[3 * PIPE_BUF]; /* the fields of the last entry, '|' after each */
extern int journal_entries;
extern int journal_result; /* of sd_journal_sendv() */

/* From here on what is logged goes there, and nothing is there yet: standard error, a file, passes
 * for the journal as it does under systemd. */
void journal_begin(void);
void journal_end(void);
