/* SPDX-License-Identifier: Apache-2.0 */
/* Is a state that came from outside one that could be loaded here? See vcpu_state.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <linux/kvm.h>

#include "kvm/vcpu_msrs.h"
#include "kvm/vcpu_state.h"

#define XSAVE_HEADER       512 /* offset of XSTATE_BV, XCOMP_BV, 48 reserved bytes */
#define XSAVE_HEADER_BYTES 64
#define XSTATE_LEGACY      3ull /* x87 and SSE */
#define RFLAGS_VALID       0x3f7fd7ull
#define EVENTS_FLAGS       0x3fu /* KVM_VCPUEVENT_VALID_* */
#define MP_STATE_MAX       4u    /* KVM_MP_STATE_SIPI_RECEIVED */

static int bad(unsigned cpu, struct err *e, const char *what, uint64_t value)
{
	return err_set(e, EINVAL, "the state of vCPU %u is damaged: %s is 0x%" PRIx64, cpu, what,
		       value);
}

static uint64_t guest_xfeatures(const struct vcpu_state *s)
{
	for (uint32_t i = 0; i < s->n_cpuid; i++) {
		if (s->cpuid[i].function == 0xd && s->cpuid[i].index == 0)
			return XSTATE_LEGACY | s->cpuid[i].eax | (uint64_t)s->cpuid[i].edx << 32;
	}
	return XSTATE_LEGACY;
}

static int check_cpuid(const struct vcpu_state *s, const struct vcpu *v, struct err *e)
{
	struct kvm_cpuid2 *t;
	int rc;

	if (s->n_cpuid == 0 || s->n_cpuid > CPUID_ENTRIES_MAX)
		return bad(v->index, e, "the number of CPUID entries", s->n_cpuid);
	for (uint32_t i = 0; i < s->n_cpuid; i++) {
		if (s->cpuid[i].function == 1 && s->cpuid[i].ebx >> 24 != v->index)
			return bad(v->index, e, "the APIC id", s->cpuid[i].ebx >> 24);
	}
	t = cpuid_from_state(s->cpuid, s->n_cpuid);
	if (!t)
		return err_set(e, ENOMEM, "out of memory for CPUID");
	rc = cpuid_check(t, v->cpuid_own, &v->vm->model, e);
	free(t);
	return rc;
}

static int check_fpu(const struct vcpu_state *s, const struct vcpu *v, struct err *e)
{
	uint64_t features = guest_xfeatures(s), head[XSAVE_HEADER_BYTES / 8];

	if (s->xsave_bytes < XSAVE_HEADER + XSAVE_HEADER_BYTES || s->xsave_bytes > VCPU_XSAVE_ROOM)
		return bad(v->index, e, "the size of the floating-point state", s->xsave_bytes);
	/* A host with more features has a larger area; this guest has nothing there. */
	for (uint32_t i = v->vm->caps.xsave_bytes; i < s->xsave_bytes; i++) {
		if (s->xsave[i])
			return err_set(e, EINVAL,
				       "vCPU %u's floating-point state has something at byte %u, "
				       "this host's KVM takes %u bytes",
				       v->index, i, v->vm->caps.xsave_bytes);
	}
	memcpy(head, s->xsave + XSAVE_HEADER, sizeof(head));
	if (head[0] & ~features)
		return bad(v->index, e, "XSTATE_BV", head[0]);
	for (unsigned i = 1; i < XSAVE_HEADER_BYTES / 8; i++) {
		if (head[i])
			return bad(v->index, e, "a reserved word of the XSAVE header", head[i]);
	}
	if (s->n_xcrs > VCPU_XCRS_ROOM)
		return bad(v->index, e, "the number of XCRs", s->n_xcrs);
	for (uint32_t i = 0; i < s->n_xcrs; i++) {
		if (s->xcrs[i].index)
			return bad(v->index, e, "the number of an XCR", s->xcrs[i].index);
		if (!(s->xcrs[i].value & 1) || (s->xcrs[i].value & ~features))
			return bad(v->index, e, "XCR0", s->xcrs[i].value);
	}
	return 0;
}

static int check_segments(const struct sregs_state *s, unsigned cpu, struct err *e)
{
	const struct segment_state *all[] = {&s->cs, &s->ds, &s->es, &s->fs,
					     &s->gs, &s->ss, &s->tr, &s->ldt};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		const struct segment_state *g = all[i];

		if (g->type > 15 || g->dpl > 3)
			return bad(cpu, e, "a segment's type and privilege",
				   (uint64_t)g->type << 8 | g->dpl);
		if ((g->present | g->db | g->s | g->l | g->g | g->avl | g->unusable) > 1)
			return bad(cpu, e, "a segment's flag", 2);
	}
	return 0;
}

static int check_registers(const struct vcpu_state *s, unsigned cpu, struct err *e)
{
	if (s->regs.rflags & ~RFLAGS_VALID)
		return bad(cpu, e, "RFLAGS", s->regs.rflags);
	if (s->sregs.flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return bad(cpu, e, "the flags of the control registers", s->sregs.flags);
	if (s->sregs.cr8 > 15)
		return bad(cpu, e, "CR8", s->sregs.cr8);
	if (s->debug.flags || s->debug.dr6 >> 32 || s->debug.dr7 >> 32)
		return bad(cpu, e, "a debug register",
			   s->debug.flags ? s->debug.flags : s->debug.dr6 | s->debug.dr7);
	return check_segments(&s->sregs, cpu, e);
}

static int check_events(const struct events_state *s, unsigned cpu, struct err *e)
{
	if (s->flags & ~EVENTS_FLAGS)
		return bad(cpu, e, "the flags of the pending events", s->flags);
	if (s->exception_nr > 31)
		return bad(cpu, e, "the number of a pending exception", s->exception_nr);
	if (s->exception_injected > 1 || s->exception_pending > 1 || s->interrupt_injected > 1 ||
	    s->nmi_injected > 1 || s->nmi_masked > 1 || s->triple_fault_pending > 1)
		return bad(cpu, e, "a flag of the pending events", 2);
	if (s->smi_smm || s->smi_inside_nmi)
		return err_set(e, EINVAL,
			       "vCPU %u is in system management mode, which ferry does not offer",
			       cpu);
	return 0;
}

int vcpu_state_check(const struct vcpu_state *s, const struct vcpu *v, struct err *e)
{
	int rc = check_cpuid(s, v, e);

	if (!rc)
		rc = check_fpu(s, v, e);
	if (!rc)
		rc = check_registers(s, v->index, e);
	if (!rc)
		rc = check_events(&s->events, v->index, e);
	if (rc)
		return rc;
	if (s->n_msrs > VM_MSRS_MAX)
		return bad(v->index, e, "the number of MSRs", s->n_msrs);
	for (uint32_t i = 0; i < s->n_msrs; i++) {
		if (!vcpu_msr_is_state(s->msrs[i].index))
			return bad(v->index, e, "the number of an MSR", s->msrs[i].index);
	}
	if (s->mp_state > MP_STATE_MAX)
		return bad(v->index, e, "the run state", s->mp_state);
	if (s->tsc.khz < VCPU_TSC_KHZ_MIN || s->tsc.khz > VCPU_TSC_KHZ_MAX)
		return bad(v->index, e, "the TSC frequency", s->tsc.khz);
	if (s->tsc.host_khz < VCPU_TSC_KHZ_MIN || s->tsc.host_khz > VCPU_TSC_KHZ_MAX)
		return bad(v->index, e, "the source's TSC frequency", s->tsc.host_khz);
	if (s->tsc.has_offset > 1)
		return bad(v->index, e, "the TSC's flag", s->tsc.has_offset);
	if (s->tsc.deadline && !v->vm->caps.tsc_deadline)
		return err_set(e, EINVAL,
			       "the guest uses the TSC-deadline timer, which this "
			       "host's KVM lacks");
	return 0;
}
