/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: descriptors, changes from inside handlers, calls from other threads. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "tests/support/suite.h"

static struct loop *loop;
static int a[2], b[2]; /* pipes */
static unsigned calls_a, calls_b;
static uint32_t events_seen;

static void setup(void)
{
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(pipe2(a, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(b, O_CLOEXEC), 0);
}

static void teardown(void)
{
	loop_free(loop);
	for (int i = 0; i < 2; i++) {
		(void)close(a[i]);
		(void)close(b[i]);
	}
}

static void steps(void)
{
	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(loop_step(loop, 0), 0);
}

static void ring(const int *pipe_fds)
{
	ck_assert_int_eq(write(pipe_fds[1], "x", 1), 1);
}

static void take(int fd)
{
	char c;

	ck_assert_int_eq(read(fd, &c, 1), 1);
}

static void count_a(void *ctx, uint32_t events)
{
	ck_assert_ptr_eq(ctx, &calls_a);
	events_seen = events;
	calls_a++;
	take(a[0]);
}

static void count_b(void *ctx, uint32_t events)
{
	(void)ctx;
	events_seen = events;
	calls_b++;
	take(b[0]);
}

START_TEST(reads)
{
	ck_assert_int_eq(loop_add(loop, a[0], EPOLLIN, count_a, &calls_a), 0);
	steps();
	ck_assert_uint_eq(calls_a, 0);
	ring(a);
	ring(a);
	steps(); /* level-triggered: once for each byte that is left */
	ck_assert_uint_eq(calls_a, 2);
	ck_assert_uint_eq(events_seen, EPOLLIN);
	ck_assert_int_eq(loop_add(loop, a[0], EPOLLIN, count_a, &calls_a), -EEXIST);
	ck_assert_int_eq(loop_add(loop, 12345, EPOLLIN, count_a, &calls_a), -EBADF);
	ring(a);
	loop_remove(loop, a[0]);
	loop_remove(loop, a[0]);
	loop_remove(loop, 12345);
	steps();
	ck_assert_uint_eq(calls_a, 2);
	ck_assert_int_eq(loop_add(loop, a[0], EPOLLIN, count_a, &calls_a), 0);
	steps();
	ck_assert_uint_eq(calls_a, 3);
}
END_TEST

START_TEST(modifies)
{
	ck_assert_int_eq(loop_modify(loop, a[0], EPOLLIN), -ENOENT);
	ck_assert_int_eq(loop_add(loop, a[0], 0, count_a, &calls_a), 0);
	ring(a);
	steps();
	ck_assert_uint_eq(calls_a, 0);
	ck_assert_int_eq(loop_modify(loop, a[0], EPOLLIN), 0);
	steps();
	ck_assert_uint_eq(calls_a, 1);
}
END_TEST

static void hung_up(void *ctx, uint32_t events)
{
	(void)ctx;
	events_seen = events;
	loop_remove(loop, a[0]);
}

START_TEST(hang_up)
{
	ck_assert_int_eq(loop_add(loop, a[0], 0, hung_up, NULL), 0);
	(void)close(a[1]);
	steps();
	ck_assert_uint_eq(events_seen, EPOLLHUP);
	a[1] = -1;
}
END_TEST

/* Whichever handler comes first removes both: the other must not be called any more. */
static void remove_both(void *ctx, uint32_t events)
{
	(void)events;
	(*(unsigned *)ctx)++;
	loop_remove(loop, a[0]);
	loop_remove(loop, b[0]);
}

START_TEST(removal_inside_a_handler)
{
	ck_assert_int_eq(loop_add(loop, a[0], EPOLLIN, remove_both, &calls_a), 0);
	ck_assert_int_eq(loop_add(loop, b[0], EPOLLIN, remove_both, &calls_a), 0);
	ring(a);
	ring(b);
	steps();
	ck_assert_uint_eq(calls_a, 1);
}
END_TEST

/* The descriptor's number is used again, for something else, inside the handler. */
static void replace(void *ctx, uint32_t events)
{
	(void)ctx, (void)events;
	calls_a++;
	loop_remove(loop, a[0]);
	ck_assert_int_eq(dup2(b[0], a[0]), a[0]);
	ck_assert_int_eq(loop_add(loop, a[0], EPOLLIN, count_b, NULL), 0);
}

START_TEST(same_number_another_descriptor)
{
	ck_assert_int_eq(loop_add(loop, a[0], EPOLLIN, replace, NULL), 0);
	ring(a);
	steps();
	ck_assert_uint_eq(calls_a, 1);
	ck_assert_uint_eq(calls_b, 0);
	ring(b);
	steps();
	ck_assert_uint_eq(calls_b, 1);
}
END_TEST

static unsigned order[8], n_order;

static void note(void *ctx, uint32_t events)
{
	ck_assert_uint_eq(events, 0);
	order[n_order++] = *(unsigned *)ctx;
}

static void post_more(void *ctx, uint32_t events)
{
	note(ctx, events);
	ck_assert_int_eq(loop_post(loop, note, ctx), 0);
}

START_TEST(posts_in_order)
{
	static unsigned one = 1, two = 2, three = 3;

	ck_assert_int_eq(loop_post(loop, note, &one), 0);
	ck_assert_int_eq(loop_post(loop, post_more, &two), 0);
	ck_assert_int_eq(loop_post(loop, note, &three), 0);
	steps();
	ck_assert_uint_eq(n_order, 4);
	ck_assert_uint_eq(order[0], 1);
	ck_assert_uint_eq(order[1], 2);
	ck_assert_uint_eq(order[2], 3);
	ck_assert_uint_eq(order[3], 2);
	/* One that never runs is dropped with the loop. */
	ck_assert_int_eq(loop_post(loop, note, &one), 0);
}
END_TEST

START_TEST(waits_no_longer)
{
	uint64_t start = clock_mono_ns();

	ck_assert_int_eq(loop_step(loop, 20), 0);
	ck_assert_uint_ge(clock_mono_ns() - start, 19 * NS_PER_MS);
	loop_quit(loop);
	ck_assert_int_eq(loop_run(loop), 0); /* returns at once */
}
END_TEST

#define POSTS 20000

static unsigned posted_sum;

static void add_one(void *ctx, uint32_t events)
{
	(void)ctx, (void)events;
	if (++posted_sum == 2 * POSTS)
		loop_quit(loop);
}

static void *poster(void *arg)
{
	(void)arg;
	for (int i = 0; i < POSTS; i++)
		ck_assert_int_eq(loop_post(loop, add_one, NULL), 0);
	return NULL;
}

START_TEST(posts_of_two_threads)
{
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, poster, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
	ck_assert_uint_eq(posted_sum, 2 * POSTS);
}
END_TEST

SUITE_WITH("loop", setup, teardown, reads, modifies, hang_up, removal_inside_a_handler,
	   same_number_another_descriptor, posts_in_order, waits_no_longer, posts_of_two_threads)
