/* SPDX-License-Identifier: Apache-2.0 */
/* Free page hints of drivers that are honest, late, wrong, or never stop. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/support/suite.h"
#include "tests/unit/support/balloon_fixture.h"

#define HINT_Q 2

static struct {
	unsigned n;
	uint64_t gpa, len, bytes;
} hints;

static void on_hint(void *ctx, uint64_t gpa, uint64_t len)
{
	ck_assert_ptr_eq(ctx, &hints);
	ck_assert_uint_eq(gpa % PAGE, 0);
	ck_assert_uint_eq(len % PAGE, 0);
	hints.n++;
	hints.gpa = gpa;
	hints.len = len;
	hints.bytes += len;
}

static void say(uint32_t word)
{
	struct vdrv_part p = {BUF, 4, false};

	memcpy(vdrv_ram(&bv, BUF, 4), &word, 4);
	ck_assert_uint_eq(vdrv_call(&bv, HINT_Q, &p, 1), 0);
}

static void give(uint64_t gpa, uint32_t len)
{
	struct vdrv_part p = {gpa, len, true};

	ck_assert_uint_eq(vdrv_call(&bv, HINT_Q, &p, 1), 0);
}

static uint32_t begin_round(void)
{
	memset(&hints, 0, sizeof(hints));
	ck_assert_int_eq(balloon_hint_start(bb, on_hint, &hints), 0);
	return vdrv_config(&bv, 8, 4);
}

START_TEST(round_of_hints)
{
	uint32_t id, old;

	ck_assert_int_eq(balloon_hint_start(bb, on_hint, &hints), -ENODEV);
	balloon_hint_stop(bb);
	balloon_hint_done(bb);
	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_STOP);
	ck_assert(balloon_hint_ended(bb));
	id = begin_round();
	ck_assert_uint_ge(id, 2);
	ck_assert_uint_eq(vdrv_in(&bv, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	ck_assert_int_eq(balloon_hint_start(bb, on_hint, &hints), -EBUSY);
	vdrv_clear_marks(&bv);
	say(id);
	give(PAGES, 4 << 20);
	ck_assert_uint_eq(hints.n, 1);
	ck_assert_uint_eq(hints.gpa, PAGES);
	ck_assert_uint_eq(hints.len, 4 << 20);
	/* Only whole pages count, and hinted pages are not touched. */
	give(PAGES + 100, 2 * PAGE);
	ck_assert_uint_eq(hints.gpa, PAGES + PAGE);
	ck_assert_uint_eq(hints.len, PAGE);
	give(PAGES + 100, PAGE);
	ck_assert_uint_eq(hints.n, 2);
	ck_assert(!vdrv_marked(&bv, PAGES));
	ck_assert(!balloon_hint_ended(bb));
	say(VIRTIO_BALLOON_CMD_ID_STOP);
	ck_assert(balloon_hint_ended(bb));
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 2);
	balloon_hint_stop(bb);
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_STOP);
	/* Another round has another id. */
	old = id;
	id = begin_round();
	ck_assert_uint_ne(id, old);
	say(id);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 1);
	balloon_hint_done(bb);
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_DONE);
	balloon_hint_stop(bb);
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_DONE);
	ck_assert(!vdrv_broken(&bv));
}
END_TEST

START_TEST(hints_of_other_rounds_are_dropped)
{
	uint32_t first, id;

	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	/* Before any. */
	say(2);
	give(PAGES, PAGE);
	first = begin_round();
	/* Not announced. */
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 0);
	balloon_hint_stop(bb);
	id = begin_round();
	/* The old round, late. */
	say(first);
	give(PAGES, PAGE);
	say(VIRTIO_BALLOON_CMD_ID_STOP);
	ck_assert_uint_eq(hints.n, 0);
	ck_assert(!balloon_hint_ended(bb));
	say(id + 1);
	give(PAGES, PAGE);
	say(VIRTIO_BALLOON_CMD_ID_DONE);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 0);
	/* The right one, then a foreign one in its middle. */
	say(id);
	give(PAGES, PAGE);
	say(first);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 1);
	say(id);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 2);
	/* After the end. */
	balloon_hint_stop(bb);
	say(id);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 2);
	ck_assert(!vdrv_broken(&bv));
	ck_assert_uint_eq(vdrv_log_lines(), 0);
}
END_TEST

START_TEST(malformed_hints)
{
	struct vdrv_part both[] = {{BUF, 4, false}, {PAGES, PAGE, true}};
	struct vdrv_part wrong[] = {{BUF, 3, false}, {BUF, 5, false}, {0, VDRV_RAM_BYTES, false}};
	struct vdrv_part outside = {VDRV_RAM_BYTES - PAGE, 2 * PAGE, true};
	uint32_t id;

	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	id = begin_round();
	memcpy(vdrv_ram(&bv, BUF, 4), &id, 4);
	for (unsigned i = 0; i < 3; i++)
		(void)vdrv_call(&bv, HINT_Q, &wrong[i], 1);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 0);
	/* Word and page in one buffer are fine. */
	(void)vdrv_call(&bv, HINT_Q, both, 2);
	ck_assert_uint_eq(hints.n, 1);
	/* Outside RAM breaks the device, and no more. */
	vdrv_add(&bv, HINT_Q, &outside, 1);
	vdrv_kick(&bv, HINT_Q);
	vdrv_run(&bv);
	ck_assert(vdrv_broken(&bv));
	ck_assert(balloon_hint_ended(bb));
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	balloon_hint_done(bb);
	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	id = begin_round();
	say(id);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 1);
}
END_TEST

START_TEST(reset_in_a_round)
{
	uint32_t id, old;

	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	id = old = begin_round();
	say(id);
	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	ck_assert(balloon_hint_ended(bb));
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_STOP);
	say(id);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 0);
	balloon_hint_stop(bb);
	id = begin_round();
	ck_assert_uint_ne(id, old);
	say(id);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 1);
}
END_TEST

START_TEST(moves_in_a_round)
{
	uint32_t id, old;

	vdrv_start(&bv, EVENT_IDX | HINT | STATS, 4);
	balloon_move();
	/* Nothing was asked, nothing is to be taken back. */
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_STOP);
	vdrv_start(&bv, EVENT_IDX | HINT, 3);
	vdrv_set_config(&bv, 4, 4, 77);
	ck_assert_int_eq(balloon_set_target(bb, VDRV_RAM_BYTES / 2), 0);
	id = old = begin_round();
	say(id);
	give(PAGES, PAGE);
	vdrv_out(&bv, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	balloon_move();
	ck_assert_uint_eq(vdrv_config(&bv, 8, 4), VIRTIO_BALLOON_CMD_ID_DONE);
	ck_assert(vdrv_in(&bv, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	ck_assert_uint_eq(vdrv_config(&bv, 0, 4), VDRV_RAM_BYTES / 2 / PAGE);
	ck_assert_uint_eq(balloon_actual_bytes(bb), VDRV_RAM_BYTES - 77 * PAGE);
	give(PAGES, PAGE);
	ck_assert_uint_eq(hints.n, 1);
	id = begin_round();
	ck_assert_uint_ne(id, old);
}
END_TEST

/* A driver that hints for ever: the queue is never empty. Its RAM is all of the first chain. */
static void *endless_io(void *arg)
{
	(void)arg;
	(void)loop_run(bv.loop);
	return NULL;
}

static _Atomic bool guest_stops;

static void *endless_guest(void *arg)
{
	struct vdrv_queue *q = &bv.q[HINT_Q];

	(void)arg;
	for (unsigned i = 0; i < 64; i++) {
		q->desc[i] = (struct vring_desc){PAGES, PAGE, VRING_DESC_F_WRITE, 0};
		q->avail[2 + i] = (uint16_t)i;
	}
	while (!guest_stops) {
		uint16_t used = __atomic_load_n(&q->used16[1], __ATOMIC_ACQUIRE);

		__atomic_store_n(&q->avail[1], (uint16_t)(used + 64), __ATOMIC_RELEASE);
		vdrv_kick(&bv, HINT_Q);
	}
	return NULL;
}

START_TEST(endless_hints_delay_nobody)
{
	pthread_t io, guest;
	uint64_t worst = 0;
	uint32_t id;

	vdrv_start(&bv, HINT, 3);
	id = begin_round();
	say(id);
	ck_assert_int_eq(pthread_create(&io, NULL, endless_io, NULL), 0);
	ck_assert_int_eq(pthread_create(&guest, NULL, endless_guest, NULL), 0);
	(void)usleep(50000);
	for (int i = 0; i < 200; i++) {
		uint64_t t = clock_mono_ns();
		unsigned n;

		balloon_hint_stop(bb);
		t = clock_mono_ns() - t;
		worst = t > worst ? t : worst;
		n = hints.n;
		(void)usleep(200);
		ck_assert_uint_eq(hints.n, n);
		ck_assert_int_eq(balloon_hint_start(bb, on_hint, &hints), 0);
	}
	balloon_hint_done(bb);
	ck_assert_int_eq(vdev_pause(bv.dev, NULL), 0);
	guest_stops = true;
	ck_assert_int_eq(pthread_join(guest, NULL), 0);
	loop_quit(bv.loop);
	ck_assert_int_eq(pthread_join(io, NULL), 0);
	/* Far more than a batch takes, and far less than losing the lock for good. */
	ck_assert_uint_lt(worst, 2 * NS_PER_SEC);
}
END_TEST

SUITE_WITH("balloon_hint", balloon_setup, balloon_teardown, round_of_hints,
	   hints_of_other_rounds_are_dropped, malformed_hints, reset_in_a_round, moves_in_a_round,
	   endless_hints_delay_nobody)
