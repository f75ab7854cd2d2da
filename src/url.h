/* SPDX-License-Identifier: MIT */
/*
 * Addresses of the World Wide Web, as far as the configuration and mqttgw-report take them apart:
 * http and https. Pure.
 */
#pragma once

#include "util.h"

/* "http://HOST..." or "https://HOST...", at most 2000 printable ASCII characters without blanks. */
bool url_is_good(const char *url);

/*
 * Each of these takes a good URL and makes *ret, to be freed. -ENOMEM.
 */

/* User information, query and fragment, where there are any, as "***": for showing a configuration.
 * The result is a good URL. */
int url_mask(char **ret, const char *url) _must_check_;
/* Scheme, host and port alone: for logs. A path may be a secret, too. */
int url_origin(char **ret, const char *url) _must_check_;
/* Where a Pushgateway takes the figures of `instance`: behind the path comes
 * "/metrics/job/mqttgw/instance/ID", unless it names a job already. */
int url_pushgateway(char **ret, const char *url, const char *instance) _must_check_;
