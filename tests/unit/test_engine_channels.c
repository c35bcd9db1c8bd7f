/* SPDX-License-Identifier: Apache-2.0 */
/* Whole migrations over several connections: what arrives is what left, in every order of arrival.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/support/pair.h"

#define NEVER_FITS_MS 1

static const unsigned numbers[] = {2, 4, 16};

static void up(struct pair *p, uint64_t ram_bytes, uint64_t seed, unsigned channels)
{
	pair_up(p, ram_bytes, seed);
	p->src->channels = channels;
}

/* Each connection had its share of the bytes, and they add up. */
static void check_shares(const struct mig_status *st, unsigned channels)
{
	uint64_t sum = 0;

	ck_assert_uint_eq(st->n_channels, channels);
	for (unsigned i = 0; i < channels; i++) {
		ck_assert_uint_gt(st->channel_bytes[i], 0);
		sum += st->channel_bytes[i];
	}
	ck_assert_uint_eq(sum, st->transferred_bytes);
}

START_TEST(idle)
{
	for (unsigned i = 0; i < 3; i++) {
		struct mig_status st;
		struct pair p;

		up(&p, 64 * PAIR_MIB, 1 + i, numbers[i]);
		synth_fill(p.src, 100, 12000);
		pair_send(&p, 300);
		st = pair_completes(&p);
		ck_assert_uint_eq(st.normal_pages, 12000);
		ck_assert_uint_eq(st.zero_pages, 64 * 256 - 12000);
		check_shares(&st, numbers[i]);
		st = synth_status(p.dst);
		ck_assert_uint_eq(st.n_channels, numbers[i]);
		ck_assert(p.guest.runs_at_dest);
		pair_down(&p);
	}
}
END_TEST

START_TEST(over_unix_socket)
{
	char dir[] = "/tmp/test_engine_XXXXXX", uri[64];
	struct mig_status st;
	struct pair p;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(uri, sizeof(uri), "unix:%s/s", dir);
	up(&p, 4 * PAIR_MIB, 2, 16);
	synth_listen(p.dst, uri);
	synth_fill(p.src, 0, 1024);
	pair_send(&p, 300);
	st = pair_completes(&p);
	check_shares(&st, 16);
	pair_down(&p);
	ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

/* Iterate for some passes beside a guest that writes, then let it finish. */
static void race(unsigned channels, uint64_t seed, uint64_t writes_per_s, bool host)
{
	struct mig_status st;
	struct pair p;

	up(&p, 8 * PAIR_MIB, seed, channels);
	synth_fill(p.src, seed % 7, 1500);
	synth_start_writer(p.src, 1, 1500, writes_per_s);
	if (host)
		synth_start_host_writer(p.src, 1600, 300);
	pair_send(&p, NEVER_FITS_MS);
	ck_assert(watch_wait_pass(&p.src->watch, 8, SYNTH_WAIT_MS));
	pair_set_params(&p, 0, 2000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.passes, 8);
	check_shares(&st, channels);
	pair_down(&p);
}

START_TEST(racing_writers)
{
	for (unsigned i = 0; i < 3; i++) {
		race(numbers[i], 10 + i, 0, false);
		race(numbers[i], 20 + i, i % 2 ? 0 : 4000, true);
	}
}
END_TEST

/* Many short ones, so that the switchover races with the writer in many ways. */
START_TEST(many_short_ones)
{
	for (uint64_t seed = 100; seed < 130; seed++) {
		struct pair p;

		up(&p, 2 * PAIR_MIB, seed, 2 + (unsigned)seed % 5);
		synth_start_writer(p.src, 0, 400, 0);
		synth_start_host_writer(p.src, 400, 112);
		ck_assert(synth_alive(p.src));
		pair_send(&p, 2000);
		(void)pair_completes(&p);
		pair_down(&p);
	}
}
END_TEST

/* One limit for all of them together. */
START_TEST(bandwidth_limit)
{
	struct mig_status st;
	struct pair p;

	up(&p, 8 * PAIR_MIB, 22, 4);
	synth_fill(p.src, 0, 2048);
	synth_send(p.src, synth_uri(p.dst), 16 << 20, 300);
	st = pair_completes(&p);
	/* 8 MiB at 16 MiB/s take 500 ms, less one chunk each and a burst of a tenth of a second. */
	ck_assert_uint_ge(st.total_ns, 300 * NS_PER_MS);
	pair_down(&p);
}
END_TEST

/* Some of the last pages go over all connections; called off in their middle, none is lost. */
START_TEST(called_off_half_way)
{
	struct mig_status st;
	struct pair p;

	up(&p, 32 * PAIR_MIB, 9, 4);
	synth_fill(p.src, 0, 8192);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 300 * NS_PER_MS);
	pair_send(&p, 1000);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	for (uint64_t page = 0; page < 8000; page++)
		synth_store(p.src, page, page + 1);
	atomic_store(&p.src->delay_ns[SYNTH_PROTECT], 800 * NS_PER_MS);
	ck_assert(synth_wait(p.src, WATCH(MIG_ACTIVE)));
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 0);
	atomic_store(&p.src->delay_ns[SYNTH_PROTECT], 0);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.switchovers_called_off, 1);
	ck_assert_uint_eq(st.normal_pages, 8192 + 8000);
	pair_down(&p);
}
END_TEST

/*
 * Called off after END, again and again: the other connections' next pages may come before the
 * destination has read that, and must wait.
 */
START_TEST(called_off_at_the_end)
{
	for (unsigned round = 0; round < 2; round++) {
		unsigned n = 0;
		struct mig_status st;
		struct pair p;

		up(&p, 16 * PAIR_MIB, 70 + round, 4);
		synth_fill(p.src, 0, 4096);
		synth_start_writer(p.src, 0, 4096, 0);
		atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 600 * NS_PER_MS);
		pair_send(&p, 200);
		while (n < 2) {
			ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
			ck_assert(synth_wait(p.src, WATCH(MIG_ACTIVE) | WATCH_ENDED));
			/*
			 * Sometimes few, sometimes enough to be shared. Not before: a guest that
			 * stands still writes nothing.
			 */
			for (uint64_t page = 0; page < 10 + 1000 * (round % 2); page++)
				synth_store(p.src, page, page + n + 1);
			n = (unsigned)synth_status(p.src).switchovers_called_off;
			/* More than it has learned by now, less than loading takes. */
			atomic_store(&p.dst->delay_ns[SYNTH_APPLY], (1 + n) * 1500 * NS_PER_MS);
			pair_set_params(&p, 0, 200 + n * 700);
		}
		atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 0);
		pair_set_params(&p, 0, 4000);
		st = pair_completes(&p);
		ck_assert_uint_ge(st.switchovers_called_off, 2);
		ck_assert_uint_ge(atomic_load(&p.dst->calls[SYNTH_APPLY]), 2);
		pair_down(&p);
	}
}
END_TEST

/* The last pages over all connections, and the state behind them. */
START_TEST(shared_switchover)
{
	struct mig_status st;
	struct pair p;

	up(&p, 32 * PAIR_MIB, 31, 4);
	synth_fill(p.src, 0, 8192);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 300 * NS_PER_MS);
	pair_send(&p, 20000);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	for (uint64_t page = 0; page < 8000; page++)
		synth_store(p.src, page, page + 1);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.downtime_bytes, 8000 * MEM_PAGE_BYTES);
	pair_down(&p);
}
END_TEST

/*
 * The last pages have a point of time by which they must be out. What the other connections carry
 * after the switchover was called off has none, though they carry nothing but marks for long.
 */
START_TEST(few_pages_for_long)
{
	struct mig_status st;
	uint64_t late_ns;
	struct pair p;

	up(&p, 8 * PAIR_MIB, 32, 4);
	synth_fill(p.src, 0, 2048);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 300 * NS_PER_MS);
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 2 * NS_PER_SEC);
	pair_send(&p, 800);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	for (uint64_t page = 0; page < 2000; page++)
		synth_store(p.src, page, page + 1);
	/* 5 s and the limit from the pause on it would have been. */
	late_ns = clock_mono_ns() + 6 * NS_PER_SEC;
	ck_assert(synth_wait(p.src, WATCH(MIG_ACTIVE)));
	pair_set_params(&p, 0, 1);
	while (clock_mono_ns() < late_ns && !mig_source_ended(p.src->source))
		(void)usleep(10000);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 0);
	atomic_store(&p.dst->delay_ns[SYNTH_APPLY], 0);
	pair_set_params(&p, 0, 4000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.switchovers_called_off, 1);
	pair_down(&p);
}
END_TEST

/* The n-th call fails; the other side notices, and the same pair does it again. */
static void fail_nth(enum synth_call call, bool at_dest, unsigned n, const char *name)
{
	struct synth *bad;
	struct pair p;

	up(&p, 8 * PAIR_MIB, 40 + n, 4);
	synth_fill(p.src, 0, 2000);
	synth_start_writer(p.src, 0, 128, 2000);
	bad = at_dest ? p.dst : p.src;
	atomic_store(&bad->fail_at[call], n);
	pair_send(&p, 2000);
	if (synth_wait_end(p.src) != MIG_COMPLETED) {
		pair_keeps(&p, MIG_FAILED, name);
		ck_assert_uint_eq(atomic_load(&p.dst->calls[SYNTH_TAKEN_OVER]), 0);
		pair_again(&p);
	}
	pair_down(&p);
}

START_TEST(callbacks_fail)
{
	fail_nth(SYNTH_START, false, 1, "starting the dirty log: synthetic failure");
	fail_nth(SYNTH_PAUSE, false, 1, "pausing the guest: synthetic failure of pause");
	fail_nth(SYNTH_APPLY, true, 1, "synthetic failure of apply");
	for (unsigned n = 1; n <= 12; n++)
		fail_nth(SYNTH_PROTECT, false, n, "synthetic failure of protect");
}
END_TEST

/* At any moment: the source's guest runs on, the destination's memory is clean again. */
START_TEST(cancelled)
{
	for (unsigned i = 0; i < 20; i++) {
		enum mig_state end;
		struct pair p;

		up(&p, 16 * PAIR_MIB, 60 + i, 4);
		synth_fill(p.src, 0, 4000);
		synth_start_writer(p.src, 0, 500, 0);
		pair_send(&p, 1);
		if (i > 4)
			ck_assert(watch_wait_pass(&p.src->watch, i / 5, SYNTH_WAIT_MS));
		(void)usleep(i * 137 % 1000);
		mig_source_cancel(p.src->source);
		end = synth_wait_end(p.src);
		ck_assert_int_eq(end, MIG_CANCELLED);
		pair_keeps(&p, MIG_CANCELLED, "");
		pair_again(&p);
		pair_down(&p);
	}
}
END_TEST

PAIR_SUITE("engine-channels", idle, over_unix_socket, racing_writers, many_short_ones,
	   bandwidth_limit, called_off_half_way, called_off_at_the_end, shared_switchover,
	   few_pages_for_long, callbacks_fail, cancelled)
