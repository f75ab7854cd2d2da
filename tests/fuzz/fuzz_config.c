/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes the configuration: any bytes either give faults, each a line that names the file, or a
 * configuration whose print loads again and prints the same. Inputs that include other files are
 * left out.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "config.h"
#include "fuzz.h"

/* libconfig loses a string or two where it meets a syntax error. */
FUZZ_PASS_LEAKS("libconfig.so")

/* Every line begins with the name of the file. */
static void check_faults(const char *faults, const char *path)
{
	REQUIRE(*faults);
	while (*faults) {
		const char *end = strchr(faults, '\n');

		REQUIRE(end && strncmp(faults, path, strlen(path)) == 0);
		REQUIRE(faults[strlen(path)] == ':');
		faults = end + 1;
	}
}

/* The configuration that these bytes are; NULL: they have faults. */
static struct config *load(const void *data, size_t size)
{
	struct config *c = NULL;
	char path[64], *faults;
	size_t length;
	FILE *out;
	int fd, r;

	fd = memfd_create("config", MFD_CLOEXEC);
	REQUIRE(fd >= 0);
	REQUIRE(fchmod(fd, 0600) == 0);
	REQUIRE(write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	out = open_memstream(&faults, &length);
	REQUIRE(out);
	r = config_load(&c, path, out);
	fclose(out);
	close(fd);
	if (r < 0)
		check_faults(faults, path);
	else
		REQUIRE(c && !*faults);
	free(faults);
	return c;
}

static char *print(const struct config *c)
{
	size_t length;
	char *text;
	FILE *out = open_memstream(&text, &length);

	REQUIRE(out);
	REQUIRE(config_print(c, out) == 0);
	fclose(out);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *first, *second;
	struct config *c;

	if (memmem(data, size, "@include", 8))
		return 0;
	c = load(data, size);
	if (!c)
		return 0;
	REQUIRE(*c->gateway.id);
	if (*c->discovery.srv || *c->discovery.file)
		REQUIRE(c->n_brokers == 0 && !c->brokers);
	else
		REQUIRE(c->n_brokers > 0 && *c->brokers[0].host);
	first = print(c);
	config_free(c);
	c = load(first, strlen(first));
	REQUIRE(c);
	second = print(c);
	REQUIRE(streq(first, second));
	config_free(c);
	free(first);
	free(second);
	return 0;
}
