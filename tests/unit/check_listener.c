/* SPDX-License-Identifier: MIT */
/*
 * Tests of the listening socket: one of our own, what may stand at its path before, and one that
 * systemd passes. The latter is number 3, so those tests run in a process of their own.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "listener.h"
#include "log.h"
#include "scratch.h"
#include "suites.h"

static struct scratch scratch;
static struct listener l;
static char path[300];

static void setup(void)
{
	log_set_level(LOG_EMERG);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	scratch_make(&scratch);
	snprintf(path, sizeof(path), "%s", scratch_path(&scratch, "socket"));
	l = (struct listener){ .fd = -1 };
}

static void teardown(void)
{
	listener_close(&l);
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static struct sockaddr_un address_of(const char *p)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	ck_assert_uint_lt(strlen(p), sizeof(a.sun_path));
	memcpy(a.sun_path, p, strlen(p) + 1);
	return a;
}

/* A socket of somebody else's at the path. */
static int bind_other(int type)
{
	struct sockaddr_un a = address_of(path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

/* 0 or -errno. */
static int try_connect(const char *p)
{
	struct sockaddr_un a = address_of(p);
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
}

static mode_t mode_of(const char *p)
{
	struct stat st;

	ck_assert_int_eq(lstat(p, &st), 0);
	return st.st_mode & (S_IFMT | 07777);
}

/* --- one of our own -------------------------------------------------------------------------- */

START_TEST(test_open_and_close)
{
	ck_assert_int_eq(listener_open(&l, path, 0660, ""), 0);
	ck_assert_int_ge(l.fd, 0);
	ck_assert_str_eq(l.path, path);
	ck_assert_int_eq(try_connect(path), 0);
	ck_assert_int_ne(fcntl(l.fd, F_GETFL) & O_NONBLOCK, 0);
	ck_assert_int_ne(fcntl(l.fd, F_GETFD) & FD_CLOEXEC, 0);
	listener_close(&l);
	ck_assert_int_eq(l.fd, -1);
	ck_assert_int_eq(try_connect(path), -ENOENT);
	listener_close(&l);
	ck_assert_int_eq(listener_open(&l, path, 0660, ""), 0);
}
END_TEST

/* In a folder that hands on its own group. */
START_TEST(test_own_group)
{
	struct stat st;

	if (geteuid() == 0)
		ck_assert_int_eq(chown(scratch.dir, 0, getegid() + 1), 0);
	ck_assert_int_eq(chmod(scratch.dir, 02700), 0);
	ck_assert_int_eq(listener_make(&l, path, 0660, NULL), 0);
	ck_assert_int_eq(lstat(path, &st), 0);
	ck_assert_uint_eq(st.st_gid, getegid());
	ck_assert_uint_eq(mode_of(path), S_IFSOCK | 0660);
	ck_assert_int_eq(try_connect(path), 0);
}
END_TEST

static const struct {
	mode_t mode, mask;
} modes[] = { { 0660, 0022 }, { 0660, 0077 }, { 0600, 0000 }, { 0666, 0077 }, { 0770, 0777 } };

START_TEST(test_mode)
{
	mode_t mask = umask(modes[_i].mask);

	ck_assert_int_eq(listener_open(&l, path, modes[_i].mode, ""), 0);
	ck_assert_uint_eq(umask(mask), modes[_i].mask); /* as it was */
	ck_assert_uint_eq(mode_of(path), S_IFSOCK | modes[_i].mode);
}
END_TEST

/* Our own group is one that we may always give. */
START_TEST(test_group)
{
	const struct group *g = getgrgid(getgid());
	struct stat st;

	if (!g)
		return;
	ck_assert_int_eq(listener_open(&l, path, 0660, g->gr_name), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_gid, getgid());
}
END_TEST

/* Fewer may connect than was meant, which is no reason not to serve those. */
START_TEST(test_unknown_group)
{
	ck_assert_int_eq(listener_open(&l, path, 0660, "no-such-group-here"), 0);
	ck_assert_int_eq(try_connect(path), 0);
	ck_assert_uint_eq(mode_of(path), S_IFSOCK | 0660);
}
END_TEST

START_TEST(test_stale_socket_is_replaced)
{
	close(bind_other(SOCK_STREAM));
	ck_assert_int_eq(try_connect(path), -ECONNREFUSED);
	ck_assert_int_eq(listener_open(&l, path, 0660, ""), 0);
	ck_assert_int_eq(try_connect(path), 0);
}
END_TEST

START_TEST(test_living_socket_is_left_alone)
{
	int other = bind_other(SOCK_STREAM);

	ck_assert_int_eq(listen(other, 1), 0);
	ck_assert_int_eq(listener_open(&l, path, 0660, ""), -EADDRINUSE);
	ck_assert_int_eq(l.fd, -1);
	ck_assert_ptr_null(l.path);
	listener_close(&l);
	ck_assert_int_eq(try_connect(path), 0);
	/* Nor one that is too busy to be connected to. */
	for (int i = 0; i < 10 && try_connect(path) == 0; i++)
		;
	ck_assert_int_eq(listener_open(&l, path, 0660, ""), -EADDRINUSE);
	close(other);
}
END_TEST

START_TEST(test_other_kind_of_socket_is_left_alone)
{
	int other = bind_other(SOCK_DGRAM);

	ck_assert_int_lt(listener_open(&l, path, 0660, ""), 0);
	ck_assert_uint_eq(mode_of(path) & S_IFMT, S_IFSOCK);
	close(other);
}
END_TEST

/* A path that names something else by mistake must not cost anybody a file. */
START_TEST(test_file_is_left_alone)
{
	char text[10] = "";
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	fputs("precious", f);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert_int_lt(listener_open(&l, path, 0660, ""), 0);
	ck_assert_int_eq(l.fd, -1);
	listener_close(&l);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(fgets(text, sizeof(text), f));
	ck_assert_str_eq(text, "precious");
	fclose(f);
}
END_TEST

START_TEST(test_directory_is_left_alone)
{
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_lt(listener_open(&l, path, 0660, ""), 0);
	ck_assert_uint_eq(mode_of(path), S_IFDIR | 0700);
}
END_TEST

START_TEST(test_symlink_is_left_alone)
{
	ck_assert_int_eq(symlink("elsewhere", path), 0);
	ck_assert_int_lt(listener_open(&l, path, 0660, ""), 0);
	ck_assert_uint_eq(mode_of(path) & S_IFMT, S_IFLNK);
	ck_assert_int_ne(access(scratch_path(&scratch, "elsewhere"), F_OK), 0);
}
END_TEST

START_TEST(test_no_directory)
{
	ck_assert_int_eq(listener_open(&l, scratch_path(&scratch, "no/where"), 0660, ""), -ENOENT);
	ck_assert_int_eq(l.fd, -1);
	ck_assert_ptr_null(l.path);
}
END_TEST

START_TEST(test_length_of_the_path)
{
	const size_t longest = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)];

	for (size_t len = longest; len <= longest + 1; len++) {
		memset(name, 'x', sizeof(name));
		name[len - strlen(scratch.dir) - 1] = '\0';
		ck_assert_int_eq(listener_open(&l, scratch_path(&scratch, name), 0660, ""),
			len > longest ? -ENAMETOOLONG : 0);
		listener_close(&l);
	}
}
END_TEST

/* --- systemd's ------------------------------------------------------------------------------- */

#define FIRST 3 /* the number of the first descriptor passed */

/* Puts a socket at a number, as systemd would: without close-on-exec, and blocking. */
static bool pass(int number, int type, const char *p, bool listening)
{
	struct sockaddr_un a = address_of(p);
	int fd = socket(AF_UNIX, type, 0);

	return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
		(!listening || listen(fd, 5) == 0) && (fd == number || dup2(fd, number) == number);
}

static void announce(int n)
{
	char text[20];

	snprintf(text, sizeof(text), "%d", (int)getpid());
	setenv("LISTEN_PID", text, 1);
	snprintf(text, sizeof(text), "%d", n);
	setenv("LISTEN_FDS", text, 1);
}

/* Each returns 0, or the number of the line that went wrong. */
#define EXPECT(x)                        \
	do {                             \
		if (!(x))                \
			return __LINE__; \
	} while (0)

static int passed_one(void)
{
	EXPECT(pass(FIRST, SOCK_STREAM, path, true));
	announce(1);
	EXPECT(listener_open(&l, "/nowhere/at/all", 0600, "") == 0);
	EXPECT(l.fd == FIRST && !l.path);
	EXPECT(fcntl(FIRST, F_GETFL) & O_NONBLOCK);
	EXPECT(fcntl(FIRST, F_GETFD) & FD_CLOEXEC);
	EXPECT(try_connect(path) == 0);
	EXPECT(!getenv("LISTEN_FDS")); /* not for our children */
	listener_close(&l);
	EXPECT(l.fd == -1);
	EXPECT(access(path, F_OK) == 0); /* its file is systemd's */
	return 0;
}

static int passed_two(void)
{
	EXPECT(pass(FIRST, SOCK_STREAM, path, true));
	EXPECT(pass(FIRST + 1, SOCK_STREAM, scratch_path(&scratch, "second"), true));
	announce(2);
	EXPECT(listener_open(&l, "/nowhere/at/all", 0600, "") == 0);
	EXPECT(l.fd == FIRST);
	EXPECT(fcntl(FIRST + 1, F_GETFD) < 0 && errno == EBADF);
	return 0;
}

/* What cannot be used is no obstacle to one of our own. */
static int passed_useless(void)
{
	EXPECT(pass(FIRST, SOCK_DGRAM, scratch_path(&scratch, "datagrams"), false));
	EXPECT(pass(FIRST + 1, SOCK_STREAM, scratch_path(&scratch, "not-listening"), false));
	announce(2);
	EXPECT(listener_open(&l, path, 0600, "") == 0);
	EXPECT(l.path && streq(l.path, path));
	EXPECT(try_connect(path) == 0);
	return 0;
}

static int passed_useless_first(void)
{
	EXPECT(pass(FIRST, SOCK_DGRAM, scratch_path(&scratch, "datagrams"), false));
	EXPECT(pass(FIRST + 1, SOCK_STREAM, path, true));
	announce(2);
	EXPECT(listener_open(&l, "/nowhere/at/all", 0600, "") == 0);
	EXPECT(l.fd == FIRST + 1);
	EXPECT(try_connect(path) == 0);
	return 0;
}

/* It is for the local socket; the operator's is one of our own. */
static int passed_and_not_asked_for(void)
{
	EXPECT(pass(FIRST, SOCK_STREAM, scratch_path(&scratch, "other"), true));
	announce(1);
	EXPECT(listener_make(&l, path, 0660, NULL) == 0);
	EXPECT(l.fd != FIRST && l.path && streq(l.path, path));
	EXPECT(try_connect(path) == 0);
	EXPECT(getenv("LISTEN_FDS"));
	EXPECT(fcntl(FIRST, F_GETFD) >= 0);
	return 0;
}

/* Meant for another process: not ours to take. */
static int passed_to_another(void)
{
	EXPECT(pass(FIRST, SOCK_STREAM, scratch_path(&scratch, "other"), true));
	setenv("LISTEN_PID", "1", 1);
	setenv("LISTEN_FDS", "1", 1);
	EXPECT(listener_open(&l, path, 0600, "") == 0);
	EXPECT(l.fd != FIRST && l.path);
	return 0;
}

static int (*const passed[])(void) = {
	passed_one,
	passed_two,
	passed_useless,
	passed_useless_first,
	passed_and_not_asked_for,
	passed_to_another,
};

START_TEST(test_passed)
{
	pid_t child = fork();

	if (child == 0) {
		int line;

		/* Whatever has these numbers here is not needed. */
		close(FIRST);
		close(FIRST + 1);
		line = passed[_i]();
		if (line)
			fprintf(stderr, "check_listener.c:%d\n", line);
		scratch_exit(line != 0);
	}
	ck_assert_int_eq(scratch_wait(child), 0);
}
END_TEST

Suite *check_listener(void)
{
	Suite *s = suite_create("listener");
	TCase *t = tcase_create("our own");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_open_and_close);
	tcase_add_test(t, test_own_group);
	tcase_add_loop_test(t, test_mode, 0, ARRAY_SIZE(modes));
	tcase_add_test(t, test_group);
	tcase_add_test(t, test_unknown_group);
	tcase_add_test(t, test_stale_socket_is_replaced);
	tcase_add_test(t, test_living_socket_is_left_alone);
	tcase_add_test(t, test_other_kind_of_socket_is_left_alone);
	tcase_add_test(t, test_file_is_left_alone);
	tcase_add_test(t, test_directory_is_left_alone);
	tcase_add_test(t, test_symlink_is_left_alone);
	tcase_add_test(t, test_no_directory);
	tcase_add_test(t, test_length_of_the_path);
	suite_add_tcase(s, t);

	t = tcase_create("systemd's");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_loop_test(t, test_passed, 0, ARRAY_SIZE(passed));
	suite_add_tcase(s, t);
	return s;
}
