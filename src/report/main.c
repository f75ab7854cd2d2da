/* SPDX-License-Identifier: MIT */
/*
 * Arguments and exit statuses of mqttgw-report.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sysexits.h>

#include "config-build.h"
#include "config.h"
#include "log.h"
#include "report.h"

static void print_help(FILE *out)
{
	fprintf(out,
		"Usage: mqttgw-report [OPTION]...\n"
		"Sends the figures and the alerts of mqtt-gatewayd by HTTP to where its "
		"configuration says.\n\n"
		"  -c, --config FILE   read FILE instead of %s\n"
		"      --version       print the version, then exit\n"
		"  -h, --help          print this help, then exit\n\n"
		"Exit status: 0 after a stop, 1 if it could not be started, 78 if the "
		"configuration\n"
		"has a fault or nothing to report to. See mqttgw-report(8).\n",
		CONFIG_DEFAULT_PATH);
}

/* Returns the exit status, or -1 to go on. */
static int parse_arguments(int argc, char **argv, const char **ret_path)
{
	enum { OPTION_VERSION = 256 };
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "version", no_argument, NULL, OPTION_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "c:h", options, NULL)) >= 0) {
		switch (c) {
		case 'c': *ret_path = optarg; break;
		case OPTION_VERSION:
			puts("mqttgw-report (" PACKAGE_STRING ")");
			return EXIT_SUCCESS;
		case 'h': print_help(stdout); return EXIT_SUCCESS;
		default: return EXIT_FAILURE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "mqttgw-report: unexpected argument \"%s\"; see --help\n",
			argv[optind]);
		return EXIT_FAILURE;
	}
	return -1;
}

int main(int argc, char **argv)
{
	const char *path = CONFIG_DEFAULT_PATH;
	struct config *config = NULL;
	int status, r;

	status = parse_arguments(argc, argv, &path);
	if (status >= 0)
		return status;
	log_open_report();
	r = config_load_public(&config, path, stderr);
	if (r < 0)
		return r == -EINVAL ? EX_CONFIG : EXIT_FAILURE;
	if (!*config->report.push_url && !*config->report.alert_url) {
		log_error("%s: nothing to do: neither report.push_url nor report.alert_url is set",
			path);
		config_free(config);
		return EX_CONFIG;
	}
	log_set_level(config->log.level);
	return report_run(config, path) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
