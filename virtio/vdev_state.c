/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/vdev.h"

#include <errno.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#define STATUS_MASK                                                                           \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)
#define ISR_MASK (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)

static const struct field vdev_fields[] = {
	FIELD(struct vdev_state, status, FIELD_U32),
	FIELD(struct vdev_state, isr, FIELD_U32),
	FIELD(struct vdev_state, generation, FIELD_U32),
	FIELD(struct vdev_state, device_features_sel, FIELD_U32),
	FIELD(struct vdev_state, driver_features_sel, FIELD_U32),
	FIELD(struct vdev_state, queue_sel, FIELD_U32),
	FIELD(struct vdev_state, driver_features, FIELD_U64),
	FIELD(struct vdev_state, n_queues, FIELD_U32),
	FIELD_SUB_VAR(struct vdev_state, queues, n_queues, &vq_table),
};
FIELD_TABLE(vdev_table, "virtio", 1, vdev_fields);

void vdev_save(struct vdev *d, void *state)
{
	struct vdev_state *st = state;

	memset(state, 0, d->ops->state_bytes);
	vdev_lock(d);
	st->status = d->status;
	st->isr = vdev_isr(d);
	st->generation = d->generation;
	st->device_features_sel = d->device_features_sel;
	st->driver_features_sel = d->driver_features_sel;
	st->queue_sel = d->queue_sel;
	st->driver_features = d->driver_features;
	st->n_queues = d->n_queues;
	for (unsigned i = 0; i < d->n_queues; i++)
		st->queues[i] = d->queues[i].st;
	if (d->ops->save)
		d->ops->save(d, state);
	vdev_unlock(d);
}

static int check_status(const struct vdev *d, const struct vdev_state *st, struct err *e)
{
	const char *name = d->ops->name;
	bool agreed = st->status & VIRTIO_CONFIG_S_FEATURES_OK;

	if (st->status & ~(uint32_t)STATUS_MASK)
		return err_set(e, EINVAL, "%s: no device has the status 0x%x", name, st->status);
	if (st->isr & ~(uint32_t)ISR_MASK)
		return err_set(e, EINVAL, "%s: no device has the interrupt status 0x%x", name,
			       st->isr);
	if (st->status & VIRTIO_CONFIG_S_DRIVER_OK && !agreed)
		return err_set(e, EINVAL, "%s: a driver runs that never agreed on features", name);
	if (agreed && st->driver_features & ~d->features)
		return err_set(e, EINVAL,
			       "%s %u: the guest uses features (0x%llx) that this device does not "
			       "have; start it with the options it has at the source",
			       name, d->host.instance,
			       (unsigned long long)(st->driver_features & ~d->features));
	if (agreed && !(st->driver_features >> VIRTIO_F_VERSION_1 & 1))
		return err_set(e, EINVAL, "%s: a driver of before virtio version 1", name);
	return 0;
}

int vdev_check(struct vdev *d, const void *state, struct err *e)
{
	const struct vdev_state *st = state;
	int rc = check_status(d, st, e);

	if (rc)
		return rc;
	if (st->n_queues != d->n_queues)
		return err_set(e, EINVAL,
			       "%s %u has %u queues here and %u at the source; start it with the "
			       "same options",
			       d->ops->name, d->host.instance, d->n_queues, st->n_queues);
	for (unsigned i = 0; i < d->n_queues; i++) {
		if (st->queues[i].ready && !(st->status & VIRTIO_CONFIG_S_FEATURES_OK))
			rc = err_set(e, EINVAL, "it is ready before features were agreed on");
		else
			rc = vq_check(&st->queues[i], d->host.mem, d->queues[i].max_size, e);
		if (rc) {
			err_prefix(e, "%s %u, queue %u", d->ops->name, d->host.instance, i);
			return rc;
		}
	}
	rc = d->ops->check ? d->ops->check(d, state, e) : 0;
	if (rc)
		err_prefix(e, "%s %u", d->ops->name, d->host.instance);
	return rc;
}

void vdev_load(struct vdev *d, const void *state)
{
	const struct vdev_state *st = state;

	vdev_lock(d);
	d->status = st->status;
	d->generation = st->generation;
	d->device_features_sel = st->device_features_sel;
	d->driver_features_sel = st->driver_features_sel;
	d->queue_sel = st->queue_sel;
	d->driver_features = st->driver_features;
	for (unsigned i = 0; i < d->n_queues; i++)
		vq_load(&d->queues[i], &st->queues[i], vdev_has(d, VIRTIO_RING_F_EVENT_IDX),
			vdev_has(d, VIRTIO_RING_F_INDIRECT_DESC));
	pthread_mutex_lock(&d->irq_lock);
	d->isr = st->isr;
	pthread_mutex_unlock(&d->irq_lock);
	if (d->status & VIRTIO_CONFIG_S_DRIVER_OK && d->ops->activate)
		d->ops->activate(d);
	if (d->ops->load)
		d->ops->load(d, state);
	vdev_unlock(d);
}
