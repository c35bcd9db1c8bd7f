/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/bitset.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "mem/bits.h"

#define LINE_WORDS 8

int bitset_init(struct bitset *s, uint64_t n_bits)
{
	uint64_t n_words = bits_words(n_bits), n_groups = bits_words(n_words);

	*s = (struct bitset){.n_bits = n_bits, .n_words = n_words};
	/* Even for no bits at all: calloc(0) may give NULL, which means failure here. */
	s->words = calloc(n_words + 1, sizeof(uint64_t));
	s->groups = calloc(n_groups + 1, sizeof(uint64_t));
	if (s->words && s->groups)
		return 0;
	bitset_free(s);
	return -ENOMEM;
}

void bitset_free(struct bitset *s)
{
	free(s->words);
	free(s->groups);
	*s = (struct bitset){0};
}

void bitset_fill(struct bitset *s)
{
	bits_set_range(s->words, 0, s->n_bits);
	bits_set_range(s->groups, 0, s->n_words);
}

/* The words were written before: now they can be found. */
static void set_groups(const struct bitset *s, uint64_t group, uint64_t bits)
{
	uint64_t *at = &s->groups[group];

	if ((__atomic_load_n(at, __ATOMIC_SEQ_CST) & bits) != bits)
		(void)__atomic_fetch_or(at, bits, __ATOMIC_SEQ_CST);
}

unsigned bitset_or(const struct bitset *s, uint64_t word, uint64_t bits)
{
	uint64_t old;

	bits &= bits_word_mask(word, 0, s->n_bits);
	if (!bits)
		return 0;
	/*
	 * Even if all are set: only a locked operation has what this thread wrote before seen by
	 * who takes them.
	 */
	old = __atomic_fetch_or(&s->words[word], bits, __ATOMIC_SEQ_CST);
	set_groups(s, word / 64, 1ull << (word % 64));
	return (unsigned)__builtin_popcountll(bits & ~old);
}

uint64_t bitset_take(const struct bitset *s, uint64_t word, uint64_t bits)
{
	uint64_t *at = &s->words[word], *group = &s->groups[word / 64];
	uint64_t mark = 1ull << (word % 64);

	if (bits != ~0ull) {
		if (!(__atomic_load_n(at, __ATOMIC_SEQ_CST) & bits))
			return 0;
		return __atomic_fetch_and(at, ~bits, __ATOMIC_SEQ_CST) & bits;
	}
	if (__atomic_load_n(group, __ATOMIC_SEQ_CST) & mark)
		(void)__atomic_fetch_and(group, ~mark, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(at, __ATOMIC_SEQ_CST))
		return 0;
	return __atomic_exchange_n(at, 0, __ATOMIC_SEQ_CST);
}

uint64_t bitset_next_word(const struct bitset *s, uint64_t word)
{
	uint64_t n_groups = bits_words(s->n_words), group = word / 64, marks;

	if (word >= s->n_words)
		return word;
	marks = __atomic_load_n(&s->groups[group], __ATOMIC_SEQ_CST) & (~0ull << (word % 64));
	for (;;) {
		for (; marks; marks &= marks - 1) {
			word = group * 64 + (uint64_t)__builtin_ctzll(marks);
			if (__atomic_load_n(&s->words[word], __ATOMIC_SEQ_CST))
				return word;
		}
		if (++group == n_groups)
			return s->n_words;
		marks = __atomic_load_n(&s->groups[group], __ATOMIC_SEQ_CST);
	}
}

/* Set bits of one word, but not its group bit; without a write if there is nothing new. */
static unsigned or_word(uint64_t *at, uint64_t bits)
{
	uint64_t old = __atomic_load_n(at, __ATOMIC_SEQ_CST);

	if (!(bits & ~old))
		return 0;
	old = __atomic_fetch_or(at, bits, __ATOMIC_SEQ_CST);
	return (unsigned)__builtin_popcountll(bits & ~old);
}

/*
 * Two words at once, where both get new bits: a locked operation costs as much on 16 bytes as on 8,
 * and they are most of what merging scattered bits costs. The sanitizer cannot see into it.
 */
static unsigned or_pair(uint64_t *at, uint64_t low, uint64_t high)
{
#ifndef __SANITIZE_THREAD__
	uint64_t old_low = __atomic_load_n(&at[0], __ATOMIC_SEQ_CST);
	uint64_t old_high = __atomic_load_n(&at[1], __ATOMIC_SEQ_CST);
	bool done;

	while ((low & ~old_low) && (high & ~old_high)) {
		__asm__ volatile("lock cmpxchg16b %[at]"
				 : "=@cce"(done), [at] "+m"(*(uint64_t(*)[2])at), "+a"(old_low),
				   "+d"(old_high)
				 : "b"(old_low | low), "c"(old_high | high)
				 : "memory");
		if (done)
			return (unsigned)(__builtin_popcountll(low & ~old_low) +
					  __builtin_popcountll(high & ~old_high));
	}
#endif
	return or_word(&at[0], low) + or_word(&at[1], high);
}

/* A merge under way: words that are written, and cannot be found yet. */
struct merge {
	const struct bitset *s;
	uint64_t group, marks, added;
};

static void merge_flush(struct merge *m)
{
	if (m->marks)
		set_groups(m->s, m->group, m->marks);
	m->marks = 0;
}

static void merge_mark(struct merge *m, uint64_t word)
{
	if (word / 64 != m->group) {
		merge_flush(m);
		m->group = word / 64;
	}
	m->marks |= 1ull << (word % 64);
}

static void merge_word(struct merge *m, uint64_t word, uint64_t bits)
{
	if (!bits)
		return;
	m->added += or_word(&m->s->words[word], bits);
	merge_mark(m, word);
}

/* Words `word` (even) and the next. */
static void merge_pair(struct merge *m, uint64_t word, uint64_t low, uint64_t high)
{
	if (!(low | high))
		return;
	m->added += or_pair(&m->s->words[word], low, high);
	if (low)
		merge_mark(m, word);
	if (high)
		merge_mark(m, word + 1);
}

/* What of from[i] and the word before it falls on one word of the set. 1 <= shift <= 63. */
static uint64_t joined(const uint64_t *from, uint64_t i, unsigned shift)
{
	return from[i] << shift | from[i - 1] >> (64 - shift);
}

/* Whole words of from[0..n), shifted up by `shift`, onto the words from `word` on. */
static void merge_words(struct merge *m, uint64_t word, unsigned shift, const uint64_t *from,
			uint64_t n)
{
	uint64_t i = 0;

	if (!n)
		return;
	if (shift) {
		merge_word(m, word, from[0] << shift);
		i = 1;
	}
	if (i < n && (word + i) % 2) {
		merge_word(m, word + i, shift ? joined(from, i, shift) : from[i]);
		i++;
	}
	if (shift) {
		for (; i + 2 <= n; i += 2)
			merge_pair(m, word + i, joined(from, i, shift), joined(from, i + 1, shift));
	} else {
		for (; i + 2 <= n; i += 2)
			merge_pair(m, word + i, from[i], from[i + 1]);
	}
	if (i < n)
		merge_word(m, word + i, shift ? joined(from, i, shift) : from[i]);
	if (shift)
		merge_word(m, word + n, from[n - 1] >> (64 - shift));
}

uint64_t bitset_merge(const struct bitset *s, uint64_t first, const uint64_t *from, uint64_t n)
{
	struct merge m = {.s = s, .group = first / 4096};
	uint64_t n_words = n / 64, rest = n % 64, bits, end = 0;

	if (!n)
		return 0;
	/* What this thread wrote is visible from here on, also through bits that are set already.
	 */
	(void)__atomic_fetch_or(&s->groups[first / 4096], 0, __ATOMIC_SEQ_CST);
	for (uint64_t i = 0; (i = bits_next_word(from, n_words, i)) < n_words; i = end) {
		/* Up to the next stretch without bits, which is skipped in great steps. */
		end = i + LINE_WORDS < n_words ? i + LINE_WORDS : n_words;
		while (end < n_words && from[end])
			end++;
		merge_words(&m, (first + i * 64) / 64, first % 64, from + i, end - i);
	}
	if (rest) {
		bits = from[n_words] & bits_word_mask(0, 0, rest);
		first += n_words * 64;
		merge_word(&m, first / 64, bits << (first % 64));
		if (first % 64)
			merge_word(&m, first / 64 + 1, bits >> (64 - first % 64));
	}
	merge_flush(&m);
	return m.added;
}
