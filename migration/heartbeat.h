/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the peer still there? A thread beside a channel that says "alive" where nothing else is said,
 * and listens for any sign of life.
 *
 * Every MIG_BEAT_PERIOD_NS an ALIVE frame is sent, unless something else went out since the last
 * time or is on its way. It is sent from this thread, so it comes whatever the channel's owner is
 * busy with: loading a state, waiting for a sync, for max-bandwidth, for the user. It has no place
 * in the frames' numbering and goes between any two of them.
 *
 * The sign of life is what comes from the peer's process (mig_chan_signs()), whether anybody has
 * read it yet or not; what its host acknowledges is none, a stopped process's host does that too.
 * Nothing for MIG_BEAT_SILENT_NS, and the channel is cut: every call on it fails. A patient
 * heartbeat only tells. Time in which this process stood still itself does not count.
 *
 * Threads: one of its own; start, stop and patience by the channel's owner. The channel must live
 * from start to stop.
 */
#ifndef MIGRATION_HEARTBEAT_H
#define MIGRATION_HEARTBEAT_H

#include <pthread.h>
#include <stdbool.h>

#include "base/clock.h"
#include "migration/chan.h"

#define MIG_BEAT_PERIOD_NS (500 * NS_PER_MS)
#define MIG_BEAT_SILENT_NS (4 * NS_PER_SEC)

/*
 * TCP's own patience. It ends the connection too when a live peer takes nothing for so long, so it
 * must not be shorter than what a slow peer may need; a dead one is noticed by the heartbeat
 * before.
 */
#define MIG_BEAT_USER_TIMEOUT_MS 30000

/* A patient one: the peer has fallen silent, or is heard of again. In the heartbeat's thread. */
typedef void mig_beat_fn(void *ctx, bool silent);

struct mig_beat {
	bool started;
	pthread_t thread;
	struct mig_chan *chan;
	mig_beat_fn *tell; /* may be NULL */
	void *ctx;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool quit, patient;
	/* the thread's own */
	bool silent;
	uint64_t signs, heard_ns, looked_ns;
	uint64_t sent_bytes;
};

/* *b is zero, or was stopped. */
int mig_beat_start(struct mig_beat *b, struct mig_chan *chan, mig_beat_fn *tell, void *ctx,
		   struct err *e);
/* Only tell, do not cut; and back, which counts from anew. */
void mig_beat_patient(struct mig_beat *b, bool patient);
/* Ends the thread. One that was not started is fine. */
void mig_beat_stop(struct mig_beat *b);

#endif
