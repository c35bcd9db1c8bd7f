/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI's fixed registers: power-off, the power button and its interrupt, the state. */
#include <check.h>
#include <errno.h>

#include "tests/support/suite.h"
#include "vmm/dev/acpi_pm.h"

static struct io_bus bus;
static struct acpi_pm *pm;
static bool line;
static unsigned offs;

static uint32_t in(uint16_t port, unsigned size)
{
	uint32_t v = 0;

	io_bus_access(&bus, false, port, size, &v);
	return v;
}

static void out(uint16_t port, unsigned size, uint32_t v)
{
	io_bus_access(&bus, true, port, size, &v);
}

static void set_irq(void *ctx, unsigned gsi, bool level)
{
	ck_assert_ptr_eq(ctx, &line);
	ck_assert_uint_eq(gsi, 9);
	line = level;
}

static void on_power_off(void *ctx)
{
	ck_assert_ptr_eq(ctx, &offs);
	offs++;
	acpi_pm_press(pm); /* no lock is held */
}

static void setup(void)
{
	const struct acpi_pm_config cfg = {
		.bus = &bus,
		.irq = {.set = set_irq, .ctx = &line, .gsi = ACPI_PM_GSI},
		.on_power_off = on_power_off,
		.ctx = &offs};

	bus.n = 0;
	offs = 0;
	line = false;
	ck_assert_int_eq(acpi_pm_new(&pm, &cfg, NULL), 0);
}

static void teardown(void)
{
	acpi_pm_free(pm);
}

START_TEST(power_off)
{
	ck_assert_uint_eq(in(0x604, 2), 1); /* ACPI mode */
	out(0x604, 2, 5 << 10);             /* the type alone */
	ck_assert_uint_eq(in(0x604, 2), 5 << 10 | 1);
	ck_assert_uint_eq(offs, 0);
	out(0x604, 2, 5 << 10 | 1 << 13);
	ck_assert_uint_eq(offs, 1);
	ck_assert_uint_eq(in(0x604, 2), 5 << 10 | 1); /* SLP_EN reads as 0 */
	for (uint32_t type = 0; type < 8; type++)
		if (type != 5)
			out(0x604, 2, type << 10 | 1 << 13);
	out(0x604, 1, 0xff); /* the lower half */
	ck_assert_uint_eq(offs, 1);
	out(0x605, 1, 0x34); /* the upper one */
	ck_assert_uint_eq(offs, 2);
	out(0x602, 4, 0x34000000); /* together with others */
	ck_assert_uint_eq(offs, 3);
}
END_TEST

START_TEST(button)
{
	acpi_pm_press(pm);
	ck_assert_uint_eq(in(0x600, 2), 0x100);
	ck_assert(!line); /* not enabled */
	out(0x602, 2, 0x100);
	ck_assert(line);
	out(0x600, 2, 0xfeff); /* others' bits */
	ck_assert(line);
	ck_assert_uint_eq(in(0x600, 4), 0x01000100);
	out(0x600, 2, 0x100);
	ck_assert(!line);
	ck_assert_uint_eq(in(0x600, 2), 0);
	acpi_pm_press(pm);
	ck_assert(line);
	out(0x602, 2, 0);
	ck_assert(!line);
	out(0x602, 2, 0xffff);
	ck_assert_uint_eq(in(0x602, 2), 0x0721);
	ck_assert(line);
	out(0x601, 1, 1);
	ck_assert(!line);
}
END_TEST

START_TEST(state)
{
	static const struct acpi_pm_state bad[] = {
		{.status = 1}, {.enable = 2}, {.control = 1}, {.control = 0x2000}};
	struct acpi_pm_state st;

	out(0x602, 2, 0x100);
	out(0x604, 2, 0x0402);
	acpi_pm_press(pm);
	acpi_pm_save(pm, &st);
	ck_assert_int_eq(acpi_pm_check(&st, NULL), 0);
	teardown();
	setup();
	acpi_pm_load(pm, &st);
	ck_assert(line);
	ck_assert_uint_eq(in(0x600, 4), 0x01000100);
	ck_assert_uint_eq(in(0x604, 2), 0x0403);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = ERR_INIT;

		ck_assert_int_eq(acpi_pm_check(&bad[i], &e), -EINVAL);
		ck_assert_str_ne(e.msg, "");
	}
}
END_TEST

START_TEST(ports_taken)
{
	const struct acpi_pm_config cfg = {.bus = &bus};
	struct acpi_pm *second;
	struct err e = ERR_INIT;

	ck_assert_int_eq(acpi_pm_new(&second, &cfg, &e), -EEXIST);
	ck_assert_str_ne(e.msg, "");
	acpi_pm_free(NULL);
}
END_TEST

SUITE_WITH("acpi_pm", setup, teardown, power_off, button, state, ports_taken)
