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

/* Words of map[0..n_words) up to the first 32 of which one is not zero; whole turns only. */
__attribute__((target("avx2"))) static uint64_t skip_avx2(const uint64_t *map, uint64_t n_words)
{
	uint64_t i = 0;

	for (; i + 32 <= n_words; i += 32) {
		const __m256i *v = (const __m256i *)(map + i);
		__m256i a = _mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1));
		__m256i b = _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3));
		__m256i c = _mm256_or_si256(_mm256_loadu_si256(v + 4), _mm256_loadu_si256(v + 5));
		__m256i d = _mm256_or_si256(_mm256_loadu_si256(v + 6), _mm256_loadu_si256(v + 7));

		a = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
		if (!_mm256_testz_si256(a, a))
			break;
	}
	return i;
}

uint64_t bits_next_word(const uint64_t *map, uint64_t n_words, uint64_t from)
{
	/* As fast as memory is: a bitmap of the log is mostly zeroes, and megabytes of them. */
	if (from + 64 <= n_words && __builtin_cpu_supports("avx2"))
		from += skip_avx2(map + from, n_words - from);
	while (from + 8 <= n_words) {
		const uint64_t *w = map + from;

		if ((w[0] | w[1] | w[2] | w[3]) | (w[4] | w[5] | w[6] | w[7]))
			break;
		from += 8;
	}
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
