/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/replay.h"

#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/support/proxy.h"

/* The pair is up: record. */
static void record(struct replay *r)
{
	struct proxy proxy;
	struct pair *p = &r->p;

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

void replay_up(struct replay *r)
{
	pair_up(&r->p, PAIR_MIB, 5);
	record(r);
}

void replay_up_verified(struct replay *r)
{
	pair_up_rehearsing(&r->p, PAIR_MIB, 5);
	r->p.src->verify = true;
	record(r);
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

/* The reason in the FAIL message among these, if there is one. */
static void find_reason(struct replay *r, const uint8_t *answer, size_t len)
{
	struct raw_frame frames[REPLAY_FRAMES];
	unsigned n = raw_frames(answer, len, frames, REPLAY_FRAMES);
	char text[WIRE_TEXT_MAX + 1];
	struct rbuf meta;

	if (!n || frames[n - 1].f.type != WIRE_FAIL)
		return;
	rbuf_init(&meta, ORDER_LITTLE, answer + frames[n - 1].at + WIRE_HEADER_BYTES,
		  frames[n - 1].f.meta_bytes);
	wire_get_text(&meta, text);
	(void)snprintf(r->reason, sizeof(r->reason), "%s", text);
}

/* The attempt is over when its connection is closed, or when it is undecided. */
static void wait_for_end(struct replay *r, int fd)
{
	uint64_t end_ns = clock_mono_ns() + SYNTH_WAIT_MS * NS_PER_MS;
	struct watch *w = &r->p.dst->watch;
	uint8_t answer[4096];
	size_t len = 0;

	while (clock_mono_ns() < end_ns && !watch_wait(w, WATCH(MIG_UNDECIDED), 0)) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n = poll(&p, 1, 1);

		if (!n)
			continue;
		n = recv(fd, answer + len, sizeof(answer) - len, MSG_DONTWAIT);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	find_reason(r, answer, len);
}

enum mig_state replay_play(struct replay *r, const void *data, size_t len)
{
	struct synth *dst = r->p.dst;
	int fd = raw_connect(synth_uri(dst));
	enum mig_state state;

	ck_assert_int_ge(fd, 0);
	r->reason[0] = '\0';
	raw_send(fd, data, len);
	(void)shutdown(fd, SHUT_WR);
	wait_for_end(r, fd);
	(void)close(fd);
	state = synth_settle(dst);
	ck_assert_int_ne(state, MIG_SETUP);
	if (!r->reason[0]) /* over a broken connection the source cannot be told */
		(void)snprintf(r->reason, sizeof(r->reason), "%s", synth_status(dst).error);
	return state;
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
