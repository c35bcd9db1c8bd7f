/* SPDX-License-Identifier: Apache-2.0 */
/* Passes beyond what the downtime limit needs: how many, for whom, for how long. */
#include <check.h>

#include "base/clock.h"
#include "migration/further.h"
#include "tests/support/suite.h"

#define MS    NS_PER_MS
#define WIRE  50.0e6 /* bytes a second */
#define LIMIT 0.3    /* seconds of downtime */
#define RAM   128.0e6

/* A guest that writes pages of all its RAM at random, at so many times the wire's speed. */
struct run {
	double fit_s, all_s, rest_s; /* when the rest fitted first, and what came of going on */
	unsigned passes;             /* after it fitted */
};

/* e to the power -x, for x from 0 to 1. */
static double fade(double x)
{
	double sum = 1, term = 1;

	for (int i = 1; i < 20; i++) {
		term *= -x / i;
		sum += term;
	}
	return sum;
}

static struct run migrate(double speed, bool slowed)
{
	struct run r = {0};
	struct mig_further f;
	double left = RAM, before;
	bool more = true;

	mig_further_begin(&f, 5 * NS_PER_SEC);
	while (more) {
		before = left;
		r.all_s += left / WIRE;
		left = RAM * (1 - fade(speed * left / RAM));
		if (left / WIRE > LIMIT)
			continue;
		if (r.passes++ == 0)
			r.fit_s = r.all_s;
		more = mig_further_wanted(&f, (uint64_t)before, (uint64_t)left,
					  (uint64_t)(left / WIRE * 1e9), slowed,
					  5 * NS_PER_SEC + (uint64_t)(r.all_s * 1e9));
	}
	r.rest_s = left / WIRE;
	return r;
}

START_TEST(slow_writers)
{
	struct run r = migrate(0.25, false);

	ck_assert(r.rest_s <= 0.002);
	ck_assert(r.all_s <= r.fit_s * 1.2);
	/* Also where vCPUs are slowed: it costs next to nothing. */
	r = migrate(0.45, true);
	ck_assert(r.rest_s <= 0.002);
	r = migrate(0.5, false);
	ck_assert(r.rest_s <= 0.003);
}
END_TEST

START_TEST(fast_writers)
{
	struct run r = migrate(0.9, false);

	ck_assert(r.rest_s < LIMIT / 2.5);
	/* The pass that was begun is ended. */
	ck_assert(r.all_s <= r.fit_s * 1.2 + LIMIT);
	ck_assert_uint_gt(r.passes, 3);
}
END_TEST

START_TEST(not_who_is_slowed)
{
	ck_assert_uint_eq(migrate(0.9, true).passes, 1);
}
END_TEST

START_TEST(ends)
{
	struct mig_further f;

	/* Passes that gain nothing, or hardly anything. */
	mig_further_begin(&f, 0);
	ck_assert(!mig_further_wanted(&f, 1000, 1000, 100 * MS, false, 5000 * MS));
	ck_assert(!mig_further_wanted(&f, 1000, 2000, 100 * MS, false, 5000 * MS));
	ck_assert(!mig_further_wanted(&f, 1000, 960, 100 * MS, false, 5000 * MS));
	ck_assert(mig_further_wanted(&f, 1000, 940, 100 * MS, false, 5000 * MS));
	/* A fifth of the time since the first pass, counted from the first fit. */
	ck_assert(mig_further_wanted(&f, 1000, 900, 100 * MS, false, 5999 * MS));
	ck_assert(!mig_further_wanted(&f, 1000, 900, 100 * MS, false, 6000 * MS));
	/* No word of time for those that halve it, but not for ever. */
	for (unsigned i = 0; i < 9; i++)
		ck_assert(mig_further_wanted(&f, 1000, 500, 100 * MS, true, 6000 * MS));
	ck_assert(!mig_further_wanted(&f, 1000, 500, 100 * MS, true, 6000 * MS));
	/* Nothing is left. */
	mig_further_begin(&f, 0);
	ck_assert(!mig_further_wanted(&f, 0, 0, 0, false, 0));
	ck_assert(!mig_further_wanted(&f, 1000, 10, 2 * MS, false, 0));
}
END_TEST

SUITE("further", slow_writers, fast_writers, not_who_is_slowed, ends)
