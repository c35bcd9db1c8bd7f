/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest far larger than this host's memory: RAM that is nearly all holes. What the engine does
 * for each page and each sync is real; only the bytes are not there.
 *
 * FERRY_TEST_LARGE_GIB sets the size; the figures are then printed.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/support/pair.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define USUAL_GIB 8
#else
#define USUAL_GIB 256
#endif
#define PATCH_PAGES 300 /* a place with bytes; there are PATCHES, one of them at the very end */
#define PATCHES     5
#define WRITES      2000 /* a second, to the last patch */

static uint64_t gib(void)
{
	const char *text = getenv("FERRY_TEST_LARGE_GIB");

	return text ? strtoull(text, NULL, 10) : USUAL_GIB;
}

static uint64_t patch(const struct synth *s, unsigned i)
{
	return (synth_n_pages(s) - PATCH_PAGES) / (PATCHES - 1) * i;
}

static void expect_same(const struct pair *p)
{
	for (unsigned i = 0; i < PATCHES; i++) {
		for (uint64_t k = 0; k < PATCH_PAGES; k++) {
			uint64_t page = patch(p->src, i) + k;

			ck_assert_msg(!memcmp(synth_page(p->src, page), synth_page(p->dst, page),
					      MEM_PAGE_BYTES),
				      "page %llu differs", (unsigned long long)page);
		}
	}
}

static void show(const struct mig_status *st)
{
	if (getenv("FERRY_TEST_LARGE_GIB"))
		(void)printf("%llu GiB: %.1f s, %llu passes, %llu syncs of %.3f ms, last %.3f ms, "
			     "%llu bytes, %llu calls to protect, %.1f ms dark\n",
			     (unsigned long long)gib(), (double)st->total_ns / 1e9,
			     (unsigned long long)st->passes, (unsigned long long)st->syncs,
			     (double)st->sync_ns_total / 1e6 / (double)st->syncs,
			     (double)st->sync_ns_last / 1e6,
			     (unsigned long long)st->transferred_bytes,
			     (unsigned long long)st->protect_calls, (double)st->downtime_ns / 1e6);
}

START_TEST(holes)
{
	const struct synth_config cfg = {.ram_bytes = gib() << 30, .backend = MEM_MEMFD, .seed = 8};
	unsigned ends = WATCH(MIG_COMPLETED) | WATCH(MIG_FAILED) | WATCH(MIG_CANCELLED);
	struct mig_status st;
	const char *wrong;
	struct pair p;

	synth_guest_init(&p.guest);
	p.src = synth_source(&p.guest, &cfg);
	p.dst = synth_dest(&p.guest, &cfg);
	synth_listen(p.dst, "tcp:127.0.0.1:0");
	for (unsigned i = 0; i < PATCHES; i++)
		synth_fill(p.src, patch(p.src, i), PATCH_PAGES);
	synth_start_writer(p.src, patch(p.src, PATCHES - 1), PATCH_PAGES, WRITES);
	synth_start_host_writer(p.src, patch(p.src, 2), PATCH_PAGES);
	pair_send(&p, 2000);
	for (unsigned i = 0; i < 30 && !synth_wait(p.src, ends); i++)
		;
	st = synth_status(p.src);
	ck_assert_msg(st.state == MIG_COMPLETED, "%s: %s", mig_state_name(st.state), st.error);
	ck_assert(synth_wait(p.dst, WATCH(MIG_COMPLETED)));
	wrong = synth_check_owner(p.src, MIG_COMPLETED);
	ck_assert_msg(!wrong, "%s", wrong);
	show(&st);
	expect_same(&p);
	ck_assert_uint_ge(st.zero_pages, synth_n_pages(p.src) - PATCHES * PATCH_PAGES);
	ck_assert_uint_le(st.normal_pages, (st.passes + 2) * PATCHES * PATCH_PAGES);
	/* Holes cost a few bytes a window, at both ends nothing was allocated for them. */
	ck_assert_uint_lt(st.transferred_bytes, st.normal_pages * (MEM_PAGE_BYTES + 64) +
							st.protect_calls * 256 + (1u << 20));
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine_large", holes)
