/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI's fixed registers (ACPI 6.4, section 4.8.3) at ports 0x600 to 0x605, and its interrupt
 * (SCI), GSI 9, level-triggered, active high: power-off and the power button. The FADT
 * (vmm/acpi/acpi.h) points here; its reset register is vmm/dev/reset.h's.
 *
 *   0x600 u16  PM1 status: bit 8, the button was pressed; a written 1 clears
 *   0x602 u16  PM1 enable: bits 0, 5, 8, 9, 10; the interrupt is on while status & enable
 *   0x604 u16  PM1 control: bit 0 reads as 1 (ACPI mode), bits 10 to 12 sleep type, a written bit
 * 13 sleeps. Type 5 is power-off; there is no other sleep
 *
 * Threads: any; it has its own lock, under which irq.set() is called. on_power_off() runs in the
 * vCPU's thread, with no lock held.
 */
#ifndef VMM_DEV_ACPI_PM_H
#define VMM_DEV_ACPI_PM_H

#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "vmm/dev/bus.h"

#define ACPI_PM_EVENT_PORT    0x600
#define ACPI_PM_EVENT_BYTES   4
#define ACPI_PM_CONTROL_PORT  0x604
#define ACPI_PM_CONTROL_BYTES 2
#define ACPI_PM_GSI           9
#define ACPI_PM_SLEEP_S5      5

struct acpi_pm;

struct acpi_pm_config {
	struct io_bus *bus;
	struct irq_line irq;
	void (*on_power_off)(void *ctx);
	void *ctx;
};

struct acpi_pm_state {
	uint16_t status, enable, control;
};

extern const struct field_table acpi_pm_table;

int acpi_pm_new(struct acpi_pm **out, const struct acpi_pm_config *cfg, struct err *e);
void acpi_pm_free(struct acpi_pm *p);

/* Press the power button. A guest that never listens to it never notices. */
void acpi_pm_press(struct acpi_pm *p);

void acpi_pm_save(struct acpi_pm *p, struct acpi_pm_state *out);
int acpi_pm_check(const struct acpi_pm_state *st, struct err *e); /* -EINVAL */
/* Take over a state that acpi_pm_check() has passed; drives the interrupt accordingly. */
void acpi_pm_load(struct acpi_pm *p, const struct acpi_pm_state *st);

#endif
