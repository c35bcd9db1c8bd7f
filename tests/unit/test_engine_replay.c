/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recorded stream, damaged in every way that one byte can be: the destination never runs a guest
 * that is not exactly the one that was sent, and is there for the next source afterwards.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/support/replay.h"

#define PAGE_STEP 611 /* bytes of pages: one in so many */

static struct replay r;

static bool worth_it(size_t at)
{
	return !raw_in_page(r.frames, r.n_frames, at) || at % PAGE_STEP == 0;
}

/* Where the end message is complete: from here on the destination only waits for the commit. */
static size_t commit_at(void)
{
	return r.frames[r.n_frames - 1].at;
}

/* The destination must not run it; undecided only where all but the commit was right. */
static void refused(enum mig_state state, size_t at)
{
	ck_assert_msg(!r.p.guest.taken_over, "byte %zu: taken over", at);
	if (at < commit_at()) {
		ck_assert_msg(state == MIG_NONE || state == MIG_FAILED, "byte %zu: %s", at,
			      mig_state_name(state));
	} else {
		ck_assert_msg(state == MIG_UNDECIDED, "byte %zu: %s", at, mig_state_name(state));
		ck_assert_ptr_null(synth_compare(r.p.src, r.p.dst));
		replay_listen(&r);
	}
}

START_TEST(as_it_was)
{
	replay_up(&r);
	replay_still_good(&r);
	replay_still_good(&r);
	replay_down(&r);
}
END_TEST

START_TEST(truncated)
{
	replay_up(&r);
	for (size_t at = 0; at < r.to_dest.len; at++) {
		if (!worth_it(at))
			continue;
		refused(replay_play(&r, r.to_dest.data, at), at);
		if (at % 256 == 0)
			replay_still_good(&r);
	}
	replay_still_good(&r);
	replay_down(&r);
}
END_TEST

START_TEST(flipped)
{
	uint8_t *copy;

	replay_up(&r);
	copy = malloc(r.to_dest.len);
	ck_assert_ptr_nonnull(copy);
	for (size_t at = 0; at < r.to_dest.len; at++) {
		if (!worth_it(at))
			continue;
		memcpy(copy, r.to_dest.data, r.to_dest.len);
		copy[at] ^= (uint8_t)(at % 5 ? 1u << at % 8 : 0xff);
		refused(replay_play(&r, copy, r.to_dest.len), at);
		if (at % 256 == 0)
			replay_still_good(&r);
	}
	replay_still_good(&r);
	free(copy);
	replay_down(&r);
}
END_TEST

/* One frame left out, twice in a row, or two in the wrong order: their numbers tell. */
START_TEST(frames_moved)
{
	replay_up(&r);
	for (unsigned i = 0; i + 1 < r.n_frames; i++) {
		size_t from = r.frames[i].at, to = r.frames[i + 1].at, end = r.to_dest.len;
		size_t after = i + 2 < r.n_frames ? r.frames[i + 2].at : end;
		const uint8_t *d = r.to_dest.data;
		struct wbuf s;

		wbuf_init(&s, ORDER_LITTLE, 2 * end);
		put_bytes(&s, d, from);
		put_bytes(&s, d + to, end - to);
		refused(replay_play(&r, s.data, s.len), from);
		wbuf_reset(&s);
		put_bytes(&s, d, to);
		put_bytes(&s, d + from, end - from);
		refused(replay_play(&r, s.data, s.len), to);
		wbuf_reset(&s);
		put_bytes(&s, d, from);
		put_bytes(&s, d + to, after - to);
		put_bytes(&s, d + from, to - from);
		put_bytes(&s, d + after, end - after);
		refused(replay_play(&r, s.data, s.len), from);
		wbuf_free(&s);
	}
	replay_still_good(&r);
	replay_down(&r);
}
END_TEST

static void nobody_is_let_in(void)
{
	unsigned tries = 0;
	int fd;

	while ((fd = raw_connect(synth_uri(r.p.dst))) >= 0 && tries++ < 1000) {
		(void)close(fd);
		(void)usleep(1000);
	}
	ck_assert_int_lt(fd, 0);
}

/* All but the commit. */
static void leave_undecided(void)
{
	ck_assert_int_eq(replay_play(&r, r.to_dest.data, commit_at()), MIG_UNDECIDED);
	ck_assert(!r.p.guest.taken_over);
}

/* The operator says that the source is dead for good. */
START_TEST(forced)
{
	struct err e = ERR_INIT;

	replay_up(&r);
	ck_assert_int_eq(mig_dest_decide_forced(r.p.dst->dest, &e), -EINVAL);
	leave_undecided();
	ck_assert_int_eq(mig_dest_decide_forced(r.p.dst->dest, NULL), 0);
	ck_assert(synth_wait(r.p.dst, WATCH(MIG_COMPLETED)));
	ck_assert(r.p.guest.taken_over && r.p.guest.runs_at_dest);
	ck_assert_ptr_null(synth_compare(r.p.src, r.p.dst));
	replay_down(&r);
}
END_TEST

/* Decided, but it cannot be run: the only copy there is stays, and nobody else is let in. */
START_TEST(decided_in_vain)
{
	replay_up(&r);
	leave_undecided();
	atomic_store(&r.p.dst->fail_at[SYNTH_TAKEN_OVER], 1);
	ck_assert_int_eq(mig_dest_decide_forced(r.p.dst->dest, NULL), 0);
	ck_assert(synth_wait(r.p.dst, WATCH(MIG_FAILED)));
	ck_assert_ptr_nonnull(strstr(synth_status(r.p.dst).error, "failure of taken_over"));
	ck_assert_ptr_null(synth_compare(r.p.src, r.p.dst));
	nobody_is_let_in();
	replay_down(&r);
}
END_TEST

/* RAM that cannot be made zero again is no place for another guest: nobody else is let in. */
START_TEST(cannot_clear)
{
	replay_up(&r);
	/* MADV_DONTNEED is refused then. The sanitizers make mlock() itself do nothing. */
	if (syscall(SYS_mlock, r.p.dst->mem->blocks[0].hva, PAIR_MIB)) {
		printf("SKIP cannot lock memory\n");
		replay_down(&r);
		return;
	}
	ck_assert_int_eq(replay_play(&r, r.to_dest.data, commit_at() - 1), MIG_FAILED);
	nobody_is_let_in();
	ck_assert(!r.p.guest.taken_over);
	replay_down(&r);
}
END_TEST

PAIR_SUITE("engine-replay", as_it_was, truncated, flipped, frames_moved, forced, decided_in_vain,
	   cannot_clear)
