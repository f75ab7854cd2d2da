/* SPDX-License-Identifier: MIT */
/*
 * Owns the list of brokers: reading it, the checks between a broker's keys and between brokers, and
 * the files that hold their secrets and certificates. Invariant: a password file was read, and the
 * files of TLS could be, when a broker is handed out.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "config_loader.h"

#define MAX_BROKERS 32
#define MAX_SECRET  UINT16_MAX /* bytes of a password (MQTT 5, 3.1.3.6) */
#define TLS_PORT    8883 /* IANA: secure-mqtt */
#define TLS_SERVICE "_secure-mqtt._tcp."

/* --- the value ------------------------------------------------------------------------------- */

/* Where a broker's strings are. */
static const size_t strings[] = {
	offsetof(struct config_broker, host),
	offsetof(struct config_broker, username),
	offsetof(struct config_broker, password),
	offsetof(struct config_broker, password_file),
	offsetof(struct config_broker, tls.ca_file),
	offsetof(struct config_broker, tls.ca_path),
	offsetof(struct config_broker, tls.cert_file),
	offsetof(struct config_broker, tls.key_file),
	offsetof(struct config_broker, tls.alpn),
};

static char **string_at(const struct config_broker *b, unsigned i)
{
	return (char **)((char *)b + strings[i]);
}

void config_broker_done(struct config_broker *b)
{
	if (b->password)
		explicit_bzero(b->password, strlen(b->password));
	for (unsigned i = 0; i < ARRAY_SIZE(strings); i++)
		free(*string_at(b, i));
	*b = (struct config_broker){ 0 };
}

int config_brokers_copy(struct config_broker **ret, const struct config_broker *brokers, size_t n)
{
	struct config_broker *copy = calloc(n ? n : 1, sizeof(*copy));
	bool good = copy;

	for (size_t k = 0; k < n && good; k++) {
		copy[k] = brokers[k];
		for (unsigned i = 0; i < ARRAY_SIZE(strings); i++) {
			*string_at(&copy[k], i) = strdup(*string_at(&brokers[k], i));
			good &= *string_at(&copy[k], i) != NULL;
		}
	}
	if (!good) {
		config_brokers_free(copy, n);
		return -ENOMEM;
	}
	*ret = copy;
	return 0;
}

bool config_broker_equal(const struct config_broker *a, const struct config_broker *b)
{
	for (unsigned i = 0; i < ARRAY_SIZE(strings); i++)
		/* What a password file is called does not matter; what it holds does. */
		if (strings[i] != offsetof(struct config_broker, password_file) &&
			!streq(*string_at(a, i), *string_at(b, i)))
			return false;
	return a->port == b->port && a->tls.enabled == b->tls.enabled &&
		a->tls.insecure == b->tls.insecure;
}

void config_brokers_free(struct config_broker *brokers, size_t n)
{
	for (size_t i = 0; brokers && i < n; i++)
		config_broker_done(&brokers[i]);
	free(brokers);
}

/* --- files ----------------------------------------------------------------------------------- */

bool config_hidden_credentials(void)
{
	const char *folder = getenv("CREDENTIALS_DIRECTORY");

	return folder && *folder && access(folder, X_OK) < 0 && errno == EACCES;
}

/* Where a file is, to be freed. NULL: a fault was kept, or it is passed over. */
static char *file_path(
	struct config_loader *l, config_setting_t *setting, const char *what, const char *name)
{
	const char *folder = getenv("CREDENTIALS_DIRECTORY");
	char *path;

	if (*name == '/') {
		path = strdup(name);
	} else if (l->pass_over) {
		return NULL;
	} else if (!folder || !*folder) {
		config_fault(l, setting,
			"%s \"%s\" names a credential, but $CREDENTIALS_DIRECTORY is "
			"not set; allowed: an absolute path, or a name when systemd passes "
			"credentials",
			what, name);
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

static void read_password_file(
	struct config_loader *l, config_setting_t *setting, struct config_broker *b)
{
	_cleanup_(freep) char *path = file_path(l, setting, "password_file", b->password_file);
	_cleanup_(freep) char *text = NULL;
	size_t read = 0, n;
	mode_t mode = 0;
	int r;

	if (!path)
		return;
	r = config_slurp(path, true, MAX_SECRET + 2, &text, &read, &mode);
	if (r < 0 && r != -EFBIG) {
		config_fault(l, setting, "password_file: cannot read \"%s\": %s", path,
			config_slurp_strerror(r));
		return;
	}
	if (mode & S_IROTH)
		config_warn(l, "%s holds a password and is readable by others: chmod o-r", path);
	n = r < 0 ? SIZE_MAX : stripped_length(text, read);
	if (n == 0 || n > MAX_SECRET) {
		config_fault(l, setting,
			"password_file: \"%s\" is too %s; allowed: 1 to 65535 bytes", path,
			n == 0 ? "short" : "long");
	} else if (memchr(text, '\0', n)) {
		config_fault(
			l, setting, "password_file: \"%s\" holds a NUL byte; allowed: text", path);
	} else {
		text[n] = '\0';
		l->no_memory |= config_string_set(&b->password, text) < 0;
	}
	if (text)
		explicit_bzero(text, read);
}

/* Another one for a file that was written or replaced; for a folder, when its entries were. */
static uint64_t stamp_of(const struct stat *st)
{
	const uint64_t parts[] = {
		st->st_dev,
		st->st_ino,
		(uint64_t)st->st_size,
		(uint64_t)st->st_mtim.tv_sec,
		(uint64_t)st->st_mtim.tv_nsec,
	};
	uint64_t stamp = 1;

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
		stamp = (stamp ^ parts[i]) * UINT64_C(0x9e3779b97f4a7c15);
	return stamp ? stamp : 1;
}

/* A file or folder that the TLS library opens by its name. `field` becomes its full path. */
static void check_tls_file(struct config_loader *l, config_setting_t *setting, const char *what,
	char **field, uint64_t *stamp)
{
	bool is_folder = streq(config_setting_name(setting), "ca_path");
	bool is_key = streq(config_setting_name(setting), "key_file");
	_cleanup_(freep) char *path = file_path(l, setting, what, *field);
	_cleanup_(closep) int fd = -1;
	struct stat st;
	int error = 0;

	if (!path)
		return;
	fd = open(
		path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (is_folder ? O_DIRECTORY : 0));
	if (fd < 0 || fstat(fd, &st) < 0)
		error = -errno;
	else if (!is_folder && !S_ISREG(st.st_mode))
		error = S_ISDIR(st.st_mode) ? -EISDIR : -ENOTSUP;
	if (error < 0)
		config_fault(l, setting, "%s: cannot read \"%s\": %s", what, path,
			config_slurp_strerror(error));
	else
		*stamp = stamp_of(&st);
	if (error == 0 && is_key && (st.st_mode & S_IROTH))
		config_warn(l, "%s holds a private key and is readable by others: chmod o-r", path);
	l->no_memory |= config_string_set(field, path) < 0;
}

/* --- one broker ------------------------------------------------------------------------------ */

/* A password in a file that everybody reads is none. */
static void warn_if_readable(struct config_loader *l, const config_setting_t *setting)
{
	const struct config_source_file *file =
		config_source_file_at(&l->source, config_line_of(setting));

	if (file->mode & S_IROTH)
		config_warn(l,
			"%s holds a password and is readable by others: chmod o-r, or use "
			"password_file",
			file->name);
}

static void check_password(struct config_loader *l, const config_setting_t *setting,
	const char *path, struct config_broker *b)
{
	config_setting_t *password = config_member(setting, "password");
	config_setting_t *file = config_member(setting, "password_file");

	if (*b->password)
		warn_if_readable(l, password);
	if (*b->password && *b->password_file)
		config_fault(l, file,
			"%spassword_file: there is a password, too; allowed: one of the two", path);
	if ((*b->password || *b->password_file) && !*b->username &&
		!config_is_faulty(config_member(setting, "username")))
		config_fault(l, *b->password ? password : file,
			"%susername is missing; allowed with a password: a user name", path);
	if (*b->password_file && !config_is_faulty(file))
		read_password_file(l, file, b);
}

/* A client certificate is of no use without its key, nor the other way round. */
static void check_pair(struct config_loader *l, const config_setting_t *tls, const char *path,
	const char *given, const char *missing)
{
	config_setting_t *setting = config_member(tls, given);

	if (!config_is_faulty(setting) && !config_is_faulty(config_member(tls, missing)))
		config_fault(l, setting, "%stls.%s is missing; allowed with %s: both or neither",
			path, missing, given);
}

static void check_tls(struct config_loader *l, const config_setting_t *setting, const char *path,
	struct config_tls *t)
{
	const struct {
		const char *name;
		char **field;
		uint64_t *stamp;
	} files[] = {
		{ "ca_file", &t->ca_file, &t->ca_file_stamp },
		{ "ca_path", &t->ca_path, &t->ca_path_stamp },
		{ "cert_file", &t->cert_file, &t->cert_file_stamp },
		{ "key_file", &t->key_file, &t->key_file_stamp },
	};
	config_setting_t *tls = config_member(setting, "tls");
	char what[64];

	if (*t->cert_file && !*t->key_file)
		check_pair(l, tls, path, "cert_file", "key_file");
	if (*t->key_file && !*t->cert_file)
		check_pair(l, tls, path, "key_file", "cert_file");
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		config_setting_t *file = config_member(tls, files[i].name);

		snprintf(what, sizeof(what), "%stls.%s", path, files[i].name);
		if (**files[i].field && !config_is_faulty(file))
			check_tls_file(l, file, what, files[i].field, files[i].stamp);
	}
	if (t->insecure)
		config_warn(l,
			"%stls.insecure = true: THE BROKER'S CERTIFICATE IS NOT CHECKED. Whoever "
			"is on the way can pose as the broker, read all messages and take the "
			"password",
			path);
}

static void read_broker(struct config_loader *l, config_setting_t *setting,
	const struct config_group *group, unsigned index, struct config_broker *b)
{
	char path[32];

	if (!config_setting_is_group(setting)) {
		config_fault(l, setting,
			"brokers[%u]: found %s, wanted a group: { host = \"...\"; }", index,
			config_found(setting));
		return;
	}
	snprintf(path, sizeof(path), "brokers[%u].", index);
	config_read_keys(l, setting, group, path, b);
	if (b->tls.enabled && !config_member(setting, "port"))
		b->port = TLS_PORT;
	if (l->is_public) {
		explicit_bzero(b->password, strlen(b->password));
		return;
	}
	if (!l->no_memory)
		check_password(l, setting, path, b);
	if (!l->no_memory && b->tls.enabled)
		check_tls(l, setting, path, &b->tls);
}

/* --- the list -------------------------------------------------------------------------------- */

/* The next of l->brokers, with its defaults. NULL: no memory. */
static struct config_broker *add_broker(struct config_loader *l, const struct config_group *group)
{
	struct config_broker *brokers, *b;

	brokers = reallocarray(l->brokers, l->n_brokers + 1, sizeof(*brokers));
	if (!brokers) {
		l->no_memory = true;
		return NULL;
	}
	l->brokers = brokers;
	b = &brokers[l->n_brokers];
	*b = (struct config_broker){ .priority = (uint16_t)l->n_brokers };
	l->n_brokers++;
	if (config_group_set_defaults(group, b) < 0)
		l->no_memory = true;
	return l->no_memory ? NULL : b;
}

/* Trying one broker twice is a slip of the pen, and its session would be counted twice. */
static void check_twin(struct config_loader *l, const config_setting_t *list, unsigned index)
{
	const struct config_broker *b = &l->brokers[index];
	config_setting_t *setting = config_setting_get_elem(list, index), *other;

	for (unsigned i = 0; i < index; i++) {
		other = config_setting_get_elem(list, i);
		if (l->brokers[i].port != b->port || strcasecmp(l->brokers[i].host, b->host) != 0)
			continue;
		if (config_is_faulty(other) || config_is_faulty(config_member(other, "host")) ||
			config_is_faulty(config_member(other, "port")))
			continue;
		config_fault(l, setting,
			"brokers[%u]: host \"%s\", port %u are those of brokers[%u]; allowed: each "
			"broker once",
			index, b->host, b->port, i);
		return;
	}
}

static void read_list(
	struct config_loader *l, config_setting_t *list, const struct config_group *group)
{
	int n = config_setting_length(list);

	if (n == 0)
		config_fault(l, list, "brokers: the list is empty; allowed: 1 to %d brokers",
			MAX_BROKERS);
	for (int i = 0; i < n && !l->no_memory; i++) {
		config_setting_t *setting = config_setting_get_elem(list, (unsigned)i);
		struct config_broker *b;

		if (i == MAX_BROKERS) {
			config_fault(l, setting, "brokers: found %d; allowed: 1 to %d brokers", n,
				MAX_BROKERS);
			return;
		}
		b = add_broker(l, group);
		if (b)
			read_broker(l, setting, group, (unsigned)i, b);
		if (b && !l->no_memory && !config_is_faulty(setting) &&
			!config_is_faulty(config_member(setting, "host")) &&
			!config_is_faulty(config_member(setting, "port")))
			check_twin(l, list, (unsigned)i);
	}
}

/* The one entry for all brokers that DNS names. */
static void read_template(
	struct config_loader *l, config_setting_t *list, const struct config_group *group)
{
	struct config_broker *t = &l->c->discovery.template;
	config_setting_t *setting;

	if (config_setting_length(list) != 1) {
		config_fault(l, list,
			"brokers: found %d; allowed with discovery.srv: one, for user name, "
			"password and TLS of all",
			config_setting_length(list));
		return;
	}
	setting = config_setting_get_elem(list, 0);
	read_broker(l, setting, group, 0, t);
	for (size_t i = 0; i < group->n_keys; i++) {
		config_setting_t *given = config_member(setting, group->keys[i].name);

		if (given && group->keys[i].discovered && !config_is_faulty(given))
			config_fault(l, given,
				"brokers[0].%s: there is discovery.srv, too; allowed: an entry "
				"without "
				"host and port",
				group->keys[i].name);
	}
}

/* With discovery: what there is to say of its brokers beforehand. */
static void read_discovered(
	struct config_loader *l, config_setting_t *list, const struct config_group *group)
{
	struct config_broker *t = &l->c->discovery.template;
	const char *srv = l->c->discovery.srv;

	if (list && *l->c->discovery.file)
		config_fault(
			l, list, "brokers: there is discovery.file, too; allowed: one of the two");
	else if (list)
		read_template(l, list, group);
	/* The name of the service says that its brokers speak TLS. */
	if (strncasecmp(srv, TLS_SERVICE, strlen(TLS_SERVICE)) == 0)
		t->tls.enabled = true;
}

void config_read_brokers(
	struct config_loader *l, config_setting_t *setting, const struct config_group *group)
{
	if (setting && !config_setting_is_list(setting) && !config_setting_is_array(setting))
		config_fault(l, setting,
			"brokers: found %s, wanted a list: ( { host = \"...\"; } )",
			config_found(setting));
	else if (l->c && (*l->c->discovery.srv || *l->c->discovery.file))
		read_discovered(l, setting, group);
	else if (setting)
		read_list(l, setting, group);
	else if (l->c)
		add_broker(l, group);
	else
		config_fault(l, NULL, "no brokers; allowed: brokers: ( { host = \"...\"; } )");
}
