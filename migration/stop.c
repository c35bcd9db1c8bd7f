/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/stop.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

int mig_stop_init(struct mig_stop *s)
{
	atomic_init(&s->set, false);
	s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return s->fd < 0 ? -errno : 0;
}

void mig_stop_free(struct mig_stop *s)
{
	if (s->fd >= 0)
		(void)close(s->fd);
	s->fd = -1;
}

void mig_stop_set(struct mig_stop *s)
{
	uint64_t one = 1;

	atomic_store(&s->set, true);
	(void)!write(s->fd, &one, sizeof(one));
}

void mig_stop_clear(struct mig_stop *s)
{
	uint64_t n;

	(void)!read(s->fd, &n, sizeof(n));
	atomic_store(&s->set, false);
}

bool mig_stop_is_set(const struct mig_stop *s)
{
	return atomic_load(&s->set);
}

int mig_stop_wait(struct mig_stop *s, int fd, short events, uint64_t timeout_ns)
{
	uint64_t now = clock_mono_ns(), end = now + timeout_ns;
	struct pollfd p[2] = {{.fd = s ? s->fd : -1, .events = POLLIN},
			      {.fd = fd, .events = events}};

	for (;; now = clock_mono_ns()) {
		uint64_t left = now < end ? end - now : 0;
		struct timespec ts = {.tv_sec = (time_t)(left / NS_PER_SEC),
				      .tv_nsec = (long)(left % NS_PER_SEC)};
		int n = ppoll(p, fd < 0 ? 1 : 2, &ts, NULL);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (s && mig_stop_is_set(s))
			return -ECANCELED;
		if (n > 0 && p[1].revents)
			return 0;
		if (n >= 0 && !left)
			return -ETIMEDOUT;
	}
}
