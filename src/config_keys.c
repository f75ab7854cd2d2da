/* SPDX-License-Identifier: MIT */
/*
 * Owns what is done with one key: find it, check and store a value, say what is allowed. Invariant:
 * what was stored can be printed and read again. Must not know libconfig, lines of files, how keys
 * depend on each other, nor any key by name.
 */
#include "config_keys.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>

#define K (1024.0)

/* --- finding keys -------------------------------------------------------------------------- */

const struct config_key *config_key_find(const struct config_group *group, const char *name)
{
	for (size_t i = 0; i < group->n_keys; i++)
		if (streq(name, group->keys[i].name))
			return &group->keys[i];
	return NULL;
}

static unsigned least_of(unsigned a, unsigned b, unsigned c)
{
	unsigned ab = a < b ? a : b;

	return ab < c ? ab : c;
}

/* How many letters to insert, drop, change or swap with their neighbour; case does not count. */
static unsigned distance(const char *a, const char *b)
{
	unsigned rows[3][32];
	unsigned *before = rows[0], *above = rows[1], *row = rows[2], *spare;
	size_t n = strlen(b);

	if (strlen(a) >= ARRAY_SIZE(rows[0]) || n >= ARRAY_SIZE(rows[0]))
		return UINT_MAX;
	for (size_t k = 0; k <= n; k++)
		before[k] = above[k] = (unsigned)k;
	for (size_t i = 1; a[i - 1]; i++) {
		row[0] = (unsigned)i;
		for (size_t k = 1; k <= n; k++) {
			int x = tolower((unsigned char)a[i - 1]),
			    y = tolower((unsigned char)b[k - 1]);

			row[k] = least_of(above[k] + 1, row[k - 1] + 1, above[k - 1] + (x != y));
			if (i > 1 && k > 1 && x == tolower((unsigned char)b[k - 2]) &&
				y == tolower((unsigned char)a[i - 2]) && before[k - 2] + 1 < row[k])
				row[k] = before[k - 2] + 1;
		}
		spare = before;
		before = above;
		above = row;
		row = spare;
	}
	return above[n];
}

/* Counts a candidate: is it closer than the best so far? */
static bool is_closer(const char *name, const char *candidate, unsigned *best)
{
	unsigned d = distance(name, candidate);

	if (d >= *best)
		return false;
	*best = d;
	return true;
}

/* The right key in the wrong group: in this one, or in one within it. */
static bool is_elsewhere(const struct config_group *group, const char *name, char *buf, size_t size)
{
	if (config_key_find(group, name)) {
		snprintf(buf, size, "%s.%s", group->name, name);
		return true;
	}
	for (size_t i = 0; i < group->n_keys; i++)
		if (group->keys[i].group && is_elsewhere(group->keys[i].group, name, buf, size))
			return true;
	return false;
}

bool config_suggest(const struct config_group *group, const char *name, char *buf, size_t size)
{
	unsigned best = (unsigned)strlen(name) / 3 + 1; /* one third of the letters may be wrong */
	bool found = false;

	for (size_t i = 0; group && i < group->n_keys; i++)
		if (is_closer(name, group->keys[i].name, &best)) {
			snprintf(buf, size, "%s.%s", group->name, group->keys[i].name);
			found = true;
		}
	for (size_t g = 0; !group && g < config_n_groups; g++)
		if (is_closer(name, config_groups[g].name, &best)) {
			snprintf(buf, size, "%s", config_groups[g].name);
			found = true;
		}
	/* Of two such groups, the one at hand. */
	if (!found && group)
		found = is_elsewhere(group, name, buf, size);
	/* Who writes `user` for a broker does not mean a rule. */
	for (size_t g = 0; !found && g < config_n_groups; g++)
		found = !config_groups[g].is_access &&
			is_elsewhere(&config_groups[g], name, buf, size);
	return found;
}

/* --- text ---------------------------------------------------------------------------------- */

const char *config_type_to_string(enum config_type type)
{
	static const char *const names[] = {
		[CONFIG_NOTHING] = "nothing",
		[CONFIG_GROUP] = "a group",
		[CONFIG_INTEGER] = "an integer",
		[CONFIG_FLOAT] = "a float",
		[CONFIG_STRING] = "a string",
		[CONFIG_BOOLEAN] = "a boolean",
		[CONFIG_ARRAY] = "an array",
		[CONFIG_LIST] = "a list",
	};

	return names[type];
}

bool config_escape(const char *s, char *buf, size_t size)
{
	static const char special[] = "\"\\\n\r\t\f", letter[] = "\"\\nrtf";
	size_t n = 0;

	for (; *s; s++) {
		const char *at = strchr(special, *s);

		if (n + 5 > size) {
			buf[n] = '\0';
			return false;
		}
		if (at) {
			buf[n++] = '\\';
			buf[n++] = letter[at - special];
		} else if (iscntrl((unsigned char)*s)) {
			n += (size_t)sprintf(buf + n, "\\x%02X", (unsigned char)*s);
		} else {
			buf[n++] = *s;
		}
	}
	buf[n] = '\0';
	return true;
}

void config_size_to_string(uint64_t bytes, char *buf, size_t size)
{
	static const char units[] = { 'G', 'M', 'K' };

	for (unsigned i = 0; i < ARRAY_SIZE(units); i++) {
		unsigned shift = 30 - 10 * i;

		if (bytes > 0 && (bytes & ((UINT64_C(1) << shift) - 1)) == 0) {
			snprintf(buf, size, "%llu%c", (unsigned long long)(bytes >> shift),
				units[i]);
			return;
		}
	}
	snprintf(buf, size, "%llu", (unsigned long long)bytes);
}

/* What a key takes, in words. */
static void describe(const struct config_key *key, char *buf, size_t size)
{
	const char *zero = key->zero ? "0, or " : "", *none = key->none ? "\"none\", or " : "";
	char least[32], most[32];

	switch (key->kind) {
	case CONFIG_KIND_BOOLEAN: snprintf(buf, size, "true or false"); break;
	case CONFIG_KIND_COUNT:
		snprintf(buf, size, "%s%s%.0f to %.0f", none, zero, key->least, key->most);
		break;
	case CONFIG_KIND_SIZE:
		config_size_to_string((uint64_t)key->least, least, sizeof(least));
		config_size_to_string((uint64_t)key->most, most, sizeof(most));
		snprintf(buf, size,
			"%s%s to %s, as a string such as \"64K\", \"1M\" or \"1G\", or a plain "
			"integer",
			none, least, most);
		break;
	case CONFIG_KIND_DURATION:
		if (key->above)
			snprintf(buf, size, "%sabove %.0f, up to %.0f seconds", none, key->least,
				key->most);
		else
			snprintf(buf, size, "%s%.0f to %.0f seconds", none, key->least, key->most);
		break;
	case CONFIG_KIND_FACTOR: snprintf(buf, size, "%.0f to %.0f", key->least, key->most); break;
	case CONFIG_KIND_WORD: snprintf(buf, size, "%s", key->words->allowed); break;
	case CONFIG_KIND_MODE: snprintf(buf, size, "an octal string, \"0000\" to \"0777\""); break;
	case CONFIG_KIND_STRING:
	case CONFIG_KIND_TEMPLATE:
	case CONFIG_KIND_SECRET: snprintf(buf, size, "a string"); break;
	case CONFIG_KIND_FILTERS: snprintf(buf, size, "( \"a/b\", \"c/#\" )"); break;
	case CONFIG_KIND_GROUP: snprintf(buf, size, "{ name = value; ... }"); break;
	}
}

/* --- storing ------------------------------------------------------------------------------- */

int config_string_set(char **field, const char *s)
{
	char *copy = strdup(s);

	if (!copy)
		return -ENOMEM;
	if (*field)
		explicit_bzero(*field, strlen(*field));
	free(*field);
	/* -fanalyzer: the field owns it from now on. */
	*field = copy;
	return 0;
}

static int store_integer(const struct config_key *key, void *base, uint64_t value)
{
	void *field = (char *)base + key->offset;

	switch (key->width) {
	case 1: *(uint8_t *)field = (uint8_t)value; return 0;
	case 2: *(uint16_t *)field = (uint16_t)value; return 0;
	case 4: *(uint32_t *)field = (uint32_t)value; return 0;
	default: *(uint64_t *)field = value; return 0;
	}
}

/* A number within the key's range, into its field. -ERANGE. */
static int store_number(const struct config_key *key, void *base, double value)
{
	bool is_low = key->above ? value <= key->least : value < key->least;
	void *field = (char *)base + key->offset;

	/* Infinity is above every range. */
	if (value > key->most || (is_low && !(key->zero && value == 0)))
		return -ERANGE;
	switch (key->kind) {
	case CONFIG_KIND_DURATION:
		value = value * (double)USEC_PER_SEC + 0.5;
		/* What rounds to nothing is nothing. */
		if (key->above && value < 1)
			return -ERANGE;
		break;
	case CONFIG_KIND_FACTOR: *(double *)field = value; return 0;
	default: break;
	}
	return store_integer(key, base, (uint64_t)value);
}

/* Digits and perhaps a unit; beyond 2^53 the last digits do not matter, every range ends below. */
static int parse_size(const char *s, double *ret)
{
	double value = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++)
		value = value * 10 + (*s - '0');
	if (*s == 'K')
		value *= K;
	else if (*s == 'M')
		value *= K * K;
	else if (*s == 'G')
		value *= K * K * K;
	if (*s && s[1])
		return -EINVAL;
	if (*s && !strchr("KMG", *s))
		return -EINVAL;
	*ret = value;
	return 0;
}

static int store_mode(const struct config_key *key, void *base, const char *s)
{
	if (strlen(s) != 4 || s[0] != '0' || strspn(s, "01234567") != 4)
		return -EINVAL;
	return store_integer(key, base, strtoul(s, NULL, 8));
}

static int store_string(const struct config_key *key, void *base, const char *s)
{
	int word;

	switch (key->kind) {
	case CONFIG_KIND_WORD:
		word = key->words->from_string(s);
		return word < 0 ? -EINVAL : store_integer(key, base, (uint64_t)word);
	case CONFIG_KIND_MODE: return store_mode(key, base, s);
	default: break;
	}
	if (key->check && key->check(s))
		return -EINVAL;
	return config_string_set((char **)((char *)base + key->offset), s);
}

static int set_default(const struct config_key *key, void *base)
{
	if (key->kind == CONFIG_KIND_GROUP)
		return config_group_set_defaults(key->group, (char *)base + key->offset);
	if (key->kind == CONFIG_KIND_FILTERS)
		return 0; /* none: the struct was all zero */
	if (key->text)
		return store_string(key, base, key->text);
	if (key->kind == CONFIG_KIND_BOOLEAN || (key->none && key->number == 0))
		return store_integer(key, base, (uint64_t)key->number);
	return store_number(key, base, key->number);
}

int config_group_set_defaults(const struct config_group *group, void *base)
{
	int r = 0;

	for (size_t i = 0; i < group->n_keys && r == 0; i++)
		r = set_default(&group->keys[i], base);
	return r;
}

bool config_group_is_enabled(const struct config_group *group, const void *base)
{
	return !group->is_switch || *(const bool *)((const char *)base + group->enabled);
}

void config_group_enable(const struct config_group *group, void *base)
{
	if (group->is_switch)
		*(bool *)((char *)base + group->enabled) = true;
}

/* "found a float, wanted an integer" */
static int wrong_type(const struct config_key *key, enum config_type type, char *why, size_t size)
{
	const char *wanted = "a string";
	char allowed[256];

	if (key->kind == CONFIG_KIND_GROUP)
		wanted = "a group";
	else if (key->kind == CONFIG_KIND_FILTERS)
		wanted = "a list of topic filters";
	else if (key->kind == CONFIG_KIND_BOOLEAN)
		wanted = "a boolean";
	else if (key->kind == CONFIG_KIND_COUNT)
		wanted = "an integer";
	else if (key->kind == CONFIG_KIND_SIZE)
		wanted = "a size";
	else if (!key->text)
		wanted = "a number";
	describe(key, allowed, sizeof(allowed));
	if (streq(allowed, wanted))
		snprintf(why, size, "found %s, wanted %s", config_type_to_string(type), wanted);
	else
		snprintf(why, size, "found %s, wanted %s: %s", config_type_to_string(type), wanted,
			allowed);
	return -EINVAL;
}

/* `found` is what stands in the file, as it is to be shown. */
static int not_allowed(const struct config_key *key, const char *found, const char *allowed,
	char *why, size_t size)
{
	char words[256];

	if (!allowed) {
		describe(key, words, sizeof(words));
		allowed = words;
	}
	snprintf(why, size, "%s is not allowed; allowed: %s", found, allowed);
	return -EINVAL;
}

static int set_string(
	const struct config_key *key, const char *s, void *base, char *why, size_t size)
{
	const char *allowed = key->check ? key->check(s) : NULL;
	char quoted[96] = "\"", *q = quoted + 1;
	const char *at = strrchr(s, '@');
	double bytes = 0;
	int r;

	if (key->none && streq(s, "none")) {
		r = store_integer(key, base, 0);
	} else if (key->kind == CONFIG_KIND_SIZE) {
		r = parse_size(s, &bytes);
		if (r == 0)
			r = store_number(key, base, bytes);
	} else if (key->text) {
		r = store_string(key, base, s);
	} else {
		r = -EINVAL; /* a number that may be this one word only */
	}
	if (r == 0 || r == -ENOMEM)
		return r;
	if (key->kind == CONFIG_KIND_SECRET || key->is_url)
		return not_allowed(key, "this value", allowed, why, size);
	/* A URL where a host belongs, say, with a password before the "@". */
	if (at)
		q = stpcpy(q, "***");
	strcat(q, config_escape(at ? at : s, q, sizeof(quoted) - 12) ? "\"" : "...\"");
	return not_allowed(key, quoted, allowed, why, size);
}

int config_key_set(const struct config_key *key, const struct config_value *value, void *base,
	char *why, size_t size)
{
	bool is_count = key->kind == CONFIG_KIND_COUNT || key->kind == CONFIG_KIND_SIZE;
	char found[64];
	double number;

	if (key->kind == CONFIG_KIND_GROUP || key->kind == CONFIG_KIND_FILTERS)
		return wrong_type(key, value->type, why, size);
	if (key->kind == CONFIG_KIND_BOOLEAN)
		return value->type == CONFIG_BOOLEAN
			? store_integer(key, base, (uint64_t)value->integer)
			: wrong_type(key, value->type, why, size);
	if (value->type == CONFIG_STRING &&
		(key->text || key->none || key->kind == CONFIG_KIND_SIZE))
		return set_string(key, value->string, base, why, size);
	if (!key->text && value->type == CONFIG_INTEGER) {
		number = (double)value->integer;
		snprintf(found, sizeof(found), "%lld", (long long)value->integer);
	} else if (!key->text && !is_count && value->type == CONFIG_FLOAT) {
		number = value->number;
		snprintf(found, sizeof(found), "%g", number);
	} else {
		return wrong_type(key, value->type, why, size);
	}
	if (store_number(key, base, number) < 0)
		return not_allowed(key, found, NULL, why, size);
	return 0;
}
