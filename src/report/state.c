/* SPDX-License-Identifier: MIT */
/*
 * Owns the state file. Invariant: it is replaced as a whole, never written in place. Must not know
 * what an alert is for.
 */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <systemd/sd-id128.h>

#include "log.h"

#define FILE_NAME "state.json"

static void take_text(const json_t *from, const char *key, char *to, size_t size)
{
	const char *text = json_string_value(json_object_get(from, key));

	if (text && strlen(text) < size)
		strcpy(to, text);
}

static uint64_t take_number(const json_t *from, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(from, key));

	return n > 0 ? (uint64_t)n : 0;
}

static void take(struct state *s, const json_t *from)
{
	json_t *pending = json_object_get(from, "pending"), *alert;
	size_t i;

	take_text(from, "own", s->own, sizeof(s->own));
	take_text(from, "instance", s->instance, sizeof(s->instance));
	take_text(from, "told", s->told, sizeof(s->told));
	s->own_seq = take_number(from, "own_seq");
	s->seen = take_number(from, "seen");
	s->lost = take_number(from, "lost");
	json_array_foreach(pending, i, alert) if (json_is_object(alert))
		json_array_append(s->pending, alert);
}

static int new_own(struct state *s)
{
	sd_id128_t id;
	int r;

	r = sd_id128_randomize(&id);
	if (r < 0)
		return r;
	sd_id128_to_string(id, s->own);
	return 0;
}

static int find_path(struct state *s)
{
	const char *folder = getenv("STATE_DIRECTORY");

	if (!folder || !*folder) {
		log_debug("no $STATE_DIRECTORY: what was delivered is forgotten at the end");
		return 0;
	}
	/* systemd lists all of them; there is one. */
	if (asprintf(&s->path, "%.*s/" FILE_NAME, (int)strcspn(folder, ":"), folder) < 0) {
		s->path = NULL;
		return -ENOMEM;
	}
	return 0;
}

static void read_file(struct state *s)
{
	json_error_t error;
	json_t *root;

	if (!s->path || access(s->path, F_OK) < 0)
		return;
	root = json_load_file(s->path, JSON_REJECT_DUPLICATES, &error);
	if (json_is_object(root))
		take(s, root);
	else
		log_warning("%s cannot be used: %s: alerts that were delivered may be sent again",
			s->path, root ? "no object" : error.text);
	json_decref(root);
}

int state_load(struct state *s)
{
	int r;

	*s = (struct state){ .pending = json_array() };
	r = s->pending ? find_path(s) : -ENOMEM;
	if (r < 0) {
		state_done(s);
		return r;
	}
	read_file(s);
	if (!*s->own) {
		s->own_seq = 0;
		r = new_own(s);
	}
	if (r < 0)
		state_done(s);
	return r;
}

static int write_all(int fd, const char *text, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, text, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return -errno;
		text += w;
		n -= (size_t)w;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static int replace(const char *path, const char *text)
{
	_cleanup_(freep) char *temporary = NULL;
	int fd, r;

	if (asprintf(&temporary, "%s.new", path) < 0) {
		temporary = NULL;
		return -ENOMEM;
	}
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = write_all(fd, text, strlen(text));
	close(fd);
	if (r == 0 && rename(temporary, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(temporary);
	return r;
}

int state_save(const struct state *s)
{
	_cleanup_(freep) char *text = NULL;
	json_t *root;

	if (!s->path)
		return 0;
	root = json_pack("{s:i, s:s, s:I, s:s, s:I, s:s, s:I, s:O}", "version", 1, "own", s->own,
		"own_seq", (json_int_t)s->own_seq, "instance", s->instance, "seen",
		(json_int_t)s->seen, "told", s->told, "lost", (json_int_t)s->lost, "pending",
		s->pending);
	if (root)
		text = json_dumps(root, JSON_INDENT(1));
	json_decref(root);
	return text ? replace(s->path, text) : -ENOMEM;
}

void state_done(struct state *s)
{
	json_decref(s->pending);
	free(s->path);
	*s = (struct state){ 0 };
}
