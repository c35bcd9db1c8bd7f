/* SPDX-License-Identifier: Apache-2.0 */
/* The digest of all RAM. */
#include <check.h>
#include <string.h>

#include "mem/digest.h"
#include "tests/support/suite.h"

#define MIB   (1ull << 20)
#define PAGES (48 * MIB / MEM_PAGE_BYTES)

static struct mem *create(enum mem_backend backend, uint64_t bytes)
{
	struct err e = ERR_INIT;
	struct mem *m = NULL;

	ck_assert_msg(mem_create(&m, backend, bytes, &e) == 0, "%s", e.msg);
	return m;
}

/* Some pages of it, in all slices. */
static void fill(struct mem *m)
{
	for (uint64_t page = 0; page < PAGES; page += 7)
		ck_assert_int_eq(mem_set(m, page * MEM_PAGE_BYTES, (uint8_t)(page | 1), 4096), 0);
}

START_TEST(the_same_memory_has_the_same)
{
	struct mem *a = create(MEM_ANON, 48 * MIB), *b = create(MEM_MEMFD, 48 * MIB);
	uint64_t digest;

	ck_assert_uint_eq(mem_digest(a, 1), 0); /* all zero */
	ck_assert_uint_eq(mem_digest(b, 4), 0);
	fill(a);
	fill(b);
	digest = mem_digest(a, 1);
	ck_assert_uint_ne(digest, 0);
	for (unsigned n = 0; n < 6; n++) {
		ck_assert_uint_eq(mem_digest(a, n), digest);
		ck_assert_uint_eq(mem_digest(b, n), digest);
	}
	/* A page that exists and is zero is as good as a hole. */
	ck_assert_int_eq(mem_set(b, 4096, 0, 4096), 0);
	ck_assert_uint_eq(mem_digest(b, 2), digest);
	mem_free(a);
	mem_free(b);
}
END_TEST

START_TEST(any_difference_is_seen)
{
	struct mem *m = create(MEM_ANON, 48 * MIB);
	uint64_t digest;
	uint8_t *page;

	fill(m);
	digest = mem_digest(m, 2);
	for (uint64_t at = 0; at < 48 * MIB; at += 48 * MIB / 64 + 4097) {
		page = mem_host(m, at, 1);
		*page ^= 0x10;
		ck_assert_uint_ne(mem_digest(m, 2), digest);
		*page ^= 0x10;
	}
	ck_assert_uint_eq(mem_digest(m, 2), digest);
	/* Two pages change places. */
	memset(mem_host(m, 0, 4096), 8, 4096);
	memset(mem_host(m, 7 * 4096, 4096), 1, 4096);
	ck_assert_uint_ne(mem_digest(m, 2), digest);
	mem_free(m);
}
END_TEST

START_TEST(blocks_differ_by_their_place)
{
	/* One page above the hole: its digest is not that of the same page at 0. */
	struct mem *m = create(MEM_MEMFD, (3ull << 30) + 4096);
	uint64_t low;

	ck_assert_int_eq(mem_set(m, 0, 5, 4096), 0);
	low = mem_digest(m, 2);
	ck_assert_int_eq(mem_set(m, 0, 0, 4096), 0);
	ck_assert_int_eq(mem_set(m, 4ull << 30, 5, 4096), 0);
	ck_assert_uint_ne(mem_digest(m, 2), low);
	ck_assert_uint_ne(mem_digest(m, 2), 0);
	mem_free(m);
}
END_TEST

SUITE("digest", the_same_memory_has_the_same, any_difference_is_seen, blocks_differ_by_their_place)
