/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest counts on of its processor, from its start to its end: CPUID as KVM really gives it,
 * the time stamp counter's frequency, which MSRs make up a vCPU's state and what they were at the
 * start. It tells a destination whether the guest could live there before anything is moved;
 * vcpu_state_check() and KVM have the last word when the state itself is there.
 *
 * All vCPUs of a guest are alike: vCPU 0 stands for all.
 */
#ifndef KVM_PROCESSOR_H
#define KVM_PROCESSOR_H

#include "kvm/vcpu_state.h"

struct processor_state {
	uint32_t n_cpuid;
	struct cpuid_state cpuid[CPUID_ENTRIES_MAX];
	uint32_t tsc_khz;
	uint32_t n_msrs;
	struct msr_state msrs[VM_MSRS_MAX];
};

extern const struct field_table processor_table;

/* Of a vCPU that has never run. Before its thread exists. */
int processor_read(struct vcpu *v, struct processor_state *s, struct err *e);

/*
 * Could a guest of this processor go on in v, which has not run yet? v has its CPUID afterwards,
 * and s is what v gives it (which may be more). -EINVAL naming what is missing and what to do. In
 * v's thread.
 */
int processor_admit(struct vcpu *v, struct processor_state *s, struct err *e);

#endif
