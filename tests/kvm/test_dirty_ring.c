/* SPDX-License-Identifier: Apache-2.0 */
/* KVM's dirty rings: every write told, none lost in a race, a full ring makes its vCPU wait. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "kvm/dirty_ring.h"
#include "mem/bits.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"
#include "vmm/cpu.h"

#define PAGES     (2048 + 37)
#define MEM_BYTES (PAGES * MEM_PAGE_BYTES)
#define WORDS     ((PAGES + 63) / 64)
#define ENTRIES   1024 /* what every KVM with rings accepts */

static struct vmtest t;
static struct vcpu_exit ex;
static struct dirty_ring ring;
static struct err e;
static uint64_t told[WORDS];

static void on_words(void *ctx, unsigned block, uint64_t word, uint64_t bits)
{
	uint64_t *map = ctx;

	ck_assert_uint_eq(block, 0);
	ck_assert_uint_lt(word, WORDS);
	map[word] |= bits;
}

static uint64_t *read_rings(void)
{
	memset(told, 0, sizeof(told));
	ck_assert_msg(!dirty_ring_read(&ring, on_words, told, &e), "%s", e.msg);
	return told;
}

/* False: this KVM has none; said so. Slots of a strange size, so that entries are translated. */
static bool open_ring(uint32_t entries, unsigned n_cpus)
{
	const struct vm_config cfg = {
		.kvm_fd = -1, .dirty_ring_entries = entries, .slot_pages = 777};

	e = (struct err)ERR_INIT;
	vmtest_open_as(&t, MEM_BYTES, n_cpus, &cfg);
	ck_assert_msg(!dirty_ring_init(&ring, t.vm, t.vcpus, n_cpus, &e), "%s", e.msg);
	if (ring.n_entries)
		return true;
	(void)printf("SKIP ring: KVM has no dirty rings\n");
	ck_assert_uint_ne(t.vm->caps.dirty_manual, 0); /* the log is there instead */
	vmtest_close(&t);
	return false;
}

static void close_ring(void)
{
	dirty_ring_stop(&ring);
	dirty_ring_stop(&ring);
	dirty_ring_free(&ring);
	dirty_ring_free(&ring);
	vmtest_close(&t);
}

/* mov dx,0x10; 1: in eax,dx; shl eax,12; mov [eax],edx; inc ecx; mov al,1; out dx,al; jmp 1b */
static const uint8_t touch_code[] = {0x66, 0xba, 0x10, 0x00, 0xed, 0xc1, 0xe0, 0x0c,
				     0x89, 0x10, 0x41, 0xb0, 0x01, 0xee, 0xeb, 0xf4};

static void touch(uint32_t page)
{
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	ck_assert(!ex.io.out);
	memcpy(ex.io.data, &page, sizeof(page));
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	ck_assert(ex.io.out);
}

/* The pages told now are exactly these. */
static void expect(const uint32_t *pages, unsigned n)
{
	uint64_t want[WORDS] = {0};

	for (unsigned i = 0; i < n; i++)
		bits_set(want, pages[i]);
	ck_assert_mem_eq(read_rings(), want, sizeof(want));
}
#define EXPECT(...) \
	expect((const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

START_TEST(cycle)
{
	uint64_t counted;

	NEED_KVM();
	if (!open_ring(ENTRIES, 1))
		return;
	VMTEST_CODE(&t, touch_code);
	touch(1000); /* past the guest's first steps */
	ck_assert_msg(!dirty_ring_start(&ring, &e), "%s", e.msg);
	(void)read_rings();
	counted = dirty_ring_pages(&ring, 0);
	touch(300);
	touch(777); /* a slot's first page */
	touch(776);
	touch(300);
	touch(PAGES - 1);
	EXPECT(300, 776, 777, PAGES - 1);
	ck_assert_uint_eq(dirty_ring_pages(&ring, 0) - counted, 4); /* page 300 once */
	expect(NULL, 0);                                            /* told once */
	touch(300);
	EXPECT(300); /* it was protected when it was told */
	touch(301);
	dirty_ring_stop(&ring);
	touch(302);
	ck_assert_msg(!dirty_ring_start(&ring, &e), "%s", e.msg);
	touch(303);
	EXPECT(303);
	ck_assert_uint_eq(dirty_ring_pages(&ring, 1), 0); /* there is no such vCPU */
	close_ring();
}
END_TEST

/* More pages than the ring holds, nobody reads: the vCPU says so, and then goes on. */
START_TEST(full_ring)
{
	unsigned full_exits = 0;
	uint64_t *words;

	NEED_KVM();
	if (!open_ring(ENTRIES, 1))
		return;
	VMTEST_CODE(&t, touch_code);
	touch(1000);
	ck_assert_msg(!dirty_ring_start(&ring, &e), "%s", e.msg);
	for (uint32_t page = 256; page < PAGES; page++) {
		for (unsigned i = 0; i < 2; i++) { /* asked which page; told that it is done */
			vcpu_run(t.vcpus[0], &ex);
			while (ex.kind == VCPU_EXIT_RING_FULL) {
				full_exits++;
				ck_assert_msg(!dirty_ring_full(&ring, 0, &e), "%s", e.msg);
				vcpu_run(t.vcpus[0], &ex);
			}
			ck_assert_int_eq(ex.kind, VCPU_EXIT_IO);
			if (!i)
				memcpy(ex.io.data, &page, sizeof(page));
		}
	}
	ck_assert_uint_gt(full_exits, 0);
	ck_assert_uint_eq(ring.full_exits, full_exits);
	words = read_rings();
	for (uint32_t page = 256; page < PAGES; page++)
		ck_assert_msg(bits_test(words, page), "page %u was lost", page);
	ck_assert_int_eq(dirty_ring_full(&ring, 0, &e), 0); /* nothing in it: nothing to do */
	ck_assert_int_eq(dirty_ring_full(&ring, 1, &e), -EINVAL);
	close_ring();
}
END_TEST

/* ---- signals ---- */

static void on_alarm(int sig)
{
	(void)sig;
}

static void alarm_every_us(suseconds_t us)
{
	const struct itimerval v = {{0, us}, {0, us}};

	ck_assert_int_eq(setitimer(ITIMER_REAL, &v, NULL), 0);
}

/* A thread that is signalled all the time protects the pages all the same: each is told again. */
START_TEST(signals)
{
	const struct sigaction sa = {.sa_handler = on_alarm};

	NEED_KVM();
	if (!open_ring(8192, 1))
		return;
	ck_assert_int_eq(sigaction(SIGALRM, &sa, NULL), 0);
	VMTEST_CODE(&t, touch_code);
	touch(1000);
	ck_assert_msg(!dirty_ring_start(&ring, &e), "%s", e.msg);
	for (unsigned turn = 0; turn < 20; turn++) {
		const uint64_t *words;

		for (uint32_t page = 256; page < 768; page++)
			touch(page);
		alarm_every_us(10);
		words = read_rings();
		alarm_every_us(0);
		for (uint32_t page = 256; page < 768; page++)
			ck_assert_msg(bits_test(words, page), "turn %u: page %u was lost", turn,
				      page);
	}
	close_ring();
}
END_TEST

/* ---- the race ---- */

#define RACE_FIRST 256 /* page; the guest writes 1024 from here */
#define RACE_PAGES 1024

/*
 * 0: mov ebx,0x100000; mov ecx,1024; inc eax; 1: mov [ebx],eax; add ebx,4096; dec ecx; jnz 1b;
 * jmp 0b
 */
static const uint8_t race_code[] = {0xbb, 0x00, 0x00, 0x10, 0x00, 0xb9, 0x00, 0x04,
				    0x00, 0x00, 0x40, 0x89, 0x03, 0x81, 0xc3, 0x00,
				    0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xeb, 0xe8};

static bool race_exit(void *ctx, struct vcpu *v, const struct vcpu_exit *exit)
{
	struct err full = ERR_INIT;

	(void)ctx;
	return exit->kind == VCPU_EXIT_RING_FULL && !dirty_ring_full(&ring, v->index, &full);
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

/* False: KVM overran the ring, and that was noticed. */
static bool send_round(uint8_t *copy, unsigned *sent_pages)
{
	const uint64_t *todo = told;
	unsigned sent = 0;
	int rc;

	memset(told, 0, sizeof(told));
	rc = dirty_ring_read(&ring, on_words, told, &e);
	if (rc) {
		ck_assert_int_eq(rc, -EIO);
		ck_assert_ptr_nonnull(strstr(e.msg, "overrun"));
		return false;
	}
	for (uint64_t p = 0; (p = bits_next_set(todo, PAGES, p)) < PAGES; p++, sent++)
		copy_page(copy, p);
	*sent_pages += sent;
	return true;
}

/*
 * A vCPU writes flat out while another thread does what a migration does, and is stopped at any
 * moment: what was copied in the end is what RAM holds.
 */
static void race(uint32_t entries)
{
	uint8_t *copy = malloc(MEM_BYTES);
	struct cpu *cpu;
	unsigned sent = 0;
	bool whole = true;

	if (!open_ring(entries, 1)) {
		free(copy);
		return;
	}
	VMTEST_CODE(&t, race_code);
	ck_assert_msg(!cpu_create(&cpu, t.vcpus[0], race_exit, NULL, &e), "%s", e.msg);
	ck_assert_msg(!dirty_ring_start(&ring, &e), "%s", e.msg);
	for (uint64_t p = 0; p < PAGES; p++)
		copy_page(copy, p);
	for (unsigned turn = 0; turn < 40 && whole; turn++) {
		cpu_request_run(cpu);
		vmtest_await_loops(&t, RACE_FIRST * MEM_PAGE_BYTES);
		for (unsigned i = 0; i < 1 + turn % 3; i++)
			whole &= send_round(copy, &sent);
		cpu_request_stop(cpu);
		whole &= send_round(copy, &sent);
		ck_assert_msg(!cpu_wait_stopped(cpu, clock_mono_ns() + 60 * NS_PER_SEC, &e), "%s",
			      e.msg);
		whole &= send_round(copy, &sent);
		for (uint64_t p = 0; p < PAGES && whole; p++)
			ck_assert_msg(!memcmp(copy + p * MEM_PAGE_BYTES,
					      t.mem->blocks[0].hva + p * MEM_PAGE_BYTES,
					      MEM_PAGE_BYTES),
				      "turn %u: a write to page %llu was lost", turn,
				      (unsigned long long)p);
	}
	if (!whole) {
		/* Nothing was copied from such a log, and the guest is none the worse for it. */
		cpu_request_run(cpu);
		vmtest_await_loops(&t, RACE_FIRST * MEM_PAGE_BYTES);
		dirty_ring_stop(&ring);
		vmtest_await_loops(&t, RACE_FIRST * MEM_PAGE_BYTES);
		ck_assert_int_eq(dirty_ring_start(&ring, &e), -EIO);
		(void)printf("SKIP race of %u entries: this KVM overruns its rings\n", entries);
	}
	ck_assert(!whole || sent > RACE_PAGES);
	ck_assert(cpu_free(cpu, clock_mono_ns() + 60 * NS_PER_SEC));
	close_ring();
	free(copy);
}

START_TEST(race_roomy)
{
	NEED_KVM();
	race(8192);
}
END_TEST

/* Full before a lap is over: the vCPU reads its ring itself, most of the time. */
START_TEST(race_tight)
{
	NEED_KVM();
	race(ENTRIES);
}
END_TEST

START_TEST(too_large)
{
	const struct vm_config cfg = {.kvm_fd = -1, .dirty_ring_entries = 1u << 20};
	struct vm *vm;
	int rc;

	NEED_KVM();
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(mem_create(&t.mem, MEM_ANON, MEM_BYTES, &e), 0);
	rc = vm_create(&vm, &cfg, t.mem, &e);
	if (!rc) {
		(void)printf("SKIP too_large: KVM has no dirty rings\n");
		vm_free(vm);
	} else {
		ck_assert_int_eq(rc, -EINVAL);
		ck_assert_ptr_nonnull(strstr(e.msg, "65536"));
	}
	mem_free(t.mem);
}
END_TEST

SUITE("dirty_ring", cycle, full_ring, signals, race_roomy, race_tight, too_large)
