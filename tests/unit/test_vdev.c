/* SPDX-License-Identifier: Apache-2.0 */
/* Transport and life of a virtio device, with the entropy device as the example. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "tests/support/suite.h"
#include "tests/unit/support/vdriver.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"

#define V1        VDEV_F(VIRTIO_F_VERSION_1)
#define EVENT_IDX VDEV_F(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  VDEV_F(VIRTIO_RING_F_INDIRECT_DESC)
#define STATUS    VIRTIO_MMIO_STATUS

static struct vdrv v;
static struct rng *rng;

static struct rng *make_rng(void)
{
	struct vdev_host host = vdrv_host(&v);
	struct rng *r;

	ck_assert_int_eq(rng_new(&r, &host, NULL), 0);
	return r;
}

static void setup(void)
{
	vdrv_setup(&v);
	rng = make_rng();
	vdrv_attach(&v, rng_vdev(rng));
	vdrv_log_begin();
}

static void teardown(void)
{
	rng_free(rng);
	vdrv_teardown(&v);
}

/* Random bytes come. */
static void expect_works(void)
{
	static const uint8_t zero[32];
	struct vdrv_part p = {VDRV_BUFFER_GPA, 32, true};
	unsigned irqs = v.irq.raised;

	memset(vdrv_ram(&v, VDRV_BUFFER_GPA, 32), 0, 32);
	vdrv_clear_marks(&v);
	ck_assert_uint_eq(vdrv_call(&v, 0, &p, 1), 32);
	ck_assert_mem_ne(vdrv_ram(&v, VDRV_BUFFER_GPA, 32), zero, 32);
	ck_assert(vdrv_marked(&v, VDRV_BUFFER_GPA));
	ck_assert_uint_gt(v.irq.raised, irqs);
	ck_assert(vdrv_in(&v, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_VRING);
	vdrv_out(&v, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	ck_assert(!v.irq.level);
}

START_TEST(identity)
{
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_VERSION), 2);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_DEVICE_ID), 4);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
	ck_assert_uint_eq(vdrv_offered(&v), V1 | EVENT_IDX | INDIRECT);
	vdrv_out(&v, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, 1);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, 0);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
}
END_TEST

START_TEST(works)
{
	vdrv_start(&v, EVENT_IDX | INDIRECT, 1);
	expect_works();
	expect_works();
	vdrv_start(&v, 0, 1);
	expect_works();
	ck_assert_uint_eq(vdrv_log_lines(), 0);
}
END_TEST

START_TEST(legacy_refused)
{
	ck_assert(!vdrv_negotiate(&v, 0));
	vdrv_out(&v, VIRTIO_MMIO_GUEST_PAGE_SIZE, 4096);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_NUM, 64);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_ALIGN, 4096);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_PFN, 0x100);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_PFN), 0);
	vdrv_out(&v, STATUS, 7);
	ck_assert(vdrv_broken(&v));
	ck_assert(!(vdrv_in(&v, STATUS) & VIRTIO_CONFIG_S_DRIVER_OK));
	vdrv_kick(&v, 0);
	vdrv_run(&v);
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	/* A proper driver may still follow. */
	vdrv_start(&v, EVENT_IDX, 1);
	expect_works();
}
END_TEST

START_TEST(unoffered_feature_refused)
{
	ck_assert(!vdrv_negotiate(&v, V1 | 1));
	ck_assert(vdrv_negotiate(&v, V1));
	/* Settled. */
	vdrv_out(&v, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	vdrv_out(&v, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	vdrv_out(&v, STATUS, 0xf);
	ck_assert_uint_eq(vdrv_in(&v, STATUS), 0xf);
}
END_TEST

START_TEST(odd_accesses)
{
	static const unsigned sizes[] = {1, 2, 4, 8, 3, 0};

	vdrv_start(&v, EVENT_IDX, 1);
	for (unsigned s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		for (uint64_t o = 0; o < 0x200; o++) {
			uint64_t got = vdev_mmio_read(v.dev, o, sizes[s]);

			if (sizes[s] != 4 || o % 4)
				ck_assert_uint_eq(got, 0);
			/* No write below 4 bytes does anything; the rest are no registers. */
			if (sizes[s] != 4 || o % 4 || o >= 0x100)
				vdev_mmio_write(v.dev, o, sizes[s], UINT64_MAX);
		}
	}
	(void)vdev_mmio_read(v.dev, UINT64_MAX, 8);
	vdev_mmio_write(v.dev, UINT64_MAX, 8, 1);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_NOTIFY, UINT32_MAX);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, UINT32_MAX);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_READY, 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_NUM, 3);
	expect_works();
}
END_TEST

START_TEST(queue_registers_rest_while_ready)
{
	vdrv_start(&v, EVENT_IDX, 1);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_NUM, 3);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_DESC_LOW, 1);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_USED_HIGH, 1);
	expect_works();
}
END_TEST

START_TEST(bad_queue_setup)
{
	static const struct {
		uint32_t reg, value;
	} wrong[] = {
		{VIRTIO_MMIO_QUEUE_NUM, 0},
		{VIRTIO_MMIO_QUEUE_NUM, 65536 + 64},
		{VIRTIO_MMIO_QUEUE_NUM, 48},
		{VIRTIO_MMIO_QUEUE_NUM, 128},
		{VIRTIO_MMIO_QUEUE_DESC_LOW, 8},
		{VIRTIO_MMIO_QUEUE_DESC_HIGH, 1},
		{VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 1u << 31},
		{VIRTIO_MMIO_QUEUE_USED_LOW, VDRV_RAM_BYTES - 4},
	};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		vdrv_log_begin();
		vdrv_start(&v, 0, 1);
		vdrv_out(&v, VIRTIO_MMIO_QUEUE_READY, 0);
		ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_READY), 0);
		vdrv_out(&v, wrong[i].reg, wrong[i].value);
		vdrv_out(&v, VIRTIO_MMIO_QUEUE_READY, 1);
		ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_READY), 0);
		ck_assert(vdrv_broken(&v));
		ck_assert_uint_eq(vdrv_log_lines(), 1);
	}
	/* A device does not talk for ever. */
	vdrv_log_begin();
	vdrv_start(&v, 0, 1);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_READY, 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_NUM, 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_READY, 1);
	ck_assert(vdrv_broken(&v));
	ck_assert_uint_eq(vdrv_log_lines(), 0);
	vdrv_start(&v, 0, 1);
	expect_works();
}
END_TEST

START_TEST(bad_chain_breaks_the_device_only)
{
	struct vdrv_part p = {VDRV_RAM_BYTES, 64, true};
	uint32_t id, len;

	vdrv_start(&v, EVENT_IDX, 1);
	vdrv_add(&v, 0, &p, 1);
	p.gpa = VDRV_BUFFER_GPA;
	vdrv_add(&v, 0, &p, 1);
	for (int i = 0; i < 5; i++) {
		vdrv_kick(&v, 0);
		vdrv_run(&v);
	}
	ck_assert(vdrv_broken(&v));
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	ck_assert(!vdrv_used(&v, 0, &id, &len));
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	/* The bit is not the driver's to clear, short of a reset. */
	vdrv_out(&v, STATUS, 0xf);
	ck_assert(vdrv_broken(&v));
	vdrv_start(&v, EVENT_IDX, 1);
	expect_works();
}
END_TEST

START_TEST(reset_at_any_step)
{
	/* Stop after each step of the start, reset, and start again. */
	for (int step = 0; step < 6; step++) {
		struct vdrv_part p = {VDRV_BUFFER_GPA, 32, true};

		if (step == 1)
			vdrv_out(&v, STATUS, 1);
		if (step == 2)
			(void)vdrv_negotiate(&v, V1);
		if (step >= 3)
			vdrv_start(&v, EVENT_IDX, 1);
		if (step >= 4)
			vdrv_add(&v, 0, &p, 1);
		if (step >= 5)
			vdrv_kick(&v, 0); /* rings, and is not answered before the reset */
		vdrv_out(&v, STATUS, 0);
		ck_assert_uint_eq(vdrv_in(&v, STATUS), 0);
		ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
		vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, 0);
		ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_READY), 0);
		vdrv_run(&v);
		vdrv_start(&v, EVENT_IDX, 1);
		expect_works();
	}
}
END_TEST

START_TEST(notified_before_driver_ok)
{
	struct vdrv_part p = {VDRV_BUFFER_GPA, 32, true};
	uint32_t id, len;

	ck_assert(vdrv_negotiate(&v, V1));
	vdrv_queue_up(&v, 0, 64);
	vdrv_add(&v, 0, &p, 1);
	vdrv_kick(&v, 0);
	vdrv_run(&v);
	ck_assert(!vdrv_used(&v, 0, &id, &len));
	vdrv_out(&v, STATUS, 0xf);
	vdrv_run(&v);
	ck_assert(vdrv_used(&v, 0, &id, &len));
}
END_TEST

START_TEST(failed_driver_is_left_alone)
{
	struct vdrv_part p = {VDRV_BUFFER_GPA, 32, true};
	uint32_t id, len;

	vdrv_start(&v, 0, 1);
	vdrv_out(&v, STATUS, 0x8f);
	vdrv_add(&v, 0, &p, 1);
	vdrv_kick(&v, 0);
	vdrv_run(&v);
	ck_assert(!vdrv_used(&v, 0, &id, &len));
}
END_TEST

START_TEST(paused_device_rests)
{
	struct vdrv_part p = {VDRV_BUFFER_GPA, 32, true};
	uint32_t id, len;

	vdrv_start(&v, EVENT_IDX, 1);
	ck_assert_int_eq(vdev_pause(v.dev, NULL), 0);
	vdrv_add(&v, 0, &p, 1);
	vdrv_kick(&v, 0);
	vdrv_clear_marks(&v);
	vdrv_run(&v);
	ck_assert(!vdrv_used(&v, 0, &id, &len));
	ck_assert(!vdrv_marked(&v, VDRV_BUFFER_GPA));
	vdev_resume(v.dev);
	vdrv_run(&v);
	ck_assert(vdrv_used(&v, 0, &id, &len));
}
END_TEST

START_TEST(moves_in_the_middle)
{
	struct vdrv_part p = {VDRV_BUFFER_GPA, 32, true};
	uint32_t id, len;
	struct rng *other;

	vdrv_start(&v, EVENT_IDX | INDIRECT, 1);
	expect_works();
	for (int i = 0; i < 4; i++) {
		/* A doorbell that rang at the old place only, and an interrupt not taken yet. */
		other = make_rng();
		vdrv_add(&v, 0, &p, 1);
		vdrv_run(&v);
		ck_assert_int_eq(vdev_pause(v.dev, NULL), 0);
		vdrv_kick(&v, 0);
		vdrv_move(&v, rng_vdev(other));
		rng_free(rng);
		rng = other;
		ck_assert(vdrv_used(&v, 0, &id, &len));
		ck_assert_uint_eq(len, 32);
		ck_assert(!vdrv_used(&v, 0, &id, &len));
		ck_assert(v.irq.level);
		expect_works();
	}
}
END_TEST

START_TEST(moves_half_negotiated)
{
	struct rng *other = make_rng();

	ck_assert(vdrv_negotiate(&v, V1 | EVENT_IDX));
	vdrv_queue_up(&v, 0, 32);
	vdrv_out(&v, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	vdrv_move(&v, rng_vdev(other));
	rng_free(rng);
	rng = other;
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_DEVICE_FEATURES), 1);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_READY), 1);
	vdrv_out(&v, STATUS, 0xf);
	expect_works();
}
END_TEST

START_TEST(moves_broken)
{
	struct vdrv_part p = {VDRV_RAM_BYTES, 64, true};
	struct rng *other = make_rng();

	vdrv_start(&v, EVENT_IDX, 1);
	vdrv_add(&v, 0, &p, 1);
	vdrv_kick(&v, 0);
	vdrv_run(&v);
	ck_assert(vdrv_broken(&v));
	vdrv_move(&v, rng_vdev(other));
	rng_free(rng);
	rng = other;
	ck_assert(vdrv_broken(&v));
	vdrv_start(&v, EVENT_IDX, 1);
	expect_works();
}
END_TEST

static void expect_state_refused(const struct rng_state *st)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(vdev_check(v.dev, st, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "virtio-rng"));
}

START_TEST(bad_states_refused)
{
	struct rng_state good, st;

	vdrv_start(&v, EVENT_IDX, 1);
	ck_assert_int_eq(vdev_pause(v.dev, NULL), 0);
	vdev_save(v.dev, &good);
	ck_assert_int_eq(vdev_check(v.dev, &good, NULL), 0);
#define REFUSED(member, value)             \
	do {                               \
		st = good;                 \
		st.vdev.member = (value);  \
		expect_state_refused(&st); \
	} while (0)
	REFUSED(status, 0x100);
	REFUSED(status, 7);
	REFUSED(isr, 4);
	REFUSED(n_queues, 2);
	REFUSED(driver_features, V1 | 1);
	REFUSED(driver_features, 0);
	REFUSED(queues[0].size, 128);
	REFUSED(queues[0].next_avail, 1);
	REFUSED(queues[0].used_gpa, VDRV_RAM_BYTES);
	REFUSED(queues[0].used_gpa, UINT64_MAX - 3);
}
END_TEST

/* A device whose requests do not end while `stuck` says so. */
static bool stuck;
static unsigned notified;

static int stuck_notify(struct vdev *d, unsigned q)
{
	(void)d;
	(void)q;
	notified++;
	return 0;
}

static int stuck_quiesce(struct vdev *d, struct err *e)
{
	return stuck ? err_set(e, ETIMEDOUT, "%s does not end", d->ops->name) : 0;
}

START_TEST(requests_that_do_not_end)
{
	static const struct vdev_ops ops = {.name = "virtio-stuck",
					    .device_id = 4,
					    .notify = stuck_notify,
					    .quiesce = stuck_quiesce};
	static const uint16_t sizes[] = {64, 64};
	struct vdev_host host = vdrv_host(&v);
	struct err e = ERR_INIT;
	struct vdev d;

	ck_assert_int_eq(vdev_init(&d, &ops, &host, 0, sizes, 2, NULL), 0);
	vdrv_attach(&v, &d);
	vdrv_start(&v, EVENT_IDX, 2);
	/* A pause fails, and everything goes on. */
	stuck = true;
	notified = 0;
	ck_assert_int_eq(vdev_pause(&d, &e), -ETIMEDOUT);
	ck_assert_str_eq(e.msg, "virtio-stuck does not end");
	vdrv_kick(&v, 1);
	vdrv_run(&v);
	ck_assert_uint_ge(notified, 1);
	/* A queue cannot be taken away, a reset does not end. */
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_SEL, 0);
	vdrv_out(&v, VIRTIO_MMIO_QUEUE_READY, 0);
	ck_assert_uint_eq(vdrv_in(&v, VIRTIO_MMIO_QUEUE_READY), 1);
	ck_assert(vdrv_broken(&v));
	vdrv_out(&v, STATUS, 0);
	ck_assert(vdrv_broken(&v));
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	/* Until the requests do end. */
	stuck = false;
	vdrv_start(&v, EVENT_IDX, 2);
	ck_assert(!vdrv_broken(&v));
	ck_assert_int_eq(vdev_pause(&d, &e), 0);
	vdev_fini(&d);
	v.dev = rng_vdev(rng);
}
END_TEST

/* A guest that resets and starts its device for ever while the I/O thread works on the queue. */
static void *io_thread(void *arg)
{
	(void)arg;
	(void)loop_run(v.loop);
	return NULL;
}

START_TEST(reset_against_io_thread)
{
	struct vdrv_part p = {VDRV_BUFFER_GPA, 4096, true};
	pthread_t t;

	ck_assert_int_eq(pthread_create(&t, NULL, io_thread, NULL), 0);
	for (int i = 0; i < 300; i++) {
		ck_assert(vdrv_negotiate(&v, V1 | EVENT_IDX));
		vdrv_queue_up(&v, 0, 64);
		vdrv_out(&v, STATUS, 0xf);
		for (int k = 0; k < 32; k++) {
			vdrv_add(&v, 0, &p, 1);
			vdrv_kick(&v, 0);
		}
		if (i % 10 == 0) {
			ck_assert_int_eq(vdev_pause(v.dev, NULL), 0);
			vdev_resume(v.dev);
		}
		ck_assert(!vdrv_broken(&v));
	}
	vdrv_out(&v, STATUS, 0);
	loop_quit(v.loop);
	ck_assert_int_eq(pthread_join(t, NULL), 0);
}
END_TEST

SUITE_WITH("vdev", setup, teardown, identity, works, legacy_refused, unoffered_feature_refused,
	   odd_accesses, queue_registers_rest_while_ready, bad_queue_setup,
	   bad_chain_breaks_the_device_only, reset_at_any_step, notified_before_driver_ok,
	   failed_driver_is_left_alone, paused_device_rests, moves_in_the_middle,
	   moves_half_negotiated, moves_broken, bad_states_refused, reset_against_io_thread,
	   requests_that_do_not_end)
