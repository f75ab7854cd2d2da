/* SPDX-License-Identifier: MIT */
/*
 * Options, the table of commands, exit statuses. What is logged goes to standard error, for whoever
 * typed the command: log_open() is not called, which would file it under the daemon's name.
 */
#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>

#include "config-build.h"
#include "config.h"
#include "ctl.h"
#include "log.h"

/* --- the table of commands ------------------------------------------------------------------- */

#define HELP_OF_JSON "      --json          print JSON, for programs\n"
#define HELP_OF_RAW  "      --raw           write the payload alone, byte by byte\n"
#define HELP_OF_TOPIC(did) \
	"      --topic FILTER  " did " those whose topic fits; + and # as in MQTT\n"
#define HELP_OF_RANGE                                 \
	"      --limit N       end after N of them\n" \
	"      --after ID      begin behind this one\n"
#define HELP_OF_YES "      --yes           do not ask whether that is meant\n"

static const struct ctl_command commands[] = {
	{ { "status" }, "[--json]", "tell how the gateway is doing, and why nothing moves",
		HELP_OF_JSON, ctl_status },
	{ { "watch" }, "", "the same, live, with graphs; q ends it",
		"Shows the state every second until q or ^C is pressed. Where standard output is "
		"no\n"
		"terminal, prints a line a second.\n",
		ctl_watch },
	{ { "pub" }, "-t TOPIC (-m TEXT | -f FILE | -l | -s | -n) [-q QOS] [-r]",
		"publish, as mosquitto_pub does; done when it is on disk",
		"  -t, --topic TOPIC    where to publish\n"
		"  -m, --message TEXT   this text\n"
		"  -f, --file FILE      what FILE holds, as one message\n"
		"  -l, --stdin-line     each line of standard input, as a message of its own\n"
		"  -s, --stdin-file     all of standard input, as one message\n"
		"  -n, --null-message   an empty message\n"
		"  -q, --qos QOS        0, 1 or 2; default: the gateway's socket.default_qos\n"
		"  -r, --retain         ask the broker to keep it\n\n"
		"Speaks to the socket for local programs. Exit status 0 means that every message "
		"is\n"
		"in the queue and on disk.\n",
		ctl_pub },
	{ { "queue", "list" }, "[--topic FILTER] [--limit N] [--after ID] [--json]",
		"list what waits for the broker, oldest first",
		HELP_OF_TOPIC("only") HELP_OF_RANGE HELP_OF_JSON, ctl_list },
	{ { "queue", "show" }, "ID [--json | --raw]", "show one message", HELP_OF_JSON HELP_OF_RAW,
		ctl_show },
	{ { "queue", "export" }, "[--topic FILTER] [--limit N] [--after ID]",
		"write what waits as lines that the socket takes",
		HELP_OF_TOPIC("only") HELP_OF_RANGE "\nNothing leaves the queue.\n", ctl_export },
	{ { "queue", "purge" }, "[--topic FILTER] [--yes] [--json]", "throw away what waits",
		HELP_OF_TOPIC("only") HELP_OF_YES HELP_OF_JSON
		"\nWhat is on its way to the broker stays. Without a topic, asks first; where "
		"there is\n"
		"no terminal, --yes is needed.\n",
		ctl_purge },
	{ { "queue", "check" }, "", "read all of the queue's database and tell what is wrong",
		"Works beside the gateway and without it.\n", ctl_check },
	{ { "dead", "list" }, "[--topic FILTER] [--limit N] [--after ID] [--json]",
		"list what the broker refused for good",
		HELP_OF_TOPIC("only") HELP_OF_RANGE HELP_OF_JSON, ctl_list },
	{ { "dead", "show" }, "ID [--json | --raw]", "show one of them", HELP_OF_JSON HELP_OF_RAW,
		ctl_show },
	{ { "dead", "export" }, "[--topic FILTER] [--limit N] [--after ID]",
		"write them as lines that the socket takes",
		HELP_OF_TOPIC("only") HELP_OF_RANGE "\nThey stay where they are.\n", ctl_export },
	{ { "dead", "requeue" }, "[ID | --topic FILTER] [--json]",
		"put them at the end of the queue once more", HELP_OF_TOPIC("only") HELP_OF_JSON,
		ctl_requeue },
	{ { "dead", "purge" }, "[ID | --topic FILTER] [--yes] [--json]", "throw them away",
		HELP_OF_TOPIC("only") HELP_OF_YES HELP_OF_JSON
		"\nWithout an id or a topic, asks first; where there is no terminal, --yes is "
		"needed.\n",
		ctl_purge },
	{ { "flush" }, "[--timeout S]", "wait until the queue is empty",
		"      --timeout S     give up after S seconds; exit status 1 then\n\n"
		"On a terminal, shows how far it is.\n",
		ctl_flush },
	{ { "reconnect" }, "", "try now instead of waiting out the backoff", "", ctl_reconnect },
};

/* --- what the commands share ------------------------------------------------------------------ */

static void say(const char *format, va_list ap) _printf_(1, 0);
static void say(const char *format, va_list ap)
{
	fflush(stdout);
	fputs("mqttgwctl: ", stderr);
	vfprintf(stderr, format, ap);
}

int ctl_fail(int error, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	say(format, ap);
	va_end(ap);
	if (error == -EACCES)
		fputs("; run it as root or as the gateway's user", stderr);
	fputc('\n', stderr);
	return CTL_FAILED;
}

static void print_usage_of(FILE *out, const struct ctl_command *c)
{
	fprintf(out, "Usage: mqttgwctl [-c FILE | --socket PATH] %s%s%s%s%s\n", c->words[0],
		c->words[1] ? " " : "", c->words[1] ? c->words[1] : "", *c->arguments ? " " : "",
		c->arguments);
}

int ctl_usage(const struct ctl *ctl, const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	fprintf(stderr, "mqttgwctl: %s%s%s: %s\n", ctl->command->words[0],
		ctl->command->words[1] ? " " : "",
		ctl->command->words[1] ? ctl->command->words[1] : "", text);
	print_usage_of(stderr, ctl->command);
	return CTL_USAGE;
}

static void print_help_of(const struct ctl_command *c)
{
	print_usage_of(stdout, c);
	printf("%c%s.\n", c->help[0] - 'a' + 'A', c->help + 1);
	printf("%s%s", *c->details ? "\n" : "", c->details);
	puts("\nSee mqttgwctl(1).");
}

int ctl_option(const struct ctl *ctl, int argc, char **argv, const char *letters,
	const struct option *options)
{
	char all[64];
	int c;

	snprintf(all, sizeof(all), ":h%s", letters);
	c = getopt_long(argc, argv, all, options, NULL);
	if (c == 'h')
		print_help_of(ctl->command);
	else if (c == ':')
		ctl_usage(ctl, "%s: a value is missing", argv[optind - 1]);
	else if (c == '?' && strncmp(argv[optind - 1], "--", 2) == 0)
		ctl_usage(ctl, "unknown option or a value too many: %s", argv[optind - 1]);
	else if (c == '?')
		ctl_usage(ctl, "unknown option -%c", optopt);
	return c == ':' ? '?' : c;
}

int ctl_option_status(int option)
{
	return option == 'h' ? CTL_OK : CTL_USAGE;
}

/* --- the command line ------------------------------------------------------------------------- */

static void print_commands(FILE *out, const char *first)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct ctl_command *c = &commands[i];
		int width;

		if (first && !streq(first, c->words[0]))
			continue;
		width = fprintf(out, "  %s%s%s", c->words[0], c->words[1] ? " " : "",
			c->words[1] ? c->words[1] : "");
		fprintf(out, "%*s%s\n", width < 18 ? 18 - width : 1, "", c->help);
	}
}

static void print_help(void)
{
	printf("Usage: mqttgwctl [-c FILE | --socket PATH] COMMAND\n"
	       "Looks after mqtt-gatewayd and its queue. The commands are:\n\n");
	print_commands(stdout, NULL);
	printf("\n"
	       "  -c, --config FILE   read the gateway's configuration from FILE instead of\n"
	       "                      %s\n"
	       "      --socket PATH   ask at this control socket, not the configuration's\n"
	       "      --version       print the version, then exit\n"
	       "  -h, --help          print this help, then exit; after a command: its own\n\n"
	       "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the gateway cannot\n"
	       "be reached. See mqttgwctl(1).\n",
		CONFIG_DEFAULT_PATH);
}

static int usage(const char *first)
{
	fputs("Usage: mqttgwctl [-c FILE | --socket PATH] COMMAND\nThe commands are:\n", stderr);
	print_commands(stderr, first);
	fputs("See mqttgwctl --help.\n", stderr);
	return CTL_USAGE;
}

/* Returns the exit status, or -1 to go on with what begins at `optind`. */
static int parse_options(int argc, char **argv, struct ctl *ctl)
{
	enum { OPTION_VERSION = 256, OPTION_SOCKET };
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "socket", required_argument, NULL, OPTION_SOCKET },
		{ "version", no_argument, NULL, OPTION_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	/* "+": what follows the command is the command's. */
	while ((c = getopt_long(argc, argv, "+c:h", options, NULL)) >= 0) {
		switch (c) {
		case 'c': ctl->config_path = optarg; break;
		case OPTION_SOCKET: ctl->control_path = optarg; break;
		case OPTION_VERSION: puts("mqttgwctl (" PACKAGE_STRING ")"); return CTL_OK;
		case 'h': print_help(); return CTL_OK;
		default: return usage(NULL);
		}
	}
	if (ctl->config_path && ctl->control_path) {
		fputs("mqttgwctl: -c and --socket: one of the two\n", stderr);
		return usage(NULL);
	}
	return -1;
}

/* Whether it is the first word of some command. */
static bool is_first_word(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (streq(word, commands[i].words[0]))
			return true;
	return false;
}

static int run_command(struct ctl *ctl, int argc, char **argv)
{
	if (argc == 0) {
		fputs("mqttgwctl: no command\n", stderr);
		return usage(NULL);
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct ctl_command *c = &commands[i];
		int words = c->words[1] ? 2 : 1;

		if (argc < words || !streq(argv[0], c->words[0]) ||
			(words == 2 && !streq(argv[1], c->words[1])))
			continue;
		ctl->command = c;
		optind = 0; /* begins anew; errors are told by ctl_option() */
		return c->run(ctl, argc - words + 1, argv + words - 1);
	}
	if (is_first_word(argv[0]) && argc > 1 &&
		(streq(argv[1], "--help") || streq(argv[1], "-h"))) {
		print_commands(stdout, argv[0]);
		return CTL_OK;
	}
	if (is_first_word(argv[0]) && argc == 1)
		fprintf(stderr, "mqttgwctl: %s: what of it?\n", argv[0]);
	else
		fprintf(stderr, "mqttgwctl: no such command: %s%s%s\n", argv[0],
			argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
	return usage(is_first_word(argv[0]) ? argv[0] : NULL);
}

int main(int argc, char **argv)
{
	struct ctl ctl = { 0 };
	int status;

	/* Numbers stay as they are everywhere. */
	setlocale(LC_CTYPE, "");
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
