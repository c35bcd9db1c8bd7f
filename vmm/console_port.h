/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio console and its back-end (dev/chardev.h): bytes go from one to the other, each holding
 * back while the other has no room.
 *
 * Threads: as devices.h says. The console's lock is taken before the back-end's, never after it.
 */
#ifndef VMM_CONSOLE_PORT_H
#define VMM_CONSOLE_PORT_H

#include "virtio/console.h"

struct chardev;
struct console_port;

/* `backend` as in chardev.h. on_quit(ctx): Ctrl-A x on the terminal; may be NULL. */
int console_port_new(struct console_port **out, const struct vdev_host *host, const char *backend,
		     void (*on_quit)(void *ctx), void *ctx, struct err *e);
/* NULL is fine. */
void console_port_free(struct console_port *p);

struct vdev *console_port_vdev(struct console_port *p);
/* Its back-end, whose state moves beside the console's own. Owned by p. */
struct chardev *console_port_chardev(struct console_port *p);
/* Where it is, for people and programs. Owned by p. */
const char *console_port_name(const struct console_port *p);
void console_port_restore_terminal(struct console_port *p);

#endif
