/* SPDX-License-Identifier: Apache-2.0 */
/* Machines that do not match, peers that are no ferry, callbacks that fail. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/support/pair.h"
#include "tests/unit/support/raw.h"

static void up(struct pair *p, uint64_t seed)
{
	pair_up(p, 1 * PAIR_MIB, seed);
	synth_fill(p->src, 0, 100);
	synth_start_writer(p->src, 0, 128, 2000);
}

/* ---- machines that do not match ---- */

START_TEST(other_ram_size)
{
	struct synth_config cfg = {.ram_bytes = 2 * PAIR_MIB, .seed = 2};
	struct synth *small;
	struct pair p;

	up(&p, 1);
	small = p.dst;
	p.dst = synth_dest(&p.guest, &cfg);
	synth_listen(p.dst, "tcp:127.0.0.1:0");
	pair_send(&p, 300);
	pair_keeps(&p, MIG_FAILED, "the source's guest has 1024 KiB of memory, this one 2048 KiB");
	synth_free(p.dst);
	p.dst = small;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* The source's machine is changed by `break_it`, which must be refused; then it is as before. */
static void mismatch(void (*break_it)(struct synth *), const char *text)
{
	struct mig_section sections[SYNTH_SECTIONS];
	struct mig_machine machine;
	struct pair p;

	up(&p, 3);
	machine = p.src->machine;
	memcpy(sections, p.src->sections, sizeof(sections));
	break_it(p.src);
	pair_send(&p, 300);
	pair_keeps(&p, MIG_FAILED, text);
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_START]), 0);
	ck_assert_int_eq(synth_settle(p.dst), MIG_NONE); /* turned away at the door */
	p.src->machine = machine;
	memcpy(p.src->sections, sections, sizeof(sections));
	pair_again(&p);
	pair_down(&p);
}

static void more_cpus(struct synth *s)
{
	s->machine.n_cpus = 3;
}

static void one_section_less(struct synth *s)
{
	s->machine.n_sections--;
}

static struct field_table changed_table;

static void other_version(struct synth *s)
{
	changed_table = *s->sections[2].table;
	changed_table.version++;
	s->sections[2].table = &changed_table;
}

static void other_device(struct synth *s)
{
	changed_table = *s->sections[2].table;
	changed_table.name = "gadget";
	s->sections[2].table = &changed_table;
}

static void other_instance(struct synth *s)
{
	s->sections[1].instance = 9;
}

static void twice(struct synth *s)
{
	s->sections[1].instance = 0;
}

START_TEST(other_machine)
{
	mismatch(more_cpus, "the source's guest has 3 vCPUs, this one 2");
	mismatch(one_section_less, "the source's guest has 3 pieces of device state, this one 4");
	mismatch(other_version, "the state of 'device' has version 2, this side knows 1");
	mismatch(other_device, "a device that this one has not: 'gadget' number 0");
	mismatch(other_instance, "a device that this one has not: 'cpu' number 9");
}
END_TEST

/* Announced twice: the counts agree, but the second CPU's state never comes. */
START_TEST(section_twice)
{
	struct pair p;

	up(&p, 4);
	twice(p.src);
	pair_send(&p, 2000);
	pair_keeps(&p, MIG_FAILED, "the destination gave up");
	ck_assert_uint_eq(atomic_load(&p.dst->calls[SYNTH_APPLY]), 0);
	p.src->sections[1].instance = 1;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* ---- peers that are no ferry ---- */

static void meet_server(struct raw_server *server, const char *text)
{
	struct pair p;

	up(&p, 5);
	raw_serve(server);
	synth_send(p.src, server->uri, 0, 300);
	pair_keeps(&p, MIG_FAILED, text);
	raw_server_end(server);
	pair_again(&p);
	pair_down(&p);
}

static const char http_answer[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
static const char greeting[] = "SSH-2.0-x\r\n";

START_TEST(source_meets_others)
{
	meet_server(&(struct raw_server){.close_at_once = true}, "closed the connection");
	meet_server(&(struct raw_server){.read_bytes = 20, .close_at_once = true},
		    "closed the connection");
	meet_server(&(struct raw_server){.read_bytes = 20,
					 .answer = http_answer,
					 .answer_bytes = sizeof(http_answer) - 1},
		    "does not speak ferry's migration protocol");
	/* It speaks first, less than a header, and closes. */
	meet_server(&(struct raw_server){.answer = greeting,
					 .answer_bytes = sizeof(greeting) - 1,
					 .close_at_once = true},
		    "closed the connection");
}
END_TEST

/* The answer to the hello is a good frame, but not the right one. */
static void meet_frame(unsigned type, const char *payload, size_t bytes, const char *text)
{
	struct wbuf meta, stream;
	uint32_t seq = 0;

	wbuf_init(&meta, ORDER_LITTLE, 1000);
	wbuf_init(&stream, ORDER_LITTLE, 2000);
	put_bytes(&meta, payload, bytes);
	raw_put_frame(&stream, &seq, (uint16_t)type, &meta, NULL, 0);
	meet_server(&(struct raw_server){.read_bytes = 40,
					 .answer = stream.data,
					 .answer_bytes = stream.len},
		    text);
	wbuf_free(&meta);
	wbuf_free(&stream);
}

START_TEST(source_meets_odd_frames)
{
	meet_frame(WIRE_RUNNING, "12345678", 8, "sent a running message out of turn");
	meet_frame(WIRE_READY, "12345678", 8, "sent a ready message out of turn");
	meet_frame(WIRE_HELLO, "", 0, "sent a hello message out of turn");
	meet_frame(WIRE_WELCOME, "\2\0\0\0\0\0\0\0\0\0", 10, "a version that was not offered");
	meet_frame(WIRE_WELCOME, "\1\0\0\0\1\0\0\0\0\0", 10, "features that were not offered");
	meet_frame(WIRE_WELCOME, "\1\0\0\0\0\0\0\0\0", 9, "malformed welcome");
	meet_frame(WIRE_FAIL, "no\nroom\x80", 8, "the destination gave up: no?room?");
	meet_frame(WIRE_FAIL, "", 0, "the destination gave up: ");
	meet_frame(999, "", 0, "a message (type 999) that this version does not know");
}
END_TEST

START_TEST(nobody_there)
{
	char uri[64];
	struct pair p;
	int fd = raw_listen(uri);

	(void)close(fd);
	up(&p, 6);
	synth_send(p.src, uri, 0, 300);
	pair_keeps(&p, MIG_FAILED, "Connection refused; the guest keeps running here");
	synth_send(p.src, "unix:/nonexistent/socket", 0, 300);
	pair_keeps(&p, MIG_FAILED, "cannot connect to /nonexistent/socket: No such file");
	pair_again(&p);
	pair_down(&p);
}
END_TEST

static void knock(struct pair *p, const void *data, size_t len, bool half_close)
{
	int fd = raw_connect(synth_uri(p->dst));

	ck_assert_int_ge(fd, 0);
	raw_send(fd, data, len);
	if (half_close)
		(void)shutdown(fd, SHUT_WR);
	if (half_close || len >= WIRE_HEADER_BYTES)
		ck_assert(raw_ended(fd, SYNTH_WAIT_MS));
	(void)close(fd);
	ck_assert_int_eq(synth_settle(p->dst), MIG_NONE);
}

START_TEST(destination_meets_others)
{
	static const char get[] = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
	char garbage[8192];
	struct pair p;

	up(&p, 7);
	knock(&p, "", 0, false);
	knock(&p, "", 0, true);
	knock(&p, "x", 1, false);
	knock(&p, get, sizeof(get) - 1, false);
	for (unsigned i = 0; i < sizeof(garbage); i++)
		garbage[i] = (char)(i * 37 + i / 100);
	knock(&p, garbage, sizeof(garbage), false);
	memset(garbage, 0, sizeof(garbage));
	knock(&p, garbage, sizeof(garbage), true);
	ck_assert_uint_eq(atomic_load(&p.dst->calls[SYNTH_APPLY]), 0);
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/*
 * However many say nothing, or stop in the middle: who comes behind them is served before they have
 * been sent away. (One after the other they would take longer than a source waits.)
 */
START_TEST(silent_clients)
{
	static const uint8_t magic[] = {'F', 'r', 'r', 'y', WIRE_HELLO};
	struct pair p;
	int fds[40];

	up(&p, 8);
	for (unsigned i = 0; i < 40; i++) {
		fds[i] = raw_connect(synth_uri(p.dst));
		ck_assert_int_ge(fds[i], 0);
		if (i % 4 == 1)
			raw_send(fds[i], greeting, sizeof(greeting) - 1);
		else if (i % 4 == 2)
			raw_send(fds[i], magic, sizeof(magic));
	}
	ck_assert(raw_ended(fds[0], 20000)); /* more than are kept: the oldest left */
	pair_send(&p, 2000);
	(void)pair_completes(&p);
	for (unsigned i = 0; i < 40; i++)
		(void)close(fds[i]);
	pair_down(&p);
}
END_TEST

/* Nobody is kept for ever. */
START_TEST(silent_clients_leave)
{
	struct pair p;
	int silent, half;

	up(&p, 9);
	silent = raw_connect(synth_uri(p.dst));
	half = raw_connect(synth_uri(p.dst));
	ck_assert(silent >= 0 && half >= 0);
	raw_send(half, greeting, sizeof(greeting) - 1);
	ck_assert(raw_ended(silent, 30000));
	ck_assert(raw_ended(half, 30000));
	ck_assert_int_eq(synth_settle(p.dst), MIG_NONE);
	(void)close(silent);
	(void)close(half);
	pair_down(&p);
}
END_TEST

/* ---- callbacks that fail ---- */

/* The n-th call fails, if it comes to that. False: it did not. */
static bool fail_nth(enum synth_call call, bool at_dest, unsigned n, const char *name)
{
	enum mig_state end;
	struct synth *bad;
	struct pair p;
	bool hit;

	up(&p, 10 + n);
	bad = at_dest ? p.dst : p.src;
	atomic_store(&bad->fail_at[call], n);
	pair_send(&p, 2000);
	end = synth_wait_end(p.src);
	hit = atomic_load(&bad->calls[call]) >= n;
	if (hit) {
		pair_keeps(&p, MIG_FAILED, name);
		ck_assert_uint_eq(atomic_load(&p.dst->calls[SYNTH_TAKEN_OVER]), 0);
		pair_again(&p);
	} else {
		ck_assert_int_eq(end, MIG_COMPLETED);
		(void)pair_completes(&p);
	}
	pair_down(&p);
	return hit;
}

START_TEST(callbacks_fail)
{
	ck_assert(fail_nth(SYNTH_START, false, 1, "starting the dirty log: synthetic failure"));
	ck_assert(fail_nth(SYNTH_PAUSE, false, 1, "pausing the guest: synthetic failure of pause"));
	ck_assert(fail_nth(SYNTH_COLLECT, false, 1, "synthetic failure of collect"));
	ck_assert(fail_nth(SYNTH_APPLY, true, 1,
			   "gave up: loading the guest's state: synthetic failure of apply"));
	for (unsigned n = 1; n <= 12; n++) {
		bool hit = fail_nth(SYNTH_HARVEST, false, n, "synthetic failure of harvest");

		ck_assert(hit || n > 2);
		hit = fail_nth(SYNTH_PROTECT, false, n, "synthetic failure of protect");
		ck_assert(hit || n > 1);
	}
}
END_TEST

/* In the pause too: the harvest of the switchover is the last one. */
START_TEST(last_harvest_fails)
{
	struct pair p;

	up(&p, 30);
	pair_send(&p, 1);
	ck_assert(watch_wait_pass(&p.src->watch, 2, SYNTH_WAIT_MS));
	atomic_store(&p.src->delay_ns[SYNTH_PAUSE], 300 * NS_PER_MS);
	pair_set_params(&p, 0, 2000);
	ck_assert(synth_wait(p.src, WATCH(MIG_DEVICE)));
	atomic_store(&p.src->fail_at[SYNTH_HARVEST], atomic_load(&p.src->calls[SYNTH_HARVEST]) + 1);
	pair_keeps(&p, MIG_FAILED, "reading the dirty log: synthetic failure of harvest");
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_RESUME]), 1);
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* A guest that cannot be resumed stays paused, owned by the source. */
START_TEST(resume_fails)
{
	struct mig_status st;
	struct pair p;

	up(&p, 31);
	atomic_store(&p.src->fail_at[SYNTH_COLLECT], 1);
	atomic_store(&p.src->fail_at[SYNTH_RESUME], 1);
	pair_send(&p, 2000);
	ck_assert_int_eq(synth_wait_end(p.src), MIG_FAILED);
	st = synth_status(p.src);
	ck_assert_ptr_nonnull(strstr(st.error, "failure of collect; the guest stays paused here"));
	ck_assert(!p.guest.given_away && !p.guest.taken_over && !p.guest.runs_at_source);
	pair_down(&p);
}
END_TEST

START_TEST(paused_guest_stays_paused)
{
	struct pair p;

	pair_up(&p, PAIR_MIB, 32);
	synth_stop_guest(p.src);
	atomic_store(&p.dst->fail_at[SYNTH_APPLY], 1);
	pair_send(&p, 300);
	pair_keeps(&p, MIG_FAILED, "the guest stays paused here");
	ck_assert(!p.guest.runs_at_source);
	pair_again(&p);
	ck_assert(!p.guest.runs_at_dest);
	pair_down(&p);
}
END_TEST

/* After the commit nobody but the destination may run it, even if it fails to. */
START_TEST(taking_over_fails)
{
	const char *wrong;
	struct mig_status st;
	struct pair p;

	up(&p, 33);
	atomic_store(&p.dst->fail_at[SYNTH_TAKEN_OVER], 1);
	pair_send(&p, 2000);
	ck_assert_int_eq(synth_wait_end(p.src), MIG_UNDECIDED);
	st = synth_status(p.src);
	ck_assert_ptr_nonnull(strstr(st.error, "synthetic failure of taken_over"));
	ck_assert_uint_ne(st.token, 0);
	wrong = synth_check_owner(p.src, MIG_UNDECIDED);
	ck_assert_msg(!wrong, "%s", wrong);
	ck_assert(!p.guest.runs_at_source && !p.guest.runs_at_dest);
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_RESUME]), 0);
	ck_assert(synth_wait(p.dst, WATCH(MIG_FAILED)));
	pair_down(&p);
}
END_TEST

/* A source that waits for max-bandwidth, here for a minute, hears of its destination's end. */
START_TEST(gone_while_limited)
{
	struct pair p;

	up(&p, 34);
	synth_send(p.src, synth_uri(p.dst), 64, 300);
	while (!synth_status(p.src).normal_pages && !mig_source_ended(p.src->source))
		(void)usleep(1000);
	mig_dest_free(p.dst->dest);
	p.dst->dest = NULL;
	pair_keeps(&p, MIG_FAILED, "closed the connection");
	pair_down(&p);
}
END_TEST

PAIR_SUITE("engine-faults", other_ram_size, other_machine, section_twice, source_meets_others,
	   source_meets_odd_frames, nobody_there, destination_meets_others, silent_clients,
	   silent_clients_leave, callbacks_fail, last_harvest_fails, resume_fails,
	   paused_guest_stays_paused, taking_over_fails, gone_while_limited)
