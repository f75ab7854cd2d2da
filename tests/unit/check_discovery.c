/* SPDX-License-Identifier: MIT */
/*
 * Tests of discovery: lists, the kept list, and the whole with a scripted name server and with real
 * files and inotify.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include "discovery.h"
#include "discovery_keep.h"
#include "discovery_list.h"
#include "log.h"
#include "nameserver.h"
#include "scratch.h"
#include "suites.h"

#define DEADLINE (60 * USEC_PER_SEC)
#define SRV_NAME "_mqtt._tcp.example.net"

static char empty[] = "";
static struct config_tls no_tls = {
	.ca_file = empty, .ca_path = empty, .cert_file = empty, .key_file = empty, .alpn = empty
};

static struct config_broker make_broker(const char *host, uint16_t port, uint16_t priority)
{
	return (struct config_broker){
		.host = (char *)host,
		.port = port,
		.priority = priority,
		.username = empty,
		.password = empty,
		.password_file = empty,
		.tls = no_tls,
	};
}

/* --- lists ----------------------------------------------------------------------------------- */

static const struct resolver_services three = {
	.n = 3,
	.services = { { 10, 5, 1883, "b1" }, { 10, 0, 1884, "b2" }, { 40, 0, 1885, "b3" } },
};

START_TEST(test_list_from_services)
{
	struct config_broker template = make_broker("", 0, 0);
	struct discovery_list list = { 0 };

	template.username = (char *)"user";
	template.password = (char *)"secret";
	template.tls.enabled = true;
	ck_assert_int_eq(discovery_list_from_services(&list, &three, &template), 0);
	ck_assert_uint_eq(list.n, 3);
	ck_assert_str_eq(list.brokers[0].host, "b1");
	ck_assert_uint_eq(list.brokers[1].port, 1884);
	ck_assert_uint_eq(list.brokers[0].priority, 0);
	ck_assert_uint_eq(list.brokers[1].priority, 0); /* equals */
	ck_assert_uint_eq(list.brokers[2].priority, 1);
	ck_assert_str_eq(list.brokers[2].password, "secret");
	ck_assert(list.brokers[2].tls.enabled);
	discovery_list_clear(&list);
	ck_assert_ptr_null(list.brokers);
}
END_TEST

START_TEST(test_lists_same)
{
	struct config_broker a[] = { make_broker("b1", 1, 0), make_broker("b2", 2, 0),
		make_broker("b3", 3, 1) };
	struct config_broker b[] = { make_broker("B2", 2, 0), make_broker("b1", 1, 0),
		make_broker("b3", 3, 1) };
	struct config_broker c[] = { make_broker("b1", 1, 0), make_broker("b3", 3, 0),
		make_broker("b2", 2, 1) };
	struct config_broker d[] = { make_broker("b1", 1, 0), make_broker("b1", 1, 0),
		make_broker("b3", 3, 1) };
	struct discovery_list la = { a, 3 }, lb = { b, 3 }, lc = { c, 3 }, ld = { d, 3 };

	ck_assert(discovery_list_same(&la, &la));
	ck_assert(!discovery_list_same(&la, &lb));
	ck_assert(discovery_list_same_targets(&la, &lb));
	ck_assert(!discovery_list_same_targets(&la, &lc));
	ck_assert(!discovery_list_same_targets(&la, &ld));
	ck_assert(!discovery_list_same_targets(&ld, &la));
	la.n = 2;
	ck_assert(!discovery_list_same_targets(&la, &lb));
	a[0].tls.alpn = (char *)"mqtt";
	lb = (struct discovery_list){ (struct config_broker[]){ make_broker("b1", 1, 0), a[1] },
		2 };
	ck_assert(!discovery_list_same(&la, &lb));
}
END_TEST

/* --- the kept list --------------------------------------------------------------------------- */

static struct scratch scratch;
static char keep_path[300], file_path[300];

static void setup_folder(void)
{
	scratch_make(&scratch);
	snprintf(keep_path, sizeof(keep_path), "%s", scratch_path(&scratch, "queue.db.brokers"));
	ck_assert_int_eq(mkdir(scratch_path(&scratch, "conf"), 0755), 0);
	snprintf(file_path, sizeof(file_path), "%s", scratch_path(&scratch, "conf/brokers.conf"));
}

static void teardown_folder(void)
{
	scratch_remove(&scratch);
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static const struct discovery_origin origin = { "file", "/etc/\"odd\"\n.conf", false };

static int read_kept(struct discovery_list *list, char text[200])
{
	int64_t changed = 0;
	int r;

	*text = '\0';
	r = discovery_keep_read(list, &changed, keep_path, &origin, text, 200);
	if (r == 0)
		ck_assert_int_le(llabs(now_epoch_msec() / 1000 - changed), 600);
	return r;
}

START_TEST(test_kept_reads_back)
{
	struct config_broker brokers[] = { make_broker("b1.example.net", 1883, 0),
		make_broker("::1", 1, 1), make_broker("b3", 65535, 2) };
	struct discovery_list list = { brokers, 3 }, back = { 0 };
	struct stat st;
	char text[200];

	brokers[0].username = (char *)"us\"er\\";
	brokers[0].password = (char *)"p\n\t\x01\x7f\xc3\xa4\"; };";
	brokers[1].tls.enabled = true;
	brokers[2].tls.enabled = true;
	brokers[2].tls.insecure = true;
	brokers[2].tls.alpn = (char *)"mqtt";
	umask(0);
	ck_assert_int_eq(discovery_keep_write(keep_path, &origin, &list), 0);
	ck_assert_int_eq(stat(keep_path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0600);
	ck_assert_msg(read_kept(&back, text) == 0, "%s", text);
	ck_assert(discovery_list_same(&list, &back));
	discovery_list_clear(&back);
	ck_assert_int_ne(access(scratch_path(&scratch, "queue.db.brokers.new"), F_OK), 0);
}
END_TEST

START_TEST(test_kept_is_written_only_when_it_changes)
{
	struct config_broker brokers[] = { make_broker("b1", 1883, 0), make_broker("b2", 1, 0) };
	struct discovery_list list = { brokers, 2 };
	struct stat first, second;

	ck_assert_int_eq(discovery_keep_write(keep_path, &origin, &list), 0);
	ck_assert_int_eq(stat(keep_path, &first), 0);
	ck_assert_int_eq(discovery_keep_write(keep_path, &origin, &list), 0);
	ck_assert_int_eq(stat(keep_path, &second), 0);
	ck_assert_uint_eq(first.st_ino, second.st_ino);
	ck_assert_int_eq(first.st_mtim.tv_nsec, second.st_mtim.tv_nsec);
	/* What a crash left there is no hindrance. */
	write_text(scratch_path(&scratch, "queue.db.brokers.new"), "half");
	brokers[1].priority = 1;
	ck_assert_int_eq(discovery_keep_write(keep_path, &origin, &list), 0);
	ck_assert_int_eq(stat(keep_path, &second), 0);
	ck_assert_uint_ne(first.st_ino, second.st_ino);
}
END_TEST

START_TEST(test_kept_of_another_origin)
{
	struct config_broker broker = make_broker("b1", 1883, 0);
	struct discovery_list list = { &broker, 1 }, back = { 0 };
	struct discovery_origin other = { "srv", "/etc/\"odd\"\n.conf", false };
	char text[200];

	ck_assert_int_eq(read_kept(&back, text), -ENOENT);
	ck_assert_int_eq(discovery_keep_write(keep_path, &other, &list), 0);
	ck_assert_int_eq(read_kept(&back, text), -ENOENT);
	ck_assert_int_eq(discovery_keep_write("/nonexistent/x", &other, &list), -ENOENT);
}
END_TEST

static void change_kept(const char *from, const char *to)
{
	char buf[4000] = "", *at;
	FILE *f = fopen(keep_path, "r");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_gt(fread(buf, 1, sizeof(buf) - 1, f), 0);
	fclose(f);
	at = strstr(buf, from);
	ck_assert_ptr_nonnull(at);
	*at = '\0';
	f = fopen(keep_path, "w");
	fprintf(f, "%s%s%s", buf, to, at + strlen(from));
	fclose(f);
}

static const struct {
	const char *from, *to;
} damages[] = {
	{ "brokers:", "brokers" },
	{ "port = 1883", "port = 188300" },
	{ "# priorities: 0 0", "# priorities: 0" },
	{ "# priorities: 0 0", "# priorities: 1 0" },
	{ "# priorities: 0 0", "# priorities: 0 0 0" },
	{ "# priorities: 0 0", "# priorities: 0 -1" },
	{ "# priorities: 0 0", "# priorities: 0 99999" },
	{ "# priorities: 0 0", "# whatever" },
};

START_TEST(test_kept_is_damaged)
{
	struct config_broker brokers[] = { make_broker("b1", 1883, 0), make_broker("b2", 1, 0) };
	struct discovery_list list = { brokers, 2 }, back = { 0 };
	char text[200];

	ck_assert_int_eq(discovery_keep_write(keep_path, &origin, &list), 0);
	change_kept(damages[_i].from, damages[_i].to);
	ck_assert_int_eq(read_kept(&back, text), -EINVAL);
	ck_assert_ptr_null(back.brokers);
	ck_assert_msg(strstr(text, keep_path), "%s", text);
}
END_TEST

START_TEST(test_kept_is_no_file)
{
	struct discovery_list back = { 0 };
	char text[200];

	ck_assert_int_eq(mkfifo(keep_path, 0600), 0);
	ck_assert_int_eq(read_kept(&back, text), -EBADF);
}
END_TEST

/* --- the whole ------------------------------------------------------------------------------- */

static sd_event *event;
static struct config config;
static struct discovery *discovery;
static unsigned n_lists, n_failures;
static char list_text[500], failure_text[500];

static void on_brokers(void *userdata, const struct config_broker *brokers, size_t n)
{
	size_t used = 0;

	ck_assert_ptr_eq(userdata, &config);
	n_lists++;
	*list_text = '\0';
	for (size_t i = 0; i < n; i++)
		used += (size_t)snprintf(list_text + used, sizeof(list_text) - used, "%s%s:%u/%u",
			i > 0 ? " " : "", brokers[i].host, brokers[i].port, brokers[i].priority);
}

static void on_failed(void *userdata, const char *text)
{
	ck_assert_ptr_eq(userdata, &config);
	n_failures++;
	snprintf(failure_text, sizeof(failure_text), "%s", text);
}

static void setup_whole(void)
{
	static char queue_path[300];

	setup_folder();
	nameserver_start();
	n_lists = n_failures = 0;
	*list_text = *failure_text = '\0';
	snprintf(queue_path, sizeof(queue_path), "%s", scratch_path(&scratch, "queue.db"));
	config = (struct config){ 0 };
	config.queue.path = queue_path;
	config.discovery.srv = empty;
	config.discovery.file = empty;
	config.discovery.refresh_usec = 300 * USEC_PER_SEC;
	config.discovery.template = make_broker("", 0, 0);
	ck_assert_int_ge(sd_event_new(&event), 0);
	log_set_level(LOG_ERR - 1);
}

static void teardown_whole(void)
{
	discovery = discovery_free(discovery);
	ck_assert_ptr_null(discovery);
	event = sd_event_unref(event);
	nameserver_stop();
	teardown_folder();
}

static void start(void)
{
	static const struct discovery_callbacks callbacks = { on_brokers, on_failed };

	discovery = discovery_free(discovery);
	ck_assert_int_eq(discovery_new(&discovery, event, &config, &callbacks, &config), 0);
	discovery_start(discovery);
}

/* Runs the loop until so many lists and failures were told. */
static void run_until(unsigned lists, unsigned failures)
{
	uint64_t deadline = now_usec() + DEADLINE;

	while ((n_lists < lists || n_failures < failures) && now_usec() < deadline)
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(n_lists, lists);
	ck_assert_uint_eq(n_failures, failures);
}

START_TEST(test_configured_list)
{
	struct config_broker brokers[] = { make_broker("b1", 1883, 0), make_broker("b2", 1, 1) };

	config.brokers = brokers;
	config.n_brokers = 2;
	start();
	ck_assert_uint_eq(n_lists, 1);
	ck_assert_str_eq(list_text, "b1:1883/0 b2:1/1");
	discovery_refresh(discovery);
	run_until(1, 0);
	ck_assert_int_ne(access(keep_path, F_OK), 0);
}
END_TEST

static const struct nameserver_record two_records[] = {
	{ 1, 10, 0, 1883, "b1.example.net" },
	{ 1, 20, 0, 1884, "b2.example.net" },
};
static const struct nameserver_record other_records[] = {
	{ 1, 10, 0, 1885, "b3.example.net" },
};
#define TWO   "b1.example.net:1883/0 b2.example.net:1884/1"
#define OTHER "b3.example.net:1885/0"

static const struct nameserver_answer two = { .records = two_records, .n = 2 };
static const struct nameserver_answer other = { .records = other_records, .n = 1 };
static const struct nameserver_answer servfail = { .rcode = 2 };

static void use_srv(void)
{
	config.discovery.srv = (char *)SRV_NAME;
}

START_TEST(test_srv)
{
	use_srv();
	nameserver_set(&two);
	start();
	ck_assert_uint_eq(n_lists, 0);
	run_until(1, 0);
	ck_assert_str_eq(list_text, TWO);
	/* TTL is a second; it is asked for again, but not at once. */
	nameserver_set(&other);
	run_until(2, 0);
	ck_assert_str_eq(list_text, OTHER);
	ck_assert_uint_eq(nameserver_questions(), 2);
}
END_TEST

/* The kept list stands in once the first answer has failed, and the true one takes over. */
START_TEST(test_srv_falls_back)
{
	use_srv();
	nameserver_set(&two);
	start();
	run_until(1, 0);
	nameserver_set(&servfail);
	start();
	ck_assert_uint_eq(n_lists, 1);
	run_until(2, 1);
	ck_assert_str_eq(list_text, TWO);
	ck_assert_ptr_nonnull(strstr(failure_text, SRV_NAME));
	ck_assert_ptr_nonnull(strstr(failure_text, "SERVFAIL"));
	nameserver_set(&other);
	run_until(3, 1);
	ck_assert_str_eq(list_text, OTHER);
}
END_TEST

/* A failure later on leaves the list as it is, and is told once. */
START_TEST(test_srv_fails_later)
{
	unsigned asked;

	use_srv();
	nameserver_set(&two);
	start();
	run_until(1, 0);
	nameserver_set(&servfail);
	run_until(1, 1);
	asked = nameserver_questions();
	while (nameserver_questions() < asked + 2)
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
	nameserver_set(&two);
	asked = nameserver_questions();
	while (nameserver_questions() < asked + 1)
		ck_assert_int_ge(sd_event_run(event, 100 * USEC_PER_MSEC), 0);
	run_until(1, 1);
}
END_TEST

START_TEST(test_srv_nothing_kept)
{
	use_srv();
	nameserver_set(&(struct nameserver_answer){ .rcode = 3 });
	start();
	run_until(0, 1);
	ck_assert_ptr_nonnull(strstr(failure_text, "there is no such name"));
	nameserver_set(&two);
	run_until(1, 1);
}
END_TEST

#define LIST_1 "brokers: ( { host = \"b1\"; port = 1883; } );\n"
#define LIST_2 "brokers: ( { host = \"b2\"; port = 1884; password = \"x\"; username = \"y\"; } );\n"

static void use_file(void)
{
	config.discovery.file = file_path;
}

static void replace_file(const char *text)
{
	const char *next = scratch_path(&scratch, "conf/.next");

	write_text(next, text);
	ck_assert_int_eq(rename(next, file_path), 0);
}

START_TEST(test_file)
{
	use_file();
	write_text(file_path, LIST_1);
	start();
	ck_assert_uint_eq(n_lists, 1);
	ck_assert_str_eq(list_text, "b1:1883/0");
	replace_file(LIST_2);
	run_until(2, 0);
	ck_assert_str_eq(list_text, "b2:1884/0");
	write_text(file_path, LIST_1); /* in place */
	run_until(3, 0);
	ck_assert_int_eq(unlink(file_path), 0);
	run_until(3, 1);
	ck_assert_ptr_nonnull(strstr(failure_text, "No such file"));
	write_text(file_path, LIST_1); /* the same: no news */
	replace_file(LIST_2);
	run_until(4, 1);
}
END_TEST

START_TEST(test_file_with_faults)
{
	use_file();
	write_text(file_path, LIST_1);
	start();
	replace_file("brokers: ( { host = 7; } );\n");
	run_until(1, 1);
	ck_assert_ptr_nonnull(strstr(failure_text, file_path));
	ck_assert_str_eq(list_text, "b1:1883/0");
	replace_file(LIST_2);
	run_until(2, 1);
}
END_TEST

START_TEST(test_file_missing_at_the_start)
{
	use_file();
	write_text(file_path, LIST_2);
	start();
	ck_assert_int_eq(unlink(file_path), 0);
	*list_text = '\0';
	start();
	ck_assert_uint_eq(n_lists, 2);
	ck_assert_str_eq(list_text, "b2:1884/0");
	/* The same again is no news; another is. */
	write_text(file_path, LIST_1);
	run_until(3, 1);
	ck_assert_str_eq(list_text, "b1:1883/0");
}
END_TEST

static void make_generation(const char *name, const char *text)
{
	char path[100];

	snprintf(path, sizeof(path), "conf/%s", name);
	ck_assert_int_eq(mkdir(scratch_path(&scratch, path), 0755), 0);
	snprintf(path, sizeof(path), "conf/%s/brokers.conf", name);
	write_text(scratch_path(&scratch, path), text);
}

/* As Kubernetes does it: the file is a link into ..data, and ..data a link that is exchanged. */
START_TEST(test_file_behind_symbolic_links)
{
	use_file();
	make_generation("..1", LIST_1);
	ck_assert_int_eq(symlink("..1", scratch_path(&scratch, "conf/..data")), 0);
	ck_assert_int_eq(symlink("..data/brokers.conf", file_path), 0);
	start();
	ck_assert_str_eq(list_text, "b1:1883/0");
	make_generation("..2", LIST_2);
	ck_assert_int_eq(symlink("..2", scratch_path(&scratch, "conf/..data_tmp")), 0);
	ck_assert_int_eq(rename(scratch_path(&scratch, "conf/..data_tmp"),
				 scratch_path(&scratch, "conf/..data")),
		0);
	run_until(2, 0);
	ck_assert_str_eq(list_text, "b2:1884/0");
}
END_TEST

/* The directory itself is exchanged, and goes for a while. */
START_TEST(test_file_in_another_directory)
{
	use_file();
	write_text(file_path, LIST_1);
	start();
	ck_assert_int_eq(rename(scratch_path(&scratch, "conf"), scratch_path(&scratch, "old")), 0);
	run_until(1, 1);
	ck_assert_int_eq(mkdir(scratch_path(&scratch, "conf"), 0755), 0);
	write_text(file_path, LIST_2);
	run_until(2, 1);
	ck_assert_str_eq(list_text, "b2:1884/0");
	replace_file(LIST_1);
	run_until(3, 1);
}
END_TEST

START_TEST(test_kept_that_is_damaged_is_passed_over)
{
	use_file();
	write_text(file_path, LIST_2);
	start();
	run_until(1, 0);
	ck_assert_int_eq(unlink(file_path), 0);
	change_kept("brokers:", "brokers");
	start();
	run_until(1, 1);
	write_text(file_path, LIST_1);
	run_until(2, 1);
}
END_TEST

Suite *check_discovery(void)
{
	Suite *s = suite_create("discovery");
	TCase *t = tcase_create("list");

	tcase_add_test(t, test_list_from_services);
	tcase_add_test(t, test_lists_same);
	suite_add_tcase(s, t);

	t = tcase_create("keep");
	tcase_add_checked_fixture(t, setup_folder, teardown_folder);
	tcase_add_test(t, test_kept_reads_back);
	tcase_add_test(t, test_kept_is_written_only_when_it_changes);
	tcase_add_test(t, test_kept_of_another_origin);
	tcase_add_loop_test(t, test_kept_is_damaged, 0, ARRAY_SIZE(damages));
	tcase_add_test(t, test_kept_is_no_file);
	suite_add_tcase(s, t);

	t = tcase_create("whole");
	tcase_add_checked_fixture(t, setup_whole, teardown_whole);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_configured_list);
	tcase_add_test(t, test_srv_nothing_kept);
	tcase_add_test(t, test_file);
	tcase_add_test(t, test_file_with_faults);
	tcase_add_test(t, test_file_missing_at_the_start);
	tcase_add_test(t, test_file_behind_symbolic_links);
	tcase_add_test(t, test_file_in_another_directory);
	tcase_add_test(t, test_kept_that_is_damaged_is_passed_over);
	suite_add_tcase(s, t);

	/* Each waits for some seconds. */
	t = tcase_create("long");
	tcase_set_tags(t, "long");
	tcase_add_checked_fixture(t, setup_whole, teardown_whole);
	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_test(t, test_srv);
	tcase_add_test(t, test_srv_falls_back);
	tcase_add_test(t, test_srv_fails_later);
	suite_add_tcase(s, t);
	return s;
}
