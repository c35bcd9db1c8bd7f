/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passes overlap with the destination's answers while the guest is far from fitting, and no
 * switchover begins before the destination has everything. And a connection that stalls while its
 * TCP lives is noticed.
 */
#include <check.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/support/pair.h"
#include "tests/unit/support/relay.h"

#define FAR_LIMIT_MS 1
#define LINK_US      3000 /* for 64 KiB: some 20 MB/s a connection */

static uint64_t pass_now(const struct pair *p)
{
	return synth_status(p->src).passes;
}

static void overlap(unsigned channels)
{
	struct relay relay;
	struct pair p;

	pair_up(&p, 4 * PAIR_MIB, 70 + channels);
	p.src->channels = channels;
	synth_fill(p.src, 0, 1024);
	synth_start_writer(p.src, 0, 1024, 0);
	relay_init(&relay);
	for (unsigned i = 0; i < channels; i++)
		relay.links[i].delay_us = LINK_US;
	relay_start(&relay, synth_uri(p.dst));
	synth_send(p.src, relay.uri, 0, FAR_LIMIT_MS);
	ck_assert(watch_wait_pass(&p.src->watch, 3, SYNTH_WAIT_MS));
	/* No answer comes any more: one that waited for each would get as far as the next pass. */
	atomic_store(&relay.hold, true);
	ck_assert(watch_wait_pass(&p.src->watch, pass_now(&p) + 3, SYNTH_WAIT_MS));
	/* Now all would fit, and nothing is known of the passes before. */
	pair_set_params(&p, 0, 20000);
	(void)usleep(300000);
	ck_assert_int_eq(synth_status(p.src).state, MIG_ACTIVE);
	atomic_store(&relay.hold, false);
	(void)pair_completes(&p);
	relay_stop(&relay);
	pair_down(&p);
}

START_TEST(passes_overlap)
{
	overlap(1);
	overlap(3);
}
END_TEST

/* ---- a connection that stalls ---- */

struct stalled {
	struct relay relay;
	struct pair p;
};

static void stall_begin(struct stalled *s, uint64_t mib, unsigned link)
{
	pair_up(&s->p, mib * PAIR_MIB, 80 + link);
	s->p.src->channels = 3;
	synth_fill(s->p.src, 0, mib * 256);
	synth_start_writer(s->p.src, 0, mib * 256, 1000);
	relay_init(&s->relay);
	s->relay.links[link].stall_at = 1; /* it says which one it is, and then nothing comes */
	relay_start(&s->relay, synth_uri(s->p.dst));
	synth_send(s->p.src, s->relay.uri, 0, 2000);
}

static void stall_end(struct stalled *s)
{
	struct mig_status st;

	/* A connection on which nothing moves is given up after 30 s. */
	ck_assert(watch_wait(&s->p.src->watch, WATCH_ENDED, 80000));
	pair_keeps(&s->p, MIG_FAILED, "");
	st = synth_status(s->p.src);
	/* The destination says which, unless the source's own half minute is over first. */
	ck_assert_msg(strstr(st.error, "connection") || strstr(st.error, "does not answer"), "%s",
		      st.error);
	relay_stop(&s->relay);
	pair_again(&s->p);
	pair_down(&s->p);
}

/*
 * All of what one connection still has fits into sockets: the destination notices. Or it does not:
 * then the source does, if it is not told before. Both at once, since each takes half a minute.
 */
START_TEST(one_stalls)
{
	static struct stalled small, large;

	stall_begin(&small, 4, 1);
	stall_begin(&large, 96, 2);
	stall_end(&small);
	stall_end(&large);
}
END_TEST

PAIR_SUITE("engine-overlap", passes_overlap, one_stalls)
