/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables, read as a kernel reads them, and by iasl where that is installed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/boot_fixture.h"
#include "vmm/acpi/acpi.h"
#include "vmm/boot/mptable.h"

static const uint8_t *at(uint64_t gpa, uint64_t len)
{
	const uint8_t *p = mem_host(bf.m, gpa, len);

	ck_assert_ptr_nonnull(p);
	return p;
}

static void check_sum(uint64_t gpa, uint64_t len)
{
	const uint8_t *p = at(gpa, len);
	uint8_t sum = 0;

	for (uint64_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	ck_assert_uint_eq(sum, 0);
}

static uint32_t table_bytes(uint64_t gpa)
{
	return ram_u32(gpa + 4);
}

static void check_table(uint64_t gpa, const char *signature)
{
	ck_assert_uint_ge(gpa, ACPI_GPA);
	ck_assert_int_eq(memcmp(at(gpa, 4), signature, 4), 0);
	ck_assert_uint_ge(table_bytes(gpa), 36);
	ck_assert_uint_le(gpa + table_bytes(gpa), ACPI_GPA + ACPI_BYTES);
	check_sum(gpa, table_bytes(gpa));
}

static struct {
	uint64_t fadt, madt, dsdt, facs;
} found;

/* From the RSDP to all the others, having checked each. */
static void find_tables(void)
{
	uint64_t xsdt;

	ck_assert_int_eq(memcmp(at(ACPI_GPA, 8), "RSD PTR ", 8), 0);
	ck_assert_uint_eq(*at(ACPI_GPA + 15, 1), 2);
	ck_assert_uint_eq(ram_u32(ACPI_GPA + 20), 36);
	check_sum(ACPI_GPA, 20);
	check_sum(ACPI_GPA, 36);
	xsdt = ram_u64(ACPI_GPA + 24);
	check_table(xsdt, "XSDT");
	ck_assert_uint_eq(table_bytes(xsdt), 36 + 2 * 8);
	found.fadt = ram_u64(xsdt + 36);
	found.madt = ram_u64(xsdt + 44);
	check_table(found.fadt, "FACP");
	check_table(found.madt, "APIC");
	ck_assert_uint_eq(table_bytes(found.fadt), 276);
	found.dsdt = ram_u64(found.fadt + 140);
	ck_assert_uint_eq(ram_u32(found.fadt + 40), found.dsdt);
	check_table(found.dsdt, "DSDT");
	found.facs = ram_u32(found.fadt + 36);
	ck_assert_int_eq(memcmp(at(found.facs, 64), "FACS", 4), 0);
	ck_assert_uint_eq(ram_u32(found.facs + 4), 64);
	ck_assert_uint_eq(found.facs % 64, 0);
}

static void write_tables(unsigned n_cpus, const struct acpi_mmio *mmio, unsigned n_mmio)
{
	const struct acpi_config cfg = {.n_cpus = n_cpus, .mmio = mmio, .n_mmio = n_mmio};

	ck_assert_int_eq(acpi_write(bf.m, &cfg, &bf.err), 0);
	find_tables();
}

/* ---- what the tables say ---- */

static const unsigned counts[] = {1, 2, 64, ACPI_MAX_CPUS};

START_TEST(processors)
{
	unsigned n_cpus = counts[_i], seen[8] = {0};
	uint64_t gpa, end;

	write_tables(n_cpus, NULL, 0);
	gpa = found.madt + 44;
	end = found.madt + table_bytes(found.madt);
	ck_assert_uint_eq(ram_u32(found.madt + 36), 0xfee00000);
	ck_assert_uint_eq(ram_u32(found.madt + 40), 1);
	while (gpa < end) {
		const uint8_t *p = at(gpa, 2);

		ck_assert_uint_lt(p[0], 8);
		if (p[0] == 0) {
			ck_assert_uint_eq(p[2], seen[0]);
			ck_assert_uint_eq(p[3], seen[0]);
			ck_assert_uint_eq(ram_u32(gpa + 4), 1);
		}
		if (p[0] == 1) {
			ck_assert_uint_eq(ram_u32(gpa + 4), 0xfec00000);
			ck_assert_uint_eq(ram_u32(gpa + 8), 0);
		}
		if (p[0] == 2) {
			ck_assert_uint_eq(p[3], 9);
			ck_assert_uint_eq(ram_u32(gpa + 4), 9);
			ck_assert_uint_eq(p[8], 0x0d);
		}
		seen[p[0]]++;
		ck_assert_uint_ge(p[1], 6);
		gpa += p[1];
	}
	ck_assert_uint_eq(gpa, end);
	ck_assert_uint_eq(seen[0], n_cpus);
	ck_assert_uint_eq(seen[1], 1);
	ck_assert_uint_eq(seen[2], 1); /* the SCI alone: line N is input N */
	ck_assert_uint_eq(seen[4], 1);
}
END_TEST

/* A generic address: port space, so many bits, the port. */
static void check_gas(uint64_t gpa, unsigned bits, uint64_t port)
{
	ck_assert_uint_eq(*at(gpa, 1), 1);
	ck_assert_uint_eq(*at(gpa + 1, 1), bits);
	ck_assert_uint_eq(ram_u64(gpa + 4), port);
}

START_TEST(fixed_registers)
{
	write_tables(1, NULL, 0);
	ck_assert_uint_eq(ram_u32(found.fadt + 46) & 0xffff, 9); /* SCI */
	ck_assert_uint_eq(ram_u32(found.fadt + 48), 0);          /* no SMI port */
	ck_assert_uint_eq(ram_u32(found.fadt + 56), 0x600);
	ck_assert_uint_eq(ram_u32(found.fadt + 64), 0x604);
	ck_assert_uint_eq(ram_u32(found.fadt + 76), 0); /* no timer */
	ck_assert_uint_eq(ram_u32(found.fadt + 88), 0x00000204);
	ck_assert_uint_eq(*at(found.fadt + 108, 1), 0x32);
	/* The reset register, no hardware-reduced mode, a power button in the fixed registers. */
	ck_assert_uint_eq(ram_u32(found.fadt + 112) & (1u << 10 | 1u << 20 | 1u << 4), 1u << 10);
	check_gas(found.fadt + 116, 8, 0xcf9);
	ck_assert_uint_eq(*at(found.fadt + 128, 1), 6);
	check_gas(found.fadt + 148, 32, 0x600);
	check_gas(found.fadt + 172, 16, 0x604);
}
END_TEST

/* How often the bytes are in the DSDT. */
static unsigned count_in_dsdt(const void *bytes, size_t len)
{
	const uint8_t *p = at(found.dsdt, table_bytes(found.dsdt));
	unsigned n = 0;

	for (size_t i = 0; i + len <= table_bytes(found.dsdt); i++)
		n += !memcmp(p + i, bytes, len);
	return n;
}

static struct acpi_mmio mmio[ACPI_MAX_MMIO];

static void make_mmio(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		mmio[i] = (struct acpi_mmio){.base = 0xd0000000u + i * 0x1000,
					     .size = 0x1000,
					     .gsi = 16 + i % 8,
					     .edge = i & 1};
}

START_TEST(devices)
{
	static const uint8_t memory[] = {0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 0x10, 0, 0};
	static const uint8_t level[] = {0x89, 6, 0, 9, 1, 16, 0, 0, 0};
	static const uint8_t edge[] = {0x89, 6, 0, 3, 1, 17, 0, 0, 0};

	make_mmio(2);
	write_tables(2, mmio, 2);
	ck_assert_uint_eq(count_in_dsdt("_S5_\x12", 5), 1);
	ck_assert_uint_eq(count_in_dsdt("\x0c\x41\xd0\x05\x01", 5), 1); /* PNP0501 */
	ck_assert_uint_eq(count_in_dsdt("LNRO0005", 9), 2);
	ck_assert_uint_eq(count_in_dsdt("VR01", 4), 1);
	ck_assert_uint_eq(count_in_dsdt(memory, sizeof(memory)), 1);
	ck_assert_uint_eq(count_in_dsdt(level, sizeof(level)), 1);
	ck_assert_uint_eq(count_in_dsdt(edge, sizeof(edge)), 1);
}
END_TEST

START_TEST(too_many)
{
	struct acpi_config cfg = {.n_cpus = ACPI_MAX_CPUS + 1};

	ck_assert_int_eq(acpi_write(bf.m, &cfg, &bf.err), -E2BIG);
	cfg.n_cpus = 0;
	ck_assert_int_eq(acpi_write(bf.m, &cfg, &bf.err), -E2BIG);
	cfg.n_cpus = ACPI_MAX_CPUS;
	cfg.n_mmio = ACPI_MAX_MMIO + 1;
	bf.err = (struct err)ERR_INIT;
	ck_assert_int_eq(acpi_write(bf.m, &cfg, &bf.err), -E2BIG);
	ck_assert_ptr_nonnull(strstr(bf.err.msg, "257"));
	ck_assert_uint_eq(ram_u32(ACPI_GPA), 0);
	make_mmio(ACPI_MAX_MMIO);
	write_tables(ACPI_MAX_CPUS, mmio, ACPI_MAX_MMIO);
	ck_assert_uint_eq(count_in_dsdt("LNRO0005", 9), ACPI_MAX_MMIO);
}
END_TEST

/* ---- iasl: takes the tables apart, and puts together again what it got ---- */

static void save(const char *dir, const char *name, uint64_t gpa)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	write_file(path, at(gpa, table_bytes(gpa)), table_bytes(gpa));
}

START_TEST(iasl)
{
	/* Whatever is not as it should be gets a line of its own. */
	static const char script[] =
		"cd '%s' && for t in xsdt facp apic facs dsdt; do "
		"timeout -s KILL 60 iasl -d $t.aml && timeout -s KILL 60 iasl -tc $t.dsl || exit; "
		"done >log 2>&1; grep -iE 'error|warning|incorrect|unknown|invalid' log >found; "
		"[ $(grep -c '0 Errors, 0 Warnings, 0 Remarks' found) = 5 ] && "
		"[ $(wc -l <found) = 5 ] || { cat log; exit 1; }";
	char dir[] = "/tmp/ferry-acpi-XXXXXX", command[700];

	if (system("command -v iasl >/dev/null") != 0) {
		(void)printf("SKIP: iasl is not installed (scripts/deps --all)\n");
		return;
	}
	ck_assert_ptr_nonnull(mkdtemp(dir));
	make_mmio(20);
	write_tables(64, mmio, 20);
	save(dir, "xsdt.aml", ram_u64(ACPI_GPA + 24));
	save(dir, "facp.aml", found.fadt);
	save(dir, "apic.aml", found.madt);
	save(dir, "facs.aml", found.facs);
	save(dir, "dsdt.aml", found.dsdt);
	(void)snprintf(command, sizeof(command), script, dir);
	ck_assert_int_eq(system(command), 0);
	(void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

/* ---- the loaders ---- */

START_TEST(only_when_asked)
{
	struct boot_config cfg = {.kernel = bf.kernel};
	struct wbuf w;

	make_elf(&w, &(struct shape){0});
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	ck_assert_int_eq(boot_load(bf.m, &cfg, &bf.entry, &bf.err), 0);
	ck_assert_uint_eq(ram_u32(ACPI_GPA), 0);
	ck_assert_uint_eq(ram_u64(bf.entry.ebx + 0x20), 0);
	make_mmio(1);
	cfg.n_cpus = 2;
	cfg.mmio = mmio;
	cfg.n_mmio = 1;
	ck_assert_int_eq(boot_load(bf.m, &cfg, &bf.entry, &bf.err), 0);
	ck_assert_uint_eq(ram_u64(bf.entry.ebx + 0x20), ACPI_GPA);
	find_tables();
	ck_assert_uint_eq(count_in_dsdt("LNRO0005", 9), 1);
	/* An image in the same place stays whole, and is told of no tables. */
	make_elf(&w, &(struct shape){.paddr = ACPI_GPA + 4096});
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	new_mem(16 * MIB);
	ck_assert_int_eq(boot_load(bf.m, &cfg, &bf.entry, &bf.err), 0);
	ck_assert_uint_eq(ram_u32(ACPI_GPA), 0);
	ck_assert_uint_eq(ram_u64(bf.entry.ebx + 0x20), 0);
	ck_assert_uint_eq(ram_u32(MPTABLE_GPA), 0x5f504d5f);
}
END_TEST

SUITE_WITH("acpi", boot_setup, boot_teardown, fixed_registers, devices, too_many, iasl,
	   only_when_asked, EACH(processors, counts))
