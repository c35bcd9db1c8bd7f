/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is sent of a guest before anything else: the destination judges it before the first page,
 * and a guest that cannot live there runs on at the source, untouched.
 */
#include <check.h>
#include <string.h>

#include "tests/unit/support/stream.h"

static struct replay r;

static void up(struct pair *p, uint64_t seed)
{
	pair_up(p, 1 * PAIR_MIB, seed);
	synth_fill(p->src, 0, 100);
	synth_start_writer(p->src, 0, 128, 2000);
}

/* The destination has refused it: nothing was stopped, logged or sent, and another attempt is
 * taken. */
static void refused_untouched(struct pair *p, const char *text)
{
	struct mig_status st;

	pair_send(p, 300);
	pair_keeps(p, MIG_FAILED, text);
	st = synth_status(p->src);
	ck_assert_uint_eq(atomic_load(&p->src->calls[SYNTH_START]), 0);
	ck_assert_uint_eq(atomic_load(&p->src->calls[SYNTH_PAUSE]), 0);
	ck_assert_uint_eq(st.normal_pages + st.zero_pages, 0);
	ck_assert_int_eq(synth_settle(p->dst), MIG_NONE);
	ck_assert_uint_eq(atomic_load(&p->dst->calls[SYNTH_APPLY]), 0);
}

START_TEST(admitted)
{
	struct pair p;

	up(&p, 11);
	p.dst->n_features = 3; /* just enough */
	pair_send(&p, 2000);
	(void)pair_completes(&p); /* it compares the early section, too */
	ck_assert_uint_eq(atomic_load(&p.dst->calls[SYNTH_ADMIT]), 1);
	ck_assert_uint_eq(atomic_load(&p.src->calls[SYNTH_ADMIT]), 0);
	pair_down(&p);
}
END_TEST

START_TEST(not_admitted)
{
	struct pair p;

	up(&p, 12);
	p.dst->n_features = 2;
	refused_untouched(&p, "the destination gave up: the guest uses feature 14, which is not "
			      "offered here; the guest keeps running here");
	p.dst->n_features = 3;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

START_TEST(admit_fails)
{
	struct pair p;

	up(&p, 13);
	atomic_store(&p.dst->fail_at[SYNTH_ADMIT], 1);
	refused_untouched(&p, "synthetic failure of admit");
	pair_again(&p);
	pair_down(&p);
}
END_TEST

START_TEST(other_number)
{
	struct pair p;

	up(&p, 14);
	p.src->machine.n_early = 0;
	refused_untouched(&p, "in 0 early sections, this side in 1");
	p.src->machine.n_early = 1;
	pair_again(&p);
	pair_down(&p);
}
END_TEST

START_TEST(none_at_all)
{
	struct pair p;

	up(&p, 15);
	p.src->machine.n_early = p.dst->machine.n_early = 0;
	p.src->machine.admit = p.dst->machine.admit = NULL;
	memset(&p.src->state.model, 0, sizeof(p.src->state.model));
	synth_listen(p.dst, "tcp:127.0.0.1:0");
	pair_send(&p, 2000);
	(void)pair_completes(&p);
	pair_down(&p);
}
END_TEST

static struct stream only_hello(void)
{
	struct stream s;

	stream_begin(&s, &r);
	stream_copy_meta(&s, WIRE_HELLO, 0);
	stream_frame(&s, WIRE_HELLO, 0);
	return s;
}

/* The recorded early section with some bytes changed, cut, or added. */
static void bent(size_t at, const void *bytes, size_t len, long grow, const char *text)
{
	struct stream s = only_hello();

	stream_copy_meta(&s, WIRE_SECTION, 0);
	memcpy(s.meta.data + at, bytes, len);
	if (grow > 0)
		put_bytes(&s.meta, "xxxxxxxx", (size_t)grow);
	else
		s.meta.len -= (size_t)-grow;
	stream_frame(&s, WIRE_SECTION, 0);
	stream_refused(&s, text);
}

START_TEST(malformed)
{
	/* "model": u8 length, name, instance, version, count, features */
	const size_t instance = 6, version = 10, count = 14;

	replay_up(&r);
	bent(0, "\x40", 1, 0, "malformed section");
	bent(1, "muddl", 5, 0, "section 'muddl' 0 (version 5) was not announced");
	bent(instance, "\1", 1, 0, "section 'model' 1 (version 5) was not announced");
	bent(version, "\6", 1, 0, "section 'model' 0 (version 6) was not announced");
	bent(count, "\x21", 1, 0, "model.features: 33 elements, at most 32");
	bent(count, "\xff\xff\xff\xff", 4, 0, "4294967295 elements, at most 32");
	bent(count, "\2", 1, 0, "is 2 bytes too long");
	bent(0, "", 0, 3, "is 3 bytes too long");
	bent(0, "", 0, -1, "model.features: the data ends inside this field");
	bent(0, "", 0, -19, "malformed section");
	replay_down(&r);
}
END_TEST

START_TEST(out_of_order)
{
	struct stream s;

	replay_up(&r);
	s = only_hello(); /* it is missing, */
	stream_all_zero(&s);
	stream_refused(&s, "a pages message where an early section was due");
	s = only_hello();
	stream_end(&s, 0, 0, 0, 1);
	stream_refused(&s, "a end message where an early section was due");
	s = only_hello();
	stream_refused(&s, "");
	s = only_hello(); /* another comes in its place, */
	stream_section(&s, 0);
	stream_refused(&s, "section 'cpu' 0 (version 3) was not announced");
	s = only_hello(); /* the source gives up, */
	wire_put_text(&s.meta, "no more");
	stream_frame(&s, WIRE_ABORT, 0);
	stream_refused(&s, "the source gave up: no more");
	stream_begin(&s, &r); /* it comes first of all, */
	stream_early(&s);
	stream_refused(&s, "the stream begins with a section message");
	stream_begin(&s, &r); /* or twice */
	stream_hello(&s);
	stream_early(&s);
	stream_refused(&s, "section 'model' 0 (version 5) was not announced, or comes twice");
	replay_down(&r);
}
END_TEST

PAIR_SUITE("engine-early", admitted, not_admitted, admit_fails, other_number, none_at_all,
	   malformed, out_of_order)
