/* SPDX-License-Identifier: MIT */
/*
 * Arguments and exit statuses. Everything else is the convenience library's.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <sysexits.h>

#include "config-build.h"
#include "config.h"
#include "footprint.h"
#include "gateway.h"
#include "log.h"

enum mode {
	MODE_RUN,
	MODE_CHECK,
	MODE_PRINT,
};

static void print_help(FILE *out)
{
	fprintf(out,
		"Usage: mqtt-gatewayd [OPTION]...\n"
		"Takes messages on a local socket, keeps them on disk, delivers them to an MQTT "
		"broker.\n\n"
		"  -c, --config FILE   read FILE instead of %s\n"
		"      --check-config  report every fault in the configuration, then exit\n"
		"      --print-config  print the effective configuration, then exit\n"
		"      --version       print the version, then exit\n"
		"  -h, --help          print this help, then exit\n\n"
		"Exit status: 0 after an orderly stop, 1 if it could not be started, 78 if the\n"
		"configuration has a fault. See mqtt-gatewayd(8).\n",
		CONFIG_DEFAULT_PATH);
}

/* Returns the exit status, or -1 to go on. */
static int parse_arguments(int argc, char **argv, const char **ret_path, enum mode *ret_mode)
{
	enum { OPTION_CHECK = 256, OPTION_PRINT, OPTION_VERSION };
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check-config", no_argument, NULL, OPTION_CHECK },
		{ "print-config", no_argument, NULL, OPTION_PRINT },
		{ "version", no_argument, NULL, OPTION_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "c:h", options, NULL)) >= 0) {
		switch (c) {
		case 'c': *ret_path = optarg; break;
		case OPTION_CHECK: *ret_mode = MODE_CHECK; break;
		case OPTION_PRINT: *ret_mode = MODE_PRINT; break;
		case OPTION_VERSION: puts(PACKAGE_STRING); return EXIT_SUCCESS;
		case 'h': print_help(stdout); return EXIT_SUCCESS;
		default: return EXIT_FAILURE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "mqtt-gatewayd: unexpected argument \"%s\"; see --help\n",
			argv[optind]);
		return EXIT_FAILURE;
	}
	return -1;
}

/*
 * The file that discovery.file names, when it is there. Only --check-config looks: a start must not
 * depend on a file that is rendered anew while we run.
 */
static int check_discovery_file(const struct config *config)
{
	struct config_broker *brokers;
	size_t n;
	int r;

	/* It may name credentials, too. */
	if (!*config->discovery.file || config_hidden_credentials() ||
		access(config->discovery.file, F_OK) < 0)
		return 0;
	r = config_load_brokers(&brokers, &n, config->discovery.file, false, stderr);
	if (r == 0)
		config_brokers_free(brokers, n);
	return r;
}

static int run(const char *path, enum mode mode)
{
	struct config *config = NULL;
	int r;

	r = mode == MODE_CHECK ? config_check(&config, path, stderr)
			       : config_load(&config, path, stderr);
	if (r < 0)
		return r == -EINVAL ? EX_CONFIG : EXIT_FAILURE;
	if (mode == MODE_PRINT) {
		r = config_print(config, stdout);
	} else if (mode == MODE_CHECK) {
		r = check_discovery_file(config);
		config_free(config);
		return r == -EINVAL ? EX_CONFIG : r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	} else if (mode == MODE_RUN) {
		log_set_level(config->log.level);
		r = gateway_run(config, path);
		return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	config_free(config);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	const char *path = CONFIG_DEFAULT_PATH;
	enum mode mode = MODE_RUN;
	int status;

	footprint_init();
	/* Of what the libraries have done so far little is done again. */
	footprint_trim();
	status = parse_arguments(argc, argv, &path, &mode);
	if (status >= 0)
		return status;
	log_open();
	return run(path, mode);
}
