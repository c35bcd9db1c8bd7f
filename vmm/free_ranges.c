/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/free_ranges.h"

#include <errno.h>
#include <inttypes.h>

int free_ranges_add(struct free_ranges *f, const struct mem *mem, uint64_t gpa, uint64_t bytes,
		    struct err *e)
{
	if (f->n == FREE_RANGES_MAX)
		return err_set(e, EINVAL, "more than %d ranges of free pages", FREE_RANGES_MAX);
	if (!bytes || (gpa | bytes) & (MEM_PAGE_BYTES - 1))
		return err_set(e, EINVAL,
			       "free pages 0x%" PRIx64 "+%" PRIu64
			       ": not whole pages of %llu bytes",
			       gpa, bytes, MEM_PAGE_BYTES);
	if (!mem_host(mem, gpa, bytes))
		return err_set(
			e, EINVAL,
			"free pages 0x%" PRIx64 "+%" PRIu64
			": not in the guest's RAM, which is at 0 and, what is more than %llu "
			"MiB, at 4096 MiB",
			gpa, bytes, MEM_HOLE_START >> 20);
	f->range[f->n].gpa = gpa;
	f->range[f->n].bytes = bytes;
	f->n++;
	return 0;
}

static void begin(void *ctx, void (*hint)(void *hint_ctx, uint64_t gpa, uint64_t len),
		  void *hint_ctx)
{
	const struct free_ranges *f = ctx;

	for (unsigned i = 0; i < f->n; i++)
		hint(hint_ctx, f->range[i].gpa, f->range[i].bytes);
}

/* All is told by then, and no guest waits for anything back. */
static void nothing(void *ctx)
{
	(void)ctx;
}

struct mig_free_source free_ranges_source(struct free_ranges *f)
{
	return (struct mig_free_source){.ctx = f, .begin = begin, .end = nothing, .done = nothing};
}
