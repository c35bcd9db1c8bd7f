/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/zero_copy.h"

#define RING_ENTRIES 4
#define COMPLETIONS  256        /* more than all zero-copy sends can have due */
#define PARTING_NS   NS_PER_SEC /* for what is still in the socket at the end */
#define NO_LIMIT_NS  (1000000 * NS_PER_SEC)
#define LOOK_NS      NS_PER_SEC /* how often to look whether a full socket empties */

enum direction { SENDING, RECEIVING, N_DIRECTIONS };

/* One vectored operation, gone on with until its bytes are all through. */
struct transfer {
	bool in_flight;  /* the kernel holds msg and the buffers */
	bool unfinished; /* bytes are left */
	struct msghdr msg;
	struct iovec iov[MIG_CHAN_MAX_IOV];
	struct iovec *at;      /* first piece with bytes left */
	unsigned left;         /* pieces from there on */
	struct iovec *lasting; /* from this piece on; NULL: none does */
	bool zero_copy;        /* the one in flight is such a send */
	uint64_t bytes;        /* moved in this direction so far */
};

struct mig_chan {
	/* owner's thread */
	struct io_uring ring;
	uint64_t idle_timeout_ns; /* 0 = none */
	uint64_t deadline_ns;     /* 0 = none */
	int error; /* sticky, -errno; -ETIME is our own patience, -ETIMEDOUT the network's */
	struct transfer transfers[N_DIRECTIONS];
	struct mig_zero_copy zero_copy;
	char peer[256];
	/* any thread */
	int fd;
	atomic_bool aborted;
	_Atomic uint64_t silent_ns; /* the peer was; 0: not cut */
	pthread_mutex_t lock;       /* guards what follows, and sends aside */
	bool sending;               /* the owner is in the middle of a send */
};

int mig_chan_open(struct mig_chan **out, int fd, const char *peer, uint64_t idle_timeout_ns,
		  struct err *e)
{
	struct mig_chan *c = calloc(1, sizeof(*c));
	struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE, .cq_entries = COMPLETIONS};
	int rc = c ? io_uring_queue_init_params(RING_ENTRIES, &c->ring, &params) : -ENOMEM;
	int flags = fcntl(fd, F_GETFL);

	/* io_uring waits for a blocking socket and gives up at once on a non-blocking one. */
	if (!rc && (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK))) {
		rc = -errno;
		io_uring_queue_exit(&c->ring);
	}
	if (rc) {
		free(c);
		(void)close(fd);
		return err_sys(e, -rc, "cannot set up io_uring for the migration%s",
			       rc == -EPERM || rc == -ENOSYS ? " (is kernel.io_uring_disabled set?)"
							     : "");
	}
	(void)pthread_mutex_init(&c->lock, NULL);
	c->fd = fd;
	c->idle_timeout_ns = idle_timeout_ns;
	(void)snprintf(c->peer, sizeof(c->peer), "%s", peer);
	*out = c;
	return 0;
}

/* The one place where a failure becomes words. */
static int explain(const struct mig_chan *c, int rc, struct err *e)
{
	switch (rc) {
	case -ECANCELED:
		return err_set(e, ECANCELED, "cancelled");
	case -ECONNRESET:
	case -EPIPE:
		return err_set(e, ECONNRESET, "%s closed the connection", c->peer);
	case -ETIME:
		if (c->deadline_ns && clock_mono_ns() >= c->deadline_ns)
			return err_set(e, ETIMEDOUT, "%s was not done in time", c->peer);
		return err_set(e, ETIMEDOUT, "%s has not answered for %llu s", c->peer,
			       (unsigned long long)(c->idle_timeout_ns / NS_PER_SEC));
	case -EHOSTDOWN:
		return err_set(e, EHOSTDOWN, "%s has not been heard of for %llu s", c->peer,
			       (unsigned long long)(atomic_load(&c->silent_ns) / NS_PER_SEC));
	case -ETIMEDOUT:
		return err_set(e, ETIMEDOUT, "%s does not answer any more", c->peer);
	default:
		return err_sys(e, -rc, "the connection to %s broke", c->peer);
	}
}

static int fail(struct mig_chan *c, int rc, struct err *e)
{
	if (atomic_load(&c->aborted))
		rc = -ECANCELED;
	else if (atomic_load(&c->silent_ns))
		rc = -EHOSTDOWN;
	if (!c->error)
		c->error = rc;
	return explain(c, c->error, e);
}

/* Of a send: how many pieces go at once, and whether without being copied. */
static unsigned cut_out(struct mig_chan *c, struct transfer *t)
{
	unsigned before = t->lasting && t->at < t->lasting ? (unsigned)(t->lasting - t->at) : 0;
	size_t bytes = 0;

	if (t->lasting)
		for (unsigned i = before; i < t->left; i++)
			bytes += t->at[i].iov_len;
	t->zero_copy = mig_zero_copy_now(&c->zero_copy, bytes);
	if (!t->zero_copy || !before)
		return t->left;
	t->zero_copy = false; /* first what comes before */
	return before;
}

static int submit(struct mig_chan *c, enum direction dir)
{
	struct transfer *t = &c->transfers[dir];
	struct io_uring_sqe *sqe = io_uring_get_sqe(&c->ring);
	unsigned n = dir == SENDING ? cut_out(c, t) : t->left;
	int rc;

	if (!sqe)
		return -EBUSY; /* cannot happen: two operations, four entries */
	t->msg = (struct msghdr){.msg_iov = t->at, .msg_iovlen = n};
	/* No MSG_WAITALL: every piece that moves completes, and so proves that the peer lives. */
	if (t->zero_copy)
		mig_zero_copy_prepare(sqe, c->fd, &t->msg);
	else if (dir == SENDING)
		io_uring_prep_sendmsg(sqe, c->fd, &t->msg,
				      n < t->left ? MSG_NOSIGNAL | MSG_MORE : MSG_NOSIGNAL);
	else
		io_uring_prep_recvmsg(sqe, c->fd, &t->msg, 0);
	io_uring_sqe_set_data64(sqe, dir);
	rc = io_uring_submit(&c->ring);
	if (rc < 0)
		return rc;
	t->in_flight = true;
	return 0;
}

/* n more bytes went through. */
static void advance(struct transfer *t, size_t n)
{
	__atomic_fetch_add(&t->bytes, n, __ATOMIC_RELAXED);
	while (t->left && n >= t->at->iov_len) {
		n -= t->at->iov_len;
		t->at++;
		t->left--;
	}
	if (n) {
		t->at->iov_base = (char *)t->at->iov_base + n;
		t->at->iov_len -= n;
	}
	t->unfinished = t->left > 0;
}

static void set_sending(struct mig_chan *c, bool sending)
{
	pthread_mutex_lock(&c->lock);
	c->sending = sending;
	pthread_mutex_unlock(&c->lock);
}

/*
 * Take a completion from the ring. True: an operation is over, with *res. False: it only told what
 * came of a zero-copy send.
 */
static bool take(struct mig_chan *c, struct io_uring_cqe *cqe, enum direction *dir, int *res)
{
	bool over = !(cqe->flags & IORING_CQE_F_NOTIF);
	struct transfer *t;

	*dir = (enum direction)io_uring_cqe_get_data64(cqe);
	*res = cqe->res;
	t = &c->transfers[*dir];
	if (!over)
		mig_zero_copy_notified(&c->zero_copy, cqe);
	else if (t->zero_copy && mig_zero_copy_refused(&c->zero_copy, cqe))
		*res = -EAGAIN;
	if (over)
		t->in_flight = false;
	io_uring_cqe_seen(&c->ring, cqe);
	return over;
}

/* Take in one completion, and go on. */
static int complete(struct mig_chan *c, struct io_uring_cqe *cqe)
{
	enum direction dir;
	struct transfer *t;
	int res;

	if (!take(c, cqe, &dir, &res))
		return 0;
	t = &c->transfers[dir];
	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	else if (res == 0)
		res = -ECONNRESET; /* the end of the stream */
	if (res < 0)
		return res;
	advance(t, (size_t)res);
	if (t->unfinished)
		return submit(c, dir);
	if (dir == SENDING)
		set_sending(c, false);
	return 0;
}

/* Wait until the kernel has no operation of ours under way any more. */
static void settle(struct mig_chan *c)
{
	struct io_uring_cqe *cqe;
	enum direction dir;
	int res;

	(void)shutdown(c->fd, SHUT_RDWR);
	while (c->transfers[SENDING].in_flight || c->transfers[RECEIVING].in_flight) {
		if (!io_uring_wait_cqe(&c->ring, &cqe))
			(void)take(c, cqe, &dir, &res);
	}
}

/* Wait so long for zero-copy sends to get rid of their bytes. Have they? */
static bool await_notifications(struct mig_chan *c, uint64_t ns)
{
	uint64_t end = clock_mono_ns() + ns, now;

	while (c->zero_copy.due && (now = clock_mono_ns()) < end) {
		struct __kernel_timespec ts = {.tv_sec = (long long)((end - now) / NS_PER_SEC),
					       .tv_nsec = (long long)((end - now) % NS_PER_SEC)};
		struct io_uring_cqe *cqe;
		enum direction dir;
		int res;

		if (!io_uring_wait_cqe_timeout(&c->ring, &cqe, &ts))
			(void)take(c, cqe, &dir, &res);
	}
	return !c->zero_copy.due;
}

/* A peer that takes nothing any more does not keep our memory: what is unsent is dropped. */
static void part(struct mig_chan *c)
{
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	bool broken = c->error || atomic_load(&c->aborted) || atomic_load(&c->silent_ns);

	if (await_notifications(c, broken ? 0 : PARTING_NS))
		return;
	(void)connect(c->fd, &nobody, sizeof(nobody));
	(void)await_notifications(c, PARTING_NS);
}

/* How long a wait may take from now on that has been idle since then. */
static uint64_t patience_ns(const struct mig_chan *c, uint64_t idle_since_ns)
{
	uint64_t now = clock_mono_ns(), left = c->deadline_ns > now ? c->deadline_ns - now : 0;
	uint64_t idle_end_ns = idle_since_ns + c->idle_timeout_ns, ns = NO_LIMIT_NS;

	if (c->idle_timeout_ns)
		ns = idle_end_ns > now ? idle_end_ns - now : 0;
	return c->deadline_ns && left < ns ? left : ns;
}

/* Changes with every byte that gets somewhere, a full socket's to the peer's host among them. */
static uint64_t moved(const struct mig_chan *c)
{
	return mig_chan_sent(c) - mig_chan_queued(c) + mig_chan_received(c);
}

static int finish(struct mig_chan *c, enum direction dir, struct err *e)
{
	struct transfer *t = &c->transfers[dir];
	uint64_t idle_since_ns = 0, mark = 0;
	int rc = 0;

	while (!c->error && !rc && t->unfinished) {
		uint64_t now_mark = moved(c), left_ns, wait_ns;
		struct __kernel_timespec ts;
		struct io_uring_cqe *cqe;

		if (!idle_since_ns || now_mark != mark)
			idle_since_ns = clock_mono_ns();
		mark = now_mark;
		left_ns = patience_ns(c, idle_since_ns);
		wait_ns = left_ns < LOOK_NS ? left_ns : LOOK_NS;
		ts = (struct __kernel_timespec){.tv_sec = (long long)(wait_ns / NS_PER_SEC),
						.tv_nsec = (long long)(wait_ns % NS_PER_SEC)};
		rc = io_uring_wait_cqe_timeout(&c->ring, &cqe, &ts);
		if (rc == -EINTR || (rc == -ETIME && left_ns > wait_ns))
			rc = 0;
		else if (!rc)
			rc = complete(c, cqe);
	}
	if (!c->error && !rc)
		return 0;
	rc = fail(c, rc, e);
	settle(c);
	return rc;
}

static int begin(struct mig_chan *c, enum direction dir, struct err *e)
{
	struct transfer *t = &c->transfers[dir];
	int rc;

	advance(t, 0); /* skip empty pieces */
	if (c->error || atomic_load(&c->aborted))
		return fail(c, c->error, e);
	if (!t->unfinished)
		return 0;
	/* Even if all is there already: a peer that never pauses must not hold anybody up. */
	if (c->deadline_ns && clock_mono_ns() >= c->deadline_ns)
		return fail(c, -ETIME, e);
	if (dir == SENDING)
		set_sending(c, true);
	rc = submit(c, dir);
	return rc ? fail(c, rc, e) : 0;
}

int mig_chan_send_lasting(struct mig_chan *c, const struct iovec *iov, unsigned n, unsigned lasting,
			  struct err *e)
{
	struct transfer *t = &c->transfers[SENDING];
	int rc = mig_chan_send_end(c, e);
	struct io_uring_cqe *cqe;

	/* What is there now tells of zero-copy sends. */
	while (!rc && c->zero_copy.due && !io_uring_peek_cqe(&c->ring, &cqe))
		rc = complete(c, cqe);
	if (rc)
		return rc;
	if (n > MIG_CHAN_MAX_IOV)
		return fail(c, -EMSGSIZE, e);
	memcpy(t->iov, iov, n * sizeof(*iov));
	t->at = t->iov;
	t->left = n;
	t->lasting = lasting < n ? t->iov + lasting : NULL;
	return begin(c, SENDING, e);
}

int mig_chan_send_begin(struct mig_chan *c, const struct iovec *iov, unsigned n, struct err *e)
{
	return mig_chan_send_lasting(c, iov, n, n, e);
}

int mig_chan_send_end(struct mig_chan *c, struct err *e)
{
	return finish(c, SENDING, e);
}

int mig_chan_send(struct mig_chan *c, const void *data, size_t len, struct err *e)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	int rc = mig_chan_send_begin(c, &iov, 1, e);

	return rc ? rc : mig_chan_send_end(c, e);
}

int mig_chan_recvv(struct mig_chan *c, struct iovec *iov, unsigned n, struct err *e)
{
	struct transfer *t = &c->transfers[RECEIVING];
	int rc;

	t->at = iov;
	t->left = n;
	rc = begin(c, RECEIVING, e);
	return rc ? rc : finish(c, RECEIVING, e);
}

int mig_chan_recv(struct mig_chan *c, void *data, size_t len, struct err *e)
{
	struct iovec iov = {.iov_base = data, .iov_len = len};

	return mig_chan_recvv(c, &iov, 1, e);
}

void mig_chan_allow_zero_copy(struct mig_chan *c)
{
	c->zero_copy.allowed = true;
}

enum mig_zero_copy_verdict mig_chan_zero_copy(const struct mig_chan *c)
{
	return mig_zero_copy_verdict(&c->zero_copy);
}

void mig_chan_set_idle_timeout(struct mig_chan *c, uint64_t ns)
{
	c->idle_timeout_ns = ns;
}

void mig_chan_set_deadline(struct mig_chan *c, uint64_t at_ns)
{
	c->deadline_ns = at_ns;
}

uint64_t mig_chan_sent(const struct mig_chan *c)
{
	return __atomic_load_n(&c->transfers[SENDING].bytes, __ATOMIC_RELAXED);
}

uint64_t mig_chan_received(const struct mig_chan *c)
{
	return __atomic_load_n(&c->transfers[RECEIVING].bytes, __ATOMIC_RELAXED);
}

uint64_t mig_chan_queued(const struct mig_chan *c)
{
	int bytes = 0;

	if (ioctl(c->fd, SIOCOUTQ, &bytes) || bytes < 0)
		return 0;
	return (uint64_t)bytes;
}

uint64_t mig_chan_unsent(const struct mig_chan *c)
{
	int bytes = 0;

	if (ioctl(c->fd, SIOCOUTQNSD, &bytes) || bytes < 0)
		return mig_chan_queued(c);
	return (uint64_t)bytes;
}

void mig_chan_send_aside(struct mig_chan *c, const void *data, size_t len)
{
	size_t done = 0;

	pthread_mutex_lock(&c->lock);
	while (!c->sending && done < len) {
		struct pollfd p = {.fd = c->fd, .events = POLLOUT};
		ssize_t n = send(c->fd, (const char *)data + done, len - done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			done += (size_t)n;
		/* What has been begun must be ended, or nothing after it would be understood. */
		else if (!done || (n < 0 && errno != EAGAIN && errno != EINTR))
			break;
		else
			(void)poll(&p, 1, 100);
	}
	__atomic_fetch_add(&c->transfers[SENDING].bytes, done, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&c->lock);
}

uint64_t mig_chan_signs(const struct mig_chan *c)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	int unread = 0;

	if (!getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return info.tcpi_bytes_received;
	if (ioctl(c->fd, FIONREAD, &unread) || unread < 0)
		unread = 0;
	return mig_chan_received(c) + (uint64_t)unread;
}

void mig_chan_set_user_timeout(struct mig_chan *c, unsigned ms)
{
	/* On a UNIX socket it fails, and nothing is lost by it. */
	(void)setsockopt(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

uint64_t mig_chan_rtt_ns(const struct mig_chan *c)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	/* The kernel's sentinel for "none yet" is all ones. */
	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_min_rtt == ~0u)
		return 0;
	return info.tcpi_min_rtt * NS_PER_US;
}

void mig_chan_had_received(struct mig_chan *c, uint64_t bytes)
{
	__atomic_fetch_add(&c->transfers[RECEIVING].bytes, bytes, __ATOMIC_RELAXED);
}

int mig_chan_fd(const struct mig_chan *c)
{
	return c->fd;
}

bool mig_chan_readable(const struct mig_chan *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

int mig_chan_wait_readable(const struct mig_chan *c, struct mig_stop *stop, struct err *e)
{
	int rc = mig_stop_wait(stop, c->fd, POLLIN, patience_ns(c, clock_mono_ns()));

	return rc ? explain(c, rc == -ETIMEDOUT ? -ETIME : rc, e) : 0;
}

size_t mig_chan_last_words(struct mig_chan *c, void *data, size_t room)
{
	ssize_t n = c->error ? recv(c->fd, data, room, MSG_DONTWAIT) : 0;

	return n > 0 ? (size_t)n : 0;
}

void mig_chan_linger(struct mig_chan *c, uint64_t ns)
{
	uint64_t end = clock_mono_ns() + ns, now;
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	char dropped[65536];

	if (c->error || shutdown(c->fd, SHUT_WR))
		return;
	while ((now = clock_mono_ns()) < end) {
		if (poll(&p, 1, (int)((end - now) / NS_PER_MS + 1)) < 0 && errno != EINTR)
			return;
		if (p.revents && recv(c->fd, dropped, sizeof(dropped), MSG_DONTWAIT) <= 0)
			return;
	}
}

void mig_chan_cut(struct mig_chan *c, uint64_t silent_ns)
{
	atomic_store(&c->silent_ns, silent_ns);
	(void)shutdown(c->fd, SHUT_RDWR);
}

void mig_chan_abort(struct mig_chan *c)
{
	atomic_store(&c->aborted, true);
	(void)shutdown(c->fd, SHUT_RDWR);
}

void mig_chan_close(struct mig_chan *c)
{
	if (!c)
		return;
	settle(c);
	part(c);
	io_uring_queue_exit(&c->ring);
	(void)close(c->fd);
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
}
