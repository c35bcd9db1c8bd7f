/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The brake: slows the guest's vCPUs down while a migration does not converge by itself.
 *
 *      OFF --(two passes without enough progress)--> ON --(the migration's end)--> OFF
 *
 * While it is on, a thread has the dirty log read every MIG_THROTTLE_STEP_NS, samples the vCPUs,
 * and sets the shares that migration/throttle.h works out. It sleeps while the guest is paused for
 * the switchover, so that no reading of the log is in the way then. Whatever the end of the
 * migration, every vCPU runs freely from mig_brake_release() on, which waits for nothing.
 *
 * Threads: the coordinator's, and one of its own.
 */
#ifndef MIGRATION_BRAKE_H
#define MIGRATION_BRAKE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/bitmap.h"
#include "migration/machine.h"
#include "migration/migration.h"
#include "migration/sync.h"
#include "migration/throttle.h"

struct mig_brake {
	/* constant while it lives */
	const struct mig_cpu_source *cpus;
	struct mig_sync *sync;
	const struct mig_bitmap *bitmap;
	/* the coordinator's */
	struct mig_throttle_trigger trigger;
	bool has_thread;
	pthread_t thread;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool quit, on, held;
	struct mig_throttle_params params;
	uint64_t wire_bytes_s, fit_bytes, under_way_bytes;
	struct mig_throttle_status status;
	uint64_t stalled_before_ns; /* of all vCPUs, when it came on */
	/* the thread's */
	struct mig_throttle throttle;
};

/* Nothing is slowed yet. What is pointed to must live until mig_brake_stop(). */
void mig_brake_start(struct mig_brake *b, const struct mig_cpu_source *cpus, struct mig_sync *sync,
		     const struct mig_bitmap *bitmap);
/* Let every vCPU run freely, for good: nothing slows one down afterwards. Does not wait. */
void mig_brake_release(struct mig_brake *b);
/*
 * The same, and end the thread, which may be waiting for a reading of the log. Before the sync
 * worker is stopped.
 */
void mig_brake_stop(struct mig_brake *b);

/* A pass is over and did not do: how much it sent, how much is left. May bring the brake on. */
void mig_brake_pass(struct mig_brake *b, uint64_t sent_bytes, uint64_t left_bytes);
/* The guest is about to be paused / runs on: keep still meanwhile. */
void mig_brake_hold(struct mig_brake *b, bool hold);

/*
 * What is wanted, how much RAM the wire carries in a second now, how much may be left for the
 * switchover to fit its limit, and how much is left already that the bitmap does not have any more:
 * windows, and what sockets hold. Often, and at least once before mig_brake_pass().
 */
void mig_brake_feed(struct mig_brake *b, const struct mig_throttle_params *params,
		    uint64_t wire_bytes_s, uint64_t fit_bytes, uint64_t under_way_bytes);
void mig_brake_status(struct mig_brake *b, struct mig_throttle_status *out);

#endif
