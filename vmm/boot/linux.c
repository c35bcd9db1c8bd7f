/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compressed Linux kernel (bzImage) by the 64-bit boot protocol (Documentation/arch/x86/boot.rst
 * of Linux). The file is boot sector and set-up code for real mode, which nobody runs, then the
 * kernel proper, which is entered at its load address + 0x200 with RSI pointing to boot_params.
 * What we read of the set-up header, which also becomes part of boot_params, at the same offsets:
 *
 *   0x1f1 u8  sectors of set-up code (0 = 4)   0x1fe u16 0xaa55      0x201 u8 header ends at 0x202
 * + it 0x202 u32 "HdrS"   0x206 u16 version       0x211 u8 bit 0: loaded high    0x22c u32 initrd's
 * last byte 0x230 u32 alignment   0x234 u8 relocatable   0x236 u16 bit 0: 64-bit entry   0x238 u32
 * command line's max 0x258 u64 preferred address   0x260 u32 memory from there on that the kernel
 * needs to unpack itself
 *
 * and what we fill in:
 *
 *   0x070 u64 RSDP (0 = none)   0x1e8 u8 map entries   0x210 u8 boot loader 0xff
 *   0x218 u32 initrd, 0x21c u32 its bytes   0x228 u32 command line   0x2d0 map: u64 address, u64
 * bytes, u32 type
 *
 * The boot information is one piece: page tables that map the first 4 GiB to themselves by pages of
 * 2 MiB (a page of PML4, a page of PDPT, four of PD), boot_params, GDT, command line.
 */
#include <errno.h>
#include <string.h>

#include "vmm/boot/load.h"

#define HDR_SECTORS      0x1f1
#define HDR_BOOT_FLAG    0x1fe
#define HDR_LENGTH       0x201
#define HDR_MAGIC        0x202
#define HDR_VERSION      0x206
#define HDR_LOADER       0x210
#define HDR_LOADFLAGS    0x211
#define HDR_INITRD       0x218
#define HDR_INITRD_SIZE  0x21c
#define HDR_HEAP_END     0x224
#define HDR_CMDLINE      0x228
#define HDR_INITRD_MAX   0x22c
#define HDR_ALIGN        0x230
#define HDR_RELOCATABLE  0x234
#define HDR_XLOADFLAGS   0x236
#define HDR_CMDLINE_MAX  0x238
#define HDR_SETUP_DATA   0x250
#define HDR_PREF_ADDRESS 0x258
#define HDR_INIT_SIZE    0x260
#define HDR_NEEDED_BYTES 0x264 /* up to the last field that we read */
#define HDR_ROOM_END     0x290 /* of the header in boot_params */

#define PARAMS_RSDP        0x070
#define PARAMS_MAP_ENTRIES 0x1e8
#define PARAMS_MAP         0x2d0
#define PARAMS_BYTES       4096

#define VERSION_MIN          0x020c /* the first with a 64-bit entry */
#define LOADED_HIGH          0x01
#define XLOAD_64BIT          0x01
#define LOADER_UNDEFINED     0xff
#define SECTOR_BYTES         512
#define ENTRY_64_OFFSET      0x200
#define RELOCATABLE_TO_BYTES (4ull << 30)

#define TABLES           6 /* pages */
#define TABLE_ENTRIES    512
#define PTE_TABLE        0x003ull /* present, writable */
#define PTE_LARGE        0x083ull /* the same, a page of its own */
#define LARGE_PAGE_BYTES (2ull << 20)

#define PARAMS_OFFSET  (TABLES * MEM_PAGE_BYTES)
#define GDT_OFFSET     (PARAMS_OFFSET + PARAMS_BYTES)
#define CMDLINE_OFFSET (GDT_OFFSET + sizeof(gdt))

/* CS 0x10 and DS 0x18, as the protocol wants them: flat; 64-bit code; data. */
static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};

static uint32_t head_u16(const struct load *l, unsigned at)
{
	return (uint32_t)(l->head[at] | l->head[at + 1] << 8);
}

static uint32_t head_u32(const struct load *l, unsigned at)
{
	return head_u16(l, at) | head_u16(l, at + 2) << 16;
}

bool linux_is(const struct load *l)
{
	return l->head_bytes >= HDR_MAGIC + 4 && !memcmp(l->head + HDR_MAGIC, "HdrS", 4);
}

static int broken(const struct load *l, struct err *e, const char *how)
{
	return err_set(e, ENOEXEC, "%s '%s' is broken: %s", l->kernel.what, l->kernel.path, how);
}

static int check_header(const struct load *l, struct err *e)
{
	uint32_t version;

	if (l->head_bytes < HDR_NEEDED_BYTES)
		return broken(l, e, "its Linux set-up header is cut off");
	if (head_u16(l, HDR_BOOT_FLAG) != 0xaa55)
		return broken(l, e, "its Linux set-up header lacks the boot flag");
	version = head_u16(l, HDR_VERSION);
	if (version < VERSION_MIN || HDR_MAGIC + l->head[HDR_LENGTH] < HDR_NEEDED_BYTES)
		return err_set(e, ENOEXEC,
			       "cannot boot %s '%s': its boot protocol %u.%u is older than %u.%u "
			       "(Linux 3.8)",
			       l->kernel.what, l->kernel.path, version >> 8, version & 0xff,
			       VERSION_MIN >> 8, VERSION_MIN & 0xff);
	if (!(head_u16(l, HDR_XLOADFLAGS) & XLOAD_64BIT) || !(l->head[HDR_LOADFLAGS] & LOADED_HIGH))
		return err_set(e, ENOEXEC,
			       "cannot boot %s '%s': it has no 64-bit entry; take a kernel for "
			       "x86-64",
			       l->kernel.what, l->kernel.path);
	if (strlen(l->cmdline) > head_u32(l, HDR_CMDLINE_MAX))
		return err_set(e, E2BIG,
			       "the kernel command line has %zu bytes; '%s' takes at most %u",
			       strlen(l->cmdline), l->kernel.path, head_u32(l, HDR_CMDLINE_MAX));
	return 0;
}

/* Take the kernel's place: at the address it prefers or, if it can be anywhere, above 1 MiB. */
static int place_kernel(struct load *l, uint64_t need_bytes, uint64_t *gpa, struct err *e)
{
	uint64_t prefers =
		(uint64_t)head_u32(l, HDR_PREF_ADDRESS + 4) << 32 | head_u32(l, HDR_PREF_ADDRESS);
	uint32_t align = head_u32(l, HDR_ALIGN);
	uint64_t end = load_low_end(l->m);

	if (l->head[HDR_RELOCATABLE] && (align < MEM_PAGE_BYTES || align & (align - 1)))
		return broken(l, e, "its alignment is no power of two of 4 KiB or more");
	if (end > RELOCATABLE_TO_BYTES)
		end = RELOCATABLE_TO_BYTES;
	if (prefers >= LOAD_EXT_START && prefers < end && need_bytes <= end - prefers) {
		*gpa = prefers;
		return places_take(&l->places, prefers, need_bytes);
	}
	if (l->head[HDR_RELOCATABLE] &&
	    !places_take_low(&l->places, LOAD_EXT_START, end, need_bytes, align, gpa))
		return 0;
	return err_set(e, ENOEXEC,
		       "%s '%s' does not fit: it wants %llu KiB of memory at 0x%llx, and the guest "
		       "has %llu MiB",
		       l->kernel.what, l->kernel.path,
		       (unsigned long long)(need_bytes + 1023) >> 10, (unsigned long long)prefers,
		       (unsigned long long)l->m->size_bytes >> 20);
}

static int load_image(struct load *l, uint64_t *gpa, struct err *e)
{
	unsigned sectors = l->head[HDR_SECTORS] ? l->head[HDR_SECTORS] : 4;
	uint64_t offset = (uint64_t)(sectors + 1) * SECTOR_BYTES, file_bytes;
	uint64_t need_bytes = head_u32(l, HDR_INIT_SIZE);
	int rc;

	if (l->kernel.size_bytes <= offset + ENTRY_64_OFFSET)
		return broken(l, e, "it ends before its 64-bit entry");
	file_bytes = l->kernel.size_bytes - offset;
	if (need_bytes < file_bytes)
		need_bytes = file_bytes;
	rc = place_kernel(l, need_bytes, gpa, e);
	if (rc)
		return rc;
	/* What is behind the image is the kernel's to clear. */
	return image_load(&l->kernel, l->m, offset, file_bytes, *gpa, file_bytes, "the kernel", e);
}

static void put_tables(struct wbuf *w, uint64_t gpa)
{
	uint64_t pdpt = gpa + MEM_PAGE_BYTES, pd = pdpt + MEM_PAGE_BYTES;

	put_u64(w, pdpt | PTE_TABLE);
	for (unsigned i = 1; i < TABLE_ENTRIES; i++)
		put_u64(w, 0);
	for (unsigned i = 0; i < TABLE_ENTRIES; i++)
		put_u64(w, i < TABLES - 2 ? (pd + i * MEM_PAGE_BYTES) | PTE_TABLE : 0);
	for (unsigned i = 0; i < (TABLES - 2) * TABLE_ENTRIES; i++)
		put_u64(w, i * LARGE_PAGE_BYTES | PTE_LARGE);
}

static void set_u32(uint8_t *at, uint64_t v)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static void set_u64(uint8_t *at, uint64_t v)
{
	set_u32(at, v);
	set_u32(at + 4, v >> 32);
}

/* A clean page, the kernel's own header, what the loader has to say. */
static void make_params(uint8_t *p, const struct load *l, uint64_t cmdline_gpa)
{
	struct load_range map[LOAD_MAP_MAX];
	unsigned n = load_memory_map(l->m, map);
	unsigned end = HDR_MAGIC + l->head[HDR_LENGTH];

	if (end > HDR_ROOM_END)
		end = HDR_ROOM_END;
	if (end > l->head_bytes)
		end = (unsigned)l->head_bytes;
	memcpy(p + HDR_SECTORS, l->head + HDR_SECTORS, end - HDR_SECTORS);

	set_u64(p + PARAMS_RSDP, l->rsdp_gpa);
	p[HDR_LOADER] = LOADER_UNDEFINED;
	set_u32(p + HDR_INITRD, l->initrd_gpa);
	set_u32(p + HDR_INITRD_SIZE, l->initrd_bytes);
	set_u32(p + HDR_CMDLINE, cmdline_gpa);
	p[HDR_HEAP_END] = p[HDR_HEAP_END + 1] = 0; /* real mode's */
	set_u64(p + HDR_SETUP_DATA, 0);            /* a list of ours, and we have none */

	p[PARAMS_MAP_ENTRIES] = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint8_t *at = p + PARAMS_MAP + i * 20;

		set_u64(at, map[i].gpa);
		set_u64(at + 8, map[i].len);
		set_u32(at + 16, map[i].type);
	}
}

static int load_info(struct load *l, uint64_t *gpa, struct err *e)
{
	uint64_t len = CMDLINE_OFFSET + strlen(l->cmdline) + 1;
	uint8_t params[PARAMS_BYTES] = {0};
	struct wbuf w;
	int rc = load_place_info(l, len, MEM_PAGE_BYTES, gpa, e);

	if (rc)
		return rc;
	make_params(params, l, *gpa + CMDLINE_OFFSET);
	wbuf_init(&w, ORDER_LITTLE, len);
	put_tables(&w, *gpa);
	put_bytes(&w, params, sizeof(params));
	for (unsigned i = 0; i < sizeof(gdt) / sizeof(gdt[0]); i++)
		put_u64(&w, gdt[i]);
	put_bytes(&w, l->cmdline, strlen(l->cmdline) + 1);
	rc = load_put_info(l, *gpa, &w, e);
	wbuf_free(&w);
	return rc;
}

int linux_load(struct load *l, struct boot_entry *out, struct err *e)
{
	uint64_t kernel, info;
	int rc = check_header(l, e);

	if (!rc)
		rc = load_image(l, &kernel, e);
	if (rc)
		return rc;
	l->initrd_end = (uint64_t)head_u32(l, HDR_INITRD_MAX) + 1;
	rc = load_initrd(l, e);
	if (!rc)
		rc = load_tables(l, e);
	if (!rc)
		rc = load_info(l, &info, e);
	if (rc)
		return rc;
	*out = (struct boot_entry){
		.protocol = "linux64",
		.mode = BOOT_LONG64,
		.rip = (uint32_t)(kernel + ENTRY_64_OFFSET),
		.esi = (uint32_t)(info + PARAMS_OFFSET),
		.cr3 = (uint32_t)info,
		.gdt = (uint32_t)(info + GDT_OFFSET),
		.gdt_bytes = sizeof(gdt),
	};
	return 0;
}
