/* SPDX-License-Identifier: MIT */
/*
 * Owns the way from a file to a struct config: libconfig parses, the table of keys checks and
 * stores each value, then come the checks between keys and what is found out from the machine. The
 * only user of libconfig.
 *
 * Invariants: a fault never stops the search for more; a configuration is handed out only when
 * there was no fault. Must not know what a value is for.
 */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/stat.h>

#include <libconfig.h>
#include <systemd/sd-id128.h>

#include "config_keys.h"
#include "config_source.h"
#include "log.h"

#define MAX_MQTT_STRING UINT16_MAX

/* Ours among the applications that derive an id from the machine's. */
#define APPLICATION_ID SD_ID128_MAKE(bd, 38, 9c, 79, 60, e9, 4e, 02, bf, 8a, aa, 47, 61, cf, 25, 01)

struct loader {
	struct config_source source;
	struct config *c;
	config_t lib;
	bool no_memory;
};

/* --- faults -------------------------------------------------------------------------------- */

/* A fault of this setting; NULL: of the file. The checks between keys then leave it alone. */
#define fault(l, setting, ...)                                                    \
	do {                                                                      \
		config_source_fault(&(l)->source, line_of(setting), __VA_ARGS__); \
		mark_faulty(setting);                                             \
	} while (0)

static unsigned line_of(const config_setting_t *setting)
{
	return setting ? config_setting_source_line(setting) : 0;
}

static void mark_faulty(config_setting_t *setting)
{
	if (setting)
		config_setting_set_hook(setting, setting);
}

static bool is_faulty(const config_setting_t *setting)
{
	return setting && config_setting_get_hook(setting);
}

/* The setting of this name in a group that may be absent, or no group at all. */
static config_setting_t *member(const config_setting_t *group, const char *name)
{
	if (!group || !config_setting_is_group(group))
		return NULL;
	return config_setting_get_member(group, name);
}

/* --- reading by the table ------------------------------------------------------------------ */

static struct config_value value_of(const config_setting_t *setting)
{
	struct config_value v = { .type = CONFIG_NOTHING };

	switch (config_setting_type(setting)) {
	case CONFIG_TYPE_GROUP: v.type = CONFIG_GROUP; break;
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		v.type = CONFIG_INTEGER;
		v.integer = config_setting_get_int64(setting);
		break;
	case CONFIG_TYPE_FLOAT:
		v.type = CONFIG_FLOAT;
		v.number = config_setting_get_float(setting);
		break;
	case CONFIG_TYPE_STRING:
		v.type = CONFIG_STRING;
		v.string = config_setting_get_string(setting);
		break;
	case CONFIG_TYPE_BOOL: v.type = CONFIG_BOOLEAN; break;
	case CONFIG_TYPE_ARRAY: v.type = CONFIG_ARRAY; break;
	case CONFIG_TYPE_LIST: v.type = CONFIG_LIST; break;
	default: break;
	}
	return v;
}

/* "port, host, ..." of a group, or the groups' names. */
static void list_names(const struct config_group *group, char *buf, size_t size)
{
	size_t n = group ? group->n_keys : config_n_groups, used = 0;

	*buf = '\0';
	for (size_t i = 0; i < n && used < size; i++)
		used += (size_t)snprintf(buf + used, size - used, "%s%s", i ? ", " : "",
			group ? group->keys[i].name : config_groups[i].name);
}

/* `path` is what stands before the name: "socket.", or "". */
static void fault_unknown(struct loader *l, config_setting_t *setting,
	const struct config_group *group, const char *path)
{
	const char *name = config_setting_name(setting);
	char text[256];

	if (config_suggest(group, name, text, sizeof(text))) {
		fault(l, setting, "unknown key \"%s%s\"; did you mean \"%s\"?", path, name, text);
		return;
	}
	list_names(group, text, sizeof(text));
	fault(l, setting, "unknown key \"%s%s\"; allowed: %s", path, name, text);
}

static void read_key(struct loader *l, config_setting_t *setting, const struct config_key *key,
	const char *path, void *base)
{
	struct config_value v = value_of(setting);
	char why[512];
	int r;

	r = config_key_set(key, &v, base, why, sizeof(why));
	if (r == -ENOMEM)
		l->no_memory = true;
	else if (r < 0)
		fault(l, setting, "%s%s: %s", path, key->name, why);
	if (key->kind == CONFIG_KIND_SECRET && v.string)
		explicit_bzero(setting->value.sval, strlen(v.string));
}

/* The keys of one group, into `base`. `path` names the group, with the dot. */
static void read_keys(struct loader *l, const config_setting_t *setting,
	const struct config_group *group, const char *path, void *base)
{
	int n = config_setting_length(setting);

	for (int i = 0; i < n; i++) {
		config_setting_t *child = config_setting_get_elem(setting, (unsigned)i);
		const struct config_key *key = config_key_find(group, config_setting_name(child));

		if (key)
			read_key(l, child, key, path, base);
		else
			fault_unknown(l, child, group, path);
	}
}

static void set_defaults(struct loader *l, const struct config_group *group, void *base)
{
	for (size_t i = 0; i < group->n_keys; i++)
		if (config_key_set_default(&group->keys[i], base) < 0)
			l->no_memory = true;
}

static void wipe_broker(struct config_broker *b)
{
	if (b->password)
		explicit_bzero(b->password, strlen(b->password));
	free(b->host);
	free(b->username);
	free(b->password);
	free(b->password_file);
	*b = (struct config_broker){ 0 };
}

/* --- one broker ---------------------------------------------------------------------------- */

/* Where a password file is, to be freed. NULL: a fault was kept. */
static char *password_path(struct loader *l, config_setting_t *setting, const char *name)
{
	const char *folder = getenv("CREDENTIALS_DIRECTORY");
	char *path;

	if (*name == '/') {
		path = strdup(name);
	} else if (!folder || !*folder) {
		fault(l, setting,
			"password_file \"%s\" names a credential, but $CREDENTIALS_DIRECTORY is "
			"not set; allowed: an absolute path, or a name when systemd passes "
			"credentials",
			name);
		return NULL;
	} else if (asprintf(&path, "%s/%s", folder, name) < 0) {
		path = NULL;
	}
	if (!path)
		l->no_memory = true;
	return path;
}

/* Bytes of a password, without the one line end an editor leaves. */
static size_t stripped_length(const char *text, size_t n)
{
	if (n > 0 && text[n - 1] == '\n')
		n--;
	else
		return n;
	return n > 0 && text[n - 1] == '\r' ? n - 1 : n;
}

static void read_password_file(struct loader *l, config_setting_t *setting, struct config_broker *b)
{
	_cleanup_(freep) char *path = password_path(l, setting, b->password_file);
	_cleanup_(freep) char *text = NULL;
	size_t read = 0, n;
	int r;

	if (!path)
		return;
	r = config_slurp(path, true, MAX_MQTT_STRING + 2, &text, &read, NULL);
	if (r < 0 && r != -EFBIG) {
		fault(l, setting, "password_file: cannot read \"%s\": %s", path,
			config_slurp_strerror(r));
		return;
	}
	n = r < 0 ? SIZE_MAX : stripped_length(text, read);
	if (n == 0 || n > MAX_MQTT_STRING) {
		fault(l, setting, "password_file: \"%s\" is too %s; allowed: 1 to 65535 bytes",
			path, n == 0 ? "short" : "long");
	} else if (memchr(text, '\0', n)) {
		fault(l, setting, "password_file: \"%s\" holds a NUL byte; allowed: text", path);
	} else {
		text[n] = '\0';
		l->no_memory |= config_string_set(&b->password, text) < 0;
	}
	if (text)
		explicit_bzero(text, read);
}

/* A password in a file that everybody reads is none. */
static void warn_if_readable(struct loader *l, const config_setting_t *setting)
{
	const struct config_source_file *file = config_source_file_at(&l->source, line_of(setting));

	if (file->mode & S_IROTH)
		log_warning("%s holds a password and is readable by others: chmod o-r, or use "
			    "password_file",
			file->name);
}

static void check_broker(struct loader *l, const config_setting_t *setting, const char *path,
	struct config_broker *b)
{
	config_setting_t *password = member(setting, "password");
	config_setting_t *file = member(setting, "password_file");

	if (*b->password)
		warn_if_readable(l, password);
	if (*b->password && *b->password_file)
		fault(l, file, "%spassword_file: there is a password, too; allowed: one of the two",
			path);
	if ((*b->password || *b->password_file) && !*b->username &&
		!is_faulty(member(setting, "username")))
		fault(l, *b->password ? password : file,
			"%susername is missing; allowed with a password: a user name", path);
	if (*b->password_file && !is_faulty(file))
		read_password_file(l, file, b);
}

/* --- groups -------------------------------------------------------------------------------- */

static void read_broker(struct loader *l, config_setting_t *setting,
	const struct config_group *group, unsigned index)
{
	struct config_broker scratch = { 0 };
	struct config_broker *b = index == 0 ? &l->c->brokers[0] : &scratch;
	char path[32];

	if (!config_setting_is_group(setting)) {
		fault(l, setting, "brokers[%u]: found %s, wanted a group: { host = \"...\"; }",
			index, config_type_to_string(value_of(setting).type));
		return;
	}
	snprintf(path, sizeof(path), "brokers[%u].", index);
	if (index > 0)
		set_defaults(l, group, b);
	if (!l->no_memory)
		read_keys(l, setting, group, path, b);
	if (!l->no_memory)
		check_broker(l, setting, path, b);
	wipe_broker(&scratch);
}

static void read_brokers(
	struct loader *l, config_setting_t *setting, const struct config_group *group)
{
	int n = 0;

	if (!config_setting_is_list(setting) && !config_setting_is_array(setting)) {
		fault(l, setting, "brokers: found %s, wanted a list: ( { host = \"...\"; } )",
			config_type_to_string(value_of(setting).type));
		return;
	}
	n = config_setting_length(setting);
	if (n == 0)
		fault(l, setting,
			"brokers: the list is empty; allowed: one broker, this version "
			"uses one broker");
	for (int i = 0; i < n; i++) {
		config_setting_t *broker = config_setting_get_elem(setting, (unsigned)i);

		if (i == 1)
			fault(l, broker,
				"brokers: found %d; allowed: 1, this version uses one broker", n);
		read_broker(l, broker, group, (unsigned)i);
	}
}

static void read_group(
	struct loader *l, config_setting_t *setting, const struct config_group *group)
{
	char path[32];

	if (group->is_list) {
		read_brokers(l, setting, group);
		return;
	}
	if (!config_setting_is_group(setting)) {
		fault(l, setting, "%s: found %s, wanted a group: { name = value; ... }",
			group->name, config_type_to_string(value_of(setting).type));
		return;
	}
	snprintf(path, sizeof(path), "%s.", group->name);
	read_keys(l, setting, group, path, l->c);
}

static void read_root(struct loader *l)
{
	const config_setting_t *root = config_root_setting(&l->lib);
	int n = config_setting_length(root);

	for (int i = 0; i < n && !l->no_memory; i++) {
		config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
		const struct config_group *group = NULL;

		for (size_t g = 0; g < config_n_groups && !group; g++)
			if (streq(config_setting_name(setting), config_groups[g].name))
				group = &config_groups[g];
		if (group)
			read_group(l, setting, group);
		else
			fault_unknown(l, setting, NULL, "");
	}
}

/* --- between keys -------------------------------------------------------------------------- */

/* The setting to blame when two do not fit: the first one given. NULL: both are good or absent. */
static config_setting_t *blame(const config_setting_t *group, const char *first, const char *second)
{
	config_setting_t *a = member(group, first), *b = member(group, second);

	if (is_faulty(a) || is_faulty(b))
		return NULL;
	return a ? a : b;
}

static void check_order(struct loader *l)
{
	const config_setting_t *root = config_root_setting(&l->lib);
	const struct config *c = l->c;
	config_setting_t *setting;
	char least[32], found[32];

	setting = blame(member(root, "socket"), "max_buffered_bytes", "max_message_bytes");
	if (setting && c->socket.max_buffered_bytes < c->socket.max_message_bytes) {
		config_size_to_string(c->socket.max_message_bytes, least, sizeof(least));
		config_size_to_string(c->socket.max_buffered_bytes, found, sizeof(found));
		fault(l, setting,
			"socket.max_buffered_bytes: %s is less than max_message_bytes; allowed: %s "
			"or more",
			found, least);
	}
	setting = blame(member(root, "retry"), "max", "base");
	if (setting && c->retry.backoff.max_usec < c->retry.backoff.base_usec)
		fault(l, setting,
			"retry.max: %g seconds is less than retry.base; allowed: %g seconds or "
			"more",
			(double)c->retry.backoff.max_usec / (double)USEC_PER_SEC,
			(double)c->retry.backoff.base_usec / (double)USEC_PER_SEC);
}

/* --- from the machine ---------------------------------------------------------------------- */

static void derive_id(struct loader *l)
{
	config_setting_t *group = member(config_root_setting(&l->lib), "gateway");
	config_setting_t *setting = member(group, "id");
	char text[SD_ID128_STRING_MAX];
	sd_id128_t id;
	int r;

	if (*l->c->gateway.id || is_faulty(group) || is_faulty(setting))
		return;
	r = sd_id128_get_machine_app_specific(APPLICATION_ID, &id);
	if (r < 0) {
		fault(l, setting ? setting : group,
			"gateway.id: cannot be derived from /etc/machine-id: %s; allowed: an id of "
			"your own, set gateway.id",
			strerror(-r));
		return;
	}
	/* "mqttgw-" and these are 23 bytes: what every MQTT 3.1.1 broker takes as a client id. */
	sd_id128_to_string(id, text);
	text[16] = '\0';
	l->no_memory |= config_string_set(&l->c->gateway.id, text) < 0;
}

static int host_name(char *buf, size_t size)
{
	if (gethostname(buf, size) < 0)
		return -errno;
	buf[size - 1] = '\0';
	return *buf ? 0 : -ENOENT;
}

/* Puts `s` behind what is there; what does not fit makes it longer than any client id. */
static void append(char *buf, size_t size, const char *s, size_t n)
{
	size_t used = strlen(buf);

	n = size_min(n, size - 1 - used);
	memcpy(buf + used, s, n);
	buf[used + n] = '\0';
}

/* Fills %i, %h and %% into `buf`. False: there is another %. */
static bool fill_in(const char *template, const char *id, const char *host, char *buf, size_t size)
{
	const char *p = template;

	*buf = '\0';
	for (;;) {
		size_t n = strcspn(p, "%");

		append(buf, size, p, n);
		p += n;
		if (!*p)
			return true;
		if (p[1] == 'i')
			append(buf, size, id, strlen(id));
		else if (p[1] == 'h')
			append(buf, size, host, strlen(host));
		else if (p[1] == '%')
			append(buf, size, "%", 1);
		else
			return false;
		p += 2;
	}
}

static void fill_in_client_id(struct loader *l)
{
	static const size_t size = MAX_MQTT_STRING + 2;
	config_setting_t *group = member(config_root_setting(&l->lib), "mqtt");
	config_setting_t *setting = member(group, "client_id");
	const char *id = *l->c->gateway.id ? l->c->gateway.id : "faulty";
	_cleanup_(freep) char *text = NULL;
	char host[HOST_NAME_MAX + 1] = "";
	int r;

	if (is_faulty(setting))
		return;
	if (!setting)
		setting = group;
	r = host_name(host, sizeof(host));
	if (r < 0 && strstr(l->c->mqtt.client_id, "%h")) {
		fault(l, setting, "mqtt.client_id: %%h: no host name: %s; allowed: %%i",
			strerror(-r));
		return;
	}
	text = malloc(size);
	if (!text) {
		l->no_memory = true;
		return;
	}
	if (!fill_in(l->c->mqtt.client_id, id, host, text, size))
		fault(l, setting,
			"mqtt.client_id: a %% that means nothing; allowed: %%i (gateway's id), "
			"%%h (host name), %%%% (a %%)");
	else if (!*text || !config_is_mqtt_string(text))
		fault(l, setting,
			"mqtt.client_id: not a client id; allowed: 1 to 65535 bytes of UTF-8, no "
			"control characters");
	else
		l->no_memory |= config_string_set(&l->c->mqtt.client_id, text) < 0;
}

/* --- the whole ----------------------------------------------------------------------------- */

static void fault_syntax(struct loader *l)
{
	const char *text = config_error_text(&l->lib);
	unsigned line = (unsigned)config_error_line(&l->lib);
	const char *allowed = "each name once in its group";

	if (!text || streq(text, "syntax error"))
		allowed = "name = value; with groups in { }, lists in ( ) and strings in \" \"";
	else if (strstr(text, "array"))
		allowed = "an array [ ] of one type, or a list ( )";
	config_source_fault(
		&l->source, line, "%s; allowed: %s", text ? text : "syntax error", allowed);
}

static int new_config(struct loader *l)
{
	l->c = calloc(1, sizeof(*l->c));
	if (!l->c)
		return -ENOMEM;
	l->c->brokers = calloc(1, sizeof(*l->c->brokers));
	if (!l->c->brokers)
		return -ENOMEM;
	l->c->n_brokers = 1;
	for (size_t g = 0; g < config_n_groups; g++) {
		const struct config_group *group = &config_groups[g];

		set_defaults(l, group, group->is_list ? (void *)l->c->brokers : (void *)l->c);
	}
	return l->no_memory ? -ENOMEM : 0;
}

/* From text to configuration; what is wrong becomes faults. */
static int load(struct loader *l, const char *path)
{
	int r;

	r = new_config(l);
	if (r < 0)
		return r;
	r = config_source_read(&l->source, path);
	if (r < 0 || l->source.broken)
		return r;
	if (!config_read_string(&l->lib, l->source.text)) {
		fault_syntax(l);
		return 0;
	}
	read_root(l);
	if (!l->no_memory)
		check_order(l);
	if (!l->no_memory)
		derive_id(l);
	if (!l->no_memory)
		fill_in_client_id(l);
	return 0;
}

int config_load(struct config **ret, const char *path, FILE *faults)
{
	struct loader l = { 0 };
	int r;

	config_init(&l.lib);
	r = load(&l, path);
	if (l.no_memory || l.source.no_memory)
		r = -ENOMEM;
	if (r == 0) {
		config_source_report(&l.source, faults);
		r = l.source.n_faults > 0 ? -EINVAL : 0;
	}
	config_destroy(&l.lib);
	config_source_done(&l.source);
	if (r < 0) {
		config_free(l.c);
		return r;
	}
	*ret = l.c;
	return 0;
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < c->n_brokers; i++)
		wipe_broker(&c->brokers[i]);
	free(c->brokers);
	free(c->gateway.id);
	free(c->socket.path);
	free(c->socket.group);
	free(c->queue.path);
	free(c->mqtt.client_id);
	free(c);
	return NULL;
}
