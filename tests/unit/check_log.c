/* SPDX-License-Identifier: MIT */
/*
 * Tests of log lines: what reaches standard error, and, through a stand-in for libsystemd's
 * function, what reaches the journal. Standard error is a file here, which each test reads back.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "journal.h"
#include "log.h"
#include "suites.h"

char journal[3 * PIPE_BUF];
int journal_entries;
int journal_result;

/* The linker takes this one before the library's. */
int sd_journal_sendv(const struct iovec *iov, int n)
{
	size_t len = 0;

	for (int i = 0; i < n; i++) {
		memcpy(journal + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
		journal[len++] = '|';
	}
	journal[len] = '\0';
	journal_entries++;
	errno = EBADF; /* must not show */
	return journal_result;
}

static char path[] = "/tmp/check_log.XXXXXX";
static int saved_stderr;

static void setup(void)
{
	int fd;

	strcpy(path + strlen(path) - 6, "XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	saved_stderr = dup(STDERR_FILENO);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	close(fd);
	ck_assert_int_ge(fcntl(STDERR_FILENO, F_SETFL, O_APPEND), 0);
	unsetenv("JOURNAL_STREAM");
	journal_entries = journal_result = 0;
	log_open();
	log_set_level(LOG_INFO);
}

static void teardown(void)
{
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	unlink(path);
}

/* Everything that standard error got so far; static memory. */
static const char *written(void)
{
	static char text[1 << 20];
	ssize_t n = pread(STDERR_FILENO, text, sizeof(text) - 1, 0);

	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	return text;
}

static void pretend_to_be_the_journal(long device_offset, const char *tail)
{
	char stream[100];
	struct stat st;

	ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%lu:%lu%s", (unsigned long)st.st_dev + device_offset,
		(unsigned long)st.st_ino, tail);
	setenv("JOURNAL_STREAM", stream, 1);
	log_open();
}

void journal_begin(void)
{
	pretend_to_be_the_journal(0, "");
	log_set_level(LOG_INFO);
	journal_entries = journal_result = 0;
	journal[0] = '\0';
}

void journal_end(void)
{
	unsetenv("JOURNAL_STREAM");
	log_open();
}

START_TEST(test_lines)
{
	log_error("cannot open %s", "x");
	log_warning("w");
	log_notice("n");
	log_info("%d", 7);
	ck_assert_str_eq(written(), "error: cannot open x\nwarning: w\nnotice: n\ninfo: 7\n");
}
END_TEST

START_TEST(test_level)
{
	ck_assert_int_eq(log_level(), LOG_INFO);
	log_debug("hidden");
	log_write(LOG_DEBUG, NULL, "hidden");
	log_set_level(LOG_ERR);
	log_warning("hidden");
	log_error("shown");
	log_set_level(LOG_DEBUG);
	log_debug("shown, too");
	ck_assert_str_eq(written(), "error: shown\ndebug: shown, too\n");
}
END_TEST

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

START_TEST(test_level_names)
{
	static const char *const unknown[] = { "", "err", "Info", "warn", "info ", "7" };

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		ck_assert_int_eq(log_level_from_string(levels[i].name), levels[i].priority);
		ck_assert_str_eq(log_level_to_string(levels[i].priority), levels[i].name);
	}
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
		ck_assert_int_eq(log_level_from_string(unknown[i]), -EINVAL);
	ck_assert_str_eq(log_level_to_string(LOG_EMERG), "error");
	ck_assert_str_eq(log_level_to_string(99), "debug");
}
END_TEST

static const struct {
	const char *text;
	const char *shown;
} escapes[] = {
	{ "plain", "plain" },
	{ "", "" },
	{ "a\nerror: forged", "a\\nerror: forged" },
	{ "\t\r", "\\t\\r" },
	{ "\x1b[2J\x07", "\\x1b[2J\\x07" },
	{ "\x7f", "\\x7f" },
	{ "\xc2\x9b"
	  "31m",
		"\\u009b31m" },
	{ "gr\xc3\xb6\xc3\x9f"
	  "e \xe2\x82\xac \xf0\x9f\x8c\xa1",
		"gr\xc3\xb6\xc3\x9f"
		"e \xe2\x82\xac \xf0\x9f\x8c\xa1" },
	{ "\xc2\xa0", "\xc2\xa0" },
	{ "caf\xe9!", "caf\\xe9!" },
	{ "\xe2\x82", "\\xe2\\x82" },
	{ "\xff\x80", "\\xff\\x80" },
	{ "back\\slash", "back\\slash" },
};

START_TEST(test_escapes)
{
	char expected[100];

	log_info("%s", escapes[_i].text);
	snprintf(expected, sizeof(expected), "info: %s\n", escapes[_i].shown);
	ck_assert_str_eq(written(), expected);
}
END_TEST

/* Whatever is cut, the line ends in "..." and a newline, within one atomic write. */
START_TEST(test_long_lines)
{
	static const char *const pieces[] = { "x", "\x01", "\xe2\x82\xac", "a\xe2\x82\xac",
		"ab\xf0\x9f\x8c\xa1", "\n" };
	const char *piece = pieces[_i], *line;
	static char text[10000];
	size_t len;

	for (text[0] = '\0', len = 0; len < 9000; len += strlen(piece))
		strcpy(text + len, piece);
	log_info("%s", text);
	line = written();
	len = strlen(line);
	ck_assert_uint_gt(len, 2000);
	ck_assert_uint_le(len, PIPE_BUF);
	ck_assert_ptr_eq(strchr(line, '\n'), line + len - 1);
	ck_assert_mem_eq(line + len - 4, "...\n", 4);
	ck_assert_ptr_null(strstr(line, "\\xe2"));
	ck_assert_ptr_null(strstr(line, "\\xf0"));
}
END_TEST

START_TEST(test_errno_is_kept)
{
	errno = ENOSPC;
	log_info("disk: %m");
	ck_assert_int_eq(errno, ENOSPC);
	ck_assert_str_eq(written(), "info: disk: No space left on device\n");
	pretend_to_be_the_journal(0, "");
	errno = ENOSPC;
	log_info("disk: %m");
	ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

START_TEST(test_closed_stderr)
{
	int fd = dup(STDERR_FILENO);

	close(STDERR_FILENO);
	errno = EAGAIN;
	log_error("nobody hears this");
	ck_assert_int_eq(errno, EAGAIN);
	dup2(fd, STDERR_FILENO);
	close(fd);
	ck_assert_str_eq(written(), "");
}
END_TEST

START_TEST(test_journal)
{
	static const struct log_field fields[] = { { "BROKER", "a:1883" },
		{ "STATE", "two\nlines" }, { "EMPTY", NULL }, { NULL, NULL } };

	pretend_to_be_the_journal(0, "");
	log_warning("a\nb");
	ck_assert_str_eq(journal, "MESSAGE=a\\nb|PRIORITY=4|SYSLOG_IDENTIFIER=mqtt-gatewayd|");
	log_write(LOG_ERR, fields, "lost %s", "x");
	ck_assert_str_eq(journal,
		"MESSAGE=lost x|PRIORITY=3|SYSLOG_IDENTIFIER=mqtt-gatewayd|"
		"BROKER=a:1883|STATE=two\nlines|EMPTY=|");
	log_debug("hidden");
	ck_assert_int_eq(journal_entries, 2);
	ck_assert_str_eq(written(), "");
}
END_TEST

START_TEST(test_journal_bounds)
{
	static char value[5000];
	struct log_field fields[41] = { 0 };

	memset(value, 'v', sizeof(value) - 1);
	for (size_t i = 0; i < 40; i++)
		fields[i] = (struct log_field){ "F", value };
	pretend_to_be_the_journal(0, "");
	log_write(LOG_INFO, fields, "%s", "m");
	ck_assert_int_eq(journal_entries, 1);
	ck_assert_ptr_eq(strstr(journal, "MESSAGE=m|"), journal);
}
END_TEST

/* A line that the journal does not take is not lost. */
START_TEST(test_journal_fails)
{
	pretend_to_be_the_journal(0, "");
	journal_result = -ENOBUFS;
	log_info("important");
	ck_assert_int_eq(journal_entries, 1);
	ck_assert_str_eq(written(), "info: important\n");
}
END_TEST

START_TEST(test_not_the_journal)
{
	static const char *const streams[] = { "", ":", "1", "1:", "1:2x", "x:y", "0:0" };

	for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
		setenv("JOURNAL_STREAM", streams[i], 1);
		log_open();
		log_info("x");
	}
	pretend_to_be_the_journal(1, "");
	log_info("x");
	pretend_to_be_the_journal(0, ":0");
	log_info("x");
	ck_assert_int_eq(journal_entries, 0);
}
END_TEST

#define THREADS 4
#define LINES	750

static void *chatter(void *arg)
{
	char text[301];

	memset(text, *(const char *)arg, 300);
	text[300] = '\0';
	for (int i = 0; i < LINES; i++)
		log_info("%s", text);
	return NULL;
}

/* Nobody is interrupted: each line is of one letter. */
START_TEST(test_threads)
{
	pthread_t threads[THREADS];
	const char *line;
	int lines = 0;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, chatter, (void *)&"abcd"[i]), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);

	for (line = written(); *line && lines < THREADS * LINES; line += 307, lines++) {
		ck_assert_mem_eq(line, "info: ", 6);
		ck_assert_uint_eq(strspn(line + 6, (char[]){ line[6], 0 }), 300);
		ck_assert_int_eq(line[306], '\n');
	}
	ck_assert_int_eq(lines, THREADS * LINES);
}
END_TEST

Suite *check_log(void)
{
	Suite *s = suite_create("log");
	TCase *t = tcase_create("log");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_lines);
	tcase_add_test(t, test_level);
	tcase_add_test(t, test_level_names);
	tcase_add_loop_test(t, test_escapes, 0, ARRAY_SIZE(escapes));
	tcase_add_loop_test(t, test_long_lines, 0, 6);
	tcase_add_test(t, test_errno_is_kept);
	tcase_add_test(t, test_closed_stderr);
	tcase_add_test(t, test_journal);
	tcase_add_test(t, test_journal_bounds);
	tcase_add_test(t, test_journal_fails);
	tcase_add_test(t, test_not_the_journal);
	tcase_add_test(t, test_threads);
	suite_add_tcase(s, t);
	return s;
}
