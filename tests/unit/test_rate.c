/* SPDX-License-Identifier: Apache-2.0 */
/* The bandwidth estimate and the limit, with made-up clocks. */
#include <check.h>

#include "base/clock.h"
#include "migration/rate.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/synth_writer.h"

#define START (1000 * NS_PER_SEC)

static void near(uint64_t is, uint64_t wanted)
{
	ck_assert_uint_ge(is, wanted - wanted / 100 - 1);
	ck_assert_uint_le(is, wanted + wanted / 100 + 1);
}

START_TEST(before_anything)
{
	struct mig_rate r = {0};

	ck_assert_uint_gt(mig_rate_bytes_s(&r), 1 << 20);
	ck_assert_uint_eq(mig_rate_time_ns(&r, 0), 0);
	mig_rate_pause(&r, START);
	mig_rate_update(&r, 0, 0, START + 1);
	ck_assert_uint_gt(mig_rate_bytes_s(&r), 1 << 20);
}
END_TEST

START_TEST(steady)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 0;

	mig_rate_resume(&r, now);
	for (unsigned i = 0; i < 1000; i++) {
		now += NS_PER_MS;
		bytes += 50000;
		mig_rate_update(&r, bytes, 0, now);
		if (i > 2)
			near(mig_rate_bytes_s(&r), 50000000);
	}
	ck_assert(r.measured);
	near(mig_rate_time_ns(&r, 5000000), 100 * NS_PER_MS);
}
END_TEST

/* Syncs and sleeps are not sending time. */
START_TEST(pauses_do_not_count)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 0;

	for (unsigned i = 0; i < 300; i++) {
		mig_rate_resume(&r, now);
		now += NS_PER_MS;
		bytes += 20000;
		mig_rate_update(&r, bytes, 0, now);
		mig_rate_pause(&r, now);
		mig_rate_pause(&r, now + 5); /* twice: no matter */
		now += 10 * NS_PER_MS;
	}
	near(mig_rate_bytes_s(&r), 20000000);
}
END_TEST

START_TEST(follows_a_change)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 0;

	mig_rate_resume(&r, now);
	for (unsigned i = 0; i < 200; i++) {
		now += NS_PER_MS;
		mig_rate_update(&r, bytes += 100000, 0, now);
	}
	near(mig_rate_bytes_s(&r), 100000000);
	for (unsigned i = 0; i < 600; i++) {
		now += NS_PER_MS;
		mig_rate_update(&r, bytes += 10000, 0, now);
	}
	ck_assert_uint_lt(mig_rate_bytes_s(&r), 12000000);
	ck_assert_uint_ge(mig_rate_bytes_s(&r), 9900000);
}
END_TEST

/* Marks and runs of zeroes, and a round trip for each: no wire is measured by that. */
START_TEST(little_to_carry)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 0;

	mig_rate_resume(&r, now);
	for (unsigned i = 0; i < 1000; i++) {
		now += 20 * NS_PER_MS;
		mig_rate_update(&r, bytes += 36, 36, now);
	}
	ck_assert_uint_gt(mig_rate_bytes_s(&r), 1 << 20);
	for (unsigned i = 0; i < 200; i++) {
		now += NS_PER_MS;
		mig_rate_update(&r, bytes += 100000, 0, now);
	}
	ck_assert_uint_gt(mig_rate_bytes_s(&r), 60000000);
	for (unsigned i = 0; i < 1000; i++) {
		now += 20 * NS_PER_MS;
		mig_rate_update(&r, bytes += 36, 36, now);
	}
	ck_assert_uint_gt(mig_rate_bytes_s(&r), 50000000);
	/* And what it carries next counts as ever. */
	for (unsigned i = 0; i < 600; i++) {
		now += NS_PER_MS;
		mig_rate_update(&r, bytes += 50000, 0, now);
	}
	ck_assert_uint_lt(mig_rate_bytes_s(&r), 55000000);
}
END_TEST

/* Passes of one page and a mark, each with its round trip, behind a wire that had stood still. */
static void small_passes(struct mig_rate *r, uint64_t *now, uint64_t *bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		mig_rate_resume(r, *now);
		*now += NS_PER_MS / 10;
		mig_rate_update(r, *bytes, 0, *now);
		*now += 50 * NS_PER_MS;
		mig_rate_update(r, *bytes += 4200, 0, *now);
		mig_rate_pause(r, *now);
		mig_rate_pass(r);
	}
}

START_TEST(stood_still)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 14000, before;

	mig_rate_resume(&r, now);
	now += 5 * NS_PER_SEC;
	mig_rate_update(&r, bytes, 1 << 20, now);
	mig_rate_pass(&r);
	near(mig_rate_bytes_s(&r), 2800);
	small_passes(&r, &now, &bytes, 100);
	ck_assert_uint_gt(mig_rate_bytes_s(&r), 50000000);
	/* Nothing is known by that: up to the first guess it goes, and not on. */
	small_passes(&r, &now, &bytes, 1000);
	before = mig_rate_bytes_s(&r);
	ck_assert_uint_lt(before, 120000000);
	small_passes(&r, &now, &bytes, 10);
	ck_assert_uint_eq(mig_rate_bytes_s(&r), before);
}
END_TEST

/* Short passes on a slow wire, of which not every one fills a window. */
START_TEST(borne_out)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 0;

	for (unsigned i = 0; i < 1000; i++) {
		mig_rate_resume(&r, now);
		mig_rate_update(&r, bytes, 20000, now);
		now += 20 * NS_PER_MS;
		mig_rate_update(&r, bytes += 20000, 0, now);
		mig_rate_pause(&r, now);
		mig_rate_pass(&r);
		now += 10 * NS_PER_MS;
		if (i > 3)
			near(mig_rate_bytes_s(&r), 1000000);
	}
}
END_TEST

/* As little, but pages wait for it: the wire is that slow. */
START_TEST(slow_wire)
{
	struct mig_rate r = {0};
	uint64_t now = START, bytes = 0;

	mig_rate_resume(&r, now);
	for (unsigned i = 0; i < 1000; i++) {
		now += 20 * NS_PER_MS;
		mig_rate_update(&r, bytes += 160, 40960, now);
		if (i > 20)
			near(mig_rate_bytes_s(&r), 8000);
	}
}
END_TEST

/* What the socket holds may grow faster than what leaves: the figure must not go backwards. */
START_TEST(odd_input)
{
	struct mig_rate r = {0};

	mig_rate_resume(&r, START);
	mig_rate_update(&r, 1000000, 0, START + 60 * NS_PER_MS);
	near(mig_rate_bytes_s(&r), 16666666);
	mig_rate_update(&r, 900000, 0, START + 120 * NS_PER_MS); /* less than before */
	near(mig_rate_bytes_s(&r), 16666666);
	mig_rate_update(&r, 900000, 0, START + 120 * NS_PER_MS); /* no time has passed */
	near(mig_rate_bytes_s(&r), 16666666);
	/* A crawl is a rate too, and never 0. */
	mig_rate_update(&r, 1000001, 0, START + 3600 * NS_PER_SEC);
	ck_assert_uint_ge(mig_rate_bytes_s(&r), 1);
	ck_assert_uint_ge(mig_rate_time_ns(&r, 1 << 20), mig_rate_time_ns(&r, 1 << 10));
}
END_TEST

/* Send chunks as the limit lets them; how long they took. */
static uint64_t send_limited(struct mig_limit *l, uint64_t chunk, unsigned n, uint64_t bytes_s,
			     uint64_t *now)
{
	uint64_t begin = *now;

	for (unsigned i = 0; i < n; i++)
		*now += mig_limit_wait_ns(l, chunk, bytes_s, *now);
	return *now - begin;
}

START_TEST(limit)
{
	struct mig_limit l = {0};
	uint64_t now = START, took;

	/* 100 MB at 100 MB/s: a second, less the first chunk and a little burst. */
	took = send_limited(&l, 1000000, 100, 100000000, &now);
	ck_assert_uint_ge(took, 960 * NS_PER_MS);
	ck_assert_uint_le(took, 1000 * NS_PER_MS);
	/* A long pause is not saved up for. */
	now += 100 * NS_PER_SEC;
	took = send_limited(&l, 1000000, 100, 100000000, &now);
	ck_assert_uint_ge(took, 960 * NS_PER_MS);
	/* None. */
	ck_assert_uint_eq(send_limited(&l, 1 << 20, 1000, 0, &now), 0);
}
END_TEST

/*
 * Whatever the scheduler does, no second has more than 3 % above the limit, and as long as it is
 * not late for more than it can make up for, all seconds together have it.
 */
static void any_second(uint64_t bytes_s, uint64_t chunk, uint64_t late_ns, unsigned often)
{
	static uint64_t at[200000], sent[200000]; /* when, and how much in all before */
	struct mig_limit l = {0};
	uint64_t now = START, total = 0, random = bytes_s + often;
	unsigned n = 0, from = 0;

	while (now < START + 20 * NS_PER_SEC && n < 200000) {
		now += mig_limit_wait_ns(&l, chunk, bytes_s, now) + 20 * NS_PER_US;
		if (often && synth_random(&random) % often == 0)
			now += synth_random(&random) % late_ns;
		at[n] = now;
		sent[n++] = total;
		total += chunk;
		while (at[from] + NS_PER_SEC < now)
			from++;
		ck_assert_uint_le(total - sent[from], bytes_s / 100 * 103 + chunk / 100);
	}
	ck_assert_uint_gt(now, START + 15 * NS_PER_SEC);
	ck_assert((double)total >=
		  (double)bytes_s * 0.97 * (double)(now - START) / (double)NS_PER_SEC);
}

START_TEST(limit_over_any_second)
{
	static const uint64_t limits[] = {1 << 20, 10 << 20, 40000000, 125000000, 1250000000};

	for (unsigned i = 0; i < 5; i++) {
		uint64_t chunk = mig_limit_chunk_bytes(limits[i]) / 4096 * 4096;

		if (chunk > 1 << 20)
			chunk = 1 << 20;
		any_second(limits[i], chunk, 1, 0);                    /* a quiet machine */
		any_second(limits[i], chunk, 3 * NS_PER_MS, 5);        /* a busy one */
		any_second(limits[i], chunk, 100 * NS_PER_MS, 100000); /* a hiccup now and then */
	}
}
END_TEST

START_TEST(limit_changes)
{
	struct mig_limit l = {0};
	uint64_t now = START, took;

	(void)send_limited(&l, 100000, 50, 10000000, &now);
	took = send_limited(&l, 100000, 100, 100000000, &now);
	/* At most the old debt (10 ms) and 10 MB at 100 MB/s. */
	ck_assert_uint_le(took, 115 * NS_PER_MS);
}
END_TEST

PAIR_SUITE("rate", before_anything, steady, pauses_do_not_count, follows_a_change, little_to_carry,
	   stood_still, borne_out, slow_wire, odd_input, limit, limit_over_any_second,
	   limit_changes)
