/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/bitmap.h"

#include <errno.h>

#include "mem/bits.h"

/* After so many pages a merge brings the count up to date. */
#define COUNT_PAGES (1024 * 64)

int mig_bitmap_init(struct mig_bitmap *b, const uint64_t *block_pages, unsigned n_blocks)
{
	*b = (struct mig_bitmap){.n_blocks = n_blocks};
	if (n_blocks > MEM_MAX_BLOCKS)
		return -EINVAL;
	for (unsigned i = 0; i < n_blocks; i++) {
		int rc = bitset_init(&b->blocks[i], block_pages[i]);

		if (rc) {
			mig_bitmap_free(b);
			return rc;
		}
	}
	return 0;
}

void mig_bitmap_free(struct mig_bitmap *b)
{
	for (unsigned i = 0; i < b->n_blocks && i < MEM_MAX_BLOCKS; i++)
		bitset_free(&b->blocks[i]);
	*b = (struct mig_bitmap){0};
}

void mig_bitmap_fill(struct mig_bitmap *b)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < b->n_blocks; i++) {
		bitset_fill(&b->blocks[i]);
		pages += b->blocks[i].n_bits;
	}
	b->added_pages += pages - b->count_pages;
	b->count_pages = pages;
}

static void count(struct mig_bitmap *b, uint64_t added)
{
	if (!added)
		return;
	__atomic_fetch_add(&b->count_pages, added, __ATOMIC_RELAXED);
	__atomic_fetch_add(&b->added_pages, added, __ATOMIC_RELAXED);
}

unsigned mig_bitmap_or(struct mig_bitmap *b, unsigned block, uint64_t word, uint64_t bits)
{
	unsigned added = bitset_or(&b->blocks[block], word, bits);

	count(b, added);
	return added;
}

uint64_t mig_bitmap_merge(struct mig_bitmap *b, unsigned block, uint64_t first_page,
			  const uint64_t *from, uint64_t n_pages)
{
	uint64_t total = 0;

	while (n_pages) {
		uint64_t skip = 64 * bits_next_word(from, n_pages / 64, 0), n, added;

		/* Pieces begin where the map's groups do, as far as the first one allows it. */
		skip &= ~(uint64_t)(COUNT_PAGES - 1);
		first_page += skip;
		from += skip / 64;
		n_pages -= skip;
		n = n_pages < COUNT_PAGES ? n_pages : COUNT_PAGES;
		added = bitset_merge(&b->blocks[block], first_page, from, n);
		count(b, added);
		total += added;
		first_page += n;
		from += n / 64;
		n_pages -= n;
	}
	return total;
}

uint64_t mig_bitmap_take(struct mig_bitmap *b, unsigned block, uint64_t word, uint64_t bits)
{
	uint64_t taken = bitset_take(&b->blocks[block], word, bits);

	if (taken)
		__atomic_fetch_sub(&b->count_pages, (uint64_t)__builtin_popcountll(taken),
				   __ATOMIC_RELAXED);
	return taken;
}

uint64_t mig_bitmap_count(const struct mig_bitmap *b)
{
	int64_t n = (int64_t)__atomic_load_n(&b->count_pages, __ATOMIC_RELAXED);

	/* For a moment below zero: a bit is taken before the one who set it has counted it. */
	return n > 0 ? (uint64_t)n : 0;
}

uint64_t mig_bitmap_added(const struct mig_bitmap *b)
{
	return __atomic_load_n(&b->added_pages, __ATOMIC_RELAXED);
}

uint64_t mig_bitmap_next_word(const struct mig_bitmap *b, unsigned block, uint64_t from)
{
	return bitset_next_word(&b->blocks[block], from);
}
