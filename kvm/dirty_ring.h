/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's dirty rings: the other way to learn which pages the guest's vCPUs wrote.
 *
 * Each vCPU has a ring of entries, one for each page that it wrote while the page was protected.
 * Reading costs what was written, not what RAM there is, and says which vCPU wrote. The price: all
 * RAM is protected when the log begins, pages are protected again as soon as their entries are read
 * and not when they are sent, and a vCPU whose ring is full stands still until somebody has read it
 * (that is done in its own thread, at once).
 *
 * An entry's way, all of it under one lock:
 *
 *   vCPU writes to a protected page ─▶ entry in its ring; the page is writable
 *   reaped ─▶ noted in `reaped`, the entry given back ─▶ KVM_RESET_DIRTY_RINGS: protected again
 *   dirty_ring_read() ─▶ told to the caller, forgotten
 *
 * No write is lost. A write that leaves no entry of its own happens between an entry for its page
 * and the reset of that entry. The page is told only after that reset, so whoever reads the page's
 * bytes because it was told sees the write. After the reset the next write leaves a new entry. So
 * the engine's order "take the bit, protect, read the bytes" is here "protect, set the bit, take
 * it, read the bytes": a write after the page was protected comes back as a set bit in both, and
 * protect() has nothing to do. The last harvest of a migration comes after the vCPUs have left the
 * guest, which brings what the processor itself still holds back (PML) into the rings.
 *
 * Hints of free pages stay weaker than writes: a page that was written since the log began has an
 * entry, or is in `reaped` (which only dirty_ring_read() empties, and that is not called while a
 * round of hints is open), or has been told, and was protected before that. Each brings the
 * page's bit back after the round.
 *
 * That holds while KVM stops a vCPU before its ring overflows. A KVM that runs many instructions of
 * a guest in one go, without looking at the ring in between, overruns it: entries are overwritten,
 * and the pages of those neither told nor protected. It shows, since a ring that is read must not
 * be all full, and a reset must do all entries that were given back. Such rings are *overrun* from
 * then on: reading them fails, and so does what relies on them; the guest goes on.
 *
 * Threads: dirty_ring_full() from a vCPU's thread, start, stop and read from one thread at a time
 * besides them. The lock is held for the time of one pass over the rings and of one reset.
 */
#ifndef KVM_DIRTY_RING_H
#define KVM_DIRTY_RING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "mem/bitset.h"

struct kvm_dirty_gfn;

struct dirty_ring_cpu {
	struct kvm_dirty_gfn *entries; /* shared with KVM */
	uint32_t next, done;           /* to be reaped, to be reset; under the lock */
	uint64_t dirty_pages;          /* atomic */
};

struct dirty_ring {
	/* constant after dirty_ring_init() */
	struct vm *vm;
	uint32_t n_entries; /* of each ring; 0: there are none */
	unsigned n_cpus;
	struct dirty_ring_cpu *cpus;
	/* under the lock */
	pthread_mutex_t lock;
	struct bitset reaped[MEM_MAX_BLOCKS]; /* bits are pages */
	int error;                            /* of a reset, until the next start */
	bool overrun;                         /* of any ring, for good */
	/* atomic */
	uint64_t full_exits, reset_calls;
};

/*
 * Map the rings of all vCPUs. Where the VM was created without rings (vm->caps.ring_entries is 0)
 * nothing is allocated, and nothing else may be called but dirty_ring_free().
 */
int dirty_ring_init(struct dirty_ring *r, struct vm *vm, struct vcpu *const *vcpus, unsigned n_cpus,
		    struct err *e);
/* Before the vCPUs are freed. */
void dirty_ring_free(struct dirty_ring *r);

/* Begin to log all slots. On failure everything is as before. */
int dirty_ring_start(struct dirty_ring *r, struct err *e);
/* End it, forget what was written; idempotent. */
void dirty_ring_stop(struct dirty_ring *r);

/*
 * A vCPU left the guest because its ring is full (VCPU_EXIT_RING_FULL): read it, so that there is
 * room. An error means that the vCPU cannot go on; what goes wrong with the log alone is the next
 * reader's to hear.
 */
int dirty_ring_full(struct dirty_ring *r, unsigned cpu, struct err *e);

/*
 * Tell all pages written since they were told last: fn(ctx, block, word, bits) for each word of a
 * block with such pages. All of them are protected by then. After an error no page has been told,
 * and the log cannot be relied on until the next start; -EIO with a message if rings were overrun:
 * not after that either.
 */
typedef void dirty_ring_fn(void *ctx, unsigned block, uint64_t word, uint64_t bits);
int dirty_ring_read(struct dirty_ring *r, dirty_ring_fn *fn, void *ctx, struct err *e);

/*
 * Pages that a vCPU was the first to write since they were told last, as far as its ring has been
 * read, from the VM's beginning on. Any thread.
 */
uint64_t dirty_ring_pages(const struct dirty_ring *r, unsigned cpu);

#endif
