/* SPDX-License-Identifier: Apache-2.0 */
/* The devices that the options ask for, each at its place. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "virtio/mmio.h"
#include "vmm/devices_impl.h"

#define PLACE_DISK    0
#define PLACE_NET     4
#define PLACE_RNG     6
#define PLACE_BALLOON 7
#define PLACE_CONSOLE 8

static const uint8_t gsis[DEVICES_MAX] = {5, 6, 7, 3, 10, 11, 12, 14, 15};

/* Edge-triggered: an interrupt is a pulse, and the low level in between says nothing. */
static void set_irq(void *ctx, bool level)
{
	const struct device *d = ctx;
	const uint64_t one = 1;

	if (!level)
		return;
	if (d->irq_fd >= 0) {
		(void)!write(d->irq_fd, &one, sizeof(one));
		return;
	}
	(void)vm_irq_line(d->vm, d->gsi, true);
	(void)vm_irq_line(d->vm, d->gsi, false);
}

/* The next of the list, at a place; what it is told of the machine. */
static struct device *add(struct devices *ds, unsigned place, unsigned instance,
			  struct vdev_host *host)
{
	struct device *d = &ds->list[ds->n++];

	*d = (struct device){
		.vm = ds->host.vm,
		.gpa = DEVICES_GPA + place * (uint64_t)VDEV_MMIO_BYTES,
		.gsi = gsis[place],
		.irq_fd = -1,
	};
	*host = (struct vdev_host){
		.mem = ds->host.mem,
		.loop = ds->host.loop,
		.irq_set = set_irq,
		.irq_ctx = d,
		.instance = instance,
	};
	return d;
}

/* A device has been made, or not; `option` is what asked for it. */
static int made(struct device *d, int rc, const char *option, struct vdev *vdev,
		const char *backend, struct err *e)
{
	if (rc) {
		err_prefix(e, "%s", option);
		return rc;
	}
	d->vdev = vdev;
	d->backend = strdup(backend);
	d->state = calloc(1, vdev->ops->state_bytes);
	return d->backend && d->state ? 0 : err_set(e, ENOMEM, "out of memory");
}

static int make_disk(struct devices *ds, const struct blk_config *cfg, unsigned i, struct err *e)
{
	struct vdev_host host;
	struct device *d = add(ds, PLACE_DISK + i, i, &host);
	int rc = blk_new(&d->blk, &host, cfg, e);

	return made(d, rc, "--disk", rc ? NULL : blk_vdev(d->blk), cfg->path, e);
}

static int make_net(struct devices *ds, const struct net_config *cfg, unsigned i, struct err *e)
{
	struct vdev_host host;
	struct device *d = add(ds, PLACE_NET + i, i, &host);
	int rc = net_new(&d->net, &host, cfg, e);

	return made(d, rc, "--net", rc ? NULL : net_vdev(d->net), cfg->backend, e);
}

static int make_rng(struct devices *ds, struct err *e)
{
	struct vdev_host host;
	struct device *d = add(ds, PLACE_RNG, 0, &host);
	int rc = rng_new(&d->rng, &host, e);

	return made(d, rc, "--rng", rc ? NULL : rng_vdev(d->rng), "", e);
}

static int make_balloon(struct devices *ds, struct err *e)
{
	const struct balloon_config cfg = {
		.deflate_on_oom = true,
		.stats = true,
		.hinting = true,
		.reporting = true,
		.on_change = ds->host.on_balloon,
		.ctx = ds->host.ctx,
	};
	struct vdev_host host;
	struct device *d = add(ds, PLACE_BALLOON, 0, &host);
	int rc = balloon_new(&d->balloon, &host, &cfg, e);

	return made(d, rc, "--balloon", rc ? NULL : balloon_vdev(d->balloon), "", e);
}

static int make_console(struct devices *ds, const char *backend, struct err *e)
{
	struct vdev_host host;
	struct device *d = add(ds, PLACE_CONSOLE, 0, &host);
	int rc = console_port_new(&d->console, &host, backend, ds->host.on_quit, ds->host.ctx, e);

	return made(d, rc, "--console", rc ? NULL : console_port_vdev(d->console),
		    rc ? "" : console_port_name(d->console), e);
}

int devices_make(struct devices *ds, const struct devices_config *cfg, struct err *e)
{
	int rc = 0;

	if (cfg->n_disks > DEVICES_MAX_DISKS || cfg->n_nets > DEVICES_MAX_NETS)
		return err_set(e, EINVAL, "a guest has at most %u disks and %u network cards",
			       DEVICES_MAX_DISKS, DEVICES_MAX_NETS);
	for (unsigned i = 0; i < cfg->n_disks && !rc; i++)
		rc = make_disk(ds, &cfg->disks[i], i, e);
	for (unsigned i = 0; i < cfg->n_nets && !rc; i++)
		rc = make_net(ds, &cfg->nets[i], i, e);
	if (!rc && cfg->rng)
		rc = make_rng(ds, e);
	if (!rc && cfg->balloon)
		rc = make_balloon(ds, e);
	if (!rc && cfg->console)
		rc = make_console(ds, cfg->console, e);
	return rc;
}

int devices_unmake(struct device *d, uint64_t deadline_ns)
{
	int rc = blk_free(d->blk, deadline_ns);

	net_free(d->net);
	rng_free(d->rng);
	balloon_free(d->balloon);
	console_port_free(d->console);
	free(d->backend);
	free(d->state);
	return rc;
}
