/* SPDX-License-Identifier: Apache-2.0 */
/* The loader of compressed Linux kernels (bzImage, 64-bit boot protocol). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/unit/support/boot_fixture.h"

#define SECTORS      3u /* of set-up code */
#define KERNEL_AT    ((SECTORS + 1) * 512u)
#define KERNEL_BYTES 3000u
#define FILE_BYTES   (KERNEL_AT + KERNEL_BYTES)
#define PREFERRED    0x300000u
#define INIT_BYTES   0x100000u

static uint8_t image[FILE_BYTES + 512];

static void put(unsigned at, unsigned bytes, uint64_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		image[at + i] = (uint8_t)(value >> (8 * i));
}

/* A bzImage as kernels are: relocatable, 2.15. */
static void make_image(void)
{
	memset(image, 0x5a, sizeof(image)); /* what isn't set below must not matter */
	put(0x1f1, 1, SECTORS);
	put(0x1fe, 2, 0xaa55);
	put(0x200, 2, 0x6aeb); /* the header ends at 0x26c */
	put(0x202, 4, 0x53726448);
	put(0x206, 2, 0x020f);
	put(0x211, 1, 1);
	put(0x22c, 4, 0x7fffffff);
	put(0x230, 4, 0x200000);
	put(0x234, 1, 1);
	put(0x236, 2, 0x3f);
	put(0x238, 4, 2047);
	put(0x250, 8, 0xdead0000); /* no setup_data of the file's may come through */
	put(0x258, 8, PREFERRED);
	put(0x260, 4, INIT_BYTES);
	for (unsigned i = 0; i < KERNEL_BYTES; i++)
		image[KERNEL_AT + i] = (uint8_t)(i * 7);
}

static int boot_image(size_t len)
{
	write_file(bf.kernel, image, len);
	return boot_with(bf.kernel, NULL, "a=1 b=2");
}

static void check_tables(void)
{
	uint64_t pdpt = ram_u64(bf.entry.cr3) & ~0xfffull;

	ck_assert_uint_eq(bf.entry.cr3 % 4096, 0);
	ck_assert_uint_eq(ram_u64(bf.entry.cr3) & 0xfff, 3);
	for (unsigned i = 1; i < 512; i++)
		ck_assert_uint_eq(ram_u64(bf.entry.cr3 + i * 8), 0);
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t pd = ram_u64(pdpt + i * 8);

		if (i >= 4) {
			ck_assert_uint_eq(pd, 0);
			continue;
		}
		ck_assert_uint_eq(pd & 0xfff, 3);
		for (uint64_t k = 0; k < 512; k++)
			ck_assert_uint_eq(ram_u64((pd & ~0xfffull) + k * 8),
					  i << 30 | k << 21 | 0x83);
	}
}

static void check_entry(uint64_t load_addr)
{
	ck_assert_str_eq(bf.entry.protocol, "linux64");
	ck_assert_int_eq(bf.entry.mode, BOOT_LONG64);
	ck_assert_uint_eq(bf.entry.rip, load_addr + 0x200);
	ck_assert_int_eq(
		memcmp(mem_host(bf.m, load_addr, KERNEL_BYTES), image + KERNEL_AT, KERNEL_BYTES),
		0);
	check_tables();
	ck_assert_uint_eq(bf.entry.gdt_bytes, 32);
	ck_assert_uint_eq(ram_u64(bf.entry.gdt), 0);
	ck_assert_uint_eq(ram_u64(bf.entry.gdt + 0x10), 0x00af9b000000ffff);
	ck_assert_uint_eq(ram_u64(bf.entry.gdt + 0x18), 0x00cf93000000ffff);
}

static uint8_t ram_u8(uint64_t gpa)
{
	return (uint8_t)ram_u32(gpa);
}

START_TEST(params)
{
	uint64_t p;

	make_image();
	ck_assert_msg(boot_image(FILE_BYTES) == 0, "%s", bf.err.msg);
	check_entry(PREFERRED);
	p = bf.entry.esi;
	/* A clean page but for the header and what we say. */
	for (unsigned i = 0; i < 4096; i++) {
		bool header = i >= 0x1f1 && i < 0x26c;
		bool map = i == 0x1e8 || (i >= 0x2d0 && i < 0x2d0 + 3 * 20);

		ck_assert_msg(header || map || !ram_u8(p + i), "byte 0x%x", i);
	}
	ck_assert_uint_eq(ram_u32(p + 0x202), 0x53726448);
	ck_assert_uint_eq(ram_u8(p + 0x1f1), SECTORS);
	ck_assert_uint_eq(ram_u8(p + 0x210), 0xff);
	ck_assert_uint_eq(ram_u64(p + 0x218), 0);
	ck_assert_str_eq(ram_text(ram_u32(p + 0x228)), "a=1 b=2");
	ck_assert_uint_eq(ram_u64(p + 0x250), 0);
	ck_assert_uint_eq(ram_u32(p + 0x260), INIT_BYTES);
	ck_assert_uint_eq(ram_u8(p + 0x1e8), 3);
	ck_assert_uint_eq(ram_u64(p + 0x2d0), 0);
	ck_assert_uint_eq(ram_u64(p + 0x2d8), 0xa0000);
	ck_assert_uint_eq(ram_u32(p + 0x2e0), 1);
	ck_assert_uint_eq(ram_u32(p + 0x2e4 + 16), 2);
	ck_assert_uint_eq(ram_u64(p + 0x2f8), MIB);
	ck_assert_uint_eq(ram_u64(p + 0x300), 15 * MIB);
}
END_TEST

START_TEST(initrd)
{
	uint64_t p, at;

	make_image();
	put(0x22c, 4, 0x7fffff); /* its last byte at most here */
	write_file(bf.kernel, image, FILE_BYTES);
	write_file(bf.initrd, "hello", 5);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, ""), 0);
	p = bf.entry.esi;
	at = ram_u32(p + 0x218);
	ck_assert_uint_eq(at, 8 * MIB - 4096);
	ck_assert_uint_eq(ram_u32(p + 0x21c), 5);
	ck_assert_int_eq(memcmp(mem_host(bf.m, at, 5), "hello", 5), 0);
	/* Where there is no such limit: as high as it fits. */
	put(0x22c, 4, UINT32_MAX);
	write_file(bf.kernel, image, FILE_BYTES);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, ""), 0);
	ck_assert_uint_eq(ram_u32(bf.entry.esi + 0x218), 16 * MIB - 4096);
	put(0x22c, 4, 0xfffff); /* no room there */
	write_file(bf.kernel, image, FILE_BYTES);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, ""), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(bf.err.msg, bf.initrd));
}
END_TEST

/* A kernel that is told where it prefers to be, and whether it can be elsewhere. */
static const struct place {
	uint64_t prefers;
	uint32_t init_bytes;
	bool relocatable;
	uint64_t at; /* 0: refused */
} placements[] = {
	{PREFERRED, INIT_BYTES, false, PREFERRED},
	{PREFERRED, 13 * MIB, false, PREFERRED}, /* just fits */
	{PREFERRED, 13 * MIB + 1, false, 0},
	{PREFERRED, 13 * MIB + 1, true, 0x200000},
	{PREFERRED, 0, false, PREFERRED}, /* needs at least itself */
	{PREFERRED, UINT32_MAX, false, 0},
	{PREFERRED, UINT32_MAX, true, 0},
	{0, INIT_BYTES, true, 0x200000},
	{0, INIT_BYTES, false, 0},
	{0x1000, INIT_BYTES, true, 0x200000}, /* not over the first MiB */
	{16 * MIB, INIT_BYTES, true, 0x200000},
	{16 * MIB - 4096, INIT_BYTES, false, 0},
	{UINT64_MAX, INIT_BYTES, true, 0x200000},
	{UINT64_MAX - INIT_BYTES, INIT_BYTES, false, 0},
	{1ull << 32, INIT_BYTES, false, 0},
};

START_TEST(placement)
{
	const struct place *c = &placements[_i];
	int rc;

	make_image();
	put(0x258, 8, c->prefers);
	put(0x260, 4, c->init_bytes);
	put(0x234, 1, c->relocatable);
	rc = boot_image(FILE_BYTES);
	if (c->at) {
		ck_assert_msg(rc == 0, "%s", bf.err.msg);
		check_entry(c->at);
	} else {
		expect_message(rc, -ENOEXEC, "does not fit");
	}
}
END_TEST

static int boot_args(const char *args, bool for_all, const char *cmdline)
{
	const struct boot_config cfg = {.kernel = bf.kernel,
					.cmdline = cmdline,
					.linux_args = args,
					.linux_args_for_all = for_all};

	err_clear(&bf.err);
	return boot_load(bf.m, &cfg, &bf.entry, &bf.err);
}

static void write_elf(bool is_linux)
{
	const struct shape shape = {.is_linux = is_linux};
	struct wbuf w;

	make_elf(&w, &shape);
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
}

/* Arguments that Linux without ACPI gets, or whoever is meant: in front of the user's. */
START_TEST(linux_args)
{
	char *longest = calloc(1, 65536);

	make_image();
	write_file(bf.kernel, image, FILE_BYTES);
	ck_assert_int_eq(boot_args("x=1 y", false, "acpi=off -- b"), 0);
	ck_assert_str_eq(ram_text(ram_u32(bf.entry.esi + 0x228)), "x=1 y acpi=off -- b");
	ck_assert_int_eq(boot_args("x=1 y", false, "acpi=offer a=acpi=off"), 0);
	ck_assert_str_eq(ram_text(ram_u32(bf.entry.esi + 0x228)), "acpi=offer a=acpi=off");
	ck_assert_int_eq(boot_args("x=1", true, NULL), 0);
	ck_assert_str_eq(ram_text(ram_u32(bf.entry.esi + 0x228)), "x=1");
	ck_assert_int_eq(boot_args("", false, "a"), 0);
	ck_assert_str_eq(ram_text(ram_u32(bf.entry.esi + 0x228)), "a");

	write_elf(true);
	ck_assert_int_eq(boot_args("x=1", false, "a acpi=off"), 0);
	ck_assert_str_eq(ram_text(ram_u64(bf.entry.ebx + 0x18)), "x=1 a acpi=off");
	write_elf(false);
	ck_assert_int_eq(boot_args("x=1", false, "a acpi=off"), 0);
	ck_assert_str_eq(ram_text(ram_u64(bf.entry.ebx + 0x18)), "a acpi=off");
	ck_assert_int_eq(boot_args("x=1", true, "a"), 0);
	ck_assert_str_eq(ram_text(ram_u64(bf.entry.ebx + 0x18)), "x=1 a");

	memset(longest, 'a', 65532);
	ck_assert_int_eq(boot_args("x=1", false, longest), 0);
	ck_assert_int_eq(boot_args("x=1", true, longest), -E2BIG);
	free(longest);
}
END_TEST

static const struct damage {
	unsigned at, bytes;
	uint64_t value;
	const char *says;
} damages[] = {
	{0x1fe, 2, 0, "boot flag"},
	{0x206, 2, 0x020b, "2.11 is older"},
	{0x206, 2, 0, "older"},
	{0x201, 1, 0x10, "older"}, /* a header that ends before what we need */
	{0x211, 1, 0, "64-bit entry"},
	{0x236, 2, 0xfffe, "64-bit entry"},
	{0x1f1, 1, 255, "ends before its 64-bit entry"},
	{0x230, 4, 0, "alignment"},
	{0x230, 4, 0x800, "alignment"},
	{0x230, 4, 0x300000, "alignment"},
	{0x230, 4, UINT32_MAX, "alignment"},
};

START_TEST(damaged)
{
	make_image();
	put(damages[_i].at, damages[_i].bytes, damages[_i].value);
	expect_message(boot_image(FILE_BYTES), -ENOEXEC, damages[_i].says);
}
END_TEST

START_TEST(limits)
{
	make_image();
	put(0x1f1, 1, 0); /* means 4 */
	put(0x260, 4, 0);
	ck_assert_int_eq(boot_image(FILE_BYTES), 0);
	ck_assert_int_eq(memcmp(mem_host(bf.m, PREFERRED, 100), image + 5 * 512, 100), 0);

	make_image();
	put(0x201, 1, 0xff); /* a longer header than boot_params has room for */
	ck_assert_int_eq(boot_image(FILE_BYTES), 0);
	ck_assert_uint_eq(ram_u8(bf.entry.esi + 0x28f), 0x5a);
	ck_assert_uint_eq(ram_u8(bf.entry.esi + 0x290), 0);

	make_image();
	put(0x230, 4,
	    1u << 31); /* an alignment beyond RAM does not matter where it prefers to be */
	ck_assert_int_eq(boot_image(FILE_BYTES), 0);
	put(0x258, 8, 0);
	expect_message(boot_image(FILE_BYTES), -ENOEXEC, "does not fit");

	make_image();
	put(0x238, 4, 7);
	ck_assert_int_eq(boot_image(FILE_BYTES), 0);
	put(0x238, 4, 6);
	expect_message(boot_image(FILE_BYTES), -E2BIG, "7 bytes");
}
END_TEST

START_TEST(cut_at_every_byte)
{
	make_image();
	for (size_t len = 0; len <= KERNEL_AT + 0x200; len++) {
		ck_assert_int_lt(boot_image(len), 0);
		ck_assert_ptr_nonnull(strstr(bf.err.msg, bf.kernel));
	}
	/* A kernel that lost its tail cannot be told from a shorter one. */
	ck_assert_int_eq(boot_image(KERNEL_AT + 0x201), 0);
}
END_TEST

START_TEST(every_byte_changed)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x7f, 0x10};

	make_image();
	for (unsigned at = 0x1f0; at < 0x294; at++) {
		for (size_t k = 0; k < sizeof(flips); k++) {
			image[at] ^= flips[k];
			(void)boot_image(FILE_BYTES); /* either is fine, a crash is not */
			image[at] ^= flips[k];
		}
	}
}
END_TEST

SUITE_WITH("boot_linux", boot_setup, boot_teardown, params, initrd, linux_args, limits,
	   cut_at_every_byte, every_byte_changed, EACH(placement, placements),
	   EACH(damaged, damages))
