/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/free_pages.h"

#include "mem/bits.h"

#define SLICE_WORDS 1024 /* 65,536 pages: half a millisecond of KVM's time */

int mig_free_init(struct mig_free_pages *f, const struct mem *mem, struct mig_bitmap *bitmap,
		  const struct mig_dirty_source *dirty, const struct mig_free_source *sources,
		  unsigned n_sources)
{
	uint64_t pages[MEM_MAX_BLOCKS];

	*f = (struct mig_free_pages){.mem = mem,
				     .bitmap = bitmap,
				     .dirty = dirty,
				     .sources = sources,
				     .n_sources = n_sources};
	(void)pthread_mutex_init(&f->lock, NULL);
	for (unsigned i = 0; i < mem->n_blocks; i++)
		pages[i] = mem->blocks[i].n_pages;
	return n_sources ? mig_bitmap_init(&f->hinted, pages, mem->n_blocks) : 0;
}

void mig_free_destroy(struct mig_free_pages *f)
{
	mig_bitmap_free(&f->hinted);
	(void)pthread_mutex_destroy(&f->lock);
}

/* Drop whole pages [first, first+n) of a block. Under the lock. */
static void drop(struct mig_free_pages *f, unsigned block, uint64_t first, uint64_t n)
{
	for (uint64_t w = first / 64; n && w <= (first + n - 1) / 64; w++) {
		uint64_t taken = mig_bitmap_take(f->bitmap, block, w, bits_word_mask(w, first, n));

		(void)mig_bitmap_or(&f->hinted, block, w, taken);
	}
}

/* A hint, from whatever thread the source runs in: untrusted numbers. */
static void on_hint(void *ctx, uint64_t gpa, uint64_t len)
{
	struct mig_free_pages *f = ctx;
	const struct mem_block *b = mem_block_at(f->mem, gpa);
	uint64_t first, end;

	if (!b || len < MEM_PAGE_BYTES)
		return;
	/* Only pages that are covered whole, and only up to the block's end. */
	first = (gpa - b->gpa + MEM_PAGE_BYTES - 1) >> MEM_PAGE_SHIFT;
	end = len > b->size_bytes - (gpa - b->gpa) ? b->n_pages
						   : (gpa - b->gpa + len) >> MEM_PAGE_SHIFT;
	if (end <= first)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->open)
		drop(f, (unsigned)(b - f->mem->blocks), first, end - first);
	pthread_mutex_unlock(&f->lock);
}

static void start_round(struct mig_free_pages *f)
{
	pthread_mutex_lock(&f->lock);
	f->open = true;
	pthread_mutex_unlock(&f->lock);
	for (unsigned i = 0; i < f->n_sources; i++)
		f->sources[i].begin(f->sources[i].ctx, on_hint, f);
	f->started = true;
}

/* Protect n words' pages, those that wait to be sent: none is taken meanwhile. */
static int protect_waiting(struct mig_free_pages *f, uint64_t n, struct err *e)
{
	const struct bitset *b = &f->bitmap->blocks[f->block];
	uint64_t mask[SLICE_WORDS];

	/*
	 * One that has been sent was protected then, and what the log says of it since is a write
	 * that must not be forgotten.
	 */
	for (uint64_t i = 0; i < n; i++)
		mask[i] = __atomic_load_n(&b->words[f->word + i], __ATOMIC_RELAXED);
	f->protect_calls++;
	f->protect_pages += bits_count(mask, n);
	return f->dirty->protect(f->dirty->ctx, f->block, f->word, mask, n, e);
}

int mig_free_step(struct mig_free_pages *f, pthread_mutex_t *taking, struct err *e)
{
	const struct bitset *b;
	uint64_t n;
	int rc;

	if (!f->n_sources || f->started || f->over)
		return 0;
	b = &f->bitmap->blocks[f->block];
	n = b->n_words - f->word < SLICE_WORDS ? b->n_words - f->word : SLICE_WORDS;
	pthread_mutex_lock(taking);
	rc = protect_waiting(f, n, e);
	pthread_mutex_unlock(taking);
	if (rc)
		return rc;
	f->word += n;
	if (f->word == b->n_words) {
		f->block++;
		f->word = 0;
	}
	if (f->block == f->bitmap->n_blocks)
		start_round(f);
	return 0;
}

void mig_free_end(struct mig_free_pages *f)
{
	f->over = true;
	if (!f->started)
		return;
	pthread_mutex_lock(&f->lock);
	f->open = false;
	pthread_mutex_unlock(&f->lock);
	for (unsigned i = 0; i < f->n_sources; i++)
		f->sources[i].end(f->sources[i].ctx);
	f->started = false;
}

uint64_t mig_free_take(struct mig_free_pages *f, unsigned block, uint64_t word)
{
	if (!f->n_sources || word >= f->hinted.blocks[block].n_words)
		return 0;
	return mig_bitmap_take(&f->hinted, block, word, ~0ull);
}

void mig_free_done(struct mig_free_pages *f)
{
	mig_free_end(f);
	for (unsigned i = 0; i < f->n_sources; i++)
		f->sources[i].done(f->sources[i].ctx);
}
