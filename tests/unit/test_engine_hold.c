/* SPDX-License-Identifier: Apache-2.0 */
/* Pause before the switchover: the guest stands still until somebody says so, however long. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "migration/heartbeat.h"
#include "tests/unit/support/pair.h"

static struct err e;

static void up(struct pair *p, uint64_t seed)
{
	pair_up_rehearsing(p, PAIR_MIB, seed);
	synth_start_writer(p->src, 0, 256, 1000);
	p->src->hold = true;
}

static void nap(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	(void)nanosleep(&ts, NULL);
}

static void until_held(struct pair *p, uint64_t limit_ms)
{
	bool runs;

	pair_send(p, limit_ms);
	ck_assert(synth_wait(p->src, WATCH(MIG_PRE_SWITCHOVER)));
	pthread_mutex_lock(&p->guest.lock);
	runs = p->guest.runs_at_source;
	pthread_mutex_unlock(&p->guest.lock);
	ck_assert(!runs);
	ck_assert_uint_eq(atomic_load(&p->src->calls[SYNTH_PAUSE]), 1);
	ck_assert_uint_eq(atomic_load(&p->src->calls[SYNTH_COLLECT]), 0);
}

/* Longer than anybody waits for a peer: both stay in touch. The limit is long over by then. */
START_TEST(held_and_continued)
{
	static const enum mig_state expected[] = {MIG_SETUP, MIG_ACTIVE, MIG_PRE_SWITCHOVER,
						  MIG_DEVICE, MIG_COMPLETED};
	uint64_t held_ns = MIG_BEAT_SILENT_NS + 2 * NS_PER_SEC;
	struct mig_status st;
	struct pair p;

	up(&p, 1);
	until_held(&p, 300);
	nap(held_ns);
	ck_assert_int_eq(synth_status(p.src).state, MIG_PRE_SWITCHOVER);
	ck_assert_int_eq(synth_status(p.dst).state, MIG_ACTIVE);
	/* What would have been called off without the pause. */
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 500 * NS_PER_MS);
	ck_assert_int_eq(mig_source_continue(p.src->source, &e), 0);
	st = pair_completes(&p);
	ck_assert(watch_saw(&p.src->watch, expected, 5));
	ck_assert_uint_ge(st.downtime_phase_ns[MIG_PHASE_HELD], held_ns);
	ck_assert_uint_ge(st.downtime_ns, held_ns);
	ck_assert_uint_eq(st.switchovers_called_off, 0);
	pair_down(&p);
}
END_TEST

START_TEST(cancelled)
{
	struct pair p;

	up(&p, 2);
	until_held(&p, 300);
	mig_source_cancel(p.src->source);
	pair_keeps(&p, MIG_CANCELLED, "the guest keeps running here");
	p.src->hold = false;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

START_TEST(nothing_to_continue)
{
	struct pair p;

	up(&p, 3);
	p.src->hold = false;
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 50 * NS_PER_MS);
	pair_send(&p, 20);
	ck_assert(watch_wait_pass(&p.src->watch, 2, SYNTH_WAIT_MS));
	ck_assert_int_eq(mig_source_continue(p.src->source, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "the migration is 'active'"));
	pair_set_params(&p, 0, 5000);
	(void)pair_completes(&p);
	ck_assert_int_eq(mig_source_continue(p.src->source, NULL), -EINVAL);
	pair_down(&p);
}
END_TEST

/* The destination goes away while the user thinks about it. */
START_TEST(dest_gone)
{
	struct pair p;

	up(&p, 4);
	until_held(&p, 300);
	mig_dest_free(p.dst->dest);
	p.dst->dest = NULL;
	pair_keeps(&p, MIG_FAILED, "closed the connection");
	synth_listen(p.dst, "tcp:127.0.0.1:0");
	p.src->hold = false;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* A word that came once does not count for the next migration, or the next pause. */
START_TEST(each_time_anew)
{
	struct pair p;

	up(&p, 5);
	for (unsigned i = 0; i < 3; i++) {
		pair_send(&p, 300);
		ck_assert(synth_wait(p.src, WATCH(MIG_PRE_SWITCHOVER)));
		atomic_store(&p.dst->fail_at[SYNTH_APPLY], i + 1);
		ck_assert_int_eq(mig_source_continue(p.src->source, &e), 0);
		pair_keeps(&p, MIG_FAILED, "synthetic failure of apply");
	}
	p.src->hold = false;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine-hold", held_and_continued, cancelled, nothing_to_continue, dest_gone,
	   each_time_anew)
