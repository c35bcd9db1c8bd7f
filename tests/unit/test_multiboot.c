/* SPDX-License-Identifier: Apache-2.0 */
/* The Multiboot loader. */
#include <errno.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/unit/support/boot_fixture.h"

static void check_multiboot_info(const char *module)
{
	uint64_t i = bf.entry.ebx, map, at;

	ck_assert_str_eq(bf.entry.protocol, "multiboot");
	ck_assert_uint_eq(bf.entry.eax, 0x2badb002);
	ck_assert_uint_eq(ram_u32(i), 0x24d);
	ck_assert_uint_eq(ram_u32(i + 4), 640);
	ck_assert_uint_eq(ram_u32(i + 8), 15 << 10);
	ck_assert_str_eq(ram_text(ram_u32(i + 16)), "a=1 b=2");
	ck_assert_uint_eq(ram_u32(i + 20), module ? 1 : 0);
	ck_assert_str_eq(ram_text(ram_u32(i + 64)), "ferry");
	ck_assert_uint_eq(ram_u32(i + 44), 3 * 24);
	map = ram_u32(i + 48);
	ck_assert_uint_eq(ram_u32(map), 20);
	ck_assert_uint_eq(ram_u64(map + 4), 0);
	ck_assert_uint_eq(ram_u64(map + 12), 0xa0000);
	ck_assert_uint_eq(ram_u32(map + 20), 1);
	ck_assert_uint_eq(ram_u64(map + 48 + 4), MIB);
	ck_assert_uint_eq(ram_u64(map + 48 + 12), 15 * MIB);
	if (!module)
		return;
	at = ram_u32(i + 24);
	ck_assert_uint_eq(ram_u32(at) % 4096, 0);
	ck_assert_uint_eq(ram_u32(at + 4) - ram_u32(at), 5);
	ck_assert_int_eq(memcmp(mem_host(bf.m, ram_u32(at), 5), "hello", 5), 0);
	ck_assert_str_eq(ram_text(ram_u32(at + 8)), module);
}

START_TEST(multiboot_elf)
{
	for (int is64 = 0; is64 < 2; is64++) {
		ck_assert_int_eq(boot_elf(&(struct shape){.is32 = !is64,
							  .desc_bytes = ~0u,
							  .multiboot = true,
							  .multiboot_flags = 3}),
				 0);
		ck_assert_uint_eq(bf.entry.rip, LOAD_ADDR + 4); /* the physical one */
		check_multiboot_info(NULL);
	}
	write_file(bf.initrd, "hello", 5);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, "a=1 b=2"), 0);
	check_multiboot_info(bf.initrd);
}
END_TEST

START_TEST(multiboot_demands)
{
	for (unsigned bit = 2; bit < 16; bit++) {
		struct shape s = {.is32 = true,
				  .desc_bytes = ~0u,
				  .multiboot = true,
				  .multiboot_flags = 1u << bit};

		expect_message(boot_elf(&s), -ENOEXEC, "demands");
	}
	/* The upper half are wishes. */
	ck_assert_int_eq(boot_elf(&(struct shape){.is32 = true,
						  .desc_bytes = ~0u,
						  .multiboot = true,
						  .multiboot_flags = 0xfffe0000}),
			 0);
}
END_TEST

struct raw {
	uint32_t header_addr, load_addr, load_end, bss_end, entry;
	const char *says; /* NULL: it boots */
};

/* A raw image of 1000 bytes, its header at byte 100. Addresses relative to LOAD_ADDR. */
static int boot_raw(const struct raw *r, uint32_t sum_error)
{
	struct wbuf w;
	int rc;

	wbuf_init(&w, ORDER_LITTLE, 4096);
	for (unsigned i = 0; i < 100; i++)
		put_u8(&w, (uint8_t)i);
	put_u32(&w, 0x1badb002);
	put_u32(&w, 0x00010003);
	put_u32(&w, -(0x1badb002u + 0x00010003u) + sum_error);
	put_u32(&w, r->header_addr);
	put_u32(&w, r->load_addr);
	put_u32(&w, r->load_end);
	put_u32(&w, r->bss_end);
	put_u32(&w, r->entry);
	while (w.len < 1000)
		put_u8(&w, 0xcc);
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	ck_assert_int_eq(mem_set(bf.m, LOAD_ADDR, 0xee, 65536), 0);
	rc = boot_with(bf.kernel, NULL, "a=1 b=2");
	return rc;
}

#define AT(n) (LOAD_ADDR + (n))

static const struct raw raws[] = {
	{AT(100), AT(0), AT(1000), AT(3000), AT(0), NULL},
	{AT(100), AT(0), 0, 0, AT(999), NULL},
	{AT(100), AT(0), AT(500), 0, AT(499), NULL},
	{AT(100), AT(0), 0, AT(3000), AT(2999), NULL},
	{AT(100), AT(100), 0, 0, AT(100), NULL},
	{AT(100), AT(101), 0, 0, AT(101), "before the file's beginning"},
	{AT(101), AT(0), 0, 0, AT(0), "before the file's beginning"},
	{AT(100), 0, 0, 0, 0, "before the file's beginning"},
	{AT(100), AT(0), AT(1001), 0, AT(0), "beyond the file's end"},
	{AT(100), AT(0), UINT32_MAX, 0, AT(0), "beyond the file's end"},
	{AT(100), AT(0), AT(0) - 1, 0, AT(0), "beyond the file's end"},
	{AT(100), AT(0), AT(1000), AT(999), AT(0), "bss ends before"},
	{AT(100), AT(0), 0, AT(999), AT(0), "bss ends before"},
	{AT(100), AT(0), 0, 0, AT(1000), "entry is outside"},
	{AT(100), AT(0), 0, 0, AT(0) - 1, "entry is outside"},
	{AT(100), AT(0), 0, UINT32_MAX, AT(0), "does not fit"},
	{UINT32_MAX, UINT32_MAX - 100, 0, 0, UINT32_MAX - 100, "does not fit"},
};

START_TEST(multiboot_raw)
{
	const struct raw *r = &raws[_i];
	int rc = boot_raw(r, 0);

	if (r->says) {
		expect_message(rc, -ENOEXEC, r->says);
		return;
	}
	ck_assert_msg(rc == 0, "%s", bf.err.msg);
	ck_assert_uint_eq(bf.entry.rip, r->entry);
	check_multiboot_info(NULL);
	ck_assert_uint_eq(ram_u32(r->header_addr), 0x1badb002);
	if (r->bss_end)
		ck_assert_uint_eq(ram_u32(r->bss_end - 4), 0);
	ck_assert_uint_eq(ram_u32(AT(3000)), 0xeeeeeeee);
}
END_TEST

START_TEST(multiboot_bad_header)
{
	uint8_t bytes[8300] = {0};

	expect_message(boot_raw(&raws[0], 1), -ENOEXEC, "wrong checksum");
	/* Not within the first 8 KiB, not aligned, cut off before the addresses. */
	memcpy(bytes + 8190, "\x02\xb0\xad\x1b\0\0\0\0\xfe\x4f\x52\xe4", 12);
	write_file(bf.kernel, bytes, sizeof(bytes));
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "neither a PVH");
	memcpy(bytes + 8192 - 12, "\x02\xb0\xad\x1b\0\0\x01\0\xfe\x4f\x51\xe4", 12);
	write_file(bf.kernel, bytes, sizeof(bytes));
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "cut off");
	memcpy(bytes + 8192 - 12, "\x02\xb0\xad\x1b\0\0\0\0\xfe\x4f\x52\xe4", 12);
	write_file(bf.kernel, bytes, sizeof(bytes));
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "it is no ELF");
}
END_TEST

SUITE_WITH("multiboot", boot_setup, boot_teardown, multiboot_elf, multiboot_demands,
	   multiboot_bad_header, EACH(multiboot_raw, raws))
