/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One KVM virtual machine: its descriptor, what this host's KVM can do, RAM slots, interrupt lines.
 *
 * The interrupt controllers (two PICs, an IOAPIC, a LAPIC per vCPU) and the PIT are KVM's own. Each
 * block of struct mem is one memory slot, or several where it has more pages than one slot may
 * have; a slot may begin at any page of its block.
 *
 * Threads: created and freed in one thread; vm_irq_line(), vm_irqfd() and vm_ioeventfd() from any
 * thread; slots are changed by one thread at a time.
 */
#ifndef KVM_VM_H
#define KVM_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/cpu_model.h"
#include "mem/mem.h"

#define VM_MSRS_MAX  512
#define VM_SLOTS_MAX 320

/*
 * Pages of a slot at most, unless told otherwise: 64 GiB. A slot's log is then 2 MiB, which is in
 * the processor's cache still when it has been read from KVM, and KVM, which lets nobody protect
 * pages meanwhile, has it copied in a moment. The largest guest has fewer slots than the 509 of
 * kernels before 5.12.
 */
#define VM_SLOT_PAGES (1ull << 24)

struct vm_config {
	int kvm_fd;                    /* an open /dev/kvm, ours from now on; or -1: open it */
	const struct cpu_model *model; /* NULL = host; copied */
	bool plain_dirty_log; /* do without manual re-protection even where KVM offers it */
	/*
	 * Entries of each vCPU's dirty ring, a power of two; 0: no rings. Where KVM has none (said
	 * in a warning) caps.ring_entries stays 0, and the log is there as without.
	 */
	uint32_t dirty_ring_entries;
	uint64_t slot_pages; /* pages of a memory slot at most; 0: VM_SLOT_PAGES */
};

/* A memory slot: n_pages pages of one block. Its index is its number. */
struct vm_slot {
	unsigned block;
	uint64_t first_page, n_pages;
};

/* What this KVM offers beyond what ferry needs; constant after vm_create(). */
struct vm_caps {
	bool sregs2;
	bool tsc_deadline;
	bool tsc_control; /* guest TSCs of another frequency than the host's */
	bool triple_fault_event, exception_payload;
	bool irqfd, ioeventfd;
	uint32_t clock_flags;  /* of KVM_CAP_ADJUST_CLOCK */
	uint32_t dirty_manual; /* of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, as enabled; 0 = plain log */
	uint32_t ring_entries; /* dirty rings are on (kvm/dirty_ring.h), and the log is not there */
	uint32_t xsave_bytes;
	uint32_t max_cpus;
	uint32_t run_bytes; /* size of the area that vCPUs share with KVM */
};

struct kvm_cpuid2;

struct vm {
	int kvm_fd, fd;
	struct vm_caps caps;
	struct mem *mem;
	unsigned n_slots;
	struct vm_slot slots[VM_SLOTS_MAX]; /* block by block, in the order of pages */
	struct kvm_cpuid2 *cpuid;           /* what KVM supports */
	struct cpu_model model;             /* what of it guests that start here are given */
	uint32_t n_msrs;
	uint32_t *msrs;       /* the MSRs that make up a vCPU's state, by KVM's own list */
	bool unread_reported; /* atomic: MSRs that KVM lists but will not read were logged */
};

/*
 * Open KVM, check that it can do what is needed, create the VM with its interrupt controllers and
 * PIT, and map all blocks of mem (which must outlive the VM). Messages say what to do: no KVM
 * (-ENOENT, -ENODEV), no permission (-EACCES), an old or crippled KVM (-EOPNOTSUPP).
 */
int vm_create(struct vm **out, const struct vm_config *cfg, struct mem *mem, struct err *e);
/* After the last vCPU of it was freed. NULL is fine. */
void vm_free(struct vm *vm);

/* Drive a global interrupt line (gsi 0 to 23: PIC and IOAPIC). */
int vm_irq_line(struct vm *vm, unsigned gsi, bool level);

/*
 * Bind an eventfd to an interrupt line: each write to it is a pulse (for edge-triggered inputs)
 * that costs its writer no system call of KVM's. And back. -EOPNOTSUPP where KVM has no irqfds.
 */
int vm_irqfd(struct vm *vm, int fd, unsigned gsi, bool bind);

/*
 * Bind an eventfd to the guest's writes of 4 bytes with this value to gpa, which KVM then handles
 * without an exit. And back. -EOPNOTSUPP where KVM has no ioeventfds: the writes are exits.
 */
int vm_ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t value, bool bind);

/* The slot that holds a page of a block. Both must be there. */
unsigned vm_slot_at(const struct vm *vm, unsigned block, uint64_t page);

/* Switch KVM's dirty log of every slot on or off. Failing to switch on leaves all off. */
int vm_log_all(struct vm *vm, bool on, struct err *e);

#endif
