/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: layout, bounds, host marks; bitmaps against a naive model; the page scan. */
#include <check.h>
#include <cpuid.h>
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "mem/bits.h"
#include "mem/mem.h"
#include "mem/page.h"
#include "tests/support/suite.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct mem *create(uint64_t bytes)
{
	struct err e = ERR_INIT;
	struct mem *m = NULL;

	ck_assert_msg(mem_create(&m, MEM_ANON, bytes, &e) == 0, "%s", e.msg);
	return m;
}

START_TEST(layout)
{
	struct mem *m = create(16 * MIB);

	ck_assert_uint_eq(m->n_blocks, 1);
	ck_assert_str_eq(m->blocks[0].name, "ram.low");
	ck_assert_uint_eq(m->blocks[0].n_pages, 4096);
	mem_free(m);

	m = create(3 * GIB);
	ck_assert_uint_eq(m->n_blocks, 1);
	mem_free(m);

	m = create(3 * GIB + 4096);
	ck_assert_uint_eq(m->n_blocks, 2);
	ck_assert_str_eq(m->blocks[1].name, "ram.high");
	ck_assert_uint_eq(m->blocks[1].gpa, 4 * GIB);
	ck_assert_uint_eq(m->blocks[1].size_bytes, 4096);
	mem_free(m);
	mem_free(NULL);
}
END_TEST

START_TEST(sizes_refused)
{
	static const uint64_t sizes[] = {0,          1,          4096,        MIB - 4096, MIB + 1,
					 MIB + 2048, UINT64_MAX, 65ull << 40, 1ull << 63};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct err e = ERR_INIT;
		struct mem *m = NULL;

		ck_assert_int_eq(mem_create(&m, MEM_ANON, sizes[i], &e), -EINVAL);
		ck_assert_ptr_nonnull(strstr(e.msg, "guest memory must be"));
		ck_assert_ptr_null(m);
	}
	ck_assert_int_eq(mem_create(&(struct mem *){NULL}, MEM_HUGETLB, MIB, NULL), -EINVAL);
}
END_TEST

START_TEST(bounds)
{
	struct mem *m = create(3 * GIB + 16 * MIB);
	static const struct {
		uint64_t gpa, len;
		bool ok;
	} cases[] = {
		{0, 0, true},
		{0, 3 * GIB, true},
		{0, 3 * GIB + 1, false},
		{3 * GIB - 1, 1, true},
		{3 * GIB - 1, 2, false},
		{3 * GIB, 0, false},
		{3 * GIB, 1, false},
		{4 * GIB - 1, 2, false},
		{4 * GIB, 16 * MIB, true},
		{4 * GIB, 16 * MIB + 1, false},
		{4 * GIB + 16 * MIB, 0, false},
		{1, UINT64_MAX, false},
		{UINT64_MAX, 1, false},
		{UINT64_MAX, UINT64_MAX, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_int_eq(mem_host(m, cases[i].gpa, cases[i].len) != NULL, cases[i].ok);
	ck_assert_uint_eq(mem_run(m, 0), 3 * GIB);
	ck_assert_uint_eq(mem_run(m, 3 * GIB - 5), 5);
	ck_assert_uint_eq(mem_run(m, 3 * GIB), 0);
	ck_assert_uint_eq(mem_run(m, 4 * GIB + 1), 16 * MIB - 1);
	ck_assert_uint_eq(mem_run(m, UINT64_MAX), 0);
	mem_free(m);
}
END_TEST

START_TEST(access_to_ram)
{
	struct mem *m = create(3 * GIB + 16 * MIB);
	char got[8] = "";

	ck_assert_int_eq(mem_read(m, 4 * GIB, got, 8), 0);
	ck_assert_int_eq(memcmp(got, "\0\0\0\0\0\0\0\0", 8), 0);
	ck_assert_int_eq(mem_write(m, 4 * GIB + 100, "hello", 6), 0);
	ck_assert_int_eq(mem_read(m, 4 * GIB + 100, got, 6), 0);
	ck_assert_str_eq(got, "hello");
	ck_assert_int_eq(mem_set(m, 4 * GIB + 101, 'x', 2), 0);
	ck_assert_int_eq(mem_read(m, 4 * GIB + 100, got, 6), 0);
	ck_assert_str_eq(got, "hxxlo");
	ck_assert_int_eq(mem_write(m, 3 * GIB - 2, "hello", 6), -EFAULT);
	ck_assert_int_eq(mem_read(m, 3 * GIB - 2, got, 6), -EFAULT);
	ck_assert_int_eq(mem_set(m, UINT64_MAX, 1, 2), -EFAULT);
	ck_assert_int_eq(mem_read(m, 3 * GIB - 2, got, 2), 0);
	ck_assert_int_eq(got[0], 0); /* nothing was written in part */
	ck_assert_int_eq(mem_write(m, 0, NULL, 0), 0);

	ck_assert_int_eq(mem_discard(m, NULL), 0);
	ck_assert_int_eq(mem_read(m, 4 * GIB + 100, got, 6), 0);
	ck_assert_str_eq(got, "");
	mem_free(m);
}
END_TEST

START_TEST(memfd_backend)
{
	struct mem *m = NULL;
	char got[6] = "";

	ck_assert_int_eq(mem_create(&m, MEM_MEMFD, 16 * MIB, NULL), 0);
	ck_assert_int_ge(m->blocks[0].fd, 0);
	ck_assert_int_eq(mem_write(m, 5 * MIB, "hello", 6), 0);
	ck_assert_int_eq(mem_read(m, 5 * MIB, got, 6), 0);
	ck_assert_str_eq(got, "hello");
	ck_assert_int_eq(mem_discard(m, NULL), 0);
	ck_assert_int_eq(mem_read(m, 5 * MIB, got, 6), 0);
	ck_assert_str_eq(got, "");
	mem_free(m);
}
END_TEST

START_TEST(backend_names)
{
	enum mem_backend b;

	for (int i = MEM_ANON; i <= MEM_HUGETLB; i++) {
		ck_assert_int_eq(mem_backend_parse(mem_backend_name((enum mem_backend)i), &b), 0);
		ck_assert_int_eq((int)b, i);
	}
	ck_assert_int_eq(mem_backend_parse("anonymous", &b), -EINVAL);
	ck_assert_int_eq(mem_backend_parse("", &b), -EINVAL);
}
END_TEST

/* The marks of a block as a set of page numbers, "3 4 5 64". */
static const char *marks(struct mem *m, unsigned b)
{
	static char text[256];
	size_t len = 0;

	text[0] = '\0';
	for (uint64_t w = 0; w < bits_words(m->blocks[b].n_pages); w++) {
		uint64_t word = mem_marks_take(m, b, w);

		for (uint64_t i = 0; i < 64; i++) {
			if (word >> i & 1)
				len += (size_t)snprintf(text + len, sizeof(text) - len, "%llu ",
							(unsigned long long)(w * 64 + i));
		}
	}
	return text;
}

START_TEST(host_marks)
{
	struct mem *m = create(3 * GIB + 16 * MIB);

	ck_assert_str_eq(marks(m, 0), "");
	ck_assert_int_eq(mem_write(m, 0x3fff, "ab", 2), 0);
	ck_assert_str_eq(marks(m, 0), "3 4 ");
	ck_assert_str_eq(marks(m, 0), ""); /* taken once */
	ck_assert_int_eq(mem_set(m, 63 * 4096, 1, 2 * 4096), 0);
	ck_assert_str_eq(marks(m, 0), "63 64 ");
	ck_assert_int_eq(mem_write(m, 4 * GIB + 0x2000, "a", 1), 0);
	ck_assert_str_eq(marks(m, 0), "");
	ck_assert_str_eq(marks(m, 1), "2 ");
	mem_mark(m, 0x5000, 0);
	mem_mark(m, 3 * GIB, 4096);
	mem_mark(m, UINT64_MAX, UINT64_MAX);
	ck_assert_str_eq(marks(m, 0), "");
	mem_mark(m, 4 * GIB + 16 * MIB - 1, UINT64_MAX); /* up to the block's end */
	ck_assert_str_eq(marks(m, 1), "4095 ");
	ck_assert_int_eq(mem_write(m, 3 * GIB - 1, "ab", 2), -EFAULT);
	ck_assert_int_eq(mem_write(m, 0, "", 0), 0);
	ck_assert_str_eq(marks(m, 0), "");
	mem_free(m);
}
END_TEST

static struct mem *shared;

static void *mark_even(void *arg)
{
	for (uint64_t page = (uintptr_t)arg; page < 4096; page += 2)
		mem_mark(shared, page * 4096, 1);
	return NULL;
}

START_TEST(marks_of_two_threads)
{
	pthread_t a, b;
	uint64_t n = 0;

	shared = create(16 * MIB);
	for (int round = 0; round < 20; round++) {
		ck_assert_int_eq(pthread_create(&a, NULL, mark_even, (void *)0), 0);
		ck_assert_int_eq(pthread_create(&b, NULL, mark_even, (void *)1), 0);
		for (uint64_t w = 0; w < 64; w++)
			n += (uint64_t)__builtin_popcountll(mem_marks_take(shared, 0, w));
		ck_assert_int_eq(pthread_join(a, NULL), 0);
		ck_assert_int_eq(pthread_join(b, NULL), 0);
		for (uint64_t w = 0; w < 64; w++)
			n += (uint64_t)__builtin_popcountll(mem_marks_take(shared, 0, w));
	}
	ck_assert_uint_eq(n, 20 * 4096); /* each mark was taken, and once */
	mem_free(shared);
}
END_TEST

/* --- bitmaps --- */

#define BITS 300

static void expect_same(const uint64_t *map, const bool *model)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < BITS; i++) {
		ck_assert_int_eq(bits_test(map, i), model[i]);
		count += model[i];
	}
	ck_assert_uint_eq(bits_count(map, bits_words(BITS)), count);
	for (uint64_t from = 0; from <= BITS; from++) {
		uint64_t set = from, clear = from;

		while (set < BITS && !model[set])
			set++;
		while (clear < BITS && model[clear])
			clear++;
		ck_assert_uint_eq(bits_next_set(map, BITS, from), set);
		ck_assert_uint_eq(bits_next_clear(map, BITS, from), clear);
	}
}

START_TEST(bits_like_the_model)
{
	uint64_t map[5] = {0};
	bool model[BITS] = {false};
	unsigned seed = 7;

	ck_assert_uint_eq(bits_words(BITS), 5);
	ck_assert_uint_eq(bits_words(0), 0);
	ck_assert_uint_eq(bits_words(UINT64_MAX), 1ull << 58);
	for (int round = 0; round < 2000; round++) {
		uint64_t first = (uint64_t)rand_r(&seed) % BITS;
		uint64_t n = (uint64_t)rand_r(&seed) % (BITS - first + 1);
		bool value = rand_r(&seed) & 1;

		if (round % 3 == 0)
			n = 1;
		if (n == 1 && value)
			bits_set(map, first);
		else if (n == 1)
			bits_clear(map, first);
		else if (value)
			bits_set_range(map, first, n);
		else
			for (uint64_t i = first; i < first + n; i++)
				bits_clear(map, i);
		for (uint64_t i = first; i < first + n; i++)
			model[i] = value;
		if (round % 10 == 0)
			expect_same(map, model);
	}
	ck_assert_uint_eq(bits_next_set(map, BITS, UINT64_MAX), BITS);
}
END_TEST

START_TEST(word_masks)
{
	for (uint64_t w = 0; w < 3; w++) {
		for (uint64_t first = 0; first < 192; first++) {
			for (uint64_t n = 0; n <= 192 - first; n++) {
				uint64_t want = 0;

				for (uint64_t i = 0; i < 64; i++) {
					uint64_t bit = w * 64 + i;

					if (bit >= first && bit < first + n)
						want |= 1ull << i;
				}
				ck_assert_uint_eq(bits_word_mask(w, first, n), want);
			}
		}
	}
}
END_TEST

/* --- pages --- */

START_TEST(zero_pages)
{
	uint8_t *page = aligned_alloc(4096, 4096);
	uint32_t sum;

	memset(page, 0, 4096);
	ck_assert(page_is_zero(page));
	sum = page_sum(page);
	for (size_t i = 0; i < 4096; i++) {
		page[i] = 0x80;
		ck_assert(!page_is_zero(page));
		ck_assert_uint_ne(page_sum(page), sum);
		page[i] = 0;
	}
	ck_assert_uint_eq(page_sum(page), sum);
	free(page);
}
END_TEST

/* They stand in streams and files: whichever form the processor gets, the sum is the same. */
START_TEST(sums_are_the_same_everywhere)
{
	uint8_t *page = aligned_alloc(4096, 4096);
	uint64_t r = 1;

	for (uint64_t round = 0; round < 200; round++) {
		for (size_t i = 0; i < 4096; i++) {
			r = r * 6364136223846793005u + 1442695040888963407u;
			page[i] = (uint8_t)(r >> 56);
		}
		ck_assert_uint_eq(page_sum(page), (uint32_t)XXH3_64bits(page, 4096));
		ck_assert_uint_eq(page_sum_at(page, r),
				  XXH3_64bits_withSeed(page, 4096, (XXH64_hash_t)r));
		ck_assert_uint_eq(page_sum_at(page, 0), XXH3_64bits(page, 4096));
	}
	/* And on all processors: of a page of zeroes, and of one of 0, 1, 2 ... */
	memset(page, 0, 4096);
	ck_assert_uint_eq(page_sum(page), 0x48c689bau);
	for (size_t i = 0; i < 4096; i++)
		page[i] = (uint8_t)i;
	ck_assert_uint_eq(page_sum(page), 0x07879151u);
	free(page);
}
END_TEST

/* The upper halves of the vector registers, or their lower ones, are in use. */
#define UPPER_HALVES 0x44u

__attribute__((target("xsave"))) static unsigned long long in_use(void)
{
	return _xgetbv(1) & UPPER_HALVES;
}

__attribute__((target("avx,xsave"))) static bool can_tell(void)
{
	unsigned long long used;

	__asm__ volatile("vpcmpeqd %%xmm0, %%xmm0, %%xmm0\n\t"
			 "vinsertf128 $1, %%xmm0, %%ymm0, %%ymm0"
			 :
			 :
			 : "xmm0");
	used = in_use();
	_mm256_zeroupper();
	return used && !in_use();
}

START_TEST(sums_leave_no_wide_registers)
{
	uint8_t *page = aligned_alloc(4096, 4096);
	unsigned a = 0, b, c, d;

	memset(page, 1, 4096);
	if (!__get_cpuid_count(0xd, 1, &a, &b, &c, &d) || !(a & 4) ||
	    !__builtin_cpu_supports("avx") || !can_tell()) {
		(void)printf("SKIP this processor does not tell which registers are in use\n");
	} else {
		(void)page_sum(page);
		ck_assert_uint_eq(in_use(), 0);
		(void)page_sum_at(page, 1);
		ck_assert_uint_eq(in_use(), 0);
		(void)page_is_zero(page);
		ck_assert_uint_eq(in_use(), 0);
	}
	free(page);
}
END_TEST

/* A look ahead is not a touch: it makes no page, and nothing has to be there. */
START_TEST(fetching_ahead_allocates_nothing)
{
	struct err e = ERR_INIT;
	unsigned char there = 1;
	uint64_t end = 0;
	struct mem *m;
	uint8_t *at;

	page_prefetch(NULL);
	ck_assert_int_eq(mem_create(&m, MEM_MEMFD, MIB, &e), 0);
	for (uint64_t page = 0; page < m->blocks[0].n_pages; page++)
		page_prefetch(m->blocks[0].hva + page * MEM_PAGE_BYTES);
	ck_assert(mem_hole(&m->blocks[0], 0, &end));
	ck_assert_uint_eq(end, m->blocks[0].n_pages);
	mem_free(m);

	m = create(MIB);
	at = m->blocks[0].hva;
	page_prefetch(at);
	ck_assert_int_eq(mincore(at, MEM_PAGE_BYTES, &there), 0);
	ck_assert_uint_eq(there & 1, 0);
	mem_free(m);
}
END_TEST

SUITE("mem", layout, sizes_refused, bounds, access_to_ram, memfd_backend, backend_names, host_marks,
      marks_of_two_threads, bits_like_the_model, word_masks, zero_pages,
      sums_are_the_same_everywhere, sums_leave_no_wide_registers, fetching_ahead_allocates_nothing)
