/* SPDX-License-Identifier: MIT */
/*
 * The last good list of brokers, kept in a file for a start without name servers or without the
 * file it comes from. For discovery.c and its tests only.
 *
 * The file is in the configuration's own syntax, so that config_load_brokers() reads it; its first
 * lines are comments that say what it is. It may hold passwords: nobody but the owner may read it.
 */
#pragma once

#include "discovery_list.h"

/* Where the list comes from: one of another source is not used. */
struct discovery_origin {
	const char *kind; /* "srv", "file" */
	const char *name; /* the records' name, the file's path */
	bool targets_only; /* hosts, ports and priorities are kept, and nothing else */
};

/*
 * Writes `list` to `path`, whole or not at all, also over a power cut; nothing is written when the
 * file holds it already. 0 or -errno.
 */
int discovery_keep_write(const char *path, const struct discovery_origin *origin,
	const struct discovery_list *list) _must_check_;
/*
 * Reads it. 0: *ret_changed is when it was last changed, in seconds since the epoch. -ENOENT: there
 * is none of this origin. -EINVAL: it is broken, `text` says how. Other -errno.
 */
int discovery_keep_read(struct discovery_list *ret, int64_t *ret_changed, const char *path,
	const struct discovery_origin *origin, char *text, size_t text_size) _must_check_;
