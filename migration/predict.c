/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/predict.h"

#include "base/clock.h"

/* Allowances, for what has not been measured. */
#define PAUSE_NS   (500 * NS_PER_US)
#define CPU_NS     (150 * NS_PER_US) /* to save one vCPU, and to load it */
#define WAKE_UP_NS (250 * NS_PER_US) /* of the threads at both ends, in a round trip */
#define START_NS   (500 * NS_PER_US)
#define CPU_BYTES  8192
#define MAX_NS     (3600 * NS_PER_SEC) /* whatever a peer may say */

const char *mig_phase_name(enum mig_phase p)
{
	static const char *const names[MIG_PHASES] = {
		[MIG_PHASE_PAUSE] = "pause",     [MIG_PHASE_HELD] = "held",
		[MIG_PHASE_COLLECT] = "collect", [MIG_PHASE_SYNC] = "sync",
		[MIG_PHASE_VERIFY] = "verify",   [MIG_PHASE_PAGES] = "pages",
		[MIG_PHASE_STATE] = "state",     [MIG_PHASE_LOAD] = "load",
		[MIG_PHASE_COMMIT] = "commit",   [MIG_PHASE_START] = "start",
	};

	return names[p];
}

bool mig_phase_is_dest(enum mig_phase p)
{
	return p == MIG_PHASE_LOAD || p == MIG_PHASE_START;
}

void mig_costs_init(struct mig_costs *c, unsigned n_cpus, uint64_t rtt_ns)
{
	*c = (struct mig_costs){.state_bytes = n_cpus * CPU_BYTES, .rtt_ns = rtt_ns};
	c->cost[MIG_PHASE_PAUSE].allowance_ns = PAUSE_NS;
	c->cost[MIG_PHASE_COLLECT].allowance_ns = n_cpus * CPU_NS;
	c->cost[MIG_PHASE_STATE].allowance_ns = rtt_ns + WAKE_UP_NS;
	c->cost[MIG_PHASE_LOAD].allowance_ns = n_cpus * CPU_NS;
	c->cost[MIG_PHASE_COMMIT].allowance_ns = rtt_ns + WAKE_UP_NS;
	c->cost[MIG_PHASE_START].allowance_ns = START_NS;
	for (unsigned p = 0; p < MIG_PHASES; p++)
		c->cost[p].ns = c->cost[p].allowance_ns;
}

/* Is it measured beside a running guest? */
static bool is_shared(enum mig_phase phase)
{
	return phase == MIG_PHASE_SYNC || phase == MIG_PHASE_VERIFY || phase == MIG_PHASE_STATE ||
	       phase == MIG_PHASE_LOAD || phase == MIG_PHASE_COMMIT;
}

static uint64_t from_samples(const struct mig_cost *c, bool least)
{
	unsigned n = c->n_samples < MIG_COST_SAMPLES ? c->n_samples : MIG_COST_SAMPLES;
	uint64_t sorted[MIG_COST_SAMPLES];

	if (!n)
		return c->allowance_ns;
	for (unsigned i = 0; i < n; i++) {
		unsigned at = i;

		for (; at && sorted[at - 1] > c->samples[i]; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = c->samples[i];
	}
	return sorted[least ? 0 : n / 2];
}

static void reckon(struct mig_costs *costs, enum mig_phase phase)
{
	struct mig_cost *c = &costs->cost[phase];

	c->ns = from_samples(c, is_shared(phase));
	if (c->ns < c->overran_ns)
		c->ns = c->overran_ns;
	if ((phase == MIG_PHASE_STATE || phase == MIG_PHASE_COMMIT) && c->ns < costs->rtt_ns)
		c->ns = costs->rtt_ns;
}

void mig_costs_learn(struct mig_costs *costs, enum mig_phase phase, uint64_t ns)
{
	struct mig_cost *c = &costs->cost[phase];

	c->samples[c->n_samples++ % MIG_COST_SAMPLES] = ns < MAX_NS ? ns : MAX_NS;
	c->overran_ns /= 2;
	reckon(costs, phase);
}

void mig_costs_overran(struct mig_costs *costs, enum mig_phase phase, uint64_t ns)
{
	struct mig_cost *c = &costs->cost[phase];

	if (c->overran_ns < ns)
		c->overran_ns = ns < MAX_NS ? ns : MAX_NS;
	reckon(costs, phase);
}

void mig_costs_fade(struct mig_costs *costs)
{
	for (unsigned p = 0; p < MIG_PHASES; p++) {
		costs->cost[p].overran_ns -= costs->cost[p].overran_ns / 4;
		reckon(costs, (enum mig_phase)p);
	}
}

void mig_costs_predict(const struct mig_costs *c, const struct mig_rate *rate, uint64_t page_bytes,
		       uint64_t out[MIG_PHASES])
{
	for (unsigned p = 0; p < MIG_PHASES; p++)
		out[p] = c->cost[p].ns;
	out[MIG_PHASE_PAGES] = mig_rate_time_ns(rate, page_bytes);
	out[MIG_PHASE_STATE] += mig_rate_time_ns(rate, c->state_bytes);
}

uint64_t mig_phases_from(const uint64_t ns[MIG_PHASES], enum mig_phase first)
{
	uint64_t sum = 0;

	for (unsigned p = first; p < MIG_PHASES; p++)
		sum += ns[p];
	return sum;
}
