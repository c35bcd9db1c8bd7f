/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entropy device (virtio 1.2, section 5.4): one queue of buffers that are filled with random bytes
 * from the host's kernel. It has no configuration and no state of its own.
 *
 * A buffer gets at most RNG_BUFFER_MAX bytes (a device may fill less than it is given), so that a
 * guest's huge buffers do not hold up the I/O thread.
 *
 * Threads: as virtio/vdev.h says. rng_new() before the loop runs, rng_free() after it.
 */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "virtio/vdev.h"

#define RNG_BUFFER_MAX 4096u

struct rng;

/* -ENOMEM and vdev_init()'s errors. */
int rng_new(struct rng **out, const struct vdev_host *host, struct err *e);
/* NULL is fine. */
void rng_free(struct rng *r);
struct vdev *rng_vdev(struct rng *r);

struct rng_state {
	struct vdev_state vdev;
};

#endif
