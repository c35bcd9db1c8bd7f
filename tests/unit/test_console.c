/* SPDX-License-Identifier: Apache-2.0 */
/* The console: no byte lost, none doubled. */
#include <check.h>
#include <string.h>

#include <linux/virtio_config.h>

#include "tests/support/suite.h"
#include "tests/unit/support/vdriver.h"
#include "virtio/console.h"

#define EVENT_IDX VDEV_F(VIRTIO_RING_F_EVENT_IDX)
#define RX        0
#define TX        1
#define BUF       VDRV_BUFFER_GPA

static struct vdrv v;
static struct console *con;

/* The back-end: keeps what it got, and takes no more than `room` bytes. */
static struct {
	uint8_t got[1 << 20];
	size_t n, room;
	unsigned wanted;
} be;

static size_t output(void *ctx, const uint8_t *data, size_t len)
{
	size_t n = len < be.room ? len : be.room;

	(void)ctx;
	ck_assert_uint_le(be.n + n, sizeof(be.got));
	memcpy(be.got + be.n, data, n);
	be.n += n;
	be.room -= n;
	return n;
}

static void want_input(void *ctx)
{
	(void)ctx;
	be.wanted++;
}

static struct console *make(void)
{
	const struct console_backend backend = {.output = output, .want_input = want_input};
	struct vdev_host host = vdrv_host(&v);
	struct console *c;

	ck_assert_int_eq(console_new(&c, &host, &backend, NULL), 0);
	return c;
}

static void setup(void)
{
	vdrv_setup(&v);
	memset(&be, 0, sizeof(be));
	be.room = SIZE_MAX;
	con = make();
	vdrv_attach(&v, console_vdev(con));
	vdrv_log_begin();
}

static void teardown(void)
{
	console_free(con);
	vdrv_teardown(&v);
}

static void move(void)
{
	struct console *other = make();

	vdrv_move(&v, console_vdev(other));
	console_free(con);
	con = other;
}

static uint8_t *fill(uint64_t gpa, size_t len)
{
	uint8_t *at = vdrv_ram(&v, gpa, len);

	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)(i * 31 + i / 251);
	return at;
}

START_TEST(output_of_any_shape)
{
	uint8_t *text = fill(BUF, 300000);
	struct vdrv_part p[] = {
		{BUF, 5, false}, {BUF + 5, 8000, false}, {BUF + 8005, 291995, false}};

	vdrv_start(&v, EVENT_IDX, 2);
	ck_assert_uint_eq(vdrv_call(&v, TX, p, 3), 0);
	ck_assert_uint_eq(be.n, 300000);
	ck_assert_mem_eq(be.got, text, 300000);
}
END_TEST

START_TEST(slow_backend)
{
	uint8_t *text = fill(BUF, 100000);
	struct vdrv_part p[] = {{BUF, 60000, false}, {BUF + 60000, 40000, false}};
	uint32_t id, len;

	be.room = 0;
	vdrv_start(&v, EVENT_IDX, 2);
	vdrv_add(&v, TX, &p[0], 1);
	vdrv_add(&v, TX, &p[1], 1);
	vdrv_kick(&v, TX);
	vdrv_run(&v);
	ck_assert_uint_eq(be.n, 0);
	for (size_t sent = 0; sent < 100000; sent += 777) {
		/* Doorbells and moves in between change nothing. */
		if (sent % 5 == 0)
			vdrv_kick(&v, TX);
		if (sent / 777 % 10 == 3)
			move();
		ck_assert_uint_eq(be.n, sent);
		be.room = 777;
		console_drained(con);
		vdrv_run(&v);
	}
	ck_assert_uint_eq(be.n, 100000);
	ck_assert_mem_eq(be.got, text, 100000);
	ck_assert(vdrv_used(&v, TX, &id, &len) && vdrv_used(&v, TX, &id, &len));
}
END_TEST

START_TEST(reset_drops_half_a_buffer)
{
	struct vdrv_part p = {BUF, 1000, false};
	uint8_t *text = fill(BUF, 1000);

	be.room = 10;
	vdrv_start(&v, EVENT_IDX, 2);
	vdrv_add(&v, TX, &p, 1);
	vdrv_kick(&v, TX);
	vdrv_run(&v);
	be.room = SIZE_MAX;
	vdrv_start(&v, EVENT_IDX, 2);
	console_drained(con);
	vdrv_run(&v);
	ck_assert_uint_eq(be.n, 10);
	(void)vdrv_call(&v, TX, &p, 1);
	ck_assert_uint_eq(be.n, 1010);
	ck_assert_mem_eq(be.got + 10, text, 1000);
}
END_TEST

START_TEST(buffer_shrinks_while_it_waits)
{
	struct vdrv_part p = {BUF, 1000, false};
	uint32_t id, len;

	be.room = 500;
	vdrv_start(&v, EVENT_IDX, 2);
	vdrv_add(&v, TX, &p, 1);
	vdrv_kick(&v, TX);
	vdrv_run(&v);
	v.q[TX].desc[0].len = 20;
	be.room = SIZE_MAX;
	console_drained(con);
	vdrv_run(&v);
	ck_assert_uint_eq(be.n, 500);
	ck_assert(vdrv_used(&v, TX, &id, &len));
	(void)vdrv_call(&v, TX, &p, 1);
	ck_assert_uint_eq(be.n, 1500);
}
END_TEST

START_TEST(input)
{
	struct vdrv_part p[] = {{BUF, 4, true}, {BUF + 0x1000, 8, true}};
	uint32_t id, len;
	unsigned wanted;

	ck_assert_uint_eq(console_room(con), 0);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"x", 1), 0);
	vdrv_start(&v, EVENT_IDX, 2);
	ck_assert_uint_eq(console_room(con), 0);
	wanted = be.wanted;
	vdrv_add(&v, RX, &p[0], 1);
	vdrv_kick(&v, RX);
	vdrv_run(&v);
	ck_assert_uint_eq(be.wanted, wanted + 1);
	ck_assert_uint_eq(console_room(con), 4);
	vdrv_clear_marks(&v);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"abcdef", 6), 4);
	ck_assert(vdrv_marked(&v, BUF));
	ck_assert(vdrv_used(&v, RX, &id, &len));
	ck_assert_uint_eq(len, 4);
	ck_assert_mem_eq(vdrv_ram(&v, BUF, 4), "abcd", 4);
	ck_assert(v.irq.level);
	vdrv_add(&v, RX, p, 2);
	vdrv_kick(&v, RX);
	vdrv_run(&v);
	ck_assert_uint_eq(be.wanted, wanted + 2);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"ef", 2), 2);
	ck_assert(vdrv_used(&v, RX, &id, &len));
	ck_assert_uint_eq(len, 2);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"x", 1), 0);
}
END_TEST

START_TEST(input_waits_for_the_other_side)
{
	struct vdrv_part p = {BUF, 16, true};
	unsigned wanted;

	vdrv_start(&v, EVENT_IDX, 2);
	vdrv_add(&v, RX, &p, 1);
	vdrv_kick(&v, RX);
	vdrv_run(&v);
	ck_assert_int_eq(vdev_pause(v.dev, NULL), 0);
	ck_assert_uint_eq(console_room(con), 0);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"x", 1), 0);
	wanted = be.wanted;
	move();
	ck_assert_uint_gt(be.wanted, wanted);
	ck_assert_uint_eq(console_room(con), 16);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"x", 1), 1);
}
END_TEST

START_TEST(wrong_directions)
{
	struct vdrv_part in = {BUF, 16, true}, out = {BUF, 16, false};

	vdrv_start(&v, EVENT_IDX, 2);
	/* Output without output is just empty. */
	(void)vdrv_call(&v, TX, &in, 1);
	ck_assert_uint_eq(be.n, 0);
	vdrv_add(&v, RX, &out, 1);
	vdrv_kick(&v, RX);
	vdrv_run(&v);
	ck_assert_uint_eq(console_input(con, (const uint8_t *)"x", 1), 0);
	ck_assert(vdrv_broken(&v));
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	/* Broken devices move, too. */
	move();
	ck_assert(vdrv_broken(&v));
}
END_TEST

SUITE_WITH("console", setup, teardown, output_of_any_shape, slow_backend, reset_drops_half_a_buffer,
	   buffer_shrinks_while_it_waits, input, input_waits_for_the_other_side, wrong_directions)
