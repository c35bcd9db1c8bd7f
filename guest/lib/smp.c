/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/smp.h"

#include <stdbool.h>
#include <stddef.h>

#include "guest/abi.h"
#include "guest/lib/clock.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/lapic.h"
#include "guest/lib/layout.h"
#include "guest/lib/ram.h"
#include "guest/lib/say.h"
#include "guest/lib/trap.h"

#define STACK_BYTES 4096UL
#define START_US    5000000

/* The other vCPUs start one at a time, so that one set of these is enough. */
static unsigned int starting;
static unsigned int started;
static bool all_started;
static void (*run_setup)(unsigned int);
static void (*run_main)(unsigned int);
static uint64_t stacks;
uint64_t secondary_stack;

extern const char trampoline[], trampoline_end[];

enum ring { RING0, RING3 };

static uint64_t stack_top(unsigned int cpu, enum ring ring)
{
	return stacks + (cpu * 2 + ring + 1) * STACK_BYTES;
}

void smp_init(void)
{
	stacks = (uint64_t)(uintptr_t)ram_alloc(smp_cpus() * 2 * STACK_BYTES);
	trap_load(0, stack_top(0, RING0));
}

unsigned int smp_cpus(void)
{
	uint64_t n = cmdline_number("cpus", 1);

	if (n < 1 || n > GUEST_CPUS_MAX)
		die("bad value of cpus=");
	return (unsigned int)n;
}

void secondary_main(void)
{
	unsigned int cpu = starting;

	trap_load(cpu, secondary_stack);
	lapic_init();
	if (run_setup)
		run_setup(cpu);
	/* After this the next vCPU may come, and `starting` is its. */
	__atomic_store_n(&started, cpu, __ATOMIC_RELEASE);
	/* Halted, so as not to take the host's CPUs from those still to come. */
	while (!__atomic_load_n(&all_started, __ATOMIC_ACQUIRE))
		wait_irq();
	user_enter(cpu, run_main, stack_top(cpu, RING3));
}

static void start_cpu(unsigned int cpu)
{
	uint64_t t0 = rdtsc(), limit = clock_ticks(START_US);

	starting = cpu;
	secondary_stack = stack_top(cpu, RING0);
	lapic_start_cpu(cpu);
	while (__atomic_load_n(&started, __ATOMIC_ACQUIRE) != cpu) {
		if (rdtsc() - t0 > limit) {
			say("%n: FAILED cpu %u does not start\n", cpu);
			guest_exit(GUEST_EXIT_FAILED);
		}
		cpu_relax();
	}
}

void smp_run(void (*setup)(unsigned int cpu), void (*main)(unsigned int cpu))
{
	volatile char *page = (volatile char *)TRAMPOLINE_GPA;
	unsigned int cpus = smp_cpus();

	for (size_t i = 0; i < (size_t)(trampoline_end - trampoline); i++)
		page[i] = trampoline[i];
	run_setup = setup;
	run_main = main;
	for (unsigned int cpu = 1; cpu < cpus; cpu++)
		start_cpu(cpu);
	__atomic_store_n(&all_started, true, __ATOMIC_RELEASE);
	lapic_send_others(VEC_WAKE);
	if (run_setup)
		run_setup(0);
	user_enter(0, run_main, stack_top(0, RING3));
}
