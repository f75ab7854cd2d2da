/* SPDX-License-Identifier: MIT */
/*
 * Runs the unit tests: all of them, the suites named on the command line, or after --but all
 * others. Each test is a process of its own unless CK_FORK=no is set. Must not know what is tested.
 */
#include <stdio.h>
#include <string.h>

#include "suites.h"
#include "util.h"

static const struct {
	const char *name;
	Suite *(*create)(void);
} suites[] = {
	{ "acceptance", check_acceptance },
	{ "access", check_access },
	{ "alerts", check_alerts },
	{ "backoff", check_backoff },
	{ "base64", check_base64 },
	{ "brokers", check_brokers },
	{ "buffer", check_buffer },
	{ "clock", check_clock },
	{ "config", check_config },
	{ "config_diff", check_config_diff },
	{ "control", check_control },
	{ "discovery", check_discovery },
	{ "drain", check_drain },
	{ "event", check_event },
	{ "failure", check_failure },
	{ "figures", check_figures },
	{ "flap", check_flap },
	{ "footprint", check_footprint },
	{ "frame_json", check_frame_json },
	{ "gateway_alerts", check_gateway_alerts },
	{ "httpd", check_httpd },
	{ "ingest", check_ingest },
	{ "listener", check_listener },
	{ "log", check_log },
	{ "mailbox", check_mailbox },
	{ "metrics", check_metrics },
	{ "mqtt", check_mqtt },
	{ "mqtt_guard", check_mqtt_guard },
	{ "netwatch", check_netwatch },
	{ "outages", check_outages },
	{ "queue", check_queue },
	{ "queue_age", check_queue_age },
	{ "queue_rot", check_queue_rot },
	{ "queue_space", check_queue_space },
	{ "queue_vfs", check_queue_vfs },
	{ "resolver", check_resolver },
	{ "stall", check_stall },
	{ "store", check_store },
	{ "supervisor", check_supervisor },
	{ "topic", check_topic },
	{ "trial", check_trial },
	{ "uplink", check_uplink },
	{ "uplink_tell", check_uplink_tell },
	{ "url", check_url },
	{ "utf8", check_utf8 },
	{ "window", check_window },
};

static int find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(suites); i++)
		if (streq(name, suites[i].name))
			return (int)i;
	return -1;
}

int main(int argc, char **argv)
{
	bool but = argc > 1 && streq(argv[1], "--but"), named[ARRAY_SIZE(suites)] = { 0 };
	SRunner *runner = srunner_create(NULL);
	int failed;

	for (int a = 1 + but; a < argc; a++) {
		int i = find(argv[a]);

		if (i < 0) {
			fprintf(stderr, "no suite is called %s\n", argv[a]);
			return 2;
		}
		named[i] = true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(suites); i++)
		if (argc == 1 || named[i] != but)
			srunner_add_suite(runner, suites[i].create());
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? 0 : 1;
}
