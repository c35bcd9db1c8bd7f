/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MultiProcessor tables (Intel MultiProcessor Specification 1.4): what a kernel without ACPI learns
 * the processors, the IOAPIC and the ISA interrupts from. A kernel with ACPI prefers its MADT.
 *
 * They lie at MPTABLE_GPA, among what the memory map calls reserved, where kernels look for them.
 * Main thread, while the machine is built.
 */
#ifndef VMM_BOOT_MPTABLE_H
#define VMM_BOOT_MPTABLE_H

#include "base/err.h"
#include "mem/mem.h"

#define MPTABLE_GPA   0xf0000ull
#define MPTABLE_BYTES 8192ull /* at most */

int mptable_write(struct mem *m, unsigned n_cpus, struct err *e);

#endif
