/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon's rounds of free page hints; the state machine is drawn in balloon.h. */
#include <errno.h>

#include <linux/virtio_balloon.h>

#include "virtio/balloon_impl.h"

#define FIRST_ID 2u /* those below are STOP and DONE */

static void end_round(struct balloon *b)
{
	b->hint = HINT_REST;
	b->hint_fn = NULL;
	b->hint_ctx = NULL;
}

void balloon_hint_reset(struct balloon *b)
{
	/* The user still has to say stop; meanwhile nothing more comes. */
	if (b->hint != HINT_REST)
		b->hint = HINT_ENDED;
	b->hint_cmd = VIRTIO_BALLOON_CMD_ID_STOP;
	b->hint_hangs = false;
	if (b->hint_next_id < FIRST_ID)
		b->hint_next_id = FIRST_ID;
}

static void show(struct balloon *b, uint32_t cmd)
{
	if (b->hint_cmd == cmd)
		return;
	b->hint_cmd = cmd;
	vdev_config_changed(&b->vdev);
}

int balloon_hint_start(struct balloon *b, balloon_hint_fn *fn, void *ctx)
{
	int rc = 0;

	vdev_lock(&b->vdev);
	if (!vdev_live(&b->vdev)) {
		rc = -ENODEV;
	} else if (balloon_queue_of(b, ROLE_HINT) < 0 ||
		   vdev_has(&b->vdev, VIRTIO_BALLOON_F_PAGE_POISON)) {
		rc = -EOPNOTSUPP;
	} else if (b->hint != HINT_REST) {
		rc = -EBUSY;
	} else {
		b->hint = HINT_ASKED;
		b->hint_fn = fn;
		b->hint_ctx = ctx;
		show(b, b->hint_next_id);
		/* An id comes again after 2^32 rounds; no driver is that late. */
		b->hint_next_id = b->hint_next_id == UINT32_MAX ? FIRST_ID : b->hint_next_id + 1;
	}
	vdev_unlock(&b->vdev);
	return rc;
}

static void stop(struct balloon *b, uint32_t cmd)
{
	bool asked, done;

	vdev_lock(&b->vdev);
	end_round(b);
	/* A driver that was never asked has nothing to stop; one that is done stays so. */
	asked = b->hint_next_id != FIRST_ID && vdev_has(&b->vdev, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
	done = b->hint_cmd == VIRTIO_BALLOON_CMD_ID_DONE;
	if (asked && !done)
		show(b, cmd);
	vdev_unlock(&b->vdev);
}

void balloon_hint_stop(struct balloon *b)
{
	stop(b, VIRTIO_BALLOON_CMD_ID_STOP);
}

void balloon_hint_done(struct balloon *b)
{
	stop(b, VIRTIO_BALLOON_CMD_ID_DONE);
}

bool balloon_hint_ended(struct balloon *b)
{
	bool ended;

	vdev_lock(&b->vdev);
	ended = b->hint == HINT_REST || b->hint == HINT_ENDED || !vdev_live(&b->vdev);
	vdev_unlock(&b->vdev);
	return ended;
}

/* What the driver says: an id, or the end mark. */
static void take_word(struct balloon *b, const struct vq_chain *c)
{
	uint32_t id;

	if (c->out_bytes != sizeof(id) || vq_read(c, 0, &id, sizeof(id)) != sizeof(id)) {
		b->figures.ignored++;
		return;
	}
	if (b->hint == HINT_REST || b->hint == HINT_ENDED)
		return;
	if (id == b->hint_cmd)
		b->hint = HINT_HINTS;
	else if (id == VIRTIO_BALLOON_CMD_ID_STOP && b->hint == HINT_HINTS)
		b->hint = HINT_ENDED;
	else if (id != VIRTIO_BALLOON_CMD_ID_STOP)
		b->hint = HINT_ASKED; /* another round's: so are the pages that follow */
}

static void take_pages(struct balloon *b, const struct vq_chain *c)
{
	for (unsigned i = c->n_out; i < (unsigned)c->n_out + c->n_in; i++) {
		uint64_t gpa = c->gpa[i], len = c->iov[i].iov_len;

		if (b->hint != HINT_HINTS || !balloon_whole_pages(&gpa, &len)) {
			b->figures.ignored++;
			continue;
		}
		b->hint_fn(b->hint_ctx, gpa, len);
		b->figures.hinted_bytes += len;
	}
}

int balloon_take_hints(struct balloon *b, struct vq *q)
{
	for (unsigned i = 0; i < BALLOON_BATCH; i++) {
		int rc = vq_pop(q, &b->chain);

		if (rc <= 0)
			return rc;
		if (b->chain.n_out)
			take_word(b, &b->chain);
		if (b->chain.n_in)
			take_pages(b, &b->chain);
		vq_push(q, &b->chain, 0);
	}
	return 1;
}
