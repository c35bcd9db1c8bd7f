/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/dirty_ring.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm.h>

/* A reset that does nothing was interrupted, which is then over; or it never will. */
#define RESET_TRIES 8

static size_t ring_bytes(const struct dirty_ring *r)
{
	return r->n_entries * sizeof(struct kvm_dirty_gfn);
}

static int map_ring(struct dirty_ring *r, struct vcpu *v, struct err *e)
{
	void *at = mmap(NULL, ring_bytes(r), PROT_READ | PROT_WRITE, MAP_SHARED, v->fd,
			(off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * MEM_PAGE_BYTES));

	if (at == MAP_FAILED)
		return err_sys(e, errno, "cannot map the dirty ring of vCPU %u", v->index);
	r->cpus[v->index].entries = at;
	return 0;
}

int dirty_ring_init(struct dirty_ring *r, struct vm *vm, struct vcpu *const *vcpus, unsigned n_cpus,
		    struct err *e)
{
	int rc = 0;

	*r = (struct dirty_ring){.vm = vm, .n_entries = vm->caps.ring_entries};
	if (!r->n_entries)
		return 0;
	(void)pthread_mutex_init(&r->lock, NULL);
	r->cpus = calloc(n_cpus, sizeof(*r->cpus));
	for (unsigned i = 0; i < vm->mem->n_blocks && !rc; i++)
		rc = bitset_init(&r->reaped[i], vm->mem->blocks[i].n_pages);
	if (!r->cpus || rc) {
		dirty_ring_free(r);
		return err_set(e, ENOMEM, "out of memory for the dirty rings");
	}
	r->n_cpus = n_cpus;
	for (unsigned i = 0; i < n_cpus && !rc; i++)
		rc = map_ring(r, vcpus[i], e);
	if (rc)
		dirty_ring_free(r);
	return rc;
}

void dirty_ring_free(struct dirty_ring *r)
{
	if (!r->n_entries)
		return;
	for (unsigned i = 0; i < r->n_cpus; i++) {
		if (r->cpus[i].entries)
			(void)munmap(r->cpus[i].entries, ring_bytes(r));
	}
	free(r->cpus);
	for (unsigned i = 0; i < MEM_MAX_BLOCKS; i++)
		bitset_free(&r->reaped[i]);
	(void)pthread_mutex_destroy(&r->lock);
	*r = (struct dirty_ring){0};
}

/* KVM's own numbers, and still nothing that may write outside of our map. New: 1, known: 0. */
static unsigned note(struct dirty_ring *r, const struct kvm_dirty_gfn *entry)
{
	const struct vm_slot *s;
	uint64_t page;

	if (entry->slot >= r->vm->n_slots)
		return 0;
	s = &r->vm->slots[entry->slot];
	if (entry->offset >= s->n_pages)
		return 0;
	page = s->first_page + entry->offset;
	/* Not every entry is new: what KVM emulates leaves one for each write. */
	return bitset_or(&r->reaped[s->block], page / 64, 1ull << (page % 64));
}

/* Read a ring and give its entries back. Returns how many there were. Under the lock. */
static uint32_t reap(struct dirty_ring *r, struct dirty_ring_cpu *c)
{
	uint64_t new_pages = 0;
	uint32_t n = 0;

	for (; n < r->n_entries; n++) {
		struct kvm_dirty_gfn *entry = &c->entries[c->next % r->n_entries];

		/* Acquire: KVM writes the entry, then this flag. */
		if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			break;
		new_pages += note(r, entry);
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		c->next++;
	}
	__atomic_fetch_add(&c->dirty_pages, new_pages, __ATOMIC_RELAXED);
	return n;
}

/*
 * Have KVM take entries back and protect their pages. How many it took. Under the lock.
 *
 * No signal may be pending: since Linux 6.16 one ends the reset between taking entries back and
 * protecting the last 64 pages or less of them, and nothing says so.
 */
static uint32_t reset_once(struct dirty_ring *r, struct dirty_ring_cpu *c)
{
	sigset_t all, old;
	int n, error;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	n = ioctl(r->vm->fd, KVM_RESET_DIRTY_RINGS, 0);
	error = errno;
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);

	__atomic_fetch_add(&r->reset_calls, 1, __ATOMIC_RELAXED);
	if (n < 0 && error != EINTR)
		r->error = -error;
	if (n < 0)
		return 0;
	c->done += (uint32_t)n;
	return (uint32_t)n;
}

/*
 * Protect the pages of the n entries that were just given back in this ring, and in no other: so
 * what KVM counts is this ring's. What still cuts it short is the process being stopped: then pages
 * may be unprotected that are taken for protected, and the log begins anew. Under the lock.
 */
static void reset(struct dirty_ring *r, struct dirty_ring_cpu *c, uint32_t n)
{
	unsigned idle = 0;
	bool cut = false;

	if (n == r->n_entries)
		r->overrun = true;
	while (n && !r->error && idle < RESET_TRIES) {
		uint32_t did = reset_once(r, c);

		idle = did ? 0 : idle + 1;
		cut |= did && did < n;
		n = did < n ? n - did : 0;
	}
	if (r->error)
		return;
	if (n)
		r->overrun = true;
	else if (cut)
		r->error = -EINTR;
}

/* Under the lock. */
static int state(const struct dirty_ring *r, struct err *e)
{
	if (r->overrun)
		return err_set(e, EIO,
			       "this kernel's KVM let a vCPU overrun its dirty ring: writes are "
			       "missing from it. Start the guest with larger rings, or without "
			       "--dirty-ring");
	if (r->error)
		return err_sys(e, -r->error, "cannot protect the pages of the dirty rings again");
	return 0;
}

/* Under the lock. */
static void reap_all(struct dirty_ring *r)
{
	for (unsigned i = 0; i < r->n_cpus; i++)
		reset(r, &r->cpus[i], reap(r, &r->cpus[i]));
}

/* Under the lock. */
static void give(struct dirty_ring *r, dirty_ring_fn *fn, void *ctx)
{
	for (unsigned b = 0; b < r->vm->mem->n_blocks; b++) {
		const struct bitset *s = &r->reaped[b];

		for (uint64_t w = 0; (w = bitset_next_word(s, w)) < s->n_words; w++) {
			uint64_t bits = bitset_take(s, w, ~0ull);

			if (fn)
				fn(ctx, b, w, bits);
		}
	}
}

/* The log is off: what is left of it in the rings is of no use to anybody. */
static int empty(struct dirty_ring *r, struct err *e)
{
	int rc;

	pthread_mutex_lock(&r->lock);
	r->error = 0;
	reap_all(r);
	give(r, NULL, NULL);
	rc = state(r, e);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

int dirty_ring_start(struct dirty_ring *r, struct err *e)
{
	int rc = empty(r, e);

	return rc ? rc : vm_log_all(r->vm, true, e);
}

void dirty_ring_stop(struct dirty_ring *r)
{
	if (!r->n_entries)
		return;
	/* A log that cannot be switched off costs speed, nothing else. */
	(void)vm_log_all(r->vm, false, NULL);
	(void)empty(r, NULL);
}

/*
 * An overrun ring is out of step: KVM takes it for full, and there is nothing in it to be read.
 * One entry that we say was read, at the place where KVM looks next, lets it go on by one.
 */
static void push_on(struct dirty_ring *r, struct dirty_ring_cpu *c)
{
	struct kvm_dirty_gfn *entry = &c->entries[c->done % r->n_entries];

	__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < RESET_TRIES && !reset_once(r, c); i++)
		;
}

int dirty_ring_full(struct dirty_ring *r, unsigned cpu, struct err *e)
{
	struct dirty_ring_cpu *c;
	uint32_t n, done;
	int rc;

	if (cpu >= r->n_cpus)
		return err_set(e, EINVAL, "vCPU %u has no dirty ring", cpu);
	c = &r->cpus[cpu];
	pthread_mutex_lock(&r->lock);
	/* It may have been read by the sync meanwhile: then there is room, and nothing to do. */
	done = c->done;
	n = reap(r, c);
	reset(r, c, n);
	if (r->overrun && done == c->done)
		push_on(r, c);
	/* Of the log's troubles only this one leaves no room in the ring. */
	rc = r->overrun || r->error == -EINTR ? 0 : state(r, e);
	pthread_mutex_unlock(&r->lock);
	__atomic_fetch_add(&r->full_exits, 1, __ATOMIC_RELAXED);
	return rc;
}

int dirty_ring_read(struct dirty_ring *r, dirty_ring_fn *fn, void *ctx, struct err *e)
{
	int rc;

	pthread_mutex_lock(&r->lock);
	reap_all(r);
	rc = state(r, e);
	if (!rc)
		give(r, fn, ctx);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

uint64_t dirty_ring_pages(const struct dirty_ring *r, unsigned cpu)
{
	return cpu < r->n_cpus ? __atomic_load_n(&r->cpus[cpu].dirty_pages, __ATOMIC_RELAXED) : 0;
}
