/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cancelling in every state: the guest goes on at the source as if nothing had happened, and a
 * second attempt to the same destination succeeds.
 */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/support/pair.h"
#include "tests/unit/support/proxy.h"

static void up(struct pair *p, uint64_t seed)
{
	pair_up(p, 4 * PAIR_MIB, seed);
	synth_fill(p->src, 0, 900);
	synth_start_writer(p->src, 0, 512, 2000);
	synth_start_host_writer(p->src, 600, 100);
}

static void nap(uint64_t ms)
{
	struct timespec ts = {(time_t)(ms / 1000), (long)(ms % 1000 * NS_PER_MS)};

	(void)nanosleep(&ts, NULL);
}

/* The time is printed, since how long it takes on a busy machine is no question of right or wrong.
 */
static void cancel_while(struct pair *p, const char *what)
{
	uint64_t begin_ns = clock_mono_ns(), took_ns;

	mig_source_cancel(p->src->source);
	ck_assert(synth_wait(p->src, WATCH_ENDED));
	took_ns = clock_mono_ns() - begin_ns;
	if (what)
		printf("cancelled while %s: %.1f ms\n", what, (double)took_ns / (double)NS_PER_MS);
	pair_keeps(p, MIG_CANCELLED, "the guest keeps running here");
	ck_assert_uint_lt(took_ns, 15 * NS_PER_SEC);
	/* Once more is no error and changes nothing. */
	mig_source_cancel(p->src->source);
	ck_assert_int_eq(synth_status(p->src).state, MIG_CANCELLED);
}

static void cancel(struct pair *p)
{
	cancel_while(p, NULL);
}

/* The other side accepts (the kernel does) and never says a word. */
START_TEST(in_setup)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char uri[64];
	struct pair p;

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, len), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	(void)snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(sa.sin_port));
	up(&p, 1);
	synth_send(p.src, uri, 0, 300);
	ck_assert(synth_wait(p.src, WATCH(MIG_SETUP)));
	nap(20);
	cancel_while(&p, "agreeing");
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_START]), 0);
	pair_again(&p);
	pair_down(&p);
	(void)close(fd);
}
END_TEST

/* The connection is never made: the other side's queue is full, its kernel says nothing. */
START_TEST(while_connecting)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), full[4];
	char uri[64];
	struct pair p;

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, len), 0);
	ck_assert_int_eq(listen(fd, 0), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	for (unsigned i = 0; i < 4; i++) {
		full[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(full[i], (struct sockaddr *)&sa, len);
	}
	(void)snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(sa.sin_port));
	up(&p, 21);
	synth_send(p.src, uri, 0, 300);
	ck_assert(synth_wait(p.src, WATCH(MIG_SETUP)));
	nap(20);
	cancel_while(&p, "connecting");
	pair_again(&p);
	pair_down(&p);
	for (unsigned i = 0; i < 4; i++)
		(void)close(full[i]);
	(void)close(fd);
}
END_TEST

/* At once: before the coordinator has done anything, or a little later. */
START_TEST(at_once)
{
	struct pair p;

	up(&p, 2);
	for (unsigned i = 0; i < 20; i++) {
		struct timespec ts = {0, (long)i * 100000};

		pair_send(&p, 1);
		(void)nanosleep(&ts, NULL);
		cancel(&p);
	}
	pair_again(&p);
	pair_down(&p);
}
END_TEST

START_TEST(while_active)
{
	struct pair p;

	up(&p, 3);
	pair_send(&p, 1);
	ck_assert(watch_wait_pass(&p.src->watch, 3, SYNTH_WAIT_MS));
	cancel_while(&p, "sending");
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_PAUSE]), 0);
	ck_assert(synth_wait(p.dst, WATCH(MIG_FAILED)));
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* In the middle of a pass that is waiting for its share of the bandwidth. */
START_TEST(while_limited)
{
	struct pair p;

	up(&p, 4);
	synth_send(p.src, synth_uri(p.dst), 64 << 10, 300);
	ck_assert(watch_wait_pass(&p.src->watch, 1, SYNTH_WAIT_MS));
	nap(30);
	cancel_while(&p, "waiting for bandwidth");
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* The destination takes its time over what it was sent: the end of a pass, a rehearsal. */
START_TEST(while_rehearsing)
{
	struct pair p;

	pair_up_rehearsing(&p, PAIR_MIB, 22);
	synth_start_writer(p.src, 0, 256, 2000);
	atomic_store(&p.dst->delay_ns[SYNTH_REHEARSE_APPLY], 600 * NS_PER_MS);
	pair_send(&p, 300);
	while (!atomic_load(&p.dst->calls[SYNTH_REHEARSE_APPLY]))
		nap(1);
	cancel_while(&p, "rehearsing");
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_PAUSE]), 0);
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* One harvest cannot be cut short; nothing is waited for after it. */
START_TEST(while_syncing)
{
	struct pair p;

	up(&p, 23);
	atomic_store(&p.src->delay_ns[SYNTH_HARVEST], 60 * NS_PER_MS);
	pair_send(&p, 300);
	while (!atomic_load(&p.src->calls[SYNTH_HARVEST]))
		nap(1);
	cancel_while(&p, "syncing (60 ms)");
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* The guest is paused: cancel while the callback takes its time. */
static void cancel_in(enum synth_call call, bool at_dest, uint64_t seed)
{
	struct pair p;
	struct synth *slow;
	unsigned before = 0;

	up(&p, seed);
	slow = at_dest ? p.dst : p.src;
	atomic_store(&slow->delay_ns[call], 300 * NS_PER_MS);
	pair_send(&p, 2000);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	while (at_dest && !before) {
		nap(1);
		before = atomic_load(&slow->calls[call]);
	}
	nap(30);
	cancel_while(&p, at_dest ? "the destination loads" : "the guest is stopped (300 ms)");
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_RESUME]), 1);
	ck_assert_uint_eq(atomic_load(&p.dst->calls[SYNTH_TAKEN_OVER]), 0);
	pair_again(&p);
	pair_down(&p);
}

START_TEST(while_pausing)
{
	cancel_in(SYNTH_PAUSE, false, 5);
}
END_TEST

START_TEST(while_collecting)
{
	cancel_in(SYNTH_COLLECT, false, 6);
}
END_TEST

/* The wire takes nothing any more while the last pages, written during the pause, are under way. */
START_TEST(while_sending_the_last_pages)
{
	struct proxy wire;
	struct pair p;

	pair_up(&p, 64 * PAIR_MIB, 24);
	synth_start_writer(p.src, 0, 12000, 0);
	proxy_start(&wire, synth_uri(p.dst), PROXY_TO_DEST, PROXY_NO_CUT, false);
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 700 * NS_PER_MS);
	synth_send(p.src, wire.uri, 0, 100000);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	atomic_store(&wire.mute, true);
	while (!atomic_load(&p.src->calls[SYNTH_COLLECT]))
		nap(1);
	nap(100);
	cancel_while(&p, "sending the last pages");
	proxy_stop(&wire);
	pair_again(&p);
	pair_down(&p);
	proxy_free(&wire);
}
END_TEST

/* Everything is at the destination, which loads it: it must be told that the guest stays. */
START_TEST(while_loading)
{
	cancel_in(SYNTH_APPLY, true, 7);
}
END_TEST

/* At whatever point of a short migration it falls: the guest is in one place, and in one only. */
START_TEST(at_any_time)
{
	unsigned cancelled = 0;

	for (unsigned i = 0; i < 60; i++) {
		struct timespec ts = {0, (long)i * 200000};
		enum mig_state end;
		const char *wrong;
		struct pair p;

		pair_up(&p, 1 * PAIR_MIB, 1000 + i);
		synth_fill(p.src, 0, 200);
		synth_start_writer(p.src, 0, 256, 2000);
		pair_send(&p, 2000);
		(void)nanosleep(&ts, NULL);
		mig_source_cancel(p.src->source);
		end = synth_wait_end(p.src);
		wrong = synth_check_owner(p.src, end);
		ck_assert_msg(!wrong, "%s after %u: %s", mig_state_name(end), i, wrong);
		if (end == MIG_CANCELLED) {
			cancelled++;
			ck_assert(synth_alive(p.src));
			pair_again(&p);
		} else {
			ck_assert_int_eq(end, MIG_COMPLETED);
			(void)pair_completes(&p);
		}
		pair_down(&p);
	}
	ck_assert_uint_gt(cancelled, 0);
}
END_TEST

/* Too late: the destination owns the guest. */
START_TEST(after_the_commit)
{
	struct pair p;

	up(&p, 8);
	atomic_store(&p.dst->delay_ns[SYNTH_TAKEN_OVER], 200 * NS_PER_MS);
	pair_send(&p, 2000);
	while (!atomic_load(&p.src->calls[SYNTH_GIVEN_AWAY]))
		nap(1);
	mig_source_cancel(p.src->source);
	ck_assert_int_eq(synth_status(p.src).state, MIG_DEVICE);
	(void)pair_completes(&p);
	pair_down(&p);
}
END_TEST

/* The owner of a migration under way frees it: the same as a cancel. */
START_TEST(by_free)
{
	struct pair p;

	up(&p, 9);
	pair_send(&p, 1);
	ck_assert(watch_wait_pass(&p.src->watch, 2, SYNTH_WAIT_MS));
	mig_source_free(p.src->source);
	p.src->source = NULL;
	ck_assert(watch_wait(&p.src->watch, WATCH(MIG_CANCELLED), 0));
	ck_assert(synth_alive(p.src));
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* The destination goes away in each of its states. */
START_TEST(dest_freed)
{
	struct pair p;

	up(&p, 10);
	for (unsigned i = 0; i < 30; i++) {
		struct timespec ts = {0, (long)i * 300000};
		enum mig_state end;
		const char *wrong;

		pair_send(&p, 1);
		(void)nanosleep(&ts, NULL);
		mig_dest_free(p.dst->dest);
		p.dst->dest = NULL;
		end = synth_wait_end(p.src);
		ck_assert_int_eq(end, MIG_FAILED);
		wrong = synth_check_owner(p.src, end);
		ck_assert_msg(!wrong, "%s", wrong);
		ck_assert(synth_alive(p.src));
		synth_listen(p.dst, "tcp:127.0.0.1:0");
	}
	pair_again(&p);
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine-cancel", in_setup, while_connecting, at_once, while_active, while_limited,
	   while_rehearsing, while_syncing, while_pausing, while_collecting,
	   while_sending_the_last_pages, while_loading, at_any_time, after_the_commit, by_free,
	   dest_freed)
