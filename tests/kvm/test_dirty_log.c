/* SPDX-License-Identifier: Apache-2.0 */
/* KVM's dirty log in its manual and its plain mode: nothing lost, nothing cleared unasked. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kvm/dirty_log.h"
#include "mem/bits.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"
#include "vmm/cpu.h"

/* A last word that is not full: KVM's rule for the slot's end. */
#define PAGES     (1024 + 37)
#define MEM_BYTES (PAGES * MEM_PAGE_BYTES)
#define WORDS     ((PAGES + 63) / 64)

static struct vmtest t;
static struct vcpu_exit ex;
static struct dirty_log dl;
static struct err e;

/* mov dx,0x10; 1: in eax,dx; shl eax,12; mov [eax],edx; inc ecx; mov al,1; out dx,al; jmp 1b */
static const uint8_t touch_code[] = {0x66, 0xba, 0x10, 0x00, 0xed, 0xc1, 0xe0, 0x0c,
				     0x89, 0x10, 0x41, 0xb0, 0x01, 0xee, 0xeb, 0xf4};

/* Have the guest write one page. */
static void touch(uint32_t page)
{
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	ck_assert(!ex.io.out);
	memcpy(ex.io.data, &page, sizeof(page));
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	ck_assert(ex.io.out);
}

static uint64_t *read_log(void)
{
	static uint64_t copy[WORDS];
	struct dirty_log_part part;

	ck_assert_msg(!dirty_log_read(&dl, 0, &part, &e), "%s", e.msg);
	memcpy(copy, part.words, sizeof(copy));
	if (PAGES % 64)
		copy[WORDS - 1] &= (1ull << (PAGES % 64)) - 1;
	return copy;
}

static void protect(uint64_t first_word, const uint64_t *mask, uint64_t n_words)
{
	ck_assert_msg(!dirty_log_protect(&dl, 0, first_word, mask, n_words, &e), "%s", e.msg);
}

static void protect_all(void)
{
	uint64_t all[WORDS];

	memset(all, 0xff, sizeof(all));
	protect(0, all, WORDS);
}

/* The log's pages are exactly these. */
static void expect(const uint32_t *pages, unsigned n)
{
	uint64_t *words = read_log();

	for (uint32_t p = 0; p < PAGES; p++) {
		bool want = false;

		for (unsigned i = 0; i < n; i++)
			want |= pages[i] == p;
		ck_assert_msg(bits_test(words, p) == want, "page %u is%s in the log", p,
			      want ? " not" : "");
	}
}
#define EXPECT(...) \
	expect((const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

static void open_log(bool plain)
{
	e = (struct err)ERR_INIT;
	vmtest_open(&t, MEM_BYTES, 1, plain);
	VMTEST_CODE(&t, touch_code);
	touch(1000); /* past the guest's first steps */
	dirty_log_init(&dl, t.vm);
	ck_assert(!plain || !dl.manual);
	ck_assert_msg(!dirty_log_start(&dl, &e), "%s", e.msg);
	(void)read_log(); /* plain: this protects */
	protect_all();
	expect(NULL, 0);
}

static void close_log(void)
{
	dirty_log_stop(&dl);
	dirty_log_stop(&dl);
	vmtest_close(&t);
}

START_TEST(manual_cycle)
{
	uint64_t mask[WORDS] = {0};

	NEED_KVM();
	open_log(false);
	if (!dl.manual) {
		(void)printf("SKIP manual_cycle: KVM has no manual mode\n");
		close_log();
		return;
	}
	touch(300);
	touch(301);
	touch(PAGES - 1);
	EXPECT(300, 301, PAGES - 1);
	EXPECT(300, 301, PAGES - 1); /* reading changes nothing */
	mask[300 / 64] = 1ull << (300 % 64);
	protect(0, mask, WORDS);
	EXPECT(301, PAGES - 1); /* the neighbour in the same word stays */
	protect(300 / 64, &mask[300 / 64], 1);
	EXPECT(301, PAGES - 1);
	touch(300);
	EXPECT(300, 301, PAGES - 1);
	touch(PAGES - 1);
	mask[0] = ~0ull; /* the slot's end: its last word alone, with bits that no page has */
	protect(WORDS - 1, mask, 1);
	EXPECT(300, 301);
	protect_all();
	expect(NULL, 0);
	touch(64);
	touch(63);
	EXPECT(63, 64);
	ck_assert_uint_gt(dl.clear_calls, 0);
	ck_assert_uint_gt(dl.clear_pages, 0);
	close_log();
}
END_TEST

START_TEST(plain_cycle)
{
	uint64_t mask[WORDS] = {0};

	NEED_KVM();
	open_log(true);
	touch(300);
	touch(PAGES - 1);
	EXPECT(300, PAGES - 1);
	expect(NULL, 0); /* given once */
	touch(300);
	mask[300 / 64] = 1ull << (300 % 64);
	protect(0, mask, WORDS); /* nothing to do: it must not forget the write */
	EXPECT(300);
	touch(301);
	touch(300);
	EXPECT(300, 301);
	ck_assert_uint_eq(dl.clear_calls, 0);
	close_log();
}
END_TEST

START_TEST(start_stop_start)
{
	NEED_KVM();
	for (int plain = 0; plain < 2; plain++) {
		open_log(plain);
		touch(10);
		dirty_log_stop(&dl);
		touch(11);
		ck_assert_int_eq(dirty_log_read(&dl, 0, &(struct dirty_log_part){0}, NULL),
				 -EINVAL);
		ck_assert_int_eq(dirty_log_start(&dl, &e), 0);
		(void)read_log();
		protect_all();
		touch(12);
		EXPECT(12);
		close_log();
	}
}
END_TEST

START_TEST(bad_ranges)
{
	uint64_t mask[WORDS + 1] = {0};

	NEED_KVM();
	open_log(false);
	ck_assert_int_eq(dirty_log_protect(&dl, 1, 0, mask, 1, NULL), -EINVAL);
	ck_assert_int_eq(dirty_log_protect(&dl, 0, 0, mask, WORDS + 1, NULL), -EINVAL);
	ck_assert_int_eq(dirty_log_protect(&dl, 0, WORDS, mask, 1, NULL), -EINVAL);
	ck_assert_int_eq(dirty_log_protect(&dl, 0, UINT64_MAX, mask, 1, NULL), -EINVAL);
	ck_assert_int_eq(dirty_log_protect(&dl, 0, 1, mask, UINT64_MAX, NULL), -EINVAL);
	ck_assert_int_eq(dirty_log_protect(&dl, 0, WORDS, mask, 0, NULL), 0);
	close_log();
}
END_TEST

/* Every start and every length: KVM's rules on alignment are kept whatever is asked for. */
START_TEST(every_range)
{
	uint64_t mask[WORDS];

	NEED_KVM();
	open_log(false);
	for (uint64_t first = 0; first < WORDS; first++) {
		for (uint64_t n = 1; n <= WORDS - first; n++) {
			for (uint64_t w = 0; w < n; w++)
				mask[w] = (first * 31 + n * 17 + w * 7) % 3 ? 1ull << w : 0;
			protect(first, mask, n);
		}
	}
	close_log();
}
END_TEST

START_TEST(two_blocks)
{
	struct dirty_log_part part;

	NEED_KVM();
	e = (struct err)ERR_INIT;
	vmtest_open(&t, MEM_HOLE_START + (3ull << 20) + MEM_PAGE_BYTES, 1, false);
	dirty_log_init(&dl, t.vm);
	ck_assert_int_eq(t.mem->n_blocks, 2);
	ck_assert_msg(!dirty_log_start(&dl, &e), "%s", e.msg);
	for (unsigned b = 0; b < 2; b++) {
		uint64_t n = bits_words(t.mem->blocks[b].n_pages);
		uint64_t *mask = malloc(n * sizeof(*mask));

		memset(mask, 0xff, n * sizeof(*mask));
		ck_assert_msg(!dirty_log_read(&dl, b, &part, &e), "%s", e.msg);
		ck_assert_msg(!dirty_log_protect(&dl, b, 0, mask, n, &e), "%s", e.msg);
		ck_assert_msg(!dirty_log_read(&dl, b, &part, &e), "%s", e.msg);
		ck_assert_uint_eq(bits_next_set(part.words, t.mem->blocks[b].n_pages, 0),
				  t.mem->blocks[b].n_pages);
		free(mask);
	}
	ck_assert_int_eq(dirty_log_read(&dl, 2, &part, NULL), -EINVAL);
	close_log();
}
END_TEST

/*
 * The race that matters: a vCPU writes without pause while another thread does what a migration
 * does. Whatever the copy holds in the end is what RAM holds.
 */
#define RACE_FIRST 256 /* page; the guest writes 512 from here, code is below */
#define RACE_PAGES 512

/*
 * 0: mov ebx,0x100000; mov ecx,512; inc eax; 1: mov [ebx],eax; add ebx,4096; dec ecx; jnz 1b; jmp
 * 0b
 */
static const uint8_t race_code[] = {0xbb, 0x00, 0x00, 0x10, 0x00, 0xb9, 0x00, 0x02,
				    0x00, 0x00, 0x40, 0x89, 0x03, 0x81, 0xc3, 0x00,
				    0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xeb, 0xe8};

static bool race_exit(void *ctx, struct vcpu *v, const struct vcpu_exit *exit)
{
	(void)ctx;
	(void)v;
	(void)exit;
	return false;
}

/* The guest writes on while we read: word by word, as the migration's socket would. */
__attribute__((no_sanitize("thread"))) static void copy_page(uint8_t *copy, uint64_t page)
{
	const volatile uint64_t *from =
		(const uint64_t *)(t.mem->blocks[0].hva + page * MEM_PAGE_BYTES);
	uint64_t *to = (uint64_t *)(copy + page * MEM_PAGE_BYTES);

	for (unsigned i = 0; i < MEM_PAGE_BYTES / 8; i++)
		to[i] = from[i];
}

/* What a migration does in one pass; the vCPU is asked to stop when group stop_at is copied. */
static unsigned send_round(uint8_t *copy, struct cpu *cpu, uint64_t stop_at)
{
	uint64_t todo[WORDS];
	unsigned sent = 0;

	memcpy(todo, read_log(), sizeof(todo));
	for (uint64_t w = 0; w < WORDS; w += 3) {
		uint64_t n = w + 3 <= WORDS ? 3 : WORDS - w;

		protect(w, &todo[w], n);
		for (uint64_t p = w * 64; p < (w + n) * 64 && p < PAGES; p++) {
			if (bits_test(todo, p)) {
				copy_page(copy, p);
				sent++;
			}
		}
		if (w / 3 == stop_at)
			cpu_request_stop(cpu);
	}
	return sent;
}

#define NEVER UINT64_MAX

/*
 * Only a page's last write can be lost for good, so there have to be many last writes: turns in
 * which the vCPU is stopped in the middle of a pass over pages that it writes at that moment.
 */
static void race(bool plain)
{
	uint8_t *copy = malloc(MEM_BYTES);
	struct cpu *cpu;
	unsigned sent = 0;

	e = (struct err)ERR_INIT;
	vmtest_open(&t, MEM_BYTES, 1, plain);
	VMTEST_CODE(&t, race_code);
	dirty_log_init(&dl, t.vm);
	ck_assert_msg(!cpu_create(&cpu, t.vcpus[0], race_exit, NULL, &e), "%s", e.msg);
	ck_assert_msg(!dirty_log_start(&dl, &e), "%s", e.msg);
	for (uint64_t p = 0; p < PAGES; p++)
		copy_page(copy, p);
	for (unsigned turn = 0; turn < 50; turn++) {
		cpu_request_run(cpu);
		vmtest_await_loops(&t, RACE_FIRST * MEM_PAGE_BYTES);
		if (turn % 2) {
			sent += send_round(copy, cpu, NEVER);
			vmtest_await_loops(&t, RACE_FIRST * MEM_PAGE_BYTES);
		}
		/* The guest's pages lie in groups 1 to 3. */
		sent += send_round(copy, cpu, 1 + turn % 3);
		ck_assert_msg(!cpu_wait_stopped(cpu, clock_mono_ns() + 60 * NS_PER_SEC, &e), "%s",
			      e.msg);
		(void)send_round(copy, cpu, NEVER);
		for (uint64_t p = 0; p < PAGES; p++)
			ck_assert_msg(!memcmp(copy + p * MEM_PAGE_BYTES,
					      t.mem->blocks[0].hva + p * MEM_PAGE_BYTES,
					      MEM_PAGE_BYTES),
				      "turn %u: a write to page %llu was lost", turn,
				      (unsigned long long)p);
	}
	ck_assert_uint_gt(sent, RACE_PAGES);
	ck_assert(cpu_free(cpu, clock_mono_ns() + 60 * NS_PER_SEC));
	close_log();
	free(copy);
}

START_TEST(race_manual)
{
	NEED_KVM();
	race(false);
}
END_TEST

START_TEST(race_plain)
{
	NEED_KVM();
	race(true);
}
END_TEST

SUITE("dirty_log", manual_cycle, plain_cycle, start_stop_start, bad_ranges, every_range, two_blocks,
      TIMES(3, race_manual), TIMES(3, race_plain))
