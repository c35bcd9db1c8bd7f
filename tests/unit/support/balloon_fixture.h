/* SPDX-License-Identifier: Apache-2.0 */
/* A balloon with a driver in the test. One a process; every test begins with balloon_setup(). */
#ifndef TESTS_UNIT_SUPPORT_BALLOON_FIXTURE_H
#define TESTS_UNIT_SUPPORT_BALLOON_FIXTURE_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "tests/unit/support/vdriver.h"
#include "virtio/balloon.h"

#define HINT      VDEV_F(VIRTIO_BALLOON_F_FREE_PAGE_HINT)
#define STATS     VDEV_F(VIRTIO_BALLOON_F_STATS_VQ)
#define REPORTING VDEV_F(VIRTIO_BALLOON_F_REPORTING)
#define POISON    VDEV_F(VIRTIO_BALLOON_F_PAGE_POISON)
#define EVENT_IDX VDEV_F(VIRTIO_RING_F_EVENT_IDX)
#define BUF       VDRV_BUFFER_GPA
#define PAGES     0x400000ull /* pages that are given away */
#define PAGE      4096u

extern struct vdrv bv;
extern struct balloon *bb;
/* What the device told of the driver's size. */
extern uint64_t told_actual;
extern unsigned told_changes;

struct balloon *balloon_make(void);
void balloon_setup(void);
void balloon_teardown(void);
/* To another device of the same kind, which bb is from then on. */
void balloon_move(void);

#endif
