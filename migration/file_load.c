/* SPDX-License-Identifier: Apache-2.0 */
/* The pages of a saved guest: into RAM, or only looked at. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/bits.h"
#include "mem/page.h"
#include "migration/file.h"
#include "migration/file_io.h"

#define MAPPINGS_MAX 8192 /* of a block; the kernel has 65530 for a process */

struct loading {
	const struct mig_file *file;
	struct mem *mem; /* NULL: only looked at, in buffers */
	uint8_t **buffers;
	struct mig_file_progress *progress;
	enum { ALL, HOT, COLD } which; /* of the extents */
};

static void count(struct loading *l, const struct mig_file_extent *x, uint64_t present)
{
	if (!l->progress)
		return;
	atomic_fetch_add(&l->progress->bytes, present * MEM_PAGE_BYTES);
	atomic_fetch_add(&l->progress->normal_pages, present);
	atomic_fetch_add(&l->progress->zero_pages, x->n - present);
	atomic_fetch_add(&l->progress->done_pages, x->n);
}

/* Is the sum of the extent's pages right? `at` is where its first page has been read to. */
static int check_sum(const struct loading *l, const struct mig_file_extent *x, const uint8_t *at,
		     uint64_t *present, struct err *e)
{
	const struct mig_file_block *b = &l->file->layout.blocks[x->block];
	const uint64_t *map = l->file->present[x->block];
	uint64_t sum = 0, n = 0;

	for (uint64_t p = x->first; p < x->first + x->n; p++) {
		if (bits_test(map, p)) {
			sum += page_sum_at(at + (p - x->first) * MEM_PAGE_BYTES, p);
			n++;
		}
	}
	*present = n;
	if (sum == l->file->sums[x->block][x->first / MIG_FILE_EXTENT_PAGES])
		return 0;
	return err_set(e, EBADMSG,
		       "%s: the RAM is damaged: pages %" PRIu64 " to %" PRIu64
		       " of %s (bytes %" PRIu64 " to %" PRIu64 ") do not match their checksum",
		       l->file->path, x->first, x->first + x->n - 1, b->name,
		       mig_file_page_offset(b, x->first),
		       mig_file_page_offset(b, x->first + x->n) - 1);
}

/* ---- into RAM ---- */

static int load_begin(void *ctx, struct mig_file_worker *w, const struct mig_file_extent *x,
		      struct err *e)
{
	struct loading *l = ctx;
	const uint64_t *map = l->file->present[x->block];
	uint64_t end = x->first + x->n, p = bits_next_set(map, end, x->first);
	uint8_t *hva = l->mem->blocks[x->block].hva;

	while (p < end) {
		uint64_t stop = bits_next_clear(map, end, p);
		int rc = mig_file_submit(w, p, stop - p, hva + p * MEM_PAGE_BYTES, e);

		if (rc)
			return rc;
		p = bits_next_set(map, end, stop);
	}
	return 0;
}

static int load_finish(void *ctx, const struct mig_file_extent *x, struct err *e)
{
	struct loading *l = ctx;
	const uint8_t *at = l->mem->blocks[x->block].hva + x->first * MEM_PAGE_BYTES;
	uint64_t present;
	int rc = check_sum(l, x, at, &present, e);

	if (!rc)
		count(l, x, present);
	return rc;
}

/* ---- only looked at ---- */

static bool is_skipped(const struct loading *l, const struct mig_file_extent *x)
{
	if (l->which == ALL)
		return false;
	return !(l->file->hot[x->number / 8] >> x->number % 8 & 1) == (l->which == HOT);
}

static bool is_hole(const struct loading *l, const struct mig_file_extent *x)
{
	const struct mig_file_block *b = &l->file->layout.blocks[x->block];
	off_t at = lseek(l->file->fd, (off_t)mig_file_page_offset(b, x->first), SEEK_DATA);

	/* Behind the pages there is the tail, so there is data: an error tells nothing. */
	return at >= 0 && (uint64_t)at >= mig_file_page_offset(b, x->first + x->n);
}

static int verify_begin(void *ctx, struct mig_file_worker *w, const struct mig_file_extent *x,
			struct err *e)
{
	const size_t bytes = MIG_FILE_EXTENT_PAGES * MEM_PAGE_BYTES;
	struct loading *l = ctx;
	uint8_t **buffer = &l->buffers[x->lane];

	if (is_skipped(l, x))
		return 0;
	if (!*buffer) {
		*buffer = aligned_alloc(MEM_PAGE_BYTES, bytes);
		if (!*buffer)
			return err_set(e, ENOMEM, "out of memory");
	}
	if (is_hole(l, x)) {
		memset(*buffer, 0, bytes);
		return 0;
	}
	return mig_file_submit(w, x->first, x->n, *buffer, e);
}

static int verify_finish(void *ctx, const struct mig_file_extent *x, struct err *e)
{
	struct loading *l = ctx;
	const struct mig_file_block *b = &l->file->layout.blocks[x->block];
	const uint64_t *map = l->file->present[x->block];
	const uint8_t *at = l->buffers[x->lane];
	uint64_t present;
	int rc;

	if (is_skipped(l, x))
		return 0;
	rc = check_sum(l, x, at, &present, e);
	for (uint64_t p = x->first; !rc && p < x->first + x->n; p++) {
		if (!bits_test(map, p) && !page_is_zero(at + (p - x->first) * MEM_PAGE_BYTES))
			rc = err_set(e, EBADMSG,
				     "%s: page %" PRIu64 " of %s should not be there, but its "
				     "place (byte %" PRIu64 ") is not empty",
				     l->file->path, p, b->name, mig_file_page_offset(b, p));
	}
	if (!rc)
		count(l, x, present);
	/* What has been mapped is in the page cache now; so that the guest need not ask for it: */
	if (!rc && l->mem && present)
		(void)madvise(l->mem->blocks[x->block].hva + x->first * MEM_PAGE_BYTES,
			      x->n * MEM_PAGE_BYTES, MADV_POPULATE_READ);
	return rc;
}

/* ---- mapped ---- */

/* The next run of units of `unit` pages with something in them, from page p on. Its length. */
static uint64_t next_run(const struct mig_file *f, unsigned b, uint64_t unit, uint64_t *p)
{
	const uint64_t *map = f->present[b];
	uint64_t n = f->layout.blocks[b].n_pages, end;

	*p = bits_next_set(map, n, *p);
	if (*p >= n)
		return 0;
	*p -= *p % unit;
	for (end = *p; end < n && bits_next_set(map, n, end) < end + unit; end += unit)
		;
	return (end < n ? end : n) - *p;
}

static uint64_t count_runs(const struct mig_file *f, unsigned b, uint64_t unit)
{
	uint64_t p = 0, n = 0, len;

	for (; (len = next_run(f, b, unit, &p)); p += len)
		n++;
	return n;
}

int mig_file_map(const struct mig_file *f, struct mem *mem, struct err *e)
{
	int rc = 0;

	for (unsigned b = 0; b < f->layout.n_blocks && !rc; b++) {
		uint64_t unit = MIG_FILE_EXTENT_PAGES, p = 0, len;

		while (count_runs(f, b, unit) > MAPPINGS_MAX)
			unit *= 2;
		for (; !rc && (len = next_run(f, b, unit, &p)); p += len)
			rc = mem_map_file(mem, b, p, len, f->fd,
					  mig_file_page_offset(&f->layout.blocks[b], p), e);
	}
	if (rc)
		err_prefix(e, "%s: on demand", f->path);
	return rc;
}

/* ---- all ---- */

/* A descriptor for the pages: a second one when it is to pass the cache. */
static int open_pages(const struct mig_file *f, bool direct, int *fd, struct err *e)
{
	char name[32];

	*fd = f->fd;
	if (!direct)
		return 0;
	(void)snprintf(name, sizeof(name), "/proc/self/fd/%d", f->fd);
	*fd = open(name, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (*fd < 0)
		return err_sys(e, errno, "%s: direct I/O is not possible here", f->path);
	return 0;
}

static int run(const struct mig_file *f, const struct mig_file_load *how, struct mig_file_job *job,
	       struct err *e)
{
	int fd, rc = open_pages(f, how->direct, &fd, e);

	if (rc)
		return rc;
	job->layout = &f->layout;
	job->fd = fd;
	job->n_threads = how->n_threads;
	job->stop = how->stop;
	rc = mig_file_run(job, e);
	if (fd != f->fd)
		(void)close(fd);
	return rc;
}

int mig_file_load(const struct mig_file *f, struct mem *mem, const struct mig_file_load *how,
		  struct err *e)
{
	struct loading l = {.file = f, .mem = mem, .progress = how->progress};
	struct mig_file_job job = {.begin = load_begin, .finish = load_finish, .ctx = &l};

	return run(f, how, &job, e);
}

int mig_file_prefetch(const struct mig_file *f, struct mem *mem, const struct mig_file_load *how,
		      struct err *e)
{
	unsigned lanes = how->n_threads * MIG_FILE_LANES;
	struct loading l = {.file = f, .mem = mem, .progress = how->progress};
	struct mig_file_job job = {.background = mem != NULL,
				   .begin = verify_begin,
				   .finish = verify_finish,
				   .ctx = &l};
	int rc;

	l.buffers = calloc(lanes, sizeof(*l.buffers));
	if (!l.buffers)
		return err_set(e, ENOMEM, "out of memory");
	l.which = mem && f->hot ? HOT : ALL;
	rc = run(f, how, &job, e);
	if (!rc && l.which == HOT) {
		l.which = COLD;
		rc = run(f, how, &job, e);
	}
	for (unsigned i = 0; i < lanes; i++)
		free(l.buffers[i]);
	free(l.buffers);
	return rc;
}

int mig_file_verify(const struct mig_file *f, const struct mig_file_load *how, struct err *e)
{
	return mig_file_prefetch(f, NULL, how, e);
}
