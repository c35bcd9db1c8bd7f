/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/door.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/uri.h"

#define TIMEOUT_NS (MIG_DOOR_TIMEOUT_S * NS_PER_SEC)
#define PEEK_NS    (10 * NS_PER_MS) /* when half a header is looked at again */

struct visitor {
	int fd;
	uint64_t until_ns;
	bool begun; /* it has said something, but less than a header */
};

struct door {
	const char *name;
	unsigned n;
	struct visitor list[MIG_WAITING_MAX]; /* oldest first */
};

static void remove_visitor(struct door *d, unsigned i)
{
	d->n--;
	memmove(&d->list[i], &d->list[i + 1], (d->n - i) * sizeof(d->list[0]));
}

static void turn_away(struct door *d, unsigned i)
{
	if (d->list[i].begun)
		log_warn("somebody who connected to %s does not speak ferry's migration protocol, "
			 "and was turned away",
			 d->name);
	else
		log_warn("somebody who connected to %s has said nothing, and was turned away",
			 d->name);
	(void)close(d->list[i].fd);
	remove_visitor(d, i);
}

static void add(struct door *d, int fd)
{
	if (d->n == MIG_WAITING_MAX)
		turn_away(d, 0);
	d->list[d->n++] = (struct visitor){.fd = fd, .until_ns = clock_mono_ns() + TIMEOUT_NS};
}

static void let_in(struct door *d, int listen_fd, struct mig_stop *stop)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) {
		/* Out of descriptors, perhaps: it stays readable, so do not spin. */
		(void)mig_stop_wait(stop, -1, 0, 100 * NS_PER_MS);
		return;
	}
	mig_socket_tune(fd);
	add(d, fd);
}

/* Is a whole header there, or the end? Who leaves is served as well, which says that he left. */
static bool can_be_served(struct visitor *v, short revents)
{
	uint8_t bytes[WIRE_HEADER_BYTES];
	ssize_t n = recv(v->fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return revents & (POLLRDHUP | POLLHUP | POLLERR);
	v->begun = n > 0;
	return n <= 0 || n == sizeof(bytes) || (revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Who has been silent for too long leaves. Returns how long to wait for the others. */
static uint64_t look_at_clock(struct door *d)
{
	uint64_t now = clock_mono_ns(), next = now + 3600 * NS_PER_SEC;

	for (unsigned i = d->n; i-- > 0;) {
		uint64_t at = d->list[i].begun ? now + PEEK_NS : d->list[i].until_ns;

		if (d->list[i].until_ns <= now)
			turn_away(d, i);
		else if (at < next)
			next = at;
	}
	return next - now;
}

/* One wait; returns the socket of somebody who can be served, -EAGAIN, or -ECANCELED. */
static int step(struct door *d, int listen_fd, struct mig_stop *stop)
{
	struct pollfd p[2 + MIG_WAITING_MAX] = {{.fd = stop->fd, .events = POLLIN},
						{.fd = listen_fd, .events = POLLIN}};
	uint64_t wait_ns = look_at_clock(d);
	struct timespec ts = {.tv_sec = (time_t)(wait_ns / NS_PER_SEC),
			      .tv_nsec = (long)(wait_ns % NS_PER_SEC)};

	for (unsigned i = 0; i < d->n; i++) {
		/* Half a header would end every wait at once. */
		short events = d->list[i].begun ? POLLRDHUP : POLLIN | POLLRDHUP;

		p[2 + i] = (struct pollfd){.fd = d->list[i].fd, .events = events};
	}
	if (ppoll(p, 2 + d->n, &ts, NULL) < 0 && errno != EINTR) {
		(void)mig_stop_wait(stop, -1, 0, 100 * NS_PER_MS);
		return mig_stop_is_set(stop) ? -ECANCELED : -EAGAIN;
	}
	if (mig_stop_is_set(stop))
		return -ECANCELED;
	for (unsigned i = 0; i < d->n; i++) {
		int fd = d->list[i].fd;

		if ((p[2 + i].revents || d->list[i].begun) &&
		    can_be_served(&d->list[i], p[2 + i].revents)) {
			remove_visitor(d, i);
			return fd;
		}
	}
	if (p[1].revents)
		let_in(d, listen_fd, stop);
	return -EAGAIN;
}

int mig_door_next(struct mig_waiting *waiting, int listen_fd, const char *name,
		  struct mig_stop *stop)
{
	struct door d = {.name = name};
	int fd;

	while ((fd = mig_waiting_next(waiting)) >= 0)
		add(&d, fd);
	do {
		fd = step(&d, listen_fd, stop);
	} while (fd == -EAGAIN);
	for (unsigned i = 0; i < d.n; i++)
		waiting->fd[waiting->n++] = d.list[i].fd;
	return fd;
}
