/* SPDX-License-Identifier: MIT */
/*
 * `pub`: hands messages to the gateway by its socket for local programs, and waits until each is on
 * disk.
 *
 * Lines of -l are pipelined: what is written, read from standard input, and answered go on beside
 * each other. Each line carries its number as id, so that it is answered. Nothing is sent twice: a
 * line without an answer is told, and whoever called decides.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#include "base64.h"
#include "ctl.h"
#include "text.h"

/* More than the gateway may be told to take in one message (64 MiB), by a bit. */
#define MAX_PAYLOAD (65U * 1024 * 1024)
/* So much is made ready to be sent before more is read. */
#define OUT_ENOUGH (256U * 1024)
#define CHUNK	   (64U * 1024)

enum source {
	SOURCE_NONE,
	SOURCE_TEXT,
	SOURCE_FILE,
	SOURCE_LINES,
	SOURCE_STDIN,
	SOURCE_EMPTY,
};

struct bytes {
	char *data;
	size_t len, size;
};

struct pub {
	const char *topic;
	const char *value; /* of -m or -f */
	enum source source;
	int qos; /* -1: the gateway's default */
	bool retain;
	char *path;
	struct client *client;
	struct bytes in; /* of standard input, not yet sent: less than a line */
	struct bytes out; /* made ready; `sent` of it are gone */
	size_t sent;
	uint64_t asked, answered, refused; /* messages */
	bool in_ended;
	bool failed; /* what was told ends it */
};

static int bytes_add(struct bytes *b, const char *data, size_t len)
{
	if (len == 0)
		return 0;
	if (b->size - b->len < len) {
		size_t size = b->len + len > b->size * 2 ? b->len + len : b->size * 2;
		char *grown = realloc(b->data, size);

		if (!grown)
			return -ENOMEM;
		b->data = grown;
		b->size = size;
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return 0;
}

/* --- a message as a line --------------------------------------------------------------------- */

static json_t *base64_of(const char *data, size_t len)
{
	size_t n = base64_encoded_len(len);
	_cleanup_(freep) char *text = malloc(n + 1);

	if (!text)
		return NULL;
	base64_encode(data, len, text);
	return json_stringn_nocheck(text, n);
}

static int append_line(const char *text, size_t len, void *userdata)
{
	return bytes_add(userdata, text, len) < 0 ? -1 : 0;
}

/* Makes it ready. 0 or -ENOMEM. */
static int add_message(struct pub *p, const char *payload, size_t len)
{
	_cleanup_(json_freep) json_t *message = json_object();
	json_t *text = json_stringn(payload, len); /* NULL: no UTF-8 */
	int r;

	r = json_object_set_new(message, "id", json_integer((json_int_t)p->asked + 1));
	r |= json_object_set_new(message, "topic", json_string(p->topic));
	if (p->qos >= 0)
		r |= json_object_set_new(message, "qos", json_integer(p->qos));
	if (p->retain)
		r |= json_object_set_new(message, "retain", json_true());
	if (text)
		r |= json_object_set_new(message, "payload", text);
	else
		r |= json_object_set_new(message, "payload_base64", base64_of(payload, len));
	if (r < 0 || json_dump_callback(message, append_line, &p->out, JSON_COMPACT) < 0)
		return -ENOMEM;
	p->asked++;
	return bytes_add(&p->out, "\n", 1);
}

/* --- answers --------------------------------------------------------------------------------- */

/* "line 17: ", where there are lines. */
static void say_refused(const struct pub *p, uint64_t number, const json_t *reply)
{
	char what[48] = "";

	if (p->source == SOURCE_LINES && number > 0)
		snprintf(what, sizeof(what), "line %llu: ", (unsigned long long)number);
	ctl_refused(what, reply);
}

/* It stops, or there are too many: no answer to a line, and the end follows. */
static bool is_of_connection(const json_t *reply)
{
	const char *error = text_member(reply, "error");

	return json_is_null(json_object_get(reply, "id")) &&
		(streq(error, "stopping") || streq(error, "too-many-clients"));
}

/* Answers come in the order of the lines. */
static void take_reply(struct pub *p, const char *line, size_t len)
{
	_cleanup_(json_freep) json_t *reply = json_loadb(line, len, JSON_ALLOW_NUL, NULL);
	const char *status = text_member(reply, "status");

	if (!streq(status, "queued") && !streq(status, "error")) {
		ctl_unreachable(-EBADMSG, p->path);
		p->failed = true;
	} else if (is_of_connection(reply)) {
		/* All that we have is on disk: the end is none of our business. */
		if (p->in_ended && p->answered == p->asked)
			return;
		say_refused(p, 0, reply);
		p->refused++;
	} else {
		p->answered++;
		if (streq(status, "queued"))
			return;
		p->refused++;
		say_refused(p, p->answered, reply);
	}
}

/* What has come. 0, or as client_line(). */
static int take_replies(struct pub *p)
{
	size_t len;
	char *line;
	int r;

	do {
		r = client_line(p->client, &line, &len, 0);
		if (r == 0)
			take_reply(p, line, len);
	} while (r == 0 && !p->failed);
	return r == -ETIMEDOUT ? 0 : r;
}

/* --- standard input -------------------------------------------------------------------------- */

/* Makes messages of the whole lines that are there; at the end, of what is left. */
static int take_lines(struct pub *p)
{
	size_t begin = 0;
	char *newline;
	int r = 0;

	if (p->in.len == 0)
		return 0;
	while (r == 0 && (newline = memchr(p->in.data + begin, '\n', p->in.len - begin))) {
		r = add_message(p, p->in.data + begin, (size_t)(newline - p->in.data) - begin);
		begin = (size_t)(newline - p->in.data) + 1;
	}
	if (r == 0 && p->in_ended && begin < p->in.len) {
		r = add_message(p, p->in.data + begin, p->in.len - begin);
		begin = p->in.len;
	}
	p->in.len -= begin;
	memmove(p->in.data, p->in.data + begin, p->in.len);
	return r;
}

/* More of it. 0; the exit status after it was told. */
static int read_lines(struct pub *p)
{
	static const size_t most = MAX_PAYLOAD;
	char chunk[CHUNK];
	ssize_t n = read(STDIN_FILENO, chunk, sizeof(chunk));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0)
		return ctl_fail(0, "standard input: %s", strerror(errno));
	p->in_ended = n == 0;
	if (p->in.len + (size_t)n > most && !memchr(chunk, '\n', (size_t)n))
		return ctl_fail(0, "line %llu: longer than any message may be",
			(unsigned long long)p->asked + 1);
	if (bytes_add(&p->in, chunk, (size_t)n) < 0 || take_lines(p) < 0)
		return ctl_fail(0, "no memory");
	return 0;
}

/* --- back and forth -------------------------------------------------------------------------- */

static int send_ready(struct pub *p)
{
	ssize_t n;

	if (p->sent == p->out.len)
		return 0;
	n = client_send_some(p->client, p->out.data + p->sent, p->out.len - p->sent);
	if (n < 0)
		return (int)n;
	p->sent += (size_t)n;
	if (p->sent > 0 && (p->sent == p->out.len || p->sent > OUT_ENOUGH)) {
		p->out.len -= p->sent;
		memmove(p->out.data, p->out.data + p->sent, p->out.len);
		p->sent = 0;
	}
	return 0;
}

/* The connection is gone before all was answered. */
static int tell_end(struct pub *p, int error)
{
	/* What the gateway had to say before it hung up. */
	if (error == -EPIPE && take_replies(p) == 0 && p->failed)
		return CTL_FAILED;
	if (p->answered == p->asked && p->in_ended)
		return p->refused > 0 ? CTL_FAILED : CTL_OK;
	if (p->refused == 0)
		return ctl_unreachable(error, p->path);
	if (p->source == SOURCE_LINES)
		ctl_fail(0, "not accepted from line %llu on", (unsigned long long)p->answered + 1);
	return CTL_FAILED;
}

/*
 * Waits until something can be done. 0; -ETIMEDOUT: the gateway hangs. Somebody who types may take
 * any time.
 */
static int wait_for_work(struct pub *p, bool reads)
{
	bool owed = p->answered < p->asked;
	struct pollfd fds[] = {
		{ .fd = client_fd(p->client),
			.events = (short)(POLLIN | (p->out.len > 0 ? POLLOUT : 0)) },
		{ .fd = reads ? STDIN_FILENO : -1, .events = POLLIN },
	};
	int r;

	r = poll(fds, ARRAY_SIZE(fds), owed ? (int)(CLIENT_PATIENCE_USEC / 2 / USEC_PER_MSEC) : -1);
	if (r < 0)
		return errno == EINTR ? 0 : -errno;
	/* A commit may be put off for longer than that; see queue.commit_delay. */
	if (r == 0)
		return client_probe(p->path);
	if (fds[1].revents)
		return read_lines(p) == 0 ? 0 : -ECANCELED;
	return 0;
}

/* Until everything is answered. The exit status. */
static int converse(struct pub *p)
{
	int r = 0;

	while (!p->in_ended || p->answered < p->asked) {
		bool reads = !p->in_ended && p->out.len - p->sent < OUT_ENOUGH;

		r = send_ready(p);
		if (r == 0)
			r = take_replies(p);
		if (r == 0 && !p->failed && (!p->in_ended || p->answered < p->asked))
			r = wait_for_work(p, reads);
		if (r == -ECANCELED || p->failed)
			return CTL_FAILED;
		if (r < 0)
			return tell_end(p, r);
	}
	return p->refused > 0 ? CTL_FAILED : CTL_OK;
}

/* --- one message ----------------------------------------------------------------------------- */

/* All of a file, `fd` -1: it could not be opened. 0, or the exit status after it was told. */
static int read_all(int fd, const char *name, struct bytes *b)
{
	char chunk[CHUNK];
	ssize_t n = fd < 0 ? -1 : 1;
	int r = 0;

	while (n > 0 && r == 0 && b->len <= MAX_PAYLOAD) {
		n = read(fd, chunk, sizeof(chunk));
		if (n > 0)
			r = bytes_add(b, chunk, (size_t)n);
		else if (n < 0 && errno == EINTR)
			n = 1;
	}
	if (n < 0)
		return ctl_fail(0, "%s: %s", name, strerror(errno));
	if (r < 0)
		return ctl_fail(0, "no memory");
	if (b->len > MAX_PAYLOAD)
		return ctl_fail(0, "%s: larger than any message may be", name);
	return 0;
}

static int prepare(struct pub *p)
{
	_cleanup_(closep) int fd = -1;
	int status = 0, r;

	if (p->source == SOURCE_LINES)
		return 0;
	p->in_ended = true;
	if (p->source == SOURCE_FILE) {
		fd = open(p->value, O_RDONLY | O_CLOEXEC);
		status = read_all(fd, p->value, &p->in);
	} else if (p->source == SOURCE_STDIN) {
		status = read_all(STDIN_FILENO, "standard input", &p->in);
	}
	if (status != 0)
		return status;
	if (p->source == SOURCE_TEXT)
		r = add_message(p, p->value, strlen(p->value));
	else
		r = add_message(p, p->in.len ? p->in.data : "", p->in.len);
	return r < 0 ? ctl_fail(0, "no memory") : 0;
}

static int publish(const struct ctl *ctl, struct pub *p)
{
	int r;

	r = prepare(p);
	if (r == 0)
		r = ctl_local_path(ctl, &p->path);
	if (r != 0)
		return r;
	r = client_new(&p->client, p->path, now_usec() + CLIENT_PATIENCE_USEC);
	if (r == -EACCES) {
		ctl_fail(0,
			"no permission to use %s; run it as root or as a member of the socket's "
			"group",
			p->path);
		return CTL_FAILED;
	}
	return r < 0 ? ctl_unreachable(r, p->path) : converse(p);
}

/* --- the command line ------------------------------------------------------------------------ */

static const struct option options[] = {
	{ "topic", required_argument, NULL, 't' },
	{ "message", required_argument, NULL, 'm' },
	{ "file", required_argument, NULL, 'f' },
	{ "stdin-line", no_argument, NULL, 'l' },
	{ "stdin-file", no_argument, NULL, 's' },
	{ "null-message", no_argument, NULL, 'n' },
	{ "qos", required_argument, NULL, 'q' },
	{ "retain", no_argument, NULL, 'r' },
	CTL_HELP_OPTION,
	{ 0 },
};

/* False: there is one already. */
static bool choose(struct pub *p, enum source source)
{
	if (p->source != SOURCE_NONE)
		return false;
	p->source = source;
	p->value = optarg;
	return true;
}

/* -1: go on; else the exit status. */
static int parse(const struct ctl *ctl, int argc, char **argv, struct pub *p)
{
	bool one = true;
	int c;

	while ((c = ctl_option(ctl, argc, argv, "t:m:f:lsnq:r", options)) >= 0) {
		switch (c) {
		case 't': p->topic = optarg; break;
		case 'm': one &= choose(p, SOURCE_TEXT); break;
		case 'f': one &= choose(p, SOURCE_FILE); break;
		case 'l': one &= choose(p, SOURCE_LINES); break;
		case 's': one &= choose(p, SOURCE_STDIN); break;
		case 'n': one &= choose(p, SOURCE_EMPTY); break;
		case 'r': p->retain = true; break;
		case 'q':
			if (strlen(optarg) != 1 || *optarg < '0' || *optarg > '2')
				return ctl_usage(ctl, "-q %s: not 0, 1 or 2", optarg);
			p->qos = *optarg - '0';
			break;
		default: return ctl_option_status(c);
		}
	}
	if (optind < argc)
		return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
	if (!p->topic)
		return ctl_usage(ctl, "where to? -t TOPIC");
	if (!one || p->source == SOURCE_NONE)
		return ctl_usage(ctl, "one of -m, -f, -l, -s and -n, please");
	return -1;
}

int ctl_pub(const struct ctl *ctl, int argc, char **argv)
{
	struct pub p = { .qos = -1 };
	int status;

	status = parse(ctl, argc, argv, &p);
	if (status < 0) {
		json_t *topic = json_string(p.topic);

		status = topic ? publish(ctl, &p) : ctl_usage(ctl, "the topic is not UTF-8");
		json_decref(topic);
	}
	client_free(p.client);
	free(p.path);
	free(p.in.data);
	free(p.out.data);
	return status;
}
