/* SPDX-License-Identifier: Apache-2.0 */
/* How a vCPU's state is laid out in streams and files, field by field. */
#include "kvm/vcpu_state.h"

#define F(s, m, t) FIELD(struct s, m, FIELD_##t)

static const struct field cpuid_fields[] = {
	F(cpuid_state, function, U32), F(cpuid_state, index, U32), F(cpuid_state, flags, U32),
	F(cpuid_state, eax, U32),      F(cpuid_state, ebx, U32),   F(cpuid_state, ecx, U32),
	F(cpuid_state, edx, U32),
};
FIELD_TABLE(vcpu_cpuid_table, "cpuid", 1, cpuid_fields);

static const struct field segment_fields[] = {
	F(segment_state, base, U64), F(segment_state, limit, U32),  F(segment_state, selector, U16),
	F(segment_state, type, U8),  F(segment_state, present, U8), F(segment_state, dpl, U8),
	F(segment_state, db, U8),    F(segment_state, s, U8),       F(segment_state, l, U8),
	F(segment_state, g, U8),     F(segment_state, avl, U8),     F(segment_state, unusable, U8),
};
static FIELD_TABLE(segment_table, "segment", 1, segment_fields);

static const struct field dtable_fields[] = {
	F(dtable_state, base, U64),
	F(dtable_state, limit, U16),
};
static FIELD_TABLE(dtable_table, "dtable", 1, dtable_fields);

static const struct field regs_fields[] = {
	F(regs_state, rax, U64), F(regs_state, rbx, U64), F(regs_state, rcx, U64),
	F(regs_state, rdx, U64), F(regs_state, rsi, U64), F(regs_state, rdi, U64),
	F(regs_state, rsp, U64), F(regs_state, rbp, U64), F(regs_state, r8, U64),
	F(regs_state, r9, U64),  F(regs_state, r10, U64), F(regs_state, r11, U64),
	F(regs_state, r12, U64), F(regs_state, r13, U64), F(regs_state, r14, U64),
	F(regs_state, r15, U64), F(regs_state, rip, U64), F(regs_state, rflags, U64),
};
static FIELD_TABLE(regs_table, "regs", 1, regs_fields);

#define SEGMENT(m) FIELD_SUB(struct sregs_state, m, &segment_table)
#define DTABLE(m)  FIELD_SUB(struct sregs_state, m, &dtable_table)

static const struct field sregs_fields[] = {
	SEGMENT(cs),
	SEGMENT(ds),
	SEGMENT(es),
	SEGMENT(fs),
	SEGMENT(gs),
	SEGMENT(ss),
	SEGMENT(tr),
	SEGMENT(ldt),
	DTABLE(gdt),
	DTABLE(idt),
	F(sregs_state, cr0, U64),
	F(sregs_state, cr2, U64),
	F(sregs_state, cr3, U64),
	F(sregs_state, cr4, U64),
	F(sregs_state, cr8, U64),
	F(sregs_state, efer, U64),
	F(sregs_state, apic_base, U64),
	F(sregs_state, flags, U64),
	FIELD_ARRAY(struct sregs_state, pdptrs, FIELD_U64),
};
static FIELD_TABLE(sregs_table, "sregs", 1, sregs_fields);

static const struct field xcr_fields[] = {
	F(xcr_state, index, U32),
	F(xcr_state, value, U64),
};
static FIELD_TABLE(xcr_table, "xcr", 1, xcr_fields);

static const struct field debug_fields[] = {
	FIELD_ARRAY(struct debug_state, db, FIELD_U64),
	F(debug_state, dr6, U64),
	F(debug_state, dr7, U64),
	F(debug_state, flags, U64),
};
static FIELD_TABLE(debug_table, "debug", 1, debug_fields);

static const struct field msr_fields[] = {
	F(msr_state, index, U32),
	F(msr_state, value, U64),
};
FIELD_TABLE(vcpu_msr_table, "msr", 1, msr_fields);

static const struct field events_fields[] = {
	F(events_state, exception_injected, U8),
	F(events_state, exception_nr, U8),
	F(events_state, exception_has_error_code, U8),
	F(events_state, exception_pending, U8),
	F(events_state, exception_error_code, U32),
	F(events_state, exception_has_payload, U8),
	F(events_state, exception_payload, U64),
	F(events_state, interrupt_injected, U8),
	F(events_state, interrupt_nr, U8),
	F(events_state, interrupt_soft, U8),
	F(events_state, interrupt_shadow, U8),
	F(events_state, nmi_injected, U8),
	F(events_state, nmi_pending, U8),
	F(events_state, nmi_masked, U8),
	F(events_state, sipi_vector, U32),
	F(events_state, flags, U32),
	F(events_state, smi_smm, U8),
	F(events_state, smi_pending, U8),
	F(events_state, smi_inside_nmi, U8),
	F(events_state, smi_latched_init, U8),
	F(events_state, triple_fault_pending, U8),
};
static FIELD_TABLE(events_table, "events", 1, events_fields);

static const struct field tsc_fields[] = {
	F(tsc_state, khz, U32),      F(tsc_state, host_khz, U32), F(tsc_state, has_offset, U8),
	F(tsc_state, offset, U64),   F(tsc_state, value, U64),    F(tsc_state, real_ns, U64),
	F(tsc_state, deadline, U64),
};
static FIELD_TABLE(tsc_table, "tsc", 1, tsc_fields);

static const struct field vcpu_fields[] = {
	F(vcpu_state, n_cpuid, U32),
	FIELD_SUB_VAR(struct vcpu_state, cpuid, n_cpuid, &vcpu_cpuid_table),
	FIELD_SUB(struct vcpu_state, regs, &regs_table),
	FIELD_SUB(struct vcpu_state, sregs, &sregs_table),
	F(vcpu_state, xsave_bytes, U32),
	FIELD_RAW_VAR(struct vcpu_state, xsave, xsave_bytes),
	F(vcpu_state, n_xcrs, U32),
	FIELD_SUB_VAR(struct vcpu_state, xcrs, n_xcrs, &xcr_table),
	FIELD_SUB(struct vcpu_state, debug, &debug_table),
	F(vcpu_state, n_msrs, U32),
	FIELD_SUB_VAR(struct vcpu_state, msrs, n_msrs, &vcpu_msr_table),
	F(vcpu_state, n_unread, U32),
	{"unread", FIELD_U32, offsetof(struct vcpu_state, unread), sizeof(uint32_t), VM_MSRS_MAX,
	 offsetof(struct vcpu_state, n_unread), NULL},
	FIELD_RAW(struct vcpu_state, lapic),
	FIELD_SUB(struct vcpu_state, events, &events_table),
	F(vcpu_state, mp_state, U32),
	FIELD_SUB(struct vcpu_state, tsc, &tsc_table),
};
FIELD_TABLE(vcpu_state_table, "vcpu", 1, vcpu_fields);
