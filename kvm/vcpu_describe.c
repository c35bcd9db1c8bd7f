/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "kvm/vcpu.h"

/* Newer than the oldest headers we build with. */
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

#define CR0_PE    (1ull << 0)
#define EFER_LMA  (1ull << 10)
#define RFLAGS_VM (1ull << 17)

struct text {
	char *at;
	size_t left;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->at, t->left, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= t->left)
		n = t->left ? (int)t->left - 1 : 0;
	t->at += n;
	t->left -= (size_t)n;
}

static const char *mode_name(const struct kvm_sregs *s, uint64_t rflags)
{
	if (!(s->cr0 & CR0_PE))
		return "real mode";
	if (rflags & RFLAGS_VM)
		return "virtual 8086 mode";
	if ((s->efer & EFER_LMA) && s->cs.l)
		return "64-bit mode";
	return s->cs.db ? "32-bit protected mode" : "16-bit protected mode";
}

static void add_where(struct text *t, struct vcpu *v)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	if (ioctl(v->fd, KVM_GET_REGS, &regs) || ioctl(v->fd, KVM_GET_SREGS, &sregs)) {
		add(t, " on vCPU %u (its registers cannot be read)", v->index);
		return;
	}
	add(t, " on vCPU %u at RIP 0x%" PRIx64 ", CS 0x%x base 0x%" PRIx64 ", %s, CPL %u", v->index,
	    (uint64_t)regs.rip, sregs.cs.selector, (uint64_t)sregs.cs.base,
	    mode_name(&sregs, regs.rflags), sregs.ss.dpl);
	add(t, ", RSP 0x%" PRIx64 ", CR0 0x%" PRIx64 ", CR2 0x%" PRIx64, (uint64_t)regs.rsp,
	    (uint64_t)sregs.cr0, (uint64_t)sregs.cr2);
	add(t, ", CR3 0x%" PRIx64 ", CR4 0x%" PRIx64 ", EFER 0x%" PRIx64, (uint64_t)sregs.cr3,
	    (uint64_t)sregs.cr4, (uint64_t)sregs.efer);
}

static void add_emulation(struct text *t, const struct kvm_run *run)
{
	unsigned n = run->emulation_failure.insn_size;

	add(t, "KVM cannot emulate an instruction (suberror 1)");
	/* ndata counts 64-bit words: the flags, then two that hold the size and the bytes. */
	if (run->emulation_failure.ndata < 3 ||
	    !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		add(t, ", its bytes are not known,");
		return;
	}
	if (n > sizeof(run->emulation_failure.insn_bytes))
		n = sizeof(run->emulation_failure.insn_bytes);
	add(t, ", bytes");
	for (unsigned i = 0; i < n; i++)
		add(t, " %02x", run->emulation_failure.insn_bytes[i]);
	add(t, ",");
}

static void add_internal(struct text *t, const struct kvm_run *run)
{
	uint32_t n = run->internal.ndata;

	add(t, "KVM internal error, suberror %u", run->internal.suberror);
	for (uint32_t i = 0; i < n && i < 4; i++)
		add(t, "%s0x%" PRIx64, i ? " " : ", data ", (uint64_t)run->internal.data[i]);
}

static void add_run_error(struct text *t, const struct kvm_run *run, int code)
{
	char words[128];

	add(t, "KVM cannot run the guest: %s", strerror_r(code, words, sizeof(words)));
	if (run->exit_reason == KVM_EXIT_MEMORY_FAULT)
		add(t, " (guest memory cannot be accessed)");
}

static void add_reason(struct text *t, const struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_FAIL_ENTRY:
		add(t, "the processor refuses to enter the guest, hardware reason 0x%" PRIx64,
		    (uint64_t)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		add_internal(t, run);
		break;
	case KVM_EXIT_UNKNOWN:
		add(t, "unknown hardware exit 0x%" PRIx64, (uint64_t)run->hw.hardware_exit_reason);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		add(t, "unexpected system event %u", run->system_event.type);
		break;
	default:
		add(t, "unexpected KVM exit %u", run->exit_reason);
		break;
	}
}

void vcpu_describe_exit(struct vcpu *v, const struct vcpu_exit *exit, char *text, size_t text_bytes)
{
	struct text t = {text, text_bytes};

	if (!text_bytes)
		return;
	text[0] = '\0';
	if (exit->kind == VCPU_EXIT_TRIPLE_FAULT)
		add(&t, "triple fault");
	else if (exit->kind == VCPU_EXIT_EMULATION)
		add_emulation(&t, v->run);
	else if (exit->run_error)
		add_run_error(&t, v->run, exit->run_error);
	else
		add_reason(&t, v->run);
	add_where(&t, v);
}
