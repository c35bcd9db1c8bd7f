/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several connections, and one of them is slow, cut, or not the source's at all: no older copy of a
 * page ever overtakes a newer one, the attempt fails as a whole or not at all, and the guest is on
 * exactly one side.
 */
#include <check.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "mem/page.h"
#include "tests/unit/support/relay.h"
#include "tests/unit/support/stream.h"

/* ---- real sources ---- */

/* One connection lags behind the others by far while the guest writes. */
START_TEST(one_is_slow)
{
	for (unsigned slow = 0; slow < 3; slow++) {
		struct relay relay;
		struct pair p;

		pair_up(&p, 4 * PAIR_MIB, 3 + slow);
		p.src->channels = 3;
		synth_fill(p.src, 0, 1024);
		synth_start_writer(p.src, 0, 1024, 0);
		relay_init(&relay);
		relay.links[slow].delay_us = 3000;
		relay_start(&relay, synth_uri(p.dst));
		synth_send(p.src, relay.uri, 0, 1);
		ck_assert(watch_wait_pass(&p.src->watch, 6, SYNTH_WAIT_MS));
		pair_set_params(&p, 0, 4000);
		(void)pair_completes(&p);
		relay_stop(&relay);
		pair_down(&p);
	}
}
END_TEST

/* Cut after so many bytes: where the guest is then, and that another attempt works. */
static enum mig_state cut_at(unsigned link, uint64_t n, uint64_t seed)
{
	enum mig_state end, there;
	struct relay relay;
	const char *wrong;
	struct pair p;

	pair_up(&p, 4 * PAIR_MIB, seed);
	p.src->channels = 4;
	synth_fill(p.src, 0, 900);
	synth_start_writer(p.src, 0, 1024, 0);
	relay_init(&relay);
	relay.links[link].cut_at = n;
	relay_start(&relay, synth_uri(p.dst));
	synth_send(p.src, relay.uri, 0, 2000);
	end = synth_wait_end(p.src);
	/* Not synth_settle(): who knocks while connections are awaited is sent away. */
	ck_assert(synth_wait(p.dst, WATCH_ENDED));
	there = synth_status(p.dst).state;
	wrong = synth_check_owner(p.src, end);
	ck_assert_msg(!wrong, "link %u cut at %llu: %s: %s", link, (unsigned long long)n,
		      mig_state_name(end), wrong);
	relay_stop(&relay);
	switch (end) {
	case MIG_COMPLETED:
		ck_assert_int_eq(there, MIG_COMPLETED);
		ck_assert_ptr_null(synth_compare(p.src, p.dst));
		break;
	case MIG_FAILED:
		ck_assert(p.guest.runs_at_source && !p.guest.taken_over);
		if (there != MIG_UNDECIDED)
			pair_again(&p);
		break;
	default:
		ck_assert_int_eq(link, 0);
	}
	pair_down(&p);
	return end;
}

START_TEST(one_is_cut)
{
	static const uint64_t at[] = {0, 1, 28, 36, 37, 38, 60, 1000, 4133, 70000, 300000, 600000};
	unsigned failed = 0;

	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		failed += cut_at(1 + i % 3, at[i], 10 + i) == MIG_FAILED;
		failed += cut_at(0, at[i] + 300, 40 + i) == MIG_FAILED;
	}
	ck_assert_uint_ge(failed, 12);
}
END_TEST

/* ---- a source that means harm ---- */

#define N_CONNECTIONS 3

/* A raw source with several connections to r.p.dst. */
struct raw_source {
	struct stream s[N_CONNECTIONS]; /* what has not been sent yet */
	int fd[N_CONNECTIONS];
	uint64_t session;
};

static struct replay r;

static void flush_to(struct raw_source *x, unsigned i)
{
	raw_send(x->fd[i], x->s[i].out.data, x->s[i].out.len);
	wbuf_reset(&x->s[i].out);
}

static void hello(struct raw_source *x, unsigned wanted)
{
	struct stream *s = &x->s[0];

	stream_copy_meta(s, WIRE_HELLO, 0);
	s->meta.data[4] |= WIRE_FEATURE_CHANNELS;
	put_u8(&s->meta, (uint8_t)wanted);
	stream_frame(s, WIRE_HELLO, 0);
	stream_early(s);
	flush_to(x, 0);
}

/* The next frame on the first connection; its type, or 0 at the end. */
static unsigned answer(struct raw_source *x, struct rbuf *meta)
{
	static uint8_t frame[WIRE_HEADER_BYTES + 4096];
	struct rbuf h;
	uint32_t len;
	uint16_t type;

	if (raw_recv(x->fd[0], frame, WIRE_HEADER_BYTES) < WIRE_HEADER_BYTES)
		return 0;
	rbuf_init(&h, ORDER_LITTLE, frame, WIRE_HEADER_BYTES);
	(void)get_u32(&h);
	type = get_u16(&h);
	(void)get_u16(&h);
	(void)get_u32(&h);
	len = get_u32(&h);
	ck_assert_uint_le(len, 4096);
	ck_assert_uint_eq(raw_recv(x->fd[0], frame + WIRE_HEADER_BYTES, len), len);
	rbuf_init(meta, ORDER_LITTLE, frame + WIRE_HEADER_BYTES, len);
	return type;
}

static int connect_as(struct stream *s, uint64_t session, uint8_t index)
{
	int fd = raw_connect(synth_uri(r.p.dst));

	ck_assert_int_ge(fd, 0);
	put_u64(&s->meta, session);
	put_u8(&s->meta, index);
	stream_frame(s, WIRE_CHANNEL, 0);
	raw_send(fd, s->out.data, s->out.len);
	wbuf_reset(&s->out);
	return fd;
}

static void begin(struct raw_source *x)
{
	struct rbuf meta;

	for (unsigned i = 0; i < N_CONNECTIONS; i++) {
		stream_begin(&x->s[i], &r);
		x->fd[i] = -1;
	}
	x->fd[0] = raw_connect(synth_uri(r.p.dst));
	hello(x, N_CONNECTIONS);
	ck_assert_uint_eq(answer(x, &meta), WIRE_WELCOME);
	ck_assert_uint_eq(get_u16(&meta), WIRE_VERSION);
	ck_assert_uint_eq(get_u64(&meta), WIRE_FEATURE_CHANNELS);
	x->session = get_u64(&meta);
	ck_assert_uint_eq(get_u8(&meta), N_CONNECTIONS);
	ck_assert(rbuf_done(&meta));
}

static void join_all(struct raw_source *x)
{
	for (unsigned i = 1; i < N_CONNECTIONS; i++)
		x->fd[i] = connect_as(&x->s[i], x->session, (uint8_t)i);
}

static void end(struct raw_source *x)
{
	for (unsigned i = 0; i < N_CONNECTIONS; i++) {
		if (x->fd[i] >= 0)
			(void)close(x->fd[i]);
		stream_free(&x->s[i]);
	}
}

static void put_mark(struct raw_source *x, unsigned i, uint64_t number)
{
	put_u64(&x->s[i].meta, number);
	stream_frame(&x->s[i], WIRE_PASS, 0);
	if (!i)
		x->s[0].marks = number;
}

static void put_state(struct raw_source *x, uint64_t normal, uint64_t zero)
{
	for (unsigned i = 0; i < STREAM_SECTIONS; i++)
		stream_section(&x->s[0], i);
	stream_end(&x->s[0], normal, zero, STREAM_SECTIONS, 1);
}

/* One page full of this byte. */
static void put_page(struct stream *s, uint64_t page, int byte)
{
	static _Alignas(4096) uint8_t data[MEM_PAGE_BYTES];

	memset(data, byte, sizeof(data));
	stream_pages(s, 0, 1, 1);
	stream_run(s, page, 1);
	put_u32(&s->meta, page_sum(data));
	raw_put_frame(&s->out, &s->seq, WIRE_PAGES, &s->meta, data, sizeof(data));
	wbuf_reset(&s->meta);
}

/* Everything is sent: the destination gives up in these words, and takes the next guest. */
static void refused(struct raw_source *x, const char *text)
{
	struct rbuf meta = {0};
	char reason[WIRE_TEXT_MAX + 1] = "";
	unsigned type;

	while ((type = answer(x, &meta)) == WIRE_PASSED || type == WIRE_ALIVE)
		;
	if (type == WIRE_FAIL)
		wire_get_text(&meta, reason);
	ck_assert_msg(type == WIRE_FAIL && strstr(reason, text), "'%s' is not in '%s' (%s)", text,
		      reason, wire_type_name(type));
	end(x);
	ck_assert(synth_wait(r.p.dst, WATCH_ENDED));
	ck_assert_int_eq(synth_status(r.p.dst).state, MIG_FAILED);
	ck_assert_uint_eq(atomic_load(&r.p.dst->calls[SYNTH_APPLY]), 0);
	replay_still_good(&r);
}

/* The whole guest came; the source keeps it after all. */
static void ready(struct raw_source *x)
{
	struct rbuf meta;
	unsigned type;

	while ((type = answer(x, &meta)) == WIRE_PASSED || type == WIRE_ALIVE)
		;
	if (type == WIRE_FAIL) {
		char reason[WIRE_TEXT_MAX + 1];

		wire_get_text(&meta, reason);
		ck_abort_msg("%s", reason);
	}
	ck_assert_uint_eq(type, WIRE_READY);
}

/* The newer copy of a page comes first, by another connection than the older one. */
START_TEST(newer_overtakes_older)
{
	const uint64_t page = 7;
	struct raw_source x;

	replay_up(&r);
	begin(&x);
	join_all(&x);
	stream_all_zero(&x.s[0]);
	put_mark(&x, 0, 1);
	put_page(&x.s[0], page, 'n');
	put_mark(&x, 0, 2);
	put_state(&x, 2, STREAM_RAM_PAGES);
	flush_to(&x, 0);
	put_mark(&x, 2, 1);
	put_mark(&x, 2, 2);
	flush_to(&x, 2);
	(void)usleep(20000); /* let the destination run ahead, if it does */
	put_page(&x.s[1], page, 'o');
	put_mark(&x, 1, 1);
	put_mark(&x, 1, 2);
	/* Page 7 comes twice in the first round, which no real source does: the order of the
	 * rounds is what counts here. */
	flush_to(&x, 1);
	ready(&x);
	ck_assert_int_eq(*synth_page(r.p.dst, page), 'n');
	end(&x);
	replay_down(&r);
}
END_TEST

/* People at the door while the source's connections come: each is told, none does harm. */
START_TEST(strangers)
{
	static const char web[] = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
	struct raw_source x;
	struct stream s;
	char dropped[1000];
	int fds[10], n = 0;

	replay_up(&r);
	begin(&x);
	fds[n] = raw_connect(synth_uri(r.p.dst)); /* says nothing */
	ck_assert_int_ge(fds[n++], 0);
	fds[n] = raw_connect(synth_uri(r.p.dst)); /* half a frame */
	raw_send(fds[n++], r.to_dest.data, 20);
	fds[n] = raw_connect(synth_uri(r.p.dst)); /* another source: it has to wait */
	raw_send(fds[n++], r.to_dest.data, r.to_dest.len);
	fds[n] = raw_connect(synth_uri(r.p.dst));
	raw_send(fds[n++], web, strlen(web));
	stream_begin(&s, &r);
	fds[n++] = connect_as(&s, x.session ^ 1, 1);
	s.seq = 0;
	fds[n++] = connect_as(&s, x.session, 0);
	s.seq = 0;
	fds[n++] = connect_as(&s, x.session, N_CONNECTIONS);
	s.seq = 1; /* not the first frame */
	fds[n++] = connect_as(&s, x.session, 1);
	s.seq = 0;
	x.fd[1] = connect_as(&x.s[1], x.session, 1);
	fds[n++] = connect_as(&s, x.session, 1); /* twice */
	for (int i = 3; i < n; i++) {
		size_t got = raw_recv(fds[i], dropped, sizeof(dropped));

		ck_assert_msg(got >= WIRE_HEADER_BYTES, "%d", i);
		ck_assert_int_eq(dropped[4], WIRE_FAIL);
	}
	x.fd[2] = connect_as(&x.s[2], x.session, 2);
	stream_all_zero(&x.s[0]);
	for (unsigned i = 0; i < N_CONNECTIONS; i++)
		put_mark(&x, i, 1);
	put_state(&x, 0, STREAM_RAM_PAGES);
	for (unsigned i = 0; i < N_CONNECTIONS; i++)
		flush_to(&x, i);
	ready(&x);
	wire_put_text(&x.s[0].meta, "not now");
	stream_frame(&x.s[0], WIRE_ABORT, 0);
	flush_to(&x, 0);
	/* Those who waited have their turn now. */
	(void)close(fds[0]);
	(void)close(fds[1]);
	ck_assert(synth_wait(r.p.dst, WATCH(MIG_COMPLETED)));
	ck_assert_ptr_null(synth_compare(r.p.src, r.p.dst));
	for (int i = 2; i < n; i++)
		(void)close(fds[i]);
	stream_free(&s);
	end(&x);
	replay_down(&r);
}
END_TEST

/* More of them than the destination has patience for, all silent. */
START_TEST(crowd)
{
	struct raw_source x;
	int fds[100];

	replay_up(&r);
	begin(&x);
	for (unsigned i = 0; i < 100; i++) {
		fds[i] = raw_connect(synth_uri(r.p.dst));
		ck_assert_int_ge(fds[i], 0);
	}
	join_all(&x);
	stream_all_zero(&x.s[2]);
	for (unsigned i = 0; i < N_CONNECTIONS; i++)
		put_mark(&x, i, 1);
	put_state(&x, 0, STREAM_RAM_PAGES);
	for (unsigned i = 0; i < N_CONNECTIONS; i++)
		flush_to(&x, i);
	ready(&x);
	for (unsigned i = 0; i < 100; i++)
		(void)close(fds[i]);
	end(&x);
	replay_down(&r);
}
END_TEST

static void wants(unsigned n)
{
	struct stream s;

	stream_begin(&s, &r);
	stream_copy_meta(&s, WIRE_HELLO, 0);
	s.meta.data[4] |= WIRE_FEATURE_CHANNELS;
	put_u8(&s.meta, (uint8_t)n);
	stream_frame(&s, WIRE_HELLO, 0);
	stream_refused(&s, "connections, 2 to 16 are possible");
}

START_TEST(numbers)
{
	struct stream s;

	replay_up(&r);
	wants(0);
	wants(1);
	wants(17);
	wants(255);
	stream_begin(&s, &r);
	put_u64(&s.meta, 1);
	put_u8(&s.meta, 1);
	stream_frame(&s, WIRE_CHANNEL, 0);
	stream_refused(&s, "the stream begins with a channel message");
	replay_down(&r);
}
END_TEST

/* The source leaves before its connections have come. */
START_TEST(gone_while_joining)
{
	struct raw_source x;

	replay_up(&r);
	begin(&x);
	x.fd[1] = connect_as(&x.s[1], x.session, 1);
	wire_put_text(&x.s[0].meta, "changed my mind");
	stream_frame(&x.s[0], WIRE_ABORT, 0);
	flush_to(&x, 0);
	(void)shutdown(x.fd[0], SHUT_WR);
	refused(&x, "the source gave up: changed my mind");
	replay_down(&r);
}
END_TEST

/* They do not all come. */
START_TEST(too_few)
{
	struct raw_source x;

	replay_up(&r);
	begin(&x);
	x.fd[2] = connect_as(&x.s[2], x.session, 2);
	refused(&x, "2 of the source's 3 connections have come");
	replay_down(&r);
}
END_TEST

/* Connection 1 says this, and the others are as they should be. */
#define OTHER_SAYS(text, ...)                       \
	do {                                        \
		struct raw_source x;                \
                                                    \
		begin(&x);                          \
		join_all(&x);                       \
		stream_all_zero(&x.s[0]);           \
		__VA_ARGS__;                        \
		put_mark(&x, 0, 1);                 \
		put_mark(&x, 2, 1);                 \
		put_state(&x, 0, STREAM_RAM_PAGES); \
		for (unsigned i = 1; i < 4; i++)    \
			flush_to(&x, i % 3);        \
		refused(&x, text);                  \
	} while (0)

START_TEST(others_misbehave)
{
	replay_up(&r);
	OTHER_SAYS("connection 1: a section message on another connection",
		   stream_section(&x.s[1], 0));
	OTHER_SAYS("connection 1: a end message", stream_end(&x.s[1], 0, 0, 0, 1));
	OTHER_SAYS("connection 1: a commit message", stream_frame(&x.s[1], WIRE_COMMIT, 0));
	OTHER_SAYS("connection 1: a channel message", stream_frame(&x.s[1], WIRE_CHANNEL, 0));
	OTHER_SAYS("connection 1: pass 2 ends where 1 should", put_mark(&x, 1, 2));
	OTHER_SAYS("connection 1: pass 0 ends where 1 should", put_mark(&x, 1, 0));
	OTHER_SAYS("the source closed", (void)shutdown(x.fd[1], SHUT_WR));
	OTHER_SAYS("connection 1: malformed pages message", stream_frame(&x.s[1], WIRE_PAGES, 0));
	OTHER_SAYS("connection 1: the stream is damaged: frame 7 where 1 should be", x.s[1].seq = 7;
		   put_mark(&x, 1, 1));
	/* It does its round, and a page too many that the end does not count. */
	OTHER_SAYS("memory is incomplete", put_page(&x.s[1], 3, 'x'); put_mark(&x, 1, 1));
	/* A checksum that no newer copy comes to mend. */
	OTHER_SAYS("memory is incomplete", stream_pages(&x.s[1], 0, 1, 1);
		   stream_run(&x.s[1], 9, 1); put_u32(&x.s[1].meta, 1);
		   stream_frame(&x.s[1], WIRE_PAGES, (uint32_t)MEM_PAGE_BYTES); put_mark(&x, 1, 1));
	replay_down(&r);
}
END_TEST

/* The first connection only shows that the source lives: the others' failures are still noticed. */
START_TEST(alive_beside_a_failure)
{
	const struct timespec taken_in = {.tv_nsec = 100 * (long)NS_PER_MS};
	struct wire_writer alive;
	struct raw_source x;

	wire_alive(&alive);
	replay_up(&r);
	begin(&x);
	join_all(&x);
	raw_send(x.fd[0], alive.header, sizeof(alive.header));
	(void)nanosleep(&taken_in, NULL); /* right without it, too, but then it tries nothing */
	put_mark(&x, 1, 5);
	flush_to(&x, 1);
	refused(&x, "connection 1: pass 5 ends where 1 should");
	replay_down(&r);
}
END_TEST

PAIR_SUITE("engine-channels-faults", one_is_slow, one_is_cut, newer_overtakes_older, strangers,
	   crowd, numbers, gone_while_joining, too_few, others_misbehave, alive_beside_a_failure)
