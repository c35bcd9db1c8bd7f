/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the balloon, for balloon*.c. All with the device's lock held. */
#ifndef VIRTIO_BALLOON_IMPL_H
#define VIRTIO_BALLOON_IMPL_H

#include "virtio/balloon.h"

/* Chains handled before others get their turn. */
#define BALLOON_BATCH 16

enum balloon_role { ROLE_NONE, ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_HINT, ROLE_REPORT };
#define BALLOON_QUEUES 5

enum hint_state { HINT_REST, HINT_ASKED, HINT_HINTS, HINT_ENDED };

struct balloon {
	struct vdev vdev; /* first: ops get a pointer to it */
	struct balloon_config cfg;

	enum balloon_role roles[BALLOON_QUEUES]; /* valid while DRIVER_OK */
	uint32_t num_pages, actual, poison_val;

	uint32_t hint_cmd;     /* what the configuration shows */
	uint32_t hint_next_id; /* not used before */
	enum hint_state hint;
	balloon_hint_fn *hint_fn; /* NULL in HINT_REST */
	void *hint_ctx;
	bool hint_hangs; /* loaded: a driver may wait for DONE, which no round of ours will give */

	struct balloon_stats stats;

	struct balloon_figures figures;
	bool warned;
	struct vq_chain chain;
};

static inline struct balloon *to_balloon(struct vdev *d)
{
	return (struct balloon *)d;
}

/* The queue of a role, or -1 if the driver did not take it. */
int balloon_queue_of(const struct balloon *b, enum balloon_role role);

/* vdev_ops.notify for the queues of each role. */
int balloon_inflate(struct balloon *b, struct vq *q);
int balloon_deflate(struct balloon *b, struct vq *q);
int balloon_report(struct balloon *b, struct vq *q);
int balloon_take_stats(struct balloon *b, struct vq *q);
int balloon_take_hints(struct balloon *b, struct vq *q);

/* Count, and warn once, about an address that is no RAM. */
void balloon_ignore(struct balloon *b, uint64_t gpa);
/* The whole pages in [gpa, gpa+len): false if there are none. */
bool balloon_whole_pages(uint64_t *gpa, uint64_t *len);

void balloon_hint_reset(struct balloon *b);

#endif
