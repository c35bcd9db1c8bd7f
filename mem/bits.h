/* SPDX-License-Identifier: Apache-2.0 */
/* Plain bitmaps in 64-bit words: bit i is bit i % 64 of word i / 64. Single owner; not atomic. */
#ifndef MEM_BITS_H
#define MEM_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t bits_words(uint64_t n_bits)
{
	return n_bits / 64 + (n_bits % 64 != 0);
}

static inline bool bits_test(const uint64_t *map, uint64_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static inline void bits_set(uint64_t *map, uint64_t i)
{
	map[i / 64] |= 1ull << (i % 64);
}

static inline void bits_clear(uint64_t *map, uint64_t i)
{
	map[i / 64] &= ~(1ull << (i % 64));
}

/* The bits of a word that belong to [first, first+n) when the word holds bits 64*w and up. */
uint64_t bits_word_mask(uint64_t w, uint64_t first, uint64_t n);

void bits_set_range(uint64_t *map, uint64_t first, uint64_t n);
uint64_t bits_count(const uint64_t *map, uint64_t n_words);

/* The first word at or after `from` that is not zero, or n_words. */
uint64_t bits_next_word(const uint64_t *map, uint64_t n_words, uint64_t from);

/* The first set (clear) bit at or after `from`, or n_bits if there is none. */
uint64_t bits_next_set(const uint64_t *map, uint64_t n_bits, uint64_t from);
uint64_t bits_next_clear(const uint64_t *map, uint64_t n_bits, uint64_t from);

#endif
