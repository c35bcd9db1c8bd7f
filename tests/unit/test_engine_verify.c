/* SPDX-License-Identifier: Apache-2.0 */
/* All memory compared at the switchover: what is right goes through, what is not stays here. */
#include <check.h>

#include "tests/unit/support/pair.h"

static void up(struct pair *p, uint64_t seed)
{
	pair_up_rehearsing(p, 4 * PAIR_MIB, seed);
	synth_fill(p->src, 100, 500);
	p->src->verify = true;
}

START_TEST(the_same_on_both_sides)
{
	struct mig_status st;
	struct pair p;

	for (unsigned i = 0; i < 4; i++) {
		up(&p, i);
		p.src->channels = i % 2 ? 4 : 1;
		p.src->compress = i / 2;
		synth_start_writer(p.src, 0, 256, 2000);
		synth_start_host_writer(p.src, 300, 50);
		pair_send(&p, 2000);
		st = pair_completes(&p);
		ck_assert_uint_gt(st.downtime_phase_ns[MIG_PHASE_VERIFY], 0);
		ck_assert_uint_gt(st.predicted_at_switch_phase_ns[MIG_PHASE_VERIFY], 0);
		pair_down(&p);
	}
}
END_TEST

/* A write that no log has seen: only this can notice it. */
START_TEST(a_lost_write_is_found)
{
	struct pair p;

	up(&p, 9);
	p.src->hold = true;
	pair_send(&p, 2000);
	ck_assert(synth_wait(p.src, WATCH(MIG_PRE_SWITCHOVER)));
	synth_page(p.src, 400)[123] ^= 4;
	ck_assert_int_eq(mig_source_continue(p.src->source, NULL), 0);
	pair_keeps(&p, MIG_FAILED, "the memory that arrived is not the source's");
	p.src->hold = false;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

static void count_round(void *ctx, void (*hint)(void *, uint64_t, uint64_t), void *hint_ctx)
{
	(void)hint, (void)hint_ctx;
	__atomic_fetch_add((unsigned *)ctx, 1, __ATOMIC_RELAXED);
}

static void nothing(void *ctx)
{
	(void)ctx;
}

/* A free page is zero at the destination and anything at the source. */
START_TEST(no_hints)
{
	unsigned rounds = 0;
	struct mig_free_source hints = {
		.ctx = &rounds, .begin = count_round, .end = nothing, .done = nothing};
	struct pair p;

	up(&p, 11);
	p.src->free_sources = &hints;
	p.src->n_free_sources = 1;
	pair_send(&p, 2000);
	(void)pair_completes(&p);
	ck_assert_uint_eq(__atomic_load_n(&rounds, __ATOMIC_RELAXED), 0);
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine-verify", the_same_on_both_sides, a_lost_write_is_found, no_hints)
