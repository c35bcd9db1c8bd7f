/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/chardev.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "vmm/dev/chardev_impl.h"
#include "vmm/dev/terminal.h"

/* How long chardev_free() waits for a slow peer to take what is queued. */
#define LAST_CHANCE_NS (200 * NS_PER_MS)

/* Write some bytes without waiting: how many, or -errno (-EAGAIN: none now). */
static ssize_t write_some(const struct chardev *c, const uint8_t *data, size_t len)
{
	struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};
	ssize_t n;

	if (c->out_how == OUT_SOCKET) {
		n = send(c->out_fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	} else {
		if (c->out_how == OUT_POLL) {
			if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLOUT | POLLERR)))
				return -EAGAIN;
			len = 1; /* the one size that POLLOUT promises to take */
		}
		n = write(c->out_fd, data, len);
	}
	if (n >= 0)
		return n;
	return errno == EINTR ? -EAGAIN : -errno;
}

/* A write failed for good. Whoever closes the descriptor is the loop's thread. */
static void output_failed(struct chardev *c, int err)
{
	/* Clients come and go; a file or a terminal that fails is worth a word, once. */
	if (c->kind == CHARDEV_FILE || c->kind == CHARDEV_STDIO) {
		if (!c->out_warned)
			log_warn("output of the serial port is lost: cannot write to %s: %s",
				 c->name, strerror(err));
		c->out_warned = true;
	}
	if (c->out_how == OUT_PLAIN)
		return; /* a full disk may have room again */
	c->peer = false;
	c->out_failed = true;
	(void)loop_post(c->loop, chardev_output_lost, c);
}

static bool can_write(const struct chardev *c)
{
	return c->out_fd >= 0 && !c->out_failed;
}

static void ring_drop(struct chardev *c, size_t n)
{
	c->ring_at = (c->ring_at + n) % CHARDEV_RING_BYTES;
	c->ring_len -= n;
}

/* Write from the ring what goes out without waiting. Lock held. */
static void flush_ring(struct chardev *c)
{
	while (c->ring_len && can_write(c)) {
		size_t len = CHARDEV_RING_BYTES - c->ring_at;
		ssize_t n;

		if (len > c->ring_len)
			len = c->ring_len;
		n = write_some(c, c->ring + c->ring_at, len);
		if (n == -EAGAIN || n == 0)
			return;
		if (n < 0) {
			output_failed(c, (int)-n);
			return;
		}
		ring_drop(c, (size_t)n);
	}
}

/* Queue bytes. With a peer what does not fit is dropped, without one the oldest. Lock held. */
static void ring_put(struct chardev *c, const uint8_t *data, size_t len)
{
	size_t room = CHARDEV_RING_BYTES - c->ring_len;

	if (len > room && c->peer)
		len = room;
	if (len > CHARDEV_RING_BYTES) {
		data += len - CHARDEV_RING_BYTES;
		len = CHARDEV_RING_BYTES;
	}
	if (len > room)
		ring_drop(c, len - room);
	for (size_t i = 0; i < len; i++)
		c->ring[(c->ring_at + c->ring_len++) % CHARDEV_RING_BYTES] = data[i];
}

static void say_drained(struct chardev *c)
{
	if (c->user.drained)
		c->user.drained(c->user.ctx);
}

/* The loop's thread: out_fd takes more, or a write found it full and queued the rest. */
static void output_ready(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;
	bool watch;

	(void)events;
	pthread_mutex_lock(&c->lock);
	c->out_posted = false;
	flush_ring(c);
	watch = c->ring_len && can_write(c);
	if (watch && !c->out_watched)
		c->out_watched = !loop_add(c->loop, c->out_fd, EPOLLOUT, output_ready, c);
	else if (!watch && c->out_watched) {
		loop_remove(c->loop, c->out_fd);
		c->out_watched = false;
	}
	pthread_mutex_unlock(&c->lock);
	say_drained(c);
}

void chardev_write(struct chardev *c, const uint8_t *data, size_t len)
{
	if (c->kind == CHARDEV_NONE)
		return;
	pthread_mutex_lock(&c->lock);
	while (len && !c->ring_len && can_write(c)) {
		ssize_t n = write_some(c, data, len);

		if (n == -EAGAIN || n == 0)
			break;
		if (n < 0) {
			output_failed(c, (int)-n);
			if (c->out_how == OUT_PLAIN)
				len = 0;
			break;
		}
		data += n;
		len -= (size_t)n;
	}
	if (len && (can_write(c) || c->kind == CHARDEV_UNIX || c->kind == CHARDEV_PTY))
		ring_put(c, data, len);
	if (c->ring_len && can_write(c) && !c->out_posted && !c->out_watched)
		c->out_posted = !loop_post(c->loop, output_ready, c);
	pthread_mutex_unlock(&c->lock);
}

size_t chardev_room(struct chardev *c)
{
	size_t room;

	pthread_mutex_lock(&c->lock);
	room = c->peer ? CHARDEV_RING_BYTES - c->ring_len : SIZE_MAX;
	pthread_mutex_unlock(&c->lock);
	return room;
}

void chardev_flush(struct chardev *c)
{
	pthread_mutex_lock(&c->lock);
	flush_ring(c);
	pthread_mutex_unlock(&c->lock);
}

int chardev_want_input(struct chardev *c)
{
	return loop_post(c->loop, chardev_input_go, c);
}

bool chardev_owns_output(const struct chardev *c)
{
	return c->out_fd >= 0 && c->out_fd != STDOUT_FILENO;
}

void chardev_take_output(struct chardev *c, int out_fd, enum out_how how)
{
	pthread_mutex_lock(&c->lock);
	c->out_fd = out_fd;
	c->out_how = how;
	c->out_failed = false;
	c->peer = true;
	pthread_mutex_unlock(&c->lock);
	output_ready(c, 0);
}

void chardev_drop_output(struct chardev *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->out_watched)
		loop_remove(c->loop, c->out_fd);
	c->out_watched = false;
	if (chardev_owns_output(c))
		(void)close(c->out_fd);
	c->out_fd = -1;
	c->peer = false;
	/* A terminal or a pipe does not come back, a client may. */
	if (c->kind == CHARDEV_STDIO)
		c->ring_len = 0;
	pthread_mutex_unlock(&c->lock);
	say_drained(c);
}

const char *chardev_name(const struct chardev *c)
{
	return c->name;
}

void chardev_restore_terminal(struct chardev *c)
{
	if (c->terminal_raw)
		terminal_restore();
}

static void last_chance(struct chardev *c)
{
	uint64_t now = clock_mono_ns(), end = now + LAST_CHANCE_NS;

	for (; c->peer && now < end; now = clock_mono_ns()) {
		struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

		flush_ring(c);
		if (!c->ring_len || !can_write(c))
			return;
		(void)poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1);
	}
}

void chardev_free(struct chardev *c)
{
	if (!c)
		return;
	last_chance(c);
	chardev_close_fds(c);
	chardev_restore_terminal(c);
	(void)pthread_mutex_destroy(&c->lock);
	(void)pthread_mutex_destroy(&c->input_lock);
	free(c->name);
	free(c);
}
