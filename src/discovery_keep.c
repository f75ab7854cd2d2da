/* SPDX-License-Identifier: MIT */
/*
 * The kept list: see discovery_keep.h. Owns the form of the file, and how it gets to the disk. Must
 * not know when a list is good.
 */
#include "discovery_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

/* Far more than any list; a bound for what is read back. */
#define FILE_MAX (1024 * 1024)

#define TITLE	   "# Kept by mqtt-gatewayd for a start without the source below; not to be edited.\n"
#define PRIORITIES "# priorities:"

/* --- text ------------------------------------------------------------------------------------ */

/* libconfig's escapes, on one line; all but plain ASCII and UTF-8 goes as \xNN. */
static void print_quoted(FILE *out, const char *s)
{
	putc('"', out);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < ' ' || c == 0x7f)
			fprintf(out, "\\x%02x", c);
		else
			putc(c, out);
	}
	putc('"', out);
}

static void print_string(FILE *out, const char *name, const char *value)
{
	if (!*value)
		return;
	fprintf(out, " %s = ", name);
	print_quoted(out, value);
	putc(';', out);
}

static void print_tls(FILE *out, const struct config_tls *tls)
{
	if (!tls->enabled)
		return;
	fputs(" tls: {", out);
	print_string(out, "ca_file", tls->ca_file);
	print_string(out, "ca_path", tls->ca_path);
	print_string(out, "cert_file", tls->cert_file);
	print_string(out, "key_file", tls->key_file);
	print_string(out, "alpn", tls->alpn);
	fprintf(out, " insecure = %s; };", tls->insecure ? "true" : "false");
}

static void print_origin(FILE *out, const struct discovery_origin *origin)
{
	fputs(TITLE, out);
	fprintf(out, "# %s: ", origin->kind);
	print_quoted(out, origin->name);
	putc('\n', out);
}

static void print_list(
	FILE *out, const struct discovery_origin *origin, const struct discovery_list *list)
{
	print_origin(out, origin);
	fputs(PRIORITIES, out);
	for (size_t i = 0; i < list->n; i++)
		fprintf(out, " %u", list->brokers[i].priority);
	fputs("\nbrokers: (", out);
	for (size_t i = 0; i < list->n; i++) {
		const struct config_broker *b = &list->brokers[i];

		fputs(i > 0 ? ",\n\t{" : "\n\t{", out);
		print_string(out, "host", b->host);
		fprintf(out, " port = %u;", b->port);
		if (!origin->targets_only) {
			print_string(out, "username", b->username);
			/* Also one that came from a file, which need not be there next time. */
			print_string(out, "password", b->password);
			print_tls(out, &b->tls);
		}
		fputs(" }", out);
	}
	fputs("\n);\n", out);
}

struct text {
	char *bytes;
	size_t n;
};

/* It may hold passwords. */
static void text_clear(struct text *t)
{
	if (t->bytes)
		explicit_bzero(t->bytes, t->n);
	free(t->bytes);
	*t = (struct text){ 0 };
}

/* `list` may be NULL: then only the lines that say where it comes from. */
static int make_text(
	struct text *ret, const struct discovery_origin *origin, const struct discovery_list *list)
{
	FILE *out = open_memstream(&ret->bytes, &ret->n);
	bool failed;

	if (!out)
		return -ENOMEM;
	if (list)
		print_list(out, origin, list);
	else
		print_origin(out, origin);
	failed = ferror(out);
	if (fclose(out) != 0 || failed) {
		text_clear(ret);
		return -ENOMEM;
	}
	return 0;
}

/* --- files ----------------------------------------------------------------------------------- */

static int read_all(int fd, char *buf, size_t size, size_t *ret_n)
{
	size_t n = 0;

	while (n < size) {
		ssize_t k = read(fd, buf + n, size - n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		n += (size_t)k;
	}
	*ret_n = n;
	return 0;
}

static int write_all(int fd, const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t k = write(fd, bytes, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		bytes += k;
		n -= (size_t)k;
	}
	return 0;
}

static int open_kept(const char *path, struct stat *ret_st)
{
	/* Never waits, whatever somebody has put there. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return -errno;
	if (fstat(fd, ret_st) < 0 || !S_ISREG(ret_st->st_mode) || ret_st->st_size > FILE_MAX) {
		close(fd);
		return -EBADF;
	}
	return fd;
}

/* The whole file, with a 0 behind it. */
static int load_text(struct text *ret, const char *path, int64_t *ret_changed)
{
	struct stat st;
	_cleanup_(closep) int fd = open_kept(path, &st);
	struct text t = { 0 };
	int r;

	if (fd < 0)
		return fd;
	t.bytes = calloc(1, (size_t)st.st_size + 1);
	if (!t.bytes)
		return -ENOMEM;
	r = read_all(fd, t.bytes, (size_t)st.st_size, &t.n);
	if (r < 0) {
		text_clear(&t);
		return r;
	}
	*ret = t;
	*ret_changed = st.st_mtime;
	return 0;
}

static bool holds_already(const char *path, const struct text *text)
{
	struct text there = { 0 };
	int64_t changed;
	bool same;

	if (load_text(&there, path, &changed) < 0)
		return false;
	same = there.n == text->n && memcmp(there.bytes, text->bytes, text->n) == 0;
	text_clear(&there);
	return same;
}

static int write_file(const char *path, const struct text *text)
{
	_cleanup_(closep) int fd = -1;
	int r;

	/* What a crash has left there. */
	(void)unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = write_all(fd, text->bytes, text->n);
	if (r < 0)
		return r;
	return fsync(fd) < 0 ? -errno : 0;
}

static int sync_directory_of(const char *path)
{
	char copy[PATH_MAX];
	_cleanup_(closep) int fd = -1;

	snprintf(copy, sizeof(copy), "%s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

static int replace_file(const char *path, const struct text *text)
{
	char temporary[PATH_MAX];
	int r;

	if (snprintf(temporary, sizeof(temporary), "%s.new", path) >= (int)sizeof(temporary))
		return -ENAMETOOLONG;
	r = write_file(temporary, text);
	if (r == 0 && rename(temporary, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlink(temporary);
		return r;
	}
	return sync_directory_of(path);
}

int discovery_keep_write(
	const char *path, const struct discovery_origin *origin, const struct discovery_list *list)
{
	struct text text = { 0 };
	int r = make_text(&text, origin, list);

	if (r < 0)
		return r;
	if (!holds_already(path, &text))
		r = replace_file(path, &text);
	text_clear(&text);
	return r;
}

/* --- reading back ---------------------------------------------------------------------------- */

/* Whether the file is of this origin; *ret_rest is what follows. */
static int check_origin(
	const struct text *text, const struct discovery_origin *origin, const char **ret_rest)
{
	struct text head = { 0 };
	int r = make_text(&head, origin, NULL);

	if (r < 0)
		return r;
	if (strncmp(text->bytes, head.bytes, head.n) != 0)
		r = -ENOENT;
	else
		*ret_rest = text->bytes + head.n;
	text_clear(&head);
	return r;
}

/* One number for each broker, in ascending order. */
static bool read_priorities(const char *line, struct discovery_list *list)
{
	unsigned long last = 0;

	if (strncmp(line, PRIORITIES, strlen(PRIORITIES)) != 0)
		return false;
	line += strlen(PRIORITIES);
	for (size_t i = 0; i < list->n; i++) {
		char *end;
		unsigned long value;

		if (*line != ' ' || line[1] < '0' || line[1] > '9')
			return false;
		value = strtoul(line, &end, 10);
		if (value > UINT16_MAX || value < last)
			return false;
		list->brokers[i].priority = (uint16_t)value;
		last = value;
		line = end;
	}
	return *line == '\n';
}

/* The first line of the faults, if there is one. */
static void first_line(const char *faults, char *text, size_t size)
{
	if (size > 0)
		snprintf(text, size, "%.*s", (int)strcspn(faults, "\n"), faults);
}

static int load_list(struct discovery_list *ret, const char *path, char *text, size_t text_size)
{
	struct text faults = { 0 };
	FILE *out = open_memstream(&faults.bytes, &faults.n);
	int r;

	if (!out)
		return -ENOMEM;
	r = config_load_brokers(&ret->brokers, &ret->n, path, true, out);
	fclose(out);
	if (r == -EINVAL)
		first_line(faults.bytes ? faults.bytes : "", text, text_size);
	text_clear(&faults);
	return r;
}

int discovery_keep_read(struct discovery_list *ret, int64_t *ret_changed, const char *path,
	const struct discovery_origin *origin, char *text, size_t text_size)
{
	struct discovery_list list = { 0 };
	struct text there = { 0 };
	const char *rest = NULL;
	int64_t changed = 0;
	int r;

	r = load_text(&there, path, &changed);
	if (r < 0)
		return r;
	r = check_origin(&there, origin, &rest);
	if (r == 0)
		r = load_list(&list, path, text, text_size);
	if (r == 0 && !read_priorities(rest, &list)) {
		snprintf(text, text_size, "%s:3: not a priority for each broker", path);
		discovery_list_clear(&list);
		r = -EINVAL;
	}
	text_clear(&there);
	if (r < 0)
		return r;
	*ret = list;
	*ret_changed = changed;
	return 0;
}
