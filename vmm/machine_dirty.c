/* SPDX-License-Identifier: Apache-2.0 */
/* What the migration engine sees of the machine: its dirty pages, guest's and host's. */
#include "mem/bits.h"
#include "vmm/machine_impl.h"

static uint64_t mark_words(const struct machine *m, unsigned block)
{
	return bits_words(m->mem->blocks[block].n_pages);
}

static int dirty_start(void *ctx, struct err *e)
{
	struct machine *m = ctx;
	int rc = m->ring.n_entries ? dirty_ring_start(&m->ring, e) : dirty_log_start(&m->log, e);

	/*
	 * A migration begins with every page to be sent, so what the host wrote before is in it:
	 * old marks would only have pages sent twice. New ones may come from here on and are kept.
	 */
	for (unsigned b = 0; b < m->mem->n_blocks && !rc; b++) {
		for (uint64_t w = 0; (w = mem_marks_next(m->mem, b, w)) < mark_words(m, b); w++)
			(void)mem_marks_take(m->mem, b, w);
	}
	return rc;
}

static int read_log(struct machine *m, struct mig_bitmap *into, struct err *e)
{
	for (unsigned i = 0; i < m->vm->n_slots; i++) {
		struct dirty_log_part part;
		int rc = dirty_log_read(&m->log, i, &part, e);

		if (rc)
			return rc;
		(void)mig_bitmap_merge(into, part.block, part.first_page, part.words, part.n_pages);
	}
	return 0;
}

static void on_words(void *ctx, unsigned block, uint64_t word, uint64_t bits)
{
	(void)mig_bitmap_or(ctx, block, word, bits);
}

static int dirty_harvest(void *ctx, struct mig_bitmap *into, struct err *e)
{
	struct machine *m = ctx;
	int rc = m->ring.n_entries ? dirty_ring_read(&m->ring, on_words, into, e)
				   : read_log(m, into, e);

	if (rc)
		return rc;
	for (unsigned b = 0; b < m->mem->n_blocks; b++) {
		for (uint64_t w = 0; (w = mem_marks_next(m->mem, b, w)) < mark_words(m, b); w++) {
			unsigned added = mig_bitmap_or(into, b, w, mem_marks_take(m->mem, b, w));

			__atomic_fetch_add(&m->host_pages, added, __ATOMIC_RELAXED);
		}
	}
	return 0;
}

static int dirty_protect(void *ctx, unsigned block, uint64_t first_word, const uint64_t *mask,
			 uint64_t n_words, struct err *e)
{
	struct machine *m = ctx;

	if (m->ring.n_entries)
		return 0; /* reading the rings has protected them, before the bits were set */
	return dirty_log_protect(&m->log, block, first_word, mask, n_words, e);
}

static void dirty_stop(void *ctx)
{
	struct machine *m = ctx;

	if (m->ring.n_entries)
		dirty_ring_stop(&m->ring);
	else
		dirty_log_stop(&m->log);
}

struct mig_dirty_source machine_dirty_source(struct machine *m)
{
	return (struct mig_dirty_source){
		.ctx = m,
		.start = dirty_start,
		.harvest = dirty_harvest,
		.protect = dirty_protect,
		.stop = dirty_stop,
	};
}

bool machine_dirty_pages(const struct machine *m, unsigned cpu, uint64_t *pages)
{
	if (!m->ring.n_entries || cpu >= m->n_cpus)
		return false;
	*pages = dirty_ring_pages(&m->ring, cpu);
	return true;
}
