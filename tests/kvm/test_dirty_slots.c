/* SPDX-License-Identifier: Apache-2.0 */
/* Memory slots that begin at any page of a block: the log of each, and what protecting costs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/dirty_log.h"
#include "mem/bits.h"
#include "migration/bitmap.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"

#define PAGES     4096 /* 16 MiB */
#define MEM_BYTES (PAGES * MEM_PAGE_BYTES)
#define WORDS     (PAGES / 64)

static struct vmtest t;
static struct dirty_log dl;
static struct mig_bitmap map;
static struct err e;

/*
 * mov dx,0x10; 1: in eax,dx (first page); mov ebx,eax; in eax,dx (count); mov ecx,eax; shl ebx,12;
 * 2: mov [ebx],edx; add ebx,4096; dec ecx; jnz 2b; out dx,al; jmp 1b
 */
static const uint8_t touch_code[] = {0x66, 0xba, 0x10, 0x00, 0xed, 0x89, 0xc3, 0xed, 0x89,
				     0xc1, 0xc1, 0xe3, 0x0c, 0x89, 0x13, 0x81, 0xc3, 0x00,
				     0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xee, 0xeb, 0xe9};

/* Have the guest write n pages from `page` on. */
static void touch(uint32_t page, uint32_t n)
{
	const uint32_t answers[] = {page, n};
	struct vcpu_exit ex;

	for (unsigned i = 0; i < 2; i++) {
		vmtest_run(&t, &ex, VCPU_EXIT_IO);
		ck_assert(!ex.io.out);
		memcpy(ex.io.data, &answers[i], sizeof(answers[i]));
	}
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	ck_assert(ex.io.out);
}

/* The log as a sync sees it: all slots, merged into an empty bitmap. */
static const uint64_t *read_log(void)
{
	uint64_t pages = PAGES;

	mig_bitmap_free(&map);
	ck_assert_int_eq(mig_bitmap_init(&map, &pages, 1), 0);
	for (unsigned i = 0; i < t.vm->n_slots; i++) {
		struct dirty_log_part part;

		ck_assert_msg(!dirty_log_read(&dl, i, &part, &e), "%s", e.msg);
		ck_assert_uint_eq(part.block, 0);
		(void)mig_bitmap_merge(&map, 0, part.first_page, part.words, part.n_pages);
	}
	return map.blocks[0].words;
}

static void protect(uint64_t first_word, const uint64_t *mask, uint64_t n_words)
{
	ck_assert_msg(!dirty_log_protect(&dl, 0, first_word, mask, n_words, &e), "%s", e.msg);
}

static bool open_slots(uint64_t slot_pages)
{
	const struct vm_config cfg = {.kvm_fd = -1, .slot_pages = slot_pages};
	uint64_t all[WORDS];

	e = (struct err)ERR_INIT;
	vmtest_open_as(&t, MEM_BYTES, 1, &cfg);
	VMTEST_CODE(&t, touch_code);
	dirty_log_init(&dl, t.vm);
	ck_assert_msg(!dirty_log_start(&dl, &e), "%s", e.msg);
	touch(1000, 1); /* past the guest's first steps */
	memset(all, 0xff, sizeof(all));
	(void)read_log();
	protect(0, all, WORDS);
	ck_assert_uint_eq(bits_count(read_log(), WORDS), 0);
	if (!dl.manual)
		(void)printf("SKIP protect: KVM has no manual mode\n");
	return dl.manual;
}

static void close_slots(void)
{
	dirty_log_stop(&dl);
	mig_bitmap_free(&map);
	vmtest_close(&t);
}

/* Pages in bursts, protected in ranges, with a model beside it. */
static void against_model(uint64_t slot_pages)
{
	uint64_t model[WORDS] = {0}, mask[WORDS];

	if (!open_slots(slot_pages)) {
		close_slots();
		return;
	}
	srandom((unsigned)slot_pages);
	for (unsigned round = 0; round < 60; round++) {
		uint64_t first = (uint64_t)random() % WORDS,
			 n = (uint64_t)random() % (WORDS - first);

		for (unsigned i = 0; i < 8; i++) {
			uint32_t page = 256 + (uint32_t)random() % (PAGES - 256);
			uint32_t run = 1 + (uint32_t)random() % 20;

			run = run < PAGES - page ? run : PAGES - page;
			touch(page, run);
			bits_set_range(model, page, run);
		}
		ck_assert_mem_eq(read_log(), model, sizeof(model));
		for (uint64_t w = 0; w < n; w++) {
			mask[w] = random() % 3 ? ~0ull : (uint64_t)random() << 20;
			model[first + w] &= ~mask[w];
		}
		protect(first, mask, n);
		ck_assert_mem_eq(read_log(), model, sizeof(model));
	}
	close_slots();
}

START_TEST(like_the_model)
{
	static const uint64_t slot_pages[] = {0, 1024, 14, 65, 1000, 1001, 2047, 4095};

	NEED_KVM();
	for (unsigned i = 0; i < sizeof(slot_pages) / sizeof(slot_pages[0]); i++)
		against_model(slot_pages[i]);
}
END_TEST

/* Calls that it takes to protect the pages of [first, first+n) whose number is one mod `every`. */
static uint64_t calls_for(uint64_t first, uint64_t n, uint64_t every)
{
	uint64_t mask[WORDS] = {0}, before = dl.clear_calls, from = first / 64;

	for (uint64_t p = first; p < first + n; p++) {
		if (p % every == every / 2)
			bits_set(mask, p);
	}
	protect(from, mask + from, bits_words(first + n) - from);
	return dl.clear_calls - before;
}

/*
 * A region of 4 MiB that begins and ends in the middle of words, its pages dirty by turns: that is
 * 512 ranges, and a caller who may only name aligned whole ones would need two calls for each page.
 */
START_TEST(few_calls)
{
	static const uint64_t aligned[] = {0, 64, 2048};

	NEED_KVM();
	for (uint64_t shift = 0; shift < 64; shift += 7) {
		/* The region crosses from one slot into the next, at a page of any alignment. */
		if (!open_slots(1536 + shift)) {
			close_slots();
			return;
		}
		ck_assert_uint_eq(calls_for(1024 + shift, 1024, 2), 2);
		ck_assert_uint_eq(calls_for(1024 + shift, 1024, 1), 2);
		/* Within one slot it is a single one. */
		ck_assert_uint_eq(calls_for(1600 + shift, 1024, 2), 1);
		ck_assert_uint_eq(calls_for(1601 + shift, 1, 1), 1);
		ck_assert_uint_eq(calls_for(0, 0, 1), 0);
		close_slots();
	}
	ck_assert(open_slots(0));
	for (unsigned i = 0; i < sizeof(aligned) / sizeof(aligned[0]); i++)
		ck_assert_uint_eq(calls_for(aligned[i] + 5, 1024, 3), 1);
	ck_assert_uint_eq(calls_for(0, PAGES, 1000), 1);
	close_slots();
}
END_TEST

START_TEST(too_many_slots)
{
	const struct vm_config cfg = {.kvm_fd = -1, .slot_pages = 12};
	struct vm *vm;

	NEED_KVM();
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(mem_create(&t.mem, MEM_ANON, MEM_BYTES, &e), 0);
	ck_assert_int_eq(vm_create(&vm, &cfg, t.mem, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "slots"));
	mem_free(t.mem);
}
END_TEST

SUITE("dirty_slots", like_the_model, few_calls, too_many_slots)
