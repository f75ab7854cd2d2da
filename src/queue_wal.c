/* SPDX-License-Identifier: MIT */
/*
 * A database's write-ahead log: see queue_wal.h.
 */
#include "queue_wal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "queue_record.h"

ssize_t queue_wal_read_at(int fd, void *buffer, size_t n, uint64_t offset)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = pread(fd, (uint8_t *)buffer + done, n - done, (off_t)(offset + done));

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		done += (size_t)k;
	}
	return (ssize_t)done;
}

static void checksum(struct queue_wal *s, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint32_t a = get_be32(bytes + i), b = get_be32(bytes + i + 4);

		if (!s->big_endian) {
			a = __builtin_bswap32(a);
			b = __builtin_bswap32(b);
		}
		s->sum[0] += a + s->sum[1];
		s->sum[1] += b + s->sum[0];
	}
}

bool queue_wal_is_page_size(uint32_t n)
{
	return n >= 512 && n <= QUEUE_MAX_PAGE_SIZE && (n & (n - 1)) == 0;
}

bool queue_wal_header(int fd, struct queue_wal *s)
{
	uint8_t header[QUEUE_WAL_HEADER];
	uint32_t magic;

	if (queue_wal_read_at(fd, header, sizeof(header), 0) != QUEUE_WAL_HEADER)
		return false;
	magic = get_be32(header);
	if ((magic & ~1U) != 0x377f0682 || get_be32(header + 4) != 3007000)
		return false;
	*s = (struct queue_wal){ .big_endian = magic & 1, .page_size = get_be32(header + 8) };
	memcpy(s->salts, header + 16, sizeof(s->salts));
	checksum(s, header, 24);
	return queue_wal_is_page_size(s->page_size) && s->sum[0] == get_be32(header + 24) &&
		s->sum[1] == get_be32(header + 28);
}

/* The frame's page number; 0 when the log ends before it. `frame` has room for header and page. */
static uint32_t read_frame(int fd, struct queue_wal *s, uint32_t index, uint8_t *frame)
{
	size_t size = QUEUE_WAL_FRAME_HEADER + s->page_size;

	if (queue_wal_read_at(fd, frame, size, QUEUE_WAL_HEADER + (uint64_t)index * size) !=
			(ssize_t)size ||
		memcmp(frame + 8, s->salts, sizeof(s->salts)) != 0)
		return 0;
	checksum(s, frame, 8);
	checksum(s, frame + QUEUE_WAL_FRAME_HEADER, s->page_size);
	if (s->sum[0] != get_be32(frame + 16) || s->sum[1] != get_be32(frame + 20))
		return 0;
	return get_be32(frame);
}

uint32_t queue_wal_count(int fd, struct queue_wal s, uint8_t *frame, uint32_t *ret_n_pages)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < UINT32_MAX && read_frame(fd, &s, i, frame) != 0; i++) {
		if (get_be32(frame + 4) == 0)
			continue;
		n = i + 1;
		*ret_n_pages = get_be32(frame + 4);
	}
	return n;
}

int queue_wal_is_lost(const char *path)
{
	_cleanup_(freep) char *name = NULL;
	_cleanup_(closep) int fd = -1;
	uint8_t header[QUEUE_WAL_HEADER];
	struct queue_wal s;
	ssize_t n;

	if (asprintf(&name, "%s-wal", path) < 0) {
		name = NULL;
		return -ENOMEM;
	}
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	n = queue_wal_read_at(fd, header, sizeof(header), 0);
	if (n < 0)
		return (int)n;
	/* A power cut may leave a log whose first bytes were never written. */
	for (ssize_t i = 0; i < n; i++) {
		if (header[i] != 0)
			return n == QUEUE_WAL_HEADER && !queue_wal_header(fd, &s);
	}
	return 0;
}
