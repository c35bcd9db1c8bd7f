/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection is cut after every number of bytes, in either direction: at no point do both sides
 * own the guest, and where the handover is left open, the token settles it.
 */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "tests/unit/support/pair.h"
#include "tests/unit/support/proxy.h"
#include "tests/unit/support/raw.h"

#define MAX_FRAMES  64
#define PAGE_STEP   1361 /* cuts inside page data: one in so many bytes */
#define SMALL_PAGES 6

static void up(struct pair *p, uint64_t seed)
{
	pair_up(p, PAIR_MIB, seed);
	synth_fill(p->src, 3, SMALL_PAGES);
}

/* The source is not sure. If the destination is not either, the token decides. */
static void bring_token(struct pair *p, enum mig_state there)
{
	uint64_t token = synth_status(p->src).token;
	struct err e = ERR_INIT;

	ck_assert(p->guest.given_away);
	if (there == MIG_UNDECIDED) {
		ck_assert(!p->guest.taken_over);
		ck_assert_int_eq(mig_dest_decide(p->dst->dest, token ^ 1, &e), -EPERM);
		err_clear(&e);
		ck_assert_int_eq(mig_dest_decide(p->dst->dest, token + 1, &e), -EPERM);
		ck_assert_int_eq(synth_status(p->dst).state, MIG_UNDECIDED);
		err_clear(&e);
		ck_assert_int_eq(mig_dest_decide(p->dst->dest, token, &e), 0);
		ck_assert(synth_wait(p->dst, WATCH(MIG_COMPLETED)));
	}
	ck_assert_int_eq(synth_status(p->dst).state, MIG_COMPLETED);
	ck_assert(p->guest.taken_over && p->guest.runs_at_dest);
	ck_assert_ptr_null(synth_compare(p->src, p->dst));
	err_clear(&e);
	ck_assert_int_eq(mig_dest_decide(p->dst->dest, token, &e), -EINVAL);
}

/* The source kept its guest: the destination never ran it, and serves another attempt. */
static void look_at_failure(struct pair *p, enum mig_state there, bool again)
{
	struct err e = ERR_INIT;

	ck_assert(!p->guest.taken_over);
	ck_assert(p->guest.runs_at_source);
	ck_assert_int_ne(there, MIG_COMPLETED);
	if (there == MIG_UNDECIDED) {
		/* Everything had arrived, and the source never showed a token. */
		ck_assert_uint_eq(synth_status(p->src).token, 0);
		ck_assert_int_eq(mig_dest_decide(p->dst->dest, 1, &e), -EPERM);
	} else if (again) {
		pair_again(p);
	}
}

static enum mig_state cut_at(enum proxy_way way, uint64_t n, bool reset, bool again)
{
	enum mig_state end, there;
	struct proxy proxy;
	const char *wrong;
	struct pair p;

	up(&p, 5);
	proxy_start(&proxy, synth_uri(p.dst), way, n, reset);
	synth_send(p.src, proxy.uri, 0, 2000);
	end = synth_wait_end(p.src);
	there = synth_settle(p.dst);
	wrong = synth_check_owner(p.src, end);
	ck_assert_msg(!wrong, "cut at %llu: %s: %s", (unsigned long long)n, mig_state_name(end),
		      wrong);
	switch (end) {
	case MIG_COMPLETED:
		ck_assert_int_eq(there, MIG_COMPLETED);
		ck_assert_ptr_null(synth_compare(p.src, p.dst));
		break;
	case MIG_FAILED:
		look_at_failure(&p, there, again);
		break;
	case MIG_UNDECIDED:
		bring_token(&p, there);
		break;
	default:
		ck_abort_msg("ended as %s", mig_state_name(end));
	}
	proxy_stop(&proxy);
	proxy_free(&proxy);
	pair_down(&p);
	return end;
}

/* What a migration that nobody disturbs says in this direction. */
static struct wbuf record(enum proxy_way way, struct raw_frame *frames, unsigned *n_frames)
{
	struct proxy proxy;
	struct wbuf seen;
	struct pair p;

	up(&p, 5);
	proxy_start(&proxy, synth_uri(p.dst), way, PROXY_NO_CUT, false);
	synth_send(p.src, proxy.uri, 0, 2000);
	(void)pair_completes(&p);
	proxy_stop(&proxy);
	seen = proxy.seen[way];
	wbuf_free(&proxy.seen[!way]);
	pair_down(&p);
	*n_frames = raw_frames(seen.data, seen.len, frames, MAX_FRAMES);
	return seen;
}

START_TEST(to_the_destination)
{
	struct raw_frame frames[MAX_FRAMES];
	unsigned n_frames, ends[MIG_UNDECIDED + 1] = {0};
	struct wbuf seen = record(PROXY_TO_DEST, frames, &n_frames);

	ck_assert_uint_ge(n_frames, 8);
	ck_assert_int_eq(frames[n_frames - 1].f.type, WIRE_COMMIT);
	/* Some more than there are: the number of passes may differ. */
	for (size_t at = 0; at < seen.len + 2 * 36; at++) {
		if (raw_in_page(frames, n_frames, at) && at % PAGE_STEP)
			continue;
		ends[cut_at(PROXY_TO_DEST, at, at % 3 == 0, at % 16 == 0)]++;
	}
	ck_assert_uint_gt(ends[MIG_FAILED], 500);
	ck_assert_uint_gt(ends[MIG_UNDECIDED], 20);
	ck_assert_uint_gt(ends[MIG_COMPLETED], 0);
	wbuf_free(&seen);
}
END_TEST

START_TEST(to_the_source)
{
	struct raw_frame frames[MAX_FRAMES];
	unsigned n_frames, ends[MIG_UNDECIDED + 1] = {0};
	struct wbuf seen = record(PROXY_TO_SOURCE, frames, &n_frames);

	ck_assert_uint_ge(n_frames, 4); /* welcome, passed (one or more), ready, running */
	for (unsigned round = 0; round < 2; round++) {
		for (size_t at = 0; at <= seen.len + 1; at++)
			ends[cut_at(PROXY_TO_SOURCE, at, round == 1, true)]++;
	}
	ck_assert_uint_gt(ends[MIG_FAILED], 20);
	ck_assert_uint_gt(ends[MIG_UNDECIDED], 20);
	ck_assert_uint_gt(ends[MIG_COMPLETED], 0);
	wbuf_free(&seen);
}
END_TEST

PAIR_SUITE("engine-cut", to_the_destination, to_the_source)
