/* SPDX-License-Identifier: MIT */
/*
 * Cells and records: see queue_record.h.
 */
#include "queue_record.h"

/* Big-endian, seven bits a byte, eight in the ninth. The number of bytes; 0 when they end before.
 */
static size_t get_varint(const uint8_t *p, size_t n, uint64_t *ret)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n && i < 9; i++) {
		if (i == 8) {
			*ret = v << 8 | p[i];
			return 9;
		}
		v = v << 7 | (p[i] & 0x7f);
		if (!(p[i] & 0x80)) {
			*ret = v;
			return i + 1;
		}
	}
	return 0;
}

/* How many bytes of a record stay on its own page. */
static size_t local_bytes(uint64_t len, unsigned usable, bool table)
{
	unsigned max = table ? usable - 35 : (usable - 12) * 64 / 255 - 23;
	unsigned min = (usable - 12) * 32 / 255 - 23;
	uint64_t local;

	if (len <= max)
		return (size_t)len;
	local = min + (len - min) % (usable - 4);
	return (size_t)(local <= max ? local : min);
}

bool queue_cell_parse(
	const uint8_t *bytes, size_t n, unsigned usable, bool table, struct queue_cell *ret)
{
	uint64_t len, id = 0;
	size_t used, k;

	used = get_varint(bytes, n, &len);
	if (used == 0 || len > INT32_MAX)
		return false;
	if (table) {
		k = get_varint(bytes + used, n - used, &id);
		if (k == 0)
			return false;
		used += k;
	}
	ret->id = (int64_t)id;
	ret->len = len;
	ret->local = local_bytes(len, usable, table);
	ret->bytes = bytes + used;
	return ret->local + (ret->local < len ? 4 : 0) <= n - used;
}

bool queue_cell_id(const uint8_t *bytes, size_t n, int64_t *ret)
{
	uint64_t len, id;
	size_t used;

	used = get_varint(bytes, n, &len);
	if (used == 0 || get_varint(bytes + used, n - used, &id) == 0)
		return false;
	*ret = (int64_t)id;
	return true;
}

static int64_t get_integer(const uint8_t *p, size_t n)
{
	uint64_t v = n > 0 && p[0] & 0x80 ? UINT64_MAX : 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	return (int64_t)v;
}

/* `type`: the number in the record's header. Returns false for one that means nothing. */
static bool get_value(uint64_t type, const uint8_t *p, size_t n, struct queue_value *ret)
{
	static const uint8_t sizes[] = { 0, 1, 2, 3, 4, 6, 8, 8, 0, 0 };

	*ret = (struct queue_value){ .bytes = p };
	if (type == 10 || type == 11)
		return false;
	ret->len = type >= 12 ? (size_t)(type - 12) / 2 : sizes[type];
	if (type >= 12 ? (type - 12) / 2 > n : ret->len > n)
		return false;
	if (type >= 12) {
		ret->type = type & 1 ? QUEUE_TEXT : QUEUE_BLOB;
	} else if (type == 7) {
		ret->type = QUEUE_REAL;
	} else if (type > 0) {
		ret->type = QUEUE_INTEGER;
		ret->integer = type >= 8 ? (int64_t)type - 8 : get_integer(p, ret->len);
	}
	return true;
}

bool queue_record_parse(const uint8_t *bytes, size_t n, struct queue_record *ret)
{
	uint64_t header, type;
	size_t used, body;

	used = get_varint(bytes, n, &header);
	if (used == 0 || header > n || header < used)
		return false;
	body = (size_t)header;
	for (ret->n_columns = 0; used < header; ret->n_columns++) {
		struct queue_value *value = &ret->columns[ret->n_columns];
		size_t k;

		if (ret->n_columns == QUEUE_MAX_COLUMNS)
			return false;
		k = get_varint(bytes + used, (size_t)header - used, &type);
		if (k == 0 || !get_value(type, bytes + body, n - body, value))
			return false;
		used += k;
		body += value->len;
	}
	return body == n;
}
