/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/page.h"

#include <immintrin.h>
#include <xxh_x86dispatch.h>

#include "mem/mem.h"

/* The race with the guest is meant (see the header): keep the thread sanitizer out of it. */
#define RACY __attribute__((no_sanitize("thread")))

#define CACHE_LINE_BYTES 64

RACY __attribute__((target("avx2"))) static bool zero_avx2(const void *p)
{
	const __m256i *v = p;

	/* 128 bytes a turn: the first turn already tells most pages that are not zero. */
	for (unsigned i = 0; i < MEM_PAGE_BYTES / sizeof(*v); i += 4) {
		__m256i a = _mm256_or_si256(_mm256_load_si256(v + i), _mm256_load_si256(v + i + 1));
		__m256i b =
			_mm256_or_si256(_mm256_load_si256(v + i + 2), _mm256_load_si256(v + i + 3));

		a = _mm256_or_si256(a, b);
		if (!_mm256_testz_si256(a, a))
			return false;
	}
	return true;
}

RACY static bool zero_plain(const void *p)
{
	const uint64_t *v = p;

	for (unsigned i = 0; i < MEM_PAGE_BYTES / sizeof(*v); i += 4) {
		if (v[i] | v[i + 1] | v[i + 2] | v[i + 3])
			return false;
	}
	return true;
}

bool page_is_zero(const void *p)
{
	if (__builtin_cpu_supports("avx2"))
		return zero_avx2(p);
	return zero_plain(p);
}

void page_prefetch(const void *p)
{
	/* All of it: what the processor fetches ahead by itself ends with the page before. */
	for (size_t at = 0; at < MEM_PAGE_BYTES; at += CACHE_LINE_BYTES)
		__builtin_prefetch((const char *)p + at);
}

void page_copy(void *to, const void *from, size_t bytes)
{
	/* By hand, because memcpy() is watched by the thread sanitizer. */
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

/*
 * The sums are the library's own code, which the thread sanitizer does not see, in the widest form
 * that the processor has. That leaves the upper halves of the vector registers in use, which makes
 * all SSE code after it several times slower, so:
 */
__attribute__((target("avx"))) static void zero_upper_halves(void)
{
	_mm256_zeroupper();
}

static uint64_t narrow(uint64_t sum)
{
	if (__builtin_cpu_supports("avx"))
		zero_upper_halves();
	return sum;
}

uint32_t page_sum(const void *p)
{
	return (uint32_t)narrow(XXH3_64bits_dispatch(p, MEM_PAGE_BYTES));
}

uint64_t page_sum_at(const void *p, uint64_t page)
{
	return narrow(XXH3_64bits_withSeed_dispatch(p, MEM_PAGE_BYTES, page));
}
