/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start, the loop, and what the host asks for.
 */
#include "guest/balloon/balloon.h"

#include <stddef.h>

#include "guest/lib/clock.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/say.h"
#include "guest/lib/smp.h"
#include "guest/lib/user.h"

/* Each look at the serial line or at the device's configuration costs an exit. */
#define SERIAL_US 10000
#define CONFIG_US 1000
/* Steps that were missed are made up for, but no more than these. */
#define ARREARS_US 100000

GUEST_NAME("balloon");
GUEST_NOTE_64;

static enum mode mode;
static uint64_t rate, start_tsc;

static uint64_t now_us(void)
{
	return clock_us(rdtsc() - start_tsc);
}

static void say_free(void)
{
	uint64_t page = 0, n;

	/* Those that were hinted are free still. */
	while ((n = pages_run(WHICH_FREE_AGAIN, &page, UINT64_MAX)) != 0) {
		say("%n: free gpa=%U bytes=%U\n",
		    (uint64_t)(uintptr_t)ram_page(&pages.region, page), n * GUEST_PAGE_BYTES);
		page += n;
	}
	say("%n: free end\n");
}

static void quit(void)
{
	bool ok = pages_verify();

	say("%n: done %s\n", ok ? "ok" : "FAILED");
	guest_exit(ok ? GUEST_EXIT_OK : GUEST_EXIT_FAILED);
}

static void poll_serial(void)
{
	const struct hint_counts *c = &hint_counts;

	switch (user_getc()) {
	case GUEST_CMD_VERIFY:
		pages_verify();
		break;
	case GUEST_CMD_STATUS:
		say("%n: status t_us=%U writes=%U free=%U lent=%U rounds=%U hints=%U ended=%U "
		    "done=%U broken=%U stats=%U\n",
		    now_us(), pages.writes, pages.nr_free, pages_lent(), c->rounds, c->hints,
		    c->ended, c->done, c->broken, c->stats);
		break;
	case GUEST_CMD_FREE:
		say_free();
		break;
	case GUEST_CMD_QUIT:
		quit();
		break;
	default:
		break;
	}
}

static void write_some(uint64_t now, uint64_t *due, uint64_t interval)
{
	if ((int64_t)(now - *due) > (int64_t)clock_ticks(ARREARS_US))
		*due = now - clock_ticks(ARREARS_US);
	for (unsigned int i = 0; i < 64 && (int64_t)(now - *due) >= 0; i++) {
		pages_step();
		*due += interval;
	}
}

static void balloon_main(unsigned int cpu)
{
	uint64_t interval, due, serial_tsc = 0, config_tsc = 0, fill_tsc = rdtsc();

	(void)cpu;
	pages_fill();
	start_tsc = due = rdtsc();
	interval = rate ? clock_ticks(1000000) / rate : 0;
	say("%n: ready mode=%s pages=%U free=%U rate=%U churn=%u fill_us=%U\n", mode_names[mode],
	    pages.region.nr_pages, pages.nr_free, rate, pages.churn,
	    clock_us(start_tsc - fill_tsc));
	for (;;) {
		uint64_t now = rdtsc();

		if (interval)
			write_some(now, &due, interval);
		hints_poll();
		if ((int64_t)(now - config_tsc) >= 0) {
			hints_poll_config();
			config_tsc = now + clock_ticks(CONFIG_US);
		}
		if ((int64_t)(now - serial_tsc) >= 0) {
			poll_serial();
			serial_tsc = now + clock_ticks(SERIAL_US);
		}
	}
}

void guest_main(void)
{
	mode = (enum mode)cmdline_choice("mode", mode_names);
	rate = cmdline_number("rate", 1000);
	pages.churn = (unsigned int)cmdline_number("churn", 0);
	pages.still = mode == MODE_LATER;
	pages.lent_stay = mode != MODE_LIAR && mode != MODE_ENDLESS;
	if (pages.churn > 100 || rate > 1000000)
		die("bad value of churn= or rate=");
	if (mode == MODE_POISON || mode == MODE_POISON_LIAR)
		pages.poison = (uint32_t)cmdline_number("poison", 0xaaaaaaaa);
	hints_init(mode);
	pages_init(cmdline_number("size", 32 << 20), cmdline_number("free", 16 << 20));
	smp_run(NULL, balloon_main);
}
