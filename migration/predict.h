/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a switchover costs, phase by phase: what is known, what is learnt, what is predicted.
 *
 * Everything between the last instruction at the source and the first at the destination belongs to
 * a phase (enum mig_phase). A cost is an allowance until it has been measured, by a rehearsal
 * (migration/rehearsal.c) or a sync. Of the last few measurements the middle one counts, so that a
 * moment's noise moves nothing; of those that are taken while the guest runs (sync, state, load,
 * commit) the least one, because in the dark they need not share the processors with it.
 *
 * A switchover that was called off knows better: what a phase took there counts at once, and loses
 * half of its weight with each measurement from then on.
 *
 * Threads: one thread per struct.
 */
#ifndef MIGRATION_PREDICT_H
#define MIGRATION_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/migration.h"
#include "migration/rate.h"

#define MIG_COST_SAMPLES 5

struct mig_cost {
	uint64_t ns; /* what to reckon with */
	uint64_t allowance_ns;
	uint64_t overran_ns; /* what a switchover found out, less what has faded since */
	uint64_t samples[MIG_COST_SAMPLES];
	unsigned n_samples; /* ever */
};

struct mig_costs {
	struct mig_cost cost[MIG_PHASES]; /* but for the pages; STATE and COMMIT: the round trip */
	uint64_t state_bytes;             /* of the sections, as last sent */
	uint64_t rtt_ns;                  /* no round trip is shorter */
};

/* Allowances for so many vCPUs over a connection with this round trip. */
void mig_costs_init(struct mig_costs *c, unsigned n_cpus, uint64_t rtt_ns);
/* A phase has taken so long. */
void mig_costs_learn(struct mig_costs *c, enum mig_phase phase, uint64_t ns);
/* In a switchover that was called off it took so long, or longer: nobody waited for its end. */
void mig_costs_overran(struct mig_costs *c, enum mig_phase phase, uint64_t ns);
/* Where nothing measures anew what overran: it may have become cheaper. Once a pass. */
void mig_costs_fade(struct mig_costs *c);

/* A switchover that has page_bytes to send, at this rate. */
void mig_costs_predict(const struct mig_costs *c, const struct mig_rate *rate, uint64_t page_bytes,
		       uint64_t out[MIG_PHASES]);
/* The sum from this phase on. */
uint64_t mig_phases_from(const uint64_t ns[MIG_PHASES], enum mig_phase first);

#endif
