/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/console_port.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/dev/chardev.h"

struct console_port {
	struct console *console;
	struct chardev *chardev;
	void (*on_quit)(void *ctx);
	void *ctx;
};

/* --- the back-end calls --- */

static size_t port_room(void *ctx)
{
	return console_room(((struct console_port *)ctx)->console);
}

static size_t port_input(void *ctx, const uint8_t *data, size_t len)
{
	return console_input(((struct console_port *)ctx)->console, data, len);
}

static void port_drained(void *ctx)
{
	console_drained(((struct console_port *)ctx)->console);
}

static void port_quit(void *ctx)
{
	struct console_port *p = ctx;

	if (p->on_quit)
		p->on_quit(p->ctx);
}

/* --- the console calls --- */

static size_t port_output(void *ctx, const uint8_t *data, size_t len)
{
	struct console_port *p = ctx;
	size_t room = chardev_room(p->chardev);
	size_t n = len < room ? len : room;

	chardev_write(p->chardev, data, n);
	return n;
}

static void port_want_input(void *ctx)
{
	struct console_port *p = ctx;

	/* Without memory for it the input waits for the next time that the guest runs. */
	(void)chardev_want_input(p->chardev);
}

int console_port_new(struct console_port **out, const struct vdev_host *host, const char *backend,
		     void (*on_quit)(void *ctx), void *ctx, struct err *e)
{
	struct console_port *p = calloc(1, sizeof(*p));
	const struct console_backend to_chardev = {
		.ctx = p, .output = port_output, .want_input = port_want_input};
	const struct chardev_user to_console = {.ctx = p,
						.room = port_room,
						.input = port_input,
						.drained = port_drained,
						.quit = port_quit};
	int rc;

	if (!p)
		return err_set(e, ENOMEM, "out of memory for virtio-console");
	p->on_quit = on_quit;
	p->ctx = ctx;
	/* Nothing moves before the loop runs, so neither calls the other that is not there yet. */
	rc = console_new(&p->console, host, &to_chardev, e);
	if (!rc)
		rc = chardev_open(&p->chardev, backend, host->loop, &to_console, e);
	if (rc) {
		console_port_free(p);
		return rc;
	}
	*out = p;
	return 0;
}

void console_port_free(struct console_port *p)
{
	if (!p)
		return;
	if (p->chardev)
		chardev_free(p->chardev);
	console_free(p->console);
	free(p);
}

struct vdev *console_port_vdev(struct console_port *p)
{
	return console_vdev(p->console);
}

struct chardev *console_port_chardev(struct console_port *p)
{
	return p->chardev;
}

const char *console_port_name(const struct console_port *p)
{
	return chardev_name(p->chardev);
}

void console_port_restore_terminal(struct console_port *p)
{
	chardev_restore_terminal(p->chardev);
}
