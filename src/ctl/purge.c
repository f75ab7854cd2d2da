/* SPDX-License-Identifier: MIT */
/*
 * What changes what waits: `queue purge`, `dead purge`, `dead requeue`; and `reconnect`.
 */
#include <stdio.h>

#include "ctl.h"
#include "text.h"

enum {
	OPTION_TOPIC = 256,
	OPTION_YES,
	OPTION_JSON,
};

struct purge {
	const char *topic; /* NULL: any */
	json_int_t seq;
	bool has_seq;
	bool yes;
	bool json;
};

/* -1: go on; else the exit status. */
static int parse(const struct ctl *ctl, int argc, char **argv, const struct option *options,
	bool takes_id, struct purge *p)
{
	int c;

	while ((c = ctl_option(ctl, argc, argv, "", options)) >= 0) {
		switch (c) {
		case OPTION_TOPIC: p->topic = optarg; break;
		case OPTION_YES: p->yes = true; break;
		case OPTION_JSON: p->json = true; break;
		default: return ctl_option_status(c);
		}
	}
	if (takes_id && optind < argc) {
		if (!text_parse_number(argv[optind], 0, &p->seq))
			return ctl_usage(ctl, "\"%s\" is no id; \"mqttgwctl dead list\" shows them",
				argv[optind]);
		p->has_seq = true;
		optind++;
	}
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	if (p->has_seq && p->topic)
		return ctl_usage(ctl, "an id and --topic: one of the two");
	return -1;
}

/* Sends it; prints what came of it. */
static int carry_out(
	const struct ctl *ctl, struct ctl_link *link, const struct purge *p, const char *did)
{
	const char *what = streq(ctl->command->words[0], "dead") ? "dead letter" : "message";
	_cleanup_(json_freep) json_t *reply = NULL;
	char count[TEXT_SIZE], kept[TEXT_SIZE];
	json_t *request;
	uint64_t n;
	int status;

	request = json_pack("{s:s++,s:s*,s:o*}", "command", ctl->command->words[0], "-",
		ctl->command->words[1], "topic", p->topic, "seq",
		p->has_seq ? json_integer(p->seq) : NULL);
	if (!request)
		return ctl_usage(ctl, "the topic is not UTF-8");
	status = ctl_ask(link, request, &reply);
	if (status != CTL_OK)
		return status;
	if (p->json) {
		text_put_reply(reply);
		return CTL_OK;
	}
	n = count_member(reply, "count");
	printf("%s %s%s %s", text_number(count, n), what, n == 1 ? "" : "s", did);
	n = count_member(reply, "kept");
	if (n > 0)
		printf("; %s kept, on %s way to the broker", text_number(kept, n),
			n == 1 ? "its" : "their");
	putchar('\n');
	return CTL_OK;
}

/* Whether all of it is meant. -1: yes; else the exit status. */
static int confirm(const struct ctl *ctl, struct ctl_link *link)
{
	bool dead = streq(ctl->command->words[0], "dead");
	_cleanup_(json_freep) json_t *reply = NULL;
	const json_t *queue;
	char number[TEXT_SIZE], answer[16];
	int status;

	status = ctl_ask(link, json_pack("{s:s}", "command", "status"), &reply);
	if (status != CTL_OK)
		return status;
	queue = json_object_get(reply, "queue");
	fprintf(stderr, "Throw away all %s %s? They are lost for good. [y/N] ",
		text_number(number, count_member(queue, dead ? "dead_letters" : "messages")),
		dead ? "dead letters" : "messages of the queue");
	fflush(stderr);
	if (!fgets(answer, sizeof(answer), stdin)) {
		fputc('\n', stderr);
		return ctl_fail(0, "nothing was thrown away");
	}
	if (streq(answer, "y\n") || streq(answer, "Y\n") || strcasecmp(answer, "yes\n") == 0)
		return -1;
	return ctl_fail(0, "nothing was thrown away");
}

int ctl_purge(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "topic", required_argument, NULL, OPTION_TOPIC },
		{ "yes", no_argument, NULL, OPTION_YES },
		{ "json", no_argument, NULL, OPTION_JSON },
		CTL_HELP_OPTION,
		{ 0 },
	};
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	struct purge p = { 0 };
	bool everything;
	int status;

	status = parse(ctl, argc, argv, options, streq(ctl->command->words[0], "dead"), &p);
	if (status >= 0)
		return status;
	everything = !p.topic && !p.has_seq && !p.yes;
	if (everything && !(isatty(STDIN_FILENO) && isatty(STDERR_FILENO)))
		return ctl_usage(ctl,
			"throws everything away, and there is no terminal to ask at: --yes if that "
			"is meant, or --topic FILTER");
	status = ctl_link_open(&link, ctl);
	if (status == CTL_OK && everything)
		status = confirm(ctl, &link);
	return status > 0 ? status : carry_out(ctl, &link, &p, "thrown away");
}

int ctl_requeue(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "topic", required_argument, NULL, OPTION_TOPIC },
		{ "json", no_argument, NULL, OPTION_JSON },
		CTL_HELP_OPTION,
		{ 0 },
	};
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	struct purge p = { 0 };
	int status;

	status = parse(ctl, argc, argv, options, true, &p);
	if (status >= 0)
		return status;
	status = ctl_link_open(&link, ctl);
	return status == CTL_OK ? carry_out(ctl, &link, &p, "back in the queue") : status;
}

int ctl_reconnect(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = { CTL_HELP_OPTION, { 0 } };
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	_cleanup_(json_freep) json_t *reply = NULL;
	int c, status;

	c = ctl_option(ctl, argc, argv, "", options);
	if (c >= 0)
		return ctl_option_status(c);
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	status = ctl_link_open(&link, ctl);
	if (status == CTL_OK)
		status = ctl_ask(&link, json_pack("{s:s}", "command", "reconnect"), &reply);
	return status;
}
