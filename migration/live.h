/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving while the guest runs: which pages still have to be written, as precopy knows it (a page's
 * bit is taken, then the page is protected, then its bytes are read; a later write sets the bit
 * again), and copies of the last ones, so that the guest need not wait for the disk.
 *
 * Threads: take from several, everything else from the coordinator, while none takes.
 */
#ifndef MIGRATION_LIVE_H
#define MIGRATION_LIVE_H

#include <pthread.h>

#include "migration/bitmap.h"
#include "migration/machine.h"
#include "migration/sync.h"

/* Copied while the guest is dark at most; what does not fit is written in the dark. */
#define MIG_LIVE_COPY_PAGES (1u << 16)

struct mig_live_copy {
	unsigned block;
	uint64_t page;
};

struct mig_live {
	const struct mem *mem;
	const struct mig_dirty_source *dirty;
	struct mig_bitmap bitmap;
	bool started, syncing; /* the dirty source; the worker that reads it */
	struct mig_sync sync;
	pthread_mutex_t lock;         /* one thread protects at a time */
	struct mig_live_copy *copies; /* in the order of their places */
	uint8_t *bytes;               /* of the copies, one after the other; page-aligned */
	uint64_t n_copies;
};

/* Begin to record; every page has to be written. */
int mig_live_start(struct mig_live *l, const struct mem *mem, const struct mig_dirty_source *dirty,
		   struct err *e);
/* Also after a failed start, and for one that is all zero. */
void mig_live_stop(struct mig_live *l);

/* What was written since. */
int mig_live_sync(struct mig_live *l, struct err *e);
uint64_t mig_live_left(const struct mig_live *l);

/*
 * Take the bits of n_words words of a block from `word` on into mask, and have those pages
 * protected.
 */
int mig_live_take(struct mig_live *l, unsigned block, uint64_t word, uint64_t n_words,
		  uint64_t *mask, struct err *e);

/* Room for copies, so many of them touched already. The guest runs still. */
int mig_live_make_room(struct mig_live *l, uint64_t pages, struct err *e);
/* The guest stands still: copy what is left, if there is room for it (mig_live_left()). */
void mig_live_copy(struct mig_live *l);

#endif
