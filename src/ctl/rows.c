/* SPDX-License-Identifier: MIT */
/*
 * `queue` and `dead`: list, show, export. Rows are printed as they come, one at a time: a queue of
 * a million messages takes no more memory than one of ten.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base64.h"
#include "ctl.h"
#include "page.h"

/* What the options of all of them say. */
struct choice {
	const char *topic; /* NULL: any */
	json_int_t limit; /* 0: none */
	json_int_t after;
	bool has_after;
	bool json;
	bool raw;
};

enum {
	OPTION_TOPIC = 256,
	OPTION_RAW,
	OPTION_LIMIT,
	OPTION_AFTER,
	OPTION_JSON,
};

/* -1: go on, arguments begin at `optind`; else the exit status. */
static int parse_choice(const struct ctl *ctl, int argc, char **argv, const struct option *options,
	struct choice *choice)
{
	int c;

	while ((c = ctl_option(ctl, argc, argv, "", options)) >= 0) {
		switch (c) {
		case OPTION_TOPIC: choice->topic = optarg; break;
		case OPTION_JSON: choice->json = true; break;
		case OPTION_RAW: choice->raw = true; break;
		case OPTION_LIMIT:
			if (!text_parse_number(optarg, 1, &choice->limit))
				return ctl_usage(ctl, "--limit %s: not a number above 0", optarg);
			break;
		case OPTION_AFTER:
			if (!text_parse_number(optarg, 0, &choice->after))
				return ctl_usage(ctl, "--after %s: not an id", optarg);
			choice->has_after = true;
			break;
		default: return ctl_option_status(c);
		}
	}
	return -1;
}

/* {"command":"queue-list","topic":...}; NULL: no memory, or a topic that is no text. */
static json_t *request_for(const struct ctl *ctl, const char *verb, const struct choice *choice)
{
	json_t *request = json_pack("{s:s++}", "command", ctl->command->words[0], "-", verb);
	int r = request ? 0 : -1;

	if (r == 0 && choice->topic)
		r = json_object_set_new(request, "topic", json_string(choice->topic));
	if (r == 0 && choice->limit)
		r = json_object_set_new(request, "limit", json_integer(choice->limit));
	if (r == 0 && choice->has_after)
		r = json_object_set_new(request, "after", json_integer(choice->after));
	if (r == 0)
		return request;
	json_decref(request);
	return NULL;
}

/*
 * Asks, and calls `row` for each that comes. The exit status. `request` NULL: it could not be made.
 */
static int for_each_row(const struct ctl *ctl, json_t *request,
	void (*row)(void *userdata, const json_t *row), void *userdata)
{
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	json_t *reply;
	int status;

	if (!request)
		return ctl_usage(ctl, "the topic is not UTF-8");
	status = ctl_link_open(&link, ctl);
	if (status != CTL_OK) {
		json_decref(request);
		return status;
	}
	for (;;) {
		bool is_row;

		status = ctl_ask(&link, request, &reply);
		if (status != CTL_OK)
			return status;
		request = NULL;
		is_row = streq(text_member(reply, "status"), "row");
		if (is_row)
			row(userdata, reply);
		json_decref(reply);
		/* Nobody reads any more: the disk is full, say. main() tells. */
		if (!is_row || ferror(stdout))
			return CTL_OK;
	}
}

/* --- list ------------------------------------------------------------------------------------ */

struct list {
	struct page page;
	bool dead;
	bool json;
	bool any;
};

static void print_head(struct list *l)
{
	page_put(&l->page, PAGE_BOLD, "%10s  %-19s  %-5s  %9s  %s%-28s  %s", "ID", "TIME", "QOS",
		"SIZE", l->dead ? "REASON                    " : "", "TOPIC", "PAYLOAD");
	page_end_line(&l->page);
}

static void print_row(void *userdata, const json_t *row)
{
	struct list *l = userdata;
	const json_t *payload = json_object_get(row, "payload");
	char time[TEXT_SIZE], bytes[TEXT_SIZE];
	unsigned column;

	if (l->json) {
		text_put_reply(row);
		return;
	}
	if (!l->any)
		print_head(l);
	l->any = true;
	page_put(&l->page, PAGE_PLAIN, "%10llu  %-19s  %llu%-4s  %9s  ",
		(unsigned long long)count_member(row, "seq"),
		text_time(time, time_member(row, "timestamp"), false),
		(unsigned long long)count_member(row, "qos"),
		json_is_true(json_object_get(row, "retain")) ? " ret" : "",
		text_bytes(bytes, count_member(row, "bytes")));
	if (l->dead) {
		column = l->page.column;
		page_put(&l->page, PAGE_YELLOW, "%s", text_member(row, "reason"));
		page_put(&l->page, PAGE_PLAIN, "  ");
		page_tab(&l->page, column + 26);
	}
	column = l->page.column;
	page_put_bytes(&l->page, PAGE_CYAN, text_member(row, "topic"),
		json_string_length(json_object_get(row, "topic")));
	page_put(&l->page, PAGE_PLAIN, "  ");
	page_tab(&l->page, column + 30);
	if (json_is_string(payload))
		page_put_bytes(&l->page, PAGE_PLAIN, json_string_value(payload),
			json_string_length(payload));
	else if (count_member(row, "bytes") > 0)
		page_put(&l->page, PAGE_DIM, "(binary)");
	page_end_line(&l->page);
	/* A row is seen when it comes; the page as a whole has no end. */
	page_done(&l->page);
}

int ctl_list(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "topic", required_argument, NULL, OPTION_TOPIC },
		{ "limit", required_argument, NULL, OPTION_LIMIT },
		{ "after", required_argument, NULL, OPTION_AFTER },
		{ "json", no_argument, NULL, OPTION_JSON },
		CTL_HELP_OPTION,
		{ 0 },
	};
	struct list l = { .page = page_of(stdout) };
	struct choice choice = { 0 };
	unsigned rows;
	int status;

	status = parse_choice(ctl, argc, argv, options, &choice);
	if (status >= 0)
		return status;
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	if (page_is_terminal(stdout))
		page_get_size(&l.page.columns, &rows);
	l.json = choice.json;
	l.dead = streq(ctl->command->words[0], "dead");
	return for_each_row(ctl, request_for(ctl, "list", &choice), print_row, &l);
}

/* --- export ---------------------------------------------------------------------------------- */

static void print_line(void *userdata, const json_t *row)
{
	(void)userdata;
	text_put_json(json_object_get(row, "line"));
}

int ctl_export(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "topic", required_argument, NULL, OPTION_TOPIC },
		{ "limit", required_argument, NULL, OPTION_LIMIT },
		{ "after", required_argument, NULL, OPTION_AFTER },
		CTL_HELP_OPTION,
		{ 0 },
	};
	struct choice choice = { 0 };
	int status;

	status = parse_choice(ctl, argc, argv, options, &choice);
	if (status >= 0)
		return status;
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	return for_each_row(ctl, request_for(ctl, "export", &choice), print_line, NULL);
}

/* --- show ------------------------------------------------------------------------------------ */

static void print_field(struct page *p, const char *name, const char *format, ...) _printf_(3, 4);
static void print_field(struct page *p, const char *name, const char *format, ...)
{
	_cleanup_(freep) char *text = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&text, format, ap) < 0)
		text = NULL;
	va_end(ap);
	page_put(p, PAGE_BOLD, "%s", name);
	page_tab(p, 11);
	page_put(p, PAGE_PLAIN, "%s", text ? text : "");
	page_end_line(p);
}

static void print_fields(struct page *p, const json_t *row)
{
	char time[TEXT_SIZE], bytes[TEXT_SIZE];

	print_field(p, "id", "%llu", (unsigned long long)count_member(row, "seq"));
	print_field(p, "topic", "%s", text_member(row, "topic"));
	print_field(p, "qos", "%llu", (unsigned long long)count_member(row, "qos"));
	print_field(p, "retain", "%s", json_is_true(json_object_get(row, "retain")) ? "yes" : "no");
	print_field(p, "time", "%s", text_time(time, time_member(row, "timestamp"), true));
	if (has_number(row, "died_at"))
		print_field(p, "died", "%s", text_time(time, time_member(row, "died_at"), true));
	if (*text_member(row, "reason"))
		print_field(p, "reason", "%s", text_member(row, "reason"));
	print_field(p, "size", "%s", text_bytes(bytes, count_member(row, "bytes")));
}

/* The payload's bytes, to be freed. NULL: no memory, or not what was agreed. */
static char *payload_of(const json_t *row, size_t *ret_len)
{
	const json_t *text = json_object_get(row, "payload");
	const json_t *base64 = json_object_get(row, "payload_base64");
	size_t len = json_string_length(text ? text : base64), n = len;
	char *payload = malloc(len + 1);

	if (!payload)
		return NULL;
	if (json_is_string(text)) {
		memcpy(payload, json_string_value(text), len);
	} else if (!json_is_string(base64)) {
		n = 0;
	} else if (base64_decode(json_string_value(base64), len, payload, &n) < 0) {
		free(payload);
		return NULL;
	}
	*ret_len = n;
	return payload;
}

/* Text for a person: line by line, each made safe. */
static void print_payload(struct page *p, const char *s, size_t len)
{
	page_put(p, PAGE_BOLD, "payload");
	page_end_line(p);
	while (len > 0) {
		const char *newline = memchr(s, '\n', len);
		size_t n = newline ? (size_t)(newline - s) : len;

		page_put_bytes(p, PAGE_PLAIN, s, n);
		page_end_line(p);
		n += newline != NULL;
		s += n;
		len -= n;
	}
}

static int print_message(const json_t *row, bool raw)
{
	struct page page = page_of(stdout);
	_cleanup_(freep) char *payload = NULL;
	size_t len = 0;

	payload = payload_of(row, &len);
	if (!payload)
		return ctl_fail(0, "the gateway's answer cannot be understood");
	if (raw) {
		fwrite(payload, 1, len, stdout);
		return CTL_OK;
	}
	print_fields(&page, row);
	print_payload(&page, payload, len);
	page_done(&page);
	return CTL_OK;
}

int ctl_show(const struct ctl *ctl, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "raw", no_argument, NULL, OPTION_RAW },
		CTL_HELP_OPTION,
		{ 0 },
	};
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	_cleanup_(json_freep) json_t *row = NULL;
	struct choice choice = { 0 };
	json_int_t seq;
	int status;

	status = parse_choice(ctl, argc, argv, options, &choice);
	if (status >= 0)
		return status;
	if (choice.json && choice.raw)
		return ctl_usage(ctl, "--json and --raw: one of the two");
	if (optind + 1 != argc)
		return ctl_usage(ctl, "%s", optind < argc ? "one id, please" : "which id?");
	if (!text_parse_number(argv[optind], 0, &seq))
		return ctl_usage(ctl, "\"%s\" is no id; \"mqttgwctl %s list\" shows them",
			argv[optind], ctl->command->words[0]);
	status = ctl_link_open(&link, ctl);
	if (status == CTL_OK)
		status = ctl_ask(&link,
			json_pack("{s:s++,s:I}", "command", ctl->command->words[0], "-", "show",
				"seq", seq),
			&row);
	if (status != CTL_OK)
		return status;
	if (!choice.json)
		return print_message(row, choice.raw);
	text_put_reply(row);
	return CTL_OK;
}
