/* SPDX-License-Identifier: MIT */
/*
 * See footprint.h.
 */
#include "footprint.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>

/*
 * glibc's own figures suit a program on a large machine: an arena for each thread, and thresholds
 * that grow with what is freed, up to 32 MB. The gateway's and the uplink's thread are busy at the
 * same time; the resolver's shares with them.
 */
#define ARENAS	       2
#define MMAP_THRESHOLD (128 * 1024)
#define TRIM_THRESHOLD (64 * 1024)
#define TOP_PAD	       (32 * 1024)

void footprint_init(void)
{
	mallopt(M_ARENA_MAX, ARENAS);
	mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD);
	mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD);
	mallopt(M_TOP_PAD, TOP_PAD);
}

/* Relocations write to segments that are read-only otherwise. */
static bool has_text_relocations(const struct dl_phdr_info *info)
{
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type != PT_DYNAMIC)
			continue;
		for (const ElfW(Dyn) *d = (const ElfW(Dyn) *)(info->dlpi_addr + p->p_vaddr);
			d->d_tag != DT_NULL; d++)
			if (d->d_tag == DT_TEXTREL ||
				(d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_TEXTREL)))
				return true;
	}
	return false;
}

static int release(struct dl_phdr_info *info, size_t size, void *userdata)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)size;
	(void)userdata;
	/* The vdso is in no file. */
	if (!info->dlpi_name || has_text_relocations(info))
		return 0;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t begin, end;

		/* What was written to would be lost (as breakpoints are that a debugger has set
		 * before: it sets them again when it has stopped). */
		if (p->p_type != PT_LOAD || (p->p_flags & PF_W))
			continue;
		begin = (info->dlpi_addr + p->p_vaddr) & ~(page - 1);
		end = (info->dlpi_addr + p->p_vaddr + p->p_filesz) & ~(page - 1);
		if (begin < end)
			(void)madvise((void *)begin, end - begin, MADV_DONTNEED);
	}
	return 0;
}

void footprint_trim(void)
{
	malloc_trim(0);
	dl_iterate_phdr(release, NULL);
}
