/* SPDX-License-Identifier: MIT */
/*
 * Owns the log level and where log lines go.
 *
 * Invariants: a line reaches standard error in one write() of at most PIPE_BUF bytes, so that lines
 * of several threads, or of several processes on one pipe, never mix; text that came from outside
 * cannot fake a line or command a terminal; errno is the caller's.
 *
 * Must not know what is logged, nor any other room.
 */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* sd_journal_sendv() would name this file as the place every line comes from. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "log.h"

#define TEXT_MAX   2048 /* formatted; what is longer is cut */
#define FIELDS_MAX 16
#define FIELD_MAX  512

static const struct {
	const char *name;
	int priority;
} levels[] = {
	{ "error", LOG_ERR },
	{ "warning", LOG_WARNING },
	{ "notice", LOG_NOTICE },
	{ "info", LOG_INFO },
	{ "debug", LOG_DEBUG },
};

static atomic_int current_level = LOG_INFO;
/* Set before other threads start, only read afterwards. */
static bool to_journal;
static const char *identifier = "SYSLOG_IDENTIFIER=mqtt-gatewayd";

void log_open_report(void)
{
	identifier = "SYSLOG_IDENTIFIER=mqttgw-report";
	log_open();
}

void log_open(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	char rest;

	to_journal = stream && sscanf(stream, "%llu:%llu%c", &device, &inode, &rest) == 2 &&
		fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_set_level(int priority)
{
	atomic_store_explicit(&current_level, priority, memory_order_relaxed);
}

int log_level(void)
{
	return atomic_load_explicit(&current_level, memory_order_relaxed);
}

int log_level_from_string(const char *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (streq(levels[i].name, s))
			return levels[i].priority;
	}
	return -EINVAL;
}

const char *log_level_to_string(int priority)
{
	size_t i = 0;

	/* What is worse than an error is called one. */
	while (i + 1 < ARRAY_SIZE(levels) && levels[i].priority < priority)
		i++;
	return levels[i].name;
}

/* Bytes of the UTF-8 character at `p`; 0 when it is none. The text ends in NUL. */
static size_t character_len(const unsigned char *p)
{
	size_t n = *p < 0x80 ? 1
		: *p < 0xc2  ? 0
		: *p < 0xe0  ? 2
		: *p < 0xf0  ? 3
		: *p < 0xf5  ? 4
			     : 0;

	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

/*
 * Writes the character of `n` bytes (0: one byte that is no UTF-8) as it may stand in a log line:
 * control characters are escaped, C1 ones as well, which terminals obey in UTF-8, too. Journal
 * readers show a text that is not UTF-8 as a blob. Returns the length.
 */
static size_t escape(char out[static 8], const unsigned char *p, size_t n)
{
	if (*p == '\n' || *p == '\t' || *p == '\r')
		return (size_t)snprintf(out, 8, "\\%c", *p == '\n' ? 'n' : *p == '\t' ? 't' : 'r');
	if (n == 0 || *p < 0x20 || *p == 0x7f)
		return (size_t)snprintf(out, 8, "\\x%02x", *p);
	if (p[0] == 0xc2 && p[1] <= 0x9f)
		return (size_t)snprintf(out, 8, "\\u%04x", p[1]);
	memcpy(out, p, n);
	return n;
}

/* Formats and escapes. Returns the length; "..." stands for what does not fit, NUL is not added. */
static size_t _printf_(3, 0) format_text(char *out, size_t size, const char *format, va_list ap)
{
	char text[TEXT_MAX], piece[8];
	const unsigned char *p;
	size_t n, w, len = 0;
	bool cut;
	int r;

	r = vsnprintf(text, sizeof(text), format, ap);
	if (r < 0)
		strcpy(text, "log line that cannot be formatted");
	cut = r >= (int)sizeof(text);

	for (p = (const unsigned char *)text; *p; p += n > 0 ? n : 1) {
		n = character_len(p);
		if (n == 0 && cut && p + 3 >= (const unsigned char *)text + strlen(text))
			break; /* the character that vsnprintf() cut in two */
		w = escape(piece, p, n);
		if (len + w > size - strlen("...")) {
			cut = true;
			break;
		}
		memcpy(out + len, piece, w);
		len += w;
	}
	if (cut) {
		/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): its length goes with it. */
		memcpy(out + len, "...", strlen("..."));
		len += strlen("...");
	}
	return len;
}

static int send_to_journal(
	int priority, const struct log_field *fields, const char *text, size_t len)
{
	char priority_field[] = "PRIORITY=0";
	char message[sizeof("MESSAGE=") + PIPE_BUF];
	char field[FIELDS_MAX][FIELD_MAX];
	struct iovec iov[3 + FIELDS_MAX];
	int n = 0;

	priority_field[sizeof(priority_field) - 2] = (char)('0' + (priority & LOG_PRIMASK));
	/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): so does this one's. */
	memcpy(message, "MESSAGE=", strlen("MESSAGE="));
	memcpy(message + strlen("MESSAGE="), text, len);

	iov[n++] = (struct iovec){ message, strlen("MESSAGE=") + len };
	iov[n++] = (struct iovec){ priority_field, sizeof(priority_field) - 1 };
	iov[n++] = (struct iovec){ (char *)identifier, strlen(identifier) };
	for (size_t i = 0; fields && fields[i].name && i < FIELDS_MAX; i++) {
		int w = snprintf(field[i], FIELD_MAX, "%s=%s", fields[i].name,
			fields[i].value ? fields[i].value : "");

		if (w > 0)
			iov[n++] = (struct iovec){ field[i], size_min((size_t)w, FIELD_MAX - 1) };
	}
	return sd_journal_sendv(iov, n);
}

void log_write(int priority, const struct log_field *fields, const char *format, ...)
{
	int saved_errno = errno;
	char line[PIPE_BUF];
	size_t start, len;
	va_list ap;

	if (priority > log_level())
		return;

	start = (size_t)snprintf(line, sizeof(line), "%s: ", log_level_to_string(priority));
	errno = saved_errno; /* for %m */
	va_start(ap, format);
	len = start + format_text(line + start, sizeof(line) - start - 1, format, ap);
	va_end(ap);

	if (!to_journal || send_to_journal(priority, fields, line + start, len - start) < 0) {
		line[len++] = '\n';
		while (write(STDERR_FILENO, line, len) < 0 && errno == EINTR)
			;
	}
	errno = saved_errno;
}
