/* SPDX-License-Identifier: MIT */
/*
 * Owns how a configuration is shown. Invariant: what is printed reads back as the same
 * configuration, but for secrets. Must not know libconfig, nor what a value means.
 */
#include "config_keys.h"

#include <errno.h>
#include <inttypes.h>

#include "url.h"

static uint64_t load_integer(const struct config_key *key, const void *field)
{
	switch (key->width) {
	case 1: return *(const uint8_t *)field;
	case 2: return *(const uint16_t *)field;
	case 4: return *(const uint32_t *)field;
	default: return *(const uint64_t *)field;
	}
}

/* In quotes; `doubled` is written twice where it stands, 0: none is. */
static void print_string(const char *s, char doubled, FILE *out)
{
	char escaped[8];

	putc('"', out);
	for (; *s; s++) {
		config_escape((const char[]){ *s, '\0' }, escaped, sizeof(escaped));
		fputs(escaped, out);
		if (doubled && *s == doubled)
			fputs(escaped, out);
	}
	putc('"', out);
}

/* Whole microseconds as seconds, with as many digits as it takes, one at least. */
static void print_duration(uint64_t usec, FILE *out)
{
	char digits[16];
	size_t n;

	snprintf(digits, sizeof(digits), "%06" PRIu64, usec % USEC_PER_SEC);
	for (n = 6; n > 1 && digits[n - 1] == '0'; n--)
		;
	fprintf(out, "%" PRIu64 ".%.*s", usec / USEC_PER_SEC, (int)n, digits);
}

/* The shortest text that reads back as the same number, and as a float. */
static void print_factor(double value, FILE *out)
{
	char text[64];

	for (int precision = 1; precision <= 17; precision++) {
		snprintf(text, sizeof(text), "%.*g", precision, value);
		if (strtod(text, NULL) == value)
			break;
	}
	fprintf(out, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

/* Beyond 31 bits with the L that libconfig wants. */
static void print_count(uint64_t count, FILE *out)
{
	fprintf(out, "%" PRIu64 "%s", count, count > INT32_MAX ? "L" : "");
}

static void print_size(uint64_t bytes, FILE *out)
{
	char text[32];

	config_size_to_string(bytes, text, sizeof(text));
	fprintf(out, "\"%s\"", text);
}

static void print_secret(const struct config_broker *b, const char *secret, FILE *out)
{
	/* One that came out of a file is printed as the name of the file. */
	fputs(*secret && !*b->password_file ? "\"***\"" : "\"\"", out);
}

static void print_url(const char *url, FILE *out)
{
	_cleanup_(freep) char *masked = NULL;

	if (url_mask(&masked, url) == 0)
		print_string(masked, '\0', out);
	else
		fputs("\"\"", out);
}

static void print_filters(const struct access_topics *topics, FILE *out)
{
	fputs("( ", out);
	for (size_t i = 0; i < topics->n; i++) {
		fputs(i ? ", " : "", out);
		print_string(topics->list[i], '\0', out);
	}
	fputs(" )", out);
}

void config_key_print(const struct config_key *key, const void *base, FILE *out)
{
	const void *field = (const char *)base + key->offset;

	if (key->none && load_integer(key, field) == 0) {
		fputs("\"none\"", out);
		return;
	}
	switch (key->kind) {
	case CONFIG_KIND_GROUP: break;
	case CONFIG_KIND_FILTERS: print_filters(field, out); break;
	case CONFIG_KIND_BOOLEAN: fputs(*(const bool *)field ? "true" : "false", out); break;
	case CONFIG_KIND_STRING:
		if (key->is_url)
			print_url(*(char *const *)field, out);
		else
			print_string(*(char *const *)field, '\0', out);
		break;
	case CONFIG_KIND_TEMPLATE: print_string(*(char *const *)field, '%', out); break;
	case CONFIG_KIND_SECRET: print_secret(base, *(char *const *)field, out); break;
	case CONFIG_KIND_COUNT: print_count(load_integer(key, field), out); break;
	case CONFIG_KIND_SIZE: print_size(load_integer(key, field), out); break;
	case CONFIG_KIND_DURATION: print_duration(load_integer(key, field), out); break;
	case CONFIG_KIND_FACTOR: print_factor(*(const double *)field, out); break;
	case CONFIG_KIND_WORD:
		fprintf(out, "\"%s\"", key->words->to_string((int)load_integer(key, field)));
		break;
	case CONFIG_KIND_MODE: fprintf(out, "\"%04o\"", (unsigned)load_integer(key, field)); break;
	}
}

/* `discovered`: without what DNS tells of a broker. */
static void print_keys(const struct config_group *group, const void *base, bool discovered,
	unsigned depth, FILE *out)
{
	for (size_t i = 0; i < group->n_keys; i++) {
		const struct config_key *key = &group->keys[i];
		const void *field = (const char *)base + key->offset;

		if (key->discovered && discovered)
			continue;
		if (key->kind != CONFIG_KIND_GROUP) {
			fprintf(out, "%.*s%s = ", (int)depth, "\t\t\t", key->name);
			config_key_print(key, base, out);
			fputs(";\n", out);
		} else if (config_group_is_enabled(key->group, field)) {
			fprintf(out, "%.*s%s: {\n", (int)depth, "\t\t\t", key->name);
			print_keys(key->group, field, false, depth + 1, out);
			fprintf(out, "%.*s};\n", (int)depth, "\t\t\t");
		}
	}
}

static void print_brokers(const struct config_group *group, const struct config *c, FILE *out)
{
	const struct config_broker *brokers = c->brokers;
	bool discovered = *c->discovery.srv;
	size_t n = c->n_brokers;

	if (discovered) {
		brokers = &c->discovery.template;
		n = 1;
	}
	if (n == 0)
		return;
	fprintf(out, "%s: (\n", group->name);
	for (size_t i = 0; i < n; i++) {
		fputs("\t{\n", out);
		print_keys(group, &brokers[i], discovered, 2, out);
		fputs(i + 1 < n ? "\t},\n" : "\t}\n", out);
	}
	fputs(");\n", out);
}

/* Of user and group the one that is given. No rule: no list, an empty one is a fault. */
static void print_access(const struct config_group *group, const struct config *c, FILE *out)
{
	for (size_t i = 0; i < c->n_access; i++) {
		const struct access_rule *rule = &c->access[i];

		fprintf(out, "%s\t{\n", i ? "" : "access: (\n");
		for (size_t k = 0; k < group->n_keys; k++) {
			const struct config_key *key = &group->keys[k];
			const char *const *field = (const void *)((const char *)rule + key->offset);

			if (key->kind == CONFIG_KIND_STRING && !**field)
				continue;
			fprintf(out, "\t\t%s = ", key->name);
			config_key_print(key, rule, out);
			fputs(";\n", out);
		}
		fputs(i + 1 < c->n_access ? "\t},\n" : "\t}\n);\n", out);
	}
}

int config_print(const struct config *c, FILE *out)
{
	errno = 0;
	for (size_t g = 0; g < config_n_groups; g++) {
		const struct config_group *group = &config_groups[g];

		if (group->is_list) {
			if (group->is_access)
				print_access(group, c, out);
			else
				print_brokers(group, c, out);
			continue;
		}
		fprintf(out, "%s: {\n", group->name);
		print_keys(group, c, false, 1, out);
		fputs("};\n", out);
	}
	if (fflush(out) != 0 || ferror(out))
		return errno > 0 ? -errno : -EIO;
	return 0;
}
