/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages between guest RAM and their places in a file, by several threads.
 *
 * RAM is cut into extents (MIG_FILE_EXTENT_PAGES of one block). Each thread takes the next extent,
 * submits its runs of pages to an io_uring of its own, straight from or into RAM, and goes on with
 * another while the kernel works; when all of an extent has arrived it is finished. What is
 * submitted and what a finished extent means is the owner's business (struct mig_file_job).
 *
 * The first error ends all threads; nothing is in flight when mig_file_run() returns.
 * Threads: mig_file_run() from one thread; the job's functions from several at a time, but only
 * from one for the same extent.
 */
#ifndef MIGRATION_FILE_IO_H
#define MIGRATION_FILE_IO_H

#include "base/err.h"
#include "migration/file_format.h"
#include "migration/stop.h"

struct mig_file_worker;

#define MIG_FILE_LANES 8 /* extents of one thread that are under way at a time */

/*
 * Pages [first, first + n) of block `block`; first is a multiple of MIG_FILE_EXTENT_PAGES. Of all
 * extents under way each has another lane, below n_threads * MIG_FILE_LANES.
 */
struct mig_file_extent {
	unsigned block, lane;
	uint64_t number; /* mig_file_extent_number() */
	uint64_t first, n;
};

struct mig_file_job {
	const struct mig_file_layout *layout;
	int fd;
	bool write;
	unsigned n_threads;
	bool background; /* the threads give way to others: to the guest that runs meanwhile */
	struct mig_stop *stop; /* NULL: none */
	/* Call mig_file_submit() for what is to be moved. */
	int (*begin)(void *ctx, struct mig_file_worker *w, const struct mig_file_extent *x,
		     struct err *e);
	/* All of it has been moved. NULL: nothing to do. */
	int (*finish)(void *ctx, const struct mig_file_extent *x, struct err *e);
	void *ctx;
};

/* Move n pages from the extent's block, `at` being our address of the first. */
int mig_file_submit(struct mig_file_worker *w, uint64_t first, uint64_t n, void *at, struct err *e);

/* All extents. -ECANCELED when the stop was set, -errno of reading or writing with a message. */
int mig_file_run(const struct mig_file_job *job, struct err *e);

#endif
