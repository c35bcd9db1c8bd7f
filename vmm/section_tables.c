/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/section_tables.h"

#include <string.h>

#include "kvm/processor.h"
#include "kvm/vcpu_state.h"
#include "kvm/vm_state.h"
#include "virtio/tables.h"
#include "vmm/dev/acpi_pm.h"
#include "vmm/dev/chardev.h"
#include "vmm/dev/cmos.h"
#include "vmm/dev/reset.h"
#include "vmm/dev/serial.h"

static const struct field_table *const tables[] = {
	&processor_table, &vcpu_state_table, &vm_irq_table,  &vm_pit_table,  &vm_clock_table,
	&serial_table,    &cmos_table,       &reset_table,   &acpi_pm_table, &blk_table,
	&net_table,       &rng_table,        &balloon_table, &console_table, &chardev_table,
};

const struct field_table *section_table(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (!strcmp(tables[i]->name, name))
			return tables[i];
	return NULL;
}
