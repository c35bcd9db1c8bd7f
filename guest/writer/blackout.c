/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The times when a vCPU wasn't running, seen from inside: it reads the TSC all the time, and where
 * two readings are far apart somebody took the time between.
 */
#include "guest/writer/writer.h"

#include "guest/lib/clock.h"
#include "guest/lib/cpu.h"
#include "guest/lib/say.h"

/* Looking for input takes far less; if it takes longer, then the vCPU did not run. */
#define POLL_LIMIT_US 1000

static unsigned int bucket_of(uint64_t us)
{
	unsigned int i = 63 - (unsigned int)__builtin_clzll(us);

	return i < GUEST_HIST_BUCKETS ? i : GUEST_HIST_BUCKETS - 1;
}

static void keep_longest(struct gaps *g, struct gap gap)
{
	for (unsigned int i = 0; i < GUEST_LONGEST; i++) {
		if (gap.length_us > g->longest[i].length_us) {
			struct gap shorter = g->longest[i];

			g->longest[i] = gap;
			gap = shorter;
		}
	}
}

static void add_gap(struct gaps *g, uint64_t ticks)
{
	struct gap gap = {
		.start_us = clock_us(g->last_tsc - orders.start_tsc),
		.length_us = clock_us(ticks),
	};

	g->count++;
	g->hist[bucket_of(gap.length_us)]++;
	if (gap.length_us > g->longest[GUEST_LONGEST - 1].length_us)
		keep_longest(g, gap);
}

uint64_t gaps_tick(struct gaps *g)
{
	uint64_t now = rdtsc();
	int64_t ticks = (int64_t)(now - g->last_tsc);

	if (ticks < 0)
		g->backwards++;
	else if ((uint64_t)ticks >= config.us_ticks)
		add_gap(g, (uint64_t)ticks);
	g->last_tsc = now;
	return now;
}

void gaps_skip_poll(struct gaps *g)
{
	if (rdtsc() - g->last_tsc < config.us_ticks * POLL_LIMIT_US)
		gaps_skip_output(g);
	else
		gaps_tick(g);
}

void gaps_skip_output(struct gaps *g)
{
	uint64_t now = rdtsc();

	g->io_ticks += now - g->last_tsc;
	g->last_tsc = now;
}

void gaps_reset(struct gaps *g)
{
	*g = (struct gaps){.last_tsc = rdtsc()};
}

static void report_worker(const struct worker *w)
{
	const struct gaps *g = &w->gaps;
	const char *comma = "";

	say("%n: blackout cpu=%u max_us=%U gaps=%U io_us=%U back=%U longest=", w->cpu,
	    g->longest[0].length_us, g->count, clock_us(g->io_ticks), g->backwards);
	for (unsigned int i = 0; i < GUEST_LONGEST && g->longest[i].length_us; i++) {
		say("%s%U@%U", comma, g->longest[i].length_us, g->longest[i].start_us);
		comma = ",";
	}
	say(" hist=%U", g->hist[0]);
	for (unsigned int i = 1; i < GUEST_HIST_BUCKETS; i++)
		say(",%U", g->hist[i]);
	say("\n");
}

void gaps_report(void)
{
	for (unsigned int cpu = 0; cpu < config.cpus && config.blackout != BLACKOUT_OFF; cpu++)
		report_worker(&workers[cpu]);
	say("%n: blackout end\n");
}
