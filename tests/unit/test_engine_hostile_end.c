/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a hostile stream: state sections, end marks and commits that are not what they should
 * be. The destination runs nothing that is not whole and meant for it.
 */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "tests/unit/support/stream.h"

static struct replay r;

static struct stream after_hello(void)
{
	struct stream s;

	stream_begin(&s, &r);
	stream_hello(&s);
	return s;
}

static void bent_section(unsigned n, size_t at, const void *bytes, size_t len, long grow,
			 const char *text)
{
	struct stream s = after_hello();

	stream_copy_meta(&s, WIRE_SECTION, 1 + n); /* behind the early one */
	memcpy(s.meta.data + at, bytes, len);
	if (grow > 0)
		put_bytes(&s.meta, "xxxxxxxx", (size_t)grow);
	else
		s.meta.len -= (size_t)-grow;
	stream_frame(&s, WIRE_SECTION, 0);
	stream_refused(&s, text);
}

START_TEST(sections)
{
	/* "cpu" and "device": u8 length, name, instance, version, fields. */
	const size_t cpu_instance = 4, cpu_version = 8, entries = 1 + 6 + 8;
	struct stream s;

	replay_up(&r);
	bent_section(0, 1, "c\0u", 3, 0, "malformed section");
	bent_section(0, 0, "\x40", 1, 0, "malformed section");
	bent_section(0, 1, "gpu", 3, 0, "section 'gpu' 0 (version 3) was not announced");
	bent_section(0, cpu_instance, "\7", 1, 0, "section 'cpu' 7");
	bent_section(0, cpu_version, "\4", 1, 0, "(version 4) was not announced");
	bent_section(0, 0, "", 0, 1, "is 1 bytes too long");
	bent_section(0, 0, "", 0, -1, "cpu.halted: the data ends inside this field");
	bent_section(0, 0, "", 0, -70, "malformed section");
	bent_section(2, entries, "\x11\0\0\0", 4, 0, "device.entries: 17 elements, at most 16");
	bent_section(2, entries, "\xff\xff\xff\xff", 4, 0, "4294967295 elements, at most 16");
	bent_section(2, entries, "\0\0\0\x80", 4, 0, "2147483648 elements, at most 16");
	s = after_hello();
	stream_frame(&s, WIRE_SECTION, 0);
	stream_refused(&s, "malformed section");
	s = after_hello();
	stream_section(&s, 1);
	stream_section(&s, 1);
	stream_refused(&s, "section 'cpu' 1 (version 3) was not announced, or comes twice");
	replay_down(&r);
}
END_TEST

/* Pages and sections so far, then an end that does not fit them. */
static void bad_end(bool with_pages, unsigned n_sections, uint64_t normal, uint64_t zero,
		    uint32_t n, uint8_t runs, const char *text)
{
	struct stream s = after_hello();

	if (with_pages)
		stream_all_zero(&s);
	for (unsigned i = 0; i < n_sections; i++)
		stream_section(&s, i);
	stream_end(&s, normal, zero, n, runs);
	/* Whoever fell for it would get its commit. */
	stream_copy_meta(&s, WIRE_COMMIT, 0);
	stream_frame(&s, WIRE_COMMIT, 0);
	stream_refused(&s, text);
}

START_TEST(ends)
{
	struct stream s;

	replay_up(&r);
	bad_end(false, 0, 0, 0, 0, 1, "memory is incomplete: 0 of 256 pages");
	bad_end(false, 4, 0, 0, 4, 1, "memory is incomplete");
	bad_end(false, 4, 0, 256, 4, 1, "memory is incomplete");
	bad_end(true, 4, 0, 255, 4, 1, "memory is incomplete");
	bad_end(true, 4, 0, 257, 4, 1, "memory is incomplete");
	bad_end(true, 4, 256, 0, 4, 1, "memory is incomplete");
	bad_end(true, 4, ~0ull, 257, 4, 1, "memory is incomplete");
	bad_end(true, 3, 0, 256, 4, 1, "state is incomplete: 3 sections came of 4");
	bad_end(true, 3, 0, 256, 3, 1, "state is incomplete: 3 sections came of 4");
	bad_end(true, 0, 0, 256, 0, 1, "state is incomplete");
	bad_end(true, 4, 0, 256, ~0u, 1, "state is incomplete");
	bad_end(true, 4, 0, 256, 4, 2, "malformed end message");
	s = after_hello();
	stream_frame(&s, WIRE_END, 0);
	stream_refused(&s, "malformed end message");
	/* One page too few, though the counts agree: page 9 twice, page 8 never. */
	s = after_hello();
	stream_pages(&s, 0, 2, 0);
	stream_run(&s, 0, ZERO_RUN(8));
	stream_run(&s, 9, ZERO_RUN(STREAM_RAM_PAGES - 9));
	stream_frame(&s, WIRE_PAGES, 0);
	stream_pages(&s, 0, 1, 0);
	stream_run(&s, 9, ZERO_RUN(1));
	stream_frame(&s, WIRE_PAGES, 0);
	for (unsigned i = 0; i < STREAM_SECTIONS; i++)
		stream_section(&s, i);
	stream_end(&s, 0, STREAM_RAM_PAGES, STREAM_SECTIONS, 1);
	stream_refused(&s, "memory is incomplete: 255 of 256 pages came, in 256 copies");
	replay_down(&r);
}
END_TEST

/* All is right but the commit: the destination must not run, whatever comes in its place. */
static void bad_commit(uint16_t type, uint64_t token, bool extra)
{
	struct stream s = after_hello();
	struct err e = ERR_INIT;

	stream_all_zero(&s);
	for (unsigned i = 0; i < STREAM_SECTIONS; i++)
		stream_section(&s, i);
	stream_end(&s, 0, STREAM_RAM_PAGES, STREAM_SECTIONS, 1);
	put_u64(&s.meta, token);
	if (extra)
		put_u8(&s.meta, 0);
	stream_frame(&s, type, 0);
	ck_assert_int_eq(replay_play(&r, s.out.data, s.out.len), MIG_UNDECIDED);
	ck_assert(!r.p.guest.taken_over);
	ck_assert_int_eq(mig_dest_decide(r.p.dst->dest, token, &e), -EPERM);
	stream_free(&s);
	replay_listen(&r);
}

START_TEST(commits)
{
	struct stream s;

	replay_up(&r);
	bad_commit(WIRE_COMMIT, 0, false);
	bad_commit(WIRE_COMMIT, ~0ull, false);
	bad_commit(WIRE_COMMIT, 1, true);
	bad_commit(WIRE_END, 1, false);
	bad_commit(WIRE_READY, 1, false);
	bad_commit(WIRE_PASS, 1, false);
	/* An abort is heard there: nothing is undecided. */
	s = after_hello();
	stream_all_zero(&s);
	for (unsigned i = 0; i < STREAM_SECTIONS; i++)
		stream_section(&s, i);
	stream_end(&s, 0, STREAM_RAM_PAGES, STREAM_SECTIONS, 1);
	wire_put_text(&s.meta, "changed my mind");
	stream_frame(&s, WIRE_ABORT, 0);
	ck_assert_int_eq(replay_play(&r, s.out.data, s.out.len), MIG_FAILED);
	ck_assert_ptr_nonnull(strstr(r.reason, "gave up: changed my mind"));
	replay_still_good(&r);
	stream_free(&s);
	replay_down(&r);
}
END_TEST

/* Unknown frames that are not mandatory are skipped wherever they come. */
START_TEST(unknown_optional)
{
	struct raw_header h = {.magic = WIRE_MAGIC, .type = 77};
	struct wbuf out;
	uint32_t seq = 0;

	replay_up(&r);
	wbuf_init(&out, ORDER_LITTLE, 8u << 20);
	for (unsigned i = 0; i < r.n_frames; i++) {
		const struct raw_frame *f = &r.frames[i];
		const uint8_t *meta = r.to_dest.data + f->at + WIRE_HEADER_BYTES;
		struct wbuf m = {.data = (uint8_t *)(uintptr_t)meta, .len = f->f.meta_bytes};

		h.seq = seq++;
		raw_put_header(&out, &h);
		raw_put_frame(&out, &seq, f->f.type, &m, meta + m.len, f->f.data_bytes);
	}
	ck_assert_int_eq(replay_play(&r, out.data, out.len), MIG_COMPLETED);
	ck_assert_ptr_null(synth_compare(r.p.src, r.p.dst));
	wbuf_free(&out);
	replay_down(&r);
}
END_TEST

PAIR_SUITE("engine-hostile-end", sections, ends, commits, unknown_optional)
