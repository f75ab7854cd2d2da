/* SPDX-License-Identifier: MIT */
/*
 * The daemon: brings the rooms together, runs until it is told to stop.
 */
#pragma once

#include "config.h"
#include "util.h"

/*
 * Runs the daemon with a configuration it takes over, in any case, and that was read from
 * `config_path` (borrowed). Returns 0 after an orderly stop, or -errno when it could not be started
 * or the loop failed; what went wrong is logged. Blocks SIGTERM, SIGINT and SIGHUP for the whole
 * process and reads them itself.
 */
int gateway_run(struct config *config, const char *config_path) _must_check_;
