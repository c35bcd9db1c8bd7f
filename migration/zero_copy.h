/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sending guest RAM without copying it, where the device really does.
 *
 * The kernel's zero-copy send promises nothing: over a device that cannot gather pages (loopback,
 * veth, many tunnels) the bytes are copied after all, later and at a higher price than a plain send
 * has. The kernel says so in the notification that ends such a send. So each channel makes one try:
 * its first piece of guest RAM goes out by a zero-copy send, all others plainly until that one's
 * notification is there. If the bytes were copied, then or ever after, or the kernel does not
 * offer it, the channel sends plainly for good.
 *
 * Until the notification comes the bytes are read from guest RAM, and not only once: TCP may send
 * them again. So the peer may get bytes that are newer than the send, or pages of which parts are.
 * That does no harm:
 * - A page is protected before it is sent. Who writes it later sets its bit again (host writes are
 *   marked likewise), and the page follows in a later pass. What the peer has of it till then is
 *   not the last word, and its checksum need not be right.
 * - In the last pass nobody writes: vCPUs and devices are paused, until the peer has answered that
 *   it has everything, or the switchover is called off; then what is written is logged again.
 * - No late byte overtakes a newer copy that went by another channel. TCP hands out each byte once
 *   and in order: when the peer reads the mark behind a pass, the pages before it are in its RAM,
 *   and whatever the network repeats of them is dropped. And no newer copy is read before all
 *   channels have come to that mark.
 * - RAM that is given back (a balloon) or copied on write meanwhile is held by the kernel, page by
 *   page, for as long as it sends from it.
 * Nothing but guest RAM is sent so: headers, checksums and compressed pages lie in buffers that are
 * used again at once, and are copied.
 *
 * Notifications are bounded: while many are due pieces go plainly. Nobody waits for one but
 * mig_chan_close(), and that not for long.
 *
 * Threads: the channel's owner; mig_zero_copy_verdict() from any.
 */
#ifndef MIGRATION_ZERO_COPY_H
#define MIGRATION_ZERO_COPY_H

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>

#include "migration/migration.h"

#define MIG_ZERO_COPY_DUE_MAX   128 /* notifications; the channel's ring has room for more */
#define MIG_ZERO_COPY_BYTES_MIN (64u << 10) /* fewer are copied in less time than it takes */

struct mig_zero_copy {
	bool allowed; /* by the user, and by the kernel until it refuses */
	bool carried; /* a zero-copy send has sent something */
	unsigned due; /* notifications to come */
	int verdict;  /* enum mig_zero_copy_verdict; atomic */
};

/* Should so many bytes of guest RAM go by a zero-copy send? */
bool mig_zero_copy_now(const struct mig_zero_copy *z, size_t bytes);
/* Make a send of it. */
void mig_zero_copy_prepare(struct io_uring_sqe *sqe, int fd, const struct msghdr *msg);
/*
 * A zero-copy send ended like this. True: the kernel does not do it, nothing was sent; send the
 * same again, and plainly.
 */
bool mig_zero_copy_refused(struct mig_zero_copy *z, const struct io_uring_cqe *cqe);
/* A notification came. */
void mig_zero_copy_notified(struct mig_zero_copy *z, const struct io_uring_cqe *cqe);

enum mig_zero_copy_verdict mig_zero_copy_verdict(const struct mig_zero_copy *z);

#endif
