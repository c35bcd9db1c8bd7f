/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/bits.h"

#include <immintrin.h>

uint64_t bits_word_mask(uint64_t w, uint64_t first, uint64_t n)
{
	uint64_t start = w * 64, end = first + n;
	uint64_t mask = ~0ull;

	if (end <= start || first >= start + 64)
		return 0;
	if (first > start)
		mask &= ~0ull << (first - start);
	if (end < start + 64)
		mask &= ~(~0ull << (end - start));
	return mask;
}

void bits_set_range(uint64_t *map, uint64_t first, uint64_t n)
{
	for (uint64_t w = first / 64; n && w <= (first + n - 1) / 64; w++)
		map[w] |= bits_word_mask(w, first, n);
}

__attribute__((target("popcnt"))) static uint64_t count_popcnt(const uint64_t *map,
							       uint64_t n_words)
{
	uint64_t count = 0;

	for (uint64_t w = 0; w < n_words; w++)
		count += (uint64_t)__builtin_popcountll(map[w]);
	return count;
}

uint64_t bits_count(const uint64_t *map, uint64_t n_words)
{
	uint64_t count = 0;

	if (__builtin_cpu_supports("popcnt"))
		return count_popcnt(map, n_words);
	for (uint64_t w = 0; w < n_words; w++)
		count += (uint64_t)__builtin_popcountll(map[w]);
	return count;
}

/* Are 16 words all zero? With SSE2, which every x86-64 has. */
static bool zero_16(const uint64_t *map)
{
	__m128i a = _mm_setzero_si128();

	for (unsigned i = 0; i < 8; i++)
		a = _mm_or_si128(a, _mm_loadu_si128((const __m128i *)map + i));
	return _mm_movemask_epi8(_mm_cmpeq_epi8(a, _mm_setzero_si128())) == 0xffff;
}

uint64_t bits_next_word(const uint64_t *map, uint64_t n_words, uint64_t from)
{
	/* As fast as memory is: a bitmap of the log is mostly zeroes, and megabytes of them. */
	while (from + 16 <= n_words && zero_16(map + from))
		from += 16;
	while (from < n_words && !map[from])
		from++;
	return from;
}

/* Search in the words XORed with `flip`: 0 finds set bits, ~0 finds clear ones. */
static uint64_t next_bit(const uint64_t *map, uint64_t n_bits, uint64_t from, uint64_t flip)
{
	uint64_t w = from / 64, n_words = bits_words(n_bits), word, i;

	if (from >= n_bits)
		return n_bits;
	word = (map[w] ^ flip) & (~0ull << (from % 64));
	while (!word) {
		if (++w == n_words)
			return n_bits;
		word = map[w] ^ flip;
	}
	i = w * 64 + (uint64_t)__builtin_ctzll(word);
	return i < n_bits ? i : n_bits;
}

uint64_t bits_next_set(const uint64_t *map, uint64_t n_bits, uint64_t from)
{
	return next_bit(map, n_bits, from, 0);
}

uint64_t bits_next_clear(const uint64_t *map, uint64_t n_bits, uint64_t from)
{
	return next_bit(map, n_bits, from, ~0ull);
}
