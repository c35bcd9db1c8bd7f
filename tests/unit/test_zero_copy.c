/* SPDX-License-Identifier: Apache-2.0 */
/* Zero-copy sends: tried, judged by what the kernel says, and never waited for. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/zero_copy.h"
#include "tests/unit/support/chan_fixture.h"
#include "tests/unit/support/pair.h"

struct half {
	struct mig_chan *c;
	int rc;
};

static void *receive_all(void *arg)
{
	struct half *h = arg;
	struct err e = ERR_INIT;

	h->rc = mig_chan_recv(h->c, received, BIG, &e);
	return NULL;
}

#define CHUNK (1u << 20) /* of what lasts */
#define HEAD  100u       /* before it, in a buffer that is used again at once */

/* Chunks: a head that is overwritten as soon as its send is over, and bytes that last. */
static void *send_chunks(void *arg)
{
	struct half *h = arg;
	struct err e = ERR_INIT;
	uint8_t head[2][HEAD];
	unsigned turn = 0;

	for (size_t at = 0; at + CHUNK <= BIG && !h->rc; at += CHUNK, turn ^= 1) {
		struct iovec iov[3] = {
			{.iov_base = head[turn], .iov_len = HEAD},
			{.iov_base = sent + at + HEAD, .iov_len = 5000},
			{.iov_base = sent + at + HEAD + 5000, .iov_len = CHUNK - HEAD - 5000}};

		memcpy(head[turn], sent + at, HEAD);
		h->rc = mig_chan_send_lasting(h->c, iov, 3, 1, &e);
		memset(head[turn ^ 1], 0xee, HEAD); /* the one before is over */
	}
	if (!h->rc)
		h->rc = mig_chan_send_end(h->c, &e);
	memset(head, 0xee, sizeof(head));
	return NULL;
}

static enum mig_zero_copy_verdict send_and_judge(bool tcp, bool allow)
{
	struct half out = {.rc = 0}, in = {.rc = 0};
	enum mig_zero_copy_verdict verdict;
	struct err e = ERR_INIT;
	pthread_t a, b;
	int fd[2];

	fill();
	make_sockets(tcp, SOCK_NONBLOCK, fd);
	out.c = open_chan(fd[0], PATIENT);
	in.c = open_chan(fd[1], PATIENT);
	if (allow)
		mig_chan_allow_zero_copy(out.c);
	ck_assert_int_eq(pthread_create(&a, NULL, send_chunks, &out), 0);
	ck_assert_int_eq(pthread_create(&b, NULL, receive_all, &in), 0);
	(void)pthread_join(a, NULL);
	(void)pthread_join(b, NULL);
	ck_assert_int_eq(out.rc, 0);
	ck_assert_int_eq(in.rc, 0);
	ck_assert_uint_eq(mig_chan_sent(out.c), BIG);
	ck_assert(!memcmp(sent, received, BIG));
	/* All is read: the notification is there at the next send, whatever it says. */
	for (unsigned i = 0; i < 3; i++) {
		struct iovec iov = {.iov_base = sent, .iov_len = 10};

		ck_assert_int_eq(mig_chan_send_lasting(out.c, &iov, 1, 0, &e), 0);
		ck_assert_int_eq(mig_chan_recv(in.c, received, 10, &e), 0);
	}
	verdict = mig_chan_zero_copy(out.c);
	mig_chan_close(out.c);
	mig_chan_close(in.c);
	return verdict;
}

/* Loopback and UNIX sockets copy, or kernels do not offer it for them: it ends in plain sends. */
START_TEST(zero_copy)
{
	for (unsigned tcp = 0; tcp < 2; tcp++) {
		enum mig_zero_copy_verdict v = send_and_judge(tcp, true);

		ck_assert_msg(v == MIG_ZERO_COPY_COPIED || v == MIG_ZERO_COPY_NOT_OFFERED, "%d",
			      (int)v);
		ck_assert_int_eq(send_and_judge(tcp, false), MIG_ZERO_COPY_UNTRIED);
	}
}
END_TEST

/* The peer takes nothing any more, so no notification comes: a close does not wait for it. */
START_TEST(close_before_notified)
{
	for (unsigned broken = 0; broken < 2; broken++) {
		struct iovec iov = {.iov_base = sent, .iov_len = BIG};
		struct err e = ERR_INIT;
		struct mig_chan *c;
		int fd[2];

		make_sockets(true, SOCK_NONBLOCK, fd);
		c = open_chan(fd[0], 50 * NS_PER_MS);
		mig_chan_allow_zero_copy(c);
		ck_assert_int_eq(mig_chan_send_lasting(c, &iov, 1, 0, &e), 0);
		if (broken)
			ck_assert_int_eq(mig_chan_send_end(c, &e), -ETIMEDOUT);
		mig_chan_close(c);
		(void)close(fd[1]);
	}
}
END_TEST

/* What the kernel may say, with the cases that no device here shows. */
START_TEST(zero_copy_verdicts)
{
	const struct io_uring_cqe took = {.res = 1000, .flags = IORING_CQE_F_MORE};
	const struct io_uring_cqe again = {.res = -EAGAIN, .flags = IORING_CQE_F_MORE};
	const struct io_uring_cqe locked = {.res = -ENOMEM};
	const struct io_uring_cqe sent_so = {.res = 0, .flags = IORING_CQE_F_NOTIF};
	const struct io_uring_cqe copied = {.res = INT32_MIN, .flags = IORING_CQE_F_NOTIF};
	struct mig_zero_copy z = {.allowed = true};

	ck_assert(mig_zero_copy_now(&z, CHUNK) && !mig_zero_copy_now(&z, 4096));
	ck_assert(!mig_zero_copy_refused(&z, &again));
	mig_zero_copy_notified(&z, &sent_so); /* of nothing: that says nothing */
	ck_assert_int_eq(mig_zero_copy_verdict(&z), MIG_ZERO_COPY_UNTRIED);
	ck_assert(!mig_zero_copy_refused(&z, &took));
	ck_assert(!mig_zero_copy_now(&z, CHUNK)); /* one try at a time */
	mig_zero_copy_notified(&z, &sent_so);
	ck_assert_int_eq(mig_zero_copy_verdict(&z), MIG_ZERO_COPY_USED);
	for (unsigned i = 0; i < MIG_ZERO_COPY_DUE_MAX; i++) {
		ck_assert(mig_zero_copy_now(&z, CHUNK));
		ck_assert(!mig_zero_copy_refused(&z, &took));
	}
	ck_assert(!mig_zero_copy_now(&z, CHUNK)); /* bounded */
	mig_zero_copy_notified(&z, &sent_so);
	ck_assert(mig_zero_copy_now(&z, CHUNK));
	ck_assert(mig_zero_copy_refused(&z, &locked));
	ck_assert(!mig_zero_copy_now(&z, CHUNK));
	ck_assert_int_eq(mig_zero_copy_verdict(&z), MIG_ZERO_COPY_USED);
	/* Another route: copied once, and never again. */
	z.allowed = true;
	mig_zero_copy_notified(&z, &copied);
	mig_zero_copy_notified(&z, &sent_so);
	ck_assert_int_eq(mig_zero_copy_verdict(&z), MIG_ZERO_COPY_COPIED);
	ck_assert(!mig_zero_copy_now(&z, CHUNK));
}
END_TEST

PAIR_SUITE("zero-copy", zero_copy, close_before_notified, zero_copy_verdicts)
