/* SPDX-License-Identifier: MIT */
/*
 * The reply to "status", for people.
 */
#pragma once

#include "page.h"

/* The lines about connection and cause. */
void status_put_head(struct page *p, const json_t *status);
/* Queue, flow, last failure, brokers. */
void status_put_body(struct page *p, const json_t *status);
/* The same in one line of plain text, without its end. */
void status_put_line(struct page *p, const json_t *status);
