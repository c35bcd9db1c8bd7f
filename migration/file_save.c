/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/file_save.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "mem/bits.h"
#include "mem/page.h"
#include "migration/file_io.h"

#define EXTENT_WORDS (MIG_FILE_EXTENT_PAGES / 64)

int mig_file_save_init(struct mig_file_save *f, const struct mem *mem, int fd,
		       const struct mig_file_params *params, struct mig_stop *stop, struct err *e)
{
	f->mem = mem;
	f->fd = fd;
	f->params = *params;
	f->stop = stop;
	mig_file_layout(&f->layout, mem);
	for (unsigned b = 0; b < f->layout.n_blocks; b++) {
		uint64_t n = f->layout.blocks[b].n_pages;

		f->present[b] = calloc(bits_words(n), sizeof(uint64_t));
		f->page_sums[b] = calloc(n, sizeof(uint64_t));
		if (!f->present[b] || !f->page_sums[b])
			return err_set(e, ENOMEM, "out of memory for the pages' checksums");
	}
	f->hot = calloc(mig_file_all_extents(&f->layout), sizeof(*f->hot));
	if (!f->hot)
		return err_set(e, ENOMEM, "out of memory");
	/* Its places exist before anything is in them: no write makes the file longer. */
	if (ftruncate(fd, (off_t)f->layout.tail_offset))
		return err_sys(e, errno, "cannot make a file of %" PRIu64 " MiB",
			       f->layout.tail_offset >> 20);
	return 0;
}

void mig_file_save_free(struct mig_file_save *f)
{
	for (unsigned b = 0; b < MEM_MAX_BLOCKS; b++) {
		free(f->present[b]);
		free(f->page_sums[b]);
		f->present[b] = f->page_sums[b] = NULL;
	}
	free(f->hot);
	f->hot = NULL;
}

/* ---- pages ---- */

/* A hole is not even looked at: that would allocate it. */
static bool is_zero(const struct mem_block *b, uint64_t page, uint64_t *hole_end, bool *hole)
{
	if (b->fd >= 0 && page >= *hole_end)
		*hole = mem_hole(b, page, hole_end);
	return *hole || page_is_zero(b->hva + page * MEM_PAGE_BYTES);
}

/* Live: it had something in it before. Its place must be empty, as if nothing had been there. */
static int drop_page(struct mig_file_save *f, unsigned block, uint64_t page, struct err *e)
{
	const struct mig_file_block *b = &f->layout.blocks[block];

	if (!bits_test(f->present[block], page))
		return 0;
	if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)mig_file_page_offset(b, page), MEM_PAGE_BYTES))
		return err_sys(e, errno, "cannot empty the place of a page");
	bits_clear(f->present[block], page);
	f->page_sums[block][page] = 0;
	return 0;
}

/* Note what will be in the file at this page's place. */
static void note_page(struct mig_file_save *f, unsigned block, uint64_t page, const void *at)
{
	bits_set(f->present[block], page);
	f->page_sums[block][page] = page_sum_at(at, page);
}

static int take_extent(struct mig_file_save *f, const struct mig_file_extent *x,
		       uint64_t mask[EXTENT_WORDS], struct err *e)
{
	if (f->live)
		return mig_live_take(f->live, x->block, x->first / 64, bits_words(x->n), mask, e);
	memset(mask, 0xff, EXTENT_WORDS * sizeof(*mask));
	return 0;
}

static int write_begin(void *ctx, struct mig_file_worker *w, const struct mig_file_extent *x,
		       struct err *e)
{
	struct mig_file_save *f = ctx;
	const struct mem_block *b = &f->mem->blocks[x->block];
	uint64_t run = 0, normal = 0, zero = 0, hole_end = 0, end = x->first + x->n;
	uint64_t mask[EXTENT_WORDS];
	bool hole = false;
	int rc = take_extent(f, x, mask, e);

	for (uint64_t p = x->first; p < end && !rc; p++) {
		bool wanted = bits_test(mask, p - x->first);

		if (wanted && !is_zero(b, p, &hole_end, &hole)) {
			note_page(f, x->block, p, b->hva + p * MEM_PAGE_BYTES);
			run++;
			normal++;
			continue;
		}
		if (wanted) {
			zero++;
			rc = drop_page(f, x->block, p, e);
		}
		if (run && !rc)
			rc = mig_file_submit(w, p - run, run, b->hva + (p - run) * MEM_PAGE_BYTES,
					     e);
		run = 0;
	}
	if (run && !rc)
		rc = mig_file_submit(w, end - run, run, b->hva + (end - run) * MEM_PAGE_BYTES, e);
	if (f->again && (normal || zero))
		f->hot[x->number] = true;
	atomic_fetch_add(&f->progress.normal_pages, normal);
	atomic_fetch_add(&f->progress.zero_pages, zero);
	atomic_fetch_add(&f->progress.bytes, normal * MEM_PAGE_BYTES);
	return rc;
}

static int write_finish(void *ctx, const struct mig_file_extent *x, struct err *e)
{
	struct mig_file_save *f = ctx;

	(void)e;
	atomic_fetch_add(&f->progress.done_pages, x->n);
	return 0;
}

int mig_file_save_pages(struct mig_file_save *f, struct err *e)
{
	const struct mig_file_job job = {.layout = &f->layout,
					 .fd = f->fd,
					 .write = true,
					 .n_threads = f->params.n_threads,
					 .background = f->background,
					 .stop = f->stop,
					 .begin = write_begin,
					 .finish = write_finish,
					 .ctx = f};
	int rc = mig_file_run(&job, e);

	f->again = true;
	return rc;
}

static int write_at(const struct mig_file_save *f, uint64_t at, const uint8_t *from, size_t len,
		    struct err *e)
{
	while (len) {
		ssize_t n = pwrite(f->fd, from, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_sys(e, n ? errno : ENOSPC, "cannot write to the file");
		from += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Copies [first, first + n), which lie side by side in the file as well. */
static int write_run(struct mig_file_save *f, uint64_t first, uint64_t n, struct err *e)
{
	const struct mig_live_copy *c = &f->live->copies[first];

	if (!n)
		return 0;
	atomic_fetch_add(&f->progress.normal_pages, n);
	atomic_fetch_add(&f->progress.bytes, n * MEM_PAGE_BYTES);
	return write_at(f, mig_file_page_offset(&f->layout.blocks[c->block], c->page),
			f->live->bytes + first * MEM_PAGE_BYTES, n * MEM_PAGE_BYTES, e);
}

int mig_file_save_copies(struct mig_file_save *f, struct err *e)
{
	const struct mig_live *l = f->live;
	uint64_t run = 0, i;
	int rc = 0;

	for (i = 0; i < l->n_copies && !rc; i++) {
		const struct mig_live_copy *c = &l->copies[i];
		const uint8_t *at = l->bytes + i * MEM_PAGE_BYTES;
		bool zero = page_is_zero(at);

		f->hot[mig_file_extent_number(&f->layout, c->block, c->page)] = true;
		if (run && (zero || c->block != c[-1].block || c->page != c[-1].page + 1 ||
			    run == MIG_FILE_EXTENT_PAGES)) {
			rc = write_run(f, i - run, run, e);
			run = 0;
			if (!rc && f->stop && mig_stop_is_set(f->stop))
				rc = err_set(e, ECANCELED, "cancelled");
		}
		if (rc)
			break;
		if (zero) {
			rc = drop_page(f, c->block, c->page, e);
			continue;
		}
		note_page(f, c->block, c->page, at);
		run++;
	}
	return rc ? rc : write_run(f, i - run, run, e);
}

/* ---- the rest ---- */

/* What describes block b, from its start to its pages. NULL without memory. */
static uint8_t *make_head(const struct mig_file_save *f, unsigned b)
{
	const struct mig_file_block *at = &f->layout.blocks[b];
	uint8_t *bytes = calloc(1, at->pages_offset - at->start);
	struct wbuf w;

	wbuf_init(&w, ORDER_BIG, MIG_FILE_ALIGN_BYTES);
	mig_file_put_head(&w, &f->layout, b);
	if (bytes && !wbuf_error(&w)) {
		memcpy(bytes, w.data, w.len);
		/* Words of this machine, which is little-endian: bit i is in byte i / 8. */
		memcpy(bytes + (at->bitmap_offset - at->start), f->present[b], at->bitmap_bytes);
	} else {
		free(bytes);
		bytes = NULL;
	}
	wbuf_free(&w);
	return bytes;
}

static int make_sums(const struct mig_file_save *f, uint64_t *sums[MEM_MAX_BLOCKS])
{
	for (unsigned b = 0; b < f->layout.n_blocks; b++) {
		const struct mig_file_block *at = &f->layout.blocks[b];

		sums[b] = calloc(mig_file_n_extents(at), sizeof(uint64_t));
		if (!sums[b])
			return -ENOMEM;
		for (uint64_t p = 0; p < at->n_pages; p++)
			sums[b][p / MIG_FILE_EXTENT_PAGES] += f->page_sums[b][p];
	}
	return 0;
}

/* *out has a bit for each extent, and is the caller's to free; NULL: none is hot. */
static int make_hot(const struct mig_file_save *f, uint8_t **out)
{
	uint64_t n = mig_file_all_extents(&f->layout);

	if (!memchr(f->hot, true, n))
		return 0;
	*out = calloc(1, (n + 7) / 8);
	if (!*out)
		return -ENOMEM;
	for (uint64_t i = 0; i < n; i++)
		(*out)[i / 8] |= (uint8_t)(f->hot[i] << i % 8);
	return 0;
}

/* The heads go into the checksum first; the tail gets it at its end. */
static int finish_tail(struct wbuf *tail, uint8_t *const *heads, const struct mig_file_layout *l)
{
	XXH3_state_t *sum = XXH3_createState();

	if (!sum)
		return -ENOMEM;
	(void)XXH3_64bits_reset(sum);
	for (unsigned b = 0; b < l->n_blocks; b++)
		(void)XXH3_64bits_update(sum, heads[b],
					 l->blocks[b].pages_offset - l->blocks[b].start);
	(void)XXH3_64bits_update(sum, tail->data, tail->len);
	put_fmt(tail, "%016" PRIx64 MIG_FILE_END, (uint64_t)XXH3_64bits_digest(sum));
	(void)XXH3_freeState(sum);
	return wbuf_error(tail);
}

static int write_all(const struct mig_file_save *f, const struct wbuf *tail, uint8_t *const *heads,
		     struct err *e)
{
	const struct mig_file_layout *l = &f->layout;
	int rc = write_at(f, l->tail_offset, tail->data, tail->len, e);

	for (unsigned b = l->n_blocks; b-- && !rc;)
		rc = write_at(f, l->blocks[b].start, heads[b],
			      l->blocks[b].pages_offset - l->blocks[b].start, e);
	return rc;
}

int mig_file_save_rest(struct mig_file_save *f, const struct mig_file_guest *guest,
		       const struct mig_machine *machine, struct err *e)
{
	uint64_t *sums[MEM_MAX_BLOCKS] = {NULL};
	uint8_t *heads[MEM_MAX_BLOCKS] = {NULL}, *hot = NULL;
	struct wbuf tail;
	int rc = make_sums(f, sums);

	if (!rc)
		rc = make_hot(f, &hot);

	wbuf_init(&tail, ORDER_BIG, MIG_FILE_TAIL_MAX);
	for (unsigned b = 0; b < f->layout.n_blocks && !rc; b++) {
		heads[b] = make_head(f, b);
		rc = heads[b] ? 0 : -ENOMEM;
	}
	if (!rc) {
		mig_file_put_tail(&tail, &f->layout, guest, sums, hot, machine);
		rc = wbuf_error(&tail);
	}
	if (!rc)
		rc = finish_tail(&tail, heads, &f->layout);
	rc = rc ? err_sys(e, -rc, "cannot put the guest's state together")
		: write_all(f, &tail, heads, e);
	wbuf_free(&tail);
	free(hot);
	for (unsigned b = 0; b < MEM_MAX_BLOCKS; b++) {
		free(sums[b]);
		free(heads[b]);
	}
	return rc;
}
