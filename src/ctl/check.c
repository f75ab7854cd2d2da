/* SPDX-License-Identifier: MIT */
/*
 * `queue check`: the one command that reads the database itself, whether the gateway runs or not.
 */
#include <errno.h>
#include <stdio.h>

#include "config.h"
#include "ctl.h"
#include "queue_check.h"
#include "text.h"

/* 0 or -errno, of this user and that file. */
static int may(const char *path, int mode)
{
	return access(path, mode) < 0 ? -errno : 0;
}

/* NULL: the faults were printed. */
static struct config *load_config(const char *path)
{
	struct config *config;
	int r;

	r = config_load(&config, path, stderr);
	if (r == 0)
		return config;
	if (r == -EINVAL)
		ctl_fail(may(path, R_OK), "%s cannot be used", path);
	else
		ctl_fail(r, "%s: %s", path, strerror(-r));
	return NULL;
}

/*
 * One line a finding. A damaged database may bring forth anything, and what is printed may go to a
 * terminal.
 */
static void print_finding(void *userdata, const char *text)
{
	for (const char *p = text; *p; p++)
		putchar(*p == '\n' ? ' ' : *p >= ' ' && *p <= '~' ? *p : '?');
	putchar('\n');
	++*(unsigned *)userdata;
}

static void print_sound(const char *path, const struct queue_check_rows *rows)
{
	char messages[TEXT_SIZE], dead_letters[TEXT_SIZE];

	printf("%s: %s message%s, %s dead letter%s: no finding\n", path,
		text_number(messages, rows->messages), rows->messages == 1 ? "" : "s",
		text_number(dead_letters, rows->dead_letters), rows->dead_letters == 1 ? "" : "s");
}

static void print_wrong(const char *path, unsigned n)
{
	printf("%s: %u finding%s%s; stop the gateway, keep a copy, start it again: a database "
	       "that it cannot read it sets aside, and carries over what can be read; see "
	       "mqttgwctl(1)\n",
		path, n, n == 1 ? "" : "s", n == QUEUE_CHECK_MAX_FINDINGS ? " or more" : "");
}

static int check(const char *path)
{
	struct queue_check_rows rows;
	unsigned n = 0;
	int r;

	/* SQLite would not say why. */
	r = may(path, R_OK);
	if (r == -ENOENT)
		return ctl_fail(r, "%s is not there; the gateway makes it when it starts", path);
	if (r < 0)
		return ctl_fail(r, "%s cannot be read: %s", path, strerror(-r));
	r = queue_check_whole(path, print_finding, &n, &rows);
	/* Readers, too, need the index of the log beside it, and to make it if it is missing. */
	if (r < 0)
		return ctl_fail(may(path, W_OK), "%s could not be checked", path);
	if (r > 0)
		print_wrong(path, n);
	else
		print_sound(path, &rows);
	return r > 0 ? CTL_FAILED : CTL_OK;
}

int ctl_check(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = { CTL_HELP_OPTION, { 0 } };
	struct config *config;
	int c, status;

	c = ctl_option(ctl, argc, argv, "", options);
	if (c >= 0)
		return ctl_option_status(c);
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	if (ctl->control_path)
		return ctl_usage(ctl, "asks no gateway: -c FILE instead of --socket");
	config = load_config(ctl->config_path ? ctl->config_path : CONFIG_DEFAULT_PATH);
	if (!config)
		return CTL_FAILED;
	status = check(config->queue.path);
	config_free(config);
	return status;
}
