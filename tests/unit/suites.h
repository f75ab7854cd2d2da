/* SPDX-License-Identifier: MIT */
/*
 * The unit tests, one suite a room: check_ROOM.c tests src/ROOM.c; outages: several
 * together, for weeks; queue_age: queue_expire.c, too. Knows the rooms' names only.
 */
#pragma once

#include <check.h>

Suite *check_acceptance(void);
Suite *check_access(void);
Suite *check_alerts(void);
Suite *check_backoff(void);
Suite *check_base64(void);
Suite *check_brokers(void);
Suite *check_buffer(void);
Suite *check_clock(void);
Suite *check_config(void);
Suite *check_config_diff(void);
Suite *check_control(void);
Suite *check_discovery(void);
Suite *check_drain(void);
Suite *check_event(void);
Suite *check_failure(void);
Suite *check_figures(void);
Suite *check_flap(void);
Suite *check_footprint(void);
Suite *check_frame_json(void);
Suite *check_gateway_alerts(void);
Suite *check_httpd(void);
Suite *check_ingest(void);
Suite *check_listener(void);
Suite *check_log(void);
Suite *check_mailbox(void);
Suite *check_metrics(void);
Suite *check_mqtt(void);
Suite *check_mqtt_guard(void);
Suite *check_netwatch(void);
Suite *check_outages(void);
Suite *check_queue(void);
Suite *check_queue_age(void);
Suite *check_queue_space(void);
Suite *check_queue_vfs(void);
Suite *check_queue_rot(void);
Suite *check_resolver(void);
Suite *check_stall(void);
Suite *check_store(void);
Suite *check_supervisor(void);
Suite *check_topic(void);
Suite *check_trial(void);
Suite *check_uplink(void);
Suite *check_uplink_tell(void);
Suite *check_url(void);
Suite *check_utf8(void);
Suite *check_window(void);
