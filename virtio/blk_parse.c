/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request says. A driver may cut it into descriptors as it likes: the header is the first 16
 * of the bytes to read, the status the last of the bytes to write, and data is what lies between.
 */
#include <errno.h>
#include <string.h>

#include "virtio/blk_impl.h"

#define HEADER_BYTES ((uint32_t)sizeof(struct virtio_blk_outhdr))
#define SEG_BYTES    ((uint32_t)sizeof(struct virtio_blk_discard_write_zeroes))

/* Take the status byte off the end of the parts to write. */
static void cut_status(struct blk_req *r)
{
	struct vq_chain *c = &r->chain;
	unsigned last = (unsigned)c->n_out + c->n_in - 1;

	c->iov[last].iov_len--;
	c->in_bytes--;
	r->status = (uint8_t *)c->iov[last].iov_base + c->iov[last].iov_len;
	r->status_gpa = c->gpa[last] + c->iov[last].iov_len;
	if (!c->iov[last].iov_len)
		c->n_in--;
}

/* Take the header off the front of the parts to read: leaves the first part with data. */
static void cut_header(struct blk_req *r)
{
	struct vq_chain *c = &r->chain;
	size_t left = HEADER_BYTES;

	r->iov_first = 0;
	while (left) {
		struct iovec *v = &c->iov[r->iov_first];
		size_t n = v->iov_len < left ? v->iov_len : left;

		v->iov_base = (uint8_t *)v->iov_base + n;
		v->iov_len -= n;
		left -= n;
		if (!v->iov_len)
			r->iov_first++;
	}
	c->out_bytes -= HEADER_BYTES;
}

static bool in_range(const struct blk *b, uint64_t sector, uint64_t n)
{
	return sector <= b->sectors && n <= b->sectors - sector;
}

static int end(uint8_t *status, uint8_t how)
{
	*status = how;
	return 1;
}

static int parse_data(struct blk *b, struct blk_req *r, uint64_t sector, uint8_t *status)
{
	struct vq_chain *c = &r->chain;
	bool write = r->type == VIRTIO_BLK_T_OUT;

	r->total_bytes = r->left_bytes = write ? c->out_bytes : c->in_bytes;
	if (!write)
		r->iov_first = c->n_out;
	r->iov_count = write ? c->n_out - r->iov_first : c->n_in;
	if (r->total_bytes % b->block_bytes || sector % (b->block_bytes / BLK_SECTOR_BYTES) ||
	    !in_range(b, sector, r->total_bytes / BLK_SECTOR_BYTES) || (write && b->read_only))
		return end(status, VIRTIO_BLK_S_IOERR);
	r->offset_bytes = sector * BLK_SECTOR_BYTES;
	return r->total_bytes ? 0 : end(status, VIRTIO_BLK_S_OK);
}

static int parse_ranges(struct blk *b, struct blk_req *r, uint8_t *status)
{
	uint32_t may =
		r->type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	uint64_t bytes = r->chain.out_bytes;

	if (b->read_only || !bytes || bytes % SEG_BYTES || bytes / SEG_BYTES > BLK_SEGS_MAX)
		return end(status, VIRTIO_BLK_S_IOERR);
	r->n_segs = (unsigned)(bytes / SEG_BYTES);
	r->seg = 0;
	r->punched = false;
	for (unsigned i = 0; i < r->n_segs; i++) {
		const struct virtio_blk_discard_write_zeroes *s = &r->segs[i];

		if (s->flags & ~may)
			return end(status, VIRTIO_BLK_S_UNSUPP);
		if (!s->num_sectors || s->num_sectors > BLK_RANGE_MAX ||
		    !in_range(b, s->sector, s->num_sectors))
			return end(status, VIRTIO_BLK_S_IOERR);
	}
	return 0;
}

static int give_id(struct blk *b, struct blk_req *r, uint8_t *status)
{
	if (r->chain.in_bytes < BLK_SERIAL_BYTES)
		return end(status, VIRTIO_BLK_S_IOERR);
	(void)vq_write(&r->chain, 0, b->serial, sizeof(b->serial));
	return end(status, VIRTIO_BLK_S_OK);
}

int blk_parse(struct blk *b, struct blk_req *r, uint8_t *status)
{
	struct virtio_blk_outhdr h;

	if (vq_read(&r->chain, 0, &h, sizeof(h)) != sizeof(h))
		return vdev_break(&b->vdev, "a disk request without its header");
	if (!r->chain.in_bytes)
		return vdev_break(&b->vdev, "a disk request without room for its status");
	(void)vq_read(&r->chain, HEADER_BYTES, r->segs, sizeof(r->segs));
	cut_status(r);
	cut_header(r);
	r->type = h.type;
	r->total_bytes = r->left_bytes = 0;
	switch (h.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return parse_data(b, r, h.sector, status);
	case VIRTIO_BLK_T_FLUSH:
		return 0;
	case VIRTIO_BLK_T_GET_ID:
		return give_id(b, r, status);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return parse_ranges(b, r, status);
	default:
		return end(status, VIRTIO_BLK_S_UNSUPP);
	}
}
