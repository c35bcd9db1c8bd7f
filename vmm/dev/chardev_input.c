/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "vmm/dev/chardev_impl.h"

#define CTRL_A 0x01

/*
 * Take the escape key's sequences out of what was typed: Ctrl-A x asks to quit, Ctrl-A Ctrl-A is
 * one Ctrl-A for the guest, Ctrl-A and another key is nothing. Returns the length that is left.
 */
static size_t filter_escapes(struct chardev *c, uint8_t *data, size_t len)
{
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		if (c->in_escape) {
			c->in_escape = false;
			if (data[i] == CTRL_A)
				data[kept++] = CTRL_A;
			else if (data[i] == 'x' && c->user.quit)
				c->user.quit(c->user.ctx);
		} else if (data[i] == CTRL_A) {
			c->in_escape = true;
		} else {
			data[kept++] = data[i];
		}
	}
	return kept;
}

/* Hand over what was read. True if all of it was taken. */
static bool deliver(struct chardev *c)
{
	while (c->stash_at < c->stash_len) {
		size_t left = c->stash_len - c->stash_at;
		size_t len = left < CHARDEV_INPUT_MAX ? left : CHARDEV_INPUT_MAX;
		size_t taken = c->user.input(c->user.ctx, c->stash + c->stash_at, len);

		c->stash_at += taken;
		if (taken < len)
			return false;
	}
	c->stash_at = c->stash_len = 0;
	return true;
}

/* Read without waiting. 0: nothing now, or never again, which has been seen to. */
static size_t read_some(struct chardev *c, uint8_t *to, size_t len)
{
	ssize_t n = read(c->in_fd, to, len);

	if (n > 0)
		return (size_t)n;
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		chardev_input_lost(c);
	return 0;
}

/* A raw terminal: read whether or not there is room, for the escape key's sake. */
static void terminal_ready(struct chardev *c)
{
	uint8_t typed[CHARDEV_INPUT_MAX];
	size_t len = filter_escapes(c, typed, read_some(c, typed, sizeof(typed))), room;

	if (c->stash_at) {
		c->stash_len -= c->stash_at;
		memmove(c->stash, c->stash + c->stash_at, c->stash_len);
		c->stash_at = 0;
	}
	room = sizeof(c->stash) - c->stash_len;
	if (len > room)
		len = room;
	memcpy(c->stash + c->stash_len, typed, len);
	c->stash_len += len;
	(void)deliver(c);
}

/* Read at most `room` bytes. False if there is nothing more to come for now. */
static bool read_input(struct chardev *c, size_t room)
{
	size_t n = read_some(c, c->stash, room < CHARDEV_INPUT_MAX ? room : CHARDEV_INPUT_MAX);

	c->stash_at = 0;
	c->stash_len = n;
	return n > 0;
}

/* in_fd has something, or a hang-up (events say which). */
static void input_ready(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;
	size_t room;

	if (c->in_fd < 0)
		return;
	if (c->in_eof) {
		/* Only a hang-up is still waited for. */
		if (events & (EPOLLHUP | EPOLLERR))
			chardev_input_lost(c);
		return;
	}
	if (c->terminal_raw) {
		terminal_ready(c);
		return;
	}
	/* Without room the watch ends: the user calls chardev_want_input() when there is some. */
	room = deliver(c) ? c->user.room(c->user.ctx) : 0;
	if (!room) {
		chardev_unwatch_input(c);
		return;
	}
	if (read_input(c, room) && !deliver(c))
		chardev_unwatch_input(c);
	else if (c->in_always && c->in_fd >= 0)
		(void)loop_post(c->loop, chardev_input_go, c);
}

void chardev_input_go(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;

	(void)events;
	if (!deliver(c) || c->in_fd < 0)
		return;
	if (c->in_always)
		input_ready(c, EPOLLIN);
	else
		chardev_watch_input(c);
}

void chardev_watch_input(struct chardev *c)
{
	int rc;

	if (c->in_watched || c->in_fd < 0)
		return;
	rc = loop_add(c->loop, c->in_fd, c->in_eof ? 0 : EPOLLIN, input_ready, c);
	c->in_watched = rc == 0;
	if (rc == -EPERM) {
		c->in_always = true;
		(void)loop_post(c->loop, chardev_input_go, c);
	}
}

void chardev_unwatch_input(struct chardev *c)
{
	if (c->in_watched)
		loop_remove(c->loop, c->in_fd);
	c->in_watched = false;
}
