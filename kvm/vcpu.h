/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One vCPU of KVM: creation, CPUID, the state it boots in, and running it until KVM wants
 * something.
 *
 * Threads: created, set up and freed before and after its thread runs; in between everything
 * belongs to the vCPU's own thread, except vcpu_set_immediate_exit().
 */
#ifndef KVM_VCPU_H
#define KVM_VCPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/vm.h"

struct kvm_run;

struct vcpu {
	struct vm *vm;
	int fd;
	unsigned index;               /* also its APIC id */
	uint32_t host_tsc_khz;        /* the TSC frequency that KVM gives a new vCPU */
	struct kvm_run *run;          /* shared with KVM */
	uint32_t tsc_khz;             /* what it has now */
	struct kvm_cpuid2 *cpuid_own; /* what KVM gives a guest that starts here; constant */
	struct kvm_cpuid2 *cpuid;     /* what its guest sees; cpuid_own, or moved here with it */
};

/*
 * Add vCPU `index` of n_cpus (single-threaded cores of one package), as after power-on: index 0
 * ready to run, the others waiting for INIT and SIPI.
 */
int vcpu_create(struct vcpu **out, struct vm *vm, unsigned index, unsigned n_cpus, struct err *e);
/* NULL is fine. */
void vcpu_free(struct vcpu *v);

/* Ask KVM for this CPUID, before the first run; what it really gives is in v->cpuid then. */
int vcpu_cpuid_set(struct vcpu *v, const struct kvm_cpuid2 *t, struct err *e);

/*
 * Enter at rip in flat 32-bit protected mode with paging and interrupts off: the machine state that
 * the PVH and Multiboot 1 specifications ask for.
 */
int vcpu_set_boot(struct vcpu *v, uint32_t rip, uint32_t eax, uint32_t ebx, struct err *e);

struct vcpu_boot64 {
	uint64_t rip, rsi, cr3;
	uint64_t gdt; /* guest address of a GDT with flat 64-bit code at 0x10 and data at 0x18 */
	uint16_t gdt_bytes;
};

/*
 * Enter in 64-bit mode with interrupts off and paging by the tables at cr3: what Linux's 64-bit
 * boot protocol asks for.
 */
int vcpu_set_boot64(struct vcpu *v, const struct vcpu_boot64 *b, struct err *e);

enum vcpu_exit_kind {
	VCPU_EXIT_INTERRUPTED, /* by vcpu_set_immediate_exit() or a signal; nothing is half done */
	VCPU_EXIT_IO,
	VCPU_EXIT_MMIO,
	VCPU_EXIT_RING_FULL, /* its dirty ring is full: kvm/dirty_ring.h */
	VCPU_EXIT_SHUTDOWN,  /* a system event: power off */
	VCPU_EXIT_RESET,     /* a system event: reset, or a crash that the guest reported */
	VCPU_EXIT_TRIPLE_FAULT,
	VCPU_EXIT_EMULATION, /* an instruction that KVM cannot emulate */
	VCPU_EXIT_ERROR,     /* anything else that ends the guest; vcpu_describe_exit() tells */
};

struct vcpu_exit {
	enum vcpu_exit_kind kind;
	union {
		struct {
			bool out;
			uint16_t port;
			unsigned size;  /* bytes of one access: 1, 2 or 4 */
			uint32_t count; /* accesses (string I/O) */
			void *data;     /* count * size bytes, to send or to fill in */
		} io;
		struct {
			bool write;
			uint64_t gpa;
			unsigned len; /* 1 to 8 */
			void *data;   /* len bytes, to write or to fill in */
		} mmio;
	};
	int run_error; /* errno of KVM_RUN, or 0 */
};

/*
 * Run the guest until KVM wants something. What the guest reads must be filled in before the next
 * call, which completes the access; only VCPU_EXIT_INTERRUPTED guarantees that none is pending.
 */
void vcpu_run(struct vcpu *v, struct vcpu_exit *out);

/*
 * While on, vcpu_run() completes what is pending and then returns VCPU_EXIT_INTERRUPTED at once. A
 * vCPU that already runs guest code needs a signal to its thread as well. Any thread.
 */
void vcpu_set_immediate_exit(struct vcpu *v, bool on);

/*
 * What ended the guest, for people: what KVM reported, the instruction's bytes where KVM tells
 * them, RIP, CPU mode, privilege level, CR0, CR4, EFER. After VCPU_EXIT_TRIPLE_FAULT, _EMULATION,
 * _ERROR.
 */
void vcpu_describe_exit(struct vcpu *v, const struct vcpu_exit *exit, char *text,
			size_t text_bytes);

/*
 * Tell the guest's kvmclock that the vCPU stood still, so that watchdogs in the guest stay quiet.
 * Nothing happens where the guest uses no kvmclock.
 */
void vcpu_note_pause(struct vcpu *v);

#endif
