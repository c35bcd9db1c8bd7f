/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vcpu_regs.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

/* Members of equal names on both sides: copied from *from to *to, whichever of them is KVM's. */
/* clang-format off */
#define COPY(f) to->f = from->f;
#define REGS_MEMBERS										\
	COPY(rax) COPY(rbx) COPY(rcx) COPY(rdx) COPY(rsi) COPY(rdi) COPY(rsp) COPY(rbp)		\
	COPY(r8) COPY(r9) COPY(r10) COPY(r11) COPY(r12) COPY(r13) COPY(r14) COPY(r15)		\
	COPY(rip) COPY(rflags)
#define SEGMENT_MEMBERS										\
	COPY(base) COPY(limit) COPY(selector) COPY(type) COPY(present) COPY(dpl) COPY(db)	\
	COPY(s) COPY(l) COPY(g) COPY(avl) COPY(unusable)
#define DTABLE_MEMBERS COPY(base) COPY(limit)
#define CONTROL_MEMBERS										\
	COPY(cr0) COPY(cr2) COPY(cr3) COPY(cr4) COPY(cr8) COPY(efer) COPY(apic_base)
/* clang-format on */

int vcpu_fail(const struct vcpu *v, const char *verb, const char *what, struct err *e)
{
	return err_sys(e, errno, "cannot %s vCPU %u's %s", verb, v->index, what);
}

int vcpu_regs_save(struct vcpu *v, struct regs_state *to, struct err *e)
{
	struct kvm_regs regs, *from = &regs;

	if (ioctl(v->fd, KVM_GET_REGS, &regs))
		return vcpu_fail(v, "read", "registers", e);
	REGS_MEMBERS
	return 0;
}

int vcpu_regs_load(struct vcpu *v, const struct regs_state *from, struct err *e)
{
	struct kvm_regs regs = {0}, *to = &regs;

	REGS_MEMBERS
	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		return vcpu_fail(v, "set", "registers", e);
	return 0;
}

static void segment_get(struct segment_state *to, const struct kvm_segment *from)
{
	SEGMENT_MEMBERS
}

static void segment_put(struct kvm_segment *to, const struct segment_state *from)
{
	SEGMENT_MEMBERS
}

static void dtable_get(struct dtable_state *to, const struct kvm_dtable *from)
{
	DTABLE_MEMBERS
}

static void dtable_put(struct kvm_dtable *to, const struct dtable_state *from)
{
	DTABLE_MEMBERS
}

/* struct kvm_sregs and struct kvm_sregs2 differ only behind apic_base. */
#define SREGS_ALL(segment, dtable)             \
	do {                                   \
		segment(&to->cs, &from->cs);   \
		segment(&to->ds, &from->ds);   \
		segment(&to->es, &from->es);   \
		segment(&to->fs, &from->fs);   \
		segment(&to->gs, &from->gs);   \
		segment(&to->ss, &from->ss);   \
		segment(&to->tr, &from->tr);   \
		segment(&to->ldt, &from->ldt); \
		dtable(&to->gdt, &from->gdt);  \
		dtable(&to->idt, &from->idt);  \
		CONTROL_MEMBERS                \
	} while (0)

int vcpu_sregs_save(struct vcpu *v, struct sregs_state *to, struct err *e)
{
	if (v->vm->caps.sregs2) {
		struct kvm_sregs2 sregs, *from = &sregs;

		if (ioctl(v->fd, KVM_GET_SREGS2, &sregs))
			return vcpu_fail(v, "read", "segment and control registers", e);
		SREGS_ALL(segment_get, dtable_get);
		to->flags = sregs.flags;
		memset(to->pdptrs, 0, sizeof(to->pdptrs));
		if (sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
			memcpy(to->pdptrs, sregs.pdptrs, sizeof(to->pdptrs));
	} else {
		struct kvm_sregs sregs, *from = &sregs;

		if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
			return vcpu_fail(v, "read", "segment and control registers", e);
		SREGS_ALL(segment_get, dtable_get);
		to->flags = 0;
		memset(to->pdptrs, 0, sizeof(to->pdptrs));
	}
	return 0;
}

int vcpu_sregs_load(struct vcpu *v, const struct sregs_state *from, struct err *e)
{
	int rc;

	if (v->vm->caps.sregs2) {
		struct kvm_sregs2 sregs = {.flags = from->flags}, *to = &sregs;

		SREGS_ALL(segment_put, dtable_put);
		memcpy(sregs.pdptrs, from->pdptrs, sizeof(sregs.pdptrs));
		rc = ioctl(v->fd, KVM_SET_SREGS2, &sregs);
	} else {
		/* The bitmap of the injected interrupt stays 0: the events bring it. */
		struct kvm_sregs sregs = {0}, *to = &sregs;

		SREGS_ALL(segment_put, dtable_put);
		rc = ioctl(v->fd, KVM_SET_SREGS, &sregs);
	}
	return rc ? vcpu_fail(v, "set", "segment and control registers", e) : 0;
}

int vcpu_debug_save(struct vcpu *v, struct debug_state *s, struct err *e)
{
	struct kvm_debugregs d = {0};

	if (ioctl(v->fd, KVM_GET_DEBUGREGS, &d))
		return vcpu_fail(v, "read", "debug registers", e);
	memcpy(s->db, d.db, sizeof(s->db));
	s->dr6 = d.dr6;
	s->dr7 = d.dr7;
	s->flags = d.flags;
	return 0;
}

int vcpu_debug_load(struct vcpu *v, const struct debug_state *s, struct err *e)
{
	struct kvm_debugregs d = {.dr6 = s->dr6, .dr7 = s->dr7, .flags = s->flags};

	memcpy(d.db, s->db, sizeof(d.db));
	if (ioctl(v->fd, KVM_SET_DEBUGREGS, &d))
		return vcpu_fail(v, "set", "debug registers", e);
	return 0;
}

int vcpu_events_save(struct vcpu *v, struct events_state *s, struct err *e)
{
	struct kvm_vcpu_events ev = {0};

	if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &ev))
		return vcpu_fail(v, "read", "pending events", e);
	*s = (struct events_state){
		.exception_injected = ev.exception.injected,
		.exception_nr = ev.exception.nr,
		.exception_has_error_code = ev.exception.has_error_code,
		.exception_pending = ev.exception.pending,
		.exception_error_code = ev.exception.error_code,
		.exception_has_payload = ev.exception_has_payload,
		.exception_payload = ev.exception_payload,
		.interrupt_injected = ev.interrupt.injected,
		.interrupt_nr = ev.interrupt.nr,
		.interrupt_soft = ev.interrupt.soft,
		.interrupt_shadow = ev.interrupt.shadow,
		.nmi_injected = ev.nmi.injected,
		.nmi_pending = ev.nmi.pending,
		.nmi_masked = ev.nmi.masked,
		.sipi_vector = ev.sipi_vector,
		/* KVM sets these two only when asked; without them it ignores the values. */
		.flags = ev.flags | KVM_VCPUEVENT_VALID_NMI_PENDING |
			 KVM_VCPUEVENT_VALID_SIPI_VECTOR,
		.smi_smm = ev.smi.smm,
		.smi_pending = ev.smi.pending,
		.smi_inside_nmi = ev.smi.smm_inside_nmi,
		.smi_latched_init = ev.smi.latched_init,
		.triple_fault_pending = ev.triple_fault.pending,
	};
	return 0;
}

/* Flags that this KVM does not know, on parts in which nothing is pending, mean nothing. */
static uint32_t events_flags(const struct vcpu *v, const struct events_state *s)
{
	uint32_t flags = s->flags;

	if (!v->vm->caps.triple_fault_event && !s->triple_fault_pending)
		flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	if (!v->vm->caps.exception_payload && !s->exception_pending && !s->exception_has_payload)
		flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_PAYLOAD;
	if (!s->smi_smm && !s->smi_pending && !s->smi_inside_nmi && !s->smi_latched_init)
		flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_SMM;
	return flags;
}

int vcpu_events_load(struct vcpu *v, const struct events_state *s, struct err *e)
{
	struct kvm_vcpu_events ev = {
		.exception = {.injected = s->exception_injected,
			      .nr = s->exception_nr,
			      .has_error_code = s->exception_has_error_code,
			      .pending = s->exception_pending,
			      .error_code = s->exception_error_code},
		.interrupt = {.injected = s->interrupt_injected,
			      .nr = s->interrupt_nr,
			      .soft = s->interrupt_soft,
			      .shadow = s->interrupt_shadow},
		.nmi = {.injected = s->nmi_injected,
			.pending = s->nmi_pending,
			.masked = s->nmi_masked},
		.sipi_vector = s->sipi_vector,
		.flags = events_flags(v, s),
		.smi = {.smm = s->smi_smm,
			.pending = s->smi_pending,
			.smm_inside_nmi = s->smi_inside_nmi,
			.latched_init = s->smi_latched_init},
		.triple_fault = {.pending = s->triple_fault_pending},
		.exception_has_payload = s->exception_has_payload,
		.exception_payload = s->exception_payload,
	};

	if (ioctl(v->fd, KVM_SET_VCPU_EVENTS, &ev))
		return vcpu_fail(v, "set", "pending events", e);
	return 0;
}

int vcpu_fpu_save(struct vcpu *v, struct vcpu_state *s, struct err *e)
{
	uint32_t bytes = v->vm->caps.xsave_bytes;
	struct kvm_xcrs x = {0};

	if (bytes > VCPU_XSAVE_ROOM)
		return err_set(e, EOPNOTSUPP,
			       "vCPU %u's floating-point state has %u bytes, ferry moves up to %u",
			       v->index, bytes, VCPU_XSAVE_ROOM);
	/* The older call writes exactly 4096 bytes, the newer one what KVM_CAP_XSAVE2 says. */
	if (ioctl(v->fd, bytes > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
		  s->xsave))
		return vcpu_fail(v, "read", "floating-point state", e);
	s->xsave_bytes = bytes;
	if (ioctl(v->fd, KVM_GET_XCRS, &x))
		return vcpu_fail(v, "read", "extended control registers", e);
	s->n_xcrs = x.nr_xcrs <= VCPU_XCRS_ROOM ? x.nr_xcrs : VCPU_XCRS_ROOM;
	for (uint32_t i = 0; i < s->n_xcrs; i++)
		s->xcrs[i] = (struct xcr_state){x.xcrs[i].xcr, x.xcrs[i].value};
	return 0;
}

int vcpu_fpu_load(struct vcpu *v, const struct vcpu_state *s, struct err *e)
{
	uint8_t area[VCPU_XSAVE_ROOM] = {0};
	struct kvm_xcrs x = {.nr_xcrs = s->n_xcrs};

	for (uint32_t i = 0; i < s->n_xcrs; i++)
		x.xcrs[i] = (struct kvm_xcr){.xcr = s->xcrs[i].index, .value = s->xcrs[i].value};
	if (ioctl(v->fd, KVM_SET_XCRS, &x))
		return vcpu_fail(v, "set", "extended control registers", e);
	memcpy(area, s->xsave, s->xsave_bytes);
	if (ioctl(v->fd, KVM_SET_XSAVE, area))
		return vcpu_fail(v, "set", "floating-point state", e);
	return 0;
}
