/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a page, and whether it is still there.
 */
#include "guest/writer/writer.h"

#include <stddef.h>

#include "guest/lib/cpu.h"
#include "guest/lib/random.h"

#define BODY_WORDS (GUEST_PAGE_WORDS - 4)

static const union {
	char text[8];
	uint64_t word;
} text_words[16] = {
	{"harbour "}, {"the tide"},  {" carries"}, {" a ferry"}, {" across,"}, {"and back"},
	{" again; "}, {"nobody  "},  {"on board"}, {" notices"}, {" the sea"}, {", while "},
	{"the pier"}, {" waits.\n"}, {"Evening "}, {"falls   "},
};

static void body_random(struct guest_page *p, uint64_t seed)
{
	for (unsigned int i = 0; i < BODY_WORDS; i++)
		p->body[i] = random_next(&seed);
}

static void body_text(struct guest_page *p, uint64_t seed)
{
	for (unsigned int i = 0; i < BODY_WORDS; i++)
		p->body[i] = text_words[random_next(&seed) & 15].word;
}

static void body_zero(struct guest_page *p)
{
	for (unsigned int i = 0; i < BODY_WORDS; i++)
		p->body[i] = 0;
}

static void page_write(uint64_t page, uint32_t gen)
{
	struct guest_page *p = ram_page(&config.region, page);
	uint64_t seed = random_mix(page << 32 | gen);

	p->magic = GUEST_PAGE_MAGIC;
	p->page = page;
	p->gen = gen;
	switch (config.fill) {
	case FILL_RANDOM:
		body_random(p, seed);
		break;
	case FILL_TEXT:
		body_text(p, seed);
		break;
	case FILL_ZERO:
		body_zero(p);
		break;
	}
	p->sum = guest_page_sum(p);
	config.gens[page] = gen;
}

static bool is_zero(const struct guest_page *p)
{
	const uint64_t *word = &p->magic;
	uint64_t any = 0;

	for (unsigned int i = 0; i < GUEST_PAGE_WORDS; i++)
		any |= word[i];
	return !any;
}

/* What is wrong with a page; NULL if nothing. */
static const char *page_fault(const struct guest_page *p, uint64_t page, uint32_t gen)
{
	if (!gen)
		return is_zero(p) ? NULL : "zero";
	if (p->magic != GUEST_PAGE_MAGIC)
		return "magic";
	if (p->page != page)
		return "page";
	if (p->gen != gen)
		return "gen";
	return p->sum == guest_page_sum(p) ? NULL : "sum";
}

static uint64_t next_page(struct worker *w)
{
	uint64_t hot_pages;

	switch (config.pattern) {
	case PATTERN_UNIFORM:
		return random_below(&w->random, w->nr_pages);
	case PATTERN_HOT:
		hot_pages = w->nr_pages * config.hot_percent / 100;
		if (!hot_pages)
			hot_pages = 1;
		if (hot_pages == w->nr_pages || random_below(&w->random, 10) < 9)
			return random_below(&w->random, hot_pages);
		return hot_pages + random_below(&w->random, w->nr_pages - hot_pages);
	default:
		if (w->cursor >= w->nr_pages)
			w->cursor = 0;
		return w->cursor++;
	}
}

void part_fill(struct worker *w)
{
	for (uint64_t i = 0; i < w->nr_pages; i++) {
		if (config.fill == FILL_ZERO)
			config.gens[w->first_page + i] = 0;
		else
			page_write(w->first_page + i, 1);
	}
}

void part_write(struct worker *w)
{
	uint64_t page = w->first_page + next_page(w);

	page_write(page, config.gens[page] + 1);
	w->writes++;
}

void part_verify(struct worker *w)
{
	uint64_t end = w->first_page + w->nr_pages, gens = 0;
	uint64_t filled = config.fill == FILL_ZERO ? 0 : w->nr_pages;
	struct verdict v = {.why = NULL};

	for (uint64_t page = w->first_page; page < end; page++) {
		const struct guest_page *p = ram_page(&config.region, page);
		uint32_t gen = config.gens[page];
		const char *why = page_fault(p, page, gen);

		gens += gen;
		if (why && !v.bad++) {
			v.why = why;
			v.page = page;
			v.have_gen = p->gen;
			v.want_gen = gen;
		}
		gaps_tick(&w->gaps);
	}
	/* Page and table could have been lost together; the count of writes is elsewhere. */
	if (!v.why && gens != w->writes + filled) {
		v.why = "count";
		v.page = w->first_page;
		v.have_gen = gens;
		v.want_gen = w->writes + filled;
		v.bad = 1;
	}
	w->verdict = v;
}
