/* SPDX-License-Identifier: Apache-2.0 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct watch {
	struct watch *next;
	int fd;
	loop_fn *fn;
	void *ctx;
};

struct call {
	struct call *next;
	loop_fn *fn;
	void *ctx;
};

struct loop {
	/* owned by the loop's thread */
	int epoll_fd;
	int wake_fd;
	struct watch *watches;
	/* any thread */
	atomic_bool quit;
	pthread_mutex_t lock; /* guards calls */
	struct call *calls, **calls_end;
};

int loop_new(struct loop **out)
{
	struct loop *l = calloc(1, sizeof(*l));
	struct epoll_event ev = {.events = EPOLLIN};
	int rc;

	if (!l)
		return -ENOMEM;
	l->calls_end = &l->calls;
	(void)pthread_mutex_init(&l->lock, NULL);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ev.data.ptr = NULL; /* no watch: the wake-up */
	if (l->wake_fd < 0 || l->epoll_fd < 0 ||
	    epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &ev)) {
		rc = -errno;
		loop_free(l);
		return rc;
	}
	*out = l;
	return 0;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	while (l->watches) {
		struct watch *w = l->watches;

		l->watches = w->next;
		free(w);
	}
	while (l->calls) {
		struct call *c = l->calls;

		l->calls = c->next;
		free(c);
	}
	if (l->epoll_fd >= 0)
		(void)close(l->epoll_fd);
	if (l->wake_fd >= 0)
		(void)close(l->wake_fd);
	(void)pthread_mutex_destroy(&l->lock);
	free(l);
}

static struct watch **find_watch(struct loop *l, int fd)
{
	struct watch **at = &l->watches;

	while (*at && (*at)->fd != fd)
		at = &(*at)->next;
	return at;
}

int loop_add(struct loop *l, int fd, uint32_t events, loop_fn *fn, void *ctx)
{
	struct watch *w = calloc(1, sizeof(*w));
	struct epoll_event ev = {.events = events, .data.ptr = w};
	int rc;

	if (!w)
		return -ENOMEM;
	*w = (struct watch){.next = l->watches, .fd = fd, .fn = fn, .ctx = ctx};
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
		rc = -errno;
		free(w);
		return rc;
	}
	l->watches = w;
	return 0;
}

int loop_modify(struct loop *l, int fd, uint32_t events)
{
	struct watch *w = *find_watch(l, fd);
	struct epoll_event ev = {.events = events, .data.ptr = w};

	if (!w)
		return -ENOENT;
	return epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, fd, &ev) ? -errno : 0;
}

void loop_remove(struct loop *l, int fd)
{
	struct watch **at = find_watch(l, fd), *w = *at;

	if (!w)
		return;
	*at = w->next;
	(void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	free(w);
}

static void wake(struct loop *l)
{
	uint64_t one = 1;

	/* A full counter wakes the loop as well. */
	(void)!write(l->wake_fd, &one, sizeof(one));
}

int loop_post(struct loop *l, loop_fn *fn, void *ctx)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->fn = fn;
	c->ctx = ctx;
	pthread_mutex_lock(&l->lock);
	*l->calls_end = c;
	l->calls_end = &c->next;
	pthread_mutex_unlock(&l->lock);
	wake(l);
	return 0;
}

static struct call *next_call(struct loop *l)
{
	struct call *c;

	pthread_mutex_lock(&l->lock);
	c = l->calls;
	if (c) {
		l->calls = c->next;
		if (!l->calls)
			l->calls_end = &l->calls;
	}
	pthread_mutex_unlock(&l->lock);
	return c;
}

static void run_calls(struct loop *l)
{
	struct call *c;
	uint64_t count;

	(void)!read(l->wake_fd, &count, sizeof(count));
	while ((c = next_call(l))) {
		c->fn(c->ctx, 0);
		free(c);
	}
}

int loop_step(struct loop *l, int timeout_ms)
{
	struct epoll_event ev;
	struct watch *w;
	int n = epoll_wait(l->epoll_fd, &ev, 1, timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0)
		return 0;
	w = ev.data.ptr;
	if (w)
		w->fn(w->ctx, ev.events);
	else
		run_calls(l);
	return 0;
}

int loop_run(struct loop *l)
{
	int rc = 0;

	while (!rc && !atomic_load(&l->quit))
		rc = loop_step(l, -1);
	return rc;
}

void loop_quit(struct loop *l)
{
	atomic_store(&l->quit, true);
	wake(l);
}
