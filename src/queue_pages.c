/* SPDX-License-Identifier: MIT */
/*
 * Pages of a rotten database: see queue_pages.h. Owns two descriptors and the map of the log.
 */
#include "queue_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "queue_wal.h"
#include "queue_record.h"

#define DEFAULT_PAGE_SIZE 4096 /* ours sets none */
#define PENDING_BYTE	  0x40000000
/* A page that the device does not give is passed over; so many, and it is the device. */
#define MAX_FAILED_READS 16
/* The roots of tables stay at the beginning, behind the first page of the map. The header tells
 * where they end; in schema version 1 it is here. */
#define LAST_ROOT     6
#define MAX_LAST_ROOT 16
#define ALIVE_USEC    (100 * USEC_PER_MSEC)

enum {
	PAGE_TABLE_INTERIOR = 0x05,
	PAGE_TABLE_LEAF = 0x0d,
	PAGE_INDEX_INTERIOR = 0x02,
	PAGE_INDEX_LEAF = 0x0a,
};

/* What the pointer map says of a page; 0 stands for "nothing one can rely on". */
enum {
	MAP_UNKNOWN,
	MAP_ROOT,
	MAP_FREE,
	MAP_OVERFLOW_FIRST,
	MAP_OVERFLOW_NEXT,
	MAP_TREE,
};

struct leaf {
	int64_t first_id;
	uint32_t page;
};

struct queue_pages {
	int fd, log_fd;
	unsigned page_size, usable;
	uint32_t n_pages, last_root;
	uint32_t *frames; /* of a page: which frame of the log has it, from 1; 0 for none */
	uint8_t *map; /* MAP_ */
	uint32_t *parents;
	uint8_t *pointed_to; /* by a page above */
	struct leaf *leaves;
	size_t n_leaves, max_leaves;
	uint64_t bad_cells, bad_pages, failed_reads;
	uint8_t *record; /* one that is gathered from several pages */
	size_t record_size;
	void (*alive)(void *userdata);
	void *alive_userdata;
	uint64_t alive_usec;
};

/* --- pages ----------------------------------------------------------------------------------- */

static void map_frames(struct queue_pages *p, uint32_t n, uint8_t *frame)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t offset =
			QUEUE_WAL_HEADER + (uint64_t)i * (QUEUE_WAL_FRAME_HEADER + p->page_size);

		if (queue_wal_read_at(p->log_fd, frame, 4, offset) == 4 &&
			get_be32(frame) <= p->n_pages)
			p->frames[get_be32(frame)] = i + 1;
	}
}

static bool read_page(struct queue_pages *p, uint32_t page, uint8_t *buffer)
{
	uint64_t offset = (uint64_t)(page - 1) * p->page_size;
	int fd = p->fd;
	ssize_t n;

	if (page == 0 || page > p->n_pages)
		return false;
	if (p->frames[page] > 0) {
		fd = p->log_fd;
		offset = QUEUE_WAL_HEADER +
			(uint64_t)(p->frames[page] - 1) * (QUEUE_WAL_FRAME_HEADER + p->page_size) +
			QUEUE_WAL_FRAME_HEADER;
	}
	n = queue_wal_read_at(fd, buffer, p->page_size, offset);
	if (n == (ssize_t)p->page_size)
		return true;
	p->failed_reads += n < 0;
	return false;
}

static void tell_alive(struct queue_pages *p)
{
	uint64_t now = now_usec();

	if (!p->alive || now - p->alive_usec < ALIVE_USEC)
		return;
	p->alive_usec = now;
	p->alive(p->alive_userdata);
}

static bool is_pending_byte(const struct queue_pages *p, uint32_t page)
{
	return page == PENDING_BYTE / p->page_size + 1;
}

/* Takes in one page of the pointer map, unless it is damaged: it then says nothing at all. */
static void read_map_page(struct queue_pages *p, uint32_t map_page, uint32_t n, uint8_t *buffer)
{
	uint32_t end = (uint32_t)u64_min((uint64_t)map_page + n, p->n_pages);

	if (!read_page(p, map_page, buffer))
		return;
	for (uint32_t page = map_page + 1; page <= end; page++) {
		const uint8_t *entry = buffer + (size_t)5 * (page - map_page - 1);

		if (is_pending_byte(p, page))
			continue;
		if (entry[0] < MAP_ROOT || entry[0] > MAP_TREE ||
			get_be32(entry + 1) > p->n_pages) {
			p->bad_pages++;
			return;
		}
	}
	for (uint32_t page = map_page + 1; page <= end; page++) {
		const uint8_t *entry = buffer + (size_t)5 * (page - map_page - 1);

		if (is_pending_byte(p, page))
			continue;
		p->map[page] = entry[0];
		p->parents[page] = get_be32(entry + 1);
	}
}

static void read_map(struct queue_pages *p, uint8_t *buffer)
{
	uint32_t n = p->usable / 5;

	for (uint64_t page = 2; page <= p->n_pages; page += (uint64_t)n + 1) {
		uint32_t map_page = (uint32_t)page + is_pending_byte(p, (uint32_t)page);

		read_map_page(p, map_page, n, buffer);
		if (map_page <= p->n_pages)
			p->map[map_page] = MAP_FREE; /* no rows on it */
	}
}

/* Where the cells of a page are. False: this is no page of a tree. */
struct cells {
	const uint8_t *pointers;
	unsigned n, first; /* cells; where the first of them may begin */
};

static bool find_cells(const struct queue_pages *p, const uint8_t *page, struct cells *ret)
{
	bool interior = page[0] == PAGE_TABLE_INTERIOR || page[0] == PAGE_INDEX_INTERIOR;

	ret->pointers = page + (interior ? 12 : 8);
	ret->n = get_be16(page + 3);
	ret->first = (interior ? 12 : 8) + 2 * ret->n;
	return ret->first <= p->usable;
}

/* The cell's offset; 0 when it cannot be one. */
static unsigned cell_offset(const struct queue_pages *p, const struct cells *c, unsigned i)
{
	unsigned offset = get_be16(c->pointers + (size_t)2 * i);

	return offset >= c->first && offset + 4 <= p->usable ? offset : 0;
}

static void mark_children(struct queue_pages *p, const uint8_t *page)
{
	struct cells c;
	uint32_t child;

	if (!find_cells(p, page, &c))
		return;
	for (unsigned i = 0; i < c.n; i++) {
		unsigned offset = cell_offset(p, &c, i);

		child = offset ? get_be32(page + offset) : 0;
		if (child > 0 && child <= p->n_pages)
			p->pointed_to[child] = 1;
	}
	child = get_be32(page + 8);
	if (child > 0 && child <= p->n_pages)
		p->pointed_to[child] = 1;
}

static int add_leaf(struct queue_pages *p, int64_t first_id, uint32_t page)
{
	if (p->n_leaves == p->max_leaves) {
		size_t n = p->max_leaves ? p->max_leaves * 2 : 1024;
		struct leaf *more = realloc(p->leaves, n * sizeof(*more));

		if (!more)
			return -ENOMEM;
		p->leaves = more;
		p->max_leaves = n;
	}
	p->leaves[p->n_leaves++] = (struct leaf){ first_id, page };
	return 0;
}

static bool counts(const struct queue_pages *p, uint32_t page)
{
	switch (p->map[page]) {
	case MAP_ROOT:
	case MAP_TREE: return true;
	case MAP_UNKNOWN: return p->pointed_to[page] || page <= p->last_root;
	default: return false;
	}
}

/* Ids on a leaf ascend: the middle one says where the leaf belongs if the first is damaged. */
static int64_t leaf_place(const struct queue_pages *p, const uint8_t *page)
{
	struct cells c;
	unsigned offset;
	int64_t id;

	if (page[0] != PAGE_TABLE_LEAF || !find_cells(p, page, &c) || c.n == 0)
		return 0;
	offset = cell_offset(p, &c, c.n / 2);
	return offset && queue_cell_id(page + offset, p->usable - offset, &id) ? id : INT64_MAX;
}

static bool is_tree_page(uint8_t type)
{
	return type == PAGE_TABLE_LEAF || type == PAGE_TABLE_INTERIOR || type == PAGE_INDEX_LEAF ||
		type == PAGE_INDEX_INTERIOR;
}

/* First all that point, then what is pointed to. */
static int classify(struct queue_pages *p, uint8_t *buffer)
{
	int r;

	for (uint32_t page = 3; page <= p->n_pages; page++) {
		tell_alive(p);
		if (p->map[page] != MAP_FREE && read_page(p, page, buffer) &&
			(buffer[0] == PAGE_TABLE_INTERIOR || buffer[0] == PAGE_INDEX_INTERIOR))
			mark_children(p, buffer);
	}
	for (uint32_t page = 3; page <= p->n_pages; page++) {
		tell_alive(p);
		if (is_pending_byte(p, page) || !counts(p, page))
			continue;
		if (!read_page(p, page, buffer) || !is_tree_page(buffer[0])) {
			p->bad_pages++;
			continue;
		}
		if (buffer[0] == PAGE_TABLE_INTERIOR)
			continue;
		r = add_leaf(p, leaf_place(p, buffer), page);
		if (r < 0)
			return r;
	}
	return 0;
}

static int compare_leaves(const void *a, const void *b)
{
	const struct leaf *x = a, *y = b;

	if (x->first_id != y->first_id)
		return x->first_id < y->first_id ? -1 : 1;
	return (x->page > y->page) - (x->page < y->page);
}

/* --- cells ----------------------------------------------------------------------------------- */

static bool record_room(struct queue_pages *p, size_t n)
{
	uint8_t *more;

	if (n <= p->record_size)
		return true;
	n = n < 65536 ? 65536 : n + n / 2;
	more = realloc(p->record, n);
	if (!more)
		return false;
	p->record = more;
	p->record_size = n;
	return true;
}

/* Whether the pointer map agrees that a page carries on from another one. */
static bool carries_on(const struct queue_pages *p, uint32_t page, uint32_t from, bool first)
{
	if (page == 0 || page > p->n_pages)
		return false;
	if (p->map[page] == MAP_UNKNOWN)
		return true;
	return p->map[page] == (first ? MAP_OVERFLOW_FIRST : MAP_OVERFLOW_NEXT) &&
		p->parents[page] == from;
}

/* Gathers a record of `len` bytes, of which `local` are at `bytes` and a page number behind. */
static bool gather(struct queue_pages *p, uint32_t leaf, const uint8_t *bytes, size_t local,
	uint64_t len, uint8_t *buffer)
{
	uint32_t from = leaf, next = get_be32(bytes + local);
	size_t have = local;

	if (!record_room(p, local))
		return false;
	memcpy(p->record, bytes, local);
	while (have < len) {
		size_t n = (size_t)u64_min(len - have, p->usable - 4);

		if (!carries_on(p, next, from, from == leaf) || !read_page(p, next, buffer) ||
			!record_room(p, have + n))
			return false;
		memcpy(p->record + have, buffer + 4, n);
		have += n;
		from = next;
		next = get_be32(buffer);
	}
	return next == 0;
}

static bool read_cell(struct queue_pages *p, uint32_t leaf, const uint8_t *page, unsigned offset,
	uint8_t *buffer, struct queue_record *ret)
{
	struct queue_cell cell;

	if (page[0] == PAGE_INDEX_INTERIOR)
		offset += 4;
	if (offset >= p->usable ||
		!queue_cell_parse(page + offset, p->usable - offset, p->usable,
			page[0] == PAGE_TABLE_LEAF, &cell))
		return false;
	/* What it says of its length is not to make us read for hours. */
	if (cell.len / p->usable > p->n_pages)
		return false;
	ret->id = cell.id;
	if (cell.local == cell.len)
		return queue_record_parse(cell.bytes, cell.len, ret);
	return gather(p, leaf, cell.bytes, cell.local, cell.len, buffer) &&
		queue_record_parse(p->record, (size_t)cell.len, ret);
}

/*
 * Ids ascend on a leaf. Of those that do not, this one is damaged rather than its neighbours if
 * they would ascend without it. Of two that are the same, it is the one with a gap on its other
 * side, since ids have few.
 */
static bool id_in_place(
	const struct queue_pages *p, const uint8_t *page, const struct cells *c, unsigned i)
{
	int64_t ids[5] = { 0 };
	bool there[5] = { false };

	if (page[0] != PAGE_TABLE_LEAF)
		return true;
	for (int k = -2; k <= 2; k++) {
		int64_t j = (int64_t)i + k;
		unsigned offset;

		if (j < 0 || j >= c->n)
			continue;
		offset = cell_offset(p, c, (unsigned)j);
		there[k + 2] =
			offset && queue_cell_id(page + offset, p->usable - offset, &ids[k + 2]);
	}
	if (!there[2] || ids[2] <= 0)
		return false;
	if (there[3] && ids[3] == ids[2] && there[1] && ids[1] + 1 < ids[2])
		return false;
	if (there[1] && ids[1] == ids[2])
		return there[0] && ids[0] + 1 < ids[2];
	/* Unless the one before, or behind, is out of place itself. */
	if (there[1] && ids[1] > ids[2] && !(there[0] && ids[0] < ids[2] && ids[1] > ids[2]))
		return false;
	if (there[3] && ids[3] <= ids[2] && !(there[4] && ids[4] > ids[2]))
		return false;
	return true;
}

static int leaf_records(struct queue_pages *p, uint32_t leaf, const uint8_t *page, uint8_t *buffer,
	queue_record_fn fn, void *userdata)
{
	struct cells c;

	if (!is_tree_page(page[0]) || !find_cells(p, page, &c)) {
		p->bad_pages++;
		return 0;
	}
	for (unsigned i = 0; i < c.n; i++) {
		unsigned offset = cell_offset(p, &c, i);
		struct queue_record record;
		int r;

		if (!offset || !id_in_place(p, page, &c, i) ||
			!read_cell(p, leaf, page, offset, buffer, &record)) {
			p->bad_cells++;
			continue;
		}
		r = fn(userdata, &record);
		if (r != 0)
			return r;
	}
	return 0;
}

int queue_pages_records(struct queue_pages *p, queue_record_fn fn, void *userdata,
	void (*alive)(void *userdata), void *alive_userdata)
{
	_cleanup_(freep) uint8_t *page = calloc(2, p->page_size);
	int r;

	if (!page)
		return -ENOMEM;
	p->alive = alive;
	p->alive_userdata = alive_userdata;
	p->bad_cells = p->bad_pages = 0;
	p->n_leaves = 0;
	read_map(p, page);
	r = classify(p, page);
	if (r < 0)
		return r;
	if (p->n_leaves > 0)
		qsort(p->leaves, p->n_leaves, sizeof(*p->leaves), compare_leaves);
	for (size_t i = 0; i < p->n_leaves; i++) {
		tell_alive(p);
		if (p->failed_reads > MAX_FAILED_READS)
			return -EIO;
		if (!read_page(p, p->leaves[i].page, page))
			continue;
		r = leaf_records(p, p->leaves[i].page, page, page + p->page_size, fn, userdata);
		if (r != 0)
			return r;
	}
	return 0;
}

uint64_t queue_pages_bad_cells(const struct queue_pages *p)
{
	return p->bad_cells;
}

uint64_t queue_pages_bad_pages(const struct queue_pages *p)
{
	return p->bad_pages;
}

/* --- opening --------------------------------------------------------------------------------- */

/* Takes of the header what makes sense, the usual for the rest. Returns the pages it tells of. */
static uint32_t read_header(struct queue_pages *p)
{
	uint8_t header[100];
	uint32_t size;

	p->page_size = p->usable = DEFAULT_PAGE_SIZE;
	p->last_root = LAST_ROOT;
	if (queue_wal_read_at(p->fd, header, sizeof(header), 0) != sizeof(header) ||
		memcmp(header, "SQLite format 3", 16) != 0)
		return 0;
	size = get_be16(header + 16);
	size = size == 1 ? 65536 : size;
	if (!queue_wal_is_page_size(size))
		return 0;
	p->page_size = p->usable = size;
	if (header[20] <= 32 && size - header[20] >= 480)
		p->usable -= header[20];
	if (get_be32(header + 52) > LAST_ROOT && get_be32(header + 52) <= MAX_LAST_ROOT)
		p->last_root = get_be32(header + 52);
	/* Its own counter tells whether the number of pages was kept up to date. */
	return memcmp(header + 24, header + 92, 4) == 0 ? get_be32(header + 28) : 0;
}

static int open_files(struct queue_pages *p, const char *path, struct queue_wal *ret_log)
{
	_cleanup_(freep) char *name = NULL;

	p->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (p->fd < 0)
		return -errno;
	if (asprintf(&name, "%s-wal", path) < 0) {
		name = NULL;
		return -ENOMEM;
	}
	p->log_fd = open(name, O_RDONLY | O_CLOEXEC);
	if (p->log_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return queue_wal_header(p->log_fd, ret_log);
}

static int make_tables(struct queue_pages *p)
{
	size_t n = (size_t)p->n_pages + 1;

	p->frames = calloc(n, sizeof(*p->frames));
	p->map = calloc(n, sizeof(*p->map));
	p->parents = calloc(n, sizeof(*p->parents));
	p->pointed_to = calloc(n, sizeof(*p->pointed_to));
	return p->frames && p->map && p->parents && p->pointed_to ? 0 : -ENOMEM;
}

static int open_pages(struct queue_pages *p, const char *path)
{
	uint32_t told, in_file, in_log = 0, n_frames = 0;
	_cleanup_(freep) uint8_t *frame = NULL;
	struct queue_wal log;
	struct stat st;
	int r, has_log;

	has_log = open_files(p, path, &log);
	if (has_log < 0)
		return has_log;
	if (fstat(p->fd, &st) < 0)
		return -errno;
	frame = malloc(QUEUE_WAL_FRAME_HEADER + QUEUE_MAX_PAGE_SIZE);
	if (!frame)
		return -ENOMEM;
	told = read_header(p);
	if (has_log) {
		/* -fanalyzer: has_log says that it was read. */
		if (told == 0)
			p->page_size = p->usable = log.page_size;
		if (log.page_size == p->page_size)
			n_frames = queue_wal_count(p->log_fd, log, frame, &in_log);
	}
	in_file = (uint32_t)u64_min((uint64_t)st.st_size / p->page_size, UINT32_MAX - 1);
	/* What lies behind the end was given up; the log knows the end best. */
	p->n_pages = in_file;
	if (n_frames > 0)
		p->n_pages = (uint32_t)u64_min(in_log, (uint64_t)in_file + n_frames);
	else if (told > 0 && told < in_file)
		p->n_pages = told;
	r = make_tables(p);
	if (r < 0)
		return r;
	map_frames(p, n_frames, frame);
	return 0;
}

int queue_pages_new(struct queue_pages **ret, const char *path)
{
	struct queue_pages *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->fd = p->log_fd = -1;
	r = open_pages(p, path);
	if (r < 0) {
		queue_pages_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct queue_pages *queue_pages_free(struct queue_pages *p)
{
	if (!p)
		return NULL;
	free(p->record);
	free(p->leaves);
	free(p->pointed_to);
	free(p->parents);
	free(p->map);
	free(p->frames);
	closep(&p->log_fd);
	closep(&p->fd);
	free(p);
	return NULL;
}
