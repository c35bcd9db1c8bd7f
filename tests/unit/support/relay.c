/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/relay.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/support/raw.h"

#define FRAME_MAX 65536

static void end_link(struct relay_link *l)
{
	(void)shutdown(l->fd[0], SHUT_RDWR);
	(void)shutdown(l->fd[1], SHUT_RDWR);
}

/* In the thread of threads[0]. Closed for good, so that whoever still sends is told. */
static void cut(struct relay_link *l)
{
	struct linger hard = {.l_onoff = 1};

	end_link(l);
	(void)pthread_join(l->threads[1], NULL);
	for (unsigned i = 0; i < 2; i++) {
		(void)setsockopt(l->fd[i], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		(void)close(l->fd[i]);
	}
	atomic_store(&l->was_cut, true);
}

static void *to_dest(void *arg)
{
	struct relay_link *l = arg;
	uint8_t buf[65536];

	for (;;) {
		uint64_t room = l->cut_at - atomic_load(&l->passed);
		ssize_t n;

		if (!room)
			break;
		if (atomic_load(&l->passed) >= l->stall_at) {
			struct pollfd gone = {.fd = l->fd[1], .events = POLLRDHUP};

			while (!atomic_load(&l->r->stop) && poll(&gone, 1, 100) <= 0)
				;
			break;
		}
		n = recv(l->fd[0], buf, room < sizeof(buf) ? room : sizeof(buf), 0);
		if (n <= 0)
			break;
		if (l->delay_us)
			(void)usleep((unsigned)l->delay_us);
		raw_send(l->fd[1], buf, (size_t)n);
		atomic_fetch_add(&l->passed, (uint64_t)n);
	}
	if (atomic_load(&l->passed) >= l->cut_at)
		cut(l);
	else
		(void)shutdown(l->fd[1], SHUT_WR);
	return NULL;
}

/* One frame of the destination's. False: the end. */
static bool pass_answer(struct relay_link *l, struct wbuf *held)
{
	uint8_t frame[WIRE_HEADER_BYTES + FRAME_MAX];
	uint32_t meta_bytes;
	size_t n = raw_recv(l->fd[1], frame, WIRE_HEADER_BYTES);

	if (n < WIRE_HEADER_BYTES)
		return false;
	memcpy(&meta_bytes, frame + 12, sizeof(meta_bytes));
	if (meta_bytes > FRAME_MAX)
		abort();
	n += raw_recv(l->fd[1], frame + n, meta_bytes);
	if (atomic_load(&l->r->hold) && frame[4] != WIRE_ALIVE) {
		put_bytes(held, frame, n);
		return true;
	}
	if (!atomic_load(&l->r->hold)) {
		raw_send(l->fd[0], held->data, held->len);
		wbuf_reset(held);
	}
	raw_send(l->fd[0], frame, n);
	return true;
}

static void *to_source(void *arg)
{
	struct relay_link *l = arg;
	struct wbuf held;

	wbuf_init(&held, ORDER_LITTLE, FRAME_MAX);
	while (pass_answer(l, &held))
		;
	wbuf_free(&held);
	(void)shutdown(l->fd[0], SHUT_WR);
	/* The destination reads no more: as if it had been connected to the source itself. */
	(void)shutdown(l->fd[0], SHUT_RD);
	return NULL;
}

static void *run(void *arg)
{
	const struct timeval for_ever = {0};
	struct relay *r = arg;

	for (;;) {
		int on = 1, fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		unsigned n = atomic_load(&r->n_links);
		struct relay_link *l = &r->links[n];

		if (fd < 0 || atomic_load(&r->stop) || n == RELAY_MAX) {
			if (fd >= 0)
				(void)close(fd);
			return NULL;
		}
		l->fd[0] = fd;
		l->fd[1] = raw_connect(r->target);
		if (l->fd[1] < 0) {
			(void)close(fd);
			continue;
		}
		for (unsigned i = 0; i < 2; i++)
			(void)setsockopt(l->fd[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		/* It may well say nothing for long. */
		(void)setsockopt(l->fd[1], SOL_SOCKET, SO_RCVTIMEO, &for_ever, sizeof(for_ever));
		if (pthread_create(&l->threads[1], NULL, to_source, l) ||
		    pthread_create(&l->threads[0], NULL, to_dest, l))
			abort();
		atomic_store(&r->n_links, n + 1);
	}
}

void relay_init(struct relay *r)
{
	memset(r, 0, sizeof(*r));
	for (unsigned i = 0; i < RELAY_MAX; i++) {
		r->links[i].r = r;
		r->links[i].cut_at = RELAY_NO_CUT;
		r->links[i].stall_at = RELAY_NO_CUT;
	}
}

void relay_start(struct relay *r, const char *target)
{
	(void)snprintf(r->target, sizeof(r->target), "%s", target);
	r->listen_fd = raw_listen(r->uri);
	if (pthread_create(&r->thread, NULL, run, r))
		abort();
}

void relay_stop(struct relay *r)
{
	atomic_store(&r->stop, true);
	(void)shutdown(r->listen_fd, SHUT_RDWR);
	(void)pthread_join(r->thread, NULL);
	(void)close(r->listen_fd);
	for (unsigned i = 0; i < atomic_load(&r->n_links); i++) {
		struct relay_link *l = &r->links[i];

		if (!atomic_load(&l->was_cut))
			end_link(l);
		(void)pthread_join(l->threads[0], NULL);
		if (atomic_load(&l->was_cut))
			continue;
		(void)pthread_join(l->threads[1], NULL);
		(void)close(l->fd[0]);
		(void)close(l->fd[1]);
	}
}
