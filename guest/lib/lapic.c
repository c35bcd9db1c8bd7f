/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/lapic.h"

#include "guest/lib/clock.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/layout.h"

#define LAPIC_GPA 0xfee00000UL

/* Register offsets of the page; the x2APIC MSR is MSR_X2APIC + offset / 16. */
#define REG_ID        0x020
#define REG_TPR       0x080
#define REG_EOI       0x0b0
#define REG_SVR       0x0f0
#define REG_ICR       0x300
#define REG_ICR_HI    0x310
#define REG_TIMER     0x320
#define REG_LINT0     0x350
#define REG_LINT1     0x360
#define REG_TMR_INIT  0x380
#define REG_TMR_COUNT 0x390
#define REG_TMR_DIV   0x3e0

#define SVR_ENABLE     0x100
#define LVT_MASKED     0x10000
#define LVT_EXTINT     0x700
#define TIMER_PERIODIC 0x20000
#define TIMER_DEADLINE 0x40000
#define DIVIDE_BY_1    0xb
#define ICR_ASSERT     0x4000
#define ICR_INIT       0x500
#define ICR_STARTUP    0x600
#define ICR_PENDING    0x1000
#define ICR_OTHERS     0xc0000

#define APIC_BASE_X2 (1u << 10)
#define APIC_BASE_ON (1u << 11)

static bool x2apic;
static bool deadline;
static uint32_t timer_khz;

static uint32_t lapic_read(uint32_t reg)
{
	if (x2apic)
		return (uint32_t)rdmsr(MSR_X2APIC + reg / 16);
	return *(volatile uint32_t *)(LAPIC_GPA + reg);
}

static void lapic_write(uint32_t reg, uint32_t value)
{
	if (x2apic)
		wrmsr(MSR_X2APIC + reg / 16, value);
	else
		*(volatile uint32_t *)(LAPIC_GPA + reg) = value;
}

void lapic_choose_mode(void)
{
	struct cpuid r = cpuid(1, 0);
	char apic[8];

	x2apic = r.ecx >> 21 & 1;
	deadline = r.ecx >> 24 & 1;
	if (cmdline_get("apic", apic, sizeof(apic)) && apic[0] == 'x' && !apic[1])
		x2apic = false;
}

void lapic_init(void)
{
	uint64_t base = rdmsr(MSR_APIC_BASE) | APIC_BASE_ON;

	wrmsr(MSR_APIC_BASE, base);
	if (x2apic)
		wrmsr(MSR_APIC_BASE, base | APIC_BASE_X2);
	lapic_write(REG_TPR, 0);
	lapic_write(REG_SVR, SVR_ENABLE | VEC_SPURIOUS);
	lapic_write(REG_TIMER, LVT_MASKED);
	lapic_write(REG_LINT0, LVT_MASKED);
	lapic_write(REG_LINT1, LVT_MASKED);
}

uint32_t lapic_id(void)
{
	uint32_t id = lapic_read(REG_ID);

	return x2apic ? id : id >> 24;
}

void lapic_eoi(void)
{
	lapic_write(REG_EOI, 0);
}

static void write_icr(uint32_t apic_id, uint32_t command)
{
	if (x2apic) {
		wrmsr(MSR_X2APIC + REG_ICR / 16, (uint64_t)apic_id << 32 | command);
		return;
	}
	lapic_write(REG_ICR_HI, apic_id << 24);
	lapic_write(REG_ICR, command);
	while (lapic_read(REG_ICR) & ICR_PENDING)
		cpu_relax();
}

void lapic_send(uint32_t apic_id, unsigned int vector)
{
	write_icr(apic_id, ICR_ASSERT | vector);
}

void lapic_send_others(unsigned int vector)
{
	write_icr(0, ICR_OTHERS | ICR_ASSERT | vector);
}

void lapic_start_cpu(uint32_t apic_id)
{
	write_icr(apic_id, ICR_ASSERT | ICR_INIT);
	clock_wait_us(100);
	write_icr(apic_id, ICR_ASSERT | ICR_STARTUP | TRAMPOLINE_GPA >> 12);
}

void lapic_accept_pic(void)
{
	lapic_write(REG_LINT0, LVT_EXTINT);
}

/* Nothing says how fast the timer counts: measure it against the TSC. */
static void find_timer_khz(void)
{
	const uint64_t us = 10000;

	lapic_write(REG_TMR_DIV, DIVIDE_BY_1);
	lapic_write(REG_TIMER, LVT_MASKED);
	lapic_write(REG_TMR_INIT, UINT32_MAX);
	uint64_t t0 = rdtsc();
	clock_wait_us(us);
	uint32_t left = lapic_read(REG_TMR_COUNT);
	uint64_t spent_us = clock_us(rdtsc() - t0);

	lapic_write(REG_TMR_INIT, 0);
	timer_khz = (uint32_t)((UINT32_MAX - left) * 1000UL / spent_us);
	if (!timer_khz)
		timer_khz = 1;
}

void lapic_timer_at(uint64_t tsc)
{
	if (deadline) {
		lapic_write(REG_TIMER, TIMER_DEADLINE | VEC_TIMER);
		wrmsr(MSR_TSC_DEADLINE, tsc);
		return;
	}
	if (!timer_khz)
		find_timer_khz();

	int64_t wait = (int64_t)(tsc - rdtsc());
	uint64_t count = wait > 0 ? clock_us((uint64_t)wait) * timer_khz / 1000 : 0;

	lapic_write(REG_TIMER, VEC_TIMER);
	lapic_write(REG_TMR_DIV, DIVIDE_BY_1);
	lapic_write(REG_TMR_INIT, count < UINT32_MAX ? (uint32_t)count + 1 : UINT32_MAX);
}

void lapic_timer_periodic(uint32_t hz)
{
	if (!timer_khz)
		find_timer_khz();
	lapic_write(REG_TIMER, TIMER_PERIODIC | VEC_TIMER);
	lapic_write(REG_TMR_DIV, DIVIDE_BY_1);
	lapic_write(REG_TMR_INIT, (uint32_t)(timer_khz * 1000UL / hz));
}

void lapic_timer_stop(void)
{
	if (deadline)
		wrmsr(MSR_TSC_DEADLINE, 0);
	else
		lapic_write(REG_TMR_INIT, 0);
}

bool lapic_has_deadline(void)
{
	return deadline;
}
