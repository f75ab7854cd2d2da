/* SPDX-License-Identifier: MIT */
/*
 * Whose connection it is, and what follows from it. Credentials are the kernel's, taken when the
 * other side connected: they are looked up once, and again when the rules change, so that a message
 * costs a look at the rules of its sender, and nothing where there are none.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "event.h"
#include "ingest_internal.h"
#include "log.h"

/* So much of a topic is shown. */
#define TOPIC_SHOWN 200

/* The kernel's own bound is 65,536 (NGROUPS_MAX). */
static int get_groups(int fd, gid_t **ret, size_t *ret_n)
{
	socklen_t size = 64 * sizeof(gid_t);
	gid_t *groups = NULL;

	/* At most twice: ERANGE tells how much it takes. */
	for (int n = 0; n < 2; n++) {
		free(groups);
		groups = malloc(size);
		if (!groups)
			return -ENOMEM;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0) {
			*ret = groups;
			*ret_n = size / sizeof(gid_t);
			return 0;
		}
		if (errno != ERANGE)
			break;
	}
	free(groups);
	return -errno;
}

static int get_peer(int fd, struct ucred *ret)
{
	socklen_t size = sizeof(*ret);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &size) < 0 ? -errno : 0;
}

void ingest_access_admit(struct ingest *i, struct client *c)
{
	_cleanup_(freep) gid_t *groups = NULL;
	struct access_peer peer = { 0 };
	struct ucred cred;
	int r;

	c->access = (struct access_set){ 0 };
	if (i->params.access.n == 0)
		return;
	r = get_peer(c->fd, &cred);
	if (r >= 0)
		r = get_groups(c->fd, &groups, &peer.n_groups);
	if (r < 0) {
		log_warning("cannot tell who a client is, it may publish nothing: %s",
			strerrordesc_np(-r));
		return;
	}
	peer.uid = cred.uid;
	peer.gid = cred.gid;
	peer.groups = groups;
	access_select(&i->params.access, &peer, &c->access);
}

/* Bytes of whole characters. */
static int shown_length(const struct message *m)
{
	size_t n = size_min(m->topic_len, TOPIC_SHOWN);

	while (n > 0 && n < m->topic_len && ((unsigned char)m->topic[n] & 0xc0) == 0x80)
		n--;
	return (int)n;
}

/* One line a minute for each user at most, and for one that goes on rather fewer. */
static void tell(struct ingest *i, const struct client *c, const struct message *m)
{
	struct ucred cred = { .uid = (uid_t)-1, .gid = (gid_t)-1 };
	char name[32], rules[400], times[100], more[120] = "";
	struct event_fields fields = { 0 };
	struct flap_told told = { 0 };
	int shown = shown_length(m);

	(void)!get_peer(c->fd, &cred);
	snprintf(name, sizeof(name), "%u", (unsigned)cred.uid);
	if (flap_occurred(flap_find(&i->not_allowed, name, 0), 1, 0, now_boot_usec(), &told) ==
		FLAP_QUIET)
		return;
	if (told.count > 1) {
		fields.count = told.count;
		snprintf(more, sizeof(more), "; %s", flap_text(&told, times, sizeof(times)));
	}
	log_event(EVENT_NOT_ALLOWED, &fields,
		"uid %u (gid %u, pid %d) may not publish to \"%.*s%s\"; its rules of access: %s%s",
		(unsigned)cred.uid, (unsigned)cred.gid, (int)cred.pid, shown, m->topic,
		(size_t)shown < m->topic_len ? "..." : "",
		access_describe(&i->params.access, &c->access, rules, sizeof(rules)), more);
}

const char *ingest_access_refuses(struct ingest *i, struct client *c, const struct message *m)
{
	if (i->params.access.n == 0 ||
		access_find(&i->params.access, &c->access, m->topic, m->topic_len))
		return NULL;
	tell(i, c, m);
	return "no rule of access lets this user publish to this topic";
}
