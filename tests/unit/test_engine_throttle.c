/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations of a guest that writes faster than the wire carries: it is slowed, and let go again.
 */
#include <check.h>

#include "tests/unit/support/pair.h"
#include "tests/unit/support/proxy.h"

#define REGION    2048         /* pages that are written */
#define BANDWIDTH (8ull << 20) /* of the wire */
#define LIMIT_MS  100

static void begin_up(struct pair *p, struct mig_params *params)
{
	synth_fill(p->src, 0, REGION);
	synth_start_writer(p->src, 0, REGION, 16000);
	mig_params_default(params);
	params->downtime_limit_ms = LIMIT_MS;
	params->throttle.auto_converge = true;
}

static void begin(struct pair *p, uint64_t seed, struct mig_params *params)
{
	pair_up(p, 16 * PAIR_MIB, seed);
	begin_up(p, params);
}

static void send_slowly(struct pair *p, struct proxy *wire, const struct mig_params *params)
{
	proxy_start_slow(wire, synth_uri(p->dst), BANDWIDTH);
	synth_send_params(p->src, wire->uri, params);
}

static void down(struct pair *p, struct proxy *wire)
{
	pair_down(p);
	proxy_stop(wire);
	proxy_free(wire);
}

static void wait_slowed(struct pair *p)
{
	uint64_t end_ns = clock_mono_ns() + SYNTH_WAIT_MS * NS_PER_MS;
	struct timespec ts = {.tv_nsec = 10 * (long)NS_PER_MS};

	while (atomic_load(&p->src->shares[0]) == MIG_SHARE_FULL && clock_mono_ns() < end_ns)
		(void)nanosleep(&ts, NULL);
	ck_assert_uint_lt(atomic_load(&p->src->shares[0]), MIG_SHARE_FULL);
}

/* Nobody is slowed any more, and the status says so. */
static void check_free(struct pair *p)
{
	struct mig_status st = synth_status(p->src);

	ck_assert_uint_eq(atomic_load(&p->src->shares[0]), MIG_SHARE_FULL);
	ck_assert_uint_eq(atomic_load(&p->src->shares[1]), MIG_SHARE_FULL);
	ck_assert(!st.throttle.active);
}

START_TEST(converges)
{
	struct mig_params params;
	struct mig_status st;
	struct proxy wire;
	struct pair p;

	begin(&p, 31, &params);
	params.throttle.converge_s = (uint64_t)_i;
	send_slowly(&p, &wire, &params);
	st = pair_completes(&p);
	ck_assert_uint_lt(atomic_load(&p.src->lowest_shares[0]), MIG_SHARE_FULL);
	/* The other vCPU does not write: not for a moment was it slowed. */
	ck_assert_uint_eq(atomic_load(&p.src->lowest_shares[1]), MIG_SHARE_FULL);
	ck_assert_uint_gt(st.throttle.stall_ns, 0);
	ck_assert_uint_eq(st.throttle.n_cpus, 2);
	check_free(&p);
	down(&p, &wire);
}
END_TEST

START_TEST(dirty_limit)
{
	struct mig_params params;
	struct proxy wire;
	struct pair p;

	begin(&p, 32, &params);
	params.throttle.auto_converge = false;
	params.throttle.dirty_limit = true;
	params.throttle.cpu_limit_mib_s = 2;
	send_slowly(&p, &wire, &params);
	(void)pair_completes(&p);
	ck_assert_uint_lt(atomic_load(&p.src->lowest_shares[0]), MIG_SHARE_FULL);
	check_free(&p);
	down(&p, &wire);
}
END_TEST

START_TEST(cancelled)
{
	struct mig_params params;
	struct proxy wire;
	struct pair p;

	begin(&p, 33, &params);
	params.downtime_limit_ms = 20; /* not soon */
	send_slowly(&p, &wire, &params);
	wait_slowed(&p);
	mig_source_cancel(p.src->source);
	pair_keeps(&p, MIG_CANCELLED, "cancelled");
	check_free(&p);
	down(&p, &wire);
}
END_TEST

/* The dirty log fails while the brake is on. */
START_TEST(fails)
{
	struct mig_params params;
	struct proxy wire;
	struct pair p;

	begin(&p, 34, &params);
	params.downtime_limit_ms = 20;
	send_slowly(&p, &wire, &params);
	wait_slowed(&p);
	atomic_store(&p.src->fail_at[SYNTH_HARVEST], atomic_load(&p.src->calls[SYNTH_HARVEST]) + 2);
	pair_keeps(&p, MIG_FAILED, "synthetic failure of harvest");
	check_free(&p);
	down(&p, &wire);
}
END_TEST

/* Readings of the dirty log that last until the guest is paused, and then until it runs again. */
struct slow_log {
	struct mig_dirty_source dirty; /* as it was: the source's */
	struct synth *s;
	atomic_bool on;
	atomic_uint outlasted, in_vain; /* pauses; of them, those that nothing ended */
};

static bool await_call(struct slow_log *log, enum synth_call call, uint64_t timeout_ns)
{
	uint64_t end_ns = clock_mono_ns() + timeout_ns;
	struct timespec ts = {.tv_nsec = (long)NS_PER_MS};

	while (!atomic_load(&log->s->calls[call]) && clock_mono_ns() < end_ns)
		(void)nanosleep(&ts, NULL);
	return atomic_load(&log->s->calls[call]);
}

static int slow_harvest(void *ctx, struct mig_bitmap *into, struct err *e)
{
	struct slow_log *log = ctx;

	/* A second, and no more: for this one it may be that the source waits itself. */
	if (atomic_load(&log->on) && await_call(log, SYNTH_PAUSE, NS_PER_SEC)) {
		atomic_fetch_add(&log->outlasted, 1);
		if (!await_call(log, SYNTH_RESUME, SYNTH_WAIT_MS * NS_PER_MS))
			atomic_fetch_add(&log->in_vain, 1);
	}
	return log->dirty.harvest(log->s, into, e);
}

static int slow_start(void *ctx, struct err *e)
{
	return ((struct slow_log *)ctx)->dirty.start(((struct slow_log *)ctx)->s, e);
}

static int slow_protect(void *ctx, unsigned block, uint64_t first_word, const uint64_t *mask,
			uint64_t n_words, struct err *e)
{
	struct slow_log *log = ctx;

	return log->dirty.protect(log->s, block, first_word, mask, n_words, e);
}

static void slow_stop(void *ctx)
{
	((struct slow_log *)ctx)->dirty.stop(((struct slow_log *)ctx)->s);
}

/*
 * The brake is in the middle of a reading when the switchover fails: the guest runs on before that
 * is through. When the source has read the log itself, the brake is next at once, having come
 * meanwhile.
 */
START_TEST(fails_while_it_reads)
{
	struct mig_params params;
	struct slow_log log = {.s = NULL};
	struct proxy wire;
	struct pair p;

	begin(&p, 38, &params);
	params.downtime_limit_ms = 20;
	log.s = p.src;
	log.dirty = p.src->dirty;
	p.src->dirty = (struct mig_dirty_source){.ctx = &log,
						 .start = slow_start,
						 .harvest = slow_harvest,
						 .protect = slow_protect,
						 .stop = slow_stop};
	send_slowly(&p, &wire, &params);
	wait_slowed(&p);
	atomic_store(&p.src->fail_at[SYNTH_COLLECT], 1);
	atomic_store(&log.on, true);
	params.downtime_limit_ms = 60000;
	mig_source_set_params(p.src->source, &params);
	pair_keeps(&p, MIG_FAILED, "synthetic failure of collect");
	ck_assert_uint_ge(atomic_load(&log.outlasted), 1);
	ck_assert_uint_eq(atomic_load(&log.in_vain), 0);
	check_free(&p);
	down(&p, &wire);
}
END_TEST

/* Nobody asked for it; or not even an empty rest would fit: the guest is left alone. */
START_TEST(stays_off)
{
	struct mig_params params;
	struct proxy wire;
	struct pair p;

	begin(&p, 35, &params);
	params.throttle.auto_converge = _i;
	params.downtime_limit_ms = _i ? 1 : LIMIT_MS;
	send_slowly(&p, &wire, &params);
	ck_assert(watch_wait_pass(&p.src->watch, 4, SYNTH_WAIT_MS));
	ck_assert_uint_eq(atomic_load(&p.src->lowest_shares[0]), MIG_SHARE_FULL);
	pair_set_params(&p, 0, 2000);
	(void)pair_completes(&p);
	down(&p, &wire);
}
END_TEST

/* One rehearsal in a bad moment, by which nothing would ever fit, does not keep the brake off. */
START_TEST(slow_rehearsal)
{
	struct mig_params params;
	struct mig_status st;
	struct proxy wire;
	struct pair p;

	pair_up_rehearsing(&p, 16 * PAIR_MIB, 37);
	begin_up(&p, &params);
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 2 * LIMIT_MS * NS_PER_MS);
	send_slowly(&p, &wire, &params);
	ck_assert(watch_wait_pass(&p.src->watch, 3, SYNTH_WAIT_MS));
	st = synth_status(p.src);
	ck_assert_uint_gt(st.least_downtime_ns, LIMIT_MS * NS_PER_MS);
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 0);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.rehearsals, 2);
	ck_assert_uint_lt(atomic_load(&p.src->lowest_shares[0]), MIG_SHARE_FULL);
	down(&p, &wire);
}
END_TEST

/* A guest that the wire keeps up with is left alone too. */
START_TEST(not_needed)
{
	struct mig_params params;
	struct pair p;

	begin(&p, 36, &params);
	params.downtime_limit_ms = 2000;
	synth_send_params(p.src, synth_uri(p.dst), &params);
	(void)pair_completes(&p);
	ck_assert_uint_eq(atomic_load(&p.src->lowest_shares[0]), MIG_SHARE_FULL);
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine throttle", TIMES(3, converges), dirty_limit, cancelled, fails,
	   fails_while_it_reads, TIMES(2, stays_off), not_needed, slow_rehearsal)
