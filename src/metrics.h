/* SPDX-License-Identifier: MIT */
/*
 * Figures -> the text that Prometheus reads (exposition format 0.0.4). Pure.
 */
#pragma once

#include "buffer.h"
#include "figures.h"
#include "util.h"

/* Appends all metrics. 0 or -ENOMEM. */
int metrics_write(const struct figures *f, struct buffer *out) _must_check_;
