/* SPDX-License-Identifier: MIT */
/*
 * Tests of what is given back: less of the program's and the libraries' files is resident, and all
 * that was written to in them, relocations above all, is as it was.
 */
#include <link.h>
#include <sqlite3.h>
#include <stdio.h>

#include "footprint.h"
#include "suites.h"
#include "util.h"

static long resident_file_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[200];
	long n = -1;

	ck_assert_ptr_nonnull(f);
	while (n < 0 && fgets(line, sizeof(line), f))
		(void)sscanf(line, "RssFile: %ld", &n);
	fclose(f);
	ck_assert_int_gt(n, 0);
	return n;
}

/* Relocated, then read-only. */
static int (*const functions[])(const char *, ...) = { printf };
static const char *const texts[] = { "one", "two" };
static int written = 17;

/* Has all that the program and its libraries only read in memory: megabytes. What the kernel counts
 * is off by some pages. AddressSanitizer has its own idea of what may be read. */
static __attribute__((no_sanitize("address"))) int touch_segments(
	struct dl_phdr_info *info, size_t size, void *userdata)
{
	(void)size;
	(void)userdata;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		const volatile char *at = (const volatile char *)(info->dlpi_addr + p->p_vaddr);

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_R) || p->p_flags & PF_W)
			continue;
		for (size_t n = 0; n < p->p_filesz; n += 4096)
			(void)at[n];
	}
	return 0;
}

static int use_library(void)
{
	sqlite3 *db;
	int rc = sqlite3_open(":memory:", &db);

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(
			db, "CREATE TABLE t (x); SELECT count(*) FROM t", NULL, NULL, NULL);
	sqlite3_close(db);
	return rc;
}

START_TEST(test_trim)
{
	long before;

	footprint_init();
	ck_assert_int_eq(use_library(), SQLITE_OK);
	dl_iterate_phdr(touch_segments, NULL);
	before = resident_file_kib();
	written = 18;
	footprint_trim();
	ck_assert_int_lt(resident_file_kib(), before - 1024);
	ck_assert_int_eq(written, 18);
	ck_assert_ptr_eq(functions[0], printf);
	ck_assert_str_eq(texts[1], "two");
	ck_assert_int_eq(use_library(), SQLITE_OK);
	footprint_trim();
	ck_assert_int_eq(use_library(), SQLITE_OK);
}
END_TEST

Suite *check_footprint(void)
{
	Suite *s = suite_create("footprint");
	TCase *t = tcase_create("footprint");

	tcase_add_test(t, test_trim);
	suite_add_tcase(s, t);
	return s;
}
