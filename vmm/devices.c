/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "virtio/mmio.h"
#include "vmm/devices_impl.h"

/* --- connections --- */

static uint64_t window_read(void *dev, uint64_t offset, unsigned size)
{
	return vdev_mmio_read(dev, offset, size);
}

static void window_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	vdev_mmio_write(dev, offset, size, value);
}

static const struct mmio_ops window_ops = {.read = window_read, .write = window_write};

/* Where KVM can't, or has no more of them, set_irq() does it by ioctl(). */
static void bind_irq(struct device *d)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd >= 0 && vm_irqfd(d->vm, fd, d->gsi, true)) {
		(void)close(fd);
		fd = -1;
	}
	d->irq_fd = fd;
}

/* A queue whose doorbell KVM doesn't ring has it rung by the register. */
static void bind_bells(struct device *d)
{
	while (d->n_bells < d->vdev->n_queues &&
	       !vm_ioeventfd(d->vm, vdev_kick_fd(d->vdev, d->n_bells), d->gpa + VDEV_MMIO_NOTIFY,
			     d->n_bells, true))
		d->n_bells++;
}

static void disconnect(struct device *d)
{
	while (d->n_bells) {
		d->n_bells--;
		(void)vm_ioeventfd(d->vm, vdev_kick_fd(d->vdev, d->n_bells),
				   d->gpa + VDEV_MMIO_NOTIFY, d->n_bells, false);
	}
	if (d->irq_fd >= 0) {
		(void)vm_irqfd(d->vm, d->irq_fd, d->gsi, false);
		(void)close(d->irq_fd);
		d->irq_fd = -1; /* what still completes signals by ioctl */
	}
}

int devices_new(struct devices **out, const struct devices_config *cfg,
		const struct devices_host *host, struct err *e)
{
	struct devices *ds = calloc(1, sizeof(*ds));
	int rc;

	if (!ds)
		return err_set(e, ENOMEM, "out of memory for devices");
	ds->host = *host;
	rc = devices_make(ds, cfg, e);
	for (unsigned i = 0; i < ds->n && !rc; i++) {
		struct device *d = &ds->list[i];

		rc = mmio_bus_add(host->bus, d->gpa, VDEV_MMIO_BYTES, &window_ops, d->vdev);
		if (rc) {
			(void)err_sys(e, -rc, "no place for the registers of %s",
				      d->vdev->ops->name);
			break;
		}
		bind_irq(d);
		bind_bells(d);
	}
	if (rc) {
		(void)devices_free(ds); /* nothing was asked of them yet */
		return rc;
	}
	*out = ds;
	return 0;
}

int devices_free(struct devices *ds)
{
	uint64_t deadline_ns = clock_mono_ns() + VDEV_QUIESCE_MS * NS_PER_MS;
	int rc = 0;

	if (!ds)
		return 0;
	for (unsigned i = 0; i < ds->n; i++) {
		disconnect(&ds->list[i]);
		if (devices_unmake(&ds->list[i], deadline_ns))
			rc = -ETIMEDOUT;
	}
	/* A disk that is still at work signals through its place in the list. */
	if (!rc)
		free(ds);
	return rc;
}

void devices_restore_terminal(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		if (ds->list[i].console)
			console_port_restore_terminal(ds->list[i].console);
}

void devices_cmdline(const struct devices *ds, char text[DEVICES_CMDLINE_BYTES])
{
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < ds->n; i++) {
		int n = snprintf(text + len, DEVICES_CMDLINE_BYTES - len,
				 "%svirtio_mmio.device=4K@0x%" PRIx64 ":%u", i ? " " : "",
				 ds->list[i].gpa, ds->list[i].gsi);

		if (n > 0 && (size_t)n < DEVICES_CMDLINE_BYTES - len)
			len += (size_t)n;
	}
}

/* --- life --- */

int devices_pause(struct devices *ds, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < ds->n && !rc; i++)
		rc = vdev_pause(ds->list[i].vdev, e);
	if (rc)
		devices_resume(ds);
	return rc;
}

void devices_resume(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		vdev_resume(ds->list[i].vdev);
}

void devices_halt(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		vdev_halt(ds->list[i].vdev);
}

void devices_announce(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		if (ds->list[i].net)
			net_announce(ds->list[i].net);
}

/* --- state --- */

unsigned devices_count(const struct devices *ds)
{
	return ds->n;
}

void devices_section(const struct devices *ds, unsigned i, uint32_t *instance,
		     const struct field_table **table, void **state)
{
	const struct device *d = &ds->list[i];

	*instance = d->vdev->host.instance;
	*table = d->vdev->ops->table;
	*state = d->state;
}

void devices_save(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		vdev_save(ds->list[i].vdev, ds->list[i].state);
}

int devices_check(struct devices *ds, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < ds->n && !rc; i++)
		rc = vdev_check(ds->list[i].vdev, ds->list[i].state, e);
	return rc;
}

void devices_load(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		vdev_load(ds->list[i].vdev, ds->list[i].state);
}

/* --- for people --- */

void devices_info(const struct devices *ds, unsigned i, struct device_info *out)
{
	const struct device *d = &ds->list[i];

	*out = (struct device_info){
		.name = d->vdev->ops->name,
		.instance = d->vdev->host.instance,
		.gpa = d->gpa,
		.gsi = d->gsi,
		.backend = d->backend,
	};
}

struct balloon *devices_balloon(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		if (ds->list[i].balloon)
			return ds->list[i].balloon;
	return NULL;
}

struct chardev *devices_console_chardev(struct devices *ds)
{
	for (unsigned i = 0; i < ds->n; i++)
		if (ds->list[i].console)
			return console_port_chardev(ds->list[i].console);
	return NULL;
}
