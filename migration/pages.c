/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/pages.h"

#include <stdlib.h>
#include <string.h>

#include "mem/page.h"

void mig_cursor_init(struct mig_cursor *c)
{
	*c = (struct mig_cursor){0};
	(void)pthread_mutex_init(&c->lock, NULL);
}

void mig_cursor_destroy(struct mig_cursor *c)
{
	(void)pthread_mutex_destroy(&c->lock);
}

void mig_cursor_rewind(struct mig_cursor *c)
{
	pthread_mutex_lock(&c->lock);
	c->block = 0;
	c->word = 0;
	pthread_mutex_unlock(&c->lock);
}

void mig_pages_init(struct mig_pages *p, const struct mem *mem, struct mig_bitmap *bitmap,
		    const struct mig_dirty_source *source, struct mig_cursor *cursor)
{
	*p = (struct mig_pages){.mem = mem,
				.bitmap = bitmap,
				.source = source,
				.cursor = cursor,
				.window_pages = MIG_WINDOW_PAGES_MIN,
				.chunk_pages = WIRE_CHUNK_PAGES};
}

void mig_chunk_init(struct mig_chunk *c)
{
	memset(c, 0, sizeof(*c));
	wbuf_init(&c->meta, ORDER_LITTLE, WIRE_META_MAX);
}

void mig_chunk_free(struct mig_chunk *c)
{
	wbuf_free(&c->meta);
	free(c->packed);
}

bool mig_chunk_pack(struct mig_chunk *c, struct mig_squeeze *z)
{
	size_t size = mig_squeeze_run(z, c->iov + 2, c->n_iov - 2, c->data_bytes, c->packed);

	if (!size)
		return false;
	c->meta.data[0] |= WIRE_PAGES_ZSTD;
	c->iov[2] = (struct iovec){.iov_base = c->packed, .iov_len = size};
	c->n_iov = 3;
	c->lasting = 3;
	c->data_bytes = size;
	return true;
}

uint64_t mig_pages_pending(const struct mig_pages *p)
{
	return __atomic_load_n(&p->window_left, __ATOMIC_RELAXED);
}

static void set_left(struct mig_pages *p, uint64_t pages)
{
	__atomic_store_n(&p->window_left, pages, __ATOMIC_RELAXED);
}

void mig_pages_put_back(struct mig_pages *p)
{
	for (uint64_t i = 0; p->window_left && i < p->window_n_words; i++)
		(void)mig_bitmap_or(p->bitmap, p->window_block, p->window_first_word + i,
				    p->window[i]);
	set_left(p, 0);
}

/* Find where the next window begins. False: the pass is over. Under the cursor's lock. */
static bool find_window(struct mig_pages *p)
{
	struct mig_cursor *c = p->cursor;

	for (; c->block < p->mem->n_blocks; c->block++, c->word = 0) {
		c->word = mig_bitmap_next_word(p->bitmap, c->block, c->word);
		if (c->word < p->bitmap->blocks[c->block].n_words)
			return true;
	}
	return false;
}

/* Take bits into the window. Under the cursor's lock. */
static void take_window(struct mig_pages *p)
{
	struct mig_cursor *c = p->cursor;
	const struct bitset *b = &p->bitmap->blocks[c->block];
	uint64_t n = 0, left = 0, pages = p->zero_streak;

	if (pages > MIG_WINDOW_PAGES_MAX)
		pages = MIG_WINDOW_PAGES_MAX;
	if (pages < p->window_pages)
		pages = p->window_pages;
	p->window_block = c->block;
	p->window_first_word = c->word;
	p->window_at = 0;
	while (n < MIG_WINDOW_WORDS && c->word < b->n_words && left < pages) {
		uint64_t taken = mig_bitmap_take(p->bitmap, c->block, c->word, ~0ull);

		p->window[n++] = taken;
		left += (uint64_t)__builtin_popcountll(taken);
		c->word++;
	}
	/* No trailing empty words: the call should end where the pages end. */
	while (n && !p->window[n - 1])
		n--;
	p->window_n_words = n;
	set_left(p, left);
}

/* The next window: taken, then exactly its pages protected. *more false: the pass is over. */
static int next_window(struct mig_pages *p, bool *more, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&p->cursor->lock);
	*more = find_window(p);
	if (*more)
		take_window(p);
	pthread_mutex_unlock(&p->cursor->lock);
	p->extent_end = 0; /* what was known was known before the pages were protected */
	if (*more && p->window_n_words) {
		rc = p->source->protect(p->source->ctx, p->window_block, p->window_first_word,
					p->window, p->window_n_words, e);
		__atomic_fetch_add(&p->protect_calls, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&p->protect_pages, p->window_left, __ATOMIC_RELAXED);
	}
	return rc;
}

static void start_chunk(struct mig_chunk *c, unsigned block)
{
	c->pages.block = (uint8_t)block;
	c->pages.n_runs = 0;
	c->pages.n_sums = 0;
	c->n_iov = 2;
	c->lasting = 2;
	c->normal_pages = 0;
	c->zero_pages = 0;
	c->data_bytes = 0;
}

/* Put a page at the end of the chunk. False: it is full, the page is not in it. */
static bool add_page(struct mig_chunk *c, uint32_t max_pages, uint64_t page, uint8_t *at, bool zero)
{
	struct wire_pages *m = &c->pages;
	struct wire_run *run = m->n_runs ? &m->runs[m->n_runs - 1] : NULL;

	if (!zero && m->n_sums == max_pages)
		return false;
	if (run && run->zero == zero && run->first_page + run->n_pages == page) {
		run->n_pages++;
		if (!zero)
			c->iov[c->n_iov - 1].iov_len += MEM_PAGE_BYTES;
	} else {
		if (m->n_runs == WIRE_CHUNK_RUNS)
			return false;
		m->runs[m->n_runs++] =
			(struct wire_run){.first_page = page, .n_pages = 1, .zero = zero};
		if (!zero)
			c->iov[c->n_iov++] =
				(struct iovec){.iov_base = at, .iov_len = MEM_PAGE_BYTES};
	}
	if (zero) {
		c->zero_pages++;
	} else {
		m->sums[m->n_sums++] = page_sum(at);
		c->normal_pages++;
		c->data_bytes += MEM_PAGE_BYTES;
	}
	return true;
}

/* A hole is not even looked at: that would allocate it. */
static bool is_zero(struct mig_pages *p, const struct mem_block *b, uint64_t page, const void *at)
{
	if (b->fd < 0)
		return page_is_zero(at);
	if (page >= p->extent_end)
		p->extent_hole = mem_hole(b, page, &p->extent_end);
	return p->extent_hole || page_is_zero(at);
}

/* Move pages from the window into the chunk until one is empty or the other full. */
static void fill_chunk(struct mig_pages *p, struct mig_chunk *c)
{
	const struct mem_block *b = &p->mem->blocks[p->window_block];

	for (; p->window_at < p->window_n_words; p->window_at++) {
		uint64_t *word = &p->window[p->window_at];

		while (*word) {
			uint64_t base = (p->window_first_word + p->window_at) * 64;
			uint64_t page = base + (uint64_t)__builtin_ctzll(*word);
			uint64_t others = *word & (*word - 1);
			uint8_t *at = b->hva + page * MEM_PAGE_BYTES;
			bool zero;

			if (others && !p->extent_hole)
				page_prefetch(b->hva + (base + (uint64_t)__builtin_ctzll(others)) *
							       MEM_PAGE_BYTES);
			zero = is_zero(p, b, page, at);

			if (!add_page(c, p->chunk_pages, page, at, zero))
				return;
			p->zero_streak = zero ? p->zero_streak + 1 : 0;
			*word = others;
			set_left(p, p->window_left - 1);
		}
	}
}

/* The runs are in: make the frame's meta of them. */
static int seal_chunk(struct mig_chunk *c, struct err *e)
{
	wbuf_reset(&c->meta);
	wire_put_pages(&c->meta, &c->pages);
	if (wbuf_error(&c->meta))
		return err_sys(e, -wbuf_error(&c->meta), "cannot build a pages message");
	c->iov[0] = (struct iovec){.iov_base = c->header, .iov_len = WIRE_HEADER_BYTES};
	c->iov[1] = (struct iovec){.iov_base = c->meta.data, .iov_len = c->meta.len};
	return 0;
}

/* Add the hinted pages of one word. False: the chunk is full, some are left for the next. */
static bool add_free_word(struct mig_pages *p, struct mig_chunk *c)
{
	for (; p->free_left; p->free_left &= p->free_left - 1) {
		uint64_t page = p->cursor->word * 64 + (uint64_t)__builtin_ctzll(p->free_left);

		if (!add_page(c, p->chunk_pages, page, NULL, true))
			return false;
	}
	return true;
}

int mig_pages_next_free(struct mig_pages *p, struct mig_free_pages *f, struct mig_chunk *c,
			bool *more, struct err *e)
{
	struct mig_cursor *at = p->cursor;

	start_chunk(c, at->block);
	*more = false;
	for (; at->block < p->mem->n_blocks; at->block++, at->word = 0) {
		c->pages.block = (uint8_t)at->block;
		for (; at->word < p->bitmap->blocks[at->block].n_words; at->word++) {
			if (!p->free_left)
				p->free_left = mig_free_take(f, at->block, at->word);
			if (!add_free_word(p, c))
				break;
		}
		/* Full, or a block's end: a frame has pages of one block only. */
		if (c->pages.n_runs) {
			*more = true;
			return seal_chunk(c, e);
		}
	}
	return 0;
}

int mig_pages_next(struct mig_pages *p, struct mig_chunk *c, bool *more, struct err *e)
{
	start_chunk(c, p->window_block);
	*more = true;
	while (!p->window_left) {
		int rc = next_window(p, more, e);

		if (rc || !*more)
			return rc;
	}
	start_chunk(c, p->window_block);
	fill_chunk(p, c);
	return seal_chunk(c, e);
}
