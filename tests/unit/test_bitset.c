/* SPDX-License-Identifier: Apache-2.0 */
/* The two-level set against one byte a bit, at any misalignment, and under threads. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "mem/bits.h"
#include "mem/bitset.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/synth_writer.h"

#define MAX_BITS 20000 /* several groups of 4096 */

static uint8_t model[MAX_BITS];
static uint64_t from[MAX_BITS / 64 + 1];

/* A bit that is set is always found: its word has its group bit. */
static void check(const struct bitset *s)
{
	uint64_t found = 0, set = 0, wrong = 0;

	for (uint64_t i = 0; i < s->n_bits; i++) {
		wrong += bits_test(s->words, i) != model[i];
		set += model[i];
	}
	for (uint64_t w = 0; (w = bitset_next_word(s, w)) < s->n_words; w++)
		found += (uint64_t)__builtin_popcountll(s->words[w]);
	ck_assert_uint_eq(wrong, 0);
	ck_assert_uint_eq(found, set);
	ck_assert_uint_eq(bits_count(s->words, s->n_words), set); /* nothing past the end */
}

/* Bits as a log has them: nothing, scattered ones, dense stretches, everything. */
static void fill_from(uint64_t n, uint64_t *r)
{
	uint64_t kind = synth_random(r) % 5;

	memset(from, 0, sizeof(from));
	for (uint64_t w = 0; w < bits_words(n); w++) {
		uint64_t a = synth_random(r), b = synth_random(r);

		if (kind == 1 && a % 40 == 0)
			from[w] = 1ull << b % 64;
		else if (kind == 2)
			from[w] = a & b;
		else if (kind == 3 && w / 11 % 3)
			from[w] = ~0ull;
		else if (kind == 4)
			from[w] = ~0ull;
	}
	/* What lies behind the end must not matter. */
	from[bits_words(n)] = ~0ull;
}

static uint64_t model_merge(uint64_t first, uint64_t n)
{
	uint64_t added = 0;

	for (uint64_t i = 0; i < n; i++) {
		if (bits_test(from, i) && !model[first + i]) {
			model[first + i] = 1;
			added++;
		}
	}
	return added;
}

static uint64_t model_take(uint64_t word, uint64_t bits, uint64_t n_bits)
{
	uint64_t taken = 0;

	for (uint64_t i = 0; i < 64 && word * 64 + i < n_bits; i++) {
		if ((bits >> i & 1) && model[word * 64 + i]) {
			model[word * 64 + i] = 0;
			taken |= 1ull << i;
		}
	}
	return taken;
}

static void against_model(uint64_t seed)
{
	uint64_t r = seed, n_bits = 1 + synth_random(&r) % (MAX_BITS - 64);
	struct bitset s;

	memset(model, 0, sizeof(model));
	ck_assert_int_eq(bitset_init(&s, n_bits), 0);
	for (unsigned step = 0; step < 60; step++) {
		uint64_t first = synth_random(&r) % n_bits;
		uint64_t n = synth_random(&r) % (n_bits - first + 1);

		fill_from(n, &r);
		ck_assert_uint_eq(bitset_merge(&s, first, from, n), model_merge(first, n));
		check(&s);
		for (unsigned i = 0; i < 100; i++) {
			uint64_t w = synth_random(&r) % s.n_words;
			uint64_t bits = i % 3 ? ~0ull : synth_random(&r);

			ck_assert_uint_eq(bitset_take(&s, w, bits), model_take(w, bits, n_bits));
		}
		check(&s);
	}
	bitset_fill(&s);
	for (uint64_t i = 0; i < n_bits; i++)
		model[i] = 1;
	check(&s);
	bitset_free(&s);
}

START_TEST(random_operations)
{
	for (uint64_t seed = 1; seed <= 40; seed++)
		against_model(seed);
}
END_TEST

/* Every shift, with bits at both ends of the range. */
START_TEST(every_shift)
{
	struct bitset s;

	ck_assert_int_eq(bitset_init(&s, 1000), 0);
	for (uint64_t first = 0; first < 130; first++) {
		for (uint64_t n = 1; n < 200; n++) {
			memset(model, 0, sizeof(model));
			memset(from, 0, sizeof(from));
			from[0] |= 1;
			from[(n - 1) / 64] |= ~0ull << ((n - 1) % 64);
			ck_assert_uint_eq(bitset_merge(&s, first, from, n), model_merge(first, n));
			check(&s);
			for (uint64_t w = 0; (w = bitset_next_word(&s, w)) < s.n_words; w++)
				(void)bitset_take(&s, w, ~0ull);
			ck_assert_uint_eq(bitset_next_word(&s, 0), s.n_words);
			/* Nothing stale is left: the search reads group bits alone. */
			ck_assert_uint_eq(s.groups[0], 0);
		}
	}
	bitset_free(&s);
}
END_TEST

/*
 * Whole groups, which are merged in their own way, beside parts of them: every shift, from and to
 * places around the ends of groups, onto sets that have nothing, some or all of it already.
 */
START_TEST(whole_groups)
{
	static const uint64_t lengths[] = {4095, 4096, 4097, 8192 - 64, 8192, 3 * 4096 + 200};
	uint64_t r = 7, n_bits = 5 * 4096 - 500;
	struct bitset s;

	ck_assert_int_eq(bitset_init(&s, n_bits), 0);
	for (uint64_t first = 4096 - 66; first <= 4096 + 66; first++) {
		uint64_t n = lengths[first % 6];

		memset(model, 0, sizeof(model));
		for (unsigned step = 0; step < 3; step++) {
			fill_from(n, &r);
			ck_assert_uint_eq(bitset_merge(&s, first, from, n), model_merge(first, n));
			check(&s);
			ck_assert_uint_eq(bitset_merge(&s, first, from, n), 0);
		}
		for (uint64_t w = 0; (w = bitset_next_word(&s, w)) < s.n_words; w++)
			ck_assert_uint_eq(bitset_take(&s, w, ~0ull), model_take(w, ~0ull, n_bits));
		ck_assert_uint_eq(bits_count(s.groups, bits_words(s.n_words)), 0);
	}
	bitset_free(&s);
}
END_TEST

/* Looking for words, and counting, at any place and of any length. */
START_TEST(plain_bits)
{
	static uint64_t map[80];
	uint64_t set;

	for (uint64_t at = 0; at < 80; at++) {
		memset(map, 0, sizeof(map));
		map[at] = 1ull << (at * 7 % 64);
		for (uint64_t start = 0; start <= 40; start++) {
			for (uint64_t n = start; n <= 80; n++)
				ck_assert_uint_eq(bits_next_word(map, n, start),
						  at >= start && at < n ? at : n);
		}
		map[79 - at] |= 0xff00ff;
		set = 0;
		for (uint64_t i = 0; i < 80 * 64; i++)
			set += bits_test(map, i);
		ck_assert_uint_eq(bits_count(map, 80), set);
	}
}
END_TEST

START_TEST(shapes)
{
	static const uint64_t sizes[] = {0, 1, 63, 64, 65, 4095, 4096, 4097};
	struct bitset s;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		ck_assert_int_eq(bitset_init(&s, sizes[i]), 0);
		ck_assert_uint_eq(s.n_words, bits_words(sizes[i]));
		ck_assert_uint_eq(bitset_next_word(&s, 0), s.n_words);
		ck_assert_uint_eq(bitset_next_word(&s, s.n_words + 5), s.n_words + 5);
		ck_assert_uint_eq(bitset_merge(&s, 0, from, 0), 0);
		bitset_fill(&s);
		ck_assert_uint_eq(bits_count(s.words, s.n_words), sizes[i]);
		ck_assert_uint_eq(bits_count(s.groups, bits_words(s.n_words)), s.n_words);
		bitset_free(&s);
		bitset_free(&s);
	}
}
END_TEST

/* ---- threads ---- */

#define RACE_BITS (3 * 4096 + 100)
#define ROUNDS    20000

struct race {
	struct bitset s;
	atomic_uint setters;
	atomic_ullong set, taken;
};

static void *merger(void *arg)
{
	struct race *race = arg;
	uint64_t r = (uint64_t)(uintptr_t)&r, words[150], set = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		/* Now and then enough for whole groups. */
		uint64_t n = synth_random(&r) % (i % 16 == 1 ? 150 * 64 : 20 * 64);
		uint64_t first = synth_random(&r) % (RACE_BITS - n);

		for (unsigned w = 0; w < bits_words(n) || !w; w++)
			words[w] = synth_random(&r) & synth_random(&r);
		if (i % 2)
			set += bitset_merge(&race->s, first, words, n);
		else
			set += bitset_or(&race->s, first / 64, words[0]);
	}
	atomic_fetch_add(&race->set, set);
	atomic_fetch_sub(&race->setters, 1);
	return NULL;
}

static uint64_t sweep(struct race *race, uint64_t *r)
{
	uint64_t taken = 0, w = 0;

	for (; (w = bitset_next_word(&race->s, w)) < race->s.n_words; w++) {
		uint64_t bits = synth_random(r) % 4 ? ~0ull : synth_random(r);

		taken += (uint64_t)__builtin_popcountll(bitset_take(&race->s, w, bits));
	}
	return taken;
}

static void *taker(void *arg)
{
	struct race *race = arg;
	uint64_t r = (uint64_t)(uintptr_t)&r, taken = 0;

	while (atomic_load(&race->setters))
		taken += sweep(race, &r);
	atomic_fetch_add(&race->taken, taken);
	return NULL;
}

/* Whatever happened meanwhile: in the end every bit that is set is found, and was counted once. */
START_TEST(four_threads)
{
	static struct race race;
	pthread_t threads[4];
	uint64_t found = 0;

	ck_assert_int_eq(bitset_init(&race.s, RACE_BITS), 0);
	atomic_store(&race.setters, 2);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, i % 2 ? taker : merger, &race),
				 0);
	for (unsigned i = 0; i < 4; i++)
		(void)pthread_join(threads[i], NULL);
	for (uint64_t w = 0; (w = bitset_next_word(&race.s, w)) < race.s.n_words; w++)
		found += (uint64_t)__builtin_popcountll(bitset_take(&race.s, w, ~0ull));
	ck_assert_uint_eq(bits_count(race.s.words, race.s.n_words), 0);
	ck_assert_uint_eq(atomic_load(&race.set), atomic_load(&race.taken) + found);
	bitset_free(&race.s);
}
END_TEST

/*
 * Two who look for bits at once: what was set before both began is found by one of them, even if
 * the other takes from the same words at that moment.
 */
static void *finder(void *arg)
{
	struct race *race = arg;
	uint64_t taken = 0;

	for (uint64_t w = 0; (w = bitset_next_word(&race->s, w)) < race->s.n_words; w++)
		taken += (uint64_t)__builtin_popcountll(bitset_take(&race->s, w, ~0ull));
	atomic_fetch_add(&race->taken, taken);
	return NULL;
}

START_TEST(two_finders)
{
	static struct race race;
	pthread_t a, b;

	ck_assert_int_eq(bitset_init(&race.s, RACE_BITS), 0);
	for (unsigned round = 0; round < 200; round++) {
		bitset_fill(&race.s);
		atomic_store(&race.taken, 0);
		ck_assert_int_eq(pthread_create(&a, NULL, finder, &race), 0);
		ck_assert_int_eq(pthread_create(&b, NULL, finder, &race), 0);
		(void)pthread_join(a, NULL);
		(void)pthread_join(b, NULL);
		ck_assert_uint_eq(atomic_load(&race.taken), RACE_BITS);
	}
	bitset_free(&race.s);
}
END_TEST

PAIR_SUITE("bitset", random_operations, every_shift, whole_groups, plain_bits, shapes, four_threads,
	   two_finders)
