/* SPDX-License-Identifier: Apache-2.0 */
/* Many requests, moves and resets among them: none is lost, none is done twice. */
#include <string.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/blk_fixture.h"

#define N 200

/* Each request writes a sector of its own, and each head must come back exactly once. */
static void storm(unsigned n_queues, bool moving)
{
	unsigned added = 0, done = 0, per = 60 / 3;
	bool open[VDEV_MAX_QUEUES][64];
	uint8_t got[512];

	memset(open, 0, sizeof(open));
	while (done < N * n_queues) {
		for (unsigned q = 0; q < n_queues; q++) {
			uint32_t id, len;

			for (; added < N * n_queues && added / n_queues < per + done / n_queues &&
			       added % n_queues == q;
			     added++) {
				uint64_t at = HDR + added * 0x400ull;
				struct vdrv_part p[] = {{at, 16, false},
							{at + 0x200, 512, false},
							{at + 0x10, 1, true}};
				uint16_t head;

				blk_header(at, VIRTIO_BLK_T_OUT, added);
				blk_fill(vdrv_ram(&dv, at + 0x200, 512), 512, added);
				*(uint8_t *)vdrv_ram(&dv, at + 0x10, 1) = NO_STATUS;
				head = vdrv_add(&dv, q, p, 3);
				ck_assert(!open[q][head]);
				open[q][head] = true;
			}
			vdrv_kick(&dv, q);
			(void)loop_step(dv.loop, 0);
			while (vdrv_used(&dv, q, &id, &len)) {
				ck_assert_uint_lt(id, 64);
				ck_assert(open[q][id]);
				open[q][id] = false;
				ck_assert_uint_eq(len, 1);
				done++;
			}
		}
		if (moving && done % 7 == 3)
			blk_move();
		else
			(void)loop_step(dv.loop, 10);
	}
	for (unsigned i = 0; i < added; i++) {
		uint64_t at = HDR + i * 0x400ull;

		ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&dv, at + 0x10, 1), 0);
		ck_assert_int_eq(pread(disk_file, got, 512, i * 512), 512);
		ck_assert_mem_eq(got, vdrv_ram(&dv, at + 0x200, 512), 512);
	}
}

START_TEST(storm_of_requests)
{
	vdrv_start(&dv, EVENT_IDX, 1);
	storm(1, false);
}
END_TEST

START_TEST(storm_with_moves)
{
	vdrv_start(&dv, EVENT_IDX, 1);
	storm(1, true);
}
END_TEST

START_TEST(storm_on_queues)
{
	disk_cfg.n_queues = 4;
	blk_remake();
	ck_assert(vdrv_offered(&dv) & VDEV_F(VIRTIO_BLK_F_MQ));
	vdrv_start(&dv, EVENT_IDX | VDEV_F(VIRTIO_BLK_F_MQ), 4);
	ck_assert_uint_eq(vdrv_config(&dv, 34, 2), 4);
	storm(4, true);
}
END_TEST

START_TEST(more_requests_than_the_pool)
{
	unsigned done = 0;
	uint32_t id, len;

	disk_cfg.n_queues = 8;
	blk_remake();
	/* 8 queues of 64 reads each, by indirect tables: 4 times the pool. */
	blk_header(HDR, VIRTIO_BLK_T_IN, 5);
	vdrv_start(&dv, EVENT_IDX | INDIRECT, 8);
	for (unsigned q = 0; q < 8; q++) {
		struct vdrv_part p[] = {{HDR, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};

		for (unsigned i = 0; i < 64; i++)
			(void)vdrv_add_indirect(&dv, q, HDR + 0x1000, p, 3);
		vdrv_kick(&dv, q);
	}
	for (unsigned i = 0; i < 2000 && done < 512; i++) {
		(void)loop_step(dv.loop, 10);
		for (unsigned q = 0; q < 8; q++)
			while (vdrv_used(&dv, q, &id, &len))
				done++;
	}
	ck_assert_uint_eq(done, 512);
}
END_TEST

START_TEST(reset_under_load)
{
	for (unsigned i = 0; i < 50; i++) {
		struct vdrv_part p[] = {{HDR, 16, false}, {DATA, 65536, true}, {STATUS, 1, true}};

		vdrv_start(&dv, EVENT_IDX, 1);
		blk_header(HDR, VIRTIO_BLK_T_IN, 0);
		for (unsigned k = 0; k < 20; k++)
			vdrv_add(&dv, 0, p, 3);
		vdrv_kick(&dv, 0);
		for (unsigned k = 0; k < i % 4; k++)
			(void)loop_step(dv.loop, 0);
		vdrv_out(&dv, VIRTIO_MMIO_STATUS, 0);
		/* From here on the memory is the guest's own: nothing may arrive any more. */
		memset(vdrv_ram(&dv, DATA, 65536), 0x77, 65536);
		vdrv_run(&dv);
		ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&dv, DATA + 40000, 1), 0x77);
	}
	vdrv_start(&dv, EVENT_IDX, 1);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 0, DATA, 512, true), 0);
}
END_TEST

START_TEST(queue_taken_away_under_load)
{
	struct vdrv_part p[] = {{HDR, 16, false}, {DATA, 65536, true}, {STATUS, 1, true}};

	vdrv_start(&dv, EVENT_IDX, 1);
	blk_header(HDR, VIRTIO_BLK_T_IN, 0);
	for (unsigned k = 0; k < 20; k++)
		vdrv_add(&dv, 0, p, 3);
	vdrv_kick(&dv, 0);
	(void)loop_step(dv.loop, 0);
	vdrv_out(&dv, VIRTIO_MMIO_QUEUE_READY, 0);
	memset(vdrv_ram(&dv, DATA, 65536), 0x77, 65536);
	vdrv_run(&dv);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&dv, DATA + 40000, 1), 0x77);
	ck_assert(!vdrv_broken(&dv));
}
END_TEST

static uint32_t dice(uint32_t sides)
{
	static uint64_t state = 88172645463325252ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % sides;
}

/* Requests of any type and layout: each is answered, or breaks the device. */
START_TEST(random_requests)
{
	static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 2, 0x80000001};
	static const uint32_t lens[] = {1, 7, 15, 16, 17, 20, 32, 48, 511, 512, 513, 4096};
	unsigned answered = 0;
	uint32_t id, len;

	vdrv_start(&dv, EVENT_IDX, 1);
	for (unsigned i = 0; i < 4000; i++) {
		unsigned n_out = dice(4), n_in = dice(4), n = 0;
		struct vdrv_part p[8];

		if (!n_out && !n_in)
			continue;
		for (; n < n_out + n_in; n++)
			p[n] = (struct vdrv_part){HDR + dice(16) * 8, lens[dice(12)], n >= n_out};
		for (unsigned k = 0; k < 64; k++) {
			blk_header(HDR + k * 16, types[dice(8)], dice(SECTORS + 2));
			if (dice(2)) /* ranges are sectors, counts and flags, like headers */
				blk_range(k, dice(SECTORS), dice(4), dice(3));
		}
		if (n_out && dice(4))
			p[0] = (struct vdrv_part){HDR, 16, false};
		vdrv_add(&dv, 0, p, n);
		vdrv_kick(&dv, 0);
		for (unsigned k = 0; k < 1000 && !vdrv_broken(&dv); k++) {
			(void)loop_step(dv.loop, k ? 10 : 0);
			if (vdrv_used(&dv, 0, &id, &len)) {
				answered++;
				break;
			}
			ck_assert_uint_lt(k, 999);
		}
		if (vdrv_broken(&dv) || i % 500 == 499)
			vdrv_start(&dv, EVENT_IDX, 1);
	}
	ck_assert_uint_gt(answered, 1000);
}
END_TEST

SUITE_WITH("blk_load", blk_setup, blk_teardown, storm_of_requests, storm_with_moves,
	   storm_on_queues, more_requests_than_the_pool, reset_under_load,
	   queue_taken_away_under_load, random_requests)
