/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSDP (36 bytes): "RSD PTR "  u8 sum of the first 20   char[6] maker   u8 revision 2   u32 RSDT
 *   (0 = none)   u32 bytes   u64 XSDT   u8 sum of all   u8[3] 0
 * Header of the others, but for the FACS (36 bytes): char[4] signature   u32 bytes   u8 revision
 *   u8 sum   char[6] maker   char[8] table   u32 its revision   char[4] writer   u32 its revision
 * XSDT: the header, a u64 address for each table. The FADT and the MADT are below.
 */
#include "vmm/acpi/acpi.h"

#include <errno.h>
#include <stdio.h>

#include "base/codec.h"
#include "vmm/acpi/aml.h"
#include "vmm/dev/acpi_pm.h"
#include "vmm/dev/cmos.h"
#include "vmm/dev/reset.h"
#include "vmm/dev/serial.h"

#define MAKER "FERRY "
#define TABLE "FERRYVM "

#define RSDP_SHORT_BYTES 20 /* as ACPI 1.0 had it */
#define RSDP_BYTES       36
#define FACS_BYTES       64
#define FACS_OFFSET      64 /* aligned to its size */
#define TABLE_ALIGN      16

#define LAPIC_GPA  0xfee00000u
#define IOAPIC_GPA 0xfec00000u
#define IOAPIC_ID  0 /* as KVM's IOAPIC says itself */
#define ALL_CPUS   0xff

#define MADT_PC_COMPATIBLE 1 /* there are two 8259 as well */
#define MADT_LAPIC         0
#define MADT_IOAPIC        1
#define MADT_OVERRIDE      2
#define MADT_LAPIC_NMI     4
#define CPU_ENABLED        1
#define ACTIVE_HIGH_LEVEL  0x0d

#define FADT_REVISION     6
#define FADT_MINOR        4
#define BOOT_LEGACY       0x0001 /* devices on an ISA bus; no keyboard controller to probe for */
#define BOOT_NO_VGA       0x0004
#define FLAG_WBINVD       (1u << 0)
#define FLAG_C1           (1u << 2)
#define FLAG_NO_SLEEP_FIX (1u << 5)
#define FLAG_NO_RTC_FIX   (1u << 6)
#define FLAG_RESET        (1u << 10)
#define NO_C2             101 /* latencies that mean: not supported */
#define NO_C3             1001
#define SPACE_IO          1
#define ACCESS_BYTE       1
#define ACCESS_WORD       2
/* Generic addresses that are not there: 12 bytes each. */
#define GAS_BYTES       12
#define AFTER_CNT_BYTES 60 /* PM1b control, PM2 control, timer, GPE 0 and 1 */
#define FADT_LAST_BYTES 32 /* sleep control and status; hypervisor (8 bytes) */

/* All of [first, end) shall add up to 0. */
static void set_sum(struct wbuf *w, size_t first, size_t end, size_t at)
{
	uint8_t sum = 0;

	if (wbuf_error(w))
		return;
	for (size_t i = first; i < end; i++)
		sum = (uint8_t)(sum + w->data[i]);
	w->data[at] = (uint8_t)(w->data[at] - sum);
}

static void put_zeroes(struct wbuf *w, size_t n)
{
	while (n--)
		put_u8(w, 0);
}

/* Tables are written one after the other; open_table() returns the offset. */
static size_t open_table(struct wbuf *w, const char *signature, uint8_t revision)
{
	size_t at;

	put_zeroes(w, -w->len & (TABLE_ALIGN - 1));
	at = w->len;
	put_bytes(w, signature, 4);
	put_u32(w, 0); /* bytes */
	put_u8(w, revision);
	put_u8(w, 0); /* the sum */
	put_bytes(w, MAKER, 6);
	put_bytes(w, TABLE, 8);
	put_u32(w, 1);
	put_bytes(w, "FERY", 4);
	put_u32(w, 1);
	return at;
}

static uint64_t close_table(struct wbuf *w, size_t at)
{
	if (!wbuf_error(w))
		put_u32_at(w, at + 4, (uint32_t)(w->len - at));
	set_sum(w, at, w->len, at + 9);
	return ACPI_GPA + at;
}

/* ---- DSDT ---- */

static void put_power_off(struct wbuf *w)
{
	size_t at;

	aml_name(w, "_S5_");
	at = aml_open_package(w, 4);
	aml_integer(w, ACPI_PM_SLEEP_S5); /* for PM1a, for PM1b */
	aml_integer(w, ACPI_PM_SLEEP_S5);
	aml_integer(w, 0);
	aml_integer(w, 0);
	aml_close(w, at);
}

static void put_serial(struct wbuf *w)
{
	size_t device = aml_open_device(w, "COM1"), resources;

	aml_name(w, "_HID");
	aml_eisa_id(w, "PNP0501");
	aml_name(w, "_UID");
	aml_integer(w, 1);
	aml_name(w, "_CRS");
	resources = aml_open_resources(w);
	aml_io_ports(w, SERIAL_PORT, 8);
	aml_isa_irq(w, SERIAL_GSI);
	aml_close_resources(w, resources);
	aml_close(w, device);
}

static void put_mmio(struct wbuf *w, unsigned index, const struct acpi_mmio *dev)
{
	size_t device, resources;
	char name[8];

	(void)snprintf(name, sizeof(name), "VR%02X", index & 0xff);
	device = aml_open_device(w, name);
	aml_name(w, "_HID");
	aml_string(w, "LNRO0005");
	aml_name(w, "_UID");
	aml_integer(w, index);
	aml_name(w, "_CRS");
	resources = aml_open_resources(w);
	aml_memory32(w, dev->base, dev->size);
	aml_interrupt(w, dev->gsi, dev->edge);
	aml_close_resources(w, resources);
	aml_close(w, device);
}

static uint64_t put_dsdt(struct wbuf *w, const struct acpi_config *cfg)
{
	size_t table = open_table(w, "DSDT", 2), scope;

	put_power_off(w);
	scope = aml_open_scope(w, "_SB_");
	put_serial(w);
	for (unsigned i = 0; i < cfg->n_mmio; i++)
		put_mmio(w, i, &cfg->mmio[i]);
	aml_close(w, scope);
	return close_table(w, table);
}

/* ---- the fixed tables ---- */

/* A generic address: of one register in port space. */
static void put_gas(struct wbuf *w, uint8_t bytes, uint8_t access, uint64_t port)
{
	put_u8(w, SPACE_IO);
	put_u8(w, (uint8_t)(bytes * 8));
	put_u8(w, 0);
	put_u8(w, access);
	put_u64(w, port);
}

/* Up to the 32-bit addresses of register blocks and their lengths. */
static void put_fadt_registers(struct wbuf *w, uint64_t dsdt)
{
	put_u32(w, ACPI_GPA + FACS_OFFSET);
	put_u32(w, (uint32_t)dsdt);
	put_u8(w, 0);
	put_u8(w, 0); /* profile: unspecified */
	put_u16(w, ACPI_PM_GSI);
	put_u32(w, 0); /* no SMI port: always in ACPI mode */
	put_zeroes(w, 4);
	put_u32(w, ACPI_PM_EVENT_PORT);
	put_u32(w, 0);
	put_u32(w, ACPI_PM_CONTROL_PORT);
	put_zeroes(w, 20); /* PM1b control, PM2 control, timer, GPE 0 and 1 */
	put_u8(w, ACPI_PM_EVENT_BYTES);
	put_u8(w, ACPI_PM_CONTROL_BYTES);
	put_zeroes(w, 6);
}

static uint64_t put_fadt(struct wbuf *w, uint64_t dsdt)
{
	size_t table = open_table(w, "FACP", FADT_REVISION);

	put_fadt_registers(w, dsdt);
	put_u16(w, NO_C2);
	put_u16(w, NO_C3);
	put_zeroes(w, 8); /* cache flushing, duty cycle, alarms */
	put_u8(w, CMOS_CENTURY);
	put_u16(w, BOOT_LEGACY | BOOT_NO_VGA);
	put_u8(w, 0);
	put_u32(w, FLAG_WBINVD | FLAG_C1 | FLAG_NO_SLEEP_FIX | FLAG_NO_RTC_FIX | FLAG_RESET);
	put_gas(w, 1, ACCESS_BYTE, RESET_CONTROL_PORT);
	put_u8(w, RESET_CONTROL_NOW);
	put_u16(w, 0);
	put_u8(w, FADT_MINOR);
	put_u64(w, 0); /* the FACS has its 32-bit address */
	put_u64(w, dsdt);
	put_gas(w, ACPI_PM_EVENT_BYTES, ACCESS_WORD, ACPI_PM_EVENT_PORT);
	put_zeroes(w, GAS_BYTES); /* PM1b */
	put_gas(w, ACPI_PM_CONTROL_BYTES, ACCESS_WORD, ACPI_PM_CONTROL_PORT);
	put_zeroes(w, AFTER_CNT_BYTES);
	put_zeroes(w, FADT_LAST_BYTES);
	return close_table(w, table);
}

static void put_cpus(struct wbuf *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		put_u8(w, MADT_LAPIC);
		put_u8(w, 8);
		put_u8(w, (uint8_t)i); /* its number, its APIC id */
		put_u8(w, (uint8_t)i);
		put_u32(w, CPU_ENABLED);
	}
}

static uint64_t put_madt(struct wbuf *w, unsigned n_cpus)
{
	size_t table = open_table(w, "APIC", 5);

	put_u32(w, LAPIC_GPA);
	put_u32(w, MADT_PC_COMPATIBLE);
	put_cpus(w, n_cpus);

	put_u8(w, MADT_IOAPIC);
	put_u8(w, 12);
	put_u8(w, IOAPIC_ID);
	put_u8(w, 0);
	put_u32(w, IOAPIC_GPA);
	put_u32(w, 0); /* its first GSI */

	/* KVM wires ISA line N to input N, 0 (the PIT) as well; only ACPI's is level-triggered. */
	put_u8(w, MADT_OVERRIDE);
	put_u8(w, 10);
	put_u8(w, 0);
	put_u8(w, ACPI_PM_GSI);
	put_u32(w, ACPI_PM_GSI);
	put_u16(w, ACTIVE_HIGH_LEVEL);

	put_u8(w, MADT_LAPIC_NMI);
	put_u8(w, 6);
	put_u8(w, ALL_CPUS);
	put_u16(w, 0);
	put_u8(w, 1); /* LINT1 */
	return close_table(w, table);
}

static void put_facs(struct wbuf *w)
{
	put_bytes(w, "FACS", 4);
	put_u32(w, FACS_BYTES);
	put_zeroes(w, 24); /* no signature to keep, no waking, a free global lock */
	put_u8(w, 2);
	put_zeroes(w, 31);
}

/* Over the zeroes at the beginning that were left for it. */
static void set_rsdp(struct wbuf *w, uint64_t xsdt)
{
	struct wbuf p;

	wbuf_init(&p, ORDER_LITTLE, RSDP_BYTES);
	put_bytes(&p, "RSD PTR ", 8);
	put_u8(&p, 0); /* the sum */
	put_bytes(&p, MAKER, 6);
	put_u8(&p, 2);
	put_u32(&p, 0);
	put_u32(&p, RSDP_BYTES);
	put_u64(&p, xsdt);
	put_u32(&p, 0);
	set_sum(&p, 0, RSDP_SHORT_BYTES, 8);
	set_sum(&p, 0, RSDP_BYTES, 32);
	if (wbuf_error(&p))
		w->error = wbuf_error(&p);
	for (size_t i = 0; !wbuf_error(w) && i < RSDP_BYTES; i++)
		w->data[i] = p.data[i];
	wbuf_free(&p);
}

static void make(struct wbuf *w, const struct acpi_config *cfg)
{
	uint64_t dsdt, fadt, madt, xsdt;
	size_t table;

	put_zeroes(w, FACS_OFFSET);
	put_facs(w);
	dsdt = put_dsdt(w, cfg);
	fadt = put_fadt(w, dsdt);
	madt = put_madt(w, cfg->n_cpus);
	table = open_table(w, "XSDT", 1);
	put_u64(w, fadt);
	put_u64(w, madt);
	xsdt = close_table(w, table);
	set_rsdp(w, xsdt);
}

int acpi_write(struct mem *m, const struct acpi_config *cfg, struct err *e)
{
	struct wbuf w;
	int rc;

	if (cfg->n_cpus < 1 || cfg->n_cpus > ACPI_MAX_CPUS || cfg->n_mmio > ACPI_MAX_MMIO)
		return err_set(e, E2BIG,
			       "ACPI tables describe 1 to %d vCPUs and up to %d virtio devices, "
			       "not %u and %u",
			       ACPI_MAX_CPUS, ACPI_MAX_MMIO, cfg->n_cpus, cfg->n_mmio);
	wbuf_init(&w, ORDER_LITTLE, ACPI_BYTES);
	make(&w, cfg);
	rc = wbuf_error(&w);
	if (!rc)
		rc = mem_write(m, ACPI_GPA, w.data, w.len);
	wbuf_free(&w);
	return rc ? err_sys(e, -rc, "cannot write the ACPI tables") : 0;
}
