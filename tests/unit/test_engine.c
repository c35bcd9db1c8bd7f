/* SPDX-License-Identifier: Apache-2.0 */
/* Whole migrations between synthetic machines: what arrives is what left, and only one runs it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/support/pair.h"

#define NEVER_FITS_MS 1 /* less than the fixed costs that the engine assumes */

START_TEST(idle)
{
	static const enum mig_state expected[] = {MIG_SETUP, MIG_ACTIVE, MIG_DEVICE, MIG_COMPLETED};
	static const enum mig_state there[] = {MIG_ACTIVE, MIG_DEVICE, MIG_COMPLETED};
	struct mig_status st;
	struct pair p;

	pair_up(&p, 16 * PAIR_MIB, 1);
	synth_fill(p.src, 100, 1000);
	pair_send(&p, 300);
	st = pair_completes(&p);
	ck_assert(watch_saw(&p.src->watch, expected, 4));
	ck_assert(watch_saw(&p.dst->watch, there, 3));
	ck_assert_uint_eq(st.normal_pages, 1000);
	ck_assert_uint_eq(st.zero_pages, 16 * 256 - 1000);
	ck_assert_uint_ge(st.passes, 1);
	ck_assert_uint_eq(st.switchovers_called_off, 0);
	ck_assert_uint_eq(st.downtime_limit_ns, 300 * NS_PER_MS);
	ck_assert(p.guest.runs_at_dest);
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_RESUME]), 0);
	pair_down(&p);
}
END_TEST

START_TEST(over_unix_socket)
{
	char dir[] = "/tmp/test_engine_XXXXXX", uri[64];
	struct pair p;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(uri, sizeof(uri), "unix:%s/s", dir);
	pair_up(&p, 4 * PAIR_MIB, 2);
	synth_listen(p.dst, uri);
	ck_assert_str_eq(synth_uri(p.dst), uri);
	synth_fill(p.src, 0, 1024);
	pair_send(&p, 300);
	(void)pair_completes(&p);
	pair_down(&p);
	/* The socket is gone with the destination: the directory is empty. */
	ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

/* Iterate for some passes beside a guest that writes, then let it finish. */
static void race(uint64_t seed, uint64_t writes_per_s, bool host, uint64_t passes)
{
	struct mig_status st;
	struct pair p;

	pair_up(&p, 8 * PAIR_MIB, seed);
	synth_fill(p.src, seed % 7, 1500);
	synth_start_writer(p.src, 1, 1500, writes_per_s);
	if (host)
		synth_start_host_writer(p.src, 1600, 300);
	pair_send(&p, NEVER_FITS_MS);
	ck_assert(watch_wait_pass(&p.src->watch, passes, SYNTH_WAIT_MS));
	pair_set_params(&p, 0, 2000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.passes, passes);
	ck_assert_uint_gt(st.normal_pages + st.zero_pages, synth_n_pages(p.src));
	pair_down(&p);
}

START_TEST(racing_writer)
{
	for (uint64_t seed = 1; seed <= 6; seed++)
		race(seed, seed % 3 ? 0 : 4000, false, 8);
}
END_TEST

START_TEST(host_writes)
{
	race(11, 2000, true, 8);
	race(12, 0, true, 8);
}
END_TEST

/* Many short migrations, so that the switchover races with the writer in many ways. */
START_TEST(many_short_ones)
{
	for (uint64_t seed = 100; seed < 140; seed++) {
		struct pair p;

		pair_up(&p, 1 * PAIR_MIB, seed);
		synth_start_writer(p.src, 0, 200, 0);
		synth_start_host_writer(p.src, 200, 56);
		ck_assert(synth_alive(p.src));
		pair_send(&p, 2000);
		(void)pair_completes(&p);
		pair_down(&p);
	}
}
END_TEST

/* A slow link: the pass takes long while the guest writes into what was sent and what was not. */
START_TEST(slow_link)
{
	struct mig_status st;
	struct pair p;

	pair_up(&p, 4 * PAIR_MIB, 21);
	synth_fill(p.src, 0, 1024);
	synth_start_writer(p.src, 0, 1024, 3000);
	synth_send(p.src, synth_uri(p.dst), 16 << 20, NEVER_FITS_MS);
	ck_assert(watch_wait_pass(&p.src->watch, 4, SYNTH_WAIT_MS));
	pair_set_params(&p, 64 << 20, 2000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.passes, 4);
	pair_down(&p);
}
END_TEST

START_TEST(bandwidth_limit)
{
	struct mig_status st;
	struct pair p;

	pair_up(&p, 8 * PAIR_MIB, 22);
	synth_fill(p.src, 0, 2048);
	synth_send(p.src, synth_uri(p.dst), 32 << 20, 300);
	st = pair_completes(&p);
	/* 8 MiB at 32 MiB/s take 250 ms, less one chunk and a burst of a tenth of a second. */
	ck_assert_uint_ge(st.total_ns, 100 * NS_PER_MS);
	ck_assert_uint_ge(st.precopy_bytes, 8 << 20);
	pair_down(&p);
}
END_TEST

/* Under a tiny limit bytes still move all the time, a little at a time, from the first on. */
START_TEST(tiny_bandwidth)
{
	struct mig_status st;
	uint64_t end_ns;
	struct pair p;

	pair_up(&p, 2 * PAIR_MIB, 23);
	synth_fill(p.src, 0, 512);
	synth_send(p.src, synth_uri(p.dst), 64 << 10, 300);
	ck_assert(watch_wait_pass(&p.src->watch, 1, SYNTH_WAIT_MS));
	for (end_ns = clock_mono_ns() + 500 * NS_PER_MS; clock_mono_ns() < end_ns;)
		(void)usleep(1000);
	st = synth_status(p.src);
	ck_assert_int_eq(st.state, MIG_ACTIVE);
	ck_assert_uint_le(st.transferred_bytes,
			  4096 + (64 << 10) * (st.total_ns / NS_PER_MS + 300) / 1000);
	pair_set_params(&p, 0, 300);
	(void)pair_completes(&p);
	pair_down(&p);
}
END_TEST

START_TEST(all_zero)
{
	struct mig_status st;
	struct pair p;

	pair_up(&p, 64 * PAIR_MIB, 3);
	pair_send(&p, 300);
	st = pair_completes(&p);
	ck_assert_uint_eq(st.normal_pages, 0);
	ck_assert_uint_eq(st.zero_pages, 64 * 256);
	ck_assert_uint_lt(st.transferred_bytes, 16384);
	pair_down(&p);
}
END_TEST

/* Pages that were sent as zeroes get content, and the other way round, between two passes. */
START_TEST(zero_and_back)
{
	struct mig_status st;
	struct pair p;
	uint64_t pass = 1;

	pair_up(&p, 2 * PAIR_MIB, 4);
	synth_fill(p.src, 0, 256);
	pair_send(&p, NEVER_FITS_MS);
	for (unsigned round = 0; round < 4; round++) {
		ck_assert(watch_wait_pass(&p.src->watch, pass + 3, SYNTH_WAIT_MS));
		for (uint64_t page = 0; page < 512; page += 3)
			synth_store(p.src, page, (page + round) % 2 ? 0 : page + round + 1);
		pass = synth_status(p.src).passes;
	}
	ck_assert(watch_wait_pass(&p.src->watch, pass + 3, SYNTH_WAIT_MS));
	pair_set_params(&p, 0, 2000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.normal_pages, 256 + 4 * 80);
	ck_assert_uint_ge(st.zero_pages, 256 + 4 * 80);
	pair_down(&p);
}
END_TEST

START_TEST(paused_guest)
{
	struct pair p;

	pair_up(&p, 2 * PAIR_MIB, 5);
	synth_fill(p.src, 0, 100);
	synth_stop_guest(p.src);
	pair_send(&p, 300);
	(void)pair_completes(&p);
	ck_assert(!p.guest.runs_at_dest);
	pair_down(&p);
}
END_TEST

/* RAM on both sides of the PCI hole, nearly all of it never touched. */
START_TEST(two_blocks)
{
	uint64_t low = MEM_HOLE_START / MEM_PAGE_BYTES, high = (2ull << 30) / MEM_PAGE_BYTES;
	struct mig_status st;
	struct pair p;

	pair_up(&p, 5ull << 30, 6);
	ck_assert_uint_eq(p.src->mem->n_blocks, 2);
	synth_fill(p.src, 0, 50);
	synth_fill(p.src, low - 50, 100); /* across the border */
	synth_fill(p.src, low + high - 50, 50);
	synth_start_writer(p.src, low - 32, 64, 1000);
	synth_start_host_writer(p.src, low + 1000, 100);
	pair_send(&p, 2000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.normal_pages, 150);
	ck_assert_uint_lt(st.normal_pages, 20000);
	pair_down(&p);
}
END_TEST

/* A limit that the rest does not fit keeps it iterating; raising it live ends that. */
START_TEST(limit_is_live)
{
	struct mig_status st;
	struct pair p;

	pair_up(&p, 1 * PAIR_MIB, 7);
	synth_start_writer(p.src, 0, 256, 2000);
	pair_send(&p, NEVER_FITS_MS);
	ck_assert(watch_wait_pass(&p.src->watch, 12, SYNTH_WAIT_MS));
	st = synth_status(p.src);
	ck_assert_int_eq(st.state, MIG_ACTIVE);
	ck_assert_uint_eq(st.downtime_limit_ns, NEVER_FITS_MS * NS_PER_MS);
	ck_assert_uint_gt(st.predicted_downtime_ns, NEVER_FITS_MS * NS_PER_MS);
	ck_assert_uint_eq(st.precopy_bytes + st.downtime_bytes, st.transferred_bytes);
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_PAUSE]), 0);
	pair_set_params(&p, 0, 2000);
	(void)pair_completes(&p);
	pair_down(&p);
}
END_TEST

/* Pausing takes so long, while the guest still writes, that the limit is overrun: not now. */
START_TEST(called_off)
{
	struct mig_status st = {0};
	struct pair p;

	pair_up(&p, 1 * PAIR_MIB, 8);
	synth_start_writer(p.src, 0, 256, 2000);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 400 * NS_PER_MS);
	pair_send(&p, 300);
	while (st.switchovers_called_off < 2) {
		ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
		ck_assert(synth_wait(p.src, WATCH(MIG_ACTIVE)));
		st = synth_status(p.src);
	}
	ck_assert(synth_alive(p.src));
	pair_set_params(&p, 0, 4000);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.switchovers_called_off, 2);
	ck_assert_uint_eq(st.switchovers_called_off, atomic_load(&p.src->calls[SYNTH_RESUME]));
	ck_assert_uint_eq(st.switchovers_called_off + 1, atomic_load(&p.src->calls[SYNTH_PAUSE]));
	pair_down(&p);
}
END_TEST

/*
 * Called off in the middle of the last pages: some are sent, some are taken from the bitmap and
 * protected but not sent. Nobody writes to them again, so whatever is forgotten stays lost.
 */
START_TEST(called_off_half_way)
{
	struct mig_status st;
	struct pair p;

	pair_up(&p, 8 * PAIR_MIB, 9);
	synth_fill(p.src, 0, 2048);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 300 * NS_PER_MS);
	pair_send(&p, 1000);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	for (uint64_t page = 0; page < 2000; page++)
		synth_store(p.src, page, page + 1);
	atomic_store(&p.src->delay_ns[SYNTH_PROTECT], 800 * NS_PER_MS);
	ck_assert(synth_wait(p.src, WATCH(MIG_ACTIVE)));
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 0);
	atomic_store(&p.src->delay_ns[SYNTH_PROTECT], 0);
	st = pair_completes(&p);
	ck_assert_uint_ge(st.switchovers_called_off, 1);
	ck_assert_uint_eq(st.normal_pages, 2048 + 2000);
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine", idle, over_unix_socket, racing_writer, host_writes, many_short_ones, slow_link,
	   bandwidth_limit, tiny_bandwidth, all_zero, zero_and_back, paused_guest, two_blocks,
	   limit_is_live, called_off, called_off_half_way)
