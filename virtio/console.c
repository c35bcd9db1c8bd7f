/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/console.h"
#include "virtio/tables.h"

#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#define QUEUE_RX   0u
#define QUEUE_TX   1u
#define PIECE      4096u  /* bytes given to the back-end at once */
#define TURN_BYTES 65536u /* output before others get their turn */

struct console {
	struct vdev vdev; /* first: ops get a pointer to it */
	struct console_backend backend;
	uint64_t tx_done;
	bool input_waits; /* the back-end waits for want_input() */
	struct vq_chain chain;
};

static const struct field console_fields[] = {
	FIELD_SUB(struct console_state, vdev, &vdev_table),
	FIELD(struct console_state, tx_done, FIELD_U64),
};
FIELD_TABLE(console_table, "virtio-console", 1, console_fields);

static struct console *to_console(struct vdev *d)
{
	return (struct console *)d;
}

/* --- output --- */

/*
 * Send what is left of c->chain, at most *budget bytes. Is it all out? Not even a driver that
 * changes its buffer while it waits here gets more than a wrong offset in its own text.
 */
static bool send_chain(struct console *c, size_t *budget, bool *held_back)
{
	uint8_t bytes[PIECE];

	while (*budget) {
		size_t want = *budget < PIECE ? *budget : PIECE;
		size_t n = vq_read(&c->chain, c->tx_done, bytes, want), taken;

		if (!n)
			return true;
		taken = c->backend.output(c->backend.ctx, bytes, n);
		c->tx_done += taken;
		*budget -= taken;
		if (taken < n) {
			*held_back = true;
			return false;
		}
	}
	return c->tx_done >= c->chain.out_bytes;
}

static int send(struct console *c, struct vq *q)
{
	size_t budget = TURN_BYTES;
	bool held_back = false;

	while (budget) {
		int rc = vq_pop(q, &c->chain);

		if (rc <= 0)
			return rc;
		if (!send_chain(c, &budget, &held_back)) {
			vq_rewind(q, 1);
			return held_back ? 0 : 1;
		}
		c->tx_done = 0;
		vq_push(q, &c->chain, 0);
		/* Empty buffers count as well: there may be many. */
		budget -= budget < 64 ? budget : 64;
	}
	return 1;
}

void console_drained(struct console *c)
{
	vdev_kick(&c->vdev, QUEUE_TX);
}

/* --- input --- */

/* Take the next input buffer. 1, or 0 if there is none (or never will be: the driver is broken). */
static int next_buffer(struct console *c)
{
	int rc;

	if (!vdev_live(&c->vdev))
		return 0;
	rc = vq_pop(vdev_queue(&c->vdev, QUEUE_RX), &c->chain);
	if (rc < 0) {
		(void)vdev_break_queue(&c->vdev, QUEUE_RX);
		return 0;
	}
	if (rc && !c->chain.in_bytes) {
		(void)vdev_break(&c->vdev, "an input buffer without room");
		vq_rewind(vdev_queue(&c->vdev, QUEUE_RX), 1);
		return 0;
	}
	return rc;
}

size_t console_room(struct console *c)
{
	size_t room = 0;

	vdev_lock(&c->vdev);
	if (next_buffer(c)) {
		room = (size_t)c->chain.in_bytes;
		vq_rewind(vdev_queue(&c->vdev, QUEUE_RX), 1);
	}
	c->input_waits = room == 0;
	vdev_unlock(&c->vdev);
	return room;
}

size_t console_input(struct console *c, const uint8_t *data, size_t len)
{
	size_t done = 0;

	vdev_lock(&c->vdev);
	while (done < len && next_buffer(c)) {
		size_t n = vq_write(&c->chain, 0, data + done, len - done);

		vq_push(vdev_queue(&c->vdev, QUEUE_RX), &c->chain, n);
		done += n;
	}
	c->input_waits = done < len;
	if (done)
		vdev_signal(&c->vdev, QUEUE_RX);
	vdev_unlock(&c->vdev);
	return done;
}

static int offer_room(struct console *c, struct vq *q)
{
	int rc = vq_pop(q, &c->chain);

	if (rc <= 0)
		return rc;
	vq_rewind(q, 1);
	if (c->input_waits) {
		c->input_waits = false;
		c->backend.want_input(c->backend.ctx);
	}
	return 0;
}

/* --- device --- */

static int console_notify(struct vdev *d, unsigned q)
{
	struct console *c = to_console(d);

	return q == QUEUE_TX ? send(c, vdev_queue(d, q)) : offer_room(c, vdev_queue(d, q));
}

static void console_reset(struct vdev *d)
{
	to_console(d)->tx_done = 0;
}

static void console_resumed(struct vdev *d)
{
	/* Input that came meanwhile found no room, whoever was asked. */
	to_console(d)->input_waits = true;
}

static void console_save(struct vdev *d, void *state)
{
	((struct console_state *)state)->tx_done = to_console(d)->tx_done;
}

static void console_load(struct vdev *d, const void *state)
{
	to_console(d)->tx_done = ((const struct console_state *)state)->tx_done;
}

static const struct vdev_ops console_ops = {
	.name = "virtio-console",
	.device_id = VIRTIO_ID_CONSOLE,
	/* No size is known, there is one port, and no emergency output: all of it reads as 0. */
	.config_bytes = sizeof(struct virtio_console_config),
	.reset = console_reset,
	.notify = console_notify,
	.resumed = console_resumed,
	.table = &console_table,
	.state_bytes = sizeof(struct console_state),
	.save = console_save,
	.load = console_load,
};

int console_new(struct console **out, const struct vdev_host *host,
		const struct console_backend *backend, struct err *e)
{
	static const uint16_t sizes[] = {64, 64};
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, ENOMEM, "out of memory for virtio-console");
	c->backend = *backend;
	c->input_waits = true;
	rc = vdev_init(&c->vdev, &console_ops, host, 0, sizes, 2, e);
	if (rc) {
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	vdev_fini(&c->vdev);
	free(c);
}

struct vdev *console_vdev(struct console *c)
{
	return &c->vdev;
}
