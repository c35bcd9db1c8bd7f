/* SPDX-License-Identifier: Apache-2.0 */
/* The sync worker on a dirty source that only counts. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "migration/sync.h"
#include "tests/support/suite.h"

#define PAGES 4096

struct counting {
	pthread_mutex_t lock;
	unsigned harvests, fail_from; /* 0 = never */
	uint64_t next_page, new_pages, takes_ns;
	struct mig_bitmap map;
	struct mig_dirty_source source;
	struct mig_sync sync;
};

static void nap(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	(void)nanosleep(&ts, NULL);
}

/* Reports so many pages that were not reported before. */
static int harvest(void *ctx, struct mig_bitmap *into, struct err *e)
{
	struct counting *c = ctx;
	unsigned n;

	nap(c->takes_ns);
	pthread_mutex_lock(&c->lock);
	n = ++c->harvests;
	pthread_mutex_unlock(&c->lock);
	if (c->fail_from && n >= c->fail_from)
		return err_set(e, EIO, "no log today");
	for (uint64_t i = 0; i < c->new_pages; i++, c->next_page++)
		(void)mig_bitmap_or(into, 0, c->next_page % PAGES / 64, 1ull << c->next_page % 64);
	return 0;
}

static unsigned harvests(struct counting *c)
{
	unsigned n;

	pthread_mutex_lock(&c->lock);
	n = c->harvests;
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void up(struct counting *c, uint64_t background_ns)
{
	uint64_t pages = PAGES;
	struct err e = ERR_INIT;

	memset(c, 0, sizeof(*c));
	(void)pthread_mutex_init(&c->lock, NULL);
	c->new_pages = 10;
	c->source = (struct mig_dirty_source){.ctx = c, .harvest = harvest};
	ck_assert_int_eq(mig_bitmap_init(&c->map, &pages, 1), 0);
	ck_assert_int_eq(mig_sync_start(&c->sync, &c->source, &c->map, background_ns, &e), 0);
}

static void down(struct counting *c)
{
	mig_sync_stop(&c->sync);
	mig_bitmap_free(&c->map);
	(void)pthread_mutex_destroy(&c->lock);
}

START_TEST(on_request)
{
	struct mig_sync_figures f;
	struct err e = ERR_INIT;
	struct counting c;

	up(&c, 3600 * NS_PER_SEC);
	c.takes_ns = NS_PER_MS;
	for (unsigned i = 1; i <= 20; i++) {
		ck_assert_int_eq(mig_sync_now(&c.sync, &e), 0);
		ck_assert_uint_eq(harvests(&c), i);
		ck_assert_uint_eq(mig_bitmap_count(&c.map), i * 10);
	}
	f = mig_sync_figures(&c.sync);
	ck_assert_uint_eq(f.syncs, 20);
	ck_assert_uint_eq(f.background_syncs, 0);
	ck_assert_uint_eq(f.last_new_pages, 10);
	ck_assert_uint_ge(f.last_ns, NS_PER_MS);
	ck_assert_uint_ge(f.total_ns, 20 * NS_PER_MS);
	/* 10 pages a sync that takes a millisecond at least. */
	ck_assert_uint_gt(f.dirty_pages_per_s, 0);
	ck_assert_uint_le(f.dirty_pages_per_s, 10000);
	down(&c);
}
END_TEST

START_TEST(never_unasked)
{
	struct counting c;

	up(&c, 2 * NS_PER_MS);
	nap(50 * NS_PER_MS);
	ck_assert_uint_eq(harvests(&c), 0);
	mig_sync_iteration(&c.sync, false);
	nap(50 * NS_PER_MS);
	ck_assert_uint_eq(harvests(&c), 0);
	down(&c);
}
END_TEST

START_TEST(in_the_background)
{
	uint64_t begin_ns = clock_mono_ns(), end_ns = begin_ns + 10 * NS_PER_SEC;
	struct mig_sync_figures f;
	struct err e = ERR_INIT;
	struct counting c;
	unsigned n;

	up(&c, 20 * NS_PER_MS);
	mig_sync_iteration(&c.sync, true);
	while (harvests(&c) < 3 && clock_mono_ns() < end_ns)
		nap(NS_PER_MS);
	ck_assert_uint_ge(harvests(&c), 3);
	ck_assert_uint_ge(clock_mono_ns() - begin_ns, 60 * NS_PER_MS);
	/* One that is asked for comes in between, and counts as such. */
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), 0);
	mig_sync_iteration(&c.sync, false);
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), 0);
	n = harvests(&c);
	f = mig_sync_figures(&c.sync);
	ck_assert_uint_eq(f.syncs, n);
	ck_assert_uint_eq(f.background_syncs + 2, f.syncs);
	nap(60 * NS_PER_MS);
	ck_assert_uint_eq(harvests(&c), n);
	down(&c);
}
END_TEST

/* A short iteration is over before the period is: no background sync. */
START_TEST(short_iterations)
{
	struct counting c;

	up(&c, 2 * NS_PER_SEC);
	for (unsigned i = 0; i < 50; i++) {
		mig_sync_iteration(&c.sync, true);
		nap(NS_PER_MS);
	}
	mig_sync_iteration(&c.sync, false);
	ck_assert_uint_eq(harvests(&c), 0);
	down(&c);
}
END_TEST

START_TEST(errors)
{
	struct err e = ERR_INIT;
	struct counting c;

	up(&c, 3600 * NS_PER_SEC);
	c.fail_from = 3;
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), 0);
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), 0);
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), -EIO);
	ck_assert_str_eq(e.msg, "no log today");
	/* It stays so. */
	err_clear(&e);
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), -EIO);
	ck_assert_str_eq(e.msg, "no log today");
	ck_assert_uint_eq(mig_sync_figures(&c.sync).syncs, 2);
	down(&c);
}
END_TEST

/* A background sync fails: whoever asks next is told, and it is not tried for ever. */
START_TEST(background_error)
{
	uint64_t end_ns = clock_mono_ns() + 10 * NS_PER_SEC;
	struct err e = ERR_INIT;
	struct counting c;
	unsigned n;

	up(&c, NS_PER_MS);
	c.fail_from = 1;
	mig_sync_iteration(&c.sync, true);
	while (!harvests(&c) && clock_mono_ns() < end_ns)
		nap(NS_PER_MS);
	nap(20 * NS_PER_MS);
	n = harvests(&c);
	ck_assert_uint_eq(n, 1);
	ck_assert_int_eq(mig_sync_now(&c.sync, &e), -EIO);
	ck_assert_str_eq(e.msg, "no log today");
	down(&c);
}
END_TEST

/* A request that comes while a background sync runs gets one that begins after it. */
START_TEST(whole_syncs_only)
{
	struct err e = ERR_INIT;
	struct counting c;

	up(&c, NS_PER_MS);
	c.takes_ns = 10 * NS_PER_MS;
	mig_sync_iteration(&c.sync, true);
	for (unsigned i = 0; i < 10; i++) {
		unsigned before;

		nap(3 * NS_PER_MS);
		before = harvests(&c);
		ck_assert_int_eq(mig_sync_now(&c.sync, &e), 0);
		ck_assert_uint_ge(harvests(&c), before + 1);
	}
	down(&c);
}
END_TEST

START_TEST(ends_at_once)
{
	for (unsigned i = 0; i < 50; i++) {
		struct counting c;

		up(&c, NS_PER_MS);
		mig_sync_iteration(&c.sync, i % 2);
		nap(i * 100 * NS_PER_US);
		down(&c);
	}
}
END_TEST

SUITE("sync", on_request, never_unasked, in_the_background, short_iterations, errors,
      background_error, whole_syncs_only, ends_at_once)
