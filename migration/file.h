/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A saved guest's file, opened for reading.
 *
 * mig_file_open() reads and checks everything but the pages: structure, offsets, bounds, the
 * bitmaps, and the checksum over all of it. So whoever has a struct mig_file has a file that was
 * written to its end and whose state is undamaged. What is in the pages is checked when they are
 * read (mig_file_load(), mig_file_verify()).
 *
 * Nothing in a file is trusted, checksum or not: each length is bounded before it is used, and a
 * message says which field is wrong, and where.
 *
 * Threads: an open file belongs to one thread at a time; loading starts its own.
 */
#ifndef MIGRATION_FILE_H
#define MIGRATION_FILE_H

#include <stdatomic.h>

#include "base/err.h"
#include "migration/file_format.h"
#include "migration/stop.h"

struct mig_file {
	int fd;
	char path[256]; /* for messages: the end of a longer one */
	uint64_t file_bytes;
	struct mig_file_layout layout;
	uint64_t *present[MEM_MAX_BLOCKS]; /* a bit for each page that is there */
	struct mig_file_guest guest;
	uint64_t *sums[MEM_MAX_BLOCKS]; /* of each extent */
	const uint8_t *hot; /* in the tail: a bit for each extent, of all blocks; or NULL */
	uint8_t *tail;
	size_t tail_bytes;
	size_t devices_at; /* in the tail: the first section of a device */
	uint32_t first_id; /* its number */
};

/* -EINVAL, -EBADMSG (the checksum), -errno; with a message. */
int mig_file_open(struct mig_file **out, const char *path, struct err *e);
void mig_file_close(struct mig_file *f);

/*
 * Each section of a device in turn: decode exactly its fields from r. Then checks that nothing but
 * the description follows. Stops at the first error.
 */
typedef int mig_file_section_fn(void *ctx, const char *name, uint32_t instance, uint32_t version,
				struct rbuf *r, struct err *e);
int mig_file_sections(const struct mig_file *f, mig_file_section_fn *fn, void *ctx, struct err *e);

/* How many extents are known to be hot: written while the guest was saved. */
uint64_t mig_file_n_hot(const struct mig_file *f);

/* How far something has come; any thread may read it. */
struct mig_file_progress {
	_Atomic uint64_t bytes;        /* read or written */
	_Atomic uint64_t normal_pages; /* of them, or found whole */
	_Atomic uint64_t zero_pages;
	_Atomic uint64_t done_pages; /* looked at */
};

struct mig_file_load {
	unsigned n_threads;
	bool direct;           /* past the page cache: -EINVAL where the file system refuses */
	struct mig_stop *stop; /* NULL: none */
	struct mig_file_progress *progress;
};

/*
 * Read every page into RAM of the same shape, which must be all zero, and check it. -ECANCELED,
 * -EBADMSG (a page is damaged: which, where), -errno. RAM may be half-filled then.
 */
int mig_file_load(const struct mig_file *f, struct mem *mem, const struct mig_file_load *how,
		  struct err *e);
/* The same for nobody: are all pages whole, and all places of other pages zero? */
int mig_file_verify(const struct mig_file *f, const struct mig_file_load *how, struct err *e);

/*
 * On demand: let RAM be the file's pages (mem_map_file()), where it has any. Nothing is read or
 * checked yet. A failure leaves RAM mapped in part.
 */
int mig_file_map(const struct mig_file *f, struct mem *mem, struct err *e);
/*
 * Then, while the guest runs: mig_file_verify(), and each extent is there when it is needed, hot
 * ones first.
 */
int mig_file_prefetch(const struct mig_file *f, struct mem *mem, const struct mig_file_load *how,
		      struct err *e);

#define MIG_FILE_THREADS_MAX 64

#endif
