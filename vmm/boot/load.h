/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the loaders of the boot protocols share. Main thread.
 *
 * The guest's low memory is used so: segments of the kernel where they want to be; the initrd as
 * high as it fits below the PCI hole; the boot information and the command line in one piece at
 * LOAD_INFO_FIRST or above, below 636 KiB if there is room (else above 1 MiB).
 */
#ifndef VMM_BOOT_LOAD_H
#define VMM_BOOT_LOAD_H

#include <stdint.h>

#include "base/codec.h"
#include "base/err.h"
#include "mem/mem.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/image.h"
#include "vmm/boot/places.h"

#define LOAD_INFO_FIRST    0x10000ull /* below are what firmware and SMP start-up use */
#define LOAD_INFO_LAST     0x9f000ull
#define LOAD_BASE_END      0xa0000ull /* RAM of a PC's first MiB ends here */
#define LOAD_EXT_START     0x100000ull
#define LOAD_CMDLINE_BYTES 65536 /* with its NUL */
#define LOAD_HEAD_BYTES    8192  /* of the file's beginning */

struct load {
	struct mem *m;
	struct image kernel;
	const char *cmdline;
	char *cmdline_own; /* it, if it was put together here */
	size_t head_bytes;
	uint8_t head[LOAD_HEAD_BYTES];
	bool is_elf;
	struct elf elf; /* if is_elf */
	struct places places;
	const char *initrd;  /* path, NULL = none */
	uint64_t initrd_end; /* it ends at or below; 0 = wherever RAM ends */
	uint64_t initrd_gpa, initrd_bytes;
	struct acpi_config acpi; /* what the tables shall say; n_cpus 0 = no tables */
	uint64_t rsdp_gpa;       /* 0 = no ACPI tables */
};

/* The memory map of the PC layout: types as in E820. */
#define LOAD_RAM      1
#define LOAD_RESERVED 2
#define LOAD_MAP_MAX  8

struct load_range {
	uint64_t gpa, len;
	uint32_t type;
};

/* Returns how many of map[LOAD_MAP_MAX] are filled. */
unsigned load_memory_map(const struct mem *m, struct load_range *map);
/* The end of RAM below the PCI hole. */
uint64_t load_low_end(const struct mem *m);

/* Load the initrd, if there is one, after the kernel has taken its places. */
int load_initrd(struct load *l, struct err *e);

/*
 * Write the ACPI and MultiProcessor tables in their places, unless the image lies there: it has
 * other plans with its memory then. After the kernel has taken its places, before the boot
 * information, which has the address of the first.
 */
int load_tables(struct load *l, struct err *e);

/*
 * Find a place for len bytes of boot information, aligned to a power of two; write it there. In two
 * steps because the information holds addresses of itself.
 */
int load_place_info(struct load *l, uint64_t len, uint64_t align, uint64_t *gpa, struct err *e);
int load_put_info(struct load *l, uint64_t gpa, const struct wbuf *info, struct err *e);

/* pvh.c: the image is an ELF with a PVH entry. */
int pvh_load(struct load *l, struct boot_entry *out, struct err *e);

/* linux.c. Is it a bzImage? */
bool linux_is(const struct load *l);
int linux_load(struct load *l, struct boot_entry *out, struct err *e);

/*
 * multiboot.c. Look for a header in l->head: 0 and its offset, -ENOENT if there is none, -ENOEXEC
 * with a message if there are only damaged ones.
 */
int multiboot_find(const struct load *l, uint32_t *offset, struct err *e);
int multiboot_load(struct load *l, uint32_t header, struct boot_entry *out, struct err *e);

#endif
