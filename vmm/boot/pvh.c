/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x86/HVM direct boot ABI ("PVH"): EBX points to an hvm_start_info of version 1, here with the
 * module list, the memory map and the command line behind it:
 *
 *   0x00 u32 magic 0x336ec578   0x04 u32 version 1        0x08 u32 flags 0
 *   0x0c u32 number of modules  0x10 u64 module list      0x18 u64 command line
 *   0x20 u64 RSDP (0 = none)    0x28 u64 memory map       0x30 u32 its entries  0x34 u32 0
 *   module:    u64 address, u64 bytes, u64 command line (0 = none), u64 0
 *   map entry: u64 address, u64 bytes, u32 type, u32 0
 */
#include <errno.h>
#include <string.h>

#include "vmm/boot/load.h"

#define START_MAGIC      0x336ec578u
#define START_BYTES      56
#define MODULE_BYTES     32
#define RANGE_BYTES      24
#define INFO_ALIGN       16
#define START_INFO_BYTES (START_BYTES + MODULE_BYTES + LOAD_MAP_MAX * RANGE_BYTES)

static void put_start_info(struct wbuf *w, const struct load *l, uint64_t gpa)
{
	struct load_range map[LOAD_MAP_MAX];
	unsigned n = load_memory_map(l->m, map);
	uint64_t modules = gpa + START_BYTES, ranges = modules + MODULE_BYTES;

	put_u32(w, START_MAGIC);
	put_u32(w, 1);
	put_u32(w, 0);
	put_u32(w, l->initrd ? 1 : 0);
	put_u64(w, l->initrd ? modules : 0);
	put_u64(w, ranges + (uint64_t)n * RANGE_BYTES);
	put_u64(w, l->rsdp_gpa);
	put_u64(w, ranges);
	put_u32(w, n);
	put_u32(w, 0);

	put_u64(w, l->initrd_gpa);
	put_u64(w, l->initrd_bytes);
	put_u64(w, 0);
	put_u64(w, 0);

	for (unsigned i = 0; i < n; i++) {
		put_u64(w, map[i].gpa);
		put_u64(w, map[i].len);
		put_u32(w, map[i].type);
		put_u32(w, 0);
	}
	put_bytes(w, l->cmdline, strlen(l->cmdline) + 1);
}

int pvh_load(struct load *l, struct boot_entry *out, struct err *e)
{
	uint64_t entry = l->elf.pvh_entry, info_bytes, gpa;
	struct wbuf w;
	int rc;

	if (entry > UINT32_MAX || !elf_has_paddr(&l->elf, entry))
		return err_set(e, ENOEXEC,
			       "%s '%s' is broken: its PVH entry 0x%llx is outside its segments",
			       l->kernel.what, l->kernel.path, (unsigned long long)entry);
	rc = elf_load(&l->kernel, &l->elf, l->m, &l->places, e);
	if (!rc)
		rc = load_initrd(l, e);
	if (!rc)
		rc = load_tables(l, e);
	if (rc)
		return rc;
	info_bytes = START_INFO_BYTES + strlen(l->cmdline) + 1;
	rc = load_place_info(l, info_bytes, INFO_ALIGN, &gpa, e);
	if (rc)
		return rc;
	wbuf_init(&w, ORDER_LITTLE, info_bytes);
	put_start_info(&w, l, gpa);
	rc = load_put_info(l, gpa, &w, e);
	wbuf_free(&w);
	*out = (struct boot_entry){.protocol = "pvh", .rip = (uint32_t)entry, .ebx = (uint32_t)gpa};
	return rc;
}
