/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon's pages and figures, against drivers that are honest or wrong. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/support/suite.h"
#include "tests/unit/support/balloon_fixture.h"
#include "virtio/mmio.h"

static bool resident(uint64_t gpa)
{
	unsigned char in;

	ck_assert_int_eq(mincore(vdrv_ram(&bv, gpa, PAGE), PAGE, &in), 0);
	return in & 1;
}

static void inflate(const uint32_t *pfns, unsigned n)
{
	struct vdrv_part p = {BUF, n * 4, false};

	memcpy(vdrv_ram(&bv, BUF, n * 4), pfns, n * 4);
	ck_assert_uint_eq(vdrv_call(&bv, 0, &p, 1), 0);
}

START_TEST(features)
{
	ck_assert_uint_eq(vdrv_offered(&bv) & 0xffffff,
			  HINT | STATS | REPORTING | POISON |
				  VDEV_F(VIRTIO_BALLOON_F_DEFLATE_ON_OOM));
}
END_TEST

START_TEST(inflates_and_deflates)
{
	uint32_t pfns[] = {0x405, 0x400, 0x401, 0x402, 0x402, 0x500};
	struct vdrv_part p = {BUF, sizeof(pfns), false};

	vdrv_start(&bv, EVENT_IDX, 2);
	memset(vdrv_ram(&bv, PAGES, 2 << 20), 0x5a, 2 << 20);
	vdrv_clear_marks(&bv);
	inflate(pfns, 6);
	for (uint64_t pfn = 0x3ff; pfn <= 0x406; pfn++) {
		bool gone = (pfn >= 0x400 && pfn <= 0x402) || pfn == 0x405;

		ck_assert_int_eq(vdrv_marked(&bv, pfn * PAGE), gone);
		ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, pfn * PAGE, 1),
				  gone || pfn < 0x400 ? 0 : 0x5a);
	}
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, 0x500 * PAGE, 1), 0);
	ck_assert_uint_eq(vdrv_call(&bv, 1, &p, 1), 0);
	ck_assert_uint_eq(vdrv_log_lines(), 0);
}
END_TEST

static void check_memory_returned(enum mem_backend backend)
{
	uint32_t pfns[256];
	struct balloon_figures f;

	/* The same device again, with other memory behind it. */
	balloon_teardown();
	vdrv_setup(&bv);
	mem_free(bv.mem);
	ck_assert_int_eq(mem_create(&bv.mem, backend, VDRV_RAM_BYTES, NULL), 0);
	bb = balloon_make();
	vdrv_attach(&bv, balloon_vdev(bb));
	vdrv_start(&bv, EVENT_IDX, 2);
	memset(vdrv_ram(&bv, PAGES, 1 << 20), 0x5a, 1 << 20);
	ck_assert(resident(PAGES));
	for (unsigned i = 0; i < 256; i++)
		pfns[i] = 0x400 + 255 - i;
	inflate(pfns, 256);
	ck_assert(!resident(PAGES) && !resident(PAGES + (1 << 20) - PAGE));
	balloon_figures(bb, &f);
	ck_assert_uint_eq(f.released_bytes, 1 << 20);
}

START_TEST(private_memory_is_returned)
{
	check_memory_returned(MEM_ANON);
}
END_TEST

START_TEST(shared_memory_is_returned)
{
	check_memory_returned(MEM_MEMFD);
}
END_TEST

START_TEST(pages_outside_ram_are_ignored)
{
	uint32_t pfns[] = {VDRV_RAM_BYTES / PAGE, UINT32_MAX, 0x80000, 0x400,
			   VDRV_RAM_BYTES / PAGE - 1};
	struct balloon_figures f;

	vdrv_start(&bv, EVENT_IDX, 2);
	memset(vdrv_ram(&bv, PAGES, PAGE), 1, PAGE);
	memset(vdrv_ram(&bv, VDRV_RAM_BYTES - PAGE, PAGE), 1, PAGE);
	for (int i = 0; i < 20; i++)
		inflate(pfns, 5);
	ck_assert(!vdrv_broken(&bv));
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	balloon_figures(bb, &f);
	ck_assert_uint_ge(f.ignored, 20);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES, 1), 0);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, VDRV_RAM_BYTES - PAGE, 1), 0);
}
END_TEST

START_TEST(odd_page_lists)
{
	struct vdrv_part p = {BUF, 3, false};
	struct vdrv_part both[] = {{BUF, 8, false}, {BUF + 64, 8, true}};
	struct vdrv_part huge = {0, VDRV_RAM_BYTES, false};

	vdrv_start(&bv, EVENT_IDX, 2);
	(void)vdrv_call(&bv, 0, &p, 1);
	(void)vdrv_call(&bv, 0, both, 2);
	/* All of RAM as a list: only its beginning is looked at (numbers of page 0). */
	(void)vdrv_call(&bv, 0, &huge, 1);
	ck_assert(!vdrv_broken(&bv));
}
END_TEST

START_TEST(target_and_actual)
{
	uint64_t gen;

	ck_assert_int_eq(balloon_set_target(bb, VDRV_RAM_BYTES - (1 << 20)), -ENODEV);
	vdrv_start(&bv, EVENT_IDX, 2);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), 256);
	gen = vdrv_in(&bv, VIRTIO_MMIO_CONFIG_GENERATION);
	ck_assert_int_eq(balloon_set_target(bb, VDRV_RAM_BYTES - (2 << 20)), 0);
	ck_assert_uint_ne(vdrv_in(&bv, VIRTIO_MMIO_CONFIG_GENERATION), gen);
	ck_assert_uint_eq(vdrv_in(&bv, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), 512);
	ck_assert_uint_eq(vdrv_config(&bv, 1, 1), 2);
	ck_assert_int_eq(balloon_set_target(bb, UINT64_MAX), 0);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), 0);
	ck_assert_int_eq(balloon_set_target(bb, 0), 0);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), VDRV_RAM_BYTES / PAGE);
	/* The driver's word. */
	vdrv_set_config(&bv, 4, 4, 512);
	ck_assert_uint_eq(told_changes, 1);
	ck_assert_uint_eq(told_actual, VDRV_RAM_BYTES - (2 << 20));
	ck_assert_uint_eq(balloon_actual_bytes(bb), told_actual);
	/* Nonsense, and what is not its to write. */
	vdrv_set_config(&bv, 4, 4, UINT32_MAX);
	ck_assert_uint_eq(balloon_actual_bytes(bb), 0);
	vdrv_set_config(&bv, 0, 4, 7);
	vdrv_set_config(&bv, 8, 4, 7);
	vdev_mmio_write(bv.dev, 0x100 + 14, 8, UINT64_MAX);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), VDRV_RAM_BYTES / PAGE);
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), 0);
	/* A reset gives all back. */
	vdrv_out(&bv, VIRTIO_MMIO_STATUS, 0);
	ck_assert_uint_eq(balloon_actual_bytes(bb), VDRV_RAM_BYTES);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), VDRV_RAM_BYTES / PAGE);
}
END_TEST

START_TEST(reports)
{
	struct vdrv_part p[] = {{PAGES, 2 << 20, true}, {PAGES + (3 << 20) + 1, PAGE + 1, true}};

	vdrv_start(&bv, EVENT_IDX | REPORTING, 3);
	memset(vdrv_ram(&bv, PAGES, 4 << 20), 0x5a, 4 << 20);
	vdrv_clear_marks(&bv);
	/* The driver took neither statistics nor hints: reporting is the third queue. */
	(void)vdrv_call(&bv, 2, p, 2);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES, 1), 0);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES + (2 << 20) - 1, 1), 0);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES + (2 << 20), 1), 0x5a);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES + (3 << 20) + PAGE, 1), 0x5a);
	ck_assert(vdrv_marked(&bv, PAGES) && vdrv_marked(&bv, PAGES + (2 << 20) - 1));
	ck_assert(!vdrv_marked(&bv, PAGES + (3 << 20)));
}
END_TEST

START_TEST(poisoned_pages_stay)
{
	struct vdrv_part p = {PAGES, 1 << 20, true};

	vdrv_start(&bv, EVENT_IDX | REPORTING | POISON | HINT, 4);
	vdrv_set_config(&bv, 12, 4, 0xaaaaaaaa);
	memset(vdrv_ram(&bv, PAGES, 1 << 20), 0xaa, 1 << 20);
	(void)vdrv_call(&bv, 3, &p, 1);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES + 4096, 1), 0xaa);
	ck_assert_int_eq(balloon_hint_start(bb, NULL, NULL), -EOPNOTSUPP);
	/* A poison of zeroes is what comes back by itself. */
	vdrv_set_config(&bv, 12, 4, 0);
	(void)vdrv_call(&bv, 3, &p, 1);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&bv, PAGES + 4096, 1), 0);
}
END_TEST

/* --- statistics --- */

static void put_stat(uint64_t gpa, uint16_t tag, uint64_t value)
{
	uint8_t *at = vdrv_ram(&bv, gpa, 10);

	memcpy(at, &tag, 2);
	memcpy(at + 2, &value, 8);
}

START_TEST(statistics)
{
	struct vdrv_part p = {BUF, 30, false};
	struct balloon_stats st;
	uint32_t id, len;

	ck_assert_int_eq(balloon_stats(bb, &st), -EOPNOTSUPP);
	vdrv_start(&bv, EVENT_IDX | STATS, 3);
	ck_assert_int_eq(balloon_stats(bb, &st), 0);
	ck_assert_uint_eq(st.updated_ns, 0);
	ck_assert_int_eq(balloon_stats_request(bb), -EAGAIN);
	put_stat(BUF, VIRTIO_BALLOON_S_MEMFREE, 1 << 30);
	put_stat(BUF + 10, VIRTIO_BALLOON_S_HTLB_PGFAIL, 3);
	put_stat(BUF + 20, 999, 4);
	vdrv_add(&bv, 2, &p, 1);
	vdrv_kick(&bv, 2);
	vdrv_run(&bv);
	/* It is kept until the next figures are wanted. */
	ck_assert(!vdrv_used(&bv, 2, &id, &len));
	ck_assert_int_eq(balloon_stats(bb, &st), 0);
	ck_assert_uint_ne(st.updated_ns, 0);
	ck_assert_uint_eq(st.known,
			  1u << VIRTIO_BALLOON_S_MEMFREE | 1u << VIRTIO_BALLOON_S_HTLB_PGFAIL);
	ck_assert_uint_eq(st.value[VIRTIO_BALLOON_S_MEMFREE], 1 << 30);
	for (int i = 0; i < 3; i++) {
		if (i == 1)
			balloon_move();
		ck_assert_int_eq(balloon_stats_request(bb), 0);
		ck_assert_int_eq(balloon_stats_request(bb), -EAGAIN);
		vdrv_run(&bv);
		ck_assert(vdrv_used(&bv, 2, &id, &len));
		ck_assert(bv.irq.level);
		put_stat(BUF, VIRTIO_BALLOON_S_MEMFREE, (uint64_t)i);
		vdrv_add(&bv, 2, &p, 1);
		/* Was the doorbell asked for? */
		ck_assert_uint_eq(bv.q[2].used16[2 + 4 * 64], (uint16_t)(bv.q[2].avail_idx - 1));
		vdrv_kick(&bv, 2);
		vdrv_run(&bv);
		ck_assert_int_eq(balloon_stats(bb, &st), 0);
		ck_assert_uint_eq(st.value[VIRTIO_BALLOON_S_MEMFREE], (uint64_t)i);
	}
}
END_TEST

START_TEST(statistics_of_any_size)
{
	struct vdrv_part p[] = {{0, VDRV_RAM_BYTES, false}, {BUF, 1, false}, {BUF, 7, true}};

	vdrv_start(&bv, EVENT_IDX | STATS, 3);
	for (unsigned i = 0; i < 3; i++) {
		struct balloon_stats st;

		vdrv_add(&bv, 2, &p[i], 1);
		vdrv_kick(&bv, 2);
		vdrv_run(&bv);
		ck_assert_int_eq(balloon_stats(bb, &st), 0);
		ck_assert_uint_ne(st.updated_ns, 0);
		ck_assert_int_eq(balloon_stats_request(bb), 0);
	}
	ck_assert(!vdrv_broken(&bv));
}
END_TEST

START_TEST(bad_states_refused)
{
	struct balloon_state good, st;

	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	ck_assert_int_eq(vdev_pause(bv.dev, NULL), 0);
	vdev_save(bv.dev, &good);
	ck_assert_int_eq(vdev_check(bv.dev, &good, NULL), 0);
	st = good;
	st.hint_next_id = 1;
	ck_assert_int_eq(vdev_check(bv.dev, &st, NULL), -EINVAL);
	st = good;
	st.num_pages = VDRV_RAM_BYTES / PAGE + 1;
	ck_assert_int_eq(vdev_check(bv.dev, &st, NULL), -EINVAL);
	st = good;
	st.stats_known = 1 << BALLOON_N_STATS;
	ck_assert_int_eq(vdev_check(bv.dev, &st, NULL), -EINVAL);
}
END_TEST

SUITE_WITH("balloon", balloon_setup, balloon_teardown, features, inflates_and_deflates,
	   private_memory_is_returned, shared_memory_is_returned, pages_outside_ram_are_ignored,
	   odd_page_lists, target_and_actual, reports, poisoned_pages_stay, statistics,
	   statistics_of_any_size, bad_states_refused)
