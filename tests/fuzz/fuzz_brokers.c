/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the two files that lists of brokers come from. The first byte chooses: 'l', the file
 * that discovery.file names; else the list that was kept. Either has faults, which are told, or is
 * a list that is the same after it was kept and read again. Inputs that name other files are left
 * out.
 */
#include <errno.h>
#include <fcntl.h>

#include "discovery_keep.h"
#include "fuzz.h"
#include "log.h"

/* libconfig loses a string or two where it meets a syntax error. */
FUZZ_PASS_LEAKS("libconfig.so")

static char path[300];
static const struct discovery_origin origin = { .kind = "file", .name = "/etc/brokers.conf" };

static void write_file(const uint8_t *data, size_t size)
{
	int fd;

	snprintf(path, sizeof(path), "%s/brokers", fuzz_dir());
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	REQUIRE(fd >= 0);
	REQUIRE(write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static bool load_list(struct discovery_list *ret)
{
	size_t length;
	char *faults;
	FILE *out = open_memstream(&faults, &length);
	int r;

	REQUIRE(out);
	r = config_load_brokers(&ret->brokers, &ret->n, path, true, out);
	fclose(out);
	REQUIRE(r < 0 ? r == -EINVAL && *faults : !*faults);
	free(faults);
	return r == 0;
}

static bool load_kept(struct discovery_list *ret)
{
	char text[300] = "";
	int64_t changed;
	int r;

	r = discovery_keep_read(ret, &changed, path, &origin, text, sizeof(text));
	REQUIRE(r == 0 || r == -ENOENT || (r == -EINVAL && text[0]));
	return r == 0;
}

static void check_list(const struct discovery_list *list)
{
	REQUIRE(list->n > 0 && list->brokers);
	for (size_t i = 0; i < list->n; i++)
		REQUIRE(list->brokers[i].host[0] && list->brokers[i].port > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct discovery_list list = { 0 }, again = { 0 };

	if (size == 0 || memmem(data, size, "@include", 8) || memmem(data, size, "_file", 5))
		return 0;
	log_set_level(LOG_EMERG);
	write_file(data + 1, size - 1);
	if (!(data[0] == 'l' ? load_list(&list) : load_kept(&list)))
		return 0;
	check_list(&list);
	REQUIRE(discovery_keep_write(path, &origin, &list) == 0);
	REQUIRE(load_kept(&again));
	REQUIRE(discovery_list_same(&list, &again));
	discovery_list_clear(&again);
	discovery_list_clear(&list);
	return 0;
}
