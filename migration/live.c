/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int mig_live_start(struct mig_live *l, const struct mem *mem, const struct mig_dirty_source *dirty,
		   struct err *e)
{
	uint64_t pages[MEM_MAX_BLOCKS];
	int rc;

	*l = (struct mig_live){.mem = mem, .dirty = dirty};
	(void)pthread_mutex_init(&l->lock, NULL);
	l->started = true;
	for (unsigned b = 0; b < mem->n_blocks; b++)
		pages[b] = mem->blocks[b].n_pages;
	rc = mig_bitmap_init(&l->bitmap, pages, mem->n_blocks);
	if (rc)
		return err_set(e, ENOMEM, "out of memory for the bitmap of dirty pages");
	rc = dirty->start(dirty->ctx, e);
	if (rc)
		return rc;
	/* While nobody else uses it: the worker does. */
	mig_bitmap_fill(&l->bitmap);
	rc = mig_sync_start(&l->sync, dirty, &l->bitmap, MIG_SYNC_BACKGROUND_NS, e);
	l->syncing = !rc;
	return rc;
}

void mig_live_stop(struct mig_live *l)
{
	if (!l->started)
		return;
	if (l->syncing)
		mig_sync_stop(&l->sync);
	l->dirty->stop(l->dirty->ctx);
	mig_bitmap_free(&l->bitmap);
	if (l->bytes)
		(void)munmap(l->bytes, MIG_LIVE_COPY_PAGES * MEM_PAGE_BYTES);
	free(l->copies);
	(void)pthread_mutex_destroy(&l->lock);
	*l = (struct mig_live){.started = false};
}

int mig_live_sync(struct mig_live *l, struct err *e)
{
	return mig_sync_now(&l->sync, e);
}

uint64_t mig_live_left(const struct mig_live *l)
{
	return l->started ? mig_bitmap_count(&l->bitmap) : 0;
}

int mig_live_take(struct mig_live *l, unsigned block, uint64_t word, uint64_t n_words,
		  uint64_t *mask, struct err *e)
{
	uint64_t first = n_words, n = 0;
	int rc = 0;

	for (uint64_t i = 0; i < n_words; i++) {
		mask[i] = mig_bitmap_take(&l->bitmap, block, word + i, ~0ull);
		if (!mask[i])
			continue;
		first = first < i ? first : i;
		n = i + 1;
	}
	if (first >= n)
		return 0;
	pthread_mutex_lock(&l->lock);
	rc = l->dirty->protect(l->dirty->ctx, block, word + first, mask + first, n - first, e);
	pthread_mutex_unlock(&l->lock);
	return rc;
}

int mig_live_make_room(struct mig_live *l, uint64_t pages, struct err *e)
{
	const size_t all = MIG_LIVE_COPY_PAGES * MEM_PAGE_BYTES;
	void *at = mmap(NULL, all, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return err_sys(e, errno, "no memory for copies of the last pages");
	l->bytes = at;
	l->copies = calloc(MIG_LIVE_COPY_PAGES, sizeof(*l->copies));
	if (!l->copies)
		return err_set(e, ENOMEM, "no memory for copies of the last pages");
	if (pages > MIG_LIVE_COPY_PAGES)
		pages = MIG_LIVE_COPY_PAGES;
	(void)madvise(at, all, MADV_DONTDUMP);
	(void)madvise(at, all, MADV_HUGEPAGE);
	(void)madvise(at, pages * MEM_PAGE_BYTES, MADV_POPULATE_WRITE);
	memset(l->copies, 0, pages * sizeof(*l->copies));
	return 0;
}

static void copy_word(struct mig_live *l, unsigned block, uint64_t word)
{
	uint64_t bits = mig_bitmap_take(&l->bitmap, block, word, ~0ull);

	for (; bits; bits &= bits - 1) {
		uint64_t page = word * 64 + (uint64_t)__builtin_ctzll(bits);

		memcpy(l->bytes + l->n_copies * MEM_PAGE_BYTES,
		       l->mem->blocks[block].hva + page * MEM_PAGE_BYTES, MEM_PAGE_BYTES);
		l->copies[l->n_copies++] = (struct mig_live_copy){.block = block, .page = page};
	}
}

void mig_live_copy(struct mig_live *l)
{
	if (mig_live_left(l) > MIG_LIVE_COPY_PAGES)
		return;
	for (unsigned b = 0; b < l->mem->n_blocks; b++) {
		uint64_t n_words = l->bitmap.blocks[b].n_words, w = 0;

		for (; (w = mig_bitmap_next_word(&l->bitmap, b, w)) < n_words; w++)
			copy_word(l, b, w);
	}
}
