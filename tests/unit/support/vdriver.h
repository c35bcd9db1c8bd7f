/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio driver for tests: it talks to a device through its registers and through queues in the
 * RAM that both share, as a guest does, and can break any rule on the way. The test's thread is the
 * guest and the I/O thread in one: vdrv_run() lets the device work.
 *
 * A second "host" takes the device's place after a move: vdrv_move().
 *
 * Failures of the driver itself are Check assertions.
 */
#ifndef TESTS_UNIT_SUPPORT_VDRIVER_H
#define TESTS_UNIT_SUPPORT_VDRIVER_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_ring.h>

#include "base/loop.h"
#include "mem/mem.h"
#include "virtio/vdev.h"

#define VDRV_RAM_BYTES  (16ull << 20)
#define VDRV_RINGS_GPA  0x10000ull  /* 64 KiB a queue */
#define VDRV_BUFFER_GPA 0x200000ull /* from here on: the test's own buffers */

struct vdrv_queue {
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	struct vring_desc *desc;
	uint16_t *avail, *used16; /* flags, idx, ring...; the used ring's entries by vdrv_used() */
	uint16_t free_desc;       /* the next descriptor to use; freed all at once by wrapping */
	uint16_t avail_idx, seen_used;
};

/* What the interrupt line did. */
struct vdrv_irq {
	bool level;
	unsigned raised;
};

struct vdrv {
	struct mem *mem;
	struct loop *loop;
	struct vdev *dev;
	struct vdrv_irq irq;
	uint64_t features;
	struct vdrv_queue q[VDEV_MAX_QUEUES];
};

/* One part of a chain. */
struct vdrv_part {
	uint64_t gpa;
	uint32_t len;
	bool write; /* the device writes it */
};

/* RAM and a loop. Then make a device with vdrv_host() and give it to vdrv_attach(). */
void vdrv_setup(struct vdrv *v);
/* After the device was freed. */
void vdrv_teardown(struct vdrv *v);
struct vdev_host vdrv_host(struct vdrv *v);
/* The device is resumed. */
void vdrv_attach(struct vdrv *v, struct vdev *dev);

uint32_t vdrv_in(struct vdrv *v, uint32_t reg);
void vdrv_out(struct vdrv *v, uint32_t reg, uint32_t value);
uint32_t vdrv_config(struct vdrv *v, uint32_t offset, unsigned size);
void vdrv_set_config(struct vdrv *v, uint32_t offset, unsigned size, uint32_t value);
uint64_t vdrv_offered(struct vdrv *v);

/* Up to FEATURES_OK; which the status then has, or not: returned. */
bool vdrv_negotiate(struct vdrv *v, uint64_t features);
/* Lay out queue q at its place, cleared, and make it ready. */
void vdrv_queue_up(struct vdrv *v, unsigned q, uint16_t size);
/* All of it: reset, VERSION_1 and these features, n queues of 64 entries, DRIVER_OK. */
void vdrv_start(struct vdrv *v, uint64_t features, unsigned n_queues);

/* Make a chain available; its head. The part's RAM is the caller's to fill. */
uint16_t vdrv_add(struct vdrv *v, unsigned q, const struct vdrv_part *parts, unsigned n);
/* The same through an indirect table that is put at table_gpa. */
uint16_t vdrv_add_indirect(struct vdrv *v, unsigned q, uint64_t table_gpa,
			   const struct vdrv_part *parts, unsigned n);
/* Make a head available as it is. */
void vdrv_expose(struct vdrv *v, unsigned q, uint16_t head);
void vdrv_kick(struct vdrv *v, unsigned q);
/* Let the device work until its loop has nothing more to do. */
void vdrv_run(struct vdrv *v);
/* The next chain the device gave back. */
bool vdrv_used(struct vdrv *v, unsigned q, uint32_t *id, uint32_t *len);
/* add, kick, run, used: how many bytes the device says it wrote. */
uint32_t vdrv_call(struct vdrv *v, unsigned q, const struct vdrv_part *parts, unsigned n);

void *vdrv_ram(struct vdrv *v, uint64_t gpa, uint64_t len);
/* Take the host mark of the page: was it set? */
bool vdrv_marked(struct vdrv *v, uint64_t gpa);
void vdrv_clear_marks(struct vdrv *v);
bool vdrv_broken(struct vdrv *v);

/*
 * Pause the device, save it, encode the state and decode it again, check it and load it into
 * `to`, which is attached in its place (and resumed). The old one stays paused.
 */
void vdrv_move(struct vdrv *v, struct vdev *to);

/* Lines that were logged from here on, while Check's child runs. */
void vdrv_log_begin(void);
unsigned vdrv_log_lines(void);

#endif
