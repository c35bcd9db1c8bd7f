/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/lookup.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Shared by the thread and who waits for it; the second of them to leave frees it. */
struct lookup {
	atomic_int users;
	int done_fd; /* eventfd, readable once the result is there */
	struct addrinfo hints, *list;
	int rc, error; /* EAI_..., and errno if that is EAI_SYSTEM */
	char host[NI_MAXHOST], port[NI_MAXSERV];
};

static void leave(struct lookup *l)
{
	if (atomic_fetch_sub(&l->users, 1) != 1)
		return;
	if (l->list)
		freeaddrinfo(l->list);
	(void)close(l->done_fd);
	free(l);
}

static void *look_up(void *arg)
{
	struct lookup *l = arg;
	uint64_t one = 1;

	l->rc = getaddrinfo(l->host, l->port, &l->hints, &l->list);
	l->error = errno;
	(void)!write(l->done_fd, &one, sizeof(one));
	leave(l);
	return NULL;
}

/* Detached: nobody waits for its end. It takes no signals, which are for others. */
static int start(struct lookup *l)
{
	pthread_attr_t attr;
	sigset_t all, before;
	pthread_t thread;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return -rc;
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, &attr, look_up, l);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void)pthread_attr_destroy(&attr);
	return -rc;
}

static int lookup_new(struct lookup **out, const char *host, const char *port,
		      const struct addrinfo *hints)
{
	struct lookup *l;
	int rc;

	if (strlen(host) >= sizeof(l->host) || strlen(port) >= sizeof(l->port))
		return -ENAMETOOLONG;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->done_fd < 0) {
		rc = -errno;
		free(l);
		return rc;
	}
	l->hints = *hints;
	memcpy(l->host, host, strlen(host));
	memcpy(l->port, port, strlen(port));
	atomic_init(&l->users, 2);
	*out = l;
	return 0;
}

/* 0: getaddrinfo() has returned *rc, with this errno. */
static int by_thread(const char *host, const char *port, const struct addrinfo *hints,
		     struct mig_stop *stop, uint64_t timeout_ns, struct addrinfo **out, int *rc)
{
	struct lookup *l = NULL;
	uint64_t n;
	int error = 0, wait_rc = lookup_new(&l, host, port, hints);

	if (wait_rc)
		return wait_rc;
	wait_rc = start(l);
	if (wait_rc)
		leave(l); /* for the thread that there is not */
	else
		wait_rc = mig_stop_wait(stop, l->done_fd, POLLIN, timeout_ns);
	/* Reading is what orders the thread's result before our look at it; poll() is not. */
	if (!wait_rc && read(l->done_fd, &n, sizeof(n)) != sizeof(n))
		wait_rc = -EIO;
	if (!wait_rc) {
		*rc = l->rc;
		error = l->error;
		*out = l->list;
		l->list = NULL;
	}
	leave(l);
	errno = error;
	return wait_rc;
}

int mig_lookup(const char *host, const char *port, int flags, struct mig_stop *stop,
	       uint64_t timeout_ns, struct addrinfo **out, struct err *e)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,
				 .ai_socktype = SOCK_STREAM,
				 .ai_flags = flags | AI_NUMERICSERV | AI_NUMERICHOST};
	int rc = getaddrinfo(host, port, &hints, out);

	if (rc == EAI_NONAME) {
		int wait_rc;

		hints.ai_flags &= ~AI_NUMERICHOST;
		wait_rc = by_thread(host, port, &hints, stop, timeout_ns, out, &rc);
		if (wait_rc == -ETIMEDOUT)
			return err_set(e, ETIMEDOUT,
				       "no name server said in time where the host '%s' is: try "
				       "its address",
				       host);
		if (wait_rc)
			return err_sys(e, -wait_rc, "cannot look up the host '%s'", host);
	}
	if (rc)
		return err_set(e, rc == EAI_SYSTEM ? errno : EHOSTUNREACH,
			       "cannot find the host '%s': %s", host,
			       rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
	return 0;
}
