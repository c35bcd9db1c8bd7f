/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console (virtio 1.2, section 5.3): one port, a byte stream each way.
 *
 * No byte is lost or doubled, also across a move: the device holds none. Input is taken only as far
 * as the driver has buffers for it (what a back-end has read already it moves itself), and of
 * output that the back-end does not take now the buffer stays in the queue, with the number of
 * bytes that are out already in the device's state.
 *
 * Threads: as virtio/vdev.h says; the functions here from any thread, with no lock of the back-end
 * held that its call-backs take.
 */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "virtio/vdev.h"

struct console;

/* Where the bytes go. Called with the device's lock held; must not call back into the console. */
struct console_backend {
	void *ctx;
	/* Returns how many bytes were taken; after fewer than len, call console_drained() later. */
	size_t (*output)(void *ctx, const uint8_t *data, size_t len);
	/* console_room() may be above 0 again. I/O thread. */
	void (*want_input)(void *ctx);
};

struct console_state {
	struct vdev_state vdev;
	uint64_t tx_done; /* bytes of the next output buffer that are out already */
};

int console_new(struct console **out, const struct vdev_host *host,
		const struct console_backend *backend, struct err *e);
/* NULL is fine. */
void console_free(struct console *c);
struct vdev *console_vdev(struct console *c);

/* Bytes of input that the driver takes now. After a 0, want_input() tells when to ask again. */
size_t console_room(struct console *c);
/* Input. Returns how many bytes were taken; the rest is to be offered again after want_input(). */
size_t console_input(struct console *c, const uint8_t *data, size_t len);
/* The back-end takes output again. */
void console_drained(struct console *c);

#endif
