/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The balloon guest: some of its pages are in use, the others are free but full of old random
 * bytes. It goes on writing those in use (and, with churn=, takes and frees pages), and its balloon
 * driver answers the host's rounds of free page hints in the way that mode= names. Every page that
 * is in use is known by generation and checksum, so that it can say whether a move lost any write.
 *
 * All of it runs in ring 3 on one vCPU, and never halts. guest/abi.h has the protocol.
 */
#ifndef FERRY_GUEST_BALLOON_BALLOON_H
#define FERRY_GUEST_BALLOON_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/abi.h"
#include "guest/lib/ram.h"

enum mode {
	MODE_HONEST,      /* hints what is free, and leaves it alone until it may have it back */
	MODE_NONE,        /* takes no hinting */
	MODE_LIAR,        /* uses what it has hinted, and hints what it uses */
	MODE_ENDLESS,     /* the same for ever: no end mark */
	MODE_MUTE,        /* never answers */
	MODE_SILENT,      /* falls silent in the middle of a round */
	MODE_FOREIGN,     /* hints pages in use, in the name of other rounds */
	MODE_WILD,        /* hints what is no RAM */
	MODE_STATS,       /* statistics of every size but the right one */
	MODE_RESET,       /* its driver crashes in the middle of a round */
	MODE_CRASH,       /* it ends in the middle of a round */
	MODE_LATER,       /* hints nothing; takes free pages only once a round has begun */
	MODE_POISON,      /* its free pages hold a value that they must keep */
	MODE_POISON_LIAR, /* and it hints them, though nobody asked */
};

extern const char *const mode_names[];

/* ---- pages.c ---- */

struct pages {
	struct ram_region region;
	uint64_t nr_free, want_free;
	uint64_t writes;
	unsigned int churn; /* per cent of the steps that may take a free page */
	bool still;         /* churn has not begun */
	bool lent_stay;  /* pages that were hinted are not taken until the driver has them back */
	uint32_t poison; /* what free pages hold; 0: anything */
	uint64_t random;
};

extern struct pages pages;

/* Ring 0: `bytes` of RAM, the last `free_bytes` of it free. Dies if there is not so much. */
void pages_init(uint64_t bytes, uint64_t free_bytes);
/* Ring 3: write all of them. */
void pages_fill(void);
/* Write a page, or take or free one. */
void pages_step(void);
/* Compare every page with what it should hold, and say so. */
bool pages_verify(void);

/* A run of pages for a hint: which, from page `from` on. */
enum which { WHICH_FREE, WHICH_FREE_AGAIN, WHICH_USED, WHICH_WRITTEN };
/*
 * The first run of such pages at or after *first, of at most max pages, and side by side in RAM.
 * *first is where it begins; returns its length, 0 if there is none. WHICH_FREE are those that
 * were not lent yet, WHICH_FREE_AGAIN all that are free, WHICH_WRITTEN those in use that were
 * written since pages_round().
 */
uint64_t pages_run(enum which which, uint64_t *first, uint64_t max);
/* Hinted. */
void pages_lend(uint64_t first, uint64_t n);
/* A round begins: nothing is written yet in it. */
void pages_round(void);
/* The driver takes all back that it has hinted. */
void pages_take_back(void);
uint64_t pages_lent(void);

/* ---- hints.c: the driver ---- */

struct hint_counts {
	uint64_t rounds, hints, ended, broken, stats, done;
};

extern struct hint_counts hint_counts;

/* Ring 0: find the device and start it; dies if there is none. */
void hints_init(enum mode mode);
/* Look at the device and do the mode's work; does not wait. */
void hints_poll(void);
/* Look at the configuration too: that costs an exit. */
void hints_poll_config(void);

#endif
