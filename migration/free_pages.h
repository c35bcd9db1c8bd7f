/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free page hints: pages that a source declares free need not be sent in the bulk pass.
 *
 * Any number of sources may register (mig_free_source): a balloon device, a list of ranges from the
 * command line, a test. A *round* begins once every page of RAM has been protected since the dirty
 * log began, and ends before the first sync reads that log. So a page that is written at any time
 * after the round began, hinted before or after, is in the log, and comes back as a set bit: *the
 * log wins*, whatever a source says. The bulk pass neither waits for hints nor for their end: it
 * runs while they come, and closes the round when it is through.
 *
 * Of a hinted page the destination gets a page of zeroes: its content is free, but it exists. These
 * are told after the round, before any later copy of such a page.
 *
 * Threads: hints come from any thread (mig_free_hint); everything else from the coordinator.
 */
#ifndef MIGRATION_FREE_PAGES_H
#define MIGRATION_FREE_PAGES_H

#include <pthread.h>
#include <stdbool.h>

#include "migration/bitmap.h"
#include "migration/machine.h"

struct mig_free_pages {
	const struct mem *mem;
	struct mig_bitmap *bitmap;
	const struct mig_dirty_source *dirty;
	const struct mig_free_source *sources;
	unsigned n_sources;
	/* coordinator: how far RAM has been protected */
	unsigned block;
	uint64_t word;
	bool started, over;
	uint64_t protect_calls, protect_pages;
	pthread_mutex_t lock;     /* guards what follows; a hint is taken whole under it */
	bool open;                /* the round runs: hints count */
	struct mig_bitmap hinted; /* dropped from the bitmap, not told to the destination yet */
};

/* Without sources next to nothing is allocated and every call is a no-op. -ENOMEM. */
int mig_free_init(struct mig_free_pages *f, const struct mem *mem, struct mig_bitmap *bitmap,
		  const struct mig_dirty_source *dirty, const struct mig_free_source *sources,
		  unsigned n_sources);
void mig_free_destroy(struct mig_free_pages *f);

/*
 * Called between the chunks of the bulk pass: protects another slice of RAM, and begins the round
 * when all of it is. `taking` is the lock under which senders take pages: none may leave the bitmap
 * between the look at it and the protecting, or a write since its sender protected it would be
 * forgotten. -errno of protect().
 */
int mig_free_step(struct mig_free_pages *f, pthread_mutex_t *taking, struct err *e);

/* The round is over: when this returns no hint counts any more. Does not wait for any guest. */
void mig_free_end(struct mig_free_pages *f);

/* After the round: hinted pages of one word of a block, taken (each is given once). */
uint64_t mig_free_take(struct mig_free_pages *f, unsigned block, uint64_t word);

/* The migration is over: the sources may let their guests have the pages back. */
void mig_free_done(struct mig_free_pages *f);

#endif
