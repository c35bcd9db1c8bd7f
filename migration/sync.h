/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sync worker: the only thread that reads the dirty source.
 *
 * The coordinator asks for a sync and waits for it (between passes it has nothing else to do). And
 * when an iteration other than the first runs longer than the background period, the worker syncs
 * on its own, so that dirty figures stay current on slow links while the senders go on.
 *
 * Threads: mig_sync_* from the coordinator; the figures from any thread.
 */
#ifndef MIGRATION_SYNC_H
#define MIGRATION_SYNC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "migration/bitmap.h"
#include "migration/machine.h"

#define MIG_SYNC_BACKGROUND_NS (5 * NS_PER_SEC)

struct mig_sync_figures {
	uint64_t syncs;             /* done so far, background ones included */
	uint64_t background_syncs;  /* of them */
	uint64_t last_ns, total_ns; /* time spent in harvests */
	uint64_t dirty_pages_per_s; /* newly dirty pages over the time since the sync before */
	uint64_t last_new_pages;
	uint64_t end_ns; /* when the last one ended (CLOCK_MONOTONIC); 0: none yet */
};

struct mig_sync {
	/* constant while the worker lives */
	const struct mig_dirty_source *source;
	struct mig_bitmap *bitmap;
	uint64_t background_ns;
	pthread_t thread;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool quit;
	uint64_t asked, answered; /* sync requests: numbers */
	uint64_t watch_from_ns; /* when a background sync may be due counts from here; 0 = never */
	int error;              /* of the worker, sticky */
	struct err message;
	uint64_t last_end_ns; /* when the last harvest ended (the log's start before the first) */
	struct mig_sync_figures figures;
};

/* The source must have been started. The worker runs until mig_sync_stop(). */
int mig_sync_start(struct mig_sync *s, const struct mig_dirty_source *source,
		   struct mig_bitmap *bitmap, uint64_t background_ns, struct err *e);
void mig_sync_stop(struct mig_sync *s);

/* A whole sync that begins after this call. Returns when it is done. */
int mig_sync_now(struct mig_sync *s, struct err *e);

/* A new iteration begins; watch it (every one but the first). */
void mig_sync_iteration(struct mig_sync *s, bool watch);

struct mig_sync_figures mig_sync_figures(struct mig_sync *s);

#endif
