/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/rng.h"
#include "virtio/tables.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include <linux/virtio_ids.h>

#define BATCH 16 /* buffers filled in one go */

struct rng {
	struct vdev vdev; /* first: ops get a pointer to it */
	struct vq_chain chain;
};

static const struct field rng_fields[] = {
	FIELD_SUB(struct rng_state, vdev, &vdev_table),
};
FIELD_TABLE(rng_table, "virtio-rng", 1, rng_fields);

/* Fill up to len bytes; a host without random bytes to give yields none. */
static size_t random_bytes(uint8_t *to, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = getrandom(to + done, len - done, GRND_NONBLOCK);

		if (n > 0)
			done += (size_t)n;
		else if (n == 0 || errno != EINTR)
			break;
	}
	return done;
}

static int rng_notify(struct vdev *d, unsigned q)
{
	struct rng *r = (struct rng *)d;
	struct vq *vq = vdev_queue(d, q);
	uint8_t bytes[RNG_BUFFER_MAX];

	for (unsigned i = 0; i < BATCH; i++) {
		int rc = vq_pop(vq, &r->chain);
		size_t n;

		if (rc <= 0)
			return rc;
		n = r->chain.in_bytes < sizeof(bytes) ? (size_t)r->chain.in_bytes : sizeof(bytes);
		n = vq_write(&r->chain, 0, bytes, random_bytes(bytes, n));
		vq_push(vq, &r->chain, n);
	}
	return 1;
}

static const struct vdev_ops rng_ops = {
	.name = "virtio-rng",
	.device_id = VIRTIO_ID_RNG,
	.notify = rng_notify,
	.table = &rng_table,
	.state_bytes = sizeof(struct rng_state),
};

int rng_new(struct rng **out, const struct vdev_host *host, struct err *e)
{
	static const uint16_t sizes[] = {64};
	struct rng *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(e, ENOMEM, "out of memory for virtio-rng");
	rc = vdev_init(&r->vdev, &rng_ops, host, 0, sizes, 1, e);
	if (rc) {
		free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void rng_free(struct rng *r)
{
	if (!r)
		return;
	vdev_fini(&r->vdev);
	free(r);
}

struct vdev *rng_vdev(struct rng *r)
{
	return &r->vdev;
}
