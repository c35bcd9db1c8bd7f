/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF executables for x86, 32 and 64 bit (System V ABI: ELF header, program headers, notes), as far
 * as loading them at their physical addresses needs. Main thread.
 */
#ifndef VMM_BOOT_ELF_H
#define VMM_BOOT_ELF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"
#include "vmm/boot/image.h"
#include "vmm/boot/places.h"

#define ELF_MAX_SEGMENTS 64

struct elf_segment {
	uint64_t offset, file_bytes;         /* inside the file */
	uint64_t vaddr, paddr, memory_bytes; /* not wrapping; memory_bytes >= file_bytes, not 0 */
};

struct elf {
	bool is64;
	uint64_t entry; /* a virtual address */
	bool is_linux;  /* it has a note of the owner "Linux" */
	bool has_pvh_entry;
	uint64_t pvh_entry; /* from the note "Xen", PHYS32_ENTRY: a physical address */
	unsigned n_segments;
	struct elf_segment segments[ELF_MAX_SEGMENTS]; /* PT_LOAD that take memory, in file order */
};

/* Does the file begin like an ELF? */
bool elf_is(const uint8_t *head, size_t len);

/* Read and check all but the fit into RAM. -ENOEXEC with what is wrong. */
int elf_parse(const struct image *img, struct elf *out, struct err *e);

/* Load the segments and take their places. -ENOEXEC: outside RAM, or one on top of another. */
int elf_load(const struct image *img, const struct elf *elf, struct mem *m, struct places *p,
	     struct err *e);

/* Is this physical address loaded? */
bool elf_has_paddr(const struct elf *elf, uint64_t paddr);
/* The physical address of a loaded virtual one. -ENOENT */
int elf_to_paddr(const struct elf *elf, uint64_t vaddr, uint64_t *paddr);

#endif
