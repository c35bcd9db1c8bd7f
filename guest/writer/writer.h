/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer: every vCPU owns a part of one region of RAM, writes its pages at a given rate, keeps
 * outside the region which generation of each page it wrote last, and meanwhile reads the TSC over
 * and over to see when it was not running. guest/abi.h has the protocol.
 *
 * All of it runs in ring 3. A worker writes only its own struct worker and its own part of the
 * region and of the table, so there is no locking; vCPU 0 talks to the host and gives orders, which
 * the others look for between two pages.
 */
#ifndef FERRY_GUEST_WRITER_WRITER_H
#define FERRY_GUEST_WRITER_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/abi.h"
#include "guest/lib/ram.h"

enum pattern { PATTERN_SEQ, PATTERN_UNIFORM, PATTERN_HOT };
enum fill { FILL_RANDOM, FILL_TEXT, FILL_ZERO };
enum blackout { BLACKOUT_SPIN, BLACKOUT_OFF };

/* From the command line; never changes after the start. */
struct config {
	unsigned int cpus;
	unsigned int writers; /* how many vCPUs write: the last ones */
	bool writing;         /* false: rate=none */
	uint64_t rate;        /* pages a second over all vCPUs; 0: flat out */
	enum pattern pattern;
	unsigned int hot_percent;
	enum fill fill;
	enum blackout blackout;
	uint64_t time_s;   /* 0: for ever */
	uint64_t us_ticks; /* TSC ticks that make a microsecond, rounded up */
	struct ram_region region;
	uint32_t *gens; /* the last generation written of each page */
};

struct gap {
	uint64_t start_us, length_us;
};

/* Times when a vCPU did not run, as it sees them. */
struct gaps {
	uint64_t last_tsc;
	uint64_t count, backwards, io_ticks;
	uint64_t hist[GUEST_HIST_BUCKETS];
	struct gap longest[GUEST_LONGEST];
};

struct verdict {
	const char *why; /* NULL: all is well */
	uint64_t page, have_gen, want_gen, bad;
};

enum order { ORDER_NONE, ORDER_VERIFY, ORDER_RESET, ORDER_STOP };

/* Of one vCPU; others may read it. */
struct __attribute__((aligned(4096))) worker {
	unsigned int cpu;
	uint32_t order_seen; /* sequence number of the last order carried out */
	uint64_t first_page, nr_pages;
	uint64_t interval_ticks; /* between two writes; 0: flat out */
	bool writing;            /* false if its share of the rate is none */
	uint64_t due_tsc;
	uint64_t cursor, random;
	uint64_t writes, loops;
	struct gaps gaps;
	struct verdict verdict;
};

/* What vCPU 0 tells the others. */
struct orders {
	uint32_t seq;
	enum order order;
	bool paused;
	uint64_t start_tsc;
};

extern struct config config;
extern struct worker *workers;
extern struct orders orders;

/* page.c: generation 1 in every page of the part (fill=zero: nothing in any). */
void part_fill(struct worker *w);
/* Write one page of the part, chosen by the pattern. */
void part_write(struct worker *w);
/* Compare the part with the table; the result is w->verdict. */
void part_verify(struct worker *w);

/* blackout.c: read the clock; what passed since the last reading is a gap if it is long enough. */
uint64_t gaps_tick(struct gaps *g);
/*
 * The same, but the time went into the worker's own look at the serial line (a gap after all if it
 * was too long for that) or into output (never a gap).
 */
void gaps_skip_poll(struct gaps *g);
void gaps_skip_output(struct gaps *g);
void gaps_reset(struct gaps *g);
/* Say the blackout lines. */
void gaps_report(void);

/* command.c, vCPU 0 only: look for a command and carry it out. */
void command_poll(void);
/* The end: verify, report, leave. */
_Noreturn void command_quit(void);

/* main.c: carry out the order that is out, if it is new to this worker. */
void worker_obey(struct worker *w);

#endif
