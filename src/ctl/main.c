/* SPDX-License-Identifier: MIT */
/*
 * Options, the table of commands, exit statuses. What is logged goes to standard error, for whoever
 * typed the command: log_open() is not called, which would file it under the daemon's name.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>

#include "config-build.h"
#include "config.h"
#include "ctl.h"
#include "log.h"

static const struct command {
	const char *words[2]; /* the second one may be NULL */
	const char *help;
	int (*run)(const struct ctl *ctl, int argc, char **argv);
} commands[] = {
	{ { "queue", "check" }, "read all of the queue's database and tell what is wrong",
		ctl_queue_check },
};

/* --- what the commands share ------------------------------------------------------------------ */

int ctl_fail(int error, const char *format, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("mqttgwctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	if (error == -EACCES)
		fputs("; run it as root or as the gateway's user", stderr);
	fputc('\n', stderr);
	return CTL_FAILED;
}

char *ctl_number(char out[static CTL_NUMBER_SIZE], uint64_t n)
{
	char digits[CTL_NUMBER_SIZE];
	int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n);
	char *p = out;

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p = '\0';
	return out;
}

/* --- the command line ------------------------------------------------------------------------- */

static void print_commands(FILE *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int width = fprintf(out, "  %s%s%s", c->words[0], c->words[1] ? " " : "",
			c->words[1] ? c->words[1] : "");

		fprintf(out, "%*s%s\n", width < 22 ? 22 - width : 1, "", c->help);
	}
}

static void print_help(FILE *out)
{
	fprintf(out,
		"Usage: mqttgwctl [OPTION]... COMMAND\n"
		"Looks after mqtt-gatewayd and its queue. The commands are:\n\n");
	print_commands(out);
	fprintf(out,
		"\n"
		"  -c, --config FILE   read the gateway's configuration from FILE instead of %s\n"
		"      --version       print the version, then exit\n"
		"  -h, --help          print this help, then exit\n\n"
		"Exit status: 0 done, 1 failed or something was found, 2 wrong usage.\n"
		"See mqttgwctl(1).\n",
		CONFIG_DEFAULT_PATH);
}

static int usage(void)
{
	fputs("Usage: mqttgwctl [-c FILE] COMMAND\nThe commands are:\n", stderr);
	print_commands(stderr);
	fputs("See mqttgwctl --help.\n", stderr);
	return CTL_USAGE;
}

/* Returns the exit status, or -1 to go on with what begins at `optind`. */
static int parse_options(int argc, char **argv, struct ctl *ctl)
{
	enum { OPTION_VERSION = 256 };
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "version", no_argument, NULL, OPTION_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	/* "+": what follows the command is the command's. */
	while ((c = getopt_long(argc, argv, "+c:h", options, NULL)) >= 0) {
		switch (c) {
		case 'c': ctl->config_path = optarg; break;
		case OPTION_VERSION: puts("mqttgwctl (" PACKAGE_STRING ")"); return CTL_OK;
		case 'h': print_help(stdout); return CTL_OK;
		default: return usage();
		}
	}
	return -1;
}

static int run_command(const struct ctl *ctl, int argc, char **argv)
{
	if (argc == 0) {
		fputs("mqttgwctl: no command\n", stderr);
		return usage();
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		int words = c->words[1] ? 2 : 1, status;

		if (argc < words || !streq(argv[0], c->words[0]) ||
			(words == 2 && !streq(argv[1], c->words[1])))
			continue;
		status = c->run(ctl, argc - words, argv + words);
		return status == CTL_USAGE ? usage() : status;
	}
	fprintf(stderr, "mqttgwctl: no such command: %s%s%s\n", argv[0], argc > 1 ? " " : "",
		argc > 1 ? argv[1] : "");
	return usage();
}

int main(int argc, char **argv)
{
	struct ctl ctl = { .config_path = CONFIG_DEFAULT_PATH };
	int status;

	/* What is merely unwise about a configuration the daemon has told already. */
	log_set_level(LOG_ERR);
	status = parse_options(argc, argv, &ctl);
	if (status < 0)
		status = run_command(&ctl, argc - optind, argv + optind);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		ctl_fail(0, "cannot write to standard output: %s", strerror(errno));
		if (status == CTL_OK)
			status = CTL_FAILED;
	}
	return status;
}
