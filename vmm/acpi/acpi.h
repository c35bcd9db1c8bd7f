/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables (ACPI 6.4): what an operating system learns the processors, the IOAPIC, the serial
 * port, the virtio-mmio devices, power-off and reset from. RSDP, XSDT, FADT, FACS, MADT, DSDT.
 *
 * The machine is a PC as far as it goes, with PIC, PIT and ISA interrupts in their old places, and
 * the FADT says so: its fixed registers are vmm/dev/acpi_pm.h's. A hardware-reduced FADT would have
 * Linux take them all for absent.
 *
 * The tables lie at ACPI_GPA, the RSDP first, among what the memory map calls reserved and where
 * kernels look for it. They are RAM and move with it. Main thread, while the machine is built.
 */
#ifndef VMM_ACPI_ACPI_H
#define VMM_ACPI_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"

#define ACPI_GPA      0xe0000ull /* the RSDP's address */
#define ACPI_BYTES    0x10000ull /* at most */
#define ACPI_MAX_CPUS 254
#define ACPI_MAX_MMIO 256

/* A virtio-mmio device: its registers and its interrupt, an input of the IOAPIC (0 to 23). */
struct acpi_mmio {
	uint32_t base, size;
	unsigned gsi;
	bool edge; /* else level-triggered; active high */
};

struct acpi_config {
	unsigned n_cpus; /* 1 to ACPI_MAX_CPUS; APIC ids from 0 on */
	const struct acpi_mmio *mmio;
	unsigned n_mmio; /* 0 to ACPI_MAX_MMIO */
};

/* -E2BIG for more than the maxima. */
int acpi_write(struct mem *m, const struct acpi_config *cfg, struct err *e);

#endif
