/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads hvm_start_info (PVH) or the Multiboot 1 information.
 */
#include "guest/lib/boot.h"

#include "guest/lib/clock.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/lapic.h"
#include "guest/lib/pic.h"
#include "guest/lib/ram.h"
#include "guest/lib/say.h"
#include "guest/lib/serial.h"
#include "guest/lib/smp.h"
#include "guest/lib/trap.h"

#define PVH_MAGIC 0x336ec578
#define TYPE_RAM  1

struct pvh_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules_gpa, cmdline_gpa, rsdp_gpa, memmap_gpa;
	uint32_t memmap_entries, reserved;
};

struct pvh_module {
	uint64_t gpa, bytes, cmdline_gpa, reserved;
};

struct pvh_memmap {
	uint64_t gpa, bytes;
	uint32_t type, reserved;
};

#define MB_HAS_MEM     (1u << 0)
#define MB_HAS_CMDLINE (1u << 2)
#define MB_HAS_MODULES (1u << 3)
#define MB_HAS_MMAP    (1u << 6)

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4], mmap_length, mmap_addr;
};

struct mb_module {
	uint32_t start, end, string, reserved;
};

struct __attribute__((packed)) mb_mmap {
	uint32_t size; /* of the rest */
	uint64_t gpa, bytes;
	uint32_t type;
};

static struct boot_info info;

const struct boot_info *boot_info(void)
{
	return &info;
}

static const void *at(uint64_t gpa)
{
	return (const void *)(uintptr_t)gpa;
}

static void copy_cmdline(uint64_t gpa)
{
	const char *s = at(gpa);

	for (unsigned int i = 0; gpa && i < BOOT_CMDLINE_MAX - 1 && s[i]; i++)
		info.cmdline[i] = s[i];
}

static void add_ram(uint64_t gpa, uint64_t bytes, uint32_t type)
{
	if (type == TYPE_RAM && bytes && info.nr_ram < BOOT_RAM_MAX)
		info.ram[info.nr_ram++] = (struct boot_range){gpa, bytes};
}

static void add_module(uint64_t gpa, uint64_t bytes)
{
	if (info.nr_modules < BOOT_MODULES_MAX)
		info.modules[info.nr_modules++] = (struct boot_range){gpa, bytes};
}

static void read_pvh(const struct pvh_info *p)
{
	const struct pvh_memmap *map = at(p->memmap_gpa);
	const struct pvh_module *mod = at(p->modules_gpa);

	copy_cmdline(p->cmdline_gpa);
	if (p->version < 1 || !p->memmap_gpa)
		die("the loader gave no memory map");
	for (uint32_t i = 0; i < p->memmap_entries; i++)
		add_ram(map[i].gpa, map[i].bytes, map[i].type);
	for (uint32_t i = 0; i < p->nr_modules; i++)
		add_module(mod[i].gpa, mod[i].bytes);
}

static void read_multiboot(const struct mb_info *m)
{
	const struct mb_module *mod = at(m->mods_addr);

	if (m->flags & MB_HAS_CMDLINE)
		copy_cmdline(m->cmdline);
	if (m->flags & MB_HAS_MEM) {
		info.mem_lower_kib = m->mem_lower;
		info.mem_upper_kib = m->mem_upper;
	}
	for (uint32_t i = 0; (m->flags & MB_HAS_MODULES) && i < m->mods_count; i++)
		add_module(mod[i].start, mod[i].end - mod[i].start);
	if (!(m->flags & MB_HAS_MMAP))
		die("the loader gave no memory map");
	for (uint32_t pos = 0; pos < m->mmap_length;) {
		const struct mb_mmap *e = at((uint64_t)m->mmap_addr + pos);

		add_ram(e->gpa, e->bytes, e->type);
		pos += e->size + (uint32_t)sizeof(e->size);
	}
}

void boot_main(uint32_t magic, uint32_t info_gpa)
{
	serial_init();
	info.magic = magic;
	/* In this order: qboot enters by PVH with Multiboot's magic in EAX. */
	if (*(const uint32_t *)at(info_gpa) == PVH_MAGIC)
		read_pvh(at(info_gpa));
	else if (magic == MULTIBOOT_MAGIC)
		read_multiboot(at(info_gpa));
	else
		die("neither PVH nor Multiboot information");

	trap_init();
	ram_init();
	smp_init();
	pic_init();
	lapic_choose_mode();
	lapic_init();
	clock_init();
	guest_main();
}
