/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's other connections, as they come to the destination's door.
 *
 * When WELCOME has granted more than one, the destination looks at everybody who connects until all
 * are there. Each has to begin with a CHANNEL frame that holds the session's number, which only the
 * source was told, and a number that is still free. Another source (HELLO) waits for its turn, as
 * it would have at the door, and so does who has not said anything yet; whoever says something else
 * is told so and sent away. None of them is any trouble for the attempt: nobody is waited for
 * alone, and of too many the oldest has to leave for the next one.
 *
 * Threads: the coordinator; a call ends early when the stop is set.
 */
#ifndef MIGRATION_JOINING_H
#define MIGRATION_JOINING_H

#include "migration/readers.h"

#define MIG_WAITING_MAX 32

/* Who waits for the next attempt, in the order in which they came; nothing was read from them. */
struct mig_waiting {
	unsigned n;
	int fd[MIG_WAITING_MAX];
};

/* The next one's socket, which is the caller's then; -1 if nobody waits. */
int mig_waiting_next(struct mig_waiting *w);

/*
 * Wait for connections 1 to n-1 and add them to the readers. -ETIMEDOUT if they are not all there
 * in time; -ECONNRESET as soon as the source is seen to end one that is there.
 */
int mig_join(struct mig_readers *readers, int listen_fd, uint64_t session, unsigned n,
	     struct mig_waiting *waiting, struct mig_stop *stop, struct err *e);

#endif
