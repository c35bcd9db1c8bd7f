/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/replay.h"

#include <check.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/support/proxy.h"

void replay_up(struct replay *r)
{
	struct proxy proxy;
	struct pair *p = &r->p;

	pair_up(p, PAIR_MIB, 5);
	synth_fill(p->src, REPLAY_FIRST_PAGE, REPLAY_PAGES);
	proxy_start(&proxy, synth_uri(p->dst), PROXY_TO_DEST, PROXY_NO_CUT, false);
	synth_send(p->src, proxy.uri, 0, 2000);
	(void)pair_completes(p);
	proxy_stop(&proxy);
	r->to_dest = proxy.seen[PROXY_TO_DEST];
	r->to_source = proxy.seen[PROXY_TO_SOURCE];
	r->n_frames = raw_frames(r->to_dest.data, r->to_dest.len, r->frames, REPLAY_FRAMES);
	ck_assert_uint_ge(r->n_frames, 8);
	ck_assert_int_eq(r->frames[0].f.type, WIRE_HELLO);
	ck_assert_int_eq(r->frames[r->n_frames - 1].f.type, WIRE_COMMIT);
	replay_listen(r);
}

void replay_down(struct replay *r)
{
	pair_down(&r->p);
	wbuf_free(&r->to_dest);
	wbuf_free(&r->to_source);
}

void replay_listen(struct replay *r)
{
	synth_listen(r->p.dst, "tcp:127.0.0.1:0");
	atomic_store(&r->p.dst->calls[SYNTH_APPLY], 0);
	atomic_store(&r->p.dst->calls[SYNTH_TAKEN_OVER], 0);
	synth_guest_init(&r->p.guest);
	r->p.guest.no_source = true;
}

enum mig_state replay_play(struct replay *r, const void *data, size_t len)
{
	struct synth *dst = r->p.dst;
	unsigned events = watch_events(&dst->watch);
	int fd = raw_connect(synth_uri(dst));

	ck_assert_int_ge(fd, 0);
	raw_send(fd, data, len);
	(void)shutdown(fd, SHUT_WR);
	ck_assert(watch_wait_more(&dst->watch, WATCH(MIG_NONE) | WATCH_ENDED, events + 1,
				  SYNTH_WAIT_MS));
	(void)close(fd);
	return synth_status(dst).state;
}

void replay_still_good(struct replay *r)
{
	const char *wrong;

	ck_assert_uint_eq(atomic_load(&r->p.dst->calls[SYNTH_TAKEN_OVER]), 0);
	ck_assert_int_eq(replay_play(r, r->to_dest.data, r->to_dest.len), MIG_COMPLETED);
	ck_assert(r->p.guest.taken_over);
	wrong = synth_compare(r->p.src, r->p.dst);
	ck_assert_msg(!wrong, "%s", wrong);
	wrong = atomic_load(&r->p.guest.violation);
	ck_assert_msg(!wrong, "%s", wrong);
	replay_listen(r);
}
