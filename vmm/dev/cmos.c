/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/cmos.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "mem/mem.h"
#include "vmm/dev/bytes.h"

enum {
	SECONDS = 0x00,
	MINUTES = 0x02,
	HOURS = 0x04,
	WEEKDAY = 0x06,
	DAY = 0x07,
	MONTH = 0x08,
	YEAR = 0x09,
	STATUS_A = 0x0a,
	STATUS_B = 0x0b,
	STATUS_C = 0x0c,
	STATUS_D = 0x0d,
	CENTURY = CMOS_CENTURY,
};

#define A_UIP       0x80
#define A_32KHZ     0x26 /* divider and rate as a PC's firmware sets them */
#define B_SET       0x80
#define B_BINARY    0x04
#define B_24H       0x02
#define D_VALID     0x80
#define HOUR_PM     0x80
#define UIP_NS      (244 * NS_PER_US)
#define OFFSET_MAX  (10000ll * 366 * 86400)
#define KIB_PER_MIB 1024ull

struct cmos {
	pthread_mutex_t lock; /* guards st */
	struct cmos_state st;
};

static const struct field cmos_fields[] = {
	FIELD(struct cmos_state, index, FIELD_U8),
	FIELD_RAW(struct cmos_state, bytes),
	FIELD(struct cmos_state, offset_s, FIELD_U64),
};
FIELD_TABLE(cmos_table, "cmos", 1, cmos_fields);

static bool is_time(uint8_t index)
{
	return index == SECONDS || index == MINUTES || index == HOURS ||
	       (index >= WEEKDAY && index <= YEAR) || index == CENTURY;
}

/* Numbers as register B wants them. */
static uint8_t to_rtc(const struct cmos_state *st, int n)
{
	return (uint8_t)(st->bytes[STATUS_B] & B_BINARY ? n : (n / 10 % 10) << 4 | n % 10);
}

static int from_rtc(const struct cmos_state *st, uint8_t b)
{
	return st->bytes[STATUS_B] & B_BINARY ? b : (b >> 4) * 10 + (b & 15);
}

static uint8_t hour_to_rtc(const struct cmos_state *st, int hour)
{
	int h12 = hour % 12 ? hour % 12 : 12;

	if (st->bytes[STATUS_B] & B_24H)
		return to_rtc(st, hour);
	return (uint8_t)(to_rtc(st, h12) | (hour >= 12 ? HOUR_PM : 0));
}

static int hour_from_rtc(const struct cmos_state *st, uint8_t b)
{
	if (st->bytes[STATUS_B] & B_24H)
		return from_rtc(st, b);
	return from_rtc(st, b & (uint8_t)~HOUR_PM) % 12 + (b & HOUR_PM ? 12 : 0);
}

static void time_to_bytes(struct cmos_state *st)
{
	time_t now = (time_t)(clock_real_ns() / NS_PER_SEC) + (time_t)st->offset_s;
	struct tm tm;

	if (!gmtime_r(&now, &tm))
		return;
	st->bytes[SECONDS] = to_rtc(st, tm.tm_sec);
	st->bytes[MINUTES] = to_rtc(st, tm.tm_min);
	st->bytes[HOURS] = hour_to_rtc(st, tm.tm_hour);
	st->bytes[WEEKDAY] = to_rtc(st, tm.tm_wday + 1);
	st->bytes[DAY] = to_rtc(st, tm.tm_mday);
	st->bytes[MONTH] = to_rtc(st, tm.tm_mon + 1);
	st->bytes[YEAR] = to_rtc(st, (tm.tm_year % 100 + 100) % 100);
	st->bytes[CENTURY] = to_rtc(st, (tm.tm_year + 1900) / 100 % 100);
}

/* Whatever the guest wrote becomes some time: timegm() carries what is out of range. */
static void time_from_bytes(struct cmos_state *st)
{
	struct tm tm = {
		.tm_sec = from_rtc(st, st->bytes[SECONDS]),
		.tm_min = from_rtc(st, st->bytes[MINUTES]),
		.tm_hour = hour_from_rtc(st, st->bytes[HOURS]),
		.tm_mday = from_rtc(st, st->bytes[DAY]),
		.tm_mon = from_rtc(st, st->bytes[MONTH]) - 1,
		.tm_year = from_rtc(st, st->bytes[CENTURY]) * 100 + from_rtc(st, st->bytes[YEAR]) -
			   1900,
	};
	int64_t offset = (int64_t)timegm(&tm) - (int64_t)(clock_real_ns() / NS_PER_SEC);

	if (offset > -OFFSET_MAX && offset < OFFSET_MAX)
		st->offset_s = (uint64_t)offset;
}

static uint8_t read_byte(struct cmos_state *st)
{
	bool frozen = st->bytes[STATUS_B] & B_SET;

	if (is_time(st->index) && !frozen)
		time_to_bytes(st);
	if (st->index == STATUS_A && !frozen && clock_real_ns() % NS_PER_SEC > NS_PER_SEC - UIP_NS)
		return st->bytes[STATUS_A] | A_UIP;
	return st->bytes[st->index];
}

static void write_status_b(struct cmos_state *st, uint8_t value)
{
	bool was_frozen = st->bytes[STATUS_B] & B_SET, freeze = value & B_SET;

	/* The time that a guest wrote is in the format of the register as it is when SET ends. */
	if (freeze && !was_frozen)
		time_to_bytes(st);
	st->bytes[STATUS_B] = value;
	if (!freeze && was_frozen)
		time_from_bytes(st);
}

static void write_byte(struct cmos_state *st, uint8_t value)
{
	bool frozen = st->bytes[STATUS_B] & B_SET;

	switch (st->index) {
	case STATUS_A:
		st->bytes[STATUS_A] = value & (uint8_t)~A_UIP;
		return;
	case STATUS_B:
		write_status_b(st, value);
		return;
	case STATUS_C:
	case STATUS_D:
		return;
	default:
		break;
	}
	if (!is_time(st->index) || frozen) {
		st->bytes[st->index] = value;
		return;
	}
	time_to_bytes(st);
	st->bytes[st->index] = value;
	time_from_bytes(st);
}

static uint8_t cmos_in_byte(void *dev, uint16_t port)
{
	struct cmos *c = dev;
	uint8_t value = 0xff; /* the index cannot be read back */

	pthread_mutex_lock(&c->lock);
	if (port != CMOS_PORT)
		value = read_byte(&c->st);
	pthread_mutex_unlock(&c->lock);
	return value;
}

static void cmos_out_byte(void *dev, uint16_t port, uint8_t value)
{
	struct cmos *c = dev;

	pthread_mutex_lock(&c->lock);
	if (port == CMOS_PORT)
		c->st.index =
			value % CMOS_BYTES; /* the top bit masks NMIs, of which there are none */
	else
		write_byte(&c->st, value);
	pthread_mutex_unlock(&c->lock);
}

static uint32_t cmos_in(void *dev, uint16_t port, unsigned size)
{
	return io_in_bytes(cmos_in_byte, dev, port, size);
}

static void cmos_out(void *dev, uint16_t port, unsigned size, uint32_t value)
{
	io_out_bytes(cmos_out_byte, dev, port, size, value);
}

static const struct io_ops cmos_ops = {.in = cmos_in, .out = cmos_out};

static void put_size(uint8_t *at, uint64_t value, uint64_t max)
{
	if (value > max)
		value = max;
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
	if (max > 0xffff)
		at[2] = (uint8_t)(value >> 16);
}

/* Where a PC's firmware leaves the size of RAM. */
static void put_mem_sizes(uint8_t *bytes, uint64_t mem_bytes)
{
	uint64_t low = mem_bytes < MEM_HOLE_START ? mem_bytes : MEM_HOLE_START;
	uint64_t low_kib = low >> 10, high = mem_bytes - low;
	uint64_t above_16m_kib = low_kib > 16 * KIB_PER_MIB ? low_kib - 16 * KIB_PER_MIB : 0;

	put_size(bytes + 0x15, 640, 0xffff);
	put_size(bytes + 0x17, low_kib - KIB_PER_MIB, 0xffff); /* KiB above 1 MiB, twice */
	put_size(bytes + 0x30, low_kib - KIB_PER_MIB, 0xffff);
	put_size(bytes + 0x34, above_16m_kib / 64, 0xffff);
	put_size(bytes + 0x5b, high >> 16, 0xffffff);
}

int cmos_new(struct cmos **out, struct io_bus *bus, uint64_t mem_bytes, struct err *e)
{
	struct cmos *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, ENOMEM, "out of memory for the real-time clock");
	rc = io_bus_add(bus, CMOS_PORT, 2, &cmos_ops, c);
	if (rc) {
		free(c);
		return err_sys(e, -rc, "cannot claim the real-time clock's I/O ports");
	}
	c->st.bytes[STATUS_A] = A_32KHZ;
	c->st.bytes[STATUS_B] = B_24H;
	c->st.bytes[STATUS_D] = D_VALID;
	put_mem_sizes(c->st.bytes, mem_bytes);
	(void)pthread_mutex_init(&c->lock, NULL);
	*out = c;
	return 0;
}

void cmos_free(struct cmos *c)
{
	if (!c)
		return;
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
}

void cmos_save(struct cmos *c, struct cmos_state *out)
{
	pthread_mutex_lock(&c->lock);
	*out = c->st;
	pthread_mutex_unlock(&c->lock);
}

int cmos_check(const struct cmos_state *st, struct err *e)
{
	int64_t offset = (int64_t)st->offset_s;

	if (st->index >= CMOS_BYTES)
		return err_set(e, EINVAL, "the real-time clock's state cannot be: index is %u",
			       st->index);
	if (offset <= -OFFSET_MAX || offset >= OFFSET_MAX)
		return err_set(e, EINVAL,
			       "the real-time clock's state cannot be: it is %lld seconds off",
			       (long long)offset);
	return 0;
}

void cmos_load(struct cmos *c, const struct cmos_state *st)
{
	pthread_mutex_lock(&c->lock);
	c->st = *st;
	pthread_mutex_unlock(&c->lock);
}
