/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a disk request: taken, a step at a time by the kernel, given back. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/falloc.h>

#include "base/clock.h"
#include "virtio/blk_impl.h"

/* --- giving back --- */

static void finish(struct blk *b, struct blk_req *r, uint8_t status)
{
	struct vq_chain *c = &r->chain;
	bool to_guest = r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_GET_ID;
	/* After an error the buffers may be half-written, and no less dirty. */
	uint64_t written = to_guest ? c->in_bytes : 0;

	if (r->bounce && r->type == VIRTIO_BLK_T_IN && status == VIRTIO_BLK_S_OK)
		(void)vq_write(c, 0, r->bounce, (size_t)r->total_bytes);
	free(r->bounce);
	r->bounce = NULL;
	*r->status = status;
	mem_mark(b->vdev.host.mem, r->status_gpa, 1);
	vq_push(vdev_queue(&b->vdev, r->q), c, written + 1);
	b->to_signal |= 1u << r->q;
	r->next = b->free;
	b->free = r;
}

static void signal_queues(struct blk *b)
{
	for (unsigned q = 0; b->to_signal; q++) {
		if (b->to_signal & 1u << q)
			vdev_signal(&b->vdev, q);
		b->to_signal &= ~(1u << q);
	}
}

/* Free requests are there again: let the queues that had to wait look. */
static void feed_starved(struct blk *b)
{
	for (unsigned q = 0; b->starved && b->free; q++) {
		if (b->starved & 1u << q)
			vdev_kick(&b->vdev, q);
		b->starved &= ~(1u << q);
	}
}

/* --- steps --- */

/* The kernel's next step for a request; there is always an SQE: the ring has one for each. */
static void prepare(struct blk *b, struct blk_req *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&b->ring);
	const struct iovec *iov = r->bounce ? &r->bounce_iov : &r->chain.iov[r->iov_first];
	unsigned n = r->bounce ? 1 : r->iov_count;
	const struct virtio_blk_discard_write_zeroes *s = &r->segs[r->seg];
	int mode = FALLOC_FL_PUNCH_HOLE;

	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		io_uring_prep_readv(sqe, b->fd, iov, n, r->offset_bytes);
		break;
	case VIRTIO_BLK_T_OUT:
		io_uring_prep_writev(sqe, b->fd, iov, n, r->offset_bytes);
		b->unsynced = true;
		break;
	case VIRTIO_BLK_T_FLUSH:
		io_uring_prep_fsync(sqe, b->fd, IORING_FSYNC_DATASYNC);
		break;
	default:
		if (r->type == VIRTIO_BLK_T_WRITE_ZEROES && !r->punched &&
		    !(s->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
			mode = FALLOC_FL_ZERO_RANGE;
		io_uring_prep_fallocate(sqe, b->fd, mode | FALLOC_FL_KEEP_SIZE,
					(off_t)(s->sector * BLK_SECTOR_BYTES),
					(off_t)s->num_sectors * BLK_SECTOR_BYTES);
		b->unsynced = true;
		break;
	}
	io_uring_sqe_set_data(sqe, r);
	b->in_flight++;
}

/* O_DIRECT wants its memory aligned; drivers nearly always do that anyway. */
static bool aligned(const struct blk *b, const struct blk_req *r)
{
	for (unsigned i = 0; i < r->iov_count; i++) {
		const struct iovec *v = &r->chain.iov[r->iov_first + i];

		if (((uintptr_t)v->iov_base | v->iov_len) & (b->block_bytes - 1))
			return false;
	}
	return true;
}

static bool set_up_bounce(struct blk_req *r)
{
	size_t n = (size_t)r->total_bytes;
	void *at;

	if (r->total_bytes > BLK_BOUNCE_MAX || posix_memalign(&at, MEM_PAGE_BYTES, n))
		return false;
	r->bounce = at;
	r->bounce_iov = (struct iovec){.iov_base = at, .iov_len = n};
	/* The parts to read have lost their header already: what is left is the data. */
	if (r->type == VIRTIO_BLK_T_OUT)
		(void)vq_read(&r->chain, 0, at, n);
	return true;
}

static void start(struct blk *b, struct blk_req *r)
{
	bool data = r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_OUT;

	if (data && b->direct && !aligned(b, r) && !set_up_bounce(r))
		finish(b, r, VIRTIO_BLK_S_IOERR);
	else
		prepare(b, r);
}

/* Part of a read or write is done: cut it off. What is cut off is not there to be marked later. */
static void advance(struct blk *b, struct blk_req *r, uint64_t n)
{
	r->offset_bytes += n;
	r->left_bytes -= n;
	if (r->bounce) {
		r->bounce_iov.iov_base = (uint8_t *)r->bounce_iov.iov_base + n;
		r->bounce_iov.iov_len -= n;
		return;
	}
	while (n) {
		struct iovec *v = &r->chain.iov[r->iov_first];
		uint64_t *gpa = &r->chain.gpa[r->iov_first];
		size_t part = v->iov_len < n ? v->iov_len : (size_t)n;

		if (r->type == VIRTIO_BLK_T_IN)
			mem_mark(b->vdev.host.mem, *gpa, part);
		*gpa += part;
		v->iov_base = (uint8_t *)v->iov_base + part;
		v->iov_len -= part;
		n -= part;
		if (!v->iov_len) {
			r->iov_first++;
			r->iov_count--;
		}
	}
}

/* A step of a read or write moved n bytes. */
static void data_done(struct blk *b, struct blk_req *r, uint64_t n)
{
	if (!n || n > r->left_bytes) {
		finish(b, r, VIRTIO_BLK_S_IOERR); /* the file became shorter */
	} else if (n < r->left_bytes) {
		advance(b, r, n);
		prepare(b, r);
	} else {
		finish(b, r, VIRTIO_BLK_S_OK);
	}
}

/* A step of a discard or write zeroes ended. */
static void range_done(struct blk *b, struct blk_req *r, int res)
{
	if (res >= 0 && ++r->seg == r->n_segs) {
		finish(b, r, VIRTIO_BLK_S_OK);
	} else if (res >= 0) {
		prepare(b, r);
	} else if (res != -EOPNOTSUPP) {
		finish(b, r, VIRTIO_BLK_S_IOERR);
	} else if (r->type == VIRTIO_BLK_T_WRITE_ZEROES && !r->punched) {
		/* A file system without zero ranges may have holes, which read the same. */
		r->punched = true;
		prepare(b, r);
	} else {
		finish(b, r, VIRTIO_BLK_S_UNSUPP);
	}
}

static void step_done(struct blk *b, struct blk_req *r, int res)
{
	b->in_flight--;
	if (!r)
		b->sync_error = res; /* blk_quiesce_until()'s own */
	else if (res == -EINTR || res == -EAGAIN || res == -ECANCELED)
		prepare(b, r); /* nothing was done; the thread that asked may have ended */
	else if (r->type == VIRTIO_BLK_T_DISCARD || r->type == VIRTIO_BLK_T_WRITE_ZEROES)
		range_done(b, r, res);
	else if (res < 0)
		finish(b, r, VIRTIO_BLK_S_IOERR);
	else if (r->type == VIRTIO_BLK_T_FLUSH)
		finish(b, r, VIRTIO_BLK_S_OK);
	else
		data_done(b, r, (uint64_t)res);
}

/* Hand over what is prepared; what the kernel does not take now, soon. */
static void submit(struct blk *b)
{
	(void)io_uring_submit(&b->ring);
	if (io_uring_sq_ready(&b->ring))
		vdev_kick(&b->vdev, 0);
}

static unsigned reap_some(struct blk *b)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	while (!io_uring_peek_cqe(&b->ring, &cqe)) {
		struct blk_req *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&b->ring, cqe);
		step_done(b, r, res);
		n++;
	}
	return n;
}

void blk_reap(struct blk *b)
{
	(void)reap_some(b);
	submit(b);
	signal_queues(b);
	feed_starved(b);
}

/* --- taking --- */

int blk_take(struct blk *b, unsigned q)
{
	struct vq *vq = vdev_queue(&b->vdev, q);
	int rc = 0;

	for (unsigned i = 0; i < BLK_BATCH; i++) {
		struct blk_req *r = b->free;
		uint8_t status = VIRTIO_BLK_S_OK;

		if (!r) {
			b->starved |= 1u << q;
			rc = 0;
			break;
		}
		rc = vq_pop(vq, &r->chain);
		if (rc <= 0)
			break;
		r->q = q;
		rc = blk_parse(b, r, &status);
		if (rc < 0) {
			vq_rewind(vq, 1);
			break;
		}
		b->free = r->next;
		if (rc)
			finish(b, r, status);
		else
			start(b, r);
		rc = 1;
	}
	submit(b);
	b->to_signal &= ~(1u << q); /* our caller does that */
	return rc;
}

/* --- rest --- */

static int drain(struct blk *b, uint64_t deadline_ns, struct err *e)
{
	while (b->in_flight) {
		uint64_t now = clock_mono_ns(), left = now < deadline_ns ? deadline_ns - now : 0;
		struct __kernel_timespec ts = {
			.tv_sec = (long long)(left / NS_PER_SEC),
			.tv_nsec = (long long)(left % NS_PER_SEC),
		};
		struct io_uring_cqe *cqe;

		submit(b);
		if (reap_some(b) && left)
			continue;
		if (!b->in_flight)
			break;
		if (!left)
			return err_set(e, ETIMEDOUT, "%s %u: %u requests to the disk do not end",
				       b->vdev.ops->name, b->vdev.host.instance, b->in_flight);
		(void)io_uring_wait_cqe_timeout(&b->ring, &cqe, &ts);
	}
	return 0;
}

/* Have what was written reach the disk. */
static int sync_disk(struct blk *b, uint64_t deadline_ns, struct err *e)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&b->ring);
	int rc;

	io_uring_prep_fsync(sqe, b->fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, NULL);
	b->in_flight++;
	b->sync_error = 0;
	rc = drain(b, deadline_ns, e);
	if (!rc && b->sync_error < 0)
		rc = err_sys(e, -b->sync_error, "%s %u: cannot write the disk's data out",
			     b->vdev.ops->name, b->vdev.host.instance);
	if (!rc)
		b->unsynced = false;
	return rc;
}

int blk_quiesce_until(struct blk *b, uint64_t deadline_ns, struct err *e)
{
	int rc = drain(b, deadline_ns, e);

	/* A driver's reset does not ask for that, a pause does: another host may go on. */
	if (!rc && b->unsynced && b->vdev.is_paused)
		rc = sync_disk(b, deadline_ns, e);
	signal_queues(b);
	return rc;
}
