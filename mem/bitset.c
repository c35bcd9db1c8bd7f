/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/bitset.h"

#include <errno.h>
#include <immintrin.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "mem/bits.h"

#define EVEN        0x5555555555555555ull
#define GROUP_WORDS 64 /* words that one word of group bits speaks of */

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define NO_PAIRS
#endif

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

/* Set bits of one word; without a write if there is nothing new. Which of them were clear. */
static uint64_t or_word(uint64_t *at, uint64_t bits)
{
	uint64_t old = __atomic_load_n(at, __ATOMIC_SEQ_CST);

	if (!(bits & ~old))
		return 0;
	return bits & ~__atomic_fetch_or(at, bits, __ATOMIC_SEQ_CST);
}

/*
 * The same with two words at once, at[0] on 16 bytes: a locked operation costs nearly as much on 8,
 * and they are most of what merging costs. The sanitizer cannot see into it.
 */
static inline __attribute__((always_inline)) void or_pair(uint64_t *at, const uint64_t bits[2],
							  uint64_t fresh[2])
{
#ifndef NO_PAIRS
	uint64_t low = __atomic_load_n(&at[0], __ATOMIC_SEQ_CST);
	uint64_t high = __atomic_load_n(&at[1], __ATOMIC_SEQ_CST);
	bool done = false;

	while (!done && ((bits[0] & ~low) | (bits[1] & ~high)))
		__asm__ volatile("lock cmpxchg16b %[at]"
				 : "=@cce"(done), [at] "+m"(*(uint64_t(*)[2])at), "+a"(low),
				   "+d"(high)
				 : "b"(bits[0] | low), "c"(bits[1] | high)
				 : "memory");
	fresh[0] = bits[0] & ~low;
	fresh[1] = bits[1] & ~high;
#else
	fresh[0] = or_word(&at[0], bits[0]);
	fresh[1] = or_word(&at[1], bits[1]);
#endif
}

static uint64_t merge_word(const struct bitset *s, uint64_t word, uint64_t bits)
{
	uint64_t fresh;

	if (!bits)
		return 0;
	fresh = or_word(&s->words[word], bits);
	set_groups(s, word / 64, 1ull << (word % 64));
	return (uint64_t)__builtin_popcountll(fresh);
}

/*
 * Merging bits[] onto the words at[] of a group. Nothing in here branches on single words, since
 * whether one of scattered bits lies in a word is nothing that a processor could guess: `marks`
 * are the words that bits[] has bits in, and of the pairs of words only those are looked at of
 * which one is in `fresh`, the words that lack some of them.
 */
static inline __attribute__((always_inline)) uint64_t
merge_pairs(uint64_t *at, const uint64_t bits[GROUP_WORDS], uint64_t fresh)
{
	uint64_t added = 0;

	for (uint64_t left = (fresh | fresh >> 1) & EVEN; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);
		uint64_t set[2];

		or_pair(&at[i], &bits[i], set);
		added += (uint64_t)(__builtin_popcountll(set[0]) + __builtin_popcountll(set[1]));
	}
	return added;
}

/* bits[first..end). The word beside it that makes up a pair, if any, is 0 in bits[]. */
static uint64_t merge_part(uint64_t *at, const uint64_t bits[GROUP_WORDS], unsigned first,
			   unsigned end, uint64_t *marks)
{
	uint64_t fresh = 0;

	*marks = 0;
	for (unsigned i = first; i < end; i++) {
		uint64_t old = __atomic_load_n(&at[i], __ATOMIC_SEQ_CST);

		*marks |= (uint64_t)(bits[i] != 0) << i;
		fresh |= (uint64_t)((bits[i] & ~old) != 0) << i;
	}
	return merge_pairs(at, bits, fresh);
}

/* Words from[0..n), each shifted up by `shift` with what is above in the one before it. */
static void join(uint64_t *bits, const uint64_t *from, unsigned n, unsigned shift)
{
	for (unsigned i = 0; i < n; i++)
		bits[i] = from[i] << shift | from[(int)i - 1] >> (64 - shift);
}

#ifndef NO_PAIRS
#define FEW_WORDS 8
#define FAST      __attribute__((target("avx2,bmi,bmi2,popcnt")))

/* One bit for each of four words that is not 0. */
FAST static uint64_t four(__m256i words)
{
	__m256i zeroes = _mm256_cmpeq_epi64(words, _mm256_setzero_si256());

	return (uint64_t)(~_mm256_movemask_pd(_mm256_castsi256_pd(zeroes)) & 15);
}

/*
 * A whole group. Its words are read four at a time, each at once, as x86 does it for 8 bytes in
 * their place. Where few of them get bits (guests write in stretches) the others are not touched.
 */
FAST static uint64_t merge_whole(uint64_t *at, const uint64_t bits[GROUP_WORDS], uint64_t *marks)
{
	uint64_t fresh = 0, added = 0;

	*marks = 0;
	for (unsigned i = 0; i < GROUP_WORDS; i += 4)
		*marks |= four(_mm256_loadu_si256((const __m256i *)(bits + i))) << i;
	if (__builtin_popcountll(*marks) <= FEW_WORDS) {
		for (uint64_t left = *marks; left; left &= left - 1)
			__builtin_prefetch(&at[__builtin_ctzll(left)], 1);
		for (uint64_t left = *marks; left; left &= left - 1) {
			unsigned i = (unsigned)__builtin_ctzll(left);

			added += (uint64_t)__builtin_popcountll(or_word(&at[i], bits[i]));
		}
		return added;
	}
	for (unsigned i = 0; i < GROUP_WORDS; i += 4) {
		__m256i new = _mm256_loadu_si256((const __m256i *)(bits + i));
		__m256i old = _mm256_loadu_si256((const __m256i *)(at + i));

		fresh |= four(_mm256_andnot_si256(old, new)) << i;
	}
	return merge_pairs(at, bits, fresh);
}

FAST static void join_whole(uint64_t bits[GROUP_WORDS], const uint64_t *from, unsigned shift)
{
	__m128i up = _mm_cvtsi32_si128((int)shift), down = _mm_cvtsi32_si128((int)(64 - shift));

	for (unsigned i = 0; i < GROUP_WORDS; i += 4) {
		__m256i high = _mm256_loadu_si256((const __m256i *)(from + i));
		__m256i low = _mm256_loadu_si256((const __m256i *)(from + i - 1));

		high = _mm256_or_si256(_mm256_sll_epi64(high, up), _mm256_srl_epi64(low, down));
		_mm256_storeu_si256((__m256i *)(bits + i), high);
	}
}

static bool have_fast(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
	       __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}
#else
/* The sanitizer is to see every access. */
static bool have_fast(void)
{
	return false;
}

static uint64_t merge_whole(uint64_t *at, const uint64_t bits[GROUP_WORDS], uint64_t *marks)
{
	return merge_part(at, bits, 0, GROUP_WORDS, marks);
}

static void join_whole(uint64_t bits[GROUP_WORDS], const uint64_t *from, unsigned shift)
{
	join(bits, from, GROUP_WORDS, shift);
}
#endif

/* Words from[i..n) of a piece, i > 0 if they have to be shifted. */
static uint64_t merge_shifted(const struct bitset *s, uint64_t word, unsigned shift,
			      const uint64_t *from, uint64_t i, uint64_t n)
{
	uint64_t part[GROUP_WORDS], added = 0, next, marks, *at;
	bool fast = have_fast();
	unsigned first, end;

	for (; i < n; i += end - first) {
		/* Stretches without bits are skipped in great steps, but whole groups are best. */
		next = bits_next_word(from, n, i - (shift != 0));
		if (next >= n)
			break;
		first = (unsigned)((word + next) % GROUP_WORDS);
		if (next > i + first)
			i = next - first;
		first = (unsigned)((word + i) % GROUP_WORDS);
		end = n - i < GROUP_WORDS - first ? first + (unsigned)(n - i) : GROUP_WORDS;
		at = &s->words[word + i - first];
		if (fast && end - first == GROUP_WORDS) {
			if (shift)
				join_whole(part, from + i, shift);
			added += merge_whole(at, shift ? part : from + i, &marks);
		} else {
			part[first & ~1u] = part[(end - 1) | 1] = 0;
			if (shift)
				join(part + first, from + i, end - first, shift);
			else
				memcpy(part + first, from + i, (end - first) * sizeof(*part));
			added += merge_part(at, part, first, end, &marks);
		}
		if (marks)
			set_groups(s, (word + i) / GROUP_WORDS, marks);
	}
	return added;
}

uint64_t bitset_merge(const struct bitset *s, uint64_t first, const uint64_t *from, uint64_t n)
{
	uint64_t word = first / 64, n_words = n / 64, rest = n % 64, added = 0, bits;
	unsigned shift = (unsigned)(first % 64);

	if (!n)
		return 0;
	/* What this thread wrote is visible from here on, also through bits that are set already.
	 */
	(void)__atomic_fetch_or(&s->groups[word / 64], 0, __ATOMIC_SEQ_CST);
	if (!shift) {
		added += merge_shifted(s, word, 0, from, 0, n_words);
	} else if (n_words) {
		added += merge_word(s, word, from[0] << shift);
		added += merge_shifted(s, word, shift, from, 1, n_words);
		added += merge_word(s, word + n_words, from[n_words - 1] >> (64 - shift));
	}
	if (rest) {
		bits = from[n_words] & bits_word_mask(0, 0, rest);
		added += merge_word(s, word + n_words, bits << shift);
		if (shift)
			added += merge_word(s, word + n_words + 1, bits >> (64 - shift));
	}
	return added;
}
