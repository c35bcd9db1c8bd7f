/* SPDX-License-Identifier: Apache-2.0 */
/* ELF and PVH: what is loaded, what is refused, and that no damaged image breaks anything. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/boot_fixture.h"
#include "vmm/boot/places.h"

/* --- PVH --- */

static void check_pvh(const struct shape *s)
{
	size_t code_bytes = CODE_LEN + (s->multiboot ? 15 : 0);
	const uint8_t *bss;
	uint64_t info;

	/* Somebody else's bytes where the bss will be. */
	ck_assert_int_eq(mem_set(bf.m, LOAD_ADDR, 0xee, 8192), 0);
	ck_assert_msg(boot_elf(s) == 0, "%s", bf.err.msg);
	ck_assert_str_eq(bf.entry.protocol, "pvh");
	ck_assert_uint_eq(bf.entry.rip, LOAD_ADDR + 4);
	ck_assert_int_eq(memcmp(mem_host(bf.m, LOAD_ADDR, CODE_LEN), CODE, CODE_LEN), 0);
	bss = mem_host(bf.m, LOAD_ADDR + code_bytes, BSS_BYTES + 1);
	for (unsigned i = 0; i < BSS_BYTES; i++)
		ck_assert_uint_eq(bss[i], 0);
	ck_assert_uint_eq(bss[BSS_BYTES], 0xee);

	info = bf.entry.ebx;
	ck_assert_uint_eq(ram_u32(info), 0x336ec578);
	ck_assert_uint_eq(ram_u32(info + 4), 1);
	ck_assert_uint_eq(ram_u64(info + 8), 0); /* no flags, no modules */
	ck_assert_str_eq(ram_text(ram_u64(info + 0x18)), "a=1 b=2");
	ck_assert_uint_eq(ram_u64(info + 0x20), 0);
}

START_TEST(pvh_shapes)
{
	check_pvh(&(struct shape){0});
	check_pvh(&(struct shape){.desc_bytes = 8});
	check_pvh(&(struct shape){.desc_bytes = 8, .note_align = 8});
	check_pvh(&(struct shape){.is32 = true});
	check_pvh(&(struct shape){.is32 = true, .desc_bytes = 8});
	/* Both: PVH comes first. */
	check_pvh(&(struct shape){.multiboot = true});
}
END_TEST

static void expect_range(uint64_t at, uint64_t gpa, uint64_t len, uint32_t type)
{
	ck_assert_uint_eq(ram_u64(at), gpa);
	ck_assert_uint_eq(ram_u64(at + 8), len);
	ck_assert_uint_eq(ram_u64(at + 16), type);
}

START_TEST(pvh_memory_map)
{
	static const uint64_t sizes[] = {4 * MIB, 128 * MIB, 3072 * MIB, 5120 * MIB};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t low = sizes[i] < 3072 * MIB ? sizes[i] : 3072 * MIB, map;

		new_mem(sizes[i]);
		ck_assert_int_eq(boot_elf(&(struct shape){0}), 0);
		map = ram_u64(bf.entry.ebx + 0x28);
		ck_assert_uint_eq(ram_u64(bf.entry.ebx + 0x30), sizes[i] > low ? 4 : 3);
		expect_range(map, 0, 0xa0000, 1);
		expect_range(map + 24, 0xa0000, 0x60000, 2);
		expect_range(map + 48, MIB, low - MIB, 1);
		if (sizes[i] > low)
			expect_range(map + 72, 4096 * MIB, sizes[i] - low, 1);
	}
}
END_TEST

START_TEST(pvh_initrd)
{
	uint64_t module, at;
	char data[10000];

	memset(data, 'r', sizeof(data));
	write_file(bf.initrd, data, sizeof(data));
	ck_assert_int_eq(boot_elf(&(struct shape){0}), 0);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, NULL), 0);
	ck_assert_uint_eq(ram_u32(bf.entry.ebx + 0x0c), 1);
	module = ram_u64(bf.entry.ebx + 0x10);
	at = ram_u64(module);
	ck_assert_uint_eq(at, 16 * MIB - 3 * 4096);
	ck_assert_uint_eq(ram_u64(module + 8), sizeof(data));
	ck_assert_uint_eq(ram_u64(module + 16), 0);
	ck_assert_int_eq(memcmp(mem_host(bf.m, at, sizeof(data)), data, sizeof(data)), 0);
	ck_assert_str_eq(ram_text(ram_u64(bf.entry.ebx + 0x18)), "");
	/* What the host wrote is marked for a migration. */
	ck_assert_uint_ne(mem_marks_take(bf.m, 0, at >> 12 >> 6), 0);
}
END_TEST

START_TEST(initrd_refused)
{
	char data[4096] = "x";

	ck_assert_int_eq(boot_elf(&(struct shape){0}), 0);
	ck_assert_int_eq(boot_with(bf.kernel, "/no/such", NULL), -ENOENT);
	ck_assert_ptr_nonnull(strstr(bf.err.msg, "cannot read initrd '/no/such'"));
	ck_assert_int_eq(boot_with(bf.kernel, "/tmp", NULL), -EISDIR);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, NULL), -ENODATA);
	write_file(bf.initrd, data, sizeof(data));
	ck_assert_int_eq(truncate(bf.initrd, 15 * MIB), 0);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, NULL), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(bf.err.msg, "more memory"));
	ck_assert_int_eq(truncate(bf.initrd, 1ll << 42), 0); /* sparse */
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, NULL), -ENOMEM);
	ck_assert_int_eq(truncate(bf.initrd, 13 * MIB), 0);
	ck_assert_int_eq(boot_with(bf.kernel, bf.initrd, NULL), 0);
}
END_TEST

/* The information goes where the kernel is not. */
START_TEST(information_finds_room)
{
	struct shape s = {.paddr = 0x1000, .memory_bytes = 0x9f000};

	ck_assert_int_eq(boot_elf(&(struct shape){0}), 0);
	ck_assert_uint_eq(bf.entry.ebx, 0x10000);
	ck_assert_int_eq(boot_elf(&s), 0);
	ck_assert_uint_eq(bf.entry.ebx, 0x100000);
	s.memory_bytes = 0x12000;
	ck_assert_int_eq(boot_elf(&s), 0);
	ck_assert_uint_eq(bf.entry.ebx, 0x13000);
	s.memory_bytes = 16 * MIB - 0x1000 - 64;
	expect_message(boot_elf(&s), -ENOMEM, "no room");
}
END_TEST

START_TEST(command_line_bound)
{
	static char text[65537];

	memset(text, 'c', sizeof(text) - 1);
	ck_assert_int_eq(boot_elf(&(struct shape){0}), 0);
	ck_assert_int_eq(boot_with(bf.kernel, NULL, text), -E2BIG);
	ck_assert_ptr_nonnull(strstr(bf.err.msg, "65536 bytes, at most 65535"));
	text[65535] = '\0';
	ck_assert_int_eq(boot_with(bf.kernel, NULL, text), 0);
	ck_assert_str_eq(ram_text(ram_u64(bf.entry.ebx + 0x18)), text);
}
END_TEST

/* --- refused files --- */

START_TEST(no_kernel)
{
	char long_head[1024] = "";

	ck_assert_int_eq(boot_with("/no/such/kernel", NULL, NULL), -ENOENT);
	ck_assert_str_eq(bf.err.msg,
			 "cannot read kernel image '/no/such/kernel': No such file or directory");
	ck_assert_int_eq(boot_with("/tmp", NULL, NULL), -EISDIR);
	ck_assert_int_eq(boot_with("/dev/zero", NULL, NULL), -EINVAL);
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENODATA, "is empty");
	ck_assert_int_eq(unlink(bf.kernel), 0);
	ck_assert_int_eq(mkfifo(bf.kernel, 0600), 0);
	expect_message(boot_with(bf.kernel, NULL, NULL), -EINVAL, "not a regular file");
	ck_assert_int_eq(unlink(bf.kernel), 0);
	write_file(bf.kernel, "x", 1);
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "neither a PVH");
	memcpy(long_head + 0x202, "HdrS", 4);
	write_file(bf.kernel, long_head, sizeof(long_head));
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "kernel image");
}
END_TEST

START_TEST(wrong_notes)
{
	expect_message(boot_elf(&(struct shape){.desc_bytes = ~0u}), -ENOEXEC, "neither a PVH");
	expect_message(boot_elf(&(struct shape){.desc_bytes = 3}), -ENOEXEC, "neither a PVH");
	expect_message(boot_elf(&(struct shape){.desc_bytes = 12}), -ENOEXEC, "neither a PVH");
	expect_message(boot_elf(&(struct shape){.entry = 0x1000}), -ENOEXEC, "PVH entry 0x1000");
}
END_TEST

START_TEST(outside_ram)
{
	expect_message(boot_elf(&(struct shape){.paddr = 0x1000000 - 4}), -ENOEXEC, "does not fit");
	expect_message(boot_elf(&(struct shape){.paddr = 0xfffffff0, .is32 = true}), -ENOEXEC,
		       "does not fit");
	expect_message(boot_elf(&(struct shape){.memory_bytes = 1ull << 40}), -ENOEXEC,
		       "does not fit");
	expect_message(boot_elf(&(struct shape){.memory_bytes = ~0ull}), -ENOEXEC,
		       "end of the address space");
	expect_message(boot_elf(&(struct shape){.memory_bytes = 4}), -ENOEXEC, "more bytes in the");
}
END_TEST

/* One field of a good ELF64 is changed; what is said about it. */
static const struct {
	size_t offset, bytes;
	uint64_t value;
	const char *says;
} damages[] = {
	{4, 1, 3, "no known class"},
	{5, 1, 2, "little-endian"},
	{6, 1, 0, "no known version"},
	{16, 2, 1, "no executable"},
	{18, 2, 40, "not for an x86 machine"},
	{32, 8, 1ull << 63, "program header table reaches beyond"},
	{32, 8, UINT64_MAX, "program header table reaches beyond"},
	{54, 2, 55, "wrong size"},
	{56, 2, 0, "no program headers"},
	{56, 2, 1, "no segment to load"},
	{56, 2, 1000, "program header table reaches beyond"},
	{56, 2, 0xffff, "too many program headers"},
	{64 + 8, 8, 1 << 20, "notes reach beyond"},
	{64 + 8, 8, UINT64_MAX, "notes reach beyond"},
	{64 + 32, 8, UINT64_MAX, "notes reach beyond"},
	{120 + 8, 8, 1 << 20, "segment reaches beyond"},
	{120 + 8, 8, UINT64_MAX - 4, "segment reaches beyond"},
	{120 + 24, 8, UINT64_MAX - 4, "end of the address space"},
	{120 + 32, 8, 4000, "segment reaches beyond"},
	{120 + 32, 8, UINT64_MAX, "more bytes in the file"},
};

START_TEST(damaged_elf)
{
	struct wbuf w;

	make_elf(&w, &(struct shape){0});
	for (size_t b = 0; b < damages[_i].bytes; b++)
		w.data[damages[_i].offset + b] = (uint8_t)(damages[_i].value >> (8 * b));
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, damages[_i].says);
}
END_TEST

START_TEST(overlapping_segments)
{
	struct wbuf w;

	make_elf(&w, &(struct shape){0});
	/* The note segment becomes a second one to load, at the same place. */
	w.data[64] = 1;
	memcpy(w.data + 64 + 24, w.data + 120 + 24, 8);
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	/* (Without its note it is no PVH image, so let it be Multiboot's.) */
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "neither a PVH");
	make_elf(&w, &(struct shape){.multiboot = true});
	w.data[64] = 1;
	memcpy(w.data + 64 + 24, w.data + 120 + 24, 8);
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	expect_message(boot_with(bf.kernel, NULL, NULL), -ENOEXEC, "overlap");
}
END_TEST

static const struct shape shapes[] = {{0},
				      {.is32 = true},
				      {.desc_bytes = 8, .note_align = 8},
				      {.is32 = true, .desc_bytes = ~0u, .multiboot = true}};

START_TEST(cut_at_every_byte)
{
	struct wbuf w;

	make_elf(&w, &shapes[_i]);
	for (size_t len = 0; len < w.len; len++) {
		write_file(bf.kernel, w.data, len);
		ck_assert_int_lt(boot_with(bf.kernel, NULL, "x"), 0);
		ck_assert_ptr_nonnull(strstr(bf.err.msg, bf.kernel));
	}
	write_file(bf.kernel, w.data, w.len);
	ck_assert_int_eq(boot_with(bf.kernel, NULL, "x"), 0);
	wbuf_free(&w);
}
END_TEST

START_TEST(every_byte_changed)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x7f, 0x10};
	struct wbuf w;

	make_elf(&w, &shapes[_i]);
	for (size_t at = 0; at < w.len; at++) {
		for (size_t k = 0; k < sizeof(flips); k++) {
			w.data[at] ^= flips[k];
			write_file(bf.kernel, w.data, w.len);
			(void)boot_with(bf.kernel, NULL, "x"); /* either is fine, a crash is not */
			w.data[at] ^= flips[k];
		}
	}
	wbuf_free(&w);
}
END_TEST

/* --- places --- */

START_TEST(places)
{
	struct places p = {0};
	uint64_t gpa;

	ck_assert_int_eq(places_take(&p, 0x1000, 0x1000), 0);
	ck_assert_int_eq(places_take(&p, 0x1fff, 1), -EEXIST);
	ck_assert_int_eq(places_take(&p, 0, 0x1001), -EEXIST);
	ck_assert_int_eq(places_take(&p, 0x2000, 0), 0);
	ck_assert_int_eq(places_take(&p, UINT64_MAX - 1, 1), 0);
	ck_assert_int_eq(places_take(&p, UINT64_MAX - 1, 2), -EINVAL);
	ck_assert_int_eq(places_take_low(&p, 0x800, 0x4000, 0x900, 0x10, &gpa), 0);
	ck_assert_uint_eq(gpa, 0x2000);
	ck_assert_int_eq(places_take_low(&p, 0x800, 0x4000, 0x700, 0x100, &gpa), 0);
	ck_assert_uint_eq(gpa, 0x800);
	ck_assert_int_eq(places_take_high(&p, 0x800, 0x4fff, 0x1000, 0x1000, &gpa), 0);
	ck_assert_uint_eq(gpa, 0x3000);
	ck_assert_int_eq(places_take_high(&p, 0x2000, 0x4000, 0x700, 0x10, &gpa), 0);
	ck_assert_uint_eq(gpa, 0x2900);
	ck_assert_int_eq(places_take_high(&p, 0x800, 0x4000, 0x1000, 1, &gpa), -ENOMEM);
	ck_assert_int_eq(places_take_low(&p, 0x800, 0x4000, 0x1000, 1, &gpa), -ENOMEM);
	ck_assert_int_eq(places_take_low(&p, 0x800, 0x4000, UINT64_MAX, 1, &gpa), -ENOMEM);
	ck_assert_int_eq(places_take_high(&p, 0x800, 0x4000, UINT64_MAX, 1, &gpa), -ENOMEM);
}
END_TEST

SUITE_WITH("boot", boot_setup, boot_teardown, pvh_shapes, pvh_memory_map, pvh_initrd,
	   initrd_refused, information_finds_room, command_line_bound, no_kernel, wrong_notes,
	   outside_ram, overlapping_segments, places, EACH(damaged_elf, damages),
	   EACH(cut_at_every_byte, shapes), EACH(every_byte_changed, shapes))
