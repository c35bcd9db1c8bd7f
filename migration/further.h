/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passes that need not be: what is left fits the downtime limit already, but can become less.
 *
 * Of a guest that writes at half of the wire's speed each pass leaves half of what the one before
 * left, at nine tenths nine tenths. A pass that halves the rest is cheap: all that follow take no
 * longer together than it does. Where passes gain less, the guest still gets a downtime far below
 * the limit for a fifth of the time that it took to fit. Not while vCPUs are slowed down, though:
 * being slowed for longer costs the guest more than being dark for longer.
 *
 * Threads: one thread per struct.
 */
#ifndef MIGRATION_FURTHER_H
#define MIGRATION_FURTHER_H

#include <stdbool.h>
#include <stdint.h>

struct mig_further {
	uint64_t begin_ns; /* of the first pass */
	uint64_t until_ns; /* for passes that gain little; 0: the rest has never fitted */
	unsigned halved;   /* passes that halved a rest that fitted */
};

void mig_further_begin(struct mig_further *f, uint64_t now_ns);

/*
 * A pass has ended and what is left fits: is another one worth it? before and left: bytes that were
 * left before the pass and are now; rest_ns: how long those of now take; slowed: vCPUs are.
 */
bool mig_further_wanted(struct mig_further *f, uint64_t before, uint64_t left, uint64_t rest_ns,
			bool slowed, uint64_t now_ns);

#endif
