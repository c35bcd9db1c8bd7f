/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/recover.h"

#include <sys/ioctl.h>

#include <linux/kvm.h>

#define OP_FWAIT 0x9b
#define OP_INT3  0xcc

#define VECTOR_BP 3
#define VECTOR_NM 7
#define VECTOR_MF 16

#define CR0_MP    (1ull << 1)
#define CR0_TS    (1ull << 3)
#define CR0_NE    (1ull << 5)
#define X87_ES    (1u << 7) /* an unmasked exception is pending */
#define EFER_LMA  (1ull << 10)
#define TOP_HALF  0xffffffff00000000ull
#define RFLAGS_RF (1ull << 16)
#define RFLAGS_TF (1ull << 8)

static struct recovery fwait(uint64_t cr0, uint16_t x87_status)
{
	if ((cr0 & (CR0_TS | CR0_MP)) == (CR0_TS | CR0_MP))
		return (struct recovery){.known = true, .vector = VECTOR_NM};
	if (x87_status & X87_ES) {
		/* Without NE it is an external interrupt of the old PC: not ours to raise. */
		if (!(cr0 & CR0_NE))
			return (struct recovery){.vector = -1};
		return (struct recovery){.known = true, .vector = VECTOR_MF};
	}
	return (struct recovery){.known = true, .skip_bytes = 1, .vector = -1};
}

struct recovery recovery_for(const uint8_t *bytes, size_t n, uint64_t cr0, uint16_t x87_status)
{
	if (n && bytes[0] == OP_FWAIT)
		return fwait(cr0, x87_status);
	if (n && bytes[0] == OP_INT3)
		return (struct recovery){.known = true, .skip_bytes = 1, .vector = VECTOR_BP};
	return (struct recovery){.vector = -1};
}

/* The instruction's bytes, where KVM tells them. */
static size_t failed_bytes(const struct kvm_run *run, const uint8_t **bytes)
{
	size_t n = run->emulation_failure.insn_size;

	if (run->emulation_failure.ndata < 3 ||
	    !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return 0;
	*bytes = run->emulation_failure.insn_bytes;
	return n < sizeof(run->emulation_failure.insn_bytes)
		       ? n
		       : sizeof(run->emulation_failure.insn_bytes);
}

/* KVM has already queued #UD for the instruction: ours, or nothing, takes its place. */
static bool set_exception(struct vcpu *v, int vector)
{
	struct kvm_vcpu_events ev;

	if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &ev))
		return false;
	ev.exception.injected = vector >= 0;
	ev.exception.nr = vector >= 0 ? (uint8_t)vector : 0;
	ev.exception.has_error_code = 0;
	ev.exception.error_code = 0;
	ev.exception.pending = 0;
	ev.exception_has_payload = 0;
	ev.exception_payload = 0;
	return !ioctl(v->fd, KVM_SET_VCPU_EVENTS, &ev);
}

bool vcpu_recover(struct vcpu *v)
{
	const uint8_t *bytes = NULL;
	size_t n = failed_bytes(v->run, &bytes);
	struct kvm_sregs sregs;
	struct kvm_regs regs, before;
	struct recovery r;
	struct kvm_fpu fpu;

	if (!n || ioctl(v->fd, KVM_GET_REGS, &regs) || ioctl(v->fd, KVM_GET_SREGS, &sregs) ||
	    ioctl(v->fd, KVM_GET_FPU, &fpu))
		return false;
	r = recovery_for(bytes, n, sregs.cr0, fpu.fsw);
	/* Ring 3 never gets here. A single step would have to trap behind the instruction. */
	if (!r.known || sregs.ss.dpl || regs.rflags & RFLAGS_TF)
		return false;
	before = regs;
	regs.rip += r.skip_bytes;
	if (!(sregs.efer & EFER_LMA) || !sregs.cs.l)
		regs.rip &= ~TOP_HALF;
	regs.rflags &= ~RFLAGS_RF;
	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		return false;
	/* KVM_SET_REGS drops a pending exception, so events come last. */
	if (set_exception(v, r.vector))
		return true;
	(void)ioctl(v->fd, KVM_SET_REGS, &before);
	return false;
}
