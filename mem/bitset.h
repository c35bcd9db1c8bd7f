/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set of bits that many threads change at once and that is quick to search when nearly empty.
 *
 * Two levels: the bits themselves in words of 64, and one *group* bit for each word. A word with a
 * set bit always has its group bit set, so who looks for set bits reads one word for each 4,096
 * bits; the reverse need not hold (a group bit may be stale, which costs a look at its word).
 *
 * What holds among threads. Setting: the word first, then its group bit. Taking a whole word: the
 * group bit is cleared first, then the word. So at any moment a bit whose setter has returned is
 * either found by bitset_next_word(), or some other thread is inside a take of its word and gets
 * it. A take of a part of a word leaves the group bit alone. All operations are sequentially
 * consistent: who takes a bit sees what was written before it was set.
 *
 * Threads: all functions from any thread, but for init, fill and free.
 */
#ifndef MEM_BITSET_H
#define MEM_BITSET_H

#include <stdint.h>

struct bitset {
	uint64_t n_bits, n_words;
	uint64_t *words;  /* bits past n_bits are never set */
	uint64_t *groups; /* bit i % 64 of word i / 64: word i may have bits set */
};

/* All clear; memory is only touched where bits are set. -ENOMEM. */
int bitset_init(struct bitset *s, uint64_t n_bits);
void bitset_free(struct bitset *s);

/* Set every bit. While no other thread uses the set. */
void bitset_fill(struct bitset *s);

/* Set bits of one word (those past the end are ignored). Returns how many were clear. */
unsigned bitset_or(const struct bitset *s, uint64_t word, uint64_t bits);

/* Take bits of one word: returns those of `bits` that were set, now clear. */
uint64_t bitset_take(const struct bitset *s, uint64_t word, uint64_t bits);

/*
 * Set the bits first + i for every bit i < n that is set in from[]; first + n is at most n_bits.
 * Returns how many were clear. Any `first` will do; what is set already costs no write.
 */
uint64_t bitset_merge(const struct bitset *s, uint64_t first, const uint64_t *from, uint64_t n);

/* The first word at or after `word` with a set bit, or n_words (`word` if that is beyond). */
uint64_t bitset_next_word(const struct bitset *s, uint64_t word);

#endif
