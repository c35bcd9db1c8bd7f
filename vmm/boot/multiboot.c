/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot 0.6.96 ("Multiboot 1").
 *
 * Header in the image's first 8 KiB, on a multiple of 4: u32 magic 0x1badb002, flags, checksum (the
 * three add up to 0); with flag bit 16 also u32 header_addr, load_addr, load_end_addr,
 * bss_end_addr, entry_addr. Flag bits 0 to 15 are demands: 0 (modules on pages) and 1 (memory
 * information) are always met, any other is refused. With bit 16 the image is loaded by those
 * addresses, without it by its ELF program headers.
 *
 * The information that EBX points to is followed by the module list, the memory map and the texts.
 * The command line is the user's alone, without the image's name.
 */
#include <errno.h>
#include <string.h>

#include "vmm/boot/load.h"

#define HEADER_MAGIC    0x1badb002u
#define BOOTED_MAGIC    0x2badb002u
#define HEADER_BYTES    12
#define ADDRESSES_BYTES 20
#define DEMANDS         0x0000ffffu
#define DEMANDS_MET     0x00000003u
#define HAS_ADDRESSES   0x00010000u

#define INFO_MEMORY  (1u << 0)
#define INFO_CMDLINE (1u << 2)
#define INFO_MODULES (1u << 3)
#define INFO_MAP     (1u << 6)
#define INFO_LOADER  (1u << 9)

#define INFO_BYTES   116 /* up to the frame buffer's fields */
#define INFO_ALIGN   16
#define MODULE_BYTES 16
#define RANGE_BYTES  24 /* with its own size in front, which does not count itself */
#define LOADER_NAME  "ferry"

static uint32_t head_u32(const struct load *l, size_t offset)
{
	struct rbuf r;

	rbuf_init(&r, ORDER_LITTLE, l->head + offset, 4);
	return get_u32(&r);
}

int multiboot_find(const struct load *l, uint32_t *offset, struct err *e)
{
	bool damaged = false;

	for (uint32_t at = 0; at + HEADER_BYTES <= l->head_bytes; at += 4) {
		uint32_t flags = head_u32(l, at + 4), sum = head_u32(l, at + 8);

		if (head_u32(l, at) != HEADER_MAGIC)
			continue;
		if (HEADER_MAGIC + flags + sum == 0) {
			*offset = at;
			return 0;
		}
		damaged = true;
	}
	if (damaged)
		return err_set(e, ENOEXEC,
			       "%s '%s' is broken: its Multiboot header has a wrong checksum",
			       l->kernel.what, l->kernel.path);
	return -ENOENT;
}

static int broken(const struct load *l, struct err *e, const char *why)
{
	return err_set(e, ENOEXEC, "%s '%s' is broken: %s", l->kernel.what, l->kernel.path, why);
}

static int load_by_elf(struct load *l, uint64_t *entry, struct err *e)
{
	if (!l->is_elf)
		return broken(l, e, "its Multiboot header gives no addresses, and it is no ELF");
	if (elf_to_paddr(&l->elf, l->elf.entry, entry) || *entry > UINT32_MAX)
		return err_set(e, ENOEXEC,
			       "%s '%s' is broken: its entry 0x%llx is outside its "
			       "segments",
			       l->kernel.what, l->kernel.path, (unsigned long long)l->elf.entry);
	return elf_load(&l->kernel, &l->elf, l->m, &l->places, e);
}

/* 64-bit arithmetic on 32-bit fields: no sum here can wrap. */
static int load_by_addresses(struct load *l, uint32_t header, uint64_t *entry, struct err *e)
{
	uint64_t header_addr, load_addr, load_end, bss_end, offset, file_bytes, mem_bytes;
	int rc;

	if (header + HEADER_BYTES + ADDRESSES_BYTES > l->head_bytes)
		return broken(l, e, "its Multiboot header is cut off");
	header_addr = head_u32(l, header + 12);
	load_addr = head_u32(l, header + 16);
	load_end = head_u32(l, header + 20);
	bss_end = head_u32(l, header + 24);
	*entry = head_u32(l, header + 28);

	if (load_addr > header_addr || header_addr - load_addr > header)
		return broken(l, e, "its Multiboot load address is before the file's beginning");
	offset = header - (header_addr - load_addr);
	file_bytes = l->kernel.size_bytes - offset;
	if (load_end) {
		if (load_end < load_addr || load_end - load_addr > file_bytes)
			return broken(l, e, "its Multiboot load end is beyond the file's end");
		file_bytes = load_end - load_addr;
	}
	mem_bytes = file_bytes;
	if (bss_end) {
		if (bss_end < load_addr + file_bytes)
			return broken(l, e, "its Multiboot bss ends before its data");
		mem_bytes = bss_end - load_addr;
	}
	if (*entry < load_addr || *entry - load_addr >= mem_bytes)
		return broken(l, e, "its Multiboot entry is outside what is loaded");
	rc = places_take(&l->places, load_addr, mem_bytes);
	if (rc)
		return rc;
	return image_load(&l->kernel, l->m, offset, file_bytes, load_addr, mem_bytes, "the image",
			  e);
}

static void put_texts(struct wbuf *w, const struct load *l)
{
	put_bytes(w, LOADER_NAME, sizeof(LOADER_NAME));
	put_bytes(w, l->cmdline, strlen(l->cmdline) + 1);
	if (l->initrd)
		put_bytes(w, l->initrd, strlen(l->initrd) + 1);
}

static void put_zeroes(struct wbuf *w, size_t up_to)
{
	while (w->len < up_to && !w->error)
		put_u8(w, 0);
}

static void put_info(struct wbuf *w, const struct load *l, uint32_t gpa)
{
	struct load_range map[LOAD_MAP_MAX];
	uint32_t n = load_memory_map(l->m, map);
	uint32_t module = gpa + INFO_BYTES, ranges = module + MODULE_BYTES;
	uint32_t loader = ranges + n * RANGE_BYTES;
	uint32_t cmdline = loader + (uint32_t)sizeof(LOADER_NAME);
	uint32_t initrd = cmdline + (uint32_t)strlen(l->cmdline) + 1;

	put_u32(w, INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MAP | INFO_LOADER);
	put_u32(w, (uint32_t)(LOAD_BASE_END >> 10));
	put_u32(w, (uint32_t)((load_low_end(l->m) - LOAD_EXT_START) >> 10));
	put_u32(w, 0); /* boot device */
	put_u32(w, cmdline);
	put_u32(w, l->initrd ? 1 : 0);
	put_u32(w, module);
	put_zeroes(w, 44); /* symbols */
	put_u32(w, n * RANGE_BYTES);
	put_u32(w, ranges);
	put_zeroes(w, 64); /* drives, ROM configuration */
	put_u32(w, loader);
	put_zeroes(w, INFO_BYTES); /* APM, VBE, frame buffer */

	put_u32(w, (uint32_t)l->initrd_gpa);
	put_u32(w, (uint32_t)(l->initrd_gpa + l->initrd_bytes));
	put_u32(w, l->initrd ? initrd : 0);
	put_u32(w, 0);

	for (uint32_t i = 0; i < n; i++) {
		put_u32(w, RANGE_BYTES - 4);
		put_u64(w, map[i].gpa);
		put_u64(w, map[i].len);
		put_u32(w, map[i].type);
	}
	put_texts(w, l);
}

static int load_info(struct load *l, uint64_t *gpa, struct err *e)
{
	uint64_t len = INFO_BYTES + MODULE_BYTES + LOAD_MAP_MAX * RANGE_BYTES +
		       sizeof(LOADER_NAME) + strlen(l->cmdline) + 1 +
		       (l->initrd ? strlen(l->initrd) + 1 : 0);
	struct wbuf w;
	int rc;

	rc = load_place_info(l, len, INFO_ALIGN, gpa, e);
	if (rc)
		return rc;
	wbuf_init(&w, ORDER_LITTLE, len);
	put_info(&w, l, (uint32_t)*gpa);
	rc = load_put_info(l, *gpa, &w, e);
	wbuf_free(&w);
	return rc;
}

int multiboot_load(struct load *l, uint32_t header, struct boot_entry *out, struct err *e)
{
	uint32_t flags = head_u32(l, header + 4);
	uint64_t entry, gpa;
	int rc;

	if (flags & DEMANDS & ~DEMANDS_MET)
		return err_set(e, ENOEXEC,
			       "cannot boot %s '%s': its Multiboot header demands features that "
			       "are not there (flags 0x%x)",
			       l->kernel.what, l->kernel.path, flags & DEMANDS & ~DEMANDS_MET);
	rc = flags & HAS_ADDRESSES ? load_by_addresses(l, header, &entry, e)
				   : load_by_elf(l, &entry, e);
	if (!rc)
		rc = load_initrd(l, e);
	if (!rc)
		rc = load_tables(l, e);
	if (!rc)
		rc = load_info(l, &gpa, e);
	if (rc)
		return rc;
	*out = (struct boot_entry){.protocol = "multiboot",
				   .rip = (uint32_t)entry,
				   .eax = BOOTED_MAGIC,
				   .ebx = (uint32_t)gpa};
	return 0;
}
