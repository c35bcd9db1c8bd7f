/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts the ticks of the LAPIC timer and of the PIT (by way of the 8259), halted in between.
 * Knobs: mode=periodic|deadline, hz=N for both timers (default 100).
 */
#include <stddef.h>

#include "guest/abi.h"
#include "guest/lib/clock.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/lapic.h"
#include "guest/lib/layout.h"
#include "guest/lib/pic.h"
#include "guest/lib/say.h"
#include "guest/lib/serial.h"
#include "guest/lib/trap.h"

#define PIT_IRQ 0
#define HZ_MIN  19 /* the PIT counts no further */
#define HZ_MAX  1000

enum mode { MODE_PERIODIC, MODE_DEADLINE };

GUEST_NAME("timer");
GUEST_NOTE_32;

static const char *const modes[] = {"periodic", "deadline", NULL};

static enum mode mode;
static uint64_t period_ticks;
static uint64_t lapic_ticks, pit_ticks;
static uint64_t start_tsc, last_tsc, max_gap_ticks, next_tsc;
static uint64_t last_ns;
static uint64_t backwards;

/* At every tick: neither clock may run backwards. */
static void check_clocks(void)
{
	uint64_t now = rdtsc(), ns = kvmclock_ns();

	if (now < last_tsc || ns < last_ns)
		backwards++;
	else if (now - last_tsc > max_gap_ticks)
		max_gap_ticks = now - last_tsc;
	last_tsc = now;
	last_ns = ns;
}

static void on_lapic(void)
{
	uint64_t now = rdtsc();

	lapic_ticks++;
	check_clocks();
	if (mode != MODE_DEADLINE)
		return;
	/* Ticks missed while the VM stood still stay missed. */
	next_tsc += period_ticks;
	if (next_tsc < now)
		next_tsc = now + period_ticks;
	lapic_timer_at(next_tsc);
}

static void on_pit(void)
{
	pit_ticks++;
}

static void say_ticks(void)
{
	say("%n: ticks lapic=%U pit=%U t_us=%U kvmclock_us=%U max_gap_us=%U back=%U\n", lapic_ticks,
	    pit_ticks, clock_us(rdtsc() - start_tsc), kvmclock_ns() / 1000, clock_us(max_gap_ticks),
	    backwards);
}

static void poll(void)
{
	switch (serial_getc()) {
	case GUEST_CMD_VERIFY:
	case GUEST_CMD_STATUS:
		say_ticks();
		break;
	case GUEST_CMD_RESET:
		max_gap_ticks = 0;
		say("%n: reset\n");
		break;
	case GUEST_CMD_QUIT:
		say_ticks();
		say("%n: done %s\n", backwards ? "FAILED" : "ok");
		guest_exit(backwards ? GUEST_EXIT_FAILED : GUEST_EXIT_OK);
	default:
		break;
	}
}

static void start_timers(uint32_t hz)
{
	period_ticks = clock_ticks(1000000) / hz;
	trap_handle(VEC_TIMER, on_lapic);
	trap_handle(VEC_PIC + PIT_IRQ, on_pit);

	pit_periodic(hz);
	lapic_accept_pic();
	pic_unmask(PIT_IRQ);
	start_tsc = last_tsc = rdtsc();
	if (mode == MODE_DEADLINE) {
		next_tsc = start_tsc + period_ticks;
		lapic_timer_at(next_tsc);
	} else {
		lapic_timer_periodic(hz);
	}
}

void guest_main(void)
{
	uint32_t hz = (uint32_t)cmdline_number("hz", 100);

	mode = cmdline_choice("mode", modes);
	if (hz < HZ_MIN || hz > HZ_MAX)
		die("bad value of hz=");
	if (mode == MODE_DEADLINE && !lapic_has_deadline())
		die("no TSC-deadline timer");
	kvmclock_on();
	say("%n: ready mode=%s hz=%u tsc_khz=%u\n", modes[mode], hz, clock_tsc_khz());
	start_timers(hz);
	for (;;) {
		wait_irq();
		poll();
	}
}
