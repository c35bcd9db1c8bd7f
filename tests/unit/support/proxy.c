/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/proxy.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/support/raw.h"

#define MUTE_LOOK_MS 10
#define SLOW_BUFFER  65536

/* One connection: fd[0] is the source, fd[1] the destination. */
struct link {
	struct proxy *p;
	int fd[2];
	uint64_t free_at_ns; /* of a slow wire */
	uint64_t passed[PROXY_WAYS];
	bool ended[PROXY_WAYS];
	bool cut;
};

/* The time that so many bytes take on a slow wire. What is late is made up for. */
static void take_time(struct link *l, uint64_t bytes)
{
	uint64_t now = clock_mono_ns();
	struct timespec at;

	if (l->free_at_ns + NS_PER_SEC / 10 < now)
		l->free_at_ns = now - NS_PER_SEC / 10;
	l->free_at_ns += bytes * NS_PER_SEC / l->p->bytes_s;
	at = (struct timespec){.tv_sec = (time_t)(l->free_at_ns / NS_PER_SEC),
			       .tv_nsec = (long)(l->free_at_ns % NS_PER_SEC)};
	(void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* Move what there is. */
static void pump(struct link *l, enum proxy_way way)
{
	struct proxy *p = l->p;
	uint64_t room = p->cut_at[way] - l->passed[way];
	uint8_t buf[65536];
	ssize_t n = recv(l->fd[way], buf, room < sizeof(buf) ? room : sizeof(buf), 0);

	if (n <= 0) {
		l->ended[way] = true;
		(void)shutdown(l->fd[!way], SHUT_WR);
		return;
	}
	if (p->bytes_s && way == PROXY_TO_DEST)
		take_time(l, (uint64_t)n);
	else if (!p->bytes_s)
		put_bytes(&p->seen[way], buf, (size_t)n);
	raw_send(l->fd[!way], buf, (size_t)n);
	l->passed[way] += (uint64_t)n;
	l->cut = l->passed[way] >= p->cut_at[way];
}

static void serve(struct proxy *p, int fd)
{
	struct link l = {.p = p, .fd = {fd, raw_connect(p->target)}};
	struct linger hard = {.l_onoff = 1};
	int on = 1, small = SLOW_BUFFER;

	if (p->bytes_s)
		(void)setsockopt(l.fd[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (unsigned i = 0; i < 2; i++)
		(void)setsockopt(l.fd[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	l.cut = l.fd[1] < 0 || !p->cut_at[0] || !p->cut_at[1];
	while (!l.cut && !(l.ended[0] && l.ended[1])) {
		struct pollfd fds[3] = {{.fd = l.ended[0] ? -1 : l.fd[0], .events = POLLIN},
					{.fd = l.ended[1] ? -1 : l.fd[1], .events = POLLIN},
					{.fd = p->stop_fd, .events = POLLIN}};

		if (atomic_load(&p->mute))
			fds[0].fd = fds[1].fd = -1;
		if (poll(fds, 3, MUTE_LOOK_MS) < 0 || fds[2].revents)
			break;
		for (unsigned way = 0; way < PROXY_WAYS && !l.cut; way++) {
			if (fds[way].revents)
				pump(&l, (enum proxy_way)way);
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		if (l.cut && p->reset && l.fd[i] >= 0)
			(void)setsockopt(l.fd[i], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		if (l.fd[i] >= 0)
			(void)close(l.fd[i]);
	}
}

static void *run(void *arg)
{
	struct proxy *p = arg;

	for (;;) {
		struct pollfd fds[2] = {{.fd = p->listen_fd, .events = POLLIN},
					{.fd = p->stop_fd, .events = POLLIN}};
		int fd;

		if (poll(fds, 2, -1) < 0 || fds[1].revents)
			return NULL;
		fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			serve(p, fd);
	}
}

static void start(struct proxy *p, const char *target)
{
	int small = SLOW_BUFFER;

	(void)snprintf(p->target, sizeof(p->target), "%s", target);
	p->listen_fd = raw_listen(p->uri);
	/* What is accepted has it from there. */
	if (p->bytes_s)
		(void)setsockopt(p->listen_fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	p->stop_fd = eventfd(0, EFD_CLOEXEC);
	for (unsigned i = 0; i < PROXY_WAYS; i++)
		wbuf_init(&p->seen[i], ORDER_LITTLE, 64u << 20);
	if (p->stop_fd < 0 || pthread_create(&p->thread, NULL, run, p))
		abort();
}

void proxy_start(struct proxy *p, const char *target, enum proxy_way way, uint64_t n, bool reset)
{
	*p = (struct proxy){.cut_at = {PROXY_NO_CUT, PROXY_NO_CUT}, .reset = reset};
	p->cut_at[way] = n;
	start(p, target);
}

void proxy_start_slow(struct proxy *p, const char *target, uint64_t bytes_s)
{
	*p = (struct proxy){.cut_at = {PROXY_NO_CUT, PROXY_NO_CUT}, .bytes_s = bytes_s};
	start(p, target);
}

void proxy_stop(struct proxy *p)
{
	uint64_t one = 1;

	if (write(p->stop_fd, &one, sizeof(one)) != sizeof(one))
		abort();
	(void)pthread_join(p->thread, NULL);
	(void)close(p->listen_fd);
	(void)close(p->stop_fd);
}

void proxy_free(struct proxy *p)
{
	wbuf_free(&p->seen[0]);
	wbuf_free(&p->seen[1]);
}
