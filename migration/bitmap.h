/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The migration bitmap: the engine's own record of the pages that still have to be sent.
 *
 * One bit a page, one set a RAM block (mem/bitset.h: two levels, so that looking for the next page
 * costs what is set, not what RAM there is), and an exact count of the set bits. The sync worker
 * sets bits (from the dirty source), senders take them. Both work by atomic operations on words and
 * adjust the count by what really changed, so neither waits for the other, and `count == number of
 * set bits` holds whenever nobody is between the two steps.
 *
 * Order that makes "no lost write" true: a sender first takes a page's bit, then re-protects the
 * page, then reads its bytes. A write after that is logged and comes back as a set bit.
 *
 * Threads: or, merge, take from any thread; the shape is constant. fill before other threads.
 */
#ifndef MIGRATION_BITMAP_H
#define MIGRATION_BITMAP_H

#include <stdint.h>

#include "mem/bitset.h"
#include "mem/mem.h"

struct mig_bitmap {
	uint64_t count_pages; /* set bits; atomic */
	uint64_t added_pages; /* bits that went from clear to set, ever; atomic */
	unsigned n_blocks;
	struct bitset blocks[MEM_MAX_BLOCKS]; /* bits are pages */
};

/* Maps for the given page counts, all clear. -ENOMEM. */
int mig_bitmap_init(struct mig_bitmap *b, const uint64_t *block_pages, unsigned n_blocks);
void mig_bitmap_free(struct mig_bitmap *b);

/* Set every page's bit. */
void mig_bitmap_fill(struct mig_bitmap *b);

/* Set bits of one word (bits past the block's end are ignored). Returns how many were clear. */
unsigned mig_bitmap_or(struct mig_bitmap *b, unsigned block, uint64_t word, uint64_t bits);

/*
 * Set the bits of the block's pages first_page + i, i < n_pages, where bit i of from[] is set. The
 * pages must lie in the block and may begin anywhere in a word. Returns how many bits were clear.
 */
uint64_t mig_bitmap_merge(struct mig_bitmap *b, unsigned block, uint64_t first_page,
			  const uint64_t *from, uint64_t n_pages);

/* Take bits of one word: returns those of `bits` that were set, now clear. */
uint64_t mig_bitmap_take(struct mig_bitmap *b, unsigned block, uint64_t word, uint64_t bits);

uint64_t mig_bitmap_count(const struct mig_bitmap *b);
uint64_t mig_bitmap_added(const struct mig_bitmap *b);

/* The first word at or after `from` with a set bit, or n_words. */
uint64_t mig_bitmap_next_word(const struct mig_bitmap *b, unsigned block, uint64_t from);

#endif
