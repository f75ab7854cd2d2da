/* SPDX-License-Identifier: MIT */
/*
 * Reads rtnetlink: see netwatch.h. Owns the socket and the order of questions; what the messages
 * add up to is netwatch_table's.
 *
 * The groups are joined first, then everything is asked for, so that nothing falls in between. When
 * the kernel had to drop messages (ENOBUFS) everything is asked for again and compared.
 *
 * Invariant: never blocks, and news is told only while no such round is under way.
 */
#include "config-build.h"

#include "netwatch.h"

#include <errno.h>

#ifdef HAVE_NETLINK

#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "log.h"
#include "netwatch_table.h"

/* Of one message; the kernel fills a dump's up to this. */
#define BUFFER_SIZE 32768
/* Messages read before others of the loop have their turn. */
#define READS_A_TURN 64
/* A round that was disturbed is begun again so often, then taken as it is. */
#define MAX_ROUNDS 5

#define GROUPS                                                                       \
	(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | \
		RTMGRP_IPV6_ROUTE)

/* What a round asks for, one after the other: the kernel takes one question at a time. */
static const uint16_t round_steps[] = { RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE };

struct netwatch {
	struct mnl_socket *socket;
	sd_event_source *source;
	netwatch_fn fn;
	void *userdata;
	struct netwatch_table *table;

	size_t step; /* in round_steps; beyond it: no round is under way */
	unsigned rounds; /* in a row */
	bool disturbed; /* this round is not to be relied upon */
	uint32_t seq; /* of the question under way */
	bool known; /* the first round is over */
	bool usable; /* as told */

	_Alignas(struct nlmsghdr) uint8_t buffer[BUFFER_SIZE];
};

static bool in_round(const struct netwatch *w)
{
	return w->step < ARRAY_SIZE(round_steps);
}

/* --- messages -------------------------------------------------------------------------------- */

struct picked {
	const struct nlattr **attrs;
	int max;
};

static int pick_one(const struct nlattr *attr, void *userdata)
{
	struct picked *p = userdata;

	if (mnl_attr_get_type(attr) <= p->max)
		p->attrs[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

/* Picks attributes 0 to `max` of a message out; those that are not there are NULL. */
static void pick(
	const struct nlmsghdr *message, unsigned header, const struct nlattr **ret, int max)
{
	struct picked picked = { ret, max };

	for (int i = 0; i <= max; i++)
		ret[i] = NULL;
	(void)mnl_attr_parse(message, header, pick_one, &picked);
}

static bool holds(const struct nlattr *attr, size_t size)
{
	return attr && mnl_attr_get_payload_len(attr) >= size;
}

static uint32_t get_u32(const struct nlattr *attr)
{
	return holds(attr, sizeof(uint32_t)) ? mnl_attr_get_u32(attr) : 0;
}

static void on_link(struct netwatch *w, const struct nlmsghdr *message)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[IFLA_IFNAME + 1];
	struct netwatch_link link;

	/* Others tell of a port of a bridge: "deleted" then means that it left the bridge. */
	if (mnl_nlmsg_get_payload_len(message) < sizeof(*info) || info->ifi_family != AF_UNSPEC)
		return;
	if (message->nlmsg_type == RTM_DELLINK) {
		netwatch_table_link_gone(w->table, info->ifi_index);
		return;
	}
	pick(message, sizeof(*info), attrs, IFLA_IFNAME);
	link = (struct netwatch_link){
		.index = info->ifi_index,
		.loopback = info->ifi_flags & IFF_LOOPBACK,
		.up = info->ifi_flags & IFF_UP,
		.carrier = (info->ifi_flags & IFF_UP) && (info->ifi_flags & IFF_RUNNING),
	};
	if (attrs[IFLA_IFNAME])
		snprintf(link.name, sizeof(link.name), "%.*s",
			(int)mnl_attr_get_payload_len(attrs[IFLA_IFNAME]),
			mnl_attr_get_str(attrs[IFLA_IFNAME]));
	netwatch_table_link(w->table, &link);
}

/* 4 or 16, or 0 for a family that is none of ours. */
static size_t address_size(int family)
{
	return family == AF_INET ? 4 : family == AF_INET6 ? 16 : 0;
}

static void on_address(struct netwatch *w, const struct nlmsghdr *message)
{
	const struct ifaddrmsg *info = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[IFA_FLAGS + 1], *bytes;
	struct netwatch_address address = { 0 };
	size_t size;
	uint32_t flags;

	if (mnl_nlmsg_get_payload_len(message) < sizeof(*info))
		return;
	size = address_size(info->ifa_family);
	pick(message, sizeof(*info), attrs, IFA_FLAGS);
	/* On a point-to-point link IFA_ADDRESS is the other end's. */
	bytes = attrs[IFA_LOCAL] ? attrs[IFA_LOCAL] : attrs[IFA_ADDRESS];
	if (size == 0 || !holds(bytes, size) || info->ifa_scope != RT_SCOPE_UNIVERSE)
		return;
	address.index = (int)info->ifa_index;
	address.family = info->ifa_family;
	memcpy(address.bytes, mnl_attr_get_payload(bytes), size);
	flags = attrs[IFA_FLAGS] ? get_u32(attrs[IFA_FLAGS]) : info->ifa_flags;
	/* Nothing is sent from a tentative one; it is told again once it is found to be free. */
	if (message->nlmsg_type == RTM_DELADDR || (flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)))
		netwatch_table_address_gone(w->table, &address);
	else
		netwatch_table_address(w->table, &address);
}

/* To the question under way; else it tells of a change. */
static bool is_reply(const struct netwatch *w, const struct nlmsghdr *message)
{
	return in_round(w) && message->nlmsg_seq == w->seq &&
		message->nlmsg_pid == mnl_socket_get_portid(w->socket);
}

static void on_route(struct netwatch *w, const struct nlmsghdr *message)
{
	const struct rtmsg *info = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[RTA_TABLE + 1];
	struct netwatch_route route = { 0 };

	if (mnl_nlmsg_get_payload_len(message) < sizeof(*info) || info->rtm_dst_len != 0 ||
		info->rtm_type != RTN_UNICAST || (info->rtm_flags & RTM_F_CLONED) ||
		address_size(info->rtm_family) == 0)
		return;
	pick(message, sizeof(*info), attrs, RTA_TABLE);
	route.family = info->rtm_family;
	route.index = (int)get_u32(attrs[RTA_OIF]);
	route.table = attrs[RTA_TABLE] ? get_u32(attrs[RTA_TABLE]) : info->rtm_table;
	route.metric = get_u32(attrs[RTA_PRIORITY]);
	if (holds(attrs[RTA_GATEWAY], address_size(info->rtm_family)))
		memcpy(route.gateway, mnl_attr_get_payload(attrs[RTA_GATEWAY]),
			address_size(info->rtm_family));
	if (message->nlmsg_type == RTM_DELROUTE)
		netwatch_table_route_gone(w->table, &route);
	else
		/* In a reply the flag's bit has another meaning. */
		netwatch_table_route(w->table, &route,
			!is_reply(w, message) && (message->nlmsg_flags & NLM_F_REPLACE));
}

/* --- rounds ---------------------------------------------------------------------------------- */

static int ask(struct netwatch *w)
{
	struct {
		struct nlmsghdr header;
		struct rtgenmsg any; /* family 0: all of them */
		uint8_t padding[3];
	} question = {
		.header = {
			.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtgenmsg)),
			.nlmsg_type = round_steps[w->step],
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
			.nlmsg_seq = ++w->seq,
		},
	};

	if (mnl_socket_sendto(w->socket, &question, question.header.nlmsg_len) < 0)
		return -errno;
	return 0;
}

static int begin_round(struct netwatch *w)
{
	w->step = 0;
	w->rounds++;
	w->disturbed = false;
	netwatch_table_begin(w->table);
	return ask(w);
}

/* The kernel dropped something. A round under way goes to its end first. */
static int on_overflow(struct netwatch *w)
{
	if (in_round(w)) {
		w->disturbed = true;
		return 0;
	}
	return begin_round(w);
}

static int on_step_done(struct netwatch *w)
{
	if (++w->step < ARRAY_SIZE(round_steps))
		return ask(w);
	if (w->disturbed && w->rounds < MAX_ROUNDS)
		return begin_round(w);
	w->rounds = 0;
	netwatch_table_end(w->table);
	return 0;
}

static int error_of(const struct nlmsghdr *message)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(message);

	if (mnl_nlmsg_get_payload_len(message) < sizeof(*e) || e->error >= 0)
		return -EPROTO;
	return e->error;
}

static int on_message(struct netwatch *w, const struct nlmsghdr *message)
{
	if (is_reply(w, message) && (message->nlmsg_flags & NLM_F_DUMP_INTR))
		w->disturbed = true;
	switch (message->nlmsg_type) {
	case NLMSG_DONE: return is_reply(w, message) ? on_step_done(w) : 0;
	case NLMSG_ERROR: return is_reply(w, message) ? error_of(message) : 0;
	case NLMSG_OVERRUN: return on_overflow(w);
	case RTM_NEWLINK:
	case RTM_DELLINK: on_link(w, message); return 0;
	case RTM_NEWADDR:
	case RTM_DELADDR: on_address(w, message); return 0;
	case RTM_NEWROUTE:
	case RTM_DELROUTE: on_route(w, message); return 0;
	default: return 0;
	}
}

/* --- the loop -------------------------------------------------------------------------------- */

/* 1: read something; 0: there is nothing to read; -errno. */
static int read_some(struct netwatch *w)
{
	const struct nlmsghdr *message;
	ssize_t n = mnl_socket_recvfrom(w->socket, w->buffer, sizeof(w->buffer));
	int left, r = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* ENOSPC: a message larger than the buffer. */
	if (n < 0 && (errno == ENOBUFS || errno == ENOSPC)) {
		r = on_overflow(w);
		return r < 0 ? r : 1;
	}
	if (n < 0)
		return -errno;
	left = (int)n;
	for (message = (const struct nlmsghdr *)w->buffer; mnl_nlmsg_ok(message, left) && r >= 0;
		message = mnl_nlmsg_next(message, &left))
		r = on_message(w, message);
	return r < 0 ? r : 1;
}

/* Tells what is new. The callback may free the object, and so comes last. */
static void settle(struct netwatch *w)
{
	char text[NETWATCH_TEXT_SIZE];
	bool news, usable, was_usable;

	if (in_round(w))
		return;
	news = netwatch_table_news(w->table, text);
	usable = netwatch_table_usable(w->table);
	/* What is there at the start is no news; that there is nothing is. */
	was_usable = w->known ? w->usable : true;
	news = news && w->known;
	w->known = true;
	w->usable = usable;
	if (!usable && was_usable)
		w->fn(w->userdata, NETWATCH_DOWN,
			"no interface has both carrier and an address of global scope");
	else if (usable && news)
		w->fn(w->userdata, NETWATCH_UP, text);
}

static int on_readable(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct netwatch *w = userdata;
	int r = 1;

	(void)fd;
	(void)events;
	for (int i = 0; i < READS_A_TURN && r > 0; i++)
		r = read_some(w);
	if (r < 0) {
		log_warning("the network is not watched any longer: %s", strerrordesc_np(-r));
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
		return 0;
	}
	settle(w);
	return 0;
}

int netwatch_new(struct netwatch **ret, sd_event *event, netwatch_fn fn, void *userdata)
{
	struct netwatch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->fn = fn;
	w->userdata = userdata;
	w->table = netwatch_table_new();
	r = -ENOMEM;
	if (!w->table)
		goto rollback;
	w->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (!w->socket || mnl_socket_bind(w->socket, GROUPS, MNL_SOCKET_AUTOPID) < 0) {
		r = -errno;
		goto rollback;
	}
	r = sd_event_add_io(
		event, &w->source, mnl_socket_get_fd(w->socket), EPOLLIN, on_readable, w);
	if (r < 0)
		goto rollback;
	r = begin_round(w);
	if (r < 0)
		goto rollback;
	*ret = w;
	return 0;

rollback:
	netwatch_free(w);
	return r;
}

struct netwatch *netwatch_free(struct netwatch *w)
{
	if (!w)
		return NULL;
	w->source = sd_event_source_disable_unref(w->source);
	if (w->socket)
		mnl_socket_close(w->socket);
	netwatch_table_free(w->table);
	free(w);
	return NULL;
}

#else

int netwatch_new(struct netwatch **ret, sd_event *event, netwatch_fn fn, void *userdata)
{
	(void)ret;
	(void)event;
	(void)fn;
	(void)userdata;
	return -EOPNOTSUPP;
}

struct netwatch *netwatch_free(struct netwatch *w)
{
	(void)w;
	return NULL;
}

#endif
