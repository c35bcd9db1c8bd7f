/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers of a vCPU's state. Used by vcpu_state.c only; in the vCPU's thread.
 *
 * Which: KVM's own list (vm->msrs), and two groups that some KVMs leave out of it although guests
 * can set them: the MTRRs and the machine check banks.
 */
#ifndef KVM_VCPU_MSRS_H
#define KVM_VCPU_MSRS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/vcpu.h"
#include "kvm/vcpu_state.h"

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_MTRR_DEFAULT 0x2ffu

/* May this MSR be in a state? Not those that are saved apart or left out (vcpu_state.h). */
bool vcpu_msr_is_state(uint32_t index);

/* One MSR. -EIO if KVM refuses. */
int vcpu_msr_get(struct vcpu *v, uint32_t index, uint64_t *value);
int vcpu_msr_set(struct vcpu *v, uint32_t index, uint64_t value);

/* All that can be read, into s->msrs; what KVM lists and will not read goes to s->unread. */
int vcpu_msrs_read(struct vcpu *v, struct vcpu_state *s, struct err *e);
/* The same; what is not read is reported, once a VM. */
int vcpu_msrs_save(struct vcpu *v, struct vcpu_state *s, struct err *e);

/*
 * An MSR that KVM will not set is no error if it holds that value already, or if it does not exist
 * here and the value is 0, what a processor without it amounts to. Else -EINVAL naming it.
 */
int vcpu_msrs_load(struct vcpu *v, const struct vcpu_state *s, struct err *e);

/*
 * Could these, as a guest had them at its start, be loaded here? -EINVAL naming an MSR that is not
 * known here and not 0, or hardware protections that the guest counts on (has_capabilities: its
 * CPUID tells it of them) and would not have.
 */
int vcpu_msrs_check(struct vcpu *v, const struct msr_state *list, uint32_t n, bool has_capabilities,
		    struct err *e);

#endif
