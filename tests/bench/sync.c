/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a sync costs: KVM's log merged into the migration bitmap, by size, dirtiness and alignment.
 *
 *	sync [maps|kvm|all] [GIB-OF-THE-KVM-PART]
 *
 * Times are processor time of the one thread, the median of some repetitions. docs/benchmarks.md
 * says what the columns mean.
 */
#include "tests/bench/sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "kvm/vm.h"
#include "mem/bits.h"
#include "mem/page.h"
#include "migration/bitmap.h"

#define REPEATS 5

uint64_t bench_now_ns(void)
{
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

double bench_ms(uint64_t begin_ns)
{
	return (double)(bench_now_ns() - begin_ns) / 1e6;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *samples, unsigned n)
{
	qsort(samples, n, sizeof(*samples), compare);
	return samples[n / 2];
}

/* Single pages all over the place, the worst that there is for a map of words: gaps at random. */
static void scatter(uint64_t *words, uint64_t n_pages, double part)
{
	uint64_t r = 88172645463325252ull, gaps = part > 0 ? (uint64_t)(2 / part) - 1 : 0;

	memset(words, part < 1 ? 0 : 0xff, bits_words(n_pages) * sizeof(*words));
	if (part <= 0 || part >= 1)
		return;
	for (uint64_t page = 0; page < n_pages; page += 1 + r % gaps) {
		bits_set(words, page);
		r ^= r << 13;
		r ^= r >> 7;
		r ^= r << 17;
	}
}

struct map_bench {
	uint64_t n_pages;
	uint64_t *from;  /* what KVM keeps */
	uint64_t *words; /* what it gives, slot by slot */
	struct mig_bitmap map;
};

/* Take everything, as the senders do. */
static double drain(struct mig_bitmap *map)
{
	uint64_t begin_ns = bench_now_ns(), n_words = map->blocks[0].n_words;

	for (uint64_t w = 0; (w = mig_bitmap_next_word(map, 0, w)) < n_words; w++)
		(void)mig_bitmap_take(map, 0, w, ~0ull);
	return bench_ms(begin_ns);
}

/* Each slot's log has just been copied by KVM, whose time does not count. */
static double merge_once(struct map_bench *b, uint64_t shift)
{
	double ms = 0;

	for (uint64_t first = 0, n; first < b->n_pages; first += n) {
		uint64_t begin_ns;

		n = b->n_pages - first < VM_SLOT_PAGES ? b->n_pages - first : VM_SLOT_PAGES;
		page_copy(b->words, b->from + first / 64, n / 8);
		begin_ns = bench_now_ns();
		(void)mig_bitmap_merge(&b->map, 0, shift + first, b->words, n);
		ms += bench_ms(begin_ns);
	}
	return ms;
}

/* What a log of all RAM in one piece would cost to read, by itself. */
static void read_row(struct map_bench *b, const char *size)
{
	double reads[REPEATS];
	uint64_t n_words = bits_words(b->n_pages);

	memset(b->from, 0, n_words * sizeof(*b->from));
	for (unsigned i = 0; i < REPEATS; i++) {
		uint64_t begin_ns = bench_now_ns();

		if (bits_next_word(b->from, n_words, 0) != n_words)
			return;
		reads[i] = bench_ms(begin_ns);
	}
	(void)printf("| %s | in one piece, read only | %.2f | | | |\n", size,
		     bench_median(reads, REPEATS));
}

static double merge(struct map_bench *b, uint64_t shift, double *drain_ms)
{
	double merges[REPEATS], drains[REPEATS];

	for (unsigned i = 0; i < REPEATS; i++) {
		merges[i] = merge_once(b, shift);
		drains[i] = drain(&b->map);
	}
	if (drain_ms)
		*drain_ms = bench_median(drains, REPEATS);
	return bench_median(merges, REPEATS);
}

static void map_row(struct map_bench *b, const char *size, double part)
{
	/* All misalignments, or some where each takes seconds. */
	unsigned step = b->n_pages > 1024 * GIB_PAGES ? 9 : 1, n = 0;
	double aligned, drain_ms, shifted[63], again[REPEATS];

	scatter(b->from, b->n_pages, part);
	aligned = merge(b, 0, &drain_ms);
	for (unsigned shift = 1; shift < 64; shift += step) {
		shifted[n++] = merge_once(b, shift);
		(void)drain(&b->map);
	}
	/* What is set already, as when a page is dirty for many syncs in a row. */
	(void)merge_once(b, 0);
	for (unsigned i = 0; i < REPEATS; i++)
		again[i] = merge_once(b, 0);
	(void)drain(&b->map);
	(void)printf("| %s | %g %% | %.2f | %.2f | %.2f | %.2f |\n", size, part * 100, aligned,
		     bench_median(shifted, n), bench_median(again, REPEATS), drain_ms);
	(void)fflush(stdout);
}

static int maps(uint64_t gib, const char *size)
{
	static const double parts[] = {0, 0.001, 0.01, 0.04, 0.1, 1};
	struct map_bench b = {.n_pages = gib * GIB_PAGES};
	uint64_t block_pages = b.n_pages + 64;

	b.from = calloc(bits_words(b.n_pages) + 1, sizeof(*b.from));
	b.words = calloc(VM_SLOT_PAGES / 64, sizeof(*b.words));
	if (!b.from || !b.words || mig_bitmap_init(&b.map, &block_pages, 1)) {
		(void)fprintf(stderr, "out of memory\n");
		free(b.from);
		free(b.words);
		return 1;
	}
	/* Have the memory there before anything is measured. */
	mig_bitmap_fill(&b.map);
	(void)drain(&b.map);
	read_row(&b, size);
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		map_row(&b, size, parts[i]);
	mig_bitmap_free(&b.map);
	free(b.from);
	free(b.words);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "all";
	uint64_t gib = argc > 2 ? strtoull(argv[2], NULL, 10) : 256;
	int rc = 0;

	if (strcmp(what, "kvm")) {
		(void)printf("| RAM | dirty | merge ms | misaligned ms | again ms | take ms |\n"
			     "|---|---|---|---|---|---|\n");
		rc = maps(256, "256 GiB");
		rc = rc ? rc : maps(12 << 10, "12 TiB");
	}
	if (!rc && strcmp(what, "maps"))
		rc = bench_kvm(gib);
	return rc;
}
