/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/zero_copy.h"

#include <errno.h>
#include <sys/socket.h>

/* Since Linux 6.2, which is younger than some systems' headers. */
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE  (1U << 3)
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

static void judge(struct mig_zero_copy *z, enum mig_zero_copy_verdict verdict)
{
	__atomic_store_n(&z->verdict, (int)verdict, __ATOMIC_RELAXED);
}

enum mig_zero_copy_verdict mig_zero_copy_verdict(const struct mig_zero_copy *z)
{
	return (enum mig_zero_copy_verdict)__atomic_load_n(&z->verdict, __ATOMIC_RELAXED);
}

bool mig_zero_copy_now(const struct mig_zero_copy *z, size_t bytes)
{
	if (!z->allowed || bytes < MIG_ZERO_COPY_BYTES_MIN)
		return false;
	switch (mig_zero_copy_verdict(z)) {
	case MIG_ZERO_COPY_UNTRIED:
		return !z->due;
	case MIG_ZERO_COPY_USED:
		return z->due < MIG_ZERO_COPY_DUE_MAX;
	default:
		return false;
	}
}

void mig_zero_copy_prepare(struct io_uring_sqe *sqe, int fd, const struct msghdr *msg)
{
	io_uring_prep_sendmsg(sqe, fd, msg, MSG_NOSIGNAL);
	sqe->opcode = IORING_OP_SENDMSG_ZC;
	/* Where that flag is unknown the send is refused: nothing could be measured. */
	sqe->ioprio = IORING_SEND_ZC_REPORT_USAGE;
}

bool mig_zero_copy_refused(struct mig_zero_copy *z, const struct io_uring_cqe *cqe)
{
	if (cqe->flags & IORING_CQE_F_MORE)
		z->due++;
	if (cqe->res > 0)
		z->carried = true;
	switch (cqe->res) {
	case -EINVAL:
	case -EOPNOTSUPP:
	case -ENOMEM: /* more than the user may lock */
	case -ENOBUFS:
		z->allowed = false;
		if (mig_zero_copy_verdict(z) == MIG_ZERO_COPY_UNTRIED)
			judge(z, MIG_ZERO_COPY_NOT_OFFERED);
		return true;
	default:
		return false;
	}
}

void mig_zero_copy_notified(struct mig_zero_copy *z, const struct io_uring_cqe *cqe)
{
	z->due--;
	if ((uint32_t)cqe->res & IORING_NOTIF_USAGE_ZC_COPIED)
		judge(z, MIG_ZERO_COPY_COPIED);
	else if (z->carried && mig_zero_copy_verdict(z) == MIG_ZERO_COPY_UNTRIED)
		judge(z, MIG_ZERO_COPY_USED);
}
