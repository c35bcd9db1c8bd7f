/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for virtio-mmio devices, version 2 (virtio 1.2, sections 2.7, 3.1 and 4.2), as small as
 * a guest needs it: split queues, one descriptor a buffer, no interrupts (the driver looks).
 *
 * Any ring: registers are reached through ring 0, queues are plain memory. One vCPU at a time.
 */
#ifndef FERRY_GUEST_VIO_H
#define FERRY_GUEST_VIO_H

#include <stdbool.h>
#include <stdint.h>

#define VIO_QUEUE_MAX 128
/* Memory of a queue: a page, aligned. */
#define VIO_QUEUE_BYTES 4096

#define VIO_F(bit) (1ULL << (bit))

struct vio_dev {
	uint64_t base;     /* of its registers */
	uint64_t features; /* those that both sides have, after vio_begin() */
};

struct vio_desc {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags, next;
};

struct vio_avail {
	uint16_t flags, idx, ring[VIO_QUEUE_MAX];
};

struct vio_used {
	volatile uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[VIO_QUEUE_MAX];
};

struct vio_queue {
	const struct vio_dev *dev;
	uint32_t number;
	uint16_t size;
	uint16_t added; /* buffers since the start; the device sees them at vio_kick() */
	uint16_t seen;  /* of those that came back */
	uint16_t nr_free;
	uint16_t free[VIO_QUEUE_MAX]; /* descriptors */
	struct vio_desc *desc;
	struct vio_avail *avail;
	struct vio_used *used;
};

/* Is there a device of that kind? */
bool vio_find(struct vio_dev *d, uint64_t base, uint32_t device_id);

/* Forget everything; the device forgets the driver. */
void vio_reset(const struct vio_dev *d);

/*
 * Reset, then settle on those of the wanted features that are offered. false: the device will not
 * have them. Queues and configuration come next, then vio_go().
 */
bool vio_begin(struct vio_dev *d, uint64_t wanted);
/*
 * Queue `number` in `memory` (VIO_QUEUE_BYTES), as large as the device allows. false: there is
 * none.
 */
bool vio_queue_init(struct vio_queue *q, const struct vio_dev *d, uint32_t number, void *memory);
void vio_go(const struct vio_dev *d);

/* The device says that the driver has broken a rule, and does nothing until a reset. */
bool vio_broken(const struct vio_dev *d);

uint32_t vio_config_read(const struct vio_dev *d, uint32_t offset);
void vio_config_write(const struct vio_dev *d, uint32_t offset, uint32_t value);

/* Room for another buffer? */
static inline bool vio_has_room(const struct vio_queue *q)
{
	return q->nr_free > 0;
}

/* Add a buffer that the device reads, or writes. Needs room. */
void vio_add(struct vio_queue *q, uint64_t gpa, uint32_t len, bool device_writes);
/* Show the device what was added, and ring the doorbell. */
void vio_kick(struct vio_queue *q);
/* Take back what the device is done with: the number of buffers. */
unsigned int vio_reap(struct vio_queue *q);

#endif
