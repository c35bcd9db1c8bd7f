/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Boot loaders: put a kernel image, its modules and its information into guest RAM.
 *
 * The image's kind is recognised by content: an ELF with a Xen PHYS32_ENTRY note (type 18, 32- or
 * 64-bit descriptor) boots by PVH; a compressed Linux kernel (bzImage) by Linux's 64-bit protocol;
 * an image with a Multiboot 1 header in its first 8 KiB by Multiboot. Images are untrusted: every
 * offset, size and address is checked against the file and against RAM before it is used.
 *
 * The vCPU's registers are set from struct boot_entry. Called once while the machine is built, in
 * the main thread.
 */
#ifndef VMM_BOOT_BOOT_H
#define VMM_BOOT_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"
#include "vmm/acpi/acpi.h"

struct boot_config {
	const char *kernel;  /* path; not NULL */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* NULL = "" */
	/*
	 * What goes before the command line of a Linux kernel (a bzImage, or an ELF with a note of
	 * the owner "Linux") that is told acpi=off, or of any; "" or NULL = nothing. Before it,
	 * because what follows a "--" there is no longer the kernel's.
	 */
	const char *linux_args;
	bool linux_args_for_all;
	unsigned n_cpus; /* for the tables that tell the guest of them; 0 = no tables */
	const struct acpi_mmio *mmio; /* virtio-mmio devices, for the tables as well */
	unsigned n_mmio;
};

enum boot_mode {
	BOOT_PROTECTED32, /* flat segments, paging off: eax, ebx */
	BOOT_LONG64,      /* 64-bit, paging on: esi, cr3, gdt (code at 0x10, data at 0x18) */
};

/* All of it lies below 4 GiB. What a mode doesn't use is 0. */
struct boot_entry {
	const char *protocol; /* "pvh", "multiboot", "linux64" */
	enum boot_mode mode;
	uint32_t rip;
	uint32_t eax, ebx, esi;
	uint32_t cr3;
	uint32_t gdt, gdt_bytes;
};

/* Load everything, say where to begin. Messages name the file and what is wrong with it. */
int boot_load(struct mem *m, const struct boot_config *cfg, struct boot_entry *out, struct err *e);

#endif
