/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
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
		if (taken)
			c->stash_loaded = 0;
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

/* Have the stash begin with what was not taken yet. */
static void compact(struct chardev *c)
{
	if (!c->stash_at)
		return;
	c->stash_len -= c->stash_at;
	memmove(c->stash, c->stash + c->stash_at, c->stash_len);
	c->stash_at = 0;
}

/* A raw terminal: read whether or not there is room, for the escape key's sake. */
static void terminal_ready(struct chardev *c)
{
	uint8_t typed[CHARDEV_INPUT_MAX];
	size_t len = filter_escapes(c, typed, read_some(c, typed, sizeof(typed))), room;

	compact(c);
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
static void take_input(struct chardev *c, uint32_t events)
{
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

static void input_ready(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;

	pthread_mutex_lock(&c->input_lock);
	take_input(c, events);
	pthread_mutex_unlock(&c->input_lock);
}

void chardev_input_go(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;

	(void)events;
	pthread_mutex_lock(&c->input_lock);
	if (deliver(c) && c->in_fd >= 0) {
		if (c->in_always)
			take_input(c, EPOLLIN);
		else
			chardev_watch_input(c);
	}
	pthread_mutex_unlock(&c->input_lock);
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

/* --- state --- */

static const struct field chardev_fields[] = {
	FIELD(struct chardev_state, input_bytes, FIELD_U32),
	FIELD_RAW_VAR(struct chardev_state, input, input_bytes),
};
FIELD_TABLE(chardev_table, "input", 1, chardev_fields);

/*
 * Read what has come, without waiting. An end is left for the loop's thread to find; a terminal is
 * read by it all the time.
 */
static void read_ahead(struct chardev *c)
{
	while (c->in_fd >= 0 && !c->terminal_raw && c->stash_len < sizeof(c->stash)) {
		struct pollfd p = {.fd = c->in_fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
			return;
		n = read(c->in_fd, c->stash + c->stash_len, sizeof(c->stash) - c->stash_len);
		if (n <= 0)
			return;
		c->stash_len += (size_t)n;
	}
}

void chardev_save(struct chardev *c, struct chardev_state *out)
{
	pthread_mutex_lock(&c->input_lock);
	compact(c);
	read_ahead(c);
	out->input_bytes = (uint32_t)c->stash_len;
	memcpy(out->input, c->stash, c->stash_len);
	pthread_mutex_unlock(&c->input_lock);
}

void chardev_load(struct chardev *c, const struct chardev_state *st)
{
	size_t loaded = st->input_bytes, own;

	pthread_mutex_lock(&c->input_lock);
	/* A guest that came and never ran here takes its input with it. */
	c->stash_at += c->stash_loaded;
	compact(c);
	own = sizeof(c->stash) - loaded;
	if (own > c->stash_len)
		own = c->stash_len;
	memmove(c->stash + loaded, c->stash, own);
	memcpy(c->stash, st->input, loaded);
	c->stash_len = loaded + own;
	c->stash_loaded = loaded;
	pthread_mutex_unlock(&c->input_lock);
}
