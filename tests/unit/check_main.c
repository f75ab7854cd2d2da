/* SPDX-License-Identifier: MIT */
/*
 * Runs the unit tests: all of them, or the one suite named on the command line. Each test is a
 * process of its own unless CK_FORK=no is set. Must not know what is tested.
 */
#include <stdio.h>
#include <string.h>

#include "suites.h"
#include "util.h"

static const struct {
	const char *name;
	Suite *(*create)(void);
} suites[] = {
	{ "backoff", check_backoff },
	{ "base64", check_base64 },
	{ "brokers", check_brokers },
	{ "buffer", check_buffer },
	{ "clock", check_clock },
	{ "config", check_config },
	{ "discovery", check_discovery },
	{ "drain", check_drain },
	{ "failure", check_failure },
	{ "frame_json", check_frame_json },
	{ "ingest", check_ingest },
	{ "listener", check_listener },
	{ "log", check_log },
	{ "mailbox", check_mailbox },
	{ "mqtt", check_mqtt },
	{ "netwatch", check_netwatch },
	{ "outages", check_outages },
	{ "queue", check_queue },
	{ "queue_age", check_queue_age },
	{ "queue_rot", check_queue_rot },
	{ "queue_space", check_queue_space },
	{ "resolver", check_resolver },
	{ "stall", check_stall },
	{ "store", check_store },
	{ "supervisor", check_supervisor },
	{ "topic", check_topic },
	{ "trial", check_trial },
	{ "window", check_window },
};

int main(int argc, char **argv)
{
	SRunner *runner = NULL;
	int failed;

	for (size_t i = 0; i < ARRAY_SIZE(suites); i++) {
		if (argc > 1 && !streq(argv[1], suites[i].name))
			continue;
		if (runner)
			srunner_add_suite(runner, suites[i].create());
		else
			runner = srunner_create(suites[i].create());
	}
	if (!runner) {
		fprintf(stderr, "no suite is called %s\n", argv[1]);
		return 2;
	}
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? 0 : 1;
}
