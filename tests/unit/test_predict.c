/* SPDX-License-Identifier: Apache-2.0 */
/* What a switchover is reckoned to cost: allowances, measurements, and what overran. */
#include <check.h>
#include <string.h>

#include "base/clock.h"
#include "migration/predict.h"
#include "tests/support/suite.h"

#define MS NS_PER_MS

static uint64_t cost(const struct mig_costs *c, enum mig_phase p)
{
	return c->cost[p].ns;
}

START_TEST(names)
{
	for (unsigned i = 0; i < MIG_PHASES; i++) {
		ck_assert_ptr_nonnull(mig_phase_name((enum mig_phase)i));
		for (unsigned k = 0; k < i; k++)
			ck_assert_str_ne(mig_phase_name((enum mig_phase)i),
					 mig_phase_name((enum mig_phase)k));
	}
	ck_assert(mig_phase_is_dest(MIG_PHASE_LOAD) && mig_phase_is_dest(MIG_PHASE_START));
	ck_assert(!mig_phase_is_dest(MIG_PHASE_STATE));
}
END_TEST

START_TEST(allowances)
{
	struct mig_costs few, many;

	mig_costs_init(&few, 1, 0);
	mig_costs_init(&many, 64, 10 * MS);
	ck_assert_uint_gt(cost(&few, MIG_PHASE_PAUSE), 0);
	ck_assert_uint_eq(cost(&many, MIG_PHASE_LOAD), 64 * cost(&few, MIG_PHASE_LOAD));
	ck_assert_uint_eq(cost(&many, MIG_PHASE_COMMIT), cost(&few, MIG_PHASE_COMMIT) + 10 * MS);
	ck_assert_uint_eq(cost(&few, MIG_PHASE_HELD), 0);
}
END_TEST

/* The first measurement replaces the allowance; then noise moves nothing, a change does. */
START_TEST(middle_of_the_last)
{
	struct mig_costs c;

	mig_costs_init(&c, 1, 0);
	mig_costs_learn(&c, MIG_PHASE_PAUSE, 3 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_PAUSE), 3 * MS);
	for (unsigned i = 0; i < 4; i++)
		mig_costs_learn(&c, MIG_PHASE_PAUSE, 2 * MS);
	mig_costs_learn(&c, MIG_PHASE_PAUSE, 500 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_PAUSE), 2 * MS);
	mig_costs_learn(&c, MIG_PHASE_PAUSE, 500 * MS);
	mig_costs_learn(&c, MIG_PHASE_PAUSE, 400 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_PAUSE), 400 * MS);
}
END_TEST

/* What is measured beside a running guest: the least counts. */
START_TEST(least_of_the_last)
{
	static const enum mig_phase shared[] = {MIG_PHASE_SYNC, MIG_PHASE_STATE, MIG_PHASE_LOAD,
						MIG_PHASE_COMMIT};

	for (unsigned k = 0; k < 4; k++) {
		struct mig_costs c;

		mig_costs_init(&c, 1, 0);
		mig_costs_learn(&c, shared[k], 30 * MS);
		mig_costs_learn(&c, shared[k], 10 * MS);
		mig_costs_learn(&c, shared[k], 20 * MS);
		ck_assert_uint_eq(cost(&c, shared[k]), 10 * MS);
		for (unsigned i = 0; i < MIG_COST_SAMPLES; i++)
			mig_costs_learn(&c, shared[k], 40 * MS);
		ck_assert_uint_eq(cost(&c, shared[k]), 40 * MS);
	}
}
END_TEST

START_TEST(what_overran)
{
	struct mig_costs c;

	mig_costs_init(&c, 1, 0);
	mig_costs_learn(&c, MIG_PHASE_LOAD, 2 * MS);
	mig_costs_overran(&c, MIG_PHASE_LOAD, 100 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_LOAD), 100 * MS);
	/* Less than is known already: nothing new. */
	mig_costs_overran(&c, MIG_PHASE_LOAD, 50 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_LOAD), 100 * MS);
	mig_costs_learn(&c, MIG_PHASE_LOAD, 2 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_LOAD), 50 * MS);
	for (unsigned i = 0; i < 10; i++)
		mig_costs_learn(&c, MIG_PHASE_LOAD, 2 * MS);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_LOAD), 2 * MS);
	mig_costs_overran(&c, MIG_PHASE_PAUSE, 100 * MS);
	mig_costs_fade(&c);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_PAUSE), 75 * MS);
	for (unsigned i = 0; i < 30; i++)
		mig_costs_fade(&c);
	ck_assert_uint_lt(cost(&c, MIG_PHASE_PAUSE), MS);
}
END_TEST

START_TEST(the_sum)
{
	uint64_t phases[MIG_PHASES], all = 0;
	struct mig_rate rate = {.bytes_s = 1000000, .measured = true};
	struct mig_costs c;

	mig_costs_init(&c, 2, MS);
	c.state_bytes = 5000;
	mig_costs_learn(&c, MIG_PHASE_STATE, 2 * MS);
	mig_costs_predict(&c, &rate, 100000, phases);
	ck_assert_uint_eq(phases[MIG_PHASE_PAGES], 100 * MS);
	ck_assert_uint_eq(phases[MIG_PHASE_STATE], 7 * MS);
	for (unsigned p = 0; p < MIG_PHASES; p++)
		all += phases[p];
	ck_assert_uint_eq(mig_phases_from(phases, MIG_PHASE_PAUSE), all);
	ck_assert_uint_eq(mig_phases_from(phases, MIG_PHASE_START), phases[MIG_PHASE_START]);
	/* No round trip is shorter than the network's. */
	mig_costs_learn(&c, MIG_PHASE_COMMIT, 1);
	ck_assert_uint_eq(cost(&c, MIG_PHASE_COMMIT), MS);
	/* Whatever is said, the sum is a number. */
	for (unsigned p = 0; p < MIG_PHASES; p++)
		mig_costs_overran(&c, (enum mig_phase)p, UINT64_MAX);
	rate.bytes_s = 1;
	mig_costs_predict(&c, &rate, UINT64_MAX, phases);
	ck_assert_uint_gt(mig_phases_from(phases, MIG_PHASE_PAUSE), 3600 * NS_PER_SEC);
}
END_TEST

SUITE("predict", names, allowances, middle_of_the_last, least_of_the_last, what_overran, the_sum)
