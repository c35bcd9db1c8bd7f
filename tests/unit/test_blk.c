/* SPDX-License-Identifier: Apache-2.0 */
/* The disk: what is written is there, what is wrong is refused. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/blk_fixture.h"

START_TEST(identity)
{
	uint64_t f = vdrv_offered(&dv);

	ck_assert(f & VDEV_F(VIRTIO_BLK_F_FLUSH) && f & VDEV_F(VIRTIO_BLK_F_DISCARD));
	ck_assert(!(f & VDEV_F(VIRTIO_BLK_F_RO)) && !(f & VDEV_F(VIRTIO_BLK_F_MQ)));
	vdrv_start(&dv, EVENT_IDX, 1);
	ck_assert_uint_eq(vdrv_config(&dv, 0, 4), SECTORS);
	ck_assert_uint_eq(vdrv_config(&dv, 4, 4), 0);
	ck_assert_uint_eq(vdrv_config(&dv, 20, 4), 512);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true), 0);
	ck_assert_str_eq(vdrv_ram(&dv, DATA, 20), "disk-1");
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_GET_ID, 0, DATA, 19, true), VIRTIO_BLK_S_IOERR);
}
END_TEST

START_TEST(reads_and_writes)
{
	static uint8_t want[65536], got[65536];

	vdrv_start(&dv, EVENT_IDX, 1);
	blk_fill(vdrv_ram(&dv, DATA, 65536), 65536, 1);
	memcpy(want, vdrv_ram(&dv, DATA, 65536), 65536);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, 100, DATA, 65536, false), 0);
	ck_assert_int_eq(pread(disk_file, got, 65536, 100 * 512), 65536);
	ck_assert_mem_eq(got, want, 65536);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), 0);
	memset(vdrv_ram(&dv, DATA, 65536), 0, 65536);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 101, DATA, 65024, true), 0);
	ck_assert_mem_eq(vdrv_ram(&dv, DATA, 65024), want + 512, 65024);
	for (uint64_t gpa = DATA; gpa < DATA + 65024; gpa += 4096)
		ck_assert(vdrv_marked(&dv, gpa));
	ck_assert(!vdrv_marked(&dv, HDR + 0x4000));
}
END_TEST

/* Header, data and status cut and joined in ways no one would think of. */
START_TEST(any_layout)
{
	struct vdrv_part p[] = {{HDR, 3, false},
				{HDR + 3, 12, false},
				{HDR + 15, 1 + 500, false},
				{HDR + 516, 12, false},
				{STATUS, 1, true}};
	struct vdrv_part r[] = {
		{HDR, 16, false}, {DATA, 1, true}, {DATA + 1, 510, true}, {DATA + 511, 2, true}};
	uint8_t want[512], got[512];

	vdrv_start(&dv, EVENT_IDX | INDIRECT, 1);
	blk_header(HDR, VIRTIO_BLK_T_OUT, 7);
	blk_fill(vdrv_ram(&dv, HDR + 16, 512), 512, 9);
	memcpy(want, vdrv_ram(&dv, HDR + 16, 512), 512);
	*(uint8_t *)vdrv_ram(&dv, STATUS, 1) = NO_STATUS;
	ck_assert_uint_eq(vdrv_call(&dv, 0, p, 5), 1);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&dv, STATUS, 1), 0);
	ck_assert_int_eq(pread(disk_file, got, 512, 7 * 512), 512);
	ck_assert_mem_eq(got, want, 512);
	blk_header(HDR, VIRTIO_BLK_T_IN, 7);
	*(uint8_t *)vdrv_ram(&dv, DATA + 512, 1) = NO_STATUS;
	ck_assert_uint_eq(vdrv_call(&dv, 0, r, 4), 513);
	ck_assert_mem_eq(vdrv_ram(&dv, DATA, 512), want, 512);
	ck_assert_uint_eq(*(uint8_t *)vdrv_ram(&dv, DATA + 512, 1), 0);
}
END_TEST

START_TEST(refused_requests)
{
	vdrv_start(&dv, EVENT_IDX, 1);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, SECTORS, DATA, 512, true),
			  VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, SECTORS - 1, DATA, 1024, true),
			  VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, UINT64_MAX, DATA, 512, false),
			  VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, UINT64_MAX / 512, DATA, 512, false),
			  VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 0, DATA, 511, true), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(99, 0, DATA, 512, false), VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 0, 0, 0, false), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, 0, 0, 0, false), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, SECTORS - 1, DATA, 512, true),
			  VIRTIO_BLK_S_OK);
	ck_assert(!vdrv_broken(&dv));
}
END_TEST

START_TEST(no_request_at_all)
{
	struct vdrv_part p[] = {{HDR, 15, false}, {STATUS, 1, true}};
	struct vdrv_part no_status = {HDR, 16, false};

	for (int i = 0; i < 2; i++) {
		vdrv_log_begin();
		vdrv_start(&dv, EVENT_IDX, 1);
		vdrv_add(&dv, 0, i ? &no_status : p, i ? 1 : 2);
		vdrv_kick(&dv, 0);
		vdrv_run(&dv);
		ck_assert(vdrv_broken(&dv));
		ck_assert_uint_eq(vdrv_log_lines(), 1);
		blk_move();
		ck_assert(vdrv_broken(&dv));
	}
}
END_TEST

static bool zero_sector(unsigned sector)
{
	static const uint8_t zero[512];
	uint8_t got[512];

	ck_assert_int_eq(pread(disk_file, got, 512, sector * 512), 512);
	return !memcmp(got, zero, 512);
}

START_TEST(discard_and_zeroes)
{
	struct stat before, after;

	vdrv_start(&dv, EVENT_IDX, 1);
	blk_fill(vdrv_ram(&dv, DATA, 1 << 20), 1 << 20, 3);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, 0, DATA, SECTORS * 512, false), 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), 0);
	ck_assert_int_eq(fstat(disk_file, &before), 0);
	blk_range(0, 0, 256, 0);
	blk_range(1, 512, 256, 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 32, false), 0);
	ck_assert_int_eq(fstat(disk_file, &after), 0);
	ck_assert_int_lt(after.st_blocks, before.st_blocks);
	ck_assert_int_eq(after.st_size, before.st_size);
	ck_assert(zero_sector(255) && !zero_sector(256) && zero_sector(512) && !zero_sector(768));
	blk_range(0, 300, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	blk_range(1, 310, 3, 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, 32, false), 0);
	ck_assert(zero_sector(300) && !zero_sector(301) && zero_sector(312) && !zero_sector(313));
	/* Wrong ones. */
	blk_range(0, SECTORS - 1, 2, 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 16, false),
			  VIRTIO_BLK_S_IOERR);
	blk_range(0, UINT64_MAX, 2, 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 16, false),
			  VIRTIO_BLK_S_IOERR);
	blk_range(0, 900, 1, 1);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 16, false),
			  VIRTIO_BLK_S_UNSUPP);
	blk_range(0, 900, 1, 2);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, 16, false),
			  VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 8, false), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 17 * 16, false),
			  VIRTIO_BLK_S_IOERR);
	ck_assert(!zero_sector(900));
}
END_TEST

START_TEST(read_only)
{
	disk_cfg.read_only = true;
	blk_remake();
	ck_assert(vdrv_offered(&dv) & VDEV_F(VIRTIO_BLK_F_RO));
	vdrv_start(&dv, EVENT_IDX, 1);
	blk_fill(vdrv_ram(&dv, DATA, 512), 512, 1);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, 0, DATA, 512, false), VIRTIO_BLK_S_IOERR);
	blk_range(0, 0, 1, 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_DISCARD, 0, DATA, 16, false),
			  VIRTIO_BLK_S_IOERR);
	ck_assert(zero_sector(0));
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 0, DATA, 512, true), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_FLUSH, 0, 0, 0, false), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(direct)
{
	struct vdev_host host = vdrv_host(&dv);
	uint8_t want[4096], got[4096];
	struct blk *b;

	disk_cfg.direct = true;
	if (blk_new(&b, &host, &disk_cfg, NULL) == -EINVAL) {
		printf("SKIP no O_DIRECT on /tmp\n");
		return;
	}
	(void)blk_free(disk, UINT64_MAX);
	disk = b;
	vdrv_attach(&dv, blk_vdev(disk));
	vdrv_start(&dv, EVENT_IDX, 1);
	/* Aligned, and not at all. */
	for (unsigned shift = 0; shift < 16; shift += 13) {
		blk_fill(vdrv_ram(&dv, DATA + shift, 4096), 4096, shift);
		memcpy(want, vdrv_ram(&dv, DATA + shift, 4096), 4096);
		ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_OUT, 64, DATA + shift, 4096, false), 0);
		ck_assert_int_eq(pread(disk_file, got, 4096, 64 * 512), 4096);
		ck_assert_mem_eq(got, want, 4096);
		memset(vdrv_ram(&dv, DATA, 8192), 0, 8192);
		ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 64, DATA + shift, 4096, true), 0);
		ck_assert_mem_eq(vdrv_ram(&dv, DATA + shift, 4096), want, 4096);
	}
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 0, DATA + 1, 1024, true), 0);
}
END_TEST

START_TEST(file_becomes_shorter)
{
	vdrv_start(&dv, EVENT_IDX, 1);
	ck_assert_int_eq(ftruncate(disk_file, 1000 * 512), 0);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 999, DATA, 1024, true), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(blk_request(VIRTIO_BLK_T_IN, 999, DATA, 512, true), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(bad_disks)
{
	static const struct {
		const char *path, *text;
		const char *serial;
	} bad[] = {
		{"/tmp/no-such-disk", "cannot open disk '/tmp/no-such-disk'", NULL},
		{"/dev/null", "neither a file nor a block device", NULL},
		{"/proc/self/status", "cannot open", NULL},
		{"/tmp", "cannot open disk '/tmp'", NULL},
		{NULL, "at most 20 characters", "123456789012345678901"},
		{NULL, "is empty", NULL},
	};
	struct vdev_host host = vdrv_host(&dv);

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct blk_config c = {.path = bad[i].path ? bad[i].path : disk_path,
				       .serial = bad[i].serial};
		struct err e = ERR_INIT;
		struct blk *b;

		if (i == 5)
			ck_assert_int_eq(ftruncate(disk_file, 511), 0);
		if (i == 2 && geteuid() != 0)
			continue;
		ck_assert_int_lt(blk_new(&b, &host, &c, &e), 0);
		if (i != 2)
			ck_assert_msg(strstr(e.msg, bad[i].text) != NULL, "%s", e.msg);
	}
}
END_TEST

START_TEST(another_disk_is_refused)
{
	struct blk_state st;
	struct err e = ERR_INIT;

	vdrv_start(&dv, EVENT_IDX, 1);
	ck_assert_int_eq(vdev_pause(dv.dev, NULL), 0);
	vdev_save(dv.dev, &st);
	ck_assert_int_eq(vdev_check(dv.dev, &st, NULL), 0);
	st.sectors++;
	ck_assert_int_eq(vdev_check(dv.dev, &st, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "same disk"));
}
END_TEST

SUITE_WITH("blk", blk_setup, blk_teardown, identity, reads_and_writes, any_layout, refused_requests,
	   no_request_at_all, discard_and_zeroes, read_only, direct, file_becomes_shorter,
	   bad_disks, another_disk_is_refused)
