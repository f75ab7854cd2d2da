/* SPDX-License-Identifier: MIT */
/*
 * Tests of the comparison of two configurations: every key of the table has a way to come into
 * effect, every key's change is found under its name, and no secret is told.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "config.h"
#include "config_keys.h"
#include "log.h"
#include "scratch.h"
#include "suites.h"

static struct scratch scratch;
static char names[4000]; /* told, each with a blank behind it */
static enum config_effect last;

static void setup(void)
{
	log_set_level(LOG_EMERG);
	scratch_make(&scratch);
	unsetenv("CREDENTIALS_DIRECTORY");
}

static void teardown(void)
{
	scratch_remove(&scratch);
	log_set_level(LOG_INFO);
}

static void write_file(const char *name, const char *text)
{
	FILE *f = fopen(scratch_path(&scratch, name), "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static struct config *load(const char *text)
{
	struct config *c = NULL;

	write_file("conf", text);
	ck_assert_int_eq(config_load(&c, scratch_path(&scratch, "conf"), stderr), 0);
	return c;
}

static void changed(void *userdata, const char *name, enum config_effect effect)
{
	ck_assert_ptr_eq(userdata, &scratch);
	strncat(names, name, sizeof(names) - strlen(names) - 2);
	strcat(names, " ");
	last = effect;
}

static void diff(const struct config *a, const struct config *b)
{
	names[0] = '\0';
	last = CONFIG_EFFECT_UNKNOWN;
	config_diff(a, b, changed, &scratch);
}

/* What is told of the way from one text to another, and of the way back. */
static void expect(const char *one, const char *other, const char *wanted)
{
	struct config *a = load(one), *b = load(other);

	diff(a, b);
	ck_assert_str_eq(names, wanted);
	diff(b, a);
	ck_assert_str_eq(names, wanted);
	config_free(a);
	config_free(b);
}

/* --- the table ------------------------------------------------------------------------------- */

static unsigned expect_classes(const struct config_group *group)
{
	unsigned n = 0;
	char name[80];

	for (size_t i = 0; i < group->n_keys; i++) {
		const struct config_key *key = &group->keys[i];

		snprintf(name, sizeof(name), "%s.%s", group->name, key->name);
		n++;
		if (key->kind == CONFIG_KIND_GROUP)
			n += expect_classes(key->group);
		if (key->kind == CONFIG_KIND_GROUP && !key->group->is_switch)
			ck_assert_msg(config_effect(name) == CONFIG_EFFECT_UNKNOWN,
				"%s: is no key of its own", name);
		else
			ck_assert_msg(config_effect(name) != CONFIG_EFFECT_UNKNOWN,
				"%s: how does it come into effect? See config_diff.c", name);
	}
	return n;
}

START_TEST(test_every_key_has_a_class)
{
	unsigned n = 0;

	for (size_t g = 0; g < config_n_groups; g++)
		n += expect_classes(&config_groups[g]);
	ck_assert_uint_gt(n, 50);
	ck_assert_int_eq(config_effect("socket"), CONFIG_EFFECT_UNKNOWN);
	ck_assert_int_eq(config_effect("socket.pat"), CONFIG_EFFECT_UNKNOWN);
}
END_TEST

/* Another value, in place. */
static void alter(const struct config_key *key, void *base)
{
	void *field = (char *)base + key->offset;

	switch (key->kind) {
	case CONFIG_KIND_STRING:
	case CONFIG_KIND_TEMPLATE:
	case CONFIG_KIND_SECRET:
		ck_assert_int_eq(config_string_set(field, "something else"), 0);
		break;
	case CONFIG_KIND_FILTERS: ((struct access_topics *)field)->list[0][0] ^= 1; break;
	case CONFIG_KIND_BOOLEAN: *(bool *)field = !*(bool *)field; break;
	case CONFIG_KIND_FACTOR: *(double *)field += 0.5; break;
	default: ((unsigned char *)field)[0] ^= 1; break;
	}
}

static void alter_each(const struct config_group *group, const char *shown, void *base,
	const struct config *a, const struct config *b)
{
	for (size_t i = 0; i < group->n_keys; i++) {
		const struct config_key *key = &group->keys[i];
		char name[80], wanted[82];

		snprintf(name, sizeof(name), "%s.%s", shown, key->name);
		if (key->kind == CONFIG_KIND_GROUP) {
			alter_each(key->group, name, (char *)base + key->offset, a, b);
			continue;
		}
		alter(key, base);
		diff(a, b);
		snprintf(wanted, sizeof(wanted), "%s ", name);
		ck_assert_msg(strstr(names, wanted), "%s was changed, told: %s", name, names);
	}
}

START_TEST(test_every_key_is_compared)
{
	static const char text[] = "gateway: { id = \"gw\"; };\n"
				   "access: ( { user = \"root\"; topics = ( \"a\" ); } );";
	struct config *a = load(text);

	diff(a, a);
	ck_assert_str_eq(names, "");
	for (size_t g = 0; g < config_n_groups; g++) {
		const struct config_group *group = &config_groups[g];
		struct config *b = load(text);

		diff(a, b);
		ck_assert_str_eq(names, "");
		if (group->is_access)
			alter_each(group, "access[0]", &b->access[0], a, b);
		else if (group->is_list)
			alter_each(group, "brokers[0]", &b->brokers[0], a, b);
		else
			alter_each(group, group->name, b, a, b);
		config_free(b);
	}
	config_free(a);
}
END_TEST

/* --- brokers --------------------------------------------------------------------------------- */

#define ID "gateway: { id = \"gw\"; };"

START_TEST(test_brokers)
{
	expect(ID, ID "brokers: ( { host = \"localhost\"; } );", "");
	expect(ID, ID "brokers: ( { host = \"a\"; }, { host = \"b\"; } );", "brokers ");
	expect(ID "brokers: ( { host = \"a\"; }, { host = \"b\"; } );",
		ID "brokers: ( { host = \"b\"; }, { host = \"a\"; } );",
		"brokers[0].host brokers[1].host ");
	expect(ID "brokers: ( { host = \"a\"; port = 8883; } );",
		ID "brokers: ( { host = \"a\"; tls = { }; } );", "brokers[0].tls ");
	expect(ID "brokers: ( { host = \"a\"; tls = { }; } );",
		ID "brokers: ( { host = \"a\"; tls = { alpn = \"mqtt\"; }; } );",
		"brokers[0].tls.alpn ");
	expect(ID "discovery: { srv = \"_mqtt._tcp.example.org\"; };",
		ID "discovery: { srv = \"_mqtt._tcp.example.org\"; };"
		   "brokers: ( { username = \"u\"; } );",
		"brokers[0].username ");
	ck_assert_int_eq(last, CONFIG_EFFECT_UPLINK);
}
END_TEST

#define RULE(who, topics) "{ " who "; topics = ( " topics " ); }"

START_TEST(test_access)
{
	struct config *a, *b;

	expect(ID, ID "access: ( " RULE("user = \"root\"", "\"#\"") " );", "access ");
	ck_assert_int_eq(last, CONFIG_EFFECT_LIVE);
	expect(ID "access: ( " RULE("user = \"root\"", "\"#\"") ", " RULE(
		       "group = \"root\"", "\"a\"") " );",
		ID "access: ( " RULE("user = \"root\"", "\"#\"") ", " RULE(
			"user = \"0\"", "\"a\", \"b\"") " );",
		"access[1].user access[1].group access[1].topics ");
	/* The same name, and another user. */
	a = load(ID "access: ( " RULE("user = \"root\"", "\"#\"") " );");
	b = load(ID "access: ( " RULE("user = \"root\"", "\"#\"") " );");
	b->access[0].id = 7;
	diff(a, b);
	ck_assert_str_eq(names, "access[0].user ");
	config_free(a);
	config_free(b);
}
END_TEST

/* What a file holds counts, not only what it is called. */
START_TEST(test_files)
{
	char text[700];
	struct config *a, *b;

	write_file("password", "one\n");
	write_file("ca.pem", "one\n");
	snprintf(text, sizeof(text),
		ID "brokers: ( { username = \"u\"; password_file = \"%s\"; "
		   "tls = { ca_file = \"%s\"; }; } );",
		scratch_path(&scratch, "password"), scratch_path(&scratch, "ca.pem"));
	expect(text, text, "");
	a = load(text);
	write_file("password", "two\n");
	b = load(text);
	diff(a, b);
	ck_assert_str_eq(names, "brokers[0].password ");
	config_free(b);
	write_file("password", "one\n");
	write_file("ca.pem.new", "two\n");
	ck_assert_int_eq(
		rename(scratch_path(&scratch, "ca.pem.new"), scratch_path(&scratch, "ca.pem")), 0);
	b = load(text);
	diff(a, b);
	ck_assert_str_eq(names, "brokers[0].tls.ca_file ");
	ck_assert_int_eq(last, CONFIG_EFFECT_UPLINK);
	config_free(a);
	config_free(b);
}
END_TEST

/* --- one key --------------------------------------------------------------------------------- */

START_TEST(test_keep)
{
	struct config *a = load(ID "socket: { path = \"/run/a\"; mode = \"0600\"; };");
	struct config *b = load(ID "socket: { path = \"/run/b\"; max_clients = 3; };"
				   "queue: { sync = \"normal\"; };");
	char text[40];

	config_show(a, "socket.path", text, sizeof(text));
	ck_assert_str_eq(text, "\"/run/a\"");
	config_show(a, "socket.mode", text, sizeof(text));
	ck_assert_str_eq(text, "\"0600\"");
	config_show(b, "queue.sync", text, 4);
	ck_assert_str_eq(text, "\"no");
	config_show(a, "socket.nothing", text, sizeof(text));
	ck_assert_str_eq(text, "");
	config_show(a, "brokers.password", text, sizeof(text));
	ck_assert_str_eq(text, "");
	ck_assert_int_eq(config_keep(b, a, "socket.path"), 0);
	ck_assert_int_eq(config_keep(b, a, "socket.mode"), 0);
	ck_assert_int_eq(config_keep(b, a, "queue.sync"), 0);
	ck_assert_int_eq(config_keep(b, a, "brokers.host"), -ENOENT);
	ck_assert_int_eq(config_keep(b, a, "mqtt.will"), -ENOENT);
	ck_assert_int_eq(config_keep(b, a, "nonsense"), -ENOENT);
	diff(a, b);
	ck_assert_str_eq(names, "socket.max_clients ");
	ck_assert_int_eq(last, CONFIG_EFFECT_LIVE);
	ck_assert_ptr_ne(a->socket.path, b->socket.path); /* each its own */
	config_free(a);
	config_free(b);
}
END_TEST

/* --- only to see whether it can be loaded ---------------------------------------------------- */

/* As ExecReload= meets it: $CREDENTIALS_DIRECTORY is set, and the folder shut. The exit status. */
static int look_from_outside(void)
{
	struct config *c = NULL;
	FILE *null = fopen("/dev/null", "w");
	int failed = 0;

	if (geteuid() == 0 && setuid(65534) < 0)
		return 1;
	failed |= !config_hidden_credentials() << 1;
	failed |= (config_load(&c, scratch_path(&scratch, "conf"), null) != -EINVAL) << 2;
	failed |= (config_check(&c, scratch_path(&scratch, "conf"), null) != 0) << 3;
	failed |= (!c || !streq(c->brokers[0].password_file, "word")) << 4;
	config_free(c);
	c = NULL;
	failed |= (config_check(&c, scratch_path(&scratch, "faulty"), null) != -EINVAL) << 5;
	fclose(null);
	return failed;
}

START_TEST(test_hidden_credentials)
{
	char *folder = strdup(scratch_path(&scratch, "credentials"));
	pid_t child;

	ck_assert(!config_hidden_credentials());
	write_file("conf", ID "brokers: ( { username = \"u\"; password_file = \"word\"; } );");
	write_file("faulty", ID "brokers: ( { user = \"u\"; password_file = \"word\"; } );");
	ck_assert_int_eq(chmod(scratch.dir, 0755), 0);
	ck_assert_int_eq(mkdir(folder, 0000), 0);
	ck_assert_int_eq(setenv("CREDENTIALS_DIRECTORY", folder, 1), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0)
		scratch_exit(look_from_outside());
	ck_assert_int_eq(scratch_wait(child), 0);
	ck_assert_int_eq(chmod(folder, 0700), 0);
	ck_assert(!config_hidden_credentials());
	free(folder);
}
END_TEST

/* --- the manual ------------------------------------------------------------------------------ */

static char *manual; /* the section on reloading */

static void read_manual(void)
{
	FILE *f = fopen(TEST_SRCDIR "/../man/mqttgw.conf.5", "r");
	char *end;
	size_t n;

	ck_assert_ptr_nonnull(f);
	manual = calloc(1, 1 << 20);
	ck_assert_ptr_nonnull(manual);
	n = fread(manual, 1, (1 << 20) - 1, f);
	ck_assert_uint_gt(n, 0);
	ck_assert_int_eq(fclose(f), 0);
	end = strstr(manual, ".Sh RELOADING\n");
	ck_assert_ptr_nonnull(end);
	memmove(manual, end + 5, strlen(end + 5) + 1);
	end = strstr(manual, "\n.Sh ");
	ck_assert_ptr_nonnull(end);
	*end = '\0';
}

/* Whether the name is said between this item's beginning and the next one's. */
static bool is_listed(const char *item, const char *name)
{
	const char *from = strstr(manual, item), *to, *at;
	char wanted[100];

	ck_assert_msg(from, "%s", item);
	to = strstr(from + 1, "\n.It ");
	snprintf(wanted, sizeof(wanted), "\n.Va %s", name);
	at = strstr(from, wanted);
	return at && (!to || at < to) && strchr(" \n", at[strlen(wanted)]);
}

static void expect_listed(const struct config_group *group, const struct config_key *key)
{
	static const char *const items[] = {
		[CONFIG_EFFECT_LIVE] = "\n.It \\&At once",
		[CONFIG_EFFECT_UPLINK] = "\n.It With a new connection to the broker",
		[CONFIG_EFFECT_RESTART] = "\n.It With a restart of the daemon",
		[CONFIG_EFFECT_REPORT] = "\n.It With a reload of mqttgw-report",
	};
	enum config_effect effect;
	char name[80];

	snprintf(name, sizeof(name), "%s.%s", group->name, key->name);
	if (key->kind == CONFIG_KIND_GROUP)
		return;
	effect = config_effect(name);
	ck_assert_msg(is_listed(items[effect], name) || is_listed(items[effect], group->name),
		"%s is not listed where it belongs", name);
}

START_TEST(test_manual_lists_each_key)
{
	read_manual();
	for (size_t g = 0; g < config_n_groups; g++)
		for (size_t i = 0; i < config_groups[g].n_keys; i++)
			expect_listed(&config_groups[g], &config_groups[g].keys[i]);
	free(manual);
}
END_TEST

Suite *check_config_diff(void)
{
	Suite *s = suite_create("config_diff");
	TCase *t = tcase_create("config_diff");

	tcase_set_timeout(t, TEST_SECONDS);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_every_key_has_a_class);
	tcase_add_test(t, test_every_key_is_compared);
	tcase_add_test(t, test_brokers);
	tcase_add_test(t, test_access);
	tcase_add_test(t, test_files);
	tcase_add_test(t, test_keep);
	tcase_add_test(t, test_hidden_credentials);
	tcase_add_test(t, test_manual_lists_each_key);
	suite_add_tcase(s, t);
	return s;
}
