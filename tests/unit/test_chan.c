/* SPDX-License-Identifier: Apache-2.0 */
/* Channels over TCP and UNIX sockets: whole pieces, bounded waits, sticky errors, aborts. */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/support/chan_fixture.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/raw.h"
#include "tests/unit/support/synth_writer.h"

static void nap_ms(uint64_t ms)
{
	struct timespec ts = {(time_t)(ms / 1000), (long)(ms % 1000 * NS_PER_MS)};

	(void)nanosleep(&ts, NULL);
}

/* ---- whole pieces ---- */

struct half {
	struct mig_chan *c;
	uint64_t seed;
	int rc;
};

/* Random pieces, empty ones too, one send always under way. */
static void *send_all(void *arg)
{
	struct half *h = arg;
	struct err e = ERR_INIT;
	size_t at = 0;

	while (at < BIG && !h->rc) {
		struct iovec iov[MIG_CHAN_MAX_IOV];
		unsigned n = 1 + (unsigned)(synth_random(&h->seed) % MIG_CHAN_MAX_IOV), i;

		for (i = 0; i < n; i++) {
			size_t len = synth_random(&h->seed) % 3000;

			if (synth_random(&h->seed) % 16 == 0)
				len = 0;
			if (len > BIG - at)
				len = BIG - at;
			iov[i] = (struct iovec){.iov_base = sent + at, .iov_len = len};
			at += len;
		}
		h->rc = mig_chan_send_begin(h->c, iov, n, &e);
		memset(iov, 0xff, sizeof(iov)); /* it was copied */
	}
	if (!h->rc)
		h->rc = mig_chan_send_end(h->c, &e);
	return NULL;
}

static void *receive_all(void *arg)
{
	struct half *h = arg;
	struct err e = ERR_INIT;
	size_t at = 0;

	while (at < BIG && !h->rc) {
		struct iovec iov[64];
		unsigned n = (unsigned)(synth_random(&h->seed) % 64);

		for (unsigned i = 0; i < n; i++) {
			size_t len = synth_random(&h->seed) % 20000;

			if (synth_random(&h->seed) % 16 == 0)
				len = 0;
			if (len > BIG - at)
				len = BIG - at;
			iov[i] = (struct iovec){.iov_base = received + at, .iov_len = len};
			at += len;
		}
		h->rc = mig_chan_recvv(h->c, iov, n, &e);
	}
	return NULL;
}

static void transfer(bool tcp)
{
	struct half out = {.seed = 1}, in = {.seed = 2};
	pthread_t a, b;
	int fd[2];

	fill();
	make_sockets(tcp, SOCK_NONBLOCK, fd);
	out.c = open_chan(fd[0], PATIENT);
	in.c = open_chan(fd[1], PATIENT);
	ck_assert(!mig_chan_readable(in.c));
	ck_assert_int_eq(pthread_create(&a, NULL, send_all, &out), 0);
	ck_assert_int_eq(pthread_create(&b, NULL, receive_all, &in), 0);
	(void)pthread_join(a, NULL);
	(void)pthread_join(b, NULL);
	ck_assert_int_eq(out.rc, 0);
	ck_assert_int_eq(in.rc, 0);
	ck_assert_uint_eq(mig_chan_sent(out.c), BIG);
	ck_assert_uint_eq(mig_chan_received(in.c), BIG);
	ck_assert_uint_eq(mig_chan_received(out.c), 0);
	ck_assert(!memcmp(sent, received, BIG));
	ck_assert(tcp || !mig_chan_rtt_ns(out.c));
	mig_chan_close(out.c);
	mig_chan_close(in.c);
}

START_TEST(whole_pieces)
{
	transfer(true);
	transfer(false);
}
END_TEST

/* What one end has not read yet is known at the other. */
START_TEST(queued)
{
	struct err e = ERR_INIT;
	struct mig_chan *a, *b;
	int fd[2];

	make_sockets(false, SOCK_NONBLOCK, fd);
	a = open_chan(fd[0], PATIENT);
	b = open_chan(fd[1], PATIENT);
	ck_assert_uint_eq(mig_chan_queued(a), 0);
	ck_assert_int_eq(mig_chan_send(a, sent, 10000, &e), 0);
	ck_assert_uint_gt(mig_chan_queued(a), 0);
	ck_assert_uint_eq(mig_chan_unsent(a), mig_chan_queued(a)); /* not told apart there */
	ck_assert(mig_chan_readable(b));
	ck_assert_int_eq(mig_chan_recv(b, received, 10000, &e), 0);
	ck_assert_uint_eq(mig_chan_queued(a), 0);
	ck_assert(!mig_chan_readable(b));
	mig_chan_close(a);
	ck_assert(mig_chan_readable(b)); /* the end */
	mig_chan_close(b);
	mig_chan_close(NULL);
}
END_TEST

/* What nobody takes cannot even go out; a page can, and then only waits to be acknowledged. */
START_TEST(unsent)
{
	struct err e = ERR_INIT;
	struct mig_chan *a, *b;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	a = open_chan(fd[0], 200 * NS_PER_MS);
	b = open_chan(fd[1], PATIENT);
	ck_assert_int_eq(mig_chan_send(a, sent, 4096, &e), 0);
	ck_assert_uint_eq(mig_chan_unsent(a), 0);
	ck_assert_int_eq(mig_chan_send(a, sent, BIG, &e), -ETIMEDOUT);
	ck_assert_uint_gt(mig_chan_unsent(a), 4096);
	ck_assert_uint_le(mig_chan_unsent(a), mig_chan_queued(a));
	mig_chan_close(a);
	mig_chan_close(b);
}
END_TEST

/* ---- waits that end ---- */

static void check_sticky(struct mig_chan *c, int rc, const char *text)
{
	struct err e = ERR_INIT;
	char byte = 0;

	ck_assert_int_eq(mig_chan_recv(c, &byte, 1, &e), rc);
	ck_assert_msg(strstr(e.msg, text) != NULL, "%s", e.msg);
	err_clear(&e);
	ck_assert_int_eq(mig_chan_send(c, &byte, 1, &e), rc);
	ck_assert_msg(strstr(e.msg, text) != NULL, "%s", e.msg);
}

static void silent(bool tcp)
{
	uint64_t begin_ns = clock_mono_ns(), took;
	struct err e = ERR_INIT;
	struct mig_chan *c;
	int fd[2];

	make_sockets(tcp, SOCK_NONBLOCK, fd);
	c = open_chan(fd[0], 100 * NS_PER_MS);
	ck_assert_int_eq(mig_chan_recv(c, received, 10, &e), -ETIMEDOUT);
	ck_assert_ptr_nonnull(strstr(e.msg, "the peer has not answered"));
	took = clock_mono_ns() - begin_ns;
	ck_assert_uint_ge(took, 90 * NS_PER_MS);
	ck_assert_uint_lt(took, 5 * NS_PER_SEC);
	check_sticky(c, -ETIMEDOUT, "has not answered");
	mig_chan_close(c);
	(void)close(fd[1]);
	/* A peer that does not take what is sent. */
	make_sockets(tcp, SOCK_NONBLOCK, fd);
	c = open_chan(fd[0], 100 * NS_PER_MS);
	err_clear(&e);
	ck_assert_int_eq(mig_chan_send(c, sent, BIG, &e), -ETIMEDOUT);
	ck_assert_uint_gt(mig_chan_sent(c), 0);
	ck_assert_uint_lt(mig_chan_sent(c), BIG);
	mig_chan_close(c);
	(void)close(fd[1]);
}

START_TEST(idle_timeout)
{
	silent(true);
	silent(false);
}
END_TEST

/* Slow, but alive: each byte that moves begins the wait anew. */
static void *trickle(void *arg)
{
	int fd = *(int *)arg;

	for (unsigned i = 0; i < 8; i++) {
		nap_ms(100);
		raw_send(fd, "xy", 2);
	}
	return NULL;
}

START_TEST(slow_is_not_dead)
{
	struct err e = ERR_INIT;
	struct mig_chan *c;
	pthread_t t;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], 500 * NS_PER_MS);
	ck_assert_int_eq(pthread_create(&t, NULL, trickle, &fd[0]), 0);
	ck_assert_msg(!mig_chan_recv(c, received, 16, &e), "%s", e.msg);
	(void)pthread_join(t, NULL);
	mig_chan_close(c);
	(void)close(fd[0]);
}
END_TEST

/* However lively the peer: by the deadline it must be done. */
START_TEST(deadline)
{
	uint64_t begin_ns = clock_mono_ns();
	struct err e = ERR_INIT;
	struct mig_chan *c;
	pthread_t t;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], PATIENT);
	ck_assert_int_eq(pthread_create(&t, NULL, trickle, &fd[0]), 0);
	mig_chan_set_deadline(c, begin_ns + 350 * NS_PER_MS);
	ck_assert_int_eq(mig_chan_recv(c, received, 16, &e), -ETIMEDOUT);
	ck_assert_str_eq(e.msg, "the peer was not done in time");
	ck_assert_uint_ge(clock_mono_ns() - begin_ns, 350 * NS_PER_MS);
	ck_assert_uint_lt(clock_mono_ns() - begin_ns, 5 * NS_PER_SEC);
	(void)pthread_join(t, NULL);
	mig_chan_close(c);
	(void)close(fd[0]);
}
END_TEST

/* Sends whatever the other side takes, until it is gone. */
static void *flood(void *arg)
{
	int fd = *(int *)arg;

	while (send(fd, sent, 65536, MSG_NOSIGNAL) > 0 || errno == EAGAIN) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};

		(void)poll(&p, 1, 1000);
	}
	return NULL;
}

/* A peer that always has something to say is not listened to for longer either. */
START_TEST(deadline_in_a_flood)
{
	for (unsigned tcp = 0; tcp < 2; tcp++) {
		struct err e = ERR_INIT;
		struct mig_chan *c;
		pthread_t t;
		int fd[2], rc = 0;

		make_sockets(tcp, SOCK_NONBLOCK, fd);
		c = open_chan(fd[1], PATIENT);
		ck_assert_int_eq(pthread_create(&t, NULL, flood, &fd[0]), 0);
		mig_chan_set_deadline(c, clock_mono_ns() + 200 * NS_PER_MS);
		while (!rc)
			rc = mig_chan_recv(c, received, 28, &e);
		ck_assert_int_eq(rc, -ETIMEDOUT);
		ck_assert_str_eq(e.msg, "the peer was not done in time");
		mig_chan_close(c);
		(void)pthread_join(t, NULL);
		(void)close(fd[0]);
	}
}
END_TEST

START_TEST(peer_closes)
{
	for (unsigned tcp = 0; tcp < 2; tcp++) {
		struct err e = ERR_INIT;
		struct mig_chan *c;
		int fd[2];

		make_sockets(tcp, SOCK_NONBLOCK, fd);
		c = open_chan(fd[1], PATIENT);
		raw_send(fd[0], "abc", 3);
		(void)close(fd[0]);
		ck_assert_int_eq(mig_chan_recv(c, received, 2, &e), 0);
		ck_assert_int_eq(mig_chan_recv(c, received, 2, &e), -ECONNRESET);
		ck_assert_str_eq(e.msg, "the peer closed the connection");
		check_sticky(c, -ECONNRESET, "the peer closed the connection");
		mig_chan_close(c);
	}
}
END_TEST

START_TEST(peer_resets)
{
	struct linger hard = {.l_onoff = 1};
	struct err e = ERR_INIT;
	struct mig_chan *c;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], PATIENT);
	(void)setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	(void)close(fd[0]);
	ck_assert_int_eq(mig_chan_send(c, sent, BIG, &e), -ECONNRESET);
	check_sticky(c, -ECONNRESET, "closed the connection");
	mig_chan_close(c);
}
END_TEST

START_TEST(too_many_pieces)
{
	static struct iovec iov[MIG_CHAN_MAX_IOV + 1];
	struct err e = ERR_INIT;
	struct mig_chan *c;
	int fd[2];

	make_sockets(false, SOCK_NONBLOCK, fd);
	c = open_chan(fd[0], PATIENT);
	ck_assert_int_eq(mig_chan_send_begin(c, iov, MIG_CHAN_MAX_IOV, &e), 0); /* all empty */
	ck_assert_int_eq(mig_chan_send_end(c, &e), 0);
	ck_assert_int_eq(mig_chan_send_begin(c, iov, MIG_CHAN_MAX_IOV + 1, &e), -EMSGSIZE);
	mig_chan_close(c);
	(void)close(fd[1]);
}
END_TEST

/* ---- aborts ---- */

static void *abort_later(void *arg)
{
	nap_ms(50);
	mig_chan_abort(arg);
	return NULL;
}

static void aborted(bool tcp, bool sending)
{
	uint64_t begin_ns = clock_mono_ns();
	struct err e = ERR_INIT;
	struct mig_chan *c;
	pthread_t t;
	int fd[2], rc;

	make_sockets(tcp, SOCK_NONBLOCK, fd);
	c = open_chan(fd[0], 60 * NS_PER_SEC);
	ck_assert_int_eq(pthread_create(&t, NULL, abort_later, c), 0);
	rc = sending ? mig_chan_send(c, sent, BIG, &e) : mig_chan_recv(c, received, 1, &e);
	ck_assert_int_eq(rc, -ECANCELED);
	ck_assert_str_eq(e.msg, "cancelled");
	ck_assert_uint_lt(clock_mono_ns() - begin_ns, 10 * NS_PER_SEC);
	(void)pthread_join(t, NULL);
	check_sticky(c, -ECANCELED, "cancelled");
	mig_chan_close(c);
	(void)close(fd[1]);
}

START_TEST(abort_ends_waits)
{
	for (unsigned i = 0; i < 4; i++)
		aborted(i & 1, i & 2);
}
END_TEST

START_TEST(abort_before)
{
	struct mig_chan *c;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[0], PATIENT);
	mig_chan_abort(c);
	mig_chan_abort(c);
	check_sticky(c, -ECANCELED, "cancelled");
	mig_chan_close(c);
	(void)close(fd[1]);
}
END_TEST

/* A close in the middle of a send gets the buffers back from the kernel first. */
START_TEST(close_under_way)
{
	for (unsigned tcp = 0; tcp < 2; tcp++) {
		struct iovec iov = {.iov_len = BIG};
		struct err e = ERR_INIT;
		struct mig_chan *c;
		int fd[2];

		iov.iov_base = malloc(BIG);
		ck_assert_ptr_nonnull(iov.iov_base);
		memset(iov.iov_base, 1, BIG);
		make_sockets(tcp, SOCK_NONBLOCK, fd);
		c = open_chan(fd[0], PATIENT);
		ck_assert_int_eq(mig_chan_send_begin(c, &iov, 1, &e), 0);
		mig_chan_close(c);
		free(iov.iov_base);
		(void)close(fd[1]);
	}
}
END_TEST

/* ---- the rest ---- */

START_TEST(wait_readable)
{
	struct err e = ERR_INIT;
	struct mig_stop stop;
	struct mig_chan *c;
	int fd[2];

	ck_assert_int_eq(mig_stop_init(&stop), 0);
	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], 30 * NS_PER_MS);
	ck_assert_int_eq(mig_chan_wait_readable(c, &stop, &e), -ETIMEDOUT);
	/* Still good. */
	raw_send(fd[0], "x", 1);
	mig_chan_set_idle_timeout(c, PATIENT);
	ck_assert_int_eq(mig_chan_wait_readable(c, &stop, NULL), 0);
	ck_assert_int_eq(mig_chan_recv(c, received, 1, NULL), 0);
	mig_stop_set(&stop);
	err_clear(&e);
	ck_assert_int_eq(mig_chan_wait_readable(c, &stop, &e), -ECANCELED);
	ck_assert_int_eq(mig_chan_send(c, "y", 1, NULL), 0);
	ck_assert_uint_eq(raw_recv(fd[0], received, 1), 1);
	mig_chan_close(c);
	(void)close(fd[0]);
	mig_stop_free(&stop);
}
END_TEST

/* The peer gave its reason and closed; our send failed before we read it. */
START_TEST(last_words)
{
	struct err e = ERR_INIT;
	char text[32] = "";
	struct mig_chan *c;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], PATIENT);
	ck_assert_uint_eq(mig_chan_last_words(c, text, sizeof(text)), 0); /* no failure yet */
	raw_send(fd[0], "no room", 7);
	(void)shutdown(fd[0], SHUT_WR);
	(void)close(fd[0]);
	ck_assert_int_lt(mig_chan_send(c, sent, BIG, &e), 0);
	ck_assert_uint_eq(mig_chan_last_words(c, text, sizeof(text)), 7);
	ck_assert_str_eq(text, "no room");
	ck_assert_uint_eq(mig_chan_last_words(c, text, sizeof(text)), 0);
	mig_chan_close(c);
}
END_TEST

/* The last message arrives although the peer is still sending when we stop listening to it. */
START_TEST(linger)
{
	uint64_t begin_ns = clock_mono_ns();
	struct err e = ERR_INIT;
	char text[32] = "";
	struct mig_chan *c;
	int fd[2];

	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], PATIENT);
	raw_send(fd[0], sent, 100000);
	ck_assert_int_eq(mig_chan_send(c, "why", 3, &e), 0);
	mig_chan_linger(c, 100 * NS_PER_MS); /* the peer does not close: the time ends it */
	ck_assert_uint_ge(clock_mono_ns() - begin_ns, 90 * NS_PER_MS);
	ck_assert_uint_lt(clock_mono_ns() - begin_ns, 5 * NS_PER_SEC);
	mig_chan_close(c);
	ck_assert_uint_eq(raw_recv(fd[0], text, sizeof(text)), 3);
	ck_assert_str_eq(text, "why");
	(void)close(fd[0]);
	/* The peer closes: no reason to wait. */
	begin_ns = clock_mono_ns();
	make_sockets(true, SOCK_NONBLOCK, fd);
	c = open_chan(fd[1], PATIENT);
	(void)close(fd[0]);
	mig_chan_linger(c, 60 * NS_PER_SEC);
	ck_assert_uint_lt(clock_mono_ns() - begin_ns, 10 * NS_PER_SEC);
	mig_chan_close(c);
}
END_TEST

PAIR_SUITE("chan", whole_pieces, queued, unsent, idle_timeout, slow_is_not_dead, deadline,
	   deadline_in_a_flood, peer_closes, peer_resets, too_many_pieces, abort_ends_waits,
	   abort_before, close_under_way, wait_readable, last_words, linger)
