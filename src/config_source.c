/* SPDX-License-Identifier: MIT */
/*
 * Owns the configuration's text before libconfig sees it, and the list of faults. The includes are
 * resolved here, because libconfig ends the process when an include is a folder, and because the
 * text must be looked at as a whole for what libconfig reads wrongly without a word.
 *
 * Invariants: every line of the joined text has an entry in `lines`; the text of each file ends
 * with a newline; the scanner steps from token to token exactly as libconfig's does, so both agree
 * on what is a string and what is a comment. Must not know any key, nor libconfig.
 */
#include "config_source.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

#define MAX_BYTES (1024 * 1024) /* a file's, and the joined text's */
#define MAX_DEPTH 10

/* One file being joined. */
struct scan {
	struct config_source *s;
	const char *begin;
	const char *p;
	const char *end;
	unsigned file;
	unsigned line;
	unsigned depth;
	bool in_password; /* the last name was that */
};

static int scan_file(struct config_source *s, const char *path, unsigned depth, bool regular);

int config_slurp(const char *path, bool regular, size_t max, char **ret, size_t *ret_length,
	mode_t *ret_mode)
{
	_cleanup_(closep) int fd = -1;
	_cleanup_(freep) char *buf = NULL;
	struct stat st;
	size_t n = 0;
	ssize_t r;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (regular ? O_NONBLOCK : 0));
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (regular && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return -ENOTSUP;
	buf = malloc(max + 2);
	if (!buf)
		return -ENOMEM;
	for (;;) {
		r = read(fd, buf + n, max + 1 - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		n += (size_t)r;
		if (n > max)
			break;
	}
	if (r < 0 || n > max) {
		int error = r < 0 ? -errno : -EFBIG;

		explicit_bzero(buf, n);
		return error;
	}
	buf[n] = '\0';
	*ret = buf;
	buf = NULL;
	*ret_length = n;
	if (ret_mode)
		*ret_mode = st.st_mode;
	return 0;
}

const char *config_slurp_strerror(int error)
{
	return error == -ENOTSUP ? "not a regular file" : strerror(-error);
}

/* The array with room for one more element. NULL: no memory, which is remembered. */
static void *grow(struct config_source *s, void *array, size_t n, size_t size)
{
	/* At 0, 1, 2, 4, 8 ...: the capacity needs no place of its own. */
	if ((n & (n - 1)) != 0)
		return array;
	array = reallocarray(array, n ? n * 2 : 1, size);
	if (!array)
		s->no_memory = s->broken = true;
	return array;
}

void config_source_fault(struct config_source *s, unsigned at, const char *format, ...)
{
	struct config_source_fault *faults;
	va_list ap;
	char *text;
	int r;

	/* -fanalyzer: the source owns it from now on. */
	faults = grow(s, s->faults, s->n_faults, sizeof(*faults));
	if (!faults)
		return;
	s->faults = faults;
	va_start(ap, format);
	r = vasprintf(&text, format, ap);
	va_end(ap);
	if (r < 0) {
		s->no_memory = s->broken = true;
		return;
	}
	/* A value that is quoted may hold anything; a fault is one line. */
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	faults[s->n_faults] = (struct config_source_fault){
		.at = at,
		.order = s->n_faults,
		.text = text,
	};
	s->n_faults++;
}

/* The line of the joined text that is being written. */
static unsigned here(const struct config_source *s)
{
	return (unsigned)s->n_lines;
}

/* The line that begins now came from there. */
static void map_line(struct config_source *s, unsigned file, unsigned line)
{
	struct config_source_line *lines = grow(s, s->lines, s->n_lines, sizeof(*lines));

	if (!lines)
		return;
	/* -fanalyzer: as above. */
	s->lines = lines;
	lines[s->n_lines++] = (struct config_source_line){ .file = file, .line = line };
}

/* One more file; its index. */
static unsigned add_file(struct config_source *s, const char *name, mode_t mode)
{
	struct config_source_file *files = grow(s, s->files, s->n_files, sizeof(*files));

	if (!files)
		return 0;
	/* -fanalyzer: as above. */
	s->files = files;
	files[s->n_files] = (struct config_source_file){ .name = strdup(name), .mode = mode };
	if (!files[s->n_files].name)
		s->no_memory = s->broken = true;
	return (unsigned)s->n_files++;
}

static void put(struct config_source *s, const char *text, size_t n)
{
	if (n > MAX_BYTES - s->length) {
		if (!s->broken)
			config_source_fault(s, here(s),
				"too much text; allowed: %d bytes, included files and all",
				MAX_BYTES);
		s->broken = true;
		return;
	}
	memcpy(s->text + s->length, text, n);
	s->length += n;
}

/* Takes the next n bytes of the file over into the joined text. */
static void take(struct scan *c, size_t n)
{
	while (n > 0 && !c->s->broken) {
		const char *newline = memchr(c->p, '\n', n);
		size_t part = newline ? (size_t)(newline - c->p) + 1 : n;

		put(c->s, c->p, part);
		c->p += part;
		n -= part;
		if (newline)
			map_line(c->s, c->file, ++c->line);
	}
}

static size_t left(const struct scan *c)
{
	return (size_t)(c->end - c->p);
}

static void unclosed(struct scan *c, const char *what)
{
	config_source_fault(c->s, here(c->s), "%s begins here and never ends", what);
	/* What follows an included file cannot be understood any more. */
	if (c->depth > 0)
		c->s->broken = true;
	take(c, left(c));
}

static void take_string(struct scan *c)
{
	const char *p = c->p + 1;
	unsigned line = here(c->s);

	while (p < c->end && *p != '"') {
		/* The text ends in NUL: looking one or two further is safe. */
		if (p[0] == '\\' && (p[1] == '"' || p[1] == '\\')) {
			p += 2;
			continue;
		}
		if (p[0] == '\\' && (p[1] == 'x' || p[1] == 'X') && p[2] == '0' && p[3] == '0')
			config_source_fault(
				c->s, line, "\\x00 in a string; allowed: every byte but this one");
		p++;
	}
	if (p < c->end)
		take(c, (size_t)(p + 1 - c->p));
	else
		unclosed(c, "a string");
}

static void take_comment(struct scan *c)
{
	const char *end = strstr(c->p + 2, "*/");

	if (end)
		take(c, (size_t)(end + 2 - c->p));
	else
		unclosed(c, "a comment");
}

static void take_line_comment(struct scan *c)
{
	take(c, strcspn(c->p, "\n"));
}

static bool is_exponent(const char *p)
{
	return (p[0] == 'e' || p[0] == 'E') &&
		(isdigit((unsigned char)p[1]) ||
			((p[1] == '+' || p[1] == '-') && isdigit((unsigned char)p[2])));
}

/*
 * Says so when libconfig would keep something else than this integer of n bytes. True: it is right
 * once an L is put behind it.
 */
static bool check_integer(struct scan *c, int n, bool hex, bool is_long)
{
	bool negative = *c->p == '-';
	uint64_t more = negative ? 1 : 0;
	int shown = n > 40 ? 40 : n;
	unsigned long long value;

	errno = 0;
	value = strtoull(negative ? c->p + 1 : c->p, NULL, hex ? 16 : 10);
	/* A password without its quotes is not to be shown; that it is no string is found later. */
	if (c->in_password)
		return !is_long;
	if (errno == ERANGE || value > INT64_MAX + more) {
		config_source_fault(c->s, here(c->s),
			"%.*s does not fit 64 bits; allowed: at most %lldL", shown, c->p,
			(long long)INT64_MAX);
		return false;
	}
	if (is_long || value <= INT32_MAX + more)
		return false;
	config_source_fault(c->s, here(c->s),
		"%.*s does not fit 32 bits and would be cut; allowed: %.*sL, or for a size a "
		"string such as \"4G\"",
		shown, c->p, shown, c->p);
	return true;
}

/* An integer or a float, divided from what follows as libconfig does. */
static void take_number(struct scan *c)
{
	const char *p = c->p;
	bool hex, missing;

	hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X') && isxdigit((unsigned char)p[2]);
	if (hex) {
		for (p += 2; isxdigit((unsigned char)*p); p++)
			;
	} else {
		p += *p == '-' || *p == '+';
		p += strspn(p, "0123456789");
	}
	if (!hex && (*p == '.' || is_exponent(p))) {
		p += *p == '.';
		p += strspn(p, "0123456789");
		if (is_exponent(p))
			p += 2 + strspn(p + 2, "0123456789");
		take(c, (size_t)(p - c->p));
		return;
	}
	missing = check_integer(c, (int)(p - c->p), hex, *p == 'L');
	take(c, (size_t)(p - c->p));
	/* The checks that follow are to see the true value, not a cut one. */
	if (missing)
		put(c->s, "L", 1);
}

static bool is_number(const char *p)
{
	if (*p == '-' || *p == '+')
		p++;
	return isdigit((unsigned char)*p) || *p == '.';
}

static void take_name(struct scan *c)
{
	const char *p = c->p;

	while (isalnum((unsigned char)*p) || *p == '-' || *p == '_' || *p == '*')
		p++;
	c->in_password = (size_t)(p - c->p) == strlen("password") &&
		strncasecmp(c->p, "password", strlen("password")) == 0;
	take(c, (size_t)(p - c->p));
}

/* At the beginning of a line: blanks, @include, blanks, a quote. Its length, 0: something else. */
static size_t include_opening(const char *p)
{
	static const char word[] = "@include";
	const char *q = p + strspn(p, " \t");
	size_t blanks;

	if (strncmp(q, word, sizeof(word) - 1) != 0)
		return 0;
	q += sizeof(word) - 1;
	blanks = strspn(q, " \t");
	if (blanks == 0 || q[blanks] != '"')
		return 0;
	return (size_t)(q + blanks + 1 - p);
}

/* The name as written; a relative one belongs to the including file's folder. */
static char *include_path(const struct scan *c, const char *name, size_t n)
{
	const char *from = c->s->files[c->file].name;
	const char *slash = strrchr(from, '/');
	char *path;

	if (*name == '/' || !slash)
		return strndup(name, n);
	if (asprintf(&path, "%.*s%.*s", (int)(slash + 1 - from), from, (int)n, name) < 0)
		return NULL;
	return path;
}

static void take_include(struct scan *c, size_t opening)
{
	_cleanup_(freep) char *path = NULL;
	struct config_source *s = c->s;
	const char *name = c->p + opening;
	size_t n = strcspn(name, "\"\\\n");
	unsigned at = here(s);
	int r;

	if (name[n] != '"' || n == 0) {
		config_source_fault(s, at,
			"@include without a file name; allowed: @include \"FILE\" on a line of its "
			"own");
		s->broken = true;
		return;
	}
	c->p = name + n + 1;
	path = include_path(c, name, n);
	if (!path) {
		s->no_memory = s->broken = true;
		return;
	}
	if (c->depth + 1 > MAX_DEPTH) {
		config_source_fault(s, at,
			"@include nests too deep; allowed: %d files deep, none of them itself",
			MAX_DEPTH);
		s->broken = true;
		return;
	}
	put(s, "\n", 1);
	r = scan_file(s, path, c->depth + 1, true);
	if (r < 0) {
		config_source_fault(
			s, at, "cannot include \"%s\": %s", path, config_slurp_strerror(r));
		s->no_memory |= r == -ENOMEM;
		map_line(s, c->file, c->line);
		return;
	}
	/* The included text ended a line: what is left of this one begins another. */
	if (!s->broken)
		s->lines[s->n_lines - 1] = (struct config_source_line){ c->file, c->line };
}

static void scan_text(struct scan *c)
{
	size_t opening;

	while (c->p < c->end && !c->s->broken) {
		opening = c->p == c->begin || c->p[-1] == '\n' ? include_opening(c->p) : 0;
		if (opening > 0)
			take_include(c, opening);
		else if (*c->p == '"')
			take_string(c);
		else if (c->p[0] == '/' && c->p[1] == '*')
			take_comment(c);
		else if (*c->p == '#' || (c->p[0] == '/' && c->p[1] == '/'))
			take_line_comment(c);
		else if (isalpha((unsigned char)*c->p) || *c->p == '*')
			take_name(c);
		else if (is_number(c->p))
			take_number(c);
		else
			take(c, 1);
	}
	/* libconfig takes a comment only when a newline ends it. */
	if (!c->s->broken && c->s->length > 0 && c->s->text[c->s->length - 1] != '\n') {
		put(c->s, "\n", 1);
		map_line(c->s, c->file, c->line);
	}
}

/* Joins one file. -errno when it cannot be read: nothing was added. */
static int scan_file(struct config_source *s, const char *path, unsigned depth, bool regular)
{
	_cleanup_(freep) char *buf = NULL;
	struct scan c = { .s = s, .depth = depth, .line = 1 };
	size_t length;
	mode_t mode;
	int r;

	r = config_slurp(path, regular, MAX_BYTES, &buf, &length, &mode);
	if (r < 0)
		return r;
	/* -fanalyzer: what is not negative has set all three. */
	c.file = add_file(s, path, mode);
	c.begin = c.p = buf;
	c.end = buf + length;
	if (length >= 3 && memcmp(buf, "\xEF\xBB\xBF", 3) == 0)
		c.begin = c.p = buf + 3; /* the mark some editors put before UTF-8 */
	map_line(s, c.file, c.line);
	if (memchr(buf, '\0', length)) {
		take(&c, strlen(c.p));
		config_source_fault(s, here(s), "a NUL byte; allowed: text");
		s->broken = true;
	}
	scan_text(&c);
	explicit_bzero(buf, length);
	return 0;
}

int config_source_read(struct config_source *s, const char *path, bool regular)
{
	int r;

	*s = (struct config_source){ .text = malloc(MAX_BYTES + 1) };
	if (!s->text)
		return -ENOMEM;
	r = scan_file(s, path, 0, regular);
	s->text[s->length] = '\0';
	if (r < 0) {
		add_file(s, path, 0);
		config_source_fault(s, 0, "cannot read: %s", config_slurp_strerror(r));
		s->broken = true;
	}
	return s->no_memory || r == -ENOMEM ? -ENOMEM : 0;
}

void config_source_done(struct config_source *s)
{
	if (s->text)
		explicit_bzero(s->text, s->length);
	free(s->text);
	for (size_t i = 0; i < s->n_files; i++)
		free(s->files[i].name);
	for (size_t i = 0; i < s->n_faults; i++)
		free(s->faults[i].text);
	free(s->lines);
	free(s->files);
	free(s->faults);
	*s = (struct config_source){ 0 };
}

const struct config_source_file *config_source_file_at(const struct config_source *s, unsigned at)
{
	if (at == 0 || at > s->n_lines)
		return &s->files[0];
	return &s->files[s->lines[at - 1].file];
}

static int compare_faults(const void *a, const void *b)
{
	const struct config_source_fault *x = a, *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

void config_source_report(struct config_source *s, FILE *out)
{
	if (s->n_faults > 0)
		qsort(s->faults, s->n_faults, sizeof(*s->faults), compare_faults);
	for (size_t i = 0; i < s->n_faults; i++) {
		const struct config_source_fault *f = &s->faults[i];
		const char *name = config_source_file_at(s, f->at)->name;

		if (f->at > 0 && f->at <= s->n_lines)
			fprintf(out, "%s:%u: %s\n", name, s->lines[f->at - 1].line, f->text);
		else
			fprintf(out, "%s: %s\n", name, f->text);
	}
}
