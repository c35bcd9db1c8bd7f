/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The downtime is predicted from what was rehearsed, and kept: a switchover that would overrun the
 * limit is called off at whatever step that shows, and the guest goes on at the source.
 */
#include <check.h>
#include <string.h>

#include "tests/unit/support/pair.h"

#define MS NS_PER_MS

static void up(struct pair *p, uint64_t seed)
{
	pair_up_rehearsing(p, 2 * PAIR_MIB, seed);
	synth_fill(p->src, 0, 300);
	synth_start_writer(p->src, 0, 200, 1000);
}

static void set_delay(struct synth *s, enum synth_call call, uint64_t ms)
{
	atomic_store(&s->delay_ns[call], ms * MS);
}

static unsigned calls(struct synth *s, enum synth_call call)
{
	return atomic_load(&s->calls[call]);
}

static uint64_t sum(const uint64_t ns[MIG_PHASES])
{
	uint64_t all = 0;

	for (unsigned p = 0; p < MIG_PHASES; p++)
		all += ns[p];
	return all;
}

/* Each part that takes its time is foreseen, and found again in the breakdown of the downtime. */
START_TEST(foreseen)
{
	struct mig_status st;
	struct pair p;

	up(&p, 1);
	set_delay(p.src, SYNTH_PAUSE, 10);
	set_delay(p.src, SYNTH_COLLECT, 20);
	set_delay(p.dst, SYNTH_APPLY, 40);
	pair_send(&p, 5000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.predicted_at_switch_phase_ns[MIG_PHASE_PAUSE], 10 * MS);
	ck_assert_uint_ge(st.predicted_at_switch_phase_ns[MIG_PHASE_COLLECT], 20 * MS);
	ck_assert_uint_ge(st.predicted_at_switch_phase_ns[MIG_PHASE_LOAD], 40 * MS);
	ck_assert_uint_ge(st.downtime_phase_ns[MIG_PHASE_PAUSE], 10 * MS);
	ck_assert_uint_ge(st.downtime_phase_ns[MIG_PHASE_COLLECT], 20 * MS);
	ck_assert_uint_ge(st.downtime_phase_ns[MIG_PHASE_LOAD], 40 * MS);
	ck_assert_uint_eq(sum(st.downtime_phase_ns), st.downtime_ns);
	ck_assert_uint_eq(sum(st.predicted_at_switch_phase_ns), st.predicted_at_switch_ns);
	ck_assert_uint_ge(st.rehearsals, 1);
	ck_assert_uint_ge(st.rehearsal_pause_ns_total, 30 * MS);
	ck_assert_uint_eq(calls(p.src, SYNTH_PAUSE), 1);
	ck_assert_uint_eq(calls(p.src, SYNTH_RESUME), 0);
	ck_assert_uint_eq(calls(p.dst, SYNTH_APPLY), 1);
	pair_down(&p);
}
END_TEST

/* The limit is below what is possible at all: it is said so, and nothing spins or goes dark. */
START_TEST(impossible)
{
	struct mig_status st;
	struct pair p;

	up(&p, 2);
	set_delay(p.dst, SYNTH_APPLY, 60);
	pair_send(&p, 30);
	ck_assert(watch_wait_pass(&p.src->watch, 5, SYNTH_WAIT_MS));
	st = synth_status(p.src);
	ck_assert_int_eq(st.state, MIG_ACTIVE);
	ck_assert_uint_ge(st.least_downtime_ns, 60 * MS);
	ck_assert_uint_ge(st.predicted_downtime_ns, st.least_downtime_ns);
	ck_assert_uint_eq(calls(p.src, SYNTH_PAUSE), 0);
	/* The destination gets faster, which a later rehearsal finds out. */
	set_delay(p.dst, SYNTH_APPLY, 0);
	pair_set_params(&p, 0, 5000);
	(void)pair_completes(&p);
	pair_down(&p);
}
END_TEST

/* A destination that cannot load the state is found out while the guest runs. */
START_TEST(cannot_load)
{
	struct pair p;

	up(&p, 3);
	atomic_store(&p.dst->fail_at[SYNTH_REHEARSE_APPLY], 1);
	pair_send(&p, 2000);
	pair_keeps(&p, MIG_FAILED, "synthetic failure of rehearse_apply");
	ck_assert_uint_eq(calls(p.src, SYNTH_PAUSE), 0);
	ck_assert_uint_eq(calls(p.dst, SYNTH_APPLY), 0);
	pair_again(&p);
	pair_down(&p);
}
END_TEST

START_TEST(cannot_rehearse)
{
	struct pair p;

	up(&p, 4);
	atomic_store(&p.src->fail_at[SYNTH_REHEARSE], 1);
	pair_send(&p, 2000);
	pair_keeps(&p, MIG_FAILED, "pausing the guest for a moment: synthetic failure");
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/*
 * One step of the switchover takes longer than its rehearsal: called off there, before the commit;
 * when it is fast again the guest moves, with everything that it wrote meanwhile.
 */
static void slow_step(enum synth_call call, bool at_dest, uint64_t seed)
{
	uint64_t rehearsals;
	struct mig_status st;
	struct synth *slow;
	struct pair p;

	up(&p, seed);
	slow = at_dest ? p.dst : p.src;
	/* Nothing is dark yet when it says that the switchover begins. */
	watch_stop_at(&p.src->watch, WATCH(MIG_DEVICE));
	pair_send(&p, 400);
	ck_assert(watch_stopped(&p.src->watch, SYNTH_WAIT_MS));
	set_delay(slow, call, 600);
	watch_stop_at(&p.src->watch, WATCH(MIG_ACTIVE));
	ck_assert(watch_stopped(&p.src->watch, SYNTH_WAIT_MS));
	set_delay(slow, call, 0);
	ck_assert(synth_alive(p.src));
	st = synth_status(p.src);
	ck_assert_uint_eq(st.switchovers_called_off, 1);
	ck_assert_uint_eq(calls(p.src, SYNTH_GIVEN_AWAY), 0);
	rehearsals = st.rehearsals;
	ck_assert_uint_ge(rehearsals, 1);
	/* It has learnt from it. */
	ck_assert_uint_gt(st.predicted_downtime_ns, 300 * MS);
	watch_stop_at(&p.src->watch, 0);
	st = pair_completes(&p);
	ck_assert_uint_gt(st.rehearsals, rehearsals);
	ck_assert_uint_lt(st.predicted_at_switch_ns, 400 * MS);
	pair_down(&p);
}

START_TEST(slow_pause)
{
	slow_step(SYNTH_PAUSE, false, 11);
}
END_TEST

START_TEST(slow_collect)
{
	slow_step(SYNTH_COLLECT, false, 12);
}
END_TEST

START_TEST(slow_sync)
{
	slow_step(SYNTH_HARVEST, false, 13);
}
END_TEST

/* The destination is loading: it has everything, and goes back to receiving pages. */
START_TEST(slow_load)
{
	slow_step(SYNTH_APPLY, true, 14);
}
END_TEST

/* Called off while the destination loads, again and again, with a guest that writes meanwhile. */
START_TEST(taken_back_often)
{
	struct mig_status st = {0};
	struct pair p;

	pair_up(&p, 1 * PAIR_MIB, 15); /* no rehearsals: it has to be found out each time */
	synth_start_writer(p.src, 0, 256, 0);
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 60 * MS);
	pair_send(&p, 30);
	while (st.switchovers_called_off < 4) {
		ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
		ck_assert(synth_wait(p.src, WATCH(MIG_ACTIVE)));
		st = synth_status(p.src);
	}
	pair_set_params(&p, 0, 4000);
	st = pair_completes(&p);
	ck_assert_uint_ge(calls(p.dst, SYNTH_APPLY), 2);
	ck_assert_uint_eq(st.switchovers_called_off, calls(p.src, SYNTH_RESUME));
	pair_down(&p);
}
END_TEST

/* It was called off, and then the destination cannot load it after all. */
START_TEST(taken_back_and_failed)
{
	struct pair p;

	pair_up(&p, 1 * PAIR_MIB, 16);
	synth_start_writer(p.src, 0, 256, 1000);
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 200 * MS);
	atomic_store(&p.dst->fail_at[SYNTH_APPLY], 1);
	pair_send(&p, 50);
	pair_keeps(&p, MIG_FAILED, "synthetic failure of apply");
	ck_assert_uint_ge(synth_status(p.src).switchovers_called_off, 1);
	pair_again(&p);
	pair_down(&p);
}
END_TEST

PAIR_SUITE("downtime", foreseen, impossible, cannot_load, cannot_rehearse, slow_pause, slow_collect,
	   slow_sync, slow_load, taken_back_often, taken_back_and_failed)
