/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A flag that also wakes sleepers: how a cancel reaches a thread wherever it waits.
 *
 * Threads: set from any thread; waited on by any number. A stop stays set until it is cleared.
 */
#ifndef MIGRATION_STOP_H
#define MIGRATION_STOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mig_stop {
	atomic_bool set;
	int fd; /* eventfd, readable once set */
};

int mig_stop_init(struct mig_stop *s);
void mig_stop_free(struct mig_stop *s);
void mig_stop_set(struct mig_stop *s);
/* Not set any more. Nobody may wait for it or set it at the same time. */
void mig_stop_clear(struct mig_stop *s);
bool mig_stop_is_set(const struct mig_stop *s);

/*
 * Wait until fd has one of `events` (POLLIN ...; fd -1: only the time), timeout_ns passes, or the
 * stop is set (s NULL: nothing can). 0 when fd is ready, -ETIMEDOUT, -ECANCELED, or -errno.
 */
int mig_stop_wait(struct mig_stop *s, int fd, short events, uint64_t timeout_ns);

#endif
