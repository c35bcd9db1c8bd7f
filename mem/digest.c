/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/digest.h"

#include <pthread.h>

#include "mem/page.h"

#define SLICE_PAGES 4096 /* 16 MiB: what a thread takes at a time */
#define THREADS_MAX 16

struct work {
	const struct mem *m;
	uint64_t next; /* slices given out; atomic */
	uint64_t sum;  /* of whole threads; atomic */
};

/* Place counts: two pages that have changed places must not go unseen. */
static uint64_t page_digest(const struct mem_block *b, uint64_t page)
{
	const void *at = b->hva + page * MEM_PAGE_BYTES;

	if (page_is_zero(at))
		return 0;
	return page_sum_at(at, (b->gpa >> MEM_PAGE_SHIFT) + page);
}

static uint64_t slice_digest(const struct mem_block *b, uint64_t first, uint64_t end)
{
	uint64_t sum = 0, known = first;
	bool hole = false;

	for (uint64_t page = first; page < end; page++) {
		if (b->fd >= 0 && page >= known)
			hole = mem_hole(b, page, &known);
		if (hole)
			page = known - 1;
		else
			sum += page_digest(b, page);
	}
	return sum;
}

/* A number of slices, counted over all blocks: the block of one, and where in it. */
static const struct mem_block *slice(const struct mem *m, uint64_t number, uint64_t *first)
{
	for (unsigned i = 0; i < m->n_blocks; i++) {
		uint64_t slices = (m->blocks[i].n_pages + SLICE_PAGES - 1) / SLICE_PAGES;

		*first = number * SLICE_PAGES;
		if (number < slices)
			return &m->blocks[i];
		number -= slices;
	}
	return NULL;
}

static void *work(void *arg)
{
	struct work *w = arg;
	const struct mem_block *b;
	uint64_t first, end, sum = 0;

	while ((b = slice(w->m, __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED), &first))) {
		end = first + SLICE_PAGES < b->n_pages ? first + SLICE_PAGES : b->n_pages;
		sum += slice_digest(b, first, end);
	}
	__atomic_fetch_add(&w->sum, sum, __ATOMIC_RELAXED);
	return NULL;
}

uint64_t mem_digest(const struct mem *m, unsigned n_threads)
{
	struct work w = {.m = m};
	pthread_t threads[THREADS_MAX];
	unsigned n = 0;

	while (n + 1 < n_threads && n < THREADS_MAX && !pthread_create(&threads[n], NULL, work, &w))
		n++;
	(void)work(&w);
	while (n)
		(void)pthread_join(threads[--n], NULL);
	return w.sum;
}
