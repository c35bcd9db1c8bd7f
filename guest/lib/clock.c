/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/clock.h"

#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/say.h"

#define PIT_CH0       0x40
#define PIT_MODE      0x43
#define PIT_CH0_ONCE  0x30 /* mode 0, both bytes */
#define PIT_CH0_CYCLE 0x34 /* mode 2, both bytes */
#define PIT_CH0_LATCH 0x00
#define PIT_HZ        1193182
#define PIT_CALIBRATE (PIT_HZ / 25) /* 40 ms */
#define PIT_STUCK     20000         /* readings without a step: no PIT */

#define CPUID_HYPERVISOR 0x40000000
#define KVM_SIGNATURE    0x4b4d564b /* "KVMK", in EBX */
#define KVM_HAS_CLOCK    (1u << 3)

/* The page that kvmclock writes; see the kernel's pvclock-abi.h. */
struct pvclock {
	uint32_t version, pad0;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad1[2];
} __attribute__((aligned(64)));

static uint32_t tsc_khz;
static volatile struct pvclock pvclock;

static bool has_kvmclock(void)
{
	struct cpuid r = cpuid(CPUID_HYPERVISOR, 0);

	if (r.ebx != KVM_SIGNATURE || r.eax < CPUID_HYPERVISOR + 1)
		return false;
	return cpuid(CPUID_HYPERVISOR + 1, 0).eax & KVM_HAS_CLOCK;
}

static uint32_t khz_from_kvmclock(void)
{
	uint64_t khz;

	if (!has_kvmclock())
		return 0;
	kvmclock_on();
	khz = pvclock.mul ? (1000000UL << 32) / pvclock.mul : 0;
	khz = pvclock.shift < 0 ? khz << -pvclock.shift : khz >> pvclock.shift;
	wrmsr(MSR_KVMCLOCK, 0);
	return (uint32_t)khz;
}

/* The counter of channel 0, and the TSC when it was latched. */
static uint16_t pit_read(uint64_t *tsc)
{
	outb(PIT_MODE, PIT_CH0_LATCH);
	*tsc = rdtsc();
	uint16_t lo = inb(PIT_CH0);

	return (uint16_t)(inb(PIT_CH0) << 8 | lo);
}

/* By the counter itself, since channel 2's gate at port 0x61 isn't there on every machine. */
static uint32_t khz_from_pit(void)
{
	uint16_t c0, counted = 0;
	uint64_t t0, t;

	outb(PIT_MODE, PIT_CH0_ONCE);
	outb(PIT_CH0, 0xff);
	outb(PIT_CH0, 0xff);
	pit_read(&t0);
	c0 = pit_read(&t0);
	for (unsigned int stuck = 0; stuck < PIT_STUCK; stuck++) {
		uint16_t before = counted;

		counted = (uint16_t)(c0 - pit_read(&t));
		if (counted >= PIT_CALIBRATE)
			return (uint32_t)((t - t0) * PIT_HZ / counted / 1000);
		if (counted != before)
			stuck = 0;
	}
	return 0;
}

void clock_init(void)
{
	tsc_khz = (uint32_t)cmdline_number("tsc_khz", 0);
	if (!tsc_khz)
		tsc_khz = khz_from_kvmclock();
	if (!tsc_khz)
		tsc_khz = khz_from_pit();
	if (!tsc_khz)
		die("no clock to measure the TSC with: give tsc_khz=N");
}

uint32_t clock_tsc_khz(void)
{
	return tsc_khz;
}

uint64_t clock_us(uint64_t ticks)
{
	return ticks / tsc_khz * 1000 + ticks % tsc_khz * 1000 / tsc_khz;
}

uint64_t clock_ticks(uint64_t us)
{
	return us / 1000 * tsc_khz + us % 1000 * tsc_khz / 1000;
}

void clock_wait_us(uint64_t us)
{
	uint64_t t0 = rdtsc(), ticks = clock_ticks(us);

	while (rdtsc() - t0 < ticks)
		cpu_relax();
}

void kvmclock_on(void)
{
	if (has_kvmclock())
		wrmsr(MSR_KVMCLOCK, (uint64_t)(uintptr_t)&pvclock | 1);
}

uint64_t kvmclock_ns(void)
{
	uint32_t version;
	uint64_t ns;

	if (!pvclock.mul)
		return 0;
	do {
		version = pvclock.version;
		asm volatile("" : : : "memory");

		uint64_t delta = rdtsc() - pvclock.tsc;
		int8_t shift = pvclock.shift;

		delta = shift < 0 ? delta >> -shift : delta << shift;
		ns = pvclock.ns + (uint64_t)((unsigned __int128)delta * pvclock.mul >> 32);
		asm volatile("" : : : "memory");
	} while ((version & 1) || version != pvclock.version);
	return ns;
}

void pit_periodic(uint32_t hz)
{
	uint32_t count = PIT_HZ / hz;

	outb(PIT_MODE, PIT_CH0_CYCLE);
	outb(PIT_CH0, (uint8_t)count);
	outb(PIT_CH0, (uint8_t)(count >> 8));
}
