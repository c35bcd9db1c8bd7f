/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include "virtio/balloon_impl.h"
#include "virtio/tables.h"

#define CONFIG_BYTES ((uint32_t)sizeof(struct virtio_balloon_config))

static const struct field balloon_fields[] = {
	FIELD_SUB(struct balloon_state, vdev, &vdev_table),
	FIELD(struct balloon_state, num_pages, FIELD_U32),
	FIELD(struct balloon_state, actual, FIELD_U32),
	FIELD(struct balloon_state, hint_cmd, FIELD_U32),
	FIELD(struct balloon_state, hint_next_id, FIELD_U32),
	FIELD(struct balloon_state, poison_val, FIELD_U32),
	FIELD(struct balloon_state, stats_known, FIELD_U32),
	FIELD(struct balloon_state, stats_ns, FIELD_U64),
	FIELD_ARRAY(struct balloon_state, stats, FIELD_U64),
};
FIELD_TABLE(balloon_table, "virtio-balloon", 1, balloon_fields);

static uint64_t ram_pages(const struct balloon *b)
{
	return b->vdev.host.mem->size_bytes >> VIRTIO_BALLOON_PFN_SHIFT;
}

/* --- configuration --- */

static void config_read(struct vdev *d, uint32_t offset, void *to, uint32_t len)
{
	const struct balloon *b = to_balloon(d);
	struct virtio_balloon_config c = {
		.num_pages = b->num_pages,
		.actual = b->actual,
		.free_page_hint_cmd_id = b->hint_cmd,
		.poison_val = b->poison_val,
	};

	memcpy(to, (const uint8_t *)&c + offset, len);
}

static uint64_t actual_bytes(const struct balloon *b)
{
	uint64_t all = ram_pages(b);

	return (b->actual < all ? all - b->actual : 0) << VIRTIO_BALLOON_PFN_SHIFT;
}

static void config_write(struct vdev *d, uint32_t offset, const void *from, uint32_t len)
{
	struct balloon *b = to_balloon(d);
	struct virtio_balloon_config c = {.actual = b->actual, .poison_val = b->poison_val};

	/* What the driver may not write falls into c, and nowhere else. */
	memcpy((uint8_t *)&c + offset, from, len);
	b->poison_val = c.poison_val;
	if (c.actual == b->actual)
		return;
	b->actual = c.actual;
	if (b->cfg.on_change)
		b->cfg.on_change(b->cfg.ctx, actual_bytes(b));
}

int balloon_set_target(struct balloon *b, uint64_t target_bytes)
{
	uint64_t all = ram_pages(b), want = target_bytes >> VIRTIO_BALLOON_PFN_SHIFT;
	uint64_t out = want < all ? all - want : 0;
	int rc;

	vdev_lock(&b->vdev);
	rc = vdev_live(&b->vdev) ? 0 : -ENODEV;
	if (out > UINT32_MAX)
		out = UINT32_MAX;
	if (b->num_pages != out) {
		b->num_pages = (uint32_t)out;
		vdev_config_changed(&b->vdev);
	}
	vdev_unlock(&b->vdev);
	return rc;
}

uint64_t balloon_actual_bytes(struct balloon *b)
{
	uint64_t bytes;

	vdev_lock(&b->vdev);
	bytes = actual_bytes(b);
	vdev_unlock(&b->vdev);
	return bytes;
}

void balloon_figures(struct balloon *b, struct balloon_figures *out)
{
	vdev_lock(&b->vdev);
	*out = b->figures;
	vdev_unlock(&b->vdev);
}

/* --- queues --- */

static void activate(struct vdev *d)
{
	struct balloon *b = to_balloon(d);
	unsigned n = 0;

	memset(b->roles, 0, sizeof(b->roles));
	b->roles[n++] = ROLE_INFLATE;
	b->roles[n++] = ROLE_DEFLATE;
	/* A queue whose feature the driver did not take is not counted. */
	if (vdev_has(d, VIRTIO_BALLOON_F_STATS_VQ))
		b->roles[n++] = ROLE_STATS;
	if (vdev_has(d, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		b->roles[n++] = ROLE_HINT;
	if (vdev_has(d, VIRTIO_BALLOON_F_REPORTING))
		b->roles[n++] = ROLE_REPORT;
}

int balloon_queue_of(const struct balloon *b, enum balloon_role role)
{
	for (int i = 0; i < BALLOON_QUEUES; i++)
		if (b->roles[i] == role)
			return i;
	return -1;
}

static int notify(struct vdev *d, unsigned q)
{
	struct balloon *b = to_balloon(d);
	struct vq *vq = vdev_queue(d, q);

	switch (b->roles[q]) {
	case ROLE_INFLATE:
		return balloon_inflate(b, vq);
	case ROLE_DEFLATE:
		return balloon_deflate(b, vq);
	case ROLE_STATS:
		return balloon_take_stats(b, vq);
	case ROLE_HINT:
		return balloon_take_hints(b, vq);
	case ROLE_REPORT:
		return balloon_report(b, vq);
	case ROLE_NONE:
		break;
	}
	return 0;
}

/* --- life --- */

static void reset(struct vdev *d)
{
	struct balloon *b = to_balloon(d);

	memset(b->roles, 0, sizeof(b->roles));
	memset(&b->stats, 0, sizeof(b->stats));
	b->poison_val = 0;
	balloon_hint_reset(b);
	/* The guest's memory is all its own again; the target is the host's, and stays. */
	if (b->actual) {
		b->actual = 0;
		if (b->cfg.on_change)
			b->cfg.on_change(b->cfg.ctx, actual_bytes(b));
	}
}

static void resumed(struct vdev *d)
{
	struct balloon *b = to_balloon(d);

	if (!b->hint_hangs)
		return;
	b->hint_hangs = false;
	b->hint_cmd = VIRTIO_BALLOON_CMD_ID_DONE;
	vdev_config_changed(d);
}

static void save(struct vdev *d, void *state)
{
	const struct balloon *b = to_balloon(d);
	struct balloon_state *st = state;

	st->num_pages = b->num_pages;
	st->actual = b->actual;
	st->hint_cmd = b->hint_cmd;
	st->hint_next_id = b->hint_next_id;
	st->poison_val = b->poison_val;
	st->stats_known = b->stats.known;
	st->stats_ns = b->stats.updated_ns;
	memcpy(st->stats, b->stats.value, sizeof(st->stats));
}

static int check(struct vdev *d, const void *state, struct err *e)
{
	const struct balloon_state *st = state;

	if (st->num_pages > ram_pages(to_balloon(d)))
		return err_set(e, EINVAL, "a balloon larger than the guest's memory");
	if (st->hint_next_id <= VIRTIO_BALLOON_CMD_ID_DONE)
		return err_set(e, EINVAL, "no round of hints has the number %u", st->hint_next_id);
	if (st->stats_known >> BALLOON_N_STATS)
		return err_set(e, EINVAL, "statistics that are not known");
	return 0;
}

static void load(struct vdev *d, const void *state)
{
	struct balloon *b = to_balloon(d);
	const struct balloon_state *st = state;

	b->num_pages = st->num_pages;
	b->actual = st->actual;
	b->hint_cmd = st->hint_cmd;
	b->hint_next_id = st->hint_next_id;
	b->poison_val = st->poison_val;
	b->stats.known = st->stats_known;
	b->stats.updated_ns = st->stats_ns;
	memcpy(b->stats.value, st->stats, sizeof(st->stats));
	/* The round was the source's. Its driver may still hold the pages it hinted. */
	b->hint = HINT_REST;
	b->hint_fn = NULL;
	b->hint_hangs = balloon_queue_of(b, ROLE_HINT) >= 0 &&
			st->hint_next_id > VIRTIO_BALLOON_CMD_ID_DONE + 1 &&
			st->hint_cmd != VIRTIO_BALLOON_CMD_ID_DONE;
}

static const struct vdev_ops balloon_ops = {
	.name = "virtio-balloon",
	.device_id = VIRTIO_ID_BALLOON,
	.config_bytes = CONFIG_BYTES,
	.config_read = config_read,
	.config_write = config_write,
	.activate = activate,
	.reset = reset,
	.notify = notify,
	.resumed = resumed,
	.table = &balloon_table,
	.state_bytes = sizeof(struct balloon_state),
	.save = save,
	.check = check,
	.load = load,
};

int balloon_new(struct balloon **out, const struct vdev_host *host,
		const struct balloon_config *cfg, struct err *e)
{
	static const uint16_t sizes[BALLOON_QUEUES] = {128, 128, 64, 128, 64};
	uint64_t features = VDEV_F(VIRTIO_BALLOON_F_PAGE_POISON);
	struct balloon *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return err_set(e, ENOMEM, "out of memory for virtio-balloon");
	if (cfg->deflate_on_oom)
		features |= VDEV_F(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	if (cfg->stats)
		features |= VDEV_F(VIRTIO_BALLOON_F_STATS_VQ);
	if (cfg->hinting)
		features |= VDEV_F(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
	if (cfg->reporting)
		features |= VDEV_F(VIRTIO_BALLOON_F_REPORTING);
	b->cfg = *cfg;
	rc = vdev_init(&b->vdev, &balloon_ops, host, features, sizes, BALLOON_QUEUES, e);
	if (rc) {
		free(b);
		return rc;
	}
	balloon_hint_reset(b);
	*out = b;
	return 0;
}

void balloon_free(struct balloon *b)
{
	if (!b)
		return;
	vdev_fini(&b->vdev);
	free(b);
}

struct vdev *balloon_vdev(struct balloon *b)
{
	return &b->vdev;
}
