/* SPDX-License-Identifier: Apache-2.0 */
/* The migration bitmap against one byte a page, and under threads that fight over it. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "mem/bits.h"
#include "migration/bitmap.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/synth_writer.h"

#define MAX_PAGES 1000

struct model {
	uint64_t pages[MEM_MAX_BLOCKS];
	uint8_t set[MEM_MAX_BLOCKS][MAX_PAGES + 64]; /* past the end: never set */
	uint64_t count, added;
};

static unsigned model_or(struct model *m, unsigned b, uint64_t word, uint64_t bits)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 64; i++) {
		uint64_t page = word * 64 + i;

		if (!(bits >> i & 1) || page >= m->pages[b] || m->set[b][page])
			continue;
		m->set[b][page] = 1;
		n++;
	}
	m->count += n;
	m->added += n;
	return n;
}

static uint64_t model_take(struct model *m, unsigned b, uint64_t word, uint64_t bits)
{
	uint64_t taken = 0;

	for (unsigned i = 0; i < 64; i++) {
		uint8_t *at = &m->set[b][word * 64 + i];

		if (!(bits >> i & 1) || !*at)
			continue;
		*at = 0;
		taken |= 1ull << i;
		m->count--;
	}
	return taken;
}

static uint64_t model_next(const struct model *m, unsigned b, uint64_t from)
{
	uint64_t n_words = bits_words(m->pages[b]);

	for (uint64_t w = from; w < n_words; w++) {
		for (unsigned i = 0; i < 64; i++) {
			if (m->set[b][w * 64 + i])
				return w;
		}
	}
	return from > n_words ? from : n_words;
}

static void compare(const struct mig_bitmap *b, const struct model *m)
{
	ck_assert_uint_eq(mig_bitmap_count(b), m->count);
	ck_assert_uint_eq(mig_bitmap_added(b), m->added);
	for (unsigned k = 0; k < b->n_blocks; k++) {
		for (uint64_t p = 0; p < m->pages[k]; p++)
			ck_assert_uint_eq(bits_test(b->blocks[k].words, p), m->set[k][p]);
	}
}

static void against_model(uint64_t seed)
{
	static struct model m;
	struct mig_bitmap b;
	uint64_t r = seed;
	unsigned n_blocks = 1 + (unsigned)(seed % MEM_MAX_BLOCKS);

	memset(&m, 0, sizeof(m));
	for (unsigned i = 0; i < n_blocks; i++)
		m.pages[i] = 1 + synth_random(&r) % MAX_PAGES;
	ck_assert_int_eq(mig_bitmap_init(&b, m.pages, n_blocks), 0);
	for (unsigned step = 0; step < 3000; step++) {
		unsigned block = (unsigned)(synth_random(&r) % n_blocks);
		uint64_t word = synth_random(&r) % bits_words(m.pages[block]);
		uint64_t bits = synth_random(&r) & synth_random(&r);

		switch (synth_random(&r) % 8) {
		case 0:
			bits = ~0ull;
			/* fall through */
		case 1:
		case 2:
			ck_assert_uint_eq(mig_bitmap_or(&b, block, word, bits),
					  model_or(&m, block, word, bits));
			break;
		case 3:
			bits = ~0ull;
			/* fall through */
		case 4:
		case 5:
			ck_assert_uint_eq(mig_bitmap_take(&b, block, word, bits),
					  model_take(&m, block, word, bits));
			break;
		case 6:
			ck_assert_uint_eq(mig_bitmap_next_word(&b, block, word),
					  model_next(&m, block, word));
			break;
		default:
			ck_assert_uint_eq(mig_bitmap_count(&b), m.count);
		}
	}
	compare(&b, &m);
	mig_bitmap_fill(&b);
	for (unsigned i = 0; i < n_blocks; i++) {
		for (uint64_t w = 0; w < bits_words(m.pages[i]); w++)
			(void)model_or(&m, i, w, ~0ull);
	}
	compare(&b, &m);
	mig_bitmap_free(&b);
}

START_TEST(model)
{
	for (uint64_t seed = 1; seed <= 40; seed++)
		against_model(seed);
}
END_TEST

START_TEST(shapes)
{
	uint64_t pages[MEM_MAX_BLOCKS + 1] = {64, 1, 65, 0};
	struct mig_bitmap b;

	ck_assert_int_eq(mig_bitmap_init(&b, pages, 4), 0);
	ck_assert_uint_eq(mig_bitmap_count(&b), 0);
	ck_assert_uint_eq(mig_bitmap_next_word(&b, 0, 0), 1);
	ck_assert_uint_eq(mig_bitmap_next_word(&b, 3, 0), 0);
	mig_bitmap_fill(&b);
	ck_assert_uint_eq(mig_bitmap_count(&b), 64 + 1 + 65);
	ck_assert_uint_eq(mig_bitmap_or(&b, 1, 0, ~1ull), 0); /* behind the end */
	ck_assert_uint_eq(mig_bitmap_take(&b, 2, 1, ~0ull), 1);
	ck_assert_uint_eq(mig_bitmap_count(&b), 64 + 1 + 64);
	mig_bitmap_free(&b);
	mig_bitmap_free(&b); /* all gone: nothing happens */
	ck_assert_int_lt(mig_bitmap_init(&b, pages, MEM_MAX_BLOCKS + 1), 0);
	ck_assert_int_eq(mig_bitmap_init(&b, pages, 0), 0);
	ck_assert_uint_eq(mig_bitmap_count(&b), 0);
	mig_bitmap_free(&b);
}
END_TEST

/* Logs of many pieces, most of them empty, that begin anywhere: against bits set one by one. */
#define MERGE_PAGES (6 * 65536 + 100)

START_TEST(merges)
{
	static uint64_t from[MERGE_PAGES / 64 + 1], want[MERGE_PAGES / 64 + 1];
	uint64_t pages = MERGE_PAGES, r = 5, total = 0;
	struct mig_bitmap b;

	ck_assert_int_eq(mig_bitmap_init(&b, &pages, 1), 0);
	for (unsigned round = 0; round < 200; round++) {
		uint64_t first = synth_random(&r) % (round % 2 ? 200 : MERGE_PAGES), added = 0;
		uint64_t n = round % 4 ? MERGE_PAGES - first
				       : synth_random(&r) % (MERGE_PAGES - first + 1);

		memset(from, 0, sizeof(from));
		for (uint64_t i = synth_random(&r) % 6; i && n; i--)
			bits_set(from, synth_random(&r) % n);
		for (uint64_t i = 0; (i = bits_next_set(from, n, i)) < n; i++) {
			added += !bits_test(want, first + i);
			bits_set(want, first + i);
		}
		bits_set(from, n); /* behind the end */
		ck_assert_uint_eq(mig_bitmap_merge(&b, 0, first, from, n), added);
		total += added;
		ck_assert_uint_eq(mig_bitmap_count(&b), total);
		ck_assert_uint_eq(mig_bitmap_added(&b), total);
	}
	ck_assert_mem_eq(b.blocks[0].words, want, bits_words(MERGE_PAGES) * sizeof(*want));
	mig_bitmap_free(&b);
}
END_TEST

/* ---- threads ---- */

#define RACE_WORDS 2 /* few, so that the count is near zero all the time */
#define ROUNDS     200000

struct race {
	struct mig_bitmap b;
	atomic_bool done;
	uint64_t set, taken; /* each written by one thread */
	uint64_t worst;
};

static void *setter(void *arg)
{
	struct race *race = arg;
	uint64_t r = 1;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t v = synth_random(&r);

		race->set += mig_bitmap_or(&race->b, 0, v % RACE_WORDS, v & v >> 7);
	}
	atomic_store(&race->done, true);
	return NULL;
}

static void *taker(void *arg)
{
	struct race *race = arg;
	uint64_t r = 2;

	while (!atomic_load(&race->done)) {
		uint64_t v = synth_random(&r);
		uint64_t taken = mig_bitmap_take(&race->b, 0, v % RACE_WORDS, ~0ull);

		race->taken += (uint64_t)__builtin_popcountll(taken);
		v = mig_bitmap_count(&race->b);
		if (v > race->worst)
			race->worst = v;
	}
	return NULL;
}

START_TEST(two_threads)
{
	static struct race race;
	uint64_t pages = RACE_WORDS * 64, left = 0;
	pthread_t a, b;

	ck_assert_int_eq(mig_bitmap_init(&race.b, &pages, 1), 0);
	ck_assert_int_eq(pthread_create(&a, NULL, setter, &race), 0);
	ck_assert_int_eq(pthread_create(&b, NULL, taker, &race), 0);
	(void)pthread_join(a, NULL);
	(void)pthread_join(b, NULL);
	for (uint64_t w = 0; w < RACE_WORDS; w++)
		left += (uint64_t)__builtin_popcountll(race.b.blocks[0].words[w]);
	ck_assert_uint_eq(mig_bitmap_count(&race.b), left);
	ck_assert_uint_eq(mig_bitmap_added(&race.b), race.set);
	ck_assert_uint_eq(race.set, race.taken + left);
	/* Whoever reads the count meanwhile never sees more pages than there are, but for a word.
	 */
	ck_assert_uint_le(race.worst, pages + 64);
	mig_bitmap_free(&race.b);
}
END_TEST

PAIR_SUITE("bitmap", model, shapes, merges, two_threads)
