/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much each vCPU is slowed down so that a migration converges: the arithmetic of it.
 *
 * Time goes in steps of about MIG_THROTTLE_STEP_NS. A step is told how fast the wire is, how much
 * is left, how many pages have become dirty and what each vCPU did, and answers with a share for
 * each vCPU.
 *
 * 1. *Allowed*: so many pages a second may become dirty that the rest still shrinks to what fits
 *    the downtime limit in the time that is given. Without a given time the guest may do as it
 * likes while its demand is less than what the wire carries; once it is more, a quarter of that is
 *    allowed. Slowing costs the guest least if it comes late and is strong: as long as the demand
 *    is smaller, the rest shrinks for nothing; once it is larger, every page that is still written
 *    makes the end later by more than it is worth.
 * 2. *Demand* of a vCPU: the rate at which it would make clean pages dirty if it ran freely, from
 *    the rate at which it does and the part of the time that it runs. It is not how fast the vCPU
 *    writes: what is still to be sent may be written again for nothing. So a guest whose pages are
 *    nearly all waiting to be sent is hardly slowed, and the more are clean the more it is.
 * 3. *Fair share*: the allowed rate is divided as by water that fills vessels: every vCPU gets the
 *    same level, whoever demands less keeps what he demands and is not slowed at all. The others
 *    run for level / demand of their time.
 *
 * Not every KVM counts every write of a vCPU. Dirty pages that neither a count nor the host's own
 * writes explain are put down to the vCPUs in proportion to the processor time that they used: idle
 * vCPUs are not slowed then, but a busy reader is like a busy writer.
 *
 * Demand follows a rise faster than a fall, and shares move by bounded steps, so that a guest which
 * writes in bursts meets no sudden stop.
 *
 * Threads: one at a time per struct.
 */
#ifndef MIGRATION_THROTTLE_H
#define MIGRATION_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "migration/machine.h"

#define MIG_THROTTLE_STEP_NS (200 * NS_PER_MS)

struct mig_throttle_aim {
	uint64_t converge_ns; /* from the beginning on; 0 = as point 1 says */
	unsigned min_share;   /* thousandths, MIG_SHARE_MIN to MIG_SHARE_FULL */
	/* Instead of 1 to 3: no vCPU may dirty more than this (pages a second); 0 = as above. */
	uint64_t cpu_limit_pages_s;
};

struct mig_throttle_cpu {
	struct mig_cpu_sample last;
	double rate;   /* pages a second, smoothed */
	double demand; /* the same if it ran freely */
	unsigned share;
};

struct mig_throttle {
	struct mig_throttle_aim aim;
	unsigned n_cpus;
	uint64_t begin_ns, last_ns;
	uint64_t last_new_pages, last_host_pages;
	double wire;           /* pages a second, smoothed */
	bool outrun;           /* the guest's demand is more than that */
	double loose, dirtied; /* pages that nobody has written, and all dirty ones; fading */
	double ahead;          /* writes that were counted before the log had their pages */
	struct mig_throttle_cpu cpus[MIG_CPUS_MAX];
};

struct mig_throttle_view {
	uint64_t now_ns;
	uint64_t wire_bytes_s;
	uint64_t rest_bytes, fit_bytes; /* what is left, and how much may be */
	uint64_t new_pages;             /* that have become dirty, ever */
	uint64_t host_pages;            /* of them, those that no vCPU wrote */
	struct mig_cpu_sample cpus[MIG_CPUS_MAX];
};

/* Begin at this moment, with no vCPU slowed. t->aim may be changed at any time. */
void mig_throttle_begin(struct mig_throttle *t, unsigned n_cpus, const struct mig_throttle_view *v);

/* Next step: the shares are in t->cpus[]. */
void mig_throttle_step(struct mig_throttle *t, const struct mig_throttle_view *v);
/* What happened since the last step is not to be looked at: the guest was paused, say. */
void mig_throttle_skip(struct mig_throttle *t, const struct mig_throttle_view *v);

/*
 * Has precopy shown that it needs help? To be asked after each pass: how much it sent, how much has
 * become dirty meanwhile. True once two passes in a row have left more than `percent` of what they
 * sent.
 */
struct mig_throttle_trigger {
	unsigned strikes;
};

bool mig_throttle_needed(struct mig_throttle_trigger *t, uint64_t sent_bytes, uint64_t left_bytes,
			 uint64_t percent);

#endif
