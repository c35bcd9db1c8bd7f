/* SPDX-License-Identifier: Apache-2.0 */
/* Free pages that the user names: what is taken, and that a migration leaves them out. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "mem/page.h"
#include "tests/unit/support/pair.h"
#include "vmm/ctl/migrate_info.h"
#include "vmm/free_ranges.h"

#define RAM_PAGES 4096ull

static struct err err;
static struct free_ranges ranges;

static int take(const struct mem *m, const char *text)
{
	json_t *list = json_loads(text, 0, NULL);
	int rc;

	ck_assert_ptr_nonnull(list);
	err_clear(&err);
	ranges.n = 0;
	rc = migrate_free_ranges(&ranges, m, list, &err);
	json_decref(list);
	return rc;
}

START_TEST(what_is_taken)
{
	static const char *const wrong[] = {
		"[5]",
		"[{}]",
		"[{\"gpa\": 0}]",
		"[{\"gpa\": 0, \"bytes\": \"4096\"}]",
		"[{\"gpa\": 0, \"bytes\": 4096, \"more\": 1}]",
		"[{\"gpa\": -4096, \"bytes\": 4096}]",
		"[{\"gpa\": 0, \"bytes\": -4096}]",
		"[{\"gpa\": 0, \"bytes\": 0}]",
		"[{\"gpa\": 1, \"bytes\": 4096}]",
		"[{\"gpa\": 0, \"bytes\": 4097}]",
		"[{\"gpa\": 0, \"bytes\": 5368709120}]", /* all RAM, and the hole in it */
		"[{\"gpa\": 3221225472, \"bytes\": 4096}]",
		"[{\"gpa\": 3221221376, \"bytes\": 8192}]",
		"[{\"gpa\": 9223372036854771712, \"bytes\": 9223372036854771712}]",
		"[{\"gpa\": 6442446848, \"bytes\": 8192}]",
	};
	struct mem *m;

	ck_assert_int_eq(mem_create(&m, MEM_ANON, 5ull << 30, &err), 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ck_assert_msg(take(m, wrong[i]) == -EINVAL, "%s", wrong[i]);
		ck_assert_msg(strlen(err.msg) > 20, "%s", err.msg);
	}
	ck_assert_int_eq(take(m, "[]"), 0);
	ck_assert_int_eq(migrate_free_ranges(&ranges, m, NULL, &err), 0);
	ck_assert_uint_eq(ranges.n, 0);
	ck_assert_int_eq(take(m, "[{\"gpa\": 4294967296, \"bytes\": 2147483648},"
				 " {\"bytes\": 3221225472, \"gpa\": 0}]"),
			 0);
	ck_assert_uint_eq(ranges.n, 2);
	ck_assert_uint_eq(ranges.range[0].gpa, 4ull << 30);
	ck_assert_uint_eq(ranges.range[1].bytes, 3ull << 30);
	while (ranges.n < FREE_RANGES_MAX)
		ck_assert_int_eq(free_ranges_add(&ranges, m, 0, 4096, &err), 0);
	ck_assert_int_eq(free_ranges_add(&ranges, m, 0, 4096, &err), -EINVAL);
	mem_free(m);
}
END_TEST

/* One gap between two ranges, and a page in a range that is written after the round began. */
static void no_end(void *ctx)
{
	(void)ctx;
}

static void write_one(void *ctx, void (*hint)(void *hint_ctx, uint64_t gpa, uint64_t len),
		      void *hint_ctx)
{
	struct pair *p = ctx;

	synth_store(p->src, 300, 77);
	hint(hint_ctx, 3000 * MEM_PAGE_BYTES, 96 * MEM_PAGE_BYTES);
}

START_TEST(left_out)
{
	struct pair p;
	struct mig_free_source sources[2];
	struct mig_status st;

	pair_up(&p, RAM_PAGES * MEM_PAGE_BYTES, 21);
	synth_fill(p.src, 0, RAM_PAGES);
	ck_assert_int_eq(take(p.src->mem, "[{\"gpa\": 1048576, \"bytes\": 409600},"
					  " {\"gpa\": 2097152, \"bytes\": 8192}]"),
			 0);
	sources[0] = free_ranges_source(&ranges);
	/* The other source, after the ranges: it writes to one of their pages. */
	sources[1] = (struct mig_free_source){
		.ctx = &p, .begin = write_one, .end = no_end, .done = no_end};
	p.src->free_sources = sources;
	p.src->n_free_sources = 2;
	pair_send(&p, 300);
	ck_assert_int_eq(synth_wait_end(p.src), MIG_COMPLETED);
	ck_assert(synth_wait(p.dst, 1u << MIG_COMPLETED));
	st = synth_status(p.src);
	ck_assert_uint_eq(st.free_pages, 100 + 2 + 96);
	for (uint64_t page = 0; page < RAM_PAGES; page++) {
		const void *there = synth_page(p.dst, page);
		bool free = (page >= 256 && page < 356 && page != 300) ||
			    (page >= 512 && page < 514) || (page >= 3000 && page < 3096);

		if (free)
			ck_assert(page_is_zero(there));
		else
			ck_assert(!memcmp(synth_page(p.src, page), there, MEM_PAGE_BYTES));
	}
	pair_down(&p);
}
END_TEST

PAIR_SUITE("free-ranges", what_is_taken, left_out)
