/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmio.h"

#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#define MAGIC     0x74726976u /* "virt" */
#define VERSION   2u
#define VENDOR_ID 0x59525246u /* "FRRY" */

_Static_assert(VDEV_MMIO_NOTIFY == VIRTIO_MMIO_QUEUE_NOTIFY, "the doorbell's offset");

static uint32_t half(uint64_t value, uint32_t sel)
{
	if (sel > 1)
		return 0;
	return (uint32_t)(sel ? value >> 32 : value);
}

static void set_half(uint64_t *value, unsigned high, uint32_t to)
{
	unsigned shift = high ? 32 : 0;

	*value = (*value & ~(0xffffffffull << shift)) | (uint64_t)to << shift;
}

/* The selected queue, or NULL if there is none of that number. */
static struct vq *selected(struct vdev *d)
{
	return d->queue_sel < d->n_queues ? &d->queues[d->queue_sel] : NULL;
}

static uint32_t read_reg(struct vdev *d, uint32_t offset)
{
	struct vq *q = selected(d);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return d->ops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR_ID;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return half(d->features, d->device_features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return q ? q->max_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return q ? q->st.ready : 0;
	case VIRTIO_MMIO_STATUS:
		return d->status;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return d->generation;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* no such region */
	default:
		return 0;
	}
}

/* Registers that describe a queue are the driver's until the queue is ready. */
static void write_queue_reg(struct vdev *d, uint32_t offset, uint32_t value)
{
	struct vq *q = selected(d);

	if (!q || q->st.ready)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		/* A size that does not fit the register's 16 bits is as wrong as 0 is. */
		q->st.size = value > UINT16_MAX ? 0 : (uint16_t)value;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&q->st.desc_gpa, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&q->st.avail_gpa, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&q->st.used_gpa, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	default:
		break;
	}
}

static void write_features(struct vdev *d, uint32_t value)
{
	/* After FEATURES_OK they are settled. */
	if (d->driver_features_sel > 1 || d->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	set_half(&d->driver_features, d->driver_features_sel, value);
}

static void write_reg(struct vdev *d, uint32_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		d->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		d->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_features(d, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		d->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		if (selected(d))
			vdev_set_queue_ready(d, d->queue_sel, value & 1);
		break;
	case VIRTIO_MMIO_STATUS:
		if (value)
			vdev_set_status(d, value);
		else
			(void)vdev_reset_locked(d);
		break;
	default:
		write_queue_reg(d, offset, value);
		break;
	}
}

/* The part of a configuration access that lies in the space; 0 if none does. */
static uint32_t config_part(const struct vdev *d, uint64_t offset, unsigned size)
{
	uint64_t left;

	if (size != 1 && size != 2 && size != 4 && size != 8)
		return 0;
	if (offset >= d->ops->config_bytes)
		return 0;
	left = d->ops->config_bytes - offset;
	return left < size ? (uint32_t)left : size;
}

static uint64_t read_config(struct vdev *d, uint64_t offset, unsigned size)
{
	uint32_t n = config_part(d, offset, size);
	uint64_t value = 0;

	if (n && d->ops->config_read)
		d->ops->config_read(d, (uint32_t)offset, &value, n);
	return value;
}

static void write_config(struct vdev *d, uint64_t offset, unsigned size, uint64_t value)
{
	uint32_t n = config_part(d, offset, size);

	if (n && d->ops->config_write)
		d->ops->config_write(d, (uint32_t)offset, &value, n);
}

uint64_t vdev_mmio_read(struct vdev *d, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	if (offset == VIRTIO_MMIO_INTERRUPT_STATUS && size == 4)
		return vdev_isr(d);
	vdev_lock(d);
	if (offset >= VIRTIO_MMIO_CONFIG)
		value = read_config(d, offset - VIRTIO_MMIO_CONFIG, size);
	else if (size == 4)
		value = read_reg(d, (uint32_t)offset);
	vdev_unlock(d);
	return value;
}

void vdev_mmio_write(struct vdev *d, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset < VIRTIO_MMIO_CONFIG && size != 4)
		return;
	if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
		vdev_kick(d, (uint32_t)value);
		return;
	}
	if (offset == VIRTIO_MMIO_INTERRUPT_ACK) {
		vdev_ack(d, (uint32_t)value);
		return;
	}
	vdev_lock(d);
	if (offset >= VIRTIO_MMIO_CONFIG)
		write_config(d, offset - VIRTIO_MMIO_CONFIG, size, value);
	else
		write_reg(d, (uint32_t)offset, (uint32_t)value);
	vdev_unlock(d);
}
