/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk (virtio 1.2, section 5.2): a raw file or a block device, worked on by io_uring.
 *
 * Requests: read, write, flush, discard, write zeroes, get ID. Data moves between the disk and the
 * guest's RAM without a copy, unless O_DIRECT asks for an alignment that a buffer lacks.
 *
 * A pause completes every request that was taken and then writes the disk's data out (fdatasync),
 * so that nothing is in flight when the state is saved, and the disk's content is whole for whoever
 * opens it next: no request is lost, none done twice. Requests that the driver added but the device
 * did not take stay in the queue, and are taken at the new place. Hosts that do not share a page
 * cache (network storage) should open the disk with `direct`.
 *
 * Source and destination of a move both have the disk open; only the one that runs uses it. The
 * destination must find a disk of the same size.
 *
 * Threads: as virtio/vdev.h says. Completions come in the I/O thread, or in the one that pauses.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/vdev.h"

#define BLK_SECTOR_BYTES 512u
#define BLK_SERIAL_BYTES 20u
#define BLK_MAX_QUEUES   VDEV_MAX_QUEUES

struct blk;

struct blk_config {
	const char *path;
	bool read_only;
	bool direct;        /* O_DIRECT: past the host's page cache */
	unsigned n_queues;  /* 1 to BLK_MAX_QUEUES; 0 stands for 1 */
	const char *serial; /* what get ID gives, at most BLK_SERIAL_BYTES; NULL = none */
};

struct blk_state {
	struct vdev_state vdev;
	uint64_t sectors;
};

/*
 * Open the disk and build the device. Errors with messages: open(2)'s; -EINVAL for what is neither
 * a file nor a block device, is smaller than a sector, or for a serial number that is too long;
 * io_uring's.
 */
int blk_new(struct blk **out, const struct vdev_host *host, const struct blk_config *cfg,
	    struct err *e);
/*
 * NULL is fine. Waits for requests in flight as a pause does, until deadline_ns (CLOCK_MONOTONIC).
 * -ETIMEDOUT: one does not end. The kernel may still read or write its buffers, so the disk stays
 * allocated, and the guest's RAM must stay mapped for as long as this process lives.
 */
int blk_free(struct blk *b, uint64_t deadline_ns);
struct vdev *blk_vdev(struct blk *b);

#endif
