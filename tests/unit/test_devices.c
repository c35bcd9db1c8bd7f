/* SPDX-License-Identifier: Apache-2.0 */
/* The port I/O bus, the real-time clock, and the ways to reset. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "tests/support/suite.h"
#include "vmm/dev/bus.h"
#include "vmm/dev/cmos.h"
#include "vmm/dev/reset.h"

static struct io_bus bus;

static uint32_t in(uint16_t port, unsigned size)
{
	uint8_t b[8];
	uint32_t v = 0;

	memset(b, 0xa5, sizeof(b));
	io_bus_access(&bus, false, port, size, b);
	for (unsigned i = 0; i < size; i++)
		v |= (uint32_t)b[i] << (8 * i);
	for (unsigned i = size; i < sizeof(b); i++)
		ck_assert_uint_eq(b[i], 0xa5); /* not one byte more */
	return v;
}

static void out(uint16_t port, unsigned size, uint32_t v)
{
	uint8_t b[4];

	for (unsigned i = 0; i < 4; i++)
		b[i] = (uint8_t)(v >> (8 * i));
	io_bus_access(&bus, true, port, size, b);
}

/* --- bus --- */

static struct {
	uint16_t port;
	unsigned size;
	uint32_t value;
	unsigned ins, outs;
} last;

static uint32_t probe_in(void *dev, uint16_t port, unsigned size)
{
	ck_assert_ptr_eq(dev, &last);
	last.port = port;
	last.size = size;
	last.ins++;
	return 0x44332211;
}

static void probe_out(void *dev, uint16_t port, unsigned size, uint32_t value)
{
	ck_assert_ptr_eq(dev, &last);
	last.port = port;
	last.size = size;
	last.value = value;
	last.outs++;
}

static const struct io_ops probe = {.in = probe_in, .out = probe_out};

START_TEST(bus_routes)
{
	ck_assert_int_eq(io_bus_add(&bus, 0x100, 4, &probe, &last), 0);
	ck_assert_uint_eq(in(0x100, 1), 0x11);
	ck_assert_uint_eq(in(0x102, 2), 0x2211);
	ck_assert_uint_eq(last.port, 0x102);
	ck_assert_uint_eq(last.size, 2);
	ck_assert_uint_eq(in(0x100, 4), 0x44332211);
	out(0x101, 2, 0xdeadbeef);
	ck_assert_uint_eq(last.value, 0xbeef);
	ck_assert_uint_eq(last.port, 0x101);
	ck_assert_uint_eq(last.ins, 3);
	ck_assert_uint_eq(last.outs, 1);
}
END_TEST

START_TEST(bus_unclaimed)
{
	ck_assert_int_eq(io_bus_add(&bus, 0x100, 4, &probe, &last), 0);
	ck_assert_uint_eq(in(0xff, 1), 0xff);
	ck_assert_uint_eq(in(0x104, 4), 0xffffffff);
	/* Partly beyond the device, at either end, and at the end of the ports. */
	ck_assert_uint_eq(in(0xff, 2), 0xffff);
	ck_assert_uint_eq(in(0x103, 2), 0xffff);
	ck_assert_uint_eq(in(0xffff, 4), 0xffffffff);
	out(0xff, 2, 1);
	out(0x102, 4, 1);
	out(0xfffe, 4, 1);
	ck_assert_uint_eq(last.ins + last.outs, 0);
}
END_TEST

START_TEST(bus_refuses)
{
	ck_assert_int_eq(io_bus_add(&bus, 0x100, 4, &probe, &last), 0);
	ck_assert_int_eq(io_bus_add(&bus, 0x103, 1, &probe, &last), -EEXIST);
	ck_assert_int_eq(io_bus_add(&bus, 0xfe, 3, &probe, &last), -EEXIST);
	ck_assert_int_eq(io_bus_add(&bus, 0xfe, 16, &probe, &last), -EEXIST);
	ck_assert_int_eq(io_bus_add(&bus, 0xfe, 2, &probe, &last), 0);
	ck_assert_int_eq(io_bus_add(&bus, 0x104, 1, &probe, &last), 0);
	ck_assert_int_eq(io_bus_add(&bus, 0xffff, 2, &probe, &last), -EINVAL);
	ck_assert_int_eq(io_bus_add(&bus, 0x200, 0, &probe, &last), -EINVAL);
	ck_assert_int_eq(io_bus_add(&bus, 0xffff, 1, &probe, &last), 0);
	for (uint16_t i = 4; i < IO_BUS_MAX; i++)
		ck_assert_int_eq(io_bus_add(&bus, (uint16_t)(0x200 + i), 1, &probe, &last), 0);
	ck_assert_int_eq(io_bus_add(&bus, 0x300, 1, &probe, &last), -ENOSPC);
}
END_TEST

/* --- CMOS --- */

static struct cmos *cmos;

static uint8_t get(uint8_t index)
{
	out(0x70, 1, index);
	return (uint8_t)in(0x71, 1);
}

static uint32_t get_wide(uint8_t index, unsigned bytes)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint32_t)get((uint8_t)(index + i)) << (8 * i);
	return v;
}

static void put(uint8_t index, uint8_t value)
{
	out(0x70, 1, index);
	out(0x71, 1, value);
}

static void open_cmos(uint64_t mem_bytes)
{
	bus.n = 0;
	ck_assert_int_eq(cmos_new(&cmos, &bus, mem_bytes, NULL), 0);
}

static int bcd(uint8_t b)
{
	ck_assert_uint_le(b & 15, 9);
	ck_assert_uint_le(b >> 4, 9);
	return (b >> 4) * 10 + (b & 15);
}

/* Read the clock in BCD and 24 hours, as guests do: outside of an update, twice the same. */
static time_t guest_time(void)
{
	struct tm tm, again = {.tm_sec = -1};

	do {
		tm = again;
		while (get(0x0a) & 0x80)
			;
		again = (struct tm){.tm_sec = bcd(get(0)),
				    .tm_min = bcd(get(2)),
				    .tm_hour = bcd(get(4)),
				    .tm_mday = bcd(get(7)),
				    .tm_mon = bcd(get(8)) - 1,
				    .tm_year = bcd(get(0x32)) * 100 + bcd(get(9)) - 1900};
	} while (memcmp(&tm, &again, sizeof(tm)) != 0);
	return timegm(&tm);
}

START_TEST(cmos_tells_host_time)
{
	time_t before, guest;
	struct tm tm;

	open_cmos(1 << 20);
	/* Not time(): that is a clock of its own, which lags by up to a tick. */
	before = (time_t)(clock_real_ns() / NS_PER_SEC);
	guest = guest_time();
	ck_assert_int_ge(guest, before);
	ck_assert_int_le(guest, (time_t)(clock_real_ns() / NS_PER_SEC));
	(void)gmtime_r(&guest, &tm);
	ck_assert_int_eq(get(6), tm.tm_wday + 1);
	ck_assert_uint_eq(get(0x0a) & 0x7f, 0x26);
	ck_assert_uint_eq(get(0x0b), 0x02);
	ck_assert_uint_eq(get(0x0c), 0);
	ck_assert_uint_eq(get(0x0d), 0x80);
	ck_assert_uint_eq(in(0x70, 1), 0xff);
	cmos_free(cmos);
}
END_TEST

/* Set 31 December 1999, 23:59:50, then read it in each format. */
START_TEST(cmos_set_and_formats)
{
	time_t want;

	open_cmos(1 << 20);
	put(0x0b, 0x82);
	put(0, 0x50);
	put(2, 0x59);
	put(4, 0x23);
	put(7, 0x31);
	put(8, 0x12);
	put(9, 0x99);
	put(0x32, 0x19);
	ck_assert_uint_eq(get(0), 0x50); /* it stands still */
	put(0x0b, 0x02);
	want = timegm(&(struct tm){.tm_sec = 50,
				   .tm_min = 59,
				   .tm_hour = 23,
				   .tm_mday = 31,
				   .tm_mon = 11,
				   .tm_year = 99});
	ck_assert_int_ge(guest_time(), want);
	ck_assert_int_le(guest_time(), want + 5);
	put(0x0b, 0x04); /* binary, 12 hours */
	ck_assert_uint_eq(get(4), 0x80 | 11);
	ck_assert_uint_eq(get(8), 12);
	ck_assert_uint_eq(get(9), 99);
	put(0x0b, 0x00); /* BCD, 12 hours */
	ck_assert_uint_eq(get(4), 0x80 | 0x11);
	put(0x0b, 0x06); /* binary, 24 hours; written while it runs */
	put(4, 0);
	ck_assert_uint_eq(get(4), 0);
	put(0x0b, 0x04);
	ck_assert_uint_eq(get(4), 12); /* midnight is 12 AM */
	put(4, 0x80 | 12);
	put(0x0b, 0x06);
	ck_assert_uint_eq(get(4), 12); /* and 12 PM is noon */
	cmos_free(cmos);
}
END_TEST

START_TEST(cmos_garbage_time)
{
	open_cmos(1 << 20);
	for (unsigned v = 0; v < 256; v += 5) {
		put(0x0b, (uint8_t)(0x80 | (v & 6)));
		for (uint8_t i = 0; i < 10; i++)
			put(i, (uint8_t)v);
		put(0x32, (uint8_t)v);
		put(0x0b, 0x02);
		(void)guest_time();
	}
	cmos_free(cmos);
}
END_TEST

START_TEST(cmos_memory_sizes)
{
	open_cmos(64 << 20);
	ck_assert_uint_eq(get_wide(0x15, 2), 640);
	ck_assert_uint_eq(get_wide(0x17, 2), 63 << 10);
	ck_assert_uint_eq(get_wide(0x30, 2), 63 << 10);
	ck_assert_uint_eq(get_wide(0x34, 2), 48 << 4);
	ck_assert_uint_eq(get_wide(0x5b, 3), 0);
	cmos_free(cmos);
	open_cmos(5ull << 30);
	ck_assert_uint_eq(get_wide(0x30, 2), 0xffff);
	ck_assert_uint_eq(get_wide(0x34, 2), (3072 - 16) << 4);
	ck_assert_uint_eq(get_wide(0x5b, 3), 2 << 14);
	cmos_free(cmos);
	open_cmos(1 << 20);
	ck_assert_uint_eq(get_wide(0x30, 2), 0);
	ck_assert_uint_eq(get_wide(0x34, 2), 0);
	cmos_free(cmos);
}
END_TEST

START_TEST(cmos_state)
{
	struct cmos_state st = {0}, got = {0};
	time_t there;
	struct wbuf w;
	struct rbuf r;

	open_cmos(1 << 20);
	put(0x0f, 0x0a);
	put(0x7f, 0x99);
	put(9, 0x42);
	there = guest_time();
	out(0x70, 1, 0xff); /* the top bit is not the index's */
	cmos_save(cmos, &st);
	ck_assert_uint_eq(st.index, 0x7f);
	wbuf_init(&w, ORDER_LITTLE, 1024);
	fields_encode(&w, &cmos_table, &st);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	ck_assert_int_eq(fields_decode(&r, &cmos_table, &got, NULL), 0);
	ck_assert(rbuf_done(&r));
	wbuf_free(&w);
	cmos_free(cmos);

	open_cmos(1 << 20);
	ck_assert_int_eq(cmos_check(&got, NULL), 0);
	cmos_load(cmos, &got);
	ck_assert_uint_eq(in(0x71, 1), 0x99);
	ck_assert_uint_eq(get(0x0f), 0x0a);
	ck_assert_int_ge(guest_time(), there);
	ck_assert_int_le(guest_time(), there + 5);
	cmos_free(cmos);

	st.index = 128;
	ck_assert_int_eq(cmos_check(&st, NULL), -EINVAL);
	st.index = 0;
	st.offset_s = 1ull << 60;
	ck_assert_int_eq(cmos_check(&st, NULL), -EINVAL);
	st.offset_s = 1ull << 63;
	ck_assert_int_eq(cmos_check(&st, NULL), -EINVAL);
	st.offset_s = (uint64_t)-86400ll;
	ck_assert_int_eq(cmos_check(&st, NULL), 0);
}
END_TEST

/* --- reset --- */

static unsigned resets, exits;
static uint32_t exit_value;
static struct reset *reset;

static void on_reset(void *ctx)
{
	ck_assert_ptr_eq(ctx, &resets);
	resets++;
}

static void on_debug_exit(void *ctx, uint32_t value)
{
	ck_assert_ptr_eq(ctx, &resets);
	exits++;
	exit_value = value;
}

static void open_reset(bool debug_exit)
{
	const struct reset_config cfg = {.bus = &bus,
					 .debug_exit = debug_exit,
					 .on_reset = on_reset,
					 .on_debug_exit = on_debug_exit,
					 .ctx = &resets};

	bus.n = 0;
	ck_assert_int_eq(reset_new(&reset, &cfg, NULL), 0);
}

START_TEST(reset_by_keyboard_controller)
{
	open_reset(false);
	ck_assert_uint_eq(in(0x64, 1), 0);
	out(0x64, 1, 0xfe);
	ck_assert_uint_eq(resets, 1);
	out(0x64, 1, 0xff); /* pulses nothing */
	ck_assert_uint_eq(resets, 1);
	out(0x64, 1, 0xd1); /* the output port: A20 on, no reset */
	out(0x60, 1, 0xdf);
	ck_assert_uint_eq(resets, 1);
	out(0x64, 1, 0xd1);
	out(0x60, 1, 0x02);
	ck_assert_uint_eq(resets, 2);
	out(0x60, 1, 0x02); /* data for nobody */
	ck_assert_uint_eq(resets, 2);
	reset_free(reset);
}
END_TEST

START_TEST(keyboard_controller_at_rest)
{
	open_reset(false);
	out(0x64, 1, 0xaa);
	ck_assert_uint_eq(in(0x64, 1), 0x05);
	ck_assert_uint_eq(in(0x60, 1), 0x55);
	ck_assert_uint_eq(in(0x64, 1), 0x04);
	out(0x64, 1, 0x60);
	out(0x60, 1, 0x47);
	out(0x64, 1, 0x20);
	ck_assert_uint_eq(in(0x64, 1), 0x05);
	ck_assert_uint_eq(in(0x60, 1), 0x47);
	out(0x64, 1, 0xab);
	ck_assert_uint_eq(in(0x60, 1), 0x01);
	out(0x64, 1, 0xd0);
	ck_assert_uint_eq(in(0x60, 1), 0x03);
	ck_assert_uint_eq(resets, 0);
	reset_free(reset);
}
END_TEST

START_TEST(reset_by_control_register)
{
	open_reset(false);
	ck_assert_uint_eq(in(0xcf9, 1), 0);
	out(0xcf9, 1, 0x02);
	ck_assert_uint_eq(resets, 0);
	out(0xcf9, 1, 0x06);
	ck_assert_uint_eq(resets, 1);
	out(0xcf9, 1, 0x06); /* no edge */
	ck_assert_uint_eq(resets, 1);
	ck_assert_uint_eq(in(0xcf9, 1), 0x06);
	/* The PCI configuration address is another register at the same ports. */
	out(0xcf9, 1, 0);
	out(0xcf8, 4, 0x8000ffff);
	ck_assert_uint_eq(resets, 1);
	ck_assert_uint_eq(in(0xcfc, 4), 0xffffffff);
	reset_free(reset);
}
END_TEST

START_TEST(debug_exit)
{
	open_reset(false);
	out(0xf4, 1, 1);
	ck_assert_uint_eq(exits, 0);
	ck_assert_uint_eq(in(0xf4, 1), 0xff);
	reset_free(reset);
	open_reset(true);
	ck_assert_uint_eq(in(0xf4, 1), 0);
	out(0xf4, 1, 0x12);
	ck_assert_uint_eq(exits, 1);
	ck_assert_uint_eq(exit_value, 0x12);
	out(0xf4, 4, 0x12345678);
	ck_assert_uint_eq(exits, 2);
	ck_assert_uint_eq(exit_value, 0x12345678);
	ck_assert_uint_eq(resets, 0);
	reset_free(reset);
}
END_TEST

START_TEST(reset_state)
{
	struct reset_state st = {0}, got = {0};
	struct wbuf w;
	struct rbuf r;

	open_reset(false);
	out(0xcf9, 1, 0x02);
	out(0x64, 1, 0xaa);
	out(0x64, 1, 0xd1);
	reset_save(reset, &st);
	wbuf_init(&w, ORDER_LITTLE, 64);
	fields_encode(&w, &reset_table, &st);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	ck_assert_int_eq(fields_decode(&r, &reset_table, &got, NULL), 0);
	ck_assert(rbuf_done(&r));
	wbuf_free(&w);
	reset_free(reset);

	open_reset(false);
	ck_assert_int_eq(reset_check(&got, NULL), 0);
	reset_load(reset, &got);
	ck_assert_uint_eq(in(0xcf9, 1), 0x02);
	ck_assert_uint_eq(in(0x64, 1), 0x05);
	ck_assert_uint_eq(in(0x60, 1), 0x55);
	out(0x60, 1, 0x02); /* the byte that the command waits for */
	ck_assert_uint_eq(resets, 1);
	reset_free(reset);

	got.expect = 0xfe;
	ck_assert_int_eq(reset_check(&got, NULL), -EINVAL);
	got.expect = 0;
	got.output_full = 2;
	ck_assert_int_eq(reset_check(&got, NULL), -EINVAL);
}
END_TEST

SUITE("devices", bus_routes, bus_unclaimed, bus_refuses, cmos_tells_host_time, cmos_set_and_formats,
      cmos_garbage_time, cmos_memory_sizes, cmos_state, reset_by_keyboard_controller,
      keyboard_controller_at_rest, reset_by_control_register, debug_exit, reset_state)
