/* SPDX-License-Identifier: MIT */
/*
 * Cells and records of SQLite's file format, from bytes that may be anything. Pure. Part of the
 * room `queue`.
 */
#pragma once

#include "queue_pages.h"

static inline unsigned get_be16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static inline uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

struct queue_cell {
	int64_t id; /* 0 in an index */
	uint64_t len; /* of the record */
	size_t local; /* bytes of it at `bytes`; the number of a page is behind if there are more */
	const uint8_t *bytes;
};

/* A cell in the `n` bytes up to the end of a page; without a leading child pointer. `table`: of a
 * leaf of a table, else of an index. False: it is none, or does not fit. */
bool queue_cell_parse(
	const uint8_t *bytes, size_t n, unsigned usable, bool table, struct queue_cell *ret);
/* The id alone, of a leaf of a table. */
bool queue_cell_id(const uint8_t *bytes, size_t n, int64_t *ret);

/* Fills in the columns, which point into `bytes`. False unless every byte is accounted for, or when
 * there are too many columns. */
bool queue_record_parse(const uint8_t *bytes, size_t n, struct queue_record *ret);
