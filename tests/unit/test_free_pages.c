/* SPDX-License-Identifier: Apache-2.0 */
/* Free page hints: what is saved by true ones, and that nothing is lost by any other. */
#include <check.h>
#include <string.h>

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

PAIR_MAIN("free-pages", 60, free_is_not_sent, log_wins, nonsense_is_harmless, silence_and_failure)
