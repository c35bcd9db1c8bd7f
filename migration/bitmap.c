/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/bitmap.h"

#include <errno.h>
#include <stdlib.h>

#include "mem/bits.h"

int mig_bitmap_init(struct mig_bitmap *b, const uint64_t *block_pages, unsigned n_blocks)
{
	*b = (struct mig_bitmap){.n_blocks = n_blocks};
	if (n_blocks > MEM_MAX_BLOCKS)
		return -EINVAL;
	for (unsigned i = 0; i < n_blocks; i++) {
		struct mig_bitmap_block *k = &b->blocks[i];

		k->n_pages = block_pages[i];
		k->n_words = bits_words(k->n_pages);
		k->words = calloc(k->n_words ? k->n_words : 1, sizeof(uint64_t));
		if (!k->words) {
			mig_bitmap_free(b);
			return -ENOMEM;
		}
	}
	return 0;
}

void mig_bitmap_free(struct mig_bitmap *b)
{
	for (unsigned i = 0; i < b->n_blocks; i++)
		free(b->blocks[i].words);
	*b = (struct mig_bitmap){0};
}

void mig_bitmap_fill(struct mig_bitmap *b)
{
	for (unsigned i = 0; i < b->n_blocks; i++) {
		for (uint64_t w = 0; w < b->blocks[i].n_words; w++)
			(void)mig_bitmap_or(b, i, w, ~0ull);
	}
}

unsigned mig_bitmap_or(struct mig_bitmap *b, unsigned block, uint64_t word, uint64_t bits)
{
	struct mig_bitmap_block *k = &b->blocks[block];
	uint64_t old;
	unsigned added;

	bits &= bits_word_mask(word, 0, k->n_pages);
	if (!bits)
		return 0;
	old = __atomic_fetch_or(&k->words[word], bits, __ATOMIC_ACQ_REL);
	added = (unsigned)__builtin_popcountll(bits & ~old);
	if (added) {
		__atomic_fetch_add(&b->count_pages, added, __ATOMIC_RELAXED);
		__atomic_fetch_add(&b->added_pages, added, __ATOMIC_RELAXED);
	}
	return added;
}

uint64_t mig_bitmap_take(struct mig_bitmap *b, unsigned block, uint64_t word, uint64_t bits)
{
	uint64_t *at = &b->blocks[block].words[word], taken;

	if (!(__atomic_load_n(at, __ATOMIC_RELAXED) & bits))
		return 0;
	taken = __atomic_fetch_and(at, ~bits, __ATOMIC_ACQ_REL) & bits;
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
	const struct mig_bitmap_block *k = &b->blocks[block];

	while (from < k->n_words && !__atomic_load_n(&k->words[from], __ATOMIC_RELAXED))
		from++;
	return from;
}
