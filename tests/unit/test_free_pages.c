/* SPDX-License-Identifier: Apache-2.0 */
/* Free page hints: what is saved by true ones, and that nothing is lost by any other. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "base/cond.h"
#include "mem/bits.h"
#include "mem/page.h"
#include "tests/unit/support/pair.h"

#define RAM_PAGES 4096ull /* 16 MiB: one slice, so the round begins after the first chunk */

typedef void hint_fn(void *ctx, uint64_t gpa, uint64_t len);

struct teller {
	struct pair *p;
	void (*say)(struct teller *t);
	hint_fn *hint;
	void *hint_ctx;
	unsigned begun, ended, done;
};

static void hint_pages(struct teller *t, uint64_t first, uint64_t n)
{
	t->hint(t->hint_ctx, first * MEM_PAGE_BYTES, n * MEM_PAGE_BYTES);
}

static void begin(void *ctx, hint_fn *hint, void *hint_ctx)
{
	struct teller *t = ctx;

	t->begun++;
	t->hint = hint;
	t->hint_ctx = hint_ctx;
	if (t->say)
		t->say(t);
}

static void end(void *ctx)
{
	struct teller *t = ctx;

	t->ended++;
	/* Too late: the round is closed. */
	hint_pages(t, 0, RAM_PAGES);
}

static void done(void *ctx)
{
	((struct teller *)ctx)->done++;
}

static struct mig_free_source source_of(struct teller *t)
{
	return (struct mig_free_source){.ctx = t, .begin = begin, .end = end, .done = done};
}

static void send_with(struct pair *p, const struct mig_free_source *sources, unsigned n)
{
	p->src->free_sources = sources;
	p->src->n_free_sources = n;
	pair_send(p, 300);
}

static void say_upper_half(struct teller *t)
{
	hint_pages(t, RAM_PAGES / 2, RAM_PAGES / 2);
}

static void say_last_quarter_twice(struct teller *t)
{
	hint_pages(t, RAM_PAGES / 4 * 3, RAM_PAGES / 4);
	hint_pages(t, RAM_PAGES / 4 * 3, RAM_PAGES / 4);
}

/* Two sources that agree in part: the free half is not sent, the rest is equal. */
START_TEST(free_is_not_sent)
{
	struct pair p;
	struct teller a = {.p = &p, .say = say_upper_half};
	struct teller b = {.p = &p, .say = say_last_quarter_twice};
	struct mig_free_source sources[2] = {source_of(&a), source_of(&b)};
	struct mig_status st;

	pair_up(&p, RAM_PAGES * MEM_PAGE_BYTES, 11);
	synth_fill(p.src, 0, RAM_PAGES);
	send_with(&p, sources, 2);
	ck_assert_int_eq(synth_wait_end(p.src), MIG_COMPLETED);
	ck_assert(synth_wait(p.dst, 1u << MIG_COMPLETED));
	st = synth_status(p.src);
	ck_assert_uint_eq(st.free_pages, RAM_PAGES / 2);
	ck_assert_uint_eq(st.normal_pages, RAM_PAGES / 2);
	for (uint64_t page = 0; page < RAM_PAGES; page++) {
		const void *there = synth_page(p.dst, page);

		if (page < RAM_PAGES / 2)
			ck_assert(!memcmp(synth_page(p.src, page), there, MEM_PAGE_BYTES));
		else
			ck_assert(page_is_zero(there));
	}
	ck_assert(a.begun == 1 && a.ended == 1 && a.done == 1);
	ck_assert(b.begun == 1 && b.ended == 1 && b.done == 1);
	pair_down(&p);
}
END_TEST

/* Hinted, then written, then hinted again: the log wins. */
static void break_promises(struct teller *t)
{
	say_upper_half(t);
	for (uint64_t page = RAM_PAGES / 2; page < RAM_PAGES; page++)
		synth_store(t->p->src, page, page * 3 + 1);
	say_upper_half(t);
	for (uint64_t page = 0; page < RAM_PAGES / 2; page++) {
		synth_store(t->p->src, page, page * 5 + 1);
		hint_pages(t, page, 1);
	}
}

START_TEST(log_wins)
{
	struct pair p;
	struct teller t = {.p = &p, .say = break_promises};
	struct mig_free_source source = source_of(&t);

	for (uint64_t seed = 1; seed <= 4; seed++) {
		pair_up(&p, RAM_PAGES * MEM_PAGE_BYTES, seed); /* odd and even: both kinds of log */
		synth_fill(p.src, 0, RAM_PAGES);
		send_with(&p, &source, 1);
		(void)pair_completes(&p);
		pair_down(&p);
	}
}
END_TEST

/* Hints that cover no whole page of RAM, in every way. */
static void talk_nonsense(struct teller *t)
{
	const uint64_t end = RAM_PAGES * MEM_PAGE_BYTES;

	t->hint(t->hint_ctx, end, 1 << 20);
	t->hint(t->hint_ctx, UINT64_MAX - 4095, 8192);
	t->hint(t->hint_ctx, 1ull << 52, UINT64_MAX);
	t->hint(t->hint_ctx, 4096, 0);
	t->hint(t->hint_ctx, 4097, 4096);
	t->hint(t->hint_ctx, 4095, 4096);
	t->hint(t->hint_ctx, end - 4095, UINT64_MAX);
}

START_TEST(nonsense_is_harmless)
{
	struct pair p;
	struct teller t = {.p = &p, .say = talk_nonsense};
	struct mig_free_source source = source_of(&t);
	struct mig_status st;

	pair_up(&p, RAM_PAGES * MEM_PAGE_BYTES, 5);
	synth_fill(p.src, 0, RAM_PAGES);
	send_with(&p, &source, 1);
	st = pair_completes(&p);
	ck_assert_uint_eq(st.free_pages, 0);
	pair_down(&p);
}
END_TEST

/* A source that never says anything is not waited for; one of a failed migration is told. */
START_TEST(silence_and_failure)
{
	struct pair p;
	struct teller t = {.p = &p};
	struct mig_free_source source = source_of(&t);

	pair_up(&p, RAM_PAGES * MEM_PAGE_BYTES, 6);
	synth_fill(p.src, 0, RAM_PAGES);
	atomic_store(&p.src->fail_at[SYNTH_COLLECT], 1);
	send_with(&p, &source, 1);
	ck_assert_int_eq(synth_wait_end(p.src), MIG_FAILED);
	ck_assert(t.begun == 1 && t.ended == 1 && t.done == 1);
	pair_send(&p, 300);
	(void)pair_completes(&p);
	ck_assert(t.begun == 2 && t.ended == 2 && t.done == 2);
	pair_down(&p);
}
END_TEST

/*
 * The coordinator protects all pages that wait to be sent while another sender takes some of them.
 * To see whether one falls between, its first call lasts until the other sender has taken,
 * protected and looked at such pages, which the guest then writes; or until it is clear that it
 * cannot.
 */
#define NOBODY_NS (300 * NS_PER_MS)

struct stealing {
	struct synth *s;
	struct mig_dirty_source inner;
	pthread_t coordinator;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool open, closed; /* the coordinator's call */
	uint64_t waiting[RAM_PAGES / 64], stolen[RAM_PAGES / 64];
	unsigned windows; /* of the other sender, since it is open */
};

static int steal_start(void *ctx, struct err *e)
{
	struct stealing *t = ctx;

	t->coordinator = pthread_self();
	return t->inner.start(t->inner.ctx, e);
}

static int steal_harvest(void *ctx, struct mig_bitmap *into, struct err *e)
{
	struct stealing *t = ctx;

	return t->inner.harvest(t->inner.ctx, into, e);
}

static void steal_stop(void *ctx)
{
	struct stealing *t = ctx;

	t->inner.stop(t->inner.ctx);
}

/* Under the lock: the whole of RAM but for what is on its way already. */
static void let_steal(struct stealing *t, const uint64_t *mask)
{
	uint64_t until = clock_mono_ns() + NOBODY_NS;

	memcpy(t->waiting, mask, sizeof(t->waiting));
	t->open = true;
	/* With the second window the pages of the first have been looked at. */
	while (t->windows < 2 && !thread_cond_wait(&t->changed, &t->lock, until))
		;
	t->open = false;
	t->closed = true;
	for (uint64_t page = 0; page < RAM_PAGES; page++) {
		if (bits_test(t->stolen, page))
			synth_store(t->s, page, page * 7 + 1);
	}
}

static void steal(struct stealing *t, uint64_t first_word, const uint64_t *mask, uint64_t n_words)
{
	if (!t->open || pthread_equal(pthread_self(), t->coordinator))
		return;
	for (uint64_t w = 0; w < n_words && !t->windows; w++)
		t->stolen[first_word + w] |= mask[w] & t->waiting[first_word + w];
	t->windows++;
	pthread_cond_broadcast(&t->changed);
}

static int steal_protect(void *ctx, unsigned block, uint64_t first_word, const uint64_t *mask,
			 uint64_t n_words, struct err *e)
{
	struct stealing *t = ctx;

	pthread_mutex_lock(&t->lock);
	if (n_words == RAM_PAGES / 64 && !t->closed)
		let_steal(t, mask);
	else
		steal(t, first_word, mask, n_words);
	pthread_mutex_unlock(&t->lock);
	return t->inner.protect(t->inner.ctx, block, first_word, mask, n_words, e);
}

START_TEST(beside_another_sender)
{
	for (uint64_t seed = 1; seed <= 2; seed++) {
		struct pair p;
		struct teller t = {.p = &p};
		struct mig_free_source source = source_of(&t);
		struct stealing thief = {.windows = 0};

		pair_up(&p, RAM_PAGES * MEM_PAGE_BYTES, seed);
		p.src->channels = 2;
		synth_fill(p.src, 0, RAM_PAGES);
		thief.s = p.src;
		thief.inner = p.src->dirty;
		(void)pthread_mutex_init(&thief.lock, NULL);
		thread_cond_init(&thief.changed);
		p.src->dirty = (struct mig_dirty_source){.ctx = &thief,
							 .start = steal_start,
							 .harvest = steal_harvest,
							 .protect = steal_protect,
							 .stop = steal_stop};
		send_with(&p, &source, 1);
		(void)pair_completes(&p);
		ck_assert(thief.closed);
		pair_down(&p);
		(void)pthread_cond_destroy(&thief.changed);
		(void)pthread_mutex_destroy(&thief.lock);
	}
}
END_TEST

PAIR_SUITE("free-pages", free_is_not_sent, log_wins, nonsense_is_harmless, silence_and_failure,
	   beside_another_sender)
