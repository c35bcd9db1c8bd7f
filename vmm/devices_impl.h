/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of devices*.c: one device and its connections. */
#ifndef VMM_DEVICES_IMPL_H
#define VMM_DEVICES_IMPL_H

#include "virtio/rng.h"
#include "vmm/console_port.h"
#include "vmm/devices.h"

struct device {
	struct vm *vm;
	struct vdev *vdev;
	uint64_t gpa;
	unsigned gsi;
	int irq_fd;       /* bound to gsi; -1: by ioctl() */
	unsigned n_bells; /* queues 0..n_bells have a doorbell that KVM rings */
	void *state;      /* of vdev->ops->state_bytes */
	char *backend;
	/* the one that it is; the others are NULL */
	struct blk *blk;
	struct net *net;
	struct rng *rng;
	struct balloon *balloon;
	struct console_port *console;
};

struct devices {
	struct devices_host host;
	unsigned n;
	struct device list[DEVICES_MAX];
};

/* devices_make.c: all that cfg wants, into ds->list, not connected to the machine yet. */
int devices_make(struct devices *ds, const struct devices_config *cfg, struct err *e);
/* Free what devices_make() made of one. -ETIMEDOUT as blk_free(). */
int devices_unmake(struct device *d, uint64_t deadline_ns);

#endif
