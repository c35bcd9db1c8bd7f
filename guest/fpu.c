/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every vCPU, in ring 3, holds patterns in its x87, SSE, AVX and AVX-512 registers and looks again
 * and again whether they are still there. The C code is compiled for general registers alone, so
 * only somebody outside can change them.
 */
#include "guest/fpu.h"

#include <stdbool.h>

#include "guest/abi.h"
#include "guest/lib/clock.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/ram.h"
#include "guest/lib/say.h"
#include "guest/lib/smp.h"
#include "guest/lib/user.h"

#define XCR0_X87_SSE 0x03
#define XCR0_AVX     0x04
#define XCR0_AVX512  0xe0

#define LOOK_US 50
#define HOLD_US 2000
#define POLL_US 10000

#define FCW_DEFAULT   0x037f
#define MXCSR_DEFAULT 0x1f80

GUEST_NAME("fpu");
GUEST_NOTE_64;

struct failure {
	const char *reg;
	unsigned int index, word; /* 64-bit words of a register, lowest first */
	uint64_t have, want;
};

/* Of one vCPU. */
struct watcher {
	struct fpu_regs want, have;
	uint64_t rounds, random;
	struct failure failure;
	bool failed;
};

static struct watcher *watchers;
static unsigned int cpus;
static bool avx, avx512;
static uint32_t ready;

static uint64_t next_random(struct watcher *w)
{
	uint64_t x = w->random += 0x9e3779b97f4a7c15ULL;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* A fresh pattern; control words with every rounding, all exceptions masked. */
static void make_pattern(struct watcher *w)
{
	struct fpu_regs *r = &w->want;
	uint64_t random = next_random(w);

	r->fx.fcw = (uint16_t)(FCW_DEFAULT | (random & 3) << 10);
	r->fx.ftw = 0xff;
	r->fx.mxcsr = (uint32_t)(MXCSR_DEFAULT | (random >> 2 & 3) << 13);
	for (unsigned int i = 0; i < 8; i++) {
		/* Normal numbers: the topmost bit of the mantissa set. */
		r->fx.st[i].mantissa = next_random(w) | 1UL << 63;
		r->fx.st[i].exponent = (uint16_t)(0x3f00 + (next_random(w) & 0xff));
		r->mask[i] = next_random(w);
	}
	for (unsigned int i = 0; i < 32; i++)
		for (unsigned int n = 0; n < 8; n++)
			r->vector[i][n] = next_random(w);
	for (unsigned int i = 0; i < 16; i++) {
		r->fx.xmm[i][0] = r->vector[i][0];
		r->fx.xmm[i][1] = r->vector[i][1];
	}
}

static void load(const struct fpu_regs *r)
{
	regs_load_sse(r);
	if (avx512)
		regs_load_avx512(r);
	else if (avx)
		regs_load_avx(r);
}

static void save(struct fpu_regs *r)
{
	regs_save_sse(r);
	if (avx512)
		regs_save_avx512(r);
	else if (avx)
		regs_save_avx(r);
}

static bool same(struct watcher *w, const char *reg, unsigned int index, unsigned int word,
		 uint64_t have, uint64_t want)
{
	if (have == want)
		return true;
	w->failure = (struct failure){reg, index, word, have, want};
	return false;
}

static bool same_sse(struct watcher *w)
{
	const struct fx_area *have = &w->have.fx, *want = &w->want.fx;
	bool ok = same(w, "fcw", 0, 0, have->fcw, want->fcw) &&
		  same(w, "mxcsr", 0, 0, have->mxcsr, want->mxcsr) &&
		  same(w, "ftw", 0, 0, have->ftw, want->ftw);

	for (unsigned int i = 0; ok && i < 8; i++)
		ok = same(w, "st", i, 0, have->st[i].mantissa, want->st[i].mantissa) &&
		     same(w, "st", i, 1, have->st[i].exponent, want->st[i].exponent);
	for (unsigned int i = 0; ok && i < 16; i++)
		ok = same(w, "xmm", i, 0, have->xmm[i][0], want->xmm[i][0]) &&
		     same(w, "xmm", i, 1, have->xmm[i][1], want->xmm[i][1]);
	return ok;
}

static bool same_vectors(struct watcher *w)
{
	unsigned int nr = avx512 ? 32 : 16, words = avx512 ? 8 : 4;
	const char *name = avx512 ? "zmm" : "ymm";
	bool ok = true;

	for (unsigned int i = 0; ok && i < nr; i++)
		for (unsigned int n = 0; ok && n < words; n++)
			ok = same(w, name, i, n, w->have.vector[i][n], w->want.vector[i][n]);
	for (unsigned int i = 0; ok && avx512 && i < 8; i++)
		ok = same(w, "k", i, 0, w->have.mask[i], w->want.mask[i]);
	return ok;
}

static void look(struct watcher *w)
{
	save(&w->have);
	if (!same_sse(w) || (avx && !same_vectors(w))) {
		__atomic_store_n(&w->failed, true, __ATOMIC_RELEASE);
		return;
	}
	w->rounds++;
}

static _Noreturn void leave(bool ok)
{
	say("%n: done %s\n", ok ? "ok" : "FAILED");
	guest_exit(ok ? GUEST_EXIT_OK : GUEST_EXIT_FAILED);
}

static void check_failures(void)
{
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		const struct failure *f = &watchers[cpu].failure;

		if (!__atomic_load_n(&watchers[cpu].failed, __ATOMIC_ACQUIRE))
			continue;
		say("%n: FAILED reg=%s%u word=%u cpu=%u have=%X want=%X\n", f->reg, f->index,
		    f->word, cpu, f->have, f->want);
		leave(false);
	}
}

static void verify(void)
{
	uint64_t rounds = 0;

	for (unsigned int cpu = 0; cpu < cpus; cpu++)
		rounds += __atomic_load_n(&watchers[cpu].rounds, __ATOMIC_RELAXED);
	say("%n: verify ok rounds=%U avx=%u avx512=%u\n", rounds, avx, avx512);
}

/* vCPU 0: the registers hold their pattern all through this, ring 0 and serial I/O included. */
static void poll(void)
{
	check_failures();
	switch (user_getc()) {
	case GUEST_CMD_VERIFY:
	case GUEST_CMD_STATUS:
		verify();
		break;
	case GUEST_CMD_QUIT:
		verify();
		leave(true);
	default:
		break;
	}
}

static void hold_pattern(struct watcher *w)
{
	uint64_t end = rdtsc() + clock_ticks(HOLD_US);

	make_pattern(w);
	load(&w->want);
	while (rdtsc() < end && !w->failed) {
		clock_wait_us(LOOK_US);
		look(w);
	}
}

/* In ring 3, on every vCPU. */
static void watch(unsigned int cpu)
{
	struct watcher *w = &watchers[cpu];
	uint64_t poll_tsc = 0;

	__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
	while (!cpu && __atomic_load_n(&ready, __ATOMIC_SEQ_CST) != cpus)
		cpu_relax();
	if (!cpu)
		say("%n: ready cpus=%u avx=%u avx512=%u\n", cpus, avx, avx512);
	while (cpu == 0 || !w->failed) {
		hold_pattern(w);
		if (!cpu && rdtsc() >= poll_tsc) {
			poll();
			look(w);
			poll_tsc = rdtsc() + clock_ticks(POLL_US);
		}
	}
	user_stop();
}

static uint32_t usable_xcr0(void)
{
	uint32_t xcr0 = XCR0_X87_SSE, valid = cpuid(0xd, 0).eax;
	struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0);

	if ((valid & XCR0_AVX) && (one.ecx >> 28 & 1))
		xcr0 |= XCR0_AVX;
	/* AVX-512 F and BW, for 64-bit masks. */
	if ((xcr0 & XCR0_AVX) && (valid & XCR0_AVX512) == XCR0_AVX512 && (seven.ebx >> 16 & 1) &&
	    (seven.ebx >> 30 & 1))
		xcr0 |= XCR0_AVX512;
	return xcr0;
}

/* In ring 0, on every vCPU. */
static void enable(unsigned int cpu)
{
	bool xsave = cpuid(1, 0).ecx >> 26 & 1;
	uint32_t xcr0;

	watchers[cpu].random = (uint64_t)cpu << 32;
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT | (xsave ? CR4_OSXSAVE : 0));
	if (!xsave)
		return;
	xcr0 = usable_xcr0();
	asm volatile("xsetbv" : : "c"(0), "a"(xcr0), "d"(0));
	avx = xcr0 & XCR0_AVX;
	avx512 = xcr0 & XCR0_AVX512;
}

void guest_main(void)
{
	cpus = smp_cpus();
	watchers = ram_alloc(cpus * sizeof(struct watcher));
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		watchers[cpu].want = (struct fpu_regs){.mask = {0}};
		watchers[cpu].rounds = 0;
		watchers[cpu].failed = false;
	}
	smp_run(enable, watch);
}
