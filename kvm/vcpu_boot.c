/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of a vCPU that enters a loaded image. */
#include <errno.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "kvm/vcpu.h"

#define CR0_PE   (1ull << 0)
#define CR0_ET   (1ull << 4) /* cannot be 0 */
#define CR0_PG   (1ull << 31)
#define CR4_PAE  (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

static const struct kvm_segment flat_data = {
	.limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
static const struct kvm_segment flat_code = {
	.limit = 0xffffffff, .selector = 0x10, .type = 0xb, .present = 1, .db = 1, .s = 1, .g = 1};
static const struct kvm_segment busy_tss = {
	.limit = 0x67, .selector = 0x20, .type = 0xb, .present = 1};

static void set_segments(struct kvm_sregs *s)
{
	s->ds = s->es = s->fs = s->gs = s->ss = flat_data;
	s->cs = flat_code;
	s->tr = busy_tss;
	s->ldt = (struct kvm_segment){.type = 2, .unusable = 1};
	s->gdt = s->idt = (struct kvm_dtable){0};
}

static int set(struct vcpu *v, const struct kvm_sregs *sregs, const struct kvm_regs *regs,
	       struct err *e)
{
	if (ioctl(v->fd, KVM_SET_SREGS, sregs) || ioctl(v->fd, KVM_SET_REGS, regs))
		return err_sys(e, errno, "cannot set vCPU %u's registers", v->index);
	return 0;
}

int vcpu_set_boot(struct vcpu *v, uint32_t rip, uint32_t eax, uint32_t ebx, struct err *e)
{
	const struct kvm_regs regs = {.rip = rip, .rax = eax, .rbx = ebx, .rflags = 2};
	struct kvm_sregs sregs;

	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		return err_sys(e, errno, "cannot read vCPU %u's registers", v->index);
	set_segments(&sregs);
	sregs.cr0 = CR0_PE | CR0_ET;
	sregs.cr3 = sregs.cr4 = sregs.efer = 0;
	return set(v, &sregs, &regs, e);
}

int vcpu_set_boot64(struct vcpu *v, const struct vcpu_boot64 *b, struct err *e)
{
	const struct kvm_regs regs = {.rip = b->rip, .rsi = b->rsi, .rflags = 2};
	struct kvm_sregs sregs;

	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		return err_sys(e, errno, "cannot read vCPU %u's registers", v->index);
	set_segments(&sregs);
	sregs.cs.db = 0;
	sregs.cs.l = 1;
	sregs.gdt.base = b->gdt;
	sregs.gdt.limit = (uint16_t)(b->gdt_bytes - 1);
	sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
	sregs.cr3 = b->cr3;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	return set(v, &sregs, &regs, e);
}
