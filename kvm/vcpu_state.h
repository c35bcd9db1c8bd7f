/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a vCPU as plain numbers: saved from KVM, checked, loaded into KVM.
 *
 * vcpu_state_table describes the struct for streams and files. A state that came from outside goes
 * through vcpu_state_check() before vcpu_state_load(); KVM has the last word on what the values
 * mean and its refusals are reported with the name of the part it refused.
 *
 * Left out on purpose:
 *   - the wall clock MSRs of kvmclock: writing one makes KVM write guest memory at that moment, it
 *     is a command and no state;
 *   - MSRs of Hyper-V's interface, which no guest of ferry is offered.
 *
 * Threads: save, load and quiet in the vCPU's own thread; check anywhere.
 */
#ifndef KVM_VCPU_STATE_H
#define KVM_VCPU_STATE_H

#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "kvm/cpuid.h"
#include "kvm/vcpu.h"
#include "kvm/vm_state.h"

#define VCPU_XSAVE_ROOM  16384
#define VCPU_LAPIC_BYTES 1024
#define VCPU_XCRS_ROOM   16
#define VCPU_TSC_KHZ_MIN 1000u
#define VCPU_TSC_KHZ_MAX 100000000u

struct segment_state {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type, present, dpl, db, s, l, g, avl, unusable;
};

struct dtable_state {
	uint64_t base;
	uint16_t limit;
};

struct regs_state {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
};

struct sregs_state {
	struct segment_state cs, ds, es, fs, gs, ss, tr, ldt;
	struct dtable_state gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	uint64_t flags; /* bit 0: pdptrs are valid */
	uint64_t pdptrs[4];
};

struct debug_state {
	uint64_t db[4], dr6, dr7, flags;
};

struct msr_state {
	uint32_t index;
	uint64_t value;
};

struct xcr_state {
	uint32_t index;
	uint64_t value;
};

/* KVM_GET_VCPU_EVENTS: what is about to be delivered. */
struct events_state {
	uint8_t exception_injected, exception_nr, exception_has_error_code, exception_pending;
	uint32_t exception_error_code;
	uint8_t exception_has_payload;
	uint64_t exception_payload;
	uint8_t interrupt_injected, interrupt_nr, interrupt_soft, interrupt_shadow;
	uint8_t nmi_injected, nmi_pending, nmi_masked;
	uint32_t sipi_vector, flags;
	uint8_t smi_smm, smi_pending, smi_inside_nmi, smi_latched_init;
	uint8_t triple_fault_pending;
};

/* The time stamp counter; see tsc_offset_moved() and docs in vm_state.h. */
struct tsc_state {
	uint32_t khz;      /* the guest's frequency */
	uint32_t host_khz; /* the host's */
	uint8_t has_offset;
	uint64_t offset;   /* guest TSC = scaled host TSC + offset, mod 2^64 */
	uint64_t value;    /* guest TSC when saved ... */
	uint64_t real_ns;  /* ... at this wall clock time */
	uint64_t deadline; /* TSC-deadline timer, a guest TSC; 0 = off */
};

struct vcpu_state {
	uint32_t n_cpuid;
	struct cpuid_state cpuid[CPUID_ENTRIES_MAX];
	struct regs_state regs;
	struct sregs_state sregs;
	uint32_t xsave_bytes;
	uint8_t xsave[VCPU_XSAVE_ROOM]; /* standard format of the XSAVE area */
	uint32_t n_xcrs;
	struct xcr_state xcrs[VCPU_XCRS_ROOM];
	struct debug_state debug;
	uint32_t n_msrs;
	struct msr_state msrs[VM_MSRS_MAX];
	uint32_t n_unread; /* MSRs that KVM lists but would not read */
	uint32_t unread[VM_MSRS_MAX];
	uint8_t lapic[VCPU_LAPIC_BYTES];
	struct events_state events;
	uint32_t mp_state; /* KVM's numbers, 0 to 4 */
	struct tsc_state tsc;
};

extern const struct field_table vcpu_state_table;
extern const struct field_table vcpu_cpuid_table; /* struct cpuid_state */
extern const struct field_table vcpu_msr_table;   /* struct msr_state */

/* The vCPU must be stopped after VCPU_EXIT_INTERRUPTED. */
int vcpu_state_save(struct vcpu *v, struct vcpu_state *s, struct err *e);

/* Could this be loaded into v? -EINVAL with what is wrong: sizes, ranges, missing CPU features. */
int vcpu_state_check(const struct vcpu_state *s, const struct vcpu *v, struct err *e);

/*
 * Load a checked state into a vCPU that has not run yet. `shift` is what vm_clock_load() gave. On
 * failure the vCPU is in no defined state; loading once more is fine.
 */
int vcpu_state_load(struct vcpu *v, const struct vcpu_state *s, const struct tsc_shift *shift,
		    struct err *e);

/* Could v have a time stamp counter of this frequency? -EINVAL if not. */
int vcpu_tsc_check(const struct vcpu *v, uint32_t khz, struct err *e);

/* What vcpu_state_load() armed fires no more, until the next load. */
int vcpu_state_quiet(struct vcpu *v, struct err *e);

#endif
