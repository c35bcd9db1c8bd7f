/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients of a UNIX socket and of a pty.
 *
 * A socket's client may close its sending half and still want output, so end of input alone is not
 * the end of the client; a failed write alone is not the end of its input either, which may still
 * wait to be read. A pty has no event for "somebody opened the other end": a timer looks for it
 * while nobody is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/dev/chardev_impl.h"

#define LOOK_AGAIN_NS (200 * NS_PER_MS)

static void look_again_later(struct chardev *c)
{
	struct itimerspec when = {.it_value.tv_nsec = LOOK_AGAIN_NS};

	(void)timerfd_settime(c->timer_fd, 0, &when, NULL);
}

static bool hung_up(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR | POLLNVAL);
}

static void drop_client(struct chardev *c)
{
	chardev_unwatch_input(c);
	if (c->in_fd >= 0)
		(void)close(c->in_fd);
	c->in_fd = -1;
	c->in_eof = false;
	chardev_drop_output(c);
}

static void take_client(struct chardev *c, int fd)
{
	int out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (out_fd < 0) {
		(void)close(fd);
		return;
	}
	c->in_fd = fd;
	chardev_take_output(c, out_fd, OUT_SOCKET);
	chardev_watch_input(c);
}

static void accept_client(struct chardev *c)
{
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		/* Out of descriptors: the connection stays pending, so do not spin on it. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			loop_remove(c->loop, c->listen_fd);
			look_again_later(c);
		}
		return;
	}
	/* A client that left while its input waits for the guest makes way for the next. */
	if (c->in_fd >= 0 && hung_up(c->in_fd))
		drop_client(c);
	if (c->in_fd >= 0)
		(void)close(fd);
	else
		take_client(c, fd);
}

static void accept_ready(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;

	(void)events;
	pthread_mutex_lock(&c->input_lock);
	accept_client(c);
	pthread_mutex_unlock(&c->input_lock);
}

/* Is there somebody at the other end of the pty? */
static void look_for_pty_client(struct chardev *c)
{
	int out_fd;

	if (hung_up(c->in_fd)) {
		look_again_later(c);
		return;
	}
	out_fd = fcntl(c->in_fd, F_DUPFD_CLOEXEC, 3);
	if (out_fd < 0) {
		look_again_later(c);
		return;
	}
	chardev_take_output(c, out_fd, OUT_NONBLOCK);
	chardev_watch_input(c);
}

static void timer_ready(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;
	uint64_t count;

	(void)events;
	(void)!read(c->timer_fd, &count, sizeof(count));
	pthread_mutex_lock(&c->input_lock);
	if (c->kind == CHARDEV_PTY)
		look_for_pty_client(c);
	else
		(void)loop_add(c->loop, c->listen_fd, EPOLLIN, accept_ready, c);
	pthread_mutex_unlock(&c->input_lock);
}

void chardev_start(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;

	(void)events;
	pthread_mutex_lock(&c->input_lock);
	if (c->timer_fd >= 0)
		(void)loop_add(c->loop, c->timer_fd, EPOLLIN, timer_ready, c);
	if (c->kind == CHARDEV_UNIX)
		(void)loop_add(c->loop, c->listen_fd, EPOLLIN, accept_ready, c);
	else if (c->kind == CHARDEV_PTY)
		look_for_pty_client(c);
	else
		chardev_watch_input(c);
	pthread_mutex_unlock(&c->input_lock);
}

static void pty_client_left(struct chardev *c)
{
	chardev_unwatch_input(c);
	chardev_drop_output(c);
	look_again_later(c);
}

void chardev_output_lost(void *ctx, uint32_t events)
{
	struct chardev *c = ctx;
	bool lost;

	(void)events;
	pthread_mutex_lock(&c->lock);
	/* A client that came since then is another one. */
	lost = c->out_failed;
	c->out_failed = false;
	pthread_mutex_unlock(&c->lock);
	if (!lost)
		return;
	pthread_mutex_lock(&c->input_lock);
	if (c->kind == CHARDEV_PTY)
		pty_client_left(c);
	else
		chardev_drop_output(c);
	pthread_mutex_unlock(&c->input_lock);
}

void chardev_input_lost(struct chardev *c)
{
	chardev_unwatch_input(c);
	switch (c->kind) {
	case CHARDEV_PTY:
		pty_client_left(c);
		break;
	case CHARDEV_UNIX:
		if (c->in_eof || hung_up(c->in_fd)) {
			drop_client(c);
			break;
		}
		c->in_eof = true;
		chardev_watch_input(c); /* for the hang-up */
		break;
	default:
		c->in_fd = -1; /* end of standard input; the descriptor is not ours to close */
	}
}
