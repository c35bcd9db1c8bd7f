/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Boot loaders: put a kernel image, its modules and its information into guest RAM.
 *
 * The image's kind is recognised by content: an ELF with a Xen PHYS32_ENTRY note (type 18, 32- or
 * 64-bit descriptor) boots by PVH; an image with a Multiboot 1 header in its first 8 KiB boots by
 * Multiboot. Images are untrusted: every offset, size and address is checked against the file and
 * against RAM before it is used.
 *
 * Both kinds enter in 32-bit protected mode with paging off; the vCPU's registers are set from
 * struct boot_entry. Called once while the machine is built, in the main thread.
 */
#ifndef VMM_BOOT_BOOT_H
#define VMM_BOOT_BOOT_H

#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"

struct boot_config {
	const char *kernel;  /* path; not NULL */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* NULL = "" */
};

struct boot_entry {
	const char *protocol; /* "pvh", "multiboot" */
	uint32_t rip;
	uint32_t eax, ebx;
};

/* Load everything, say where to begin. Messages name the file and what is wrong with it. */
int boot_load(struct mem *m, const struct boot_config *cfg, struct boot_entry *out, struct err *e);

#endif
