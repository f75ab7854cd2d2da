/* SPDX-License-Identifier: MIT */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>

void bench_die(const char *what, int r)
{
	if (r < 0)
		fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
			strerrordesc_np(-r));
	else
		fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
	exit(1);
}

uint64_t bench_number(const char *text, uint64_t most)
{
	unsigned long long n;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno != 0 || end == text || *end || n < 1 || n > most) {
		fprintf(stderr, "%s: %s: not a number of 1 to %" PRIu64 "\n",
			program_invocation_short_name, text, most);
		exit(2);
	}
	return n;
}

static void put_hex(char *p, unsigned digits, uint64_t value)
{
	while (digits-- > 0) {
		p[digits] = "0123456789abcdef"[value & 15];
		value >>= 4;
	}
}

static bool get_hex(const char *p, unsigned digits, uint64_t *ret)
{
	uint64_t value = 0;

	for (; digits > 0; digits--, p++) {
		if (*p >= '0' && *p <= '9')
			value = value << 4 | (uint64_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			value = value << 4 | (uint64_t)(*p - 'a' + 10);
		else
			return false;
	}
	*ret = value;
	return true;
}

void bench_stamp(char *p, uint32_t number, uint64_t usec)
{
	put_hex(p, 8, number);
	put_hex(p + 8, 12, usec);
}

bool bench_read_stamp(const char *p, size_t len, uint32_t *ret_number, uint64_t *ret_usec)
{
	uint64_t number, usec;

	if (len < BENCH_STAMP || !get_hex(p, 8, &number) || !get_hex(p + 8, 12, &usec))
		return false;
	*ret_number = (uint32_t)number;
	*ret_usec = usec;
	return true;
}

void bench_times_init(struct bench_times *t, size_t max)
{
	*t = (struct bench_times){ .usec = calloc(max, sizeof(*t->usec)), .max = max };
	if (!t->usec)
		bench_die("times", -ENOMEM);
}

void bench_times_free(struct bench_times *t)
{
	free(t->usec);
	*t = (struct bench_times){ 0 };
}

void bench_times_add(struct bench_times *t, uint64_t usec)
{
	if (t->n < t->max)
		t->usec[t->n++] = (uint32_t)u64_min(usec, UINT32_MAX);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

void bench_times_print(struct bench_times *t, const char *name)
{
	static const struct {
		const char *name;
		double part;
	} points[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p999", 0.999 } };

	if (t->n == 0) {
		printf("\"%s\": null", name);
		return;
	}
	qsort(t->usec, t->n, sizeof(*t->usec), compare);
	printf("\"%s\": {", name);
	for (size_t i = 0; i < ARRAY_SIZE(points); i++)
		printf("\"%s\": %" PRIu32 ", ", points[i].name,
			t->usec[(size_t)((double)(t->n - 1) * points[i].part)]);
	printf("\"max\": %" PRIu32 "}", t->usec[t->n - 1]);
}

uint64_t bench_written(void)
{
	FILE *f = fopen("/proc/self/io", "re");
	uint64_t bytes = 0;
	char line[100];

	if (!f)
		bench_die("/proc/self/io", -errno);
	while (fgets(line, sizeof(line), f) && sscanf(line, "write_bytes: %" SCNu64, &bytes) != 1)
		;
	fclose(f);
	return bytes;
}

void bench_prepare(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	prctl(PR_SET_TIMERSLACK, 1000UL); /* nanoseconds */
}

int bench_epoll_wait(int fd, struct epoll_event *events, int max, uint64_t until_usec)
{
	uint64_t now = now_usec(), usec = until_usec > now ? until_usec - now : 0;
	const struct timespec ts = { .tv_sec = (time_t)(usec / USEC_PER_SEC),
		.tv_nsec = (long)(usec % USEC_PER_SEC) * 1000 };
	int n;

	n = epoll_pwait2(fd, events, max, until_usec == UINT64_MAX ? NULL : &ts, NULL);
	if (n < 0 && errno != EINTR)
		bench_die("epoll", -errno);
	return n < 0 ? 0 : n;
}
