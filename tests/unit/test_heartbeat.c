/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that is gone is noticed, one that is only quiet, slow or busy is not taken for gone. All
 * cases of one kind wait at the same time, since waiting is most of it.
 */
#include <check.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "migration/heartbeat.h"
#include "migration/wire.h"
#include "tests/unit/support/chan_fixture.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/proxy.h"
#include "tests/unit/support/raw.h"

#define LONGER_NS (MIG_BEAT_SILENT_NS + 2 * NS_PER_SEC)
#define FLOOD     (64u << 20) /* more than two sockets hold */

static void nap(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	(void)nanosleep(&ts, NULL);
}

struct end {
	struct mig_chan *chan;
	struct mig_beat beat;
	atomic_uint told_silent, told_back;
};

static void tell(void *ctx, bool silent)
{
	struct end *end = ctx;

	atomic_fetch_add(silent ? &end->told_silent : &end->told_back, 1);
}

static void open_end(struct end *end, int fd, bool patient)
{
	struct err e = ERR_INIT;

	*end = (struct end){0};
	ck_assert_msg(!mig_chan_open(&end->chan, fd, "the peer", 0, &e), "%s", e.msg);
	ck_assert_msg(!mig_beat_start(&end->beat, end->chan, tell, end, &e), "%s", e.msg);
	mig_beat_patient(&end->beat, patient);
}

static void close_end(struct end *end)
{
	mig_beat_stop(&end->beat);
	mig_chan_close(end->chan);
}

/* Is the next thing that comes this byte, whatever was said to stay in touch? */
static void expect_frame(struct end *end, struct wire_reader *r, uint64_t want)
{
	struct err e = ERR_INIT;
	struct wire_frame f;
	uint64_t v;

	ck_assert_msg(!wire_recv(r, end->chan, &f, &e), "%s", e.msg);
	ck_assert_int_eq(f.type, WIRE_PASS);
	ck_assert_int_eq(wire_get_one_u64(&r->meta, "pass", &v, &e), 0);
	ck_assert_uint_eq(v, want);
}

static void send_frame(struct end *end, struct wire_writer *w, uint64_t v)
{
	struct err e = ERR_INIT;
	struct wbuf meta;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	put_u64(&meta, v);
	ck_assert_msg(!wire_send(w, end->chan, WIRE_PASS, &meta, &e), "%s", e.msg);
	wbuf_free(&meta);
}

/* Nobody has anything to say for a long time: the numbering is none the worse for it. */
START_TEST(idle_is_not_dead)
{
	struct wire_writer w[2] = {{0}, {0}};
	struct wire_reader r[2] = {{0}, {0}};
	struct end ends[2][2];
	int fd[2];

	for (unsigned k = 0; k < 2; k++) {
		make_sockets(k, 0, fd);
		open_end(&ends[k][0], fd[0], false);
		open_end(&ends[k][1], fd[1], false);
	}
	for (unsigned k = 0; k < 2; k++)
		send_frame(&ends[k][0], &w[k], 1);
	nap(LONGER_NS);
	for (unsigned k = 0; k < 2; k++) {
		send_frame(&ends[k][0], &w[k], 2);
		expect_frame(&ends[k][1], &r[k], 1);
		expect_frame(&ends[k][1], &r[k], 2);
		wire_reader_free(&r[k]);
		close_end(&ends[k][0]);
		close_end(&ends[k][1]);
	}
}
END_TEST

/* The other end's host is there and takes what comes, but its process does not stir. */
START_TEST(silent_is_dead)
{
	struct end patient[2], hasty[2];
	uint64_t begin_ns = clock_mono_ns();
	struct wire_reader r = {0};
	struct err e = ERR_INIT;
	struct wire_frame f;
	int fd[2], silent[4];

	for (unsigned k = 0; k < 2; k++) {
		make_sockets(k, 0, fd);
		open_end(&hasty[k], fd[0], false);
		silent[k] = fd[1];
		make_sockets(k, 0, fd);
		open_end(&patient[k], fd[0], true);
		silent[2 + k] = fd[1];
	}
	ck_assert_int_eq(wire_recv(&r, hasty[0].chan, &f, &e), -EHOSTDOWN);
	ck_assert_ptr_nonnull(strstr(e.msg, "the peer has not been heard of for 4 s"));
	printf("silence was noticed after %.2f s\n", (double)(clock_mono_ns() - begin_ns) / 1e9);
	ck_assert_uint_ge(clock_mono_ns() - begin_ns, MIG_BEAT_SILENT_NS);
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(wire_recv(&r, hasty[1].chan, &f, &e), -EHOSTDOWN);
	for (unsigned k = 0; k < 2; k++) {
		char byte = 0;

		while (!atomic_load(&patient[k].told_silent))
			nap(NS_PER_MS);
		ck_assert_uint_eq(atomic_load(&patient[k].told_back), 0);
		/* It stirs again, and the channel is as good as before. */
		ck_assert_int_eq(send(silent[2 + k], &byte, 1, 0), 1);
		while (!atomic_load(&patient[k].told_back))
			nap(NS_PER_MS);
		e = (struct err)ERR_INIT;
		ck_assert_int_eq(mig_chan_recv(patient[k].chan, &byte, 1, &e), 0);
		ck_assert_uint_eq(atomic_load(&patient[k].told_silent), 1);
		close_end(&patient[k]);
		close_end(&hasty[k]);
	}
	for (unsigned k = 0; k < 4; k++)
		(void)close(silent[k]);
	wire_reader_free(&r);
}
END_TEST

struct flood {
	struct end *end;
	uint8_t *data;
	int rc;
};

static void *send_flood(void *arg)
{
	struct flood *f = arg;
	struct err e = ERR_INIT;

	f->rc = mig_chan_send(f->end->chan, f->data, FLOOD, &e);
	return NULL;
}

/*
 * The sockets are full and the reader takes nothing for a long time, but it lives: its word gets
 * through to a sender that reads nothing meanwhile.
 */
START_TEST(stuck_is_not_dead)
{
	struct flood f = {.data = calloc(1, FLOOD), .rc = -1};
	struct end ends[2];
	struct err e = ERR_INIT;
	pthread_t thread;
	uint8_t *got = malloc(FLOOD);
	int fd[2];

	make_sockets(true, 0, fd);
	open_end(&ends[0], fd[0], false);
	open_end(&ends[1], fd[1], true); /* it hears nothing but the flood's beginning */
	f.end = &ends[0];
	ck_assert_int_eq(pthread_create(&thread, NULL, send_flood, &f), 0);
	nap(LONGER_NS);
	ck_assert_msg(!mig_chan_recv(ends[1].chan, got, FLOOD, &e), "%s", e.msg);
	ck_assert_int_eq(memcmp(got, f.data, FLOOD),
			 0); /* and nothing came into the middle of it */
	(void)pthread_join(thread, NULL);
	ck_assert_int_eq(f.rc, 0);
	close_end(&ends[0]);
	close_end(&ends[1]);
	free(f.data);
	free(got);
}
END_TEST

struct chatter {
	struct mig_chan *chan;
	atomic_bool over;
};

static void *say_alive(void *arg)
{
	struct chatter *c = arg;
	struct wire_writer alive;

	wire_alive(&alive);
	while (!atomic_load(&c->over)) {
		mig_chan_send_aside(c->chan, alive.header, sizeof(alive.header));
		nap(20 * NS_PER_US);
	}
	return NULL;
}

/* Frames as fast as they go, while another thread puts its own between them. */
START_TEST(between_frames)
{
	struct wire_writer w = {0};
	struct chatter chatter = {0};
	pthread_t thread;
	struct wire_reader r = {0};
	struct end ends[2];
	int fd[2];

	make_sockets(true, 0, fd);
	open_end(&ends[0], fd[0], false);
	open_end(&ends[1], fd[1], false);
	chatter.chan = ends[0].chan;
	ck_assert_int_eq(pthread_create(&thread, NULL, say_alive, &chatter), 0);
	for (uint64_t i = 0; i < 5000; i++) {
		send_frame(&ends[0], &w, i);
		expect_frame(&ends[1], &r, i);
	}
	atomic_store(&chatter.over, true);
	(void)pthread_join(thread, NULL);
	wire_reader_free(&r);
	close_end(&ends[0]);
	close_end(&ends[1]);
}
END_TEST

/* ---- in a migration ---- */

struct mute {
	struct pair p;
	struct proxy proxy;
	uint64_t since_ns;
};

static void mute_up(struct mute *m, uint64_t seed)
{
	pair_up(&m->p, 4 * PAIR_MIB, seed);
	synth_fill(m->p.src, 0, 900);
	synth_start_writer(m->p.src, 0, 512, 2000);
	proxy_start(&m->proxy, synth_uri(m->p.dst), PROXY_TO_DEST, PROXY_NO_CUT, false);
}

static void mute_now(struct mute *m)
{
	atomic_store(&m->proxy.mute, true);
	m->since_ns = clock_mono_ns();
}

static void mute_down(struct mute *m)
{
	proxy_stop(&m->proxy);
	proxy_free(&m->proxy);
	pair_down(&m->p);
}

static void both_notice(struct mute *m, const char *what)
{
	pair_keeps(&m->p, MIG_FAILED, "has not been heard of for 4 s");
	printf("%s: noticed after %.2f s\n", what,
	       (double)(clock_mono_ns() - m->since_ns) / (double)NS_PER_SEC);
	ck_assert(synth_wait(m->p.dst, WATCH(MIG_FAILED)));
	pair_again(&m->p);
}

/* The line goes dead without a word, in several states at the same time. */
START_TEST(dead_line)
{
	struct mute active, limited, loading, ready;

	mute_up(&active, 1);
	mute_up(&limited, 2);
	mute_up(&loading, 3);
	mute_up(&ready, 4);
	synth_send(active.p.src, active.proxy.uri, 0, 1);
	synth_send(limited.p.src, limited.proxy.uri, 64 << 10, 300);
	ck_assert(watch_wait_pass(&active.p.src->watch, 3, SYNTH_WAIT_MS));
	ck_assert(watch_wait_pass(&limited.p.src->watch, 1, SYNTH_WAIT_MS));
	mute_now(&active);
	mute_now(&limited);
	/* The source waits for READY as long as its limit lets it. */
	atomic_store(&loading.p.dst->delay_ns[SYNTH_APPLY], 300 * NS_PER_MS);
	synth_send(loading.p.src, loading.proxy.uri, 0, 60000);
	ck_assert(synth_wait(loading.p.dst, WATCH(MIG_DEVICE)));
	mute_now(&loading);
	/* The destination has been ready when the source fell silent. */
	atomic_store(&ready.p.src->delay_ns[SYNTH_GIVEN_AWAY], 6 * NS_PER_SEC);
	synth_send(ready.p.src, ready.proxy.uri, 0, 60000);
	while (!atomic_load(&ready.p.src->calls[SYNTH_GIVEN_AWAY]))
		nap(NS_PER_MS);
	mute_now(&ready);

	both_notice(&active, "sending");
	both_notice(&limited, "waiting for bandwidth");
	pair_keeps(&loading.p, MIG_FAILED, "has not been heard of for 4 s");
	/* Whether the source has committed only the source knows: it is waited for, and shown. */
	while (!strstr(synth_status(ready.p.dst).error, "the source is silent"))
		nap(NS_PER_MS);
	ck_assert_int_eq(synth_status(ready.p.dst).state, MIG_DEVICE);
	ck_assert_int_eq(synth_wait_end(ready.p.src), MIG_UNDECIDED);
	mute_down(&active);
	mute_down(&limited);
	mute_down(&loading);
	mute_down(&ready);
}
END_TEST

/* Whatever takes its time on either side is not taken for death. */
START_TEST(slow_is_not_dead)
{
	struct pair pausing, loading;

	pair_up(&pausing, PAIR_MIB, 6);
	pair_up(&loading, PAIR_MIB, 7);
	atomic_store(&pausing.src->delay_ns[SYNTH_PAUSE], LONGER_NS);
	atomic_store(&loading.dst->delay_ns[SYNTH_APPLY], LONGER_NS);
	pair_send(&pausing, 60000);
	pair_send(&loading, 60000);
	(void)pair_completes(&pausing);
	(void)pair_completes(&loading);
	pair_down(&pausing);
	pair_down(&loading);
}
END_TEST

PAIR_SUITE("heartbeat", idle_is_not_dead, silent_is_dead, stuck_is_not_dead, between_frames,
	   dead_line, slow_is_not_dead)
