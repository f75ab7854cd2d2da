/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the answer of a name server about SRV records. Any bytes either are an error with a
 * text, or targets that can be connected to, in the order of their priorities.
 */
#include <netdb.h>

#include "fuzz.h"
#include "resolver_srv.h"

static double draw(void *userdata)
{
	unsigned *n = userdata;

	return (double)(++*n % 8) / 8;
}

static void check_service(const struct resolver_service *s, const struct resolver_service *before)
{
	size_t len = strnlen(s->host, sizeof(s->host));

	REQUIRE(len > 0 && len < sizeof(s->host));
	REQUIRE(s->host[len - 1] != '.');
	REQUIRE(s->port > 0);
	REQUIRE(!before || before->priority <= s->priority);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct resolver_services result; /* what is not filled in shows */
	uint8_t *copy = fuzz_copy(data, size);
	unsigned drawn = 0;

	memset(&result, 0xa5, sizeof(result));
	resolver_srv_parse(copy, size, draw, &drawn, &result);
	free(copy);
	REQUIRE(result.n <= RESOLVER_MAX_SERVICES);
	if (result.error) {
		REQUIRE(result.n == 0);
		REQUIRE(result.text[0] &&
			strnlen(result.text, sizeof(result.text)) < sizeof(result.text));
		return 0;
	}
	REQUIRE(result.n > 0);
	for (size_t i = 0; i < result.n; i++)
		check_service(&result.services[i], i ? &result.services[i - 1] : NULL);
	return 0;
}
