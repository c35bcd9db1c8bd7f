/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the disk, for blk*.c. All with the device's lock held. */
#ifndef VIRTIO_BLK_IMPL_H
#define VIRTIO_BLK_IMPL_H

#include <liburing.h>
#include <linux/virtio_blk.h>

#include "virtio/blk.h"

#define BLK_QUEUE_SIZE 128
#define BLK_REQS       128        /* in flight at once, over all queues */
#define BLK_BATCH      64         /* requests taken before others get their turn */
#define BLK_SEGS_MAX   16         /* ranges of one discard or write-zeroes request */
#define BLK_RANGE_MAX  (4u << 20) /* sectors of such a range */
#define BLK_BOUNCE_MAX (4u << 20) /* bytes of a request whose buffers are not aligned */

/* One request from vq_pop() to vq_push(). At any moment the kernel works on one step of it. */
struct blk_req {
	struct blk_req *next; /* while free */
	unsigned q;
	uint32_t type;
	uint8_t *status; /* in the guest's RAM */
	uint64_t status_gpa;
	uint64_t offset_bytes; /* on disk, of what is left */
	/* read, write: what is left; the parts are the chain's own, cut as they are done */
	unsigned iov_first, iov_count;
	uint64_t left_bytes, total_bytes;
	uint8_t *bounce; /* NULL, or memory that stands in for the parts */
	struct iovec bounce_iov;
	/* discard, write zeroes */
	unsigned seg, n_segs;
	bool punched; /* the second way of write zeroes is being tried */
	struct virtio_blk_discard_write_zeroes segs[BLK_SEGS_MAX];
	struct vq_chain chain; /* without header and status, see blk_parse() */
};

struct blk {
	struct vdev vdev; /* first: ops get a pointer to it */
	/* constant */
	int fd;
	bool read_only, direct;
	uint32_t block_bytes; /* alignment that O_DIRECT asks for; else the sector's */
	uint64_t sectors;
	unsigned n_queues;
	uint8_t serial[BLK_SERIAL_BYTES];
	int done_fd; /* eventfd of the ring's completions */
	bool has_ring;

	struct io_uring ring;
	struct blk_req *reqs; /* BLK_REQS */
	struct blk_req *free;
	unsigned in_flight;
	bool unsynced; /* written to since the last fdatasync of ours */
	int sync_error;
	uint32_t starved;   /* queues (bits) that found no free request */
	uint32_t to_signal; /* queues (bits) with requests given back */
};

static inline struct blk *to_blk(struct vdev *d)
{
	return (struct blk *)d;
}

/* blk_open.c: open cfg->path; sets fd, sectors, block_bytes and the like. */
int blk_open(struct blk *b, const struct blk_config *cfg, struct err *e);

/* blk_parse.c */
/*
 * Split the chain into header, data and status, and check it all. 0: to be started; 1: nothing to
 * do on disk, *status says how it ended; -EBADMSG: no request at all.
 */
int blk_parse(struct blk *b, struct blk_req *r, uint8_t *status);

/* blk_io.c */
int blk_take(struct blk *b, unsigned q); /* vdev_ops.notify */
/* Handle the completions that are there. */
void blk_reap(struct blk *b);
/* Complete what is in flight, and if paused, have what was written reach the disk. -ETIMEDOUT. */
int blk_quiesce_until(struct blk *b, uint64_t deadline_ns, struct err *e);

#endif
