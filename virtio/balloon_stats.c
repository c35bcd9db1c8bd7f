/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The balloon's statistics. The driver leaves a buffer with its figures in the queue; giving it
 * back asks for new ones. Until then it stays *in* the queue: it is read and untaken, so that
 * nothing of the queue is ever kept here, and a move has nothing to carry.
 */
#include <errno.h>
#include <string.h>

#include <linux/virtio_balloon.h>

#include "base/clock.h"
#include "virtio/balloon_impl.h"

#define STAT_BYTES  10u /* le16 tag, le64 value */
#define ENTRIES_MAX 64u /* looked at in one buffer, whatever its size */

_Static_assert(BALLOON_N_STATS == VIRTIO_BALLOON_S_NR, "tags of the kernel's header");

static void parse(struct balloon *b, const struct vq_chain *c)
{
	uint8_t bytes[STAT_BYTES * ENTRIES_MAX];
	size_t n = vq_read(c, 0, bytes, sizeof(bytes)) / STAT_BYTES;
	struct balloon_stats st = {.updated_ns = clock_real_ns()};

	for (size_t i = 0; i < n; i++) {
		uint16_t tag;

		memcpy(&tag, bytes + i * STAT_BYTES, sizeof(tag));
		if (tag >= BALLOON_N_STATS)
			continue;
		memcpy(&st.value[tag], bytes + i * STAT_BYTES + 2, sizeof(st.value[tag]));
		st.known |= 1u << tag;
	}
	b->stats = st;
}

int balloon_take_stats(struct balloon *b, struct vq *q)
{
	int rc = vq_pop(q, &b->chain);

	if (rc <= 0)
		return rc;
	parse(b, &b->chain);
	vq_rewind(q, 1);
	return 0;
}

int balloon_stats(struct balloon *b, struct balloon_stats *out)
{
	int rc = 0;

	vdev_lock(&b->vdev);
	if (balloon_queue_of(b, ROLE_STATS) < 0)
		rc = -EOPNOTSUPP;
	else
		*out = b->stats;
	vdev_unlock(&b->vdev);
	return rc;
}

int balloon_stats_request(struct balloon *b)
{
	int q, rc;

	vdev_lock(&b->vdev);
	q = balloon_queue_of(b, ROLE_STATS);
	if (q < 0) {
		rc = -EOPNOTSUPP;
	} else if (!vdev_live(&b->vdev)) {
		rc = -EAGAIN;
	} else {
		rc = vq_pop(vdev_queue(&b->vdev, (unsigned)q), &b->chain);
		if (rc == 1) {
			vq_push(vdev_queue(&b->vdev, (unsigned)q), &b->chain, 0);
			vdev_signal(&b->vdev, (unsigned)q);
			/* Look again, for the next doorbell to be asked for. */
			vdev_kick(&b->vdev, (uint32_t)q);
			rc = 0;
		} else {
			if (rc < 0)
				(void)vdev_break_queue(&b->vdev, (unsigned)q);
			rc = -EAGAIN;
		}
	}
	vdev_unlock(&b->vdev);
	return rc;
}
