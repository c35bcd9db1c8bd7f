/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/vdev.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "base/log.h"
#include "virtio/vdev_impl.h"

/* --- interrupts --- */

void vdev_raise(struct vdev *d, uint32_t bits)
{
	pthread_mutex_lock(&d->irq_lock);
	d->isr |= bits;
	d->host.irq_set(d->host.irq_ctx, true);
	pthread_mutex_unlock(&d->irq_lock);
}

uint32_t vdev_isr(struct vdev *d)
{
	uint32_t isr;

	pthread_mutex_lock(&d->irq_lock);
	isr = d->isr;
	pthread_mutex_unlock(&d->irq_lock);
	return isr;
}

void vdev_ack(struct vdev *d, uint32_t bits)
{
	pthread_mutex_lock(&d->irq_lock);
	if (d->isr) {
		d->isr &= ~bits;
		if (!d->isr)
			d->host.irq_set(d->host.irq_ctx, false);
	}
	pthread_mutex_unlock(&d->irq_lock);
}

void vdev_signal(struct vdev *d, unsigned q)
{
	if (d->status & VIRTIO_CONFIG_S_DRIVER_OK && vq_wants_interrupt(&d->queues[q]))
		vdev_raise(d, VIRTIO_MMIO_INT_VRING);
}

void vdev_config_changed(struct vdev *d)
{
	d->generation++;
	if (d->status & VIRTIO_CONFIG_S_DRIVER_OK)
		vdev_raise(d, VIRTIO_MMIO_INT_CONFIG);
}

/* --- a driver that breaks the rules --- */

static void complain(struct vdev *d, const char *what, const char *why)
{
	if (d->complaints >= VDEV_MAX_COMPLAINTS)
		return;
	d->complaints++;
	log_warn("%s %u: the guest's driver broke a rule: %s%s; the device needs a reset%s",
		 d->ops->name, d->host.instance, what, why,
		 d->complaints == VDEV_MAX_COMPLAINTS ? " (last message of this device)" : "");
}

static int break_with(struct vdev *d, const char *what, const char *why)
{
	if (d->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return -EBADMSG;
	complain(d, what, why);
	d->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	vdev_config_changed(d);
	return -EBADMSG;
}

int vdev_break(struct vdev *d, const char *why)
{
	return break_with(d, "", why);
}

int vdev_break_queue(struct vdev *d, unsigned q)
{
	char what[32] = "queue  ";

	what[6] = (char)(q < 10 ? '0' + q : 'a' + (q - 10));
	what[7] = ':';
	what[8] = ' ';
	return break_with(d, what, d->queues[q].why ? d->queues[q].why : "unknown");
}

/* --- work --- */

void vdev_lock(struct vdev *d)
{
	fairlock_take(&d->lock);
}

void vdev_unlock(struct vdev *d)
{
	fairlock_give(&d->lock);
}

bool vdev_live(const struct vdev *d)
{
	const uint32_t over = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;

	return d->status & VIRTIO_CONFIG_S_DRIVER_OK && !(d->status & over) && !d->is_paused;
}

int vdev_kick_fd(const struct vdev *d, unsigned q)
{
	return d->kicks[q].fd;
}

void vdev_kick(struct vdev *d, uint32_t q)
{
	uint64_t one = 1;

	/* A full counter has rung already. */
	if (q < d->n_queues)
		(void)!write(d->kicks[q].fd, &one, sizeof(one));
}

/* I/O thread: the doorbell of a queue rang. */
static void on_kick(void *ctx, uint32_t events)
{
	struct vdev_kick *k = ctx;
	struct vdev *d = k->d;
	uint64_t count;
	int rc = 0;

	(void)events;
	(void)!read(k->fd, &count, sizeof(count));
	vdev_lock(d);
	if (vdev_live(d) && d->queues[k->q].st.ready) {
		rc = d->ops->notify(d, k->q);
		if (rc < 0)
			(void)vdev_break_queue(d, k->q);
		vdev_signal(d, k->q);
	}
	vdev_unlock(d);
	if (rc > 0)
		vdev_kick(d, k->q);
}

/* --- life --- */

static int open_kicks(struct vdev *d)
{
	for (unsigned i = 0; i < d->n_queues; i++) {
		struct vdev_kick *k = &d->kicks[i];
		int rc;

		k->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (k->fd < 0)
			return -errno;
		rc = loop_add(d->host.loop, k->fd, EPOLLIN, on_kick, k);
		if (rc) {
			(void)close(k->fd);
			k->fd = -1;
			return rc;
		}
	}
	return 0;
}

static void close_kicks(struct vdev *d)
{
	for (unsigned i = 0; i < d->n_queues; i++) {
		if (d->kicks[i].fd < 0)
			continue;
		loop_remove(d->host.loop, d->kicks[i].fd);
		(void)close(d->kicks[i].fd);
	}
}

int vdev_init(struct vdev *d, const struct vdev_ops *ops, const struct vdev_host *host,
	      uint64_t features, const uint16_t *queue_sizes, unsigned n_queues, struct err *e)
{
	int rc;

	if (n_queues > VDEV_MAX_QUEUES)
		return err_set(e, EINVAL, "%s: at most %d queues are possible", ops->name,
			       VDEV_MAX_QUEUES);
	memset(d, 0, sizeof(*d));
	d->ops = ops;
	d->host = *host;
	d->features = features | VDEV_F(VIRTIO_F_VERSION_1) | VDEV_F(VIRTIO_RING_F_EVENT_IDX) |
		      VDEV_F(VIRTIO_RING_F_INDIRECT_DESC);
	d->n_queues = n_queues;
	d->is_paused = true;
	fairlock_init(&d->lock);
	(void)pthread_mutex_init(&d->irq_lock, NULL);
	for (unsigned i = 0; i < n_queues; i++) {
		vq_init(&d->queues[i], host->mem, queue_sizes[i]);
		d->kicks[i] = (struct vdev_kick){.d = d, .q = i, .fd = -1};
	}
	rc = open_kicks(d);
	if (rc) {
		vdev_fini(d);
		return err_sys(e, -rc, "cannot set up the queues of %s %u", ops->name,
			       host->instance);
	}
	return 0;
}

void vdev_fini(struct vdev *d)
{
	close_kicks(d);
	(void)pthread_mutex_destroy(&d->irq_lock);
	fairlock_destroy(&d->lock);
}

static int quiesce(struct vdev *d, struct err *e)
{
	return d->ops->quiesce ? d->ops->quiesce(d, e) : 0;
}

int vdev_reset_locked(struct vdev *d)
{
	int rc = quiesce(d, NULL);

	if (rc) {
		/* The host still works on buffers in the guest's RAM: it must not reuse them. */
		(void)vdev_break(d, "it was reset while a request did not end");
		return rc;
	}
	d->status = 0;
	d->driver_features = 0;
	d->device_features_sel = d->driver_features_sel = d->queue_sel = 0;
	for (unsigned i = 0; i < d->n_queues; i++)
		vq_reset(&d->queues[i]);
	if (d->ops->reset)
		d->ops->reset(d);
	vdev_ack(d, UINT32_MAX);
	return 0;
}

int vdev_pause(struct vdev *d, struct err *e)
{
	int rc = 0;

	vdev_lock(d);
	if (!d->is_paused) {
		/* From here on no queue is looked at, so what is in flight only gets less. */
		d->is_paused = true;
		rc = quiesce(d, e);
		if (!rc && d->ops->paused)
			d->ops->paused(d);
		if (rc)
			d->is_paused = false;
	}
	vdev_unlock(d);
	if (rc)
		for (unsigned i = 0; i < d->n_queues; i++)
			vdev_kick(d, i);
	return rc;
}

void vdev_halt(struct vdev *d)
{
	vdev_lock(d);
	d->is_paused = true;
	vdev_unlock(d);
}

void vdev_resume(struct vdev *d)
{
	vdev_lock(d);
	d->is_paused = false;
	if (d->ops->resumed)
		d->ops->resumed(d);
	pthread_mutex_lock(&d->irq_lock);
	if (d->isr)
		d->host.irq_set(d->host.irq_ctx, true);
	pthread_mutex_unlock(&d->irq_lock);
	vdev_unlock(d);
	for (unsigned i = 0; i < d->n_queues; i++)
		vdev_kick(d, i);
}

/* --- what a driver asks for --- */

static void negotiate(struct vdev *d)
{
	/* A driver of before version 1 knows other rings and registers: it goes no further. */
	if (!vdev_has(d, VIRTIO_F_VERSION_1) || d->driver_features & ~d->features)
		return;
	d->status |= VIRTIO_CONFIG_S_FEATURES_OK;
}

static void start(struct vdev *d)
{
	if (!(d->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		(void)vdev_break(d, "it was started before features were agreed on (ferry's "
				    "devices need a driver of virtio version 1)");
		return;
	}
	d->status |= VIRTIO_CONFIG_S_DRIVER_OK;
	if (d->ops->activate)
		d->ops->activate(d);
	/* Buffers that were added before now may have had no doorbell that counted. */
	for (unsigned i = 0; i < d->n_queues; i++)
		vdev_kick(d, i);
}

void vdev_set_status(struct vdev *d, uint32_t value)
{
	const uint32_t plain =
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED;
	uint32_t added = value & ~d->status;

	/* Bits are only ever added; a reset is what takes them away. */
	d->status |= added & plain;
	if (added & VIRTIO_CONFIG_S_FEATURES_OK)
		negotiate(d);
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		start(d);
}

void vdev_set_queue_ready(struct vdev *d, unsigned q, bool ready)
{
	struct vq *vq = &d->queues[q];

	if (ready == vq->st.ready)
		return;
	if (!ready) {
		if (quiesce(d, NULL))
			(void)vdev_break(d, "a queue was taken away while a request did not end");
		else
			vq_disable(vq);
		return;
	}
	if (!(d->status & VIRTIO_CONFIG_S_FEATURES_OK))
		(void)vdev_break(d, "a queue was set up before features were agreed on");
	else if (vq_enable(vq, vdev_has(d, VIRTIO_RING_F_EVENT_IDX),
			   vdev_has(d, VIRTIO_RING_F_INDIRECT_DESC)))
		(void)vdev_break_queue(d, q);
}
