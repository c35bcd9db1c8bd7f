/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the boot loader told: a copy, so that the guest may use the memory it stood in.
 */
#ifndef FERRY_GUEST_BOOT_H
#define FERRY_GUEST_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#define BOOT_CMDLINE_MAX 1024
#define BOOT_RAM_MAX     32
#define BOOT_MODULES_MAX 4

#define MULTIBOOT_MAGIC 0x2badb002

struct boot_range {
	uint64_t start, bytes;
};

struct boot_info {
	uint32_t magic; /* EAX at entry: MULTIBOOT_MAGIC, or anything for PVH */
	unsigned int nr_ram, nr_modules;
	uint64_t mem_lower_kib, mem_upper_kib; /* Multiboot only */
	struct boot_range ram[BOOT_RAM_MAX];
	struct boot_range modules[BOOT_MODULES_MAX];
	char cmdline[BOOT_CMDLINE_MAX];
};

/* Never changes after guest_main() was called. */
const struct boot_info *boot_info(void);

/* From start.S: EAX and EBX as the loader left them. */
_Noreturn void boot_main(uint32_t magic, uint32_t info_gpa);

#endif
