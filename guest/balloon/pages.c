/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/balloon/balloon.h"

#include <stddef.h>

#include "guest/lib/random.h"
#include "guest/lib/say.h"

/* Of each page: its generation, and what became of it. */
#define GEN_MASK  0x1fffffffu
#define FREE      0x80000000u
#define LENT      0x40000000u
#define WRITTEN   0x20000000u /* in this round */
#define TRIES_MAX 64

struct pages pages;

static uint32_t *table;

static void write_page(uint64_t page)
{
	struct guest_page *p = ram_page(&pages.region, page);
	uint32_t gen = (table[page] & GEN_MASK) + 1;
	uint64_t seed = random_mix(page << 32 | gen);

	table[page] = (table[page] & LENT) | WRITTEN | gen;
	p->magic = GUEST_PAGE_MAGIC;
	p->page = page;
	p->gen = gen;
	for (unsigned int i = 0; i < GUEST_PAGE_WORDS - 4; i++)
		p->body[i] = random_next(&seed);
	p->sum = guest_page_sum(p);
	pages.writes++;
}

static void free_page(uint64_t page)
{
	uint32_t *word = ram_page(&pages.region, page);

	table[page] |= FREE;
	pages.nr_free++;
	for (unsigned int i = 0; pages.poison && i < GUEST_PAGE_BYTES / 4; i++)
		word[i] = pages.poison;
}

void pages_init(uint64_t bytes, uint64_t free_bytes)
{
	uint64_t nr_pages = bytes / GUEST_PAGE_BYTES;

	table = ram_alloc(nr_pages * sizeof(*table));
	ram_take(&pages.region, nr_pages * GUEST_PAGE_BYTES);
	pages.want_free = free_bytes / GUEST_PAGE_BYTES;
	if (!nr_pages || pages.region.nr_pages != nr_pages)
		die("no room for size=");
	if (pages.want_free >= nr_pages)
		die("bad value of free=");
}

/* Free pages were in use once: they are full of what nobody wants any more. */
void pages_fill(void)
{
	for (uint64_t page = 0; page < pages.region.nr_pages; page++) {
		table[page] = 0;
		write_page(page);
		if (page >= pages.region.nr_pages - pages.want_free)
			free_page(page);
	}
}

void pages_step(void)
{
	bool any = !pages.still && random_below(&pages.random, 100) < pages.churn;

	for (unsigned int i = 0; i < TRIES_MAX; i++) {
		uint64_t page = random_below(&pages.random, pages.region.nr_pages);

		if (!(table[page] & FREE)) {
			if (any && pages.nr_free < pages.want_free)
				free_page(page);
			else
				write_page(page);
			return;
		}
		if (any && !(pages.lent_stay && table[page] & LENT)) {
			table[page] &= ~FREE;
			pages.nr_free--;
			write_page(page);
			return;
		}
	}
}

static const char *used_fault(const struct guest_page *p, uint64_t page)
{
	if (p->magic != GUEST_PAGE_MAGIC)
		return "magic";
	if (p->page != page)
		return "page";
	if (p->gen != (table[page] & GEN_MASK))
		return "gen";
	return p->sum == guest_page_sum(p) ? NULL : "sum";
}

static const char *free_fault(const uint32_t *word)
{
	for (unsigned int i = 0; pages.poison && i < GUEST_PAGE_BYTES / 4; i++)
		if (word[i] != pages.poison)
			return "poison";
	return NULL;
}

bool pages_verify(void)
{
	uint64_t gens = 0, bad = 0, first = 0;
	const char *why = NULL;

	for (uint64_t page = 0; page < pages.region.nr_pages; page++) {
		const void *p = ram_page(&pages.region, page);
		const char *fault = table[page] & FREE ? free_fault(p) : used_fault(p, page);

		gens += table[page] & GEN_MASK;
		if (fault && !bad++) {
			why = fault;
			first = page;
		}
	}
	/* Page and table could have been lost together; the count of writes is elsewhere. */
	if (!bad && gens != pages.writes) {
		why = "count";
		bad = 1;
	}
	if (bad)
		say("%n: verify FAILED page=%U want_gen=%u bad=%U why=%s", first,
		    table[first] & GEN_MASK, bad, why);
	else
		say("%n: verify ok");
	say(" pages=%U free=%U writes=%U\n", pages.region.nr_pages, pages.nr_free, pages.writes);
	return !bad;
}

static bool is(enum which which, uint64_t page)
{
	switch (which) {
	case WHICH_FREE:
		return (table[page] & (FREE | LENT)) == FREE;
	case WHICH_FREE_AGAIN:
		return table[page] & FREE;
	case WHICH_USED:
		return !(table[page] & FREE);
	case WHICH_WRITTEN:
		return (table[page] & (FREE | WRITTEN)) == WRITTEN;
	}
	return false;
}

uint64_t pages_run(enum which which, uint64_t *first, uint64_t max)
{
	uint64_t page = *first, end = pages.region.nr_pages, n = 1;
	const char *begin;

	while (page < end && !is(which, page))
		page++;
	if (page >= end)
		return 0;
	*first = page;
	begin = ram_page(&pages.region, page);
	while (n < max && page + n < end && is(which, page + n) &&
	       (const char *)ram_page(&pages.region, page + n) == begin + n * GUEST_PAGE_BYTES)
		n++;
	return n;
}

void pages_lend(uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		table[page] |= LENT;
}

static void forget(uint32_t what)
{
	for (uint64_t page = 0; page < pages.region.nr_pages; page++)
		table[page] &= ~what;
}

void pages_round(void)
{
	forget(WRITTEN);
}

void pages_take_back(void)
{
	forget(LENT);
}

uint64_t pages_lent(void)
{
	uint64_t n = 0;

	for (uint64_t page = 0; page < pages.region.nr_pages; page++)
		n += !!(table[page] & LENT);
	return n;
}
