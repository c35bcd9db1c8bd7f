/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy against simulated guests: every vCPU writes pages of its own region, in order or
 * anywhere, as fast as its share lets it; the wire sends what is dirty, pass by pass, as precopy
 * does. Time is simulated, so the figures are exact.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "mem/mem.h"
#include "migration/throttle.h"
#include "tests/support/suite.h"

#define CPUS     4
#define TICK_S   0.01
#define STEPS    20 /* ticks in a step of the throttle: 200 ms */
#define REGION   8192
#define N_PAGES  ((uint64_t)CPUS * REGION)
#define PAGE     ((double)MEM_PAGE_BYTES)
#define SHARE(t) ((double)(t)->cpus[0].share / MIG_SHARE_FULL)

struct sim {
	/* given */
	double rate[CPUS];    /* writes a second */
	bool anywhere;        /* not in order */
	bool uncounted[CPUS]; /* KVM tells nothing of its writes */
	bool idle[CPUS];      /* uses no processor time */
	double device;        /* writes a second that are no vCPU's, into the last region */
	double wire;          /* pages a second */
	double noise;         /* 0 to 1: how far a step's rates stray */
	uint64_t fit;         /* pages */
	unsigned log_lag;     /* ticks by which every other step reads the log before the counts */
	/* state */
	bool dirty[N_PAGES];
	uint64_t n_dirty, new_pages, cursor, random;
	double writes_due[CPUS + 1], send_due, now_s;
	uint64_t next[CPUS + 1];
	struct mig_throttle t;
	struct mig_throttle_view v;
	bool throttled;
	/* results */
	double lost_s[CPUS];
	unsigned lowest[CPUS], turns, steps;
	int direction;
};

static uint64_t sim_random(struct sim *s)
{
	s->random = s->random * 6364136223846793005ull + 1442695040888963407ull;
	return s->random >> 33;
}

static void write_page(struct sim *s, unsigned cpu)
{
	unsigned region = cpu < CPUS ? cpu : CPUS - 1;
	uint64_t page =
		(uint64_t)region * REGION + (s->anywhere ? sim_random(s) : s->next[cpu]++) % REGION;

	if (s->dirty[page])
		return;
	s->dirty[page] = true;
	s->n_dirty++;
	s->new_pages++;
	if (cpu == CPUS)
		s->v.host_pages++;
	else if (!s->uncounted[cpu])
		s->v.cpus[cpu].writes++;
}

static void send_pages(struct sim *s)
{
	uint64_t looked = 0;

	s->send_due += s->wire * TICK_S;
	for (; s->send_due >= 1 && looked < N_PAGES; looked++) {
		uint64_t page = s->cursor++ % N_PAGES;

		if (!s->dirty[page])
			continue;
		s->dirty[page] = false;
		s->n_dirty--;
		s->send_due -= 1;
	}
	if (looked == N_PAGES)
		s->send_due = 0;
}

static double stray(struct sim *s)
{
	return 1 + s->noise * ((double)(sim_random(s) % 2001) / 1000 - 1);
}

static void tick(struct sim *s)
{
	for (unsigned i = 0; i < CPUS; i++) {
		double share = s->throttled ? (double)s->t.cpus[i].share / MIG_SHARE_FULL : 1;

		for (s->writes_due[i] += s->rate[i] * share * stray(s) * TICK_S;
		     s->writes_due[i] >= 1; s->writes_due[i] -= 1)
			write_page(s, i);
		if (s->idle[i])
			continue;
		s->v.cpus[i].run_ns += (uint64_t)(share * TICK_S * 1e9);
		s->v.cpus[i].stall_ns += (uint64_t)((1 - share) * TICK_S * 1e9);
		s->lost_s[i] += (1 - share) * TICK_S;
	}
	for (s->writes_due[CPUS] += s->device * TICK_S; s->writes_due[CPUS] >= 1;
	     s->writes_due[CPUS] -= 1)
		write_page(s, CPUS);
	send_pages(s);
	s->now_s += TICK_S;
}

static void look(struct sim *s)
{
	s->v.now_ns = (uint64_t)(s->now_s * 1e9) + 1;
	s->v.wire_bytes_s = (uint64_t)(s->wire * stray(s) * PAGE);
	s->v.rest_bytes = s->n_dirty * MEM_PAGE_BYTES;
	s->v.fit_bytes = s->fit * MEM_PAGE_BYTES;
	s->v.new_pages = s->new_pages;
}

/* Turns: how often vCPU 0's share changes its direction, small wobbles aside. */
static void watch_shares(struct sim *s, unsigned before)
{
	int moved = (int)s->t.cpus[0].share - (int)before;

	s->steps++;
	if (abs(moved) * 20 > (int)before) {
		s->turns += s->direction && (moved > 0) != (s->direction > 0);
		s->direction = moved;
	}
	for (unsigned i = 0; i < CPUS; i++)
		if (s->t.cpus[i].share < s->lowest[i])
			s->lowest[i] = s->t.cpus[i].share;
}

static void one_step(struct sim *s)
{
	unsigned before = s->t.cpus[0].share;
	uint64_t logged = 0;

	for (unsigned i = 0; i < STEPS; i++) {
		tick(s);
		if (i + 1 + s->log_lag == STEPS)
			logged = s->new_pages;
	}
	look(s);
	if (s->steps % 2)
		s->v.new_pages = logged;
	mig_throttle_step(&s->t, &s->v);
	watch_shares(s, before);
}

/* Everything dirty, and so it stays for a while; then the throttle begins. */
static struct sim *sim_new(double wire, const double rate[CPUS])
{
	struct sim *s = calloc(1, sizeof(*s));

	ck_assert_ptr_nonnull(s);
	s->wire = wire;
	s->fit = (uint64_t)(wire * 0.2);
	memcpy(s->rate, rate, sizeof(s->rate));
	s->t.aim.min_share = MIG_SHARE_MIN;
	memset(s->dirty, true, sizeof(s->dirty));
	s->n_dirty = N_PAGES;
	for (unsigned i = 0; i < CPUS; i++)
		s->lowest[i] = MIG_SHARE_FULL;
	return s;
}

static void sim_begin(struct sim *s)
{
	for (unsigned i = 0; i < 2000; i++) /* 20 s by itself */
		tick(s);
	look(s);
	mig_throttle_begin(&s->t, CPUS, &s->v);
	s->throttled = true;
}

/* Seconds until the rest fits, at most `max_s`. */
static double converge(struct sim *s, double max_s)
{
	double begin_s = s->now_s;

	while (s->n_dirty > s->fit && s->now_s - begin_s < max_s)
		one_step(s);
	return s->now_s - begin_s;
}

static const double one_writer[CPUS] = {20000, 0, 0, 0};

/* One writes at twice what the wire carries, the others read: they are left alone. */
START_TEST(writer_and_readers)
{
	struct sim *s = sim_new(4000, one_writer);
	double took, rest_s;

	s->anywhere = _i & 1;
	s->noise = _i & 2 ? 0.3 : 0;
	sim_begin(s);
	ck_assert_uint_gt(s->n_dirty, s->fit * 4); /* it would never get done */
	rest_s = (double)s->n_dirty / s->wire;
	took = converge(s, 100);
	ck_assert_uint_le(s->n_dirty, s->fit);
	ck_assert_double_lt(took, rest_s * 4 + 2);
	ck_assert_double_lt(s->lost_s[0], took);
	for (unsigned i = 1; i < CPUS; i++) {
		ck_assert_uint_eq(s->lowest[i], MIG_SHARE_FULL);
		ck_assert_double_eq(s->lost_s[i], 0);
	}
	free(s);
}
END_TEST

/* A small writer beside two large ones keeps what it has; the large ones get equal rates. */
START_TEST(fair_shares)
{
	static const double rates[CPUS] = {20000, 500, 10000, 0};
	struct sim *s = sim_new(6000, rates);

	s->anywhere = true;
	sim_begin(s);
	(void)converge(s, 100);
	ck_assert_uint_le(s->n_dirty, s->fit);
	ck_assert_uint_eq(s->lowest[1], MIG_SHARE_FULL);
	ck_assert_uint_eq(s->lowest[3], MIG_SHARE_FULL);
	ck_assert_uint_lt(s->lowest[0], s->lowest[2]);
	free(s);
}
END_TEST

/*
 * What it costs the guest. Slowing is worth its price only while the guest makes more pages dirty
 * than are sent meanwhile, and the best that can be done from there on is to stop it.
 */
START_TEST(cheap)
{
	static const double wires[] = {12000, 8000, 4000};

	for (unsigned i = 0; i < 6; i++) {
		struct sim *s = sim_new(wires[i / 2], one_writer);
		double best_s = (1 / s->wire - 1 / s->rate[0]) * REGION;

		s->anywhere = i & 1;
		sim_begin(s);
		(void)converge(s, 100);
		ck_assert_uint_le(s->n_dirty, s->fit);
		ck_assert_double_lt(s->lost_s[0], best_s * 1.5 + 0.6);
		free(s);
	}
}
END_TEST

/* With a given time it is done by then, and slowed no more than that needs. */
START_TEST(given_time)
{
	static const unsigned times_s[] = {2, 4, 8};
	double lost_s = 1e9;

	for (unsigned i = 0; i < 3; i++) {
		struct sim *s = sim_new(4000, one_writer);
		unsigned lowest;
		double took;

		s->anywhere = true;
		s->t.aim.converge_ns = times_s[i] * NS_PER_SEC;
		sim_begin(s);
		took = converge(s, 200);
		ck_assert_double_lt(took, times_s[i] * 1.3);
		lowest = s->lowest[0];
		ck_assert_uint_lt(lowest, MIG_SHARE_FULL / 2);
		/* More time, less of the guest's speed taken. */
		ck_assert_double_lt(s->lost_s[0] / took, lost_s);
		lost_s = s->lost_s[0] / took;
		free(s);
	}
}
END_TEST

/* The shares go down and stay where they are needed: no swinging. */
START_TEST(no_swinging)
{
	struct sim *s = sim_new(4000, one_writer);

	s->anywhere = true;
	s->noise = 0.3;
	sim_begin(s);
	for (unsigned i = 0; i < 300; i++) /* far beyond convergence */
		one_step(s);
	ck_assert_uint_lt(s->turns, s->steps / 20);
	free(s);
}
END_TEST

/* A guest that the wire keeps up with is not slowed, however much of the wire it takes. */
START_TEST(keeps_up)
{
	static const double rates[CPUS] = {3000, 200, 0, 0};
	struct sim *s = sim_new(4000, rates);

	s->anywhere = _i;
	sim_begin(s);
	for (unsigned i = 0; i < 100; i++)
		one_step(s);
	for (unsigned i = 0; i < CPUS; i++)
		ck_assert_uint_eq(s->lowest[i], MIG_SHARE_FULL);
	free(s);
}
END_TEST

/* Who stops writing is let go soon. */
START_TEST(calm_again)
{
	struct sim *s = sim_new(4000, one_writer);

	s->anywhere = true;
	sim_begin(s);
	for (unsigned i = 0; i < 15; i++)
		one_step(s);
	ck_assert_double_lt(SHARE(&s->t), 0.8);
	s->rate[0] = 300;
	for (unsigned i = 0; i < 50; i++)
		one_step(s);
	ck_assert_uint_eq(s->t.cpus[0].share, MIG_SHARE_FULL);
	free(s);
}
END_TEST

/* Where nobody counts the writes, time does: it converges, and who is idle is left alone. */
START_TEST(uncounted)
{
	struct sim *s = sim_new(4000, one_writer);

	s->anywhere = s->uncounted[0] = true;
	s->idle[2] = s->idle[3] = true;
	sim_begin(s);
	(void)converge(s, 100);
	ck_assert_uint_le(s->n_dirty, s->fit);
	ck_assert_uint_lt(s->lowest[1], MIG_SHARE_FULL);
	ck_assert_uint_eq(s->lowest[2], MIG_SHARE_FULL);
	ck_assert_uint_eq(s->lowest[3], MIG_SHARE_FULL);
	free(s);
}
END_TEST

/* What was counted before the log showed it is not put down to anybody else when it does. */
START_TEST(counted_before_it_is_logged)
{
	struct sim *s = sim_new(4000, one_writer);

	s->log_lag = STEPS / 2;
	sim_begin(s);
	(void)converge(s, 100);
	ck_assert_uint_le(s->n_dirty, s->fit);
	for (unsigned i = 1; i < CPUS; i++)
		ck_assert_uint_eq(s->lowest[i], MIG_SHARE_FULL);
	free(s);
}
END_TEST

/* One writer's pages are counted, another's are not: both are slowed. */
START_TEST(half_counted)
{
	static const double rates[CPUS] = {20000, 20000, 0, 0};
	struct sim *s = sim_new(4000, rates);

	s->anywhere = s->uncounted[0] = s->idle[2] = s->idle[3] = true;
	sim_begin(s);
	(void)converge(s, 100);
	ck_assert_uint_le(s->n_dirty, s->fit);
	ck_assert_uint_lt(s->lowest[0], MIG_SHARE_FULL / 2);
	ck_assert_uint_lt(s->lowest[1], MIG_SHARE_FULL / 2);
	ck_assert_uint_eq(s->lowest[2], MIG_SHARE_FULL);
	free(s);
}
END_TEST

/* What a device writes is nobody's fault. */
START_TEST(device_writes)
{
	static const double rates[CPUS] = {300, 0, 0, 0};
	struct sim *s = sim_new(4000, rates);

	s->device = 8000;
	sim_begin(s);
	(void)converge(s, 10);
	for (unsigned i = 0; i < CPUS; i++)
		ck_assert_uint_eq(s->lowest[i], MIG_SHARE_FULL);
	free(s);
}
END_TEST

/* No share falls below the least, and a limit for each vCPU is kept. */
START_TEST(limits)
{
	struct sim *s = sim_new(50, one_writer);

	s->anywhere = true;
	s->t.aim.min_share = 300;
	sim_begin(s);
	(void)converge(s, 20);
	ck_assert_uint_eq(s->lowest[0], 300);
	free(s);

	s = sim_new(4000, one_writer);
	s->anywhere = true;
	s->t.aim.cpu_limit_pages_s = 1000;
	sim_begin(s);
	for (unsigned i = 0; i < 100; i++)
		one_step(s);
	ck_assert_double_gt(s->t.cpus[0].rate, 700);
	ck_assert_double_lt(s->t.cpus[0].rate, 1300);
	free(s);
}
END_TEST

START_TEST(trigger)
{
	struct mig_throttle_trigger t = {0};

	ck_assert(!mig_throttle_needed(&t, 1000, 600, 50));
	ck_assert(!mig_throttle_needed(&t, 1000, 400, 50)); /* that was progress */
	ck_assert(!mig_throttle_needed(&t, 1000, 600, 50));
	ck_assert(mig_throttle_needed(&t, 600, 590, 50));
	ck_assert(mig_throttle_needed(&t, 590, 580, 50));
	ck_assert(!mig_throttle_needed(&t, 580, 100, 50));
	t.strikes = 0;
	ck_assert(!mig_throttle_needed(&t, 0, 1, 50));
	ck_assert(!mig_throttle_needed(&t, 0, 0, 50));
	ck_assert(!mig_throttle_needed(&t, UINT64_MAX, UINT64_MAX, 50));
	ck_assert(mig_throttle_needed(&t, UINT64_MAX, UINT64_MAX, 50));
}
END_TEST

SUITE("throttle", TIMES(4, writer_and_readers), fair_shares, cheap, given_time, no_swinging,
      TIMES(2, keeps_up), calm_again, uncounted, counted_before_it_is_logged, half_counted,
      device_writes, limits, trigger)
