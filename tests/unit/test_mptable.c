/* SPDX-License-Identifier: Apache-2.0 */
/* The MultiProcessor tables, read as a kernel reads them. */
#include <errno.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/unit/support/boot_fixture.h"
#include "vmm/boot/mptable.h"

static const uint8_t *at(uint64_t gpa, uint64_t len)
{
	const uint8_t *p = mem_host(bf.m, gpa, len);

	ck_assert_ptr_nonnull(p);
	return p;
}

static void check_sum(uint64_t gpa, uint64_t len)
{
	const uint8_t *p = at(gpa, len);
	uint8_t sum = 0;

	for (uint64_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	ck_assert_uint_eq(sum, 0);
}

/* The table's address, having checked pointer and header. */
static uint64_t find_table(uint16_t *bytes, uint16_t *entries)
{
	const uint8_t *p = at(MPTABLE_GPA, 16);
	uint64_t table = ram_u32(MPTABLE_GPA + 4);

	ck_assert_int_eq(memcmp(p, "_MP_", 4), 0);
	ck_assert_uint_eq(p[8], 1);
	ck_assert_uint_eq(p[9], 4);
	check_sum(MPTABLE_GPA, 16);
	ck_assert_int_eq(memcmp(at(table, 44), "PCMP", 4), 0);
	*bytes = (uint16_t)ram_u32(table + 4);
	*entries = (uint16_t)(ram_u32(table + 32) >> 16);
	check_sum(table, *bytes);
	ck_assert_uint_eq(ram_u32(table + 36), 0xfee00000);
	return table;
}

static void check_cpu(const uint8_t *p, unsigned index)
{
	ck_assert_uint_eq(p[1], index);
	ck_assert_uint_eq(p[3], index ? 1 : 3);
}

static const unsigned counts[] = {1, 2, 64, 254};

START_TEST(tables)
{
	unsigned n_cpus = counts[_i], seen[5] = {0}, pins = 0;
	uint16_t bytes, entries;
	uint64_t table, gpa;

	ck_assert_int_eq(mptable_write(bf.m, n_cpus, &bf.err), 0);
	table = find_table(&bytes, &entries);
	gpa = table + 44;
	for (unsigned i = 0; i < entries; i++) {
		const uint8_t *p = at(gpa, 20);

		ck_assert_uint_lt(p[0], 5);
		if (p[0] == 0)
			check_cpu(p, seen[0]);
		if (p[0] == 2)
			ck_assert_uint_eq(p[1], n_cpus); /* an id of its own */
		if (p[0] == 3) {
			ck_assert_uint_eq(p[5], p[7]); /* line N is pin N */
			ck_assert_uint_eq(p[6], n_cpus);
			pins |= 1u << p[7];
		}
		seen[p[0]]++;
		gpa += p[0] ? 8 : 20;
	}
	ck_assert_uint_eq(gpa, table + bytes);
	ck_assert_uint_eq(seen[0], n_cpus);
	ck_assert_uint_eq(seen[1], 1);
	ck_assert_uint_eq(seen[2], 1);
	ck_assert_uint_eq(pins, 0xfffb);
	ck_assert_uint_eq(seen[4], 2);
	ck_assert_uint_le(gpa, MPTABLE_GPA + MPTABLE_BYTES);
}
END_TEST

START_TEST(only_when_asked)
{
	struct boot_config cfg = {.kernel = bf.kernel};
	struct wbuf w;

	make_elf(&w, &(struct shape){0});
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	ck_assert_int_eq(boot_load(bf.m, &cfg, &bf.entry, &bf.err), 0);
	ck_assert_uint_eq(ram_u32(MPTABLE_GPA), 0);
	cfg.n_cpus = 2;
	ck_assert_int_eq(boot_load(bf.m, &cfg, &bf.entry, &bf.err), 0);
	ck_assert_uint_eq(ram_u32(MPTABLE_GPA), 0x5f504d5f);
	/* An image in the same place stays whole. */
	make_elf(&w, &(struct shape){.paddr = MPTABLE_GPA + 4096});
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	new_mem(16 * MIB);
	ck_assert_int_eq(boot_load(bf.m, &cfg, &bf.entry, &bf.err), 0);
	ck_assert_uint_eq(ram_u32(MPTABLE_GPA), 0);
}
END_TEST

SUITE_WITH("mptable", boot_setup, boot_teardown, only_when_asked, EACH(tables, counts))
