/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in a file of its own, with a driver in the test. Every test begins with blk_setup(). */
#ifndef TESTS_UNIT_SUPPORT_BLK_FIXTURE_H
#define TESTS_UNIT_SUPPORT_BLK_FIXTURE_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "tests/unit/support/vdriver.h"
#include "virtio/blk.h"

#define EVENT_IDX VDEV_F(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  VDEV_F(VIRTIO_RING_F_INDIRECT_DESC)
#define HDR       VDRV_BUFFER_GPA
#define STATUS    (HDR + 0x800)
#define DATA      (HDR + 0x10000)
#define SECTORS   2048u
#define NO_STATUS 0xee

extern struct vdrv dv;
extern struct blk *disk;
extern char disk_path[64];
extern int disk_file;
extern struct blk_config disk_cfg; /* of the disks that are made from now on */

struct blk *blk_make(void);
void blk_setup(void);
void blk_teardown(void);
/* The disk anew, as disk_cfg says now. */
void blk_remake(void);
/* To another disk on the same file, as a migration does. */
void blk_move(void);

void blk_header(uint64_t gpa, uint32_t type, uint64_t sector);
/* One request with its data in one piece; its status. */
uint8_t blk_request(uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len, bool to_guest);
/* Bytes that differ by place and seed. */
void blk_fill(uint8_t *at, size_t n, unsigned seed);
/* The i-th range of a discard or write-zeroes request, at DATA. */
void blk_range(unsigned i, uint64_t sector, uint32_t n, uint32_t flags);

#endif
