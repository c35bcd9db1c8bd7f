/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floating pointer (16 bytes):
 *   "_MP_"   u32 address of the table   u8 length in 16 bytes   u8 version 4   u8 sum   u8[5] 0
 * Table header (44 bytes):
 *   "PCMP"   u16 bytes   u8 version 4   u8 sum   char[8] maker   char[12] product   u32 0   u16 0
 *   u16 entries   u32 LAPIC address   u32 0
 * Entries, sorted by type:
 *   0 processor      u8 id   u8 version   u8 flags   u32 signature   u32 features   u64 0
 *   1 bus            u8 id   char[6] kind
 *   2 IOAPIC         u8 id   u8 version   u8 enabled   u32 address
 *   3 interrupt      u8 kind   u16 flags   u8 bus   u8 its line   u8 IOAPIC   u8 its pin
 *   4 local one      u8 kind   u16 flags   u8 bus   u8 its line   u8 LAPIC (255 = all)   u8 its
 * LINT
 */
#include "vmm/boot/mptable.h"

#include "base/codec.h"

#define VERSION        4
#define LAPIC_GPA      0xfee00000u
#define LAPIC_VERSION  0x14
#define IOAPIC_GPA     0xfec00000u
#define IOAPIC_VERSION 0x11
#define FEATURE_FPU    0x001u
#define FEATURE_APIC   0x200u

#define CPU_ENABLED 1
#define CPU_BOOT    2

#define KIND_INT    0
#define KIND_NMI    1
#define KIND_EXTINT 3

#define POINTER_BYTES 16
#define ISA_LINES     16

static void put_cpus(struct wbuf *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		put_u8(w, 0);
		put_u8(w, (uint8_t)i);
		put_u8(w, LAPIC_VERSION);
		put_u8(w, CPU_ENABLED | (i ? 0 : CPU_BOOT));
		put_u32(w, 0);
		put_u32(w, FEATURE_FPU | FEATURE_APIC);
		put_u64(w, 0);
	}
}

static void put_interrupt(struct wbuf *w, uint8_t type, uint8_t kind, uint8_t line, uint8_t to,
			  uint8_t pin)
{
	put_u8(w, type);
	put_u8(w, kind);
	put_u16(w, 0); /* trigger and polarity as the bus has them */
	put_u8(w, 0);
	put_u8(w, line);
	put_u8(w, to);
	put_u8(w, pin);
}

/* Returns the number of entries. */
static unsigned put_entries(struct wbuf *w, unsigned n_cpus)
{
	uint8_t ioapic = (uint8_t)n_cpus;
	unsigned n = n_cpus + 2;

	put_cpus(w, n_cpus);
	put_u8(w, 1);
	put_u8(w, 0);
	put_bytes(w, "ISA   ", 6);
	put_u8(w, 2);
	put_u8(w, ioapic);
	put_u8(w, IOAPIC_VERSION);
	put_u8(w, 1);
	put_u32(w, IOAPIC_GPA);
	/* KVM wires line N to pin N of the IOAPIC, the PIT's line 0 as well; 2 is the second PIC.
	 */
	for (uint8_t line = 0; line < ISA_LINES; line++) {
		if (line == 2)
			continue;
		put_interrupt(w, 3, KIND_INT, line, ioapic, line);
		n++;
	}
	put_interrupt(w, 4, KIND_EXTINT, 0, 0xff, 0);
	put_interrupt(w, 4, KIND_NMI, 0, 0xff, 1);
	return n + 2;
}

static void put_header(struct wbuf *w, size_t entry_bytes, unsigned n_entries)
{
	put_bytes(w, "PCMP", 4);
	put_u16(w, (uint16_t)(44 + entry_bytes));
	put_u8(w, VERSION);
	put_u8(w, 0); /* the sum */
	put_bytes(w, "ferry   ", 8);
	put_bytes(w, "VM          ", 12);
	put_u32(w, 0);
	put_u16(w, 0);
	put_u16(w, (uint16_t)n_entries);
	put_u32(w, LAPIC_GPA);
	put_u32(w, 0);
}

/* All bytes shall add up to 0. */
static void set_sum(struct wbuf *w, size_t first, size_t at)
{
	uint8_t sum = 0;

	for (size_t i = first; i < w->len; i++)
		sum = (uint8_t)(sum + w->data[i]);
	w->data[at] = (uint8_t)-sum;
}

static int make(struct wbuf *w, unsigned n_cpus)
{
	struct wbuf entries;
	unsigned n;
	int rc;

	wbuf_init(&entries, ORDER_LITTLE, MPTABLE_BYTES);
	n = put_entries(&entries, n_cpus);
	put_bytes(w, "_MP_", 4);
	put_u32(w, (uint32_t)MPTABLE_GPA + POINTER_BYTES);
	put_u8(w, POINTER_BYTES / 16);
	put_u8(w, VERSION);
	put_u8(w, 0); /* the sum */
	put_bytes(w, "\0\0\0\0\0", 5);
	rc = wbuf_error(w);
	if (!rc)
		set_sum(w, 0, 10);
	put_header(w, entries.len, n);
	put_bytes(w, entries.data, entries.len);
	rc = rc ? rc : wbuf_error(&entries);
	rc = rc ? rc : wbuf_error(w);
	if (!rc)
		set_sum(w, POINTER_BYTES, POINTER_BYTES + 7);
	wbuf_free(&entries);
	return rc;
}

int mptable_write(struct mem *m, unsigned n_cpus, struct err *e)
{
	struct wbuf w;
	int rc;

	wbuf_init(&w, ORDER_LITTLE, MPTABLE_BYTES);
	rc = make(&w, n_cpus);
	if (!rc)
		rc = mem_write(m, MPTABLE_GPA, w.data, w.len);
	wbuf_free(&w);
	return rc ? err_sys(e, -rc, "cannot write the processor tables") : 0;
}
