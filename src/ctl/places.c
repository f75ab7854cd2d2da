/* SPDX-License-Identifier: MIT */
/*
 * Owns the way to the gateway: which socket, and what is said when it does not answer.
 */
#include <errno.h>
#include <stdio.h>

#include "config.h"
#include "ctl.h"
#include "text.h"

/* --- which socket ---------------------------------------------------------------------------- */

/* Has every default. */
#define NO_CONFIGURATION "/dev/null"

/*
 * The configuration as far as it can be read. One that was named must be; the default one may be
 * the gateway's secret, or faulty, and then the sockets are taken to be where they are by default.
 */
static int load(const struct ctl *ctl, struct config **ret)
{
	const char *path = ctl->config_path ? ctl->config_path : CONFIG_DEFAULT_PATH;
	int r;

	if (ctl->config_path && access(path, R_OK) < 0) {
		r = -errno;
		return ctl_fail(r, "%s cannot be read: %s", path, strerror(-r));
	}
	r = config_load_places(ret, path);
	if (r == -EINVAL && ctl->config_path)
		return ctl_fail(0,
			"%s is no configuration; \"mqtt-gatewayd --check-config -c %s\" says why",
			path, path);
	if (r == -EINVAL)
		r = config_load_places(ret, NO_CONFIGURATION);
	return r < 0 ? ctl_fail(0, "no memory") : CTL_OK;
}

static int copy(char **ret, const char *path)
{
	*ret = strdup(path);
	return *ret ? CTL_OK : ctl_fail(0, "no memory");
}

int ctl_control_path(const struct ctl *ctl, char **ret_path)
{
	struct config *config = NULL;
	int status;

	if (ctl->control_path)
		return copy(ret_path, ctl->control_path);
	status = load(ctl, &config);
	if (status == CTL_OK)
		status = copy(ret_path, config->control.path);
	config_free(config);
	return status;
}

/* What the gateway behind that control socket says itself. */
static int ask_local_path(const struct ctl *ctl, char **ret_path)
{
	_cleanup_(ctl_link_done) struct ctl_link link = { 0 };
	_cleanup_(json_freep) json_t *reply = NULL;
	int status;

	status = ctl_link_open(&link, ctl);
	if (status == CTL_OK)
		status = ctl_ask(&link, json_pack("{s:s}", "command", "status"), &reply);
	if (status != CTL_OK)
		return status;
	return copy(ret_path, text_member(reply, "socket"));
}

int ctl_local_path(const struct ctl *ctl, char **ret_path)
{
	struct config *config = NULL;
	int status;

	if (ctl->control_path)
		return ask_local_path(ctl, ret_path);
	status = load(ctl, &config);
	if (status == CTL_OK)
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the status is good. */
		status = copy(ret_path, config->socket.path);
	config_free(config);
	return status;
}

/* --- when it does not answer ----------------------------------------------------------------- */

void ctl_unreachable_text(int error, const char *path, char *out, size_t size)
{
	switch (error) {
	case -ENOENT:
		snprintf(out, size, "the gateway does not run: there is no socket %s", path);
		break;
	case -ECONNREFUSED:
		snprintf(out, size, "the gateway does not run: nobody listens at %s", path);
		break;
	case -ETIMEDOUT:
		snprintf(out, size, "the gateway hangs: no answer at %s for %u seconds", path,
			(unsigned)(CLIENT_PATIENCE_USEC / USEC_PER_SEC));
		break;
	case -EPIPE:
		snprintf(out, size, "the gateway has closed the connection at %s", path);
		break;
	case -EACCES:
	case -EPERM: snprintf(out, size, "no permission to use %s", path); break;
	case -EBADMSG:
	case -EMSGSIZE: snprintf(out, size, "what answers at %s is not the gateway", path); break;
	default: snprintf(out, size, "%s: %s", path, strerror(-error)); break;
	}
}

int ctl_unreachable(int error, const char *path)
{
	char text[256];

	ctl_unreachable_text(error, path, text, sizeof(text));
	ctl_fail(error == -EPERM ? -EACCES : error, "%s", text);
	return error == -EACCES || error == -EPERM ? CTL_FAILED : CTL_UNREACHABLE;
}

int ctl_refused(const char *what, const json_t *reply)
{
	const char *error = text_member(reply, "error"), *message = text_member(reply, "message");
	char text[512], word[64];

	text_safe(text, sizeof(text), message, strlen(message));
	text_safe(word, sizeof(word), error, strlen(error));
	return ctl_fail(0, "%s%s (%s)", what, *text ? text : "refused", *word ? word : "no reason");
}

/* --- a connection ---------------------------------------------------------------------------- */

int ctl_link_open(struct ctl_link *link, const struct ctl *ctl)
{
	int r;

	r = ctl_control_path(ctl, &link->path);
	if (r != CTL_OK)
		return r;
	r = client_new(&link->client, link->path, now_usec() + CLIENT_PATIENCE_USEC);
	return r < 0 ? ctl_unreachable(r, link->path) : CTL_OK;
}

void ctl_link_done(struct ctl_link *link)
{
	link->client = client_free(link->client);
	free(link->path);
	link->path = NULL;
}

int ctl_ask(struct ctl_link *link, json_t *request, json_t **ret)
{
	json_t *reply;
	int r = 0;

	if (request)
		r = client_request(link->client, request);
	/* Who is turned away is told so before the end. */
	if (r == 0 || r == -EPIPE)
		r = client_reply(link->client, &reply);
	if (r < 0)
		return ctl_unreachable(r, link->path);
	if (streq(text_member(reply, "status"), "error")) {
		ctl_refused("", reply);
		json_decref(reply);
		return CTL_FAILED;
	}
	*ret = reply;
	return CTL_OK;
}
