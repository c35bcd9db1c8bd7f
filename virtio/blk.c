/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_ids.h>

#include "base/clock.h"
#include "base/log.h"
#include "virtio/blk_impl.h"
#include "virtio/tables.h"

static const struct field blk_fields[] = {
	FIELD_SUB(struct blk_state, vdev, &vdev_table),
	FIELD(struct blk_state, sectors, FIELD_U64),
};
FIELD_TABLE(blk_table, "virtio-blk", 1, blk_fields);

static void config_read(struct vdev *d, uint32_t offset, void *to, uint32_t len)
{
	const struct blk *b = to_blk(d);
	struct virtio_blk_config c = {
		.capacity = b->sectors,
		.seg_max = BLK_QUEUE_SIZE - 2,
		.blk_size = b->block_bytes,
		.num_queues = (uint16_t)b->n_queues,
		.max_discard_sectors = BLK_RANGE_MAX,
		.max_discard_seg = BLK_SEGS_MAX,
		.discard_sector_alignment = b->block_bytes / BLK_SECTOR_BYTES,
		.max_write_zeroes_sectors = BLK_RANGE_MAX,
		.max_write_zeroes_seg = BLK_SEGS_MAX,
		.write_zeroes_may_unmap = 1,
	};

	memcpy(to, (const uint8_t *)&c + offset, len);
}

static int notify(struct vdev *d, unsigned q)
{
	return blk_take(to_blk(d), q);
}

static int quiesce(struct vdev *d, struct err *e)
{
	return blk_quiesce_until(to_blk(d), clock_mono_ns() + VDEV_QUIESCE_MS * NS_PER_MS, e);
}

/* I/O thread: requests have completed. */
static void on_done(void *ctx, uint32_t events)
{
	struct blk *b = ctx;
	uint64_t count;

	(void)events;
	(void)!read(b->done_fd, &count, sizeof(count));
	vdev_lock(&b->vdev);
	blk_reap(b);
	vdev_unlock(&b->vdev);
}

static void save(struct vdev *d, void *state)
{
	((struct blk_state *)state)->sectors = to_blk(d)->sectors;
}

static int check(struct vdev *d, const void *state, struct err *e)
{
	uint64_t here = to_blk(d)->sectors, there = ((const struct blk_state *)state)->sectors;

	if (here != there)
		return err_set(e, EINVAL,
			       "the disk here has %llu sectors, the source's has %llu; both must "
			       "open the same disk",
			       (unsigned long long)here, (unsigned long long)there);
	return 0;
}

static const struct vdev_ops blk_ops = {
	.name = "virtio-blk",
	.device_id = VIRTIO_ID_BLOCK,
	.config_bytes = sizeof(struct virtio_blk_config),
	.config_read = config_read,
	.notify = notify,
	.quiesce = quiesce,
	.table = &blk_table,
	.state_bytes = sizeof(struct blk_state),
	.save = save,
	.check = check,
};

static uint64_t features(const struct blk *b)
{
	uint64_t f = VDEV_F(VIRTIO_BLK_F_SEG_MAX) | VDEV_F(VIRTIO_BLK_F_BLK_SIZE) |
		     VDEV_F(VIRTIO_BLK_F_FLUSH);

	if (b->n_queues > 1)
		f |= VDEV_F(VIRTIO_BLK_F_MQ);
	if (b->read_only)
		return f | VDEV_F(VIRTIO_BLK_F_RO);
	return f | VDEV_F(VIRTIO_BLK_F_DISCARD) | VDEV_F(VIRTIO_BLK_F_WRITE_ZEROES);
}

static int set_up_ring(struct blk *b, struct loop *loop, struct err *e)
{
	int rc;

	b->reqs = calloc(BLK_REQS, sizeof(*b->reqs));
	if (!b->reqs)
		return err_set(e, ENOMEM, "out of memory for virtio-blk");
	for (unsigned i = BLK_REQS; i-- > 0;) {
		b->reqs[i].next = b->free;
		b->free = &b->reqs[i];
	}
	/* One entry for each request, and one for our own fdatasync. */
	rc = io_uring_queue_init(2 * BLK_REQS, &b->ring, IORING_SETUP_CLAMP);
	if (rc)
		return err_sys(e, -rc, "cannot set up io_uring for a disk");
	b->has_ring = true;
	b->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->done_fd < 0)
		return err_sys(e, errno, "cannot set up the completions of a disk");
	rc = io_uring_register_eventfd(&b->ring, b->done_fd);
	if (!rc)
		rc = loop_add(loop, b->done_fd, EPOLLIN, on_done, b);
	return rc ? err_sys(e, -rc, "cannot set up the completions of a disk") : 0;
}

static void tear_down(struct blk *b, struct loop *loop)
{
	if (b->done_fd >= 0) {
		loop_remove(loop, b->done_fd);
		(void)close(b->done_fd);
	}
	if (b->has_ring)
		io_uring_queue_exit(&b->ring);
	if (b->fd >= 0)
		(void)close(b->fd);
	free(b->reqs);
	free(b);
}

int blk_new(struct blk **out, const struct vdev_host *host, const struct blk_config *cfg,
	    struct err *e)
{
	struct blk *b = calloc(1, sizeof(*b));
	uint16_t sizes[BLK_MAX_QUEUES];
	int rc;

	if (!b)
		return err_set(e, ENOMEM, "out of memory for virtio-blk");
	b->fd = b->done_fd = -1;
	b->n_queues = cfg->n_queues ? cfg->n_queues : 1;
	if (b->n_queues > BLK_MAX_QUEUES)
		rc = err_set(e, EINVAL, "a disk has at most %d queues", BLK_MAX_QUEUES);
	else
		rc = blk_open(b, cfg, e);
	if (!rc)
		rc = set_up_ring(b, host->loop, e);
	for (unsigned i = 0; i < BLK_MAX_QUEUES; i++)
		sizes[i] = BLK_QUEUE_SIZE;
	if (!rc)
		rc = vdev_init(&b->vdev, &blk_ops, host, features(b), sizes, b->n_queues, e);
	if (rc) {
		tear_down(b, host->loop);
		return rc;
	}
	*out = b;
	return 0;
}

int blk_free(struct blk *b, uint64_t deadline_ns)
{
	struct err e = ERR_INIT;
	struct loop *loop;
	bool busy;

	if (!b)
		return 0;
	loop = b->vdev.host.loop;
	vdev_lock(&b->vdev);
	b->vdev.is_paused = true;
	if (blk_quiesce_until(b, deadline_ns, &e))
		log_warn("%s", e.msg);
	/* A disk that cannot write its data out is at rest all the same. */
	busy = b->in_flight;
	vdev_unlock(&b->vdev);
	if (busy)
		return -ETIMEDOUT;
	vdev_fini(&b->vdev);
	tear_down(b, loop);
	return 0;
}

struct vdev *blk_vdev(struct blk *b)
{
	return &b->vdev;
}
