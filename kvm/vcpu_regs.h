/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts of a vCPU's state between KVM's structs and ours. Used by vcpu_state.c only; in the vCPU's
 * thread. Each returns 0 or -errno with a message that names the part.
 */
#ifndef KVM_VCPU_REGS_H
#define KVM_VCPU_REGS_H

#include "base/err.h"
#include "kvm/vcpu.h"
#include "kvm/vcpu_state.h"

int vcpu_regs_save(struct vcpu *v, struct regs_state *s, struct err *e);
int vcpu_regs_load(struct vcpu *v, const struct regs_state *s, struct err *e);

/* KVM_GET_SREGS2; the older call, which loses PDPTRs, where KVM does not know it. */
int vcpu_sregs_save(struct vcpu *v, struct sregs_state *s, struct err *e);
int vcpu_sregs_load(struct vcpu *v, const struct sregs_state *s, struct err *e);

int vcpu_debug_save(struct vcpu *v, struct debug_state *s, struct err *e);
int vcpu_debug_load(struct vcpu *v, const struct debug_state *s, struct err *e);

int vcpu_events_save(struct vcpu *v, struct events_state *s, struct err *e);
int vcpu_events_load(struct vcpu *v, const struct events_state *s, struct err *e);

/* XCRs and the XSAVE area. */
int vcpu_fpu_save(struct vcpu *v, struct vcpu_state *s, struct err *e);
int vcpu_fpu_load(struct vcpu *v, const struct vcpu_state *s, struct err *e);

/* "cannot read vCPU 2's debug registers: ..." from errno. */
int vcpu_fail(const struct vcpu *v, const char *verb, const char *what, struct err *e);

#endif
