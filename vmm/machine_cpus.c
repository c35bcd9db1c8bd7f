/* SPDX-License-Identifier: Apache-2.0 */
/* What the migration engine sees of the vCPUs: how much each writes, and a brake for each. */
#include "vmm/cpu_slice.h"
#include "vmm/machine_impl.h"

_Static_assert(MIG_SHARE_FULL == SHARE_FULL && MIG_SHARE_MIN == SHARE_MIN, "one scale for both");
_Static_assert(MACHINE_MAX_CPUS <= MIG_CPUS_MAX, "there is room for all");

static void cpus_sample(void *ctx, struct mig_cpu_sample *out, uint64_t *host_pages)
{
	struct machine *m = ctx;

	*host_pages = __atomic_load_n(&m->host_pages, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < m->n_cpus; i++) {
		struct cpu_time t = cpu_time(m->cpus[i]);

		out[i] = (struct mig_cpu_sample){.run_ns = t.run_ns, .stall_ns = t.stall_ns};
		if (!machine_dirty_pages(m, i, &out[i].writes))
			(void)vcpu_stats_faults(&m->stats[i], &out[i].writes);
	}
}

static void cpus_set_share(void *ctx, unsigned cpu, unsigned share)
{
	struct machine *m = ctx;

	cpu_set_share(m->cpus[cpu], share);
}

struct mig_cpu_source machine_cpu_source(struct machine *m)
{
	return (struct mig_cpu_source){
		.ctx = m, .n_cpus = m->n_cpus, .sample = cpus_sample, .set_share = cpus_set_share};
}
