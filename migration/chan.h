/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel: one connected stream socket, driven by io_uring.
 *
 * Whole pieces only: a send or receive ends when every byte has gone through, or with an error. One
 * send may be left under way (mig_chan_send_begin) while its owner prepares the next; its buffers
 * must stay until mig_chan_send_end. An error is sticky: after the first one every call fails the
 * same way, so a broken stream is never continued in the middle.
 *
 * Every wait is bounded: an operation in which no byte moves for the idle timeout (into the socket,
 * out of it, or from it to the peer's host), or that is not done by the deadline (if one is set),
 * fails with -ETIMEDOUT. The end of the stream is an error in exactly one place, here: -ECONNRESET,
 * "closed the connection". mig_chan_abort() ends any wait at once from another thread.
 *
 * Threads: owned by one thread; the functions that say so from any, while it lives.
 */
#ifndef MIGRATION_CHAN_H
#define MIGRATION_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "migration/migration.h"
#include "migration/stop.h"

#define MIG_CHAN_MAX_IOV 1024 /* the kernel's limit for one call */

struct mig_chan;

/* Takes over the socket (closed on error too). `peer` names the other side in messages. */
int mig_chan_open(struct mig_chan **out, int fd, const char *peer, uint64_t idle_timeout_ns,
		  struct err *e);
/* Ends what is under way and closes. NULL is fine. */
void mig_chan_close(struct mig_chan *c);

/* The iovec array is copied, the bytes it points to are not. */
int mig_chan_send_begin(struct mig_chan *c, const struct iovec *iov, unsigned n, struct err *e);
/* Wait until the send that was begun (if any) is done. */
int mig_chan_send_end(struct mig_chan *c, struct err *e);
int mig_chan_send(struct mig_chan *c, const void *data, size_t len, struct err *e);

/* Pieces that last may be sent without being copied from now on (migration/zero_copy.h). */
void mig_chan_allow_zero_copy(struct mig_chan *c);
/*
 * As mig_chan_send_begin(). The pieces from iov[lasting] on are guest RAM: they stay where they are
 * until the channel is closed, and it does no harm if bytes that are written there later are sent.
 */
int mig_chan_send_lasting(struct mig_chan *c, const struct iovec *iov, unsigned n, unsigned lasting,
			  struct err *e);
/* What came of it. Any thread. */
enum mig_zero_copy_verdict mig_chan_zero_copy(const struct mig_chan *c);

/*
 * From another thread: send a small piece between two of the owner's sends, without waiting. It is
 * dropped when one of them is under way, or the socket has no room.
 */
void mig_chan_send_aside(struct mig_chan *c, const void *data, size_t len);

/* Fill the pieces in order. The iovec array is used up. */
int mig_chan_recvv(struct mig_chan *c, struct iovec *iov, unsigned n, struct err *e);
int mig_chan_recv(struct mig_chan *c, void *data, size_t len, struct err *e);

/* From now on at most this long without a byte moving; 0 = as long as the connection lives. */
void mig_chan_set_idle_timeout(struct mig_chan *c, uint64_t ns);
/* Everything must be done by this point of clock_mono_ns(), however lively the peer; 0 = none. */
void mig_chan_set_deadline(struct mig_chan *c, uint64_t at_ns);

uint64_t mig_chan_sent(const struct mig_chan *c);     /* bytes handed to the socket */
uint64_t mig_chan_received(const struct mig_chan *c); /* bytes taken from it */
/* Of the sent bytes, those that the peer's host has not acknowledged. 0 where it cannot be told. */
uint64_t mig_chan_queued(const struct mig_chan *c);
/*
 * Of these, those that have not gone out even once, which is what waits for the wire: the others
 * may just wait for a long round trip. All of them where that cannot be told.
 */
uint64_t mig_chan_unsent(const struct mig_chan *c);

/* The shortest round trip that TCP has seen on this connection; 0 for other sockets. */
uint64_t mig_chan_rtt_ns(const struct mig_chan *c);

/*
 * A number that changes when the peer's process gives a sign of life: the bytes that came from it,
 * whether they have been received here or not. Any thread.
 */
uint64_t mig_chan_signs(const struct mig_chan *c);
/* Unacknowledged for so long, and TCP gives up. */
void mig_chan_set_user_timeout(struct mig_chan *c, unsigned ms);
/* So many bytes of the stream were taken from the socket before it became this channel's. */
void mig_chan_had_received(struct mig_chan *c, uint64_t bytes);

/* The socket, to be watched for its end. */
int mig_chan_fd(const struct mig_chan *c);

/* Is there something to receive (or the end of the stream) right now? */
bool mig_chan_readable(const struct mig_chan *c);

/*
 * Wait for that within the idle timeout. Unlike a receive it leaves the channel usable when the
 * stop is set (-ECANCELED) or the time is over (-ETIMEDOUT).
 */
int mig_chan_wait_readable(const struct mig_chan *c, struct mig_stop *stop, struct err *e);

/*
 * After a failure: bytes that the peer had sent before (its reason, perhaps). Not waited for.
 * Returns how many were copied to data.
 */
size_t mig_chan_last_words(struct mig_chan *c, void *data, size_t room);

/* No more sending, read and drop what still comes for at most ns: lets a last message arrive. */
void mig_chan_linger(struct mig_chan *c, uint64_t ns);

/* The peer was silent for so long: every call, under way or later, fails with -EHOSTDOWN. Any
 * thread. */
void mig_chan_cut(struct mig_chan *c, uint64_t silent_ns);
/* Break the connection: every call, under way or later, fails with -ECANCELED. Any thread. */
void mig_chan_abort(struct mig_chan *c);

#endif
