/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/blk_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vdrv dv;
struct blk *disk;
char disk_path[64];
int disk_file;

struct blk_config disk_cfg;

struct blk *blk_make(void)
{
	struct vdev_host host = vdrv_host(&dv);
	struct err e = ERR_INIT;
	struct blk *b;

	ck_assert_msg(blk_new(&b, &host, &disk_cfg, &e) == 0, "%s", e.msg);
	return b;
}

static void make_file(const char *dir)
{
	(void)snprintf(disk_path, sizeof(disk_path), "%s/ferry-blk-XXXXXX", dir);
	disk_file = mkstemp(disk_path);
	ck_assert_int_ge(disk_file, 0);
	ck_assert_int_eq(ftruncate(disk_file, SECTORS * 512), 0);
	disk_cfg = (struct blk_config){.path = disk_path, .serial = "disk-1"};
}

void blk_setup(void)
{
	vdrv_setup(&dv);
	make_file("/tmp");
	disk = blk_make();
	vdrv_attach(&dv, blk_vdev(disk));
	vdrv_log_begin();
}

void blk_teardown(void)
{
	(void)blk_free(disk, UINT64_MAX);
	vdrv_teardown(&dv);
	(void)close(disk_file);
	(void)unlink(disk_path);
}

void blk_remake(void)
{
	(void)blk_free(disk, UINT64_MAX);
	disk = blk_make();
	vdrv_attach(&dv, blk_vdev(disk));
}

void blk_move(void)
{
	struct blk *other = blk_make();

	vdrv_move(&dv, blk_vdev(other));
	(void)blk_free(disk, UINT64_MAX);
	disk = other;
}

void blk_header(uint64_t gpa, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};

	memcpy(vdrv_ram(&dv, gpa, sizeof(h)), &h, sizeof(h));
}

/* One request with its data in one piece; its status. */
uint8_t blk_request(uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len, bool to_guest)
{
	struct vdrv_part p[3] = {{HDR, 16, false}};
	unsigned n = 1;
	uint8_t *status = vdrv_ram(&dv, STATUS, 1);

	blk_header(HDR, type, sector);
	*status = NO_STATUS;
	if (len)
		p[n++] = (struct vdrv_part){gpa, len, to_guest};
	p[n++] = (struct vdrv_part){STATUS, 1, true};
	vdrv_clear_marks(&dv);
	ck_assert_uint_eq(vdrv_call(&dv, 0, p, n), to_guest ? len + 1 : 1);
	ck_assert(vdrv_marked(&dv, STATUS));
	ck_assert(dv.irq.level);
	return *status;
}

void blk_fill(uint8_t *at, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)(i * 13 + i / 509 + seed);
}

void blk_range(unsigned i, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes s = {sector, n, flags};

	memcpy(vdrv_ram(&dv, DATA + 16 * i, 16), &s, 16);
}
